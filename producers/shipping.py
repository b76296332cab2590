"""What lies between an input and the topic: batches of lines, and what an input needs of a topic.

An input makes a batch of what it read in one go and hands it to the topic until it is taken whole. The topic tells
each line's fate to the batch. An input moves its position only over batches that have arrived, in order. When one
fails, nothing is sent again by itself: the topic is restarted, and the input goes back to the last position behind
which nothing is missing. The header lets the reducer drop what comes twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from mailspan.errors import MailspanError
from mailspan.metrics import Histogram

if TYPE_CHECKING:
    from collections.abc import Callable

    from producers.lines import Lines


class SendError(MailspanError):
    """The topic took nothing, and will not without a restart; the message says why."""


class Batch:
    """Lines read in one go, at the epoch second `read`. `reading` is their encoded share of the header."""

    __slots__ = ("end", "error", "lines", "read", "reading", "sent", "starts", "unsettled")

    def __init__(self, found: Lines, reading: bytes, read: int) -> None:
        self.lines = found.lines
        self.starts = found.starts
        self.reading = reading
        self.read = read
        self.end = found.end
        """From where to read on when these lines and all before them have arrived."""
        self.sent = 0
        """How many of the lines the topic has taken."""
        self.unsettled = len(found.lines)
        self.error: str | None = None

    def settle(self, error: object, _message: object) -> None:
        """Take the report on one line: it arrived, or `error` says why not."""
        if error is not None and self.error is None:
            self.error = str(error)
        self.unsettled -= 1


class Arrivals:
    """What has arrived since the start: lines, their bytes, and how old they were. `epoch` is the wall clock."""

    def __init__(self, epoch: Callable[[], float]) -> None:
        self.lines = 0
        self.bytes = 0
        self.ages = Histogram("mailspan_record_age_seconds")
        self._epoch = epoch

    def add(self, batch: Batch) -> None:
        """Count a batch that has arrived whole."""
        count = len(batch.lines)
        self.lines += count
        self.bytes += sum(map(len, batch.lines))
        self.ages.observe(self._epoch() - batch.read, count)


class RawTopic(Protocol):
    """The topic mail.raw, as an input sees it: Kafka's, or one in memory for tests."""

    def send(self, batch: Batch) -> bool:
        """Take lines of the batch from `batch.sent` on; False where it is full: serve, then come again.

        Never blocks. Raises SendError.
        """

    def serve(self, seconds: float) -> None:
        """Deliver reports to batches; wait up to `seconds` for the first one."""

    def restart(self) -> None:
        """Forget all that is under way and connect anew; what was under way may have arrived or may still."""

    def close(self) -> None:
        """Let go of it; what is under way may be lost."""
