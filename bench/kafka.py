"""What the pipeline over Kafka costs: `python -m bench.kafka` (`make bench-kafka`), on a real broker of its own.

The producer tails a generated log; the reducer reads what came of it; each is a process of its own, and its CPU time is
that of all its threads, start included. Then a reducer restores a state of many open transactions and answers one line.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from confluent_kafka import Consumer, Producer, TopicPartition

from bench.generate import Options, write
from mailspan.event_time import TimeSettings
from mailspan.grammar import Parser
from mailspan.partition import partition_of
from mailspan.record import Record
from mailspan.topics import OPEN_TRANSACTIONS, RAW, TRANSACTIONS, topic_name
from reducer.assembler import Assembler
from reducer.records import split_state
from tests.kafka_server import Broker, running
from tests.running import NONE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PREFIX = "bench"
PARTITIONS = 6
HOSTS = 12
GROUP = "bench-mailspan-reducer"
GOALS = {"producer": 4.0, "reducer": 8.0}
_DEADLINE_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process took."""

    cpu_seconds: float
    wall_seconds: float
    peak_mib: float


class Site:
    """A broker with topics, and how commands are run on it."""

    def __init__(self, broker: Broker, folder: Path, settings: Mapping[str, str] = NONE) -> None:
        self.address = broker.address
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MAILSPAN_")},
            "TZ": "UTC",
            "MAILSPAN_KAFKA_BOOTSTRAP_SERVERS": broker.address,
            "MAILSPAN_TOPIC_PREFIX": PREFIX,
            "MAILSPAN_PARTITIONS": str(PARTITIONS),
            "MAILSPAN_STATE_DIR": str(folder / "state"),
            **{f"MAILSPAN_{name}": value for name, value in settings.items()},
        }
        subprocess.run(self._command("setup"), env=self.environment, check=True, capture_output=True)
        self._watch = Consumer({"bootstrap.servers": broker.address, "group.id": GROUP, "log_level": 0})

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "mailspan", *arguments]

    def start(self, *arguments: str, **settings: str) -> tuple[subprocess.Popen[bytes], float]:
        """Start a command; return it and when."""
        environment = {**self.environment, **{f"MAILSPAN_{name}": value for name, value in settings.items()}}
        return subprocess.Popen(self._command(*arguments), env=environment), time.perf_counter()

    def cost(self, child: subprocess.Popen[bytes], begin: float, end: float | None = None) -> Cost:
        """Wait for a command; raises SystemExit where it failed."""
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(f"exit {child.returncode}")
        return Cost(used.ru_utime + used.ru_stime, (end or time.perf_counter()) - begin, used.ru_maxrss / 1024)

    def ends(self, name: str) -> dict[int, int]:
        """Return the end of each partition of a topic."""
        topic = topic_name(PREFIX, name)
        places = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        return {place.partition: self._watch.get_watermark_offsets(place, timeout=10)[1] for place in places}

    def wait_until_read(self, name: str = RAW, group: str = GROUP) -> float:
        """Wait until a group has committed all of a topic; return when."""
        wanted = self.ends(name)
        places = [TopicPartition(topic_name(PREFIX, name), number) for number in wanted]
        deadline = time.monotonic() + _DEADLINE_SECONDS
        watch = Consumer({"bootstrap.servers": self.address, "group.id": group, "log_level": 0})
        while True:
            committed = {place.partition: place.offset for place in watch.committed(places, timeout=10)}
            if all(committed[number] >= end or end == 0 for number, end in wanted.items()):
                watch.close()
                return time.perf_counter()
            if time.monotonic() > deadline:
                raise SystemExit(f"not read in {_DEADLINE_SECONDS:.0f} s: {committed} of {wanted}")
            time.sleep(0.05)

    def close(self) -> None:
        """Let go of the client."""
        self._watch.close()


def pipeline(site: Site, folder: Path, lines: int) -> None:
    """Measure a producer on a log, then a reducer on its lines."""
    log = folder / "mail.log"
    truth = write(Options(lines, hosts=HOSTS), log)
    child, begin = site.start("produce", "tail", str(log), "--once")
    _print("producer", site.cost(child, begin), truth.lines)
    child, begin = site.start("reduce", INSTANCE="bench")
    end = site.wait_until_read()
    child.send_signal(signal.SIGTERM)
    _print("reducer", site.cost(child, begin, end), truth.lines)
    documents = sum(site.ends(TRANSACTIONS).values())
    print(f"{documents:,} records in {TRANSACTIONS}, marks of commits included, of {truth.transactions:,} mails")


def _print(name: str, cost: Cost, lines: int) -> None:
    each = cost.cpu_seconds / lines * 1e6
    verdict = "met" if each <= GOALS[name] else "not met"
    print(
        f"{name:9} {each:6.2f} µs of CPU per line (goal {GOALS[name]:.0f}: {verdict}),"
        f" {lines / cost.wall_seconds:,.0f} lines/s, peak {cost.peak_mib:.0f} MiB, {cost.wall_seconds:.1f} s"
    )


def restore(site: Site, count: int) -> None:
    """Measure how long a reducer takes to have a state of many open transactions, and to answer the next line."""
    filling = get_context("spawn").Process(target=_fill, args=(site.address, count))  # the peak that a child is said to
    filling.start()  # have had is at least that of who started it: this process must stay small
    filling.join()
    if filling.exitcode:
        raise SystemExit("the state could not be written")
    child, begin = site.start("reduce", INSTANCE="bench")
    end = site.wait_until_read()
    child.send_signal(signal.SIGTERM)
    cost = site.cost(child, begin, end)
    print(
        f"restore   {count:,} open transactions: {cost.wall_seconds:.1f} s from start"
        f" to the next line's commit (goal 30), {cost.cpu_seconds:.1f} s of CPU, peak {cost.peak_mib:.0f} MiB"
        " (goal 600)"
    )


def _fill(address: str, count: int) -> None:
    """Write the state of so many open transactions, and one line."""
    producer = Producer(
        {
            "bootstrap.servers": address,
            "linger.ms": 50,
            "compression.type": "lz4",  # as the reducer writes it
            "queue.buffering.max.messages": 500_000,
        }
    )
    topic = topic_name(PREFIX, OPEN_TRANSACTIONS)
    for host in range(HOSTS):
        name = f"open{host}"
        partition = partition_of(name.encode(), PARTITIONS)
        for key, value in _open_state(name, count // HOSTS).items():
            for part_key, part in split_state(key, value, {}):
                while True:
                    try:
                        producer.produce(topic, part, part_key.encode(), partition)
                    except BufferError:
                        producer.poll(0.1)
                    else:
                        break
        producer.poll(0)
    producer.produce(
        topic_name(PREFIX, RAW), _line("open0", "0A0000000001", 0), b"", partition_of(b"open0", PARTITIONS)
    )
    producer.flush()


def _line(host: str, queue_id: str, number: int) -> bytes:
    client = f"mail{number % 997}.heron{number % 991}.example.net[192.0.2.{number % 250}]"
    return f"Mar  9 06:00:00 {host} postfix/smtpd[{number % 100}]: {queue_id}: client={client}".encode()


def _open_state(host: str, count: int) -> dict[str, bytes | None]:
    """Return the state of mails that wait in the queue after one attempt."""
    parser, assembler = Parser(TimeSettings(reference=1773100000), host), Assembler(incremental=True)
    for number in range(count):
        queue_id = f"{number % 0x100000:05X}{0x110000 + number:X}"
        head, to = f"Mar  9 06:00:00 {host} postfix", f"cedar{number}@delta{number % 773}.example.org"
        relay = f"mx1.delta{number % 773}.example.org[203.0.113.{number % 250}]"
        reply = f"450 4.2.0 <{to}>: Recipient address rejected: Greylisted, see https://grey.example.com/help.html"
        sender, site = f"fable{number}@amber{number % 883}.example.com", f"amber{number % 883}.example.com"
        active = f"from=<{sender}>, size={number}, nrcpt=1 (queue active)"
        attempt = f"to=<{to}>, relay={relay}:25, delay=1, delays=0/0/1/0, dsn=4.2.0, status=deferred"
        for line in (
            _line(host, queue_id, number).decode(),
            f"{head}/cleanup[17]: {queue_id}: message-id=<69ae61e0.{number:08d}.f03edca7@{site}>",
            f"{head}/qmgr[1]: {queue_id}: {active}",
            f"{head}/smtp[70]: {queue_id}: {attempt} (host {relay} said: {reply} (in reply to RCPT TO command))",
        ):
            record = parser.parse(line)
            if isinstance(record, Record):
                assembler.apply(record)
    assembler.changed()
    return assembler.snapshot_changes()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both measurements."""
    parser = argparse.ArgumentParser(prog="python -m bench.kafka", description=__doc__)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument(
        "--open", type=int, default=1_000_000, metavar="N", help="open transactions to restore; 0: none"
    )
    called = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name, running(Path(name) / "kafka", heap="1g") as broker:
        site = Site(broker, Path(name))
        pipeline(site, Path(name), called.lines)
        if called.open:
            restore(site, called.open)
        site.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
