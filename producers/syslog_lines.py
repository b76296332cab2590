"""From a syslog message, as it came over the network or out of the journal, to one line that the grammar reads.

Pure. The line is what a syslog daemon would have put into a file: `<PRI>` is dropped, a newline inside is `#012` (as
rsyslog escapes it). What the sender left out is filled in, as RFC 3164 section 4.3 asks of whoever takes a message in:
the host (several daemons send none of their own) and, where there is a `<PRI>` and a tag, the stamp. Nothing else is
touched; what is no syslog message is passed as it is.
"""

from __future__ import annotations

import re

_PRIORITY = re.compile(rb"<[0-9]{1,3}>")
_TAG = rb"[^\s\[\]:]++(?:\[[0-9]{0,10}\])?+:(?: |\Z)"
# The stamps and tags of mailspan/grammar/syslog.py.
_WITHOUT_HOST = re.compile(
    rb"(?:[A-Z][a-z]{2} {1,2}[0-9]{1,2} (?:[0-9]{4} )?[0-9]{2}:[0-9]{2}:[0-9]{2}(?:[.,][0-9]{1,9})?"
    rb"|[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:[.,][0-9]{1,9})?(?:[Zz]|[+-][0-9]{2}:?[0-9]{2})?"
    rb"):? ++(?=%b)" % _TAG
)
_TAG_ALONE = re.compile(_TAG)
_VERSION = re.compile(rb"1 (?P<stamp>\S+) (?P<host>\S+) (?=\S+ \S+ \S+ )")
_HOST = re.compile(r"[A-Za-z0-9._:-]{1,255}")


def is_host(name: str) -> bool:
    """Whether a name can stand for a host in a line."""
    return _HOST.fullmatch(name) is not None


def one_line(message: bytes) -> bytes:
    """Return a message as one line: without trailing NUL, CR and LF, newlines inside as `#012`."""
    message = message.rstrip(b"\r\n\0")
    return message.replace(b"\n", b"#012") if b"\n" in message else message


def as_line(message: bytes, host: bytes, now: bytes) -> bytes:
    """Return a message as a line. `host` and `now` (RFC 3339) stand in for what it does not say."""
    message = one_line(message)
    priority = _PRIORITY.match(message) if message[:1] == b"<" else None
    line = message if priority is None else message[priority.end() :]
    if line[:2] == b"1 ":
        version = _VERSION.match(line)
        if version is not None and b"-" in version.group("stamp", "host"):
            stamp = now if version["stamp"] == b"-" else version["stamp"]
            named = host if version["host"] == b"-" else version["host"]
            return b"1 %b %b %b" % (stamp, named, line[version.end() :])
        return line
    found = _WITHOUT_HOST.match(line)
    if found is not None:
        return b"%b%b %b" % (line[: found.end()], host, line[found.end() :])
    if priority is not None and _TAG_ALONE.match(line):
        return b"%b %b %b" % (now, host, line)
    return line
