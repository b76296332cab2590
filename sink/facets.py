"""What stores keep of a document beside it, so that many can be compared and counted without reading them.

Facets are a narrow row per document. Counts say how many documents of a quarter hour have each value of the fields with
few values, and how many of a day have each of some fields with more; they are kept by class, since most searches leave
probes and what mailbox servers did out, and the pages of one mail count once. Clients and recipients have no counts:
there would be nearly as many as documents. Pure: nothing here touches the database.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sink.store import BUCKET_MS
from sink.terms import fold

if TYPE_CHECKING:
    from collections.abc import Callable

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


def _whole(text: str) -> list[str]:
    return [text]


COLUMNS: dict[str, tuple[str, Callable[[str], list[str]]]] = {
    "host": ("host", _whole),
    "client": ("client", _whole),
    "sender": ("sender", _whole),
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

BUCKETS_OF_A_DAY = 86_400_000 // BUCKET_MS
DAILY = ("relay", "sender", "sender_domain", "recipient_domain")
"""The fields that have counts by day (UTC), in its first quarter hour; pages of mails with several have none."""

SEVERAL = {"outcomes": "outcomes", "dsn": "dsns"}
"""Of those fields, the ones of which a document may have several values, with their names in it."""

_SINGLE = tuple(field for field in VALUE_TERMS if field not in SEVERAL)


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


def counts_of(document: Document, facets: Facets, date_ms: int) -> list[CountKey]:
    """Return the counts that a document is part of, which has these facets."""
    class_ = facets.class_
    bucket = date_ms // BUCKET_MS
    keys = [(field, class_, document.get(field) or "", bucket) for field in _SINGLE]
    for field, name in SEVERAL.items():
        keys += [(field, class_, value, bucket) for value in document.get(name) or ("",)]
    keys.append(("", class_, "", bucket))
    if class_ != PAGED:
        day = bucket // BUCKETS_OF_A_DAY * BUCKETS_OF_A_DAY
        for field, text, values_of in (
            ("relay", facets.relay, _split),
            ("sender", facets.sender, _whole),
            ("sender_domain", facets.sender, _domains),
            ("recipient_domain", facets.recipient, _domains),
        ):
            keys += [(field, class_, value, day) for value in values_of(text)]
    return keys


def _joined(values: list[str] | None) -> str:
    if not values:
        return ""
    if len(values) == 1:
        return values[0].replace(SEPARATOR, " ")
    return SEPARATOR.join([value.replace(SEPARATOR, " ") for value in values])
