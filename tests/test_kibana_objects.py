"""What Kibana imports: the files are what the source makes, all that is named is there, and every panel has an answer."""

from __future__ import annotations

import re
from collections import Counter
from datetime import date
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from mailspan.settings import Settings
from sink.daily_indices import DailyIndices
from sink.elasticsearch import Server
from sink.elasticsearch_settings import connection_of
from sink.elasticsearch_writer import ElasticsearchWriter
from sink.index_template import Wanted, mapping
from sink.kibana_ndjson import saved_objects
from sink.kibana_objects import EXAMPLE, TIME_FIELD
from tests.kibana_checks import faults, field_types
from tests.kibana_files import FILE, PAGE, made_file, made_page
from tests.kql import KqlError, read
from tests.search_documents import FIRST, all_documents, attempt, document, stamp

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.elasticsearch_server import Node

    Document = dict[str, Any]

PREFIX = "mail-transactions"
INDEX_PREFIX = "seen-by-kibana"
"""Of the indices on the shared node."""
OBJECTS = saved_objects(PREFIX)
PANELS = {each["id"]: each for each in OBJECTS if each["type"] == "visualization"}
SEARCHES = {each["id"]: each for each in OBJECTS if each["type"] == "search"}


def test_the_files_are_what_the_source_makes() -> None:
    assert FILE.read_bytes() == made_file()
    assert PAGE.read_text(encoding="utf-8") == made_page()
    assert [orjson.loads(line) for line in made_file().splitlines()] == OBJECTS


@pytest.mark.parametrize("has_wildcard", [True, False])
def test_all_that_is_named_is_there(has_wildcard: bool) -> None:  # noqa: FBT001 - a parameter of the test
    assert faults(OBJECTS, mapping(has_wildcard=has_wildcard)) == []


def test_it_is_all_that_was_wanted() -> None:
    kinds = Counter(each["type"] for each in OBJECTS)
    assert (kinds["index-pattern"], kinds["search"], kinds["dashboard"]) == (1, 5, 3)
    shown = {reference["id"] for each in OBJECTS if each["type"] == "dashboard" for reference in each["references"]}
    assert set(PANELS) <= shown


def test_another_prefix_shares_nothing_with_the_first() -> None:
    other = saved_objects("mail2")
    assert not {each["id"] for each in other} & {each["id"] for each in OBJECTS}
    assert faults(other, mapping(has_wildcard=True)) == []
    assert b"mail-transactions" not in orjson.dumps(other)


PLANTED = {
    "a field that is none": ("deliveries: deferred", "deliverys: deferred", "query: deliverys is none"),
    "a nested field in a query": ("kind: rejection", "to.outcome: rejected", "query: to.outcome is nested keyword"),
    "a nested field in a panel": ('\\"field\\":\\"relays\\"', '\\"field\\":\\"to.relay\\"', "terms by to.relay"),
    "an object in a panel": ('\\"field\\":\\"relays\\"', '\\"field\\":\\"links\\"', "terms by links, which is object"),
    "a sum of words": ('\\"field\\":\\"size\\"', '\\"field\\":\\"host\\"', "sum by host, which is keyword"),
    "a column that is none": ('"attempt_count"', '"attempts"', "column attempts is None"),
    "an alias": ('"timeFieldName":"date"', '"timeFieldName":"@timestamp"', "timeFieldName @timestamp is no date"),
    "a data view that is not there": (
        '"id":"mail-transactions-data-view","name"',
        '"id":"mail-transactions","name"',
        "refers to index-pattern mail-transactions, which is not there",
    ),
    "a reference of a wrong type": (
        '"name":"12:panel_12","type":"search"',
        '"name":"12:panel_12","type":"visualization"',
        "12:panel_12 refers to visualization",
    ),
    "a reference too few": ('"name":"3:panel_3"', '"name":"33:panel_3"', "no reference 3:panel_3"),
    "a choice by a nested field": (
        '\\"fieldName\\":\\"host\\"',
        '\\"fieldName\\":\\"to.relay\\"',
        "a choice of to.relay",
    ),
    "a choice without a data view": ("controlGroup_host:", "controlGroup_hosts:", "no reference controlGroup_host:"),
    "no KQL": ("kind: rejection", "kind = rejection", "query: 'kind = rejection"),
    "a form of later": ('"typeMigrationVersion":"8.9.0"', '"typeMigrationVersion":"10.3.0"', "is newer than a Kibana"),
    "an attribute of later": ('"hideChart":false', '"tabs":[],"hideChart":false', "unknown attributes"),
    "a panel over another": ('\\"x\\":12', '\\"x\\":11', "lies over another"),
    "an order by nothing": ('\\"orderBy\\":\\"1\\"', '\\"orderBy\\":\\"9\\"', "orderBy names no aggregation"),
}
"""What is replaced in the file, by what, and the fault that must be told."""


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_fault_is_told(planted: str) -> None:
    old, new, told = PLANTED[planted]
    text = b"\n".join(orjson.dumps(each, option=orjson.OPT_SORT_KEYS) for each in OBJECTS).decode()
    assert old in text
    objects = [orjson.loads(line) for line in text.replace(old, new).splitlines()]
    assert any(told in fault for fault in faults(objects, mapping(has_wildcard=True)))


@pytest.mark.parametrize(
    "text",
    [
        "kind", "kind:", ": rejection", "kind: and", "kind: rejection page: 0", "(kind: rejection", "kind: rejection)",
        'from: "a', 'from: "a\\"b"', "size > 3", "kind: (a or b)", "not", "kind: rejection and", "Kind: x", "a: {b: c",
    ],
)  # fmt: skip
def test_what_is_not_of_our_part_of_kql_is_refused(text: str) -> None:
    with pytest.raises(KqlError):
        read(text)


def test_and_binds_more_than_or() -> None:
    one, two, three = (read(f"{name}: x").query for name in "abc")
    assert read("a: x or b: x and not c: x").query == {
        "bool": {
            "should": [one, {"bool": {"filter": [two, {"bool": {"must_not": [three]}}]}}],
            "minimum_should_match": 1,
        }
    }


# What each query means, said of the deliveries themselves and not of the roll-ups that it asks.
def last_outcomes(each: Document) -> set[str]:
    return set({delivery["recipient"].casefold(): delivery["outcome"] for delivery in each["to"]}.values())


def is_mail(each: Document) -> bool:
    return bool(each["kind"] == "transaction")


def people(each: Document) -> set[str]:
    names = (delivery.get(name) for delivery in each["to"] for name in ("recipient", "original_recipient"))
    return {name.casefold() for name in names if name}


MEANINGS: dict[str, Callable[[Document], bool]] = {
    "kind: transaction and page: 0": lambda each: is_mail(each) and each["page"] == 0,
    "kind: transaction": is_mail,
    "kind: rejection": lambda each: each["kind"] == "rejection",
    "kind: transaction and state: open and deliveries: deferred*": lambda each: (
        is_mail(each) and each["state"] == "open" and "deferred" in last_outcomes(each)
    ),
    "kind: transaction and (deliveries: bounced* or deliveries: expired*)": lambda each: (
        is_mail(each) and bool({"bounced", "expired"} & last_outcomes(each))
    ),
    "kind: rejection or (outcomes: rejected and not kind: mailbox)": lambda each: (
        each["kind"] == "rejection"
        or (each["kind"] != "mailbox" and "rejected" in {delivery["outcome"] for delivery in each["to"]})
    ),
    f'from: "{EXAMPLE}"': lambda each: (each["from"] or "").lower() == EXAMPLE,
    f'recipients: "{EXAMPLE}" and not kind: mailbox': lambda each: (
        EXAMPLE in people(each) and each["kind"] != "mailbox"
    ),
    # Of docs/kibana.md:
    "from: *@example.com": lambda each: (each["from"] or "").lower().endswith("@example.com"),
    'from: ""': lambda each: each["from"] == "",
    'recipient_domains: "example.com"': lambda each: any(name.endswith("@example.com") for name in people(each)),
    f'deliveries: "bounced {EXAMPLE}"': lambda each: f"bounced {EXAMPLE}" in each["deliveries"],
    f'to: {{ recipient: "{EXAMPLE}" and status: *greylist* }}': lambda each: any(
        delivery["recipient"].lower() == EXAMPLE and "greylist" in delivery["status"] for delivery in each["to"]
    ),
}
DOCUMENTED = re.findall(
    r"`((?:from|recipient_domains|deliveries|to): [^`]*)`", PAGE.read_text("utf-8").partition("## Searching")[2]
)

OURS = [
    document(
        queue_id="4K0001", state="open", date=stamp(FIRST), **{"from": "Alice@Example.com"},
        to=[attempt(EXAMPLE, "deferred", status="deferred (450 4.2.0 greylisted, try again)", relay="mx.slow.example"),
            attempt("ok@example.org", "relayed")],
    ),
    document(
        queue_id="4K0002", state="closed", date=stamp(FIRST), **{"from": ""}, size=1200,
        to=[attempt(EXAMPLE, "deferred"), attempt(EXAMPLE, "bounced")],
    ),
    document(
        queue_id="4K0003", state="open", date=stamp(FIRST), **{"from": "x@example.com"}, outcome="deferred",
        to=[attempt("late@example.org", "deferred"), attempt("late@example.org", "relayed")],
    ),
    document(
        queue_id="4K0004AAAAAAAAAAAAAAAA", state="closed", date=stamp(FIRST), kind="mailbox", mta="dovecot",
        to=[attempt(EXAMPLE, "rejected"), attempt(EXAMPLE, "bounced")],
    ),
]  # fmt: skip
DOCUMENTS = [
    *OURS,
    *(each for each in all_documents() if each["date"][:10] in {"2026-11-24", "2026-11-25"} or each["size"]),
]


@pytest.fixture(scope="module")
def kibana_node(node: Node) -> Node:
    """The node with DOCUMENTS, written as the sink writes them."""
    with Server(connection_of(Settings(elasticsearch_url=node.url))) as server:
        assert list(DailyIndices(server, INDEX_PREFIX).set_up(Wanted(replicas=0), is_dry_run=False))
        writer = ElasticsearchWriter(server, INDEX_PREFIX, date.min, patience_seconds=30.0)
        writer.write(DOCUMENTS)
        assert writer.refused == []
    assert node.ask("POST", f"/{INDEX_PREFIX}-*/_refresh")[0] == 200
    _, found = node.ask("GET", f"/{INDEX_PREFIX}-*/_count")
    assert isinstance(found, dict)
    assert found["count"] == len(DOCUMENTS)
    return node


def ask(node: Node, body: Document) -> Document:
    status, found = node.ask("POST", f"/{INDEX_PREFIX}-*/_search", body)
    assert isinstance(found, dict)
    assert status == 200, found
    return found


def query_of(each: Document) -> str:
    text: str = orjson.loads(each["attributes"]["kibanaSavedObjectMeta"]["searchSourceJSON"])["query"]["query"]
    return text


@pytest.mark.slow
@pytest.mark.parametrize("query", [*(query_of(each) for each in SEARCHES.values()), *DOCUMENTED])
def test_a_search_finds_what_it_says(kibana_node: Node, query: str) -> None:
    known = field_types(mapping(has_wildcard=True))
    assert set(read(query).fields) <= set(known)
    found = ask(kibana_node, {"query": read(query).query, "size": 10_000, "_source": ["id"]})
    expected = {each["id"] for each in DOCUMENTS if MEANINGS[query](each)}
    assert expected
    assert {hit["_source"]["id"] for hit in found["hits"]["hits"]} == expected
    assert len(expected) < len(DOCUMENTS)


@pytest.mark.slow
@pytest.mark.parametrize("id_", SEARCHES)
def test_a_search_has_something_in_its_columns(kibana_node: Node, id_: str) -> None:
    attributes = SEARCHES[id_]["attributes"]
    fields = [*attributes["columns"], TIME_FIELD]
    sort = [{name: way} for name, way in attributes["sort"]]
    query = read(query_of(SEARCHES[id_])).query
    hits = ask(kibana_node, {"query": query, "fields": fields, "_source": False, "sort": sort, "size": 10_000})["hits"][
        "hits"
    ]
    assert {name for hit in hits for name in hit["fields"]} == set(fields)


def aggregations(state: Document) -> Document:
    """Return what Kibana asks for a panel: its splits, one in the other, and in the last one its metrics."""
    inner: Document = {}
    for each in reversed(state["aggs"]):
        parameters = each["params"]
        if each["type"] == "sum":
            inner["sum"] = {"sum": {"field": parameters["field"]}}
        elif each["type"] == "terms":
            terms = {"field": parameters["field"], "size": parameters["size"], "order": {"_count": parameters["order"]}}
            terms["shard_size"] = 10_000  # exact, where Kibana's numbers may be near
            if "include" in parameters:
                terms["include"] = parameters["include"]
            inner = {"split": {"terms": terms, **({"aggs": inner} if inner else {})}}
        elif each["type"] == "date_histogram":
            over_time = {
                "field": parameters["field"],
                "fixed_interval": "1h",
                "min_doc_count": parameters["min_doc_count"],
            }
            inner = {"time": {"date_histogram": over_time, "aggs": inner}}
    return inner


def counted(documents: list[Document], terms: Document | None) -> Counter[str]:
    """Return how many documents there are for each value, in plain Python."""
    if terms is None:
        return Counter()
    found: Counter[str] = Counter()
    for each in documents:
        value = each[terms["field"]]
        values = set(value) if isinstance(value, list) else {value} - {None}
        if terms["field"] in {"from", "host"}:
            values = {name.lower() for name in values}
        found.update(name for name in values if re.fullmatch(terms.get("include", ".*"), name, re.DOTALL))
    return found


def buckets_are(found: Document, expected: Counter[str], size: int) -> None:
    shown = {bucket["key"]: bucket["doc_count"] for bucket in found["buckets"]}
    assert sorted(shown.values(), reverse=True) == [count for _, count in expected.most_common(size)]
    assert all(expected[name] == count for name, count in shown.items())


@pytest.mark.slow
@pytest.mark.parametrize("id_", PANELS)
def test_a_panel_counts_what_it_says(kibana_node: Node, id_: str) -> None:
    state = orjson.loads(PANELS[id_]["attributes"]["visState"])
    query = query_of(PANELS[id_])
    terms = next((each["params"] for each in state["aggs"] if each["type"] == "terms"), None)
    body = {"query": read(query).query, "size": 0, "track_total_hits": True, "aggs": aggregations(state)}
    found = ask(kibana_node, body)
    meant = [each for each in DOCUMENTS if MEANINGS[query](each)]
    assert found["hits"]["total"]["value"] == len(meant) > 0
    answer = found.get("aggregations", {})
    if state["type"] == "metric":
        assert terms is None
        return
    assert terms is not None
    if state["type"] == "table":
        assert answer["split"]["buckets"]
        buckets_are(answer["split"], counted(meant, terms), terms["size"])
        for bucket in answer["split"]["buckets"]:
            if "sum" in bucket:
                sizes = [each["size"] or 0 for each in meant if each["host"] == bucket["key"]]
                assert bucket["sum"]["value"] == sum(sizes)
        return
    hours = {bucket["key_as_string"][:13]: bucket for bucket in answer["time"]["buckets"]}
    assert set(hours) == {each["date"][:13] for each in meant}
    for hour, bucket in hours.items():
        of_hour = [each for each in meant if each["date"][:13] == hour]
        assert bucket["doc_count"] == len(of_hour)
        buckets_are(bucket["split"], counted(of_hour, terms), terms["size"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "outcomes"), [("deferred-recipients", {"deferred"}), ("bounced-recipients", {"bounced", "expired"})]
)
def test_recipients_are_those_whose_own_last_attempt_failed(kibana_node: Node, key: str, outcomes: set[str]) -> None:
    panel = PANELS[f"{PREFIX}-{key}"]
    state, query = orjson.loads(panel["attributes"]["visState"]), query_of(panel)
    found = ask(kibana_node, {"query": read(query).query, "size": 0, "aggs": aggregations(state)})
    expected: Counter[str] = Counter()
    for each in DOCUMENTS:
        if MEANINGS[query](each):
            last = {delivery["recipient"].casefold(): delivery["outcome"] for delivery in each["to"]}
            expected.update(f"{outcome} {name}" for name, outcome in last.items() if outcome in outcomes)
    assert expected
    buckets_are(found["aggregations"]["split"], expected, 20)
