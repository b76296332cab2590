"""A web server that answers as a test tells it: what a real server does not do on demand."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, NamedTuple

import orjson

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Mapping


class Asked(NamedTuple):
    """One request."""

    method: str
    path: str
    headers: Mapping[str, str]
    """By names in lower case."""
    body: bytes


Reply = tuple[int, object] | None
"""Status and body: bytes as they are, a text that begins with < as HTML, all else as JSON. None: the line is cut.

The text of a redirect (3xx) is also where it goes.
"""


@contextmanager
def scripted_http(reply: Callable[[Asked], Reply], context: ssl.SSLContext | None = None) -> Iterator[str]:
    """Run a server on a free loopback port, with TLS where there is a context; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def _reply(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            found = reply(
                Asked(self.command, self.path, {name.lower(): value for name, value in self.headers.items()}, body)
            )
            if found is None:
                self.close_connection = True
                return
            status, content = found
            is_html = isinstance(content, str) and content.startswith("<")
            payload = (
                content if isinstance(content, bytes) else str(content).encode() if is_html else orjson.dumps(content)
            )
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if is_html else "application/json")
            if 300 <= status < 400 and isinstance(content, str):
                self.send_header("Location", content)
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        do_GET = do_PUT = do_POST = do_DELETE = _reply  # noqa: N815 - the base class looks for these names

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"{'http' if context is None else 'https'}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
