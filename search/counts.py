"""What --count --by can count by: the fields that a store counts, and the reader's days and hours."""

from __future__ import annotations

from bisect import insort
from datetime import UTC, datetime
from operator import itemgetter
from typing import TYPE_CHECKING

from search.times import in_zone
from sink.store import COUNTED

if TYPE_CHECKING:
    from datetime import tzinfo

    from sink.store import DocumentReader, Selection

NOTHING = "-"
"""Stands for the value of a mail that has none."""

DATE_FORMATS = {"day": (10, ""), "hour": (13, ":00")}
"""How many characters of `2026-11-23 08:15:00` name its day, and its hour, and what ends the name."""
FIELDS = (*DATE_FORMATS, *COUNTED)

# Other names for a field: of the document, of the flags, and those of the roll-ups.
_ALIASES = {
    "date": "day", "from": "sender", "to": "recipient", "recipients": "recipient", "relays": "relay", "dsns": "dsn",
    "recipient_domains": "recipient_domain",
}  # fmt: skip


def field_named(text: str) -> str | None:
    """Return which of FIELDS is meant, None if none is."""
    name = text.strip().lower().replace("-", "_").replace(" ", "_")
    name = _ALIASES.get(name, name)
    return name if name in FIELDS else None


def count_by(
    reader: DocumentReader, selection: Selection, field: str, zone: tzinfo | None = None
) -> list[tuple[str, int]]:
    """Return each value of `field` (one of FIELDS) and how many mails have it, the most frequent first.

    A mail counts once for each value it has, so the sum may be more than the mails. Days and hours are those of `zone`
    (None: the machine's), newest first; days without mail are left out. Raises StoreError.
    """
    if field in DATE_FORMATS:
        return _count_by_date(reader.count_by_date(selection), *DATE_FORMATS[field], zone)
    counts = reader.count_by(selection, field)
    # Two sorts by one item each: a third of the time of one by both, and a store gives nearly all in order.
    counts.sort(key=itemgetter(0))
    if counts and not counts[0][0]:
        insort(counts, (NOTHING, counts.pop(0)[1]), key=itemgetter(0))
    counts.sort(key=itemgetter(1), reverse=True)
    return counts


def _count_by_date(buckets: dict[int, int], length: int, ending: str, zone: tzinfo | None) -> list[tuple[str, int]]:
    counts: dict[str, int] = {}
    for bucket_ms in sorted(buckets, reverse=True):
        name = str(in_zone(datetime.fromtimestamp(bucket_ms / 1000, UTC), zone))[:length] + ending
        counts[name] = counts.get(name, 0) + buckets[bucket_ms]
    return list(counts.items())
