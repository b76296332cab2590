"""The grammar: from a line to a record, an ignored line, or an unparsed one.

Pure: no clock, no I/O. One `Parser` for each input: it knows the input's reference time and zone, and follows its
stamps. A file of this folder is one MTA: its table of line kinds is the place for a new kind of line.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mailspan import queue_id as ids
from mailspan.event import Gap, Linked, Refused, Remarked
from mailspan.event_time import Calendar, TimeSettings
from mailspan.grammar import postfix, sendmail, syslog
from mailspan.record import Ignored, Record, Stamp, Unparsed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import tzinfo

    from mailspan.event import Event
    from mailspan.grammar.kind import LineKind, Rules

KINDS: dict[str, tuple[LineKind, ...]] = {"postfix": postfix.KINDS, "sendmail": sendmail.KINDS}
"""All line kinds, by MTA."""

REVISION = 1
"""The grammar revision: raised whenever the same lines give another document. Part of each document's version."""

MAX_LINE_CHARACTERS = 65536
MAX_NAMES = 8192  # hosts, programs and PIDs kept at hand: names in logs are hostile, so bounded

_FOREIGN = Ignored("foreign program")
_REPEATED = Ignored("repeated")
_EMPTY = Ignored("empty line")
_LOST = re.compile(
    r"(?:messages lost due to rate-limiting|Suppressed \d+ messages|begin to drop messages due to rate-limiting"
    r"|imuxsock lost \d+ messages)"
)
_LOGGERS = frozenset({"rsyslogd", "syslog-ng", "systemd-journald", "journal", "syslogd"})
_UNSUPPORTED = {"exim": "exim", "exim4": "exim", "smtpd": "opensmtpd", "opensmtpd": "opensmtpd"}
# Exim's own log files have neither host nor program: `2026-11-23 07:55:08 1xVOtK-00001g-0v <= …`.
_EXIM_OWN = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)? (?:[+-][0-9]{4} )?")
_EXIM = Ignored("exim not supported")
_LEVELS = ("warning: ", "error: ", "fatal: ", "panic: ")


class _Program:
    """What a syslog name means: its MTA, its last part, and the rules that read its messages."""

    __slots__ = ("is_id", "mta", "name", "queued", "unqueued")

    def __init__(self, mta: str, name: str, queued: Rules, unqueued: Rules, is_id: Callable[[str], object]) -> None:
        self.mta = mta
        self.name = name
        self.queued = queued
        self.unqueued = unqueued
        self.is_id = is_id


_IS_POSTFIX = re.compile(ids.POSTFIX).fullmatch
_IS_SENDMAIL = re.compile(ids.SENDMAIL).fullmatch


def _find_program(tag: str) -> _Program | Ignored:
    """Return what a program's name stands for: `postfix-in/smtpd` is smtpd of Postfix, `sm-mta` is Sendmail."""
    family, _, last = tag.rpartition("/")
    if family and last in postfix.DAEMONS:
        return _Program(
            "postfix",
            last,
            postfix.QUEUED_RULES.get(last, postfix.QUEUED_FALLBACK),
            postfix.RULES.get(last, postfix.FALLBACK),
            _IS_POSTFIX,
        )
    if tag in sendmail.PROGRAMS or tag.startswith(("sm-", "sendmail")):
        return _Program(
            "sendmail",
            tag,
            sendmail.QUEUED_FALLBACK,
            sendmail.FALLBACK,
            _IS_SENDMAIL,
        )
    if tag in _UNSUPPORTED:
        return Ignored(f"{_UNSUPPORTED[tag]} not supported")
    return _FOREIGN


def _read_unqueued(program: _Program, message: str) -> tuple[str | None, str, Event | Ignored | None]:
    """Read a message that does not begin with a queue ID; return the ID it holds after all, and its text from there."""
    for begin, read in program.unqueued:
        if message.startswith(begin):
            reading = read(message, program.name)
            if reading is not None:
                return None, message, reading
    if message.startswith("NOQUEUE: "):
        return None, message, _read_refusal(program, message[9:])
    if message.startswith(_LEVELS):
        text = message.partition(": ")[2]
        queue_id, found, _ = text.partition(": ")
        if found and program.is_id(queue_id):
            return queue_id, text, Remarked("warning")
        return None, message, Ignored("warning")
    return None, message, None


def _read_refusal(program: _Program, text: str) -> Event | Ignored:
    """Read what follows `NOQUEUE: `: a refusal, a proxy's answer, or an action that refuses nothing."""
    for begin, read in program.queued:
        if text.startswith(begin):
            reading = read(text, program.name)
            if isinstance(reading, (Refused, Linked)):
                return reading
    return Ignored("no queue id")


class Parser:
    """Reads the lines of one input, in order.

    `default_host` is the host of lines that carry none. Hosts are lower-cased; `host_aliases` renames them.
    """

    def __init__(self, settings: TimeSettings, default_host: str, host_aliases: dict[str, str] | None = None) -> None:
        self._settings = settings
        self._default_host = default_host.lower()
        self._aliases = host_aliases or {}
        self._zones: dict[str, tzinfo] = dict(settings.host_zones)
        self._calendars: dict[str | None, Calendar] = {}
        self._first_known: int | None = None
        self._programs: dict[str, _Program | Ignored] = {}
        self._hosts: dict[str, str] = {}
        self._stamps: dict[str, Stamp] = {}  # by "Nov 23 07:55:08 "
        self._heads: dict[str, tuple[str, _Program | Ignored, str, str]] = {}  # by "host program[pid]"

    def calibrate(self, lines: Iterable[str]) -> None:
        """Look through the first lines of the input for a queue ID that holds a time: it tells the year."""
        for line in lines:
            header = syslog.split(line[:MAX_LINE_CHARACTERS])
            if isinstance(header, str):
                continue
            program = _find_program(header.program)
            if isinstance(program, Ignored):
                continue
            known = ids.TIME_OF[program.mta](header.message.partition(": ")[0])
            if known is not None:
                self._first_known = known
                return

    def parse(self, line: str) -> Record | Ignored | Unparsed:
        """Read one line without its newline. Any text may come in: nothing is raised for what a log says.

        The plain form with a stamp, host, program and PID seen before is read right here; `_parse_any` reads all.
        """
        if line[-1:] == "\r":
            line = line[:-1]
        stamp = self._stamps.get(line[:16])
        if stamp is None:
            return self._parse_any(line)
        head, _, message = line[16:].partition(": ")
        known = self._heads.get(head)
        if known is None or len(line) > MAX_LINE_CHARACTERS:
            return self._parse_any(line)
        host, program, name, pid = known
        if isinstance(program, Ignored):
            return program
        queue_id, _, text = message.partition(": ")
        if program.is_id(queue_id):
            for begin, read in program.queued:
                if text.startswith(begin):
                    event = read(text, program.name)
                    if event is not None:
                        if isinstance(event, Ignored):
                            return event
                        return Record(stamp, host, name, pid, program.mta, queue_id, message, event)
            return Unparsed(name, "no rule", queue_id)
        if message[:1] == "[" or message[:17] == "message repeated ":
            return self._parse_any(line)
        inner_id, message, event = _read_unqueued(program, message)
        if event is None:
            return Unparsed(name, "no rule", inner_id)
        if isinstance(event, Ignored):
            return event
        return Record(stamp, host, name, pid, program.mta, inner_id, message, event)

    def _parse_any(self, line: str) -> Record | Ignored | Unparsed:
        if len(line) > MAX_LINE_CHARACTERS:
            line = line[:MAX_LINE_CHARACTERS]
        line = line.rstrip("\r\n")
        if not line.strip("\0 \t"):
            return _EMPTY
        header = syslog.split(line)
        if isinstance(header, str):
            if _EXIM_OWN.match(line):
                return _EXIM
            return _REPEATED if header == "repeated" else Unparsed("", header)
        host = self._host(header.host)
        if header.program in _LOGGERS and _LOST.search(header.message):
            return self._gap(header, host)
        program = self._programs.get(header.program)
        if program is None:
            program = _find_program(header.program)
            if len(self._programs) < MAX_NAMES:
                self._programs[header.program] = program
        plain = header.wall is not None and not header.fraction and header.host is not None
        if plain and not self._zones and line[15:16] == " ":
            if len(self._heads) >= MAX_NAMES:
                self._heads.clear()
            head = line[16:].partition(": ")[0]
            if head.startswith(f"{header.host} {header.program}"):
                self._heads[head] = (host, program, header.program, header.pid)
        else:
            plain = False
        if isinstance(program, Ignored):
            return program
        return self._read(program, header, host, line[:16] if plain else "")

    def _read(
        self, program: _Program, header: syslog.Header, host: str, stamp_text: str
    ) -> Record | Ignored | Unparsed:
        message = header.message
        queue_id: str | None
        queue_id, found, text = message.partition(": ")
        reading: Event | Ignored | None = None
        if found and program.is_id(queue_id):
            for begin, read in program.queued:
                if text.startswith(begin):
                    reading = read(text, program.name)
                    if reading is not None:
                        break
        else:
            queue_id, message, reading = _read_unqueued(program, message)
        if reading is None:
            return Unparsed(header.program, "no rule", queue_id)
        if isinstance(reading, Ignored):
            return reading
        stamp = header.stamp or self._place(header, host, program.mta, queue_id, stamp_text)
        if stamp is None:
            return Unparsed(header.program, "no such time", queue_id)
        return Record(stamp, host, header.program, header.pid, program.mta, queue_id, message, reading)

    def _gap(self, header: syslog.Header, host: str) -> Record | Unparsed:
        stamp = header.stamp or self._place(header, host, "", None, "")
        if stamp is None:
            return Unparsed(header.program, "no such time")
        return Record(stamp, host, header.program, header.pid, "", None, header.message, Gap(header.message[:200]))

    def _host(self, name: str | None) -> str:
        if name is None:
            return self._default_host
        host = self._hosts.get(name)
        if host is None:
            host = name.lower()
            host = self._aliases.get(host, host)
            if len(self._hosts) < MAX_NAMES:
                self._hosts[name] = host
        return host

    def _place(self, header: syslog.Header, host: str, mta: str, queue_id: str | None, stamp_text: str) -> Stamp | None:
        """Give a stamp its year and zone, and remember it for the lines of the same second."""
        if header.wall is None:
            return None
        known = ids.TIME_OF[mta](queue_id) if mta and queue_id else None
        zone_of = host if host in self._zones else None
        calendar = self._calendars.get(zone_of)
        if calendar is None:
            calendar = Calendar(self._settings, self._zones.get(host, self._settings.zone), self._first_known)
            self._calendars[zone_of] = calendar
        placed = calendar.place(header.wall, known)
        if placed is None:
            return None
        fraction = header.fraction
        millisecond = int((fraction + "00")[:3]) if fraction else 0
        stamp = Stamp(placed[0], millisecond, len(fraction), placed[1])
        if stamp_text:
            if len(self._stamps) > 64:  # noqa: PLR2004  only the last seconds: an old stamp may come back a year later
                self._stamps.clear()
            self._stamps[stamp_text] = stamp
        return stamp
