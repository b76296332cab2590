"""What is kept of one host: its transactions, its sessions, its event clock; and what all hosts share.

Transactions that rest are kept packed, as the snapshots that are stored, in a tenth of the memory. This is the one
file that packs and unpacks them. It keeps, marks what changed, and remembers when to look at what; it does not decide
when a transaction is over (reducer/lifetime.py), when the clock moves and what is then forgotten
(reducer/forgetting.py), or what a line means.
"""

from __future__ import annotations

import heapq
from itertools import islice
from typing import TYPE_CHECKING

from mailspan.document import COUNTED_MTAS
from mailspan.record import Stamp
from reducer.lifetime import LINGER_BY_COUNT_SECONDS, due_alone, due_at, is_over
from reducer.sessions import Sessions
from reducer.snapshot import pack, unpack, waits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mailspan.transaction import Transaction


class Shared:
    """What all hosts share: how many transactions are unpacked, and what is to be handed out. It knows no host.

    So nothing here is a cycle: memory is free at once when an assembler is dropped for another one.
    """

    __slots__ = ("changed", "forgotten", "incremental", "packed_bytes", "unpacked")

    def __init__(self, *, incremental: bool) -> None:
        self.incremental = incremental
        self.unpacked = 0
        """How many transactions of all hosts are not packed."""
        self.packed_bytes = 0
        """How many bytes the snapshots of the others have."""
        self.changed: list[Transaction] = []  # incremental: what waits to be written
        self.forgotten: list[Transaction] = []  # in a single pass: what will not change any more


class Host:
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
        "shared",
        "stale",
        "transactions",
        "unpacked",
        "unstored",
    )

    def __init__(self, name: str, shared: Shared) -> None:
        self.name = name
        self.shared = shared
        self.clock = 0
        self.away = 0  # the latest stamp far from the clock, and how many seconds in a row agreed with it
        self.agreed = 0
        self.gap: tuple[bytes, Stamp] | None = None  # the last line that said that lines were lost
        self.fresh: dict[str, None] | None = None  # the IDs that no gap was noted on yet; None: perhaps any
        self.saved = b""  # clock, away, agreed and gap as last stored
        self.transactions: dict[str, Transaction | bytes] = {}
        self.unpacked: dict[str, bytes | None] = {}
        """The queue IDs that are not packed, longest so first; the snapshot as last stored, true until it is stale."""
        self.stale: set[str] = set()  # the queue IDs whose snapshot is out of date
        self.unstored: set[str] = set()  # queue IDs met since snapshots were last stored, of which none is stored yet
        self.sessions = Sessions()
        self.sessions_changed = False  # since they were last stored
        self.due: dict[int, dict[str, None]] = {}  # the queue IDs to look at, each once, when the clock passes a second
        self.seconds: list[int] = []  # a heap of the seconds in `due`

    # -- what is kept --------------------------------------------------------------------------------------------

    def find(self, queue_id: str) -> Transaction | None:
        """Return the newest transaction of an ID, unpacked."""
        found = self.transactions.get(queue_id)
        return self.unpack(queue_id, found) if isinstance(found, bytes) else found

    def unpack(self, queue_id: str, packed: bytes) -> Transaction:
        """Unpack a transaction that is wanted again."""
        found = unpack(packed)
        self.keep_unpacked(queue_id, found)
        return found

    def keep_unpacked(self, queue_id: str, found: Transaction) -> None:
        """Take an unpacked transaction in the place of its packed form."""
        self.keep(queue_id, found)
        if found.mta in COUNTED_MTAS and found.touched + LINGER_BY_COUNT_SECONDS > self.clock:
            self.look_again(queue_id, found.touched + LINGER_BY_COUNT_SECONDS)

    def keep(self, queue_id: str, newest: Transaction) -> None:
        """Take a new transaction, or another incarnation in the place of what there is."""
        if queue_id not in self.unpacked:
            self.shared.unpacked += 1
            if queue_id in self.transactions:
                self._weigh(queue_id, 0)
            elif self.shared.incremental and queue_id not in self.stale:  # else one was just dropped: that is stored
                self.unstored.add(queue_id)
        self.transactions[queue_id] = newest
        self.unpacked[queue_id] = None

    def keep_packed(self, queue_id: str, snapshot: bytes) -> None:
        """Keep an ID's snapshot in the place of the transaction."""
        self._weigh(queue_id, len(snapshot))
        self.transactions[queue_id] = snapshot
        if queue_id in self.unpacked:
            del self.unpacked[queue_id]
            self.shared.unpacked -= 1

    def pack_again(self, queue_id: str, newest: Transaction) -> None:
        """Keep the new snapshot of a packed ID that was changed while it was looked at."""
        self.keep_packed(queue_id, pack(newest, due_at(newest)))

    def drop(self, queue_id: str) -> None:
        """Keep nothing of an ID."""
        self._weigh(queue_id, 0)
        del self.transactions[queue_id]
        if queue_id in self.unpacked:
            del self.unpacked[queue_id]
            self.shared.unpacked -= 1

    def _weigh(self, queue_id: str, size: int) -> None:
        """Count the bytes of an ID's snapshot, before it takes the place of what is kept; 0: there is none now."""
        before = self.transactions.get(queue_id)
        self.shared.packed_bytes += size - (len(before) if isinstance(before, bytes) else 0)

    def pack_resting(self) -> None:
        """Pack the half that has been unpacked for longest, but what waits to be written."""
        for queue_id in list(islice(self.unpacked, (len(self.unpacked) + 1) // 2)):
            found = self.transactions[queue_id]
            if isinstance(found, bytes) or waits(found):
                continue
            stored = self.unpacked[queue_id]
            if stored is None or queue_id in self.stale:
                stored = pack(found, due_at(found))
            self.keep_packed(queue_id, stored)

    # -- when to look at what ------------------------------------------------------------------------------------

    def look_again(self, queue_id: str, second: int) -> None:
        """Look whether the ID's transactions are to be forgotten when the clock reaches `second`."""
        found = self.due.get(second)
        if found is None:
            self.due[second] = {queue_id: None}
            heapq.heappush(self.seconds, second)
        else:
            found[queue_id] = None

    def plan(self, transaction: Transaction) -> None:
        """Say when to look whether the transaction is over, after a line that may have ended it; before `touched`."""
        if transaction.closed_by is not None and transaction.closed_at is None:
            transaction.closed_at = self.clock
            self.look_again(transaction.queue_id, due_alone(transaction))
        is_planned = 0 <= self.clock - transaction.touched < LINGER_BY_COUNT_SECONDS  # see lifetime.next_look
        if not is_planned and transaction.mta in COUNTED_MTAS:
            self.look_again(transaction.queue_id, self.clock + LINGER_BY_COUNT_SECONDS)

    # -- what changed --------------------------------------------------------------------------------------------

    def touch(self, transaction: Transaction) -> None:
        """Note that a line of another ID changed the transaction."""
        transaction.touched = self.clock
        if transaction.mta in COUNTED_MTAS:
            self.look_again(transaction.queue_id, self.clock + LINGER_BY_COUNT_SECONDS)
        self.mark(transaction)

    def mark(self, transaction: Transaction) -> None:
        """Note that the transaction is to be written, and its snapshot stored."""
        if self.shared.incremental:
            self.stale.add(transaction.queue_id)
            if not transaction.changed:
                transaction.changed = True
                self.shared.changed.append(transaction)

    def let_go(self, transaction: Transaction) -> None:
        """Hand out a transaction for the last time."""
        if self.shared.incremental:
            self.stale.add(transaction.queue_id)
            transaction.urgent = transaction.changed  # its state goes: what changed must be written with it
        else:
            self.shared.forgotten.append(transaction)

    # -- what is stored ------------------------------------------------------------------------------------------

    def changes(self) -> Iterator[tuple[str, bytes | None]]:
        """Yield the queue IDs whose snapshots are out of date with the new ones, None where nothing is kept any more.

        What came and went since the last call was never stored, and there is nothing to say of it.
        """
        for queue_id in self.stale:
            snapshot = self.store(queue_id)
            if snapshot is not None or queue_id not in self.unstored:
                yield queue_id, snapshot
        self.stale.clear()
        self.unstored.clear()

    def store(self, queue_id: str) -> bytes | None:
        """Return the snapshot of an ID to store; None where nothing is kept. It is kept, so that none is made twice.

        What is over and handed out for writing is kept as its snapshot alone: hardly ever will another line come.
        """
        newest = self.transactions.get(queue_id)
        if newest is None or isinstance(newest, bytes):
            return newest
        due = due_at(newest)
        snapshot = pack(newest, due)
        if not waits(newest):
            if is_over(newest, due):
                self.keep_packed(queue_id, snapshot)
            else:
                self.unpacked[queue_id] = snapshot
        return snapshot

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


def look_at(found: Transaction | bytes) -> Transaction:
    """Return a kept transaction to look at; what is kept stays as it is, packed or not."""
    return unpack(found) if isinstance(found, bytes) else found
