"""The assembler: records in, transactions out. Pure: no clock, no I/O.

One event clock per host, the newest stamp seen from it, decides when a transaction is forgotten; the wall clock never
does, so that one pass over a file, ten passes over its parts and a live stream forget at the same line.

What it does not do: it does not read lines (mailspan.grammar), judge facts (mailspan.document) or store anything.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from mailspan import event as events
from mailspan.queue_id import TIME_OF
from mailspan.transaction import LineKey, Transaction, digest
from reducer.effects import EFFECTS, born_of_clone, born_of_notice
from reducer.snapshot import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mailspan.record import Record, Stamp

_TRANSACTION, _HOST = "transaction:", "host:"  # what a key of the stored state begins with

LINGER_CLOSED_SECONDS = 60
LINGER_BY_COUNT_SECONDS = 3600
LINGER_CLIENT_ONLY_SECONDS = 3600
QUEUE_LIFETIME_SECONDS = 5 * 86400
LINGER_OPEN_SECONDS = QUEUE_LIFETIME_SECONDS + 86400
_JUMP_SECONDS = 86400  # a stamp further ahead moves the clock only when a second line agrees

_BIRTHS = frozenset({events.Received, events.Identified})
_FINAL = frozenset({"delivered", "relayed", "expanded", "discarded", "bounced", "expired", "rejected"})
_BEFORE_MESSAGE_ID = frozenset({"rejected", "discarded"})
_COUNTED_MTAS = frozenset({"sendmail", "opensmtpd"})


class _Host:
    """The transactions of one host and its event clock."""

    __slots__ = ("ahead", "clock", "due", "name", "saved", "seconds", "transactions")

    def __init__(self, name: str) -> None:
        self.name = name
        self.clock = 0
        self.ahead = 0  # a stamp far ahead that waits for a second line to agree
        self.saved = (0, 0)  # clock and ahead as last stored
        self.transactions: dict[str, Transaction] = {}
        self.due: dict[int, list[Transaction]] = {}  # what to look at when the clock passes a second
        self.seconds: list[int] = []  # a heap of the seconds in `due`

    def look_again(self, transaction: Transaction, second: int) -> None:
        found = self.due.get(second)
        if found is None:
            self.due[second] = [transaction]
            heapq.heappush(self.seconds, second)
        else:
            found.append(transaction)


class Assembler:
    """Assembles the records of any number of hosts.

    `apply` takes one record. A single pass takes `forgotten` as it goes and `remaining` at its end. An incremental
    one (`incremental=True`) writes `changed` and `snapshot_changes` together, and begins with `restore`.
    """

    def __init__(self, *, incremental: bool = False) -> None:
        self._hosts: dict[str, _Host] = {}
        self._incremental = incremental
        self._forgotten: list[Transaction] = []
        self._changed: list[Transaction] = []
        self._stale: set[tuple[str, str]] = set()  # queue keys whose snapshot is out of date

    def apply(self, record: Record) -> str | None:
        """Apply one record. Return None if it was applied, else the reason why it was ignored."""
        host = self._hosts.get(record.host) or self._host(record.host)
        second = record.stamp.second
        if second > host.clock:
            self._advance(host, second)
        queue_id = record.queue_id
        event = record.event
        kind = event.__class__
        if queue_id is None:
            return _without_queue_id(event)
        effect = EFFECTS.get(kind)
        if effect is None:
            return event.reason if isinstance(event, events.Remarked) else "remark"
        line = (second, record.text)
        key: LineKey = line
        transaction = host.transactions.get(queue_id)
        if transaction is not None:
            if transaction.packed:
                key = digest(line)
            if key in transaction.lines or transaction.earlier is not None:
                known = _holder(transaction, line)
                if known is not None:
                    self._sharpen(known, line, record.stamp)
                    return "duplicate"
            if kind in _BIRTHS and _is_new(transaction, event, second):
                transaction = self._begin(host, queue_id, record.mta, transaction)
                key = line
        else:
            transaction = self._begin(host, queue_id, record.mta, None)
        transaction.lines[key] = record.stamp
        effect(transaction, key, event)
        self._touch(host, transaction)
        if kind is events.Notified or kind is events.Cloned:
            self._apply_to_child(host, record, line)
        elif kind is events.Attempted:
            if record.mta in _COUNTED_MTAS:
                self._count(host, transaction)
            elif event.outcome == "expanded" and event.next_queue_id:  # type: ignore[union-attr]
                self._link_forward(host, record, line)
        elif kind is events.Received and event.requeued_from:  # type: ignore[union-attr]
            self._link_requeue(host, record, line)
        return None

    def forgotten(self) -> list[Transaction]:
        """Return the transactions that were forgotten since the last call: their documents will not change."""
        found = self._forgotten
        if found:
            self._forgotten = []
        return found

    def changed(self) -> list[Transaction]:
        """Return the transactions with new lines since the last call, forgotten ones too, each once."""
        found = self._changed
        self._changed = []
        for transaction in found:
            transaction.changed = False
            self._stale.add((transaction.host, transaction.queue_id))
        return found

    def snapshot_changes(self) -> dict[str, bytes | None]:
        """Return what is to be stored after the transactions of `changed` were: None says that a key is to be deleted."""
        changes: dict[str, bytes | None] = {}
        for host_name, queue_id in self._stale:
            newest = self._hosts[host_name].transactions.get(queue_id)
            changes[f"{_TRANSACTION}{host_name}/{queue_id}"] = None if newest is None else pack(newest)
        self._stale.clear()
        for host in self._hosts.values():
            if host.saved != (host.clock, host.ahead):
                host.saved = (host.clock, host.ahead)
                changes[f"{_HOST}{host.name}"] = b"%d %d" % host.saved
        return changes

    def restore(self, state: Mapping[str, bytes]) -> None:
        """Take over the state that earlier runs stored. Raises SnapshotError if it cannot be read."""
        for name, value in state.items():
            if name.startswith(_HOST):
                host = self._host(name.removeprefix(_HOST))
                clock, _, ahead = value.partition(b" ")
                host.clock, host.ahead = int(clock), int(ahead)
                host.saved = (host.clock, host.ahead)
        for name, value in state.items():
            if name.startswith(_TRANSACTION):
                newest = unpack(value)
                host = self._host(newest.host)
                host.transactions[newest.queue_id] = newest
                transaction: Transaction | None = newest
                while transaction is not None:
                    host.look_again(transaction, max(host.clock + 1, _due(transaction)))
                    transaction = transaction.earlier

    def _host(self, name: str) -> _Host:
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = _Host(name)
        return host

    def remaining(self) -> Iterator[Transaction]:
        """Yield every transaction that is still in memory: open ones and those that linger."""
        for host in self._hosts.values():
            for newest in host.transactions.values():
                transaction: Transaction | None = newest
                while transaction is not None:
                    yield transaction
                    transaction = transaction.earlier

    def _advance(self, host: _Host, second: int) -> None:
        """Move the host's clock on, and forget what is due."""
        if second > host.clock + _JUMP_SECONDS and host.clock:
            if not host.ahead or abs(second - host.ahead) > _JUMP_SECONDS:
                host.ahead = second
                return
        host.ahead = 0
        host.clock = second
        while host.seconds and host.seconds[0] <= second:
            for transaction in host.due.pop(heapq.heappop(host.seconds)):
                due = _due(transaction)
                if due > second:
                    host.look_again(transaction, due)
                else:
                    self._forget(host, transaction)

    def _forget(self, host: _Host, transaction: Transaction) -> None:
        newest = host.transactions.get(transaction.queue_id)
        if newest is transaction:
            if transaction.earlier is None:
                del host.transactions[transaction.queue_id]
            else:
                host.transactions[transaction.queue_id] = transaction.earlier
                transaction.earlier = None
        else:
            while newest is not None and newest.earlier is not transaction:
                newest = newest.earlier
            if newest is None:
                return  # forgotten before
            newest.earlier, transaction.earlier = transaction.earlier, None
        if self._incremental:
            self._stale.add((transaction.host, transaction.queue_id))
        else:
            self._forgotten.append(transaction)

    def _begin(self, host: _Host, queue_id: str, mta: str, earlier: Transaction | None) -> Transaction:
        transaction = Transaction(host.name, queue_id, mta, host.clock)
        if earlier is not None:
            if earlier.closed_by is None:
                earlier.tail_missing = True
                self._mark(earlier)
            transaction.earlier = earlier
        host.transactions[queue_id] = transaction
        host.look_again(transaction, host.clock + LINGER_CLIENT_ONLY_SECONDS)
        return transaction

    def _touch(self, host: _Host, transaction: Transaction) -> None:
        transaction.touched = host.clock
        if transaction.closed_by is not None and transaction.closed_at is None:
            transaction.closed_at = host.clock
            host.look_again(transaction, host.clock + LINGER_CLOSED_SECONDS)
        if self._incremental:
            self._mark(transaction)

    def _mark(self, transaction: Transaction) -> None:
        if self._incremental and not transaction.changed:
            transaction.changed = True
            self._changed.append(transaction)

    def _sharpen(self, transaction: Transaction, line: tuple[int, str], stamp: Stamp) -> None:
        """The same line again: of two stamps the finer one wins, of two equally fine ones the earlier."""
        key = transaction.key_of(line)
        known = transaction.lines[key]
        if stamp.digits > known.digits or (stamp.digits == known.digits and stamp.millisecond < known.millisecond):
            transaction.lines[key] = stamp
            self._mark(transaction)

    def _count(self, host: _Host, transaction: Transaction) -> None:
        if is_counted_closed(transaction):
            host.look_again(transaction, host.clock + LINGER_BY_COUNT_SECONDS)

    def _child(self, host: _Host, queue_id: str, record: Record, line: tuple[int, str]) -> Transaction | None:
        """Return the transaction of the new ID that a line names, made if need be; None if the line is known there."""
        transaction = host.transactions.get(queue_id)
        if transaction is not None:
            known = _holder(transaction, line)
            if known is not None:
                self._sharpen(known, line, record.stamp)
                return None
        if transaction is None or not _may_be_child(transaction, record.stamp.second):
            transaction = self._begin(host, queue_id, record.mta, transaction)
        transaction.lines[transaction.key_of(line)] = record.stamp
        return transaction

    def _apply_to_child(self, host: _Host, record: Record, line: tuple[int, str]) -> None:
        event = record.event
        if not isinstance(event, (events.Notified, events.Cloned)) or record.queue_id is None:
            return
        child = self._child(host, event.child, record, line)
        if child is None:
            return
        if isinstance(event, events.Notified):
            born_of_notice(child, child.key_of(line), event, record.queue_id)
        else:
            born_of_clone(child, child.key_of(line), event, record.queue_id)
        self._touch(host, child)

    def _link_forward(self, host: _Host, record: Record, line: tuple[int, str]) -> None:
        event = record.event
        if isinstance(event, events.Attempted) and event.next_queue_id and record.queue_id:
            child = self._child(host, event.next_queue_id, record, line)
            if child is not None:
                child.add_link("original", record.queue_id, host.name)
                self._touch(host, child)

    def _link_requeue(self, host: _Host, record: Record, line: tuple[int, str]) -> None:
        event = record.event
        if isinstance(event, events.Received) and event.requeued_from and record.queue_id:
            parent = host.transactions.get(event.requeued_from)
            if parent is not None and _holder(parent, line) is None:
                parent.lines[parent.key_of(line)] = record.stamp
                parent.add_link("requeued_as", record.queue_id, host.name)
                self._touch(host, parent)


def _without_queue_id(event: events.Event) -> str:
    if isinstance(event, events.Refused):
        return "rejection"
    if isinstance(event, events.Gap):
        return "log gap"
    return "session"


def _holder(transaction: Transaction | None, line: tuple[int, str]) -> Transaction | None:
    """Return the incarnation that has the line already."""
    while transaction is not None:
        if transaction.key_of(line) in transaction.lines:
            return transaction
        transaction = transaction.earlier
    return None


def _is_new(transaction: Transaction, event: events.Event, second: int) -> bool:
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
        return not (cut_short and isinstance(event, events.Identified) and second <= max(stamp.second for stamp in transaction.lines.values()))
    if isinstance(event, events.Received):
        return transaction.received is not None
    if isinstance(event, events.Identified) and not event.resent and transaction.message_id is not None:
        return event.message_id != transaction.message_id and second > max(transaction.lines[key].second for key in transaction.births)
    return False


def _may_be_child(transaction: Transaction, second: int) -> bool:
    """Whether a notice or a forward logged at `second` can have made this incarnation of the ID."""
    if TIME_OF[transaction.mta](transaction.queue_id) is not None:
        return True
    if transaction.received is not None or (transaction.sender or "") != "":
        # A forward keeps its sender; a bounce has the null sender. Neither has a client.
        if transaction.received is not None:
            return False
    first = min((transaction.lines[key].second for key in transaction.births), default=second)
    return abs(second - first) <= LINGER_CLOSED_SECONDS


def is_counted_closed(transaction: Transaction) -> bool:
    """Whether every recipient that the MTA counted is final and none is pending (MTAs without a closing line)."""
    last: dict[str, str] = {}
    for _, attempt in transaction.attempts:
        for recipient in attempt.recipients:
            last[recipient] = attempt.outcome
    if transaction.expiries:
        last = {recipient: "expired" if outcome == "deferred" else outcome for recipient, outcome in last.items()}
    if not last or not all(outcome in _FINAL for outcome in last.values()):
        return False
    return len(last) >= (transaction.recipient_count or 0)


def _due(transaction: Transaction) -> int:
    """Return the host clock at which the transaction is forgotten if no further line comes."""
    if transaction.closed_at is not None:
        return transaction.closed_at + LINGER_CLOSED_SECONDS
    if transaction.has_only_client():
        return transaction.touched + LINGER_CLIENT_ONLY_SECONDS
    if transaction.mta in _COUNTED_MTAS and is_counted_closed(transaction):
        return transaction.touched + LINGER_BY_COUNT_SECONDS
    return transaction.touched + LINGER_OPEN_SECONDS
