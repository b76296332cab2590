"""The sink's clients without a broker: what must hold when partitions go at a bad moment, and of letters too large."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from mailspan.dead_letter import Source, read_headers
from sink.kafka import LARGEST_RECORD_BYTES, SinkError, SinkKafka, _letter
from sink.records import Record
from tests.jars import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from confluent_kafka import Message

TOPIC = "mail.transactions"


class Told:
    is_set = False


@pytest.fixture
def kafka() -> Iterator[SinkKafka]:
    config = {"bootstrap.servers": f"127.0.0.1:{free_port()}"}
    made = SinkKafka(config, "mail", Told(), lambda _line: None)
    yield made
    made.close()


class Group:
    """Stands for the client where there is no group: `commit` tells what it was given."""

    def __init__(self) -> None:
        self.offsets: list[tuple[int, int]] = []

    def commit(self, *, offsets: list[TopicPartition], asynchronous: bool) -> list[TopicPartition]:
        assert not asynchronous
        self.offsets += [(each.partition, each.offset) for each in offsets]
        return offsets

    def incremental_unassign(self, places: list[TopicPartition]) -> None:
        """There is nothing to let go of."""

    def pause(self, places: list[TopicPartition]) -> None:
        """There is nothing to pause."""

    def close(self) -> None:
        """There is nothing to close."""


def test_offsets_of_a_partition_that_went_are_not_kept_for_its_return(
    kafka: SinkKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = Group()
    monkeypatch.setattr(kafka, "_consumer", group)
    monkeypatch.setattr(kafka, "_owned", {1})
    kafka.commit({0: 100, 1: 7})
    monkeypatch.setattr(kafka, "_owned", {0, 1})  # it is back, and another sink was further meanwhile
    kafka.commit({})
    kafka.commit({1: 9})
    assert group.offsets == [(1, 7), (1, 9)]


def test_what_was_held_of_a_partition_that_goes_is_dropped(kafka: SinkKafka, monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group()
    monkeypatch.setattr(kafka, "_consumer", group)
    monkeypatch.setattr(kafka, "_owned", {0})

    class Held:
        def partition(self) -> int:
            return 0

    def consume(_most: int, _seconds: float) -> list[Message]:
        kafka._on_revoke(group, [TopicPartition(TOPIC, 0)])  # type: ignore[arg-type]  # noqa: SLF001
        return []

    monkeypatch.setattr(kafka, "_held", [Held()])
    monkeypatch.setattr(kafka, "_consume", consume)
    kafka.idle(0.01)
    assert kafka._held == []  # noqa: SLF001 - what the next batch begins with


def test_a_letter_that_is_larger_than_a_record_is_cut_and_says_so() -> None:
    record = Record(3, 17, b"key", b"a" * (LARGEST_RECORD_BYTES + 1), (("own", b"x"),))
    value, headers = _letter(record, Source(TOPIC, 3, 17), "no document")
    found = read_headers(headers)
    assert value == b"a" * (1 << 20)
    assert found.source is None
    assert found.headers == ()
    assert found.reason.startswith("no document (a record of ")
    assert f"partition 3 offset 17 of {TOPIC}, cut" in found.reason
    value, headers = _letter(record._replace(value=b"short"), Source(TOPIC, 3, 17), "no document")
    assert (value, read_headers(headers).source, read_headers(headers).headers) == (
        b"short", Source(TOPIC, 3, 17), (("own", b"x"),),
    )  # fmt: skip


def test_letters_that_the_broker_will_never_take_end_the_sink_with_one_line(
    kafka: SinkKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Producer:
        def produce(self, *_record: object, **_options: object) -> None:
            """Take it."""

        def flush(self, _seconds: float) -> int:
            raise KafkaException(KafkaError(KafkaError.CLUSTER_AUTHORIZATION_FAILED, "no right to be idempotent"))

    monkeypatch.setattr(kafka, "_producer", Producer())
    with pytest.raises(SinkError, match=r"no right to write dead letters \(CLUSTER_AUTHORIZATION_FAILED\)"):
        kafka.bury([(Record(0, 0, b"key", b"{"), "no document")])


def test_what_the_clients_say_while_nobody_answers_is_not_kept(kafka: SinkKafka) -> None:
    waiting = []
    for _ in range(8):
        kafka.gather(1, 1, 0.5)
        waiting.append(len(kafka._producer))  # noqa: SLF001 - events among them
    assert min(waiting[-4:]) < 4, waiting  # kept, they would be some more at each turn
