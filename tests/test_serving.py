"""What is served beside a loop: its address, its probes, and what whoever connects can do to it, which is little."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mailspan.commands import serving, small_http
from mailspan.commands.serving import LIVE_SECONDS, Served
from mailspan.commands.small_http import LONGEST_REQUEST, MOST_CONNECTIONS, SECONDS, Answer, HttpServer
from mailspan.errors import UsageError
from mailspan.metrics import Figure
from mailspan.settings import read_settings
from tests.kafka_site import wait_until
from tests.running import mailspan
from tests.scraping import Scrape, get

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class Asked:
    """A stop as far as the probes look at it; Stop itself takes the signals of the process."""

    def __init__(self) -> None:
        self.asked_at = time.monotonic()


@pytest.fixture
def stop() -> Asked:
    return Asked()


@contextmanager
def serve(stop: Asked, address: tuple[str, int] | None = ("127.0.0.1", 0)) -> Iterator[tuple[Served, int]]:
    said: list[str] = []
    with serving.serving(address, "reduce", stop, said.append) as served:
        yield served, int(said[0].rpartition(":")[2].partition("/")[0]) if said else 0


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("mx1.example.com:9464", ("mx1.example.com", 9464)),
        ("[::1]:9464", ("::1", 9464)),
        ("[fe80::1%eth0]:9464", ("fe80::1%eth0", 9464)),
        (":9464", ("127.0.0.1", 9464)),
        ("9464", ("127.0.0.1", 9464)),
        ("*:0", ("0.0.0.0", 0)),  # noqa: S104 - only read
    ],
)
def test_an_address(text: str, address: tuple[str, int]) -> None:
    assert read_settings({"MAILSPAN_METRICS_ADDRESS": text}).metrics_address == address


@pytest.mark.parametrize(
    "text", ["mx1", "mx1:", "::1:9464", "[::1]", ":65536", "9464x", "a b:1", "http://mx1:9464/", "[x]:1", "::", "-1"]
)
def test_a_wrong_address(text: str) -> None:
    with pytest.raises(UsageError, match=r"^MAILSPAN_METRICS_ADDRESS: .* is not right; expected HOST:PORT"):
        read_settings({"MAILSPAN_METRICS_ADDRESS": text})


def test_no_address_is_the_default_and_opens_nothing(stop: Asked) -> None:
    assert read_settings({}).metrics_address is None
    before = threading.active_count()

    def ask() -> Iterable[Figure]:
        raise AssertionError("asked for nobody")

    with serve(stop, None) as (served, port):
        served.figures = ask
        served.turn()
        assert (port, threading.active_count()) == (0, before)


@pytest.mark.slow
def test_a_port_in_use_is_told_in_one_line_before_anything_else() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        settings = {"METRICS_ADDRESS": address, "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9"}
        for command in (("reduce",), ("produce", "stdin")):
            done = mailspan(*command, settings=settings)
            assert done.returncode == 3
            (line,) = done.stderr.decode().splitlines()
            assert line == (
                f"mailspan: MAILSPAN_METRICS_ADDRESS: {address} cannot be listened at (Address already in use)"
            )


def test_loopback_of_ipv6(stop: Asked) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    with serve(stop, ("::1", 0)) as (_, port):
        assert get(port, "/livez", host="::1")[0] == 200


def test_figures_are_those_of_the_last_turn(stop: Asked) -> None:
    with serve(stop) as (served, port):
        values = iter(range(5, 100))
        served.figures = lambda: [Figure("mailspan_reducer_lines_total", next(values))]
        first = Scrape(get(port, "/metrics")[1])
        assert first.total("mailspan_reducer_lines_total") == 0
        assert first.value("mailspan_ready", stage="reduce") == 0
        assert first.total("mailspan_build_info") == 1
        assert first.total("process_resident_memory_bytes") > 0
        served.is_ready = lambda: True
        for _ in range(1000):
            served.turn()
        assert next(values) == 6  # once a second
        wait_until(lambda: Scrape(get(port, "/metrics")[1]).total("mailspan_reducer_lines_total") == 5)
        assert Scrape(get(port, "/metrics")[1]).value("mailspan_ready", stage="reduce") == 1


def test_the_age_of_a_moment_grows_while_the_loop_stands_still(stop: Asked) -> None:
    with serve(stop) as (served, port):
        labels = ("reduce", "0")
        served.figures = lambda: [
            Figure("mailspan_lag_seconds", time.time() - 100, labels),
            Figure("mailspan_lag_seconds", None, ("reduce", "1")),
            Figure("mailspan_lag_seconds", time.time() + 100, ("reduce", "2")),
        ]
        served.turn()
        found = Scrape(get(port, "/metrics")[1])
        assert [found.value("mailspan_lag_seconds", stage="reduce", partition=n) for n in "12"] == [0, 0]
        assert 100 <= found.value("mailspan_lag_seconds", stage="reduce", partition="0") < 110
        wait_until(lambda: Scrape(get(port, "/metrics")[1]).total("mailspan_lag_seconds", partition="0") > 101)


def test_probes(stop: Asked) -> None:
    with serve(stop) as (served, port):
        assert get(port, "/livez") == (200, "ok\n")
        assert get(port, "/readyz") == (503, "not ready\n")
        served.is_ready = lambda: True
        served.turn()
        assert get(port, "/readyz") == (200, "ok\n")
        stop.asked_at -= LIVE_SECONDS + 1
        status, said = get(port, "/livez")
        assert (status, said[:30]) == (503, f"the loop has not turned for {LIVE_SECONDS + 1:.0f} s"[:30])
        stop.asked_at = time.monotonic()
        assert get(port, "/livez")[0] == 200


def talk(port: int, request: bytes) -> bytes:
    """Send raw bytes; return all that comes until the end."""
    found = b""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS + 10) as connection:
        try:
            connection.sendall(request)
            while data := connection.recv(65536):
                found += data
        except ConnectionError:  # it was closed with bytes of ours unread
            pass
    return found


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /metrics HTTP/1.1\r\n\r\n", 200),
        (b"GET /metrics?x=1 HTTP/1.0\n\n", 200),
        (b"GET /metrics HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 200),
        (b"GET /../../etc/passwd HTTP/1.1\r\n\r\n", 404),
        (b"GET /METRICS HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", 405),
        (b"\x80\xff\0 /metrics HTTP/1.1\r\n\r\n", 405),
        (b"\x16\x03\x01\x02\0\x01\n\n", 400),
        (b"GET /metrics\r\n\r\n", 400),
        (b"GET  HTTP/1.1\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"GET /metrics SIP/2.0\r\n\r\n", 400),
        (b"GET /" + b"a" * (LONGEST_REQUEST + 5000), 431),
        (b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 10_000, 431),
    ],
)
def test_whatever_is_asked_gets_an_answer_and_no_more(
    stop: Asked, capfd: pytest.CaptureFixture[str], request_: bytes, status: int
) -> None:
    with serve(stop) as (_, port):
        answer = talk(port, request_)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 %d " % status)
        assert answer or status == 431  # whose sender may be cut off before it has read
        assert get(port, "/livez")[0] == 200
    assert capfd.readouterr() == ("", "")


def test_head_has_no_body(stop: Asked) -> None:
    with serve(stop) as (_, port):
        assert talk(port, b"HEAD /livez HTTP/1.1\r\n\r\n").endswith(b"\r\n\r\n")
        assert b"Content-Length: 3\r\n" in talk(port, b"HEAD /livez HTTP/1.1\r\n\r\n")


def test_slow_ones_and_many_hold_nobody_up(stop: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that say nothing, or a byte now and then, are ended; while they are there, others are answered."""
    monkeypatch.setattr(small_http, "SECONDS", 1.0)
    with serve(stop) as (_, port):
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(3 * MOST_CONNECTIONS)]
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
        try:
            assert get(port, "/livez")[0] == 200
            ends = time.monotonic() + 10
            left = set(held)
            while left:
                assert time.monotonic() < ends
                left -= {each for each in left if is_over(each)}
            assert get(port, "/livez")[0] == 200
        finally:
            for each in held:
                each.close()
        assert descriptors <= 4 * MOST_CONNECTIONS + 100


def is_over(connection: socket.socket) -> bool:
    """Send one byte more; whether the connection has ended."""
    connection.settimeout(0.01)
    try:
        connection.send(b"G")
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_one_who_reads_nothing_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_http, "SECONDS", 1.0)
    listener = small_http.listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    server = HttpServer(
        listener, lambda path: Answer(HTTPStatus.OK, b"x" * (64 << 20 if path == "/large" else 5)), print
    )
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as lazy:
            lazy.sendall(b"GET /large HTTP/1.1\r\n\r\n")
            wait_until(lambda: server.open_connections == 1, 10)
            wait_until(lambda: server.open_connections == 0, 10)
        assert get(port, "/small") == (200, "xxxxx")
    finally:
        server.close()


def test_what_cannot_be_shown_is_an_error_and_is_said_once(stop: Asked) -> None:
    said: list[str] = []
    with serving.serving(("127.0.0.1", 0), "reduce", stop, said.append) as served:
        port = int(said[0].rpartition(":")[2].partition("/")[0])
        served.figures = lambda: [Figure("mailspan_made_up_total", 1)]
        served.turn()
        assert get(port, "/metrics")[0] == 500
        assert get(port, "/metrics")[0] == 500
        assert get(port, "/livez")[0] == 200
    assert said[1:] == [
        "/metrics cannot be shown (ValueError: no metric is listed as mailspan_made_up_total with 0 labels)"
    ]


def test_the_thread_ends_with_the_block(stop: Asked) -> None:
    before = threading.active_count()
    with serve(stop) as (_, port):
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
    with pytest.raises(ConnectionRefusedError):
        get(port, "/livez")
