"""The SQLite store's counts after documents were written again, withdrawn and deleted, beside those of a new store.

Both must have the very rows: a number that drifts is wrong for ever, and a row of 0 stays in the way.
"""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import orjson

from search.counts import FIELDS, count_by
from sink.facets import PERIODS
from sink.sqlite import open_for_writing
from sink.sqlite_reader import SqliteReader
from sink.sqlite_retention import delete_before
from sink.store import Selection
from tests.search_documents import all_documents, attempt, document

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.search_documents import Document


def written(path: Path, documents: Iterable[Document]) -> Path:
    with open_for_writing(path) as store:
        store.write(list(documents))
    return path


def rows(path: Path) -> dict[tuple[str, int, str, int], int]:
    with closing(sqlite3.connect(path)) as database:
        found = database.execute("SELECT field, class, value, bucket, number FROM counts")
        return {(field, class_, value, bucket): number for field, class_, value, bucket, number in found}


def test_counts_are_those_of_what_is_there(tmp_path: Path) -> None:
    chance = random.Random(11)  # noqa: S311  reproducible
    documents = list(all_documents())
    chance.shuffle(documents)
    path = tmp_path / "changed.db"
    gone = {each["id"] for each in chance.sample(documents, 100)}
    with open_for_writing(path) as store:
        for start in range(0, len(documents), 97):
            batch = documents[start : start + 97]
            earlier = [
                {**each, "version": 1, "from": "early@example.com", "client": "early", "recipients": ["early@x.org"]}
                for each in chance.sample(batch, 40)
            ]
            store.write(earlier)
            store.write([*batch, *earlier])
        for start in range(0, len(documents), 211):
            names = [each["id"] for each in documents[start : start + 211] if each["id"] in gone]
            store.commit([], withdrawn=names)
    delete_before(path, datetime(2026, 12, 3, tzinfo=UTC).date())
    with SqliteReader(path) as reader:
        left = [orjson.loads(each) for each in reader.newest(Selection(all_of=()), 100_000)]
    assert 300 < len(left) < len(documents) - 300
    found = rows(path)
    assert found == rows(written(tmp_path / "new.db", left))
    assert min(found.values()) == 1
    assert {field for field, *_ in found} == {"", *PERIODS}


def test_texts_that_a_log_may_bring_are_counted_as_they_are(tmp_path: Path) -> None:
    odd = ("a\0b", '"q"\\', "new\nline", "\x1f\u2028", "\U0001f4e7", "é")
    path = written(
        tmp_path / "odd.db",
        (
            document(queue_id=f"Q{n}", client=text, to=[attempt(f"{text}@example.com")], **{"from": text})
            for n, text in enumerate(odd)
        ),
    )
    counted = {text.replace("\n", " "): 1 for text in odd}
    with SqliteReader(path) as reader:
        for selection in (Selection(all_of=()), Selection(all_of=(), date_from_ms=0)):
            assert count_by(reader, selection, "day", UTC) == [("2026-11-23", len(odd))]
            assert dict(count_by(reader, selection, "client", UTC)) == dict.fromkeys(odd, 1)
            assert dict(count_by(reader, selection, "sender", UTC)) == dict.fromkeys(odd, 1)
            assert dict(count_by(reader, selection, "recipient", UTC)) == {f"{text}@example.com": 1 for text in counted}
            for field in FIELDS:
                assert count_by(reader, selection, field, UTC)
