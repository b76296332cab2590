"""The Elasticsearch client against a real node and against servers that misbehave; how it is told where and who."""

from __future__ import annotations

import hashlib
import ssl
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from mailspan.errors import StoreError, UsageError
from mailspan.settings import Settings, read_settings
from sink.elasticsearch import NoAnswerError, Server
from sink.elasticsearch_settings import connection_of, is_elasticsearch
from tests.certificates import Authority
from tests.jars import free_port
from tests.scripted_http import Asked, Reply, scripted_http

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.elasticsearch_server import Node

SECRET = "aW0tYS1zZWNyZXQ="  # noqa: S105 - what must be seen nowhere


@contextmanager
def scripted(status: int, body: bytes, context: ssl.SSLContext | None = None) -> Iterator[tuple[str, list[str]]]:
    """Run a server that always gives this answer; yields its URL and the Authorization headers it saw."""
    seen: list[str] = []

    def reply(asked: Asked) -> Reply:
        seen.append(asked.headers.get("authorization", ""))
        return status, body

    with scripted_http(reply, context) as url:
        yield url, seen


GOOD = b'{"version":{"number":"8.19.3"}}'


@pytest.mark.slow
def test_a_real_node_is_asked_and_answers(node: Node) -> None:
    with Server(connection_of(Settings(elasticsearch_url=node.url))) as server:
        assert server.version() == (7, 17)
        assert server.request("GET", "/nothing-here").status == 404
        missing = server.request("GET", "/nothing-here/_search", body={"query": {"match_all": {}}})
        assert (missing.status, missing.kind) == (404, "index_not_found_exception")
        assert "nothing-here" in missing.reason
        with pytest.raises(StoreError, match=r"404|has not what is needed to look \(no such index"):
            server.ask("GET", "/nothing-here/_search", "to look")
        assert server.ask("GET", "/_cat/indices", "to look", query={"format": "json", "expand_wildcards": "none"}) == []


def test_nobody_there_names_the_setting() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with Server(connection_of(Settings(elasticsearch_url=url))) as server, pytest.raises(NoAnswerError) as caught:
        server.request("GET", "/")
    assert f"no Elasticsearch answers at {url} (" in str(caught.value)
    assert str(caught.value).endswith("; see MAILSPAN_ELASTICSEARCH_URL")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_one_that_hangs_is_given_up(node: Node) -> None:
    with Server(connection_of(Settings(elasticsearch_url=node.url))) as server:
        node.freeze()
        try:
            with pytest.raises(NoAnswerError, match="no answer within 1 s"):
                server.request("GET", "/", seconds=1.0)
        finally:
            node.thaw()


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (
            200,
            b'{"version":{"number":"2.11.0","distribution":"opensearch"}}',
            "is no Elasticsearch (opensearch 2.11.0)",
        ),
        (200, b'{"version":{"number":"7.10.2"}}', "is 7.10.2; 7.17 is the oldest that is supported"),
        (200, b'{"hello":"world"}', "is no Elasticsearch (elasticsearch of no version)"),
        (200, b"[1]", "is no Elasticsearch"),
        (
            401,
            b'{"error":{"type":"security_exception","reason":"missing\\n token"}}',
            "credentials (missing token); see",
        ),
        (503, b"", "cannot be asked to be asked now (503"),
        (200, b"{no json", "what answers speaks no JSON"),
        (200, b'{"a":"\xff"}', "what answers speaks no JSON"),
        (200, b"[" * 100_000, "what answers speaks no JSON"),
    ],
)
def test_what_is_no_elasticsearch_of_ours_is_told(status: int, body: bytes, expected: str) -> None:
    with scripted(status, body) as (url, _), Server(connection_of(Settings(elasticsearch_url=url))) as server:
        with pytest.raises((StoreError, NoAnswerError)) as caught:
            server.version()
        assert expected in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"elasticsearch_api_key": SECRET}, f"ApiKey {SECRET}"),
        ({"elasticsearch_username": "bob", "elasticsearch_password": "ü:x"}, "Basic Ym9iOsO8Ong="),
        ({}, ""),
    ],
)
def test_credentials_are_sent_and_are_in_no_message(settings: dict[str, str], expected: str) -> None:
    with scripted(401, b'{"error":"no"}') as (url, seen):
        connection = connection_of(Settings(elasticsearch_url=url, **settings))  # type: ignore[arg-type]
        assert SECRET not in repr(connection)
        with Server(connection) as server, pytest.raises(StoreError) as caught:
            server.ask("GET", "/", "to be asked")
    assert seen == [expected]
    assert not any(value in str(caught.value) for value in settings.values())


def test_a_secret_is_read_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"{SECRET}\n")
    settings = Settings(elasticsearch_url="http://a", elasticsearch_api_key_file=str(file))
    assert connection_of(settings).authorization == f"ApiKey {SECRET}"


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe", b"a\x01b", "kéy".encode()])
def test_a_bad_secret_file_is_told_by_its_setting(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=r"^MAILSPAN_ELASTICSEARCH_API_KEY") as caught:
        connection_of(Settings(elasticsearch_url="http://a", elasticsearch_api_key_file=str(file)))
    assert "kéy" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"elasticsearch_url": "localhost:9200"},
        {"elasticsearch_url": "ftp://a"},
        {"elasticsearch_url": "http://a:port"},
        {"elasticsearch_url": f"https://bob:{SECRET}@a:9200"},
        {"elasticsearch_url": f"https://a:9200?{SECRET}"},
        {"elasticsearch_url": "https://[::1"},
        {"elasticsearch_url": "https://a", "elasticsearch_ca_file": "/nowhere"},
        {"elasticsearch_url": "https://a", "elasticsearch_fingerprint": SECRET},
        {"elasticsearch_url": "https://a", "elasticsearch_username": "bob"},
        {"elasticsearch_url": "https://a", "elasticsearch_password": SECRET},
        {
            "elasticsearch_url": "https://a",
            "elasticsearch_api_key": SECRET,
            "elasticsearch_username": "bob",
            "elasticsearch_password": SECRET,
        },
        {"elasticsearch_url": "https://a", "elasticsearch_api_key": SECRET, "elasticsearch_api_key_file": "/nowhere"},
    ],
)
def test_a_wrong_setting_is_told_without_what_it_holds(settings: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="MAILSPAN_ELASTICSEARCH_") as caught:
        connection_of(Settings(**settings))  # type: ignore[arg-type]
    assert SECRET not in str(caught.value)


def test_addresses_are_completed() -> None:
    settings = Settings(elasticsearch_url="HTTPS://a.example.com, http://[2001:db8::1]:9201/es/")
    assert connection_of(settings).urls == ("https://a.example.com:443", "http://[2001:db8::1]:9201/es")
    assert connection_of(settings, "http://b.example.com").urls == ("http://b.example.com:80",)
    assert is_elasticsearch("HTTPS://a")
    assert not is_elasticsearch("sqlite:///https://a")


def test_settings_come_from_the_environment_and_hide_secrets() -> None:
    found = read_settings({"MAILSPAN_INDEX_PREFIX": "mail-x", "MAILSPAN_INDEX_REPLICAS": "0"})
    assert (found.index_prefix, found.index_replicas, found.index_shards) == ("mail-x", 0, 1)
    for name, value in (("INDEX_PREFIX", "Mail"), ("INDEX_PREFIX", "a*"), ("INDEX_SHARDS", "0"), ("INDEX_SHARDS", "²")):
        with pytest.raises(UsageError, match=f"MAILSPAN_{name}"):
            read_settings({f"MAILSPAN_{name}": value})
    with pytest.raises(UsageError) as caught:
        read_settings({"MAILSPAN_ELASTICSEARCH_API_KEY": f"{SECRET}\0"})
    assert SECRET not in str(caught.value)


@contextmanager
def over_tls(tmp_path: Path) -> Iterator[tuple[str, Authority, str]]:
    """Run a good server over TLS; yields its URL, its CA and the fingerprint of its certificate."""
    authority = Authority(tmp_path / "authority", "Example CA")
    certificate, key = authority.issue("es", "IP:127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.read_text())).hexdigest()
    with scripted(200, GOOD, context) as (url, _):
        yield url, authority, fingerprint


def test_tls_with_the_ca_or_the_fingerprint(tmp_path: Path) -> None:
    with over_tls(tmp_path) as (url, authority, fingerprint):
        colons = ":".join(fingerprint[n : n + 2] for n in range(0, 64, 2)).upper()
        for settings in ({"elasticsearch_ca_file": str(authority.certificate)}, {"elasticsearch_fingerprint": colons}):
            with Server(connection_of(Settings(elasticsearch_url=url, **settings))) as server:  # type: ignore[arg-type]
                assert server.version() == (8, 19)


def test_tls_that_cannot_be_trusted_names_the_settings(tmp_path: Path) -> None:
    other = Authority(tmp_path / "other", "Other CA")
    with over_tls(tmp_path) as (url, _, fingerprint):
        wrong = fingerprint.translate(str.maketrans("0123456789abcdef", "123456789abcdef0"))
        for settings in (
            {"elasticsearch_ca_file": str(other.certificate)},
            {"elasticsearch_fingerprint": wrong},
            {},
        ):
            connection = connection_of(Settings(elasticsearch_url=url, **settings))  # type: ignore[arg-type]
            with Server(connection) as server, pytest.raises(NoAnswerError) as caught:
                server.version()
            assert "see MAILSPAN_ELASTICSEARCH_CA_FILE or MAILSPAN_ELASTICSEARCH_FINGERPRINT" in str(caught.value)


def test_a_ca_file_without_certificates_is_told(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("nothing")
    with pytest.raises(StoreError, match=r"MAILSPAN_ELASTICSEARCH_CA_FILE: .*holds no certificates in PEM"):
        Server(connection_of(Settings(elasticsearch_url="https://a", elasticsearch_ca_file=str(file))))


def test_an_answer_that_only_the_clients_own_reader_takes_is_read() -> None:
    with (
        scripted(200, rb'{"half":"\ud800"}') as (url, _),
        Server(connection_of(Settings(elasticsearch_url=url))) as server,
    ):
        assert server.ask("GET", "/", "to be asked") == {"half": "\ud800"}
