"""Canaries, without servers: what marks them, when and where they are sent, and that nothing else notices them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from datetime import date
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec
import orjson
import pytest
from confluent_kafka import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from mailspan.canary import CANARY_KEY, CANARY_NAME, Canary, CanaryFigures, encode_canary, find_canary
from mailspan.wire import Reading, encode_header, encode_reading
from producers.canaries import Canaries, stride_of
from producers.tail import Clock
from reducer.figures import Figures
from reducer.loop import Loop
from reducer.partition import META, Meta, Options, Partition
from sink.audit import DayAudit
from sink.kafka_topic import TopicRecord
from sink.records import Record, plan
from tests.search_documents import document
from tests.test_properties import LOGS, lines_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailspan.metrics import Figure
    from reducer.assembler import Sizes
    from reducer.partition import Counts, Output

SENT_MS = 1_795_500_000_123
CANARY = Canary(SENT_MS, "mx1.example.com", "tail")
HEADERS = ((CANARY_NAME, encode_canary(CANARY)),)


def test_it_is_found_by_its_header() -> None:
    assert find_canary((("other", b"x"), *HEADERS)) == CANARY
    later = msgspec.msgpack.encode([SENT_MS, "mx1.example.com", "tail", "of a later version"])
    assert find_canary(((CANARY_NAME, later),)) == CANARY


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff",
        b"mailspan-canary",
        msgspec.msgpack.encode([0, "mx1", "tail"]),
        msgspec.msgpack.encode([-1, "mx1", "tail"]),
        msgspec.msgpack.encode([1 << 62, "mx1", "tail"]),
        msgspec.msgpack.encode([float(SENT_MS), "mx1", "tail"]),
        msgspec.msgpack.encode([SENT_MS, "m" * 101, "tail"]),
        msgspec.msgpack.encode([SENT_MS, b"\xff", "tail"]),
        msgspec.msgpack.encode([SENT_MS, "mx1"]),
        msgspec.msgpack.encode({"sent_ms": SENT_MS}),
        encode_header(7, encode_reading(Reading("g", 1, 1, "mx1"))),
        "text",
        None,
    ],
)
def test_what_is_no_canary_is_none(raw: object) -> None:
    assert find_canary(((CANARY_NAME, raw),)) is None


def test_no_key_and_no_text_make_one() -> None:
    """A line may say all that a canary says: it is a document's or a withdrawal's bytes, and nothing else."""
    forged = Record(0, 1, CANARY_KEY, None)
    in_text = Record(0, 2, CANARY_KEY, HEADERS[0][1])
    of_another_name = Record(0, 3, CANARY_KEY, None, (("mailspan", HEADERS[0][1]),))
    with_a_value = Record(0, 4, CANARY_KEY, orjson.dumps(document(queue_id="A", outcome="queued")), HEADERS)
    real = Record(0, 5, CANARY_KEY, None, HEADERS)
    found = plan([forged, in_text, of_another_name, with_a_value, real])
    assert found.canaries == {4: CANARY}
    assert found.faults.keys() == {1}
    assert [(step.places, step.withdrawn) for step in found.steps] == [([3], {CANARY_KEY.decode(): [0, 2]})]


def test_an_audit_passes_over_it() -> None:
    audit, without = (DayAudit(date(2026, 11, 23)) for _ in range(2))
    audit.add(TopicRecord(0, 1, SENT_MS, CANARY_KEY, None, HEADERS))
    audit.begin_index()
    without.begin_index()
    assert audit.compare({0: 2}) == without.compare({0: 2})
    assert not audit._withdrawn  # noqa: SLF001 - nothing is kept of it


# -- the producer --------------------------------------------------------------------------------------------------


@dataclass
class Topic:
    """Takes canaries; tests settle them."""

    restarts: int = 0
    has_room: bool = True
    sent: list[tuple[int, Canary]] = field(default_factory=list)
    settle: Callable[[str], None] = lambda _fault: None

    def send_canary(self, partition: int, header: bytes, settle: Callable[[str], None]) -> bool:
        canary = find_canary(((CANARY_NAME, header),))
        assert canary is not None
        if self.has_room:
            self.sent.append((partition, canary))
            self.settle = settle
        return self.has_room


@dataclass
class Rig:
    """The canaries of one producer, and a clock that tests move."""

    partitions: int = 6
    interval_seconds: float = 10
    now: float = 100.0
    topic: Topic = field(default_factory=Topic)
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.canaries = Canaries(
            self.topic,
            Clock(lambda: self.now, lambda: 1_795_500_000 + self.now),
            self.said.append,
            producer="mx1.example.com",
            input="tail",
            partitions=self.partitions,
            interval_seconds=self.interval_seconds,
        )

    def after(self, seconds: float) -> int:
        """Turn at that time; return how many were sent in all."""
        self.now += seconds
        self.canaries.turn()
        return len(self.topic.sent)

    def figures(self) -> dict[str, Any]:
        return values(self.canaries.figures())


def values(figures: Any) -> dict[str, Any]:  # noqa: ANN401 - any figures
    found: dict[str, Figure] = {each.name: each for each in figures}
    return {name: each.value for name, each in found.items()}


def test_one_is_sent_each_interval_and_says_when() -> None:
    rig = Rig()
    assert [rig.after(seconds) for seconds in (0, 9.9, 0.1, 9.9)] == [0, 0, 1, 1]
    assert rig.topic.sent[0][1] == Canary(1_795_500_110_000, "mx1.example.com", "tail")
    assert rig.figures() == {"mailspan_canaries_total": 0}
    rig.topic.settle("")
    assert rig.figures() == {"mailspan_canaries_total": 1, "mailspan_canary_age_seconds": 1_795_500_110}
    assert rig.after(0.2) == 2
    assert rig.said == []


def test_with_an_interval_of_0_none_is_sent() -> None:
    rig = Rig(interval_seconds=0)
    assert [rig.after(seconds) for seconds in (0, 1e9)] == [0, 0]


def test_only_one_is_under_way() -> None:
    """What a partition does not take holds the next ones up, until the client is a new one."""
    rig = Rig()
    assert [rig.after(10) for _ in range(4)] == [1, 1, 1, 1]
    late = rig.topic.settle
    rig.topic.restarts += 1
    assert rig.after(10) == 2
    late("")  # of the client before: it does not free the place of the one that is under way now
    assert rig.after(10) == 2
    rig.topic.settle("")
    assert rig.after(10) == 3


def test_where_there_is_no_room_it_is_tried_again_in_the_same_partition() -> None:
    rig = Rig()
    rig.topic.has_room = False
    assert rig.after(10) == 0
    rig.topic.has_room = True
    assert rig.after(10) == 1
    assert rig.topic.sent[0][0] == rig_first(6)


def rig_first(partitions: int) -> int:
    rig = Rig(partitions)
    rig.after(10)
    return rig.topic.sent[0][0]


def test_one_that_did_not_arrive_is_told_and_not_counted() -> None:
    rig = Rig()
    rig.after(10)
    rig.topic.settle("no right to write")
    assert rig.said == ["a canary did not arrive (no right to write)"]
    assert rig.figures()["mailspan_canaries_total"] == 0
    assert rig.after(10) == 2


@pytest.mark.parametrize("partitions", [1, 2, 3, 6, 48, 100, 997])
def test_all_partitions_are_met_before_one_is_met_again(partitions: int) -> None:
    rig = Rig(partitions)
    for _ in range(partitions * 2):
        rig.after(10)
        rig.topic.settle("")
    met = [partition for partition, _ in rig.topic.sent]
    assert set(met[:partitions]) == set(range(partitions))
    assert met[:partitions] == met[partitions:]


def test_a_third_of_48_partitions_is_never_long_without_one() -> None:
    """However they are shared out among three sinks: in blocks or in turn."""
    stride = stride_of(48)
    met = [number * stride % 48 for number in range(96)]
    for share in ({*range(16)}, {*range(16, 32)}, {*range(0, 48, 3)}, {*range(1, 48, 3)}):
        places = [at for at, partition in enumerate(met) if partition in share]
        assert max(after - before for before, after in pairwise(places)) <= 5


@given(st.integers(1, 10_000))
@settings(max_examples=200, deadline=None)
def test_a_stride_has_no_divisor_in_common(partitions: int) -> None:
    assert math.gcd(stride_of(partitions), partitions) == 1


# -- figures -------------------------------------------------------------------------------------------------------


def test_the_age_is_that_of_the_newest_in_the_partitions_that_are_ours() -> None:
    now = 1000.0
    figures = CanaryFigures("sink", lambda: now)
    assert values(figures.show()) == {"mailspan_canaries_total": 0}
    for partition, sent_ms in ((0, 900_000), (1, 990_500), (0, 800_000)):
        figures.settle(partition, sent_ms)
    assert values(figures.show()) == {"mailspan_canaries_total": 3, "mailspan_canary_age_seconds": 990.5}
    figures.keep({0, 2})
    assert values(figures.show())["mailspan_canary_age_seconds"] == 900
    figures.keep({2})
    assert values(figures.show()) == {"mailspan_canaries_total": 3}


def test_one_from_the_future_is_of_now() -> None:
    """A producer's clock that is days ahead must not hide that later ones are late."""
    figures = CanaryFigures("sink", lambda: 1000.0)
    figures.settle(0, 9_000_000_000)
    assert values(figures.show())["mailspan_canary_age_seconds"] == 1000


# -- the reducer ---------------------------------------------------------------------------------------------------

OPTIONS = Options(find_zone=lambda _name: None)


def with_canaries(name: str, every: int) -> tuple[list[Output], list[Counts], list[int], Sizes]:
    """Return what comes of a log whose lines a canary goes before, each so many; 0: none."""
    reading = Reading("generation", 1795500000, 1795500000, "here", "UTC", "tail", "")
    partition, offset = Partition(OPTIONS, 0, 6), 0
    outputs, counts = [], []
    for number, line in enumerate(lines_of(name)):
        if every and number % every == 0:
            partition.pass_on(CANARY, offset)
            offset += 1
        partition.apply(line.encode("utf-8", "surrogateescape"), offset, number, reading)
        offset += 1
        if number % 50 == 49:
            outputs.append(partition.output(urgent_only=number % 100 == 49))
            counts.append(partition.take_counts())
    assert partition.offset == offset
    return outputs, counts, [partition.silent_hosts(1795500000 + hours * 3600) for hours in (0, 2, 30)], partition.sizes


@pytest.mark.parametrize("name", LOGS[:3])
def test_a_partition_is_the_same_with_and_without_them(name: str) -> None:
    """But for the offset that it has got to: documents, state, what is counted of lines, and which hosts are silent."""
    outputs, counts, silent, sizes = with_canaries(name, 0)
    outputs_with, counts_with, silent_with, sizes_with = with_canaries(name, 7)
    assert (silent, sizes) == (silent_with, sizes_with)
    for one, other in zip(outputs, outputs_with, strict=True):
        metas = [msgspec.msgpack.decode(each.state.pop(META) or b"", type=Meta) for each in (one, other)]
        assert metas[0].watermarks == metas[1].watermarks
        assert (metas[0].offset, metas[1].offset) == (one.offset, other.offset)
        assert replace(one, offset=0) == replace(other, offset=0, canaries=())
    for before, after in zip(counts, counts_with, strict=True):
        assert before == replace(after, canaries=[])
    passed = sum(len(each.canaries) for each in outputs_with)
    assert passed == sum(len(each.canaries) for each in counts_with) > 0


def test_a_reducer_is_as_far_as_the_canary_that_it_settled() -> None:
    """So a partition without mail has a lag in seconds that is true; and a wrong clock makes no host silent."""
    now = 1_795_500_300.0
    figures = Figures(lambda: now)
    partition = Partition(OPTIONS, 3, 6)
    partition.pass_on(CANARY, 41)
    figures.begin(3, 40, 99)
    figures.settle({3: partition}, {3: partition.output(urgent_only=True)})

    def shown() -> dict[tuple[str, tuple[str, ...]], Any]:
        found = figures.show({3: partition}, 0, 0, lambda _number: 99)
        return {(each.name, each.labels): each.value for each in found}

    assert shown()["mailspan_lag_seconds", ("reduce", "3")] == SENT_MS / 1000
    assert shown()["mailspan_lag_records", ("reduce", "3")] == 99 - 42
    assert shown()["mailspan_canaries_total", ("reduce",)] == 1
    assert shown()["mailspan_canary_age_seconds", ("reduce",)] == SENT_MS / 1000
    assert shown()["mailspan_reducer_lines_total", ()] == 0
    partition.pass_on(Canary(int(now * 1000) + 9_000_000, "ahead", "tail"), 42)
    figures.settle({3: partition}, {3: partition.output(urgent_only=True)})
    assert shown()["mailspan_lag_seconds", ("reduce", "3")] == now
    assert ("mailspan_canary_age_seconds", ("reduce",)) not in {
        (each.name, each.labels) for each in figures.show({}, 0, 0, lambda _number: 99)
    }


def test_canaries_count_among_the_records_that_a_commit_may_have() -> None:
    """After an outage there may be millions in a row: a transaction of all that is read in a second may never end."""
    nobody = {"bootstrap.servers": "127.0.0.1:9"}
    loop = Loop(nobody, "mail", "one", OPTIONS, commit_seconds=1, report=print, epoch=float)
    loop._partitions[0] = Partition(OPTIONS, 0, 6)  # noqa: SLF001 - as if it had been assigned
    for offset in range(100):
        loop._apply(Message("mail.raw", 0, offset, CANARY_KEY, b"", list(HEADERS), None, (1, SENT_MS)))  # noqa: SLF001
    assert len(loop._partitions[0].output(urgent_only=True).canaries) == 100  # noqa: SLF001
    assert loop._records == 100  # noqa: SLF001
    loop._kafka.close()  # noqa: SLF001
