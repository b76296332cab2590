"""Kafka as the reducer uses it: the only file on this side that imports the client.

It reads mail.raw as one of a group, writes documents, state and the group's offsets in one Kafka transaction, and reads
the state of a partition to its very end. What is decided when is in reducer/loop.py. Errors of a commit end as
`RolledBack` (nothing of it happened: go on from the stored state) or as ReducerError (one line that names the setting).
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from mailspan.errors import MailspanError, UsageError
from mailspan.kafka_settings import CREDENTIALS, explain, is_telling
from mailspan.topic_retention import TopicRetention
from mailspan.topics import OPEN_TRANSACTIONS, RAW, TOPICS, TRANSACTIONS, topic_name
from reducer.figures import STAGE
from reducer.in_time import HeldError, call_in_time
from reducer.records import StoredState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mailspan.metrics import Figure
    from mailspan.topic_retention import Promise

GROUP = "mailspan-reducer"
SESSION_TIMEOUT_MS = 6000
TRANSACTION_TIMEOUT_MS = 5000  # a killed reducer's open transaction holds its successor up for so long
_START_SECONDS = 15.0
_ASK_SECONDS = 2.0
_SLICE_SECONDS = 1.0  # between two looks at whether to stop
_LOOK_SECONDS = 3.0
_SAY_SECONDS = 5.0  # so long a commit may take before it is said that it waits
_ANSWER_SECONDS = 2 * TRANSACTION_TIMEOUT_MS / 1000  # then a new client: the broker gave the transaction up long before
_LEAST_SECONDS = 0.05  # 0 would mean not to look at all

_HARMLESS = frozenset({KafkaError._PARTITION_EOF, KafkaError._ALL_BROKERS_DOWN, KafkaError._MAX_POLL_EXCEEDED})  # noqa: SLF001 - its public names
"""What the client mends by itself; after the last one it joins the group again."""
_NO_ANSWER = frozenset({
    KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE,  # noqa: SLF001 - its public names
    KafkaError.REQUEST_TIMED_OUT, KafkaError.NETWORK_EXCEPTION, KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.BROKER_NOT_AVAILABLE, KafkaError.NOT_CONTROLLER,
})  # fmt: skip
"""Asking again may help."""
_NO_ID = "A" * 22
"""What the client says for an older broker, whose topics have none: sixteen bytes of zero."""
_FENCED = frozenset({KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH})  # noqa: SLF001 - its public names
_OVER = _FENCED | {KafkaError._FATAL}  # noqa: SLF001 - its public name
"""After these no new client is taken: it would end what the other reducer does that has the name now."""
_NO_PARTITION = frozenset(
    {KafkaError._UNKNOWN_PARTITION, KafkaError._UNKNOWN_TOPIC, KafkaError.UNKNOWN_TOPIC_OR_PART}  # noqa: SLF001 - its public names
)

_log = logging.getLogger("mailspan.kafka")  # librdkafka's own lines: shown only to who asks for them
_log.addHandler(logging.NullHandler())
_log.propagate = False


class Stop(Protocol):
    """Whether to stop, and how long a wait may last then: all waits together share one deadline."""

    @property
    def is_set(self) -> bool:
        """Whether the process was told to stop."""

    def seconds(self, most: float) -> float:
        """Return `most`, or what is left of the time to end in once told to stop; 0 where nothing is left."""


class _Never:
    is_set = False

    def seconds(self, most: float) -> float:
        return most


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

    def __init__(
        self,
        config: Mapping[str, str],
        prefix: str,
        instance: str,
        assignments: Assignments,
        report: Callable[[str], None],
    ) -> None:
        self.partitions = 0
        """How many partitions the topics have; 0 before `start` has looked."""
        self._prefix = prefix
        self._names = {each.name: topic_name(prefix, each.name) for each in TOPICS}
        self._instance = instance
        self._report = report
        self._stop: Stop = _Never()
        self._is_closing = False
        self._servers = config["bootstrap.servers"]
        self._fault: KafkaError | None = None
        self._assignments = assignments
        quiet: dict[str, Any] = {**config, "error_cb": self._note, "logger": _log}
        try:
            self._make_clients(quiet)
        except KafkaException as error:
            raise UsageError(f"MAILSPAN_KAFKA_OPTIONS: {error.args[0].str()}") from None

    def _make_clients(self, quiet: dict[str, Any]) -> None:
        self._consumer = Consumer(
            {
                "session.timeout.ms": SESSION_TIMEOUT_MS,
                "heartbeat.interval.ms": 1500,
                "max.poll.interval.ms": 300000,
                "fetch.queue.backoff.ms": 50,
                "queued.max.messages.kbytes": 32768,
                **quiet,
                "group.id": f"{self._prefix}-{GROUP}" if self._prefix != "mail" else GROUP,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "error",  # `seek` says where to go on: what is gone there must not be passed over
                "isolation.level": "read_committed",
                "partition.assignment.strategy": "cooperative-sticky",
            }
        )
        self._producer_config = {
            "linger.ms": 5,
            "compression.type": "lz4",
            "queue.buffering.max.kbytes": 262144,
            "queue.buffering.max.messages": 1000000,
            # Not to begin anew with its brokers when none can be reached: see `_send_offsets`; `_roll_back` does it.
            "metadata.recovery.strategy": "none",
            **quiet,
            "transactional.id": f"{self._prefix}-reducer-{self._instance}",
            "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
            "message.max.bytes": 8 << 20,
        }
        self._producer = Producer(self._producer_config)
        self._state_config = quiet
        self._admin: AdminClient | None = None
        self._retention = TopicRetention(topic_name(self._prefix, RAW), STAGE, self._ask_for_settings, self._report)
        self._watermarks = Consumer(
            {**quiet, "group.id": f"{self._prefix}-reducer-watermarks", "isolation.level": "read_uncommitted"}
        )

    def is_to_stop(self) -> bool:
        """Whether the process was told to stop."""
        return self._stop.is_set

    def start(self, stop: Stop) -> None:
        """Look whether the topics fit together, end what an earlier run left open, and join the group.

        `stop` is asked, here and later, wherever an answer is waited for. Raises ReducerError.
        """
        self._stop = stop
        counts = {name: self._count_partitions(name) for name in (RAW, TRANSACTIONS, OPEN_TRANSACTIONS)}
        if self.is_to_stop():
            return
        if len(set(counts.values())) > 1:
            found = ", ".join(f"{topic_name(self._prefix, name)} has {count}" for name, count in counts.items())
            raise ReducerError(f"topics must have the same number of partitions: {found}; see `mailspan setup`")
        self.partitions = counts[RAW]
        deadline = time.monotonic() + _START_SECONDS
        while not self.is_to_stop():
            try:
                self._producer.init_transactions(self._seconds(_SLICE_SECONDS))
            except KafkaException as error:
                if error.args[0].retriable() and time.monotonic() < deadline:
                    continue
                raise self._error(error, "to start") from error
            break
        if self.is_to_stop():
            return
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
        if [message for message in messages if message.error() is not None]:
            messages = [message for message in messages if self._is_record(message)]
        return messages

    def _is_record(self, message: Message) -> bool:
        fault = message.error()
        if fault is None:
            return True
        if fault.retriable() or fault.code() in _HARMLESS:
            return False
        if fault.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001 - its public name
            raise ReducerError(
                f"{topic_name(self._prefix, RAW)} has no longer what was to be read next from its partition"
                f" {message.partition()}; see its retention.ms, and start again"
            )
        raise self._error(KafkaException(fault), "to read")

    def raw_range(self, partition: int) -> tuple[int, int] | None:
        """Return where a partition of mail.raw begins and ends; None where nobody answers now. Raises ReducerError."""
        place = TopicPartition(topic_name(self._prefix, RAW), partition)
        try:
            found: tuple[int, int] | None = self._watermarks.get_watermark_offsets(
                place, timeout=self._seconds(_ASK_SECONDS)
            )
        except KafkaException as error:
            self._must_wait(error, place)
            return None
        return found

    def topic_id(self) -> str | None:
        """Return the ID of mail.raw, another where that is made anew; empty: none is told; None: nobody answers now."""
        topic = topic_name(self._prefix, RAW)
        admin = self._admin_client()
        asked = admin.describe_topics(TopicCollection([topic]), request_timeout=self._seconds(_ASK_SECONDS))[topic]
        try:
            found = str(asked.result().topic_id)
        except KafkaException as error:
            fault: KafkaError = error.args[0]
            return None if fault.code() in _NO_ANSWER else ""
        finally:
            admin.poll(0)  # what it has to say of its connections would be kept for ever
        return "" if found == _NO_ID else found

    def end(self, partition: int) -> int | None:
        """Return where a partition of mail.raw ends, as the client last heard; None where it has not. Asks nobody."""
        place = TopicPartition(topic_name(self._prefix, RAW), partition)
        try:
            _, end = self._consumer.get_watermark_offsets(place, cached=True)
        except KafkaException:
            return None
        return None if end < 0 else int(end)

    def retention_figures(self) -> Iterator[Figure]:
        """Yield what metrics show of how long mail.raw is kept. Waits for nobody."""
        if self._admin is not None:
            self._admin.poll(0)  # what it has to say of its connections would be kept for ever
        return self._retention.figures(time.monotonic())

    def _ask_for_settings(self) -> Promise:
        resource = ConfigResource(ResourceType.TOPIC, topic_name(self._prefix, RAW))
        return self._admin_client().describe_configs([resource])[resource]

    def _admin_client(self) -> AdminClient:
        if self._admin is None:
            self._admin = AdminClient(self._state_config)
        return self._admin

    def _must_wait(self, error: KafkaException, place: TopicPartition) -> None:
        """Raise ReducerError unless asking again may help."""
        if error.args[0].code() in _NO_PARTITION:
            raise ReducerError(
                f"{place.topic} has no partition {place.partition}: all topics must have the same number of"
                " partitions; see `mailspan setup`"
            ) from error
        self._watermarks.poll(0)  # its callbacks say what became of the connections
        if self._fault is not None and self._fault.name() in CREDENTIALS:
            raise self._error(error, "to read") from error

    def seek(self, partition: int, offset: int) -> bool:
        """Let a partition run, from an offset on; False where that cannot be done yet. Raises ReducerError."""
        place = TopicPartition(topic_name(self._prefix, RAW), partition, offset)
        deadline = time.monotonic() + _ASK_SECONDS
        while True:
            try:
                self._consumer.seek(place)
            except KafkaException as error:
                # Just assigned: the client has not begun with the partition yet.
                if error.args[0].code() != KafkaError._STATE:  # noqa: SLF001 - its public name
                    raise self._error(error, "to read") from error
                if self._stop.is_set or time.monotonic() > deadline:
                    return False
                time.sleep(0.01)
            else:
                break
        self._consumer.resume([TopicPartition(place.topic, partition)])
        return True

    def pause(self, partitions: Sequence[int]) -> None:
        """Stop reading partitions; the membership lives on as long as `consume` is called."""
        topic = topic_name(self._prefix, RAW)
        self._consumer.pause([TopicPartition(topic, partition) for partition in partitions])

    def commit(self, writes: Sequence[Write], offsets: Mapping[int, int], step: Callable[[str], None]) -> None:
        """Write all of it and the offsets, or nothing. Raises RolledBackError or ReducerError. `step` is told each."""
        raw = topic_name(self._prefix, RAW)
        places = [TopicPartition(raw, partition, offset) for partition, offset in offsets.items()]
        self._look_before_the_last()
        try:
            self._producer.begin_transaction()
            step("begun")
            self._produce(writes)
            step("written")
            member = self._consumer.consumer_group_metadata()
            self._send_offsets(places, member)
            step("offsets sent")
            self._patiently(self._producer.commit_transaction, _ANSWER_SECONDS)
            self._fault = None  # what connections said before is over
        except (KafkaException, BufferError, HeldError) as error:
            self._roll_back(error)

    def state_reader(self, partitions: Sequence[int]) -> StateReader | None:
        """Return a reader of the stored state of partitions; None where nobody answers now. Raises ReducerError."""
        topic = topic_name(self._prefix, OPEN_TRANSACTIONS)
        ends: dict[int, int] = {}
        for partition in partitions:
            place = TopicPartition(topic, partition)
            try:
                if self._stop.is_set:
                    return None
                _, ends[partition] = self._watermarks.get_watermark_offsets(place, timeout=_ASK_SECONDS)
            except KafkaException as error:
                self._must_wait(error, place)
                return None
        return StateReader(self._state_config, topic, ends)

    def close(self) -> None:
        """Leave the group and let go of the clients; what was not committed is void. No time limits it."""
        self._is_closing = True
        with suppress(KafkaException, RuntimeError):
            self._consumer.close()
        with suppress(KafkaException, RuntimeError):
            self._watermarks.close()
        del self._producer  # now, and not as the interpreter ends: whoever watches the time is gone by then

    def _seconds(self, most: float) -> float:
        return max(_LEAST_SECONDS, self._stop.seconds(most))

    def _look_before_the_last(self) -> None:
        """Raise ReducerError where the process is to stop and nobody answers.

        Else the last commit would take, in vain, all the time there is to end in.
        """
        if not self._stop.is_set:
            return
        try:
            self._producer.list_topics(topic_name(self._prefix, RAW), timeout=self._seconds(_ASK_SECONDS))
        except KafkaException as error:
            raise self._error(error, "to write") from error

    def _produce(self, writes: Sequence[Write]) -> None:
        produce, names = self._producer.produce, self._names
        for topic, partition, key, value, headers in writes:
            number = -1 if partition is None else partition
            while True:
                try:
                    # By position: keywords cost half a microsecond a record.
                    produce(names[topic], value, key, number, None, None, 0, list(headers) if headers else None)
                except BufferError:
                    if self._stop.is_set and not self._stop.seconds(_SLICE_SECONDS):
                        raise
                    self._producer.poll(0.1)
                else:
                    break

    def _send_offsets(self, places: list[TopicPartition], member: object) -> None:
        """Send the group's offsets. Raises as `_patiently` does, and HeldError without an answer in _ANSWER_SECONDS.

        The client's call keeps to no time, and may never return where the client dropped the group's coordinator from
        its brokers meanwhile: it waits for that connection (seen with librdkafka 2.16, its issues 5456 and 5511).
        """
        send, until = self._producer.send_offsets_to_transaction, time.monotonic() + _ANSWER_SECONDS
        self._patiently(
            lambda seconds: call_in_time(
                lambda: send(places, member, seconds), lambda: self._stop.seconds(until - time.monotonic())
            )
        )

    def _patiently(self, call: Callable[[float], None], most_seconds: float | None = None) -> None:
        """Call until there is an answer: a broker may be away for long. Says so once; ends in time where it is to stop.

        Raises ReducerError then, KafkaException for other answers and where there is none for `most_seconds`.
        """
        began = time.monotonic()
        said = False
        while True:
            try:
                call(self._seconds(_SLICE_SECONDS))
            except KafkaException as error:
                now = time.monotonic()
                if not error.args[0].retriable():
                    raise
                if self._stop.is_set and not self._stop.seconds(_SLICE_SECONDS):
                    raise self._error(error, "to write") from error
                if most_seconds is not None and now - began > most_seconds:
                    raise
                if not said and now - began > _SAY_SECONDS:
                    said = True
                    self._report(f"{self._error(error, 'to write')}; waiting")
            else:
                return

    def _roll_back(self, error: KafkaException | BufferError | HeldError) -> None:
        """Take a new client, which ends what the old one left open; raise RolledBackError, or ReducerError.

        The old one is not asked to abort: it may wait for a connection that it will never open again, and it takes for
        its own end what a broker says that came back and knows of no transaction (both seen with librdkafka 2.16).
        Where a call still holds it, it is let go of when that call returns.
        """
        fault = error.args[0] if isinstance(error, KafkaException) else KafkaError(KafkaError._TIMED_OUT)  # noqa: SLF001 - its public name
        if fault.code() in _OVER or (self._stop.is_set and not self._stop.seconds(_SLICE_SECONDS)):
            raise self._error(KafkaException(fault), "to write") from error
        self._producer.purge(blocking=False)
        self._producer = Producer(self._producer_config)
        try:
            self._patiently(self._producer.init_transactions)
        except KafkaException as again:
            raise self._error(again, "to write") from error
        raise RolledBackError(str(error.args[0])) from error

    def _count_partitions(self, name: str) -> int:
        topic = topic_name(self._prefix, name)
        deadline = time.monotonic() + _START_SECONDS
        while True:
            if self.is_to_stop():
                return 0
            try:
                found = self._watermarks.list_topics(topic, timeout=_LOOK_SECONDS).topics[topic]
            except KafkaException as error:
                self._watermarks.poll(0)  # its callbacks say what became of the connections
                is_refused = self._fault is not None and self._fault.name() in CREDENTIALS
                if self.is_to_stop():
                    return 0
                if is_refused or time.monotonic() > deadline:
                    raise self._error(error, "to start") from error
            else:
                break
        if found.error is not None or not found.partitions:
            raise ReducerError(f"Kafka at {self._servers} has no topic {topic}; run `mailspan setup` first")
        return len(found.partitions)

    def _on_assign(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        if places:
            # Not from where the group was: that is never asked for, and may be gone.
            consumer.incremental_assign(
                [TopicPartition(each.topic, each.partition, OFFSET_BEGINNING) for each in places]
            )
            consumer.pause(places)
        self._assignments.assigned([place.partition for place in places])

    def _on_revoke(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        numbers = [place.partition for place in places]
        (self._assignments.lost if self._is_closing else self._assignments.revoked)(numbers)
        consumer.incremental_unassign(places)

    def _on_lost(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        self._assignments.lost([place.partition for place in places])
        consumer.incremental_unassign(places)

    def _note(self, error: KafkaError) -> None:
        if self._fault is None or not is_telling(self._fault.name(), self._fault.str()):
            self._fault = error

    def _error(self, error: KafkaException, doing: str) -> ReducerError:
        fault: KafkaError = error.args[0]
        if fault.code() in _FENCED:
            return ReducerError(
                f"another reducer runs as {self._instance!r}, and this one was told to end ({fault.str().strip()});"
                " each needs a MAILSPAN_INSTANCE of its own"
            )
        if self._fault is not None and fault.code() < 0:
            fault = self._fault  # what the connections said before
        reason = fault.str().strip() or fault.name()
        return ReducerError(explain(fault.name(), fault.code(), reason, self._servers, doing))


class StateReader:
    """Reads the stored state of partitions to its end, a piece at a time, so that the loop can go on meanwhile.

    The end is the high watermark as an uncommitted reader sees it: where another reducer's transaction is still open,
    a committed reader stops short of it and has to wait until the broker has ended that transaction.
    """

    def __init__(self, config: Mapping[str, object], topic: str, ends: Mapping[int, int]) -> None:
        self._consumer = Consumer(
            {
                **config,
                "group.id": "mailspan-reducer-restore",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                # What waits in the client is on top of the state itself; and it is soon read on when there is room.
                "queued.max.messages.kbytes": 16384,
                "fetch.queue.backoff.ms": 10,
            }
        )
        self._topic = topic
        self._ends = dict(ends)
        self.state = {partition: StoredState() for partition in ends}
        self._consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in ends])

    def read(self, most: int, seconds: float) -> list[int]:
        """Read on; return the partitions whose state is now complete. Blocks for up to `seconds`.

        Those run from then on, and write: what comes after the end is not read.
        """
        done = []
        for message in self._consumer.consume(most, seconds):
            partition, offset = message.partition() or 0, message.offset() or 0
            error = message.error()
            if error is None:
                if partition not in self._ends:
                    continue  # it runs already: what is written to it since is no part of what was stored before
                key = _bytes(message.key()).decode("utf-8", "surrogateescape")
                value = message.value()
                self.state[partition].take(key, None if value is None else _bytes(value))
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
                if partition in self._ends and offset >= self._ends[partition]:
                    del self._ends[partition]
                    done.append(partition)
                    self._consumer.pause([TopicPartition(self._topic, partition)])
            elif not error.retriable() and error.code() not in _HARMLESS:
                raise ReducerError(f"the stored state cannot be read: {error.str()}")
        return done

    def close(self) -> None:
        """Let go of the client."""
        self._consumer.close()


def _bytes(value: str | bytes | None) -> bytes:
    return value if isinstance(value, bytes) else (value or "").encode()
