"""Read documents from one SQLite file: newest first, counted, or as they come in.

A selection becomes walks along the inverted index (sink.sqlite_walks). What is counted over all documents comes from
the table of counts, by whole quarter hours or days; the edges, and whatever is narrower, from the index; values of
fields with many from the facets. Each answer is read in one transaction: a writer changes nothing in the middle of it.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from sink.facets import BUCKETS_OF_A_DAY, COLUMNS, DAILY, MAILBOX, PAGED, PLAIN, PROBE, VALUE_TERMS
from sink.sqlite_schema import PLACE_BITS, connect_for_reading, failures
from sink.sqlite_walks import MAILBOXES, PROBES, Walk, cut, first_place, is_everything, walks
from sink.store import BUCKET_MS, Term
from sink.terms import term

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from sink.store import Selection

_PAGE = re.compile(r"#(\d+)$")
_MOST_VALUES = 48
"""With more values than this, the documents' facets are read instead of one walk for each value."""
_WHOLE_DSN = re.compile(r"\d\.\d+\.\d+")
_FOLLOWED_AT_ONCE = 500
_STEPS_AT_ONCE = 20_000
"""So many steps of SQLite's machine take about a millisecond."""


class _Range(NamedTuple):
    """Whole quarter hours of a walk, from the first to before the last; None is no limit."""

    first: int | None
    last: int | None

    def limits(self) -> tuple[int, int]:
        """Return both as numbers."""
        return (-1 << 62 if self.first is None else self.first, 1 << 62 if self.last is None else self.last)


class SqliteReader:
    """The reading side of the SQLite store; use as a context manager, or close it."""

    gaps: Sequence[str] = ()
    faults: Sequence[str] = ()

    def __init__(self, path: Path, *, wait_seconds: float = 60.0) -> None:
        """Open the database at `path`; raises StoreError where it is missing, none of ours, or locked for so long."""
        self._path = path
        self._connection = connect_for_reading(path, wait_seconds)

    def __enter__(self) -> Self:
        """Return the reader itself."""
        return self

    def __exit__(self, *_exception: object) -> None:
        """Close the reader."""
        self.close()

    def close(self) -> None:
        """Close the database."""
        self._connection.close()

    def end_at(self, deadline: float) -> None:
        """Read nothing past `deadline` (of time.monotonic): what is being read then raises StoreError."""
        self._connection.set_progress_handler(lambda: time.monotonic() >= deadline, _STEPS_AT_ONCE)

    def newest(self, selection: Selection, limit: int) -> list[bytes]:
        """Return the documents of at most `limit` mails by date, newest first, then by id; see DocumentReader."""
        found: list[tuple[int, str, int, int]] = []
        mails: set[str] = set()
        with self._reading():
            for place, id_ in self._all(selection, "p.rowid, d.id", order="ORDER BY p.rowid DESC"):
                date = place >> PLACE_BITS
                # All documents of the last millisecond are read, so that of these the first by id are given.
                if len(mails) >= limit and -date != found[-1][0]:
                    break
                mail, page = _mail_and_page(id_)
                mails.add(mail)
                found.append((-date, mail, page, place))
            found.sort()
            given = dict.fromkeys(mail for _, mail, _, _ in found)
            chosen = set(list(given)[:limit])
            return [self._document(place) for _, mail, _, place in found if mail in chosen]

    def count(self, selection: Selection) -> int:
        """Return the number of mails; see DocumentReader."""
        with self._reading():
            return self._count(selection, None) + len(set(self._paged_mails(selection)))

    def count_by(self, selection: Selection, field: str) -> dict[str, int]:
        """Return how many mails have each value of `field`; see DocumentReader."""
        with self._reading():
            # Of everything there are counts, and what they leave is little: its facets are read once for all values.
            has_terms = field in VALUE_TERMS and not (field in COLUMNS and is_everything(selection))
            values = self._values(field) if has_terms else None
            if values is None:
                counts = self._count_facets(selection, field)
            else:
                counts = Counter({value: self._count(selection, also, field, value) for value, also in values})
                if field == "stage":  # the only field with one value or none: no term says that there is none
                    counts[""] = self._count(selection, None) - sum(counts.values())
            for found in self._paged_values(selection, field).values():
                counts.update(found or ("",))
        return {value: count for value, count in counts.items() if count}

    def count_by_date(self, selection: Selection) -> dict[int, int]:
        """Return how many mails begin in each quarter hour; see DocumentReader."""
        buckets: Counter[int] = Counter()
        with self._reading():
            for walk in walks(selection):
                edges, whole = _split(walk)
                if whole is not None:
                    rows = self._rows_of_counts("bucket, sum(number)", selection, whole, "", "GROUP BY bucket")
                    buckets.update(dict(rows))
                for edge in edges:
                    columns = f"(p.rowid >> {PLACE_BITS}) / {BUCKET_MS}, count(*)"
                    buckets.update(dict(self._rows(edge, columns, "GROUP BY 1", paged=False)))
            buckets.update(self._paged_mails(selection).values())
        return {bucket * BUCKET_MS: count for bucket, count in buckets.items()}

    def change(self) -> int:
        """Return a number that is another one when the store has changed since. Raises StoreError."""
        with failures(self._path, "read"):
            (number,) = self._connection.execute("PRAGMA data_version").fetchone()
        return int(number)

    def last_written(self) -> int:
        """Return the number of the last commit that wrote documents, for `written_after`. Raises StoreError."""
        with failures(self._path, "read"):
            (last,) = self._connection.execute("SELECT number FROM commits").fetchone()
        return int(last)

    def written_after(self, selection: Selection, written: int, until: int) -> Iterator[bytes]:
        """Yield the documents that the commits after number `written`, up to `until`, wrote: oldest first in each.

        Raises StoreError.
        """
        last = (written, (1 << 63) - 1)
        conditions = ["(d.written, d.place) > (?, ?)", "d.written <= ?"]
        limits: list[str | int] = []
        for condition, value in (
            ("f.updated >= ?", selection.updated_from_ms),
            ("f.updated < ?", selection.updated_until_ms),
            ("d.place >= ?", None if selection.date_from_ms is None else first_place(selection.date_from_ms)),
            ("d.place < ?", None if selection.date_until_ms is None else first_place(selection.date_until_ms)),
            ("instr(s.subject, ?) > 0", selection.subject),
        ):
            if value is not None:
                conditions.append(condition)
                limits.append(value)
        match = Walk(selection, None, None).match()
        sql = (
            "SELECT d.written, d.place, d.document,"  # noqa: S608 - our own text
            " EXISTS (SELECT 1 FROM postings AS p WHERE p.postings MATCH ? AND p.rowid = d.place)"
            " FROM documents AS d INDEXED BY documents_written CROSS JOIN facets AS f ON f.place = d.place"
            " LEFT JOIN subjects AS s ON s.place = d.place"
            f" WHERE {' AND '.join(conditions)} ORDER BY d.written, d.place LIMIT {_FOLLOWED_AT_ONCE}"
        )
        while True:
            with failures(self._path, "read"):
                rows = self._connection.execute(sql, (match, *last, until, *limits)).fetchall()
            yield from (document for _, _, document, is_match in rows if is_match)
            if len(rows) < _FOLLOWED_AT_ONCE:
                return
            last = rows[-1][:2]

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with failures(self._path, "read"):
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.execute("ROLLBACK")

    def _document(self, place: int) -> bytes:
        (document,) = self._connection.execute("SELECT document FROM documents WHERE place = ?", (place,)).fetchone()
        return bytes(document)

    def _rows(
        self, walk: Walk, columns: str, order: str = "", *, also: Term | None = None, paged: bool | None = None
    ) -> sqlite3.Cursor:
        return self._connection.execute(*walk.statement(columns, order, also=also, paged=paged))

    def _all(
        self,
        selection: Selection,
        columns: str,
        *,
        also: Term | None = None,
        paged: bool | None = None,
        order: str = "",
    ) -> Iterator[tuple[Any, ...]]:
        for walk in walks(selection):
            yield from self._rows(walk, columns, order, also=also, paged=paged)

    def _count(self, selection: Selection, also: Term | None, field: str = "", value: str = "") -> int:
        """Return the number of documents of one page, all or with one value of a field that has counts."""
        count = 0
        if also in selection.none_of:
            return count
        for walk in walks(selection):
            edges, whole = _split(walk)
            if whole is not None:
                ((number,),) = self._rows_of_counts("sum(number)", selection, whole, field, "", value)
                count += number or 0
            for edge in edges:
                ((number,),) = self._rows(edge, "count(*)", also=also, paged=False)
                count += number
        return count

    def _rows_of_counts(
        self, columns: str, selection: Selection, whole: _Range, field: str, group: str, value: str = ""
    ) -> sqlite3.Cursor:
        return self._connection.execute(
            f"SELECT {columns} FROM counts WHERE field = ? AND class IN ({_classes(selection)})"  # noqa: S608
            f" AND value = ? AND bucket >= ? AND bucket < ? {group}",
            (field, value, *whole.limits()),
        )

    def _values_of_counts(self, selection: Selection, whole: _Range, field: str) -> sqlite3.Cursor:
        return self._connection.execute(
            f"SELECT value, sum(number) FROM counts WHERE field = ? AND class IN ({_classes(selection)})"  # noqa: S608
            " AND bucket >= ? AND bucket < ? GROUP BY value",
            (field, *whole.limits()),
        )

    def _values(self, field: str) -> list[tuple[str, Term]] | None:
        """Return the values of a field in the whole store with their terms; None: too many, or no term says them."""
        found: list[tuple[str, Term]] = []
        for class_ in (PLAIN, PROBE, PAGED, MAILBOX):
            value: str | None = None
            while True:
                # One step along the table's key for each value, not for each row.
                (value,) = self._connection.execute(
                    "SELECT min(value) FROM counts WHERE field = ? AND class = ? AND value > ?"
                    if value is not None
                    else "SELECT min(value) FROM counts WHERE field = ? AND class = ? AND value >= ?",
                    (field, class_, value or ""),
                ).fetchone()
                if value is None:
                    break
                if value == "" and field == "stage":
                    continue
                if field == "dsn" and value and not _WHOLE_DSN.fullmatch(value):
                    return None
                found.append((value, term(VALUE_TERMS[field], value or "-")))
        found = list(dict.fromkeys(found))
        return found if len(found) <= _MOST_VALUES or field not in COLUMNS else None

    def _count_facets(self, selection: Selection, field: str) -> Counter[str]:
        column, values_of = COLUMNS[field]
        counts: Counter[str] = Counter()
        parts: list[Walk] = []
        for walk in walks(selection):
            step = BUCKETS_OF_A_DAY if field in DAILY else 1 if field in VALUE_TERMS else None
            edges, whole = ([walk], None) if step is None else _split(walk, step)
            parts += edges
            if whole is not None:
                counts.update(dict(self._values_of_counts(selection, whole, field)))
        for walk in parts:
            rows = self._facets_of_all(walk, column) or self._rows(walk, f"f.{column}", paged=False)
            for (text,), number in Counter(rows).items():
                for value in values_of(text):
                    counts[value] += number
        return counts

    def _facets_of_all(self, walk: Walk, column: str) -> sqlite3.Cursor | None:
        """Return a column of all documents of a walk, where the table alone can say which; three times as fast."""
        if walk.is_checked or not is_everything(walk.selection):
            return None
        return self._connection.execute(
            f"SELECT {column} FROM facets WHERE place >= ? AND place < ? AND class IN ({_classes(walk.selection)})",  # noqa: S608
            walk.places(),
        )

    def _paged_mails(self, selection: Selection, also: Term | None = None) -> dict[str, int]:
        """Return the mails with more than one page of which a page matches, with the bucket of their dates."""
        rows = self._all(selection, "p.rowid, d.id", also=also, paged=True)
        return {_mail_and_page(id_)[0]: (place >> PLACE_BITS) // BUCKET_MS for place, id_ in rows}

    def _paged_values(self, selection: Selection, field: str) -> dict[str, set[str]]:
        """Return the values of those mails."""
        values: dict[str, set[str]] = {mail: set() for mail in self._paged_mails(selection)}
        if not values:
            return values
        if field in COLUMNS:
            column, values_of = COLUMNS[field]
            for text, id_ in self._all(selection, f"f.{column}, d.id", paged=True):
                values[_mail_and_page(id_)[0]].update(values_of(text))
            for found in values.values():
                if len(found) > 1:
                    found.discard("")
            return values
        for value, value_term in self._values(field) or ():
            for mail in self._paged_mails(selection, value_term):
                values[mail].add(value)
        return values


def _classes(selection: Selection) -> str:
    classes = ((PROBES, PROBE), (MAILBOXES, MAILBOX))
    asked = [class_ for kind, class_ in classes if kind not in selection.none_of]
    return ", ".join(map(str, (PLAIN, *asked)))


def _split(walk: Walk, step: int = 1) -> tuple[list[Walk], _Range | None]:
    """Take the whole quarter hours, whose counts are kept, out of a walk; return what is left, and them.

    With a `step`, only so many of them at once: days.
    """
    if walk.is_checked or not is_everything(walk.selection):
        return [walk], None
    length = BUCKET_MS * step
    first = None if walk.since_ms is None else -(-walk.since_ms // length)
    last = None if walk.until_ms is None else walk.until_ms // length
    if first is not None and last is not None and first >= last:
        return [walk], None
    edges = []
    if last is not None:
        edges += cut(walk, last * length, None)
    if first is not None:
        edges += cut(walk, None, first * length)
    return edges, _Range(None if first is None else first * step, None if last is None else last * step)


def _mail_and_page(id_: str) -> tuple[str, int]:
    """Return the id of a page's mail and its number; only pages after the first have `#` and digits at the end."""
    if (page := _PAGE.search(id_)) is None:
        return id_, 0
    return id_[: page.start()], int(page[1])
