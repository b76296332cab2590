"""A TCP proxy on loopback that is slow, silent, or resets its connections as a test tells it."""

from __future__ import annotations

import socket
import struct
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK_BYTES = 16384
_RESET = struct.pack("ii", 1, 0)  # linger for no time: closing sends RST
_LOOK_SECONDS = 0.05


class Proxy:
    """Passes bytes on to `port`; see the methods for what else it does."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.delay_seconds = 0.0
        """So long each piece of up to 16 KB is held back."""
        self.is_silent = False
        """Connections are taken and nothing is passed on."""
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._is_over = False
        threading.Thread(target=self._accept, daemon=True).start()

    def reset(self) -> None:
        """Reset all connections, in the middle of whatever they carry."""
        with self._lock:
            ends = list(self._open)
        for end in ends:
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                end.shutdown(socket.SHUT_RDWR)
            self._let_go(end)

    def close(self) -> None:
        """Stop listening and reset what is open."""
        self._is_over = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.reset()

    def _accept(self) -> None:
        while not self._is_over:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._to), timeout=5)
            except OSError:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self._open |= {client, server}
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while piece := source.recv(_CHUNK_BYTES):
                if self.delay_seconds:
                    time.sleep(self.delay_seconds)  # what this is for
                while self.is_silent and not self._is_over:
                    time.sleep(_LOOK_SECONDS)
                target.sendall(piece)
        except OSError:
            pass
        self._let_go(source)
        self._let_go(target)

    def _let_go(self, end: socket.socket) -> None:
        with self._lock:
            self._open.discard(end)
        end.close()


@contextmanager
def proxied(port: int) -> Iterator[Proxy]:
    """Run a proxy in front of a loopback port."""
    proxy = Proxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
