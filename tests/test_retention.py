"""retention: whole days go and do not come back, all else stays, and what is left is found as before."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import orjson
import pytest

from mailspan.commands.retention import delete_old
from mailspan.errors import StoreError, UsageError
from search.counts import FIELDS, count_by
from search.query import FLAGS, parse_query
from search.select import select
from sink.indices import first_kept_day
from sink.sqlite import open_for_writing
from sink.sqlite_reader import SqliteReader
from sink.sqlite_retention import days_before, delete_before
from sink.store import Selection
from tests.running import ROOT, mailspan
from tests.search_documents import Document, all_documents, attempt, document, pages

TODAY = date(2026, 12, 10)
EVERYTHING = Selection(all_of=())


def filled(path: Path, documents: list[Document]) -> Path:
    with open_for_writing(path) as writer:
        for start in range(0, len(documents), 300):
            writer.write(documents[start : start + 300])
    return path


def ids_in(path: Path) -> set[str]:
    with SqliteReader(path) as reader:
        return {orjson.loads(each)["id"] for each in reader.newest(EVERYTHING, 100_000)}


def answers(path: Path) -> list[object]:
    """Return all counts, and what a search for each of some terms finds."""
    found: list[object] = []
    now = datetime(2026, 12, 10, tzinfo=UTC)
    with SqliteReader(path) as reader:
        found += [count_by(reader, EVERYTHING, field, UTC) for field in FIELDS]
        for flags in ({"outcome": "bounced"}, {"recipient": "@example.com"}, {"host": "smtp"}, {"since": "14d"}):
            selection = select(parse_query({name: flags.get(name) for name in FLAGS}, now=now, zone=UTC))
            found.append((reader.count(selection), reader.newest(selection, 1000)))
    return found


def on(day: str, name: str) -> Document:
    return document(queue_id=name, date=day, to=[attempt("a@example.com")])


def test_exactly_so_many_days_are_kept(tmp_path: Path) -> None:
    edges = {
        "OLD1": "2011-12-15T14:27:19.000Z",
        "OLD2": "2026-12-07T23:59:59.999Z",
        "KEPT1": "2026-12-08T00:00:00.000Z",
        "KEPT2": "2026-12-10T23:59:59.999Z",
        "KEPT3": "2026-12-12T00:00:00.000Z",  # a clock that is ahead
    }
    path = filled(tmp_path / "mail.db", [on(day, name) for name, day in edges.items()])
    assert first_kept_day(TODAY, 3) == date(2026, 12, 8)
    assert [(str(each.day), each.documents) for each in days_before(path, date(2026, 12, 8))] == [
        ("2011-12-15", 1),
        ("2026-12-07", 1),
    ]
    assert delete_old(path, 3, today=TODAY, is_dry_run=False) == 0
    assert {each.partition("/")[2] for each in ids_in(path)} == {"KEPT1", "KEPT2", "KEPT3"}


def test_a_dry_run_says_what_and_deletes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = filled(tmp_path / "mail.db", [on("2026-12-01T10:00:00.000Z", name) for name in ("A", "B")])
    before = path.read_bytes()
    assert delete_old(path, 3, today=TODAY, is_dry_run=True) == 0
    said = capsys.readouterr().out
    assert "2026-12-01          2 documents" in said
    assert "would delete 2 documents of 1 days before 2026-12-08" in said
    assert path.read_bytes() == before
    with open_for_writing(path) as writer:  # and no day is closed
        assert writer.write([on("2026-12-01T11:00:00.000Z", "C")]).indexed == 1


def test_what_is_left_is_found_as_in_a_store_that_never_had_the_rest(tmp_path: Path) -> None:
    documents = list(all_documents())
    path = filled(tmp_path / "mail.db", documents)
    border = first_kept_day(TODAY, 9)
    kept = [each for each in documents if each["date"][:10] >= str(border)]
    assert 100 < len(kept) < len(documents) - 100
    steps: list[int] = []
    assert delete_before(path, border, steps.append) == len(documents) - len(kept)
    assert len(steps) > 1, "small transactions"
    fresh = filled(tmp_path / "fresh.db", kept)
    assert answers(path) == answers(fresh)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = "SELECT * FROM counts ORDER BY field, class, value, bucket"
        with closing(sqlite3.connect(fresh)) as other:
            assert connection.execute(rows).fetchall() == other.execute(rows).fetchall()


def test_space_is_given_back(tmp_path: Path) -> None:
    documents = pages(40, 100, queue_id="AA0001", date="2026-11-01T00:00:00.000Z")
    path = filled(tmp_path / "mail.db", [*documents, on("2026-12-10T10:00:00.000Z", "A")])
    before = path.stat().st_size
    assert delete_old(path, 3, today=TODAY, is_dry_run=False) == 0
    assert path.stat().st_size < before / 4


def test_a_deleted_day_does_not_come_back(tmp_path: Path) -> None:
    path = filled(tmp_path / "mail.db", [on("2026-12-01T10:00:00.000Z", "A"), on("2026-12-09T10:00:00.000Z", "B")])
    delete_old(path, 3, today=TODAY, is_dry_run=False)
    late = [
        on("2026-12-01T10:00:00.000Z", "A"),
        on("2026-12-01T10:00:00.000Z", "C"),
        on("2026-12-09T11:00:00.000Z", "D"),
    ]
    with open_for_writing(path) as writer:
        result = writer.write(late)
    assert (result.indexed, result.superseded, result.expired) == (1, 0, 2)
    assert {each.partition("/")[2] for each in ids_in(path)} == {"B", "D"}
    # Who wants to see older days again says so.
    delete_old(path, 30, today=TODAY, is_dry_run=False)
    with open_for_writing(path) as writer:
        assert writer.write(late).indexed == 2


def test_it_works_while_another_process_writes(tmp_path: Path) -> None:
    """`index --follow` holds the writer's lock for as long as it runs."""
    path = tmp_path / "mail.db"
    with open_for_writing(path) as writer:
        writer.write([on("2026-12-01T10:00:00.000Z", "A")])
        writer.commit([], {"open": b"snapshot"}, {"file": b"position"})
        assert delete_old(path, 3, today=TODAY, is_dry_run=False) == 0
        assert writer.load_state() == {"open": b"snapshot"}
        assert writer.load_inputs() == {"file": b"position"}
        assert writer.write([on("2026-12-01T10:00:00.000Z", "A")]).expired == 1
        assert writer.write([on("2026-12-09T10:00:00.000Z", "B")]).indexed == 1
    assert {each.partition("/")[2] for each in ids_in(path)} == {"B"}


def test_old_logs_are_indexed_where_retention_never_ran_and_left_out_where_it_did(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/mail.db"
    sample = str(ROOT / "samples" / "original.mail.log")
    assert mailspan("index", "--store", store, sample).returncode == 0
    assert len(mailspan("search", "--store", store, "-f", "bob@foo.com", "--json").stdout.splitlines()) == 2
    assert b"would delete 2 documents" in mailspan("retention", "--store", store, "--dry-run").stdout
    assert b"deleted 2 documents" in mailspan("retention", "--store", store).stdout
    others = tmp_path / "others.log"
    for old, new in ((b"pBFERI8l019936", b"pBFERI8l019937"), (b"pBFDdOFC012829", b"pBFDdOFC012830")):
        raw = (others if others.exists() else Path(sample)).read_bytes()
        assert old in raw
        others.write_bytes(raw.replace(old, new))
    done = mailspan("index", "--store", store, str(others))
    assert done.returncode == 0
    assert b"2 documents are of days that `mailspan retention` has deleted" in done.stderr
    assert mailspan("search", "--store", store, "-f", "bob@foo.com").returncode == 1


@pytest.mark.parametrize("text", ["0", "-1", "x", "", "1.5", "٣"])
def test_days_must_be_a_number(text: str, tmp_path: Path) -> None:
    done = mailspan("retention", f"--days={text}", "--store", f"sqlite:///{tmp_path}/mail.db")
    assert done.returncode == 2
    assert b"--days" in done.stderr
    assert not list(tmp_path.iterdir())


def test_no_store_and_too_many_days(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no mail at"):
        delete_old(tmp_path / "mail.db", 3, today=TODAY, is_dry_run=False)
    with pytest.raises(UsageError, match="not so many days"):
        delete_old(tmp_path / "mail.db", 999_999, today=TODAY, is_dry_run=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seed", range(3))
def test_counts_and_subjects_are_those_of_a_store_that_never_had_the_rest(seed: int, tmp_path: Path) -> None:
    """After replacements by other kinds, days, senders and subjects, withdrawals, fragments, pages and retention."""
    chance = random.Random(seed)  # noqa: S311 - reproducible
    path = tmp_path / "mail.db"
    every = all_documents(seed + 1)[-820:]
    names = [f"mx1.example.com/{number:06X}" for number in range(40)]
    names += [f"{name}{end}" for name in names[:20] for end in ("#1", "~1795420800")]
    with open_for_writing(path) as writer:
        for version in range(1, 25):
            some = [
                {
                    **each,
                    "id": name,
                    "version": version + chance.randrange(3),
                    "page_count": chance.choice((1, 1, 1, 3)),
                }
                for name, each in zip(chance.sample(names, 30), chance.sample(every, 30), strict=True)
            ]
            writer.commit(some, withdrawn=chance.sample(names, 3))
            if version % 8 == 0:
                delete_before(path, date(2026, 11, 23) + timedelta(days=version))
    with closing(sqlite3.connect(path)) as connection:
        left = [orjson.loads(each) for (each,) in connection.execute("SELECT document FROM documents")]
    assert len(left) > 5
    fresh = tmp_path / "fresh.db"
    with open_for_writing(fresh) as writer:
        for each in left:
            writer.write([each])
    assert aside(path) == aside(fresh)


def aside(path: Path) -> list[object]:
    """Return what a store keeps beside its documents: counts, subjects and facets."""
    with closing(sqlite3.connect(path)) as connection:
        return [
            sorted(connection.execute(f"SELECT {rows}").fetchall(), key=repr)
            for rows in (
                "* FROM counts",
                "d.id, s.subject FROM subjects AS s LEFT JOIN documents AS d ON d.place = s.place",
                "d.id, f.class, f.sender, f.relay FROM facets AS f LEFT JOIN documents AS d ON d.place = f.place",
            )
        ]
