"""The sockets of the syslog input: listeners of UDP, TCP and TLS, and what a TLS client's certificate says.

TLS is 1.2 or newer (RFC 9662 for RFC 5425). With a client CA, only senders with a certificate of it get in, and its
name says who they are. No session tickets: a sender that only writes and closes would lose its last lines over them.
"""

from __future__ import annotations

import socket
import ssl
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mailspan.errors import MailspanError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_BACKLOG = 512
_UDP_BUFFER_BYTES = 4 << 20
_LAST_PORT = 65535
_LONGEST_NAME = 255
_SO_RCVBUFFORCE, _SO_MEMINFO, _MEMINFO_BYTES, _MEMINFO_DROPS = 33, 55, 36, 32  # asm-generic/socket.h, sock_diag.h


class ListenError(MailspanError):
    """A listener cannot be opened; the message names its flag and address."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: `kind` is udp, tcp or tls; an empty host means all addresses."""

    kind: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"--{self.kind} {host}:{self.port}"


def read_address(kind: str, text: str) -> Address:
    """Read HOST:PORT, [ADDRESS]:PORT, :PORT or *:PORT. Raises UsageError."""
    host, colon, port = text.rpartition(":")
    if host[:1] == "[" and host[-1:] == "]":
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if not colon or not (port.isascii() and port.isdecimal()) or int(port) > _LAST_PORT:
        raise UsageError(f"--{kind}: {text!r} is no address; expected HOST:PORT, [ADDRESS]:PORT or :PORT")
    return Address(kind, "" if host == "*" else host, int(port))


def listen(address: Address) -> socket.socket:
    """Open a listener that does not block. Raises ListenError."""
    is_udp = address.kind == "udp"
    kind = socket.SOCK_DGRAM if is_udp else socket.SOCK_STREAM
    listener = None
    try:
        if not address.host and socket.has_dualstack_ipv6():
            family, place = socket.AF_INET6, ("::", address.port)
        else:
            found = socket.getaddrinfo(address.host or "0.0.0.0", address.port, type=kind)[0]  # noqa: S104 - all are meant
            family, place = socket.AddressFamily(found[0]), (str(found[4][0]), address.port)
        listener = socket.socket(family, kind)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(bool(address.host)))
        if is_udp:
            _widen(listener)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        if not is_udp:
            listener.listen(_BACKLOG)
    except (OSError, UnicodeError) as error:
        if listener is not None:
            listener.close()
        raise ListenError(f"{address}: cannot listen ({getattr(error, 'strerror', None) or error})") from None
    listener.setblocking(False)
    return listener


def _widen(listener: socket.socket) -> None:
    """Ask for a larger buffer, so that a burst is not dropped; root may exceed the system's limit."""
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _UDP_BUFFER_BYTES)
    except OSError:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _UDP_BUFFER_BYTES)


def kernel_drops(listener: socket.socket) -> int:
    """Return how many datagrams the kernel has dropped since the socket was opened; 0 where it does not tell."""
    try:
        found = listener.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO_BYTES)
    except OSError:
        return 0
    return int.from_bytes(found[_MEMINFO_DROPS:_MEMINFO_BYTES], sys.byteorder)


def tls_context(cert: Path, key: Path, client_ca: Path | None) -> ssl.SSLContext:
    """Return the TLS side of a listener. Raises UsageError, which names the flag and the file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.num_tickets = 0
    for flag, path in (("--cert", cert), ("--key", key), ("--client-ca", client_ca)):
        if path is not None:
            _check_readable(flag, path)
    try:
        context.load_cert_chain(cert, key, password=lambda: "")
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or "not PEM, or the key has a password"
        raise UsageError(f"--cert {cert} --key {key}: not a certificate and its key ({reason})") from None
    if client_ca is not None:
        try:
            context.load_verify_locations(client_ca)
        except ssl.SSLError as error:
            raise UsageError(f"--client-ca {client_ca}: no certificates ({error.reason or 'not PEM'})") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _check_readable(flag: str, path: Path) -> None:
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise UsageError(f"{flag} {path}: cannot be read ({error.strerror or error})") from None


def certificate_name(certificate: Mapping[str, Any] | None) -> str:
    """Return the name in a verified certificate (RFC 5425 section 5.2): DNS name, else CN, else another."""
    if not certificate:
        return ""
    names: list[tuple[str, str]] = list(certificate.get("subjectAltName", ()))
    subject = [pair for part in certificate.get("subject", ()) for pair in part]
    ranked = [name for kind, name in names if kind == "DNS"]
    ranked += [name for kind, name in subject if kind == "commonName"]
    ranked += [name for kind, name in names if kind in {"IP Address", "email", "URI"}]
    return next((name[:_LONGEST_NAME] for name in ranked if name), "")
