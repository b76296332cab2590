"""Bounds what is kept of a mail that is tried again and again: of each recipient the first 2 and the last 8 attempts.

Pure. An attempt is dropped only when two of its recipient's attempts are before it and eight behind it: whatever lines
still come, it would never be shown. So it does not matter when this happens, and a document stays a function of the set
of lines. What dropped attempts add to the counts and roll-ups is kept as numbers and names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailspan.deliveries import FIRST_ATTEMPTS, LAST_ATTEMPTS, attempt_rows, recipient_key
from mailspan.transaction import Dropped

if TYPE_CHECKING:
    from mailspan.event import Attempted
    from mailspan.transaction import Transaction

TRIM_FROM = 64
"""How many attempts a transaction may keep before it is looked at; then twice as many as were left."""

_MAX_NAMES = 64


def trim(transaction: Transaction) -> None:
    """Drop the attempts of a transaction that no document will show."""
    by_recipient = attempt_rows(transaction)
    wanted: set[int] = set()
    for rows in by_recipient.values():
        tried = [row for row in rows if not row.notice]
        if len(tried) > FIRST_ATTEMPTS + LAST_ATTEMPTS:
            tried = [*tried[:FIRST_ATTEMPTS], *tried[-LAST_ATTEMPTS:]]
        wanted.update(id(row.attempt) for row in tried)
        wanted.update(id(row.attempt) for row in rows[-1:])
    kept = []
    dropped = transaction.dropped or {}
    for key, attempt in transaction.attempts:
        if id(attempt) in wanted or not _is_plain(attempt):
            kept.append((key, attempt))
            continue
        for recipient in attempt.recipients:
            name = recipient_key(recipient, attempt, transaction.mta)
            dropped[name] = _add(dropped.get(name, Dropped()), attempt)
    transaction.attempts = kept
    transaction.dropped = dropped or None
    transaction.trim_at = max(TRIM_FROM, 2 * len(kept))


def _is_plain(attempt: Attempted) -> bool:
    """Whether the attempt says nothing of the whole transaction: no note. Links are of what is shown."""
    return not attempt.ambiguous and bool(attempt.recipients)


def _add(dropped: Dropped, attempt: Attempted) -> Dropped:
    if attempt.pending:
        return dropped
    return Dropped(
        dropped.count + (not attempt.given_up),
        _with(dropped.relays, attempt.relay),
        _with(dropped.outcomes, attempt.outcome),
        _with(dropped.dsns, attempt.dsn),
        _with(dropped.originals, attempt.original_recipient),
    )


def _with(names: list[str], name: str | None) -> list[str]:
    """Add a name; of too many the first by their order stay, so that the order of arrival does not matter."""
    return names if name is None or name in names else sorted([*names, name])[:_MAX_NAMES]
