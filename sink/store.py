"""The store contract: what every place that keeps documents must do, and the selection it must answer.

A document is the JSON object of docs/document.md as a plain dict. A store keeps one document per
`id` and never lets one made from fewer lines replace one made from more. It answers a `Selection`:
which terms a document must have and when it happened. What a user typed is turned into a selection
in `search`; which terms a document has is said in `sink.terms`. So a store knows neither flags nor
addresses, and all stores give the same answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

Document = dict[str, Any]


class Term(NamedTuple):
    """One thing a document is found by; `text` is `field:value`, case-folded and encoded by `sink.terms`."""

    text: str
    is_prefix: bool = False


@dataclass(frozen=True, slots=True)
class Selection:
    """Which documents are meant; every given part must hold.

    Times are milliseconds since 1970 UTC; `from` is inclusive, `until` exclusive, None is no limit.
    """

    all_of: tuple[tuple[Term, ...], ...]
    """Of each group, a document must have at least one term; no group: all documents."""
    none_of: tuple[Term, ...] = ()
    date_from_ms: int | None = None
    date_until_ms: int | None = None
    updated_from_ms: int | None = None
    updated_until_ms: int | None = None
    subject: str | None = None
    """Folded text that the subject must contain."""


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What became of the documents of one write; `indexed + superseded + expired + refused` is their number."""

    indexed: int
    superseded: int
    """Not written: the store has this document from as many lines or more."""
    expired: int = 0
    """Not written: older than what the last `mailspan retention` keeps."""
    refused: int = 0
    """Not written: the store will never take them."""


class DocumentWriter(Protocol):
    """The writing side of a store."""

    def write(self, documents: Sequence[Document], encoded: Sequence[bytes] | None = None) -> WriteResult:
        """Keep `documents`; return when they are safe against a crash of this process.

        Of one id the highest version stays; an equal one changes nothing. `encoded` holds their
        JSON in the same order, where the caller has it already. Raises StoreError and then has kept
        none of them.
        """


COUNTED = (
    "host", "mta", "kind", "state", "outcome", "outcomes", "stage", "dsn", "client", "relay",
    "sender", "sender_domain", "recipient", "recipient_domain",
)  # fmt: skip
"""What a store can count by: `outcome` is that of the mail, `outcomes` all that occur in `to`.

A document without a value counts under "" there; the null sender is `<>`.
"""

BUCKET_MS = 900_000
"""Dates are counted by quarter hours: every zone's days and hours are made of them."""


class DocumentReader(Protocol):
    """The reading side of a store. Documents come as the JSON bytes that were written, unchanged.

    The pages of one mail are documents of their own. A mail whose pages match counts once, also for a limit, and its
    matching pages are given one after another, in their order.
    """

    @property
    def gaps(self) -> Sequence[str]:
        """What was asked for and is not there at all: days without an index."""

    @property
    def faults(self) -> Sequence[str]:
        """What is there and could not be asked: the answers so far are incomplete for these reasons."""

    def newest(self, selection: Selection, limit: int) -> list[bytes]:
        """Return the documents of at most `limit` mails by date, newest first, then by id. Raises StoreError."""

    def count(self, selection: Selection) -> int:
        """Return the number of mails. Raises StoreError."""

    def count_by(self, selection: Selection, field: str) -> list[tuple[str, int]]:
        """Return each value of `field`, one of COUNTED, and how many mails have it, in no order. Raises StoreError."""

    def count_by_date(self, selection: Selection) -> dict[int, int]:
        """Return how many mails begin in each BUCKET_MS, by its first millisecond since 1970 UTC. Raises StoreError."""
