"""Producers whose broker is frozen: its connections stay open and nobody answers. They say so, end in time, go on."""

from __future__ import annotations

import re
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.kafka_reading import kept, read_all
from tests.kafka_site import Site, wait_until

if TYPE_CHECKING:
    import subprocess

    from tests.kafka_server import Broker

pytestmark = pytest.mark.slow

END_SECONDS = 10
MOST_BYTES = 200 << 20
SILENT = "nothing arrived for"
MANY = 60_000  # of so long lines: more than a producer keeps under way, and the kernel in between


def lines(first: int, last: int) -> list[bytes]:
    return [b"Nov 23 07:55:08 mx1 postfix/smtp[77]: %08X: line %0560d" % (n, n) for n in range(first, last)]


def text(found: list[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in found)


def resident(process: subprocess.Popen[bytes]) -> int:
    """Return the most memory that a process ever had, in bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) << 10


def end(process: subprocess.Popen[bytes]) -> int:
    """Tell it to stop; return its exit code."""
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code = process.wait(END_SECONDS)
    print(f"ended in {time.monotonic() - began:.1f} s, exit code {code}")
    return code


def test_a_tail_whose_broker_is_frozen_waits_goes_on_and_ends(mortal_broker: Broker, tmp_path: Path) -> None:
    site = Site(mortal_broker, tmp_path)
    site.setup()
    log = tmp_path / "mail.log"
    log.write_bytes(text(lines(0, 100)))
    with site.tailing(str(log)) as process:
        site.wait_for(100)
        mortal_broker.send(signal.SIGSTOP)
        try:
            with log.open("ab") as file:
                file.write(text(lines(100, MANY)))
            wait_until(lambda: SILENT in site.said())
        finally:
            mortal_broker.send(signal.SIGCONT)
        wait_until(lambda: "Kafka answers again" in site.said())
        with log.open("ab") as file:
            file.write(text(lines(MANY, MANY + 10)))
        mortal_broker.send(signal.SIGSTOP)
        try:
            assert resident(process) < MOST_BYTES
            assert end(process) == 0
        finally:
            mortal_broker.send(signal.SIGCONT)
    assert site.run("produce", "tail", "--once", str(log)).returncode == 0
    assert kept(read_all(site.address, f"{site.prefix}.raw")) == lines(0, MANY + 10)


def test_syslog_whose_broker_is_frozen_reads_no_more_goes_on_and_ends(mortal_broker: Broker, tmp_path: Path) -> None:
    site = Site(mortal_broker, tmp_path)
    site.setup()
    with site.producing("syslog", "--tcp=127.0.0.1:0") as process:
        wait_until(lambda: "port" in site.said())
        port = int(site.said().rpartition("port ")[2].split()[0])
        with socket.create_connection(("127.0.0.1", port), timeout=END_SECONDS) as client:
            client.sendall(text(lines(0, 100)))
            site.wait_for(100)
            mortal_broker.send(signal.SIGSTOP)
            try:
                client.setblocking(False)
                rest = memoryview(text(lines(100, MANY)))

                def is_stopped() -> bool:
                    nonlocal rest
                    try:
                        while rest:
                            rest = rest[client.send(rest[:65536]) :]
                    except BlockingIOError:
                        pass
                    return SILENT in site.said() and "TCP and TLS are not read for now" in site.said()

                wait_until(is_stopped)
                assert rest, "all was taken: memory is not bounded"
            finally:
                mortal_broker.send(signal.SIGCONT)
            client.settimeout(60)
            client.sendall(rest)
            site.wait_for(MANY)
            mortal_broker.send(signal.SIGSTOP)
            try:
                client.sendall(text(lines(MANY, MANY + 10)))
                assert resident(process) < MOST_BYTES
                assert end(process) == 3
            finally:
                mortal_broker.send(signal.SIGCONT)
    assert "not_arrived=10" in site.said()
    assert kept(read_all(site.address, f"{site.prefix}.raw"))[:MANY] == lines(0, MANY)
