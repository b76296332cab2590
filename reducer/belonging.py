"""Which transaction a line belongs to: the incarnation that has it, a new one, or that of another ID that it names.

A queue ID that holds no time comes back: a birth line may begin a new incarnation, and the one before it lingers behind
it (`Transaction.earlier`). A line of one ID may name another: that of a notice, a clone, a forward. A line that comes
twice belongs where it is; the finer stamp wins. What a line does there is reducer/effects.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailspan.document import COUNTED_MTAS
from mailspan.event import Attempted, Cloned, Enveloped, Identified, Notified, Received
from mailspan.filtering import is_unborn
from mailspan.queue_id import TIME_OF
from mailspan.transaction import Transaction
from reducer.gaps import note_begun
from reducer.lifetime import LINGER_CLIENT_ONLY_SECONDS, LINGER_CLOSED_SECONDS, is_counted_closed

if TYPE_CHECKING:
    from mailspan.event import Event
    from mailspan.record import Record, Stamp
    from reducer.host import Host

MOST_INCARNATIONS = 16
_BIRTHS_LOOKED_AT = 64

BIRTHS = frozenset({Received, Identified, Enveloped})
"""The events of birth lines: they alone can begin a new incarnation."""
_BEFORE_MESSAGE_ID = frozenset({"rejected", "discarded"})


def holder_of(transaction: Transaction | None, line: tuple[int, str]) -> Transaction | None:
    """Return the incarnation that has the line already."""
    while transaction is not None:
        if transaction.key_of(line) in transaction.lines:
            return transaction
        transaction = transaction.earlier
    return None


def is_new(transaction: Transaction, event: Event, second: int) -> bool:
    """Whether a birth line begins a new incarnation of an ID: the old one is closed, or the line contradicts it.

    IDs that hold their time are never used again.
    """
    if TIME_OF[transaction.mta](transaction.queue_id) is not None:
        return False
    if not transaction.births and not transaction.attempts and not transaction.queued:
        return False  # only named by another ID's line so far: this is its birth
    if transaction.closed_by is not None:
        # A header check may refuse or discard a mail before its Message-ID is logged.
        cut_short = transaction.closed_by in _BEFORE_MESSAGE_ID and transaction.message_id is None
        latest = max(stamp.second for stamp in transaction.lines.values())
        return not (cut_short and isinstance(event, Identified) and second <= latest)
    if isinstance(event, Enveloped):
        # Logged in one go with its mail. There may be thousands of births: the latest one will do.
        births = transaction.births
        return bool(births) and second > transaction.lines[births[-1]].second + LINGER_CLOSED_SECONDS
    if isinstance(event, Received):
        return transaction.received is not None
    if isinstance(event, Identified) and not event.resent and transaction.message_id is not None:
        latest = max(transaction.lines[key].second for key in transaction.births[-_BIRTHS_LOOKED_AT:])
        return event.message_id != transaction.message_id and second > latest
    return False


def begin(host: Host, record: Record, queue_id: str, earlier: Transaction | None) -> Transaction:
    """Open a transaction; the one before it under the same ID lost its tail if no line closed it."""
    transaction = Transaction(host.name, queue_id, record.mta, host.clock)
    if earlier is not None:
        if earlier.closed_by is None and not (earlier.mta in COUNTED_MTAS and is_counted_closed(earlier)):
            earlier.tail_missing = True
            earlier.lines[earlier.key_of((record.stamp.second, record.text))] = record.stamp
            host.mark(earlier)
        transaction.earlier = earlier
    host.keep(queue_id, transaction)
    host.look_again(queue_id, host.clock + LINGER_CLIENT_ONLY_SECONDS)
    note_begun(host, transaction, record.stamp.second)
    if earlier is not None:
        _bound_incarnations(host, transaction)
    return transaction


def _bound_incarnations(host: Host, newest: Transaction) -> None:
    """Forget the earliest use of an ID where there are too many: no real server comes back to one so fast."""
    last = newest
    for _ in range(MOST_INCARNATIONS - 1):
        if last.earlier is None:
            return
        last = last.earlier
    oldest, last.earlier = last.earlier, None
    if oldest is not None:
        host.let_go(oldest)


def claim(transaction: Transaction, mta: str) -> None:
    """Give an ID that only filters named, who take any of the form for Postfix's, to the server that names it."""
    if transaction.filter_count and is_unborn(transaction):
        transaction.mta = mta


def find_or_begin_child(host: Host, queue_id: str, record: Record, line: tuple[int, str]) -> Transaction | None:
    """Return the transaction of another ID that a line names, with the line; None if the line is known there."""
    transaction = host.find(queue_id)
    if transaction is not None:
        known = holder_of(transaction, line)
        if known is not None:
            sharpen(host, known, line, record.stamp)
            return None
        claim(transaction, record.mta)
    if transaction is None or not _may_be_child(transaction, record.stamp.second):
        transaction = begin(host, record, queue_id, transaction)
    transaction.lines[transaction.key_of(line)] = record.stamp
    return transaction


def _may_be_child(transaction: Transaction, second: int) -> bool:
    """Whether a notice or a forward logged at `second` can have made this incarnation of the ID."""
    if TIME_OF[transaction.mta](transaction.queue_id) is not None:
        return True
    if transaction.received is not None:
        return False  # neither a bounce nor a forward has a client
    first = min((transaction.lines[key].second for key in transaction.births), default=second)
    return abs(second - first) <= LINGER_CLOSED_SECONDS


def other_id(event: Event) -> str | None:
    """Return the second ID of a line that is applied to two transactions."""
    if isinstance(event, (Notified, Cloned)):
        return event.child
    if isinstance(event, Attempted):
        return event.next_queue_id if event.outcome == "expanded" else None
    return event.requeued_from if isinstance(event, Received) else None


def sharpen(host: Host, transaction: Transaction, line: tuple[int, str], stamp: Stamp) -> None:
    """The same line again: of two stamps the finer one wins, of two equally fine ones the earlier."""
    key = transaction.key_of(line)
    known = transaction.lines[key]
    if is_finer(stamp, known):
        transaction.lines[key] = stamp
        host.mark(transaction)


def is_finer(stamp: Stamp, known: Stamp) -> bool:
    """Whether a stamp says more than that of another copy of its line; of two that say as much, the earlier does."""
    if stamp.digits != known.digits:
        return stamp.digits > known.digits
    if stamp.guessed != known.guessed:
        return known.guessed
    return stamp.millisecond < known.millisecond
