"""What a user asks for: one frozen `Query`, and the reading of its values.

Reading means: what each value must look like, and the message that says so. A query holds values in the form in
which they are compared, so two ways to write one thing are one query. Which documents it means is in `search.select`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING

from mailspan.errors import UsageError
from search.times import parse_time
from sink.terms import OUTCOMES, address_value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime, tzinfo

STATES = ("open", "closed", "incomplete")
QUEUE_LIFETIME_DAYS = 5
"""An open transaction last updated longer ago than this is shown as `incomplete`."""

_DSN = re.compile(r"[245](\.\d{1,3}){0,2}", re.ASCII)
_NAME_AND_IP = re.compile(r"(.*?)\s*\[(?:IPv6:)?([0-9A-Fa-f.:]+)\]")

Network = IPv4Network | IPv6Network


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


def parse_query(flags: Mapping[str, str | None], *, now: datetime, zone: tzinfo | None = None, **switches: bool) -> Query:
    """Return the query that `flags` ask for: the text given to each flag, by the names in FLAGS.

    `now` knows its zone; `zone` is the reader's (None: the machine's). `switches` are `started_only` and `probes`.
    Raises UsageError, which names the flag, its value and what is expected.
    """
    given = {name: text for name, text in flags.items() if text is not None}
    values: dict[str, str] = {}
    for name, text in given.items():
        flag, read = FLAGS[name]
        if not text.strip():
            message = f"{flag} '': expected a value"
            raise UsageError(message)
        if read is not None:
            values[name] = read(flag, text.strip())
    since_ms = until_ms = None
    if "since" in given:
        since_ms = parse_time("-d", given["since"], now=now, zone=zone, is_end=False)
    if "until" in given:
        until_ms = parse_time("-D", given["until"], now=now, zone=zone, is_end=True)
    if since_ms is not None and until_ms is not None and since_ms >= until_ms:
        message = f"-d {given['since']!r} is not before -D {given['until']!r}: nothing lies between"
        raise UsageError(message)
    network = None
    if "client" in values:
        network = network_of(values["client"])
        bracketed = _NAME_AND_IP.fullmatch(values["client"])
        if network is None and bracketed and (network := network_of(bracketed[2])):
            values["client"] = bracketed[1]
        elif network is not None:
            del values["client"]
    return Query(
        now_ms=round(now.timestamp() * 1000),
        since_ms=since_ms,
        until_ms=until_ms,
        client_network=network,
        **values,  # type: ignore[arg-type] - FLAGS gives field names, all of them text
        **switches,  # type: ignore[arg-type] - the two fields that are not text
    )


def network_of(text: str) -> Network | None:
    """Return the network that an IP or CIDR means, or None where `text` is neither."""
    try:
        network = ip_network(text.removeprefix("ipv6:").removeprefix("[").removesuffix("]"), strict=False)
    except ValueError:
        return None
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    whole_address = network.prefixlen == network.max_prefixlen
    return IPv4Network(mapped) if mapped is not None and whole_address else network


def _as_typed(_flag: str, text: str) -> str:
    return text


def _folded(_flag: str, text: str) -> str:
    return text.casefold()


def _address(_flag: str, text: str) -> str:
    return address_value(text).casefold()


def _host(_flag: str, text: str) -> str:
    return text.removesuffix(".").casefold()


def _relay(_flag: str, text: str) -> str:
    bare = text.removeprefix("[").removesuffix("]").removesuffix(".").casefold()
    try:
        return str(ip_address(bare.removeprefix("ipv6:")))
    except ValueError:
        return bare


def _one_of(choices: tuple[str, ...]) -> Callable[[str, str], str]:
    def read(flag: str, text: str) -> str:
        if text.lower() not in choices:
            message = f"{flag} {text!r}: expected one of {', '.join(choices)}"
            raise UsageError(message)
        return text.lower()

    return read


def _dsn(flag: str, text: str) -> str:
    if not _DSN.fullmatch(text):
        message = f"{flag} {text!r}: expected an enhanced status code or its first parts, as 5, 5.7 or 5.7.1"
        raise UsageError(message)
    return text


FLAGS: dict[str, tuple[str, Callable[[str, str], str] | None]] = {
    "term": ("TERM", _as_typed),
    "sender": ("-f", _address),
    "recipient": ("-t", _address),
    "since": ("-d", None),
    "until": ("-D", None),
    "host": ("-h", _host),
    "message_id": ("-m", _folded),
    "client": ("-c", _folded),
    "queue_id": ("-i", _folded),
    "relay": ("-l", _relay),
    "outcome": ("-o", _one_of(OUTCOMES)),
    "dsn": ("--dsn", _dsn),
    "subject": ("--subject", _folded),
    "state": ("--state", _one_of(STATES)),
}
"""Each flag with a value: its name in a message, and how its text is read (None: as a time)."""
