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
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import orjson

from sink.facets import (
    ALL_TIME,
    BUCKETS_OF_A_DAY,
    COLUMNS,
    MAILBOX,
    PAGED,
    PERIODS,
    PLAIN,
    PROBE,
    SEVERAL,
    VALUE_TERMS,
    whole_text,
)
from sink.sqlite_schema import PLACE_BITS, connect_for_reading, failures
from sink.sqlite_walks import MAILBOXES, PROBES, Walk, counted_walks, cut, first_place, is_everything, quoted, walks
from sink.store import BUCKET_MS, Term
from sink.terms import term

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from sink.store import Selection

_PAGE = re.compile(r"#(\d+)$")
_MOST_VALUES = 48
"""With more values than this, the documents' facets are read instead of one walk for each value."""
_WHOLE_DSN = re.compile(r"\d\.\d+\.\d+")
_MANY_ALTERNATIVES = 64
"""Of so many terms, which a wide network has, it is asked first which there are."""
_FOLLOWED_AT_ONCE = 500
_TEXTS_AT_ONCE = 50_000
_STEPS_AT_ONCE = 20_000
"""So many steps of SQLite's machine take about a millisecond."""


Part = list[tuple[str, int]]
"""Values, each once, with numbers of documents."""


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
            selection = self._narrowed(selection)
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
            selection = self._narrowed(selection)
            return self._count(selection, None) + len(set(self._paged_mails(selection)))

    def count_by(self, selection: Selection, field: str) -> list[tuple[str, int]]:
        """Return each value of `field` and how many mails have it; see DocumentReader."""
        with self._reading():
            selection = self._narrowed(selection)
            # Of everything there are counts, and what they leave is little: its facets are read once for all values.
            has_terms = field in VALUE_TERMS and not (field in COLUMNS and is_everything(selection))
            values = self._values(field) if has_terms else None
            if values is None:
                parts = self._count_facets(selection, field)
            else:
                parts = [_there(self._count_values(selection, field, values))]
            paged: Counter[str] = Counter()
            for found in self._paged_values(selection, field).values():
                paged.update(found or ("",))
            return _merged([*parts, _there(paged)])

    def count_by_date(self, selection: Selection) -> dict[int, int]:
        """Return how many mails begin in each quarter hour; see DocumentReader."""
        buckets: Counter[int] = Counter()
        with self._reading():
            selection = self._narrowed(selection)
            for sign, walk in counted_walks(selection):
                edges, whole = _split(walk)
                parts = [] if whole is None else list(self._numbers("bucket", selection, whole, ""))
                columns = f"(p.rowid >> {PLACE_BITS}) / {BUCKET_MS}, count(*)"
                parts += [self._rows(edge, columns, "GROUP BY 1", paged=False).fetchall() for edge in edges]
                for part in parts:
                    buckets.update({bucket: sign * number for bucket, number in part})
            buckets.update(self._paged_mails(selection).values())
        return {bucket * BUCKET_MS: count for bucket, count in buckets.items() if count}

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

    def _narrowed(self, selection: Selection) -> Selection:
        """Leave those of many alternatives out that no document has: the index looks at each for all that it finds."""
        return replace(selection, all_of=tuple(map(self._present, selection.all_of)))

    def _present(self, group: tuple[Term, ...]) -> tuple[Term, ...]:
        if len(group) < _MANY_ALTERNATIVES:
            return group
        sql = "SELECT 1 FROM postings AS p WHERE p.postings MATCH ? LIMIT 1"
        return tuple(each for each in group if self._connection.execute(sql, (quoted(each),)).fetchone()) or group[:1]

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
        for sign, walk in counted_walks(selection):
            edges, whole = _split(walk)
            if whole is not None:
                ((number,),) = self._connection.execute(
                    f"SELECT sum(number) FROM counts WHERE field = ? AND class IN ({_listed(selection)})"  # noqa: S608
                    " AND value = ? AND bucket >= ? AND bucket < ?",
                    (field, value, *whole.limits()),
                )
                count += sign * (number or 0)
            for edge in edges:
                ((number,),) = self._rows(edge, "count(*)", also=also, paged=False)
                count += sign * number
        return count

    def _count_values(self, selection: Selection, field: str, values: Sequence[tuple[str, Term]]) -> dict[str, int]:
        """Return the number of documents with each value, each by its term.

        Of the fields with one value, that of the most documents takes longest to count: it has those that the others
        leave. So has "" where there is no term for it.
        """
        rest = None
        if field == "stage":
            rest = ""
        elif field not in SEVERAL and values:
            rest = max(values, key=lambda each: self._weight(field, each[0]))[0]
        counts = {value: self._count(selection, also, field, value) for value, also in values if value != rest}
        if rest is not None:
            counts[rest] = self._count(selection, None) - sum(counts.values())
        return counts

    def _weight(self, field: str, value: str) -> int:
        """Return a number that is large where many of the newest documents have a value."""
        ((number,),) = self._connection.execute(
            "SELECT sum(number) FROM (SELECT number FROM counts WHERE field = ? AND class = ? AND value = ?"
            " ORDER BY bucket DESC LIMIT ?)",
            (field, PLAIN, value, BUCKETS_OF_A_DAY),
        )
        return number or 0

    def _numbers(
        self, by: str, selection: Selection, whole: _Range, field: str, sign: int = 1
    ) -> Iterator[list[tuple[Any, int]]]:
        """Yield the counts of a field in each class, by `value` or `bucket`, times `sign`."""
        is_added_up = by == "value" and PERIODS[field] != ALL_TIME
        number, group = ("sum(number)", f"GROUP BY {by}") if is_added_up else ("number", "")
        for class_ in _classes(selection):
            ((keys, numbers),) = self._connection.execute(
                "SELECT json_group_array(key), json_group_array(? * number) FROM"  # noqa: S608 - our own text
                f" (SELECT {by} AS key, {number} AS number FROM counts"
                f" WHERE field = ? AND class = ? AND bucket >= ? AND bucket < ? {group})",
                (sign, field, class_, *whole.limits()),
            )
            yield list(zip(orjson.loads(keys), orjson.loads(numbers), strict=True))

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

    def _count_facets(self, selection: Selection, field: str) -> list[Part]:
        column, values_of = COLUMNS[field]
        parts: list[Part] = []
        counts: Counter[str] = Counter()
        for sign, walk in counted_walks(selection):
            edges, whole = _split(walk, PERIODS[field])
            if whole is not None:
                parts += self._numbers("value", selection, whole, field, sign)
            texts = Counter(chain.from_iterable(chain.from_iterable(self._texts(edge, column) for edge in edges)))
            if values_of is whole_text:
                parts.append([(text, sign * number) for text, number in texts.items()])
                continue
            for text, number in texts.items():
                for value in values_of(text):
                    counts[value] += sign * number
        return [*parts, _there(counts)]

    def _texts(self, walk: Walk, column: str) -> Iterator[list[str]]:
        """Yield a column of the facets of a walk's documents, many at once: a row of each takes three times as long."""
        after: int | None = None
        while True:
            sql, parameters = self._statement_of_texts(walk, column, after)
            ((texts, after),) = self._connection.execute(
                f"SELECT json_group_array(text), max(place) FROM ({sql} LIMIT {_TEXTS_AT_ONCE})",  # noqa: S608
                parameters,
            )
            found: list[str] = orjson.loads(texts)
            yield found
            if len(found) < _TEXTS_AT_ONCE:
                return

    def _statement_of_texts(self, walk: Walk, column: str, after: int | None) -> tuple[str, tuple[str | int, ...]]:
        if walk.is_checked or not is_everything(walk.selection):
            columns = f"f.{column} AS text, p.rowid AS place"
            return walk.statement(columns, "ORDER BY p.rowid", paged=False, after=after)
        first, last = walk.places()
        # The table alone can say which: no index is needed.
        sql = (
            f"SELECT {column} AS text, place FROM facets WHERE place >= ? AND place < ?"  # noqa: S608 - our own text
            f" AND class IN ({_listed(walk.selection)}) ORDER BY place"
        )
        return sql, (first if after is None else after + 1, last)

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


def _merged(parts: Sequence[Part]) -> list[tuple[str, int]]:
    """Return each value once. A part that is alone is not looked at: with many values that takes long."""
    parts = [part for part in parts if part]
    if len(parts) == 1:
        return parts[0]
    counts: Counter[str] = Counter()
    for part in parts:
        for value, number in part:
            counts[value] += number
    return _there(counts)


def _there(counts: Mapping[str, int]) -> Part:
    """Return the values that occur."""
    return [item for item in counts.items() if item[1]]


def _classes(selection: Selection) -> list[int]:
    classes = ((PROBES, PROBE), (MAILBOXES, MAILBOX))
    return [PLAIN, *[class_ for kind, class_ in classes if kind not in selection.none_of]]


def _listed(selection: Selection) -> str:
    return ", ".join(map(str, _classes(selection)))


def _split(walk: Walk, period: int = 1) -> tuple[list[Walk], _Range | None]:
    """Take the whole periods of so many quarter hours, or ALL_TIME, of which counts are kept, out of a walk.

    Return what is left, and them.
    """
    is_whole = walk.since_ms is None and walk.until_ms is None
    if walk.is_checked or not is_everything(walk.selection) or (period == ALL_TIME and not is_whole):
        return [walk], None
    length = BUCKET_MS * period
    first = None if walk.since_ms is None else -(-walk.since_ms // length)
    last = None if walk.until_ms is None else walk.until_ms // length
    if first is not None and last is not None and first >= last:
        return [walk], None
    edges = []
    if last is not None:
        edges += cut(walk, last * length, None)
    if first is not None:
        edges += cut(walk, None, first * length)
    return edges, _Range(None if first is None else first * period, None if last is None else last * period)


def _mail_and_page(id_: str) -> tuple[str, int]:
    """Return the id of a page's mail and its number; only pages after the first have `#` and digits at the end."""
    if (page := _PAGE.search(id_)) is None:
        return id_, 0
    return id_[: page.start()], int(page[1])
