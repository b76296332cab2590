"""The FILE arguments: each is looked at once, and those with the same content become one input.

Looking at a file tells its fingerprint, the first event time of its head and whether it is a log at all; then it is
closed until its turn comes. What cannot be used is reported in one line and left out. Pipes cannot be opened twice:
their head is kept, and they stay open.

Files are the same content where one is the beginning of the other (or both are alike); see content.py. A plain file
was *rotated away* when the file whose name it had is there and was written later: then its last line is whole.
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mailspan.grammar import Parser
from mailspan.inputs.content import Content
from mailspan.inputs.identity import HEAD_BYTES, Position, Positions, at_begin, fingerprint
from mailspan.inputs.lines import split_lines
from mailspan.inputs.streams import DamagedError, Stream
from mailspan.record import Record, Unparsed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from io import FileIO

    from mailspan.event_time import TimeSettings

STDIN = "-"

_LOOK_BYTES = 65536
_LOOK_LINES = 1000
# Where queue IDs do not tell the year, the New Years that pass in a file are counted in some of its lines. One that
# spans years is a small one or has many lines for each; a large compressed one is not unpacked twice for that.
_ALL_PLAIN_BYTES, _ALL_PACKED_BYTES = 8 << 20, 2 << 20
_MOST_CHUNKS = 512
_CHUNK_LINES = 64
_EVERY = 16
_LINE_CHARACTERS = 256
_SAMPLES = 1024
_SAMPLE_BYTES = 4096
_FIRST_RECORDS = 32
_ROTATED = re.compile(
    r"(?P<live>.+?)(?:\.old|\.[0-9]+|[-.][0-9]{4}-?[0-9]{2}-?[0-9]{2}(?:[-.T_]?[0-9]+)*)"
    r"(?:\.(?:gz|bz2|xz|zst))?"
)
"""How rotation renames a file: `mail.log.1`, `mail.log-20261124.gz`, `mail.log.old`."""


@dataclass(frozen=True, slots=True)
class ReadSettings:
    """How files are read; `time_settings` gives those of a file from the epoch second it was last written."""

    time_settings: Callable[[int], TimeSettings]
    now: int
    default_host: str
    host_aliases: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One FILE that was looked at. `stream` is open for a pipe only; `first_second` is 0 where the head tells none.

    `is_ended`: nothing more will be written to it, so that its last line needs no newline.
    """

    name: str
    head: bytes
    size: int
    modified: int
    is_compressed: bool
    first_second: int
    parser: Parser
    stream: Stream | None
    content: Content
    is_ended: bool

    def open(self) -> tuple[Stream, bytes]:
        """Return the stream and what was read of it already. Raises OSError; ChangedError if it is another file now."""
        if self.stream is not None:
            return self.stream, self.head
        stream = Stream(open(self.name, "rb", buffering=0))  # noqa: SIM115 - the stream owns it
        head = _read_head(stream, len(self.head))
        if head != self.head:
            stream.close()
            raise ChangedError
        return stream, head


class ChangedError(Exception):
    """Under this name is another file than the one that was looked at."""


@dataclass(frozen=True, slots=True)
class Input:
    """One content to be read, once: its files (copies, or the same log at other times) in the order they are tried."""

    files: tuple[Candidate, ...]
    position: Position
    stored: Position | None
    """What an earlier run left, if any: `position` goes on from it, under a new key where the head grew."""
    is_branch: bool = False
    """Whether another input begins with the same head."""

    @property
    def is_pipe(self) -> bool:
        """Whether it can be read once only, and is not known again."""
        return self.files[0].stream is not None

    @property
    def rank(self) -> tuple[int, str]:
        """Decides between inputs of the same time: nothing that depends on names or on the order of arguments.

        The log that begins earlier is the older one: where one ends in the second in which the next one begins, its
        lines come first.
        """
        branch = self.files[0].content.end.digest if self.is_branch else ""
        return self.files[0].first_second, f"{self.position.digest}{self.is_pipe:d}{branch}"

    @property
    def first_second(self) -> int:
        """The event time that nothing in the input is expected to be earlier than; 0 where it is not known."""
        return self.position.second or self.files[0].first_second


def find_inputs(
    names: Iterable[str], settings: ReadSettings, positions: Positions, report: Callable[[str, str], None]
) -> list[Input]:
    """Look at each file and return what is to be read; `report` is told the name and the fault of what cannot be."""
    candidates = [found for name in dict.fromkeys(names) if (found := _look_at(name, settings, report)) is not None]
    inputs = []
    for alike in _group([each for each in candidates if each.head]):
        if alike[0].stream is not None:
            inputs.append(Input(alike, at_begin(alike[0].head), None))
            continue
        known = {each.name: _known(each, positions) for each in alike} if positions else {}
        contents = _contents(alike)
        for files in contents:
            stored = max(
                (place for each in files if (place := known.get(each.name)) is not None),
                key=lambda place: place.offset,
                default=None,
            )
            inputs.append(Input(files, at_begin(files[0].head, stored), stored, is_branch=len(contents) > 1))
    return inputs


def _known(candidate: Candidate, positions: Positions) -> Position | None:
    """Return the furthest position that the file goes on from."""
    alike = positions.of_head(candidate.head)
    return next((each for each in alike if candidate.content.goes_on_from(each)), None)


def _contents(alike: tuple[Candidate, ...]) -> list[tuple[Candidate, ...]]:
    """Tell files that begin alike apart: those that are the beginning of another are one content with it."""
    if len(alike) == 1:
        return [alike]
    found: list[list[Candidate]] = []
    for each in sorted(alike, key=lambda each: -each.content.length):
        same = next((files for files in found if each.content.begins(files[0].content)), None)
        if same is None:
            found.append([each])
        else:
            same.append(each)
    return [tuple(each for each in alike if each in files) for files in found]


def live_name(name: str) -> str | None:
    """Return the name that a file had before it was rotated; None where it does not look like a rotated one."""
    match = _ROTATED.fullmatch(name)
    return None if match is None else match["live"]


def _was_rotated(name: str, status: os.stat_result) -> bool:
    """Whether the file that had this one's name before it was rotated is there and was written later."""
    live_one = live_name(name)
    if live_one is None:
        return False
    try:
        live = Path(live_one).stat()
    except OSError:
        return False
    return stat.S_ISREG(live.st_mode) and live.st_size > 0 and live.st_mtime_ns > status.st_mtime_ns


def _look_at(name: str, settings: ReadSettings, report: Callable[[str, str], None]) -> Candidate | None:
    try:
        file = _open(name)
    except IsADirectoryError:
        report(name, "is a directory; name the files in it")
        return None
    except (OSError, ValueError) as error:
        report(name, _fault(error))
        return None
    keep = False
    try:
        status = os.fstat(file.fileno())
        is_pipe = name == STDIN or not stat.S_ISREG(status.st_mode)
        try:
            stream = Stream(file)
            head = _read_head(stream, _LOOK_BYTES)
        except OSError as error:
            report(name, _fault(error))
            return None
        if stream.damage is not None and not head:
            report(name, f"{stream.damage}; nothing of it can be used")
            return None
        modified = settings.now if is_pipe else int(status.st_mtime)
        lines = split_lines(head)
        if len(lines) > 1 and len(head) >= _LOOK_BYTES:
            lines.pop()  # cut
        parser = _parser(settings, modified)
        for_year = lines
        if not parser.calibrate(lines) and not is_pipe and len(head) >= _LOOK_BYTES:
            for_year = [*lines, *_sample(name, stream, status.st_size)]
            parser.calibrate(for_year)
        lines = lines[:_LOOK_LINES]
        first_second, is_log = _find_first(lines, parser)
        if not is_log and b"\0" in head:
            report(name, "is not a log but a binary file")
            return None
        parser = _parser(settings, modified)
        parser.calibrate(for_year)
        keep = is_pipe and bool(head)  # an empty one is done with
        return Candidate(
            name=name,
            head=head if is_pipe else head[:HEAD_BYTES],
            size=0 if is_pipe else status.st_size,
            modified=modified,
            is_compressed=stream.is_compressed,
            first_second=first_second,
            parser=parser,
            stream=stream if is_pipe else None,
            content=Content(name, stream.is_compressed, status.st_size),
            is_ended=stream.is_compressed or is_pipe or _was_rotated(name, status),
        )
    finally:
        if not keep:
            file.close()


def _open(name: str) -> FileIO:
    if name == STDIN:
        return open(0, "rb", buffering=0, closefd=False)
    return open(name, "rb", buffering=0)


def _fault(error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "may not be read: permission denied"
    return f"cannot be read: {getattr(error, 'strerror', None) or error}"


def _read_head(stream: Stream, size: int) -> bytes:
    """Return the first `size` bytes, or those before the end or the damage: that is told when the file is read."""
    head = b""
    try:
        while len(head) < size:
            found = stream.read(size - len(head))
            if not found:
                break
            head += found
    except DamagedError:
        pass
    return head


def _parser(settings: ReadSettings, modified: int) -> Parser:
    return Parser(settings.time_settings(modified), settings.default_host, settings.host_aliases)


def _sample(name: str, stream: Stream, size: int) -> list[str]:
    """Return the beginnings of some lines behind the head of a file. What cannot be read is told later, on reading."""
    found: list[str] = []
    try:
        if size <= (_ALL_PACKED_BYTES if stream.is_compressed else _ALL_PLAIN_BYTES):
            for _ in range(_MOST_CHUNKS):
                chunk = stream.read(_LOOK_BYTES)
                if not chunk:
                    break
                lines = split_lines(chunk)[1:-1]
                found += [line[:_LINE_CHARACTERS] for line in (*lines[::_EVERY], *lines[-1:])][:_CHUNK_LINES]
        elif not stream.is_compressed:
            with open(name, "rb", buffering=0) as file:
                for at in [*range(_LOOK_BYTES, size - _SAMPLE_BYTES, size // _SAMPLES), size - _SAMPLE_BYTES]:
                    file.seek(at)
                    found += split_lines(file.read(_SAMPLE_BYTES))[1:-1][-1:]
    except (DamagedError, OSError):
        return found
    return found


def _find_first(lines: Iterable[str], parser: Parser) -> tuple[int, bool]:
    """Return the event time that the input begins with, and whether any line is one of a log.

    It is the earliest of the first records, so that one with a stamp far ahead does not put the input off.
    """
    is_log = False
    first, records = 0, 0
    for line in lines:
        if line.strip("\0 \t"):
            result = parser.parse(line)
            if isinstance(result, Record):
                first = min(first or result.stamp.second, result.stamp.second)
                records += 1
                if records == _FIRST_RECORDS:
                    break
            is_log = is_log or not isinstance(result, Unparsed) or bool(result.program)
    return first, is_log


def _group(candidates: Sequence[Candidate]) -> list[tuple[Candidate, ...]]:
    """Put together the files that begin alike, a short one with one that goes on where it ends; pipes stay alone.

    In a group plain files come first, and the longest of them: it usually makes the others superfluous.
    """
    groups: dict[bytes, list[Candidate]] = {}
    pipes = [(each,) for each in candidates if each.stream is not None]
    files = [each for each in candidates if each.stream is None]
    short_lengths = sorted({len(each.head) for each in files if len(each.head) < HEAD_BYTES})
    shorter: dict[str, bytes] = {}  # of each head's shorter beginnings that are a file's whole head: that head
    for each in sorted(files, key=lambda each: (-len(each.head), each.head)):
        head = shorter.get(fingerprint(each.head), each.head)
        groups.setdefault(head, []).append(each)
        if head is each.head:
            for length in short_lengths:
                if length < len(head):
                    shorter.setdefault(fingerprint(head[:length]), head)
    ordered = [
        tuple(sorted(group, key=lambda each: (-len(each.head), each.is_compressed, -each.size, each.modified)))
        for group in groups.values()
    ]
    return ordered + pipes
