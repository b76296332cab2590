"""Standard input with a topic in memory: ends, restarts, back-pressure, wrapped lines."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from mailspan.wire import Reading
from producers.stdin import Stdin
from producers.tail import Clock
from tests.memory_topic import MemoryTopic

if TYPE_CHECKING:
    from collections.abc import Iterator


class Pipe:
    """A stream that reads the end of a pipe; time passes as it is asked for."""

    def __init__(self, topic: MemoryTopic, reading_end: int, writing_end: int) -> None:
        self.topic = topic
        self.writing_end = writing_end
        self.now = 0.0
        self.reports: list[str] = []
        reading = Reading("0123456789abcdef", 1, 1, "own", input="stdin")
        self.stream = Stdin(reading_end, topic, lambda: reading, Clock(self._steady, time.time), self.reports.append)

    def _steady(self) -> float:
        self.now += 0.25
        return self.now

    def give(self, data: bytes) -> None:
        os.write(self.writing_end, data)

    def work(self, steps: int = 20) -> None:
        for _ in range(steps):
            self.stream.step(0)

    @property
    def lines(self) -> list[bytes]:
        return [each.value for each in self.topic.arrived]


@contextmanager
def pipe(topic: MemoryTopic | None = None) -> Iterator[Pipe]:
    reading_end, writing_end = os.pipe()
    found = Pipe(topic or MemoryTopic(), reading_end, writing_end)
    try:
        yield found
    finally:
        os.close(reading_end)
        if found.writing_end >= 0:
            os.close(found.writing_end)


def close(found: Pipe) -> None:
    os.close(found.writing_end)
    found.writing_end = -1
    found.work()


def test_lines_arrive_and_the_end_needs_no_newline() -> None:
    with pipe() as found:
        found.give(b"one\ntwo\nthr")
        found.work()
        assert found.lines == [b"one", b"two"]
        found.give(b"ee\r\n\nlast")
        close(found)
        assert found.stream.is_ended
        assert found.stream.is_settled
        assert found.lines == [b"one", b"two", b"three\r", b"", b"last"]
        assert [each.header.offset for each in found.topic.arrived] == [0, 4, 8, 15, 16]


def test_what_failed_is_sent_again_in_order_under_the_same_offsets() -> None:
    topic = MemoryTopic(choose=lambda count: min(count, 2))
    with pipe(topic) as found:
        found.give(b"".join(b"%d\n" % number for number in range(9)))
        found.work(2)
        assert 0 < len(topic.arrived) < 9
        topic.is_failing = True
        found.work(60)
        assert "sending failed" in found.reports[0]
        places = {(each.header.offset, each.value) for each in topic.arrived}
        assert places == {(2 * number, b"%d" % number) for number in range(9)}
        first_time = list(dict.fromkeys(found.lines))
        assert first_time == [b"%d" % number for number in range(9)]
        assert found.stream.is_settled


def test_nothing_is_read_while_the_topic_is_full() -> None:
    topic = MemoryTopic(capacity=3, choose=lambda _: 0)
    with pipe(topic) as found:
        found.give(b"a\nb\nc\nd\ne\n")
        found.work()
        found.give(b"f\n" * 1000)
        found.work(200)
        assert found.stream.lines_under_way == 5
        topic.choose = lambda count: count
        found.work(2000)
        assert len(found.lines) == 1005


def test_what_is_kept_to_be_sent_again_is_bounded() -> None:
    topic = MemoryTopic(capacity=1_000_000_000, choose=lambda _: 0)
    with pipe(topic) as found:
        os.set_blocking(found.writing_end, False)
        line = b"x" * 65_000 + b"\n"
        for _ in range(1200):
            with suppress(BlockingIOError):
                os.write(found.writing_end, line)
            found.work(1)
        assert 30 << 20 < topic.under_way * 65_000 < 33 << 20


def test_wrapped_lines_of_a_container() -> None:
    with pipe() as found:
        found.give(b"2026-11-23T07:55:08.1Z stdo")
        found.work()
        found.give(b"ut P one\n2026-11-23T07:55:08.1Z stdout F  two\n2026-11-23T07:55:08.1Z stdout P begun\n")
        close(found)
        assert found.lines == [b"one two", b"begun"]


@settings(max_examples=50)
@given(st.lists(st.binary(max_size=40), max_size=12))
def test_any_bytes_pass_whole(parts: list[bytes]) -> None:
    with pipe() as found:
        for part in parts:
            found.give(part)
            found.work(3)
        close(found)
        raw = b"".join(parts)
        if not raw.startswith((b'{"log":', b"2")):
            assert b"\n".join(found.lines) == raw.removesuffix(b"\n")
