"""A partition's documents are those of one pass over its lines, whatever was rolled back, restored or read twice."""

from __future__ import annotations

import random
from datetime import UTC
from functools import cache
from typing import TYPE_CHECKING

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailspan.wire import Reading, decode_header, encode_header, encode_reading
from reducer.partition import META, Meta, Options, Partition, Watermark
from reducer.records import PART_BYTES, StoredState, split_state
from reducer.snapshot import SCHEMA_VERSION, SnapshotError
from tests.test_properties import FEW, LOGS, lines_of

if TYPE_CHECKING:
    from collections.abc import Sequence

OPTIONS = Options(find_zone=lambda _name: UTC, zone=UTC)


class Topics:
    """What a broker keeps: documents by id, and the state. `commit` takes an output or, if it fails, nothing of it."""

    def __init__(self) -> None:
        self.documents: dict[str, tuple[int, bytes]] = {}
        self.records: dict[str, bytes] = {}
        self.parts: dict[str, int] = {}

    def commit(self, partition: Partition, *, urgent_only: bool) -> None:
        output = partition.output(urgent_only=urgent_only)
        for identity in output.withdrawn:
            self.documents.pop(identity, None)
        for document in output.documents:
            if self.documents.get(document["id"], (0, b""))[0] < document["version"]:
                self.documents[document["id"]] = (document["version"], orjson.dumps(document))
        for name, value in output.state.items():
            for key, part in split_state(name, value, self.parts):
                if part is None:
                    self.records.pop(key, None)
                else:
                    self.records[key] = part

    def restore(self) -> Partition:
        state, self.parts = StoredState(self.records.items()).joined()
        partition = Partition(OPTIONS)
        partition.restore(state)
        return partition


def apply(partition: Partition, lines: Sequence[tuple[int, str]], start: int, end: int) -> None:
    """Apply records: each line's number in its file beside it, as a producer that sends some twice would write them."""
    reading = Reading("generation", 1795500000, 1795500000, "here", "UTC", "tail", "")
    for at in range(start, min(end, len(lines))):
        number, line = lines[at]
        partition.apply(line.encode("utf-8", "surrogateescape"), at, number, reading)


def sent(name: str, chance: random.Random) -> list[tuple[int, str]]:
    """Return the lines of a file as a topic has them: now and then a producer went back and sent some again."""
    lines = list(enumerate(lines_of(name)))
    found: list[tuple[int, str]] = []
    at = 0
    while at < len(lines):
        size = chance.randrange(1, 300)
        found += lines[at : at + size]
        at += size
        if chance.random() < 0.3:
            at = max(0, at - chance.randrange(200))
    return found


@cache
def one_pass(name: str) -> dict[str, tuple[int, bytes]]:
    topics, partition = Topics(), Partition(OPTIONS)
    apply(partition, list(enumerate(lines_of(name))), 0, 1 << 30)
    topics.commit(partition, urgent_only=False)
    return topics.documents


@pytest.mark.parametrize("name", LOGS)
@FEW
@given(st.integers(0, 2**32))
def test_whatever_is_rolled_back_the_documents_are_those_of_one_pass(name: str, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311  reproducible
    lines = sent(name, chance)
    topics = Topics()
    partition = topics.restore()
    while partition.offset < len(lines):
        apply(partition, lines, partition.offset, partition.offset + chance.randrange(1, 500))
        if chance.random() < 0.3:
            partition = topics.restore()  # nothing of it was committed
        else:
            topics.commit(partition, urgent_only=chance.random() < 0.8)
            if chance.random() < 0.3:
                partition = topics.restore()  # killed behind the commit
    topics.commit(partition, urgent_only=False)
    assert topics.documents == one_pass(name)


def test_what_was_read_before_is_counted_and_changes_nothing() -> None:
    lines = list(enumerate(lines_of("edge1.mail.log")))
    partition = Partition(OPTIONS)
    apply(partition, lines, 0, len(lines))
    before = partition.counts.lines, partition.counts.applied
    apply(partition, lines, 0, len(lines))
    assert (partition.counts.lines, partition.counts.applied) == (before[0] * 2, before[1])
    assert partition.counts.ignored["read before"] == before[0]
    counts = partition.counts
    assert counts.lines == counts.applied + counts.ignored.total() + counts.unparsed.total()


def test_a_commit_says_when_the_oldest_of_its_lines_was_read() -> None:
    partition = Partition(OPTIONS)
    line = b"Nov 23 07:55:08 mx1 postfix/smtpd[94]: B6D781149FE: client=client.example.com[192.0.2.10]"
    assert partition.output(urgent_only=True).read == 0
    for offset, read in enumerate((1795500007, 1795500003, 1795500009)):
        partition.apply(line, offset, offset, Reading("one", read, read, ""))
    assert partition.output(urgent_only=True).read == 1795500003
    assert partition.take_counts().read.total() == 3  # none counts twice
    assert partition.output(urgent_only=False).read == 1795500009  # of what waited until now


def test_lines_of_other_shippers_are_told_apart_by_their_text() -> None:
    partition = Partition(OPTIONS)
    line = b"Nov 23 07:55:08 mx1 postfix/smtpd[94]: B6D781149FE: client=client.example.com[192.0.2.10]"
    for offset in (5, 6):
        partition.apply(line, offset, 0, Reading("", 1795500000, 1795500000, ""))
    assert partition.counts.ignored["duplicate"] == 1
    assert partition.offset == 7


@given(st.lists(st.one_of(st.none(), st.integers(0, 4 * PART_BYTES)), min_size=1, max_size=6))
@FEW
def test_a_snapshot_of_any_size_comes_back(sizes: list[int | None]) -> None:
    """Written again and again as it grows, shrinks and goes: what is stored is the last one, and nothing else."""
    parts: dict[str, int] = {}
    stored: dict[str, bytes] = {META: b"\0meta"}
    written: list[tuple[str, bytes | None]] = list(stored.items())
    for number, size in enumerate(sizes):
        value = None if size is None else bytes([number]) * size
        for key, part in split_state("transaction:mx1/AB", value, parts):
            assert part is None or len(part) <= PART_BYTES + 1
            written.append((key, part))
            if part is None:
                stored.pop(key, None)
            else:
                stored[key] = part
        state, joined = StoredState(stored.items()).joined()
        assert state.get("transaction:mx1/AB") == value
        assert joined == parts
        assert StoredState(written).joined() == (state, joined)  # where the topic was not compacted
        assert len(stored) == 1 + (0 if value is None else 1 + parts.get("transaction:mx1/AB", 0))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (META, b"junk"),
        (META, b"\x81\xa6offset"),
        (META, msgspec.msgpack.encode({"offset": 1, "watermarks": {}})[:-1] + b"\x81\xa1\xff\x92\x01\x01"),
        ("host:mx1", b"soon"),
        ("host:mx1", b""),
        ("transaction:mx1/AB", b""),
        ("transaction:mx1/AB", bytes((SCHEMA_VERSION + 1, 0)) + b"\0" * 20),
        ("transaction:mx1/AB", bytes((SCHEMA_VERSION, 0, 0))),
        ("transaction:mx1/AB", bytes((SCHEMA_VERSION, 1)) + b"\0" * 20),
        ("sessions:mx1", b"junk"),
    ],
)
def test_state_that_cannot_be_read_is_one_error(key: str, value: bytes) -> None:
    with pytest.raises(SnapshotError):
        Partition(OPTIONS).restore({key: value})


def test_whose_offset_it_is_is_kept_and_not_asked_of_older_state() -> None:
    partition = Partition(OPTIONS)
    partition.restore({META: msgspec.msgpack.encode({"offset": 5, "watermarks": {}, "schema": 1})})
    assert (partition.offset, partition.topic_id) == (5, "")
    partition.topic_id = "kMhRvkMvQxqTpZ5uYtBv0w"
    state = partition.output(urgent_only=True).state[META]
    assert state is not None
    other = Partition(OPTIONS)
    other.restore({META: state})
    assert (other.offset, other.topic_id) == (5, "kMhRvkMvQxqTpZ5uYtBv0w")


def test_as_many_generations_as_one_likes_cost_bounded_state() -> None:
    """Those that were read last are kept: what a producer sends twice, it sends soon."""
    marks = {f"{number:032x}": Watermark(7, 1795500000 + number) for number in range(70000)}
    partition = Partition(OPTIONS)
    partition.restore({META: msgspec.msgpack.encode(Meta(5, marks))})
    state = partition.output(urgent_only=True).state[META]
    assert state is not None
    kept = msgspec.msgpack.decode(state, type=Meta).watermarks
    assert len(kept) == 65536
    assert set(kept) == set(list(marks)[-65536:])


def test_a_generation_of_any_length_is_none_of_ours() -> None:
    for length, is_ours in ((32, True), (256, True), (257, False), (1 << 20, False)):
        encoded = encode_reading(Reading("x" * length, 1, 1, ""))
        assert (decode_header(encode_header(0, encoded)) is not None) == is_ours
