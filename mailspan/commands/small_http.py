"""A small HTTP server for a few answers that change nothing: GET and HEAD, one thread, nothing that grows.

Whoever connects can take one of MOST_CONNECTIONS places (when all are taken the oldest has to go), LONGEST_REQUEST
bytes and SECONDS of time, however slowly the bytes come. Each connection has one answer. What is no such request gets
an error or is closed, and nothing is logged of it. What is answered to which path is the caller's affair.
"""

from __future__ import annotations

import selectors
import socket
import threading
import time
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_CONNECTIONS = 16
LONGEST_REQUEST = 8192
SECONDS = 5.0
_READ_BYTES = 4096
_BACKLOG = 64
_PAUSE_SECONDS = 1.0  # where no connection can be taken: no descriptor is left
_TEXT = "text/plain; charset=utf-8"


class Answer(NamedTuple):
    """What is answered; `type` is that of the body."""

    status: HTTPStatus
    body: bytes
    type: str = _TEXT


def listen(host: str, port: int) -> socket.socket:
    """Open a listener for HttpServer. Raises OSError and UnicodeError."""
    family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


class _Connection:
    """One who asks: what came of the request, then what is left of the answer."""

    __slots__ = ("answer", "deadline", "request", "socket")

    def __init__(self, taken: socket.socket) -> None:
        taken.setblocking(False)
        self.socket = taken
        self.deadline = time.monotonic() + SECONDS
        self.request = b""
        self.answer: memoryview | None = None


class HttpServer:
    """Serves `listener`, which it owns, in a thread of its own; `find` returns the answer to a path, None for none.

    Where `find` raises something, that is a fault of ours: the answer is an error, and `report` is told, once.
    """

    def __init__(
        self, listener: socket.socket, find: Callable[[str], Answer | None], report: Callable[[str], None]
    ) -> None:
        self._listener = listener
        self._find = find
        self._report = report
        self._told = ""
        self._connections: dict[_Connection, None] = {}  # the oldest first
        self._paused_until: float | None = None
        self._is_closing = False
        self._woken, self._wakes = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._selector.register(listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._thread.start()

    @property
    def open_connections(self) -> int:
        """How many connections there are."""
        return len(self._connections)

    def close(self) -> None:
        """End the thread and close everything."""
        self._is_closing = True
        self._wakes.send(b"x")
        self._thread.join()
        for each in (self._listener, self._woken, self._wakes, *(each.socket for each in self._connections)):
            each.close()
        self._selector.close()

    def _run(self) -> None:
        while not self._is_closing:
            for key, _ in self._selector.select(self._seconds()):
                if isinstance(key.data, _Connection):
                    if key.data in self._connections:
                        self._serve(key.data)
                elif key.fileobj is self._listener:
                    self._accept()
            now = time.monotonic()
            for each in [each for each in self._connections if each.deadline <= now]:
                self._drop(each)
            if self._paused_until is not None and self._paused_until <= now:
                self._paused_until = None
                self._selector.register(self._listener, selectors.EVENT_READ)

    def _seconds(self) -> float | None:
        """Return how long to wait at most: until the first deadline."""
        ends = [each.deadline for each in self._connections]
        ends += [] if self._paused_until is None else [self._paused_until]
        return max(0.0, min(ends) - time.monotonic()) if ends else None

    def _accept(self) -> None:
        try:
            taken, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError:
            self._selector.unregister(self._listener)
            self._paused_until = time.monotonic() + _PAUSE_SECONDS
            return
        if len(self._connections) >= MOST_CONNECTIONS:
            self._drop(next(iter(self._connections)))
        connection = _Connection(taken)
        self._connections[connection] = None
        self._selector.register(taken, selectors.EVENT_READ, connection)

    def _drop(self, connection: _Connection) -> None:
        del self._connections[connection]
        self._selector.unregister(connection.socket)
        connection.socket.close()

    def _serve(self, connection: _Connection) -> None:
        try:
            if connection.answer is None:
                self._read(connection)
            else:
                self._write(connection, connection.answer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # it went away
            self._drop(connection)

    def _read(self, connection: _Connection) -> None:
        data = connection.socket.recv(_READ_BYTES)
        connection.request += data
        if b"\r\n\r\n" in connection.request or b"\n\n" in connection.request:
            answer = self._answer(connection.request)
        elif len(connection.request) > LONGEST_REQUEST:
            answer = _shown(_plain(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE))
        elif data:
            return
        else:
            self._drop(connection)
            return
        connection.answer = memoryview(answer)
        self._selector.modify(connection.socket, selectors.EVENT_WRITE, connection)

    def _write(self, connection: _Connection, left: memoryview) -> None:
        connection.answer = left[connection.socket.send(left) :]
        if not connection.answer:
            with suppress(OSError):
                connection.socket.shutdown(socket.SHUT_WR)
            self._drop(connection)

    def _answer(self, request: bytes) -> bytes:
        words = request.partition(b"\n")[0].decode("latin-1").split()
        if len(words) != 3 or not words[2].startswith("HTTP/1."):  # noqa: PLR2004 - method, target, version
            return _shown(_plain(HTTPStatus.BAD_REQUEST))
        if words[0] not in {"GET", "HEAD"}:
            return _shown(_plain(HTTPStatus.METHOD_NOT_ALLOWED))
        found = self._find_safely(words[1].partition("?")[0]) or _plain(HTTPStatus.NOT_FOUND)
        return _shown(found, with_body=words[0] == "GET")

    def _find_safely(self, path: str) -> Answer | None:
        try:
            return self._find(path)
        except Exception as error:  # noqa: BLE001 - it must not end the thread
            fault = f"{path} cannot be shown ({type(error).__name__}: {error})"
            if fault != self._told:
                self._told = fault
                self._report(fault)
            return _plain(HTTPStatus.INTERNAL_SERVER_ERROR)


def _plain(status: HTTPStatus) -> Answer:
    return Answer(status, f"{status.phrase}\n".encode())


def _shown(answer: Answer, *, with_body: bool = True) -> bytes:
    head = (
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}\r\n"
        f"Content-Type: {answer.type}\r\nContent-Length: {len(answer.body)}\r\n"
        "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n"
    )
    if answer.status == HTTPStatus.METHOD_NOT_ALLOWED:
        head += "Allow: GET, HEAD\r\n"
    return f"{head}\r\n".encode() + (answer.body if with_body else b"")
