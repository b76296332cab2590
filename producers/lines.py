"""From bytes to whole lines with their offsets, as the bytes come in.

Pure. A line ends at a newline alone and keeps every other byte (CR, NUL, bytes that are no UTF-8): what they mean is
the reader's affair. Memory is bounded: of a line longer than LONGEST_LINE_BYTES the rest is passed over. A block of
NUL bytes before a line, as a crash leaves it, does not count for that.
"""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

from mailspan.inputs.lines import LONGEST_LINE_BYTES


class Lines(NamedTuple):
    """Whole lines, where each begins, and the offset from which to read on when all of them have arrived."""

    lines: list[bytes]
    starts: list[int]
    end: int


class Splitter:
    """Splits what it is fed; `offset` is where the first byte stands."""

    def __init__(self, offset: int = 0) -> None:
        self.start = offset
        """Where the line begins that is not complete yet."""
        self.end = offset
        """Where the next byte that is fed stands."""
        self._begun = b""
        self._is_cut = False

    def feed(self, data: bytes) -> Lines:
        """Take the next bytes and return the lines that they complete."""
        lines: list[bytes] = []
        starts: list[int] = []
        if self._is_cut:
            at = data.find(b"\n")
            if at < 0:
                self.end += len(data)
                return Lines(lines, starts, self.start)
            lines.append(self._begun)
            starts.append(self.start)
            self.end += at + 1
            self.start, self._begun, self._is_cut = self.end, b"", False
            data = data[at + 1 :]
        self.end += len(data)
        whole, newline, begun = data.rpartition(b"\n")
        if newline:
            found = (self._begun + whole).split(b"\n")
            places = list(accumulate((len(line) + 1 for line in found), initial=self.start))
            self.start = places.pop()
            if len(whole) + len(self._begun) > LONGEST_LINE_BYTES:
                found = [_cut(line) for line in found]
            lines += found
            starts += places
            self._begun = begun
        else:
            self._begun += begun
        if len(self._begun) > LONGEST_LINE_BYTES:
            self._begun = self._begun.lstrip(b"\0")
            self._is_cut = len(self._begun) > LONGEST_LINE_BYTES
            self._begun = self._begun[:LONGEST_LINE_BYTES]
        return Lines(lines, starts, self.start)

    def last_line(self) -> Lines:
        """Return, where nothing more will come, the line without a newline, if there is one."""
        line, start = self._begun, self.start
        self.start, self._begun, self._is_cut = self.end, b"", False
        return Lines([line], [start], self.end) if line else Lines([], [], self.end)


def _cut(line: bytes) -> bytes:
    return line if len(line) <= LONGEST_LINE_BYTES else line.lstrip(b"\0")[:LONGEST_LINE_BYTES]
