"""Count documents by one of their fields, for --count --by."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sink.store import Document

NOTHING = "-"
"""Stands for the value of a document that has none."""


def count_by(encoded: Iterable[bytes], field: str) -> list[tuple[str, int]]:
    """Return each value of `field` (one of FIELDS) and how many documents have it, the most frequent first.

    A document counts once for each value it has, so the sum may be more than the documents.
    """
    values_of = FIELDS[field]
    counter: Counter[str] = Counter()
    for each in encoded:
        counter.update(dict.fromkeys(values_of(orjson.loads(each))) or (NOTHING,))
    return sorted(counter.items(), key=lambda item: (-item[1], item[0]))


def _one(name: str) -> Callable[[Document], Sequence[str]]:
    def values(document: Document) -> Sequence[str]:
        value = document.get(name)
        return () if value is None else (str(value),)

    return values


def _many(name: str) -> Callable[[Document], Sequence[str]]:
    def values(document: Document) -> Sequence[str]:
        return document.get(name) or ()

    return values


def _sender(document: Document) -> Sequence[str]:
    sender = document.get("from")
    return () if sender is None else (sender.casefold() or "<>",)


def _sender_domain(document: Document) -> Sequence[str]:
    return [sender.rpartition("@")[2] if "@" in sender else sender for sender in _sender(document)]


FIELDS: dict[str, Callable[[Document], Sequence[str]]] = {
    "host": _one("host"),
    "mta": _one("mta"),
    "kind": _one("kind"),
    "state": _one("state"),
    "outcome": _one("outcome"),
    "stage": _one("stage"),
    "client": _one("client"),
    "relay": _many("relays"),
    "dsn": _many("dsns"),
    "sender": _sender,
    "sender_domain": _sender_domain,
    "recipient": _many("recipients"),
    "recipient_domain": _many("recipient_domains"),
}
