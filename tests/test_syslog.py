"""The syslog server with real sockets and a topic in memory: transports, limits, hostile senders, back-pressure."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import pytest

from mailspan.errors import UsageError
from producers.framing import LONGEST_FRAME_BYTES
from producers.syslog import SyslogLimits
from producers.syslog_sockets import Address, ListenError, certificate_name, listen, read_address, tls_context
from tests.certificates import Authority
from tests.syslog_rig import SyslogRig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LINE = b"<22>Nov 23 07:55:08 mx1 postfix/smtp[1]: 0A1B2C3D4E: line "


def line(number: int) -> bytes:
    return LINE[4:] + b"%d" % number


def counted(number: int) -> bytes:
    message = b"<22>" + line(number)
    return b"%d %b" % (len(message), message)


@pytest.fixture
def rig() -> Iterator[SyslogRig]:
    with SyslogRig() as found:
        yield found


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ca", "Test CA")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "other", "Other CA")


@pytest.fixture
def tls_rig(authority: Authority) -> Iterator[SyslogRig]:
    """One that asks for client certificates."""
    context = tls_context(*authority.issue("collector.example.com", "DNS:localhost"), authority.certificate)
    with SyslogRig(context=context) as found:
        yield found


class Talk:
    """What a TLS client does, in a thread of its own, as the server is worked by the test."""

    def __init__(self, do: Callable[[], None]) -> None:
        self.fault: Exception | None = None
        self._do = do
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._do()
        except OSError as error:
            self.fault = error

    @property
    def is_over(self) -> bool:
        return not self._thread.is_alive()


def client_context(authority: Authority, pair: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.certificate))
    if pair is not None:
        context.load_cert_chain(*pair)
    return context


def send_tls(rig: SyslogRig, context: ssl.SSLContext, data: bytes) -> Talk:
    def talk() -> None:
        raw = socket.create_connection(("127.0.0.1", rig.ports["tls"]), timeout=10)
        with raw, context.wrap_socket(raw, server_hostname="localhost") as client:
            client.sendall(data)
            with contextlib.suppress(ssl.SSLZeroReturnError):
                client.unwrap()

    return Talk(talk)


# -- transports -------------------------------------------------------------------------------------------------------


def test_datagrams_are_lines(rig: SyslogRig) -> None:
    for number in range(3):
        rig.send_datagram(LINE + b"%d\n" % number)
    rig.send_datagram(b"")
    rig.send_datagram(b"<22>Nov 23 07:55:08 postfix/smtp[1]: x")
    assert rig.until_lines(4) == [line(0), line(1), line(2), b"Nov 23 07:55:08 127.0.0.1 postfix/smtp[1]: x"]
    headers = [each.header for each in rig.topic.arrived]
    assert [each.offset for each in headers] == [0, 1, 2, 3]
    assert len({each.reading.generation for each in headers}) == 1
    assert headers[0].reading.input == "syslog"
    assert headers[0].reading.zone == "UTC"
    assert headers[0].reading.observer == "collector"


def test_both_framings_on_one_connection(rig: SyslogRig) -> None:
    client = rig.connect()
    client.sendall(LINE + b"0\n" + counted(1) + LINE + b"2\n" + counted(3))
    assert rig.until_lines(4) == [line(number) for number in range(4)]
    assert [each.header.offset for each in rig.topic.arrived] == [0, 1, 2, 3]
    assert rig.server.open_connections == 1


def test_a_run_is_a_generation_whoever_sends(rig: SyslogRig) -> None:
    """Reducers keep a watermark for each generation: senders must not be able to make more."""
    for number in range(0, 9, 3):
        rig.connect().sendall(LINE + b"%d\n" % number + LINE + b"%d\n" % (number + 1))
        rig.send_datagram(LINE + b"%d" % (number + 2))
    rig.until_lines(9)
    assert [each.header.offset for each in rig.topic.arrived] == list(range(9))
    assert len({each.header.reading.generation for each in rig.topic.arrived}) == 1


def test_a_half_closed_connection_is_read_to_its_end(rig: SyslogRig) -> None:
    client = rig.connect()
    client.sendall(LINE + b"0\n" + LINE + b"1")
    client.shutdown(socket.SHUT_WR)
    assert rig.until_lines(2) == [line(0), line(1)]
    rig.until_closed(client)
    assert rig.reports == []


def test_half_a_message_of_a_broken_connection_is_no_line(rig: SyslogRig) -> None:
    client = rig.connect()
    client.sendall(LINE + b"0\n" + LINE + b"1")
    rig.until_lines(1)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()  # a reset
    rig.until(lambda: rig.server.open_connections == 0)
    assert rig.lines == [line(0)]
    assert rig.server.counts.truncated_frames == 1
    assert rig.server.counts.closed == {"broken off": 1}


def test_the_host_of_lines_without_one_can_be_given() -> None:
    with SyslogRig(log_host="Given") as rig:
        rig.connect().sendall(b"<22>Nov 23 07:55:08 postfix/smtp[1]: x\n")
        assert rig.until_lines(1) == [b"Nov 23 07:55:08 Given postfix/smtp[1]: x"]


# -- TLS ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "alternative", "observer", "host"),
    [
        ("mx1.example.com", "", b"mx1.example.com", b"mx1.example.com"),
        ("mx2", "DNS:mx2.example.com", b"mx2.example.com", b"mx2.example.com"),
        ("Mail Server 3", "IP:192.0.2.3", b"Mail Server 3", b"127.0.0.1"),
    ],
)
def test_the_certificate_says_who_observed(
    tls_rig: SyslogRig, authority: Authority, name: str, alternative: str, observer: bytes, host: bytes
) -> None:
    context = client_context(authority, authority.issue(name, alternative))
    talk = send_tls(tls_rig, context, counted(0) + b"<22>Nov 23 07:55:08 a: b\n")
    assert tls_rig.until_lines(2) == [line(0), b"Nov 23 07:55:08 %b a: b" % host]
    assert {each.header.reading.observer for each in tls_rig.topic.arrived} == {observer.decode()}
    tls_rig.until(lambda: talk.is_over and tls_rig.server.open_connections == 0)
    assert tls_rig.reports == []


def test_a_connection_that_ends_without_tls_saying_so_is_broken_off(tls_rig: SyslogRig, authority: Authority) -> None:
    def talk() -> None:
        raw = socket.create_connection(("127.0.0.1", tls_rig.ports["tls"]), timeout=10)
        with raw, context.wrap_socket(raw, server_hostname="localhost") as client:
            client.sendall(LINE + b"0\n" + LINE + b"1")
            client.shutdown(socket.SHUT_RDWR)  # without a word of TLS

    context = client_context(authority, authority.issue("sloppy"))
    running = Talk(talk)
    assert tls_rig.until_lines(1) == [line(0)]
    tls_rig.until(lambda: running.is_over and tls_rig.server.open_connections == 0)
    assert tls_rig.server.counts.closed == {"broken off": 1}
    assert tls_rig.server.counts.truncated_frames == 1
    assert tls_rig.lines == [line(0)]


def test_many_large_records_are_read_whole(tls_rig: SyslogRig, authority: Authority) -> None:
    context = client_context(authority, authority.issue("big"))
    sent = [b"Nov 23 07:55:08 mx1 a[1]: " + b"x" * 16_000 + b"%d" % number for number in range(200)]
    talk = send_tls(tls_rig, context, b"".join(b"%d <22>%b" % (len(each) + 4, each) for each in sent))
    assert tls_rig.until_lines(200) == sent
    tls_rig.until(lambda: talk.is_over)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_wrong_and_missing_certificates_are_refused(
    tls_rig: SyslogRig, authority: Authority, stranger: Authority, version: ssl.TLSVersion
) -> None:
    wrong = client_context(authority, stranger.issue("intruder"))
    none = client_context(authority)
    for context in (wrong, none, wrong, none):
        context.minimum_version = context.maximum_version = version
        talk = send_tls(tls_rig, context, counted(0))
        tls_rig.until(lambda: talk.is_over and not tls_rig.server.open_connections)  # noqa: B023 - it is called at once
    assert tls_rig.lines == []
    assert tls_rig.server.counts.closed == {"certificate refused": 4}
    assert len(tls_rig.reports) == 1  # one line a minute for a sender
    assert "127.0.0.1: its certificate is refused" in tls_rig.reports[0]


def test_old_versions_of_tls_are_refused(authority: Authority) -> None:
    context = tls_context(*authority.issue("collector"), None)
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_NONE
    assert context.num_tickets == 0


def test_an_expired_certificate_is_refused(tls_rig: SyslogRig, authority: Authority) -> None:
    talk = send_tls(tls_rig, client_context(authority, authority.issue("old", days=-1)), counted(0))
    tls_rig.until(lambda: talk.is_over and bool(tls_rig.reports))
    assert "expired" in tls_rig.reports[0]
    assert tls_rig.lines == []


@pytest.mark.parametrize(
    "data", [LINE + b"0\n", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\xff" * 70_000, b"\0" * 100]
)
def test_what_is_no_tls_is_refused(tls_rig: SyslogRig, data: bytes) -> None:
    for _ in range(3):
        client = tls_rig.connect("tls")
        with contextlib.suppress(OSError):  # it may be closed half-way
            client.sendall(data)
        tls_rig.until_closed(client)
    assert tls_rig.lines == []
    assert tls_rig.server.counts.closed.total() == 3
    assert 1 <= len(tls_rig.reports) <= 3


def test_tls_on_the_plain_port_is_refused(tls_rig: SyslogRig, authority: Authority) -> None:
    tls_rig.ports["tls"] = tls_rig.ports["tcp"]
    talk = send_tls(tls_rig, client_context(authority), counted(0))
    tls_rig.until(lambda: talk.is_over and bool(tls_rig.reports))
    assert tls_rig.lines == []
    assert "speaks TLS" in tls_rig.reports[0]


def test_a_handshake_that_is_not_gone_on_with_ends(tls_rig: SyslogRig) -> None:
    client = tls_rig.connect("tls")
    client.sendall(b"\x16\x03\x01")
    tls_rig.until(lambda: tls_rig.server.open_connections == 1)
    tls_rig.passed += 11
    tls_rig.until_closed(client)
    assert tls_rig.server.counts.closed == {"handshake timeout": 1}


# -- hostile senders and limits ---------------------------------------------------------------------------------------


def test_an_endless_frame_is_cut_and_ends(rig: SyslogRig) -> None:
    client = rig.connect()
    client.sendall(b"x" * (LONGEST_FRAME_BYTES + 10))
    rig.until_lines(1)
    client.sendall(b"x" * 200_000)
    assert len(rig.lines[0]) == LONGEST_FRAME_BYTES
    rig.until(lambda: rig.server.counts.received_bytes["tcp"] > LONGEST_FRAME_BYTES + 200_000)
    rig.passed += 61
    rig.until_closed(client)
    assert rig.server.counts.closed == {"slow frame": 1}
    assert rig.server.counts.cut_frames == 1


def test_a_senseless_count_ends_the_connection(rig: SyslogRig) -> None:
    client = rig.connect()
    client.sendall(LINE + b"0\n999999999 " + LINE + b"1\n")
    rig.until_closed(client)
    assert rig.until_lines(1) == [line(0)]
    assert rig.server.counts.closed == {"bad framing": 1}


def test_a_slow_sender_ends_a_silent_one_stays(rig: SyslogRig) -> None:
    slow, silent = rig.connect(), rig.connect()
    silent.sendall(LINE + b"0\n")
    rig.until_lines(1)
    received = rig.server.counts.received_bytes
    before = received["tcp"]
    for number in range(6):
        slow.sendall(b"<")
        wanted = before + number + 1
        rig.until(lambda: received["tcp"] == wanted)  # noqa: B023 - it is called at once
        rig.passed += 9
    assert rig.server.open_connections == 2
    rig.passed += 9
    rig.until(lambda: rig.server.counts.closed == {"slow frame": 1})
    silent.sendall(LINE + b"1\n")
    assert rig.until_lines(2) == [line(0), line(1)]
    rig.passed += 86401
    rig.until_closed(silent)
    assert rig.server.counts.closed == {"slow frame": 1, "idle": 1}


def test_connections_are_bounded_by_address_and_in_all() -> None:
    for limits, reason in (
        (SyslogLimits(connections=3), "too many connections"),
        (SyslogLimits(connections_per_address=3), "too many connections of one address"),
    ):
        with SyslogRig(limits) as rig:
            kept = [rig.connect() for _ in range(3)]
            rig.until(lambda: rig.server.open_connections == 3)
            for _ in range(5):
                rig.until_closed(rig.connect())
            assert rig.server.counts.refused == {reason: 5}
            assert rig.reports == [f"syslog: 127.0.0.1: not let in: {reason}"]
            kept[0].close()
            rig.until(lambda: rig.server.open_connections == 2)
            rig.connect().sendall(LINE + b"0\n")
            assert rig.until_lines(1) == [line(0)]


def test_garbage_ends_nothing(rig: SyslogRig) -> None:
    client = rig.connect()
    garbage = bytes(range(0x80, 0x100)) * 100 + b"\n"
    client.sendall(garbage + LINE + b"0\n")
    assert rig.until_lines(2) == [garbage[:-1], line(0)]
    assert rig.reports == []


def test_what_is_told_of_senders_is_bounded(rig: SyslogRig) -> None:
    for number in range(60):
        rig.server._notes.tell("kind", f"192.0.2.{number}", "x")  # noqa: SLF001 - more senders than a test can have
    assert rig.reports == ["x"] * 20
    rig.passed += 61
    rig.until(lambda: len(rig.reports) > 20)
    assert rig.reports[20] == "syslog: 40 more troubles with senders were not told"


# -- Kafka is away ----------------------------------------------------------------------------------------------------


def test_streams_wait_and_datagrams_are_dropped_and_counted(rig: SyslogRig) -> None:
    rig.topic.capacity = 100
    rig.topic.choose = lambda _: 0
    client = rig.connect()
    client.setblocking(False)
    big = b"<22>" + b"y" * 60_000 + b"\n"
    sent = bytearray()
    stuck_since = time.monotonic()
    while time.monotonic() - stuck_since < 1:  # until the kernel's buffers are full
        try:
            part = big[len(sent) % len(big) :]
            sent += part[: client.send(part)]
            stuck_since = time.monotonic()
        except BlockingIOError:
            pass
        rig.server.step(0)
    assert rig.server.is_paused
    assert rig.server._outbox._bytes < (16 << 20) + 1_000_000  # noqa: SLF001 - what is bounded
    taken = rig.server.counts.received_bytes["tcp"]
    rig.send_datagram(LINE + b"0")
    rig.until(lambda: rig.server.counts.dropped_datagrams == 1)
    rig.passed += 100_000  # longer than any limit: that it is not read is not the sender's fault
    rig.until(lambda: True)
    for _ in range(20):
        rig.server.step(0)
    assert rig.server.open_connections == 1
    assert rig.server.counts.received_bytes["tcp"] == taken
    rig.topic.choose = lambda count: count
    rig.topic.capacity = 100_000

    def is_resumed() -> bool:
        rig.passed += 2  # so that it looks for slow senders in the same step
        return not rig.server.is_paused

    rig.until(is_resumed)
    assert rig.server.open_connections == 1
    client.setblocking(True)
    client.settimeout(0.01)

    rest = bytearray(big[len(sent) % len(big) :] if len(sent) % len(big) else b"") + LINE + b"1\n"

    def send_rest() -> bool:
        with contextlib.suppress(TimeoutError):
            del rest[: client.send(rest)]
        return not rest and line(1) in rig.lines

    rig.until(send_rest)
    assert set(rig.lines) == {b"y" * 60_000, line(1)}
    assert [each.header.offset for each in rig.topic.arrived] == list(range(len(rig.lines)))
    rig.passed += 10  # told at most every ten seconds, and always in the end
    rig.until(lambda: any("read again" in each for each in rig.reports))
    assert [each for each in rig.reports if "TCP and TLS" in each] == [
        "syslog: too much is under way to Kafka; TCP and TLS are not read for now",
        "syslog: TCP and TLS are read again",
    ]


def test_what_failed_is_sent_again_under_the_same_places(rig: SyslogRig) -> None:
    rig.topic.choose = lambda count: min(count, 2)
    client = rig.connect()
    client.sendall(b"".join(counted(number) for number in range(20)))
    rig.until_lines(4)
    rig.topic.is_failing = True
    rig.until(lambda: bool(rig.reports))
    rig.passed += 1
    rig.until(lambda: len(set(rig.lines)) == 20 and rig.server.is_settled)
    assert {(each.header.offset, each.value) for each in rig.topic.arrived} == {(n, line(n)) for n in range(20)}
    assert list(dict.fromkeys(rig.lines)) == [line(number) for number in range(20)]


def test_the_end_takes_what_has_come(rig: SyslogRig) -> None:
    client = rig.connect()
    client.sendall(LINE + b"0\n")
    rig.until_lines(1)
    client.sendall(b"".join(counted(number) for number in range(1, 5000)) + LINE + b"begun")
    rig.send_datagram(LINE + b"5000")
    rig.drain()
    while not rig.server.is_settled:
        rig.server.settle(0)
    assert sorted(rig.lines) == sorted(line(number) for number in range(5001))
    assert rig.server.counts.truncated_frames == 1
    assert client.recv(1) == b""


def test_what_the_kernel_drops_is_counted(rig: SyslogRig) -> None:
    for _ in range(12_000):
        rig.send_datagram(b"x" * 8000)
    rig.until(lambda: rig.server.counts.kernel_drops > 0)
    rig.passed += 2
    rig.until(lambda: rig.server.counts.kernel_drops + len(rig.lines) >= 12_000)
    assert rig.server.counts.kernel_drops + len(rig.lines) == 12_000


# -- addresses and files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:514", Address("tcp", "127.0.0.1", 514)),
        ("[::1]:514", Address("tcp", "::1", 514)),
        (":514", Address("tcp", "", 514)),
        ("*:514", Address("tcp", "", 514)),
        ("localhost:0", Address("tcp", "localhost", 0)),
    ],
)
def test_addresses(text: str, address: Address) -> None:
    assert read_address("tcp", text) == address


@pytest.mark.parametrize("text", ["", "514", "::1:514", "host:", "host:x", "host:65536", "host:-1"])
def test_wrong_addresses(text: str) -> None:
    with pytest.raises(UsageError, match="--tcp"):
        read_address("tcp", text)


@pytest.mark.parametrize("kind", ["udp", "tcp"])
def test_an_address_in_use_is_said(kind: str) -> None:
    with listen(Address(kind, "127.0.0.1", 0)) as first, pytest.raises(ListenError, match=f"--{kind} 127.0.0.1:"):
        listen(Address(kind, "127.0.0.1", first.getsockname()[1]))
    with listen(Address(kind, "", 0)) as everywhere:
        assert everywhere.family == socket.AF_INET6 or not socket.has_dualstack_ipv6()


def test_wrong_tls_files_are_said(authority: Authority, stranger: Authority, tmp_path: Path) -> None:
    cert, key = authority.issue("collector")
    _, other_key = stranger.issue("other")
    locked = tmp_path / "locked.key"
    command = ["openssl", "pkey", "-in", str(key), "-aes128", "-passout", "pass:x", "-out", str(locked)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    missing = tmp_path / "missing"
    for arguments, flag in (
        ((missing, key, None), "--cert .*missing: cannot be read"),
        ((cert, missing, None), "--key .*missing: cannot be read"),
        ((cert, key, missing), "--client-ca .*missing: cannot be read"),
        ((cert, other_key, None), "--cert .* --key"),
        ((cert, locked, None), "--cert .* --key"),
        ((cert, key, key), "--client-ca .*: no certificates"),
    ):
        with pytest.raises(UsageError, match=flag):
            tls_context(*arguments)


def test_names_in_certificates() -> None:
    subject = ((("countryName", "ES"),), (("commonName", "cn.example.com"),))
    assert certificate_name({"subject": subject}) == "cn.example.com"
    assert certificate_name({"subject": subject, "subjectAltName": (("DNS", "san.example.com"),)}) == "san.example.com"
    assert certificate_name({"subject": (), "subjectAltName": (("IP Address", "192.0.2.1"),)}) == "192.0.2.1"
    assert certificate_name({}) == certificate_name(None) == ""
