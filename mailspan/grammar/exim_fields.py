r"""The parts of Exim's lines: addresses, `name (helo) [ip]:port`, the fields of a delivery, durations, SMTP errors.

Pure, left to right. What a remote party chose (subjects, replies, addresses, HELO names) stands in quotes or angle
brackets, or is checked against what Exim repeats of it; nothing in it is searched for fields. All patterns are possessive
or bounded. Sources: deliver.c string_log_address, d_hostlog and delivery_log; host.c host_build_sender_fullhost;
readconf.c readconf_printtime; smtp.c of the transports for SMTP errors.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from mailspan.address import INSIDE, QUOTED, canonical_ip, clean_address, read_angle
from mailspan.event import Client
from mailspan.reply import reply_code, reply_dsn

WORD = rf'(?:(?:{QUOTED}|[^ "])++|[^ ]++)'
"""An address or a Message-ID as a word: spaces stand in quotes only."""

HOST = r"(?:[^ ()\[\]]{1,255} )?(?:\(.{0,600}?\) )?\[[0-9A-Fa-f:.]{2,45}\](?::[0-9]{1,5})?"
"""`name (helo) [ip]:port`; only the last address in brackets can be relied on, for a HELO may hold others."""

_HOST_PARTS = re.compile(
    r"(?:(?P<name>[^ ()\[\]]+) )?(?:\((?P<helo>.*)\) )?\[(?P<ip>[0-9A-Fa-f:.]+)\](?::[0-9]+)?", re.DOTALL
)
_UNITS = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)([wdhms])")
_TIME = r"-?[0-9][0-9a-z.]{0,30}"

_REGION = 2048  # how much of a line an address with its parents may take
_CANDIDATES = 8
_QUOTED_ADDRESS = re.compile(rf"{QUOTED}@[^ :<>\"]+")
_PLAIN_ADDRESS = re.compile(r':blackhole:|[^ <>"]+?(?=:? |:?\Z)')
_SPECIAL = ("|", "/", ">", "save ")
_NEXT_FIELD = re.compile(r" (?:[A-Z][A-Za-z0-9]{0,3}[=*]|[A-Z] |routing |defer |mua_wrapper )|: |\Z")
_PARENTS = re.compile(r" \(([^()]{1,1000})\)")
_UNQUOTE = re.compile(r"\\(.)", re.DOTALL)

_FIELD = (
    rf"F=<(?P<sender>{INSIDE})>|P=<{INSIDE}>|P=(?P<protocol>[a-z]+)|R=(?P<router>[^ :]+)|T=(?P<transport>[^ :]+)"
    r"|S=[0-9]+|Q=[^ :]+"
    r"|H=(?P<host>[^ ]+)(?: DS)? \[(?P<ip>[0-9A-Fa-f:.]*)\](?::(?P<port>[0-9]{1,5}))?\*?|H=(?P<name>[^ :]+)"
    r"|PRX=\[[^\]]*+\](?::[0-9]+)?|I=\[[^\]]*+\](?::[0-9]+)?|TFO\*{0,2}|X=(?P<tls>[^ ]+?)(?=:? |:?\Z)|CV=[a-z]+"
    r'|DN="[^"]*+"|A=(?P<auth>[^ ]+?)(?=:? |:?\Z)|L[.*]?-?|PRDR|DS|K|DKIM=[^ ]+'
    rf'|C="(?P<confirmation>(?:[^"\\]|\\.)*+)(?:"|\Z)|QT=(?P<queue_time>{_TIME})|DT=(?P<delivery_time>{_TIME})'
    r"|ST=[^ ]+(?: \([^()]*+\))?"
    r'|[A-Z][A-Za-z0-9]{0,15}=(?:<[^<> ]*+>|"(?:[^"\\]|\\.)*+"|[^<>" ]+?(?=:? |:?\Z))'
)
FIELDS = re.compile(rf"(?: (?:{_FIELD})(?=[ :]|\Z))*+", re.DOTALL)
"""The fields of a delivery line (`=>`, `**`, `==` and their kin), in any order, each at most once.

Last, any other: `SRS=<…>` and what a version or a patch adds must not hide what stands behind it.
"""

USUAL_DELIVERY = re.compile(
    r'(?P<recipient>[^ <>"()|/\\#:,][^ <>"()\\#:]*+)(?: <(?P<original>[^ <>"\\#]++)>)?'
    r"(?: F=<(?P<sender>[^ <>\"\\]*+)>)?(?: P=<[^ <>\"\\]*+>)?(?: R=(?P<router>[^ :]++))? T=(?P<transport>[^ :]++)"
    r"(?: H=(?P<host>[^ ]++) \[(?P<ip>[0-9A-Fa-f:.]*+)\](?::(?P<port>[0-9]{1,5}))?)?(?: X=(?P<tls>[^ ]*[^ :]))?"
    r'(?: CV=[a-z]++)?(?: DN="[^"]*+")?(?: K)?(?: C="(?P<confirmation>(?:[^"\\]|\\.)*+)")?'
    rf"(?: QT=(?P<queue_time>{_TIME}))?(?: DT=(?P<delivery_time>{_TIME}))?(?P<name>)(?P<protocol>)\Z",
    re.DOTALL,
)
"""The whole of a usual delivery line: what read_address and FIELDS find in it, in one go."""

_SMTP_ERROR = re.compile(
    r"(?:SMTP|LMTP) error from remote mail(?: server|er) after (?:pipelined )?|(?:LMTP|PRDR) error after "
)
_COMMAND = re.compile(r"(?:MAIL FROM|RCPT TO):(?=<)")
_NAMED_HOST = r"(?P<host>[^ ]+) \[(?P<ip>[0-9A-Fa-f:.]*)\](?::(?P<port>[0-9]{1,5}))?"
_OLD_HOST = re.compile(rf"host {_NAMED_HOST}: ")
_OLD_HOST_FIRST = re.compile(
    rf"(?:Remote host|SMTP timeout while connected to|Malformed SMTP reply from) {_NAMED_HOST} "
)


class Address(NamedTuple):
    """An address as a delivery line has it: `original` is what stood in `<…>`, None where it is the same."""

    recipient: str
    original: str | None
    end: int


def seconds_of(text: str) -> float | None:
    """Return the seconds of `2m3s`, `0.123s`, `1d2h`; None where it is no duration."""
    total, at = 0.0, 0
    while at < len(text):
        match = _DURATION.match(text, at)
        if match is None:
            return None
        total += float(match[1]) * _UNITS[match[2]]
        at = match.end()
    return round(total, 6) if at else None


def read_client(text: str) -> tuple[Client, str | None] | None:
    """Read `name (helo) [ip]:port`; return the client and its HELO. Without a name before it, it is the HELO only."""
    match = _HOST_PARTS.fullmatch(text)
    if match is None:
        return None
    name, ip = match["name"], canonical_ip(match["ip"])
    shown = f"[{ip or match['ip']}]"
    return Client(f"{name} {shown}" if name else shown, name, ip), match["helo"]


def read_address(text: str, at: int) -> Address:
    """Read the address that begins at `at`, with ` (parents)` and ` <original>` behind it.

    Exim writes the final address without its quotes, so `r x, y@d <"r x, y"@d>` is one address: it ends where the
    quoted original that stands behind it repeats it.
    """
    quoted = _QUOTED_ADDRESS.match(text, at)
    if quoted is not None:
        return _with_original(text, at, quoted.end())
    end = _end_by_original(text, at)
    if end is None and text.startswith(_SPECIAL, at):
        end = _end_by_angle(text, at)
    if end is None:
        plain = _PLAIN_ADDRESS.match(text, at)
        if plain is not None and text.find(" ", plain.end(), plain.end() + 2) >= 0:
            follows = _NEXT_FIELD.match(text, plain.end()) or text.startswith((" <", " ("), plain.end())
            end = plain.end() if follows else None
        elif plain is not None:
            end = plain.end()
    if end is None:
        end = _end_by_angle(text, at)
    if end is None:
        field = _NEXT_FIELD.search(text, at, at + _REGION)
        end = field.start() if field is not None else len(text)
    return _with_original(text, at, end)


def _end_by_original(text: str, at: int) -> int | None:
    """Return the end of an address that the quoted original behind it repeats, None where none does."""
    place = at
    for _ in range(_CANDIDATES):
        place = text.find(' <"', place, at + _REGION)
        if place < 0:
            return None
        angle = read_angle(text, place + 1)
        if angle is not None:
            local, _, domain = angle[0].rpartition("@")
            bare = f"{_UNQUOTE.sub(lambda found: found[1], local[1:-1])}@{domain}".casefold()
            final = text[at:place].casefold()
            if final == bare:
                return place
            if final.startswith(f"{bare} ("):
                return at + len(bare)
        place += 1
    return None


def _end_by_angle(text: str, at: int) -> int | None:
    """Return the end of a pipe, a file or an odd address: where ` <original>` follows and then a field."""
    place = at
    for _ in range(_CANDIDATES):
        place = text.find(" <", place, at + _REGION)
        if place < 0:
            return None
        angle = read_angle(text, place + 1) if text.find(">", place, at + 2 * _REGION) > 0 else None
        if angle is not None and _NEXT_FIELD.match(text, angle[1]):
            parents = text.rfind(" (", at, place) if text[place - 1] == ")" else -1
            return parents if parents > at else place
        place += 1
    return None


def _with_original(text: str, at: int, end: int) -> Address:
    recipient = clean_address(text[at:end])
    parents = _PARENTS.match(text, end)
    if parents is not None:
        end = parents.end()
    original = None
    if text.startswith(" <", end):
        angle = read_angle(text, end + 1)
        if angle is not None:
            original, end = clean_address(angle[0]), angle[1]
    return Address(recipient, original if original != recipient else None, end)


def unescape(text: str) -> str:
    r"""Return a quoted value (`C="…"`, `T="…"`) without the backslashes before quotes and backslashes."""
    if "\\" not in text:
        return text
    # Left to right, two backslashes are one; what is left of them stands alone. By replacing, a long run costs little.
    return "\\".join([part.replace('\\"', '"') for part in text.split("\\\\")])


def _place_of_reply(message: str) -> int:
    """Return where the reply, or the host that gave it, begins behind `SMTP error from … after RCPT TO:<x>: `; else -1."""
    error = _SMTP_ERROR.match(message)
    if error is None:
        return -1
    at = error.end()
    command = _COMMAND.match(message, at)
    if command is not None:
        angle = read_angle(message, command.end())
        at = angle[1] if angle is not None else command.end()
    place = message.find(": ", at)
    return place + 2 if place >= 0 else -1


def reply_in(message: str) -> str | None:
    """Return the remote's reply in `SMTP error from remote mail server after RCPT TO:<x>: 550 …`, at its known place."""
    place = _place_of_reply(message)
    if place < 0:
        return None
    host = _OLD_HOST.match(message, place)
    return message[host.end() if host is not None else place :]


def host_in(message: str) -> re.Match[str] | None:
    """Find the relay where Exim before 4.83 had it, `host`, `ip` and `port`: in the message, for the line had no `H=`.

    `SMTP error … after RCPT TO:<x>: host N [ip]: 550 …`, `Remote host N [ip] closed connection …`, `SMTP timeout while
    connected to N [ip] after …`.
    """
    place = _place_of_reply(message)
    return _OLD_HOST.match(message, place) if place >= 0 else _OLD_HOST_FIRST.match(message)


def codes_in(message: str) -> tuple[int | None, str | None]:
    """Return the SMTP code and the enhanced code of the remote's reply in an error message."""
    reply = reply_in(message)
    return (reply_code(reply), reply_dsn(reply)) if reply is not None else (None, None)
