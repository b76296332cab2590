"""A place of its own on the real broker and the real Elasticsearch for one test, and sinks as processes."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import orjson
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from tests.kafka_site import PARTITIONS, Site, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from tests.elasticsearch_server import Node
    from tests.kafka_server import Broker


class Chain(Site):
    """Topics and daily indices under one prefix."""

    def __init__(self, broker: Broker, node: Node, folder: Path) -> None:
        super().__init__(broker, folder)
        self.node = node
        self.transactions = f"{self.prefix}.transactions"
        self.settings |= {
            "ELASTICSEARCH_URL": node.url,
            "INDEX_PREFIX": f"{self.prefix}-documents",
            "INDEX_REPLICAS": "0",
            "RETENTION_DAYS": "700000",
        }

    def sink(self, **settings: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
        """Run a sink."""
        return self.stage("sink", **settings)

    @contextmanager
    def stage(self, command: str, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run one of the consumers; what it says is added to `said()`. It is killed in the end."""
        with (self.folder / "stderr").open("ab") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "mailspan", command], stderr=stderr, env=self.environment(**settings)
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def send(self, records: Iterable[tuple[bytes | str, bytes | None]], partition: int = 0) -> None:
        """Write records into mail.transactions, in their order, and wait until they are there."""
        failed: list[KafkaError] = []

        def note(fault: KafkaError | None, _message: Message) -> None:
            if fault is not None:
                failed.append(fault)

        producer = Producer({"bootstrap.servers": self.address, "log_level": 0, "message.max.bytes": 9 << 20})
        for key, value in records:
            producer.produce(self.transactions, value, key, partition, on_delivery=note)
        assert producer.flush(60) == 0
        assert not failed

    def behind(self, topic: str = "transactions", group: str = "sink") -> int:
        """Return how many records a group has not passed yet. Raises KafkaException, also for a while."""
        places = [TopicPartition(f"{self.prefix}.{topic}", number) for number in range(PARTITIONS)]
        consumer = Consumer(
            {
                "bootstrap.servers": self.address,
                "group.id": f"{self.prefix}-mailspan-{group}",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "enable.partition.eof": True,  # behind the last record stand the broker's own marks of commits
                "log_level": 0,
            }
        )
        count, unread = 0, set(range(PARTITIONS))
        deadline = time.monotonic() + 60
        try:
            known = consumer.committed(places, timeout=30)
            for each in known:
                each.offset = each.offset if each.offset >= 0 else OFFSET_BEGINNING
            consumer.assign(known)
            while unread:
                assert time.monotonic() < deadline
                for message in consumer.consume(1000, 0.2):
                    if message.error() is None:
                        count += 1
                    else:
                        unread.discard(message.partition() or 0)
        finally:
            consumer.close()
        return count

    def wait_until_settled(self, seconds: float = 60.0) -> None:
        """Wait until the sinks' group has passed all records that were sent by `send`."""
        self._wait_for(lambda: not self.behind(), seconds)

    def carry(self, *logs: Path) -> None:
        """Bring log files to the index, by a producer, a reducer and a sink, and wait until all of it is there."""
        done = self.run("produce", "tail", *map(str, logs), "--once")
        assert done.returncode == 0, done.stderr
        with self.stage("reduce"), self.sink():
            self._wait_for(lambda: not self.behind("raw", "reducer"), 60.0)
            self._wait_for(lambda: not self.behind(), 60.0)

    @staticmethod
    def _wait_for(is_so: Callable[[], bool], seconds: float) -> None:
        def is_settled() -> bool:
            try:
                return is_so()
            except KafkaException as error:
                if not error.args[0].retriable() and error.args[0].code() != KafkaError.NOT_COORDINATOR:
                    raise
                return False  # the group's coordinator is being found

        wait_until(is_settled, seconds)

    def stored(self) -> dict[str, Any]:
        """Return all documents by id."""
        prefix = self.settings["INDEX_PREFIX"]
        body = {"size": 10_000, "query": {"match_all": {}}}
        found: Any = None

        def is_answered() -> bool:  # an index that is being made has no shard yet
            nonlocal found
            assert self.node.ask("POST", f"/{prefix}-*/_refresh")[0] == 200
            status, found = self.node.ask("POST", f"/{prefix}-*/_search", body)
            assert status in {200, 503}
            return status == 200

        wait_until(is_answered)
        return {hit["_id"]: hit["_source"] for hit in found["hits"]["hits"]}


def record(document: dict[str, Any]) -> tuple[bytes, bytes]:
    """Return the record of a document, as the reducer writes it."""
    return document["id"].encode(), orjson.dumps(document)
