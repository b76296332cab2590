"""Syslog over a stream: from bytes to frames, as the bytes come in.

Pure. RFC 6587 has two framings, told apart for each frame: a frame that begins with a count and a space has that many
bytes (octet counting, the one that RFC 5425 prescribes); any other ends at a newline, or at a NUL as Python's and some
devices' senders write it (section 3.4.2). A message has three bytes at least (`<0>`), so `1 2026-11-23T…` is no count.

Memory is bounded: of a frame longer than `longest` the rest is passed over. A count beyond any reason means that the
sender and we are out of step: `fault` says so, and nothing more is taken.
"""

from __future__ import annotations

import re

LONGEST_FRAME_BYTES = 65536
"""A datagram cannot be longer; rsyslog sends 8 KiB by default, syslog-ng 64 KiB."""
LONGEST_COUNTED_BYTES = 16 << 20
"""What is passed over for one count; more is taken for garbage."""

_SHORTEST_BYTES = 3
_COUNT = re.compile(rb"([1-9][0-9]{0,8}) ")
_BEGUN_COUNT = re.compile(rb"[1-9][0-9]{0,8}")
_TRAILER = re.compile(rb"[\n\0]")
_BETWEEN = re.compile(rb"[\r\n\0]++")
_TRAILERS = b"\r\n\0"


class FrameSplitter:
    """Splits what it is fed. Frames come without their trailers (NUL, CR, LF); empty ones are none."""

    __slots__ = ("_buffer", "_longest", "_passing", "_passing_bytes", "_searched", "cut", "fault", "truncated")

    def __init__(self, longest: int = LONGEST_FRAME_BYTES) -> None:
        self.cut = 0
        """How many frames were too long."""
        self.truncated = 0
        """How many frames were not complete when the stream ended."""
        self.fault = ""
        self._longest = longest
        self._buffer = bytearray()
        self._searched = 0
        self._passing = False
        self._passing_bytes = 0

    @property
    def is_begun(self) -> bool:
        """Whether a frame has begun that is not complete."""
        return bool(self._buffer) or self._passing or self._passing_bytes > 0

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes and return the frames that they complete."""
        frames: list[bytes] = []
        if self.fault:
            return frames
        self._buffer += data
        at, size = self._pass_over(0), len(self._buffer)
        while at < size:
            between = _BETWEEN.match(self._buffer, at)
            if between is not None:
                at = between.end()
                continue
            count = _COUNT.match(self._buffer, at)
            if count is not None and int(count[1]) >= _SHORTEST_BYTES:
                end = self._take_counted(int(count[1]), count.end(), frames)
            elif count is None and self._is_count_begun(at):
                break
            else:
                end = self._take_line(at, frames)
            if end < 0:
                break
            at = self._pass_over(end)
        del self._buffer[:at]
        return frames

    def end(self, *, is_clean: bool) -> list[bytes]:
        """Return, where the stream has ended, the last frame if only its trailer is missing; else it is counted.

        A counted frame that is not complete, or any after a connection that broke, is half a message.
        """
        frames: list[bytes] = []
        rest = bytes(self._buffer)
        is_line = bool(rest) and not self._is_count_begun(0) and not self._has_count(rest)
        if is_clean and is_line and not self.fault:
            self._add(rest, frames)
        elif rest or self._passing_bytes:
            self.truncated += 1
        self._buffer.clear()
        self._passing, self._passing_bytes = False, 0
        return frames

    def _has_count(self, text: bytes) -> bool:
        count = _COUNT.match(text)
        return count is not None and int(count[1]) >= _SHORTEST_BYTES

    def _is_count_begun(self, at: int) -> bool:
        begun = _BEGUN_COUNT.match(self._buffer, at)
        return begun is not None and begun.end() == len(self._buffer)

    def _pass_over(self, at: int) -> int:
        """Return where the next frame begins, behind what is left of one that was too long."""
        if self._passing_bytes:
            step = min(self._passing_bytes, len(self._buffer) - at)
            self._passing_bytes -= step
            return at + step
        if self._passing:
            trailer = _TRAILER.search(self._buffer, at)
            if trailer is None:
                return len(self._buffer)
            self._passing = False
            return trailer.end()
        return at

    def _take_counted(self, count: int, at: int, frames: list[bytes]) -> int:
        """Take a counted frame; return where it ends, or -1 where it is not complete."""
        if count > LONGEST_COUNTED_BYTES:
            self.fault = f"a frame of {count} bytes is announced"
            return len(self._buffer)
        end = at + min(count, self._longest)
        if end > len(self._buffer):
            return -1
        self._passing_bytes = count - (end - at)
        self.cut += self._passing_bytes > 0
        self._add(bytes(self._buffer[at:end]), frames)
        return end

    def _take_line(self, at: int, frames: list[bytes]) -> int:
        trailer = _TRAILER.search(self._buffer, at + self._searched)
        self._searched = 0
        end = len(self._buffer) if trailer is None else trailer.start()
        if end - at > self._longest:
            self.cut += 1
            self._passing = True
            end = at + self._longest
        elif trailer is None:
            self._searched = end - at
            return -1
        self._add(bytes(self._buffer[at:end]), frames)
        return end

    def _add(self, frame: bytes, frames: list[bytes]) -> None:
        frame = frame.rstrip(_TRAILERS)
        if frame:
            frames.append(frame)
