"""The headers of records: on each one of mail.raw, where the line was read, and when.

Pure. One Kafka header named `mailspan`: a version byte, the byte offset (8 bytes, big-endian), and a msgpack array of
what all lines read in one go share. So a line costs its producer one `pack` and one concatenation. The value of the
record is the line itself, without its newline; its key is host/queue_id, or host/program[pid] without one.

Records of other shippers have no such header: `decode_header` is then not called, or gives None for what it cannot
read. A later version may only append fields; it changes VERSION when that is not enough.

Records of mail.transactions have a header of their own, `mailspan-read`: when their lines were read, for figures only
(docs/adr/0016-canaries.md). A record of either topic may be a canary, by a header of mailspan/canary.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from struct import Struct
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

HEADER_NAME = "mailspan"
READ_NAME = "mailspan-read"
VERSION = 1

_FRONT = Struct(">BQ")
_MOST_READINGS = 256
_LONGEST_SECOND = 12
_LONGEST_GENERATION = 256  # ours have 32 characters; each is kept for weeks
_readings: dict[bytes, Reading] = {}  # the last ones: thousands of lines share one


class Reading(msgspec.Struct, frozen=True, array_like=True):
    """What the lines that were read in one go have in common."""

    generation: str
    """The id of one life of one file (of one run, for inputs without files): with the offset it names the line."""
    reference: int
    """Epoch second that a stamp without a year is near to: the file's modification time, or when the line came."""
    read: int
    """Epoch second at which the line was read."""
    host: str
    """The host of lines that carry none."""
    zone: str = ""
    """The zone of stamps that carry none: a name, an offset, or empty for what the reader is told."""
    input: str = ""
    """Which input read it: tail, stdin, journal, syslog."""
    observer: str = ""
    """Who vouches for it: the producer's machine, or the name in the certificate of a syslog sender."""


class Header(msgspec.Struct, frozen=True, gc=False):
    """A decoded header. `offset` is that of the physical line that completes the line in its generation."""

    offset: int
    reading: Reading


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Reading).decode


def encode_reading(reading: Reading) -> bytes:
    """Return the part of the header that is the same for all lines read in one go."""
    return _encode(reading)


encode_offset: Callable[[int], bytes] = partial(_FRONT.pack, VERSION)
"""Return the part of the header that is a line's own; before it comes nothing, behind it what `encode_reading` gave."""


def encode_header(offset: int, encoded_reading: bytes) -> bytes:
    """Return the whole header of one line."""
    return encode_offset(offset) + encoded_reading


def placed_anew(raw: bytes, generation: str, offset: int) -> bytes:
    """Return a header that says the same, but for the line's place; one that cannot be read is returned as it is.

    By its place a line that comes again is known, and dropped: with a place of its own it is read once more.
    """
    header = decode_header(raw)
    if header is None:
        return raw
    return encode_header(offset, encode_reading(msgspec.structs.replace(header.reading, generation=generation)))


def decode_header(raw: bytes) -> Header | None:
    """Read a header; None where it is none of ours or of a version that is not known."""
    if len(raw) <= _FRONT.size or raw[0] != VERSION:
        return None
    encoded = raw[_FRONT.size :]
    reading = _readings.get(encoded)
    if reading is None:
        try:
            reading = _decode(encoded)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        if len(reading.generation) > _LONGEST_GENERATION:
            return None
        if len(_readings) >= _MOST_READINGS:
            _readings.clear()
        _readings[encoded] = reading
    return Header(_FRONT.unpack_from(raw)[1], reading)


def find_header(headers: Sequence[tuple[str, Any]] | Mapping[str, Any] | None) -> Header | None:
    """Return our header among those of a record, as the client gives them; None where another shipper wrote it."""
    if not isinstance(headers, list) and isinstance(headers, Mapping):  # a list is what nearly all have: told at once
        headers = list(headers.items())
    for name, raw in headers or ():
        if name == HEADER_NAME and isinstance(raw, bytes):
            return decode_header(raw)
    return None


def read_headers_of(second: int) -> tuple[tuple[str, bytes], ...]:
    """Return what a record of mail.transactions has: the epoch second at which its lines were read, if not 0."""
    return ((READ_NAME, b"%d" % second),) if second > 0 else ()


def find_read(headers: Iterable[tuple[str, bytes]]) -> int:
    """Return the second that `read_headers_of` put among a record's headers; 0 where there is none that can be read."""
    for name, raw in headers:
        if name == READ_NAME and len(raw) <= _LONGEST_SECOND and raw.isdigit():
            return int(raw)
    return 0
