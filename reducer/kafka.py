"""Kafka as the reducer uses it: the only file on this side that imports the client.

It reads mail.raw as one of a group, writes documents, state and the group's offsets in one Kafka transaction, and reads
the state of a partition to its very end. What is decided when is in reducer/loop.py. Errors of a commit end as
`RolledBack` (nothing of it happened: go on from the stored state) or as ReducerError (one line that names the setting).
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)

from mailspan.errors import MailspanError
from mailspan.kafka_settings import CREDENTIALS, explain
from mailspan.topics import OPEN_TRANSACTIONS, RAW, TRANSACTIONS, topic_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

GROUP = "mailspan-reducer"
SESSION_TIMEOUT_MS = 6000
TRANSACTION_TIMEOUT_MS = 5000  # a killed reducer's open transaction holds its successor up for so long
_START_SECONDS = 15.0
_ASK_SECONDS = 5.0
_LOOK_SECONDS = 3.0
_COMMIT_SECONDS = 30.0
_MOST_BYTES = 7 << 20  # of one record: below the topics' max.message.bytes

_log = logging.getLogger("mailspan.kafka")  # librdkafka's own lines: shown only to who asks for them
_log.addHandler(logging.NullHandler())
_log.propagate = False


class ReducerError(MailspanError):
    """The reducer cannot go on; the message says what to look at. A new start may help."""


class RolledBackError(Exception):
    """A commit did not happen, or nobody knows: what is in memory is void, the stored state is what counts."""


RawRecord = Message
"""A record of mail.raw, as the client gives it: asking it for what is needed costs less than copying all of it."""


class Write(NamedTuple):
    """One record to be written: `topic` is its name behind the prefix; a value of None deletes the key."""

    topic: str
    partition: int | None
    key: bytes
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class Assignments:
    """What to do as partitions come and go; called from within `ReducerKafka.consume`."""

    def __init__(
        self,
        assigned: Callable[[list[int]], None],
        revoked: Callable[[list[int]], None],
        lost: Callable[[list[int]], None],
    ) -> None:
        self.assigned = assigned
        self.revoked = revoked
        self.lost = lost


class ReducerKafka:
    """One reducer's clients. `instance` is its stable name: a restart ends its own open transaction at once."""

    def __init__(self, config: Mapping[str, str], prefix: str, instance: str, assignments: Assignments) -> None:
        self._prefix = prefix
        self._servers = config["bootstrap.servers"]
        self._fault: KafkaError | None = None
        self._assignments = assignments
        quiet = {**config, "error_cb": self._note, "logger": _log}
        self._consumer = Consumer(
            {
                "session.timeout.ms": SESSION_TIMEOUT_MS,
                "heartbeat.interval.ms": 1500,
                "max.poll.interval.ms": 300000,
                "fetch.queue.backoff.ms": 50,
                "queued.max.messages.kbytes": 32768,
                **quiet,
                "group.id": f"{prefix}-{GROUP}" if prefix != "mail" else GROUP,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "earliest",  # only where a partition has no state yet: else `seek` says where
                "isolation.level": "read_committed",
                "partition.assignment.strategy": "cooperative-sticky",
            }
        )
        self._producer = Producer(
            {
                "linger.ms": 5,
                "compression.type": "lz4",
                "queue.buffering.max.kbytes": 262144,
                "queue.buffering.max.messages": 1000000,
                **quiet,
                "transactional.id": f"{prefix}-reducer-{instance}",
                "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
                "message.max.bytes": 8 << 20,
            }
        )
        self._state_config = quiet
        self._watermarks = Consumer(
            {**quiet, "group.id": f"{prefix}-reducer-watermarks", "isolation.level": "read_uncommitted"}
        )

    def start(self) -> None:
        """Look whether the topics fit together, end what an earlier run left open, and join the group.

        Raises ReducerError.
        """
        counts = {name: self._count_partitions(name) for name in (RAW, TRANSACTIONS, OPEN_TRANSACTIONS)}
        if len(set(counts.values())) > 1:
            found = ", ".join(f"{topic_name(self._prefix, name)} has {count}" for name, count in counts.items())
            raise ReducerError(f"topics must have the same number of partitions: {found}; see `mailspan setup`")
        try:
            self._producer.init_transactions(_START_SECONDS)
        except KafkaException as error:
            raise self._error(error, "to start") from error
        self._consumer.subscribe(
            [topic_name(self._prefix, RAW)],
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )

    def consume(self, most: int, seconds: float) -> list[Message]:
        """Return the next records; partitions come and go in here. Raises ReducerError. Blocks for up to `seconds`."""
        try:
            messages = self._consumer.consume(most, seconds)
        except KafkaException as error:
            raise self._error(error, "to read") from error
        if any(message.error() is not None for message in messages):
            messages = [message for message in messages if self._is_record(message)]
        return messages

    def _is_record(self, message: Message) -> bool:
        fault = message.error()
        if fault is None:
            return True
        if fault.retriable() or fault.code() in {KafkaError._PARTITION_EOF, KafkaError._ALL_BROKERS_DOWN}:  # noqa: SLF001 - its public names
            return False
        raise self._error(KafkaException(fault), "to read")

    def seek(self, partition: int, offset: int | None) -> None:
        """Let a partition run, from an offset on; None: from where the topic begins. Raises ReducerError."""
        place = TopicPartition(topic_name(self._prefix, RAW), partition)
        place.offset = OFFSET_BEGINNING if offset is None else offset
        deadline = time.monotonic() + _ASK_SECONDS
        while True:
            try:
                self._consumer.seek(place)
            except KafkaException as error:
                # Just assigned: the client has not begun with the partition yet.
                if error.args[0].code() != KafkaError._STATE or time.monotonic() > deadline:  # noqa: SLF001 - its public name
                    raise self._error(error, "to read") from error
                time.sleep(0.01)
            else:
                break
        self._consumer.resume([TopicPartition(place.topic, partition)])

    def pause(self, partitions: Sequence[int]) -> None:
        """Stop reading partitions; the membership lives on as long as `consume` is called."""
        topic = topic_name(self._prefix, RAW)
        self._consumer.pause([TopicPartition(topic, partition) for partition in partitions])

    def commit(self, writes: Sequence[Write], offsets: Mapping[int, int], step: Callable[[str], None]) -> None:
        """Write all of it and the offsets, or nothing. Raises RolledBackError or ReducerError. `step` is told each."""
        raw = topic_name(self._prefix, RAW)
        places = [TopicPartition(raw, partition, offset) for partition, offset in offsets.items()]
        try:
            self._producer.begin_transaction()
            step("begun")
            for write in writes:
                self._produce(write)
            step("written")
            self._producer.send_offsets_to_transaction(
                places, self._consumer.consumer_group_metadata(), _COMMIT_SECONDS
            )
            step("offsets sent")
            self._commit_transaction()
        except (KafkaException, BufferError) as error:
            self._abort(error)

    def state_reader(self, partitions: Sequence[int]) -> StateReader:
        """Return a reader of the stored state of partitions."""
        return StateReader(
            self._state_config, self._watermarks, topic_name(self._prefix, OPEN_TRANSACTIONS), partitions
        )

    def close(self) -> None:
        """Leave the group; what was not committed is void."""
        with suppress(KafkaException, RuntimeError):
            self._consumer.close()
        with suppress(KafkaException, RuntimeError):
            self._watermarks.close()

    def _produce(self, write: Write) -> None:
        while True:
            try:
                self._producer.produce(
                    topic_name(self._prefix, write.topic),
                    write.value,
                    write.key,
                    -1 if write.partition is None else write.partition,
                    headers=list(write.headers),
                )
            except BufferError:
                self._producer.poll(0.1)
            else:
                return

    def _commit_transaction(self) -> None:
        while True:
            try:
                self._producer.commit_transaction(_COMMIT_SECONDS)
            except KafkaException as error:
                if error.args[0].retriable():
                    continue
                raise
            return

    def _abort(self, error: KafkaException | BufferError) -> None:
        fault = error.args[0] if isinstance(error, KafkaException) else None
        if isinstance(fault, KafkaError) and fault.fatal():
            raise self._error(KafkaException(fault), "to write") from error
        while True:
            try:
                self._producer.abort_transaction(_COMMIT_SECONDS)
            except KafkaException as again:
                if again.args[0].retriable():
                    continue
                raise self._error(again, "to write") from error
            break
        raise RolledBackError(str(fault or error)) from error

    def _count_partitions(self, name: str) -> int:
        topic = topic_name(self._prefix, name)
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                found = self._watermarks.list_topics(topic, timeout=_LOOK_SECONDS).topics[topic]
            except KafkaException as error:
                self._watermarks.poll(0)  # its callbacks say what became of the connections
                is_refused = self._fault is not None and self._fault.name() in CREDENTIALS
                if is_refused or time.monotonic() > deadline:
                    raise self._error(error, "to start") from error
            else:
                break
        if found.error is not None or not found.partitions:
            raise ReducerError(f"Kafka at {self._servers} has no topic {topic}; run `mailspan setup` first")
        return len(found.partitions)

    def _on_assign(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        if places:
            consumer.incremental_assign(places)
            consumer.pause(places)
        self._assignments.assigned([place.partition for place in places])

    def _on_revoke(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        self._assignments.revoked([place.partition for place in places])
        consumer.incremental_unassign(places)

    def _on_lost(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        self._assignments.lost([place.partition for place in places])
        consumer.incremental_unassign(places)

    def _note(self, error: KafkaError) -> None:
        if self._fault is None or self._fault.name() not in CREDENTIALS:
            self._fault = error

    def _error(self, error: KafkaException, doing: str) -> ReducerError:
        fault: KafkaError = error.args[0]
        if self._fault is not None and fault.code() < 0:
            fault = self._fault  # what the connections said before
        reason = fault.str().strip() or fault.name()
        return ReducerError(explain(fault.name(), fault.code(), reason, self._servers, doing))


class StateReader:
    """Reads the stored state of partitions to its end, a piece at a time, so that the loop can go on meanwhile.

    The end is the high watermark as an uncommitted reader sees it: where another reducer's transaction is still open,
    a committed reader stops short of it and has to wait until the broker has ended that transaction.
    """

    def __init__(
        self, config: Mapping[str, object], watermarks: Consumer, topic: str, partitions: Sequence[int]
    ) -> None:
        self._consumer = Consumer(
            {
                **config,
                "group.id": "mailspan-reducer-restore",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
            }
        )
        self._ends: dict[int, int] = {}
        for partition in partitions:
            _, high = watermarks.get_watermark_offsets(TopicPartition(topic, partition), timeout=_ASK_SECONDS)
            self._ends[partition] = high
        self.state: dict[int, dict[str, bytes]] = {partition: {} for partition in partitions}
        self._consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions])

    def read(self, most: int, seconds: float) -> list[int]:
        """Read on; return the partitions whose state is now complete. Blocks for up to `seconds`."""
        done = []
        for message in self._consumer.consume(most, seconds):
            partition, offset = message.partition() or 0, message.offset() or 0
            error = message.error()
            if error is None:
                self._take(self.state[partition], message)
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
                if partition in self._ends and offset >= self._ends[partition]:
                    del self._ends[partition]
                    done.append(partition)
            elif not error.retriable():
                raise ReducerError(f"the stored state cannot be read: {error.str()}")
        return done

    def close(self) -> None:
        """Let go of the client."""
        self._consumer.close()

    @staticmethod
    def _take(state: dict[str, bytes], message: Message) -> None:
        key = _bytes(message.key()).decode("utf-8", "surrogateescape")
        value = message.value()
        if value is None:
            state.pop(key, None)
        else:
            state[key] = _bytes(value)


def _bytes(value: str | bytes | None) -> bytes:
    return value if isinstance(value, bytes) else (value or "").encode()
