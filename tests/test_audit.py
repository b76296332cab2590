"""What an audit calls a difference, on histories that are told record by record; and what it keeps of a document."""

from __future__ import annotations

import random
import tracemalloc
from datetime import date

import orjson
import pytest

from mailspan.commands.audit import _day
from mailspan.errors import UsageError
from sink.audit import DayAudit, Figures, line_of
from sink.kafka_topic import TopicRecord
from sink.place import Place
from tests.search_documents import document

DAY = date(2026, 11, 23)
EVERYTHING = dict.fromkeys(range(4), 1 << 40)
BYTES_PER_DOCUMENT = 320


def encoded(name: str, version: int = 1, date_: str = "2026-11-23T10:00:00.000Z") -> bytes:
    return orjson.dumps({**document(queue_id="Q", outcome="queued", date=date_), "id": name, "version": version})


class History:
    """Records of partition 0, and an index, told to an audit."""

    def __init__(self) -> None:
        self.audit = DayAudit(DAY)
        self.length = 0

    def topic(self, *records: tuple[str, int | None] | tuple[str, int, str] | bytes) -> None:
        """Take id and version, with another date perhaps; no version is a withdrawal, bytes are a value as it is."""
        for each in records:
            key: bytes | None = b"x"
            value: bytes | None
            if isinstance(each, bytes):
                value = each
            elif each[1] is None:
                key, value = each[0].encode(), None
            else:
                value = encoded(*each)
            self.audit.add(TopicRecord(0, self.length, 0, key, value, ()))
            self.length += 1

    def index(self, **versions: int) -> None:
        self.audit.begin_index()
        for name, version in versions.items():
            self.audit.add_indexed(name.replace("_", "#"), version)

    def figures(self, passed: int | None = None) -> dict[str, int]:
        """Return the figures that are not 0; the sink has passed all records, or so many."""
        found = self.audit.compare({0: self.length if passed is None else passed})
        return {name: count for name, count in found.figures._asdict().items() if count}


@pytest.fixture
def history() -> History:
    return History()


def test_nothing_and_nothing_are_equal(history: History) -> None:
    history.index()
    assert history.figures() == {}


def test_the_newest_version_counts_in_whatever_order(history: History) -> None:
    history.topic(("a", 2), ("b", 1), ("a", 3), ("b", 2), ("a", 1), ("c", 1), ("d", 5))
    history.index(a=3, b=1, d=9)
    assert history.figures() == {"documents": 4, "indexed": 3, "missing": 1, "older": 1}
    found = history.audit.compare(EVERYTHING)
    assert (found.missing, found.older) == ({"c": Place(0, 5)}, {"b": Place(0, 3)})


def test_what_was_withdrawn_is_gone_with_its_pages_and_may_come_back(history: History) -> None:
    history.topic(("a", 5), ("a#1", 5), ("b", 5), ("a", None), ("b", None), ("b", 1), ("never", None))
    history.index(a=5, a_1=5, b=1, never=7)
    assert history.figures() == {"documents": 1, "indexed": 4, "withdrawn": 3}
    assert sorted(history.audit.compare(EVERYTHING).withdrawn) == ["a", "a#1", "never"]
    history.index()
    assert history.figures() == {"documents": 1, "missing": 1}


def test_only_the_day_counts_and_what_moved_to_another_day_is_left_alone(history: History) -> None:
    other = "2026-11-24T00:00:00.000Z"
    history.topic(("a", 1, other), ("b", 1), ("b", None), ("b", 2, other), ("c", None), ("c", 1, other))
    history.index(b=1, c=1)
    assert history.figures() == {"indexed": 2, "only_indexed": 2}


def test_what_only_the_index_has_is_no_difference(history: History) -> None:
    history.topic(("a", 1))
    history.index(a=1, b=1, c=1)
    assert history.figures() == {"documents": 1, "indexed": 3, "only_indexed": 2}


def test_what_the_sink_has_not_passed_is_not_judged(history: History) -> None:
    history.topic(("a", 1), ("b", 1), ("c", 1), ("a", 2), ("b", None), ("d", 1), ("e", None))
    history.index(a=1, b=1, c=1, e=1)
    assert history.figures(passed=3) == {"documents": 3, "indexed": 4, "not_indexed_yet": 4}
    assert history.figures() == {"documents": 3, "indexed": 4, "missing": 1, "older": 1, "withdrawn": 2}
    history.index(a=2, c=1, d=1)  # it wrote on, and has not said so yet
    assert history.figures(passed=3) == {"documents": 3, "indexed": 3}


def test_a_group_that_never_was_has_passed_nothing(history: History) -> None:
    history.topic(("a", 1))
    history.index()
    found = history.audit.compare({})
    assert (found.figures.missing, found.figures.not_indexed_yet) == (0, 1)


def test_a_withdrawal_that_comes_after_the_index_was_read_is_known(history: History) -> None:
    """The sink deletes a document as the index is read: it is not missing."""
    history.topic(("a", 1))
    history.index()
    assert history.figures() == {"documents": 1, "missing": 1}
    history.topic(("a", None))
    assert history.figures(passed=1) == {}


def test_a_document_that_comes_after_the_index_was_read_is_not_only_there(history: History) -> None:
    history.index(a=3)
    history.topic(("a", 3))
    assert history.figures() == {"documents": 1, "indexed": 1}


def test_what_is_no_document_is_counted_and_never_missing(history: History) -> None:
    whole = orjson.loads(encoded("a"))
    history.topic(
        b"\xff\x00",
        b"no json",
        b"[]",
        b"{}",
        b"[" * 100_000,
        orjson.dumps({"id": "a", "version": 1, "date": "2026-11-23T10:00:00.000Z"}),
        *(
            orjson.dumps({**whole, **odd})
            for odd in ({"version": "1"}, {"version": (1 << 64) - 1}, {"id": 5}, {"date": None})
        ),
        orjson.dumps({**whole, "date": "2026-11-23"}),
        orjson.dumps({**whole, "to": "nobody"}),
        ("", None),
    )
    history.audit.add(TopicRecord(0, 99, 0, b"\xff", None, ()))
    history.audit.add(TopicRecord(0, 99, 0, None, None, ()))
    history.index()
    assert history.figures() == {"no_documents": 15}


def test_a_record_again_has_the_place_of_the_last(history: History) -> None:
    """Dead letters are known by the place of their record: one that was replayed has another."""
    history.topic(("a", 1), ("b", 1), ("a", 1))
    history.index()
    assert history.audit.compare(EVERYTHING).missing == {"a": Place(0, 2), "b": Place(0, 1)}


def test_differences_that_are_none_become_another_figure(history: History) -> None:
    history.topic(("a", 1), ("b", 1), ("c", 2))
    history.index(c=1)
    found = history.audit.compare(EVERYTHING)
    assert found.figures.differences == 3
    less = found.without({"a"}, counted_as="superfluous").without({"c"}, counted_as="dead_letters")
    assert less.figures == Figures(documents=3, indexed=1, missing=1, superfluous=1, dead_letters=1)
    assert (list(less.missing), list(less.older)) == (["b"], [])


def naive(records: list[tuple[str, int | None]], index: dict[str, int], passed: int) -> tuple[set[str], set[str]]:
    """Return what a sink that did its work up to `passed` would have to write, and to delete."""
    held: dict[str, tuple[int, int]] = {}
    ended: dict[str, int] = {}
    for offset, (name, version) in enumerate(records):
        if version is None:
            for each in [known for known in held if known == name or known.startswith(f"{name}#")]:
                del held[each]
            ended[name] = offset
        elif name not in held or version >= held[name][0]:
            held[name] = version, offset
    write = {name for name, (version, at) in held.items() if at < passed and index.get(name, -1) < version}
    ends = {
        name: max((ended[each] for each in (name, name.partition("#")[0]) if each in ended), default=None)
        for name in index
    }
    delete = {name for name, at in ends.items() if name not in held and at is not None and at < passed}
    return write, delete


def test_random_histories_are_judged_as_a_plain_model_judges_them() -> None:
    chance = random.Random(3)  # noqa: S311 - reproducible
    names = ["a", "a#1", "b", "b#1", "b#2", "c"]
    differed = 0
    for _ in range(2000):
        history = History()
        records: list[tuple[str, int | None]] = [
            (chance.choice(names), chance.choice((None, 1, 2, 3))) for _ in range(chance.randrange(12))
        ]
        index = {name: chance.randrange(1, 4) for name in names if chance.random() < 0.5}
        early = chance.randrange(len(records) + 1)
        history.topic(*records[:early])
        history.index(**{name.replace("#", "_"): version for name, version in index.items()})
        history.topic(*records[early:])
        passed = chance.randrange(len(records) + 1)
        found = history.audit.compare({0: passed})
        write, delete = naive(records, index, passed)
        assert ({*found.missing, *found.older}, set(found.withdrawn)) == (write, delete), (records, index, passed)
        assert found.figures.indexed == len(index)
        differed += bool(write) + bool(delete)
    assert differed > 500


def test_the_line_of_figures() -> None:
    assert line_of(DAY, Figures(documents=3, indexed=2, missing=1), "begin") == (
        "2026-11-23: documents=3 indexed=2 missing=1 older=0 withdrawn=0 only_indexed=0 not_indexed_yet=0"
        " superfluous=0 dead_letters=0 no_documents=0 since=begin"
    )


def test_what_a_document_takes_of_memory_is_bounded() -> None:
    count = 10_000
    values = [encoded(f"mail-{number % 20:02}.example.com/{number:015X}", 65536) for number in range(count)]
    versions = [orjson.loads(value) for value in values]
    tracemalloc.start()
    audit = DayAudit(DAY)
    for offset, value in enumerate(values):
        audit.add(TopicRecord(offset % 48, offset, 0, b"", value, ()))
    for each in versions:
        audit.add_indexed(each["id"], each["version"])
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert audit.compare({}).figures.indexed == count
    print(f"{kept / count:.0f} bytes per document")
    assert kept / count < BYTES_PER_DOCUMENT


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2026-11-23", "2026-11-23"), ("today", "2026-12-01"), ("Yesterday", "2026-11-30"), ("2024-02-29", "2024-02-29")],
)
def test_days(text: str, expected: str) -> None:
    assert str(_day(text, date(2026, 12, 1))) == expected


@pytest.mark.parametrize(
    "text", ["", "23.11.2026", "2026-02-30", "2026-1-1", "20261123", "2026-11-23T00:00", "2026-11-2３"]
)
def test_what_is_no_day_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="expected YYYY-MM-DD"):
        _day(text, date(2026, 12, 1))
