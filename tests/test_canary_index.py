"""The index of canaries: on the real Elasticsearch, and on a server that refuses them; mail never waits for one."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from mailspan.canary import CANARY_NAME, LONGEST_INPUT, Canary, encode_canary, find_canary
from mailspan.settings import Settings
from sink.canary_index import CANARY_DAYS, CanaryIndex, canary_mapping, canary_prefix, identity_of
from sink.elasticsearch import Server
from sink.elasticsearch_settings import connection_of
from sink.index_template import Wanted, template
from sink.indices import day_of, index_of
from tests.jars import free_port
from tests.running import mailspan_here
from tests.scripted_http import Asked, Reply, scripted_http

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.elasticsearch_server import Node

NOW = 1_795_500_000.25
DAY_MS = 86_400_000


def canary(ago_ms: int = 0, producer: str = "mx1.example.com") -> Canary:
    return Canary(int(NOW * 1000) - ago_ms, producer, "tail")


def made(url: str, said: list[str], prefix: str = "mail") -> tuple[Server, CanaryIndex]:
    server = Server(connection_of(Settings(elasticsearch_url=url)))
    return server, CanaryIndex(server, prefix, epoch=lambda: NOW, report=said.append)


def test_no_name_is_that_of_an_index_of_mails() -> None:
    """Of no prefix that can be set: in none is a dot, and patterns and daily names go on with a dash."""
    for prefix in ("mail-transactions", "mail", "canary", "canary-mail", "c"):
        name = index_of(canary_prefix(prefix), "2026-11-23T00:00:00.000Z")
        for other in ("mail-transactions", "mail", "canary", "canary-mail", "c"):
            assert not name.startswith(f"{other}-")
            assert day_of(other, name) is None
        assert day_of(canary_prefix(prefix), name) is not None


def test_the_template_says_how_long_and_what() -> None:
    made_of = template("canary.mail", Wanted(), canary_mapping(has_wildcard=False))
    assert made_of["template"]["mappings"]["properties"].keys() == {"producer", "input", "partition", "sent", "written"}
    assert made_of["template"]["settings"]["index"]["lifecycle"]["name"] == "canary.mail"


# -- servers that take none ----------------------------------------------------------------------------------------


def good_template() -> Reply:
    return 200, {"index_templates": [{"index_template": template("canary.mail", Wanted(), canary_mapping())}]}


def items(status: int, error: object) -> Reply:
    found = {"_index": "canary.mail-2026.11.24", "_id": "mx1.example.com/tail/3", "status": status, "error": error}
    return 200, {"errors": True, "items": [{"index": found}]}


REFUSALS: dict[str, tuple[Reply, Reply, str]] = {
    "no template": ((404, {"error": "no"}), None, "canaries: there is no index template; run `mailspan setup`"),
    "no right to see it": ((403, {"error": {"type": "security_exception", "reason": "no"}}), None, "gives no right"),
    "the key is refused": (good_template(), (401, {"error": {"reason": "expired"}}), "refuses the credentials"),
    "no right to write": (good_template(), items(403, {"type": "security_exception", "reason": "nay"}), "nay"),
    "a mapping refuses it": (good_template(), items(400, {"type": "mapper_parsing_exception", "reason": "nay"}), "nay"),
    "it has too much to do": (good_template(), (429, {"error": {"reason": "busy"}}), "busy"),
    "an answer to another question": (good_template(), (200, {"items": []}), "not about what was sent"),
    "no JSON": (good_template(), (200, "<html>"), "speaks no JSON"),
    "a template that is none": ((200, {"index_templates": []}), None, "there is no index template"),
    "no answer about templates": ((200, {}), None, "speaks no JSON"),
    "the line is cut": (good_template(), None, "no Elasticsearch answers"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_not_taken_is_dropped_and_told_once(name: str) -> None:
    of_template, of_bulk, told = REFUSALS[name]
    said: list[str] = []

    def reply(asked: Asked) -> Reply:
        return of_template if asked.path.startswith("/_index_template") else of_bulk

    with scripted_http(reply) as url:
        server, index = made(url, said)
        with server:
            assert index.write([(3, canary())]) == [False]
            assert index.write([(3, canary())]) == [False]
    assert index.dropped == 2
    (line,) = said
    assert line.startswith("a canary is not indexed (")
    assert told in line
    index.tell(time.monotonic() + 61)
    assert len(said) == 2


def test_the_template_is_looked_at_again_once_nobody_answered() -> None:
    """An empty server may have come in the place of the one before: it would make an index of its own choice."""
    said: list[str] = []
    asked: list[str] = []

    def reply(request: Asked) -> Reply:
        asked.append(request.path)
        return good_template() if request.method == "GET" else None

    with scripted_http(reply) as url:
        server, index = made(url, said)
        with server:
            for _ in range(2):
                assert index.write([(3, canary())]) == [False]
    assert sum(path.startswith("/_index_template/") for path in asked) == 2


def test_a_hung_index_of_canaries_has_a_small_share_of_the_time_of_mail() -> None:
    """It answers nothing for as long as it may; there are canaries in each batch, and each batch would wait."""
    said: list[str] = []
    now, waited = 1000.0, 0.0

    def reply(request: Asked) -> Reply:
        nonlocal now, waited
        if request.method == "GET":
            return good_template()
        now, waited = now + 5, waited + 5
        return None

    with scripted_http(reply) as url, Server(connection_of(Settings(elasticsearch_url=url))) as server:
        index = CanaryIndex(server, "mail", epoch=lambda: NOW, report=said.append, steady=lambda: now)
        begun = now
        for _ in range(200):
            assert index.write([(3, canary())]) == [False]
            now += 1
        assert 5 < waited <= (now - begun) / 10 + 5
    assert index.dropped == 200


def test_no_id_is_longer_than_elasticsearch_takes() -> None:
    """It refuses the whole request for one id of more than 512 bytes: one forged canary would drop those beside it."""
    widest = Canary(1, "\N{GRINNING FACE}" * 100, "\N{GRINNING FACE}" * 100)
    for name in (widest, Canary(1, widest.producer, widest.input[:LONGEST_INPUT])):
        found = find_canary([(CANARY_NAME, encode_canary(name))])
        assert found is None or len(identity_of(found, (1 << 31) - 1).encode()) <= 512
    assert found is not None


def test_nobody_there() -> None:
    said: list[str] = []
    server, index = made(f"http://127.0.0.1:{free_port()}", said)
    with server:
        assert index.write([]) == []
        assert index.write([(3, canary()), (4, canary())]) == [False, False]
    assert (index.dropped, len(said)) == (2, 1)


def test_days_that_are_not_kept_are_not_asked_for() -> None:
    """Neither old ones, which would come back, nor those of a clock that is wrong: each day is an index."""
    said: list[str] = []
    asked: list[Asked] = []

    def reply(request: Asked) -> Reply:
        asked.append(request)
        return 500, ""

    with scripted_http(reply) as url:
        server, index = made(url, said)
        with server:
            assert index.write([(0, canary(CANARY_DAYS * DAY_MS)), (1, canary(-9 * DAY_MS))]) == [False, False]
    assert (asked, index.dropped) == ([], 2)
    assert "which is not kept; see the clock of mx1.example.com/tail/0" in said[0]


# -- the real one --------------------------------------------------------------------------------------------------


@pytest.fixture
def place(node: Node, capsys: pytest.CaptureFixture[str]) -> Iterator[tuple[Node, str, dict[str, str]]]:
    settings = {"ELASTICSEARCH_URL": node.url, "INDEX_PREFIX": "sung", "INDEX_REPLICAS": "0"}
    done = mailspan_here(capsys, "setup", settings=settings)
    assert done.status == 0, done.errors
    assert "template canary.sung: created" in done.output or "template canary.sung: as it should be" in done.output
    assert done.output.count("lifecycle: this server has none") == 1
    yield node, "sung", settings
    for name in ("sung-*", "canary.sung-*"):
        node.ask("DELETE", f"/{name}")


def found(node: Node, names: str) -> list[Any]:
    node.ask("POST", f"/{names}/_refresh")
    _, answer = node.ask("POST", f"/{names}/_search", {"version": True})
    assert isinstance(answer, dict)
    hits: list[Any] = answer["hits"]["hits"]
    return hits


@pytest.mark.slow
def test_the_newest_of_each_is_kept_where_no_search_of_mails_sees_it(
    place: tuple[Node, str, dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    node, prefix, settings = place
    said: list[str] = []
    server, index = made(node.url, said, prefix)
    with server:
        assert (
            index.write([(3, canary(500)), (3, canary(900)), (4, canary()), (3, canary(producer="mx2"))]) == [True] * 4
        )
        assert index.write([(3, canary(700))]) == [True]
    assert (said, index.dropped) == ([], 0)
    by_id = {hit["_id"]: hit for hit in found(node, "canary.sung-*")}
    assert by_id.keys() == {"mx1.example.com/tail/3", "mx1.example.com/tail/4", "mx2/tail/3"}
    newest = by_id["mx1.example.com/tail/3"]
    assert newest["_source"] == {
        "producer": "mx1.example.com",
        "input": "tail",
        "partition": 3,
        "sent": "2026-11-24T05:59:59.750Z",
        "written": "2026-11-24T06:00:00.250Z",
    }
    assert newest["_index"] == "canary.sung-2026.11.24"
    assert newest["_version"] == canary(500).sent_ms
    assert found(node, "sung-*") == []
    search = mailspan_here(capsys, "search", "--store", node.url, "--json", settings=settings)
    assert (search.status, search.output) == (1, "")


def test_without_rights_on_canaries_mail_still_has_its_retention(capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[str] = []

    def reply(request: Asked) -> Reply:
        asked.append(f"{request.method} {request.path}")
        if request.path == "/":
            return 200, {"version": {"number": "8.19.3"}}
        if request.path.startswith("/_resolve/index/canary."):
            return 403, {"error": {"type": "security_exception", "reason": "unauthorized"}}
        if request.path.startswith("/_resolve/index/"):
            return 200, {"indices": [{"name": "mail-transactions-2001.02.03", "attributes": ["open"]}]}
        return 200, {"count": 7, "_shards": {"failed": 0}}

    with scripted_http(reply) as url:
        done = mailspan_here(capsys, "retention", "--store", url)
    assert done.status == 3
    assert any(each.startswith("DELETE /mail-transactions-2001.02.03") for each in asked)
    assert "deleted 1 indices of 7 documents" in done.output
    (line,) = done.errors.splitlines()
    assert line.startswith("mailspan: mail is done, its canaries are not: Elasticsearch at ")
    assert "gives no right to list indices" in line


@pytest.mark.slow
def test_retention_deletes_old_days_of_canaries_and_no_mail(
    place: tuple[Node, str, dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    node, _, settings = place
    today = datetime.now(UTC)
    names = {days: f"{(today - timedelta(days=days)):%Y.%m.%d}" for days in (0, CANARY_DAYS - 1, CANARY_DAYS)}
    for name in names.values():
        for of in ("canary.sung", "sung"):
            assert node.ask("PUT", f"/{of}-{name}")[0] == 200
    command = ("retention", "--days", "90", "--store", node.url)
    would = mailspan_here(capsys, *command, "--dry-run", settings=settings)
    assert "would delete 1 indices of canaries before" in would.output
    done = mailspan_here(capsys, *command, settings=settings)
    assert (done.status, "deleted 1 indices of canaries before" in done.output) == (0, True)
    _, left = node.ask("GET", "/_resolve/index/*sung-*")
    assert isinstance(left, dict)
    kept = {f"canary.sung-{name}" for days, name in names.items() if days < CANARY_DAYS}
    assert {each["name"] for each in left["indices"]} == kept | {f"sung-{name}" for name in names.values()}
    again = mailspan_here(capsys, *command, settings=settings)
    assert "canaries" not in again.output
