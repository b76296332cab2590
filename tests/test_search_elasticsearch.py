"""Searching Elasticsearch gives what a plain filter gives, and so what SQLite gives; and says what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import pytest

from mailspan.settings import Settings
from sink.daily_indices import DailyIndices
from sink.elasticsearch import Server
from sink.elasticsearch_reader import QUEUE_DAYS, ElasticsearchReader
from sink.elasticsearch_settings import connection_of
from sink.index_template import Wanted
from sink.indexed import indexed
from sink.indices import index_of
from sink.sqlite import open_for_writing
from sink.store import COUNTED, Selection
from tests.jars import free_port
from tests.running import mailspan
from tests.search_documents import all_documents, document, stamp
from tests.test_search_oracle import compare, milliseconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.elasticsearch_server import Node

pytestmark = pytest.mark.slow

DAY = 86_400
DOCUMENTS = [
    each
    for each in all_documents()
    if milliseconds(each["updated"]) - milliseconds(each["date"]) <= QUEUE_DAYS * DAY * 1000
]
"""What rests longer than mail may be in a queue is found by its date only."""


def put(node: Node, prefix: str, documents: Sequence[dict[str, Any]]) -> None:
    lines = b"".join(
        orjson.dumps({"index": {"_index": index_of(prefix, each["date"]), "_id": each["id"]}})
        + b"\n"
        + indexed(each, orjson.dumps(each))
        + b"\n"
        for each in documents
    )
    with Server(connection_of(Settings(elasticsearch_url=node.url))) as server:
        assert list(DailyIndices(server, prefix).set_up(Wanted(replicas=0), is_dry_run=False))
    status, answer = node.ask("POST", "/_bulk?refresh=true", lines)
    assert status == 200
    assert isinstance(answer, dict)
    assert not answer["errors"], answer


@pytest.fixture(scope="module")
def reader(node: Node) -> Iterator[ElasticsearchReader]:
    put(node, "oracle", DOCUMENTS)
    with Server(connection_of(Settings(elasticsearch_url=node.url))) as server:
        yield ElasticsearchReader(server, "oracle")


def test_it_answers_as_a_plain_filter_does(reader: ElasticsearchReader) -> None:
    compare(reader, 0, DOCUMENTS)
    assert reader.faults == []


def test_more_values_than_are_counted_at_first(reader: ElasticsearchReader, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = Selection(())
    wanted = {field: dict(reader.count_by(everything, field)) for field in COUNTED}
    monkeypatch.setattr("sink.elasticsearch_reader._VALUES_AT_FIRST", 2)
    assert {field: dict(reader.count_by(everything, field)) for field in COUNTED} == wanted
    assert sum(len(found) > 2 for found in wanted.values()) > 8


def test_documents_are_those_that_were_written(reader: ElasticsearchReader) -> None:
    found = {orjson.loads(each)["id"]: each for each in reader.newest(Selection(()), 100_000)}
    assert found == {each["id"]: orjson.dumps(each) for each in DOCUMENTS}


def on(node: Node, prefix: str) -> ElasticsearchReader:
    return ElasticsearchReader(Server(connection_of(Settings(elasticsearch_url=node.url))), prefix)


def ids(found: list[bytes]) -> list[str]:
    return [orjson.loads(each)["id"] for each in found]


def days(node: Node, prefix: str) -> list[dict[str, Any]]:
    """Put one mail a day into indices of ten days; return them, the oldest first."""
    mails = [document(queue_id=f"4D{number}", date=stamp(1_795_420_800 + number * DAY)) for number in range(10)]
    put(node, prefix, mails)
    return mails


def test_only_the_asked_days_are_asked_and_those_of_the_queue_before(node: Node) -> None:
    mails = days(node, "asked")
    # What lies in an index that is not asked is not found, even where its times would match.
    stray = {**mails[0], "id": "stray/1", "updated": mails[9]["updated"]}
    put(node, "asked", [stray])
    since = 1_795_420_800_000 + 9 * DAY * 1000
    reader = on(node, "asked")
    assert ids(reader.newest(Selection((), updated_from_ms=since), 10)) == [mails[9]["id"]]
    assert ids(reader.newest(Selection((), date_from_ms=0), 20))[-1] == "stray/1"


def test_missing_and_closed_days_are_said(node: Node) -> None:
    mails = days(node, "gaps")
    names = [index_of("gaps", each["date"]) for each in mails]
    assert node.ask("DELETE", f"/{names[3]}")[0] == 200
    assert node.ask("POST", f"/{names[5]}/_close")[0] == 200
    reader = on(node, "gaps")
    selection = Selection(
        (), date_from_ms=1_795_420_800_000 + 2 * DAY * 1000, date_until_ms=1_795_420_800_000 + 7 * DAY * 1000
    )
    assert ids(reader.newest(selection, 10)) == [mails[number]["id"] for number in (6, 4, 2)]
    assert reader.count(selection) == 3
    assert reader.gaps == ["there is no index of 2026-11-26: no mail was indexed of such a day, or it was deleted"]
    assert reader.faults == [f"{names[5]} is closed: its mail is missing here; open it"]


def test_an_index_without_its_shards_is_said(node: Node) -> None:
    nowhere = {"number_of_shards": 1, "number_of_replicas": 0, "index.routing.allocation.require._name": "nobody"}
    mail = document(queue_id="4D1", date="2026-11-20T12:00:00.000Z")
    put(node, "reds", [mail])
    red = [f"reds-2026.11.{day}" for day in (21, 22, 23)]  # as many as are asked first
    try:
        for name in red:
            assert node.ask("PUT", f"/{name}?wait_for_active_shards=0", {"settings": nowhere})[0] == 200
        reader = on(node, "reds")
        assert ids(reader.newest(Selection(()), 10)) == [mail["id"]]
        assert reader.faults == [
            "no shard of reds-2026.11.21 and 2 more answered (all shards failed): mail is missing here"
        ]
        reader = on(node, "reds")
        assert reader.count(Selection(())) == 1
        shards = "(reds-2026.11.21: no_shard_available_action_exception)"
        assert reader.faults == [f"3 of 4 shards did not answer {shards}: mail is missing here"]
    finally:
        assert node.ask("DELETE", f"/{','.join(red)}")[0] == 200  # a node with such is never up after a restart


def test_a_millisecond_with_more_mail_than_one_answer_holds(node: Node) -> None:
    moments = [stamp(1_795_420_800), *[stamp(1_795_420_801)] * 2500, stamp(1_795_420_802)]
    mails = [document(queue_id=f"4E{number:04}", date=date) for number, date in enumerate(moments)]
    put(node, "moment", mails)
    reader = on(node, "moment")
    expected = [each["id"] for each in sorted(mails, key=lambda each: (-milliseconds(each["date"]), each["id"]))]
    for limit in (1, 2, 100, 1001, 2501, 2502, 9999):
        assert ids(reader.newest(Selection(()), limit)) == expected[:limit], limit


def test_the_newest_days_are_enough_where_they_have_enough(node: Node) -> None:
    mails = days(node, "newest-days")
    reader = on(node, "newest-days")
    for limit in (1, 2, 3, 4, 9, 10, 11):
        assert ids(reader.newest(Selection(()), limit)) == [each["id"] for each in mails[::-1][:limit]]
    status, before = node.ask("GET", "/newest-days-*/_stats/search")
    assert len(reader.newest(Selection(()), 2)) == 2
    _, after = node.ask("GET", "/newest-days-*/_stats/search")
    assert status == 200
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    asked = [
        name
        for name, found in after["indices"].items()
        if found["total"]["search"]["query_total"] > before["indices"][name]["total"]["search"]["query_total"]
    ]
    assert sorted(asked) == [index_of("newest-days", each["date"]) for each in mails[-3:]]


def test_look_alikes_are_not_read(node: Node) -> None:
    mails = days(node, "alike")
    for name in ("alike-2026.11.23-old", "alike-2026.02.30", "alike-x-2026.11.23", "alike-2026.1.1"):
        body = indexed(mails[0], orjson.dumps(mails[0]))
        assert node.ask("PUT", f"/{name}/_doc/1?refresh=true", body)[0] == 201
    assert on(node, "alike").count(Selection(())) == 10


def test_no_index_at_all_finds_nothing(node: Node) -> None:
    reader = on(node, "nothing-of-it")
    selection = Selection(())
    assert (reader.newest(selection, 5), reader.count(selection), reader.count_by(selection, "host")) == ([], 0, [])
    assert reader.count_by_date(selection) == {}


def test_the_command_prints_the_same_from_both_stores(node: Node, reader: ElasticsearchReader, tmp_path: Path) -> None:
    assert reader.faults == []  # its documents are there
    with open_for_writing(tmp_path / "mail.db") as store:
        store.write(DOCUMENTS)
    stores = (f"sqlite:///{tmp_path}/mail.db", node.url)
    for arguments in (
        ("-f", "bob@example.com"),
        ("-t", "alice@example.com", "-o", "bounced", "-v"),
        ("-d", "2026-11-23", "-D", "2026-11-23", "-r", "5", "--json"),
        ("--count", "--by", "relay"),
        ("--count", "--by", "day"),
        ("--subject", "köln", "--probes"),
        ("--count", "--by", "kind", "--mailboxes"),
        ("--count", "--by", "kind", "--probes"),
        ("-i", "none-has-this"),
    ):
        one, other = (
            mailspan("search", *arguments, settings={"STORE": each, "INDEX_PREFIX": "oracle"}) for each in stores
        )
        assert other.stdout == one.stdout
        assert other.returncode == one.returncode
    assert mailspan("search", "--follow", "--store", node.url).returncode == 2


def test_what_is_missing_ends_the_command_with_3(node: Node) -> None:
    mails = days(node, "closed")
    name = index_of("closed", mails[4]["date"])
    assert node.ask("POST", f"/{name}/_close")[0] == 200
    done = mailspan("search", "--count", "--store", node.url, settings={"INDEX_PREFIX": "closed"})
    assert (done.returncode, done.stdout) == (3, b"9\n")
    assert done.stderr.decode() == f"mailspan: {name} is closed: its mail is missing here; open it\n"


def test_no_server_is_one_line_and_3() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = mailspan("search", "bob@example.com", "--store", url)
    assert done.returncode == 3
    assert done.stderr.decode().startswith(f"mailspan: no Elasticsearch answers at {url} (")
    assert done.stderr.endswith(b"; see --store or MAILSPAN_STORE\n")
    assert len(done.stderr.splitlines()) == 1
