"""The reducer's loop: read, assemble, and once per commit interval write everything in one Kafka transaction.

A partition runs only after its stored state was read to the end; it then goes on from the offset in that state. A
commit writes, for all partitions at once: documents, snapshots of what is open, how far each partition was read, and
the group's offsets. If it fails, for whatever reason, there is one way back: everything in memory is dropped, the
stored state is read again, and reading goes on from there. So nothing is lost and nothing counts twice, whenever a
process ends.

Nothing here reads the wall clock for content: intervals only decide when an unchanged document is written.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

import orjson

from mailspan.canary import CANARY_KEY, CANARY_NAME, encode_canary, find_canary
from mailspan.dead_letter import DeadLetter, Source, headers_of, headers_of_record
from mailspan.repeats import Repeats
from mailspan.topics import DEAD_LETTER, OPEN_TRANSACTIONS, RAW, TRANSACTIONS, topic_name
from mailspan.wire import Reading, find_header, read_headers_of
from reducer.figures import NOT_APPLIED, STAGE, TOO_LARGE, Figures
from reducer.kafka import Assignments, ReducerError, ReducerKafka, RolledBackError, StateReader, Write
from reducer.partition import META, Options, Output, Partition
from reducer.records import StoredState, split_state
from reducer.snapshot import SnapshotError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mailspan.metrics import Figure
    from mailspan.wire import Header
    from reducer.kafka import RawRecord, Stop

READ_RECORDS = 1000
_READ_SECONDS = 0.1
_DAY_SECONDS = 86400
_RESTORE_RECORDS = 5000
_COMMITS_MEASURED = 10_000  # the last ones, for the summary in the end
_QUIET_SECONDS = 5.0  # so long a change that is neither an attempt nor an end may wait to be written
_MOST_DOCUMENT_BYTES = 7 << 20
_MOST_COMMIT_RECORDS = 200_000
_LEAST_COMMIT_RECORDS = 1000

STEPS = ("begun", "written", "offsets sent", "committed")
"""The steps of a commit, as `checkpoint` is told them."""


class Loop:
    """Runs until `stop` says so. `report` is told, in one line each, what an operator should know.

    `epoch`, the wall clock, dates nothing but figures.
    """

    def __init__(
        self,
        config: Mapping[str, str],
        prefix: str,
        instance: str,
        options: Options,
        *,
        commit_seconds: float,
        report: Callable[[str], None],
        epoch: Callable[[], float],
        checkpoint: Callable[[str], None] = lambda _step: None,
    ) -> None:
        self.turned: Callable[[], None] = lambda: None
        """Called at each turn; in there, `figures` and `is_ready` may be asked."""
        assignments = Assignments(self._assigned, self._revoked, self._lost)
        self._kafka = ReducerKafka(config, prefix, instance, assignments, report)
        self._prefix = prefix
        self._options = options
        self._commit_seconds = commit_seconds
        self._report = report
        self._checkpoint = checkpoint
        self._figures = Figures(epoch)
        self._is_member = False  # of the group: partitions were assigned, perhaps none
        self._partitions: dict[int, Partition] = {}  # those that run
        self._waiting: dict[int, float] = {}  # assigned, their state not read yet; since when
        self._reader: StateReader | None = None
        self._reading: set[int] = set()  # those of `_reader`
        self._topic_id = ""  # of mail.raw, as it was when `_reader` was made
        self._parts: dict[int, dict[str, int]] = {}  # of each partition: into how many records a large snapshot went
        self._dirty_since: float | None = None
        self._all_written = 0.0
        self._records = 0
        self._commits = 0
        self._commit_ms: deque[float] = deque(maxlen=_COMMITS_MEASURED)
        self._most_records = _MOST_COMMIT_RECORDS
        self._dead: dict[int, list[tuple[str, Write]]] = {}  # of each partition; each with its kind of reason
        self._poison = Repeats(
            "a record cannot be applied, it goes to the dead letters",
            "records cannot be applied, they go to the dead letters",
            report,
        )

    def run(self, stop: Stop) -> None:
        """Run; at the end what was read is committed and the group left. Raises ReducerError."""
        try:
            self._kafka.start(stop)
            self._all_written = time.monotonic()
            while not stop.is_set:
                self.step()
            is_committed = self._commit(everything=True)
            self._poison.tell(time.monotonic(), at_once=True)
            self._report(self._summary())
            if not is_committed:
                raise ReducerError(
                    "the last commit was rolled back; nothing is lost: what was not committed is read again at the"
                    " next start"
                )
        finally:
            if self._reader is not None:
                self._reader.close()
            self._kafka.close()

    @property
    def is_ready(self) -> bool:
        """Whether it has joined the group, and all partitions that it has are restored."""
        return self._is_member and not self._waiting

    def figures(self) -> Iterator[Figure]:
        """Yield what its metrics show now; to be asked between two steps."""
        yield from self._figures.show(self._partitions, len(self._waiting), self._records, self._kafka.end)
        yield from self._kafka.retention_figures()

    def _summary(self) -> str:
        taken = sorted(self._commit_ms)
        if not taken:
            return "stopped; commits=0"
        median, slowest = taken[len(taken) // 2], taken[len(taken) * 99 // 100]
        return f"stopped; commits={self._commits} commit_ms_p50={median:.0f} commit_ms_p99={slowest:.0f}"

    def step(self) -> None:
        """Read once, restore a piece, commit when it is time."""
        self.turned()
        for record in self._kafka.consume(READ_RECORDS, 0.0 if self._reader is not None else _READ_SECONDS):
            self._apply(record)
        if self._waiting:
            self._restore()
        now = time.monotonic()
        self._poison.tell(now)
        everything = now - self._all_written >= _QUIET_SECONDS
        if self._dirty_since is not None and (
            now - self._dirty_since >= self._commit_seconds or self._records >= self._most_records
        ):
            self._commit(everything=everything)
        elif everything and self._dirty_since is None:
            self._commit(everything=True)

    def _apply(self, message: RawRecord) -> None:
        number, offset = message.partition() or 0, message.offset() or 0
        partition = self._partitions.get(number)
        if partition is None or offset < partition.offset:
            return  # read before it was paused, or before a seek took hold
        value = message.value() or b""
        seconds = message.timestamp()[1] // 1000
        header = _header(message, seconds)
        if header is None and not value and (canary := find_canary(headers_of_record(message))) is not None:
            if self._dirty_since is None:
                self._dirty_since = time.monotonic()
            self._records += 1
            partition.pass_on(canary, offset)
            return
        if header is None:
            reading, line_offset = Reading("", seconds, seconds, ""), 0
        else:
            reading, line_offset = header.reading, header.offset
        if self._dirty_since is None:
            self._dirty_since = time.monotonic()
        self._records += 1
        try:
            partition.apply(value, offset, line_offset, reading)
        except SnapshotError as error:
            raise self._unreadable(number, error) from error
        except Exception as error:  # noqa: BLE001 - a fault of ours on one line must not stop all others
            partition.counts.ignored[NOT_APPLIED] += 1
            reason = f"{type(error).__name__}: {error}"
            self._poison.note(reason, time.monotonic())
            source = Source(topic_name(self._prefix, RAW), number, offset)
            letter = DeadLetter(reason, STAGE, source, headers_of_record(message))
            dead = Write(DEAD_LETTER, None, message.key() or b"", value, headers_of(letter))
            self._dead.setdefault(number, []).append((NOT_APPLIED, dead))

    def _commit(self, *, everything: bool) -> bool:
        """Write what the partitions have to write. On failure all state is read again, and False returned."""
        outputs = {
            number: partition.output(urgent_only=not everything) for number, partition in self._partitions.items()
        }
        if everything:
            self._all_written = time.monotonic()
        is_dirty, self._dirty_since = self._dirty_since is not None, None
        records, self._records = self._records, 0
        if not is_dirty and not any(output.documents or output.withdrawn for output in outputs.values()):
            return True
        parts = {number: dict(known) for number, known in self._parts.items()}
        writes = [write for number, output in outputs.items() for write in self._writes(number, output, parts)]
        dead = [each for letters in self._dead.values() for each in letters]
        writes += [write for _, write in dead]
        self._dead = {}
        begin = time.monotonic()
        try:
            self._kafka.commit(writes, {number: output.offset for number, output in outputs.items()}, self._checkpoint)
        except RolledBackError as error:
            self._report(f"a commit was rolled back ({error}); reading the stored state again")
            # Perhaps it was too much for the time that a transaction has.
            self._most_records = max(_LEAST_COMMIT_RECORDS, min(records, self._most_records) // 2)
            self._roll_back()
            return False
        seconds = time.monotonic() - begin
        self._commits += 1
        self._commit_ms.append(seconds * 1000)
        self._figures.settle(self._partitions, outputs)
        self._figures.commit(seconds, (kind for kind, _ in dead))
        self._most_records = min(_MOST_COMMIT_RECORDS, self._most_records * 2)
        self._parts = parts
        self._checkpoint("committed")
        return True

    def _writes(self, number: int, output: Output, parts: dict[int, dict[str, int]]) -> list[Write]:
        read = read_headers_of(output.read)
        writes = [Write(TRANSACTIONS, number, identity.encode(), None, read) for identity in output.withdrawn]
        for document in output.documents:
            value: bytes = orjson.dumps(document)
            key = document["id"].encode()
            if len(value) > _MOST_DOCUMENT_BYTES:
                reason = f"document of {len(value)} bytes, more than {_MOST_DOCUMENT_BYTES}"
                headers = headers_of(DeadLetter(reason, STAGE, None, ()))
                letter = Write(DEAD_LETTER, None, key, value[:_MOST_DOCUMENT_BYTES], headers)
                self._dead.setdefault(number, []).append((TOO_LARGE, letter))
            else:
                writes.append(Write(TRANSACTIONS, number, key, value, read))
        writes += [
            Write(TRANSACTIONS, number, CANARY_KEY, None, ((CANARY_NAME, encode_canary(canary)),))
            for canary in output.canaries
        ]
        known = parts.setdefault(number, {})
        for name, snapshot in output.state.items():
            writes += [
                Write(OPEN_TRANSACTIONS, number, key.encode("utf-8", "surrogateescape"), part)
                for key, part in split_state(name, snapshot, known)
            ]
        return writes

    def _restore(self) -> None:
        """Read a piece of the stored state; partitions whose state is complete begin to run."""
        if self._reader is None:
            topic_id = self._kafka.topic_id()
            if topic_id is None:
                return  # nobody answers: the next step asks again
            self._topic_id = topic_id
            self._reading = set(self._waiting)
            self._reader = self._kafka.state_reader(sorted(self._reading))
        reader = self._reader
        if reader is None:
            return
        for number in reader.read(_RESTORE_RECORDS, _READ_SECONDS):
            if self._kafka.is_to_stop():
                return
            if number in self._waiting:
                self._begin(number, reader.state.pop(number))
            self._reading.discard(number)
        if not self._reading & self._waiting.keys():
            reader.close()
            self._reader = None

    def _begin(self, number: int, stored: StoredState) -> None:
        found = self._kafka.raw_range(number)
        if found is None:
            return  # it waits on, and its state is read again
        partition = Partition(self._options, number, self._kafka.partitions)
        try:
            state, parts = stored.joined()
            partition.restore(state)
        except SnapshotError as error:
            raise self._unreadable(number, error) from error
        is_another = bool(self._topic_id and partition.topic_id not in {"", self._topic_id})
        offset = partition.offset if META in state else None
        partition.offset = self._place(number, offset, *found, is_another=is_another)
        partition.topic_id = self._topic_id or partition.topic_id
        if self._kafka.seek(number, partition.offset):
            self._partitions[number], self._parts[number] = partition, parts
            self._figures.begin(number, partition.offset, found[1])
            self._figures.restores.observe(time.monotonic() - self._waiting.pop(number))

    def _place(self, number: int, offset: int | None, low: int, high: int, *, is_another: bool) -> int:
        """Return where to go on in a partition that has the records from `low` to before `high`; says what is gone.

        `is_another`: the topic was deleted and made anew since.
        """
        topic = topic_name(self._prefix, RAW)
        if offset is None:
            return low
        if is_another:
            self._report(
                f"{topic} partition {number} was read up to {offset}, and is of another topic now, which was made anew;"
                " reading all of it"
            )
            return low
        if offset < low:
            self._figures.lost_records += low - offset
            self._report(
                f"{topic} partition {number}: {low - offset} records were deleted before they were read (offsets"
                f" {offset} to {low - 1}); see retention.ms of {topic}, and read those logs again"
            )
            return low
        if offset > high:
            self._report(
                f"{topic} partition {number} ends at {high}, but was read up to {offset} before: it is another topic"
                " now, or lost its end; reading all of it"
            )
            return low
        return offset

    def _unreadable(self, number: int, error: SnapshotError) -> ReducerError:
        topic = topic_name(self._prefix, OPEN_TRANSACTIONS)
        return ReducerError(
            f"the state in {topic} partition {number} cannot be read ({error}); if no newer mailspan wrote it, delete"
            " the topic and run `mailspan setup`: all lines that Kafka has are then read again"
        )

    def _roll_back(self) -> None:
        self._figures.rollbacks += 1
        numbers = [*self._partitions]
        self._drop(numbers)
        self._kafka.pause(numbers)
        self._wait_for(numbers)
        self._forget_reader()

    def _assigned(self, numbers: list[int]) -> None:
        self._is_member = True
        self._figures.rebalances += 1
        self._wait_for(numbers)
        if numbers:
            self._forget_reader()

    def _wait_for(self, numbers: list[int]) -> None:
        self._waiting.update(dict.fromkeys(numbers, time.monotonic()))

    def _revoked(self, numbers: list[int]) -> None:
        self._figures.rebalances += 1
        if any(number in self._partitions for number in numbers):
            self._commit(everything=True)
        self._drop(numbers)

    def _lost(self, numbers: list[int]) -> None:
        self._is_member = False
        self._figures.rebalances += 1
        self._drop(numbers)
        self._dirty_since = None if not self._partitions else self._dirty_since

    def _drop(self, numbers: list[int]) -> None:
        for number in numbers:
            self._partitions.pop(number, None)
            self._parts.pop(number, None)
            self._waiting.pop(number, None)
            self._dead.pop(number, None)

    def _forget_reader(self) -> None:
        """Begin the reading of state anew, with the partitions that wait now."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def _header(message: RawRecord, written: int) -> Header | None:
    """Return our header; None where there is none, or one that cannot be ours.

    A line that was read more than a day after it was written would make all other lines' places be forgotten.
    """
    try:
        header = find_header(message.headers())
    except (ValueError, SystemError):  # a header has a name that is no UTF-8: the client itself stumbles
        return None
    if header is not None and 0 < written < header.reading.read - _DAY_SECONDS:
        return None
    return header
