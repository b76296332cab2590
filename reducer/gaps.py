"""Gaps: a line says that lines of its host were lost, so what is open may lack some of its own.

The first gap is noted on each transaction that was not over before it. A rejection, which is one line, lacks none.
What the note means to a reader is mailspan/document.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailspan.transaction import digest
from reducer.host import look_at
from reducer.snapshot import has_gap

if TYPE_CHECKING:
    from mailspan.record import Record, Stamp
    from mailspan.transaction import Transaction
    from reducer.host import Host

_MOST_FRESH = 16384


def note_gap(host: Host, record: Record) -> None:
    """Lines of this host are missing: whatever is open may lack some of its own. The first gap is noted.

    The order within a second does not matter: what began or ended in it may lack lines, too.
    """
    if host.gap is not None and host.gap[1].second == record.stamp.second:
        return
    gap = digest((record.stamp.second, record.text)), record.stamp
    if host.gap is None or host.gap[1].second < record.stamp.second:
        host.gap = gap
    fresh = list(host.transactions if host.fresh is None else host.fresh)
    host.fresh = {}
    for queue_id in fresh:
        found = host.transactions.get(queue_id)
        if found is None or (isinstance(found, bytes) and has_gap(found)):
            continue
        newest = look_at(found)
        if not _lacks_lines(host, newest, gap):
            if newest.closed_by is None and not newest.gap:
                host.fresh[queue_id] = None
        elif isinstance(found, bytes):
            if newest.changed:
                host.keep_unpacked(queue_id, newest)
            else:
                host.pack_again(queue_id, newest)


def note_begun(host: Host, transaction: Transaction, second: int) -> None:
    """A transaction begins at `second`: the next gap is to be noted on it, and one of that second now."""
    queue_id = transaction.queue_id
    if host.fresh is not None:
        host.fresh[queue_id] = None
        if len(host.fresh) > _MOST_FRESH:
            host.fresh = None
    if host.gap is not None and second == host.gap[1].second and queue_id[0] != "~":
        _lacks_lines(host, transaction, host.gap)


def _lacks_lines(host: Host, transaction: Transaction, gap: tuple[bytes, Stamp]) -> bool:
    """Note a gap on a transaction that was not over before it; return whether that is new."""
    key, stamp = gap
    if transaction.gap or transaction.rejection:
        return False
    if transaction.lines and next(iter(transaction.lines.values())).second > stamp.second:
        return False
    if transaction.closed_by is not None:
        latest = max(each.second for each in transaction.lines.values())
        if latest < stamp.second:
            return False
    transaction.lines[key] = stamp
    transaction.gap = True
    host.mark(transaction)
    return True
