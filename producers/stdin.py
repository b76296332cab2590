"""Standard input to mail.raw. It cannot be read again: what has not arrived is kept, within bounds, and sent again.

A run is a generation of its own, and a line's offset is its place in the stream. When too much is under way, nothing
is read, so what writes to the pipe waits. What had not arrived when the process is killed is lost: files are better.
"""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING

from mailspan.wire import encode_reading
from producers.lines import Lines, Splitter
from producers.outbox import Outbox
from producers.shipping import Batch
from producers.wrappers import find_wrapper

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailspan.wire import Reading
    from producers.shipping import Arrivals, RawTopic
    from producers.tail import Clock

_READ_BYTES = 1 << 17
_MOST_BYTES_UNDER_WAY = 32 << 20


class Stdin:
    """Ships one stream; `reading` gives what the header says of a line that is read now."""

    def __init__(
        self,
        descriptor: int,
        topic: RawTopic,
        reading: Callable[[], Reading],
        clock: Clock,
        report: Callable[[str], None],
    ) -> None:
        self.is_ended = False
        """Whether the stream is at its end; what is under way may still arrive."""
        self._descriptor = descriptor
        self._outbox = Outbox(topic, clock, report, _MOST_BYTES_UNDER_WAY)
        self._reading = reading
        self._splitter = Splitter()
        self._head = b""
        self._wrapper = find_wrapper(b"")

    @property
    def arrived(self) -> Arrivals:
        """What has arrived."""
        return self._outbox.arrived

    @property
    def held_bytes(self) -> int:
        """How many bytes of what was read have not arrived."""
        return self._outbox.held_bytes

    @property
    def is_settled(self) -> bool:
        """Whether all that was read has arrived."""
        return self._outbox.is_settled

    @property
    def lines_under_way(self) -> int:
        """How many lines were read and have not arrived."""
        return self._outbox.lines_under_way

    def step(self, seconds: float, *, is_reading: bool = True) -> None:
        """Take reports, send, and read if something is there within `seconds`."""
        is_sent = self._outbox.work()
        if not is_sent or self.is_ended or not is_reading or self._outbox.is_full:
            self._outbox.wait(seconds)
            return
        if select.select([self._descriptor], [], [], seconds if self._outbox.is_settled else 0)[0]:
            self._take(os.read(self._descriptor, _READ_BYTES))
        elif not self._outbox.is_settled:
            self._outbox.wait(seconds)

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
            reading = self._reading()
            self._outbox.add(Batch(found, encode_reading(reading), reading.read))
