"""When a producer sends a canary, and into which partition (docs/adr/0016-canaries.md). It decides; the topic sends.

One each interval, into one partition after another: all partitions of a fleet are tried, also those that no producer's
own host belongs to, and no partition waits for one certain producer. Only one is under way at a time. So a partition
that takes nothing ends the canaries of who met it, which is what they are for, and no heap of them follows an outage.

No line and no position depends on them: one that does not arrive is told and not sent again.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Protocol

from mailspan.canary import LONGEST_NAME, Canary, CanaryFigures, encode_canary
from mailspan.partition import partition_of
from mailspan.repeats import Repeats

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mailspan.metrics import Figure
    from producers.tail import Clock

STAGE = "produce"
_GOLDEN = (math.sqrt(5) - 1) / 2


class CanaryTopic(Protocol):
    """The topic mail.raw, as canaries see it."""

    restarts: int
    """How often it was connected anew: what was under way then is nobody's."""

    def send_canary(self, partition: int, header: bytes, settle: Callable[[str], None]) -> bool:
        """Take one; False where that is not possible now. `settle` is told why it did not arrive: empty, it did."""


class Canaries:
    """The canaries of one producer. `producer` is its machine's name; with an interval of 0 none is sent."""

    def __init__(
        self,
        topic: CanaryTopic,
        clock: Clock,
        report: Callable[[str], None],
        *,
        producer: str,
        input: str,  # noqa: A002 - what it is called everywhere
        partitions: int,
        interval_seconds: float,
    ) -> None:
        self._topic = topic
        self._clock = clock
        self._figures = CanaryFigures(STAGE, clock.epoch)
        self._producer = producer[:LONGEST_NAME]
        self._input = input
        self._partitions = partitions
        self._interval_seconds = interval_seconds or math.inf
        self._next = clock.steady() + self._interval_seconds
        self._partition = partition_of(self._producer.encode("utf-8", "replace"), partitions)
        self._stride = stride_of(partitions)
        self._under_way: int | None = None  # the restarts of the topic as it was sent
        self._lost = Repeats("a canary did not arrive", "canaries did not arrive", report)

    def turn(self) -> None:
        """Send one if it is time. To be called at each turn of a loop: mostly it compares two numbers."""
        now = self._clock.steady()
        if now < self._next:
            return
        self._next = now + self._interval_seconds
        self._lost.tell(now)
        if self._under_way == self._topic.restarts:
            return
        sent_ms = int(self._clock.epoch() * 1000)
        header = encode_canary(Canary(sent_ms, self._producer, self._input))
        restarts = self._topic.restarts
        settle = partial(self._settle, restarts, self._partition, sent_ms)
        if self._topic.send_canary(self._partition, header, settle):
            self._under_way = restarts
            self._partition = (self._partition + self._stride) % self._partitions

    def figures(self) -> Iterator[Figure]:
        """Yield what metrics show of those that have arrived."""
        return self._figures.show()

    def _settle(self, restarts: int, partition: int, sent_ms: int, fault: str) -> None:
        if self._under_way == restarts:
            self._under_way = None
        if fault:
            self._lost.note(fault, self._clock.steady())
        else:
            self._figures.settle(partition, sent_ms)


def stride_of(partitions: int) -> int:
    """Return by how much the next partition is further: in the end all are met, and any few in a row are far apart."""
    wanted = max(1, round(partitions * _GOLDEN))
    return next(each for each in range(wanted, 0, -1) if math.gcd(each, partitions) == 1)
