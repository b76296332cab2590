"""How long a transaction is kept: when it is over, when it is due to be forgotten, when to look at it again.

Pure functions of a transaction and its host's event clock, in seconds: nothing is changed here, and nothing forgotten
(reducer/forgetting.py). The times are DESIGN's; what closes a transaction for its readers is decided by
mailspan/document.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailspan.document import COUNTED_MTAS

if TYPE_CHECKING:
    from mailspan.transaction import Transaction

LINGER_CLOSED_SECONDS = 60
LINGER_BY_COUNT_SECONDS = 3600
LINGER_CLIENT_ONLY_SECONDS = 3600
QUEUE_LIFETIME_SECONDS = 5 * 86400
LINGER_OPEN_SECONDS = QUEUE_LIFETIME_SECONDS + 86400

_FINAL = frozenset({"delivered", "relayed", "expanded", "discarded", "bounced", "expired", "rejected"})


def is_counted_closed(transaction: Transaction) -> bool:
    """Whether every recipient that the MTA counted is final and none is pending (MTAs without a closing line)."""
    last: dict[str, str] = {}
    for _, attempt in transaction.attempts:
        for recipient in attempt.recipients:
            if attempt.envelope_id is None:
                last[recipient] = attempt.outcome
            elif not attempt.pending or attempt.envelope_id not in last:
                last[attempt.envelope_id] = attempt.outcome
                for name in (recipient, attempt.original_recipient):
                    last.pop(name or "", None)  # a notice without an envelope is answered
    if transaction.expiries:
        last = {recipient: "expired" if outcome == "deferred" else outcome for recipient, outcome in last.items()}
    if not last or not all(outcome in _FINAL for outcome in last.values()):
        return False
    return len(last) >= transaction.final_recipients_needed()


def due_at(newest: Transaction) -> int:
    """Return the host clock at which the first incarnation of an ID is forgotten if no further line comes."""
    due = due_alone(newest)
    return due if newest.earlier is None else min(due, due_at(newest.earlier))


def due_alone(transaction: Transaction) -> int:
    """Return the host clock at which the transaction is forgotten if no further line comes."""
    if transaction.closed_at is not None:
        is_last = transaction.mta not in COUNTED_MTAS or transaction.rejection  # else more may be said of it
        return transaction.closed_at + (LINGER_CLOSED_SECONDS if is_last else LINGER_BY_COUNT_SECONDS)
    if transaction.has_only_client():
        return transaction.touched + LINGER_CLIENT_ONLY_SECONDS
    if transaction.mta in COUNTED_MTAS and is_counted_closed(transaction):
        return transaction.touched + LINGER_BY_COUNT_SECONDS
    return transaction.touched + LINGER_OPEN_SECONDS


def is_over(newest: Transaction, due: int) -> bool:
    """Whether all is said of the newest incarnation, which is due at `due`: it is closed, by a line or by count."""
    if newest.closed_at is not None:
        return True
    by_count = newest.mta in COUNTED_MTAS and due == newest.touched + LINGER_BY_COUNT_SECONDS
    return by_count and not newest.has_only_client()


def next_look(newest: Transaction, clock: int) -> int:
    """Return when to look whether the unpacked incarnations of an ID are due.

    Where the next line may close a transaction by count there is always a look planned, at the latest an hour after
    the last line. So no line needs to plan one but the first after an hour; whether all is final is not worked out for
    each line, which would take all attempts each time.
    """
    due = due_at(newest)
    quiet = newest.touched + LINGER_BY_COUNT_SECONDS
    return quiet if newest.mta in COUNTED_MTAS and clock < quiet < due else due


def rests_later(transaction: Transaction, clock: int) -> bool:
    """Whether a transaction cannot be due yet, told without looking at its attempts, which may be many."""
    counted = transaction.mta in COUNTED_MTAS and transaction.closed_at is None
    return counted and transaction.touched + LINGER_BY_COUNT_SECONDS > clock
