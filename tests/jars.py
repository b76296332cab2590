"""Jars from Maven Central for the real servers of the tests, resolved once, and what all these servers share.

They go into build/NAME/VERSION or, where MAILSPAN_CACHE_DIR names one, a folder outside the checkout.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import signal
    from collections.abc import Sequence

ROOT = Path(__file__).parent.parent
INSTALL = "install a JDK, 17 or newer, and Maven (Debian, Ubuntu: apt-get install default-jdk-headless maven)"
_STOP_SECONDS = 60.0


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
