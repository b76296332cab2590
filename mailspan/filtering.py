"""What filters beside the mail server say of a transaction: kept, bounded, and as the document shows it.

Pure. A filter's line belongs to the transaction of its own host whose queue ID it names. It may come before the mail
server's first line of that second, so it can begin a transaction; but of a queue ID that only filters named there is no
document: they may serve another host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mailspan.event_time import format_time

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mailspan.event import Filtered
    from mailspan.transaction import LineKey, Transaction

MAX_FILTERS = 32
"""How many rows a transaction keeps; of more, the first by their words, which lines came when is no matter."""


def keep(transaction: Transaction, key: LineKey, event: Filtered) -> None:
    """Remember what a filter, or a user's script, did."""
    if transaction.filters is None:
        transaction.filters = []
    transaction.filters.append((key, event))
    if len(transaction.filters) > MAX_FILTERS:
        transaction.filters.remove(max(transaction.filters, key=_order))
        transaction.truncated = True


def _order(kept: tuple[LineKey, Filtered]) -> tuple[str, str, str, float]:
    event = kept[1]
    return event.filter, event.verdict, event.detail or "", event.score or 0.0


def is_unborn(transaction: Transaction) -> bool:
    """Whether nothing but filters named this queue ID on its host: a gap that is noted on it names none."""
    return transaction.filter_count + transaction.gap == len(transaction.lines)


def rows(transaction: Transaction) -> list[dict[str, Any]]:
    """Return the document's `filters`, oldest first."""
    found = [(transaction.lines[key], event) for key, event in transaction.filters or ()]
    found.sort(
        key=lambda each: (
            each[0].second,
            each[0].millisecond,
            each[1].filter,
            each[1].verdict,
            each[1].detail or "",
            each[1].score or 0.0,
        )
    )
    return [
        {
            "filter": event.filter,
            "verdict": event.verdict,
            "score": event.score,
            "required_score": event.required_score,
            "detail": event.detail,
            "date": format_time(stamp.second, stamp.millisecond),
        }
        for stamp, event in found
    ]


def links(transaction: Transaction) -> Iterator[tuple[str, str, str | None]]:
    """Yield where a filter gave the mail back, where no reply says so."""
    named = {attempt.next_queue_id for _, attempt in transaction.attempts}
    for _, event in transaction.filters or ():
        for queue_id in event.next_queue_ids:
            if queue_id not in named:
                yield "next", queue_id, None
