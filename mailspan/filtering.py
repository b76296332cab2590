"""What filters beside the mail server say of a transaction: kept, bounded, and as the document shows it.

Pure. A filter's line belongs to the transaction of its own host whose queue ID it names. It may come before the mail
server's first line of that second, so it can begin a transaction; but of a queue ID that only filters named there is no
document: they may serve another host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mailspan.event_time import format_time
from mailspan.transaction import digest

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


def _order(kept: tuple[LineKey, Filtered]) -> tuple[object, ...]:
    """Order by what is said; of two lines that say the same (amavis's of two hops) by the lines themselves."""
    key, event = kept
    return *_said(event), key if isinstance(key, bytes) else digest(key)


def _said(event: Filtered) -> tuple[object, ...]:
    return event.filter, event.verdict, event.detail or "", _points(event.score), _points(event.required_score)


def _points(score: float | None) -> tuple[bool, float]:
    """Order numbers; none at all is not the same as zero."""
    return (False, 0.0) if score is None else (True, score)


def is_unborn(transaction: Transaction) -> bool:
    """Whether nothing but filters named this queue ID on its host: a gap that is noted on it names none."""
    return transaction.filter_count + transaction.gap == len(transaction.lines)


def rows(transaction: Transaction) -> list[dict[str, Any]]:
    """Return the document's `filters`, oldest first."""
    found = [(transaction.lines[key], event) for key, event in transaction.filters or ()]
    found.sort(key=lambda each: (each[0].second, each[0].millisecond, *_said(each[1])))
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
