"""The control: a reducer that writes without Kafka's transactions, state first, then documents, then offsets.

Killed between them it loses documents for good: the harness that does not see that sees nothing.
"""

from __future__ import annotations

import os
import sys
from itertools import count
from typing import TYPE_CHECKING

from confluent_kafka import Producer, TopicPartition

from mailspan.__main__ import main
from mailspan.topics import OPEN_TRANSACTIONS, RAW, TRANSACTIONS, topic_name
from reducer.kafka import ReducerKafka, Write

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

DEATH = 2
"""At which of its commits with documents it dies between its writes; with transactions that would not matter."""

_producers: dict[int, Producer] = {}
_commits = count(1)


def commit(
    self: ReducerKafka, writes: Sequence[Write], offsets: Mapping[int, int], _step: Callable[[str], None]
) -> None:
    """Write as a program would that knows of no transactions; documents wait in the client for company."""
    servers = {"bootstrap.servers": self._servers}
    eager = _producers.setdefault(0, Producer(servers))
    lazy = _producers.setdefault(1, Producer({**servers, "linger.ms": 2000}))
    for write in writes:
        producer = eager if write.topic == OPEN_TRANSACTIONS else lazy
        partition = -1 if write.partition is None else write.partition
        producer.produce(topic_name(self._prefix, write.topic), write.value, write.key, partition)
    eager.flush()
    if any(write.topic == TRANSACTIONS for write in writes) and next(_commits) == DEATH:
        os._exit(137)
    raw = topic_name(self._prefix, RAW)
    self._consumer.commit(
        offsets=[TopicPartition(raw, partition, offset) for partition, offset in offsets.items()], asynchronous=True
    )


if __name__ == "__main__":
    setattr(ReducerKafka, "commit", commit)  # noqa: B010 - not ours to replace, as far as types go
    sys.exit(main(["reduce"]))
