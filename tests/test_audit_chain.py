"""`mailspan audit` on a real Kafka and a real Elasticsearch: what differs is told, and mended."""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

import sink.auditor
import sink.day_index
import sink.kafka_topic
from mailspan.dead_letter import DeadLetter, Source, headers_of, mark_of
from mailspan.settings import Settings
from sink.day_index import DayIndex
from sink.elasticsearch import Server
from sink.elasticsearch_settings import connection_of
from sink.elasticsearch_writer import ElasticsearchWriter
from sink.kafka import group_of
from tests.chain import Chain, record
from tests.jars import free_port
from tests.kafka_site import PARTITIONS
from tests.running import Done, mailspan_here
from tests.scripted_http import Asked, Reply, scripted_http
from tests.search_documents import attempt, document

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from mailspan.dead_letter import Headers
    from tests.elasticsearch_server import Node
    from tests.kafka_server import Broker

pytestmark = pytest.mark.slow

DAY = "2026-11-23"
LONG_AGO = date(1970, 1, 1)
NAMES = (
    "documents", "indexed", "missing", "older", "withdrawn", "only_indexed", "not_indexed_yet", "superfluous",
    "dead_letters", "no_documents",
)  # fmt: skip


class Audited(Chain):
    """A chain whose sink is the test: it writes what it likes, and moves the group's offsets."""

    def __init__(self, broker: Broker, node: Node, folder: Path, capture: pytest.CaptureFixture[str]) -> None:
        super().__init__(broker, node, folder)
        self.sasl_address = broker.sasl_address
        self._capture = capture
        assert mailspan_here(capture, "setup", settings=self.settings).status == 0
        self.wait_for_topics()

    def audit(self, *arguments: str, **settings: str) -> Done:
        return mailspan_here(self._capture, "audit", *arguments, settings={**self.settings, **settings})

    def figures(self, *arguments: str, status: int) -> list[dict[str, int]]:
        """Return the figures that are not 0, of each comparison."""
        done = self.audit(DAY, "--json", *arguments)
        assert done.status == status, done
        found = [orjson.loads(line) for line in done.output.splitlines()]
        assert all(list(each) == ["day", *NAMES, "since"] for each in found)
        return [{name: count for name, count in each.items() if name in NAMES and count} for each in found]

    def index(self, *documents: dict[str, Any]) -> None:
        settings = Settings(elasticsearch_url=self.node.url)
        with Server(connection_of(settings)) as server:
            writer = ElasticsearchWriter(server, self.settings["INDEX_PREFIX"], LONG_AGO, patience_seconds=10)
            assert writer.write(documents).indexed == len(documents)

    def pass_to(self, offsets: Mapping[int, int]) -> None:
        """Move the sinks' group."""
        consumer = Consumer({"bootstrap.servers": self.address, "group.id": group_of(self.prefix), "log_level": 0})
        places = [TopicPartition(self.transactions, number, offset) for number, offset in offsets.items()]
        consumer.commit(offsets=places, asynchronous=False)
        consumer.close()

    def bury(self, *letters: Headers) -> None:
        producer = Producer({"bootstrap.servers": self.address, "log_level": 0})
        for headers in letters:
            producer.produce(f"{self.prefix}.dead-letter", b"{}", b"k", headers=list(headers))
        assert producer.flush(30) == 0

    def letter(self, partition: int, offset: int) -> Headers:
        return headers_of(DeadLetter("r", "sink", Source(self.transactions, partition, offset), ()))


@pytest.fixture
def chain(broker: Broker, node: Node, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Audited:
    return Audited(broker, node, tmp_path, capsys)


def mail(queue_id: str, lines: int = 1, **values: Any) -> dict[str, Any]:  # noqa: ANN401 - each field has its own type
    return document(queue_id=queue_id, version=lines * 65536, outcome="queued", **values)


def gone(document_: dict[str, Any]) -> tuple[bytes, None]:
    return document_["id"].encode(), None


def test_each_difference_is_told_and_mended(chain: Audited) -> None:
    equal, newer, missing, older, withdrawn, back = (
        mail(name, 2) for name in ("EQ", "NEW", "MI", "OLD", "GONE", "BACK")
    )
    pages = [{**mail("PP"), "id": name} for name in ("mx1.example.com/PP", "mx1.example.com/PP#1")]
    buried = [mail("BURIED1"), mail("BURIED2")]
    whole = mail("FRAG", 5, to=[attempt("a@example.com")])
    fragment = {**mail("FRAG", 1, fragment=True), "id": "mx1.example.com/FRAG~0123"}
    alone = {**mail("ALONE", 1, fragment=True), "id": "mx1.example.com/ALONE~0123"}
    other_day = mail("OTHER", date="2026-11-24T00:00:00.000Z")
    late = mail("LATE")
    chain.send(map(record, (equal, newer, missing, mail("OLD"), older, withdrawn, *pages, other_day)), 1)
    chain.send([gone(withdrawn), gone(pages[0]), record(back), gone(back), record(mail("BACK", 1))], 1)
    chain.send([*map(record, (*buried, whole, fragment, alone)), (b"x", b"no json"), (b"\xff", None)], 2)
    chain.send([record(buried[1]), record(late)], 2)  # the first was replayed, and is lost again
    chain.bury(chain.letter(2, 0), chain.letter(2, 7), chain.letter(1, 2))  # the last was replayed, in vain
    chain.bury(mark_of(Source(f"{chain.prefix}.dead-letter", 0, 2)))
    chain.pass_to({1: 14, 2: 8})
    chain.index(equal, mail("NEW", 3), mail("OLD"), withdrawn, *pages, whole, mail("ONLY"), mail("BACK", 1))
    before = {
        "documents": 11, "indexed": 9, "missing": 2, "older": 1, "withdrawn": 3, "only_indexed": 1,
        "not_indexed_yet": 1, "superfluous": 1, "dead_letters": 2, "no_documents": 2,
    }  # fmt: skip
    assert chain.figures(status=1) == [before]
    after = {**before, "indexed": 8}
    for name in ("missing", "older", "withdrawn"):
        del after[name]
    assert chain.figures("--mend", status=0) == [before, after]
    expected = (equal, mail("NEW", 3), missing, older, whole, alone, mail("ONLY"), mail("BACK", 1))
    assert chain.stored() == {each["id"]: each for each in expected}
    done = chain.audit(DAY, "--mend")
    assert (done.status, done.errors) == (0, "")
    assert done.output == f"{DAY}: {' '.join(f'{name}={after.get(name, 0)}' for name in NAMES)} since=begin\n"


def test_what_a_real_sink_indexed_is_equal_and_what_was_deleted_comes_back(chain: Audited) -> None:
    given = {each["id"]: each for each in (mail(f"Q{number}") for number in range(20))}
    for number in range(PARTITIONS):
        chain.send((record(each) for each in list(given.values())[number::PARTITIONS]), number)
    with chain.sink() as process:
        chain.wait_until_settled()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(sink.day_index, "_AT_ONCE", 7)  # several requests
            assert chain.figures(status=0) == [{"documents": 20, "indexed": 20}]
        index = f"{chain.settings['INDEX_PREFIX']}-2026.11.23"
        for name in list(given)[3:6]:
            assert chain.node.ask("DELETE", f"/{index}/_doc/{name.replace('/', '%2F')}")[0] == 200
        done = chain.audit(DAY, "--mend")
        assert done.status == 1
        assert "takes no document within a minute of its deletion" in done.errors.splitlines()[-1]
        assert chain.node.ask("PUT", f"/{index}/_settings", {"index.gc_deletes": "0s"})[0] == 200
        done = chain.audit(DAY, "--mend")
        assert done.status == 0
        assert done.errors == "mailspan: mended: written=3 withdrawn=0 refused=0\n"
        assert [line.partition(" older")[0] for line in done.output.splitlines()] == [
            f"{DAY}: documents=20 indexed=17 missing=3",
            f"{DAY}: documents=20 indexed=20 missing=0",
        ]
        assert process.poll() is None
    assert chain.stored() == given
    status, found = chain.node.ask("GET", "/_nodes/stats/indices/search")
    assert status == 200
    assert isinstance(found, dict)
    assert [each["indices"]["search"]["scroll_current"] for each in found["nodes"].values()] == [0]


def test_a_day_without_an_index_is_told_and_mended(chain: Audited) -> None:
    assert chain.figures(status=0) == [{}]
    chain.send([record(mail("A")), record(mail("B"))])
    assert chain.figures("--mend", status=0) == [{"documents": 2, "not_indexed_yet": 2}]
    chain.pass_to({0: 2})
    done = chain.audit(DAY)
    assert (done.status, done.errors) == (1, f"mailspan: there is no index of {DAY}\n")
    assert chain.figures("--mend", status=0) == [{"documents": 2, "missing": 2}, {"documents": 2, "indexed": 2}]


def test_what_the_sink_withdraws_as_the_index_is_read_is_not_missing(
    chain: Audited, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, deleted = mail("A"), mail("B")
    chain.send([record(kept), record(deleted)])
    chain.pass_to({0: 2})
    chain.index(kept, deleted)
    index = f"{chain.settings['INDEX_PREFIX']}-2026.11.23"

    class Racing(DayIndex):
        """The sink takes a withdrawal between the first look at the topic and the look at the index."""

        def versions(self) -> Iterator[tuple[str, int]]:
            chain.send([gone(deleted)])
            assert chain.node.ask("DELETE", f"/{index}/_doc/{deleted['id'].replace('/', '%2F')}")[0] == 200
            yield from super().versions()

    monkeypatch.setattr(sink.auditor, "DayIndex", Racing)
    assert chain.figures("--mend", status=0) == [{"documents": 1, "indexed": 1}]


def test_what_no_transaction_of_kafka_has_committed_is_not_there(chain: Audited) -> None:
    """A reducer writes in transactions: what was rolled back, and what is still open, is no document."""
    producer = Producer(
        {"bootstrap.servers": chain.address, "transactional.id": chain.prefix, "log_level": 0, "linger.ms": 0}
    )
    producer.init_transactions(30)
    for queue_id, end in (
        ("A", producer.commit_transaction), ("B", producer.abort_transaction), ("C", producer.commit_transaction),
    ):  # fmt: skip
        producer.begin_transaction()
        key, value = record(mail(queue_id))
        producer.produce(chain.transactions, value, key, 0)
        end(30)
    producer.begin_transaction()
    key, value = record(mail("OPEN"))
    producer.produce(chain.transactions, value, key, 0)
    assert producer.flush(30) == 0
    chain.pass_to({0: 99})
    assert chain.figures(status=1) == [{"documents": 2, "missing": 2}]
    producer.abort_transaction(30)


def test_the_topic_may_begin_late_and_says_so(chain: Audited) -> None:
    chain.send(record(mail(f"Q{number}")) for number in range(10))
    chain.index(*(mail(f"Q{number}") for number in range(10)))
    admin = AdminClient({"bootstrap.servers": chain.address})
    for each in admin.delete_records([TopicPartition(chain.transactions, 0, 8)]).values():
        each.result(30)
    chain.pass_to({0: 10})
    done = chain.audit(DAY)
    assert done.status == 0
    assert "documents=2 indexed=10 missing=0 older=0 withdrawn=0 only_indexed=8" in done.output
    assert " since=20" in done.output


def test_a_document_that_the_server_refuses_stays_a_difference(chain: Audited) -> None:
    index = f"{chain.settings['INDEX_PREFIX']}-2026.11.23"
    mapped = {"properties": {"subject": {"type": "long"}}}  # somebody made this index by hand
    assert chain.node.ask("PUT", f"/{index}", {"mappings": mapped})[0] == 200
    chain.send([record(mail("A", subject="no number")), record(mail("B"))])
    chain.pass_to({0: 2})
    done = chain.audit(DAY, "--mend")
    assert done.status == 1
    first, second = done.errors.splitlines()
    assert first == "mailspan: mended: written=1 withdrawn=0 refused=1"
    assert second.startswith("mailspan: refused=1: ")
    assert "missing=1" in done.output.splitlines()[-1]


def test_what_is_wrong_is_said_in_one_line(chain: Audited, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink.kafka_topic, "START_SECONDS", 2.0)
    nowhere = f"127.0.0.1:{free_port()}"
    password = chain.folder / "password"
    password.write_text("wrong\n", encoding="utf-8")
    bob = {
        "KAFKA_BOOTSTRAP_SERVERS": chain.sasl_address,
        "KAFKA_OPTIONS": "security.protocol=SASL_PLAINTEXT,sasl.mechanism=PLAIN,sasl.username=bob",
        "KAFKA_PASSWORD_FILE": str(password),
    }

    def refuse(_asked: Asked) -> Reply:
        return 401, {"error": {"type": "security_exception", "reason": "missing authentication"}}

    with scripted_http(refuse) as url:
        for settings, code, expected in (
            ({"TOPIC_PREFIX": f"{chain.prefix}.none"}, 3, f"the topic {chain.prefix}.none.transactions does not exist"),
            ({"KAFKA_BOOTSTRAP_SERVERS": nowhere}, 3, f"no Kafka broker answers at {nowhere}"),
            (bob, 3, f"Kafka at {chain.sasl_address} refuses the credentials"),
            ({"ELASTICSEARCH_URL": f"http://{nowhere}"}, 3, f"no Elasticsearch answers at http://{nowhere}"),
            ({"ELASTICSEARCH_URL": url}, 3, f"Elasticsearch at {url} refuses the credentials"),
            ({"INDEX_PREFIX": "never-set-up"}, 3, "there is no index template; run `mailspan setup`"),
            ({"ELASTICSEARCH_URL": ""}, 2, "MAILSPAN_ELASTICSEARCH_URL is not set"),
            ({"KAFKA_BOOTSTRAP_SERVERS": ""}, 2, "MAILSPAN_KAFKA_BOOTSTRAP_SERVERS is not set"),
        ):
            done = chain.audit(DAY, **settings)
            assert (done.status, done.output, len(done.errors.splitlines())) == (code, "", 1), done
            assert expected in done.errors
    done = chain.audit("2016-11-23", RETENTION_DAYS="90")
    assert (done.status, done.output) == (0, "")
    assert done.errors == "mailspan: 2016-11-23 is older than MAILSPAN_RETENTION_DAYS (90): nothing of it is kept\n"
    assert chain.node.ask("PUT", f"/{chain.settings['INDEX_PREFIX']}-2026.11.23")[0] == 200
    assert chain.node.ask("POST", f"/{chain.settings['INDEX_PREFIX']}-2026.11.23/_close")[0] == 200
    done = chain.audit(DAY)
    assert (done.status, done.output, len(done.errors.splitlines())) == (3, "", 1)
    assert f"{chain.settings['INDEX_PREFIX']}-2026.11.23 is closed; open it" in done.errors
