"""What was read from an input that cannot be read again, until it has arrived.

Batches go out in order. When sending fails, the topic is restarted and everything that has not arrived is sent again,
in order, under the same generations and offsets, so that reducers drop what comes twice. Memory is bounded by the
input: it reads nothing while the outbox `is_full`.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from producers.lines import Lines
from producers.shipping import Arrivals, Batch, RawTopic, SendError

if TYPE_CHECKING:
    from collections.abc import Callable

    from producers.tail import Clock

_FIRST_BACKOFF_SECONDS, _LAST_BACKOFF_SECONDS = 0.5, 30.0


class Outbox:
    """Holds batches for a topic; full at `most_bytes`, where each line counts `line_cost` more than its bytes."""

    def __init__(
        self,
        topic: RawTopic,
        clock: Clock,
        report: Callable[[str], None],
        most_bytes: int,
        line_cost: int = 0,
    ) -> None:
        self.arrived = Arrivals(clock.epoch)
        self._topic = topic
        self._steady = clock.steady
        self._report = report
        self._most_bytes = most_bytes
        self._line_cost = line_cost
        self._batches: deque[tuple[Batch, int]] = deque()
        self._unsent: deque[Batch] = deque()
        self._bytes = 0
        self._backoff = _FIRST_BACKOFF_SECONDS
        self._resume_at = 0.0

    @property
    def is_settled(self) -> bool:
        """Whether all that was added has arrived."""
        return not self._batches

    @property
    def is_full(self) -> bool:
        """Whether nothing more should be added for now."""
        return self._bytes >= self._most_bytes

    @property
    def is_half_empty(self) -> bool:
        """Whether so much has arrived that it is worth to read again."""
        return self._bytes * 2 <= self._most_bytes

    @property
    def held_bytes(self) -> int:
        """How many bytes are held, with what lines cost besides."""
        return self._bytes

    @property
    def lines_under_way(self) -> int:
        """How many lines were added and have not arrived."""
        return sum(len(batch.starts) for batch, _ in self._batches)

    def add(self, batch: Batch) -> None:
        """Take a batch; it is sent by the next `work`."""
        size = sum(map(len, batch.lines)) + self._line_cost * len(batch.lines)
        self._bytes += size
        self._batches.append((batch, size))
        self._unsent.append(batch)

    def work(self) -> bool:
        """Take reports and hand on what the topic takes; whether that is all there is. Never blocks."""
        try:
            self._topic.serve(0)
            self._collect()
            return self._steady() >= self._resume_at and self._send()
        except SendError as error:
            self._restart(str(error))
            return False

    def wait(self, seconds: float) -> None:
        """Wait up to `seconds` for a report."""
        try:
            self._topic.serve(seconds)
        except SendError as error:
            self._restart(str(error))

    def _send(self) -> bool:
        while self._unsent and self._topic.send(self._unsent[0]):
            self._unsent.popleft()
        return not self._unsent

    def _collect(self) -> None:
        while self._batches and not self._batches[0][0].unsettled and self._batches[0][0].error is None:
            batch, size = self._batches.popleft()
            self._bytes -= size
            self.arrived.add(batch)
            self._backoff = _FIRST_BACKOFF_SECONDS
        fault = next((batch.error for batch, _ in self._batches if batch.error is not None), None)
        if fault is not None:
            raise SendError(fault)

    def _restart(self, reason: str) -> None:
        self._report(f"sending failed ({reason}); sending again what has not arrived")
        self._topic.restart()
        self._batches = deque(
            (Batch(Lines(batch.lines, batch.starts, batch.end), batch.reading, batch.read), size)
            for batch, size in self._batches
        )
        self._unsent = deque(batch for batch, _ in self._batches)
        self._resume_at = self._steady() + self._backoff
        self._backoff = min(_LAST_BACKOFF_SECONDS, self._backoff * 2)
