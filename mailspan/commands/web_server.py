"""waitress as `mailspan web` uses it: the only file that imports it.

waitress keeps slow clients apart from the threads that look things up. Added here: what a client may take, room for new
connections when there are too many, that a request names one user at most, and the headers of its own answers, to
requests that it cannot read. What a page says is in web/.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError, get_header_lines
from waitress.server import create_server
from waitress.task import ErrorTask

from web.app import HEADERS, LONGEST_QUERY, MOST_LOOKUPS, MOST_WAITING

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Mapping
    from wsgiref.types import StartResponse, WSGIEnvironment

    from mailspan.commands.stopping import Stop
    from web.app import App

_TURN_SECONDS = 0.25
_MORE_THREADS = MOST_WAITING + 4
_CONNECTIONS = 200
_ROOM = 20
"""So many are closed at once when there are _CONNECTIONS, so that others can be taken."""
_SILENT_SECONDS = 30
_CLIENT_SECONDS = 60.0
"""What a client may take to fetch an answer and to ask the next question, however slowly the bytes come."""
_HEADER_BYTES = LONGEST_QUERY + 16_384


class _Refusing(ErrorTask):
    """The answer to a request that waitress refuses itself: to a browser, a page like any other."""

    def execute(self) -> None:
        """Write the answer."""
        self.response_headers.extend(HEADERS.items())
        super().execute()


def _channel(user_header: str) -> type[HTTPChannel]:
    """Return what reads requests. One that has the user's header twice is refused: nobody knows which one to believe.

    waitress joins such headers with a comma, which a user's name may have itself, as those of certificates do.
    """
    start = f"{user_header}:".lower().encode()

    class Parser(HTTPRequestParser):
        def parse_header(self, header_plus: bytes) -> None:
            super().parse_header(header_plus)
            lines = get_header_lines(header_plus.partition(b"\r\n")[2])
            if user_header and sum(line.lower().startswith(start) for line in lines) > 1:
                raise ParsingError(f"{user_header} is there twice")

    class Channel(HTTPChannel):
        parser_class = Parser
        error_task_class = _Refusing

    return Channel


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
        """Have the loop close, at its next turn, the connections of clients that take longer than they may.

        Where there are too many connections, those whose clients have taken longest are closed, too: else whoever opens
        many and asks nothing keeps everybody out. A client that waits for its answer is never cut off.
        """
        now = time.monotonic()
        channels = {(each.addr[0], str(each.addr[1])): each for each in _channels(sockets)}
        for client in set(self._since).difference(channels):
            del self._since[client]
        idle = [client for client, channel in channels.items() if not channel.requests]
        for client in channels:
            self._since.setdefault(client, now)
        idle.sort(key=self._since.__getitem__)
        too_many = len(sockets) - _CONNECTIONS + _ROOM if len(sockets) >= _CONNECTIONS else 0
        for place, client in enumerate(idle):
            if place < too_many or now - self._since[client] > _CLIENT_SECONDS:
                channels[client].will_close = True


def serve(app: App, user_header: str, listener: socket.socket, stop: Stop, turned: Callable[[], None]) -> None:
    """Serve until told to stop; answers that are under way then get some seconds. `turned` is called at each turn.

    `user_header` is that in which a proxy names the user; empty: there is none.
    """
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
    server.channel_class = _channel(user_header)
    while not stop.is_set:
        wasyncore.loop(_TURN_SECONDS, use_poll=True, map=sockets, count=1)
        turns.cut_off_late(sockets)
        turned()
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
