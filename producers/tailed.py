"""One open log file of one generation: reads its next lines and knows which of them have arrived.

A plain file is checked before each read: one that is shorter than what was read of it, or that begins otherwise than
it did, was truncated, and what it holds now is another generation (`TruncatedError`). A packed one was written in one
go. Reading starts at the generation's offset, and again there after `rewind`. Which files there are, and what follows
after what, is the affair of `producers.tail`.
"""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING

from mailspan.inputs.identity import HEAD_BYTES, fingerprint
from mailspan.inputs.streams import Stream
from producers.checkpoint import Generation
from producers.lines import Lines, Splitter
from producers.wrappers import find_wrapper

if TYPE_CHECKING:
    from pathlib import Path

    from producers.shipping import Arrivals, Batch


class TruncatedError(Exception):
    """The file is not what it was: its generation has ended."""


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting, should a pipe have taken the place of the file."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


class OpenFile:
    """A file that was opened and looked at, before it is known which generation it is. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = open(path, "rb", buffering=0, opener=_open_at_once)  # noqa: SIM115 - owned by who takes it
        try:
            self.status = os.fstat(self.file.fileno())
            stream = Stream(self.file)
            self.packed = stream if stream.is_compressed else None
            self.head = stream.read(HEAD_BYTES) if self.packed else os.pread(self.file.fileno(), HEAD_BYTES, 0)
            while self.packed and 0 < len(self.head) < HEAD_BYTES:
                more = stream.read(HEAD_BYTES - len(self.head))
                if not more:
                    break
                self.head += more
        except BaseException:
            self.file.close()
            raise

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode."""
        return self.status.st_dev, self.status.st_ino

    def continues(self, generation: Generation) -> bool:
        """Whether it begins with all that the fingerprint covers, and is long enough for what was read."""
        if len(self.head) < generation.length or fingerprint(self.head[: generation.length]) != generation.digest:
            return False
        return self.packed is not None or self.status.st_size >= generation.offset

    def begin(self, name: str, log: str) -> Generation:
        """Return a new generation that begins with this file."""
        return Generation(
            id=name,
            path=log,
            device=self.status.st_dev,
            inode=self.status.st_ino,
            length=len(self.head),
            digest=fingerprint(self.head),
            size=self.status.st_size,
            modified=self.status.st_mtime_ns,
        )

    def close(self) -> None:
        """Close it."""
        self.file.close()


class TailedFile:
    """A generation and its open file; it owns the file."""

    def __init__(self, generation: Generation, opened: OpenFile) -> None:
        self.generation = generation
        self.path = opened.path
        self.head = opened.head
        self.modified_seconds = int(opened.status.st_mtime)
        self.gone_since: float | None = None
        """When its path was first seen without it, by the clock of the tailer."""
        self.is_at_end = False
        self.is_flushed = False
        """Whether the line without a newline at its end was taken, as nothing more is expected."""
        self._file = opened.file
        self._packed = opened.packed
        self._packed_size = opened.status.st_size
        self._batches: deque[Batch] = deque()
        generation.device, generation.inode = opened.identity
        generation.modified = opened.status.st_mtime_ns
        if self._packed is None:
            generation.size = opened.status.st_size
        self._keep_head()
        self.rewind()

    @property
    def is_settled(self) -> bool:
        """Whether all that was handed out has arrived."""
        return not self._batches

    @property
    def is_packed(self) -> bool:
        """Whether it is a compressed file, which does not grow."""
        return self._packed is not None

    @property
    def bytes_behind(self) -> int:
        """How much of the file has not arrived yet; of a packed one, all of it or nothing."""
        if self._packed is not None:
            return 0 if self.is_at_end and self.is_settled else self._packed_size
        return max(0, self.generation.size - self.generation.offset)

    def check(self) -> bool:
        """Look whether there may be more to read. Raises TruncatedError and OSError."""
        if self._packed is not None:
            return not self.is_at_end
        descriptor = self._file.fileno()
        status = os.fstat(descriptor)
        if (
            status.st_size == self.generation.size == self._splitter.end
            and status.st_mtime_ns == self.generation.modified
        ):
            return False
        head = os.pread(descriptor, HEAD_BYTES, 0)
        if status.st_size < self._splitter.end or not head.startswith(self.head):
            raise TruncatedError
        self.generation.size, self.modified_seconds = status.st_size, int(status.st_mtime)
        self.generation.modified = status.st_mtime_ns
        if len(head) > len(self.head):
            self.head = head
            self._keep_head()
        return True

    def read(self, size: int) -> Lines | None:
        """Return the next lines of about `size` bytes more; None at the (present) end.

        Raises TruncatedError, DamagedError and OSError.
        """
        if not self.check():
            self.is_at_end = True
            return None
        if self._packed is not None:
            data = self._packed.read(size)
        else:
            data = os.pread(self._file.fileno(), size, self._splitter.end)
        self.is_at_end = not data
        if not data:
            return None
        self.is_flushed = False
        return self._unwrap(self._splitter.feed(data))

    def last_lines(self) -> Lines:
        """Return what stands at the end without a newline: nothing more will come."""
        self.is_flushed = True
        found = self._splitter.last_line()
        if self._wrapper is None:
            return found
        lines, starts, _ = self._wrapper.unwrap(found)
        rest = self._wrapper.last_lines(found.end)
        return Lines(lines + rest.lines, starts + rest.starts, found.end)

    def hand_out(self, batch: Batch) -> None:
        """Remember a batch of its lines until it has arrived."""
        self._batches.append(batch)

    def collect(self, arrived: Arrivals) -> str | None:
        """Move the offset over what has arrived, and count it; return why a batch failed, if one did."""
        batches = self._batches
        while batches and not batches[0].unsettled and batches[0].error is None:
            batch = batches.popleft()
            self.generation.offset = max(self.generation.offset, batch.end)
            arrived.add(batch)
        return next((each.error for each in batches if each.error is not None), None)

    def rewind(self) -> None:
        """Go back to the offset up to which all has arrived. Raises DamagedError and OSError."""
        offset = self.generation.offset
        self._batches.clear()
        self._splitter = Splitter(offset)
        self._wrapper = find_wrapper(self.head)
        self.is_at_end = self.is_flushed = False
        if self._packed is not None:
            self._file.seek(0)
            self._packed = Stream(self._file)
            self._packed.skip(offset)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _unwrap(self, found: Lines) -> Lines:
        if self._wrapper is None and not self.generation.offset and found.starts[:1] == [0]:
            self._wrapper = find_wrapper(self.head)  # at open the first line may not have been complete
        return found if self._wrapper is None else self._wrapper.unwrap(found)

    def _keep_head(self) -> None:
        self.generation.length = len(self.head)
        self.generation.digest = fingerprint(self.head)
