"""What a user asks for: one frozen `Query`, and the reading of its values.

Reading means: what each value must look like, and the message that says so. A query holds values in
the form in which they are compared, so two ways to write one thing are one query. Which documents
it means is in `search.select`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Any

from mailspan.errors import UsageError
from search.times import parse_time
from sink.terms import OUTCOMES, address_value, fold

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime, tzinfo

STATES = ("open", "closed", "incomplete")
QUEUE_LIFETIME_DAYS = 5
"""An open transaction last updated longer ago than this is shown as `incomplete`."""

_DSN = re.compile(r"[245](\.\d{1,3}){0,2}", re.ASCII)
_IPV6_TAG = re.compile("^ipv6:", re.IGNORECASE)  # RFC 5321, 4.1.3
_MAPPED_BITS = 96  # ::ffff:0:0/96, RFC 4291, 2.5.5.2
_AS_NETWORK = re.compile(r"\[?[0-9a-f.:]+\]?/[0-9]+")
_NAME_AND_IP = re.compile(r"(.*?)\s*\[(?:IPv6:)?([0-9A-Fa-f.:]+)\]")

Network = IPv4Network | IPv6Network

_AS_FLAGS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Query:
    """One search; None is "not asked for". Times are milliseconds since 1970 UTC."""

    now_ms: int
    term: str | None = None
    """As typed, without outer blanks: a queue id, message id, address or IP."""
    sender: str | None = None
    """An address, `@domain`, or `<>` for the null sender; case-folded, as are all below."""
    recipient: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    host: str | None = None
    message_id: str | None = None
    client: str | None = None
    """The name of a client, or what stands in its place: `uid=0`, `user@localhost`, `local`."""
    client_network: Network | None = None
    queue_id: str | None = None
    relay: str | None = None
    outcome: str | None = None
    dsn: str | None = None
    subject: str | None = None
    state: str | None = None
    started_only: bool = False
    """Times are compared with the date alone, not with all the time from date to last update."""
    probes: bool = False
    """Also address verification probes."""
    mailboxes: bool = False
    """Also what mailbox servers did with mail that a mail server handed to them."""


def parse_query(
    flags: Mapping[str, str | None],
    *,
    now: datetime,
    zone: tzinfo | None = None,
    started_only: bool = False,
    probes: bool = False,
    mailboxes: bool = False,
    labels: Mapping[str, str] = _AS_FLAGS,
) -> Query:
    """Return the query that `flags` ask for: the text given to each flag, by the names in FLAGS.

    `now` knows its zone; `zone` is the reader's (None: the machine's). Raises UsageError, which
    names the flag, its value and what is expected; the flag by its label where there is one.
    """
    given = {name: text for name, text in flags.items() if text is not None}
    values: dict[str, Any] = {}
    shown = {name: labels.get(name, flag) for name, (flag, _) in FLAGS.items()}
    for name, text in given.items():
        flag, read = shown[name], FLAGS[name][1]
        if not text.strip():
            raise UsageError(f"{flag} {text!r}: expected a value")
        if read is not None:
            values[name] = read(flag, text.strip())
    for name, is_end in (("since", False), ("until", True)):
        if name in given:
            values[f"{name}_ms"] = parse_time(shown[name], given[name], now=now, zone=zone, is_end=is_end)
    now_ms = round(now.timestamp() * 1000)
    query = Query(now_ms=now_ms, started_only=started_only, probes=probes, mailboxes=mailboxes, **values)
    if query.since_ms is not None and query.until_ms is not None and query.since_ms >= query.until_ms:
        raise UsageError(
            f"{shown['since']} {given['since']!r} is not before {shown['until']} {given['until']!r}:"
            " nothing lies between"
        )
    return _with_network(query)


def _with_network(query: Query) -> Query:
    """Take an IP, a CIDR or the `[ip]` of `name [ip]` out of the client's name."""
    if query.client is None:
        return query
    network = network_of(query.client)
    if network is not None:
        return replace(query, client=None, client_network=network)
    named = _NAME_AND_IP.fullmatch(query.client)
    if named is None:
        return query
    name = None if named[1] in {"", "unknown"} else named[1]
    return replace(query, client=name, client_network=network_of(named[2]))


def network_of(text: str) -> Network | None:
    """Return the network that an IP or CIDR means, or None where `text` is neither."""
    try:
        network = ip_network(_IPV6_TAG.sub("", text.removeprefix("[")).replace("]", "", 1), strict=False)
    except ValueError:
        return None
    if isinstance(network, IPv6Network) and network.prefixlen >= _MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - _MAPPED_BITS))
    return network


def _as_typed(_flag: str, text: str) -> str:
    return text


def _folded(_flag: str, text: str) -> str:
    return fold(text)


def _subject(flag: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{flag} {text!r}: expected UTF-8") from None
    return fold(text)


def _address(_flag: str, text: str) -> str:
    return fold(address_value(text))


def _client(flag: str, text: str) -> str:
    if _AS_NETWORK.fullmatch(fold(text)) and network_of(text) is None:
        raise UsageError(f"{flag} {text!r}: expected a name, an IP or a network, as 192.0.2.0/24")
    return fold(text)


def _host(_flag: str, text: str) -> str:
    return fold(text.removesuffix("."))


def _relay(_flag: str, text: str) -> str:
    bare = text.removeprefix("[").removesuffix("]").removesuffix(".").lower()
    try:
        return str(ip_address(bare.removeprefix("ipv6:")))
    except ValueError:
        return fold(bare)


def _one_of(choices: tuple[str, ...]) -> Callable[[str, str], str]:
    def read(flag: str, text: str) -> str:
        if text.lower() not in choices:
            raise UsageError(f"{flag} {text!r}: expected one of {', '.join(choices)}")
        return text.lower()

    return read


def _dsn(flag: str, text: str) -> str:
    if not _DSN.fullmatch(text):
        raise UsageError(f"{flag} {text!r}: expected an enhanced status code or its first parts, as 5, 5.7 or 5.7.1")
    return text


FLAGS: dict[str, tuple[str, Callable[[str, str], str] | None]] = {
    "term": ("TERM", _as_typed),
    "sender": ("-f", _address),
    "recipient": ("-t", _address),
    "since": ("-d", None),
    "until": ("-D", None),
    "host": ("-h", _host),
    "message_id": ("-m", _folded),
    "client": ("-c", _client),
    "queue_id": ("-i", _folded),
    "relay": ("-l", _relay),
    "outcome": ("-o", _one_of(OUTCOMES)),
    "dsn": ("--dsn", _dsn),
    "subject": ("--subject", _subject),
    "state": ("--state", _one_of(STATES)),
}
"""Each flag with a value: its name in a message, and how its text is read (None: as a time)."""
