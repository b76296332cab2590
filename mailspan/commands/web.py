"""`mailspan web`: the page for the help desk, over the store that `search` reads.

SIGTERM or SIGINT: no new connection is taken, answers that are under way get some seconds, exit 0. How connections are
served is in web_server.py.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mailspan.commands.logs import read_zone
from mailspan.commands.machine import state_folder, zone_name
from mailspan.commands.serving import ServeError, serving
from mailspan.commands.small_http import listen
from mailspan.commands.web_server import serve
from mailspan.errors import UsageError
from mailspan.terminal import sanitise
from sink.elasticsearch_settings import connection_of, is_elasticsearch
from sink.sqlite_schema import path_of_store
from web.access import Access, is_loopback, read_networks
from web.app import MOST_LOOKUPS, App, Surroundings
from web.audit_log import AuditLog
from web.figures import STAGE, WebFigures
from web.pages import Pages
from web.stores import ElasticsearchStore, SqliteStore

if TYPE_CHECKING:
    import argparse

    from mailspan.commands.stopping import Stop
    from mailspan.settings import Settings
    from web.stores import Store

DESCRIPTION = (
    "A page for the help desk, in the browser: search, transactions, traces, explanations. It only reads. By default it"
    " listens on this machine alone; settings and a reverse proxy with logins: docs/web.md."
)


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
            serve(App(around), settings.web_user_header, listener, stop, served.turn)
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


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _say(message: str) -> None:
    sys.stderr.write(f"mailspan: {sanitise(message)}\n")
    sys.stderr.flush()
