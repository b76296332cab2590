"""Metrics of a live run on the real broker: what is counted balances, to the line."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    ResourceType,
)

from mailspan.metrics import METRICS
from mailspan.partition import partition_of
from tests.facts import CORPUS
from tests.jars import free_port
from tests.kafka_site import PARTITIONS, Site, wait_until
from tests.scraping import get, is_answering, scrape

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.kafka_server import Broker

pytestmark = pytest.mark.slow

HOST = b"mx1"
SENT = (
    b"Nov 23 07:55:08 mx1 postfix/smtp[94]: %X: to=<a@example.com>, relay=mx1.example.com[192.0.2.1]:25, delay=1,"
    b" delays=0/0/0/1, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as 4A000003D1)"
)
SMALL, LARGE = 150, 1 << 20  # what ends a transaction is smaller
MAIL = b"Nov 23 07:55:08 mx1 postfix/smtpd[94]: %X: client=client.example.com[192.0.2.10]"


@pytest.fixture
def site(broker: Broker, tmp_path: Path) -> Site:
    made = Site(broker, tmp_path)
    made.setup()
    return made


@contextmanager
def running(site: Site, *arguments: str, **settings: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run a command with a port for its metrics, from when that answers."""
    port = free_port()
    settings["METRICS_ADDRESS"] = f":{port}"
    with (site.folder / "stderr").open("ab") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "mailspan", *arguments], stderr=stderr, env=site.environment(**settings)
        )
    try:
        wait_until(lambda: is_answering(port))
        yield process, port
    finally:
        process.kill()
        process.wait()


def is_ready(port: int) -> bool:
    return get(port, "/readyz")[0] == 200


def send(site: Site, partition: int, *lines: bytes) -> None:
    """Write records as another shipper does."""
    producer = Producer({"bootstrap.servers": site.address, "log_level": 0})
    for line in lines:
        producer.produce(f"{site.prefix}.raw", line, HOST, partition)
    assert producer.flush(60) == 0


def own_partition() -> int:
    return partition_of(HOST, PARTITIONS)


def other_partition() -> int:
    return (own_partition() + 1) % PARTITIONS


def test_every_line_that_was_sent_is_counted_once(site: Site) -> None:
    """By a tail of real logs, some of it junk: lines = applied + ignored + unparsed = lines sent = lines written."""
    lines = b"".join(path.read_bytes() for path in sorted(CORPUS.rglob("*.mail.log"))).splitlines(keepends=True)
    lines += [b"Nov 23 07:55:08 mx1 %b: of no rule\n" % name for name in (b"postfix/smtp[1]", b"sm-x[2]", b"exim[3]")]
    lines += [b"no syslog line\n", b"Nov 23 07:55:08 mx1 cron[1]: a foreign one\n", b"\n"]
    log = site.folder / "mail.log"
    log.write_bytes(b"".join(lines))
    with running(site, "produce", "tail", str(log)) as (_, producer_port), running(site, "reduce") as (reducer, port):
        wait_until(lambda: scrape(producer_port).total("mailspan_producer_lines_total") >= len(lines))
        wait_until(lambda: scrape(port).total("mailspan_reducer_lines_total") >= len(lines))
        wait_until(lambda: scrape(port).total("mailspan_lag_records", stage="reduce") == 0)
        sent, reduced = scrape(producer_port), scrape(port)
        assert is_ready(producer_port)
        assert is_ready(port)
        assert reducer.poll() is None
    applied = reduced.total("mailspan_reducer_lines_applied_total")
    ignored = reduced.total("mailspan_reducer_lines_ignored_total")
    unparsed = reduced.total("mailspan_reducer_lines_unparsed_total")
    assert sent.value("mailspan_producer_lines_total", input="tail") == len(lines)
    assert sent.value("mailspan_producer_bytes_total", input="tail") == sum(len(line) - 1 for line in lines)
    assert sent.value("mailspan_producer_bytes_behind", input="tail") == 0
    assert sent.value("mailspan_producer_files", input="tail") == 1
    assert reduced.value("mailspan_reducer_lines_total") == len(lines) == applied + ignored + unparsed
    assert reduced.value("mailspan_reducer_bytes_total") == sum(len(line) - 1 for line in lines)
    assert min(applied, ignored, unparsed) > 0
    for stage, found in (("produce", sent), ("reduce", reduced)):
        assert found.value("mailspan_record_age_seconds_count", stage=stage) == len(lines)
        assert 0 <= found.value("mailspan_record_age_seconds_sum", stage=stage) < 300 * len(lines)
        assert found.value("mailspan_ready", stage=stage) == 1
        assert time.time() - found.value("mailspan_heartbeat_timestamp_seconds", stage=stage) < 60
    unparsed_programs = {
        dict(labels).get("program") for name, labels in reduced.samples if name.endswith("unparsed_total")
    }
    # The lab's logs of filters have lines of two readings.
    assert {"postfix/smtp", "sendmail", "exim", "other", "amavis", "dovecot", "rspamd"} >= unparsed_programs
    assert reduced.value("mailspan_partitions", stage="reduce", state="running") == PARTITIONS
    assert reduced.total("mailspan_lag_seconds", stage="reduce") == 0
    assert reduced.value("mailspan_restore_seconds_count", stage="reduce") == PARTITIONS
    assert reduced.value("mailspan_commit_seconds_count", stage="reduce") > 0
    assert reduced.value("mailspan_reducer_documents_total") > 0
    assert reduced.value("mailspan_reducer_open_transactions") > 0
    assert reduced.value("mailspan_reducer_misplaced_records_total") == 0
    assert reduced.total("mailspan_dead_letters_total") == 0
    listed = {metric.name for metric in METRICS}
    for found in (sent, reduced):
        names = {family.name for family in found.families.values() if family.name.startswith("mailspan_")}
        assert {name if name in listed else f"{name}_total" for name in names} <= listed


def test_the_last_commit_that_is_rolled_back_is_said_and_is_no_success(site: Site) -> None:
    """The broker refuses its documents: their topic takes no record of that size any more."""
    send(site, own_partition(), *(MAIL % number for number in range(0xB6D70000, 0xB6D70005)))
    with running(site, "reduce", COMMIT_INTERVAL_SECONDS="60") as (process, port):
        wait_until(lambda: scrape(port).total("mailspan_reducer_pending_records") == 5)
        assert scrape(port).total("mailspan_reducer_lines_total") == 0
        limit_documents(site, SMALL)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 3, site.said()
    assert "the last commit was rolled back; nothing is lost" in site.said().splitlines()[-1]
    assert "Traceback" not in site.said()
    limit_documents(site, LARGE)
    with running(site, "reduce") as (process, port):
        wait_until(lambda: scrape(port).total("mailspan_reducer_lines_applied_total") == 5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_what_is_rolled_back_is_counted_when_it_is_settled_and_not_before(site: Site) -> None:
    limit_documents(site, SMALL)
    with running(site, "reduce", COMMIT_INTERVAL_SECONDS="0.2") as (_, port):
        send(site, own_partition(), *(SENT % number for number in range(0xB6D70000, 0xB6D70005)))
        wait_until(lambda: scrape(port).total("mailspan_rollbacks_total") >= 2)
        refused = scrape(port)
        limit_documents(site, LARGE)
        wait_until(lambda: scrape(port).total("mailspan_reducer_lines_total") >= 5)
        settled = scrape(port)
    assert refused.total("mailspan_reducer_lines_total") == 0
    assert refused.value("mailspan_record_age_seconds_count", stage="reduce") == 0
    assert settled.value("mailspan_reducer_lines_total") == 5
    assert settled.value("mailspan_reducer_lines_applied_total") == 5
    assert settled.value("mailspan_reducer_documents_total") == 5


def limit_documents(site: Site, size: int) -> None:
    """Set the size of the largest batch that the topic of documents takes, and wait until that is so."""
    topic, value = f"{site.prefix}.transactions", str(size)
    entry = ConfigEntry(
        "max.message.bytes", value, ConfigSource.DYNAMIC_TOPIC_CONFIG, incremental_operation=AlterConfigOpType.SET
    )
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin = AdminClient({"bootstrap.servers": site.address, "log_level": 0})
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(30)
    wait_until(lambda: is_taken(site, topic) == (size > SMALL))


def is_taken(site: Site, topic: str) -> bool:
    """Whether a record larger than SMALL is taken, in a partition that no test looks at."""
    faults: list[object] = []
    producer = Producer({"bootstrap.servers": site.address, "log_level": 0})
    producer.produce(topic, b"x" * 2 * SMALL, b"", other_partition(), on_delivery=lambda error, _: faults.append(error))
    assert producer.flush(30) == 0
    return faults[0] is None


def test_a_record_in_the_wrong_partition_is_counted(site: Site) -> None:
    with running(site, "reduce") as (_, port):
        send(site, own_partition(), MAIL % 0xB6D70000)
        send(site, other_partition(), *(MAIL % number for number in range(0xB6D70001, 0xB6D70004)))
        wait_until(lambda: scrape(port).total("mailspan_reducer_lines_total") == 4)
        assert scrape(port).value("mailspan_reducer_misplaced_records_total") == 3


def test_lag_is_the_age_of_what_is_settled_and_nothing_where_all_is(site: Site) -> None:
    number = str(own_partition())
    with running(site, "reduce", COMMIT_INTERVAL_SECONDS="60") as (process, port):
        wait_until(lambda: is_ready(port))
        send(site, own_partition(), MAIL % 0xB6D70000)
        wait_until(lambda: scrape(port).total("mailspan_lag_records", partition=number) == 1)
        behind = scrape(port)
        began = time.monotonic()
        wait_until(lambda: scrape(port).value("mailspan_lag_seconds", stage="reduce", partition=number) > 2)
        assert time.monotonic() - began < 10
        assert behind.total("mailspan_lag_records") == 1
        assert behind.total("mailspan_lag_seconds") < 60  # not since 1970: it was settled to its end before
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_a_reducer_without_partitions_is_ready_too(broker: Broker, tmp_path: Path) -> None:
    made = Site(broker, tmp_path)
    made.settings["PARTITIONS"] = "1"
    made.setup()
    with running(made, "reduce", INSTANCE="one") as (_, one), running(made, "reduce", INSTANCE="two") as (_, two):
        wait_until(lambda: is_ready(one) and is_ready(two))
        wait_until(lambda: scrape(one).total("mailspan_partitions") + scrape(two).total("mailspan_partitions") == 1)
        assert scrape(one).total("mailspan_rebalances_total") > 0
