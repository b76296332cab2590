"""The systemd journal to mail.raw, by journalctl: no library to bind, and it knows every journal format of its system.

journalctl follows the journal as a child; when its pipe is full it waits, so the journal is the buffer. The cursor of
the last entry that has arrived is kept, durably, once a second. After a failed sending the child is started again
from there, for entries can be read again.

Two things that journalctl does are undone here (both seen with systemd 252):
- `--follow` shows the present boot only, whatever `--boot` says, but not with `--merge`. That one brings other
  machines' journals; so entries are asked for by this machine's id.
- `--after-cursor` passes over one entry also where the cursor's own is gone. So `--cursor` is used, and the first
  entry passed over only if it is that one.
"""

from __future__ import annotations

import os
import select
import subprocess
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING

import msgspec

from mailspan.errors import MailspanError
from mailspan.wire import Reading, encode_reading
from producers.journal_entries import FIELDS, Entry, EntrySplitter, Place, read_entry
from producers.lines import Lines
from producers.shipping import Arrivals, Batch, RawTopic, SendError
from producers.state_folder import StateError, StateFolder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from producers.tail import Clock

STATE_NAME = "journal.checkpoint"
_VERSION = 1
_READ_BYTES = 1 << 17
_MOST_BYTES_UNDER_WAY = 32 << 20
_SAVE_SECONDS = 1.0
_CHILD_END_SECONDS = 2.0
_FIRST_BACKOFF_SECONDS, _LAST_BACKOFF_SECONDS = 0.5, 30.0
_MACHINE_ID = Path("/etc/machine-id")
_MACHINE_ID_LENGTH = 32
_MOST_SAID_BYTES = 4096
_MOST_TOLD = 1000
_TOLD_SECONDS = 600.0


class JournalError(MailspanError):
    """The journal cannot be read; the message says why."""


@dataclass(frozen=True, slots=True)
class JournalSettings:
    """What is read, and what the headers say. Neither units nor identifiers: all mail programs."""

    host: str
    observer: str = ""
    units: Sequence[str] = ()
    identifiers: Sequence[str] = ()
    directory: Path | None = None
    is_followed: bool = True
    program: str = "journalctl"


@dataclass(slots=True)
class JournalCounts:
    """What happened, since the start; for logs and metrics."""

    passed_over: Counter[str] = field(default_factory=Counter)
    """Entries that gave no line, by reason."""
    child_starts: int = 0
    lost_cursors: int = 0
    """Saved positions whose entries were gone."""
    restarts: int = 0
    newest_seconds: int = 0
    """When the newest entry that was read was written, as epoch seconds."""


class _Stored(msgspec.Struct):
    version: int
    cursor: str


class Journal:
    """Ships the journal; `step` does a bit of work. Raises StateError where the state cannot be read."""

    def __init__(
        self,
        settings: JournalSettings,
        state: StateFolder,
        topic: RawTopic,
        clock: Clock,
        report: Callable[[str], None],
    ) -> None:
        self.counts = JournalCounts()
        self.arrived = Arrivals(clock.epoch)
        self.is_ended = False
        """Whether all was read, and nothing is followed."""
        self.is_failing = False
        """Whether journalctl ended by itself when it was last run, and without success."""
        self._settings = settings
        self._state = state
        self._topic = topic
        self._clock = clock
        self._report = report
        self._told: dict[str, float] = {}
        self._is_heard = True
        self._child: subprocess.Popen[bytes] | None = None
        self._said = b""
        self._splitter = EntrySplitter()
        self._unnumbered = (token_hex(8), 0)
        self._batches: deque[tuple[Batch, str, int]] = deque()
        self._unsent: deque[Batch] = deque()
        self._bytes = 0
        self._resume_at = self._next_save = 0.0
        self._backoff = _FIRST_BACKOFF_SECONDS
        cursor, note = state.load(_decode)
        if note:
            report(note)
        self._arrived = self._read = self._saved = cursor or ""
        self._expected = ""

    @property
    def is_settled(self) -> bool:
        """Whether all that was read has arrived."""
        return not self._batches

    @property
    def held_bytes(self) -> int:
        """How many bytes of what was read have not arrived."""
        return self._bytes

    # -- the loop ------------------------------------------------------------------------------------------------

    def step(self, seconds: float) -> None:
        """Take reports, send, and read what comes within `seconds`. Raises JournalError: no journalctl."""
        now = self._clock.steady()
        try:
            self._topic.serve(0)
            self._collect()
            is_sent = now >= self._resume_at and self._send()
            if now >= self._next_save:
                self._next_save = now + _SAVE_SECONDS
                self.save()
            if not is_sent or self._bytes >= _MOST_BYTES_UNDER_WAY or self.is_ended:
                self._topic.serve(seconds)
                return
            if self._child is None:
                self._start()
            self._take(seconds)
        except SendError as error:
            self._restart(str(error))

    def settle(self, seconds: float) -> None:
        """Send without reading; for the end."""
        try:
            self._topic.serve(seconds)
            self._collect()
            self._send()
        except SendError as error:
            self._restart(str(error))

    def save(self) -> None:
        """Make the position durable if it changed; a fault is reported once."""
        if self._arrived == self._saved:
            return
        try:
            self._state.save(msgspec.json.encode(_Stored(_VERSION, self._arrived)))
        except StateError as error:
            self._tell(str(error))
            return
        self._saved = self._arrived

    def close(self) -> None:
        """End the child, save, and give the state free."""
        self._stop()
        self.save()
        self._state.close()

    # -- the child -----------------------------------------------------------------------------------------------

    def _command(self) -> list[str]:
        settings = self._settings
        command = [settings.program, "--output=json", "--all", f"--output-fields={','.join(FIELDS)}", "--no-pager"]
        command += ["--no-tail", "--follow"] if settings.is_followed else []
        command += ["--merge", *(f"--unit={each}" for each in settings.units)]
        command += [f"--identifier={each}" for each in settings.identifiers]
        if self._read:
            command.append(f"--cursor={self._read}")
        if settings.directory is not None:
            return [*command, f"--directory={settings.directory}"]
        machine = _machine_id()
        return [*command, f"_MACHINE_ID={machine}"] if machine else command

    def _start(self) -> None:
        self._splitter = EntrySplitter()
        self._said, self._is_heard = b"", True
        self._expected = self._read
        self.counts.child_starts += 1
        try:
            self._child = subprocess.Popen(  # noqa: S603 - our own arguments
                self._command(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
            )
        except OSError as error:
            raise JournalError(
                f"{self._settings.program} cannot be run ({error.strerror or error}); the journal is read with it"
            ) from None

    def _stop(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.terminate()
        try:
            child.wait(_CHILD_END_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        for pipe in (child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()

    def _take(self, seconds: float) -> None:
        """Read what the child writes; note when it has ended."""
        child = self._child
        if child is None or child.stdout is None or child.stderr is None:
            return
        pipes = [child.stdout, child.stderr] if self._is_heard else [child.stdout]
        ready, _, _ = select.select(pipes, [], [], 0 if self._batches else seconds)
        if child.stderr in ready:
            said = os.read(child.stderr.fileno(), _READ_BYTES)
            self._is_heard = bool(said)
            self._hear(said)
        if child.stdout in ready:
            data = os.read(child.stdout.fileno(), _READ_BYTES)
            if data:
                self._ship(data)
            else:
                self._end(child)
        elif not ready and self._batches:
            self._topic.serve(seconds)

    def _hear(self, said: bytes) -> None:
        *lines, self._said = (self._said + said).split(b"\n")
        self._said = self._said[:_MOST_SAID_BYTES]
        for line in lines:
            if line.strip():
                self._tell(f"journalctl: {line.decode('utf-8', 'replace').strip()}")

    def _end(self, child: subprocess.Popen[bytes]) -> None:
        """The child has ended: by itself where nothing is followed, else it is started again after a while."""
        if child.stderr is not None:
            os.set_blocking(child.stderr.fileno(), False)
            self._hear((child.stderr.read(_READ_BYTES) or b"") + b"\n")
        self._stop()
        status = child.returncode
        self.is_failing = status != 0
        if not self._settings.is_followed:
            self.is_ended = True
            return
        self._tell(f"journalctl ended with {status}; it is started again")
        self._wait()

    def _wait(self) -> None:
        self._resume_at = self._clock.steady() + self._backoff
        self._backoff = min(_LAST_BACKOFF_SECONDS, self._backoff * 2)

    # -- entries -------------------------------------------------------------------------------------------------

    def _ship(self, data: bytes) -> None:
        own = self._settings.host.encode()
        is_mail_only = not (self._settings.units or self._settings.identifiers)
        runs: list[tuple[str, Lines]] = []
        before = self._splitter.passed_over
        last = self._read
        for raw in self._splitter.feed(data):
            entry = read_entry(raw, own, is_mail_only=is_mail_only)
            if entry is None:
                self.counts.passed_over["unreadable"] += 1
                self._tell("journalctl wrote an entry that cannot be read; it is passed over")
                continue
            if self._expected and self._is_known(entry):
                continue
            last = entry.cursor
            self.counts.newest_seconds = entry.seconds
            if entry.line is None:
                self.counts.passed_over[entry.reason] += 1
                continue
            place = entry.place or self._number()
            if not runs or runs[-1][0] != place.generation:
                runs.append((place.generation, Lines([], [], 0)))
            runs[-1][1].lines.append(entry.line)
            runs[-1][1].starts.append(place.offset)
        if self._splitter.passed_over != before:
            self.counts.passed_over["too long"] += 1
            self._tell("an entry of the journal is too long; it is passed over")
        if last != self._read:
            self._add(runs, last)

    def _is_known(self, entry: Entry) -> bool:
        """Whether the first entry is the one of the position, which was read before; say so if that one is gone."""
        expected, self._expected = self._expected, ""
        if entry.cursor == expected:
            return True
        self.counts.lost_cursors += 1
        self._report(
            "the entry of the saved position is not in the journal any more (or not among what is asked for);"
            " going on with the oldest one behind it"
        )
        return False

    def _number(self) -> Place:
        """Return a place for an entry whose cursor is of a form that is not known: good for this run only."""
        self._tell("journalctl's cursors have an unknown form; lines that are sent again may be doubled")
        generation, count = self._unnumbered
        self._unnumbered = generation, count + 1
        return Place(generation, count)

    def _add(self, runs: list[tuple[str, Lines]], last: str) -> None:
        """Hand on what was read in one go. The position moves when the last of its batches has arrived."""
        now = int(self._clock.epoch())
        settings = self._settings
        found = runs or [("", Lines([], [], 0))]
        for number, (generation, lines) in enumerate(found, 1):
            reading = Reading(generation, now, now, settings.host, "", "journal", settings.observer)
            batch = Batch(lines, encode_reading(reading), now)
            size = sum(map(len, lines.lines))
            self._bytes += size
            self._batches.append((batch, last if number == len(found) else "", size))
            self._unsent.append(batch)
        self._read = last
        self._backoff = _FIRST_BACKOFF_SECONDS
        self.is_failing = False

    def _send(self) -> bool:
        while self._unsent and self._topic.send(self._unsent[0]):
            self._unsent.popleft()
        return not self._unsent

    def _collect(self) -> None:
        while self._batches and not self._batches[0][0].unsettled and self._batches[0][0].error is None:
            batch, cursor, size = self._batches.popleft()
            if self._unsent and self._unsent[0] is batch:
                self._unsent.popleft()  # one without lines
            self._bytes -= size
            self.arrived.add(batch)
            self._arrived = cursor or self._arrived
        fault = next((batch.error for batch, _, _ in self._batches if batch.error is not None), None)
        if fault is not None:
            raise SendError(fault)

    def _restart(self, reason: str) -> None:
        """Drop all that is under way, and read again from where everything has arrived."""
        self.counts.restarts += 1
        self._report(f"sending failed ({reason}); sending again from the last position that is safe")
        self._stop()
        self._topic.restart()
        self._batches.clear()
        self._unsent.clear()
        self._bytes = 0
        self._read = self._arrived
        self.is_ended = False
        self._wait()

    def _tell(self, message: str) -> None:
        """Say it, unless it was said a while ago."""
        now = self._clock.steady()
        if now < self._told.get(message, 0.0):
            return
        if len(self._told) >= _MOST_TOLD:
            self._told.clear()
        self._told[message] = now + _TOLD_SECONDS
        self._report(message)


def _decode(body: bytes) -> str | None:
    try:
        stored = msgspec.json.decode(body, type=_Stored)
    except msgspec.MsgspecError:
        return None
    return stored.cursor if stored.version == _VERSION else None


def _machine_id() -> str:
    try:
        found = _MACHINE_ID.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return found if len(found) == _MACHINE_ID_LENGTH else ""
