r"""What surrounds Exim's messages: its own stamps and files, its IDs, the parts of long syslog lines, header dumps.

Pure. Exim writes `2026-11-23 07:55:08[.fff] [+0900] [[pid] ]ID text` into its own files, which name no host, and the same
text, mostly with the stamp, to syslog. There a line of more than 870 characters comes in parts `[2/5] …`, and the reject
log's several lines as `[2\5] …` (log.c write_syslog): `/` means that the line goes on in the next part, `\` that a new one
begins there. Below a refusal the reject log has the envelope and the headers of the mail (log.c log_write).

What comes in parts is one record, made when its last part is there. Of a record with a missing part, its beginning is
used, marked as truncated, as soon as a later line of the process shows that the part is missing. Bounded: how many
processes are remembered, and how long a record may grow.
"""

from __future__ import annotations

import re
from collections import deque
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from mailspan import queue_id as ids
from mailspan.event import Inspected, Received, Refused
from mailspan.event_time import FIRST_YEAR, LAST_YEAR
from mailspan.grammar import exim
from mailspan.grammar.exim_read import read_dumped_header
from mailspan.grammar.syslog import HEAD
from mailspan.record import Ignored, Record, Source, Stamp, Unparsed
from mailspan.transaction import digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import tzinfo

Result = Record | Ignored | Unparsed

_STAMP = re.compile(
    r"(?P<moment>[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.(?P<fraction>[0-9]{1,9}))?"
    r"(?: (?P<zone>[+-][0-9]{4}))? "
)
_PID = re.compile(r"\[([0-9]{1,10})\] ")
_QUEUE_ID = re.compile(rf"({ids.EXIM})(?: |\Z)")
_PART = re.compile(r"\[([0-9]{1,4})([/\\])([0-9]{1,4})\] ?")
_SYSLOG_HEAD = re.compile(r"(?!\[)[^ ]+ [^ \[\]:=]+(?:\[[0-9]*\])?: ")
_FOREIGN_HEAD = re.compile(rf"(?:[+-][0-9]{{2}}:[0-9]{{2}} )?{HEAD.pattern}")

MAX_PROCESSES = 4096
MAX_RECORDS_IN_PARTS = 512  # a process sends the parts of a record in one go
MAX_CHARACTERS = 65536
_MAX_STAMPS = 64
_MAX_LATE = 64
_MAX_SUBJECT = 1000
_DELAYED_SECONDS = 120  # syslog's stamp is later by less than this, or it is of another zone
_ZONE_STEP = 900

_PLAIN_STAMP = 20  # characters of "2026-11-23 07:55:08 "
_NO_PLAIN_TEXT = frozenset({"+", "-", "[", ""})

_PART_OF_RECORD = Ignored("part of a record")
_REPEATED = Ignored("repeated")
_CONTINUED = Ignored("continuation line")
_DUMP = Ignored("header of a rejection")


class _Dump:
    """The refusal that header lines are about, and the subject as far as it was read."""

    __slots__ = ("last", "queue_id", "record", "subject")

    def __init__(self, record: Record) -> None:
        self.record = record
        # A refusal without an ID is known by its line.
        self.queue_id = record.queue_id or f"~{digest((record.stamp.second, record.text)).hex()}"
        self.last: str | None = None
        self.subject: str | None = None

    def read(self, line: str) -> Result:
        """Read one line of the dump as one more line of the refused mail."""
        record = self.record
        if not line or line[0] == "-" or line.startswith("*** "):
            return _DUMP
        if line == self.last:
            return _REPEATED
        self.last = line
        if self.subject is not None and line[0] in " \t" and len(self.subject) < _MAX_SUBJECT:
            if line[2:3].isspace() or line[0] == "\t" or line[1:2] != " ":
                self.subject = f"{self.subject} {line.strip()}"
                return Record(
                    record.stamp, record.source, self.queue_id, line, Inspected("header", "", subject=self.subject)
                )
            self.subject = None
        refused = record.event if isinstance(record.event, Refused) else None
        event = read_dumped_header(line, refused)
        if event is None or isinstance(event, Ignored):
            return _DUMP
        self.subject = event.subject if isinstance(event, Inspected) else None
        return Record(record.stamp, record.source, self.queue_id, line, event)


class _Parts:
    """The parts of one record that a process sent to syslog."""

    __slots__ = ("count", "dump", "first", "header_stamp", "is_first_line", "last", "lost", "next", "source", "text")

    def __init__(
        self, count: int, source: Source, header_stamp: Callable[[str | None], Stamp | None], first: str
    ) -> None:
        self.count = count
        self.source = source
        self.header_stamp = header_stamp
        self.first = first
        self.last = first
        self.next = 2
        self.text = ""
        self.is_first_line = True
        self.lost = False
        self.dump: _Dump | None = None


class EximLines:
    """Reads the lines of one input that are Exim's, in its own form or out of syslog."""

    def __init__(self, host: str, zone_of: Callable[[str], tzinfo | None], bound: Callable[[Stamp], Stamp]) -> None:
        """`host` is that of Exim's own files; `bound` puts a possible time in place of a live line's impossible one."""
        self._host = host
        self._zone_of = zone_of
        self._bound = bound
        self._seconds: dict[tuple[str, str | None, tzinfo | None], tuple[int, ...]] = {}
        self._sources: dict[str, Source] = {}
        self._last: int | None = None
        self._plain: dict[str, Stamp] = {}  # by "2026-11-23 07:55:08 ", of seconds that come once
        self._is_own = False  # a line of Exim's own files was read
        self._dump: _Dump | None = None
        self._parts: dict[tuple[str, str, str], _Parts] = {}
        self._late: deque[Record] = deque(maxlen=_MAX_LATE)

    def forget_stamps(self) -> None:
        """Forget the stamps at hand: the reference of the lines that follow is another."""
        self._plain.clear()

    def read_own(self, line: str) -> Result | None:
        """Read a line of Exim's own files; None if it is none."""
        stamp = self._plain.get(line[:20])
        if stamp is not None and line[20:21] not in _NO_PLAIN_TEXT:
            self._is_own, self._dump = True, None
            result = self._read(line[20:], self._source(""), stamp)
            if isinstance(result, Record) and isinstance(result.event, Refused):
                self._dump = _Dump(result)
            return result
        match = _STAMP.match(line)
        if match is None:
            if not self._is_own or _looks_like_syslog(line):
                return None
            return _CONTINUED if self._dump is None else self._dump.read(line)
        if (
            match["zone"] is not None
            and _SYSLOG_HEAD.match(line, match.end())
            and not _QUEUE_ID.match(line, match.end())
        ):
            return None  # an RFC 3339 stamp with spaces
        if match["zone"] is None and _FOREIGN_HEAD.match(line, match.end()):
            return None  # a logger's template with such a stamp
        self._is_own = True
        self._dump = None
        pid = _PID.match(line, match.end())
        at = pid.end() if pid is not None else match.end()
        source = self._source(pid[1] if pid is not None else "")
        result = self._read(line[at:], source, lambda queue_id: self._own_stamp(match, source.host, queue_id))
        if isinstance(result, Record):
            if at == _PLAIN_STAMP and result.stamp.digits == 0 and len(self._instants(match, source.host)) == 1:
                if len(self._plain) >= _MAX_STAMPS:
                    self._plain.clear()
                self._plain[line[:at]] = result.stamp
            if isinstance(result.event, Refused):
                self._dump = _Dump(result)
        return result

    def read_syslog(self, message: str, source: Source, header_stamp: Callable[[str | None], Stamp | None]) -> Result:
        """Read a message out of syslog. `header_stamp` gives the line's own stamp by the queue ID."""
        key = (source.host, source.program, source.pid)
        part = _PART.match(message) if message[:1] == "[" else None
        known = self._parts.get(key)
        if part is None:
            if known is not None:
                del self._parts[key]
                self._give_up(known)
            return self._swap(self._read_message(message, source, header_stamp))
        return self._swap(self._read_part(key, known, part, message, source, header_stamp))

    def _swap(self, result: Result) -> Result:
        """Return a record that was found late in place of a result that says nothing."""
        return self._late.popleft() if self._late and isinstance(result, Ignored) else result

    def _read_part(
        self,
        key: tuple[str, str, str],
        known: _Parts | None,
        part: re.Match[str],
        message: str,
        source: Source,
        header_stamp: Callable[[str | None], Stamp | None],
    ) -> Result:
        number, count = int(part[1]), int(part[3])
        text = message[part.end() :]
        if number == 1:
            if known is not None:
                if known.first == message and known.next == 2:  # noqa: PLR2004  nothing came after the first part yet
                    return _REPEATED
                self._give_up(known)
            while len(self._parts) >= MAX_RECORDS_IN_PARTS:
                self._give_up(self._parts.pop(next(iter(self._parts))))
            known = self._parts[key] = _Parts(count, source, header_stamp, message)
        elif known is None or known.count != count or number < known.next:
            if known is not None and known.last == message:
                return _REPEATED
            return Unparsed(source.program, "part of a record without its beginning")
        elif number > known.next:
            self._give_up(known)
            known.lost = True
        known.next = number + 1
        known.last = message
        return self._add(known, text, ends=part[2] == "\\" or number == count)

    def _add(self, known: _Parts, text: str, *, ends: bool) -> Result:
        if known.lost:
            known.lost = not ends
            known.text = ""
            return _PART_OF_RECORD
        if len(known.text) < MAX_CHARACTERS:
            known.text = (known.text + text)[:MAX_CHARACTERS]
        if not ends:
            return _PART_OF_RECORD
        line, known.text = known.text, ""
        if not known.is_first_line:
            return known.dump.read(line) if known.dump is not None else _CONTINUED
        known.is_first_line = False
        result = self._read_message(line, known.source, known.header_stamp)
        if isinstance(result, Record) and isinstance(result.event, Refused):
            known.dump = _Dump(result)
        return result

    def _give_up(self, known: _Parts) -> None:
        """Use the beginning of a record of which a part is missing."""
        line, known.text = known.text, ""
        if not known.is_first_line or not line:
            return
        known.is_first_line = False
        result = self._read_message(line, known.source, known.header_stamp)
        if isinstance(result, Record):
            if isinstance(result.event, Received):
                result.event.truncated = True
                result.event.recipients = result.event.recipients[:-1]  # the last one may be cut
            self._late.append(result)

    def _read_message(self, message: str, source: Source, header_stamp: Callable[[str | None], Stamp | None]) -> Result:
        """Read a whole message out of syslog, with Exim's own stamp before it or without."""
        match = _STAMP.match(message)
        at = match.end() if match is not None else 0
        pid = _PID.match(message, at)
        at = pid.end() if pid is not None else at

        def stamp(queue_id: str | None) -> Stamp | None:
            by_syslog = header_stamp(queue_id)
            own = self._own_stamp(match, source.host, queue_id) if match is not None else None
            return by_syslog if own is None else own if by_syslog is None else _agreed(own, by_syslog)

        return self._read(message[at:], source, stamp)

    def _read(self, text: str, source: Source, stamp_of: Stamp | Callable[[str | None], Stamp | None]) -> Result:
        found = _QUEUE_ID.match(text)
        queue_id = found[1] if found is not None else None
        text = text[found.end() :] if found is not None else text
        for begin, read in (exim.QUEUED_FALLBACK if found is not None else exim.FALLBACK)[text[:4]]:
            if text.startswith(begin):
                event = read(text, source.program)
                if event is not None:
                    if isinstance(event, Ignored):
                        return event
                    stamp = stamp_of if isinstance(stamp_of, Stamp) else stamp_of(queue_id)
                    if stamp is None:
                        return Unparsed(source.program, "no such time", queue_id)
                    return Record(stamp, source, queue_id, text, event)
        return Unparsed(source.program, "no rule", queue_id)

    def _source(self, pid: str) -> Source:
        source = self._sources.get(pid)
        if source is None:
            if len(self._sources) >= MAX_PROCESSES:
                self._sources.clear()
            source = self._sources[pid] = Source(self._host, "exim", pid, "exim", f"exim[{pid}]")
        return source

    def _own_stamp(self, match: re.Match[str], host: str, queue_id: str | None) -> Stamp | None:
        """Return the event time of Exim's own stamp: it has the year, and perhaps the zone."""
        seconds = self._instants(match, host)
        if not seconds:
            return None
        second = seconds[0]
        if len(seconds) > 1:
            known = ids.exim_time(queue_id) if queue_id is not None else None
            before = known if known is not None else self._last
            if before is not None and second < before - 60:
                second = seconds[1]
        self._last = second
        fraction = match["fraction"] or ""
        return self._bound(Stamp(second, int(f"{fraction}00"[:3]) if fraction else 0, len(fraction), guessed=False))

    def _instants(self, match: re.Match[str], host: str) -> tuple[int, ...]:
        """Return what Exim's own stamp may stand for; most are like the one before."""
        key = (match["moment"], match["zone"], None if match["zone"] else self._zone_of(host))
        seconds = self._seconds.get(key)
        if seconds is None:
            seconds = instants(*key)
            if len(self._seconds) >= _MAX_STAMPS:
                self._seconds.clear()
            self._seconds[key] = seconds
        return seconds


def find_id(message: str) -> str | None:
    """Return the queue ID of a message out of syslog, None if it has none."""
    stamp = _STAMP.match(message)
    at = stamp.end() if stamp is not None else 0
    pid = _PID.match(message, at)
    found = _QUEUE_ID.match(message, pid.end() if pid is not None else at)
    return found[1] if found is not None else None


def instants(moment: str, zone: str | None, local: tzinfo | None) -> tuple[int, ...]:
    """Return the epoch seconds that `2026-11-23 07:55:08` stands for: none, one, or two (the clock is put back)."""
    try:
        wall = datetime(int(moment[:4]), int(moment[5:7]), int(moment[8:10]), int(moment[11:13]), int(moment[14:16]))  # noqa: DTZ001
        second = int(moment[17:19])
        if second > 60 or not FIRST_YEAR <= wall.year <= LAST_YEAR:  # noqa: PLR2004
            return ()
        if zone is not None:
            east = timedelta(hours=int(zone[1:3]), minutes=int(zone[3:5]))
            if east >= timedelta(days=1):
                return ()
            base = wall - datetime(1970, 1, 1) + (east if zone[0] == "-" else -east)  # noqa: DTZ001
            return (base.days * 86400 + base.seconds + second,)
        placed = wall.replace(tzinfo=local)
        first = int(placed.timestamp()) + second
        again = int(placed.replace(fold=1).timestamp()) + second
    except (ValueError, OverflowError, OSError):
        return ()
    return (first,) if first >= again else (first, again)


def _agreed(own: Stamp, by_syslog: Stamp) -> Stamp:
    """Return Exim's own stamp. Where it is of another zone than syslog's, which knows its own: moved by the difference."""
    ahead = own.second - by_syslog.second
    steps = round(ahead / _ZONE_STEP) * _ZONE_STEP
    if steps and abs(ahead - steps) <= _DELAYED_SECONDS and abs(steps) <= 86400:  # noqa: PLR2004  a day
        return Stamp(own.second - steps, own.millisecond, own.digits, guessed=by_syslog.guessed)
    return own


def _looks_like_syslog(line: str) -> bool:
    return line[:1] == "<" or (line[3:4] == " " and line[:3].isalpha() and line[9:10] == ":") or line[10:11] == "T"
