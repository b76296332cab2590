"""`mailspan produce syslog`: a syslog server over UDP, TCP and TLS."""

from __future__ import annotations

import time
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from mailspan.commands.logs import EXIT_DONE, EXIT_FILE_FAILED
from mailspan.commands.producing import END_SECONDS, IDLE_SECONDS, TOLD_SECONDS, say
from mailspan.errors import UsageError
from producers import figures
from producers.syslog import Listener, SyslogLimits, SyslogServer, SyslogSettings
from producers.syslog_sockets import Address, ListenError, listen, read_address, tls_context

if TYPE_CHECKING:
    import argparse
    import ssl
    from collections.abc import Sequence

    from mailspan.commands.producing import Surroundings

_KINDS = ("udp", "tcp", "tls")
_TLS_FILES = ("cert", "key", "client_ca")
_LIMITS = {
    "max_connections": ("connections", "connections in all"),
    "max_connections_per_address": ("connections_per_address", "connections from one address"),
    "handshake_timeout": ("handshake_seconds", "seconds until TLS must be agreed upon"),
    "frame_timeout": ("frame_seconds", "seconds that a begun frame may take"),
    "idle_timeout": ("idle_seconds", "seconds that a sender may be silent"),
}
"""The flag of each limit: which field of SyslogLimits it sets, and what it says."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `produce syslog`."""
    add = parser.add_argument
    for kind in _KINDS:
        add(f"--{kind}", metavar="HOST:PORT", action="append", help=f"syslog: listen there for {kind.upper()}")
    add("--cert", metavar="FILE", help="syslog: the certificate for --tls, with its chain (PEM)")
    add("--key", metavar="FILE", help="syslog: its key (PEM, without a password)")
    add("--client-ca", metavar="FILE", help="syslog: only senders with a certificate of one of these CAs (PEM)")
    defaults = {each.name: each.default for each in fields(SyslogLimits)}
    for name, (field, text) in _LIMITS.items():
        default = defaults[field]
        add(f"--{name.replace('_', '-')}", metavar="N", type=int, help=f"syslog: {text} (default: {default:g})")


def check(args: argparse.Namespace) -> list[Address]:
    """Return where to listen; nothing for other inputs. Raises UsageError."""
    given = [name for name in (*_KINDS, *_TLS_FILES, *_LIMITS) if getattr(args, name) is not None]
    if args.input != "syslog":
        if given:
            raise UsageError(f"--{given[0].replace('_', '-')} is an argument of `produce syslog`")
        return []
    addresses = [read_address(kind, text) for kind in _KINDS for text in getattr(args, kind) or ()]
    if not addresses:
        raise UsageError("syslog needs at least one of --udp, --tcp and --tls, each with HOST:PORT")
    if args.tls and not (args.cert and args.key):
        raise UsageError("--tls needs --cert and --key")
    if not args.tls and (args.cert or args.key or args.client_ca):
        raise UsageError("--cert, --key and --client-ca are for --tls")
    for name in _LIMITS:
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')}: {value} is not right; expected a number from 1 on")
    return addresses


def run(
    args: argparse.Namespace,
    addresses: Sequence[Address],
    around: Surroundings,
    *,
    host: str,
    zone: str,
    observer: str,
) -> int:
    """Serve until told to stop; then 3 where lines that were taken in did not arrive.

    Raises ListenError and UsageError.
    """
    context = None
    if args.tls:
        context = tls_context(Path(args.cert), Path(args.key), Path(args.client_ca) if args.client_ca else None)
    limits = {field: getattr(args, name) for name, (field, _) in _LIMITS.items() if getattr(args, name) is not None}
    settings = SyslogSettings(host, zone, observer, args.log_host or "", SyslogLimits(**limits))
    server = SyslogServer(_open(addresses, context), around.topic, settings, around.clock, say)
    around.show(lambda: figures.of_syslog(server, around.topic))
    told_at = time.monotonic()
    while not around.stop.is_set:
        around.turn()
        server.step(IDLE_SECONDS)
        if time.monotonic() - told_at >= TOLD_SECONDS:
            told_at = time.monotonic()
            _tell(server)
    server.drain()
    deadline = time.monotonic() + END_SECONDS
    while not server.is_settled and time.monotonic() < deadline:
        server.settle(IDLE_SECONDS)
    lost = server.lines_under_way
    _tell(server, f"stopped; not_arrived={lost} " if lost else "stopped; ")
    return EXIT_FILE_FAILED if lost else EXIT_DONE


def _open(addresses: Sequence[Address], context: ssl.SSLContext | None) -> list[Listener]:
    listeners: list[Listener] = []
    try:
        for address in addresses:
            opened = listen(address)
            listeners.append(Listener(address.kind, opened, context if address.kind == "tls" else None))
            name, port = opened.getsockname()[:2]
            say(f"syslog: {address.kind} on {name} port {port}")
    except ListenError:
        for each in listeners:
            each.socket.close()
        raise
    return listeners


def _tell(server: SyslogServer, before: str = "") -> None:
    counts = server.counts
    say(
        f"{before}lines={server.arrived.lines} connections={server.open_connections}"
        f" dropped_datagrams={counts.dropped_datagrams + counts.kernel_drops} cut={counts.cut_frames}"
        f" truncated={counts.truncated_frames} refused={counts.refused.total()} closed={counts.closed.total()}"
    )
