"""Syslog headers: where the stamp, the host, the program and the message of a line are.

Pure. RFC 3164 (one- and two-digit days, `<PRI>` or none, a year before or behind the time or none, a fraction or none, a
colon behind the stamp as Cisco's devices write it, a missing host), RFC 3339 stamps with any zone, or none, in place of
the old ones (rsyslog, syslog-ng, journalctl -o short-iso), RFC 5424, and journalctl's short-full and short-unix.
Around the host, facility and level: `<mail.info>` (FreeBSD, syslogd -v), `mail.info` (BusyBox), `mail:info` (AIX). The usual
form is split without a regular expression by the caller (`mailspan.grammar`); this is the general way, for every other line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mailspan.event_time import WallTime, read_timestamp, read_wall_time
from mailspan.record import Stamp

_PRIORITY = re.compile(r"<[0-9]{1,3}>")
_OLD = re.compile(
    r"(?:[A-Z][a-z]{2} )?(?P<month>[A-Z][a-z]{2}) {1,2}(?P<day>[0-9]{1,2}) (?:(?P<year>[0-9]{4}) )?"
    r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})(?:[.,](?P<fraction>[0-9]{1,9}))?:? +"
    r"(?:(?P<late_year>(?:19|20)[0-9]{2}) +)?"
)
_NEW = re.compile(
    r"(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ](?P<time>[0-9]{2}:[0-9]{2}:[0-9]{2})(?:[.,](?P<fraction>[0-9]{1,9}))?"
    r" ?(?P<zone>[Zz]|[+-][0-9]{2}(?::?[0-9]{2})?):? +"
)
_HEAD = r"(?!\[)[^ \[\]]+ [^ \[\]:=]+\[[0-9]{1,10}\]: "
HEAD = re.compile(_HEAD)
"""`host program[pid]: `, strictly: what tells a syslog line with a stamp like Exim's from one of Exim's own."""

# With a blank in it, a stamp without a zone is one of Exim's own log files, unless a syslog head stands behind it.
_NEW_LOCAL = re.compile(
    r"(?P<year>[0-9]{4})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})(?:[Tt]|(?P<blank> ))"
    r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})(?:[.,](?P<fraction>[0-9]{1,9}))?:? +"
    rf"(?(blank)(?={_HEAD}))"
)
# journalctl -o short-full: the zone's name is that of the machine that printed it, so only UTC says which it is.
_FULL = re.compile(
    r"[A-Z][a-z]{2} (?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2}) (?P<time>[0-9]{2}:[0-9]{2}:[0-9]{2})"
    r"(?:\.(?P<fraction>[0-9]{1,9}))? (?P<zone>[A-Z]{2,6}|[+-][0-9]{2,4}) +"
)
_UTC = frozenset({"UTC", "GMT"})
_UNIX = re.compile(r"(?P<second>[0-9]{9,10})\.(?P<fraction>[0-9]{6}) +")
_VERSION = re.compile(r"1 (?P<stamp>\S+) (?P<host>\S+) (?P<app>\S+) (?P<process>\S+) \S+ ")
_STRUCTURED = re.compile(r'(?:-|(?:\[(?:[^\]"\\]|\\.|"(?:[^"\\]|\\.)*+")*+\])+)(?: |\Z)')
_TAG = re.compile(r"(?P<program>[^\s\[\]:]++)(?:\[(?P<pid>[0-9]{0,10})\])?:(?: |\Z)")
_REPEATED = re.compile(r"message repeated [0-9]+ times: \[ ?(?P<text>.*)\]\Z", re.DOTALL)
_SOLARIS = re.compile(r"\[ID [0-9]+ [a-z0-9]+\.[a-z]+\] ")
# syslogd's own words, of whichever line stood before; macOS puts them between dashes.
_LAST_REPEATED = re.compile(r"(?:\S+ )?(?:--- )?last message repeated [0-9]+ times?")
# Facility and level: numbers or names, as FreeBSD's syslogd -v, BusyBox and AIX write them.
_LEVEL = re.compile(
    r"(?:<[a-z0-9]+\.[a-z0-9]+>|(?:auth|authpriv|console|cron|daemon|ftp|kern|local[0-7]|lpr|mail|news|ntp|security|syslog"
    r"|user|uucp)[.:](?:emerg|alert|crit|err|error|warn|warning|notice|info|debug)) +"
)
# What docker compose logs, docker logs -t, kubectl logs --timestamps and CRI write before a line that has a stamp.
_WRAPPED = re.compile(
    r"(?:[\w.-]{1,128} +\| )?"
    r"(?:[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}(?:\.[0-9]{1,9})?(?:Z|[+-][0-9]{2}:[0-9]{2}) (?:std(?:out|err) F )?)?"
    r"(?=(?:<[0-9]{1,3}>)?(?:[A-Z][a-z]{2} [ 0-9][0-9] [0-9]{2}:|[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:))"
)
_FORWARDED = re.compile(r"Message forwarded from (?P<host>[^\s:]+): ")  # AIX, of what it got from another host


@dataclass(slots=True)
class Header:
    """A split line: either `stamp` is known, or `wall` waits for its year and zone. `host` is None where it is missing."""

    stamp: Stamp | None
    wall: WallTime | None
    fraction: str
    host: str | None
    program: str
    pid: str
    message: str


def split(line: str) -> Header | str:
    """Split a line without its newline; return why it is no syslog line if it is none."""
    header = _split(line)
    if isinstance(header, str):
        wrapped = _WRAPPED.match(line)
        if wrapped is not None and wrapped.end():
            return _split(line[wrapped.end() :])
    return header


def _split(line: str) -> Header | str:
    start = 0
    priority = _PRIORITY.match(line)
    if priority is not None:
        start = priority.end()
        version = _VERSION.match(line, start)
        if version is not None:
            return _split_5424(line, version)
    elif line[:2] == "1 ":
        version = _VERSION.match(line)
        if version is not None:
            return _split_5424(line, version)
    stamp, wall, fraction = None, None, ""
    match = _OLD.match(line, start) or _NEW_LOCAL.match(line, start)
    if match is not None:
        parts = match.groupdict()
        month, day, hour, minute, second = match.group("month", "day", "hour", "minute", "second")
        wall = read_wall_time(month, day, hour, minute, second, parts["year"] or parts.get("late_year"))
        if wall is None:
            return "no such time"
        fraction = match["fraction"] or ""
    else:
        match = _NEW.match(line, start)
        if match is None:
            return _split_journal(line)
        stamp = read_timestamp(match["date"], match["time"], match["fraction"] or "", match["zone"])
        if stamp is None:
            return "no such time"
    return _split_tag(line, match.end(), stamp, wall, fraction)


def _split_journal(line: str) -> Header | str:
    """Split what journalctl prints with `-o short-full` and `-o short-unix`."""
    match = _FULL.match(line)
    if match is not None:
        zone, fraction = match["zone"], match["fraction"] or ""
        if zone in _UTC or zone[0] in "+-":
            stamp = read_timestamp(match["date"], match["time"], fraction, zone)
            return "no such time" if stamp is None else _split_tag(line, match.end(), stamp, None, fraction)
        (year, month, day), (hour, minute, second) = match["date"].split("-"), match["time"].split(":")
        wall = read_wall_time(month, day, hour, minute, second, year)
        return "no such time" if wall is None else _split_tag(line, match.end(), None, wall, fraction)
    match = _UNIX.match(line)
    if match is None:
        return "no stamp"
    fraction = match["fraction"]
    stamp = Stamp(int(match["second"]), int(fraction[:3]), len(fraction), guessed=False)
    return _split_tag(line, match.end(), stamp, None, fraction)


def _skip_level(line: str, at: int) -> int:
    level = _LEVEL.match(line, at)
    return at if level is None else level.end()


def _split_tag(line: str, at: int, stamp: Stamp | None, wall: WallTime | None, fraction: str) -> Header | str:
    host = None
    tag = _TAG.match(line, at)
    if tag is None:
        if _LAST_REPEATED.match(line, at):
            return "repeated"
        at = _skip_level(line, at)
        tag = _TAG.match(line, at)
    if tag is None:
        host, _, _ = line[at:].partition(" ")
        forwarded = _FORWARDED.match(line, at)
        if forwarded is None:
            at += len(host) + 1
            while line[at : at + 1] == " ":
                at += 1
            at = _skip_level(line, at)
            forwarded = _FORWARDED.match(line, at)
        if forwarded is not None:
            host, at = forwarded["host"], _skip_level(line, forwarded.end())
        tag = _TAG.match(line, at)
        if tag is None:
            return "repeated" if _LAST_REPEATED.match(line, at) else "no program"
    return Header(stamp, wall, fraction, host, tag["program"], tag["pid"] or "", strip_wrapping(line[tag.end() :]))


def _split_5424(line: str, version: re.Match[str]) -> Header | str:
    match = _NEW.fullmatch(version["stamp"] + " ")
    stamp = read_timestamp(match["date"], match["time"], match["fraction"] or "", match["zone"]) if match else None
    if stamp is None:
        return "no stamp"
    structured = _STRUCTURED.match(line, version.end())
    if structured is None:
        return "no structured data"
    # rsyslog's MSG begins with the space that stood behind the tag (template RSYSLOG_SyslogProtocol23Format).
    message = line[structured.end() :].removeprefix("\ufeff").removeprefix(" ")
    host, app, process = (None if value == "-" else value for value in version.group("host", "app", "process"))
    if app is None:
        return "no program"
    # Some relays leave the old tag at the head of the message.
    tag = _TAG.match(message)
    if tag is not None and tag["program"] == app:
        message = message[tag.end() :]
    return Header(stamp, None, "", host, app, process or "", strip_wrapping(message))


def strip_wrapping(message: str) -> str:
    """Strip what loggers put around a message: Solaris's `[ID n facility.level] `, rsyslog's `message repeated`."""
    if message[:4] == "[ID ":
        found = _SOLARIS.match(message)
        return message[found.end() :] if found else message
    if message[:17] == "message repeated ":
        found = _REPEATED.match(message)
        return found["text"] if found else message
    return message
