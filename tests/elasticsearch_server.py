"""A real Elasticsearch for tests and for trying things out: jars from Maven Central, one JVM, no container.

It is version 7.17 without what Elastic licenses on its own: no security, no lifecycle policies, no wildcard fields. A
node has free loopback ports, a folder of its own, and keeps both through `kill` and `start`.
`python -m tests.elasticsearch_server` (`make elasticsearch`) runs one in the foreground.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from tests.jars import ServerError, end, foreground, free_port, jars

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

VERSION = "7.17.29"
ARTIFACTS = (
    ("org.elasticsearch", "elasticsearch", VERSION),
    ("org.elasticsearch.plugin", "transport-netty4-client", VERSION),
    ("org.elasticsearch.plugin", "reindex-client", VERSION),
    ("org.elasticsearch.plugin", "mapper-extras-client", VERSION),
)
_MAIN = Path(__file__).parent / "ElasticsearchServer.java"
_START_SECONDS = 120.0
_HEAP = "1g"
QUICK_START = ("-Xms256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""What makes a JVM answer soon, and compute slower than it could."""


class Node:
    """One node that is a cluster of its own; `url` is what clients are told.

    `settings` are those of a node, `jvm` options of its JVM.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        heap: str = _HEAP,
        jvm: Sequence[str] = QUICK_START,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.settings = dict(settings or {})  # what is changed here counts from the next start on
        self.jvm = (f"-Xmx{heap}", *jvm)
        self._transport_port = free_port()
        self._classpath = f"{jars('elasticsearch', VERSION, ARTIFACTS)}/*"
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def log(self) -> Path:
        """Where the node writes what it says."""
        return self.folder / "elasticsearch.log"

    @property
    def pid(self) -> int:
        """The process id of the running node."""
        if self._process is None:
            raise ServerError("Elasticsearch is not running")
        return self._process.pid

    def start(self) -> None:
        """Start it and wait until it answers and has its indices. Raises ServerError."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self._is_up():
            if self._process.poll() is not None:
                raise ServerError(f"Elasticsearch ended at once: {self.tail()}")
            if time.monotonic() > deadline:
                self.kill()
                raise ServerError(f"Elasticsearch is not up after {_START_SECONDS} s: {self.tail()}")
            time.sleep(0.1)

    def kill(self) -> None:
        """End it with SIGKILL."""
        process, self._process = self._process, None
        end(process, signal.SIGKILL)

    def stop(self) -> None:
        """End it with SIGTERM; with SIGKILL if that takes too long."""
        process, self._process = self._process, None
        end(process, signal.SIGTERM)

    def freeze(self) -> None:
        """Stop it with SIGSTOP, all its threads: its port is open and nobody answers."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def thaw(self) -> None:
        """Let it go on after `freeze`."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def wait(self) -> None:
        """Wait until it ends."""
        if self._process is not None:
            self._process.wait()

    def tail(self) -> str:
        """Return the end of what the node said."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-800:] if self.log.exists() else ""

    def ask(self, method: str, path: str, body: object = None, *, seconds: float = 30.0) -> tuple[int, object]:
        """Send one request past the program under test; return status and the JSON that came back."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        try:
            payload = body if isinstance(body, bytes) or body is None else orjson.dumps(body)
            connection.request(method, path, payload, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            found = answer.read()
            return answer.status, orjson.loads(found) if found else None
        finally:
            connection.close()

    def _is_up(self) -> bool:
        try:
            status, health = self.ask("GET", "/_cluster/health?wait_for_status=yellow&timeout=1s", seconds=5)
        except (OSError, HTTPException):
            return False
        return status == 200 and isinstance(health, dict) and health["status"] in {"yellow", "green"}

    def _command(self) -> list[str]:
        return [
            "java",
            *self.jvm,
            "-cp",
            self._classpath,
            str(_MAIN),
            *(f"{name}={value}" for name, value in self._all_settings().items()),
        ]

    def _all_settings(self) -> Mapping[str, str]:
        return {
            "path.home": str(self.folder),
            "cluster.name": "mailspan",
            "node.name": "one",
            "discovery.type": "single-node",
            "network.host": "127.0.0.1",
            "http.type": "netty4",
            "http.port": str(self.port),
            "transport.type": "netty4",
            "transport.port": str(self._transport_port),
            "cluster.routing.allocation.disk.threshold_enabled": "false",  # the machine's disk may be as full as it is
            **self.settings,
        }


@contextmanager
def running(
    folder: Path,
    *,
    port: int = 0,
    heap: str = _HEAP,
    jvm: Sequence[str] = QUICK_START,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Node]:
    """Run a node in the folder; it ends with the block."""
    node = Node(folder, port=port, heap=heap, jvm=jvm, settings=settings)
    try:
        node.start()
        yield node
    finally:
        node.kill()


def _greeting(node: Node) -> str:
    return f"Elasticsearch {VERSION} answers at {node.url}\nexport MAILSPAN_ELASTICSEARCH_URL={node.url}"


if __name__ == "__main__":
    sys.exit(foreground("Elasticsearch", lambda folder, port: running(folder, port=port), _greeting))
