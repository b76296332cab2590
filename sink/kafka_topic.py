"""A topic of Kafka as `audit` and `dead-letter` use it, who are no sinks: those have sink/kafka.py.

`TopicReader` reads a topic, or single records of it, up to an end that was asked for before; it joins no group and
moves no offset. `TopicWriter` puts records back, acknowledged by all brokers. What is read and written, and why, is
decided elsewhere. Errors are one line each, and name the setting.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from mailspan.dead_letter import headers_of_record
from mailspan.errors import MailspanError, UsageError
from mailspan.kafka_faults import Faults
from mailspan.kafka_settings import FIXED
from sink.kafka import LARGEST_RECORD_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from mailspan.dead_letter import Headers

START_SECONDS = 10.0
_ASK_SECONDS = 2.0
_READ_RECORDS = 500
_READ_SECONDS = 0.2
_PATIENCE_SECONDS = 30.0  # without any progress, of reading or writing
_NEAR_RECORDS = 2000  # to read so many that are not wanted costs less than to begin anew
_NO_OFFSET = 0  # what the client calls none is negative

_EOF = KafkaError._PARTITION_EOF  # noqa: SLF001 - its public name
_NO_GROUP = KafkaError.GROUP_AUTHORIZATION_FAILED
_HARMLESS = frozenset({_EOF, _NO_GROUP, KafkaError._ALL_BROKERS_DOWN, KafkaError._MAX_POLL_EXCEEDED})  # noqa: SLF001 - its public name
"""What says nothing of reading, or what the client mends by itself: without progress it is told in the end."""

_log = logging.getLogger("mailspan.kafka")  # librdkafka's own lines: shown only to who asks for them
_log.addHandler(logging.NullHandler())
_log.propagate = False


_T = TypeVar("_T")


class KafkaUseError(MailspanError):
    """Kafka cannot be used; the message says what to look at."""


class Range(NamedTuple):
    """What a partition has: records from `first` to before `end`, not all of these offsets."""

    first: int
    end: int


class TopicRecord(NamedTuple):
    """A record. `milliseconds` is its time since 1970 UTC."""

    partition: int
    offset: int
    milliseconds: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class Outgoing(NamedTuple):
    """A record to be written. `partition` is given: nobody partitions it anew."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class TopicReader:
    """Reads one topic's committed records; use as a context manager. All methods raise KafkaUseError.

    It has a group's name, to be told that group's offsets, and is no member of it.
    """

    def __init__(self, config: Mapping[str, str], topic: str, group: str) -> None:
        """Make a client; nothing is asked yet. Raises UsageError for options that are wrong."""
        self.topic = topic
        self._group = group
        self._faults = Faults(config["bootstrap.servers"])
        try:
            self._consumer = Consumer(
                {
                    **config,
                    "error_cb": self._faults.note,
                    "logger": _log,
                    "group.id": group,
                    "enable.auto.commit": False,
                    "enable.auto.offset.store": False,
                    "isolation.level": "read_committed",
                    "enable.partition.eof": True,
                    "queued.max.messages.kbytes": 32768,
                    "fetch.wait.max.ms": 20,  # the end is known by an empty answer
                    "auto.offset.reset": "earliest",  # what is deleted as it is read is passed over
                }
            )
        except KafkaException as error:
            raise UsageError(f"MAILSPAN_KAFKA_OPTIONS: {error.args[0].str()}") from None

    def __enter__(self) -> Self:
        """Return the reader itself."""
        return self

    def __exit__(self, *_exception: object) -> None:
        """Let go of the client."""
        with suppress(KafkaException, RuntimeError):
            self._consumer.close()

    def ranges(self) -> dict[int, Range]:
        """Return what each partition has now. What is in a transaction that is not over is behind the end."""
        topics = self._patiently(lambda: self._consumer.list_topics(self.topic, timeout=_ASK_SECONDS)).topics
        found = topics[self.topic]
        if found.error is not None or not found.partitions:
            raise KafkaUseError(
                f"the topic {self.topic} does not exist, or may not be seen; run `mailspan setup`,"
                " or see MAILSPAN_TOPIC_PREFIX"
            )
        return {number: self._patiently(partial(self._range_of, number)) for number in sorted(found.partitions)}

    def committed(self, partitions: Iterable[int]) -> dict[int, int]:
        """Return the next offset that the group will read of each partition of which it has committed any."""
        places = [TopicPartition(self.topic, number) for number in partitions]
        doing = f"to see the offsets of the group {self._group}"
        found = self._patiently(partial(self._offsets_at, places), doing, is_about_group=True)
        return {each.partition: each.offset for each in found if each.offset >= _NO_OFFSET}

    def read(self, ranges: Mapping[int, Range]) -> Iterator[TopicRecord]:
        """Yield the records of these ranges; those of one partition in their order. Blocks as long as some come."""
        left = {number: each.end for number, each in ranges.items() if each.first < each.end}
        if not left:
            return
        self._consumer.assign([TopicPartition(self.topic, number, ranges[number].first) for number in left])
        try:
            last_at = time.monotonic()
            while left:
                is_told = False
                for message in self._consumer.consume(_READ_RECORDS, _READ_SECONDS):
                    fault = message.error()
                    if fault is not None and fault.code() != _EOF:
                        self._mind(fault)
                        continue
                    is_told = True
                    if _is_left(message, left):
                        yield _record(message)
                if is_told:
                    last_at = time.monotonic()  # what the caller did meanwhile was no waiting
                elif self._faults.are_credentials or time.monotonic() - last_at > _PATIENCE_SECONDS:
                    raise self._error(_no_answer(), f"to read {self.topic}")
        except KafkaException as error:
            raise self._error(error.args[0], f"to read {self.topic}") from error
        finally:
            with suppress(KafkaException, RuntimeError):
                self._consumer.unassign()

    def at(self, places: Mapping[int, Sequence[int]]) -> Iterator[TopicRecord]:
        """Yield the records at these offsets of partitions; in order, without those that are there no longer."""
        for partition, offsets in sorted(places.items()):
            for run in _runs(sorted(set(offsets))):
                wanted = frozenset(run)
                for record in self.read({partition: Range(run[0], run[-1] + 1)}):
                    if record.offset in wanted:
                        yield record

    def _range_of(self, partition: int) -> Range:
        place = TopicPartition(self.topic, partition)
        return Range(*self._consumer.get_watermark_offsets(place, timeout=_ASK_SECONDS))

    def _offsets_at(self, places: list[TopicPartition]) -> list[TopicPartition]:
        found: list[TopicPartition] = self._consumer.committed(places, timeout=_ASK_SECONDS)
        for each in found:
            if each.error is not None:
                raise KafkaException(each.error)
        return found

    def _patiently(self, call: Callable[[], _T], doing: str = "", *, is_about_group: bool = False) -> _T:
        """Call until there is an answer; a broker may have just started."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return call()
            except KafkaException as error:
                fault: KafkaError = error.args[0]
                told = self._consumer.poll(0)  # its callbacks say what became of the connections
                refusal = None if told is None else told.error()
                if is_about_group and refusal is not None and refusal.code() == _NO_GROUP:
                    fault = refusal
                is_hopeless = fault.code() >= 0 and not fault.retriable()
                if is_hopeless or self._faults.are_credentials or time.monotonic() > deadline:
                    raise self._error(fault, doing or f"to read {self.topic}") from error

    def _error(self, fault: KafkaError, doing: str) -> KafkaUseError:
        return KafkaUseError(self._faults.explain(fault, doing))

    def _mind(self, fault: KafkaError) -> None:
        if not fault.retriable() and fault.code() not in _HARMLESS:
            raise self._error(fault, f"to read {self.topic}")


class TopicWriter:
    """Writes records to the partitions that they name; use as a context manager, and `flush` before its end.

    Each `told` is called once, from `send` or `flush`: with None where all brokers have the record, else with the
    reason. What was not flushed is dropped at the end.
    """

    def __init__(self, config: Mapping[str, str]) -> None:
        """Make a client; nothing is sent yet. Raises UsageError for options that are wrong."""
        self._faults = Faults(config["bootstrap.servers"])
        ours = {"error_cb": self._faults.note, "logger": _log, "message.max.bytes": LARGEST_RECORD_BYTES}
        try:
            self._producer = Producer({"queue.buffering.max.kbytes": 65536, **config, **FIXED, **ours})
        except KafkaException as error:
            raise UsageError(f"MAILSPAN_KAFKA_OPTIONS: {error.args[0].str()}") from None

    def __enter__(self) -> Self:
        """Return the writer itself."""
        return self

    def __exit__(self, *_exception: object) -> None:
        """Let go of the client."""
        self._producer.purge()
        self._producer.close()

    def send(self, record: Outgoing, told: Callable[[str | None], None]) -> None:
        """Take a record; waits where many are under way. Raises KafkaUseError where nobody takes them."""

        def delivered(error: KafkaError | None, _message: Message) -> None:
            told(None if error is None else error.str())

        last_at, waiting = time.monotonic(), len(self._producer)
        while True:
            try:
                self._producer.produce(
                    record.topic,
                    record.value,
                    record.key,
                    record.partition,
                    on_delivery=delivered,
                    headers=list(record.headers),
                )
            except BufferError:
                last_at, waiting = self._wait(last_at, waiting)
            except KafkaException as error:
                told(error.args[0].str())
                return
            else:
                return

    def flush(self) -> None:
        """Wait until each record is acknowledged or refused. Raises KafkaUseError where nothing more is told."""
        last_at, waiting = time.monotonic(), len(self._producer)
        while waiting:
            last_at, waiting = self._wait(last_at, waiting)

    def _wait(self, last_at: float, before: int) -> tuple[float, int]:
        """Wait a little; return when there was progress, and how many are under way."""
        try:
            waiting = self._producer.flush(_READ_SECONDS)
        except KafkaException as error:  # a fatal one: without the right to be idempotent, for example
            raise KafkaUseError(self._faults.explain(error.args[0], "to write")) from error
        now = time.monotonic()
        if waiting < before:
            return now, waiting
        if self._faults.are_credentials or now - last_at > _PATIENCE_SECONDS:
            raise KafkaUseError(self._faults.explain(_no_answer(), "to write"))
        return last_at, waiting


def _no_answer() -> KafkaError:
    return KafkaError(KafkaError._TIMED_OUT, f"nothing came for {_PATIENCE_SECONDS:.0f} s")  # noqa: SLF001 - its public name


def _is_left(message: Message, left: dict[int, int]) -> bool:
    """Whether a message is a record to be read; a partition whose end it shows is taken out of `left`."""
    is_end, partition, offset = message.error() is not None, message.partition() or 0, message.offset() or 0
    end = left.get(partition, 0)
    if partition in left and offset >= (end if is_end else end - 1):  # the last offsets may be no records
        del left[partition]
    return not is_end and offset < end


def _record(message: Message) -> TopicRecord:
    place = message.partition() or 0, message.offset() or 0
    return TopicRecord(*place, message.timestamp()[1], message.key(), message.value(), headers_of_record(message))


def _runs(offsets: Sequence[int]) -> Iterator[Sequence[int]]:
    """Yield rising offsets in groups that are near to each other."""
    start = 0
    for at in range(1, len(offsets) + 1):
        if at == len(offsets) or offsets[at] - offsets[at - 1] > _NEAR_RECORDS:
            yield offsets[start:at]
            start = at
