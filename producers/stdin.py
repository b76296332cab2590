"""Standard input to mail.raw. It cannot be read again: what has not arrived is kept, within bounds, and sent again.

A run is a generation of its own, and a line's offset is its place in the stream. When too much is under way, nothing
is read, so what writes to the pipe waits. What had not arrived when the process is killed is lost: files are better.
"""

from __future__ import annotations

import os
import select
from collections import deque
from typing import TYPE_CHECKING

from mailspan.wire import Reading, encode_reading
from producers.lines import Lines, Splitter
from producers.shipping import Batch, RawTopic, SendError
from producers.wrappers import find_wrapper

if TYPE_CHECKING:
    from collections.abc import Callable

_READ_BYTES = 1 << 17
_MOST_BYTES_UNDER_WAY = 32 << 20
_FIRST_BACKOFF_SECONDS, _LAST_BACKOFF_SECONDS = 0.5, 30.0


class Stdin:
    """Ships one stream; `reading` gives what the header says of a line that is read now."""

    def __init__(
        self,
        descriptor: int,
        topic: RawTopic,
        reading: Callable[[], Reading],
        steady: Callable[[], float],
        report: Callable[[str], None],
    ) -> None:
        self.lines = 0
        self.is_ended = False
        """Whether the stream is at its end; what is under way may still arrive."""
        self._descriptor = descriptor
        self._topic = topic
        self._reading = reading
        self._steady = steady
        self._report = report
        self._splitter = Splitter()
        self._head = b""
        self._wrapper = find_wrapper(b"")
        self._batches: deque[tuple[Batch, int]] = deque()
        self._unsent: deque[Batch] = deque()
        self._bytes = 0
        self._backoff = _FIRST_BACKOFF_SECONDS
        self._resume_at = 0.0

    @property
    def is_settled(self) -> bool:
        """Whether all that was read has arrived."""
        return not self._batches

    @property
    def lines_under_way(self) -> int:
        """How many lines were read and have not arrived."""
        return sum(len(batch.starts) for batch, _ in self._batches)

    def step(self, seconds: float, *, is_reading: bool = True) -> None:
        """Take reports, send, and read if something is there within `seconds`."""
        try:
            self._topic.serve(0)
            self._collect()
            is_sent = self._steady() >= self._resume_at and self._send()
        except SendError as error:
            self._restart(str(error))
            return
        if not is_sent or self.is_ended or not is_reading or self._bytes >= _MOST_BYTES_UNDER_WAY:
            self._topic.serve(seconds)
            return
        if select.select([self._descriptor], [], [], 0 if self._batches else seconds)[0]:
            self._take(os.read(self._descriptor, _READ_BYTES))
        elif self._batches:
            self._topic.serve(seconds)

    def _take(self, data: bytes) -> None:
        if data:
            if not self._splitter.start:
                self._head += data
                if b"\n" in self._head:
                    self._wrapper = find_wrapper(self._head)
                    self._head = b""
            found = self._splitter.feed(data)
        else:
            self.is_ended = True
            found = self._splitter.last_line()
        if self._wrapper is not None:
            found = self._wrapper.unwrap(found)
            if self.is_ended:
                rest = self._wrapper.last_lines(self._splitter.end)
                found = Lines(found.lines + rest.lines, found.starts + rest.starts, rest.end)
        if found.lines:
            size = sum(map(len, found.lines))
            self._bytes += size
            batch = Batch(found, encode_reading(self._reading()))
            self._batches.append((batch, size))
            self._unsent.append(batch)

    def _send(self) -> bool:
        """Hand on what was read; False where the topic is full."""
        while self._unsent and self._topic.send(self._unsent[0]):
            self._unsent.popleft()
        return not self._unsent

    def _collect(self) -> None:
        while self._batches and not self._batches[0][0].unsettled and self._batches[0][0].error is None:
            batch, size = self._batches.popleft()
            self._bytes -= size
            self.lines += len(batch.starts)
            self._backoff = _FIRST_BACKOFF_SECONDS
        fault = next((batch.error for batch, _ in self._batches if batch.error is not None), None)
        if fault is not None:
            raise SendError(fault)

    def _restart(self, reason: str) -> None:
        """Send everything again that has not arrived, in order, under the same offsets."""
        self._report(f"sending failed ({reason}); sending again what has not arrived")
        self._topic.restart()
        self._batches = deque(
            (Batch(Lines(batch.lines, batch.starts, batch.end), batch.reading), size) for batch, size in self._batches
        )
        self._unsent = deque(batch for batch, _ in self._batches)
        self._resume_at = self._steady() + self._backoff
        self._backoff = min(_LAST_BACKOFF_SECONDS, self._backoff * 2)
