"""Who may ask: by which name the page is called, from which address, and which user a proxy names.

Pure. The Host header is compared with a list, so that no web site can make a browser ask us under its own name (DNS
rebinding). A user's name is believed of the proxies of the settings only; from others it is a refusal, not a guest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

Network = IPv4Network | IPv6Network

LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
_LONGEST_USER = 200


class Headers(Protocol):
    """The headers of a request; names are looked up without regard to case."""

    def get(self, key: str, default: str, /) -> str:
        """Return a header's value."""


class Refusal(NamedTuple):
    """Why somebody is not answered: the HTTP status and one sentence."""

    status: int
    text: str


@dataclass(frozen=True, slots=True)
class Access:
    """The rules: hosts in lower case without a port; `user_header` empty: nobody is asked for a name."""

    hosts: frozenset[str]
    user_header: str = ""
    proxies: tuple[Network, ...] = ()

    def refusal(self, headers: Headers, peer: str) -> Refusal | None:
        """Return why a request is refused, or None."""
        called = _HOST.fullmatch(headers.get("Host", ""))
        if called is None or called[1].lower().removesuffix(".") not in self.hosts:
            return Refusal(421, "This page does not go by that name; see MAILSPAN_WEB_HOSTS.")
        # A link from elsewhere may be followed; nothing of another site may load what is here without being seen.
        is_foreign = headers.get("Sec-Fetch-Site", "") == "cross-site"
        if is_foreign and headers.get("Sec-Fetch-Dest", "document") != "document":
            return Refusal(403, "This page is not for use within other sites.")
        if not self.user_header:
            return None
        if not any(_is_in(peer, network) for network in self.proxies):
            return Refusal(403, "Only the proxy that knows its users may ask here; see MAILSPAN_WEB_PROXIES.")
        if self.user(headers) is None:
            return Refusal(401, "The proxy named no user; see MAILSPAN_WEB_USER_HEADER.")
        return None

    def user(self, headers: Headers) -> str | None:
        """Return the name that the proxy gives, where names are asked for; None where it is none."""
        name = headers.get(self.user_header, "") if self.user_header else ""
        try:
            # WSGI (PEP 3333) gives the bytes of a header as Latin-1.
            name = name.encode("latin-1").decode()
        except UnicodeError:
            return None
        return name if 0 < len(name) <= _LONGEST_USER and name.isprintable() and name == name.strip() else None


def read_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Return addresses and networks. Raises ValueError."""
    return tuple(ip_network(text, strict=False) for text in texts)


def is_loopback(host: str) -> bool:
    """Whether who listens at this name or address is heard on this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _is_in(peer: str, network: Network) -> bool:
    try:
        address = ip_address(peer.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address in network
