r"""What container runtimes put around a line, taken off again.

Pure. CRI (containerd, CRI-O; Kubernetes' /var/log/pods): `2026-11-23T07:55:08.1Z stdout F the line`, `P` for a part
of a line. Docker's json-file: `{"log":"the line\n","stream":"stdout","time":"…"}`, parts without `\n`. Parts are joined
per stream. A joined line stands at the offset of its last part, so offsets rise in the order the lines are sent; the
place to read on from is before the first part of what is not complete. What has not the form is passed as it is.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from mailspan.inputs.lines import LONGEST_LINE_BYTES
from producers.lines import Lines

if TYPE_CHECKING:
    from collections.abc import Callable

    Part = tuple[bytes, bytes, bool]
    """Stream, text, and whether it ends a line."""

_CRI = re.compile(
    rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d) (stdout|stderr) ([PF])(?::[^ ]*)? ?"
)


class _Logged(msgspec.Struct):
    """One line of Docker's json-file driver (daemon/logger/jsonfilelog)."""

    log: str
    stream: str = ""


_decode = msgspec.json.Decoder(_Logged).decode


def _read_cri(line: bytes) -> Part | None:
    match = _CRI.match(line)
    return None if match is None else (match[1], line[match.end() :], match[2] == b"F")


def _read_docker(line: bytes) -> Part | None:
    try:
        logged = _decode(line)
        text = logged.log.encode("utf-8", "surrogateescape")
    except (msgspec.MsgspecError, UnicodeError):
        return None
    is_last = text.endswith(b"\n")
    return logged.stream.encode("utf-8", "replace"), text[:-1] if is_last else text, is_last


def find_wrapper(head: bytes) -> Unwrapper | None:
    """Return what unwraps the lines of a file that begins with `head`; None for a plain log."""
    first = head.partition(b"\n")[0]
    if _CRI.match(first):
        return Unwrapper(_read_cri)
    if first.startswith(b'{"log":'):
        return Unwrapper(_read_docker)
    return None


class Unwrapper:
    """Unwraps the lines of one file, in order."""

    def __init__(self, read: Callable[[bytes], Part | None]) -> None:
        self._read = read
        self._begun: dict[bytes, tuple[int, int, bytes]] = {}  # by stream: starts of first and last part, the text

    def unwrap(self, found: Lines) -> Lines:
        """Return the lines that are complete now."""
        lines: list[bytes] = []
        starts: list[int] = []
        for line, start in zip(found.lines, found.starts, strict=True):
            part = self._read(line)
            if part is None:
                lines.append(line)
                starts.append(start)
                continue
            stream, text, is_last = part
            first = start
            begun = self._begun.pop(stream, None)
            if begun is not None:
                first, text = begun[0], (begun[2] + text)[:LONGEST_LINE_BYTES]
            if is_last:
                lines.append(text)
                starts.append(start)
            else:
                self._begun[stream] = (first, start, text)
        return Lines(lines, starts, min((first for first, _, _ in self._begun.values()), default=found.end))

    def last_lines(self, end: int) -> Lines:
        """Return, where nothing more will come, what was begun; `end` is the end of the file."""
        begun = sorted((last, text) for _, last, text in self._begun.values())
        self._begun.clear()
        return Lines([text for _, text in begun], [last for last, _ in begun], end)
