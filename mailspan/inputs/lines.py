r"""From bytes to lines: chunks of whole lines, with the offset behind each of them.

A line ends at a newline alone; CR and NUL bytes at its ends are dropped (Windows ends, the zero blocks that a crash
leaves in a log). Bytes that are no UTF-8 become `\\xNN`. Of a line that is longer than LONGEST_LINE_BYTES the rest is
passed over, so memory is bounded whatever a file holds. Nothing here says what a line means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mailspan.inputs.streams import DamagedError

if TYPE_CHECKING:
    from mailspan.inputs.streams import Stream

LONGEST_LINE_BYTES = 4 * 65536
"""Holds the 65536 characters that the grammar reads of a line, in any encoding."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some whole lines of a file: `raw` is their bytes without the last newline, `start` and `end` their place."""

    lines: list[str]
    raw: bytes
    start: int
    end: int

    def offset_after(self, count: int) -> int:
        """Return the offset in the file behind the first `count` lines."""
        if count == len(self.lines):
            return self.end
        at = 0
        for _ in range(count):
            at = self.raw.index(b"\n", at) + 1
        return self.start + at

    def before(self, offset: int, length: int) -> bytes:
        """Return at most `length` bytes before an offset that `offset_after` gave; none where not all are at hand."""
        end = offset - self.start
        if self.end - self.start > len(self.raw) + 1:
            return b""  # a line too long: the rest of it was passed over
        newline = b"\n" if end > len(self.raw) else b""
        return self.raw[max(0, end - length) : end] + newline


class LineReader:
    """Reads the lines of a stream. `ahead` is what was read of the stream before, beginning at `offset`."""

    def __init__(self, stream: Stream, offset: int = 0, ahead: bytes = b"") -> None:
        self.offset = offset
        """Where the line begins that is read next."""
        self.damage: str | None = None
        """Why the stream could not be read to its end; None if it could."""
        self._stream = stream
        self._ahead = ahead
        self._begun = b""  # of the next line
        self._passed_over = 0  # bytes of a line too long, behind those in _begun

    def read(self, size: int) -> Chunk | None:
        """Return the next lines, about `size` bytes of them; None at the end. Blocks on a pipe."""
        while True:
            found = self._read_bytes(size)
            if not found:
                return None
            if len(self._begun) >= LONGEST_LINE_BYTES:
                chunk = self._end_long_line(found)
                if chunk is not None:
                    return chunk
                continue
            end = found.rfind(b"\n")
            if end < 0:
                self._begin(found)
                continue
            raw = self._begun + found[:end]
            self._begun = found[end + 1 :]
            return self._chunk(raw, len(raw) + 1)

    def last_line(self) -> Chunk | None:
        """Return, at the end, the line without a newline that the file ends in, if there is one."""
        raw = self._begun
        return self._chunk(raw, len(raw) + self._passed_over) if raw.strip(b"\0\r") else None

    def _read_bytes(self, size: int) -> bytes:
        if self._ahead:
            found, self._ahead = self._ahead, b""
            return found
        try:
            return self._stream.read(size)
        except DamagedError as error:
            self.damage = str(error)
        except OSError as error:
            self.damage = f"reading failed: {error.strerror or error}"
        self._begun = b""  # a line that was cut by the damage is none
        return b""

    def _begin(self, found: bytes) -> None:
        raw = self._begun + found
        if len(raw) >= LONGEST_LINE_BYTES:
            line = raw.lstrip(b"\0")
            self.offset += len(raw) - len(line)
            self._passed_over = max(0, len(line) - LONGEST_LINE_BYTES)
            raw = line[:LONGEST_LINE_BYTES]
        self._begun = raw

    def _end_long_line(self, found: bytes) -> Chunk | None:
        end = found.find(b"\n")
        if end < 0:
            self._passed_over += len(found)
            return None
        chunk = self._chunk(self._begun, len(self._begun) + self._passed_over + end + 1)
        self._begun, self._passed_over = b"", 0
        self._ahead = found[end + 1 :]
        return chunk

    def _chunk(self, raw: bytes, length: int) -> Chunk:
        start = self.offset
        self.offset = start + length
        return Chunk(split_lines(raw), raw, start, self.offset)


def split_lines(raw: bytes) -> list[str]:
    """Return the lines of `raw` as text; the last one needs no newline."""
    text = raw.decode("utf-8", "backslashreplace")
    lines = text.split("\n")
    if "\r" in text or "\0" in text or text[:1] == "\ufeff":
        lines = [line.lstrip("\0").rstrip("\r\0") for line in lines]
        lines[0] = lines[0].removeprefix("\ufeff")
    return lines
