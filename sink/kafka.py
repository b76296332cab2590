"""Kafka as the sink uses it: with sink/kafka_topic.py the only file on this side that imports the client.

It reads mail.transactions as one of a group, moves the group's offsets when it is told to, and writes dead letters.
What is done with the records is decided in sink/loop.py. Errors are one line each, and name the setting.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ConfigResource, OffsetSpec, ResourceType

from mailspan.dead_letter import DeadLetter, Source, headers_of, headers_of_record
from mailspan.errors import MailspanError, UsageError
from mailspan.kafka_faults import Faults
from mailspan.kafka_settings import FIXED
from mailspan.metrics import Figure, Histogram
from mailspan.topic_retention import TopicRetention
from mailspan.topics import DEAD_LETTER, TRANSACTIONS, topic_name
from sink.figures import STAGE
from sink.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from mailspan.dead_letter import Headers
    from mailspan.topic_retention import Promise

GROUP = "mailspan-sink"
_SESSION_TIMEOUT_MS = 6000  # a killed sink is missed for so long
_START_SECONDS = 15.0
_ASK_SECONDS = 5.0
_LOOK_SECONDS = 1.0
_SLICE_SECONDS = 0.2  # between two looks at whether to stop
_SLICE_RECORDS = 200
_STAY_SECONDS = 10.0  # far less than max.poll.interval.ms
LARGEST_RECORD_BYTES = 9 << 20  # what the dead letters' topic takes: a record and our headers

_LARGEST_LETTER_BYTES = LARGEST_RECORD_BYTES - (1 << 16)  # the client counts some bytes for each header, too
_CUT_BYTES = 1 << 20

_FIRST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
_NEXT: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]

_HARMLESS = frozenset({KafkaError._PARTITION_EOF, KafkaError._ALL_BROKERS_DOWN, KafkaError._MAX_POLL_EXCEEDED})  # noqa: SLF001 - its public names
"""What the client mends by itself; after the last one it joins the group again."""
_NOT_NOW = frozenset(
    {
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.NOT_COORDINATOR,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
    }
)
"""Why a group's coordinator, or a partition's leader, does not answer now."""
_NEVER = frozenset({KafkaError._UNKNOWN_PARTITION, KafkaError._UNKNOWN_TOPIC, KafkaError._FATAL})  # noqa: SLF001 - its public names
"""What the client itself says and asking again does not change."""

_log = logging.getLogger("mailspan.kafka")  # librdkafka's own lines: shown only to who asks for them
_log.addHandler(logging.NullHandler())
_log.propagate = False


class Stop(Protocol):
    """Whether to stop."""

    @property
    def is_set(self) -> bool:
        """Whether the process was told to stop."""


class SinkError(MailspanError):
    """The sink cannot go on; the message says what to look at. A new start may help."""


def group_of(prefix: str) -> str:
    """Return the name of the sinks' group."""
    return f"{prefix}-{GROUP}" if prefix != "mail" else GROUP


class SinkKafka:
    """One sink's clients."""

    def __init__(self, config: Mapping[str, str], prefix: str, stop: Stop, report: Callable[[str], None]) -> None:
        """Make the clients; nothing is asked yet. Raises UsageError."""
        self._topic = topic_name(prefix, TRANSACTIONS)
        self._dead_letters = topic_name(prefix, DEAD_LETTER)
        self._servers = config["bootstrap.servers"]
        self._stop = stop
        self._report = report
        self._faults = Faults(self._servers)
        self._producer_faults = Faults(self._servers)
        self._is_away = False
        self._is_member = False  # of the group: partitions were assigned, perhaps none
        self._rebalances = 0
        self._owned: set[int] = set()  # those that run, or are paused
        self._is_paused = False
        self._held: list[Message] = []
        self._waiting: dict[int, float] = {}  # assigned, and not running yet; since when
        self._restores = Histogram("mailspan_restore_seconds")
        self._retention = TopicRetention(self._topic, STAGE, self._ask_for_settings, report)
        self._uncommitted: dict[int, int] = {}
        # For the lag, by partition: behind what is settled, behind what was read, and whether nothing came after that.
        self._settled: dict[int, int] = {}
        self._read: dict[int, int] = {}
        self._at_end: set[int] = set()
        self._polled_at = time.monotonic()
        self._lost_records = 0
        quiet: dict[str, Any] = {**config, "logger": _log}
        try:
            self._consumer = Consumer(
                {
                    "session.timeout.ms": _SESSION_TIMEOUT_MS,
                    "fetch.queue.backoff.ms": 50,
                    "queued.max.messages.kbytes": 32768,
                    **quiet,
                    "error_cb": self._faults.note,
                    "group.id": group_of(prefix),
                    "enable.auto.commit": False,
                    "enable.auto.offset.store": False,
                    "auto.offset.reset": "error",  # what is gone must not be passed over in silence
                    "isolation.level": "read_committed",
                    "enable.partition.eof": True,  # behind the last record stand the broker's own marks of commits
                    "partition.assignment.strategy": "cooperative-sticky",
                }
            )
            self._producer = Producer(
                {
                    "compression.type": "lz4",
                    "queue.buffering.max.kbytes": 65536,
                    **quiet,
                    **FIXED,
                    "error_cb": self._producer_faults.note,
                    "message.max.bytes": LARGEST_RECORD_BYTES,
                }
            )
            self._admin = AdminClient(quiet)
        except KafkaException as error:
            raise UsageError(f"MAILSPAN_KAFKA_OPTIONS: {error.args[0].str()}") from None

    @property
    def is_ready(self) -> bool:
        """Whether it has joined the group, and all partitions that it has run."""
        return self._is_member and not self._waiting

    @property
    def owned(self) -> frozenset[int]:
        """The partitions that run here, or are paused."""
        return frozenset(self._owned)

    def figures(self) -> Iterator[Figure]:
        """Yield what metrics show of its membership and its topic. Waits for nobody."""
        yield from self._retention.figures(time.monotonic())
        yield Figure("mailspan_restore_seconds", self._restores.distribution, (STAGE,))
        yield Figure("mailspan_partitions", len(self._owned), (STAGE, "running"))
        yield Figure("mailspan_partitions", len(self._waiting), (STAGE, "restoring"))
        yield Figure("mailspan_rebalances_total", self._rebalances, (STAGE,))
        yield Figure("mailspan_lost_records_total", self._lost_records, (STAGE,))

    def lags(self) -> dict[int, int]:
        """Return by partition how many of its records are not settled; without those where that is not known now."""
        found = {number: self._lag(number) for number in sorted(self._owned)}
        return {number: lag for number, lag in found.items() if lag is not None}

    def _lag(self, partition: int) -> int | None:
        """Return how many records are not settled, the marks of commits between them counted; None: not known now.

        Where all that was read is settled and the end was reached, it is 0, whatever marks stand there. Of a paused
        partition nothing new is heard: there 0 would be a guess.
        """
        settled = self._settled.get(partition, 0)
        if partition in self._at_end and settled >= self._read.get(partition, 0):
            return None if self._is_paused else 0
        try:
            _, end = self._consumer.get_watermark_offsets(TopicPartition(self._topic, partition), cached=True)
        except KafkaException:
            return None
        return None if end < 0 else max(0, int(end) - settled)

    def start(self) -> None:
        """Look whether the topics are there and join the group. Raises SinkError."""
        for topic in (self._topic, self._dead_letters):
            self._look_for(topic)
        if not self._stop.is_set:
            self._consumer.subscribe(
                [self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
            )

    def _look_for(self, topic: str) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not self._stop.is_set:
            try:
                found = self._producer.list_topics(topic, timeout=_LOOK_SECONDS).topics[topic]
            except KafkaException as error:
                self._producer.poll(0)  # its callbacks say what became of the connections
                if self._producer_faults.are_credentials or time.monotonic() > deadline:
                    raise SinkError(self._producer_faults.explain(error.args[0], "to start")) from error
            else:
                if found.error is not None or not found.partitions:
                    raise SinkError(f"Kafka at {self._servers} has no topic {topic}; run `mailspan setup` first")
                return

    def gather(self, most: int, most_bytes: int, seconds: float) -> list[Record]:
        """Return the next records: so many or so many bytes, or what has come within `seconds`.

        Partitions come and go in here. Raises SinkError.
        """
        if self._is_paused:
            self._is_paused = False
            self._consumer.resume(self._places(self._owned))
        if self._waiting:
            self._place()
        messages, self._held = self._held, []
        deadline = time.monotonic() + seconds
        size = 0
        while len(messages) < most and size < most_bytes and not self._stop.is_set:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            found = self._consume(min(_SLICE_RECORDS, most - len(messages)), left)
            size += sum(len(message.value() or b"") for message in found)
            messages += found
        self._tell(has_records=bool(messages))
        return [_record(message) for message in messages if message.partition() in self._owned]

    def _tell(self, *, has_records: bool) -> None:
        """Say, once each, that no broker answers and that one does again."""
        if has_records and self._is_away:
            self._is_away = False
            self._faults.forget()
            self._report(f"Kafka at {self._servers} answers again")
        elif not has_records and not self._is_away and (reason := self._faults.away()) is not None:
            self._is_away = True
            self._report(f"{reason}; waiting")

    def idle(self, seconds: float) -> None:
        """Wait, and stay in the group meanwhile: partitions are paused, and may come and go. Ends early to stop."""
        deadline = time.monotonic() + seconds
        if not self._is_paused:
            self._is_paused = True
            self._consumer.pause(self._places(self._owned))
        while not self._stop.is_set and (left := deadline - time.monotonic()) > 0:
            # Nothing comes from a paused partition; what does come was on its way, and is not lost.
            found = self._consume(_SLICE_RECORDS, min(left, _SLICE_SECONDS))
            self._held += found  # now, and not before: partitions may have gone meanwhile, and theirs with them

    def commit(self, offsets: Mapping[int, int]) -> None:
        """Move the group's offsets. Where that is not possible now, they go with the next ones. Raises SinkError.

        The calling thread waits for the answer.
        """
        # Those of a partition that went are its next owner's business: kept, they would put that one back.
        self._uncommitted.update({number: offset for number, offset in offsets.items() if number in self._owned})
        self._settled.update(self._uncommitted)
        if not self._uncommitted:
            return
        places = [TopicPartition(self._topic, number, offset) for number, offset in self._uncommitted.items()]
        try:
            _each_is_good(self._consumer.commit(offsets=places, asynchronous=False))
        except KafkaException as error:
            fault: KafkaError = error.args[0]
            if not _is_passing(fault):
                raise self._error(fault, "to commit offsets") from error
        else:
            self._uncommitted.clear()

    def bury(self, letters: Sequence[tuple[Record, str]]) -> bool:
        """Write dead letters: records, each with its reason; return whether all were written before the stop.

        What is larger than a record can be here (it may have come compressed) is cut, and has no source.

        Raises SinkError where the broker takes one never.
        """
        failed: list[KafkaError] = []

        def delivered(fault: KafkaError | None, _message: Message) -> None:
            if fault is not None:
                failed.append(fault)

        try:
            for record, reason in letters:
                value, headers = _letter(record, Source(self._topic, record.partition, record.offset), reason)
                while not self._is_taken(value, record.key, headers, delivered):
                    if not self._is_waited_for():
                        return False
            while self._producer.flush(_SLICE_SECONDS):
                if not self._is_waited_for():
                    return False
        except KafkaException as error:  # a fatal one, for example: without the right to be idempotent
            raise SinkError(self._producer_faults.explain(error.args[0], "to write dead letters")) from error
        if failed:
            raise SinkError(self._producer_faults.explain(failed[0], "to write dead letters"))
        return True

    def _is_taken(self, value: bytes | None, key: bytes, headers: Headers, delivered: Callable[..., None]) -> bool:
        """Give the client a dead letter; return whether it had room for it."""
        try:
            self._producer.produce(self._dead_letters, value, key, headers=list(headers), on_delivery=delivered)
        except BufferError:
            return False
        return True

    def _is_waited_for(self) -> bool:
        """Wait a little for a broker, and say so; return False to stop. Raises SinkError where waiting is in vain."""
        if self._producer_faults.are_credentials:
            raise SinkError(self._producer_faults.away() or "")
        self.idle(_SLICE_SECONDS)
        self._tell(has_records=False)
        return not self._stop.is_set

    def close(self) -> None:
        """Leave the group. No time limits it."""
        with suppress(KafkaException, RuntimeError):
            self._consumer.close()

    def stay(self) -> None:
        """Keep the membership up while records are in hand: to be called again and again, it mostly does nothing."""
        if time.monotonic() - self._polled_at > _STAY_SECONDS:
            self.idle(_SLICE_SECONDS)

    def _consume(self, most: int, seconds: float) -> list[Message]:
        self._polled_at = time.monotonic()
        # What these two have to say of their connections would be kept for ever.
        self._producer.poll(0)
        self._admin.poll(0)
        try:
            found = self._consumer.consume(most, seconds)
        except KafkaException as error:
            raise self._error(error.args[0], "to read") from error
        return [message for message in found if self._is_record(message)]

    def _is_record(self, message: Message) -> bool:
        fault = message.error()
        partition = message.partition() or 0
        if fault is None:
            self._read[partition] = (message.offset() or 0) + 1
            self._at_end.discard(partition)
            return True
        if fault.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
            self._at_end.add(partition)
            return False
        if fault.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001 - its public name
            raise SinkError(
                f"{self._topic} has no longer what was to be read next from its partition {message.partition()};"
                " see its retention.ms, and start again"
            )
        if not fault.retriable() and fault.code() not in _HARMLESS:
            raise self._error(fault, "to read")
        return False

    def _place(self) -> None:
        """Let partitions run that were just assigned, from where the group is; where nobody answers now, a call later.

        Raises SinkError.
        """
        places = self._places(self._waiting.keys())
        try:
            found = _each_is_good(self._consumer.committed(places, timeout=_ASK_SECONDS))
            known = {each.partition: each.offset for each in found}
            begins = self._ends(places, _FIRST)
            ends = self._ends(places, _NEXT)
            for place in places:
                number = place.partition
                is_there = begins[number] <= known[number] <= ends[number]
                begin = known[number] if is_there else begins[number]
                self._consumer.seek(TopicPartition(self._topic, number, begin))
                self._settled[number] = self._read[number] = begin
                self._at_end.discard(number)
        except KafkaException as error:
            if _is_passing(error.args[0]):
                return
            raise self._error(error.args[0], "to read") from error
        for place in places:
            self._tell_what_is_gone(
                place.partition, known[place.partition], begins[place.partition], ends[place.partition]
            )
        now = time.monotonic()
        for since in self._waiting.values():
            self._restores.observe(now - since)
        self._owned |= self._waiting.keys()
        self._waiting.clear()
        self._consumer.resume(places)

    def _ends(self, places: Sequence[TopicPartition], end: OffsetSpec) -> dict[int, int]:
        """Return by partition its first offset, or the one behind its last. Raises KafkaException."""
        # Not by the consumer's own connection: there each answer waits behind a fetch.
        found = self._admin.list_offsets(dict.fromkeys(places, end), request_timeout=_ASK_SECONDS)
        return {place.partition: answer.result().offset for place, answer in found.items()}

    def _tell_what_is_gone(self, partition: int, offset: int, low: int, high: int) -> None:
        """Say it where records from `offset` on are not there any more; without one (negative), none was due."""
        if 0 <= offset < low:
            self._lost_records += low - offset
            self._report(
                f"{self._topic} partition {partition}: {low - offset} records were deleted before they were indexed"
                f" (offsets {offset} to {low - 1}); see retention.ms of {self._topic}, and read those logs again"
            )
        elif offset > high:
            self._report(
                f"{self._topic} partition {partition} ends at {high}, but was read up to {offset} before: it is"
                " another topic now, or lost its end; reading all of it"
            )

    def _on_assign(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        self._is_member = True
        self._rebalances += 1
        numbers = [place.partition for place in places]
        if numbers:
            # Where to begin is asked later, and looked at: what is gone must not be passed over in silence.
            begin = [TopicPartition(self._topic, number, OFFSET_BEGINNING) for number in numbers]
            consumer.incremental_assign(begin)
            consumer.pause(begin)
        self._waiting.update(dict.fromkeys(numbers, time.monotonic()))

    def _on_revoke(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        self._rebalances += 1
        for place in places:
            # Whoever has it now reads again what is not committed: versions make that harmless.
            self._owned.discard(place.partition)
            self._waiting.pop(place.partition, None)
            self._uncommitted.pop(place.partition, None)
            self._settled.pop(place.partition, None)
            self._read.pop(place.partition, None)
            self._at_end.discard(place.partition)
        self._held = [message for message in self._held if message.partition() in self._owned]
        consumer.incremental_unassign(places)

    def _ask_for_settings(self) -> Promise:
        resource = ConfigResource(ResourceType.TOPIC, self._topic)
        return self._admin.describe_configs([resource])[resource]

    def _places(self, partitions: AbstractSet[int]) -> list[TopicPartition]:
        return [TopicPartition(self._topic, partition) for partition in sorted(partitions)]

    def _error(self, fault: KafkaError, doing: str) -> SinkError:
        return SinkError(self._faults.explain(fault, doing))


def _letter(record: Record, source: Source, reason: str) -> tuple[bytes | None, Headers]:
    """Return value and headers of a dead letter."""
    headers = headers_of(DeadLetter(reason, STAGE, source, record.headers))
    size = len(record.value or b"") + len(record.key) + sum(len(name) + len(each) for name, each in headers)
    if size <= _LARGEST_LETTER_BYTES:
        return record.value, headers
    where = f"partition {source.partition} offset {source.offset} of {source.topic}"
    told = f"{reason} (a record of {size} bytes, {where}, cut)"
    return (record.value or b"")[:_CUT_BYTES], headers_of(DeadLetter(told, STAGE, None, ()))


def _each_is_good(places: list[TopicPartition]) -> list[TopicPartition]:
    """Return what a broker says of partitions. Raises KafkaException where it says of one that it cannot."""
    for each in places:
        if each.error is not None:
            raise KafkaException(each.error)
    return places


def _is_passing(fault: KafkaError) -> bool:
    """Whether asking again may help: the broker says so, or there was none to say anything."""
    return fault.code() in _NOT_NOW or fault.retriable() or (fault.code() < 0 and fault.code() not in _NEVER)


def _record(message: Message) -> Record:
    return Record(
        message.partition() or 0,
        message.offset() or 0,
        _bytes(message.key()),
        message.value(),
        headers_of_record(message),
    )


def _bytes(value: str | bytes | None) -> bytes:
    return value if isinstance(value, bytes) else (value or "").encode()
