"""A real Prometheus for tests: Debian's binary on a free loopback port, in a folder of its own, ended by its process.

It is that of PATH, or the one that .ci/run unpacks. Tests are skipped, and say so, where there is none.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import orjson
import pytest

from tests.jars import end, free_port
from tests.kafka_site import wait_until
from tests.running import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

_UNPACKED = Path(os.environ.get("MAILSPAN_CACHE_DIR") or ROOT / "build") / "prometheus" / "usr" / "bin"


def find(name: str) -> str | None:
    """Return where prometheus or promtool is."""
    return shutil.which(name) or shutil.which(name, path=str(_UNPACKED))


needs_prometheus = pytest.mark.skipif(
    find("prometheus") is None or find("promtool") is None,
    reason="no prometheus and promtool here (Debian: apt-get install prometheus)",
)


class Prometheus:
    """One that runs, at `port` of 127.0.0.1."""

    def __init__(self, port: int) -> None:
        self.port = port

    def get(self, path: str, **arguments: str) -> tuple[int, Any]:
        """Return the status and the answer, JSON or text."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", f"{path}?{urlencode(arguments)}")
            answer = connection.getresponse()
            found = answer.read()
            is_json = "json" in (answer.getheader("Content-Type") or "")
            return answer.status, orjson.loads(found) if is_json else found.decode()
        finally:
            connection.close()

    def query(self, expression: str) -> list[Any]:
        """Return the series that an expression has now. AssertionError where it is refused."""
        status, answer = self.get("/api/v1/query", query=expression)
        assert status == 200, (expression, answer)
        assert not answer.get("warnings"), (expression, answer)
        result = answer["data"]["result"]
        return result if isinstance(result, list) else [result]

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire."""
        status, answer = self.get("/api/v1/alerts")
        assert status == 200
        return {each["labels"]["alertname"] for each in answer["data"]["alerts"] if each["state"] == "firing"}

    def is_ready(self) -> bool:
        try:
            return self.get("/-/ready")[0] == 200
        except OSError:
            return False


@contextmanager
def running(folder: Path, configuration: str) -> Iterator[Prometheus]:
    """Run one with this configuration, whose rule files are in the folder."""
    binary = find("prometheus")
    assert binary is not None
    port = free_port()
    (folder / "prometheus.yml").write_text(configuration, encoding="utf-8")
    command = [
        binary, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        found = Prometheus(port)

        def has_begun() -> bool:
            assert process.poll() is None, (folder / "prometheus.log").read_text(encoding="utf-8")
            return found.is_ready()

        wait_until(has_begun)
        yield found
    finally:
        end(process, signal.SIGTERM)
