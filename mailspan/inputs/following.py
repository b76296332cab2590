"""Files followed as they grow: `index --follow`.

Each name is looked at again and again (no notification: it must work on any file system, and a look costs little).
The file that has the name is held open, so its last lines are read after it was renamed, too; one that lost its name
is let go when nothing was added for a while. A file that was cut, or begins anew in the same place (copytruncate), is
another file. What was written between two looks and moved away stands in a file beside it (`mail.log.1`), which is
then read behind the position that is known for its content.

Lines are live: the year of their stamps is told by the time they are read. Pipes and archives are not followed.
"""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mailspan.grammar import Parser
from mailspan.inputs import Inputs, Taken, merge
from mailspan.inputs.content import Content
from mailspan.inputs.files import live_name
from mailspan.inputs.identity import HEAD_BYTES, TAIL_BYTES, Positions, Tail, at_begin, fingerprint
from mailspan.inputs.lines import LineReader
from mailspan.inputs.streams import Stream
from mailspan.record import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from mailspan.inputs.files import ReadSettings
    from mailspan.inputs.identity import Position
    from mailspan.inputs.lines import Chunk
    from mailspan.inputs.reading import Result

_CHUNK_BYTES = 1 << 18
_SEEN_BYTES = 256
_PARSER_SECONDS = 3600  # how old the reference time of live lines may be
_LEAVE_SECONDS = 60.0  # a daemon is told of a rotation by a signal; until then it writes to the renamed file
_LOOKS = 3
_TRIES = 5
_CLOCK_SLACK_SECONDS = 2  # file systems round the time of a change

_Identity = tuple[int, int]
"""Device and inode: which file it is as long as somebody holds it open."""


class _Growing:
    """One file that is held open, and how far it was read."""

    def __init__(self, name: str, stream: Stream, descriptor: int, position: Position, saved: Position | None) -> None:
        self.name = name
        self.has_name = True
        self.quiet_since = 0.0
        self._descriptor = descriptor
        self._stream = stream
        stream.skip(position.offset)
        self._reader = LineReader(stream, position.offset)
        self._position = position
        self._saved = saved
        self._second = position.second
        self._status = (-1, -1)
        self._seen = b""
        self._parser: Parser | None = None
        self._parser_of = 0
        self._has_forced_year = False

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def has_changed(self) -> bool:
        """Whether it was written since it was read to its end."""
        return self._status != _written(os.fstat(self._descriptor))

    def begins_anew(self) -> bool:
        """Whether what was read is not there any more: the file was cut or written again from its begin."""
        at = os.lseek(self._descriptor, 0, os.SEEK_CUR)
        if os.fstat(self._descriptor).st_size < at:
            return True
        return os.pread(self._descriptor, len(self._seen), at - len(self._seen)) != self._seen

    def read(self) -> Chunk | None:
        """Return the next whole lines; None where there are none yet. Raises OSError."""
        status = _written(os.fstat(self._descriptor))  # before: what is written after this look is seen by the next
        chunk = self._reader.read(_CHUNK_BYTES)
        at = os.lseek(self._descriptor, 0, os.SEEK_CUR)
        self._seen = os.pread(self._descriptor, min(at, _SEEN_BYTES), max(0, at - _SEEN_BYTES))
        if chunk is None and status[0] >= at:
            self._status = status
        return chunk

    def last_line(self) -> Chunk | None:
        """Return the last line of a file that nobody writes any more, which may lack its newline."""
        return self._reader.last_line()

    def parse(self, chunk: Chunk, settings: ReadSettings, now: int) -> Taken:
        """Return the results of the lines, which are read now."""
        if self._parser is None or (now - self._parser_of > _PARSER_SECONDS and not self._has_forced_year):
            times = settings.time_settings(now)
            self._has_forced_year = times.year is not None  # only one parser then: it follows New Year
            self._parser = Parser(times, settings.default_host, settings.host_aliases)
            self._parser_of = now
            if self._second:
                self._parser.resume(self._second)
        results: list[Result] = [self._parser.parse(line) for line in chunk.lines]
        seconds = []
        clock = 0
        for result in results:
            if isinstance(result, Record):
                self._second = result.stamp.second
                clock = max(clock, self._second)
            seconds.append(clock)
        return Taken(results, chunk.lines, seconds)

    def position_changes(self) -> dict[str, bytes | None]:
        """Return what is to be stored since the last call."""
        offset = self._reader.offset
        if offset != self._position.offset:
            length = min(offset, TAIL_BYTES)
            tail = os.pread(self._descriptor, length, offset - length)
            found = replace(self._position, offset=offset, second=self._second, tail=Tail(len(tail), fingerprint(tail)))
            self._position = at_begin(os.pread(self._descriptor, HEAD_BYTES, 0), found)
        if self._position == self._saved or not self._position.offset:
            return {}
        changes: dict[str, bytes | None] = {}
        if self._saved is not None:
            changes[self._saved.key] = None
        changes[self._position.key] = self._position.encode()
        self._saved = self._position
        return changes


class Following:
    """The files of some names; `batches` gives what was written to them since it was called last.

    Made before all that is there is read, and started after that. `clock` is the wall clock, `steady` one that nobody
    sets. Faults of files are told to `report` and counted.
    """

    def __init__(
        self,
        names: Iterable[str],
        settings: ReadSettings,
        *,
        clock: Callable[[], float],
        steady: Callable[[], float],
        report: Callable[[str, str], None],
        note: Callable[[str, str], None],
    ) -> None:
        self.faults = 0
        self._settings = settings
        self._stored: dict[str, bytes] = {}
        self._looked_at = clock()
        self._clock = clock
        self._steady = steady
        self._tell = report
        self._note = note
        self._names: dict[str, _Identity | None] = dict.fromkeys(names)
        self._held: dict[_Identity, _Growing] = {}
        self._left_alone: dict[str, tuple[int, int]] = {}  # archives: inode and time, by name
        self._told: set[tuple[str, str]] = set()  # a fault that lasts is told once
        self._again: dict[str, tuple[float, int]] = {}  # since when, and how many more times, to look for moved files
        self._changes: dict[str, bytes | None] = {}
        self._not_asked_for = {_which(status) for name in self._names for _, status in _rotated_from(name)}

    def start(self, stored: Mapping[str, bytes]) -> None:
        """Go on behind these positions, which earlier runs and the reading of all that was there have left."""
        self._stored = dict(stored)

    def close(self) -> None:
        """Close all files."""
        for each in self._held.values():
            each.close()
        self._held.clear()

    def batches(self) -> Iterator[Taken]:
        """Yield all that is new, in the order of its event times as far as it was read together."""
        yield from self._drain()  # before newer files, wherever the held ones have been moved to
        yield from self._look()
        yield from self._drain()
        yield from self._leave()

    def position_changes(self) -> dict[str, bytes | None]:
        """Return how far the files were read in the batches up to now, as changes since the last call."""
        for each in self._held.values():
            self._keep(each.position_changes())
        changes, self._changes = self._changes, {}
        return changes

    def _keep(self, changes: Mapping[str, bytes | None]) -> None:
        self._changes.update(changes)
        for key, value in changes.items():
            if value is None:
                self._stored.pop(key, None)
            else:
                self._stored[key] = value

    def _look(self) -> Iterator[Taken]:
        """Find out which files have the names now."""
        looked_at = self._clock()
        for identity, each in list(self._held.items()):
            if each.has_changed() and each.begins_anew():
                self._let_go(identity)
        for name, known in list(self._names.items()):
            status = _status_of(name)
            found = None if status is None else (status.st_dev, status.st_ino)
            if status is not None and not stat.S_ISREG(status.st_mode):
                self._report(name, "is not a plain file and cannot be followed")
                continue
            if status is not None and (status.st_ino, status.st_mtime_ns) == self._left_alone.get(name):
                continue
            if found not in self._held and (found is not None or known is None):
                since, _ = self._again.get(name, (self._looked_at, 0))
                self._again[name] = (since, _LOOKS)
            yield from self._read_moved(name)
            if found is None:
                continue  # between two files: the last one keeps the name
            self._names[name] = found if found in self._held else self._hold(name) or known
        self._looked_at = looked_at
        named = set(self._names.values())
        for identity, each in self._held.items():
            each.has_name = identity in named

    def _hold(self, name: str) -> _Identity | None:
        """Hold the file that has the name now, from its known position on; None where that cannot be."""
        try:
            file = Path(name).open("rb", buffering=0)  # noqa: SIM115 - the stream owns it
        except FileNotFoundError:
            return None  # between two files: the next look finds it
        except OSError as error:
            self._report(name, f"cannot be read: {error.strerror or error}")
            return None
        status = os.fstat(file.fileno())
        identity = (status.st_dev, status.st_ino)
        stream = Stream(file)
        if stream.is_compressed:
            stream.close()
            self._left_alone[name] = (status.st_ino, status.st_mtime_ns)
            return None
        head = os.pread(file.fileno(), HEAD_BYTES, 0)
        content = Content(name, is_compressed=False, size=status.st_size)
        alike = Positions(self._stored).of_head(head) if head else []
        known = next((each for each in alike if content.goes_on_from(each)), None)
        self._held[identity] = _Growing(name, stream, file.fileno(), at_begin(head, known), known)
        self._held[identity].quiet_since = self._steady()
        return identity

    def _read_moved(self, name: str) -> Iterator[Taken]:
        """Read on in the files that were rotated away from `name`, at the look that finds it moved and a few more.

        A file that is renamed while the folder is read may be passed over.
        """
        since, looks = self._again.pop(name, (0.0, 0))
        if not looks:
            return
        if looks > 1:
            self._again[name] = (since, looks - 1)
        moved = [
            path
            for path, status in _rotated_from(name)
            if status.st_mtime >= since - _CLOCK_SLACK_SECONDS
            and (status.st_dev, status.st_ino) not in self._held
            and _which(status) not in self._not_asked_for
        ]
        if not moved:
            return
        self._keep_of_held()
        inputs = Inputs(
            moved,
            self._settings,
            report=self._report,
            note=self._note,
            stored=self._stored,
            use_last_line=False,
            may_move=True,
        )
        for batch in inputs.batches():
            yield batch
            self._keep(inputs.position_changes())
        self._keep(inputs.position_changes())
        if inputs.moved:
            self._again[name] = (since, _LOOKS)
        for path in moved:  # its daemon may still write to it
            self._hold(path)

    def _keep_of_held(self) -> None:
        for each in self._held.values():
            self._keep(each.position_changes())

    def _drain(self) -> Iterator[Taken]:
        """Read the held files to their present ends."""
        while parts := self._read():
            yield parts[0] if len(parts) == 1 else merge(parts)

    def _read(self) -> list[Taken]:
        """Read a chunk of each file that has changed; of those that lost their names first, for they are older."""
        now = int(self._clock())
        for is_named in (False, True):
            parts = []
            for identity, each in list(self._held.items()):
                if each.has_name is not is_named or not each.has_changed():
                    continue
                try:
                    chunk = None if each.begins_anew() else each.read()
                except OSError as error:
                    self._report(each.name, f"reading failed: {error.strerror or error}")
                    self._let_go(identity)
                    continue
                if chunk is not None:
                    each.quiet_since = self._steady()
                    parts.append(each.parse(chunk, self._settings, now))
            if parts:
                return parts
        return []

    def _leave(self) -> Iterator[Taken]:
        """Let go of files that lost their names and are quiet, with their last lines."""
        now = self._steady()
        for identity, each in list(self._held.items()):
            if each.has_name:
                each.quiet_since = now
            elif now - each.quiet_since >= _LEAVE_SECONDS:
                chunk = each.last_line()
                if chunk is not None:
                    yield each.parse(chunk, self._settings, int(self._clock()))
                self._let_go(identity)

    def _let_go(self, identity: _Identity) -> None:
        held = self._held.pop(identity)
        self._keep(held.position_changes())
        held.close()

    def _report(self, name: str, fault: str) -> None:
        if (name, fault) not in self._told:
            self._told.add((name, fault))
            self.faults += 1
            self._tell(name, fault)


def _status_of(name: str) -> os.stat_result | None:
    try:
        return Path(name).stat()
    except OSError:
        return None


def _rotated_from(name: str) -> list[tuple[str, os.stat_result]]:
    """Return the files whose names say that they once had this one."""
    path = Path(name)
    for _ in range(_TRIES):
        try:
            return [(str(e), e.stat()) for e in path.parent.iterdir() if live_name(e.name) == path.name and e.is_file()]
        except FileNotFoundError:
            continue  # renamed between two calls: under its new name it may have been passed over
        except OSError:
            break
    return []


def _which(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _written(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns
