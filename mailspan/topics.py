"""The topics: their names and their settings, in one table.

Pure. `setup` makes them so, and says where a broker's differ. All of one prefix have the same number of partitions but
the dead letters: a host's lines, its documents and its open transactions keep one partition number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS
_MEBIBYTE = 1 << 20
_REPLICATION_FOR_TWO = 3  # of which one may be away

RAW = "raw"
TRANSACTIONS = "transactions"
OPEN_TRANSACTIONS = "open-transactions"
DEAD_LETTER = "dead-letter"


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic: its name behind the prefix, what it holds, and the settings it needs.

    `free` are those that the operator may choose otherwise: they are told, not altered.
    """

    name: str
    holds: str
    settings: Mapping[str, str]
    is_partitioned: bool = True
    free: frozenset[str] = frozenset({"retention.ms", "min.insync.replicas"})


TOPICS = (
    Topic(
        RAW,
        "raw lines, key host/queue_id, partition by host",
        {
            "cleanup.policy": "delete",
            "retention.ms": str(7 * _DAY_MS),  # a reducer may be down for days; a longer one costs disk only
            "max.message.bytes": str(2 * _MEBIBYTE),
            "compression.type": "producer",
            "message.timestamp.type": "CreateTime",
        },
    ),
    Topic(
        TRANSACTIONS,
        "documents, each version of each transaction",
        {
            "cleanup.policy": "delete",
            "retention.ms": str(7 * _DAY_MS),
            "max.message.bytes": str(8 * _MEBIBYTE),
            "compression.type": "producer",
        },
    ),
    Topic(
        OPEN_TRANSACTIONS,
        "snapshots of what is open: the reducer's state",
        {
            # The active segment is never compacted: the defaults of 1 GB and 7 days would make each restore read it.
            "cleanup.policy": "compact",
            "segment.bytes": str(64 * _MEBIBYTE),
            "segment.ms": str(_HOUR_MS // 3),
            "min.cleanable.dirty.ratio": "0.1",
            "max.compaction.lag.ms": str(_HOUR_MS),
            "delete.retention.ms": str(_DAY_MS),  # a reader that takes longer to restore would miss tombstones
            "max.message.bytes": str(8 * _MEBIBYTE),
            "compression.type": "producer",
        },
        free=frozenset({"min.insync.replicas"}),
    ),
    Topic(
        DEAD_LETTER,
        "what could not be used, with the reason",
        {
            "cleanup.policy": "delete",
            "retention.ms": str(30 * _DAY_MS),
            "max.message.bytes": str(9 * _MEBIBYTE),  # the largest record of the others, and why it is here
        },
        is_partitioned=False,
    ),
)


def topic_name(prefix: str, name: str) -> str:
    """Return the full name: `mail.raw`."""
    return f"{prefix}.{name}"


def settings_of(topic: Topic, replication: int) -> dict[str, str]:
    """Return the settings of a topic that is created with that replication."""
    return {**topic.settings, "min.insync.replicas": "2" if replication >= _REPLICATION_FOR_TWO else "1"}


def differences(
    topic: Topic, found: Mapping[str, str], replication: int
) -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    """Return what has to be altered and what the operator chose otherwise, as setting, found, wanted."""
    wrong: list[tuple[str, str, str]] = []
    chosen: list[tuple[str, str, str]] = []
    for key, wanted in settings_of(topic, replication).items():
        value = found.get(key, "unknown")
        if value != wanted:
            row = (key, value, wanted)
            (chosen if key in topic.free else wrong).append(row)
    return wrong, chosen
