"""The grammar: from a line to a record, an ignored line, or an unparsed one.

Pure: no clock, no I/O. One `Parser` for each input: it knows the input's reference time and zone, and follows its
stamps. A file of this folder is one MTA: its table of line kinds is the place for a new kind of line.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mailspan import queue_id as ids
from mailspan.event import Gap, Linked, Refused, Remarked
from mailspan.event_time import Calendar, Survey, TimeSettings, read_timestamp
from mailspan.grammar import dovecot, exim, filters, opensmtpd, postfix, sendmail, syslog
from mailspan.grammar.exim_lines import EximLines, find_id
from mailspan.record import Ignored, Record, Source, Stamp, Unparsed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import tzinfo

    from mailspan.event import Event
    from mailspan.grammar.kind import LineKind, Rules

    ReadMessage = Callable[[str, str], tuple[str | None, str | None, Event | Ignored | None]]
    """From a whole message and its program to the session and the queue ID that it names, and what it means."""

KINDS: dict[str, tuple[LineKind, ...]] = {
    "postfix": postfix.KINDS,
    "sendmail": sendmail.KINDS,
    "exim": exim.KINDS,
    "opensmtpd": opensmtpd.KINDS,
    "dovecot": dovecot.KINDS,
    "filters": filters.KINDS,
}
"""All line kinds, by MTA; those of filters add to the transactions of one."""

REVISION = 4
"""The grammar revision: raised whenever the same lines give another document. Part of each document's version."""

MAX_LINE_CHARACTERS = 65536
MAX_NAMES = 8192  # hosts, programs and PIDs kept at hand: names in logs are hostile, so bounded
MAX_NAME_CHARACTERS = 255  # a longer one is none of a host or program; it is not kept

MAX_SECONDS = 64  # stamps kept at hand: only the last ones, for one without a year comes back, a year or an hour later

_FINE = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?(Z|[+-][0-9]{2}:?[0-9]{2})"
)
_FOREIGN = Ignored("foreign program")
_REPEATED = Ignored("repeated")
_EMPTY = Ignored("empty line")
_LOST = re.compile(
    r"(?:messages lost due to rate-limiting|Suppressed \d+ messages|begin to drop messages due to rate-limiting"
    r"|imuxsock lost \d+ messages)"
)
_PROCESS_ID = re.compile(r"[0-9]{1,10}\]")
_LOGGERS = frozenset({"rsyslogd", "syslog-ng", "systemd-journald", "journal", "syslogd"})
_LEVELS = ("warning: ", "error: ", "fatal: ", "panic: ")


class _Program:
    """What a syslog name means: its MTA, its last part, the form of its IDs, and the rules that read its messages.

    `read_message` reads the messages of programs that do not begin them with the queue ID.
    """

    __slots__ = ("is_id", "mta", "name", "queued", "read_message", "unqueued")

    def __init__(
        self,
        mta: str,
        name: str,
        queued: Rules,
        unqueued: Rules,
        is_id: ids.IdForm,
        read_message: ReadMessage | None = None,
    ) -> None:
        self.mta = mta
        self.name = name
        self.queued = queued
        self.unqueued = unqueued
        self.is_id = is_id
        self.read_message = read_message


class _Stamps:
    """The stamps at hand of one zone: the last seconds without a year, and the minute of the last one."""

    __slots__ = ("begin", "by_text", "minute", "minute_guessed", "minute_text")

    def __init__(self) -> None:
        self.by_text: dict[str, Stamp] = {}  # by "Nov 23 07:55:08 ", of two minutes at most
        self.begin = 0
        self.minute_text, self.minute, self.minute_guessed = "", 0, False  # "Nov 23 07:55:", when it began

    def go_on(self, second: int) -> None:
        """Forget what is of another time than a line of that second, of any host."""
        if not 0 <= second - self.begin < MAX_SECONDS:
            self.begin = second
            self.forget()

    def forget(self) -> None:
        """Forget all stamps: what comes next may be of another hour or year."""
        self.by_text.clear()
        self.minute_text = ""

    def in_minute(self, text: str) -> Stamp | None:
        """Give a stamp its time if it is of the same minute as the last one, without asking the calendar."""
        if text[:13] != self.minute_text:
            return None
        second = text[13:15]
        if not (second.isdecimal() and second.isascii() and second < "60" and text[15:] == " "):
            return None
        return self.remember(text, Stamp(self.minute + int(second), 0, 0, self.minute_guessed))

    def remember(self, text: str, stamp: Stamp) -> Stamp:
        """Keep a stamp for the other lines of its second."""
        if len(self.by_text) > MAX_SECONDS:
            self.by_text.clear()
        self.by_text[text] = stamp
        return stamp


class _Head:
    """What stands between the stamp and the message, `host program[pid]`, once it was read."""

    __slots__ = ("program", "source", "stamps")

    def __init__(self, program: _Program | Ignored, source: Source, stamps: _Stamps) -> None:
        self.program = program
        self.source = source
        self.stamps = stamps


_IS_POSTFIX = ids.IdForm(ids.POSTFIX)
_IS_SENDMAIL = ids.IdForm(ids.SENDMAIL)
_IS_NONE = ids.IdForm(ids.NONE)
_IS_EXIM = ids.IdForm(ids.EXIM)


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
        return _Program("sendmail", tag, sendmail.QUEUED_FALLBACK, sendmail.FALLBACK, _IS_SENDMAIL)
    if tag in opensmtpd.PROGRAMS:
        return _Program("opensmtpd", tag, opensmtpd.RULES, opensmtpd.RULES, _IS_NONE, opensmtpd.read_message)
    if tag == dovecot.PROGRAM:
        return _Program("dovecot", tag, dovecot.RULES, dovecot.RULES, _IS_NONE, dovecot.read_message)
    if tag in filters.INSIDE:
        return _Program(filters.MTA, tag, filters.RULES[tag], filters.RULES[tag], _IS_NONE, filters.read_message)
    if tag in filters.PROGRAMS:
        return _Program(filters.MTA, tag, filters.QUEUED_RULES[tag], filters.RULES[tag], _IS_POSTFIX)
    if exim.is_program(tag):
        return _Program("exim", tag, exim.QUEUED_FALLBACK, exim.FALLBACK, _IS_EXIM)
    return _FOREIGN


def is_mail_program(tag: str) -> bool:
    """Whether lines of that syslog name are read: an MTA's, or a logger's that tells of lost lines."""
    return tag in _LOGGERS or _find_program(tag) is not _FOREIGN


def name_program(tag: str) -> str:
    """Return one of a closed set of names for a syslog name, which a log may make up: `postfix/smtpd`, `exim`, `other`."""
    found = _find_program(tag)
    if isinstance(found, Ignored):
        return tag if tag in _LOGGERS else "other"
    if found.name in filters.PROGRAMS:
        return found.name
    return f"postfix/{found.name}" if found.mta == "postfix" else found.mta


def _read_queued(program: _Program, text: str) -> Event | Ignored | None:
    """Read what stands behind a queue ID; None where no rule fits."""
    for begin, read in program.queued[text[:4]]:
        if text.startswith(begin):
            reading = read(text, program.name)
            if reading is not None:
                return reading
    return None


def _read_unqueued(program: _Program, message: str) -> tuple[str | None, str, Event | Ignored | None, str | None]:
    """Read a message that does not begin with a queue ID.

    Return the ID it holds after all, the text behind it, what it means, and the session that it names.
    """
    if program.read_message is not None:
        session, queue_id, reading = program.read_message(message, program.name)
        return queue_id, message, reading, session
    for begin, read in program.unqueued[message[:4]]:
        if message.startswith(begin):
            reading = read(message, program.name)
            if reading is not None:
                return None, message, reading, None
    if message.startswith("NOQUEUE: "):
        return None, message, _read_refusal(program, message[9:]), None
    if message.startswith(_LEVELS):
        text = message.partition(": ")[2]
        queue_id, found, _ = text.partition(": ")
        if found and program.is_id[queue_id]:
            return queue_id, message, _read_warning(text[len(queue_id) + 2 :], program.mta), None
        return None, message, Ignored("warning"), None
    return None, message, None, None


def _read_warning(text: str, mta: str) -> Event:
    """Read a warning about one mail: a remark, but where it says why the mail was refused."""
    return (postfix.read_warning(text) if mta == "postfix" else None) or Remarked("warning")


def _read_refusal(program: _Program, text: str) -> Event | Ignored:
    """Read what follows `NOQUEUE: `: a refusal, a proxy's answer, or an action that refuses nothing."""
    for begin, read in program.queued[text[:4]]:
        if text.startswith(begin):
            reading = read(text, program.name)
            if isinstance(reading, (Refused, Linked)):
                return reading
    return Ignored("no queue id")


def _names_host(name: str, header: syslog.Header) -> bool:
    """Whether what stands before the PID is `host program`, or the same with a facility around the host, and no more."""
    place, found, program = name.rpartition(" ")
    if not found or program != header.program or header.host is None:
        return False
    host, _, level = place.partition(" ")
    return (host == header.host and " " not in level) or (host[:1] == "<" and level == header.host)


def _source(header: syslog.Header, host: str, program: _Program | Ignored) -> Source:
    mta = "" if isinstance(program, Ignored) else program.mta
    return Source(host, header.program, header.pid, mta, f"{header.program}[{header.pid}]")


class Parser:
    """Reads the lines of one input, in order.

    `default_host` is the host of lines that carry none. Hosts are lower-cased; `host_aliases` renames them.
    """

    def __init__(self, settings: TimeSettings, default_host: str, host_aliases: dict[str, str] | None = None) -> None:
        self._settings = settings
        self._default_host = default_host.lower()
        self._aliases = host_aliases or {}
        self._zones: dict[str, tzinfo] = {self._aliases.get(host, host): zone for host, zone in settings.host_zones}
        self._calendar = Calendar(settings)
        self._exim = EximLines(self._aliases.get(self._default_host, self._default_host), self._zone, self._bound)
        self._programs: dict[str, _Program | Ignored] = {}
        self._hosts: dict[str, str] = {}
        self._stamps: dict[tzinfo | None, _Stamps] = {}  # by zone
        self._moments: dict[tuple[str, str], int] = {}  # by "2026-11-23T07:55:08", "+01:00"
        self._heads: dict[str, _Head] = {}  # by "host program[pid]"
        self._programs_of_hosts: dict[str, _Head] = {}  # by "host program"

    def calibrate(self, lines: Iterable[str]) -> bool:
        """Look through the first lines of the input, and samples of the rest, for what tells the first one's year.

        Return whether it is known for good: then samples of the rest would tell no more.
        """
        if self._settings.year is not None or self._settings.is_live:
            return True
        survey = Survey()
        first_zone = self._settings.zone
        for line in lines:
            header = syslog.split(line[:MAX_LINE_CHARACTERS])
            if isinstance(header, str) or header.wall is None:
                continue
            zone = self._zone(self._host(header.host))
            if survey.first is None:
                first_zone = zone
            program = _find_program(header.program)
            queue_id, known = None, None
            if not isinstance(program, Ignored):
                queue_id = header.message.partition(": ")[0]
                queue_id = queue_id if program.is_id[queue_id] else None
                if program.mta == "exim":
                    queue_id = find_id(header.message)
                known = ids.TIME_OF[program.mta](queue_id) if queue_id is not None else None
            survey.add(header.wall, zone, queue_id, known)
            if survey.is_sure:
                break
        if survey.first is None:
            return True
        year, is_known = survey.first_year(first_zone, self._settings.reference)
        if year is not None:
            self._calendar.begin(year, survey.first)
        return is_known

    def resume(self, second: int) -> None:
        """Go on behind a line of that event time, in an input that was read up to there before."""
        self._calendar.resume(second, self._settings.zone)

    def refer_to(self, reference: int) -> None:
        """Say when the lines that follow were read, where that is the reference of each (`TimeSettings.is_live`)."""
        if self._calendar.reference != reference:
            self._calendar.reference = reference
            self._moments.clear()
            for stamps in self._stamps.values():
                stamps.forget()
            self._exim.forget_stamps()

    def parse(self, line: str) -> Record | Ignored | Unparsed:
        """Read one line without its end, LF or CR LF. Any text may come in: nothing is raised for what a log says.

        The plain form, of a host and a program seen before, is read right here; `_parse_any` reads all.
        """
        parts = line.split(": ", 2)
        begin = parts[0]
        stamp: Stamp | None = None
        if begin[3:4] == " ":  # Nov 23 07:55:08 host program[pid]
            text = begin[16:]
            head = self._heads.get(text) or self._head_of_process(text)
            if head is not None:
                stamps = head.stamps
                stamp = stamps.by_text.get(begin[:16]) or stamps.in_minute(begin[:16])
        elif begin[10:11] == " ":
            return self._parse_any(line)  # Exim's own stamp
        else:
            stamp_text, _, text = begin.partition(" ")
            head = self._heads.get(text) or self._head_of_process(text)
            if head is not None:
                stamp = self._fine_stamp(stamp_text)
        if stamp is None or head is None or len(line) > MAX_LINE_CHARACTERS or line[-1] == "\r":
            return self._parse_any(line)
        program = head.program
        if isinstance(program, Ignored):
            return program
        if len(parts) == 3 and program.is_id[parts[1]]:  # noqa: PLR2004  head, queue ID, text
            text = parts[2]
            name = program.name
            for beginning, read in program.queued[text[:4]]:
                if text.startswith(beginning):
                    event = read(text, name)
                    if event is not None:
                        if isinstance(event, Ignored):
                            return event
                        return Record(stamp, head.source, parts[1], text, event)
            return Unparsed(head.source.program, "no rule", parts[1])
        message = line[len(begin) + 2 :]
        if message[:1] == "[" or message[:17] == "message repeated ":
            return self._parse_any(line)
        queue_id, text, event, session = _read_unqueued(program, message)
        if event is None:
            return Unparsed(head.source.program, "no rule", queue_id)
        if isinstance(event, Ignored):
            return event
        return Record(stamp, head.source, queue_id, text, event, session)

    def _head_of_process(self, text: str) -> _Head | None:
        """Return the head of a process that was not met before, of a program that was; Sendmail has one for each mail."""
        name, _, pid = text.partition("[")
        known = self._programs_of_hosts.get(name)
        if known is None or _PROCESS_ID.fullmatch(pid) is None:
            return None
        pid = pid[:-1]
        source = known.source
        source = Source(source.host, source.program, pid, source.mta, f"{source.program}[{pid}]")
        head = _Head(known.program, source, known.stamps)
        self._remember_head(text, head)
        return head

    def _remember_head(self, text: str, head: _Head) -> None:
        if len(self._heads) >= MAX_NAMES:
            self._heads.clear()
        self._heads[text] = head

    def _stamps_of(self, host: str) -> _Stamps:
        """Return the stamps of the host's zone; there are as many as the settings name."""
        zone = self._zone(host)
        stamps = self._stamps.get(zone)
        if stamps is None:
            stamps = self._stamps[zone] = _Stamps()
        return stamps

    def _fine_stamp(self, text: str) -> Stamp | None:
        """Read `2026-11-23T07:55:08.123456+01:00`; None for any other text."""
        match = _FINE.fullmatch(text)
        if match is None:
            return None
        moment, fraction, zone = match.groups()
        second = self._moments.get((moment, zone))
        if second is None:
            stamp = read_timestamp(moment[:10], moment[11:], "", zone)
            if stamp is None:
                return None
            if self._calendar.bounded(stamp.second) is not None:
                return self._bound(stamp)
            if len(self._moments) > MAX_SECONDS:
                self._moments.clear()
            second = self._moments[moment, zone] = stamp.second
        if fraction is None:
            return Stamp(second, 0, 0, guessed=False)
        return Stamp(second, int(f"{fraction}00"[:3]), len(fraction), guessed=False)

    def _parse_any(self, line: str) -> Record | Ignored | Unparsed:
        if len(line) > MAX_LINE_CHARACTERS:
            line = line[:MAX_LINE_CHARACTERS]
        line = line.rstrip("\r\n")
        if not line.strip("\0 \t"):
            return _EMPTY
        own = self._exim.read_own(line)
        if own is not None:
            return own
        header = syslog.split(line)
        if isinstance(header, str):
            return _REPEATED if header == "repeated" else Unparsed("", header)
        host = self._host(header.host)
        if header.program in _LOGGERS and _LOST.search(header.message):
            return self._gap(header, host)
        program = self._programs.get(header.program)
        if program is None:
            program = _find_program(header.program)
            if len(self._programs) < MAX_NAMES and len(header.program) <= MAX_NAME_CHARACTERS:
                self._programs[header.program] = program
        if not isinstance(program, Ignored) and program.mta == "exim":
            return self._exim.read_syslog(
                header.message,
                _source(header, host, program),
                lambda queue_id: self._place(header, host, "exim", queue_id, ""),
            )
        stamp_text = ""
        if header.host is not None and header.program not in _LOGGERS:
            begin = line.partition(": ")[0]
            wall = header.wall
            is_plain = wall is not None and wall.year is None and not header.fraction
            is_plain = is_plain and line[3:4] == line[15:16] == " " and line[9:10] == ":"
            is_fine = header.stamp is not None and line[10:11] == "T"
            head = begin[16:] if is_plain else begin.partition(" ")[2] if is_fine else ""
            name, _, pid = head.partition("[")
            if len(head) <= 2 * MAX_NAME_CHARACTERS and _names_host(name, header):
                source = _source(header, host, program)
                known = _Head(program, source, self._stamps_of(host))
                self._remember_head(head, known)
                if pid == f"{header.pid}]" and len(self._programs_of_hosts) < MAX_NAMES:
                    self._programs_of_hosts[name] = known
                stamp_text = line[:16] if is_plain else ""
        if isinstance(program, Ignored):
            return program
        return self._read(program, header, host, stamp_text)

    def _read(
        self, program: _Program, header: syslog.Header, host: str, stamp_text: str
    ) -> Record | Ignored | Unparsed:
        queue_id: str | None
        queue_id, found, text = header.message.partition(": ")
        reading: Event | Ignored | None
        session: str | None = None
        if found and program.is_id[queue_id]:
            reading = _read_queued(program, text)
        else:
            queue_id, text, reading, session = _read_unqueued(program, header.message)
        if reading is None:
            return Unparsed(header.program, "no rule", queue_id)
        if isinstance(reading, Ignored):
            return reading
        stamp = self._place(header, host, program.mta, queue_id, stamp_text)
        if stamp is None:
            return Unparsed(header.program, "no such time", queue_id)
        return Record(stamp, _source(header, host, program), queue_id, text, reading, session)

    def _gap(self, header: syslog.Header, host: str) -> Record | Unparsed:
        stamp = self._place(header, host, "", None, "")
        if stamp is None:
            return Unparsed(header.program, "no such time")
        source = Source(host, header.program, header.pid, "", f"{header.program}[{header.pid}]")
        return Record(stamp, source, None, header.message, Gap(header.message[:200]))

    def _host(self, name: str | None) -> str:
        if name is None:
            return self._default_host
        host = self._hosts.get(name)
        if host is None:
            host = name.lower()
            host = self._aliases.get(host, host)
            if len(self._hosts) < MAX_NAMES and len(name) <= MAX_NAME_CHARACTERS:
                self._hosts[name] = host
        return host

    def _zone(self, host: str) -> tzinfo | None:
        return self._zones.get(host, self._settings.zone)

    def _bound(self, stamp: Stamp) -> Stamp:
        """Put the reference in place of a live line's stamp that cannot be; any other stamp stands."""
        second = self._calendar.bounded(stamp.second)
        return stamp if second is None else Stamp(second, 0, 0, guessed=True)

    def _place(self, header: syslog.Header, host: str, mta: str, queue_id: str | None, stamp_text: str) -> Stamp | None:
        """Give a stamp its year and zone, and remember it for the lines of the same second."""
        if header.stamp is not None:
            return self._bound(header.stamp)
        if header.wall is None:
            return None
        known = ids.TIME_OF[mta](queue_id) if mta and queue_id else None
        placed = self._calendar.place(header.wall, self._zone(host), known, queue_id)
        if placed is None:
            return None
        fraction = header.fraction
        millisecond = int((fraction + "00")[:3]) if fraction else 0
        stamp = Stamp(placed.second, millisecond, len(fraction), placed.is_guessed)
        if stamp_text and placed.is_common:
            stamps = self._stamps_of(host)
            for each in self._stamps.values():  # an hour that comes twice may be known by the lines of other zones
                each.go_on(placed.second)
            stamps.minute_text, stamps.minute = stamp_text[:13], stamp.second - header.wall.second
            stamps.minute_guessed = stamp.guessed
            return stamps.remember(stamp_text, stamp)
        return stamp
