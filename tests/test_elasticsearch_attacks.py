"""What is meant to break Elasticsearch's client, writer and reader: wrong servers, absurd dates, aliases, floods."""

from __future__ import annotations

import hashlib
import ssl
import subprocess
from contextlib import contextmanager
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from mailspan.errors import StoreError, UsageError
from mailspan.settings import Settings
from search.query import parse_query
from search.select import select
from sink.bulk import Item, Verdict, outcomes_of
from sink.daily_indices import DailyIndices, Index
from sink.elasticsearch import NoAnswerError, Server
from sink.elasticsearch_reader import ElasticsearchReader
from sink.elasticsearch_settings import connection_of
from sink.elasticsearch_writer import ElasticsearchWriter
from sink.fragments import superfluous
from sink.sqlite_schema import path_of_store
from sink.store import Selection
from tests.certificates import Authority
from tests.jars import free_port
from tests.running import mailspan
from tests.scripted_http import Asked, Reply, scripted_http
from tests.search_documents import FIRST, document, stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.elasticsearch_server import Node

NOW = datetime(2026, 11, 25, tzinfo=UTC)
SECRET = "hunter2"  # noqa: S105 - what must be seen nowhere
GOOD = {"version": {"number": "8.19.3"}}


@contextmanager
def served(reply: Callable[[Asked], Reply]) -> Iterator[Server]:
    """Run a server that answers so; yields the client's side of it."""
    with scripted_http(reply) as url, Server(connection_of(Settings(), url)) as server:
        yield server


def settings(node: Node, prefix: str, **more: str) -> dict[str, str]:
    return {
        "ELASTICSEARCH_URL": node.url, "STORE": node.url, "INDEX_PREFIX": prefix, "INDEX_REPLICAS": "0",
        "RETENTION_DAYS": "36500", **more,
    }  # fmt: skip


def found_of(node: Node, prefix: str) -> list[bytes]:
    assert node.ask("POST", f"/{prefix}-*.*.*/_refresh")[0] == 200
    done = mailspan("search", "--json", "--probes", "-r", "100000", settings=settings(node, prefix))
    assert (done.returncode, done.stderr) == (0, b"")
    return sorted(done.stdout.splitlines())


@pytest.mark.parametrize(
    "url",
    [
        "http://a..b",
        f"http://{'a' * 64}",
        "http://a b",
        "http://\x01",
        "http://\udcff",
        "http://[fe80::1%lo]",
        "http://:1",
    ],
)
def test_what_is_no_host_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError, match=r"^--store: expected https://HOST:PORT$"):
        connection_of(Settings(), url)


def test_a_host_in_its_own_letters_is_asked_by_its_name_in_dns() -> None:
    assert connection_of(Settings(), "http://bücher.example.com").urls == ("http://xn--bcher-kva.example.com:80",)


def test_a_password_in_the_environment_is_not_repeated_where_store_is_empty() -> None:
    with pytest.raises(UsageError) as caught:
        path_of_store("", {"MAILSPAN_STORE": f"https://bob:{SECRET}@a"})
    assert SECRET not in str(caught.value)
    assert "MAILSPAN_STORE" in str(caught.value)


@pytest.mark.parametrize("user", ["a:b", "\udcff", "a\n"])
def test_a_user_that_cannot_be_sent_is_a_usage_error(user: str) -> None:
    given = Settings(elasticsearch_username=user, elasticsearch_password=SECRET)
    with pytest.raises(UsageError, match=r"^MAILSPAN_ELASTICSEARCH_USERNAME: ") as caught:
        connection_of(given, "http://a")
    assert SECRET not in str(caught.value)


def openssl(*arguments: str) -> str:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=True, timeout=60)  # noqa: S607 - the system's
    return done.stdout


def forged(folder: Path, authority: Authority) -> tuple[Path, Path]:
    """Return a chain and its key: a certificate that names the authority and was never signed by it, then the CA's."""
    text = openssl("x509", "-in", str(authority.certificate), "-noout", "-ext", "subjectKeyIdentifier")
    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    names = {name: str(folder / name) for name in ("ca.key", "ca.pem", "key", "csr", "ext", "pem")}
    key_id = f"subjectKeyIdentifier={text.split()[-1]}"
    openssl("req", "-x509", *new, "-subj", "/CN=Example CA", "-addext", key_id, "-keyout", names["ca.key"],
            "-out", names["ca.pem"])  # fmt: skip
    openssl("req", *new, "-subj", "/CN=es", "-keyout", names["key"], "-out", names["csr"])
    (folder / "ext").write_text("authorityKeyIdentifier=keyid\n")
    openssl("x509", "-req", "-in", names["csr"], "-CA", names["ca.pem"], "-CAkey", names["ca.key"], "-CAcreateserial",
            "-extfile", names["ext"], "-out", names["pem"])  # fmt: skip
    chain = folder / "chain.pem"
    chain.write_text((folder / "pem").read_text() + authority.certificate.read_text())
    return chain, folder / "key"


def test_who_sends_the_certificate_of_a_ca_is_not_trusted_for_that(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority", "Example CA")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*forged(tmp_path, authority))
    fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(authority.certificate.read_text())).hexdigest()
    seen: list[Asked] = []

    def reply(asked: Asked) -> Reply:
        seen.append(asked)
        return 200, GOOD

    with scripted_http(reply, context) as url:
        given = Settings(elasticsearch_api_key=SECRET, elasticsearch_fingerprint=fingerprint)
        with Server(connection_of(given, url)) as server, pytest.raises(NoAnswerError, match="MAILSPAN_ELASTICSEARCH_"):
            server.version()
    assert seen == []  # nor was it told the key


def test_days_without_an_index_are_counted_and_not_listed() -> None:
    found = {"indices": [{"name": f"mail-{day}", "attributes": ["closed"]} for day in ("2026.11.23", "9998.12.31")]}
    with served(lambda _asked: (200, found)) as server:
        reader = ElasticsearchReader(server, "mail")
        assert reader.count(chosen(since="2026-11-22T00:00:00Z")) == 0
    number = (date(9998, 12, 31) - date(2026, 11, 22)).days + 1 - 2
    missing = f"2026-11-22, 2026-11-24, 2026-11-25 and {number - 3} more"
    said = f"there is no index of {missing}: no mail was indexed of such a day, or it was deleted"
    assert reader.gaps == [said]


def test_one_node_that_is_away_hinders_nothing() -> None:
    with scripted_http(lambda _asked: (200, GOOD)) as url:
        nowhere = [f"http://127.0.0.1:{free_port()}" for _ in range(3)]
        with Server(connection_of(Settings(), ",".join([*nowhere, url]))) as server:
            assert [server.version() for _ in range(8)] == [(8, 19)] * 8


def test_the_wrong_scheme_is_told() -> None:
    with served(lambda _asked: None) as server, pytest.raises(NoAnswerError, match=r"is it https:// and not http://\?"):
        server.version()  # as one that waits for TLS hangs up
    with scripted_http(lambda _asked: (200, GOOD)) as url:
        connection = connection_of(Settings(), url.replace("http:", "https:"))
        with Server(connection) as server, pytest.raises(NoAnswerError, match=r"no TLS .*is it http:// and not https"):
            server.version()


@pytest.mark.parametrize("status", [301, 404, 405])
def test_a_web_server_is_no_elasticsearch(status: int) -> None:
    expected = rf"is no Elasticsearch \(status {status}\); see its host, port and path"
    with served(lambda _asked: (status, "<html>")) as server, pytest.raises(StoreError, match=expected):
        server.version()


@pytest.mark.parametrize("body", ["<html>", b"", [], {}])
@pytest.mark.parametrize(
    "ask",
    [
        lambda server: ElasticsearchReader(server, "mail").newest(Selection(()), 1),
        lambda server: DailyIndices(server, "listed").all(),
        lambda server: DailyIndices(server, "mail").stored_template(),
        lambda server: DailyIndices(server, "mail").count(
            Index("mail-2026.11.23", date(2026, 11, 23), is_closed=False)
        ),
    ],
)
def test_an_answer_of_somebody_else_is_told(ask: Callable[[Server], object], body: object) -> None:
    """As of a proxy that comes in between."""

    def reply(asked: Asked) -> Reply:
        if asked.path.startswith("/_resolve/index/mail-"):
            return 200, {"indices": [{"name": "mail-2026.11.23", "attributes": []}]}
        return 200, body

    with served(reply) as server, pytest.raises(NoAnswerError, match="not that of Elasticsearch"):
        ask(server)


def test_a_search_that_is_refused_tells_the_cause() -> None:
    error = {"reason": "all shards failed", "caused_by": {"reason": "too\nmuch"}}

    def reply(asked: Asked) -> Reply:
        if asked.path.startswith("/_resolve"):
            return 200, {"indices": [{"name": "mail-2026.11.23", "attributes": []}]}
        return 200, {"responses": [{"error": error, "status": 400}]}

    with served(reply) as server, pytest.raises(StoreError, match=r"to search now \(400: all shards failed: too much"):
        ElasticsearchReader(server, "mail").count(Selection(()))


def test_text_that_cannot_be_looked_for_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"--subject .*: expected UTF-8"):
        parse_query({"subject": "\udcff"}, now=NOW, started_only=False, probes=False)
    with served(lambda _asked: (200, {"indices": []})) as server:
        reader = ElasticsearchReader(server, "mail")
        assert reader.count(Selection((), subject="a" * 256)) == 0
        with pytest.raises(UsageError, match="--subject: Elasticsearch looks for at most 256 characters"):
            reader.count(Selection((), subject="a" * 257))


def test_a_document_that_went_through_an_alias_is_told() -> None:
    answer = {"items": [{"index": {"_index": "other", "_id": "a", "status": 201}}]}
    (outcome,) = outcomes_of([Item("mail-2026.11.23", "a", 1, b"{}")], answer)
    assert outcome.verdict is Verdict.HALT
    assert "an alias of other" in outcome.reason


def fragments(number: int) -> dict[str, dict[str, Any]]:
    """Return so many fragments of one host and queue ID, each a minute after the last, of one or two lines."""
    made = [
        document(
            id=f"mx/4F1~{at:016x}", host="mx", queue_id="4F1", fragment=True, date=stamp(FIRST + 60 * at),
            updated=stamp(FIRST + 60 * at + at % 2), version=65536 * (1 + at % 2),
        )
        for at in range(number)
    ]  # fmt: skip
    return {each["id"]: each for each in made}


def test_many_fragments_of_one_queue_id_take_no_time_that_grows_with_the_square() -> None:
    compared = 0

    class Host(str):
        __slots__ = ()

        def __ne__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__ne__(self, other)

    found = fragments(2000)
    whole = document(id="mx/4F1/1", host="mx", queue_id="4F1", updated=stamp(FIRST + 61), version=65536 * 9)
    known = {id_: {**each, "host": Host("mx")} for id_, each in {**found, "mx/4F1/1": whole}.items()}
    assert superfluous(known) == set(list(found)[:2])
    assert 2000 < compared < 2000 * 100


def test_a_fragment_and_its_pages_go_together() -> None:
    pages = [{**each, "page": at} for at, each in enumerate(fragments(2).values())]
    pages[1] = {**pages[1], "id": f"{pages[0]['id']}#1"}
    whole = document(id="mx/4F1/1", host="mx", queue_id="4F1", updated=stamp(FIRST + 99), version=65536 * 9)
    assert superfluous({each["id"]: each for each in (*pages, whole)}) == {each["id"] for each in pages}


def test_a_fragment_with_a_filter_that_the_whole_mail_lacks_is_kept() -> None:
    def row(verdict: str, date: str) -> dict[str, Any]:
        return {
            "filter": "rspamd",
            "verdict": verdict,
            "score": 1.5,
            "required_score": 15.0,
            "detail": "",
            "date": date,
        }

    (fragment,) = fragments(1).values()
    second = stamp(FIRST)
    fragment["filters"] = [row("no action", second)]
    whole = document(id="mx/4F1/1", host="mx", queue_id="4F1", updated=stamp(FIRST + 99), version=65536 * 9)
    finer = second.replace(".000Z", ".451Z")
    for filters, is_gone in (
        ([], False),
        ([row("reject", second)], False),
        ([row("no action", stamp(FIRST + 1))], False),
        ([row("reject", second), row("no action", finer)], True),
    ):
        known = {each["id"]: each for each in (fragment, {**whole, "filters": filters})}
        assert superfluous(known) == ({fragment["id"]} if is_gone else set())
    old = {name: value for name, value in whole.items() if name != "filters"}  # as an older mailspan wrote it
    assert superfluous({each["id"]: each for each in (fragment, old)}) == set()


def lines(queue_id: str, *stamps: str) -> bytes:
    return b"".join(
        f"{each} mx postfix/smtpd[1]: {queue_id}{at}: client=c.example.org[192.0.2.7]\n".encode()
        for at, each in enumerate(stamps)
    )


@pytest.mark.slow
def test_a_date_of_any_year_is_found_and_harms_no_search(node: Node) -> None:
    log = lines("4F00A", "2026-11-20T10:00:00+00:00", "3000-01-01T10:00:00+00:00", "9998-12-31T10:00:00+00:00")
    given = settings(node, "absurd")
    assert mailspan("setup", settings=given).returncode == 0
    expected = mailspan("parse", "-", given=log).stdout.splitlines()
    with Server(connection_of(Settings(), node.url)) as server:
        writer = ElasticsearchWriter(server, "absurd", date.min, patience_seconds=30.0)
        assert writer.write([orjson.loads(each) for each in expected], expected).indexed == 3
    assert found_of(node, "absurd") == sorted(expected)


@pytest.mark.slow
def test_a_flood_of_days_far_ahead_makes_no_index(node: Node) -> None:
    log = lines("4F00F", "2026-11-20T10:00:00+00:00", *(f"{year}-01-01T10:00:00+00:00" for year in range(5000, 5100)))
    given = settings(node, "flooded")
    assert mailspan("setup", settings=given).returncode == 0
    done = mailspan("index", "-", settings=given, given=log)
    assert done.returncode == 3
    assert done.stderr.startswith(b"mailspan: 100 documents were refused; the first: mx/4F00F1/")
    assert b": its date, 5000-01-01T10:00:00.000Z, is after 2" in done.stderr
    assert [orjson.loads(each)["queue_id"] for each in found_of(node, "flooded")] == ["4F00F0"]
    with Server(connection_of(Settings(), node.url)) as server:
        assert [index.name for index in DailyIndices(server, "flooded").all()] == ["flooded-2026.11.20"]


@pytest.mark.slow
def test_a_prefix_may_begin_with_another_and_a_digit(node: Node) -> None:
    for prefix in ("within", "within-2", "within-2026"):
        done = mailspan("setup", settings=settings(node, prefix))
        assert (done.returncode, done.stderr) == (0, b""), prefix
        status, found = node.ask("POST", f"/_index_template/_simulate_index/{prefix}-2026.11.23")
        assert status == 200
        assert isinstance(found, dict)
        assert "mailspan" in found["template"]["mappings"]["_meta"]
        others = {each["name"] for each in found["overlapping"]}
        assert prefix not in others
        log = lines(f"4F00{len(prefix)}", "2026-11-20T10:00:00+00:00")
        assert mailspan("index", "-", settings=settings(node, prefix), given=log).returncode == 0
        assert [orjson.loads(each)["queue_id"] for each in found_of(node, prefix)] == [f"4F00{len(prefix)}0"]


@pytest.mark.slow
def test_an_alias_or_a_closed_index_in_the_place_of_a_day_is_told_by_name(node: Node) -> None:
    given = settings(node, "taken-place")
    assert mailspan("setup", settings=given).returncode == 0
    assert node.ask("PUT", "/elsewhere", {"aliases": {"taken-place-2026.11.20": {}}})[0] == 200
    done = mailspan("index", "-", settings=given, given=lines("4F00B", "2026-11-20T10:00:00+00:00"))
    assert done.returncode == 3
    assert b"takes no documents: it is an alias of elsewhere" in done.stderr
    assert b"(index taken-place-2026.11.20)" in done.stderr
    assert node.ask("PUT", "/taken-place-2026.11.21", {})[0] == 200
    assert node.ask("POST", "/taken-place-2026.11.21/_close")[0] == 200
    done = mailspan("index", "-", settings=given, given=lines("4F00C", "2026-11-21T10:00:00+00:00"))
    assert done.returncode == 3
    assert b"takes no documents: closed (index taken-place-2026.11.21)" in done.stderr


@pytest.mark.slow
def test_an_index_made_without_the_template_is_named(node: Node) -> None:
    given = settings(node, "bare")
    assert mailspan("setup", settings=given).returncode == 0
    assert mailspan("index", "-", settings=given, given=lines("4F00D", "2026-11-20T10:00:00+00:00")).returncode == 0
    assert node.ask("DELETE", "/_index_template/bare")[0] == 200
    assert node.ask("PUT", "/bare-2026.11.21/_doc/1", {"date": "2026-11-21", "id": "1"})[0] == 201
    assert node.ask("POST", "/bare-*.*.*/_refresh")[0] == 200
    done = mailspan("search", "--json", settings=given)
    assert done.returncode == 3
    assert len(done.stdout.splitlines()) == 1
    assert b"1 of 2 shards did not answer (bare-2026.11.21: " in done.stderr


RECIPIENTS = 50_000


@pytest.mark.slow
def test_a_mail_with_fifty_thousand_recipients_is_found_by_any(node: Node, tmp_path: Path) -> None:
    log = tmp_path / "mail.log"
    begin = "2026-11-20T10:00:00+00:00 mx postfix"
    with log.open("w") as file:
        file.write(f"{begin}/smtpd[1]: 4F00E1: client=c.example.org[192.0.2.7]\n")
        file.write(f"{begin}/qmgr[1]: 4F00E1: from=<list@example.com>, size=9, nrcpt={RECIPIENTS} (queue active)\n")
        file.writelines(
            f"{begin}/smtp[1]: 4F00E1: to=<user{at}@example.net>, relay=mx.example.net[192.0.2.1]:25, delay=1,"
            f" delays=0/0/0/1, dsn={'5.1.1' if at == 31_415 else '2.0.0'},"
            f" status={'bounced (550 no)' if at == 31_415 else 'sent (250 ok)'}\n"
            for at in range(RECIPIENTS)
        )
        file.write(f"{begin}/qmgr[1]: 4F00E1: removed\n")
    given = settings(node, "many")
    assert mailspan("setup", settings=given).returncode == 0
    assert mailspan("index", str(log), settings=given).returncode == 0
    assert found_of(node, "many") == sorted(mailspan("parse", str(log)).stdout.splitlines())
    with Server(connection_of(Settings(), node.url)) as server:
        reader = ElasticsearchReader(server, "many")
        for at in (0, 499, 500, 31_415, RECIPIENTS - 1):
            assert reader.count(chosen(recipient=f"User{at}@example.net")) == 1
            bounced = chosen(recipient=f"user{at}@example.net", outcome="bounced")
            assert reader.count(bounced) == int(at == 31_415)
        assert reader.count(chosen(recipient=f"user{RECIPIENTS}@example.net")) == 0
        assert reader.count(chosen(sender="list@example.com")) == 1
        assert len(reader.count_by(Selection(()), "recipient")) == RECIPIENTS


def chosen(**flags: str) -> Selection:
    return select(parse_query(dict(flags), now=NOW, started_only=False, probes=False))
