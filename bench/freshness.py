"""How soon a mail is found: `python -m bench.freshness` (`make bench-freshness`), over a real Kafka and Elasticsearch.

Logs grow by a steady number of lines a second; one producer, one reducer and one sink, with their default settings,
carry them to the index. Every 0.2 s a whole mail is written among them; it is fresh from then until a search finds it
closed. The last line has the median, the 99th percentile and the longest in seconds.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING

from bench.generate import Options, generate
from bench.kafka import Site
from bench.world import Truth
from tests import elasticsearch_server, kafka_server

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.elasticsearch_server import Node

GOAL_SECONDS = 5.0
TICK_SECONDS = 0.05
PROBE_SECONDS = 0.2
LOOK_SECONDS = 0.1
HOSTS = 12
_LAST_SECONDS = 60.0


class Probes:
    """Mails that are looked for until they are found."""

    def __init__(self, node: Node) -> None:
        self.seconds: list[float] = []
        self._node = node
        self._written: dict[str, float] = {}
        self._lock = threading.Lock()
        self._count = 0

    @property
    def missing(self) -> int:
        """How many were written and not found yet."""
        return len(self._written)

    def lines(self) -> bytes:
        """Return the lines of one more."""
        self._count += 1
        queue_id = f"{self._count:07X}"
        head = f"{datetime.now(UTC):%b %e %H:%M:%S} probe postfix"
        with self._lock:
            self._written[queue_id] = time.monotonic()
        reply = "delay=0.2, delays=0/0/0.1/0.1, dsn=2.0.0, status=sent (250 2.0.0 Ok)"
        return "".join(
            f"{head}/{text}\n"
            for text in (
                f"smtpd[7]: {queue_id}: client=mail.example.net[192.0.2.7]",
                f"cleanup[8]: {queue_id}: message-id=<{queue_id}@example.net>",
                f"qmgr[9]: {queue_id}: from=<alice@example.net>, size=1024, nrcpt=1 (queue active)",
                f"smtp[10]: {queue_id}: to=<bob@example.com>, relay=mx.example.com[203.0.113.5]:25, {reply}",
                f"qmgr[9]: {queue_id}: removed",
            )
        ).encode()

    def look(self) -> None:
        """Search once for what is missing."""
        with self._lock:
            asked = list(self._written)
        if not asked:
            return
        query = {"bool": {"filter": [{"term": {"host": "probe"}}, {"term": {"state": "closed"}}]}}
        query["bool"]["filter"].append({"terms": {"queue_id": asked}})  # type: ignore[dict-item]
        body = {"query": query, "size": 10_000, "_source": ["queue_id"]}
        status, found = self._node.ask("POST", "/mail-transactions-*/_search", body)
        now = time.monotonic()
        if status == 200 and isinstance(found, dict):  # noqa: PLR2004 - HTTP's own
            with self._lock:
                for hit in found["hits"]["hits"]:
                    self.seconds.append(now - self._written.pop(hit["_source"]["queue_id"]))


def feed(folder: Path, lines: Iterator[str], rate: int, seconds: float, probes: Probes) -> int:
    """Write `rate` lines a second for as long; return how many."""
    files: dict[str, IO[bytes]] = {}
    written = 0
    begin = time.monotonic()
    next_probe = begin
    with ExitStack() as stack:
        while (now := time.monotonic()) < begin + seconds:
            due: dict[str, list[str]] = {"probe": []}
            for line in islice(lines, round((now - begin) * rate) - written):
                due.setdefault(line[16:].partition(" ")[0], []).append(line)
                written += 1
            for host, some in due.items():
                if host not in files:
                    files[host] = stack.enter_context((folder / f"{host}.log").open("ab", buffering=0))
                files[host].write("".join(some).encode())
            if now >= next_probe:
                next_probe += PROBE_SECONDS
                files["probe"].write(probes.lines())
            time.sleep(max(0.0, TICK_SECONDS - (time.monotonic() - now)))  # the pace
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, and print what it took."""
    parser = argparse.ArgumentParser(prog="python -m bench.freshness", description=__doc__)
    parser.add_argument("--rate", type=int, default=2000, metavar="N", help="lines a second")
    parser.add_argument("--seconds", type=float, default=300.0)
    called = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory() as name,
        kafka_server.running(Path(name) / "kafka") as broker,
        elasticsearch_server.running(Path(name) / "elasticsearch") as node,
    ):
        folder = Path(name) / "logs"
        folder.mkdir()
        settings = {"ELASTICSEARCH_URL": node.url, "INDEX_REPLICAS": "0", "RETENTION_DAYS": "700000"}
        site = Site(broker, Path(name), settings)
        probes = Probes(node)
        is_over = threading.Event()

        def look() -> None:
            while not is_over.wait(LOOK_SECONDS):
                probes.look()

        stages = {"producer": ("produce", "tail", f"{folder}/*.log"), "reducer": ("reduce",), "sink": ("sink",)}
        children = {stage: site.start(*command) for stage, command in stages.items()}
        watcher = threading.Thread(target=look)
        watcher.start()
        lines = generate(Options(round(called.rate * called.seconds), hosts=HOSTS), Truth())
        written = feed(folder, lines, called.rate, called.seconds, probes)
        until = time.monotonic() + _LAST_SECONDS
        while probes.missing and time.monotonic() < until:
            time.sleep(LOOK_SECONDS)
        is_over.set()
        watcher.join()
        for stage, (child, begin) in children.items():
            child.send_signal(signal.SIGTERM)
            cost = site.cost(child, begin)
            print(f"{stage:9} {cost.cpu_seconds / written * 1e6:6.2f} µs of CPU per line, peak {cost.peak_mib:.0f} MiB")
        site.close()
    taken = sorted(probes.seconds)
    p50, p99 = (taken[min(len(taken) - 1, round(len(taken) * part))] for part in (0.5, 0.99))
    print(
        f"{written / called.seconds:,.0f} lines/s for {called.seconds:.0f} s, {len(taken)} mails timed,"
        f" {probes.missing} never found, goal p99 {GOAL_SECONDS:.0f} s: {'met' if p99 <= GOAL_SECONDS else 'not met'}"
    )
    print(f"freshness_p50={p50:.2f} freshness_p99={p99:.2f} freshness_max={taken[-1]:.2f}")
    return 0 if not probes.missing else 1


if __name__ == "__main__":
    sys.exit(main())
