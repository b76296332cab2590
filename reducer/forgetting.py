"""A host's event clock moves on, and what is due is forgotten.

The clock is the newest stamp seen from the host, so that one pass over a file, ten passes over its parts and a live
stream forget at the same line. No wall clock is read. How long a transaction is kept stands in reducer/lifetime.py;
what happens to one that is let go is the host's (`Host.let_go`).
"""

from __future__ import annotations

import heapq
from itertools import pairwise
from typing import TYPE_CHECKING

from reducer.host import look_at
from reducer.lifetime import LINGER_BY_COUNT_SECONDS, due_alone, next_look, rests_later
from reducer.snapshot import due_of, is_alone

if TYPE_CHECKING:
    from mailspan.transaction import Transaction
    from reducer.host import Host

_JUMP_SECONDS = 86400
_AGREEING_SECONDS = 3
# A stamp further than a day from the clock, ahead or behind, moves it only when lines of three seconds in a row agree:
# neither an absurd stamp, nor two, nor a line that comes twice can make everything be forgotten, or stop forgetting.


def advance(host: Host, second: int) -> None:
    """Move the host's clock on to the stamp of a line, and forget what is due."""
    if host.clock and abs(second - host.clock) > _JUMP_SECONDS:
        if host.agreed and abs(second - host.away) <= _JUMP_SECONDS:
            if second > host.away:
                host.away = second
                host.agreed += 1
        else:
            host.away = second
            host.agreed = 1
        if host.agreed < _AGREEING_SECONDS:
            return
        host.clock = second
        _date_again(host)
    host.away = host.agreed = 0
    if second < host.clock:
        return
    host.clock = second
    while host.seconds and host.seconds[0] <= second:
        for queue_id in host.due.pop(heapq.heappop(host.seconds)):
            _forget_due(host, queue_id)


def _date_again(host: Host) -> None:
    """After a jump, give the transactions that the old clock touched a place on the new one: their last line's."""
    for queue_id, found in list(host.transactions.items()):
        newest = look_at(found)
        transaction: Transaction | None = newest
        is_moved = False
        while transaction is not None:
            own = max(stamp.second for stamp in transaction.lines.values())
            if own > host.clock:
                own = max(host.clock, transaction.touched)
            if abs(own - transaction.touched) > _JUMP_SECONDS:
                is_moved = True
                transaction.touched = own
                if transaction.closed_at is not None:
                    transaction.closed_at = own
            transaction = transaction.earlier
        if is_moved:
            if isinstance(found, bytes):
                host.pack_again(queue_id, newest)
            host.stale.add(queue_id)
            host.look_again(queue_id, max(host.clock + 1, next_look(newest, host.clock)))


def _forget_due(host: Host, queue_id: str) -> None:
    """Forget the incarnations of an ID whose time has come; look again when the next one is due."""
    found = host.transactions.get(queue_id)
    if found is None:
        return
    if isinstance(found, bytes):
        if due_of(found) > host.clock:
            host.look_again(queue_id, due_of(found))
            return
        if is_alone(found):
            _forget_packed(host, queue_id, found)
            return
    elif found.earlier is None and rests_later(found, host.clock):
        host.look_again(queue_id, found.touched + LINGER_BY_COUNT_SECONDS)
        return
    kept: list[Transaction] = []
    transaction: Transaction | None = look_at(found)
    while transaction is not None:
        earlier, transaction.earlier = transaction.earlier, None
        if due_alone(transaction) > host.clock:
            kept.append(transaction)
        else:
            host.let_go(transaction)
        transaction = earlier
    if kept:
        host.keep(queue_id, kept[0])
        for newer, older in pairwise(kept):
            newer.earlier = older
        host.look_again(queue_id, next_look(kept[0], host.clock))
    else:
        host.drop(queue_id)


def _forget_packed(host: Host, queue_id: str, found: bytes) -> None:
    """Forget the one incarnation of an ID that is due and packed; it is unpacked only to be handed out."""
    host.drop(queue_id)
    if (
        host.shared.incremental
    ):  # nothing that waits to be written is kept packed: Host.store and pack_resting see to it
        host.stale.add(queue_id)
    else:
        host.let_go(look_at(found))
