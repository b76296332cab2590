"""The stored state of several partitions is read while those that are complete run, and write, already."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Producer

from reducer.kafka import StateReader
from tests.kafka_site import Site

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kafka_server import Broker

pytestmark = pytest.mark.slow


def send(site: Site, *places: tuple[int, bytes]) -> None:
    producer = Producer({"bootstrap.servers": site.address, "log_level": 0})
    for partition, key in places:
        producer.produce(f"{site.prefix}.open-transactions", b"\0" + key, key, partition)
    assert producer.flush(60) == 0


def read_until(reader: StateReader, partition: int) -> None:
    deadline = time.monotonic() + 60
    while partition not in reader.read(100, 0.1):
        assert time.monotonic() < deadline


def test_what_a_running_partition_writes_is_no_state_to_be_read(broker: Broker, tmp_path: Path) -> None:
    site = Site(broker, tmp_path)
    site.setup()
    send(site, (0, b"a"), (1, b"b"))
    reader = StateReader({"bootstrap.servers": site.address}, f"{site.prefix}.open-transactions", {0: 1, 1: 2})
    try:
        read_until(reader, 0)
        assert reader.state.pop(0).joined() == ({"a": b"a"}, {})
        send(site, (0, b"c"))  # by the reducer itself: it runs
        send(site, (1, b"d"))
        read_until(reader, 1)
        assert reader.state.pop(1).joined() == ({"b": b"b", "d": b"d"}, {})
    finally:
        reader.close()
