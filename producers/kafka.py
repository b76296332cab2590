"""Kafka as the producers and `setup` use it: the only file on this side that imports the client.

`KafkaTopic` writes mail.raw: acks=all, idempotent, no message timeout, so librdkafka itself retries for ever and in
order. Its queue is bounded; when it is full, `send` says so and the input stops reading. That nobody can be reached is
told as the client says so; that nobody answers, as of a broker that hangs, when nothing arrived for _SILENT_SECONDS.
What fails all the same (a fatal error, a record that the broker refuses) ends in `restart`: a new client, and the input
begins again where everything has arrived. `Admin` looks at topics and alters them. Errors are one line each, and name
the setting.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Producer, TopicCollection
from confluent_kafka.admin import (
    AclOperation,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    NewTopic,
    ResourceType,
)

from mailspan.canary import CANARY_KEY, CANARY_NAME
from mailspan.errors import MailspanError, UsageError
from mailspan.kafka_faults import AWAY, Faults
from mailspan.kafka_settings import FIXED, client_config, explain
from mailspan.topics import RAW, topic_name
from mailspan.wire import HEADER_NAME, encode_offset
from producers.shipping import SendError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mailspan.line_key import LineKeys
    from mailspan.settings import Settings
    from producers.shipping import Batch

_START_SECONDS = 10.0
_LOOK_SECONDS = 5.0
_ANSWER_SECONDS = 10.0
_LOOKS = 3
_SILENT_SECONDS = 5.0  # the client itself would say nothing for a minute, or ever
_LARGEST_BATCH_BYTES = 1_000_000  # librdkafka's message.max.bytes: a smaller limit would refuse lines for ever
_QUEUE_KBYTES = 32 * 1024  # with what librdkafka and Python add, well below 200 MB in all
_QUEUE_MESSAGES = 100_000
_PURGED = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT})  # noqa: SLF001 - its public names
"""What we have dropped ourselves."""

_PRODUCER_DEFAULTS = {
    "linger.ms": "50",
    "compression.type": "lz4",
    "queue.buffering.max.kbytes": str(_QUEUE_KBYTES),
    "queue.buffering.max.messages": str(_QUEUE_MESSAGES),
}

_log = logging.getLogger("mailspan.kafka")  # librdkafka's own lines: shown only to who asks for them
_log.addHandler(logging.NullHandler())
_log.propagate = False


class KafkaUseError(MailspanError):
    """Kafka cannot be used; the message says what to look at."""


class _NoAnswerError(KafkaUseError):
    """No answer came in time."""


class TopicState(NamedTuple):
    """A topic as the broker has it."""

    partitions: int
    replication: int
    settings: Mapping[str, str]


def _explain(error: KafkaError, settings: Settings, doing: str) -> str:
    reason = error.str().strip() or error.name()
    return explain(error.name(), error.code(), reason, settings.kafka_bootstrap_servers, doing)


def _fault_of(exception: KafkaException) -> KafkaError:
    error: KafkaError = exception.args[0]
    return error


def _wrong_option(error: KafkaError) -> UsageError:
    return UsageError(f"MAILSPAN_KAFKA_OPTIONS: {error.str()}")


class Admin:
    """Looks at topics and alters them. Raises KafkaUseError and UsageError."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._faults = Faults(settings.kafka_bootstrap_servers)
        config: dict[str, Any] = {**client_config(settings), "error_cb": self._faults.note, "logger": _log}
        try:
            self._client = AdminClient(config)
        except KafkaException as exception:
            raise _wrong_option(_fault_of(exception)) from None

    def connect(self) -> tuple[dict[str, int], list[int]]:
        """Wait for a broker; return the topics with their numbers of partitions, and the brokers' ids.

        All topics are asked for: to ask for one by name would create it where brokers do so by themselves.
        """
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                cluster = self._client.list_topics(timeout=1.0)
            except KafkaException as exception:
                self._client.poll(0)
                if self._faults.are_credentials or time.monotonic() >= deadline:
                    raise KafkaUseError(self._faults.explain(_fault_of(exception), "to list topics")) from None
            else:
                topics = {name: len(each.partitions) for name, each in cluster.topics.items()}
                return topics, sorted(cluster.brokers)

    def describe(self, name: str) -> TopicState:
        """Return a topic that is there."""
        topic = self._client.list_topics(timeout=_START_SECONDS).topics[name]
        replication = min((len(each.replicas) for each in topic.partitions.values()), default=0)
        settings = self._configs(ConfigResource(ResourceType.TOPIC, name), f"to see the settings of {name}")
        return TopicState(len(topic.partitions), replication, {key: each.value or "" for key, each in settings.items()})

    def may_write(self, name: str) -> bool:
        """Whether the user may write to a topic; true where the broker does not tell."""
        topics = TopicCollection([name])
        described = self._look(
            lambda: self._client.describe_topics(topics, include_authorized_operations=True)[name], f"to see {name}"
        )
        allowed = described.authorized_operations
        return not allowed or AclOperation.WRITE in allowed

    def topic_setting(self, topic: str, name: str) -> str | None:
        """Return a topic's setting; None where it is not known or may not be seen."""
        return self._setting(ConfigResource(ResourceType.TOPIC, topic), name)

    def broker_setting(self, broker: int, name: str) -> str | None:
        """Return a broker's setting; None where it is not known or may not be seen."""
        return self._setting(ConfigResource(ResourceType.BROKER, str(broker)), name)

    def _setting(self, resource: ConfigResource, name: str) -> str | None:
        with suppress(KafkaUseError):
            found = self._configs(resource, "to see settings")
            if name in found:
                return found[name].value
        return None

    def create(self, name: str, partitions: int, replication: int, settings: Mapping[str, str]) -> None:
        """Create a topic, and wait until it is there: a broker may answer before it knows the topic itself."""
        topic = NewTopic(name, partitions, replication, config=dict(settings))
        futures = self._client.create_topics([topic], operation_timeout=30.0, request_timeout=40.0)
        self._wait(futures[name], f"to create {name}")
        deadline = time.monotonic() + _START_SECONDS
        while name not in self.connect()[0] and time.monotonic() < deadline:
            time.sleep(0.02)

    def alter(self, name: str, settings: Mapping[str, str]) -> None:
        """Set settings of a topic; others stay as they are."""
        entries = [
            ConfigEntry(key, value, ConfigSource.DYNAMIC_TOPIC_CONFIG, incremental_operation=AlterConfigOpType.SET)
            for key, value in settings.items()
        ]
        resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries)
        futures = self._client.incremental_alter_configs([resource])
        self._wait(futures[resource], f"to alter {name}")

    def _configs(self, resource: ConfigResource, doing: str) -> dict[str, ConfigEntry]:
        found: dict[str, ConfigEntry] = self._look(lambda: self._client.describe_configs([resource])[resource], doing)
        return found

    def _look(self, ask: Callable[[], Any], doing: str) -> Any:  # noqa: ANN401 - the client's futures hold each its own
        """Ask for what changes nothing; again where no answer comes, as from a broker that was just away."""
        for _ in range(_LOOKS - 1):
            with suppress(_NoAnswerError):
                return self._wait(ask(), doing, _ANSWER_SECONDS)
        return self._wait(ask(), doing, _ANSWER_SECONDS)

    def _wait(self, future: Any, doing: str, seconds: float = 60.0) -> Any:  # noqa: ANN401 - as above
        try:
            return future.result(timeout=seconds)
        except KafkaException as exception:
            raise KafkaUseError(_explain(_fault_of(exception), self._settings, doing)) from None
        except TimeoutError:
            error = KafkaError(KafkaError._TIMED_OUT, f"no answer within {seconds:.0f} s")  # noqa: SLF001 - its public name
            raise _NoAnswerError(_explain(error, self._settings, doing)) from None


class KafkaTopic:
    """The topic mail.raw. `locate` gives partition and key of a line; `report` is told when brokers go and come.

    Raises KafkaUseError and UsageError: no broker, wrong credentials, no topic, another number of partitions.
    """

    most_lines = _QUEUE_MESSAGES
    """How many lines may be under way."""

    def __init__(self, settings: Settings, keys: LineKeys, report: Callable[[str], None]) -> None:
        self.restarts = 0
        self.times_full = 0
        """How often it took nothing more."""
        self._settings = settings
        self._locate = keys.locate
        self._report = report
        self._name = topic_name(settings.topic_prefix, RAW)
        self._is_away = False
        self._may_be_back = False  # a line arrived since that was told
        self._next_look = 0.0
        self._notes = 0  # how often the client said something of its connections
        self._heard_at = 0.0  # when a line arrived, or none was under way
        self._fatal: KafkaError | None = None
        config = client_config(settings)
        self._config: dict[str, Any] = {
            **_PRODUCER_DEFAULTS,
            **config,
            **FIXED,
            "error_cb": self._note,
            "logger": _log,
        }
        self._check_topic()
        self._producer = self._connect()

    def send(self, batch: Batch) -> bool:
        """Take lines of the batch from `batch.sent` on; False where the queue is full. Raises SendError."""
        produce, locate, topic, settle = self._producer.produce, self._locate, self._name, batch.settle
        lines, starts, reading = batch.lines, batch.starts, batch.reading
        at = batch.sent
        try:
            for at in range(at, len(lines)):  # noqa: B020 - where it stopped is kept
                line = lines[at]
                partition, key = locate(line)
                # By position: keywords cost half a microsecond a line.
                produce(
                    topic, line, key, partition, settle, None, 0, [(HEADER_NAME, encode_offset(starts[at]) + reading)]
                )
        except BufferError:
            batch.sent = at
            self.times_full += 1
            return False
        except KafkaException as exception:
            batch.sent = at
            raise SendError(_explain(_fault_of(exception), self._settings, f"to write {topic}")) from None
        batch.sent = len(lines)
        return True

    def send_canary(self, partition: int, header: bytes, settle: Callable[[str], None]) -> bool:
        """Take a canary; False where the queue is full, or the client at its end (that is what `serve` raises).

        `settle` is told why it did not arrive, empty where it did; nothing where `restart` or `close` drops it.
        """

        def report(fault: KafkaError | None, _message: object) -> None:
            if fault is None or fault.code() not in _PURGED:
                settle("" if fault is None else _explain(fault, self._settings, f"to write {self._name}"))

        try:
            self._producer.produce(
                self._name, b"", CANARY_KEY, partition, on_delivery=report, headers=[(CANARY_NAME, header)]
            )
        except (BufferError, KafkaException):
            return False
        return True

    @property
    def is_away(self) -> bool:
        """Whether no broker answers, as far as is known."""
        return self._is_away

    @property
    def lines_under_way(self) -> int:
        """How many lines the client has taken and not reported on."""
        return len(self._producer)

    def serve(self, seconds: float) -> None:
        """Deliver reports to batches; wait up to `seconds` for the first one. Raises SendError after a fatal error."""
        notes = self._notes
        served = self._producer.poll(seconds)
        self._listen(is_heard=served > self._notes - notes)
        if self._fatal is not None:
            error, self._fatal = self._fatal, None
            raise SendError(error.str())
        if self._is_away and self._may_be_back:
            self._look_for_broker()

    def restart(self) -> None:
        """Drop all that is under way and make a new client."""
        self.restarts += 1
        self.close()
        self._fatal = None
        self._producer = self._connect()

    def close(self) -> None:
        """Drop what is under way and let go of the client."""
        self._producer.purge()
        with suppress(SendError):
            self.serve(0)
        self._producer.close()

    def _connect(self) -> Producer:
        self._heard_at = time.monotonic()
        try:
            return Producer(self._config)
        except KafkaException as exception:
            raise _wrong_option(_fault_of(exception)) from None

    def _check_topic(self) -> None:
        admin = Admin(self._settings)
        topics, _ = admin.connect()
        wanted = self._settings.partitions
        found = topics.get(self._name)
        if found is None:
            raise KafkaUseError(
                f"the topic {self._name} does not exist, or may not be seen; run `mailspan setup`,"
                " or see MAILSPAN_TOPIC_PREFIX"
            )
        if found != wanted:
            raise KafkaUseError(f"{self._name} has {found} partitions, and MAILSPAN_PARTITIONS is {wanted}")
        if not admin.may_write(self._name):
            raise KafkaUseError(f"no right to write {self._name}; see the user in MAILSPAN_KAFKA_OPTIONS and its ACLs")
        largest = admin.topic_setting(self._name, "max.message.bytes")
        if largest is not None and int(largest) < _LARGEST_BATCH_BYTES:
            raise KafkaUseError(
                f"{self._name}: max.message.bytes is {largest}, and a batch may have {_LARGEST_BATCH_BYTES};"
                " run `mailspan setup`"
            )

    def _note(self, error: KafkaError) -> None:
        self._notes += 1
        if error.fatal():
            self._fatal = error
        elif error.name() in AWAY:
            self._tell_away(error)

    def _listen(self, *, is_heard: bool) -> None:
        """Tell when lines are under way and none arrives, though the connections are there."""
        now = time.monotonic()
        if is_heard or not len(self._producer):
            self._heard_at = now
            self._may_be_back = self._may_be_back or is_heard
        elif now - self._heard_at > _SILENT_SECONDS:
            reason = f"connected, and nothing arrived for {_SILENT_SECONDS:.0f} s"
            self._tell_away(KafkaError(KafkaError._TIMED_OUT, reason))  # noqa: SLF001 - its public name

    def _tell_away(self, error: KafkaError) -> None:
        if not self._is_away:
            self._is_away, self._may_be_back = True, False
            self._report(f"{_explain(error, self._settings, 'to write')}; waiting")

    def _look_for_broker(self) -> None:
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_SECONDS
        with suppress(KafkaException):
            self._producer.list_topics(timeout=0.2)
            self._is_away = False
            self._report("Kafka answers again")
