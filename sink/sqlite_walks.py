"""From a selection to walks along the inverted index: statements that together give each document once.

Pure. The index gives places in date order, so walks go from the newest documents to the oldest. No user text is part of
the SQL, and none of the index's query language: terms hold no quote and stand between quotes.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from sink.sqlite_schema import LARGEST_DATE_MS, PLACE_BITS, lasting
from sink.store import Term
from sink.terms import PAGED, SPANS_MS, term

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sink.store import Selection

PROBES, MAILBOXES = term("kind", "probe"), term("kind", "mailbox")
_KINDS = (term("kind", "transaction"), term("kind", "rejection"), PROBES, MAILBOXES)
_NOWHERE = Term("-")
"""What no document has: every term has a field."""
_MOST_ALTERNATIVES = 16
_SMALLEST_PLACE, _LARGEST_PLACE = -(1 << 63), (1 << 63) - 1


class Walk(NamedTuple):
    """Documents of one range of dates, `since_ms` inclusive, `until_ms` exclusive, None is no limit."""

    selection: Selection
    since_ms: int | None
    until_ms: int | None
    is_checked: bool = False
    """The last update must be compared, too."""
    span: int | None = None
    """Only documents that lasted longer than this one of SPANS_MS."""

    def statement(
        self,
        columns: str,
        order: str = "",
        *,
        also: Term | None = None,
        paged: bool | None = None,
        after: int | None = None,
    ) -> tuple[str, tuple[str | int, ...]]:
        """Return the SQL and its parameters: `columns` of postings p, facets f, subjects s and documents d.

        `also` must be among the terms. `paged` True: only documents of mails with several pages; False: none of them.
        `after`: only those with places after this one.
        """
        conditions = ["p.postings MATCH ?"]
        parameters: list[str | int] = [self.match(also, paged=paged)]
        # A condition that is not needed would be compared for each document: counting takes twice as long then.
        for condition, value in (
            ("p.rowid >= ?", None if self.since_ms is None else first_place(self.since_ms)),
            ("p.rowid < ?", None if self.until_ms is None else first_place(self.until_ms)),
            ("p.rowid > ?", after),
            ("instr(s.subject, ?) > 0", self.selection.subject),
            ("f.updated >= ?", self.selection.updated_from_ms if self.is_checked else None),
            ("f.updated < ?", self.selection.updated_until_ms),
        ):
            if value is not None:
                conditions.append(condition)
                parameters.append(value)
        where = " AND ".join(conditions)
        # CROSS JOIN: SQLite must begin with the index. To count what the index alone knows, it is enough.
        source = "postings AS p"
        for table, name in (("subjects", "s"), ("facets", "f"), ("documents", "d")):
            if f"{name}." in f"{columns} {where}":
                # Of what lasted long a small index knows the last update: few rows of facets must be looked up.
                is_lasting = table == "facets" and self.span is not None
                join = f"INDEXED BY facets_lasting ON {lasting('f.')} AND" if is_lasting else "ON"
                source += f" CROSS JOIN {table} AS {name} {join} {name}.place = p.rowid"
        return f"SELECT {columns} FROM {source} WHERE {where} {order}", tuple(parameters)  # noqa: S608 - our own text

    def places(self) -> tuple[int, int]:
        """Return the first place, and the one behind the last."""
        return (
            _SMALLEST_PLACE if self.since_ms is None else first_place(self.since_ms),
            _LARGEST_PLACE if self.until_ms is None else first_place(self.until_ms),
        )

    def match(self, also: Term | None = None, *, paged: bool | None = None) -> str:
        """Return what the index is asked."""
        groups = list(self.selection.all_of)
        unwanted = list(self.selection.none_of)
        if self.span is not None:
            groups.append((Term(f"span:{self.span}"),))
        if also is not None:
            groups.append((also,))
        if paged:
            groups.append((PAGED,))
        if not groups:
            # The kinds all together are a long list: only where nothing shorter is asked for.
            groups.append(tuple(kind for kind in _KINDS if kind not in unwanted))
            unwanted = [each for each in unwanted if each not in _KINDS]
        if paged is False:
            unwanted.append(PAGED)
        wanted = " AND ".join(f"({_any_of(group)})" for group in groups)
        return " NOT ".join((f"({wanted})", *map(quoted, unwanted)))


def walks(selection: Selection) -> list[Walk]:
    """Return the walks that together give each document of `selection` once, newest first.

    A document counts from its date to its last update. Nearly all last less than the first of SPANS_MS. Those that
    last longer have a term for it, so that no walk reads many documents that ended before the time asked for.
    """
    updated_from = selection.updated_from_ms
    if updated_from is None:
        return [Walk(selection, selection.date_from_ms, selection.date_until_ms)]
    borders = [updated_from, *(updated_from - span for span in SPANS_MS)]
    parts = [Walk(selection, updated_from, None), Walk(selection, borders[1], borders[0], is_checked=True)]
    for span, until in enumerate(borders[1:]):
        since = borders[span + 2] if span + 2 < len(borders) else None
        parts.append(Walk(selection, since, until, is_checked=True, span=span))
    return [each for part in parts for each in cut(part, selection.date_from_ms, selection.date_until_ms)]


def counted_walks(selection: Selection) -> list[tuple[int, Walk]]:
    """Return walks that together count as many documents as `selection` has: with -1 what is to be taken away again.

    What was last updated before a time are all that began before it, less those among them that were updated from then
    on. These are few, and of neither must the last update be looked up that is far from that time.
    """
    until = selection.updated_until_ms
    if until is None:
        return [(1, walk) for walk in walks(selection)]
    date_until = until if selection.date_until_ms is None else min(until, selection.date_until_ms)
    updated_from = until if selection.updated_from_ms is None else max(until, selection.updated_from_ms)
    began = replace(selection, date_until_ms=date_until, updated_until_ms=None)
    later = replace(began, updated_from_ms=updated_from)
    return [(sign, walk) for sign, part in ((1, began), (-1, later)) for walk in walks(part)]


def cut(walk: Walk, since_ms: int | None, until_ms: int | None) -> list[Walk]:
    """Return the part of a walk that lies between the two dates, if there is one."""
    since = max((each for each in (walk.since_ms, since_ms) if each is not None), default=None)
    until = min((each for each in (walk.until_ms, until_ms) if each is not None), default=None)
    if since is not None and until is not None and since >= until:
        return []
    return [walk._replace(since_ms=since, until_ms=until)]


def is_everything(selection: Selection) -> bool:
    """Say whether only dates, last updates from a time on, and probes and mailboxes or not are asked for."""
    return (
        not selection.all_of
        and set(selection.none_of) <= {PROBES, MAILBOXES}
        and selection.updated_until_ms is None
        and selection.subject is None
    )


def first_place(date_ms: int) -> int:
    """Return the smallest place of a date."""
    return max(min(date_ms, LARGEST_DATE_MS), -LARGEST_DATE_MS) << PLACE_BITS


def _any_of(terms: Sequence[Term]) -> str:
    """Return a query for documents with one of the terms.

    For each document FTS5 looks at all parts of an OR; so many are grouped, and it looks at a group only where that is
    next. An OR in an OR would be made flat: what NOT is around stays together.
    """
    each_quoted = [quoted(each) for each in terms]
    if len(each_quoted) <= _MOST_ALTERNATIVES:
        return " OR ".join(each_quoted)
    size = math.isqrt(len(each_quoted))
    parts = [each_quoted[start : start + size] for start in range(0, len(each_quoted), size)]
    return " OR ".join(f"(({' OR '.join(part)}) NOT {quoted(_NOWHERE)})" for part in parts)


def quoted(each: Term) -> str:
    """Return a query for documents with a term."""
    text = each.text.replace('"', '""')
    return f'"{text}" *' if each.is_prefix else f'"{text}"'
