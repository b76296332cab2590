"""The reducer against a real broker: each crash point, takeover, zombies, large state, wrong settings."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from mailspan.partition import partition_of
from reducer.kafka import Assignments, ReducerKafka
from reducer.loop import STEPS, Loop
from reducer.partition import Options
from tests.chaos.__main__ import CONTROL, run
from tests.chaos.fleet import PARTITIONS, Child, Fleet
from tests.chaos.oracle import canaries_of, expected, judge, newest, settle
from tests.jars import free_port
from tests.kafka_site import set_up
from tests.librdkafka import send_header
from tests.scraping import get, scrape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.kafka_server import Broker

pytestmark = pytest.mark.slow

LINES = 3000
SETTLE_SECONDS = 90.0
TAKEOVER_SECONDS = 10.0
ORACLE_SECONDS = 5.0  # what writing the rest and comparing takes by itself, on a busy machine
HUNG_SECONDS = 5.5  # less than a session lasts
SHORT_SESSION = "session.timeout.ms=3000"  # where a test waits only for its dead member to be forgotten
TRIES = 3
_prefixes = (f"reduce{number}" for number in count())


@pytest.fixture
def fleet(broker: Broker, tmp_path: Path) -> Iterator[Fleet]:
    """One producer and no reducer yet: a test starts those it wants."""
    made = Fleet(tmp_path / "fleet", broker, LINES, seed=7, producers=1, reducers=2, prefix=next(_prefixes))
    yield made
    made.stop()


def reducers(fleet: Fleet) -> list[Child]:
    return [child for child in fleet.children if child.name.startswith("reducer")]


def start_producers(fleet: Fleet) -> None:
    kept = fleet.children
    fleet.children = [child for child in kept if child.name.startswith("producer")]
    fleet.start()
    fleet.children = kept


def write_all(fleet: Fleet) -> None:
    for _ in fleet.write():
        pass


@contextmanager
def only(fleet: Fleet, *children: Child) -> Iterator[None]:
    """Let `tend` care for some children only."""
    kept, fleet.children = fleet.children, list(children)
    try:
        yield
    finally:
        fleet.children = kept


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_at_any_step_of_a_commit_changes_nothing(fleet: Fleet, step: str) -> None:
    start_producers(fleet)
    write_all(fleet)
    crashing = reducers(fleet)[0]
    crashing.environment["MAILSPAN_KAFKA_OPTIONS"] = SHORT_SESSION
    kept = dict(crashing.environment)
    crashing.environment["MAILSPAN_TEST_CRASH_POINT"] = step
    crashing.start()
    assert crashing.process is not None
    assert crashing.process.wait(60) == 137, crashing.log.read_text()
    crashing.environment.clear()
    crashing.environment.update(kept)
    with only(fleet, crashing):
        verdict = settle(fleet, SETTLE_SECONDS)
    assert verdict.is_right, verdict
    assert verdict.transactions > 0


def test_sigterm_commits_and_leaves_within_seconds(fleet: Fleet) -> None:
    start_producers(fleet)
    write_all(fleet)
    reducer = reducers(fleet)[0]
    reducer.start()
    deadline = time.monotonic() + 60
    while not newest(fleet):
        assert time.monotonic() < deadline
    assert reducer.end(signal.SIGTERM, 10) == 0
    before = Counter(newest(fleet).values())
    reducer.start()
    with only(fleet, reducer):
        assert settle(fleet, SETTLE_SECONDS).is_right
    assert before


def test_another_member_takes_over_in_seconds(fleet: Fleet) -> None:
    """Both run; one is killed; the other has all partitions, and what they had open, in less than ten seconds."""
    first, second = reducers(fleet)
    start_producers(fleet)
    first.start()
    second.start()
    writing = fleet.write()
    for _ in range(LINES // 200):
        next(writing, None)
    with only(fleet, first, second):
        settle(fleet, SETTLE_SECONDS)
    first.end(signal.SIGKILL)
    killed_at = time.monotonic()
    for _ in writing:
        pass
    with only(fleet, second):
        while not judge(fleet).is_right:
            assert time.monotonic() - killed_at < SETTLE_SECONDS
        took = time.monotonic() - killed_at
    print(f"takeover: everything written {took:.1f} s after the kill")
    assert took < TAKEOVER_SECONDS + ORACLE_SECONDS


def test_a_zombie_changes_nothing(fleet: Fleet) -> None:
    """Frozen for longer than its session, with lines in hand, it wakes up and is refused."""
    first, second = reducers(fleet)
    start_producers(fleet)
    first.start()
    second.start()
    writing = fleet.write()
    for _ in range(LINES // 400):
        next(writing, None)
    fleet.freeze(first)
    for _ in writing:
        pass
    with only(fleet, first, second):
        verdict = settle(fleet, SETTLE_SECONDS)
    assert verdict.is_right, verdict


def test_a_hung_reducer_holds_up_its_own_partitions_only(fleet: Fleet) -> None:
    """While one hangs and its session still lasts, the documents of the other's hosts are written and can be read."""
    first, second = reducers(fleet)
    start_producers(fleet)
    first.start()
    second.start()
    writing = fleet.write()
    for _ in range(LINES // 400):
        next(writing, None)
    with only(fleet, first, second):
        assert settle(fleet, SETTLE_SECONDS).is_right
    for _ in range(TRIES):  # on a busy machine the session may be over before the others' lines are read
        fleet.freeze(first)
        until = time.monotonic() + HUNG_SECONDS
        before = sizes(fleet)
        for _ in range(LINES // 500):
            next(writing, None)
        written = {host for host, size in sizes(fleet).items() if size != before.get(host)}
        wanted = expected(fleet)
        served: set[str] = set()
        while not is_whole(served, written) and time.monotonic() < until:
            have = newest(fleet)
            served = {
                host for host in written if all(have.get(i) == d for i, d in wanted.items() if i.startswith(f"{host}/"))
            }
        with only(fleet, first, second):
            assert settle(fleet, SETTLE_SECONDS).is_right
        if is_whole(served, written):
            break
    assert is_whole(served, written)
    assert served != written


def is_whole(served: set[str], written: set[str]) -> bool:
    """Whether hosts are served, and of each of their partitions all."""
    numbers = {host: partition_of(host.encode(), PARTITIONS) for host in written}
    return bool(served) and served == {host for host in written if numbers[host] in {numbers[each] for each in served}}


def sizes(fleet: Fleet) -> dict[str, int]:
    return {path.parent.name: path.stat().st_size for path in (fleet.folder / "logs").rglob("mail.log")}


@pytest.mark.parametrize(
    ("settings", "said", "code"),
    [
        ({"TOPIC_PREFIX": "nobody"}, "nobody.raw; run `mailspan setup`", 3),
        ({"COMMIT_INTERVAL_SECONDS": "0"}, "MAILSPAN_COMMIT_INTERVAL_SECONDS: '0'", 2),
        ({"INSTANCE": "a b"}, "MAILSPAN_INSTANCE: 'a b'", 2),
    ],
)
def test_wrong_settings_get_one_clear_line(fleet: Fleet, settings: dict[str, str], said: str, code: int) -> None:
    command = [sys.executable, "-m", "mailspan", "reduce"]
    done = subprocess.run(command, env=fleet.environment(**settings), capture_output=True, check=False, timeout=60)
    lines = done.stderr.decode().splitlines()
    assert done.returncode == code, lines
    assert len(lines) == 1
    assert said in lines[0]


def test_wrong_credentials_are_said(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("wrong\n")
    settings = {
        "KAFKA_BOOTSTRAP_SERVERS": fleet.broker.sasl_address,
        "KAFKA_OPTIONS": "security.protocol=SASL_PLAINTEXT,sasl.mechanism=PLAIN,sasl.username=admin",
        "KAFKA_PASSWORD_FILE": str(tmp_path / "password"),
    }
    command = [sys.executable, "-m", "mailspan", "reduce"]
    done = subprocess.run(command, env=fleet.environment(**settings), capture_output=True, check=False, timeout=60)
    assert done.returncode == 3
    assert b"refuses the credentials" in done.stderr
    assert b"wrong" not in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_fleet_survives_faults(broker: Broker, tmp_path: Path) -> None:
    """A short run of `make chaos`, with a seed; the broker is left alone, for others use it too."""
    fleet = Fleet(tmp_path / "fleet", broker, 8000, seed=3, prefix=next(_prefixes))
    faults = ("producer killed", "producer ended", "reducer killed", "reducer ended", "reducer frozen", "log rotated")
    done, verdict = run(fleet, 8, 0.7, only=faults)
    assert verdict.is_right, (done, verdict)
    assert done.total() == 8
    sent, passed_on = canaries_of(fleet, "raw"), canaries_of(fleet, "transactions")
    for partition, canaries in passed_on.items():  # each once, in their order; the last ones may not have been read
        assert sent[partition][: len(canaries)] == canaries
    assert sum(map(len, passed_on.values())) >= PARTITIONS


def test_without_transactions_the_same_faults_do_damage(broker: Broker, tmp_path: Path) -> None:
    """The control: a harness that cannot see damage proves nothing."""
    fleet = Fleet(tmp_path / "fleet", broker, 6000, seed=3, prefix=next(_prefixes), reducer_module=CONTROL)
    _, verdict = run(fleet, 8, 0.7, only=("reducer killed",), settle_seconds=20)
    assert verdict.lost or verdict.different


def send(fleet: Fleet, topic: str, key: bytes, values: list[bytes]) -> None:
    """Write records to partition 0, as another shipper or a broken one would."""
    producer = Producer({"bootstrap.servers": fleet.broker.address, "log_level": 0})
    for value in values:
        producer.produce(f"{fleet.prefix}.{topic}", value, key, 0)
    assert producer.flush(60) == 0


def mails(begin: int, end: int) -> list[bytes]:
    """Return one line each of so many mails."""
    front = b"Nov 23 07:55:08 mx1 postfix/smtpd[94]: "
    return [front + b"%X: client=client.example.com[192.0.2.10]" % (0xB6D70000 + at) for at in range(begin, end)]


def wait_for(done: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline


def test_records_that_are_gone_are_told_and_not_passed_over(fleet: Fleet) -> None:
    """Retention deleted what was not read yet; then the topic is created again twice, shorter than it was and longer."""
    set_up(fleet.environment())
    reducer = reducers(fleet)[0]
    send(fleet, "raw", b"mx1", mails(0, 20))
    reducer.start()
    wait_for(lambda: len(newest(fleet)) == 20)
    assert reducer.end(signal.SIGTERM) == 0
    send(fleet, "raw", b"mx1", mails(20, 60))
    admin = AdminClient({"bootstrap.servers": fleet.broker.address})
    raw = f"{fleet.prefix}.raw"
    for future in admin.delete_records([TopicPartition(raw, 0, 50)]).values():
        future.result(60)
    reducer.start()
    wait_for(lambda: len(newest(fleet)) == 30)
    assert reducer.end(signal.SIGTERM) == 0
    assert f"{raw} partition 0: 30 records were deleted before they were read (offsets 20 to 49)" in (
        reducer.log.read_text()
    )
    for begin, end, read_before, in_all in ((60, 70, 60, 40), (70, 90, 10, 60)):
        for future in admin.delete_topics([raw]).values():
            future.result(60)
        wait_for(lambda: raw not in admin.list_topics(timeout=10).topics)
        set_up(fleet.environment())
        send(fleet, "raw", b"mx1", mails(begin, end))
        reducer.start()
        wait_for(lambda wanted=in_all: len(newest(fleet)) == wanted)  # type: ignore[misc]
        assert reducer.end(signal.SIGTERM) == 0
        assert f"{raw} partition 0 was read up to {read_before}, and is of another topic now" in reducer.log.read_text()


def test_without_ids_a_topic_that_was_made_anew_is_known_by_its_end() -> None:
    """As an older broker has none, and the state of an older reducer."""
    said: list[str] = []
    config = {"bootstrap.servers": "127.0.0.1:1"}
    loop = Loop(
        config, "mail", "one", Options(lambda _name: None), commit_seconds=1.0, report=said.append, epoch=time.time
    )
    assert loop._place(0, 60, 0, 10, is_another=False) == 0  # noqa: SLF001
    assert said.pop().startswith("mail.raw partition 0 ends at 10, but was read up to 60 before")
    assert loop._place(0, 10, 0, 20, is_another=False) == 10  # noqa: SLF001
    assert loop._place(0, None, 5, 20, is_another=True) == 5  # noqa: SLF001
    assert not said


def test_state_that_cannot_be_read_gets_one_clear_line(fleet: Fleet) -> None:
    set_up(fleet.environment())
    send(fleet, "open-transactions", b"transaction:mx1/AB", [b"\0\xffof another time"])
    command = [sys.executable, "-m", "mailspan", "reduce"]
    done = subprocess.run(command, env=fleet.environment(), capture_output=True, check=False, timeout=60)
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 3, lines
    assert len(lines) == 1
    assert f"the state in {fleet.prefix}.open-transactions partition 0 cannot be read" in lines[0]


def test_a_header_whose_name_is_no_text_stops_nobody(fleet: Fleet) -> None:
    """The client for Python can neither write nor read one; other clients write what they like."""
    set_up(fleet.environment())
    reducer = reducers(fleet)[0]
    send_header(fleet.broker.address, f"{fleet.prefix}.raw", b"\xff\xfe", mails(0, 1)[0])
    reducer.start()
    wait_for(lambda: len(newest(fleet)) == 1)
    assert reducer.end(signal.SIGTERM) == 0


def test_two_of_one_name_are_told_so(fleet: Fleet) -> None:
    first, second = reducers(fleet)
    second.environment["MAILSPAN_INSTANCE"] = first.environment["MAILSPAN_INSTANCE"]
    set_up(fleet.environment())
    for number, child in enumerate((first, second)):
        child.start()
        send(fleet, "raw", b"mx1", mails(number, number + 1))
        wait_for(lambda wanted=number + 1: len(newest(fleet)) >= wanted)  # type: ignore[misc]
    assert first.process is not None
    numbers = iter(range(2, 1000))

    def is_over() -> bool:
        for partition in range(PARTITIONS):
            producer = Producer({"bootstrap.servers": fleet.broker.address, "log_level": 0})
            producer.produce(f"{fleet.prefix}.raw", mails(at := next(numbers), at + 1)[0], b"mx1", partition)
            producer.flush(10)
        return first.process is not None and first.process.poll() is not None

    wait_for(is_over)
    assert first.process.returncode == 3
    said = first.log.read_text().splitlines()
    assert "each needs a MAILSPAN_INSTANCE of its own" in said[-1]


def test_a_refusal_that_is_over_is_not_told_later(fleet: Fleet) -> None:
    """As of a broker that refused good credentials while it started: the next fault of another kind is another one."""
    set_up(fleet.environment())
    no_answer = KafkaException(KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001 - its public name

    def nothing(_said: object) -> None:
        """Let partitions come and go, and steps pass."""

    config = {"bootstrap.servers": fleet.broker.address}
    kafka = ReducerKafka(config, fleet.prefix, "one", Assignments(nothing, nothing, nothing), nothing)
    try:
        kafka.start(kafka._stop)  # noqa: SLF001 - which is never told
        kafka._note(KafkaError(KafkaError._AUTHENTICATION))  # noqa: SLF001 - as its callback does
        assert "credentials" in str(kafka._error(no_answer, "to read"))  # noqa: SLF001
        kafka.commit([], {}, nothing)
        assert "credentials" not in str(kafka._error(no_answer, "to read"))  # noqa: SLF001
    finally:
        kafka.close()


def test_it_waits_for_a_broker_that_is_away_and_ends_when_told_to(mortal_broker: Broker, tmp_path: Path) -> None:
    broker = mortal_broker
    fleet = Fleet(tmp_path / "fleet", broker, 100, seed=7, producers=1, reducers=1, prefix="away")
    try:
        set_up(fleet.environment())
        reducer = reducers(fleet)[0]
        reducer.environment["MAILSPAN_COMMIT_INTERVAL_SECONDS"] = "4"
        port = free_port()
        reducer.environment["MAILSPAN_METRICS_ADDRESS"] = f":{port}"
        reducer.start()
        send(fleet, "raw", b"mx1", mails(0, 20))
        wait_for(lambda: len(newest(fleet)) == 20)
        begun = time.monotonic()
        while time.monotonic() < begun + 1.5:  # some are read and not committed when the broker goes
            send(fleet, "raw", b"mx1", mails(20, 40))
        broker.kill()
        wait_for(lambda: "no Kafka broker answers" in reducer.log.read_text())
        turned = scrape(port).value("mailspan_heartbeat_timestamp_seconds", stage="reduce")
        assert time.time() - turned < 4  # it says so after 5 s: while it waits it is alive
        assert get(port, "/livez")[0] == 200
        broker.start()
        send(fleet, "raw", b"mx1", mails(40, 60))
        wait_for(lambda: len(newest(fleet)) == 60)
        assert reducer.starts == 1
        assert reducer.process is not None
        assert reducer.process.poll() is None
        send(fleet, "raw", b"mx1", mails(60, 80))
        broker.kill()
        reducer.end(signal.SIGTERM, 10)  # whatever it says: it must end
        reducer.start()  # and so must one that has not begun yet
        reducer.end(signal.SIGTERM, 10)
        assert "Traceback" not in reducer.log.read_text()
        broker.start()
        reducer.start()
        wait_for(lambda: len(newest(fleet)) == 80)
        assert reducer.end(signal.SIGTERM, 10) == 0
    finally:
        fleet.stop()
