"""Reads a topic from its beginning to its present end, for tests."""

from __future__ import annotations

import time
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from mailspan.wire import Header, find_header


class Arrival(NamedTuple):
    """A record of mail.raw."""

    partition: int
    key: bytes
    value: bytes
    header: Header | None


def read_all(address: str, topic: str, seconds: float = 60.0) -> list[Arrival]:
    """Return all records of mail.raw, each partition's in order. Raises TimeoutError."""
    found = []
    for message in read_messages(address, topic, seconds):
        headers = message.headers()
        pairs = list(headers.items()) if isinstance(headers, dict) else headers
        header = find_header([(name, raw) for name, raw in pairs or () if isinstance(raw, bytes)])
        found.append(Arrival(message.partition() or 0, message.key() or b"", message.value() or b"", header))
    return found


def read_messages(address: str, topic: str, seconds: float = 60.0) -> list[Message]:
    """Return all records, each partition's in order. Raises TimeoutError."""
    consumer = Consumer(
        {
            "bootstrap.servers": address,
            "group.id": "test-reading",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "log_level": 0,
        }
    )
    deadline = time.monotonic() + seconds
    found: list[Message] = []
    try:
        partitions = consumer.list_topics(topic, timeout=seconds).topics[topic].partitions
        ends = {}
        for number in partitions:
            low, high = _ends_of(consumer, TopicPartition(topic, number), deadline)
            if high > low:
                ends[number] = high
        consumer.assign([TopicPartition(topic, number, 0) for number in ends])
        while ends:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{topic} could not be read to its end: {ends}")
            for message in consumer.consume(1000, 0.05):
                assert message.error() is None, message.error()
                partition, offset = message.partition(), message.offset()
                assert partition is not None
                assert offset is not None
                found.append(message)
                if offset + 1 >= ends.get(partition, 0):
                    ends.pop(partition, None)
    finally:
        consumer.close()
    return found


def _ends_of(consumer: Consumer, partition: TopicPartition, deadline: float) -> tuple[int, int]:
    """Ask until a broker that has just started is the leader again."""
    while True:
        try:
            return consumer.get_watermark_offsets(partition, timeout=10)
        except KafkaException:
            if time.monotonic() > deadline:
                raise
            consumer.poll(0.1)


def kept(arrivals: list[Arrival]) -> list[bytes]:
    """Return the lines that a reducer keeps: of each generation those above the highest offset seen.

    A line that comes again has the same text at the same place.
    """
    highest: dict[str, int] = {}
    texts: dict[tuple[str, int], bytes] = {}
    lines = []
    for each in arrivals:
        assert each.header is not None
        generation, offset = each.header.reading.generation, each.header.offset
        assert texts.setdefault((generation, offset), each.value) == each.value
        if offset > highest.get(generation, -1):
            highest[generation] = offset
            lines.append(each.value)
    return lines
