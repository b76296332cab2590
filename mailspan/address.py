r"""Addresses, hosts and IPs, as the MTAs write them.

Pure. Values stay as logged: exactly one outer `<>` is stripped and nothing inside is touched, but for the escapes that
MTAs put in place of bytes (`\303\251`, `\M-C\M-)`, `#011`), decoded where they give valid UTF-8.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache, wraps
from typing import TYPE_CHECKING, TypeVar

from mailspan.event import Client

if TYPE_CHECKING:
    from collections.abc import Callable

_Read = TypeVar("_Read")

MAX_REMEMBERED = 16384  # clients, hosts and IPs kept at hand: names in logs are hostile, so bounded
MAX_REMEMBERED_CHARACTERS = 512  # a longer text is no name

# The inside of <…>: quoted strings as wholes (RFC 5321 Quoted-string), so that a ">" in quotes does not end it.
QUOTED = r'"(?:[^"\\]|\\.)*+"'
INSIDE = rf'(?:[^">\\]|\\.|{QUOTED})*+'

_ANGLE = re.compile(rf"<({INSIDE})>")
# No MTA or logger escapes a printable ASCII character: `room#101@…` is an address, not an escape.
_OCTAL = r"(?:0[0-3][0-7]|177|[23][0-7]{2})"
_ESCAPES = re.compile(rf"(?:\\{_OCTAL}|\\M[-^].|#{_OCTAL})+")
_ESCAPE = re.compile(rf"\\({_OCTAL})|\\M([-^])(.)|#({_OCTAL})")
_HOST = re.compile(r"(?P<name>[^\[\]]*)\[(?P<ip>[^\[\]]*)\](?::(?P<port>\d{1,5}))?")
_IPV4_BYTE = r"(?:1[0-9]{2}|2[0-4][0-9]|25[0-5]|[1-9]?[0-9])"
IPV4 = rf"{_IPV4_BYTE}(?:\.{_IPV4_BYTE}){{3}}"
_IPV4 = re.compile(IPV4, re.ASCII)
_USUAL_CLIENT = re.compile(rf"([0-9A-Za-z.-]{{1,255}}) ?\[({IPV4})\]", re.ASCII)
_UNKNOWN = frozenset({"", "unknown", "unverified"})


def _remembered(read: Callable[[str], _Read]) -> Callable[[str], _Read]:
    """Remember what short texts were read as."""
    short = lru_cache(maxsize=MAX_REMEMBERED)(read)

    @wraps(read)
    def look(text: str) -> _Read:
        return short(text) if len(text) <= MAX_REMEMBERED_CHARACTERS else read(text)

    return look


def read_angle(text: str, start: int) -> tuple[str, int] | None:
    """Read `<address>` that begins at `start`; return the address as logged and where it ends, None if it never does.

    Read left to right: a quoted local part may hold `>`, `, relay=` and anything else.
    """
    end = text.find(">", start)
    if end > 0 and text.find('"', start, end) < 0 and text.find("\\", start, end) < 0:
        return text[start + 1 : end], end + 1
    match = _ANGLE.match(text, start)
    return (match[1], match.end()) if match else None


def unbracket(text: str) -> str:
    """Strip exactly one outer `<>`."""
    if text[:1] == "<" and text[-1:] == ">" and len(text) > 1:
        return text[1:-1]
    return text


def decode_escapes(address: str) -> str:
    r"""Decode runs of byte escapes that give valid UTF-8 (what is shown is made safe there); keep all others."""
    if "\\" not in address and "#" not in address:
        return address
    return _ESCAPES.sub(_decode_run, address)


def _decode_run(match: re.Match[str]) -> str:
    codes = bytearray()
    for octal, meta, character, hashed in _ESCAPE.findall(match[0]):
        if octal or hashed:
            codes.append(int(octal or hashed, 8))
        elif ord(character) < 128:  # noqa: PLR2004
            codes.append(0x80 | (ord(character) if meta == "-" else ord(character) ^ 0x40))
        else:
            return match[0]
    try:
        return codes.decode()
    except UnicodeDecodeError:
        return match[0]


def clean_address(address: str) -> str:
    """Return an address that stood in `<>`, or bare, in the document's form."""
    if "\\" in address or "#" in address:
        return decode_escapes(unbracket(address))
    return unbracket(address)


@_remembered
def canonical_ip(text: str) -> str | None:
    """Return the RFC 5952 form without `IPv6:`, `::ffff:` kept as logged; None if it is no IP address."""
    if _IPV4.fullmatch(text):
        return text
    bare = text[5:] if text[:5].lower() == "ipv6:" else text
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        return None


@_remembered
def read_host(text: str) -> tuple[str | None, str | None, int | None]:
    """Read `name[ip]:port` (Postfix) or `name [ip]` (Sendmail); a name that is absent or unknown is None."""
    match = _HOST.match(text)
    if match is None:
        name = text.strip()
        return (None if name.lower() in _UNKNOWN else name), None, None
    name = match["name"].strip()
    port = int(match["port"]) if match["port"] else None
    return (None if name.lower() in _UNKNOWN else name), canonical_ip(match["ip"]), port


def read_client(text: str) -> Client:
    """Read who connected: `name[ip]`, `name [ip]`, `[ip]`, with ` (may be forged)` behind it or not."""
    usual = _USUAL_CLIENT.fullmatch(text)
    if usual is not None:
        name, ip = usual.groups()
        if "." in name:  # neither "unknown" nor "unverified"
            return Client(f"{name} [{ip}]", name, ip)
    forged = "(may be forged)" in text
    match = _HOST.match(text)
    name, ip, _ = read_host(text)
    if name is not None and "@" in name:
        name = name.rpartition("@")[2] or None  # Sendmail asks the client's ident server for a user name
    inside = ip or (match["ip"] if match else None)
    shown = name or text
    if inside is not None:
        shown = f"{name} [{inside}]" if name else f"[{inside}]"
    return Client(shown, name, ip, forged=True if forged else None)


@_remembered
def relay_name(text: str) -> str:
    """Return a relay's host in the document's form: lower case, no final dot, no outer `[]`."""
    name = text.strip()
    if name[:1] == "[" and name[-1:] == "]":
        name = name[1:-1]
        name = canonical_ip(name) or name
    return name.rstrip(".").lower()
