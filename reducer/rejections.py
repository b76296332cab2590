"""Rejections: what was refused before it had a queue ID is a transaction of its own.

Its queue ID is `~` and the digest of the line. The same words of one second by another process are a repeat of it, not
another one. What a refusal says is stored by reducer/effects.py; refusals of a mail that has a queue ID are not here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailspan.event import Refused
from mailspan.transaction import digest
from reducer import sessions
from reducer.belonging import begin, holder_of, is_finer, sharpen
from reducer.effects import rejected
from reducer.lifetime import LINGER_CLOSED_SECONDS

if TYPE_CHECKING:
    from mailspan.record import Record
    from mailspan.transaction import Transaction
    from reducer.host import Host


def reject(host: Host, record: Record, event: Refused) -> str | None:
    """Keep a refusal without a queue ID as a transaction of its own; the same by another process is a repeat.

    Return None if it was applied, else the reason why it was ignored.
    """
    key = digest((record.stamp.second, record.text))
    line = (record.stamp.second, f"{sessions.teller_of(record)}: {record.text}")
    queue_id = f"~{key.hex()}"
    transaction = host.find(queue_id)
    if transaction is None:
        transaction = begin(host, record, queue_id, None)
        rejected(transaction, line, event)
        transaction.closed_at = host.clock
        if sessions.has_key(record):
            session = sessions.of_refusal(host.sessions, record, event.client)
            host.sessions_changed = True
            transaction.session = sessions.name_of(record, session)
            sessions.enter(session, transaction)
            if event.client is None:
                event.client = session.known_client()
        host.look_again(queue_id, host.clock + LINGER_CLOSED_SECONDS)
    elif holder_of(transaction, line) is not None:
        sharpen(host, transaction, line, record.stamp)
        return "duplicate"
    elif record.source.mta == "exim" and _is_copy(host, transaction, record, line):
        return "duplicate"
    known_as = transaction.key_of(line)
    transaction.lines[known_as] = record.stamp
    transaction.births.append(known_as)
    host.mark(transaction)
    return None


def _is_copy(host: Host, transaction: Transaction, record: Record, line: tuple[int, str]) -> bool:
    """Whether a refusal is the same as one known, by another of Exim's logs: its own need not name the process.

    The line that names it is kept, so that the copies may come in either order.
    """
    if not record.source.pid:
        known = min(transaction.births, key=lambda key: transaction.lines[key].second)
        stamp = transaction.lines[known]
        if is_finer(record.stamp, stamp):
            transaction.lines[known] = record.stamp
            host.mark(transaction)
        return True
    unnamed = transaction.key_of((line[0], f": {record.text}"))
    if unnamed not in transaction.lines:
        return False
    key = transaction.key_of(line)
    stamp = transaction.lines.pop(unnamed)
    transaction.lines[key] = record.stamp if is_finer(record.stamp, stamp) else stamp
    transaction.births = [key if birth == unnamed else birth for birth in transaction.births]
    transaction.refusals = [(key if k == unnamed else k, refusal) for k, refusal in transaction.refusals or ()]
    if isinstance(record.event, Refused):
        session = sessions.of_refusal(host.sessions, record, record.event.client)
        host.sessions_changed = True
        transaction.session = sessions.name_of(record, session)
    host.mark(transaction)
    return True
