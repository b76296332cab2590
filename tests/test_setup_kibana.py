"""`mailspan setup --kibana` against a server that plays Kibana's part: good answers, bad ones and hostile ones."""

from __future__ import annotations

import email.parser
import socket
import ssl
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from mailspan.errors import StoreError, UsageError
from mailspan.settings import Settings
from sink.kibana import Kibana
from sink.kibana_ndjson import ndjson, saved_objects
from sink.kibana_settings import KibanaConnection, kibana_of
from tests.certificates import Authority
from tests.jars import free_port
from tests.kibana_files import FILE
from tests.running import mailspan_here
from tests.scripted_http import Asked, Reply, scripted_http

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

OBJECTS = saved_objects("mail-transactions")
STATUS = {"name": "kibana", "version": {"number": "8.19.21"}, "status": {"overall": {"level": "available"}}}
DONE = {"success": True, "successCount": len(OBJECTS), "warnings": [], "successResults": []}


class Played:
    """A Kibana that keeps what it was asked, and answers a path as it is told."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.answers: dict[str, Reply] = {}

    def __call__(self, asked: Asked) -> Reply:
        self.asked.append(asked)
        path = asked.path.partition("?")[0]
        for end, answer in self.answers.items():
            if path.endswith(end):
                return answer
        if path.endswith("/api/status"):
            return 200, STATUS
        if "/api/spaces/space/" in path:
            return 200, {"id": path.rpartition("/")[2], "name": "A space"}
        if path.endswith("/api/saved_objects/_import"):
            return 200, DONE
        return 404, {"statusCode": 404, "error": "Not Found", "message": "Not Found"}

    @property
    def paths(self) -> list[str]:
        return [f"{asked.method} {asked.path}" for asked in self.asked]


@pytest.fixture
def kibana() -> Iterator[tuple[str, Played]]:
    played = Played()
    with scripted_http(played) as url:
        yield url, played


def imported(asked: Asked) -> bytes:
    """Return the file of a multipart request, read by the standard library."""
    head = f"Content-Type: {asked.headers['content-type']}\r\n\r\n".encode()
    (part,) = list(email.parser.BytesParser().parsebytes(head + asked.body).walk())[1:]
    assert part.get_filename() == "mailspan.ndjson"  # Kibana takes no other ending
    assert part.get_param("name", header="content-disposition") == "file"
    found = part.get_payload(decode=True)
    assert isinstance(found, bytes)
    return found


def test_all_objects_are_imported_again_and_again(
    kibana: tuple[str, Played], capsys: pytest.CaptureFixture[str]
) -> None:
    url, played = kibana
    for _ in range(2):
        done = mailspan_here(capsys, "setup", "--kibana", url)
        assert (done.status, done.errors) == (0, "")
        lines = done.output.splitlines()
        assert len(lines) == len(OBJECTS) + 1
        assert "dashboard Mail flow: imported" in lines
        assert lines[-1] == f"Kibana 8.19.21 at {url}, space default: {len(OBJECTS)} objects imported"
    import_path = "POST /api/saved_objects/_import?overwrite=true"
    assert played.paths == ["GET /api/status", "GET /api/spaces/space/default", import_path] * 2
    assert imported(played.asked[2]) == imported(played.asked[5]) == FILE.read_bytes()
    assert all(asked.headers["kbn-xsrf"] == "mailspan" for asked in played.asked)
    assert not any("authorization" in asked.headers for asked in played.asked)


def test_a_dry_run_imports_nothing(kibana: tuple[str, Played], capsys: pytest.CaptureFixture[str]) -> None:
    url, played = kibana
    done = mailspan_here(capsys, "setup", "--dry-run", settings={"KIBANA_URL": url})
    assert (done.status, done.errors) == (0, "")
    assert "data view mail-transactions-*: would be imported" in done.output.splitlines()
    assert played.paths == ["GET /api/status", "GET /api/spaces/space/default"]


def test_the_prefix_the_space_and_the_path(kibana: tuple[str, Played], capsys: pytest.CaptureFixture[str]) -> None:
    url, played = kibana
    settings = {"KIBANA_SPACE": "help_desk", "INDEX_PREFIX": "mail2"}
    assert mailspan_here(capsys, "setup", "--kibana", f"{url}/base/", settings=settings).status == 0
    assert mailspan_here(capsys, "setup", "--kibana", f"{url}/base/s/help_desk").status == 0
    paths = [
        "GET /base/api/status",
        "GET /base/api/spaces/space/help_desk",
        "POST /base/s/help_desk/api/saved_objects/_import?overwrite=true",
    ]
    assert played.paths == paths * 2
    assert imported(played.asked[2]) == ndjson(saved_objects("mail2"))


@pytest.mark.parametrize(
    ("settings", "header"),
    [
        ({"KIBANA_API_KEY_FILE": "key"}, "ApiKey c2VjcmV0OmtleQ=="),
        ({"KIBANA_API_KEY": "c2VjcmV0OmtleQ=="}, "ApiKey c2VjcmV0OmtleQ=="),
        ({"KIBANA_USERNAME": "ann", "KIBANA_PASSWORD_FILE": "password"}, "Basic YW5uOmh1bnRlcjI="),
        ({"KIBANA_USERNAME": "ann", "KIBANA_PASSWORD": "hunter2"}, "Basic YW5uOmh1bnRlcjI="),
    ],
)
def test_credentials(
    kibana: tuple[str, Played],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    settings: dict[str, str],
    header: str,
) -> None:
    url, played = kibana
    (tmp_path / "key").write_text("c2VjcmV0OmtleQ==\n", encoding="utf-8")
    (tmp_path / "password").write_text("hunter2\n", encoding="utf-8")
    given = {name: str(tmp_path / value) if name.endswith("_FILE") else value for name, value in settings.items()}
    assert mailspan_here(capsys, "setup", "--kibana", url, settings=given).status == 0
    assert [asked.headers["authorization"] for asked in played.asked] == [header] * 3
    played.answers["/_import"] = 401, {"statusCode": 401, "message": "nobody"}
    done = mailspan_here(capsys, "setup", "--kibana", url, settings=given)
    assert done.status == 3
    assert "hunter2" not in done.errors
    assert header.partition(" ")[2] not in done.errors


@pytest.mark.parametrize(
    ("arguments", "settings", "told"),
    [
        (("--kibana", ""), {}, "--kibana is empty"),
        (("--kibana", "kibana:5601"), {}, "--kibana: expected https://HOST:PORT"),
        (("--kibana", "https://ann:hunter2@kibana"), {}, "--kibana holds a user or password; they go into MAILSPAN_KIBANA_"),
        (("--kibana", "https://kibana/a?b=c"), {}, "--kibana: expected"),
        (("--kibana", "https://kibana/a b"), {}, "--kibana: expected"),
        (("--kibana", "https://kibana/a\r\nX: y"), {}, "--kibana: expected"),
        ((), {"KIBANA_URL": "ftp://kibana"}, "MAILSPAN_KIBANA_URL: expected"),
        ((), {"KIBANA_URL": "https://kibana/s/a", "KIBANA_SPACE": "b"}, "names the space a, and MAILSPAN_KIBANA_SPACE b"),
        (("--kibana", "https://kibana"), {"KIBANA_SPACE": "A/b"}, "MAILSPAN_KIBANA_SPACE: 'A/b' is not right"),
        (("--kibana", "https://kibana"), {"KIBANA_CA_FILE": "/none"}, "MAILSPAN_KIBANA_CA_FILE: /none is no file"),
        (("--kibana", "https://kibana"), {"KIBANA_API_KEY_FILE": "/none"}, "MAILSPAN_KIBANA_API_KEY_FILE: /none cannot be"),
        (("--kibana", "https://kibana"), {"KIBANA_API_KEY": "a", "KIBANA_USERNAME": "b"}, "MAILSPAN_KIBANA_API_KEY_FILE, or"),
        (("--kibana", "https://kibana"), {"KIBANA_USERNAME": "b"}, "MAILSPAN_KIBANA_USERNAME and MAILSPAN_KIBANA_PASSW"),
        ((), {}, "nor is --kibana given"),
    ],
)  # fmt: skip
def test_wrong_usage(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], settings: dict[str, str], told: str
) -> None:
    done = mailspan_here(capsys, "setup", *arguments, settings=settings)
    assert (done.status, done.output) == (2, "")
    assert told in done.errors
    assert len(done.errors.splitlines()) == 1
    assert "hunter2" not in done.errors


REFUSED = {"id": "x", "type": "dashboard", "meta": {"title": "Mail \x1b[31mflow"}}
BAD: list[tuple[str, Reply, str]] = [
    ("/status", (401, {"message": "unable to\nauthenticate"}), "refuses the credentials (unable to authenticate); see MAILSPAN_KIBANA_API"),
    ("/status", (200, {"status": {"overall": {"level": "available"}}}), "does not say its version to who asks; see MAILSPAN_KIBANA_API"),
    ("/status", (503, {"status": {"overall": {"level": "critical"}}}), "is not ready"),
    ("/status", (503, "<html>busy</html>"), "is not ready (status 503)"),
    ("/status", (200, {"version": {"number": "8.18.9"}}), "is 8.18.9; 8.19 is the oldest that is supported"),
    ("/status", (200, {"version": {"number": "7.17.29"}}), "is 7.17.29; 8.19 is the oldest"),
    ("/status", (200, {"version": {"number": "9"}}), "is no Kibana"),
    ("/status", (200, {"version": {"number": 9}}), "is no Kibana"),
    ("/status", (200, {"version": "9.1.0"}), "is no Kibana"),
    ("/status", (200, {"version": {"number": f"9.1.0\n{'x' * 99}"}}), "is no Kibana"),
    ("/status", (200, []), "is no Kibana"),
    ("/status", (200, "<html>a proxy</html>"), "is no Kibana"),
    ("/status", (200, b"\xff\xfe{"), "is no Kibana"),
    ("/status", (200, b""), "is no Kibana"),
    ("/status", (200, b"[" * 100_000), "is no Kibana"),
    ("/status", (404, "<html>none</html>"), "is no Kibana, or is not ready (status 404); see --kibana"),
    ("/status", (302, "https://evil.example/\x1b"), "sends elsewhere (status 302, https://evil.example/"),
    ("/status", (307, ""), "sends elsewhere (status 307, nowhere)"),
    ("/status", (500, {"error": "Internal", "message": "x" * 5000}), f"refuses its status (500: {'x' * 300})"),
    ("/status", None, "no Kibana answers at"),
    ("/default", (404, {"message": "Not Found"}), "has no space default; see MAILSPAN_KIBANA_SPACE"),
    ("/default", (403, {"message": "Forbidden"}), "gives no right to its space default (Forbidden); see the privileges"),
    ("/default", (200, {"id": "other"}), "is no Kibana"),
    ("/_import", (401, {"message": "expired"}), "refuses the credentials (expired)"),
    ("/_import", (403, {"message": "Unable to bulk_create dashboard"}), "gives no right to the import (Unable to bulk_create dashboard)"),
    ("/_import", (400, {"message": "Document belongs to a more recent version of Kibana"}), "refuses the import (400: Document belongs"),
    ("/_import", (413, {"message": "Payload too large"}), "refuses the import (413: Payload"),
    ("/_import", (429, None), "refuses the import (429: status 429)"),
    ("/_import", (200, {}), "is no Kibana"),
    ("/_import", (302, "/login"), "sends elsewhere (status 302, /login)"),
    (
        "/_import",
        (200, {"success": False, "successCount": 28, "errors": [
            {**REFUSED, "error": {"type": "missing_references", "references": [{"type": "search", "id": "gone"}]}}]}),
        "took 28 of 29 objects: dashboard Mail \\x1b[31mflow (missing_references, search gone)",
    ),
    (
        "/_import",
        (200, {"success": False, "successCount": 24, "errors": [
            {"id": f"id{n}", "type": "search", "error": {"type": "unknown", "message": "no\nroom"}} for n in range(5)]}),
        "took 24 of 29 objects: search id0 (unknown, no room); search id1 (unknown, no room); search id2 (unknown, no room); 2 more",
    ),
    ("/_import", (200, {"success": False, "successCount": 0, "errors": [None, {"error": 3, "meta": 4}]}), "took 0 of 29 objects: "),
    ("/_import", (200, {"success": False, "errors": "all"}), "took 0 of 29 objects: it does not say why"),
    ("/_import", (200, {"success": True, "successCount": 3}), "took 3 of 29 objects: it does not say why"),
    ("/_import", (200, {"success": True, "successCount": 29, "errors": [REFUSED]}), "objects: dashboard Mail"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "answer", "told"), BAD)
def test_a_bad_answer_is_one_line_and_exit_3(
    kibana: tuple[str, Played], capsys: pytest.CaptureFixture[str], path: str, answer: Reply, told: str
) -> None:
    url, played = kibana
    played.answers[path] = answer
    done = mailspan_here(capsys, "setup", "--kibana", url)
    assert (done.status, done.output) == (3, "")
    assert told in done.errors
    assert url in done.errors
    assert len(done.errors.splitlines()) == 1
    assert "\x1b" not in done.errors
    assert played.paths[-1].partition("?")[0].endswith(path)  # nothing is asked after a bad answer


def test_nobody_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    done = mailspan_here(capsys, "setup", "--kibana", f"http://127.0.0.1:{free_port()}")
    assert done.status == 3
    assert "Connection refused" in done.errors
    assert done.errors.endswith("; see --kibana\n")


@pytest.mark.parametrize("version", ["8.19.0", "9.0.0", "9.5.1", "10.0.0-SNAPSHOT"])
def test_versions_that_are_taken(kibana: tuple[str, Played], version: str) -> None:
    url, played = kibana
    played.answers["/status"] = 200, {"version": {"number": version}}
    assert Kibana(kibana_of(Settings(), url)).version() == version


@contextmanager
def peer(talk: Callable[[socket.socket], Any]) -> Iterator[KibanaConnection]:
    """Run a server that talks so to each who connects; what it says after the other end hung up is nobody's business."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ended = threading.Event()

        def serve() -> None:
            while not ended.is_set():
                try:
                    connected, _ = listener.accept()
                except OSError:
                    return
                with connected:
                    try:
                        talk(connected)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield kibana_of(Settings(), f"http://127.0.0.1:{listener.getsockname()[1]}")
        finally:
            ended.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(timeout=10)
            assert not thread.is_alive()


def drip(head: bytes, tail: bytes) -> Callable[[socket.socket], None]:
    def talk(connected: socket.socket) -> None:
        connected.recv(65536)
        connected.sendall(head)
        ended = threading.Event()
        while not ended.wait(0.02):
            connected.sendall(tail)

    return talk


def hold(connected: socket.socket) -> None:
    while connected.recv(65536):
        pass


@pytest.mark.parametrize(
    "talk",
    [
        hold,
        drip(b"HTTP/1.1 200 OK\r\nX-Long: ", b"x"),
        drip(b"HTTP/1.1 200 OK\r\n\r\n", b" "),
        drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        drip(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", b" "),
    ],
    ids=["hang", "header by byte", "body by byte", "chunk by chunk", "promised too much"],
)
def test_a_slow_answer_is_given_up(talk: Callable[[socket.socket], None]) -> None:
    with peer(talk) as connection:
        begun = time.monotonic()
        with pytest.raises(StoreError, match=r"no Kibana answers at .* \(no answer within 0 s\)"):
            Kibana(connection, seconds=0.3).version()
        assert time.monotonic() - begun < 10


def test_a_slow_handshake_is_given_up() -> None:
    with peer(hold) as connection:
        over_tls = KibanaConnection("https", connection.host, connection.port, "", "default", "--kibana")
        with pytest.raises(StoreError, match="no answer within"):
            Kibana(over_tls, seconds=0.3).version()


def flood(connected: socket.socket) -> None:
    connected.recv(65536)
    connected.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connected.sendall(b" " * 65536)


@pytest.mark.parametrize(
    ("talk", "told"),
    [
        (flood, "an answer without an end"),
        (lambda connected: connected.sendall(b"SSH-2.0-OpenSSH\r\n" * 3), "no Kibana answers"),
        (lambda connected: connected.sendall(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n"), "got more than 100 headers"),
        (lambda connected: connected.sendall(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000), "no Kibana answers"),
    ],
)  # fmt: skip
def test_garbage(talk: Callable[[socket.socket], Any], told: str) -> None:
    with peer(talk) as connection, pytest.raises(StoreError, match=told):
        Kibana(connection, seconds=20).version()


def test_tls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    authority, other = Authority(tmp_path / "ca", "Example CA"), Authority(tmp_path / "other", "Other CA")
    certificate, key = authority.issue("kibana", "IP:127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with scripted_http(Played(), context) as url:
        good = {"KIBANA_CA_FILE": str(authority.certificate)}
        assert mailspan_here(capsys, "setup", "--kibana", url, settings=good).status == 0
        for settings in ({}, {"KIBANA_CA_FILE": str(other.certificate)}):
            done = mailspan_here(capsys, "setup", "--kibana", url, settings=settings)
            assert done.status == 3
            assert f"no TLS connection to Kibana at {url}" in done.errors
            assert "see MAILSPAN_KIBANA_CA_FILE" in done.errors
        done = mailspan_here(capsys, "setup", "--kibana", url, settings={"KIBANA_CA_FILE": str(key)})
        assert "holds no certificates in PEM" in done.errors
    with scripted_http(Played()) as url:
        done = mailspan_here(capsys, "setup", "--kibana", url.replace("http:", "https:"))
        assert "is it http:// and not https://?" in done.errors


def test_a_wrong_address_stops_before_anything_is_done(
    kibana: tuple[str, Played], capsys: pytest.CaptureFixture[str]
) -> None:
    url, played = kibana
    done = mailspan_here(capsys, "setup", "--kibana", "nowhere", settings={"ELASTICSEARCH_URL": url})
    assert (done.status, played.asked) == (2, [])


def test_no_secret_is_shown() -> None:
    connection = kibana_of(Settings(kibana_url="https://kibana/base", kibana_username="ann", kibana_password="hunter2"))  # noqa: S106 - a test's
    assert connection.shown == "https://kibana:443/base"
    assert "hunter2" not in repr(connection)
    with pytest.raises(UsageError) as caught:
        kibana_of(Settings(kibana_url="https://kibana", kibana_api_key="hunter2\n", kibana_username="ann"))
    assert "hunter2" not in str(caught.value)


def test_the_file_goes_whole_into_the_request() -> None:
    assert [orjson.loads(line) for line in FILE.read_bytes().splitlines()] == OBJECTS
