"""What stands where in a file: whether it goes on from a position, and whether it is the beginning of another.

A plain file is looked at in a few places. A compressed one must be unpacked for that, so it is done only where nothing
else can tell: an archive of a known size is the one that was read, and one that is alone is compared with nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mailspan.inputs.identity import NO_TAIL, TAIL_BYTES, Tail, fingerprint
from mailspan.inputs.streams import DamagedError, Stream

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mailspan.inputs.identity import Position

_READ_BYTES = 1 << 18


@dataclass(slots=True)
class Content:
    """The uncompressed bytes of the file `name`, which has `size` bytes on the disk; looked at only when asked."""

    name: str
    is_compressed: bool
    size: int
    damage: str | None = None
    """Why it could not be unpacked to its end, where that was tried."""
    _length: int | None = None
    _end: Tail | None = None
    _tails: dict[tuple[int, int], Tail | None] = field(default_factory=dict)

    def goes_on_from(self, position: Position) -> bool:
        """Whether what was read up to the position is how this file begins; its head is known to be the same."""
        if self.is_compressed and self.size == position.packed_size:
            if self._length is None:
                self._length, self._end = position.offset, position.tail
            return True
        return self._has(position.offset, position.tail)

    def begins(self, other: Content) -> bool:
        """Whether the other file begins with all of this one; their heads are known to be alike."""
        length = self.length
        return length <= other.length and other._has(length, self.end)

    @property
    def length(self) -> int:
        """How many bytes there are, up to the damage where there is one."""
        if not self.is_compressed:
            return self.size
        if self._length is None:
            self._unpack(())
        return self._length or 0

    @property
    def known_length(self) -> int | None:
        """The length, where it is known without unpacking anything."""
        return self._length if self.is_compressed else self.size

    @property
    def end(self) -> Tail:
        """What the file ends with."""
        length = self.length
        if self._end is None:
            self._end = self._tail(length, min(length, TAIL_BYTES)) or NO_TAIL
        return self._end

    def _has(self, offset: int, tail: Tail) -> bool:
        known = self.known_length
        return (known is None or offset <= known) and self._tail(offset, tail.length) == tail

    def _tail(self, offset: int, length: int) -> Tail | None:
        """Return the tail of that length before `offset`; None where the file ends earlier or cannot be read."""
        asked = (offset, length)
        if asked not in self._tails:
            if self.is_compressed:
                self._unpack([asked])
            else:
                self._tails[asked] = self._look(offset, length)
        return self._tails[asked]

    def _look(self, offset: int, length: int) -> Tail | None:
        try:
            with Path(self.name).open("rb", buffering=0) as file:
                file.seek(offset - length)
                found = file.read(length)
        except OSError:
            return None  # it is told when the file is read
        return Tail(length, fingerprint(found)) if len(found) == length else None

    def _unpack(self, asked: Iterable[tuple[int, int]]) -> None:
        """Unpack the file once, for its length, its end and what is asked for."""
        wanted = sorted(asked)
        found: dict[tuple[int, int], Tail | None] = dict.fromkeys(wanted)
        at, last = 0, b""
        try:
            stream = Stream(Path(self.name).open("rb", buffering=0))  # noqa: SIM115 - the stream owns it
            try:
                while part := stream.read(_READ_BYTES):
                    last = last[-TAIL_BYTES:] + part
                    at += len(part)
                    while wanted and wanted[0][0] <= at:
                        offset, length = wanted.pop(0)
                        end = len(last) - (at - offset)
                        found[offset, length] = Tail(length, fingerprint(last[end - length : end]))
            finally:
                stream.close()
        except (DamagedError, OSError) as error:
            self.damage = str(error)  # told when it is the file's turn; what comes before the damage counts
        self._tails.update(found)
        if self._length is None:
            self._length = at
            length = min(at, TAIL_BYTES)
            self._end = Tail(length, fingerprint(last[len(last) - length :]))
