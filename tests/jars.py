"""Jars from Maven Central for the real servers of the tests, resolved once, and what all these servers share.

They go into build/NAME/VERSION or, where MAILSPAN_CACHE_DIR names one, a folder outside the checkout.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

ROOT = Path(__file__).parent.parent
INSTALL = "install a JDK, 17 or newer, and Maven (Debian, Ubuntu: apt-get install default-jdk-headless maven)"
_STOP_SECONDS = 60.0

ServerT = TypeVar("ServerT", bound="Process")


class ServerError(Exception):
    """A server cannot be run; the message says why."""


def jars(name: str, version: str, artifacts: Sequence[tuple[str, str, str]]) -> Path:
    """Return the folder with the jars of `artifacts` (group, name, version) and all they need. Raises ServerError."""
    for program in ("java", "mvn"):
        if shutil.which(program) is None:
            raise ServerError(f"{program} is missing: {INSTALL}")
    base = Path(os.environ.get("MAILSPAN_CACHE_DIR") or ROOT / "build") / name
    base.mkdir(parents=True, exist_ok=True)
    folder = base / version
    with (base / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test runs may want them at once
        if not folder.exists():
            _resolve(name, folder, artifacts)
    return folder


def _resolve(name: str, folder: Path, artifacts: Sequence[tuple[str, str, str]]) -> None:
    dependencies = "".join(
        f"<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version>"
        "</dependency>"
        for group, artifact, version in artifacts
    )
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        pom = Path(work) / "pom.xml"
        pom.write_text(
            '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
            f"<groupId>mailspan</groupId><artifactId>{name}-jars</artifactId><version>1</version>"
            f"<packaging>pom</packaging><dependencies>{dependencies}</dependencies></project>",
            encoding="utf-8",
        )
        found = Path(work) / "jars"
        command = ["mvn", "-B", "-q", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={found}"]
        first = artifacts[0][1]
        for options in (["-o"], []):  # what Maven has already needs no network
            done = subprocess.run([*command, *options], capture_output=True, text=True, check=False, timeout=600)
            if done.returncode == 0 and list(found.glob(f"{first}-*.jar")):
                found.rename(folder)
                return
        raise ServerError(f"Maven cannot fetch {name} {folder.name}: {done.stdout.strip()[-500:]}")


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def end(process: subprocess.Popen[bytes] | None, number: signal.Signals) -> None:
    """End a process by a signal; with SIGKILL if that takes too long."""
    if process is None:
        return
    if process.poll() is None:
        process.send_signal(number)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Process(Protocol):
    """A server that runs."""

    def wait(self) -> None:
        """Wait until it ends."""

    def tail(self) -> str:
        """Return the end of what it said."""


def foreground(
    name: str, running: Callable[[Path, int], AbstractContextManager[ServerT]], greeting: Callable[[ServerT], str]
) -> int:
    """Run a server in a folder of its own until Ctrl-C, for trying things out; return the exit code of the command."""
    parser = argparse.ArgumentParser(description=f"{name} on a loopback port, for trying things out.")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory(prefix=f"mailspan-{name.lower()}-") as folder:
            print(f"starting {name}; the first time its jars are fetched", flush=True)
            with running(Path(folder), args.port) as server:
                print(f"{greeting(server)}\nCtrl-C ends it and drops its data", flush=True)
                server.wait()
                print(f"{name} ended: {server.tail()}", file=sys.stderr)
                return 1
    except KeyboardInterrupt:
        return 0
    except ServerError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 3
