"""What must come out: the documents that `mailspan parse` makes of the same files, each in its newest version."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from confluent_kafka import Consumer, KafkaError, TopicPartition

from mailspan.canary import find_canary
from mailspan.dead_letter import headers_of_record
from tests.chaos.fleet import PARTITIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from confluent_kafka import Message

    from mailspan.canary import Canary
    from tests.chaos.fleet import Fleet


class Verdict(NamedTuple):
    """How the documents differ from the oracle's. `doubled` are those that no mail stands behind."""

    transactions: int
    lost: list[str]
    doubled: list[str]
    different: list[str]
    fields: dict[str, str]
    """What differs in the first few documents, by id."""

    @property
    def is_right(self) -> bool:
        """Whether nothing differs."""
        return not (self.lost or self.doubled or self.different)


def expected(fleet: Fleet) -> dict[str, bytes]:
    """Return the documents of one pass over all files, by id."""
    files = sorted(str(path) for path in (fleet.folder / "logs").rglob("mail.log*"))
    command = [sys.executable, "-m", "mailspan", "parse", *files]
    done = subprocess.run(command, env=fleet.environment(), check=True, capture_output=True)
    return {orjson.loads(line)["id"]: line for line in done.stdout.splitlines()}


def newest(fleet: Fleet) -> dict[str, bytes]:
    """Return what a store holds that takes every record of the topic in order: the newest version of each id."""
    found: dict[str, tuple[int, bytes]] = {}
    for identity, value in read_committed(fleet.broker.address, f"{fleet.prefix}.transactions"):
        if not value:
            found.pop(identity, None)
            continue
        version = orjson.loads(value)["version"]
        if version > found.get(identity, (-1, b""))[0]:
            found[identity] = (version, value)
    return {identity: document for identity, (_, document) in found.items()}


def read_committed(address: str, topic: str, seconds: float = 60.0) -> Iterator[tuple[str, bytes]]:
    """Yield key and value of each committed record; a deleted key has an empty value. Raises TimeoutError."""
    for message in committed(address, topic, seconds):
        yield (message.key() or b"").decode(), message.value() or b""


def canaries_of(fleet: Fleet, topic: str) -> dict[int, list[Canary]]:
    """Return the canaries that a topic has, by partition, in their order. Raises TimeoutError."""
    found: dict[int, list[Canary]] = {}
    for message in committed(fleet.broker.address, f"{fleet.prefix}.{topic}"):
        canary = find_canary(headers_of_record(message))
        if canary is not None:
            found.setdefault(message.partition() or 0, []).append(canary)
    return found


def committed(address: str, topic: str, seconds: float = 60.0) -> Iterator[Message]:
    """Yield each committed record. Raises TimeoutError.

    The end is where the client says so: behind the last record stand the broker's own marks of commits.
    """
    consumer = Consumer(
        {
            "bootstrap.servers": address,
            "group.id": "chaos-oracle",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 20,  # the end of a partition is told with an answer, which else waits for records
            "log_level": 0,
        }
    )
    deadline = time.monotonic() + seconds
    unread = set(range(PARTITIONS))
    try:
        consumer.assign([TopicPartition(topic, number, 0) for number in unread])
        while unread:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{topic} could not be read to its end")
            for message in consumer.consume(1000, 0.05):
                error = message.error()
                if error is None:
                    yield message
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its public name
                    unread.discard(message.partition() or 0)
    finally:
        consumer.close()


def judge(
    fleet: Fleet, found: Callable[[], dict[str, bytes]] | None = None, want: Mapping[str, bytes] | None = None
) -> Verdict:
    """Compare once what is `found`, by default in the topic; `want` is what is expected, where the caller knows it."""
    want = expected(fleet) if want is None else want
    have = newest(fleet) if found is None else found()
    different = sorted(each for each in want.keys() & have.keys() if want[each] != have[each])
    return Verdict(
        transactions=len(want),
        lost=sorted(want.keys() - have.keys()),
        doubled=sorted(have.keys() - want.keys()),
        different=different,
        fields={each: _difference(orjson.loads(want[each]), orjson.loads(have[each])) for each in different[:5]},
    )


def _difference(want: dict[str, Any], have: dict[str, Any]) -> str:
    return ", ".join(
        f"{name}: {want[name]!r} became {have.get(name)!r}" for name in want if want[name] != have.get(name)
    )


def settle(fleet: Fleet, seconds: float, found: Callable[[], dict[str, bytes]] | None = None) -> Verdict:
    """Compare until nothing differs, or the time is over; see `judge`. No file may grow meanwhile."""
    deadline = time.monotonic() + seconds
    fleet.tend()
    want = expected(fleet)
    while True:
        fleet.tend()
        verdict = judge(fleet, found, want)
        if verdict.is_right or time.monotonic() > deadline:
            return verdict
        time.sleep(0.2)
