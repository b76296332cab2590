"""Records that cannot be applied go to the dead letters, each of them; the operator is told sparingly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Message

from mailspan.repeats import EVERY_SECONDS, Repeats
from reducer.loop import Loop
from reducer.partition import Options, Partition

if TYPE_CHECKING:
    from mailspan.wire import Reading

RECORDS = 1000


class Faulty(Partition):
    """A partition with a fault of ours."""

    def apply(self, value: bytes, offset: int, line_offset: int, reading: Reading) -> None:
        super().apply(value, offset, line_offset, reading)
        raise ZeroDivisionError(f"of {offset}")


@pytest.fixture
def said() -> list[str]:
    return []


def test_a_flood_of_them_is_one_line_and_all_are_kept(said: list[str]) -> None:
    options = Options(find_zone=lambda _name: None)
    nobody = {"bootstrap.servers": "127.0.0.1:9"}
    loop = Loop(nobody, "mail", "one", options, commit_seconds=1, report=said.append, epoch=float)
    loop._partitions[0] = Faulty(options)  # noqa: SLF001 - as if it had been assigned
    for offset in range(RECORDS):
        record = Message("mail.raw", 0, offset, b"mx1", b"line", [], None, (1, 5000))
        loop._apply(record)  # noqa: SLF001
    assert said == ["a record cannot be applied, it goes to the dead letters (ZeroDivisionError: of 0)"]
    assert len(loop._dead[0]) == RECORDS  # noqa: SLF001
    loop._kafka.close()  # noqa: SLF001


def test_the_first_is_told_at_once_and_then_how_many_once_a_minute(said: list[str]) -> None:
    repeats = Repeats("one is bad", "are bad", said.append)
    repeats.note("a", 100.0)
    for at in range(500):
        repeats.note(f"b{at}", 100.0 + EVERY_SECONDS * at / 500)
    assert said == ["one is bad (a)"]
    repeats.tell(100.0 + EVERY_SECONDS)
    assert said[1:] == ["500 are bad (b499)"]
    repeats.tell(100.0 + 9 * EVERY_SECONDS, at_once=True)
    assert len(said) == 2
    repeats.note("c", 100.0 + 9 * EVERY_SECONDS)
    assert said[2:] == ["one is bad (c)"]


def test_at_the_end_the_rest_is_told(said: list[str]) -> None:
    repeats = Repeats("one is bad", "are bad", said.append)
    for reason in ("a", "b", "c" * 5000):
        repeats.note(reason, 100.0)
    repeats.tell(100.0, at_once=True)
    assert [line[:11] for line in said] == ["one is bad ", "2 are bad ("]
    assert len(said[1]) < 400
