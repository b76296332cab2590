"""The assembler: records in, transactions out. Pure: no clock, no I/O.

It applies each record to the transaction that it belongs to and to those that it names, and hands out what a store has
to write: the documents that changed and the state to go on from. A single pass takes what is forgotten instead.

It does not read lines (mailspan.grammar), judge facts (mailspan.document) or write anything. What is kept of a host
stands in host.py, which transaction a line belongs to in belonging.py and rejections.py, what its event does there in
effects.py, and how transactions are forgotten in forgetting.py, by the times of lifetime.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from mailspan.document import COUNTED_MTAS, Document, documents
from mailspan.event import (
    Aborted,
    Attempted,
    Cancelled,
    Cloned,
    Closed,
    Enveloped,
    Expired,
    Gap,
    Held,
    Inspected,
    Notified,
    Received,
    Refused,
    Remarked,
    Stored,
)
from mailspan.transaction import digest
from reducer import sessions
from reducer.belonging import BIRTHS, begin, claim, find_or_begin_child, holder_of, is_new, other_id, sharpen
from reducer.effects import EFFECTS, born_of_clone, born_of_notice
from reducer.forgetting import advance
from reducer.gaps import note_gap
from reducer.host import Host, Shared, look_at
from reducer.rejections import reject
from reducer.snapshot import check, due_of, is_unwritten, pack_sessions, unpack_sessions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mailspan.record import Record
    from mailspan.transaction import LineKey, Transaction

_TRANSACTION, _HOST, _SESSIONS = "transaction:", "host:", "sessions:"  # what a key of the stored state begins with
_SLASH = "|"  # in such a key in place of a slash of the queue ID: hosts may have any, and no ID has this

MOST_UNPACKED = 20_000
MOST_UNPACKED_ALONE = 80_000
"""Where a process has one assembler only: packing and unpacking cost more than a line does, so little is packed."""
_UNPACKED_BYTES = 4_000
"""One takes so much, with long names and statuses; what is packed takes room from what is not."""

_URGENT = frozenset({Attempted, Refused, Closed, Expired, Cancelled, Aborted, Inspected, Held, Stored})


@dataclass(frozen=True, slots=True)
class Changes:
    """What a store has to write: documents, and the ids of documents that are no longer."""

    documents: list[Document]
    withdrawn: list[str]


class Sizes(NamedTuple):
    """How much is kept: hosts, queue IDs, how many of those are not packed, and the bytes of the packed ones."""

    hosts: int
    kept: int
    unpacked: int
    packed_bytes: int


class Assembler:
    """Assembles the records of any number of hosts.

    `apply` takes one record. A single pass takes `forgotten` as it goes and `remaining` at its end. An incremental
    one (`incremental=True`) writes `changed` and `snapshot_changes` together, and begins with `restore`. Without
    `rejections` what was refused before it had a queue ID is counted only. At most `most_unpacked` transactions, of all
    hosts together, are kept unpacked, which takes some ten times the memory; where many are packed, fewer, but
    MOST_UNPACKED at any rate. `meet` is told each host when it is new.
    """

    def __init__(
        self,
        *,
        incremental: bool = False,
        rejections: bool = True,
        most_unpacked: int = MOST_UNPACKED,
        meet: Callable[[str], None] | None = None,
    ) -> None:
        self._hosts: dict[str, Host] = {}
        self._shared = Shared(incremental=incremental)
        self._most_unpacked = most_unpacked
        self._pack_at = most_unpacked
        self._rejections = rejections
        self._meet = meet

    def apply(self, record: Record) -> str | None:
        """Apply one record. Return None if it was applied, else the reason why it was ignored."""
        shared = self._shared
        if shared.unpacked >= self._pack_at:
            self._pack_resting()  # before, not within, a record: what it begins is not whole until its end
        source = record.source
        host = self._hosts.get(source.host) or self._host(source.host)
        stamp = record.stamp
        second = stamp.second
        if second != host.clock:
            advance(host, second)
        queue_id = record.queue_id
        event = record.event
        if queue_id is None:
            return self._apply_unqueued(host, record)
        kind = event.__class__
        effect = EFFECTS.get(kind)
        if effect is None:
            return event.reason if isinstance(event, Remarked) else "remark"
        line = (second, record.text)
        key: LineKey = line
        transaction = host.find(queue_id)
        if transaction is None:
            if queue_id[0] == "~":
                return "rejection"  # more about a refusal that was not kept
            transaction = begin(host, record, queue_id, None)
        else:
            if transaction.packed:
                key = digest(line)
            if key in transaction.lines or transaction.earlier is not None:
                known = holder_of(transaction, line)
                if known is not None:
                    _came_again(host, known, line, record)
                    return "duplicate"
            if transaction.mta != source.mta:
                claim(transaction, source.mta)
            if kind in BIRTHS and is_new(transaction, event, second):
                transaction = begin(host, record, queue_id, transaction)
                key = line
        transaction.lines[key] = stamp
        effect(transaction, key, event)
        if transaction.closed_by is not None or transaction.mta in COUNTED_MTAS:
            host.plan(transaction)
        transaction.touched = host.clock
        if shared.incremental:
            host.mark(transaction)
            transaction.urgent = transaction.urgent or kind in _URGENT
        after = _AFTER.get(kind)
        if after is not None:
            after(host, transaction, record, line)
        return None

    def _apply_unqueued(self, host: Host, record: Record) -> str | None:
        """Apply a record that is known by its process or session only, or that is about the whole host."""
        event = record.event
        reason = sessions.apply(host.sessions, record)
        if reason is not None:
            host.sessions_changed = True
            return reason
        if isinstance(event, Refused):
            return reject(host, record, event) if self._rejections else "rejection"
        if isinstance(event, Gap):
            note_gap(host, record)
            return "log gap"
        return event.reason if isinstance(event, Remarked) else "no queue id"

    def forgotten(self) -> list[Transaction]:
        """Return the transactions that were forgotten since the last call: their documents will not change."""
        found = self._shared.forgotten
        if found:
            self._shared.forgotten = []
        return found

    def changed(self, *, urgent_only: bool = False) -> Changes:
        """Return the documents of the transactions with new lines since the last call, forgotten ones too.

        With `urgent_only` those where something happened: an attempt, a refusal, an end; the others wait for a later
        call. A transaction whose birth line came after other lines of it has got another id: its old one is withdrawn.
        """
        found, self._shared.changed = self._shared.changed, []
        if urgent_only:
            self._shared.changed = [each for each in found if not each.urgent]
            found = [each for each in found if each.urgent]
        written: list[Document] = []
        withdrawn: list[str] = []
        for transaction in found:
            transaction.changed = transaction.urgent = False
            self._hosts[transaction.host].stale.add(transaction.queue_id)
            pages = documents(transaction)
            if not pages:
                continue
            identity = pages[0]["id"]
            if transaction.written_id not in (None, identity):
                withdrawn.append(transaction.written_id)
            transaction.written_id = identity
            written += pages
        return Changes(written, withdrawn)

    def snapshot_changes(self) -> dict[str, bytes | None]:
        """Return the state to store beside the documents of `changed`: None deletes a key."""
        changes: dict[str, bytes | None] = {}
        for host in self._hosts.values():
            for queue_id, snapshot in host.changes():
                changes[f"{_TRANSACTION}{host.name}/{queue_id.replace('/', _SLASH)}"] = snapshot
            state = host.state()
            if host.saved != state:
                host.saved = changes[f"{_HOST}{host.name}"] = state
            if host.sessions_changed:
                host.sessions_changed = False
                changes[f"{_SESSIONS}{host.name}"] = pack_sessions(host.sessions) if host.sessions else None
        return changes

    def restore(self, state: Mapping[str, bytes]) -> None:
        """Take over the state that earlier runs stored. Raises SnapshotError if it cannot be read."""
        for name, value in state.items():
            if name.startswith(_HOST):
                self._host(name.removeprefix(_HOST)).restore(value)
            elif name.startswith(_SESSIONS):
                self._host(name.removeprefix(_SESSIONS)).sessions = unpack_sessions(value)
        for name, value in state.items():
            if name.startswith(_TRANSACTION):
                host_name, _, queue_id = name.removeprefix(_TRANSACTION).rpartition("/")
                queue_id = queue_id.replace(_SLASH, "/")
                check(value)
                host = self._host(host_name)
                host.keep_packed(queue_id, value)
                host.look_again(queue_id, max(host.clock + 1, due_of(value)))
                if is_unwritten(value):
                    newest: Transaction | None = host.unpack(queue_id, value)
                    while newest is not None:
                        if newest.changed:
                            self._shared.changed.append(newest)
                        newest = newest.earlier

    @property
    def unpacked_count(self) -> int:
        """How many transactions of all hosts are kept unpacked."""
        return self._shared.unpacked

    @property
    def sizes(self) -> Sizes:
        """What is kept in memory; looks at each host."""
        kept = sum(len(host.transactions) for host in self._hosts.values())
        return Sizes(len(self._hosts), kept, self._shared.unpacked, self._shared.packed_bytes)

    def _host(self, name: str) -> Host:
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = Host(name, self._shared)
            if self._meet is not None:
                self._meet(name)
        return host

    def _pack_resting(self) -> None:
        """Pack the half of each host that has been unpacked for longest, but what waits to be written."""
        for host in self._hosts.values():
            host.pack_resting()
        room = max(
            min(self._most_unpacked, MOST_UNPACKED), self._most_unpacked - self._shared.packed_bytes // _UNPACKED_BYTES
        )
        # Where most of them wait, not at each record again.
        self._pack_at = max(room, self._shared.unpacked + room // 2)

    def remaining(self) -> Iterator[Transaction]:
        """Yield every transaction that is still in memory: open ones and those that linger."""
        for host in self._hosts.values():
            for found in host.transactions.values():
                transaction: Transaction | None = look_at(found)
                while transaction is not None:
                    yield transaction
                    transaction = transaction.earlier


def _came_again(host: Host, known: Transaction, line: tuple[int, str], record: Record) -> None:
    """The same line again: its stamp may be the finer one, for the other mail that the line names, too."""
    sharpen(host, known, line, record.stamp)
    event = record.event
    named = other_id(event)
    other = host.find(named) if named else None
    if other is not None and (holder := holder_of(other, line)) is not None:
        sharpen(host, holder, line, record.stamp)
    if isinstance(event, Received) and event.bounce_of is not None:
        _tell_parent(host, known, record, event.bounce_of)


def _after_attempt(host: Host, transaction: Transaction, record: Record, line: tuple[int, str]) -> None:
    """Add the connection's TLS; tell a forward's new ID where it comes from."""
    event = record.event
    if not isinstance(event, Attempted):
        return
    session = sessions.find(host.sessions, record)
    if session is not None and session.relay_tls is not None:
        sessions.leave(session, event)
    if event.outcome == "expanded" and event.next_queue_id and transaction.mta not in COUNTED_MTAS:
        child = find_or_begin_child(host, event.next_queue_id, record, line)
        if child is not None:
            child.add_link("original", transaction.queue_id, host.name)
            host.touch(child)


def _after_notice(host: Host, transaction: Transaction, record: Record, line: tuple[int, str]) -> None:
    """Apply a notice's or a clone's line to the new ID that it names."""
    event = record.event
    if not isinstance(event, (Notified, Cloned)):
        return
    child = find_or_begin_child(host, event.child, record, line)
    if child is None:
        return
    if isinstance(event, Notified):
        born_of_notice(child, child.key_of(line), event, transaction.queue_id)
    else:
        born_of_clone(child, child.key_of(line), event, transaction.queue_id)
    host.touch(child)


def _after_birth(host: Host, transaction: Transaction, record: Record, line: tuple[int, str]) -> None:
    """Add what the client's session knows; tell the old ID of a requeued mail its new one."""
    event = record.event
    session = sessions.find(host.sessions, record)
    if session is not None and transaction.mta != "exim":  # whose birth lines say it all themselves
        sessions.enter(session, transaction)
    if isinstance(event, Received) and event.requeued_from:
        parent = host.find(event.requeued_from)
        if parent is not None and holder_of(parent, line) is None:
            parent.lines[parent.key_of(line)] = record.stamp
            parent.add_link("requeued_as", transaction.queue_id, host.name)
            host.touch(parent)
    if isinstance(event, Received) and event.bounce_of is not None:
        _tell_parent(host, transaction, record, event.bounce_of)


def _tell_parent(host: Host, transaction: Transaction, record: Record, parent_id: str) -> None:
    """Tell a mail the notice about it; the line names the notice, too: two of one second may read alike."""
    event = record.event
    named = (record.stamp.second, f"{transaction.queue_id} {record.text}")
    parent = find_or_begin_child(host, parent_id, record, named)
    if parent is None or not isinstance(event, Received):
        return
    if event.delay_notice:
        parent.add_link("delay_notice", transaction.queue_id, host.name)
    else:
        parent.add_notice(parent.key_of(named), transaction.queue_id)
    host.touch(parent)


_AFTER: dict[type, Callable[[Host, Transaction, Record, tuple[int, str]], None]] = {
    Attempted: _after_attempt,
    Notified: _after_notice,
    Cloned: _after_notice,
    Received: _after_birth,
    Enveloped: _after_birth,
}
"""What an event of one transaction does to others, and takes from the session that it belongs to."""
