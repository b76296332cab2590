"""What a mail takes on disk: `python -m bench.disk` (`make bench-disk`), on a real Kafka and Elasticsearch of its own.

A generated log goes through a producer, a reducer and a sink; then each topic's folder, the index (also merged to one
segment) and an SQLite file made by `mailspan index` of the same log are measured. With --live the log is written at the
pace of its own stamps, as a server would: then commits are small, so records of Kafka are packed worse and a mail is
written several times. One copy of everything: replication multiplies it.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.generate import Options, generate, write
from bench.kafka import PREFIX, Site
from bench.sink import GROUP as SINK_GROUP
from bench.world import Truth
from mailspan.topics import OPEN_TRANSACTIONS, RAW, TRANSACTIONS, topic_name
from sink.kafka_topic import TopicReader
from tests import elasticsearch_server, kafka_server

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.elasticsearch_server import Node

LINES_PER_MAIL = 8.2
HOSTS = 12
MIB = 1 << 20
_DEADLINE_SECONDS = 1800.0


def size_of(folder: Path) -> int:
    """Return the bytes of the files in a folder, without Kafka's indices: they are made large, and are mostly empty."""
    return sum(
        path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in {".index", ".timeindex", ".txnindex"}
    )


def topic_bytes(data: Path, name: str) -> int:
    """Return what the partitions of a topic take."""
    return sum(size_of(folder) for folder in data.glob(f"{topic_name(PREFIX, name)}-*"))


def index_bytes(node: Node) -> int:
    """Return what all indices take."""
    node.ask("POST", "/_flush?force=true", seconds=300)
    found: Any = node.ask("GET", "/_stats/store")[1]
    return int(found["_all"]["total"].get("store", {"size_in_bytes": 0})["size_in_bytes"])


def play(lines: Sequence[tuple[float, str]], log: Path, seconds: float) -> int:
    """Write lines into a log at the pace of their stamps, for so long; return how many were written."""
    begin, first, count = time.monotonic(), lines[0][0], 0
    with log.open("w", encoding="utf-8", buffering=1) as file:
        for second, line in lines:
            if second - first > seconds:
                break
            time.sleep(max(0.0, begin + second - first - time.monotonic()))
            file.write(line)
            count += 1
    return count


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.disk", description=__doc__)
    parser.add_argument("--mails", type=int, default=200_000, metavar="N", help="about so many")
    parser.add_argument(
        "--live", type=float, default=0.0, metavar="SECONDS", help="at the pace of a log of 100 lines/s"
    )
    called = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory() as name,
        kafka_server.running(Path(name) / "kafka") as broker,
        elasticsearch_server.running(Path(name) / "elasticsearch") as node,
    ):
        folder, data = Path(name), Path(name) / "kafka" / "data"
        settings = {"ELASTICSEARCH_URL": node.url, "INDEX_REPLICAS": "0", "RETENTION_DAYS": "700000"}
        site, log = Site(broker, folder, settings), folder / "mail.log"
        empty = index_bytes(node)
        consumers = [site.start("reduce", INSTANCE="bench"), site.start("sink")]
        if called.live:
            options = Options(int(called.live * 130), hosts=HOSTS, time="iso")
            lines = [(_epoch(line), line) for line in generate(options, Truth())]
            producer, begin = site.start("produce", "tail", str(log))
            play(lines, log, called.live)
            time.sleep(10)  # what waits to be written is written
            producer.send_signal(signal.SIGTERM)
        else:
            write(Options(int(called.mails * LINES_PER_MAIL), hosts=HOSTS), log)
            producer, begin = site.start("produce", "tail", str(log), "--once")
        site.cost(producer, begin)
        site.wait_until_read()
        _end(site, consumers[0])
        records = wait_until_indexed(site)
        _end(site, consumers[1])
        site.close()
        store = folder / "mailspan.db"
        command = [sys.executable, "-m", "mailspan", "index", "--store", f"sqlite:///{store}", str(log)]
        subprocess.run(command, env=site.environment, check=True, capture_output=True)
        report(log, records, data, node, empty, store)
    return 0


def wait_until_indexed(site: Site) -> int:
    """Wait until the sink has settled all documents; return how many records of documents there are."""
    config = {"bootstrap.servers": site.address}
    with TopicReader(config, topic_name(PREFIX, TRANSACTIONS), SINK_GROUP) as reader:
        count, last = 0, dict[int, int]()
        for record in reader.read(reader.ranges()):
            count, last[record.partition] = count + 1, record.offset
        deadline = time.monotonic() + _DEADLINE_SECONDS
        while any(reader.committed(last).get(number, 0) <= offset for number, offset in last.items()):
            if time.monotonic() > deadline:
                raise SystemExit(f"not indexed in {_DEADLINE_SECONDS:.0f} s")
            time.sleep(0.2)
    return count


def _end(site: Site, child: tuple[subprocess.Popen[bytes], float]) -> None:
    child[0].send_signal(signal.SIGTERM)
    site.cost(*child)


def report(log: Path, records: int, data: Path, node: Node, empty: int, store: Path) -> None:
    """Print what each thing takes, for each document of the index."""
    node.ask("POST", "/_refresh")
    found: Any = node.ask("GET", "/_all/_count")[1]
    documents = int(found["count"])
    lines = log.read_bytes().count(b"\n")
    print(
        f"{documents:,} documents of {lines:,} lines, {log.stat().st_size / MIB:.1f} MiB;"
        f" {records / documents:.2f} records of {TRANSACTIONS} each"
    )
    indexed = index_bytes(node) - empty
    node.ask("POST", "/_forcemerge?max_num_segments=1", seconds=600)
    rows = {
        "the log file": log.stat().st_size,
        **{topic_name("mail", name): topic_bytes(data, name) for name in (RAW, TRANSACTIONS, OPEN_TRANSACTIONS)},
        "Elasticsearch": indexed,
        "Elasticsearch, merged": index_bytes(node) - empty,
        "SQLite": sum(path.stat().st_size for path in store.parent.glob(f"{store.name}*")),
    }
    for name, size in rows.items():
        print(f"{name:24} {size / documents:8.0f} bytes for each document, {size / lines:6.0f} for each line")


def _epoch(line: str) -> float:
    return datetime.fromisoformat(line.partition(" ")[0]).timestamp()


if __name__ == "__main__":
    sys.exit(main())
