"""Template, lifecycle, mappings and retention: as documents, on a real node, and by the commands."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from mailspan.commands.setup_elasticsearch import delete_before
from mailspan.document import FIELDS
from mailspan.errors import StoreError
from mailspan.settings import Settings
from sink.daily_indices import DailyIndices
from sink.elasticsearch import Server
from sink.elasticsearch_settings import connection_of
from sink.index_template import (
    VERSION,
    Wanted,
    is_made_of,
    lifecycle,
    mapping,
    overruled,
    template,
    template_fault,
)
from sink.indexed import HIDDEN, indexed
from sink.indices import day_of, index_of, index_of_day
from tests import golden
from tests.running import mailspan
from tests.scripted_http import Asked, Reply, scripted_http
from tests.search_documents import all_documents

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.elasticsearch_server import Node

MAPPING = mapping(has_wildcard=True)["properties"]


def test_every_field_of_the_document_is_mapped() -> None:
    assert [name for name in MAPPING if name in {field.name for field in FIELDS}] == [field.name for field in FIELDS]
    deliveries = {name for each in all_documents() for delivery in each["to"] for name in delivery}
    assert deliveries <= set(MAPPING["to"]["properties"])


def keywords(mapped: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for each in mapped.values():
        if each.get("type") == "keyword":
            yield each
        for inner in ("properties", "fields"):
            yield from keywords(each.get(inner, {}))


def test_no_term_can_be_too_long_for_lucene() -> None:
    found = list(keywords(mapping(has_wildcard=False)["properties"]))
    assert len(found) > 30
    assert all(each["ignore_above"] * 4 <= 32766 for each in found)


def test_aliases_name_fields_that_are_there() -> None:
    aliases = {
        f"{outer}.{inner}": each["path"]
        for outer, value in MAPPING.items()
        for inner, each in value.get("properties", {}).items()
        if each.get("type") == "alias"
    }
    assert aliases["email.message_id"] == "msgid"
    assert aliases["source.ip"] == "client_ip"
    assert MAPPING["email"]["properties"]["from"]["properties"]["address"] == {"type": "alias", "path": "from"}
    assert MAPPING["host"]["fields"]["name"]["type"] == "keyword"
    assert all(path in MAPPING and MAPPING[path].get("type") != "nested" for path in aliases.values())


def test_the_lifecycle_deletes_by_the_day_in_the_name() -> None:
    assert lifecycle(90)["policy"]["phases"] == {"delete": {"min_age": "90d", "actions": {"delete": {}}}}
    index = template("mail-x", Wanted(2, 0))["template"]["settings"]["index"]
    assert index["lifecycle"] == {"name": "mail-x", "parse_origination_date": True}
    assert (index["number_of_shards"], index["number_of_replicas"]) == (2, 0)
    assert (index["codec"], index["refresh_interval"]) == ("best_compression", "1s")
    assert "lifecycle" not in template("mail-x", Wanted(has_lifecycle=False))["template"]["settings"]["index"]


def test_a_missing_or_older_template_is_told() -> None:
    good = template("mail-x", Wanted())
    assert template_fault(good) is None
    assert "there is no index template" in str(template_fault(None))
    older = {**good, "_meta": {"mailspan": {"version": VERSION - 1}}}
    assert f"of version {VERSION - 1}, and {VERSION} is needed" in str(template_fault(older))
    assert template_fault({}) is not None
    assert template_fault({"_meta": {"mailspan": "x"}}) is not None
    assert not is_made_of(template("mail-x", Wanted(replicas=2)), good)


@pytest.mark.parametrize(
    "name",
    [
        "mail-2026.1.1", "mail-2026.02.30", "mail-2026.11.23-old", "mail-x-2026.11.23", "mail-2026.11.23.1",
        "restored-mail-2026.11.23", "mail-2026-11-23", "mail-", "mail-+026.11.23", "mail-2026.11. 3", "mail-２０２６.11.23",
        "amail-2026.11.23", "mail2026.11.23",
    ],
)  # fmt: skip
def test_a_look_alike_is_no_daily_index(name: str) -> None:
    assert day_of("mail", name) is None


def test_names_of_days() -> None:
    assert index_of("mail", "2026-11-23T23:59:59.999Z") == "mail-2026.11.23"
    assert day_of("mail", "mail-2026.11.23") == date(2026, 11, 23)
    assert index_of_day("mail", date(987, 1, 2)) == "mail-0987.01.02"


@pytest.mark.slow
def test_all_documents_are_taken_and_found_in_nested_and_flat_fields(node: Node) -> None:
    with Server(connection_of(Settings(elasticsearch_url=node.url))) as server:
        said = list(DailyIndices(server, "taken").set_up(Wanted(replicas=0), is_dry_run=False))
        assert said == [
            "lifecycle: this server has none; run `mailspan retention --store URL` every day, to delete old days",
            "wildcard fields: this server has none; long texts are keywords",
            "template taken: created",
        ]
        assert "template taken: as it should be" in list(
            DailyIndices(server, "taken").set_up(Wanted(replicas=0), is_dry_run=False)
        )
    lines = b"".join(
        orjson.dumps({"index": {"_index": index_of("taken", each["date"]), "_id": each["id"]}})
        + b"\n" + indexed(each, orjson.dumps(each)) + b"\n"
        for each in all_documents()
    )  # fmt: skip
    status, answer = node.ask("POST", "/_bulk?refresh=true", lines)
    assert status == 200
    assert isinstance(answer, dict)
    assert not answer["errors"], [each for each in answer["items"] if each["index"]["status"] > 201][:3]
    bounced = sum("bounced bob@example.com" in each["deliveries"] for each in all_documents())
    for query, expected in (
        ({"term": {"deliveries": "bounced bob@example.com"}}, bounced),
        ({"exists": {"field": "email.local_id"}}, sum(each["queue_id"] is not None for each in all_documents())),
        ({"exists": {"field": "host.name"}}, len(all_documents())),
        ({"term": {f"{HIDDEN}.terms": "kind:probe"}}, sum(each["kind"] == "probe" for each in all_documents())),
    ):
        status, answer = node.ask("POST", "/taken-*/_count", {"query": query})
        assert isinstance(answer, dict)
        assert (status, answer["count"]) == (200, expected), query
    nested = {
        "bool": {
            "filter": [
                {"term": {"to.recipient": "BOB@example.com"}},
                {"term": {"to.outcome": "bounced"}},
            ]
        }
    }
    status, answer = node.ask("POST", "/taken-*/_count", {"query": {"nested": {"path": "to", "query": nested}}})
    assert isinstance(answer, dict)
    assert answer["count"] == sum(
        any((to["recipient"] or "").lower() == "bob@example.com" and to["outcome"] == "bounced" for to in each["to"])
        for each in all_documents()
    )
    assert answer["count"] > 0


@pytest.mark.slow
def test_every_golden_document_is_accepted(node: Node) -> None:
    with Server(connection_of(Settings(elasticsearch_url=node.url))) as server:
        list(DailyIndices(server, "golden").set_up(Wanted(replicas=0), is_dry_run=False))
    # All into one index: what is asked is whether the mapping takes them, and cases have days of their own.
    found = [(name, at, each) for name in golden.names() for at, each in enumerate(golden.load(name).expected)]
    assert len(found) > 100
    lines = b"".join(
        orjson.dumps({"index": {"_index": "golden-2026.11.23", "_id": f"{name}/{at}"}})
        + b"\n" + indexed(each, orjson.dumps(each)) + b"\n"
        for name, at, each in found
    )  # fmt: skip
    status, answer = node.ask("POST", "/_bulk", lines)
    assert status == 200
    assert isinstance(answer, dict)
    assert not answer["errors"], [each for each in answer["items"] if each["index"]["status"] > 201][:3]


@pytest.mark.slow
def test_the_template_is_for_days_and_for_no_look_alike(node: Node) -> None:
    with Server(connection_of(Settings(elasticsearch_url=node.url))) as server:
        list(DailyIndices(server, "matched").set_up(Wanted(replicas=0), is_dry_run=False))

    def is_matched(name: str) -> bool:
        status, answer = node.ask("POST", f"/_index_template/_simulate_index/{name}")
        assert status == 200, answer
        assert isinstance(answer, dict)
        return HIDDEN in answer.get("template", {}).get("mappings", {}).get("properties", {})

    for day in (date(1980, 1, 1), date(2026, 2, 9), date(2026, 10, 31), date(2028, 2, 29), date(2105, 12, 30)):
        assert is_matched(index_of_day("matched", day)), day
    for rest in (
        "2026.1.1",
        "2026.01.01-old",
        "2026.01.01-000002",
        "x-2026.01.01",
        "2026.01.32",
        "2026.01.01.7",
        "old",
    ):
        assert not is_matched(f"matched-{rest}"), rest


@pytest.mark.slow
def test_a_refused_mapping_does_not_keep_others_from_theirs(node: Node) -> None:
    of_old = {"mappings": {"properties": {"id": {"type": "long"}}}}
    for day in ("01", "02"):
        assert node.ask("PUT", f"/refusing-2026.11.{day}", of_old)[0] == 200  # before there was a template
    assert mailspan("setup", settings={"ELASTICSEARCH_URL": node.url, "INDEX_PREFIX": "refusing"}).returncode == 3
    assert node.ask("PUT", "/refusing-2026.11.03", {})[0] == 200  # by our template, and then as if it were of old
    assert node.ask("PUT", "/refusing-2026.11.03/_mapping", {"_meta": {}})[0] == 200
    done = mailspan("setup", settings={"ELASTICSEARCH_URL": node.url, "INDEX_PREFIX": "refusing"})
    assert done.returncode == 3
    assert [line.partition(" (")[0] for line in done.stdout.decode().splitlines()[-3:]] == [
        "index refusing-2026.11.01: mapping refused",
        "index refusing-2026.11.02: mapping refused",
        "index refusing-2026.11.03: mapping updated",
    ]
    assert "to update the mapping of refusing-2026.11.01 " in done.stderr.decode()
    assert done.stderr.decode().endswith("; 2 indices keep theirs\n")


@pytest.mark.slow
def test_existing_indices_get_the_mapping(node: Node) -> None:
    assert node.ask("PUT", "/older-2026.11.23", {"mappings": {"properties": {"id": {"type": "keyword"}}}})[0] == 200
    assert node.ask("PUT", "/older-2026.11.23-mine", {})[0] == 200
    with Server(connection_of(Settings(elasticsearch_url=node.url))) as server:
        indices = DailyIndices(server, "older")
        with pytest.raises(StoreError, match=r"to update the mapping of older-2026.11.23 .*normalizer|analyzer"):
            list(indices.set_up(Wanted(replicas=0), is_dry_run=False))  # made without our settings: it cannot be mended
        assert node.ask("DELETE", "/older-2026.11.23")[0] == 200
        assert node.ask("PUT", "/older-2026.11.24", {})[0] == 200  # by our template, and then as if it were of old
        assert node.ask("PUT", "/older-2026.11.24/_mapping", {"_meta": {}})[0] == 200
        assert "index older-2026.11.24: mapping would be updated" in list(
            indices.set_up(Wanted(replicas=0), is_dry_run=True)
        )
        assert "index older-2026.11.24: mapping updated" in list(indices.set_up(Wanted(replicas=0), is_dry_run=False))
        again = list(indices.set_up(Wanted(replicas=0), is_dry_run=False))
        assert not [line for line in again if line.startswith("index")]
    status, found = node.ask("GET", "/older-2026.11.23-mine/_mapping")
    assert status == 200
    assert isinstance(found, dict)
    assert "mailspan" not in found["older-2026.11.23-mine"]["mappings"].get("_meta", {})


def other(patterns: list[str], priority: int, **more: object) -> dict[str, Any]:
    return {"name": "logs", "index_template": {"index_patterns": patterns, "priority": priority, **more}}


@pytest.mark.parametrize(
    ("found", "is_taken"),
    [
        (other(["mail-x-*"], 507), True),
        (other(["*"], 507), True),
        (other(["logs-*", "m*-2026.12.*"], 900), True),
        (other(["mail-x-2026.02.29"], 900), False),
        (other(["mail-x-2026.02.2?", "mail-x.*", "mail-y-*"], 900), False),
        (other(["mail-x-*"], 506), False),
        (other(["*"], 0), False),
        ({"name": "logs", "index_template": {"index_patterns": ["*"]}}, False),
        (other(["mail-x-*"], 900, _meta={"mailspan": {"version": VERSION}}), False),
        (other(["mail-x-*"], 900, _meta={"mailspan": {"version": VERSION - 1}}), True),
    ],
)
def test_a_template_that_is_taken_in_place_of_ours(found: dict[str, Any], is_taken: bool) -> None:  # noqa: FBT001
    ours = {"name": "mail-x", "index_template": template("mail-x", Wanted())}
    said = overruled("mail-x", [ours, found])
    assert (said is not None) == is_taken
    if said is not None:
        assert "index template logs (priority " in said


@pytest.mark.slow
def test_another_template_is_told_by_setup_and_by_who_writes(node: Node) -> None:
    settings = {"ELASTICSEARCH_URL": node.url, "INDEX_PREFIX": "overruled", "STORE": node.url}
    assert node.ask("PUT", "/_index_template/theirs", {"index_patterns": ["over*-2026.*"], "priority": 2000})[0] == 200
    try:
        said = (
            f"mailspan: Elasticsearch at {node.url}: index template theirs (priority 2000) is taken for"
            " overruled-2026.01.01 and others in place of overruled (509); give it a lower priority or other index"
            " patterns\n"
        )
        done = mailspan("setup", settings=settings)
        assert (done.returncode, done.stderr.decode()) == (3, said)
        assert b"template overruled: created" in done.stdout
        done = mailspan("index", "-", settings=settings)
        assert (done.returncode, done.stderr.decode()) == (3, said)
    finally:
        assert node.ask("DELETE", "/_index_template/theirs")[0] == 200
    done = mailspan("setup", settings=settings)
    assert (done.returncode, done.stderr) == (0, b"")


TODAY = date(2026, 11, 25)


@pytest.mark.slow
def test_retention_keeps_ninety_days_and_every_look_alike(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    one_shard = {"settings": {"number_of_shards": 1, "number_of_replicas": 0}}
    days = [TODAY - timedelta(days=number) for number in range(100)]
    names = [index_of_day("kept", day) for day in days]
    alike = ["kept-2026.1.1", "kept-2026.02.30", "kept-2026.01.01-old", "kept-x-2026.01.01", "restored-kept-2026.01.01"]
    for name in (*names, *alike):
        assert node.ask("PUT", f"/{name}", one_shard)[0] == 200, name
    assert node.ask("PUT", "/kept-x-2026.01.01/_alias/kept-2026.01.02")[0] == 200
    assert node.ask("POST", f"/{names[99]}/_close")[0] == 200
    settings = Settings(index_prefix="kept")
    first_kept = TODAY - timedelta(days=89)

    def there() -> set[str]:
        _, found = node.ask("GET", "/_cat/indices?format=json&expand_wildcards=all")
        assert isinstance(found, list)
        return {each["index"] for each in found if "kept" in each["index"]}

    assert delete_before(settings, node.url, first_kept, 90, is_dry_run=True) == 0
    assert there() == {*names, *alike}
    assert capsys.readouterr().out.splitlines()[-1] == (
        "would delete 10 indices of 0 documents of days before 2026-08-28; and keep 90 days"
    )
    assert delete_before(settings, node.url, first_kept, 90, is_dry_run=False) == 0
    assert there() == {*names[:90], *alike}
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said[:-1]] == sorted(names[90:])
    assert said[0] == f"{names[99]}  closed"
    status, _ = node.ask("GET", "/kept-2026.01.02")
    assert status == 200  # the alias, and so what it stands for


@pytest.mark.slow
def test_an_index_without_shards_is_deleted_too(node: Node, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = {"number_of_shards": 1, "number_of_replicas": 0, "index.routing.allocation.require._name": "nobody"}
    assert node.ask("PUT", "/red-2001.01.01?wait_for_active_shards=0", {"settings": nowhere})[0] == 200
    assert node.ask("PUT", "/red-2001.01.02", {"settings": {"number_of_replicas": 0}})[0] == 200
    assert delete_before(Settings(index_prefix="red"), node.url, TODAY, 1, is_dry_run=False) == 0
    assert capsys.readouterr().out.splitlines()[:2] == [
        "red-2001.01.01  not counted: not all its shards answer",
        "red-2001.01.02          0 documents",
    ]
    assert node.ask("GET", "/red-2001.01.01")[0] == 404
    assert node.ask("GET", "/red-2001.01.02")[0] == 404


@pytest.mark.slow
def test_the_commands(node: Node) -> None:
    done = mailspan("setup", "--dry-run", settings={"ELASTICSEARCH_URL": node.url, "INDEX_PREFIX": "by-command"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert "template by-command: would be created" in done.stdout.decode().splitlines()
    assert node.ask("GET", "/_index_template/by-command")[0] == 404
    assert mailspan("setup", settings={"ELASTICSEARCH_URL": node.url, "INDEX_PREFIX": "by-command"}).returncode == 0
    assert node.ask("GET", "/_index_template/by-command")[0] == 200
    done = mailspan("setup")
    assert done.returncode == 2
    assert "MAILSPAN_KAFKA_BOOTSTRAP_SERVERS is not set, nor is MAILSPAN_ELASTICSEARCH_URL" in done.stderr.decode()
    assert node.ask("PUT", "/by-command-2001.01.01", {})[0] == 200
    done = mailspan("retention", "--store", node.url, settings={"INDEX_PREFIX": "by-command"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().startswith("by-command-2001.01.01          0 documents\ndeleted 1 indices")
    assert node.ask("GET", "/by-command-2001.01.01")[0] == 404


@contextmanager
def policies(status: int, body: bytes) -> Iterator[tuple[Server, list[tuple[str, str, Any]]]]:
    """Run a server that answers so when it is asked for policies, and accepts what is put there."""
    seen: list[tuple[str, str, Any]] = []

    def reply(asked: Asked) -> Reply:
        if asked.method == "GET":
            return status, body
        seen.append((asked.method, asked.path, orjson.loads(asked.body)))
        return 200, {"acknowledged": True}

    with scripted_http(reply) as url, Server(connection_of(Settings(elasticsearch_url=url))) as server:
        yield server, seen


def stored(**changes: object) -> bytes:
    return orjson.dumps({"mail": {"policy": {**lifecycle(90)["policy"], **changes}}})


@pytest.mark.parametrize(
    ("status", "body", "said", "puts"),
    [
        (404, b'{"error":{"type":"resource_not_found_exception","reason":"no policy"}}', "created", 1),
        (200, stored(), "as it should be", 0),
        (200, stored(phases={"delete": {"min_age": "30d", "actions": {"delete": {}}}}), "updated", 1),
        (405, b'{"error":"Incorrect HTTP method","status":405}', "this server has none", 0),
        (400, b'{"error":"no handler found for uri","status":400}', "this server has none", 0),
    ],
)
def test_the_policy_is_installed_where_there_are_such(status: int, body: bytes, said: str, puts: int) -> None:
    with policies(status, body) as (server, seen):
        _, line = DailyIndices(server, "mail")._lifecycle(90, is_dry_run=False)  # noqa: SLF001 - no node here has any
        assert said in line
        assert seen == [("PUT", "/_ilm/policy/mail", lifecycle(90))] * puts


def test_indices_made_before_the_policy_get_it() -> None:
    mapped = mapping(has_wildcard=True)
    puts: list[tuple[str, Any]] = []

    def reply(asked: Asked) -> Reply:
        path = asked.path.partition("?")[0]
        if asked.method == "PUT":
            puts.append((path, orjson.loads(asked.body)))
            return 200, {"acknowledged": True}
        if path.startswith("/_ilm/policy"):
            return 200, stored()
        if path.startswith("/_index_template"):
            ours = template("mail", Wanted())
            return 200, {"index_templates": [{"name": "mail", "index_template": ours}]}
        if path.startswith("/_resolve/index"):
            names = [*(f"mail-2026.11.2{day}" for day in range(1, 5)), "mail-2026.11.24-old"]
            closed = {"mail-2026.11.24"}
            return 200, {"indices": [{"name": name, "attributes": ["closed"] * (name in closed)} for name in names]}
        if path.endswith("/_mapping"):
            return 200, {path.split("/")[1]: {"mappings": mapped}}
        theirs = {"settings": {"index.lifecycle.name": "theirs"}}
        return 200, {"mail-2026.11.21": theirs, "mail-2026.11.22": {"settings": {}}, "mail-2026.11.24-old": {}}

    with scripted_http(reply) as url, Server(connection_of(Settings(elasticsearch_url=url))) as server:
        would = list(DailyIndices(server, "mail").set_up(Wanted(), is_dry_run=True))
        assert puts == []
        said = list(DailyIndices(server, "mail").set_up(Wanted(), is_dry_run=False))
    given = {"index.lifecycle.name": "mail", "index.lifecycle.parse_origination_date": True}
    assert puts == [(f"/mail-2026.11.{day}/_settings", given) for day in (22, 23)]
    closed = "index mail-2026.11.24: closed: left as it is"
    assert said[2:] == [*(f"index mail-2026.11.{day}: lifecycle set" for day in (22, 23)), closed]
    assert would[2:] == [*(f"index mail-2026.11.{day}: lifecycle would be set" for day in (22, 23)), closed]


def test_without_the_right_to_see_policies_it_is_not_said_that_there_are_none() -> None:
    refusal = b'{"error":{"type":"security_exception","reason":"no"}}'
    with policies(403, refusal) as (server, _), pytest.raises(StoreError, match="no right to see lifecycle policies"):
        DailyIndices(server, "mail")._lifecycle(90, is_dry_run=False)  # noqa: SLF001 - no node here has any
