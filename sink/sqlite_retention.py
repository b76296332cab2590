"""Delete whole days from the SQLite store: the rule of daily indices, by the document's date in UTC.

Open transactions and file positions are not touched: `index` goes on as before, and what it makes of deleted days is
left out from then on (sink.sqlite, `kept`). Deletes in small transactions and takes no writer's lock, so that it works
beside an `index --follow` that never ends; both wait for each other's transactions only.
"""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from mailspan.errors import StoreError
from sink.sqlite import remove, transaction
from sink.sqlite_schema import PLACE_BITS, connect_for_reading, connect_for_writing, failures
from sink.sqlite_walks import first_place

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from datetime import date
    from pathlib import Path

DAY_MS = 86_400_000
_DELETED_AT_ONCE = 500
_MERGED_PAGES = 400
_CHANGES_OF_A_MERGE = 2  # FTS5: one that found nothing to do changes less
_FREED_PAGES = 1_000
_FREE_SHARE = 4
"""Pages are given back to the file system when more than one in so many is free; fewer are soon used again."""


class Day(NamedTuple):
    """A day of UTC, and how many documents are deleted of it."""

    day: date
    documents: int


def days_before(path: Path, first_kept: date) -> list[Day]:
    """Return the days with documents before `first_kept`, oldest first. Raises StoreError."""
    with closing(connect_for_reading(path)) as connection, failures(path, "read"):
        found: list[Day] = []
        place: int | None = None
        border = first_place(_ms(first_kept))
        while True:
            # One step for each day, and a count along the table's key.
            condition = "" if place is None else f"AND place >= {place}"
            (place,) = connection.execute(
                f"SELECT min(place) FROM documents WHERE place < ? {condition}",  # noqa: S608 - a number of ours
                (border,),
            ).fetchone()
            if place is None:
                return found
            day = (place >> PLACE_BITS) // DAY_MS
            until = first_place((day + 1) * DAY_MS)
            (count,) = connection.execute(
                "SELECT count(*) FROM facets WHERE place >= ? AND place < ?", (place, until)
            ).fetchone()
            found.append(Day(_day(day), count))
            place = until


def delete_before(path: Path, first_kept: date, on_progress: Callable[[int], None] | None = None) -> int:
    """Delete all documents of days before `first_kept`, and keep none of those days from now on; return their number.

    Each small transaction leaves documents, index and counts consistent, so it may end anywhere and be run again.
    `on_progress` is told the number deleted so far. Raises StoreError; what was deleted until then stays deleted.
    """
    if not path.exists():
        raise StoreError(f"no mail at {path}: nothing to delete; name another database with --store")
    deleted = 0
    with closing(connect_for_writing(path)) as connection, failures(path, "write"):
        with transaction(connection):
            # First: a document that `index` writes meanwhile must not stay behind.
            connection.execute("INSERT OR REPLACE INTO kept(only, since) VALUES (1, ?)", (_ms(first_kept),))
        border = first_place(_ms(first_kept))
        while True:
            with transaction(connection):
                rows = connection.execute(
                    "SELECT place FROM documents WHERE place < ? ORDER BY place LIMIT ?", (border, _DELETED_AT_ONCE)
                )
                places = [place for (place,) in rows.fetchall()]
                remove(connection, places)
            if not places:
                break
            deleted += len(places)
            if on_progress is not None:
                on_progress(deleted)
        if deleted:
            _tidy(connection, deleted)
    return deleted


def _tidy(connection: sqlite3.Connection, deleted: int) -> None:
    """Merge what is deleted out of the index, and give space back where much is free; in small transactions, too."""
    (left,) = connection.execute("SELECT sum(number) FROM counts WHERE field = ''").fetchone()
    # FTS5: a negative number begins to merge all there is, which is worth it only now and then.
    pages = -_MERGED_PAGES if deleted * _FREE_SHARE > (left or 0) else _MERGED_PAGES
    while True:
        before = connection.total_changes
        connection.execute("INSERT INTO postings(postings, rank) VALUES ('merge', ?)", (pages,))
        if connection.total_changes - before < _CHANGES_OF_A_MERGE:
            break
        pages = _MERGED_PAGES
    while True:
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        if free * _FREE_SHARE <= pages:
            break
        connection.execute(f"PRAGMA incremental_vacuum({_FREED_PAGES})").fetchall()
        if connection.execute("PRAGMA freelist_count").fetchone() == (free,):
            break  # a database that was made without: its space is used again
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def _ms(day: date) -> int:
    return round(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)


def _day(number: int) -> date:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=number)).date()
