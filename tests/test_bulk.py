"""Writing into Elasticsearch: what each answer means, on a server that answers by a script, and on a real node."""

from __future__ import annotations

import time
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson
import pytest

from mailspan.errors import StoreError
from mailspan.metrics import Distribution, check
from mailspan.settings import Settings
from sink.bulk import (
    BATCH_ITEMS,
    Item,
    Verdict,
    batches,
    body_of,
    newest_of_each,
    outcomes_of,
    pause_seconds,
    verdict_of,
)
from sink.daily_indices import DailyIndices
from sink.elasticsearch import NoAnswerError, Server
from sink.elasticsearch_reader import ElasticsearchReader
from sink.elasticsearch_settings import connection_of
from sink.elasticsearch_writer import ElasticsearchWriter
from sink.figures import STATUSES, class_of
from sink.index_template import VERSION, Wanted, template
from sink.indices import last_taken_day
from sink.store import Selection, Term
from tests.running import mailspan
from tests.scripted_http import Asked, Reply, scripted_http
from tests.search_documents import document

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.elasticsearch_server import Node

ROOT = Path(__file__).parent.parent
LOGS = [str(ROOT / "tests" / "corpus" / name) for name in ("edge1.mail.log", "osm.mail.log", "store.exim-mainlog")]
EVER = date(1990, 1, 1)
ITEMS = [Item("mail-2026.11.23", f"mx1/{number}", 65536, b'{"a":1}') for number in range(3)]


def answer(*statuses: int | dict[str, Any], ids: tuple[str, ...] = (), errors: bool = True) -> dict[str, Any]:
    items = []
    for number, status in enumerate(statuses):
        details = status if isinstance(status, dict) else {"status": status}
        items.append({"index": {"_id": ids[number] if ids else f"mx1/{number}", **details}})
    return {"errors": errors, "items": items}


@pytest.mark.parametrize(
    ("status", "kind", "expected"),
    [
        (200, "", Verdict.INDEXED),
        (201, "", Verdict.INDEXED),
        (409, "version_conflict_engine_exception", Verdict.SUPERSEDED),
        (429, "es_rejected_execution_exception", Verdict.RETRY),
        (429, "cluster_block_exception", Verdict.RETRY),
        (403, "cluster_block_exception", Verdict.RETRY),
        (503, "unavailable_shards_exception", Verdict.RETRY),
        (400, "validation_exception", Verdict.RETRY),
        (502, "", Verdict.RETRY),
        (504, "", Verdict.RETRY),
        (418, "", Verdict.RETRY),
        (400, "mapper_parsing_exception", Verdict.REFUSED),
        (400, "index_closed_exception", Verdict.HALT),
        (401, "security_exception", Verdict.HALT),
        (403, "security_exception", Verdict.HALT),
        (404, "index_not_found_exception", Verdict.HALT),
        (413, "", Verdict.TOO_LARGE),
    ],
)
def test_what_an_answer_means(status: int, kind: str, expected: Verdict) -> None:
    assert verdict_of(status, kind) is expected


def test_each_item_is_read() -> None:
    found = outcomes_of(
        ITEMS, answer(201, {"status": 429, "error": {"type": "x", "reason": "busy"}}, 409, errors=False)
    )
    assert [each.verdict for each in found] == [Verdict.INDEXED, Verdict.RETRY, Verdict.SUPERSEDED]
    assert found[1].reason == "busy"
    stored = answer(201, {"status": 201, "failure_store": "used"}, {"status": 201, "failure_store": "not_enabled"})
    assert [each.verdict for each in outcomes_of(ITEMS, stored)] == [Verdict.INDEXED, Verdict.REFUSED, Verdict.INDEXED]


def test_a_deletion_is_settled_by_what_is_gone_or_newer() -> None:
    items = [item._replace(body=None) for item in ITEMS]
    assert [orjson.loads(line) for line in body_of(items[:1]).splitlines()] == [
        {
            "delete": {
                "_index": "mail-2026.11.23", "_id": "mx1/0", "version": 65536, "version_type": "external_gte",
            }
        }
    ]  # fmt: skip
    found = {
        "items": [{"delete": {"_id": item.id, "status": n}} for item, n in zip(items, (200, 404, 409), strict=True)]
    }
    expected = [Verdict.INDEXED, Verdict.SUPERSEDED, Verdict.SUPERSEDED]
    assert [each.verdict for each in outcomes_of(items, found)] == expected
    assert {each.verdict for each in outcomes_of(ITEMS, found)} == {Verdict.RETRY}


@pytest.mark.parametrize(
    "found",
    [
        None, "text", [], {}, {"items": 5}, answer(201, 201), answer(201, 201, 201, 201),
        {"items": [None, 5, {"create": {"_id": "mx1/2", "status": 201}}]},
        answer(201, 201, 201, ids=("mx1/2", "mx1/0", "mx1/1")),
        answer({"status": "201"}, {"status": None}, {}),
    ],
)  # fmt: skip
def test_an_answer_about_something_else_settles_nothing(found: object) -> None:
    assert {each.verdict for each in outcomes_of(ITEMS, found)} == {Verdict.RETRY}


def test_the_newest_version_goes_once() -> None:
    items = [Item("a", "x", version, b"%d" % version) for version in (2, 5, 3)]
    assert newest_of_each([*items, ITEMS[0]]) == [items[1], ITEMS[0]]


def test_hostile_ids_do_no_harm() -> None:
    item = Item("mail-2026.11.23", 'x"\n{"delete":{"_id":"y"}}\r\n', 1, b"{}")
    lines = body_of([item]).split(b"\n")
    assert len(lines) == 3
    assert orjson.loads(lines[0])["index"]["_id"] == item.id


def test_batches_keep_their_bounds() -> None:
    items = [Item("a", str(number), 1, b"x" * size) for number, size in enumerate((10, 10, 30, 5, 5, 5))]
    assert [[each.id for each in batch] for batch in batches(items, 3, 20)] == [["0", "1"], ["2"], ["3", "4", "5"]]
    assert list(batches([])) == []


def test_pauses_grow_to_a_limit() -> None:
    assert [pause_seconds(attempt, 1.0) for attempt in (0, 1, 2, 9, 10_000)] == [0.5, 1.0, 2.0, 30.0, 30.0]
    assert pause_seconds(5, 0.0) == 0.0


@contextmanager
def scripted(*steps: Reply, searching: tuple[Reply, ...] = ()) -> Iterator[tuple[Server, list[list[str]]]]:
    """Run a server that has our template and answers to _bulk by the script; yields it and the ids it was sent.

    What is asked but _bulk is answered by `searching`, then with no documents.
    """
    seen: list[list[str]] = []
    searches = list(searching)
    left = list(steps)

    def reply(asked: Asked) -> Reply:
        if asked.method == "GET":
            return 200, {"index_templates": [{"index_template": template("mail", Wanted())}]}
        if not asked.path.startswith("/_bulk"):
            return searches.pop(0) if searches else (200, {"hits": {"hits": []}})
        every = (each for line in asked.body.splitlines() for each in orjson.loads(line).items())
        actions = [(name, each["_id"]) for name, each in every if name in {"index", "delete"}]
        seen.append([id_ for _, id_ in actions])
        return left.pop(0) if left else (200, {"items": [{name: {"_id": id_, "status": 200}} for name, id_ in actions]})

    with scripted_http(reply) as url, Server(connection_of(Settings(elasticsearch_url=url))) as server:
        yield server, seen


def writer_on(server: Server, *, patience: float = 60.0) -> ElasticsearchWriter:
    return ElasticsearchWriter(server, "mail", EVER, patience_seconds=patience, wait=lambda _seconds, _reason: None)


MAILS = [document(queue_id=f"4D{number}") for number in range(4)]
IDS = tuple(each["id"] for each in MAILS)
BUSY = {"status": 429, "error": {"type": "es_rejected_execution_exception", "reason": "busy"}}
BAD = {"status": 400, "error": {"type": "mapper_parsing_exception", "reason": "failed to parse"}}


def test_only_what_is_not_settled_is_sent_again() -> None:
    with scripted((200, answer(201, BUSY, 409, BUSY, ids=IDS)), (200, answer(BUSY, 201, ids=(IDS[1], IDS[3])))) as (
        server,
        seen,
    ):
        found = writer_on(server).write(MAILS)
        assert (found.indexed, found.superseded, found.expired) == (3, 1, 0)
        assert seen == [list(IDS), [IDS[1], IDS[3]], [IDS[1]]]


def shown_by(writer: ElasticsearchWriter) -> dict[str, float]:
    """Return the figures of a writer's bulk requests by name and label; of the histogram how many there were."""
    return {
        " ".join((check(each).name.removeprefix("mailspan_sink_"), *each.labels)): each.value.cumulative[-1]
        if isinstance(each.value, Distribution)
        else each.value or 0.0
        for each in writer.figures()
    }


def test_each_bulk_request_is_counted_by_how_it_ended() -> None:
    steps: tuple[Reply, ...] = ((503, "<html>"), (429, {}), (413, {}), (200, answer(201, BUSY, ids=IDS[:2])))
    with scripted(*steps) as (server, seen):
        writer = writer_on(server)
        writer.write(MAILS)
        found = shown_by(writer)
    classes = {name.partition(" ")[2]: count for name, count in found.items() if name.startswith("bulk_requests_total")}
    assert classes == {"2xx": len(seen) - 3, "401": 0, "403": 0, "413": 1, "429": 1, "4xx": 0, "5xx": 1, "none": 0}
    assert found["bulk_seconds"] == len(seen)
    assert found["retries_total"] == 4 + 4 + 4 + 1
    assert found["bulk_bytes_total"] > sum(len(orjson.dumps(each)) for each in MAILS) * 3
    assert 0 < found["bulk_items"] <= BATCH_ITEMS


def test_a_bulk_request_that_halts_all_or_that_nobody_answers_is_counted() -> None:
    with scripted((401, {"error": {"type": "security_exception", "reason": "no"}})) as (server, _):
        writer = writer_on(server)
        with pytest.raises(StoreError):
            writer.write(MAILS)
        assert shown_by(writer)["bulk_requests_total 401"] == 1
    with scripted(None) as (server, _):  # it hangs up
        writer = writer_on(server)
        writer.write(MAILS)
        found = shown_by(writer)
    assert (found["bulk_requests_total none"], found["bulk_requests_total 2xx"]) == (1, 1)
    assert (found["bulk_seconds"], found["retries_total"]) == (2, len(MAILS))


@pytest.mark.parametrize("status", [None, 0, 100, 200, 302, 401, 404, 413, 429, 499, 503, 599, 999])
def test_classes_of_answers_are_a_closed_set(status: int | None) -> None:
    assert class_of(status) in STATUSES
    assert (class_of(404), class_of(503), class_of(None), class_of(302)) == ("4xx", "5xx", "none", "none")


@pytest.mark.parametrize(
    "step", [None, (503, "<html>"), (429, {}), (200, {"items": []}), (200, "no"), (502, {"error": "x"})]
)
def test_a_request_that_failed_is_sent_again(step: Reply) -> None:
    with scripted(step) as (server, seen):
        found = writer_on(server).write(MAILS)
        assert (found.indexed, found.superseded) == (4, 0)
        assert seen == [list(IDS), list(IDS)]


def test_one_that_is_too_large_is_halved_to_the_last_document() -> None:
    with scripted((413, {}), (413, {}), (413, {})) as (server, seen):
        writer = writer_on(server)
        assert writer.write(MAILS).indexed == 3
        assert seen == [list(IDS), list(IDS[:2]), [IDS[0]], [IDS[1]], list(IDS[2:])]
        assert [id_ for id_, _ in writer.refused] == [IDS[0]]


def test_a_refused_document_is_told_and_the_others_go_on() -> None:
    with scripted((200, answer(201, BAD, 201, 201, ids=IDS, errors=False))) as (server, seen):
        writer = writer_on(server)
        assert writer.write(MAILS).indexed == 3
        assert writer.refused == [(IDS[1], "failed to parse")]
        assert len(seen) == 1


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ((401, {"error": {"type": "security_exception", "reason": "no"}}), "refuses the credentials"),
        ((403, {"error": {"type": "security_exception", "reason": "no"}}), "gives no right to write"),
        ((200, answer(201, {"status": 403, "error": {"type": "security_exception", "reason": "no"}}, 201, 201, ids=IDS)),
         "takes no documents: no"),
        ((200, answer(201, {"status": 404, "error": {"type": "index_not_found_exception", "reason": "gone"}}, 201, 201,
                      ids=IDS)), "takes no documents: gone"),
        ((400, {"error": {"type": "illegal_argument_exception", "reason": "what?"}}), "what?"),
    ],
)  # fmt: skip
def test_what_somebody_must_mend_ends_the_writing(step: Reply, said: str) -> None:
    with scripted(step) as (server, seen):
        with pytest.raises(StoreError) as caught:
            writer_on(server).write(MAILS)
        assert said in str(caught.value)
        assert len(seen) == 1


def test_a_refusal_of_all_is_the_mapping() -> None:
    mails = [document(queue_id=f"5E{number}") for number in range(30)]
    ids = tuple(each["id"] for each in mails)
    with scripted((200, answer(*[BAD] * 30, ids=ids))) as (server, _), pytest.raises(StoreError, match="refuses all"):
        writer_on(server).write(mails)


def test_patience_ends_with_the_reason() -> None:
    with scripted(*[(429, {"error": {"reason": "busy"}})] * 5) as (server, seen):
        with pytest.raises(StoreError, match="busy"):
            writer_on(server, patience=0.0).write(MAILS)
        assert len(seen) == 1


def test_the_credentials_may_be_taken_away_on_the_way() -> None:
    no = {"error": {"type": "security_exception", "reason": "no"}}
    with scripted((200, answer(201, BUSY, 201, BUSY, ids=IDS)), (401, no)) as (server, seen):
        with pytest.raises(StoreError, match="refuses the credentials"):
            writer_on(server).write(MAILS)
        assert len(seen) == 2


def test_each_document_has_an_outcome_in_its_place() -> None:
    old = {**MAILS[0], "date": "1989-12-31T23:59:59.999Z", "id": "mx1.example.com/old"}
    older = {**MAILS[1], "version": MAILS[1]["version"] - 1}
    with scripted((200, answer(201, 409, BAD, 201, ids=(IDS[1], IDS[0], IDS[2], IDS[3])))) as (server, _):
        found = writer_on(server).settle([older, old, MAILS[1], MAILS[0], MAILS[2], MAILS[3]])
    assert [each.verdict for each in found] == [
        Verdict.SUPERSEDED, Verdict.EXPIRED, Verdict.INDEXED, Verdict.SUPERSEDED, Verdict.REFUSED, Verdict.INDEXED,
    ]  # fmt: skip
    assert found[4].reason == "failed to parse"


def test_days_far_ahead_are_refused_and_not_sent() -> None:
    last = last_taken_day(date(2026, 11, 25))
    assert last == date(2026, 12, 2)
    assert last_taken_day(date.max) == date.max
    at_last, after, far = (
        {**MAILS[0], "id": f"mx/{day}", "date": f"{day}T23:59:59.999Z"}
        for day in ("2026-12-02", "2026-12-03", "9999-12-31")
    )
    with scripted() as (server, seen):
        writer = ElasticsearchWriter(server, "mail", EVER, last_taken=last, patience_seconds=0.0)
        found = writer.settle([after, at_last, far])
        assert seen == [["mx/2026-12-02"]]
    assert [each.verdict for each in found] == [Verdict.REFUSED, Verdict.INDEXED, Verdict.REFUSED]
    said = "its date, 2026-12-03T23:59:59.999Z, is after 2026-12-02, the last day that is written now"
    assert found[0].reason == f"{said}; see the clock of mx1.example.com"


def test_what_is_stopped_tells_what_was_not_settled() -> None:
    with scripted((200, answer(201, BUSY, 201, BUSY, ids=IDS)), (200, answer(BUSY, BUSY, ids=(IDS[1], IDS[3])))) as (
        server,
        seen,
    ):
        older = {**MAILS[1], "version": MAILS[1]["version"] - 1}
        found = writer_on(server).settle([*MAILS, older], stop=lambda: len(seen) == 2)
    taken, not_settled = Verdict.INDEXED, Verdict.RETRY
    assert [each.verdict for each in found] == [taken, not_settled, taken, not_settled, not_settled]
    with scripted() as (server, seen):
        assert {each.verdict for each in writer_on(server).settle(MAILS, stop=lambda: True)} == {Verdict.RETRY}
        assert writer_on(server).withdraw(IDS, stop=lambda: True) is False
        assert seen == []


BUSY_ALL = (429, {"error": {"type": "circuit_breaking_exception", "reason": "full"}})


@pytest.mark.parametrize("search", [None, BUSY_ALL, (503, "<html>"), (200, "no"), (200, {"hits": 1})])
def test_to_look_for_fragments_is_tried_again(search: Reply) -> None:
    with scripted(searching=(search, search)) as (server, seen):
        assert writer_on(server).write(MAILS).indexed == 4
        assert seen == [list(IDS)]
    with scripted(searching=(search, search)) as (server, seen):
        with pytest.raises(StoreError):
            writer_on(server, patience=0.0).write(MAILS)
        assert seen == []


WHOLE = document(queue_id="4D1", id="mx1.example.com/4D1", version=5 * 65536, **{"from": "alice@example.com"})
PART = {**WHOLE, "id": "mx1.example.com/4D1~0123456789abcdef", "version": 65536, "fragment": True, "from": None}


def test_a_fragment_goes_in_where_the_document_that_says_it_all_is_refused() -> None:
    stored = {"hits": {"hits": [{"_index": "mail-2026.11.23", "_id": PART["id"], "_source": PART}]}}
    bad = (200, answer(BAD, ids=(WHOLE["id"],)))
    with scripted(bad, searching=((200, stored),)) as (server, seen):
        found = writer_on(server, patience=0.0).settle([WHOLE, PART])
        assert [each.verdict for each in found] == [Verdict.REFUSED, Verdict.INDEXED]
        assert seen == [[WHOLE["id"]], [PART["id"]]]  # and no deletion


def test_a_deletion_is_for_certain_or_an_error() -> None:
    found = {"hits": {"hits": [{"_index": "mail-2026.11.23", "_id": PART["id"], "_version": 1}]}}
    incomplete = {"hits": {"hits": []}, "_shards": {"failed": 1}}
    done = (200, {"items": [{"delete": {"_id": PART["id"], "status": 200}}]})
    with scripted(done, searching=((200, {}), (200, incomplete), (200, found))) as (server, seen):
        assert writer_on(server).withdraw([PART["id"]])
        assert seen == [[PART["id"]]]
    refused = (200, {"items": [{"delete": {"_id": PART["id"], **BAD}}]})
    with scripted(refused, searching=((200, {}), (200, found))) as (server, _):
        writer = writer_on(server)
        with pytest.raises(StoreError, match="does not delete"):
            writer.withdraw([PART["id"]])


def test_a_stored_document_of_fewer_fields_is_compared_all_the_same() -> None:
    older = {name: value for name, value in PART.items() if name not in {"page", "page_count", "tls", "links"}}
    found = {"hits": {"hits": [{"_index": "mail-2026.11.23", "_id": PART["id"], "_source": older}]}}
    with scripted(searching=((200, found),)) as (server, seen):
        assert writer_on(server).write([MAILS[0]]).indexed == 1
        assert seen[0] == [MAILS[0]["id"]]


def test_a_document_of_several_lines_is_one_line_of_the_request() -> None:
    hostile = orjson.dumps({**MAILS[0], "zz": [0]}).replace(b"[0]", b'[\n{"delete":{"_index":"other","_id":"1"}}\n,1]')
    pretty = orjson.dumps(MAILS[1], option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    with scripted() as (server, seen):
        found = writer_on(server).settle(MAILS[:2], [hostile, pretty])
    assert [each.verdict for each in found] == [Verdict.INDEXED] * 2
    assert seen == [[each["id"] for each in MAILS[:2]]]


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_server_that_cannot_answer_now_is_none_that_refuses(status: int) -> None:
    with (
        scripted_http(lambda _asked: (status, {"error": "not now"})) as url,
        Server(connection_of(Settings(elasticsearch_url=url))) as server,
        pytest.raises(NoAnswerError, match="not now"),
    ):
        writer_on(server)


@pytest.mark.parametrize("cut", ["/_bulk", "/mail-"])
def test_the_template_is_looked_at_again_once_the_server_was_away(cut: str) -> None:
    """An empty server came in its place: without the template it would make an index with a mapping of its own."""
    is_gone = False
    bulks = 0

    def reply(asked: Asked) -> Reply:
        nonlocal is_gone, bulks
        if bulks and not is_gone and asked.path.startswith(cut):
            is_gone = True
            return None
        if asked.method == "GET":
            found = {"index_templates": [{"index_template": template("mail", Wanted())}]}
            return (404, {}) if is_gone else (200, found)
        if not asked.path.startswith("/_bulk"):
            return 200, {"hits": {"hits": []}}
        bulks += 1
        return 200, {"items": [{"index": {"_id": MAILS[bulks - 1]["id"], "status": 201}}]}

    with scripted_http(reply) as url, Server(connection_of(Settings(elasticsearch_url=url))) as server:
        writer = writer_on(server)
        assert writer.write(MAILS[:1]).indexed == 1
        with pytest.raises(StoreError, match="there is no index template; run `mailspan setup`"):
            writer.write(MAILS[1:2])
    assert bulks == 1


# From here on with a real node.


@contextmanager
def real(
    node: Node, prefix: str, first_kept: date = EVER
) -> Iterator[tuple[ElasticsearchWriter, Callable[[], list[Any]]]]:
    """Yield a writer with its template, and what returns all documents."""
    with Server(connection_of(Settings(elasticsearch_url=node.url))) as server:
        list(DailyIndices(server, prefix).set_up(Wanted(replicas=0), is_dry_run=False))
        writer = ElasticsearchWriter(server, prefix, first_kept, patience_seconds=30.0)

        def stored() -> list[Any]:
            assert node.ask("POST", f"/{prefix}-*/_refresh")[0] == 200
            return [orjson.loads(each) for each in ElasticsearchReader(server, prefix).newest(Selection(()), 1000)]

        yield writer, stored


def foreign(node: Node, index: str, found: dict[str, Any]) -> str:
    """Put a document into an index that is none of ours, mapped as ours are; return its path."""
    mapped = {**{name: {"type": "keyword"} for name in ("id", "host", "queue_id")}, "fragment": {"type": "boolean"}}
    assert node.ask("PUT", f"/{index}", {"mappings": {"dynamic": False, "properties": mapped}})[0] == 200
    path = f"/{index}/_doc/{quote(found['id'], safe='')}"
    assert node.ask("PUT", f"{path}?refresh=true", found)[0] == 201
    return path


@pytest.mark.slow
def test_without_a_template_nothing_is_written(node: Node) -> None:
    with Server(connection_of(Settings(elasticsearch_url=node.url))) as server:
        with pytest.raises(StoreError, match="there is no index template; run `mailspan setup`"):
            ElasticsearchWriter(server, "untold", EVER, patience_seconds=1.0)
        older = {
            **template("untold", Wanted(has_lifecycle=False, has_wildcard=False)),
            "_meta": {"mailspan": {"version": 0}},
        }
        assert node.ask("PUT", "/_index_template/untold", older)[0] == 200
        with pytest.raises(StoreError, match="of version 0"):
            ElasticsearchWriter(server, "untold", EVER, patience_seconds=1.0)


@pytest.mark.slow
def test_fewer_lines_never_replace_more_and_old_days_stay_away(node: Node) -> None:
    with real(node, "versions", date(2026, 11, 20)) as (writer, stored):
        full = document(queue_id="4D1", version=3 * 65536 + 1, outcome="bounced")
        old = document(queue_id="4D2", date="2026-11-19T23:59:59.999Z")
        found = writer.write([full, old])
        assert (found.indexed, found.superseded, found.expired) == (1, 0, 1)
        lesser = {**full, "version": 2 * 65536 + 1, "outcome": "queued"}
        assert writer.write([lesser, full]).superseded == 2
        assert stored() == [full]
        newer = {**full, "version": 3 * 65536 + 2, "outcome": "relayed"}
        assert writer.write([lesser, newer, full]).indexed == 1
        assert stored() == [newer]
    assert node.ask("GET", "/versions-2026.11.19")[0] == 404


def of_version_1(value: dict[str, Any]) -> dict[str, Any]:
    """Return a template as version 1 had it: only addresses and codes might be malformed."""
    if value.get("type") in {"long", "float"}:
        return {"type": value["type"]}
    return {name: of_version_1(each) if isinstance(each, dict) else each for name, each in value.items()}


@pytest.mark.slow
def test_a_number_that_no_type_holds_costs_no_document(node: Node) -> None:
    attempt = {
        "recipient": "alice@example.com", "original_recipient": None, "relay": None, "relay_ip": None,
        "relay_port": 2**31, "status": "sent", "outcome": "relayed", "dsn": None, "code": 2**40,
        "date": "2026-11-23T12:00:00.000Z", "delay_seconds": 1e300, "delays": {"before_queue": 1e300},
    }  # fmt: skip
    absurd = [
        document(queue_id=f"4D{day}", date=f"2026-11-{day}T12:00:00.000Z", size=2**63, recipient_count=2**64 - 1,
                 to=[attempt])
        for day in (22, 23)
    ]  # fmt: skip
    older = of_version_1(template("numbers", Wanted(replicas=0, has_lifecycle=False, has_wildcard=False)))
    for each in (older, older["template"]["mappings"]):
        each["_meta"] = {"mailspan": {"version": 1, "digest": "0"}}
    assert node.ask("PUT", "/_index_template/numbers", older)[0] == 200
    status, refusal = node.ask("PUT", "/numbers-2026.11.22/_doc/1", absurd[0])
    assert (status, "supports only finite values" in str(refusal)) == (400, True)
    with Server(connection_of(Settings(elasticsearch_url=node.url))) as server:
        with pytest.raises(StoreError, match=f"of version 1, and {VERSION} is needed"):
            ElasticsearchWriter(server, "numbers", EVER, patience_seconds=0.0)
        said = list(DailyIndices(server, "numbers").set_up(Wanted(replicas=0), is_dry_run=False))
        assert said[-2:] == ["template numbers: updated", "index numbers-2026.11.22: mapping updated"]
    with real(node, "numbers") as (writer, stored):
        assert writer.write(absurd).indexed == 2
        assert stored() == absurd[::-1]
    with Server(connection_of(Settings(elasticsearch_url=node.url))) as server:
        to_alice = Selection(((Term("to-relayed:alice@example.com"),),))
        assert ElasticsearchReader(server, "numbers").count(to_alice) == 2


@pytest.mark.slow
def test_a_fragment_is_not_kept_beside_what_says_it_all(node: Node) -> None:
    whole = document(queue_id="4D1", id="mx1.example.com/4D1", version=5 * 65536, **{"from": "alice@example.com"})
    fragment = {**whole, "id": "mx1.example.com/4D1~0123456789abcdef", "version": 65536, "fragment": True, "from": None}
    other = {**fragment, "id": "mx1.example.com/4D1~00000000000000ff", "subject": "only here"}
    with real(node, "fragments") as (writer, stored):
        assert writer.write([fragment, whole]).indexed == 1  # in one batch
        assert stored() == [whole]
        assert writer.write([fragment]).superseded == 1  # after it
        assert writer.write([other]).indexed == 1
        assert {each["id"] for each in stored()} == {whole["id"], other["id"]}
    with real(node, "fragments-first") as (writer, stored):
        assert writer.write([fragment, other]).indexed == 2
        assert len(stored()) == 2
        assert writer.write([whole]).indexed == 1
        assert {each["id"] for each in stored()} == {whole["id"], other["id"]}
    # An index that is not ours may hold anything.
    with real(node, "resembling") as (writer, stored):
        path = foreign(node, "resembling-x-2026.11.23", fragment)
        assert writer.write([whole]).indexed == 1
        assert stored() == [whole]
    assert node.ask("GET", path)[0] == 200


@pytest.mark.slow
def test_the_newest_of_a_batch_is_what_a_fragment_is_compared_with(node: Node) -> None:
    lesser = {**WHOLE, "version": 2 * 65536, "from": None, "subject": None}
    part = {**PART, "version": 3 * 65536, "from": WHOLE["from"]}
    with real(node, "newest") as (writer, stored):
        assert [each.verdict for each in writer.settle([WHOLE, lesser, part])] == [
            Verdict.INDEXED, Verdict.SUPERSEDED, Verdict.SUPERSEDED,
        ]  # fmt: skip
        assert stored() == [WHOLE]


@pytest.mark.slow
def test_a_deletion_that_was_stopped_comes_again(node: Node) -> None:
    with real(node, "stopped") as (writer, stored):
        assert writer.write([PART]).indexed == 1
        assert stored() == [PART]
        asked = iter((False, False, True))  # the search, the document; and not the deletion
        assert [each.verdict for each in writer.settle([WHOLE], stop=lambda: next(asked))] == [Verdict.RETRY]
        assert len(stored()) == 2
        assert [each.verdict for each in writer.settle([WHOLE])] == [Verdict.SUPERSEDED]
        assert stored() == [WHOLE]


@pytest.mark.slow
def test_withdrawn_ids_are_deleted_with_their_pages_and_nothing_else(node: Node) -> None:
    gone = [
        {**PART, "date": f"2026-11-{day}T12:00:00.000Z", "id": id_, "page": page}
        for day, id_, page in ((22, PART["id"], 0), (23, f"{PART['id']}#1", 1), (23, f"{PART['id']}#2", 2))
    ]
    stay = [
        {**PART, "id": f"{PART['id']}0"},
        {**PART, "id": PART["id"].replace("D", "d"), "queue_id": "4d1"},
        WHOLE | {"id": "mx1.example.com/4D10", "queue_id": "4D10"},
    ]
    with real(node, "withdrawn") as (writer, stored):
        assert writer.write([*gone, *stay]).indexed == 6
        alike = foreign(node, "withdrawn-x-2026.11.23", PART)
        assert writer.withdraw([PART["id"], "mx1.example.com/never", 'x"*\n#'])  # within the second of its writing
        assert {each["id"] for each in stored()} == {each["id"] for each in stay}
        assert writer.withdraw([PART["id"]])
        assert writer.withdraw([])
    assert node.ask("GET", alike)[0] == 200
    with real(node, "nothing") as (writer, _):
        assert writer.withdraw([PART["id"]])
    assert node.ask("GET", "/nothing-2026.11.23")[0] == 404


@pytest.mark.slow
def test_more_than_one_answer_holds_is_withdrawn_to_the_last(node: Node) -> None:
    number = 10_050  # index.max_result_window is 10,000
    lines = (
        b'{"index":{"_index":"long-2026.11.23","_id":"%d","version":1,"version_type":"external"}}\n'
        b'{"id":"%s#%d","version":1}\n' % (page, PART["id"].encode(), page)
        for page in range(number)
    )
    with real(node, "long") as (writer, _):
        status, found = node.ask("POST", "/_bulk?refresh=true", b"".join(lines))
        assert isinstance(found, dict)
        assert (status, found["errors"]) == (200, False)
        assert writer.withdraw([PART["id"]])
        assert node.ask("POST", "/long-*/_refresh")[0] == 200
        _, left = node.ask("GET", "/long-*/_count")
        assert isinstance(left, dict)
        assert left["count"] == 0
        _, stats = node.ask("GET", "/long-*/_stats/search")
        assert isinstance(stats, dict)
        assert stats["_all"]["total"]["search"]["scroll_current"] == 0


def test_a_scroll_that_breaks_begins_again() -> None:
    hits = [{"_index": "mail-2026.11.23", "_id": str(at), "_version": 1} for at in range(1500)]
    full, rest, end = ((200, {"_scroll_id": "s", "hits": {"hits": each}}) for each in (hits[:1000], hits[1000:], []))
    forgotten = (404, {"error": {"type": "search_phase_execution_exception", "reason": "all shards failed"}})
    script: tuple[Reply, ...] = (
        (200, {}), full, full, forgotten, (200, {}), full, full, None, (200, {}), full, full, rest, end, (200, {}),
    )  # fmt: skip
    with scripted(searching=script) as (server, seen):
        assert writer_on(server).withdraw([PART["id"]])
        assert sorted(id_ for ids in seen for id_ in ids) == sorted(str(hit["_id"]) for hit in hits)


@pytest.mark.slow
def test_a_read_only_index_is_waited_for(node: Node) -> None:
    with real(node, "blocked") as (writer, stored):
        first, second = (document(queue_id=f"4D{number}") for number in (1, 2))
        writer.write([first])
        block = {"index.blocks.read_only_allow_delete": True}
        assert node.ask("PUT", "/blocked-2026.11.23/_settings", block)[0] == 200
        lift = {"index.blocks.read_only_allow_delete": None}
        Timer(1.0, lambda: node.ask("PUT", "/blocked-2026.11.23/_settings", lift)).start()
        begun = time.monotonic()
        assert writer.write([second]).indexed == 1
        assert time.monotonic() - begun > 0.5
        assert len(stored()) == 2


@pytest.mark.slow
def test_more_shards_than_the_cluster_may_have_are_waited_for(node: Node) -> None:
    def limit(shards: int | None) -> None:
        body = {"persistent": {"cluster.max_shards_per_node": shards}}
        assert node.ask("PUT", "/_cluster/settings", body)[0] == 200

    with real(node, "limited") as (writer, stored):
        first, second = (document(queue_id=f"4D{day}", date=f"2026-11-{day}T12:00:00.000Z") for day in (21, 22))
        assert writer.write([first]).indexed == 1
        limit(1)
        try:
            raised = Timer(1.0, lambda: limit(None))
            raised.start()
            begun = time.monotonic()
            found = writer.settle([second, {**first, "version": first["version"] + 1}])
            assert [each.verdict for each in found] == [Verdict.INDEXED, Verdict.INDEXED]
            assert time.monotonic() - begun > 0.5
            raised.join()
            limit(1)
            third = document(queue_id="4D23", date="2026-11-23T12:00:00.000Z")
            with (
                Server(connection_of(Settings(elasticsearch_url=node.url))) as server,
                pytest.raises(StoreError, match=r"maximum .*shards open.*limited-2026\.11\.23"),
            ):
                ElasticsearchWriter(server, "limited", EVER, patience_seconds=0.0).write([third])
        finally:
            limit(None)
        assert len(stored()) == 2


def parsed(*arguments: str) -> dict[str, Any]:
    found = [orjson.loads(line) for line in mailspan("parse", *arguments).stdout.splitlines()]
    return {each["id"]: each for each in found}


@pytest.mark.slow
def test_logs_go_straight_in_and_are_what_parse_says(node: Node) -> None:
    settings = {
        "ELASTICSEARCH_URL": node.url,
        "INDEX_PREFIX": "straight",
        "INDEX_REPLICAS": "0",
        "RETENTION_DAYS": "9999",
    }
    arguments = ("--log-host", "store", "--year", "2026", *LOGS)
    missing = mailspan("index", "--store", node.url, *arguments, settings=settings)
    assert (missing.returncode, missing.stdout) == (3, b"")
    assert missing.stderr.decode().splitlines() == [
        f"mailspan: Elasticsearch at {node.url}: there is no index template; run `mailspan setup`"
    ]
    assert mailspan("setup", settings=settings).returncode == 0
    expected = parsed(*arguments)
    done = mailspan("index", "--store", node.url, *arguments, settings=settings)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().startswith(f"indexed {len(expected)} documents from ")
    assert node.ask("POST", "/straight-*/_refresh")[0] == 200
    again = mailspan("index", "--store", node.url, *arguments, settings=settings)
    assert again.stdout.decode().startswith("indexed 0 documents from ")
    # Fewer lines of some mails.
    half = mailspan("index", "--store", node.url, "--year", "2026", LOGS[0], settings=settings)
    assert half.returncode == 0
    assert node.ask("POST", "/straight-*/_refresh")[0] == 200
    found = mailspan("search", "--store", node.url, "--probes", "-r", "100000", "--json", settings=settings)
    assert {each["id"]: each for each in map(orjson.loads, found.stdout.splitlines())} == expected
    follow = mailspan("index", "--follow", "--store", node.url, *arguments, settings=settings)
    assert (follow.returncode, "--follow" in follow.stderr.decode()) == (2, True)
    every = mailspan("index", "--store", node.url, LOGS[0], settings={**settings, "RETENTION_DAYS": "999999"})
    assert (every.returncode, every.stderr) == (0, b"")
    kept = mailspan("index", "--store", node.url, *arguments, settings={**settings, "RETENTION_DAYS": "1"})
    assert "are of days older than MAILSPAN_RETENTION_DAYS: left out" in kept.stderr.decode()


@pytest.mark.slow
def test_refusals_are_the_documents_own_where_the_mapping_is_ours(node: Node) -> None:
    mails = [document(queue_id=f"5F{number}") for number in range(30)]
    twice = [orjson.dumps(each)[:-1] + b',"id":"twice"}' for each in mails]
    with real(node, "twice") as (writer, stored):
        assert writer.write([MAILS[0]]).indexed == 1
        found = writer.settle(mails, twice)
        assert {each.verdict for each in found} == {Verdict.REFUSED}
        assert "Duplicate field 'id'" in found[0].reason
        assert [each["id"] for each in stored()] == [MAILS[0]["id"]]
