"""Log files to mail.raw: finds the files, follows them through every kind of rotation, and keeps how far they came.

The log file is the buffer: when the topic is full, nothing is read. Files of one *log* (a path and what rotation made
of it) are read oldest first; a later one only when the earlier are at their end. Looking for files, `scan`, answers for
each one: is it a known generation, what is left of one that vanished (renamed, copied before truncation, packed), a
copy, one that came and was rotated away unseen, or new? New ones are durable before they are read.

This module decides; `tailed` reads one file, `checkpoint` keeps, `kafka` sends. It has no clock of its own.
"""

from __future__ import annotations

import glob
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING

from mailspan.inputs.identity import HEAD_BYTES
from mailspan.inputs.streams import DamagedError
from mailspan.wire import Reading, encode_reading
from producers.rotation import bases, is_rotated, unpacked
from producers.shipping import Arrivals, Batch, RawTopic, SendError
from producers.state_folder import StateError
from producers.tailed import OpenFile, TailedFile, TruncatedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from producers.checkpoint import Checkpoint, Generation
    from producers.lines import Lines

    Identity = tuple[int, int]
    _Saved = tuple[str, int, int, str, int, int, str, bool]

_READ_BYTES = 1 << 17
_SCAN_SECONDS = 1.0
_SAVE_SECONDS = 1.0
_ROTATE_WAIT_SECONDS = 10.0
_FORGET_SECONDS = 86400
_MOST_STALE_SCANS = 5
_FIRST_BACKOFF_SECONDS, _LAST_BACKOFF_SECONDS = 0.5, 30.0


@dataclass(frozen=True, slots=True)
class TailSettings:
    """What a tail follows, and what its headers say."""

    patterns: Sequence[str]
    host: str
    zone: str = ""
    observer: str = ""
    backfill: bool = False
    """Take packed files that match a pattern and are not known."""
    rotate_wait_seconds: float = _ROTATE_WAIT_SECONDS


@dataclass(frozen=True, slots=True)
class Clock:
    """The clocks: `steady` for intervals, `epoch` for what is kept."""

    steady: Callable[[], float]
    epoch: Callable[[], float]


@dataclass(slots=True)
class TailCounts:
    """What happened, since the start."""

    lines: int = 0
    truncations: int = 0
    lost_files: int = 0
    """Generations that vanished before they were read to their end, or were truncated with no copy found."""
    restarts: int = 0
    faults: int = 0
    """Files that could not be read (on)."""


@dataclass(slots=True)
class _Place:
    """A file that is there: its path, the log it belongs to, and whether a pattern named it (else: a sibling)."""

    path: Path
    log: str
    status: os.stat_result
    is_named: bool

    @property
    def identity(self) -> Identity:
        return self.status.st_dev, self.status.st_ino


@dataclass(slots=True)
class _Log:
    """A path and what rotation made of it: its open files, oldest first."""

    files: list[TailedFile] = field(default_factory=list)


class Tail:
    """Follows files; `step` does a bit of work and never blocks. Raises StateError where the state cannot be read."""

    def __init__(
        self,
        settings: TailSettings,
        checkpoint: Checkpoint,
        topic: RawTopic,
        clock: Clock,
        report: Callable[[str], None],
    ) -> None:
        self.counts = TailCounts()
        self.arrived = Arrivals(clock.epoch)
        self._settings = settings
        self._checkpoint = checkpoint
        self._topic = topic
        self._clock = clock
        self._report = report
        self._reported: set[str] = set()
        self._logs: dict[str, _Log] = {}
        self._held: Batch | None = None
        self._verified: dict[str, tuple[int, int]] = {}
        self._next_scan = self._next_save = self._resume_at = 0.0
        self._backoff = _FIRST_BACKOFF_SECONDS
        self._saved: list[_Saved] | None = None
        self._leaving: list[TailedFile] = []
        self._blocked: set[str] = set()
        self._is_stale = False
        self._stale_scans = 0
        self._missing: set[str] = set()
        self._look_again: dict[str, int] = {}
        generations, note = checkpoint.load()
        if note:
            report(note)
        self._generations = {each.id: each for each in generations}

    # -- the loop ------------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Take reports, look for files, read a chunk of each log, save; False where there was nothing to do."""
        now = self._clock.steady()
        try:
            self._topic.serve(0)
            self._collect()
            if now < self._resume_at:
                return False
            if now >= self._next_scan:
                self._next_scan = now + _SCAN_SECONDS
                self.scan()
            if self._must_look_again:
                return True  # before all is found, what is read might be later than what is not
            progress = self._read_logs()
        except SendError as error:
            self._restart(str(error))
            return False
        if now >= self._next_save:
            self._next_save = now + _SAVE_SECONDS
            self.save()
        return progress

    @property
    def is_idle(self) -> bool:
        """Whether all that is there was read and has arrived."""
        return self.is_settled and all(each.is_at_end for each in self._files())

    @property
    def is_settled(self) -> bool:
        """Whether all that was read has arrived."""
        return self._held is None and not self._leaving and all(each.is_settled for each in self._files())

    @property
    def bytes_behind(self) -> int:
        """How many bytes of the files have not arrived."""
        return sum(each.bytes_behind for each in self._files())

    def settle(self) -> None:
        """Take reports and hand on what is held, without reading more; for the end."""
        try:
            self._topic.serve(0)
            self._collect()
            self._send_held()
        except SendError as error:
            self._restart(str(error))

    def flush_ends(self) -> None:
        """Take the lines without a newline at the ends of rotated files now; those of live ones may yet grow."""
        for file in self._files():
            if file.gone_since is not None and file.is_at_end and not file.is_flushed and self._held is None:
                self._ship(file, file.last_lines())

    def save(self) -> bool:
        """Make the positions durable if they changed; a fault is reported when it comes and when it goes."""
        wanted = [
            (each.id, *each.identity, each.path, each.offset, each.length, each.digest, each.is_finished)
            for each in self._generations.values()
        ]
        if wanted == self._saved:
            return True
        try:
            self._checkpoint.save(list(self._generations.values()))
        except StateError as error:
            self._report_once(str(error))
            return False
        self._saved = wanted
        return True

    @property
    def open_files(self) -> int:
        """How many files are open."""
        return sum(len(log.files) for log in self._logs.values())

    @property
    def known(self) -> int:
        """How many generations are remembered."""
        return len(self._generations)

    @property
    def resume_at(self) -> float:
        """Nothing is read before that moment of the steady clock: sending has failed a while ago."""
        return self._resume_at

    def close(self) -> None:
        """Save and close everything."""
        self.save()
        self.abandon()

    def abandon(self) -> None:
        """Close everything as it is; the next run goes on from what was saved."""
        for each in self._files():
            each.close()
        self._checkpoint.close()

    def _files(self) -> Iterator[TailedFile]:
        for log in self._logs.values():
            yield from log.files

    def _collect(self) -> None:
        fault = None
        for file in (*self._files(), *self._leaving):
            if not file.is_settled:
                before = file.generation.offset
                fault = file.collect(self.arrived) or fault
                if file.generation.offset != before:
                    self._backoff = _FIRST_BACKOFF_SECONDS
        if self._leaving:
            self._leaving = [each for each in self._leaving if not each.is_settled]
        if fault is not None:
            self._restart(fault)

    def _restart(self, reason: str) -> None:
        """Drop all that is under way, and read again from where everything has arrived: the only way back."""
        self.counts.restarts += 1
        self._report(f"sending failed ({reason}); sending again from the last position that is safe")
        self._topic.restart()
        self._held = None
        for file in self._leaving:
            self._report(f"{file.path}: lines behind offset {file.generation.offset} cannot be read again")
        self._leaving.clear()
        for file in self._files():
            file.collect(self.arrived)
            try:
                file.rewind()
            except (OSError, DamagedError) as error:
                self._fault(f"{file.path}: cannot be read: {error}")
        self._resume_at = self._clock.steady() + self._backoff
        self._backoff = min(_LAST_BACKOFF_SECONDS, self._backoff * 2)

    def _read_logs(self) -> bool:
        if self._held is not None and not self._send_held():
            return False
        progress = False
        for name in list(self._logs):
            log = self._logs.pop(name)
            self._logs[name] = log  # the next step begins with the next log
            progress = self._read_log(log) or progress
            if self._held is not None:
                return progress
        return progress

    def _read_log(self, log: _Log) -> bool:
        for file in list(log.files):
            found = self._read_file(log, file)
            if found is not None:
                self._ship(file, found)
                return True
        return False

    def _read_file(self, log: _Log, file: TailedFile) -> Lines | None:
        """Return the next lines; those at the very end when nothing more will come, after which it is finished."""
        try:
            found = file.read(_READ_BYTES)
        except TruncatedError:
            self._end_truncated(log, file)
            return None
        except DamagedError as error:
            self._fault(f"{file.path}: {error}; the lines before that are sent")
            self._finish(log, file)
            return None
        except OSError as error:
            self._fault(f"{file.path}: cannot be read: {error.strerror or error}")
            file.is_at_end = True  # for now
            return None
        if found is not None or not self._is_over(file):
            return found
        if not file.is_flushed:
            return file.last_lines()
        if file.is_settled:
            self._finish(log, file)
        return None

    def _is_over(self, file: TailedFile) -> bool:
        if file.is_packed:
            return True
        waited = self._settings.rotate_wait_seconds
        return file.gone_since is not None and self._clock.steady() - file.gone_since >= waited

    def _finish(self, log: _Log, file: TailedFile) -> None:
        self._leave(log, file)
        file.generation.is_finished = True

    def _leave(self, log: _Log, file: TailedFile) -> None:
        log.files.remove(file)
        file.close()
        file.collect(self.arrived)
        if not file.is_settled:
            self._leaving.append(file)

    def _end_truncated(self, log: _Log, file: TailedFile) -> None:
        """A copy of what it was may be a sibling; what it is now is a new file. Both are found by the next scan."""
        self.counts.truncations += 1
        self._leave(log, file)
        file.generation.device = file.generation.inode = 0
        self._next_scan = 0.0

    def _ship(self, file: TailedFile, found: Lines) -> None:
        reading = Reading(
            generation=file.generation.id,
            reference=file.modified_seconds,
            read=int(self._clock.epoch()),
            host=self._settings.host,
            zone=self._settings.zone,
            input="tail",
            observer=self._settings.observer,
        )
        self._held = Batch(found, encode_reading(reading), reading.read)
        file.hand_out(self._held)
        self._send_held()

    def _send_held(self) -> bool:
        if self._held is None:
            return True
        if not self._topic.send(self._held):
            return False
        self.counts.lines += len(self._held.starts)
        self._held = None
        return True

    # -- which files there are -----------------------------------------------------------------------------------

    def scan(self) -> None:
        """Look for files, and give each the generation that it is.

        Files may be renamed while it looks, and a listing may miss them. So when it sees that, it looks again at once;
        a log's rotated files are looked at by two scans, and nothing is taken for lost by the first.
        """
        self._stale_scans = self._stale_scans + 1 if self._is_stale else 0
        self._is_stale = False
        self._check_open()
        places = self._expand()
        opened = {each.generation.identity: each for each in self._files()}
        self._note_gone(places, opened)
        for generation in list(self._generations.values()):
            place = places.get(generation.identity)
            if place is not None and generation.identity not in opened:
                self._resume(generation, place)
        known = {each.identity for each in self._generations.values()}
        new = [place for identity, place in places.items() if identity not in known]
        orphans = [
            each
            for each in self._generations.values()
            if not each.is_finished and each.identity not in places and not self._is_open(each)
        ]
        known_logs = {each.path for each in self._generations.values()}
        self._blocked.clear()
        logs = {each.path for each in orphans} | {each.log for each in new if each.log in known_logs}
        logs |= self._look_again.keys()
        for log in logs:
            new += self._look_at_siblings(log, places)
        newest = self._take(new, orphans)
        again = {log: newest.get(log, 0) for log in logs - self._look_again.keys()}
        if self._must_look_again:
            self._next_scan = 0.0
            again |= self._look_again
        self._look_again = again
        self._forget(places)

    @property
    def _must_look_again(self) -> bool:
        """Whether files were renamed while it looked; not for ever, as a link that leads nowhere looks like that."""
        return self._is_stale and self._stale_scans < _MOST_STALE_SCANS

    def _check_open(self) -> None:
        """See truncations first: a copy of a file that is still whole is nothing, of one that is not it is the rest."""
        for log in self._logs.values():
            for file in list(log.files):
                try:
                    file.check()
                except TruncatedError:
                    self._end_truncated(log, file)
                except OSError as error:
                    self._fault(f"{file.path}: cannot be read: {error.strerror or error}")

    def _expand(self) -> dict[Identity, _Place]:
        paths = []
        for pattern in self._settings.patterns:
            found = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - an absolute or relative pattern
            if not found:
                self._fault(f"{pattern}: no such file yet")
            paths += found
        named = {*paths, *(each.path for each in self._generations.values())}
        places: dict[Identity, _Place] = {}
        for path in dict.fromkeys(paths):
            try:
                status = os.stat(path)  # noqa: PTH116 - a name of any form, with its links followed
            except OSError as error:
                if not isinstance(error, FileNotFoundError):
                    self._fault(f"{path}: cannot be read: {error.strerror or error}")
                continue
            if not stat.S_ISREG(status.st_mode):
                self._fault(f"{path}: is no file that can be followed")
                continue
            folder, name = os.path.split(path)
            log = next((base for each in bases(name) if (base := os.path.join(folder, each)) in named), path)  # noqa: PTH118
            places.setdefault((status.st_dev, status.st_ino), _Place(Path(path), log, status, is_named=True))
        return places

    def _note_gone(self, places: dict[Identity, _Place], opened: dict[Identity, TailedFile]) -> None:
        live = {str(each.path): identity for identity, each in places.items()}
        now = self._clock.steady()
        for identity, file in opened.items():
            place = places.get(identity)
            if place is not None:
                file.path = place.path
            is_live = live.get(file.generation.path) == identity
            file.gone_since = None if is_live else (now if file.gone_since is None else file.gone_since)

    def _resume(self, generation: Generation, place: _Place) -> None:
        """Open a known file again, if it is still the same; else its inode has another file now."""
        mark = (place.status.st_size, place.status.st_mtime_ns)
        if generation.is_finished and self._verified.get(generation.id) == mark:
            return
        opened = self._open(place)
        if opened is None:
            return
        was_empty = generation.is_finished and not generation.length  # its fingerprint proves nothing
        if not opened.continues(generation) or (was_empty and opened.head):
            opened.close()
            generation.device = generation.inode = 0
            return
        self._verified[generation.id] = mark
        if generation.is_finished and (opened.packed is not None or opened.status.st_size <= generation.offset):
            opened.close()
            return
        generation.is_finished = False
        self._follow(generation, opened)

    def _look_at_siblings(self, log: str, places: dict[Identity, _Place]) -> list[_Place]:
        """Return the files of a log that no pattern names and that are not known; known ones are resumed."""
        folder, name = os.path.split(os.path.realpath(log))
        try:
            names = sorted(each for each in os.listdir(folder) if is_rotated(each, name))  # noqa: PTH208
        except OSError:
            return []
        by_identity = {each.identity: each for each in self._generations.values()}
        found = []
        for each in names:
            path = Path(folder) / each
            try:
                status = path.stat()
            except OSError:
                self._is_stale = True
                continue
            place = _Place(path, log, status, is_named=False)
            if not stat.S_ISREG(status.st_mode) or place.identity in places:
                continue
            generation = by_identity.get(place.identity)
            if generation is not None and not self._is_open(generation):
                self._resume(generation, place)
                if generation.identity == place.identity and not generation.is_finished:
                    self._blocked.add(generation.id)
            if generation is None or generation.identity != place.identity:
                found.append(place)
        return found

    def _take(self, new: list[_Place], orphans: Sequence[Generation]) -> dict[str, int]:
        """Decide what each unknown file is, oldest first, and begin to follow those that are to be read.

        Return for each log when the newest file was written that was known before.
        """
        unknown: list[tuple[_Place, OpenFile]] = []
        for place in sorted(new, key=_age):
            opened = self._open(place)
            if opened is None:
                continue
            rest = next((each for each in orphans if self._is_rest(each, place, opened)), None)
            if rest is not None:
                self._follow(rest, opened)
            else:
                unknown.append((place, opened))
        newest: dict[str, int] = {}
        for each in self._generations.values():
            newest[each.path] = max(newest.get(each.path, 0), each.modified)
        newest.update(self._look_again)
        begun: list[tuple[Generation, OpenFile]] = []
        names = {str(place.path) for place, _ in unknown}
        for place, opened in unknown:
            if self._is_new(place, opened, newest.get(place.log, 0), names):
                begun.append((opened.begin(token_hex(8), place.log), opened))
            else:
                opened.close()
        missing = {each.id for each in orphans if not self._is_open(each) and each.id not in self._blocked}
        sought, self._missing = self._missing, missing
        for orphan in () if self._is_stale else orphans:
            if orphan.id in missing & sought:
                orphan.is_finished = True
                orphan.device = orphan.inode = 0
                if orphan.size > orphan.offset:
                    self.counts.lost_files += 1
                    self._report(f"{orphan.path}: {orphan.size - orphan.offset} bytes were gone before they were read")
        if self._must_look_again:
            for _, opened in begun:
                opened.close()
        else:
            self._begin(begun)
        return newest

    def _is_rest(self, orphan: Generation, place: _Place, opened: OpenFile) -> bool:
        """Whether a file is what is left of a generation whose own file is gone: a copy, or packed.

        Under the very name of the log it may be the same file after all: device numbers change at a boot, and logs are
        moved to other disks. That needs the same inode, or a fingerprint that nothing else can have.
        """
        if orphan.path != place.log or orphan.is_finished or not orphan.length or self._is_open(orphan):
            return False
        is_sibling = str(place.path) != place.log
        is_same = opened.status.st_ino == orphan.inode or orphan.length == HEAD_BYTES
        return (is_sibling or (is_same and orphan.inode != 0)) and opened.continues(orphan)

    def _is_new(self, place: _Place, opened: OpenFile, newest: int, names: set[str]) -> bool:
        """Whether an unknown file is to be read from its beginning."""
        if str(place.path) == place.log:
            return opened.packed is None or self._settings.backfill
        if self._is_copy(place, opened):
            return False
        if opened.packed is not None:
            plain = unpacked(str(place.path))
            if plain is not None and (plain in names or os.path.exists(plain)):  # noqa: PTH110
                return False  # it is being packed right now
            if place.is_named and self._settings.backfill:
                return True
        elif place.is_named:
            return True
        # Not named, or packed: only if it came, and was rotated away, since the newest that is known.
        return 0 < newest < place.status.st_mtime_ns

    def _is_copy(self, place: _Place, opened: OpenFile) -> bool:
        """Whether a rotated file holds nothing that a known generation of its log does not."""
        for file in self._files():
            if file.generation.path == place.log and opened.head and file.head.startswith(opened.head):
                return True
        for each in self._generations.values():
            if each.path == place.log and each.is_finished and each.length and opened.continues(each):
                whole = each.length == HEAD_BYTES or len(opened.head) == each.length
                if whole and (opened.packed is not None or opened.status.st_size <= each.offset):
                    return True
        return False

    def _begin(self, begun: list[tuple[Generation, OpenFile]]) -> None:
        """Make new generations durable, then follow them; where that fails they are found again by the next scan."""
        if not begun:
            return
        for generation, _ in begun:
            self._generations[generation.id] = generation
        if self.save():
            for generation, opened in begun:
                self._follow(generation, opened)
            return
        for generation, opened in begun:
            del self._generations[generation.id]
            opened.close()

    def _follow(self, generation: Generation, opened: OpenFile) -> None:
        try:
            file = TailedFile(generation, opened)
        except (OSError, DamagedError) as error:
            opened.close()
            self._fault(f"{opened.path}: cannot be read: {error}")
            return
        if str(opened.path) != generation.path:
            file.gone_since = self._clock.steady()
        files = self._logs.setdefault(generation.path, _Log()).files
        files.append(file)
        order = {each: at for at, each in enumerate(self._generations)}
        files.sort(key=lambda each: order[each.generation.id])

    def _open(self, place: _Place) -> OpenFile | None:
        """Open what was seen; None where it cannot be, or where another file has taken its place since."""
        try:
            opened = OpenFile(place.path)
        except FileNotFoundError:
            self._is_stale = True
            return None
        except (OSError, DamagedError) as error:
            self._fault(f"{place.path}: cannot be read: {getattr(error, 'strerror', None) or error}")
            return None
        if opened.identity != place.identity:
            opened.close()
            self._is_stale = True
            return None
        return opened

    def _is_open(self, generation: Generation) -> bool:
        log = self._logs.get(generation.path)
        return log is not None and any(each.generation is generation for each in log.files)

    def _forget(self, places: dict[Identity, _Place]) -> None:
        """Drop what ended and was not seen for a day; note what is there."""
        now = int(self._clock.epoch())
        for each in list(self._generations.values()):
            if not each.is_finished or each.identity in places:
                each.seen = now
            elif now - each.seen > _FORGET_SECONDS:
                del self._generations[each.id]
                self._verified.pop(each.id, None)
        self._logs = {name: log for name, log in self._logs.items() if log.files}

    def _fault(self, message: str) -> None:
        if self._report_once(message):
            self.counts.faults += 1

    def _report_once(self, message: str) -> bool:
        is_new = message not in self._reported
        if is_new:
            if len(self._reported) >= 10_000:  # noqa: PLR2004 - names of files come and go
                self._reported.clear()
            self._reported.add(message)
            self._report(message)
        return is_new


def _age(place: _Place) -> tuple[bool, int, str]:
    """Sort key from the oldest to the newest: the live file is last, also within a tick of the clock."""
    return str(place.path) == place.log, place.status.st_mtime_ns, str(place.path)
