"""From journalctl's JSON to lines with their places in the journal.

Pure. An entry becomes `STAMP host identifier[pid]: MESSAGE`, as a syslog daemon would have written it with an RFC 3339
stamp. The stamp is the time at which the message was sent, where journald knows it, else that of its receipt; the
process is the one that the message names, else the one that sent it.

An entry's place is the journal's own: the cursor holds the id of the sequence that numbers the entries, the number,
and the boot [sd_journal_get_cursor]. Generation = sequence and boot, offset = the number. So a replay carries the same
places as the first time, and within a generation they rise [sd-journal.c compare_locations]. The boot is in it for a
disk that was put back to an older state: there the numbers come again.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec

from mailspan.grammar import MAX_NAMES, is_mail_program
from mailspan.inputs.lines import LONGEST_LINE_BYTES
from producers.syslog_lines import one_line

FIELDS = (
    "MESSAGE",
    "_HOSTNAME",
    "SYSLOG_IDENTIFIER",
    "_COMM",
    "SYSLOG_PID",
    "_PID",
    "SYSLOG_FACILITY",
    "_SOURCE_REALTIME_TIMESTAMP",
)
"""What is asked of journalctl besides the cursor and the time of receipt, which it always gives."""

_LONGEST_ENTRY_BYTES = 4 << 20
_MAIL_FACILITY = b"2"  # RFC 5424 section 6.2.1
_CURSOR = re.compile(r"s=([0-9a-f]{32});i=([0-9a-f]{1,16});b=([0-9a-f]{32});")
_MICROSECONDS = 1_000_000
_SPACES = re.compile(rb"\s+")

# A string; numbers, one a byte, for what is no printable UTF-8; a list of these for a field that is there several
# times; null for what is too large [logs-show.c output_json].
Value = str | list[Any] | None


class _Fields(msgspec.Struct):
    cursor: str = msgspec.field(name="__CURSOR")
    received: str = msgspec.field(name="__REALTIME_TIMESTAMP")
    message: Value = msgspec.field(name="MESSAGE", default=None)
    host: Value = msgspec.field(name="_HOSTNAME", default=None)
    identifier: Value = msgspec.field(name="SYSLOG_IDENTIFIER", default=None)
    command: Value = msgspec.field(name="_COMM", default=None)
    named_pid: Value = msgspec.field(name="SYSLOG_PID", default=None)
    pid: Value = msgspec.field(name="_PID", default=None)
    facility: Value = msgspec.field(name="SYSLOG_FACILITY", default=None)
    sent: Value = msgspec.field(name="_SOURCE_REALTIME_TIMESTAMP", default=None)


_decode = msgspec.json.Decoder(_Fields).decode


class Place(NamedTuple):
    """Where an entry stands."""

    generation: str
    offset: int


class Entry(NamedTuple):
    """An entry of the journal. `line` is None for one that is not wanted, or has no message: `reason` says which."""

    cursor: str
    place: Place | None
    seconds: int
    line: bytes | None
    reason: str = ""


class EntrySplitter:
    """Splits journalctl's output into entries, one a line; one that is absurdly long is passed over."""

    def __init__(self) -> None:
        self._begun = b""
        self._is_passing = False
        self.passed_over = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes and return the lines that they complete."""
        *lines, self._begun = (self._begun + data).split(b"\n")
        if self._is_passing and lines:
            del lines[0]
            self._is_passing = False
        if len(self._begun) > _LONGEST_ENTRY_BYTES:
            self.passed_over += not self._is_passing
            self._is_passing = True
            self._begun = b""
        return [line for line in lines if line]


def read_entry(raw: bytes, own_host: bytes, *, is_mail_only: bool) -> Entry | None:
    """Read an entry; None for what journalctl never writes."""
    try:
        return _read(_decode(raw), own_host, is_mail_only=is_mail_only)
    except (msgspec.MsgspecError, ValueError, TypeError, OverflowError, OSError, RecursionError):
        return None


def _read(fields: _Fields, own_host: bytes, *, is_mail_only: bool) -> Entry:
    received = int(fields.received)
    second, fraction = divmod(int(_text(fields.sent) or received), _MICROSECONDS)
    stamp = _stamp(second)
    cursor, place, seconds = fields.cursor, _place(fields.cursor), received // _MICROSECONDS
    identifier = _text(fields.identifier) or _text(fields.command) or b"unknown"
    if is_mail_only and _text(fields.facility) != _MAIL_FACILITY and not _is_mail(identifier):
        return Entry(cursor, place, seconds, None, "foreign program")
    message = _text(fields.message)
    if message is None:
        return Entry(cursor, place, seconds, None, "no message")
    pid = _text(fields.named_pid) or _text(fields.pid)
    host = _SPACES.sub(b"_", _text(fields.host) or own_host)
    process = identifier if pid is None else b"%b[%b]" % (identifier, pid)
    line = one_line(b"%b.%06dZ %b %b: %b" % (stamp, fraction, host, process, message))
    return Entry(cursor, place, seconds, line[:LONGEST_LINE_BYTES])


def _text(value: Value) -> bytes | None:
    """Return a field's bytes; of one that is there several times the first."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape")
    if not value:
        return None
    if isinstance(value[0], int):
        return bytes(value)  # ValueError for what is no byte
    return _text(value[0]) if isinstance(value[0], str | list) else None


def _place(cursor: str) -> Place | None:
    match = _CURSOR.match(cursor)
    return None if match is None else Place(_generation(match[1], match[3]), int(match[2], 16))


@lru_cache(64)
def _generation(sequence: str, boot: str) -> str:
    return blake2b(f"{sequence}/{boot}".encode(), digest_size=8).hexdigest()


@lru_cache(8)
def _stamp(second: int) -> bytes:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()


@lru_cache(MAX_NAMES)
def _is_mail(identifier: bytes) -> bool:
    return is_mail_program(identifier.decode("utf-8", "replace"))
