"""What stores keep of a document beside it, so that many can be compared and counted without reading them.

Facets are a narrow row per document. Counts say how many documents of a period have each value of a field: a quarter
hour where there are few values, a day where there are some thousand, all time where those of each day would be nearly
as many as documents. They are kept by class, since most searches leave probes and what mailbox servers did out, and the
pages of one mail count once. Pure: nothing here touches the database.
"""

from __future__ import annotations

from collections import Counter
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from sink.store import BUCKET_MS
from sink.terms import fold

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sink.store import Document

PLAIN, PROBE, PAGED, MAILBOX = range(4)
"""Classes of documents: in every search, only in those that ask for probes, those of mails with several pages, and only
in those that ask for what mailbox servers did."""

_CLASS_OF_KIND = {"probe": PROBE, "mailbox": MAILBOX}

SEPARATOR = "\n"
"""Stands between the values of a field with many; the column of a document with none is empty."""


def _split(text: str) -> list[str]:
    return text.split(SEPARATOR)


def _domains(text: str) -> list[str]:
    """Return the domains of addresses, each once; an address without one stands for itself."""
    if SEPARATOR not in text:
        return [text.rpartition("@")[2] or text]
    return list(dict.fromkeys([each.rpartition("@")[2] or each for each in text.split(SEPARATOR)]))


def whole_text(text: str) -> list[str]:
    """Return the one value of a field that never has several."""
    return [text]


COLUMNS: dict[str, tuple[str, Callable[[str], list[str]]]] = {
    "host": ("host", whole_text),
    "client": ("client", whole_text),
    "sender": ("sender", whole_text),
    "sender_domain": ("sender", _domains),
    "relay": ("relay", _split),
    "outcomes": ("outcomes", _split),
    "dsn": ("dsn", _split),
    "recipient": ("recipient", _split),
    "recipient_domain": ("recipient", _domains),
}
"""The fields that the facets answer: their column, and which values its text holds."""

VALUE_TERMS = {
    "host": "on", "mta": "mta", "kind": "kind", "state": "state", "outcome": "ended", "stage": "stage",
    "outcomes": "had", "dsn": "dsn",
}  # fmt: skip
"""The fields that have counts, each with the term that holds its whole value."""

DAY_MS = 86_400_000
BUCKETS_OF_A_DAY = DAY_MS // BUCKET_MS
ALL_TIME = 0
PERIODS = {
    **dict.fromkeys(VALUE_TERMS, 1),
    **dict.fromkeys(("relay", "sender", "sender_domain", "recipient_domain"), BUCKETS_OF_A_DAY),
    **dict.fromkeys(("client", "recipient"), ALL_TIME),
}
"""How many quarter hours the counts of a field are for. Those of a day (UTC) are kept in its first, those of all time
in the first of 1970. Pages of mails with several are in those of single quarter hours only."""

SEVERAL = {"outcomes": "outcomes", "dsn": "dsns"}
"""Of those fields, the ones of which a document may have several values, with their names in it."""

_SINGLE = tuple(field for field in VALUE_TERMS if field not in COLUMNS)
_LONGER = [
    (
        attrgetter(column),
        [(field, values_of, PERIODS[field]) for field, (other, values_of) in COLUMNS.items() if other == column],
    )
    for column in ("client", "sender", "relay", "recipient")
]
"""The columns whose fields have counts for longer than a quarter hour, with these fields."""


class Facets(NamedTuple):
    """One row of the table."""

    place: int
    class_: int
    updated: int
    host: str
    client: str
    sender: str
    relay: str
    outcomes: str
    dsn: str
    recipient: str


CountKey = tuple[str, int, str, int]
"""The key of one number: field, class, value, and the quarter hours since 1970 UTC."""


def facets_of(document: Document, place: int, date_ms: int, updated_ms: int) -> Facets:
    """Return the facets of a document. Where clocks differ, its last update is not before its date."""
    return Facets(
        place,
        class_of(document),
        max(date_ms, updated_ms),
        document["host"],
        document.get("client") or "",
        sender_of(document),
        _joined(document.get("relays")),
        _joined(document.get("outcomes")),
        _joined(document.get("dsns")),
        recipients_of(document),
    )


def subject_of(document: Document) -> str | None:
    """Return the subject as it is compared; None where there is none."""
    subject = document.get("subject")
    return fold(subject) if subject else None


def sender_of(document: Document) -> str:
    """Return the text of the column `sender`."""
    sender = document.get("from")
    return "" if sender is None else sender.casefold() or "<>"


def recipients_of(document: Document) -> str:
    """Return the text of the column `recipient`."""
    return _joined(document.get("recipients"))


def class_of(document: Document) -> int:
    """Return the class of a document."""
    if document.get("page_count", 1) > 1:
        return PAGED
    return _CLASS_OF_KIND.get(document["kind"], PLAIN)


def counts_of(documents: Sequence[tuple[Document, Facets, int]]) -> dict[CountKey, int]:
    """Return the counts of documents, each given with its facets and its date in milliseconds.

    Many documents have the same few values, and many the same texts: these are counted as they are, then taken apart.
    """
    counts: dict[CountKey, int] = {}
    shared = Counter(
        [
            (each.class_, date_ms // BUCKET_MS, each.host, each.outcomes, each.dsn, _singles(document))
            for document, each, date_ms in documents
        ]
    )
    for (class_, bucket, host, outcomes, dsns, singles), number in shared.items():
        values = [("", ""), ("host", host), *zip(_SINGLE, [each or "" for each in singles], strict=True)]
        values += [("outcomes", each) for each in _split(outcomes)]
        values += [("dsn", each) for each in _split(dsns)]
        for field, value in values:
            key = (field, class_, value, bucket)
            counts[key] = counts.get(key, 0) + number
    for column, fields in _LONGER:
        texts = Counter(
            [(each.class_, date_ms // DAY_MS, column(each)) for _, each, date_ms in documents if each.class_ != PAGED]
        )
        for (class_, day, text), number in texts.items():
            for field, values_of, period in fields:
                for value in values_of(text):
                    key = (field, class_, value, day * period)
                    counts[key] = counts.get(key, 0) + number
    return counts


def _singles(document: Document) -> tuple[str | None, ...]:
    return tuple([document.get(field) for field in _SINGLE])


def _joined(values: list[str] | None) -> str:
    if not values:
        return ""
    if len(values) == 1:
        return values[0].replace(SEPARATOR, " ")
    return SEPARATOR.join([value.replace(SEPARATOR, " ") for value in values])
