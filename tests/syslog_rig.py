"""A syslog server in this process, on free loopback ports, with a topic in memory and a clock that tests move."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Self

from producers.syslog import Listener, SyslogLimits, SyslogServer, SyslogSettings
from producers.syslog_sockets import Address, listen
from producers.tail import Clock
from tests.memory_topic import MemoryTopic

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable


class SyslogRig:
    """The server is worked by `until`, which waits for something with a deadline."""

    def __init__(
        self, limits: SyslogLimits | None = None, context: ssl.SSLContext | None = None, log_host: str = ""
    ) -> None:
        self.topic = MemoryTopic(capacity=10_000)
        self.passed = 0.0
        self.reports: list[str] = []
        self.ports: dict[str, int] = {}
        self._clients: list[socket.socket] = []
        listeners = []
        for kind in ("udp", "tcp", "tls") if context else ("udp", "tcp"):
            opened = listen(Address(kind, "127.0.0.1", 0))
            self.ports[kind] = opened.getsockname()[1]
            listeners.append(Listener(kind, opened, context if kind == "tls" else None))
        settings = SyslogSettings("own", "UTC", "collector", log_host, limits or SyslogLimits())
        clock = Clock(lambda: time.monotonic() + self.passed, time.time)
        self.server = SyslogServer(listeners, self.topic, settings, clock, self.reports.append)
        self._is_drained = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._clients:
            each.close()
        self.drain()

    def connect(self, kind: str = "tcp") -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.ports[kind]), timeout=10)
        self._clients.append(client)
        return client

    def send_datagram(self, data: bytes) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(data, ("127.0.0.1", self.ports["udp"]))

    def drain(self) -> None:
        if not self._is_drained:
            self._is_drained = True
            self.server.drain()

    def until(self, is_so: Callable[[], bool], seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while not is_so():
            assert time.monotonic() < deadline, f"it did not happen in time: {self.reports} {self.server.counts}"
            self.server.step(0.01)

    def until_lines(self, count: int) -> list[bytes]:
        self.until(lambda: len(self.topic.arrived) >= count)
        return self.lines

    def until_closed(self, client: socket.socket) -> None:
        """Wait until the server has closed that connection."""
        client.setblocking(False)

        def is_closed() -> bool:
            try:
                return client.recv(1000) == b""
            except BlockingIOError:
                return False
            except OSError:
                return True

        self.until(is_closed)

    @property
    def lines(self) -> list[bytes]:
        return [each.value for each in self.topic.arrived]
