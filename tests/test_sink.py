"""`mailspan sink` on a real Kafka and a real Elasticsearch: nothing is passed over, whatever happens."""

from __future__ import annotations

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from mailspan.canary import CANARY_KEY, CANARY_NAME, Canary, encode_canary
from mailspan.dead_letter import Source, read_headers
from mailspan.wire import read_headers_of
from tests.chain import Chain, record
from tests.jars import free_port
from tests.kafka_reading import read_messages
from tests.kafka_site import PARTITIONS, wait_until
from tests.scraping import get, is_answering, scrape
from tests.scripted_http import Asked, Reply, scripted_http
from tests.search_documents import all_documents, document, pages

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.elasticsearch_server import Node
    from tests.kafka_server import Broker

pytestmark = pytest.mark.slow

ENDS_WITHIN_SECONDS = 10.0


@pytest.fixture
def chain(broker: Broker, node: Node, tmp_path: Path) -> Chain:
    made = Chain(broker, node, tmp_path)
    made.setup()
    return made


def numbered(count: int, begin: int = 0, **values: str) -> list[dict[str, Any]]:
    """Return documents of as many mails."""
    return [document(queue_id=f"Q{number}", outcome="queued", **values) for number in range(begin, begin + count)]


def ended(process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGTERM) -> int:
    """Tell it to stop and return its exit code."""
    process.send_signal(number)
    return process.wait(ENDS_WITHIN_SECONDS)


def test_documents_are_indexed_as_they_are_and_the_offsets_follow(chain: Chain) -> None:
    given = {each["id"]: each for each in all_documents() if each["date"] < "2026-11-28"}
    for number in range(3):
        chain.send((record(each) for each in list(given.values())[number::3]), number)
    with chain.sink() as sink:
        chain.wait_until_settled()
        assert ended(sink) == 0
    assert chain.stored() == given
    assert f"stopped; records={len(given)} indexed={len(given)} superseded=0" in chain.said()


def test_a_newer_version_wins_in_any_order_and_a_withdrawn_id_is_gone(chain: Chain) -> None:
    first, second, third = numbered(3)
    paged = [
        {**document(queue_id="P", outcome="queued"), "id": name}
        for name in ("mx1.example.com/P", "mx1.example.com/P#1")
    ]
    newer = {**first, "version": first["version"] + 65536, "state": "closed"}
    again = {**third, "version": third["version"] + 65536}
    withdrawn = second["id"].encode()
    chain.send([*map(record, (newer, first, second, third, *paged)), (withdrawn, None)])
    with chain.sink() as sink:
        chain.wait_until_settled()
        # of what is stored by now
        chain.send(
            [(third["id"].encode(), None), (paged[0]["id"].encode(), None), record(again), (b"mx1/never-was", None)]
        )
        chain.wait_until_settled()
        assert ended(sink) == 0
    assert chain.stored() == {newer["id"]: newer, again["id"]: again}
    assert "withdrawn=5" in chain.said()


def test_what_is_no_document_goes_to_the_dead_letters_and_holds_nothing_up(chain: Chain) -> None:
    good = numbered(2)
    wrong: list[tuple[bytes | str, bytes | None]] = [
        (b"key", b"\xff\x00 no json"),
        ("mx1.example.com/Q7", orjson.dumps({**good[0], "date": "2026-02-30T00:00:00.000Z"})),
        ("mx1.example.com/Q8", orjson.dumps({**good[0], "version": "many"})),
        (b"\xff", None),
    ]
    chain.send([record(good[0]), *wrong, record(good[1])])
    with chain.sink() as sink:
        chain.wait_until_settled()
        assert ended(sink) == 0
    assert chain.stored() == {each["id"]: each for each in good}
    letters = read_messages(chain.address, f"{chain.prefix}.dead-letter")
    assert [(each.key(), each.value() or None) for each in letters] == [
        (key.encode() if isinstance(key, str) else key, value) for key, value in wrong
    ]
    found = [read_headers(each.headers()) for each in letters]
    assert [each.source for each in found] == [Source(chain.transactions, 0, offset) for offset in range(1, 5)]
    assert {each.stage for each in found} == {"sink"}
    assert [each.reason.partition(":")[0] for each in found] == ["no document"] * 3 + ["no withdrawal"]
    assert "dead_letters=4" in chain.said()
    assert chain.said().count("goes to the dead letters") == 1


def test_a_document_that_the_server_refuses_is_buried_with_the_servers_reason(chain: Chain) -> None:
    good = numbered(2)
    mapped = {"properties": {"subject": {"type": "long"}}}  # somebody made this index by hand
    index = f"{chain.settings['INDEX_PREFIX']}-2026.11.23"
    assert chain.node.ask("PUT", f"/{index}", {"mappings": mapped})[0] == 200
    bad = {**good[1], "subject": "no number"}
    chain.send(map(record, (good[0], bad)))
    with chain.sink() as sink:
        chain.wait_until_settled()
        assert ended(sink) == 0
    assert chain.stored() == {good[0]["id"]: good[0]}
    (letter,) = read_messages(chain.address, f"{chain.prefix}.dead-letter")
    assert "subject" in read_headers(letter.headers()).reason
    assert orjson.loads(letter.value() or b"") == bad


def test_what_it_shows_balances_to_the_record(chain: Chain) -> None:
    """Documents = indexed + superseded + expired + dead letters + withdrawn, counted as the offsets are passed."""
    kept = numbered(3)
    old = document(queue_id="OLD", date="2001-03-09T06:00:00.000Z", updated="2001-03-09T06:00:00.000Z")
    chain.send([*map(record, (*kept, kept[0], old)), (b"key", b"no json"), (b"mx1/never-was", None)])
    port = free_port()
    with chain.sink(METRICS_ADDRESS=f":{port}", RETENTION_DAYS="5000") as sink:
        wait_until(lambda: is_answering(port) and scrape(port).total("mailspan_sink_records_total") == 7)
        found = scrape(port)
        assert get(port, "/readyz")[0] == 200
        assert ended(sink) == 0
    results = {
        name: found.value("mailspan_sink_results_total", result=name)
        for name in ("indexed", "superseded", "expired", "dead_letters", "withdrawn")
    }
    assert list(results.values()) == [3, 1, 1, 1, 1]
    assert found.value("mailspan_dead_letters_total", stage="sink", reason="record refused") == 1
    assert found.value("mailspan_partitions", stage="sink", state="running") == PARTITIONS
    assert found.value("mailspan_ready", stage="sink") == 1
    assert found.value("mailspan_sink_bulk_requests_total", status="2xx") >= 1
    assert found.total("mailspan_sink_bulk_bytes_total") > sum(len(record(each)[1] or b"") for each in kept)
    assert found.total("mailspan_sink_bulk_seconds_count") == found.total("mailspan_sink_bulk_requests_total")
    assert found.total("mailspan_sink_retries_total") == found.total("mailspan_sink_waiting") == 0


def test_the_marks_of_commits_are_no_lag(chain: Chain) -> None:
    """A reducer's commit leaves a mark behind its records: an idle sink must not lag behind it for ever."""
    writer = Producer({"bootstrap.servers": chain.address, "transactional.id": f"{chain.prefix}-lag", "log_level": 0})
    writer.init_transactions(30)
    writer.begin_transaction()
    for key, value in map(record, numbered(3)):
        writer.produce(chain.transactions, value, key, 0, headers=list(read_headers_of(int(time.time()) - 100)))
    writer.commit_transaction(30)
    port = free_port()
    with chain.sink(METRICS_ADDRESS=f":{port}") as sink:
        wait_until(lambda: is_answering(port) and scrape(port).total("mailspan_sink_records_total") == 3)
        chain.wait_until_settled()

        def lags() -> list[float]:
            return [value for (name, _), value in scrape(port).samples.items() if name == "mailspan_lag_records"]

        wait_until(lambda: lags() == [0.0] * PARTITIONS)
        found = scrape(port)
        assert found.value("mailspan_lag_seconds", stage="sink", partition="0") == 0
        assert found.value("mailspan_record_age_seconds_count", stage="sink") == 3
        assert 300 <= found.value("mailspan_record_age_seconds_sum", stage="sink") < 3 * 160
        assert ended(sink) == 0


def test_killed_at_any_time_it_leaves_nothing_out(chain: Chain) -> None:
    given = numbered(6000)
    chain.send(map(record, given))
    for _ in range(3):
        before = len(chain.stored())
        with chain.sink():
            wait_until(lambda: len(chain.stored()) > before)  # noqa: B023 - called at once
    with chain.sink() as sink:
        chain.wait_until_settled()
        assert ended(sink) == 0
    assert chain.stored() == {each["id"]: each for each in given}


def test_two_share_the_partitions_and_one_takes_over(chain: Chain) -> None:
    given = numbered(1200)
    with chain.sink() as first, chain.sink() as second:
        for number in range(6):
            chain.send(map(record, given[number * 100 : number * 100 + 100]), number)
        chain.wait_until_settled()
        first.kill()
        for number in range(6):
            chain.send(map(record, given[600 + number * 100 : 700 + number * 100]), number)
        chain.wait_until_settled()
        assert ended(second) == 0
    assert chain.stored() == {each["id"]: each for each in given}


def test_a_server_that_is_away_is_waited_for(chain: Chain) -> None:
    given = numbered(300)
    port = free_port()
    with chain.sink(METRICS_ADDRESS=f":{port}") as sink:
        chain.send(map(record, given[:100]))
        chain.wait_until_settled()
        chain.node.kill()
        try:
            chain.send(map(record, given[100:]))
            wait_until(lambda: "waiting for Elasticsearch" in chain.said())
            assert chain.behind() == 200
            wait_until(lambda: scrape(port).total("mailspan_sink_waiting") == 1)
        finally:
            chain.node.start()
        chain.wait_until_settled()
        wait_until(lambda: scrape(port).total("mailspan_sink_waiting") == 0)
        assert ended(sink) == 0
    assert chain.stored() == {each["id"]: each for each in given}
    assert f"no Elasticsearch answers at {chain.node.url}" in chain.said()
    assert chain.said().count("waiting for Elasticsearch") == 1
    assert chain.said().count("Elasticsearch takes documents again") == 1


def test_a_frozen_server_does_not_keep_it_from_ending(chain: Chain) -> None:
    with chain.sink() as sink:
        chain.send(map(record, numbered(1)))
        chain.wait_until_settled()
        chain.node.freeze()
        try:
            chain.send(map(record, numbered(10)))
            # It has asked by now, or asks after the signal: both must end.
            assert ended(sink) in {0, 3}
        finally:
            chain.node.thaw()
    assert chain.behind() in {0, 10}


def test_without_rights_in_mid_run_it_halts_and_offsets_stay(chain: Chain) -> None:
    count = 0

    def reply(asked: Asked) -> Reply:
        nonlocal count
        if asked.path.startswith("/_bulk"):
            count += 1
            if count > 1:
                return 401, {"error": {"type": "security_exception", "reason": "the key was revoked"}}
        status, body = chain.node.ask(asked.method, asked.path, asked.body or None)
        return status, body

    given = numbered(20)
    with scripted_http(reply) as url, chain.sink(ELASTICSEARCH_URL=url) as sink:
        chain.send(map(record, given[:10]))
        chain.wait_until_settled()
        chain.send(map(record, given[10:]))
        assert sink.wait(60) == 3
    assert chain.behind() == 10
    (line,) = chain.said().splitlines()
    assert f"Elasticsearch at {url} refuses the credentials (the key was revoked); see MAILSPAN_ELASTICSEARCH" in line
    with chain.sink() as sink:
        chain.wait_until_settled()
        assert ended(sink) == 0
    assert len(chain.stored()) == 20


def test_without_a_template_it_does_not_begin(chain: Chain) -> None:
    chain.send(map(record, numbered(1)))
    done = chain.run("sink", INDEX_PREFIX="never-set-up")
    assert done.returncode == 3
    assert done.stderr.endswith(b"there is no index template; run `mailspan setup`\n")
    assert len(done.stderr.splitlines()) == 1
    assert chain.behind() == 1


def test_a_template_that_goes_away_halts_it_before_a_new_index_is_made(chain: Chain) -> None:
    prefix = chain.settings["INDEX_PREFIX"]
    with chain.sink() as sink:
        chain.send(map(record, numbered(1)))
        chain.wait_until_settled()
        assert chain.node.ask("DELETE", f"/_index_template/{prefix}")[0] == 200
        chain.send(map(record, numbered(1, begin=1, date="2026-11-24T10:00:00.000Z")))
        assert sink.wait(60) == 3
    assert chain.behind() == 1
    assert "there is no index template; run `mailspan setup`" in chain.said()
    assert chain.node.ask("GET", f"/{prefix}-2026.11.24")[0] == 404


def test_a_day_that_is_not_kept_is_counted_and_not_brought_back(chain: Chain) -> None:
    chain.send(map(record, numbered(3, date="2016-11-24T10:00:00.000Z")))
    with chain.sink(RETENTION_DAYS="90") as sink:
        chain.wait_until_settled()
        assert ended(sink) == 0
    assert chain.stored() == {}
    assert "expired=3" in chain.said()


def test_canaries_that_are_not_taken_hold_no_mail_up(chain: Chain) -> None:
    """Where nobody ran `setup` again: no index is made for them, mail goes on, offsets pass, and it is told."""
    prefix = chain.settings["INDEX_PREFIX"]
    assert chain.node.ask("DELETE", f"/_index_template/canary.{prefix}")[0] == 200
    canary = Canary(int(time.time() * 1000), "mx1.example.com", "tail")
    given = numbered(4)
    with chain.sink() as sink:
        chain.send(map(record, given[:2]))
        send_canary(chain, canary)
        chain.send(map(record, given[2:]))
        chain.wait_until_settled()
        assert ended(sink) == 0
    assert len(chain.stored()) == 4
    assert chain.node.ask("GET", f"/canary.{prefix}-*/_count?expand_wildcards=all")[1] == {
        "count": 0,
        "_shards": {"total": 0, "successful": 0, "skipped": 0, "failed": 0},
    }
    assert "a canary is not indexed (canaries: there is no index template; run `mailspan setup`)" in chain.said()
    assert "stopped; records=4 indexed=4 superseded=0 expired=0 dead_letters=0 withdrawn=0" in chain.said()


def send_canary(chain: Chain, canary: Canary) -> None:
    """Write one as the reducer does."""
    producer = Producer({"bootstrap.servers": chain.address, "log_level": 0})
    producer.produce(chain.transactions, None, CANARY_KEY, 0, headers=[(CANARY_NAME, encode_canary(canary))])
    assert producer.flush(60) == 0


def test_what_was_deleted_before_it_was_read_is_told(chain: Chain) -> None:
    with chain.sink() as sink:
        chain.send(map(record, numbered(10)))
        chain.wait_until_settled()
        assert ended(sink) == 0
    chain.send(map(record, numbered(10, begin=10)))
    admin = AdminClient({"bootstrap.servers": chain.address})
    for each in admin.delete_records([TopicPartition(chain.transactions, 0, 15)]).values():
        each.result(30)
    with chain.sink() as sink:
        wait_until(lambda: len(chain.stored()) == 15)
        chain.wait_until_settled()
        assert ended(sink) == 0
    assert (
        "partition 0: 5 records were deleted before they were indexed (offsets 10 to 14); see retention.ms"
        in chain.said()
    )


def test_wrong_settings_are_one_line_each(chain: Chain) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    wrong: tuple[tuple[dict[str, str], int, str], ...] = (
        ({"TOPIC_PREFIX": "never-made"}, 3, "has no topic never-made.transactions; run `mailspan setup` first"),
        ({"KAFKA_BOOTSTRAP_SERVERS": nowhere}, 3, f"no Kafka broker answers at {nowhere}"),
        ({"ELASTICSEARCH_URL": f"http://{nowhere}"}, 3, "see MAILSPAN_ELASTICSEARCH_URL"),
        ({"ELASTICSEARCH_URL": ""}, 2, "MAILSPAN_ELASTICSEARCH_URL is not set"),
        ({"KAFKA_BOOTSTRAP_SERVERS": ""}, 2, "MAILSPAN_KAFKA_BOOTSTRAP_SERVERS is not set"),
    )
    with ThreadPoolExecutor() as pool:  # two of them wait for a while
        done = list(pool.map(lambda each: chain.run("sink", **each[0]), wrong))
    for (_, code, expected), each in zip(wrong, done, strict=True):
        assert (each.returncode, len(each.stderr.splitlines())) == (code, 1), each.stderr
        assert expected in each.stderr.decode()


def test_a_mail_to_fifty_thousand_is_found_by_any_of_them(chain: Chain) -> None:
    chain.send(map(record, pages(100, 500, queue_id="LARGE")))
    with chain.sink() as sink:
        chain.wait_until_settled(120)
        assert ended(sink) == 0
    chain.stored()  # refreshes
    for number in (0, 499, 500, 31_416, 49_999):
        done = chain.run(
            "search", "-t", f"member{number}@list.example.org", "--json", "--store", chain.node.url, RETENTION_DAYS="90"
        )
        assert done.returncode == 0, done.stderr
        found = [orjson.loads(line) for line in done.stdout.splitlines()]
        assert [each["page"] for each in found] == [number // 500]
    assert "indexed=100" in chain.said()


AWAY = "dsn=4.4.1, status=deferred (connect to mx.example.com: Connection timed out)"
SENT = "relay=mx.example.com[203.0.113.5]:25, delay=172801, delays=172800/0/1/0, dsn=2.0.0, status=sent (250 Ok)"
DAYS = (
    (
        "Nov 23 08:00:00 mx1 postfix/smtpd[1]: 4D0000001: client=mail.example.net[192.0.2.7]",
        "Nov 23 08:00:00 mx1 postfix/cleanup[2]: 4D0000001: message-id=<one@example.net>",
        "Nov 23 08:00:00 mx1 postfix/qmgr[3]: 4D0000001: from=<alice@example.net>, size=1024, nrcpt=1 (queue active)",
        f"Nov 23 08:00:01 mx1 postfix/smtp[4]: 4D0000001: to=<bob@example.com>, relay=none, delay=1, {AWAY}",
    ),
    (f"Nov 24 08:00:01 mx1 postfix/smtp[5]: 4D0000001: to=<bob@example.com>, relay=none, delay=86401, {AWAY}",),
    (
        f"Nov 25 08:00:01 mx1 postfix/smtp[6]: 4D0000001: to=<bob@example.com>, {SENT}",
        "Nov 25 08:00:01 mx1 postfix/qmgr[3]: 4D0000001: removed",
    ),
)


def test_what_is_read_again_leaves_fuller_documents_as_they_are(broker: Broker, chain: Chain, tmp_path: Path) -> None:
    logs = [tmp_path / f"day{number}.log" for number in range(len(DAYS))]
    for path, lines in zip(logs, DAYS, strict=True):
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    whole = tmp_path / "mail.log"
    whole.write_bytes(b"".join(path.read_bytes() for path in logs))
    chain.carry(whole)
    full = chain.stored()
    ((_, document),) = full.items()
    assert (document["state"], document["outcome"], len(document["to"])) == ("closed", "relayed", 3)
    for number, path in enumerate(logs):  # one old day alone, by other topics: such as were made again
        again = Chain(broker, chain.node, tmp_path / f"again{number}")
        again.folder.mkdir()
        again.settings |= {
            "INDEX_PREFIX": chain.settings["INDEX_PREFIX"], "STATE_DIR": str(again.folder / "state"),
        }  # fmt: skip
        again.setup()
        again.carry(path)
        assert again.stored() == full
    for given in (logs[:1], logs[1:2], [whole]):  # and past Kafka
        done = chain.run("index", "--store", chain.node.url, *map(str, given))
        assert done.returncode == 0, done.stderr
        assert chain.stored() == full
