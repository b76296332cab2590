"""What the sink costs: `python -m bench.sink` (`make bench-sink`), on a real Kafka and a real Elasticsearch of its own.

Documents of a generated log are written into mail.transactions; then one sink, a process of its own, indexes them. Its
CPU time is that of all its threads, start included; that of the servers is not in it.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
from confluent_kafka import Producer

from bench.generate import Options, write
from bench.kafka import PARTITIONS, PREFIX, Site
from mailspan.partition import partition_of
from mailspan.topics import TRANSACTIONS, topic_name
from tests import elasticsearch_server, kafka_server

if TYPE_CHECKING:
    from collections.abc import Sequence

GOAL_MICROSECONDS = 40.0
LINES_PER_MAIL = 7
GROUP = f"{PREFIX}-mailspan-sink"


def fill(site: Site, folder: Path, documents: int) -> tuple[int, int]:
    """Write documents of a generated log into the topic; return their number and bytes."""
    log = folder / "mail.log"
    write(Options(documents * LINES_PER_MAIL, hosts=12), log)
    producer = Producer({"bootstrap.servers": site.address, "linger.ms": 50, "queue.buffering.max.messages": 500_000})
    topic, count, size = topic_name(PREFIX, TRANSACTIONS), 0, 0
    command = [sys.executable, "-m", "mailspan", "parse", str(log)]
    with subprocess.Popen(command, env=site.environment, stdout=subprocess.PIPE) as parse:
        for line in parse.stdout or ():
            document = orjson.loads(line)
            value, host = line.rstrip(b"\n"), document["host"].encode()
            while True:
                try:
                    producer.produce(topic, value, document["id"].encode(), partition_of(host, PARTITIONS))
                except BufferError:
                    producer.poll(0.1)
                else:
                    break
            count, size = count + 1, size + len(value)
    producer.flush()
    return count, size


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.sink", description=__doc__)
    parser.add_argument("--documents", type=int, default=200_000, metavar="N", help="about so many")
    called = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory() as name,
        kafka_server.running(Path(name) / "kafka", heap="1g") as broker,
        elasticsearch_server.running(Path(name) / "elasticsearch") as node,
    ):
        settings = {"ELASTICSEARCH_URL": node.url, "INDEX_REPLICAS": "0", "RETENTION_DAYS": "700000"}
        site = Site(broker, Path(name), settings)
        count, size = fill(site, Path(name), called.documents)
        child, begin = site.start("sink")
        end = site.wait_until_read(TRANSACTIONS, GROUP)
        child.send_signal(signal.SIGTERM)
        cost = site.cost(child, begin, end)
        each = cost.cpu_seconds / count * 1e6
        print(
            f"sink      {each:6.2f} µs of CPU per document (goal {GOAL_MICROSECONDS:.0f}:"
            f" {'met' if each <= GOAL_MICROSECONDS else 'not met'}), {count / cost.wall_seconds:,.0f} documents/s,"
            f" {size / cost.wall_seconds / 1e6:.1f} MB/s, {size / count:.0f} bytes each, peak {cost.peak_mib:.0f} MiB,"
            f" {cost.wall_seconds:.1f} s"
        )
        site.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
