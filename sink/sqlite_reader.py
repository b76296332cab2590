"""Read documents from one SQLite file: a selection becomes one or two walks along the inverted index.

The index gives places in date order, so the newest documents come first and a search stops as soon
as it has enough. No user text is part of the SQL, and none of the index's query language: terms
hold no quote and stand between quotes.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, Self

from sink.sqlite_schema import LARGEST_DATE_MS, PLACE_BITS, connect_for_reading, failures
from sink.terms import LONG_LIVED_MS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sink.store import Selection, Term

_SMALLEST_PLACE, _LARGEST_PLACE = -(1 << 63), (1 << 63) - 1


class Walk(NamedTuple):
    """One statement: the documents of one range of places."""

    condition: str
    parameters: tuple[str | int, ...]

    def sql(self, columns: str, order: str = "") -> str:
        """Return the statement that gives `columns` of postings `p` and documents `d`."""
        # CROSS JOIN: SQLite must begin with the index. To count what the index alone knows, it is enough.
        needs_documents = "d." in columns or "d." in self.condition
        join = " CROSS JOIN documents AS d ON d.place = p.rowid" if needs_documents else ""
        source = f"postings AS p{join}"
        return f"SELECT {columns} FROM {source} WHERE {self.condition} {order}"  # noqa: S608 - our own text


class SqliteReader:
    """The reading side of the SQLite store; use as a context manager, or close it."""

    def __init__(self, path: Path) -> None:
        """Open the database at `path`; raises StoreError where it is missing or is none of ours."""
        self._path = path
        self._connection = connect_for_reading(path)

    def __enter__(self) -> Self:
        """Return the reader itself."""
        return self

    def __exit__(self, *_exception: object) -> None:
        """Close the reader."""
        self.close()

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def newest(self, selection: Selection, limit: int) -> list[bytes]:
        """Return at most `limit` documents by date, newest first, then by id; see DocumentReader."""
        found: list[tuple[int, str, bytes]] = []
        for place, id_, document in self._rows(selection):
            date = place >> PLACE_BITS
            # All documents of the last millisecond are read, so that of these the first by id are given.
            if len(found) >= limit and -date != found[-1][0]:
                break
            found.append((-date, id_, document))
        found.sort()
        return [document for _, _, document in found[:limit]]

    def every(self, selection: Selection) -> Iterator[bytes]:
        """Yield all documents by date, newest first; see DocumentReader."""
        for _, _, document in self._rows(selection):
            yield document

    def count(self, selection: Selection) -> int:
        """Return the number of documents; see DocumentReader."""
        with failures(self._path, "read"):
            return sum(
                self._connection.execute(walk.sql("count(*)"), walk.parameters).fetchone()[0]
                for walk in walks(selection)
            )

    def _rows(self, selection: Selection) -> Iterator[tuple[int, str, bytes]]:
        with failures(self._path, "read"):
            yield from chain.from_iterable(
                self._connection.execute(
                    walk.sql("p.rowid, d.id, d.document", "ORDER BY p.rowid DESC"), walk.parameters
                )
                for walk in walks(selection)
            )


def walks(selection: Selection) -> list[Walk]:
    """Return the walks that together give each document of `selection` once, newest first.

    A document counts from its date to its last update. Nearly all live less than LONG_LIVED_MS, so
    one walk takes the dates from that long before the limit on; the few that live longer have a
    term and get a walk of their own.
    """
    until = selection.date_until_ms
    since = selection.date_from_ms
    updated_from = selection.updated_from_ms
    if updated_from is None:
        return [_walk(selection, since, until)]
    border = updated_from - LONG_LIVED_MS
    recent = _walk(selection, border if since is None else max(since, border), until)
    if since is not None and since >= border:
        return [recent]
    return [recent, _walk(selection, since, border if until is None else min(border, until), long_lived=True)]


def _walk(selection: Selection, since_ms: int | None, until_ms: int | None, *, long_lived: bool = False) -> Walk:
    conditions = ["p.postings MATCH ?", "p.rowid >= ?", "p.rowid < ?"]
    parameters: list[str | int] = [
        _match(selection, long_lived=long_lived),
        _SMALLEST_PLACE if since_ms is None else _first_place(since_ms),
        _LARGEST_PLACE if until_ms is None else _first_place(until_ms),
    ]
    for condition, value in (
        ("d.updated >= ?", selection.updated_from_ms),
        ("d.updated < ?", selection.updated_until_ms),
        ("instr(d.subject, ?) > 0", selection.subject),
    ):
        if value is not None:
            conditions.append(condition)
            parameters.append(value)
    return Walk(" AND ".join(conditions), tuple(parameters))


def _match(selection: Selection, *, long_lived: bool) -> str:
    groups = [" OR ".join(map(_quoted, group)) for group in selection.all_of]
    if long_lived:
        groups.append('"span:long"')
    wanted = " AND ".join(f"({group})" for group in groups)
    return " NOT ".join((f"({wanted})", *map(_quoted, selection.none_of)))


def _quoted(term: Term) -> str:
    text = term.text.replace('"', '""')
    return f'"{text}" *' if term.is_prefix else f'"{text}"'


def _first_place(date_ms: int) -> int:
    return max(min(date_ms, LARGEST_DATE_MS), -LARGEST_DATE_MS) << PLACE_BITS
