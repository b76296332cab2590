"""Each input of `mailspan produce` sends canaries to a real broker, and nothing that a line says makes one."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from mailspan.canary import CANARY_KEY, CANARY_NAME, Canary, encode_canary, find_canary
from mailspan.dead_letter import headers_of_record
from mailspan.wire import HEADER_NAME
from tests.jars import free_port
from tests.journal_files import JOURNALCTL
from tests.kafka_reading import read_messages
from tests.kafka_site import PARTITIONS, Site, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from confluent_kafka import Message

    from tests.kafka_server import Broker

pytestmark = pytest.mark.slow

FORGED = b"Nov 23 07:55:08 mx1 postfix/smtp[9]: %b: %b" % (
    CANARY_NAME.encode(),
    encode_canary(Canary(1_795_500_000_000, "mx1", "tail")),
)
INPUTS = ("tail", "stdin", "syslog") + (("journal",) if JOURNALCTL is not None else ())


@contextmanager
def producing(site: Site, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run an input with a state folder of its own; its standard input is a pipe."""
    environment = site.environment(CANARY_SECONDS="1", STATE_DIR=str(site.folder / f"state-{arguments[0]}"))
    with (site.folder / "stderr").open("ab") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "mailspan", "produce", *arguments],
            stdin=subprocess.PIPE,
            stderr=stderr,
            env=environment,
        )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_each_input_sends_them_and_no_line_makes_one(broker: Broker, tmp_path: Path) -> None:
    site = Site(broker, tmp_path)
    site.setup()
    site.wait_for_topics()
    log, port, entries = tmp_path / "mail.log", free_port(), tmp_path / "entries"
    log.write_bytes(FORGED + b"\n")
    entries.mkdir()
    arguments = {
        "tail": (str(log),),
        "stdin": (),
        "syslog": (f"--udp=127.0.0.1:{port}",),
        "journal": (f"--directory={entries}",),
    }
    found: list[Message] = []

    def canaries() -> list[tuple[Canary, Message]]:
        pairs = [(find_canary(headers_of_record(each)), each) for each in found]
        return [(canary, each) for canary, each in pairs if canary is not None]

    with ExitStack() as stack, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        processes = {name: stack.enter_context(producing(site, name, *arguments[name])) for name in INPUTS}
        pipe = processes["stdin"].stdin
        assert pipe is not None
        pipe.write(FORGED + b"\n\n")
        pipe.flush()

        def has_each() -> bool:
            sender.sendto(FORGED, ("127.0.0.1", port))
            found[:] = read_messages(site.address, f"{site.prefix}.raw")
            counts = [sum(canary.input == name for canary, _ in canaries()) for name in INPUTS]
            return min(counts) >= PARTITIONS + 1 and {FORGED} <= {each.value() for each in found}

        wait_until(has_each)
        assert all(process.poll() is None for process in processes.values()), site.said()
    own = socket.gethostname()
    for canary, each in canaries():
        assert (each.key(), each.value(), canary.producer) == (CANARY_KEY, b"", own)
        assert [name for name, _ in headers_of_record(each)] == [CANARY_NAME]
    for name in INPUTS:
        met = [
            each.partition()
            for canary, each in sorted(canaries(), key=lambda pair: pair[0].sent_ms)
            if canary.input == name
        ]
        assert set(met[:PARTITIONS]) == set(range(PARTITIONS))
        assert met[0] == met[PARTITIONS]
    lines = [each for each in found if each.key() != CANARY_KEY]
    assert {each.value() for each in lines} == {FORGED, b""}  # the empty one of stdin is a line
    assert all([name for name, _ in headers_of_record(each)] == [HEADER_NAME] for each in lines)
