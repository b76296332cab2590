"""Syslog headers: where the stamp, the host, the program and the message of a line are.

Pure. RFC 3164 (one- and two-digit days, `<PRI>` or none, a year or none, a fraction or none, a colon behind the stamp as
Cisco's devices write it, a missing host, FreeBSD's `<facility.level>` before it), RFC 3339 stamps with any zone, or none,
in place of the old ones (rsyslog, syslog-ng, journalctl -o short-iso), and RFC 5424. The usual form is split without a
regular expression by the caller (`mailspan.grammar`); this is the general way, for every other line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mailspan.event_time import WallTime, read_timestamp, read_wall_time

if TYPE_CHECKING:
    from mailspan.record import Stamp

_PRIORITY = re.compile(r"<[0-9]{1,3}>")
_OLD = re.compile(
    r"(?P<month>[A-Z][a-z]{2}) {1,2}(?P<day>[0-9]{1,2}) (?:(?P<year>[0-9]{4}) )?"
    r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})(?:[.,](?P<fraction>[0-9]{1,9}))?:? +"
)
_NEW = re.compile(
    r"(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ](?P<time>[0-9]{2}:[0-9]{2}:[0-9]{2})(?:[.,](?P<fraction>[0-9]{1,9}))?"
    r" ?(?P<zone>[Zz]|[+-][0-9]{2}(?::?[0-9]{2})?):? +"
)
# With a blank in it, a stamp without a zone is one of Exim's own log files.
_NEW_LOCAL = re.compile(
    r"(?P<year>[0-9]{4})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})[Tt]"
    r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})(?:[.,](?P<fraction>[0-9]{1,9}))?:? +"
)
_FACILITY = re.compile(r"<[a-z0-9]{1,16}\.[a-z0-9]{1,16}> ")  # FreeBSD's `syslogd -v`: before the host
_VERSION = re.compile(r"1 (?P<stamp>\S+) (?P<host>\S+) (?P<app>\S+) (?P<process>\S+) \S+ ")
_STRUCTURED = re.compile(r'(?:-|(?:\[(?:[^\]"\\]|\\.|"(?:[^"\\]|\\.)*+")*+\])+)(?: |\Z)')
_TAG = re.compile(r"(?P<program>[^\s\[\]:]++)(?:\[(?P<pid>[0-9]{0,10})\])?:(?: |\Z)")
_REPEATED = re.compile(r"message repeated [0-9]+ times: \[ ?(?P<text>.*)\]\Z", re.DOTALL)
_SOLARIS = re.compile(r"\[ID [0-9]+ [a-z0-9]+\.[a-z]+\] ")
_LAST_REPEATED = re.compile(r"(?:\S+ )?last message repeated [0-9]+ times?")


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
        wall = read_wall_time(*match.group("month", "day", "hour", "minute", "second", "year"))
        if wall is None:
            return "no such time"
        fraction = match["fraction"] or ""
    else:
        match = _NEW.match(line, start)
        if match is None:
            return "no stamp"
        stamp = read_timestamp(match["date"], match["time"], match["fraction"] or "", match["zone"])
        if stamp is None:
            return "no such time"
    return _split_tag(line, match.end(), stamp, wall, fraction)


def _split_tag(line: str, at: int, stamp: Stamp | None, wall: WallTime | None, fraction: str) -> Header | str:
    host = None
    facility = _FACILITY.match(line, at)
    if facility is not None:
        at = facility.end()
    tag = _TAG.match(line, at)
    if tag is None:
        host, _, _ = line[at:].partition(" ")
        at += len(host) + 1
        while line[at : at + 1] == " ":
            at += 1
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
