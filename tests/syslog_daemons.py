"""rsyslog and syslog-ng as processes of a test: they take lines in on a loopback port and forward them to us.

Debian's packages of the two exclude each other; so syslog-ng may also be one that .ci/run unpacked into
build/syslog-ng (or the folder that MAILSPAN_CACHE_DIR names).
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
UNPACKED = Path(os.environ.get("MAILSPAN_CACHE_DIR") or ROOT / "build") / "syslog-ng"
_SBIN = "/usr/sbin:/sbin"
RSYSLOGD = shutil.which("rsyslogd") or shutil.which("rsyslogd", path=_SBIN)
SYSLOG_NG = (
    shutil.which("syslog-ng")
    or shutil.which("syslog-ng", path=_SBIN)
    or shutil.which("syslog-ng", path=str(UNPACKED / "usr/sbin"))
)
HAS_GTLS = any(Path("/usr/lib").glob("*/rsyslog/lmnsd_gtls.so"))
_START_SECONDS = 30.0
_END_SECONDS = 10.0


def free_port() -> int:
    """Return a loopback port that is free at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


@contextmanager
def rsyslog(folder: Path, head: str, action: str) -> Iterator[int]:
    """Run rsyslog with one forwarding action; yield the TCP port where it takes lines in."""
    assert RSYSLOGD is not None
    port = free_port()
    config = folder / "rsyslog.conf"
    config.write_text(
        f'global(workDirectory="{folder}" preserveFQDN="on" {head})\n'
        'module(load="imptcp")\n'
        f'input(type="imptcp" address="127.0.0.1" port="{port}")\n'
        f'action(type="omfwd" target="127.0.0.1" action.resumeRetryCount="-1" queue.type="LinkedList" {action})\n',
        encoding="utf-8",
    )
    with _running([RSYSLOGD, "-n", "-f", str(config), "-i", str(folder / "rsyslog.pid")], {}, folder, port):
        yield port


@contextmanager
def syslog_ng(folder: Path, destination: str) -> Iterator[int]:
    """Run syslog-ng with one destination; yield the TCP port where it takes lines in."""
    assert SYSLOG_NG is not None
    port = free_port()
    config = folder / "syslog-ng.conf"
    config.write_text(
        "@version: 3.35\n"
        "options { keep-hostname(yes); };\n"
        f'source s {{ network(ip("127.0.0.1") port({port}) transport("tcp")); }};\n'
        f"destination d {{ {destination} }};\n"
        "log { source(s); destination(d); };\n",
        encoding="utf-8",
    )
    command = [SYSLOG_NG, "--foreground", "--no-caps", f"--cfgfile={config}"]
    command += [f"--{name}={folder / name}" for name in ("persist-file", "control", "pidfile")]
    environment = {}
    if SYSLOG_NG.startswith(str(UNPACKED)):
        libraries = UNPACKED / "usr/lib/syslog-ng"
        modules = next(libraries.glob("[0-9]*"))
        command.append(f"--module-path={modules}")
        environment["LD_LIBRARY_PATH"] = f"{libraries}:{modules}"
    with _running(command, environment, folder, port):
        yield port


@contextmanager
def _running(command: list[str], environment: dict[str, str], folder: Path, port: int) -> Iterator[None]:
    """Run a daemon until the block ends; wait first until it listens."""
    said = folder / "daemon"
    with said.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **environment})
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _is_listening(port):
            text = said.read_text(encoding="utf-8", errors="replace")
            assert process.poll() is None, f"{command[0]} ended: {text}"
            assert time.monotonic() < deadline, f"{command[0]} does not listen: {text}"
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
