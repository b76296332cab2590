"""The assembler: records in, transactions out. Pure: no clock, no I/O.

One event clock per host, the newest stamp seen from it, decides when a transaction is forgotten; the wall clock never
does, so that one pass over a file, ten passes over its parts and a live stream forget at the same line.

What it does not do: it does not read lines (mailspan.grammar), judge facts (mailspan.document) or write anything.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import TYPE_CHECKING

from mailspan.document import COUNTED_MTAS, Document, documents
from mailspan.event import (
    Aborted,
    Attempted,
    Cloned,
    Closed,
    Enveloped,
    Event,
    Expired,
    Gap,
    Held,
    Identified,
    Inspected,
    Notified,
    Received,
    Refused,
    Remarked,
)
from mailspan.queue_id import TIME_OF
from mailspan.record import Stamp
from mailspan.transaction import LineKey, Transaction, digest
from reducer import sessions
from reducer.effects import EFFECTS, born_of_clone, born_of_notice, rejected
from reducer.snapshot import (
    check,
    due_of,
    has_gap,
    is_alone,
    is_unwritten,
    pack,
    pack_sessions,
    unpack,
    unpack_sessions,
    waits,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mailspan.record import Record

_TRANSACTION, _HOST, _SESSIONS = "transaction:", "host:", "sessions:"  # what a key of the stored state begins with

LINGER_CLOSED_SECONDS = 60
LINGER_BY_COUNT_SECONDS = 3600
LINGER_CLIENT_ONLY_SECONDS = 3600
QUEUE_LIFETIME_SECONDS = 5 * 86400
LINGER_OPEN_SECONDS = QUEUE_LIFETIME_SECONDS + 86400
MOST_UNPACKED = 20_000
MOST_INCARNATIONS = 16
_BIRTHS_LOOKED_AT = 64
_MOST_FRESH = 16384
_JUMP_SECONDS = 86400
_AGREEING_SECONDS = 3
# A stamp further than a day from the clock, ahead or behind, moves it only when lines of three seconds in a row agree:
# neither an absurd stamp, nor two, nor a line that comes twice can make everything be forgotten, or stop forgetting.

_BIRTHS = frozenset({Received, Identified, Enveloped})
_URGENT = frozenset({Attempted, Refused, Closed, Expired, Aborted, Inspected, Held})
_FINAL = frozenset({"delivered", "relayed", "expanded", "discarded", "bounced", "expired", "rejected"})
_BEFORE_MESSAGE_ID = frozenset({"rejected", "discarded"})


class _Tally:
    """How many transactions of all hosts are not packed."""

    __slots__ = ("unpacked",)

    def __init__(self) -> None:
        self.unpacked = 0


class _Host:
    """The transactions of one host and its event clock. Those that rest are kept packed: as snapshots."""

    __slots__ = (
        "agreed",
        "away",
        "clock",
        "due",
        "fresh",
        "gap",
        "name",
        "saved",
        "seconds",
        "sessions",
        "sessions_changed",
        "tally",
        "transactions",
        "unpacked",
    )

    def __init__(self, name: str, tally: _Tally) -> None:
        self.name = name
        self.tally = tally
        self.clock = 0
        self.away = 0  # the latest stamp far from the clock, and how many seconds in a row agreed with it
        self.agreed = 0
        self.gap: tuple[bytes, Stamp] | None = None  # the last line that said that lines were lost
        self.fresh: dict[str, None] | None = None  # the IDs that no gap was noted on yet; None: perhaps any
        self.saved = b""  # clock, away, agreed and gap as last stored
        self.transactions: dict[str, Transaction | bytes] = {}
        self.unpacked: dict[str, bytes | None] = {}
        """The queue IDs that are not packed, longest so first; the snapshot as last stored, true until it is stale."""
        self.sessions = sessions.Sessions()
        self.sessions_changed = False  # since they were last stored
        self.due: dict[int, dict[str, None]] = {}  # the queue IDs to look at, each once, when the clock passes a second
        self.seconds: list[int] = []  # a heap of the seconds in `due`

    def look_again(self, queue_id: str, second: int) -> None:
        """Look whether the ID's transactions are to be forgotten when the clock reaches `second`."""
        found = self.due.get(second)
        if found is None:
            self.due[second] = {queue_id: None}
            heapq.heappush(self.seconds, second)
        else:
            found[queue_id] = None

    def find(self, queue_id: str) -> Transaction | None:
        """Return the newest transaction of an ID, unpacked."""
        found = self.transactions.get(queue_id)
        return self.unpack(queue_id, found) if isinstance(found, bytes) else found

    def unpack(self, queue_id: str, packed: bytes) -> Transaction:
        """Unpack a transaction that is wanted again."""
        found = unpack(packed)
        self.keep_unpacked(queue_id, found)
        return found

    def begin(self, queue_id: str, newest: Transaction) -> None:
        """Take a new transaction, or another incarnation in the place of what there is."""
        self.transactions[queue_id] = newest
        self.tally.unpacked += queue_id not in self.unpacked
        self.unpacked[queue_id] = None

    def pack(self, queue_id: str, snapshot: bytes) -> None:
        """Keep an ID's snapshot in the place of the transaction."""
        self.transactions[queue_id] = snapshot
        if queue_id in self.unpacked:
            del self.unpacked[queue_id]
            self.tally.unpacked -= 1

    def forget(self, queue_id: str) -> None:
        """Keep nothing of an ID."""
        del self.transactions[queue_id]
        if queue_id in self.unpacked:
            del self.unpacked[queue_id]
            self.tally.unpacked -= 1

    def keep_unpacked(self, queue_id: str, found: Transaction) -> None:
        """Take an unpacked transaction in the place of its packed form."""
        self.begin(queue_id, found)
        if found.mta in COUNTED_MTAS and found.touched + LINGER_BY_COUNT_SECONDS > self.clock:
            self.look_again(queue_id, found.touched + LINGER_BY_COUNT_SECONDS)

    def state(self) -> bytes:
        """Return the clock and the last gap as they are stored."""
        state = b"%d %d %d" % (self.clock, self.away, self.agreed)
        if self.gap is None:
            return state
        key, stamp = self.gap
        gap = (key.hex().encode(), stamp.second, stamp.millisecond, stamp.digits, stamp.guessed)
        return state + b" %s %d %d %d %d" % gap

    def restore(self, state: bytes) -> None:
        """Take over a stored clock and gap; what earlier versions stored has fewer numbers."""
        self.saved = state
        numbers = state.split()
        self.clock, self.away, self.agreed = (int(each) for each in (*numbers, b"0")[:3])
        if len(numbers) > 7:  # noqa: PLR2004
            second, millisecond, digits, guessed = (int(each) for each in numbers[4:8])
            stamp = Stamp(second, millisecond, digits, bool(guessed))
            self.gap = bytes.fromhex(numbers[3].decode()), stamp

    def unpacked_ones(self) -> Iterator[Transaction]:
        """Yield the newest transaction of each ID; a packed one is unpacked for the time it is looked at."""
        for found in self.transactions.values():
            yield unpack(found) if isinstance(found, bytes) else found


@dataclass(frozen=True, slots=True)
class Changes:
    """What a store has to write: documents, and the ids of documents that are no longer."""

    documents: list[Document]
    withdrawn: list[str]


class Assembler:
    """Assembles the records of any number of hosts.

    `apply` takes one record. A single pass takes `forgotten` as it goes and `remaining` at its end. An incremental
    one (`incremental=True`) writes `changed` and `snapshot_changes` together, and begins with `restore`. Without
    `rejections` what was refused before it had a queue ID is counted only. At most `most_unpacked` transactions, of all
    hosts together, are kept unpacked, which takes some ten times the memory.
    """

    def __init__(
        self, *, incremental: bool = False, rejections: bool = True, most_unpacked: int = MOST_UNPACKED
    ) -> None:
        self._hosts: dict[str, _Host] = {}
        self._most_unpacked = most_unpacked
        self._tally = _Tally()
        self._pack_at = most_unpacked
        self._incremental = incremental
        self._rejections = rejections
        self._forgotten: list[Transaction] = []
        self._changed: list[Transaction] = []
        self._stale: set[tuple[str, str]] = set()  # queue keys whose snapshot is out of date

    def apply(self, record: Record) -> str | None:
        """Apply one record. Return None if it was applied, else the reason why it was ignored."""
        source = record.source
        host = self._hosts.get(source.host) or self._host(source.host)
        stamp = record.stamp
        second = stamp.second
        if second != host.clock:
            self._advance(host, second)
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
        transaction = host.transactions.get(queue_id)
        if transaction is None:
            if queue_id[0] == "~":
                return "rejection"  # more about a refusal that was not kept
            transaction = self._begin(host, record, queue_id, None)
        else:
            if isinstance(transaction, bytes):
                transaction = host.unpack(queue_id, transaction)
            if transaction.packed:
                key = digest(line)
            if key in transaction.lines or transaction.earlier is not None:
                known = _holder(transaction, line)
                if known is not None:
                    self._came_again(host, known, line, record)
                    return "duplicate"
            if kind in _BIRTHS and _is_new(transaction, event, second):
                transaction = self._begin(host, record, queue_id, transaction)
                key = line
        transaction.lines[key] = stamp
        effect(transaction, key, event)
        if transaction.closed_by is not None or transaction.mta in COUNTED_MTAS:
            _plan(host, transaction)
        transaction.touched = host.clock
        if self._incremental:
            self._mark(transaction)
            if kind in _URGENT:
                transaction.urgent = True
        after = _AFTER.get(kind)
        if after is not None:
            after(self, host, transaction, record, line)
        return None

    def _apply_unqueued(self, host: _Host, record: Record) -> str | None:
        """Apply a record that is known by its process or session only, or that is about the whole host."""
        event = record.event
        reason = sessions.apply(host.sessions, record)
        if reason is not None:
            host.sessions_changed = True
            return reason
        if isinstance(event, Refused):
            return self._reject(host, record, event) if self._rejections else "rejection"
        if isinstance(event, Gap):
            self._note_gap(host, record)
            return "log gap"
        return event.reason if isinstance(event, Remarked) else "no queue id"

    def _reject(self, host: _Host, record: Record, event: Refused) -> str | None:
        """Keep a refusal without a queue ID as a transaction of its own; the same by another process is a repeat."""
        key = digest((record.stamp.second, record.text))
        line = (record.stamp.second, f"{sessions.teller_of(record)}: {record.text}")
        queue_id = f"~{key.hex()}"
        transaction = host.find(queue_id)
        if transaction is None:
            transaction = self._begin(host, record, queue_id, None)
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
        elif _holder(transaction, line) is not None:
            self._sharpen(transaction, line, record.stamp)
            return "duplicate"
        elif record.source.mta == "exim" and self._is_copy(host, transaction, record, line):
            return "duplicate"
        known_as = transaction.key_of(line)
        transaction.lines[known_as] = record.stamp
        transaction.births.append(known_as)
        self._mark(transaction)
        return None

    def _is_copy(self, host: _Host, transaction: Transaction, record: Record, line: tuple[int, str]) -> bool:
        """Whether a refusal is the same as one known, by another of Exim's logs: its own need not name the process.

        The line that names it is kept, so that the copies may come in either order.
        """
        if not record.source.pid:
            known = min(transaction.births, key=lambda key: transaction.lines[key].second)
            stamp = transaction.lines[known]
            if _is_finer(record.stamp, stamp):
                transaction.lines[known] = record.stamp
                self._mark(transaction)
            return True
        unnamed = transaction.key_of((line[0], f": {record.text}"))
        if unnamed not in transaction.lines:
            return False
        key = transaction.key_of(line)
        stamp = transaction.lines.pop(unnamed)
        transaction.lines[key] = record.stamp if _is_finer(record.stamp, stamp) else stamp
        transaction.births = [key if birth == unnamed else birth for birth in transaction.births]
        transaction.refusals = [(key if k == unnamed else k, refusal) for k, refusal in transaction.refusals or ()]
        if isinstance(record.event, Refused):
            session = sessions.of_refusal(host.sessions, record, record.event.client)
            host.sessions_changed = True
            transaction.session = sessions.name_of(record, session)
        self._mark(transaction)
        return True

    def _note_gap(self, host: _Host, record: Record) -> None:
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
            newest = unpack(found) if isinstance(found, bytes) else found
            if not self._lacks_lines(newest, gap):
                if newest.closed_by is None and not newest.gap:
                    host.fresh[queue_id] = None
            elif isinstance(found, bytes):
                if newest.changed:
                    host.keep_unpacked(queue_id, newest)
                else:
                    host.transactions[queue_id] = pack(newest, _due(newest))

    def _lacks_lines(self, transaction: Transaction, gap: tuple[bytes, Stamp]) -> bool:
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
        self._mark(transaction)
        return True

    def forgotten(self) -> list[Transaction]:
        """Return the transactions that were forgotten since the last call: their documents will not change."""
        found = self._forgotten
        if found:
            self._forgotten = []
        return found

    def changed(self, *, urgent_only: bool = False) -> Changes:
        """Return the documents of the transactions with new lines since the last call, forgotten ones too.

        With `urgent_only` those where something happened: an attempt, a refusal, an end; the others wait for a later
        call. A transaction whose birth line came after other lines of it has got another id: its old one is withdrawn.
        """
        found, self._changed = self._changed, []
        if urgent_only:
            self._changed = [each for each in found if not each.urgent]
            found = [each for each in found if each.urgent]
        written: list[Document] = []
        withdrawn: list[str] = []
        for transaction in found:
            transaction.changed = transaction.urgent = False
            self._stale.add((transaction.host, transaction.queue_id))
            pages = documents(transaction)
            identity = pages[0]["id"]
            if transaction.written_id not in (None, identity):
                withdrawn.append(transaction.written_id)
            transaction.written_id = identity
            written += pages
        return Changes(written, withdrawn)

    def snapshot_changes(self) -> dict[str, bytes | None]:
        """Return the state to store beside the documents of `changed`: None deletes a key."""
        changes: dict[str, bytes | None] = {}
        for host_name, queue_id in self._stale:
            host = self._hosts[host_name]
            found = host.transactions.get(queue_id)
            changes[f"{_TRANSACTION}{host_name}/{queue_id}"] = (
                found if found is None or isinstance(found, bytes) else self._store(host, found)
            )
        self._stale.clear()
        for host in self._hosts.values():
            state = host.state()
            if host.saved != state:
                host.saved = changes[f"{_HOST}{host.name}"] = state
            if host.sessions_changed:
                host.sessions_changed = False
                changes[f"{_SESSIONS}{host.name}"] = pack_sessions(host.sessions) if host.sessions else None
        return changes

    def _store(self, host: _Host, newest: Transaction) -> bytes:
        """Return the snapshot of a transaction; it is kept, so that nothing is packed twice.

        What is over and handed out for writing is kept as its snapshot alone: hardly ever will another line come.
        """
        due = _due(newest)
        snapshot = pack(newest, due)
        queue_id = newest.queue_id
        if not waits(newest):
            if _is_over(newest, due):
                host.pack(queue_id, snapshot)
            else:
                host.unpacked[queue_id] = snapshot
        return snapshot

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
                check(value)
                host = self._host(host_name)
                host.transactions[queue_id] = value
                host.look_again(queue_id, max(host.clock + 1, due_of(value)))
                if is_unwritten(value):
                    newest: Transaction | None = host.unpack(queue_id, value)
                    while newest is not None:
                        if newest.changed:
                            self._changed.append(newest)
                        newest = newest.earlier

    @property
    def unpacked_count(self) -> int:
        """How many transactions of all hosts are kept unpacked."""
        return self._tally.unpacked

    def _host(self, name: str) -> _Host:
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = _Host(name, self._tally)
        return host

    def remaining(self) -> Iterator[Transaction]:
        """Yield every transaction that is still in memory: open ones and those that linger."""
        for host in self._hosts.values():
            for newest in host.unpacked_ones():
                transaction: Transaction | None = newest
                while transaction is not None:
                    yield transaction
                    transaction = transaction.earlier

    def _advance(self, host: _Host, second: int) -> None:
        """Move the host's clock on, and forget what is due."""
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
            self._date_again(host)
        host.away = host.agreed = 0
        if second < host.clock:
            return
        host.clock = second
        while host.seconds and host.seconds[0] <= second:
            for queue_id in host.due.pop(heapq.heappop(host.seconds)):
                self._forget_due(host, queue_id)

    def _date_again(self, host: _Host) -> None:
        """After a jump, give the transactions that the old clock touched a place on the new one: their last line's."""
        for queue_id, found in list(host.transactions.items()):
            newest = unpack(found) if isinstance(found, bytes) else found
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
                    host.transactions[queue_id] = pack(newest, _due(newest))
                self._stale.add((host.name, queue_id))
                host.look_again(queue_id, max(host.clock + 1, _next_look(newest, host.clock)))

    def _forget_due(self, host: _Host, queue_id: str) -> None:
        """Forget the incarnations of an ID whose time has come; look again when the next one is due."""
        found = host.transactions.get(queue_id)
        if found is None:
            return
        if isinstance(found, bytes):
            if due_of(found) > host.clock:
                host.look_again(queue_id, due_of(found))
                return
            if is_alone(found):
                self._forget_packed(host, queue_id, found)
                return
        elif found.earlier is None and _rests_later(found, host.clock):
            host.look_again(queue_id, found.touched + LINGER_BY_COUNT_SECONDS)
            return
        kept: list[Transaction] = []
        transaction: Transaction | None = unpack(found) if isinstance(found, bytes) else found
        while transaction is not None:
            earlier, transaction.earlier = transaction.earlier, None
            if _due_alone(transaction) > host.clock:
                kept.append(transaction)
            else:
                self._let_go(transaction)
            transaction = earlier
        if kept:
            host.begin(queue_id, kept[0])
            for newer, older in pairwise(kept):
                newer.earlier = older
            host.look_again(queue_id, _next_look(kept[0], host.clock))
        else:
            host.forget(queue_id)

    def _forget_packed(self, host: _Host, queue_id: str, found: bytes) -> None:
        """Forget the one incarnation of an ID that is due and packed; it is unpacked only to be handed out."""
        host.forget(queue_id)
        if self._incremental and not is_unwritten(found):
            self._stale.add((host.name, queue_id))
        else:
            self._let_go(unpack(found))

    def _begin(self, host: _Host, record: Record, queue_id: str, earlier: Transaction | None) -> Transaction:
        """Open a transaction; the one before it under the same ID lost its tail if no line closed it."""
        if earlier is None and self._tally.unpacked >= self._pack_at:
            self._pack_resting()  # now: what is begun here is not whole yet, and must not be packed
        transaction = Transaction(host.name, queue_id, record.mta, host.clock)
        if earlier is not None:
            if earlier.closed_by is None and not (earlier.mta in COUNTED_MTAS and is_counted_closed(earlier)):
                earlier.tail_missing = True
                earlier.lines[earlier.key_of((record.stamp.second, record.text))] = record.stamp
                self._mark(earlier)
            transaction.earlier = earlier
        host.begin(queue_id, transaction)
        host.look_again(queue_id, host.clock + LINGER_CLIENT_ONLY_SECONDS)
        if host.fresh is not None:
            host.fresh[queue_id] = None
            if len(host.fresh) > _MOST_FRESH:
                host.fresh = None
        if host.gap is not None and record.stamp.second == host.gap[1].second and queue_id[0] != "~":
            self._lacks_lines(transaction, host.gap)
        if earlier is not None:
            self._bound_incarnations(transaction)
        return transaction

    def _bound_incarnations(self, newest: Transaction) -> None:
        """Forget the earliest use of an ID where there are too many: no real server comes back to one so fast."""
        last = newest
        for _ in range(MOST_INCARNATIONS - 1):
            if last.earlier is None:
                return
            last = last.earlier
        oldest, last.earlier = last.earlier, None
        if oldest is not None:
            self._let_go(oldest)

    def _let_go(self, transaction: Transaction) -> None:
        """Hand out a transaction for the last time."""
        if self._incremental:
            self._stale.add((transaction.host, transaction.queue_id))
            transaction.urgent = transaction.changed  # its state goes: what changed must be written with it
        else:
            self._forgotten.append(transaction)

    def _pack_resting(self) -> None:
        """Pack the half of each host that has been unpacked for longest, but what waits to be written."""
        for host in self._hosts.values():
            for queue_id in list(islice(host.unpacked, (len(host.unpacked) + 1) // 2)):
                found = host.transactions[queue_id]
                if isinstance(found, bytes) or waits(found):
                    continue
                stored = host.unpacked[queue_id]
                if stored is None or (host.name, queue_id) in self._stale:
                    stored = pack(found, _due(found))
                host.pack(queue_id, stored)
        # Where most of them wait, not at each beginning again.
        self._pack_at = max(self._most_unpacked, self._tally.unpacked + self._most_unpacked // 2)

    def _touch(self, host: _Host, transaction: Transaction) -> None:
        transaction.touched = host.clock
        if transaction.mta in COUNTED_MTAS:
            host.look_again(transaction.queue_id, host.clock + LINGER_BY_COUNT_SECONDS)
        self._mark(transaction)

    def _mark(self, transaction: Transaction) -> None:
        if self._incremental:
            self._stale.add((transaction.host, transaction.queue_id))
            if not transaction.changed:
                transaction.changed = True
                self._changed.append(transaction)

    def _came_again(self, host: _Host, known: Transaction, line: tuple[int, str], record: Record) -> None:
        """The same line again: its stamp may be the finer one, for the other mail that the line names, too."""
        self._sharpen(known, line, record.stamp)
        event = record.event
        named = _other_id(event)
        other = host.find(named) if named else None
        if other is not None and (holder := _holder(other, line)) is not None:
            self._sharpen(holder, line, record.stamp)
        if isinstance(event, Received) and event.bounce_of is not None:
            self._tell_parent(host, known, record, event.bounce_of)

    def _sharpen(self, transaction: Transaction, line: tuple[int, str], stamp: Stamp) -> None:
        """The same line again: of two stamps the finer one wins, of two equally fine ones the earlier."""
        key = transaction.key_of(line)
        known = transaction.lines[key]
        if _is_finer(stamp, known):
            transaction.lines[key] = stamp
            self._mark(transaction)

    def _child(self, host: _Host, queue_id: str, record: Record, line: tuple[int, str]) -> Transaction | None:
        """Return the transaction of the new ID that a line names; None if the line is known there."""
        transaction = host.find(queue_id)
        if transaction is not None:
            known = _holder(transaction, line)
            if known is not None:
                self._sharpen(known, line, record.stamp)
                return None
        if transaction is None or not _may_be_child(transaction, record.stamp.second):
            transaction = self._begin(host, record, queue_id, transaction)
        transaction.lines[transaction.key_of(line)] = record.stamp
        return transaction

    def after_attempt(self, host: _Host, transaction: Transaction, record: Record, line: tuple[int, str]) -> None:
        """Add the connection's TLS; tell a forward's new ID where it comes from."""
        event = record.event
        if not isinstance(event, Attempted):
            return
        session = sessions.find(host.sessions, record)
        if session is not None and session.relay_tls is not None:
            sessions.leave(session, event)
        if event.outcome == "expanded" and event.next_queue_id and transaction.mta not in COUNTED_MTAS:
            child = self._child(host, event.next_queue_id, record, line)
            if child is not None:
                child.add_link("original", transaction.queue_id, host.name)
                self._touch(host, child)

    def after_notice(self, host: _Host, transaction: Transaction, record: Record, line: tuple[int, str]) -> None:
        """Apply a notice's or a clone's line to the new ID that it names."""
        event = record.event
        if not isinstance(event, (Notified, Cloned)):
            return
        child = self._child(host, event.child, record, line)
        if child is None:
            return
        if isinstance(event, Notified):
            born_of_notice(child, child.key_of(line), event, transaction.queue_id)
        else:
            born_of_clone(child, child.key_of(line), event, transaction.queue_id)
        self._touch(host, child)

    def after_birth(self, host: _Host, transaction: Transaction, record: Record, line: tuple[int, str]) -> None:
        """Add what the client's session knows; tell the old ID of a requeued mail its new one."""
        event = record.event
        session = sessions.find(host.sessions, record)
        if session is not None and transaction.mta != "exim":  # whose birth lines say it all themselves
            sessions.enter(session, transaction)
        if isinstance(event, Received) and event.requeued_from:
            parent = host.find(event.requeued_from)
            if parent is not None and _holder(parent, line) is None:
                parent.lines[parent.key_of(line)] = record.stamp
                parent.add_link("requeued_as", transaction.queue_id, host.name)
                self._touch(host, parent)
        if isinstance(event, Received) and event.bounce_of is not None:
            self._tell_parent(host, transaction, record, event.bounce_of)

    def _tell_parent(self, host: _Host, transaction: Transaction, record: Record, parent_id: str) -> None:
        """Tell a mail the notice about it; the line names the notice, too: two of one second may read alike."""
        event = record.event
        named = (record.stamp.second, f"{transaction.queue_id} {record.text}")
        parent = self._child(host, parent_id, record, named)
        if parent is None or not isinstance(event, Received):
            return
        if event.delay_notice:
            parent.add_link("delay_notice", transaction.queue_id, host.name)
        else:
            parent.add_notice(parent.key_of(named), transaction.queue_id)
        self._touch(host, parent)


_AFTER: dict[type, Callable[[Assembler, _Host, Transaction, Record, tuple[int, str]], None]] = {
    Attempted: Assembler.after_attempt,
    Notified: Assembler.after_notice,
    Cloned: Assembler.after_notice,
    Received: Assembler.after_birth,
    Enveloped: Assembler.after_birth,
}
"""What an event of one transaction does to others, or to the time at which it is forgotten."""


def _other_id(event: Event) -> str | None:
    """Return the second ID of a line that is applied to two transactions."""
    if isinstance(event, (Notified, Cloned)):
        return event.child
    if isinstance(event, Attempted):
        return event.next_queue_id if event.outcome == "expanded" else None
    return event.requeued_from if isinstance(event, Received) else None


def _is_finer(stamp: Stamp, known: Stamp) -> bool:
    """Whether a stamp says more than that of another copy of its line; of two that say as much, the earlier does."""
    if stamp.digits != known.digits:
        return stamp.digits > known.digits
    if stamp.guessed != known.guessed:
        return known.guessed
    return stamp.millisecond < known.millisecond


def _holder(transaction: Transaction | None, line: tuple[int, str]) -> Transaction | None:
    """Return the incarnation that has the line already."""
    while transaction is not None:
        if transaction.key_of(line) in transaction.lines:
            return transaction
        transaction = transaction.earlier
    return None


def _is_new(transaction: Transaction, event: Event, second: int) -> bool:
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


def _may_be_child(transaction: Transaction, second: int) -> bool:
    """Whether a notice or a forward logged at `second` can have made this incarnation of the ID."""
    if TIME_OF[transaction.mta](transaction.queue_id) is not None:
        return True
    if transaction.received is not None:
        return False  # neither a bounce nor a forward has a client
    first = min((transaction.lines[key].second for key in transaction.births), default=second)
    return abs(second - first) <= LINGER_CLOSED_SECONDS


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


def _due(newest: Transaction) -> int:
    """Return the host clock at which the first incarnation of an ID is forgotten if no further line comes."""
    due = _due_alone(newest)
    return due if newest.earlier is None else min(due, _due(newest.earlier))


def _is_over(newest: Transaction, due: int) -> bool:
    """Whether all is said of the newest incarnation, which is due at `due`: it is closed, by a line or by count."""
    if newest.closed_at is not None:
        return True
    by_count = newest.mta in COUNTED_MTAS and due == newest.touched + LINGER_BY_COUNT_SECONDS
    return by_count and not newest.has_only_client()


def _plan(host: _Host, transaction: Transaction) -> None:
    """Say when to look whether the transaction is over, after a line that may have ended it; before it is `touched`."""
    if transaction.closed_by is not None and transaction.closed_at is None:
        transaction.closed_at = host.clock
        host.look_again(transaction.queue_id, _due_alone(transaction))
    is_planned = 0 <= host.clock - transaction.touched < LINGER_BY_COUNT_SECONDS  # see _next_look
    if not is_planned and transaction.mta in COUNTED_MTAS:
        host.look_again(transaction.queue_id, host.clock + LINGER_BY_COUNT_SECONDS)


def _next_look(newest: Transaction, clock: int) -> int:
    """Return when to look whether the unpacked incarnations of an ID are due.

    Where the next line may close a transaction by count there is always a look planned, at the latest an hour after
    the last line. So no line needs to plan one but the first after an hour; whether all is final is not worked out for
    each line, which would take all attempts each time.
    """
    due = _due(newest)
    quiet = newest.touched + LINGER_BY_COUNT_SECONDS
    return quiet if newest.mta in COUNTED_MTAS and clock < quiet < due else due


def _rests_later(transaction: Transaction, clock: int) -> bool:
    """Whether a transaction cannot be due yet, told without looking at its attempts, which may be many."""
    counted = transaction.mta in COUNTED_MTAS and transaction.closed_at is None
    return counted and transaction.touched + LINGER_BY_COUNT_SECONDS > clock


def _due_alone(transaction: Transaction) -> int:
    """Return the host clock at which the transaction is forgotten if no further line comes."""
    if transaction.closed_at is not None:
        is_last = transaction.mta not in COUNTED_MTAS or transaction.rejection  # else more may be said of it
        return transaction.closed_at + (LINGER_CLOSED_SECONDS if is_last else LINGER_BY_COUNT_SECONDS)
    if transaction.has_only_client():
        return transaction.touched + LINGER_CLIENT_ONLY_SECONDS
    if transaction.mta in COUNTED_MTAS and is_counted_closed(transaction):
        return transaction.touched + LINGER_BY_COUNT_SECONDS
    return transaction.touched + LINGER_OPEN_SECONDS
