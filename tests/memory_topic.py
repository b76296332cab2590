"""A topic in memory: takes batches as Kafka's does, reports when it is served, and can be full, fail and be crashed.

The same tests run on it and on a real broker (tests/test_produce_kafka.py), so that what the models show of the tail
holds for Kafka, too.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from mailspan.wire import Header, decode_header, encode_header
from producers.shipping import Batch, SendError

if TYPE_CHECKING:
    from collections.abc import Callable


class Arrived(NamedTuple):
    """A line that arrived."""

    header: Header
    value: bytes


class MemoryTopic:
    """`capacity` lines may be under way; `choose(n)` returns how many of n reports are delivered when it is served."""

    def __init__(self, capacity: int = 1000, choose: Callable[[int], int] = lambda count: count) -> None:
        self.arrived: list[Arrived] = []
        self.capacity = capacity
        self.choose = choose
        self.is_failing = False
        self.keeps_failing = False
        self.is_down = False
        self._under_way: deque[tuple[Batch, Arrived]] = deque()

    def send(self, batch: Batch) -> bool:
        if self.is_down:
            raise SendError("down")
        while batch.sent < len(batch.lines):
            if len(self._under_way) >= self.capacity:
                return False
            at = batch.sent
            header = decode_header(encode_header(batch.starts[at], batch.reading))
            assert header is not None
            self._under_way.append((batch, Arrived(header, batch.lines[at])))
            batch.sent += 1
        return True

    def serve(self, seconds: float) -> None:
        del seconds
        for _ in range(self.choose(len(self._under_way))):
            batch, line = self._under_way.popleft()
            if self.is_failing or self.keeps_failing:
                batch.settle("refused", None)
            else:
                self.arrived.append(line)
                batch.settle(None, None)

    def restart(self) -> None:
        self.crash(0)
        self.is_failing = False

    def crash(self, count: int) -> None:
        """Drop what is under way; the first `count` lines of it have arrived all the same."""
        for _, line in list(self._under_way)[:count]:
            self.arrived.append(line)
        self._under_way.clear()

    def close(self) -> None:
        self.crash(0)

    @property
    def under_way(self) -> int:
        return len(self._under_way)
