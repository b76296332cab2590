"""The producers and `setup` against a real broker, as processes: faults, kills, restarts, an absent broker."""

from __future__ import annotations

import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from mailspan.kafka_settings import FIXED
from mailspan.line_key import LineKeys
from mailspan.partition import partition_of
from mailspan.settings import Settings
from mailspan.wire import Reading, encode_reading
from producers.kafka import Admin, KafkaTopic
from producers.lines import Lines
from producers.shipping import Batch, RawTopic
from tests.kafka_reading import kept, read_all
from tests.kafka_site import PARTITIONS, Site, wait_until
from tests.memory_topic import MemoryTopic

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.kafka_server import Broker

pytestmark = pytest.mark.slow


@pytest.fixture
def site(broker: Broker, tmp_path: Path) -> Site:
    return Site(broker, tmp_path)


def lines(first: int, last: int, host: str = "mx1") -> list[bytes]:
    return [f"Nov 23 07:55:08 {host} postfix/smtp[1]: {n:08X}: line {n}".encode() for n in range(first, last)]


def append(path: Path, found: list[bytes]) -> None:
    with path.open("ab") as file:
        file.write(b"".join(line + b"\n" for line in found))


def test_setup_creates_topics_and_may_be_repeated(site: Site) -> None:
    dry = site.run("setup", "--dry-run").stdout.decode()
    assert f"{site.prefix}.raw: would be created: 6 partitions" in dry
    first = site.run("setup")
    assert first.returncode == 0, first.stderr
    assert len(first.stdout.splitlines()) == 4
    assert b"mail" not in first.stdout
    assert b"replication 1: lines can be lost" in first.stderr
    again = site.run("setup").stdout.decode().splitlines()
    assert len(again) == 4
    assert all("as it should be" in line for line in again)
    admin = Admin(Settings(kafka_bootstrap_servers=site.address))
    state = admin.describe(f"{site.prefix}.open-transactions")
    assert (state.partitions, state.settings["cleanup.policy"]) == (6, "compact")
    assert state.settings["segment.ms"] == "1200000"
    assert admin.describe(f"{site.prefix}.dead-letter").partitions == 1


def test_setup_mends_what_is_safe_and_tells_the_rest(site: Site) -> None:
    site.setup()
    admin = Admin(Settings(kafka_bootstrap_servers=site.address))
    admin.alter(f"{site.prefix}.open-transactions", {"segment.ms": "604800000"})
    admin.alter(f"{site.prefix}.raw", {"retention.ms": "1000000000"})
    said = site.run("setup").stdout.decode()
    assert "segment.ms was 604800000, is now 1200000" in said
    assert "retention.ms is 1000000000, not 604800000: left as it is" in said
    assert admin.describe(f"{site.prefix}.open-transactions").settings["segment.ms"] == "1200000"
    assert admin.describe(f"{site.prefix}.raw").settings["retention.ms"] == "1000000000"
    refused = site.run("setup", PARTITIONS="7")
    assert refused.returncode == 3
    assert b"has 6 partitions, and MAILSPAN_PARTITIONS is 7" in refused.stderr


@pytest.mark.parametrize("command", [("setup",), ("produce", "stdin")])
@pytest.mark.parametrize(
    ("settings", "status", "said"),
    [
        ({"KAFKA_BOOTSTRAP_SERVERS": ""}, 2, "MAILSPAN_KAFKA_BOOTSTRAP_SERVERS is not set"),
        ({"KAFKA_OPTIONS": "no.such.option=1"}, 2, "MAILSPAN_KAFKA_OPTIONS"),
        ({"KAFKA_OPTIONS": "acks=1"}, 2, "acks is fixed"),
        ({"KAFKA_OPTIONS": "sasl.password=hunter2"}, 2, "MAILSPAN_KAFKA_PASSWORD_FILE"),
        ({"KAFKA_PASSWORD_FILE": "/nonexistent"}, 2, "MAILSPAN_KAFKA_PASSWORD_FILE"),
        ({"PARTITIONS": "0"}, 2, "MAILSPAN_PARTITIONS"),
    ],
)
def test_wrong_settings_get_one_clear_line(
    site: Site, command: tuple[str, ...], settings: dict[str, str], status: int, said: str
) -> None:
    done = site.run(*command, given=b"x\n", **settings)
    assert done.returncode == status, done.stderr
    assert said in done.stderr.decode()
    assert len(done.stderr.splitlines()) == 1
    assert b"hunter2" not in done.stderr


def test_a_broker_that_cannot_be_reached_gets_one_clear_line(site: Site) -> None:
    commands = (("setup",), ("produce", "stdin"), ("reduce",))
    with ThreadPoolExecutor(len(commands)) as pool:  # each waits for 10 to 15 s
        runs = [pool.submit(site.run, *each, given=b"x\n", KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1") for each in commands]
    for command, run in zip(commands, runs, strict=True):
        done = run.result()
        assert done.returncode == 3, (command, done.stderr)
        assert b"see MAILSPAN_KAFKA_BOOTSTRAP_SERVERS" in done.stderr, command
        assert len(done.stderr.splitlines()) == 1, command


@pytest.mark.parametrize(
    ("user", "password", "said"),
    [
        ("admin", "wrong", "refuses the credentials"),
        ("bob", "bob-secret", "no right to create"),
    ],
)
def test_credentials_and_rights(broker: Broker, site: Site, user: str, password: str, said: str) -> None:
    secret = site.folder / "password"
    secret.write_text(f"{password}\n", encoding="utf-8")
    done = site.run(
        "setup",
        KAFKA_BOOTSTRAP_SERVERS=broker.sasl_address,
        KAFKA_OPTIONS=f"security.protocol=SASL_PLAINTEXT,sasl.mechanism=PLAIN,sasl.username={user}",
        KAFKA_PASSWORD_FILE=str(secret),
    )
    assert done.returncode == 3
    assert said in done.stderr.decode()
    assert "MAILSPAN_KAFKA_OPTIONS" in done.stderr.decode()
    assert password.encode() not in done.stderr.replace(b"credentials", b"")
    assert len(done.stderr.splitlines()) == 1


def test_a_password_file_lets_us_in(broker: Broker, site: Site) -> None:
    secret = site.folder / "password"
    secret.write_text("admin-secret\n", encoding="utf-8")
    sasl = {
        "KAFKA_BOOTSTRAP_SERVERS": broker.sasl_address,
        "KAFKA_OPTIONS": "security.protocol=SASL_PLAINTEXT,sasl.mechanism=PLAIN,sasl.username=admin",
        "KAFKA_PASSWORD_FILE": str(secret),
    }
    site.settings |= {f"MAILSPAN_{name}": value for name, value in sasl.items()}
    assert site.run("setup").returncode == 0
    assert site.run("produce", "stdin", given=b"one\n").returncode == 0
    assert [each.value for each in read_all(site.address, f"{site.prefix}.raw")] == [b"one"]


def test_a_missing_topic_is_said_and_not_created(site: Site) -> None:
    done = site.run("produce", "stdin", given=b"x\n")
    assert done.returncode == 3
    assert b"mailspan setup" in done.stderr
    topics, _ = Admin(Settings(kafka_bootstrap_servers=site.address)).connect()
    assert f"{site.prefix}.raw" not in topics


def test_another_number_of_partitions_is_refused(site: Site) -> None:
    site.setup()
    done = site.run("produce", "stdin", given=b"x\n", PARTITIONS="12")
    assert done.returncode == 3
    assert b"has 6 partitions, and MAILSPAN_PARTITIONS is 12" in done.stderr


def test_a_topic_that_would_refuse_lines_is_refused(site: Site) -> None:
    site.setup()
    admin = Admin(Settings(kafka_bootstrap_servers=site.address))
    admin.alter(f"{site.prefix}.raw", {"max.message.bytes": "100000"})
    done = site.run("produce", "stdin", given=b"x\n")
    assert done.returncode == 3
    assert b"max.message.bytes is 100000" in done.stderr
    site.setup()
    assert site.run("produce", "stdin", given=b"x\n").returncode == 0


def test_a_user_that_may_look_but_not_write(broker: Broker, site: Site) -> None:
    site.setup()
    operations = AdminClient({"bootstrap.servers": site.address, "log_level": 0})
    topic = (ResourceType.TOPIC, f"{site.prefix}.raw", ResourcePatternType.LITERAL)
    rule = AclBinding(*topic, "User:bob", "*", AclOperation.DESCRIBE, AclPermissionType.ALLOW)
    operations.create_acls([rule])[rule].result(30)
    secret = site.folder / "password"
    secret.write_text("bob-secret\n", encoding="utf-8")
    done = site.run(
        "produce",
        "stdin",
        given=b"x\n",
        KAFKA_BOOTSTRAP_SERVERS=broker.sasl_address,
        KAFKA_OPTIONS="security.protocol=SASL_PLAINTEXT,sasl.mechanism=PLAIN,sasl.username=bob",
        KAFKA_PASSWORD_FILE=str(secret),
    )
    assert done.returncode == 3
    assert b"no right to write" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_once_ends_with_3_where_a_file_cannot_be_read(site: Site) -> None:
    site.setup()
    append(site.folder / "mail.log", lines(0, 5))
    done = site.run("produce", "tail", "--once", str(site.folder / "mail.log"), str(site.folder / "missing.log"))
    assert done.returncode == 3
    assert b"missing.log: no such file yet" in done.stderr
    assert kept(read_all(site.address, f"{site.prefix}.raw")) == lines(0, 5)


def test_an_unwritable_state_folder_is_said(site: Site) -> None:
    (site.folder / "file").write_bytes(b"")
    done = site.run("produce", "tail", "/dev/null", STATE_DIR=str(site.folder / "file" / "state"))
    assert done.returncode == 3
    assert b"MAILSPAN_STATE_DIR" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_standard_input_arrives_keyed_by_queue_id_and_partitioned_by_host(site: Site) -> None:
    site.setup()
    hosts = [f"mx{number}" for number in range(20)]
    given = [line for host in hosts for line in lines(0, 50, host)]
    done = site.run("produce", "stdin", given=b"\n".join(given) + b"\nno newline \xff at the end")
    assert done.returncode == 0, done.stderr
    arrived = read_all(site.address, f"{site.prefix}.raw")
    assert Counter(each.value for each in arrived) == Counter([*given, b"no newline \xff at the end"])
    for each in arrived:
        host, _, _ = each.key.partition(b"/")
        assert each.partition == partition_of(host, PARTITIONS)
    assert {each.key for each in arrived if each.value.endswith(b"line 3") and b" mx7 " in each.value} == {
        b"mx7/00000003"
    }
    header = arrived[0].header
    assert header is not None
    assert header.reading.input == "stdin"
    assert header.reading.zone == "UTC"


def test_a_shipper_with_the_murmur2_partitioner_comes_to_the_same_partition(site: Site) -> None:
    site.setup()
    producer = Producer({"bootstrap.servers": site.address, "partitioner": "murmur2", "log_level": 0})
    hosts = [f"host{number}.example.com".encode() for number in range(60)]
    for host in hosts:
        producer.produce(f"{site.prefix}.raw", b"x", host)
    assert producer.flush(30) == 0
    arrived = read_all(site.address, f"{site.prefix}.raw")
    assert len(arrived) == 60
    assert {each.key: each.partition for each in arrived} == {host: partition_of(host, PARTITIONS) for host in hosts}


def test_tail_stops_cleanly_and_goes_on(site: Site) -> None:
    site.setup()
    log = site.folder / "mail.log"
    append(log, lines(0, 1000))
    for first in (1000, 2000):
        with site.tailing(str(log), str(site.folder / "missing.log")) as process:
            site.wait_for(first)
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
            assert time.monotonic() - began < 10
        append(log, lines(first, first + 1000))
    assert site.run("produce", "tail", "--once", str(log)).returncode == 0
    arrived = read_all(site.address, f"{site.prefix}.raw")
    assert [each.value for each in arrived] == lines(0, 3000)  # none came twice
    assert site.said().count("missing.log: no such file yet") == 2


def test_kill_9_at_any_moment_loses_and_reorders_nothing(site: Site) -> None:
    site.setup()
    random = Random(5)  # noqa: S311 - a seeded run
    names = [site.folder / f"{name}.log" for name in ("a", "b")]
    written: dict[Path, list[bytes]] = {name: [] for name in names}
    total = 0
    for name in names:  # a file has to be seen once: what was rotated away before the first start is not followed
        name.touch()
    assert site.run("produce", "tail", "--once", *map(str, names)).returncode == 0
    for _ in range(8):
        with site.tailing(*map(str, names)) as process:
            deadline = time.monotonic() + random.uniform(0.8, 2.5)
            while time.monotonic() < deadline:
                log = random.choice(names)
                found = lines(total, total + random.randint(1, 400), log.stem)
                append(log, found)
                written[log] += found
                total += len(found)
                if random.random() < 0.02:
                    for number in range(len(list(log.parent.glob(f"{log.name}.*"))), 0, -1):
                        Path(f"{log}.{number}").rename(f"{log}.{number + 1}")
                    log.rename(f"{log}.1")
                    log.touch()
                time.sleep(0.01)  # a log is not written in one go
            process.kill()
            process.wait()
    assert site.run("produce", "tail", "--once", *map(str, names)).returncode == 0
    arrived = read_all(site.address, f"{site.prefix}.raw")
    for log, expected in written.items():
        assert kept([each for each in arrived if each.key.startswith(f"{log.stem}/".encode())]) == expected
    assert len(arrived) >= total


def test_a_broker_that_is_away_loses_nothing(mortal_broker: Broker, tmp_path: Path) -> None:
    broker, site = mortal_broker, Site(mortal_broker, tmp_path)
    site.setup()
    log = site.folder / "mail.log"
    append(log, lines(0, 2000))
    with site.tailing(str(log)) as process:
        site.wait_for(2000)
        broker.kill()
        append(log, lines(2000, 60_000))
        wait_until(lambda: "waiting" in site.said())
        broker.start()
        site.wait_for(60_000)
        broker.stop()
        append(log, lines(60_000, 61_000))
        broker.start()
        site.wait_for(61_000)
        wait_until(lambda: "Kafka answers again" in site.said())  # it looks every few seconds
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert kept(read_all(site.address, f"{site.prefix}.raw")) == lines(0, 61_000)


def test_sigterm_with_the_broker_away_keeps_the_position(mortal_broker: Broker, tmp_path: Path) -> None:
    broker, site = mortal_broker, Site(mortal_broker, tmp_path)
    site.setup()
    log = site.folder / "mail.log"
    append(log, lines(0, 100))
    with site.tailing(str(log)) as process:
        site.wait_for(100)
        broker.kill()
        try:
            append(log, lines(100, 200))
            wait_until(lambda: "waiting" in site.said())
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
        finally:
            broker.start()
    assert site.run("produce", "tail", "--once", str(log)).returncode == 0
    assert kept(read_all(site.address, f"{site.prefix}.raw")) == lines(0, 200)


def test_what_may_not_be_lost_is_not_left_to_timeouts() -> None:
    assert FIXED["message.timeout.ms"] == "0"
    assert FIXED["acks"] == "all"
    assert FIXED["enable.idempotence"] == "true"


@pytest.fixture(params=["memory", "kafka"])
def topic(request: pytest.FixtureRequest, site: Site) -> Iterator[RawTopic]:
    """The topic in memory and the real one: what the models show of one has to hold for the other."""
    if request.param == "memory":
        yield MemoryTopic(capacity=500)
        return
    site.setup()
    settings = Settings(
        kafka_bootstrap_servers=site.address,
        topic_prefix=site.prefix,
        partitions=PARTITIONS,
        kafka_options={"queue.buffering.max.messages": "500"},
    )
    found = KafkaTopic(settings, LineKeys("own", PARTITIONS), lambda _: None)
    yield found
    found.close()


def batch_of(first: int, last: int) -> Batch:
    found = lines(first, last)
    reading = encode_reading(Reading("0123456789abcdef", 0, 0, "own"))
    return Batch(Lines(found, list(range(first, last)), last), reading, 0)


def test_a_topic_takes_reports_and_is_full(topic: RawTopic) -> None:
    batch = batch_of(0, 2000)
    assert not topic.send(batch)  # it holds 500
    assert 0 < batch.sent < 2000
    wait_until(lambda: serve(topic) and topic.send(batch), 30)
    assert batch.sent == 2000
    wait_until(lambda: serve(topic) and not batch.unsettled, 30)
    assert batch.error is None


def test_a_topic_that_is_restarted_takes_what_comes_then(topic: RawTopic) -> None:
    dropped = batch_of(0, 300)
    assert topic.send(dropped)
    topic.restart()
    again = batch_of(0, 300)
    assert topic.send(again)
    wait_until(lambda: serve(topic) and not again.unsettled, 30)
    assert again.error is None


def serve(topic: RawTopic) -> bool:
    topic.serve(0.05)
    return True
