"""`mailspan web`: the page for the help desk, over the store that `search` reads.

The only file that imports waitress, which keeps slow clients apart from the threads that look things up. SIGTERM or
SIGINT: no new connection is taken, answers that are under way get some seconds, exit 0.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.server import create_server

from mailspan.commands.logs import read_zone
from mailspan.commands.machine import state_folder, zone_name
from mailspan.commands.serving import ServeError, serving
from mailspan.commands.small_http import listen
from mailspan.errors import UsageError
from mailspan.terminal import sanitise
from sink.elasticsearch_settings import connection_of, is_elasticsearch
from sink.sqlite_schema import path_of_store
from web.access import Access, is_loopback, read_networks
from web.app import LONGEST_QUERY, MOST_LOOKUPS, MOST_WAITING, App, Surroundings
from web.audit_log import AuditLog
from web.figures import STAGE, WebFigures
from web.pages import Pages
from web.stores import ElasticsearchStore, SqliteStore

if TYPE_CHECKING:
    import argparse
    import socket
    from collections.abc import Iterable, Mapping
    from wsgiref.types import StartResponse, WSGIEnvironment

    from mailspan.commands.serving import Served
    from mailspan.commands.stopping import Stop
    from mailspan.settings import Settings
    from web.stores import Store

DESCRIPTION = (
    "A page for the help desk, in the browser: search, transactions, traces, explanations. It only reads. By default it"
    " listens on this machine alone; settings and a reverse proxy with logins: docs/web.md."
)

_TURN_SECONDS = 0.25
_MORE_THREADS = MOST_WAITING + 4
_CONNECTIONS = 200
_SILENT_SECONDS = 30
_CLIENT_SECONDS = 60.0
"""What a client may take to fetch an answer and to ask the next question, however slowly the bytes come."""
_HEADER_BYTES = LONGEST_QUERY + 16_384


class _Turns:
    """The application, and since when it is each client's turn: to fetch an answer and to ask the next question."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._since: dict[tuple[str, str], float] = {}  # by address and port

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request, in a thread of the server."""
        answer = self._app(environ, start_response)
        self._since[environ["REMOTE_ADDR"], environ["REMOTE_PORT"]] = time.monotonic()
        return answer

    def cut_off_late(self, sockets: Mapping[int, wasyncore.dispatcher]) -> None:
        """Have the loop close, at its next turn, the connections of clients that take longer than they may."""
        now = time.monotonic()
        channels = {(each.addr[0], str(each.addr[1])): each for each in _channels(sockets)}
        for client in set(self._since).difference(channels):
            del self._since[client]
        for client, channel in channels.items():
            since = self._since.setdefault(client, now)
            if not channel.requests and now - since > _CLIENT_SECONDS:
                channel.will_close = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `web`."""
    parser.add_argument(
        "--store",
        metavar="URL",
        help="sqlite:///PATH, https://HOST:9200 (default: MAILSPAN_STORE, else your own file)",
    )


def check(settings: Settings) -> None:
    """Raise UsageError where the page could be reached by others and would ask nobody for a name."""
    host, port = settings.web_address
    if not is_loopback(host) and not settings.web_user_header:
        raise UsageError(
            f"MAILSPAN_WEB_ADDRESS: {_shown(host, port)} can be reached from other machines, and nobody would be asked"
            " for a name; set MAILSPAN_WEB_USER_HEADER, and a proxy before it (docs/web.md), or listen on 127.0.0.1"
        )


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop; return 0. Raises UsageError, ServeError and AuditError."""
    settings: Settings = args.settings
    check(settings)
    around = _surroundings(args.store, settings)
    around.audit.check()
    stop: Stop = args.stop
    host, port = settings.web_address
    try:
        listener = listen(host, port)
    except (OSError, UnicodeError) as error:
        fault = getattr(error, "strerror", None) or error
        raise ServeError(f"MAILSPAN_WEB_ADDRESS: {_shown(host, port)} cannot be listened at ({fault})") from None
    with serving(settings.metrics_address, STAGE, stop, _say) as served:
        served.figures, served.is_ready = around.figures.show, lambda: True
        _say(f"the page is at http://{_shown(host, listener.getsockname()[1])}/")
        stop.begin("told to stop, and an answer held the page up; ended without it")
        try:
            _serve(App(around), listener, stop, served)
        finally:
            around.store.close()
    return 0


def _surroundings(store: str | None, settings: Settings) -> Surroundings:
    zone = read_zone(settings.web_zone, "MAILSPAN_WEB_ZONE:") if settings.web_zone else None
    return Surroundings(
        store=_store(store, settings),
        access=Access(frozenset(settings.web_hosts), settings.web_user_header, read_networks(settings.web_proxies)),
        audit=AuditLog(_audit_path(settings)),
        pages=Pages(),
        figures=WebFigures(),
        relay_hosts=settings.relay_hosts,
        zone=zone,
        zone_name=settings.web_zone or zone_name() or "the server's own zone",
        read_zone=read_zone,
        report=_say,
    )


def _store(store: str | None, settings: Settings) -> Store:
    if store is not None and is_elasticsearch(store):
        return ElasticsearchStore(connection_of(settings, store), settings.index_prefix, MOST_LOOKUPS)
    return SqliteStore(path_of_store(store, os.environ))


def _audit_path(settings: Settings) -> Path:
    if settings.web_audit_log:
        return Path(settings.web_audit_log)
    folder = state_folder(settings.state_dir)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / "web-audit.jsonl"


def _serve(app: App, listener: socket.socket, stop: Stop, served: Served) -> None:
    logging.getLogger("waitress").addHandler(logging.NullHandler())
    logging.getLogger("waitress").propagate = False
    sockets: dict[int, wasyncore.dispatcher] = {}
    turns = _Turns(app)
    server = create_server(
        turns,
        map=sockets,
        sockets=[listener],
        threads=MOST_LOOKUPS + _MORE_THREADS,
        connection_limit=_CONNECTIONS,
        channel_timeout=_SILENT_SECONDS,
        cleanup_interval=_SILENT_SECONDS // 3,
        max_request_header_size=_HEADER_BYTES,
        max_request_body_size=1024,
        clear_untrusted_proxy_headers=True,
        ident=None,
    )
    while not stop.is_set:
        wasyncore.loop(_TURN_SECONDS, use_poll=True, map=sockets, count=1)
        turns.cut_off_late(sockets)
        served.turn()
    wasyncore.dispatcher.close(server)  # the listener alone: its own close() would also cut off the answers
    while _has_answers(sockets) and stop.seconds(1.0) > 0:
        wasyncore.loop(min(_TURN_SECONDS, stop.seconds(1.0)), use_poll=True, map=sockets, count=1)
    server.task_dispatcher.shutdown(timeout=stop.seconds(1.0))
    wasyncore.close_all(sockets, ignore_all=True)


def _has_answers(sockets: Mapping[int, wasyncore.dispatcher]) -> bool:
    """Say whether an answer is being made or sent."""
    return any(each.requests or each.total_outbufs_len for each in _channels(sockets))


def _channels(sockets: Mapping[int, wasyncore.dispatcher]) -> list[HTTPChannel]:
    return [each for each in sockets.values() if isinstance(each, HTTPChannel)]


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _say(message: str) -> None:
    sys.stderr.write(f"mailspan: {sanitise(message)}\n")
    sys.stderr.flush()
