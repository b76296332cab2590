"""Dead letters on a real Kafka: what a reducer writes, what `list` shows, and what becomes of a replayed one."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import orjson
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

import reducer.partition
import sink.kafka_topic
from mailspan.dead_letter import DeadLetter, Source, headers_of, read_headers
from mailspan.grammar import Parser
from mailspan.partition import partition_of
from mailspan.wire import HEADER_NAME, Reading, encode_header, encode_reading
from reducer.loop import Loop
from reducer.partition import Options
from sink.kafka_topic import TopicReader, TopicRecord
from tests.jars import free_port
from tests.kafka_site import PARTITIONS, Site, wait_until
from tests.running import Done, mailspan_here

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from mailspan.dead_letter import Headers
    from mailspan.record import Ignored, Record, Unparsed
    from tests.kafka_server import Broker

pytestmark = pytest.mark.slow

HOST = "mx1.example.com"
LINES = (
    f"Nov 23 07:55:08 {HOST} postfix/smtpd[1]: 4F1A2B3C4D: client=mail.example.net[192.0.2.7]",
    f"Nov 23 07:55:08 {HOST} postfix/qmgr[2]: 4F1A2B3C4D: from=<a@example.com>, size=9, nrcpt=1 (queue active)",
    f"Nov 23 07:55:09 {HOST} postfix/smtp[3]: 4F1A2B3C4D: to=<b@example.net>, relay=none, delay=1, delays=0/0/0/1, dsn=2.0.0, status=sent (250 Ok)",
    f"Nov 23 07:55:10 {HOST} postfix/smtp[3]: 4F1A2B3C4D: to=<c@example.net>, relay=none, delay=2, delays=0/0/0/2, dsn=2.0.0, status=sent (250 Ok)",
)
POISON = 2  # the line that the fault is about
READ_AT = 1_795_420_900  # 2026-11-23


class FaultyParser(Parser):
    """A parser with a fault of ours in one line."""

    def parse(self, line: str) -> Record | Ignored | Unparsed:
        if "b@example.net" in line:
            raise ZeroDivisionError("a fault\nof ours \x1b[31m")
        return super().parse(line)


class Told:
    """A stop that a test sets."""

    is_set = False

    def seconds(self, most: float) -> float:
        return most


class Letters(Site):
    """Topics of its own, and `dead-letter` on them."""

    def __init__(self, broker: Broker, folder: Path, capture: pytest.CaptureFixture[str]) -> None:
        super().__init__(broker, folder)
        self._capture = capture
        assert mailspan_here(capture, "setup", settings=self.settings).status == 0

        self.sasl_address = broker.sasl_address

    def run_here(self, *arguments: str, **settings: str) -> Done:
        return mailspan_here(self._capture, "dead-letter", *arguments, settings={**self.settings, **settings})

    def listed(self, *arguments: str, **settings: str) -> list[dict[str, object]]:
        """Return what `list --json` shows."""
        done = self.run_here("list", "--json", *arguments, **settings)
        assert (done.status, done.errors) in {(0, ""), (1, "nothing found\n")} or "older letters" in done.errors
        return [orjson.loads(line) for line in done.output.splitlines()]

    def read(self, topic: str) -> list[TopicRecord]:
        """Return all records of a topic."""
        with TopicReader({"bootstrap.servers": self.address}, f"{self.prefix}.{topic}", "test") as reader:
            return list(reader.read(reader.ranges()))


@pytest.fixture
def site(broker: Broker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Letters:
    return Letters(broker, tmp_path, capsys)


@contextmanager
def reducing(site: Letters, parser: type[Parser] = Parser) -> Iterator[None]:
    """Run a reducer in this process, with that parser."""
    config = {"bootstrap.servers": site.address}
    options = Options(find_zone=lambda _name: None)
    loop = Loop(config, site.prefix, "one", options, commit_seconds=0.1, report=print, epoch=time.time)
    told = Told()
    thread = threading.Thread(target=loop.run, args=(told,))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(reducer.partition, "Parser", parser)
        thread.start()
        try:
            yield
        finally:
            told.is_set = True
            thread.join(30)
    assert not thread.is_alive()


def write(site: Letters, topic: str, records: Iterable[tuple[int, bytes | None, bytes | None, Headers]]) -> None:
    producer = Producer({"bootstrap.servers": site.address, "log_level": 0})
    for partition, key, value, headers in records:
        producer.produce(f"{site.prefix}.{topic}", value, key, partition, headers=list(headers))
    assert producer.flush(30) == 0


def send_lines(site: Letters) -> int:
    """Write the lines as a producer does; return their partition."""
    partition = partition_of(HOST.encode(), PARTITIONS)
    reading = encode_reading(Reading("life-of-a-file", READ_AT, READ_AT, HOST, "UTC", "tail", "shipper"))
    records = []
    for number, line in enumerate(LINES):
        headers = ((HEADER_NAME, encode_header(100 * (number + 1), reading)), ("reason", b"its own"))
        records.append((partition, f"{HOST}/4F1A2B3C4D".encode(), line.encode(), headers))
    write(site, "raw", records)
    return partition


def recipients(site: Letters) -> list[str]:
    """Return the recipients in the newest version of the only document."""
    found = [orjson.loads(each.value or b"") for each in site.read("transactions")]
    assert len({each["id"] for each in found}) <= 1
    newest = max(found, key=lambda each: int(each["version"]), default=None)
    return [] if newest is None else [each["recipient"] for each in newest["to"]]


def test_a_line_that_a_fault_kept_out_reaches_its_document_when_it_is_replayed(site: Letters) -> None:
    """Its place in its file was passed when the fault struck: as it was, it would be dropped as read before."""
    partition = send_lines(site)
    with reducing(site, FaultyParser):
        wait_until(lambda: recipients(site) == ["c@example.net"] and bool(site.read("dead-letter")))
    (letter,) = site.read("dead-letter")
    found = read_headers(letter.headers)
    assert (letter.key, letter.value) == (f"{HOST}/4F1A2B3C4D".encode(), LINES[POISON].encode())
    assert found.reason == "ZeroDivisionError: a fault of ours \x1b[31m"
    assert (found.stage, found.source) == ("reduce", Source(f"{site.prefix}.raw", partition, POISON))
    assert [name for name, _ in found.headers] == [HEADER_NAME, "reason"]

    done = site.run_here("list")
    (line,) = done.output.splitlines()
    assert f"  0:0  reduce  {site.prefix}.raw {partition}:{POISON}  {HOST}/4F1A2B3C4D  " in line
    assert line.endswith(f"{len(LINES[POISON])} bytes  ZeroDivisionError: a fault of ours \\x1b[31m")

    with reducing(site):
        done = site.run_here("replay")
        assert (done.status, done.errors) == (0, "")
        assert done.output == f"replayed 1 letter: 1 to {site.prefix}.raw\n"
        wait_until(lambda: recipients(site) == ["b@example.net", "c@example.net"])
        whole = site.read("transactions")[-1].value
        # A second time does no harm: the line is known.
        assert site.run_here("replay", "--replayed").status == 0
        assert len(site.read("raw")) == len(LINES) + 2
        write(
            site, "raw", [(partition, b"", b"Nov 23 07:55:11 mx1.example.com postfix/qmgr[2]: 4F1A2B3C4D: removed", ())]
        )
        wait_until(lambda: orjson.loads(site.read("transactions")[-1].value or b"")["state"] == "closed")
    newest = orjson.loads(site.read("transactions")[-1].value or b"")
    assert newest["version"] // 65536 == len(LINES) + 1
    assert newest["to"] == orjson.loads(whole or b"")["to"]
    replayed = site.read("raw")[-2]
    assert (replayed.partition, replayed.key, replayed.value) == (partition, letter.key, letter.value)

    assert site.run_here("list").status == 1
    done = site.run_here("replay")
    assert (done.status, done.output, done.errors) == (1, "", "nothing found\n")
    (again,) = site.listed("--replayed")
    assert (again["replayed"], again["value"]) == (True, LINES[POISON])
    stage = site.run_here("list", "--replayed", "--stage", "sink")
    assert (stage.status, stage.output) == (1, "")


def letter_of(
    site: Letters, topic: str, partition: int, offset: int, reason: str = "r", own: Headers = (("h", b"\xff"),)
) -> Headers:
    """Return the headers of a letter of the sink."""
    return headers_of(DeadLetter(reason, "sink", Source(f"{site.prefix}.{topic}", partition, offset), own))


def test_documents_go_back_where_they_came_from_and_what_cannot_is_said(site: Letters) -> None:
    """Letters of the sink, one that was withdrawn since, a cut document, and what somebody else wrote there."""
    document = orjson.dumps({"id": "mx1/A"})
    write(site, "transactions", [(2, b"mx1/A", document, ()), (2, b"mx1/B", b"{}", ()), (2, b"mx1/B", None, ())])
    cut = headers_of(DeadLetter("document of 9 bytes, more than 8", "reduce", None, ()))
    write(
        site,
        "dead-letter",
        [
            (0, b"mx1/A", document, letter_of(site, "transactions", 2, 0, reason="mapper_parsing")),
            (0, b"mx1/B", b"{}", letter_of(site, "transactions", 2, 1)),
            (0, b"mx1/C", b"{", cut),
            (0, None, None, letter_of(site, "transactions", 77, 1)),
            (0, b"\xff", b"\x00\xfe\x1b", letter_of(site, "open-transactions", 2, 0)),
            (0, b"k", b"v", ()),
            (0, b"", None, letter_of(site, "transactions", 3, 5, reason="no withdrawal")),
        ],
    )
    found = site.listed()
    assert [each["offset"] for each in found] == [6, 5, 4, 3, 2, 1, 0]
    assert found[2]["value_base64"] == "AP4b"
    assert found[6]["value"] == document.decode()
    assert found[6]["headers"] == [{"name": "h", "value_base64": "/w=="}]
    assert [each["offset"] for each in site.listed("-r", "2")] == [6, 5]
    assert [each["offset"] for each in site.listed("--at", "0:3", "--at", "0:9", "--at", "0:0")] == [3, 0]
    text = site.run_here("list", "-r", "3")
    assert text.output.isascii()
    assert text.output.count("\n") == 3
    assert text.errors == "mailspan: 4 older letters are not shown; see -r\n"

    done = site.run_here("replay", "--reason", "MAPPER", "--stage", "sink")
    assert (done.status, done.errors) == (0, "")
    assert done.output == f"replayed 1 letter: 1 to {site.prefix}.transactions\n"
    done = site.run_here("replay")
    assert done.status == 0
    assert done.output == f"replayed 1 letter: 1 to {site.prefix}.transactions\n"
    assert done.errors.splitlines() == [
        "mailspan: 1 letter cannot be replayed: their documents were withdrawn since",
        "mailspan: 1 letter cannot be replayed: they are of a partition that is not there",
        "mailspan: 1 letter cannot be replayed: they are of a topic that no letters come from",
        "mailspan: 2 letters cannot be replayed: they have no source: nobody's record is whole in them",
    ]
    arrived = site.read("transactions")
    by_place = {(each.partition, each.offset): each for each in arrived}
    assert set(by_place) == {(2, 0), (2, 1), (2, 2), (2, 3), (3, 0)}
    assert (by_place[2, 3].key, by_place[2, 3].value, by_place[2, 3].headers) == (
        b"mx1/A",
        document,
        (("h", b"\xff"),),
    )
    assert (by_place[3, 0].key, by_place[3, 0].value) == (b"", None)
    assert [each["offset"] for each in site.listed()] == [5, 4, 3, 2, 1]
    assert site.run_here("replay").status == 1


def test_many_letters_are_read_and_replayed_in_their_order(site: Letters) -> None:
    count = 2600
    write(
        site,
        "dead-letter",
        ((0, b"%d" % each, b"line", letter_of(site, "raw", each % PARTITIONS, each)) for each in range(count)),
    )
    assert [each["offset"] for each in site.listed()] == list(range(count - 1, count - 101, -1))
    spread = [0, 1, 2500, 2599]
    done = site.run_here("replay", *(part for offset in spread for part in ("--at", f"0:{offset}")))
    assert done.status == 0
    assert site.run_here("replay").output.startswith(f"replayed {count - 4} letters: ")
    arrived = site.read("raw")
    assert len(arrived) == count
    for partition in range(PARTITIONS):
        numbers = [int(each.key or b"") for each in arrived if each.partition == partition]
        first, later = [each for each in spread if each % PARTITIONS == partition], numbers[:]
        assert numbers[: len(first)] == first
        assert later[len(first) :] == sorted(later[len(first) :])
    assert site.run_here("list").status == 1


def test_what_is_deleted_meanwhile_is_passed_over(site: Letters) -> None:
    write(site, "dead-letter", [(0, b"k", b"v", letter_of(site, "raw", 1, number)) for number in range(10)])
    admin = AdminClient({"bootstrap.servers": site.address})
    for each in admin.delete_records([TopicPartition(f"{site.prefix}.dead-letter", 0, 7)]).values():
        each.result(30)
    assert [each["offset"] for each in site.listed()] == [9, 8, 7]


def test_what_is_wrong_is_said_in_one_line(site: Letters, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink.kafka_topic, "START_SECONDS", 2.0)
    nowhere = f"127.0.0.1:{free_port()}"
    password = site.folder / "password"
    password.write_text("wrong\n", encoding="utf-8")
    bob = {
        "KAFKA_BOOTSTRAP_SERVERS": site.sasl_address,
        "KAFKA_OPTIONS": "security.protocol=SASL_PLAINTEXT,sasl.mechanism=PLAIN,sasl.username=bob",
        "KAFKA_PASSWORD_FILE": str(password),
    }
    for settings, code, expected in (
        ({"TOPIC_PREFIX": f"{site.prefix}.none"}, 3, f"the topic {site.prefix}.none.dead-letter does not exist"),
        ({"KAFKA_BOOTSTRAP_SERVERS": nowhere}, 3, f"no Kafka broker answers at {nowhere}"),
        (bob, 3, f"Kafka at {site.sasl_address} refuses the credentials"),
        ({"KAFKA_BOOTSTRAP_SERVERS": ""}, 2, "MAILSPAN_KAFKA_BOOTSTRAP_SERVERS is not set"),
        ({"KAFKA_OPTIONS": "no.such.option=1"}, 2, "MAILSPAN_KAFKA_OPTIONS"),
    ):
        said = site.run_here("replay", **settings)
        assert (said.status, said.output, len(said.errors.splitlines())) == (code, "", 1), said
        assert expected in said.errors
        assert "wrong" not in said.errors
    password.write_text("bob-secret\n", encoding="utf-8")
    assert "does not exist, or may not be seen" in site.run_here("list", **bob).errors
    topics = AdminClient({"bootstrap.servers": site.address}).list_topics(timeout=30).topics
    assert not any(name.startswith(f"{site.prefix}.none") for name in topics)


def test_the_right_to_read_the_topic_is_enough_for_a_list(site: Letters) -> None:
    write(site, "dead-letter", [(0, b"k", b"v", letter_of(site, "raw", 0, 0))])
    password = site.folder / "password"
    password.write_text("bob-secret\n", encoding="utf-8")
    bob = {
        "KAFKA_BOOTSTRAP_SERVERS": site.sasl_address,
        "KAFKA_OPTIONS": "security.protocol=SASL_PLAINTEXT,sasl.mechanism=PLAIN,sasl.username=bob",
        "KAFKA_PASSWORD_FILE": str(password),
    }
    admin = AdminClient({"bootstrap.servers": site.address})
    for name in ("dead-letter", "raw"):
        right = AclBinding(
            ResourceType.TOPIC, f"{site.prefix}.{name}", ResourcePatternType.LITERAL, "User:bob", "*",
            AclOperation.READ, AclPermissionType.ALLOW,
        )  # fmt: skip
        for each in admin.create_acls([right]).values():
            each.result(30)
    assert [each["key"] for each in site.listed(**bob)] == ["k"]
    done = site.run_here("replay", **bob)
    assert (done.status, done.output) == (3, "replayed 0 letters\n")
    assert done.errors.splitlines()[-1].startswith("mailspan: no right to write (CLUSTER_AUTHORIZATION_FAILED)")
    assert len(done.errors.splitlines()) <= 2


def test_wrong_flags_are_usage_errors(site: Letters) -> None:
    for arguments, expected in (
        (("list", "--at", "7"), "--at '7': expected PARTITION:OFFSET"),
        (("list", "-r", "0"), "-r '0': expected a whole number"),
        (("replay", "--json"), "-r, --json: only with list"),
        (("forget",), "invalid choice: 'forget'"),
    ):
        said = site.run_here(*arguments)
        assert (said.status, said.output, len(said.errors.splitlines())) == (2, "", 1)
        assert expected in said.errors
