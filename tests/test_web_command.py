"""`mailspan web` as it is called: over sockets, behind a proxy, its exit codes and its end; and over Elasticsearch."""

from __future__ import annotations

import http.client
import signal
import socket
import threading
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import orjson
import pytest

from mailspan.commands.stopping import LAST_SECONDS
from mailspan.settings import Settings
from sink.elasticsearch_settings import connection_of
from tests.indexing import wait_until
from tests.running import mailspan_here
from tests.scripted_http import scripted_http
from tests.search_documents import attempt, document
from tests.test_search_elasticsearch import put
from tests.trace_cases import CASES
from tests.web_page import hostile_documents, page_over, served, write
from web.app import MOST_LOOKUPS, WAIT_SECONDS
from web.stores import ElasticsearchStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.elasticsearch_server import Node
    from tests.scripted_http import Asked, Reply
    from tests.web_page import Served

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A page behind a proxy, which tells its user in X-Forwarded-User."""
    folder = tmp_path_factory.mktemp("served")
    store = write(folder / "mail.db", [document(queue_id="A1", to=[attempt("bob@example.net")])])
    settings = {"WEB_USER_HEADER": "X-Forwarded-User", "METRICS_ADDRESS": "127.0.0.1:0"}
    with served(f"sqlite:///{store}", folder, **settings) as found:
        yield found


def get(at: str, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection(urlsplit(at).netloc, timeout=20)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()
    connection.close()
    return found


def sent(at: str, request: bytes) -> bytes:
    host, _, port = urlsplit(at).netloc.partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(request)
        with suppress(OSError):  # it may have answered, and closed, already
            connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_it_answers_over_a_socket(behind: Served) -> None:
    status, headers, body = get(behind.url, "/?to=bob@example.net", **{"X-Forwarded-User": "carol"})
    assert status == 200
    assert "A1" in body
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert "server" not in headers
    last = orjson.loads((behind.errors.parent / "audit.jsonl").read_bytes().splitlines()[-1])
    assert (last["user"], last["peer"], last["found"]) == ("carol", "127.0.0.1", 1)


@pytest.mark.parametrize(
    "more", [b"X-Forwarded-User: root", b"x-forwarded-user:root", b"A: b\r\nX-FORWARDED-USER: ann"]
)
def test_who_is_named_twice_is_nobody(behind: Served, more: bytes) -> None:
    """Else a proxy that adds its header to the browser's would have `ann, root` ask."""
    log = behind.errors.parent / "audit.jsonl"
    before = log.read_bytes() if log.exists() else b""
    request_ = b"GET /?to=a@b HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-User: ann\r\n" + more + b"\r\n\r\n"
    answer = sent(behind.url, request_)
    assert answer.split()[1] == b"400"
    assert b"X-Forwarded-User is there twice" in answer
    assert (log.read_bytes() if log.exists() else b"") == before


def test_a_name_may_have_commas(behind: Served) -> None:
    assert get(behind.url, "/?to=a@b", **{"X-Forwarded-User": "CN=ann,O=Example, Inc."})[0] == 200
    last = orjson.loads((behind.errors.parent / "audit.jsonl").read_bytes().splitlines()[-1])
    assert last["user"] == "CN=ann,O=Example, Inc."


@pytest.mark.parametrize(
    "header", [b"X_Forwarded_User: root", b"X-Forwarded-Users: root", b"X-Forwarded-User:", b"X-Forwarded-User : root"]
)
def test_what_is_not_the_header_names_nobody(behind: Served, header: bytes) -> None:
    answer = sent(behind.url, b"GET /?to=a@b HTTP/1.1\r\nHost: localhost\r\n" + header + b"\r\n\r\n")
    assert answer.split()[1] in {b"401", b"400"}


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", b"421"),
        (b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-User: a\r\n\r\n", b"200"),
        (b"GET / HTTP/1.1\r\nX-Forwarded-User: a\r\n\r\n", b"421"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000, b"413"),
        (b"NONSENSE\r\n\r\n", b"400"),
    ],
)
def test_odd_requests_get_an_error_and_hurt_nobody(behind: Served, request_: bytes, status: bytes) -> None:
    answer = sent(behind.url, request_)
    assert answer.split()[1] == status
    assert b"\r\nContent-Security-Policy: default-src 'none'" in answer
    assert b"\r\nX-Content-Type-Options: nosniff\r\n" in answer
    assert get(behind.url, "/style.css", **{"X-Forwarded-User": "carol"})[0] == 200


def test_a_request_without_end_is_cut_off(behind: Served) -> None:
    try:
        answer = sent(behind.url, b"GET /" + b"x" * 60_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
    except ConnectionError:  # closed before all of it was read
        answer = b"HTTP/1.1 431"
    assert answer.split()[1] == b"431"
    assert get(behind.url, "/style.css", **{"X-Forwarded-User": "carol"})[0] == 200


def test_who_connects_and_says_nothing_holds_nobody_up(behind: Served) -> None:
    host, _, port = urlsplit(behind.url).netloc.partition(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(40)]
    try:
        for each in silent:
            each.sendall(b"GET / HT")
        assert get(behind.url, "/style.css", **{"X-Forwarded-User": "carol"})[0] == 200
    finally:
        for each in silent:
            each.close()


@pytest.mark.parametrize(
    "said", [b"", b"GET / HT", b"GET /style.css HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-User: a\r\n\r\n"]
)
def test_many_that_ask_nothing_keep_nobody_out(behind: Served, said: bytes) -> None:
    """Nor do many that ask and then keep their connections."""
    host, _, port = urlsplit(behind.url).netloc.partition(":")
    with ExitStack() as connections:
        for _ in range(300):
            connections.enter_context(socket.create_connection((host, int(port)))).sendall(said)
        assert get(behind.url, "/style.css", **{"X-Forwarded-User": "carol"})[0] == 200


def test_who_waits_for_an_answer_is_not_cut_off_for_others(tmp_path: Path) -> None:
    asked_for, goes_on = threading.Event(), threading.Event()

    def reply(asked: Asked) -> Reply:
        if asked.path != "/":
            asked_for.set()
            goes_on.wait(30)
        return 200, {"version": {"number": "7.17.29"}}

    with scripted_http(reply) as url, served(url, tmp_path) as page, ExitStack() as connections:
        host, _, port = urlsplit(page.url).netloc.partition(":")
        waits = connections.enter_context(socket.create_connection((host, int(port)), timeout=20))
        waits.sendall(b"GET /?to=a@b HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert asked_for.wait(30)
        others = [connections.enter_context(socket.create_connection((host, int(port)))) for _ in range(300)]
        assert get(page.url, "/style.css")[0] == 200
        goes_on.set()
        assert waits.recv(12) == b"HTTP/1.1 503"  # an answer, though what was scripted is none of an Elasticsearch
        others[0].settimeout(5)
        assert others[0].recv(1) == b""


@pytest.mark.parametrize("request_", [b"GET / HT", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "])
def test_who_asks_byte_by_byte_is_cut_off(tmp_path: Path, request_: bytes) -> None:
    store = write(tmp_path / "mail.db", [document()])
    with served(f"sqlite:///{store}", tmp_path, 1.0) as page:
        host, _, port = urlsplit(page.url).netloc.partition(":")
        with socket.create_connection((host, int(port)), timeout=0.1) as slow:
            slow.sendall(request_)
            assert wait_until(lambda: _is_closed_after(slow, b"x"), 10.0)


def _is_closed_after(connection: socket.socket, more: bytes) -> bool:
    try:
        connection.sendall(more)
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_slow_look_ups_hold_up_none_that_look_up_nothing(tmp_path: Path) -> None:
    goes_on = threading.Event()

    def reply(asked: Asked) -> Reply:
        if asked.path != "/":
            goes_on.wait(30)
        return 200, {"version": {"number": "7.17.29"}}

    with scripted_http(reply) as url, served(url, tmp_path) as page, ExitStack() as connections:
        host, _, port = urlsplit(page.url).netloc.partition(":")
        for _ in range(60):
            each = connections.enter_context(socket.create_connection((host, int(port))))
            each.sendall(b"GET /?to=a@b HTTP/1.1\r\nHost: localhost\r\n\r\n")
        started = time.monotonic()
        assert get(page.url, "/style.css")[0] == 200
        assert time.monotonic() - started < WAIT_SECONDS - 1
        goes_on.set()


def test_metrics_name_pages_and_nothing_that_was_asked(behind: Served) -> None:
    first = behind.errors.read_text(encoding="utf-8").split("metrics at ")[1].split()[0]
    get(behind.url, "/explain?id=secret@example.com", **{"X-Forwarded-User": "carol"})
    base = first.removesuffix("/metrics")
    assert wait_until(lambda: 'mailspan_web_answers_total{code="404",page="explain"} 1.0' in get(base, "/metrics")[2])
    text = get(base, "/metrics")[2]
    assert "secret" not in text
    assert "carol" not in text
    assert get(base, "/livez")[0] == get(base, "/readyz")[0] == 200


def test_told_to_stop_it_answers_who_asked_and_ends_well(tmp_path: Path) -> None:
    asked_for = threading.Event()
    goes_on = threading.Event()

    def reply(asked: Asked) -> Reply:
        if asked.path == "/":
            return 200, {"version": {"number": "7.17.29"}}
        asked_for.set()
        goes_on.wait(20)
        return 200, {}

    with scripted_http(reply) as url, served(url, tmp_path) as page:
        found: list[int] = []
        waiting = threading.Thread(target=lambda: found.append(get(page.url, "/?to=a@b")[0]))
        waiting.start()
        assert asked_for.wait(30)
        page.process.send_signal(signal.SIGTERM)
        host, _, port = urlsplit(page.url).netloc.partition(":")
        assert wait_until(lambda: _is_refused(host, int(port)))
        goes_on.set()
        waiting.join()
        assert found == [503]  # an answer, though what was scripted is none of an Elasticsearch
        assert page.process.wait(LAST_SECONDS) == 0


def _is_refused(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except (ConnectionRefusedError, ConnectionResetError):  # reset: it was in the queue as the listener was closed
        return True
    return False


def test_told_to_stop_it_ends_in_time_whatever_holds_it(tmp_path: Path) -> None:
    goes_on = threading.Event()

    def reply(asked: Asked) -> Reply:
        if asked.path != "/":
            goes_on.wait(30)
        return 200, {"version": {"number": "7.17.29"}}

    with scripted_http(reply) as url, served(url, tmp_path) as page:
        host, _, port = urlsplit(page.url).netloc.partition(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"GET /?to=a@b HTTP/1.1\r\nHost: localhost\r\n\r\n")
            started = time.monotonic()
            page.process.send_signal(signal.SIGTERM)
            assert page.process.wait(LAST_SECONDS + 5) == 0
            assert time.monotonic() - started < LAST_SECONDS + 1
        goes_on.set()


@pytest.mark.parametrize(
    ("settings", "status", "said"),
    [
        ({"WEB_ADDRESS": "0.0.0.0:0"}, 2, "can be reached from other machines, and nobody would be asked"),
        ({"WEB_ADDRESS": "[::]:0"}, 2, "MAILSPAN_WEB_ADDRESS"),
        ({"WEB_ADDRESS": "192.0.2.1:1"}, 2, "set MAILSPAN_WEB_USER_HEADER"),
        ({"WEB_ADDRESS": "192.0.2.1:1", "WEB_USER_HEADER": "X-User"}, 3, "cannot be listened at"),
        ({"WEB_ADDRESS": "here"}, 2, "MAILSPAN_WEB_ADDRESS: 'here' is not right"),
        ({"WEB_AUDIT_LOG": "/nowhere/audit.jsonl"}, 3, "the audit log /nowhere/audit.jsonl cannot be written"),
        ({"WEB_ZONE": "Mars/Olympus"}, 2, "MAILSPAN_WEB_ZONE"),
        ({"WEB_USER_HEADER": "X Forwarded"}, 2, "MAILSPAN_WEB_USER_HEADER"),
        ({"WEB_PROXIES": "10.0.0.0/99"}, 2, "MAILSPAN_WEB_PROXIES"),
        ({"WEB_HOSTS": "a b"}, 2, "MAILSPAN_WEB_HOSTS"),
        ({"STORE": "https://user:secret@es:9200"}, 2, "holds a user or password"),
    ],
)
def test_what_cannot_be_is_said_at_the_start(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, settings: dict[str, str], status: int, said: str
) -> None:
    given = {"WEB_ADDRESS": "127.0.0.1:0", "WEB_AUDIT_LOG": str(tmp_path / "audit.jsonl"), **settings}
    done = mailspan_here(capsys, "web", settings=given)
    assert done.status == status
    assert said in done.errors
    assert len(done.errors.splitlines()) == 1
    assert "secret" not in done.errors


def test_both_stores_give_the_same_pages(node: Node, tmp_path: Path) -> None:
    documents = [*CASES["missing_middle"].documents, *CASES["message_id_twice"].documents, *hostile_documents()[:8]]
    put(node, "webbed", documents)
    here = page_over(write(tmp_path / "mail.db", documents), tmp_path)
    store = ElasticsearchStore(connection_of(Settings(), node.url), "webbed", MOST_LOOKUPS)
    there = here.with_changes(store=store)
    try:
        for url in (
            "/?from=alice@example.com&number=20",
            "/?subject=script&since=2026-01-01",
            f"/trace?id={CASES['missing_middle'].seed}",
            "/trace?id=%3Ctwice@example.com%3E",
            "/transaction?id=evil1/H1",
            "/explain?id=evil0/H0",
        ):
            wanted, found = here.get(url), there.get(url)
            assert wanted.status_code == found.status_code == 200
            start, end = '<div class="notice', "</div>\n"  # which days have no index: SQLite has none at all
            text = found.text
            if url.startswith("/?") and start in text and start not in wanted.text:
                text = text[: text.index(start)] + text[text.index(end, text.index(start)) + len(end) :]
            assert text.split() == wanted.text.split(), url
    finally:
        store.close()
