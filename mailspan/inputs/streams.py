"""Open a log file and give its uncompressed bytes, whatever it is packed with.

The format is told by the first bytes, never by the name. Archives of several parts (`cat a.gz b.gz`, multi-frame zstd,
padded xz) are read through. No read gives more than it was asked for, however well a file is packed. A damaged or cut
archive gives every byte before the damage, then raises DamagedError.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import zstandard

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import FileIO

_PACKED_READ_BYTES = 65536
_ZSTD_SLICE_BYTES = 2048  # its decompressor has no limit of its own; a block of a few bytes may hold 128 KB
_ZSTD_MAX_WINDOW_BYTES = 1 << 31
_SKIP_BYTES = 1 << 20
_MAGIC_BYTES = 6


class DamagedError(Exception):
    """The compressed file cannot be read on; its message says why."""


class Decompressor(Protocol):
    """One part of an archive (a gzip member, an xz stream, a zstd frame), as bz2 and lzma have it."""

    @property
    def eof(self) -> bool:
        """Whether the part is complete."""

    @property
    def needs_input(self) -> bool:
        """Whether nothing more comes without more input."""

    @property
    def unused_data(self) -> bytes:
        """What was given behind the end of the part."""

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """Return at most `max_length` bytes more."""


class _Gzip:
    """zlib's object with the interface of the others.

    zlib keeps to itself what it found in a call that meets damage, or a wrong checksum at the end: then that call is
    done again in ever smaller steps, up to the damage.
    """

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)
        self._rest = b""  # from the damage on
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        given = self._zlib.unconsumed_tail + self._rest + data
        self._rest = b""
        before = self._zlib.copy()
        try:
            found = self._zlib.decompress(given, max_length)
        except zlib.error:
            found = self._salvage(before, given, max_length)
            if not found:
                raise
        self.needs_input = len(found) < max_length and not self._zlib.unconsumed_tail and not self._rest
        return found

    def _salvage(self, at_damage: zlib._Decompress, given: bytes, max_length: int) -> bytes:
        parts: list[bytes] = []
        length, at, step = 0, 0, len(given) // 2
        while step and length < max_length:
            trial = at_damage.copy()
            try:
                found = trial.decompress(given[at : at + step], max_length - length)
            except zlib.error:
                step //= 2
                continue
            at_damage = trial
            at += step - len(trial.unconsumed_tail)
            parts.append(found)
            length += len(found)
            if trial.unconsumed_tail:
                break
        self._zlib, self._rest = at_damage, given[at + len(at_damage.unconsumed_tail) :]
        return b"".join(parts)


class _Zstd:
    """zstandard's object with the interface of the others: it is fed in slices so that it cannot give too much."""

    def __init__(self) -> None:
        self._zstd = zstandard.ZstdDecompressor(max_window_size=_ZSTD_MAX_WINDOW_BYTES).decompressobj()
        self._input = b""
        self._output = b""

    @property
    def eof(self) -> bool:
        return self._zstd.eof and not self._output

    @property
    def needs_input(self) -> bool:
        return not self._input and not self._output

    @property
    def unused_data(self) -> bytes:
        return self._zstd.unused_data + self._input

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        self._input += data
        parts, length = [self._output], len(self._output)
        at = 0
        while length < max_length and at < len(self._input) and not self._zstd.eof:
            parts.append(self._zstd.decompress(self._input[at : at + _ZSTD_SLICE_BYTES]))
            length += len(parts[-1])
            at += _ZSTD_SLICE_BYTES
        self._input = self._input[at:]
        found = b"".join(parts)
        self._output = found[max_length:]
        return found[:max_length]


@dataclass(frozen=True, slots=True)
class Format:
    """A compression format: how its files begin, what opens a part, and whether zero bytes may stand between parts."""

    name: str
    magic: bytes
    open_part: Callable[[], Decompressor]
    padded: bool = False


FORMATS = (
    Format("gzip", b"\x1f\x8b", _Gzip, padded=True),
    Format("bzip2", b"BZh", bz2.BZ2Decompressor),
    Format("xz", b"\xfd7zXZ\x00", lzma.LZMADecompressor, padded=True),
    Format("zstd", b"\x28\xb5\x2f\xfd", _Zstd),
    *(Format("zstd", bytes((0x50 + number,)) + b"\x2a\x4d\x18", _Zstd) for number in range(16)),  # a skippable frame
)


class Stream:
    """The uncompressed bytes of one open file; it owns `file` and closes it."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self.packed_bytes = 0
        """How far the file itself was read."""
        self.damage: str | None = None
        """Why it cannot be read on; None as long as it can."""
        self._ahead = b""
        while len(self._ahead) < _MAGIC_BYTES:
            found = self._read_file(_PACKED_READ_BYTES)
            if not found:
                break
            self._ahead += found
        self._format = next((each for each in FORMATS if self._ahead.startswith(each.magic)), None)
        self._part: Decompressor | None = None if self._format is None else self._format.open_part()

    @property
    def is_compressed(self) -> bool:
        """Whether the file is packed: it was written in one go and does not grow."""
        return self._format is not None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, size: int) -> bytes:
        """Return at most `size` bytes, b"" at the end. Blocks on a pipe. Raises DamagedError and OSError."""
        if self._format is not None:
            return self._read_packed(self._format, size)
        if self._ahead:
            found, self._ahead = self._ahead[:size], self._ahead[size:]
            return found
        return self._read_file(size)

    def skip(self, size: int) -> None:
        """Pass over `size` bytes, or to the end where there are fewer."""
        if self._format is None and self._file.seekable():
            ahead = len(self._ahead)
            if size > ahead:
                self.packed_bytes = self._file.seek(size - ahead, 1)
            self._ahead = self._ahead[size:]
            return
        while size:
            found = len(self.read(min(size, _SKIP_BYTES)))
            if not found:
                return
            size -= found

    def _read_file(self, size: int) -> bytes:
        found = self._file.read(size) or b""
        self.packed_bytes += len(found)
        return found

    def _read_packed(self, packing: Format, size: int) -> bytes:
        if self.damage is not None:
            raise DamagedError(self.damage)
        while self._part is not None:
            data = b""
            if self._part.needs_input:
                data, self._ahead = self._ahead or self._read_file(_PACKED_READ_BYTES), b""
                if not data:
                    self.damage = f"this {packing.name} file is cut off"
                    raise DamagedError(self.damage)
            try:
                found = self._part.decompress(data, size)
            except (zlib.error, OSError, lzma.LZMAError, zstandard.ZstdError, EOFError) as error:
                self.damage = f"this {packing.name} file is damaged"
                raise DamagedError(self.damage) from error
            if self._part.eof:
                self._part = self._next_part(packing, self._part.unused_data)
            if found:
                return found
        return b""

    def _next_part(self, packing: Format, ahead: bytes) -> Decompressor | None:
        if packing.padded:
            ahead = ahead.lstrip(b"\0")
        while len(ahead) < _MAGIC_BYTES:
            found = self._read_file(_PACKED_READ_BYTES)
            if not found:
                break
            ahead = (ahead + found).lstrip(b"\0") if packing.padded else ahead + found
        self._ahead = ahead
        if not ahead:
            return None
        following = next((each for each in FORMATS if ahead.startswith(each.magic)), None)
        return _Trailing() if following is None else following.open_part()


class _Trailing:
    """Stands for bytes behind the end of an archive that are none of it: reading on says that it is damaged."""

    eof = False
    needs_input = False
    unused_data = b""

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        raise EOFError((data, max_length))
