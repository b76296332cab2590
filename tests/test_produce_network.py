"""`produce syslog` and `produce journal` as processes, with a real broker and real senders: rsyslog, syslog-ng."""

from __future__ import annotations

import re
import signal
import socket
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from mailspan.grammar import syslog
from mailspan.partition import partition_of
from tests.certificates import Authority
from tests.journal_files import JOURNALCTL, MISSING, REMOTE, Sent, write_journal
from tests.kafka_reading import kept, read_all
from tests.kafka_site import PARTITIONS, Site, wait_until
from tests.syslog_daemons import HAS_GTLS, RSYSLOGD, SYSLOG_NG, rsyslog, syslog_ng

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from tests.kafka_server import Broker

pytestmark = pytest.mark.slow

COUNT = 300
needs_rsyslog = pytest.mark.skipif(
    RSYSLOGD is None or not HAS_GTLS, reason="needs rsyslog (Debian, Ubuntu: apt-get install rsyslog rsyslog-gnutls)"
)
needs_syslog_ng = pytest.mark.skipif(
    SYSLOG_NG is None, reason="needs syslog-ng (Debian, Ubuntu: apt-get install syslog-ng-core, or .ci/run as root)"
)
needs_journal = pytest.mark.skipif(JOURNALCTL is None or REMOTE is None, reason=MISSING)


@pytest.fixture
def site(broker: Broker, tmp_path: Path) -> Site:
    found = Site(broker, tmp_path)
    found.setup()
    return found


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ca", "Test CA")


class Collector:
    """A running `produce syslog`: its process and its ports."""

    def __init__(self, site: Site, process: subprocess.Popen[bytes], ports: dict[str, int]) -> None:
        self.site = site
        self.process = process
        self.ports = ports

    def stop(self) -> int:
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(10)
        assert time.monotonic() - began < 10
        return status


@contextmanager
def collecting(site: Site, authority: Authority) -> Iterator[Collector]:
    cert, key = authority.issue("collector.example.com", "DNS:collector.example.com,DNS:localhost,IP:127.0.0.1")
    listeners = [f"--{kind}=127.0.0.1:0" for kind in ("udp", "tcp", "tls")]
    files = [f"--cert={cert}", f"--key={key}", f"--client-ca={authority.certificate}"]
    with site.producing("syslog", *listeners, *files) as process:
        wait_until(lambda: len(_ports(site)) == 3 or process.poll() is not None, 30)
        assert process.poll() is None, site.said()
        yield Collector(site, process, _ports(site))


def _ports(site: Site) -> dict[str, int]:
    return {kind: int(port) for kind, port in re.findall(r"syslog: (\w+) on \S+ port (\d+)\n", site.said())}


def messages(first: int, last: int) -> list[bytes]:
    return [b"<22>Nov 23 07:55:08 mx1 postfix/smtp[77]: %08X: line %d" % (n, n) for n in range(first, last)]


def send(port: int, first: int = 0, last: int = COUNT) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(b"".join(message + b"\n" for message in messages(first, last)))


def check_arrived(site: Site, count: int, observer: str | None) -> None:
    """Every message has arrived once, in order, on the partition of its host, and says what was sent."""
    site.wait_for(count)
    arrived = read_all(site.address, f"{site.prefix}.raw")
    assert len(arrived) == count
    for number, each in enumerate(arrived):
        header = syslog.split(each.value.decode())
        assert not isinstance(header, str), each.value
        found = (header.host, header.program, header.pid, header.message)
        assert found == ("mx1", "postfix/smtp", "77", f"{number:08X}: line {number}")
        assert each.key == b"mx1/%08X" % number
        assert each.partition == partition_of(b"mx1", PARTITIONS)
        assert each.header is not None
        assert each.header.reading.input == "syslog"
        if observer is not None:
            assert each.header.reading.observer == observer


RSYSLOG_TCP = {
    "octet-counted, RFC 5424": 'TCP_Framing="octet-counted" template="RSYSLOG_SyslogProtocol23Format"',
    "newlines, RFC 3339 stamps": 'template="RSYSLOG_ForwardFormat"',
    "newlines, RFC 3164": 'template="RSYSLOG_TraditionalForwardFormat"',
}


@needs_rsyslog
@pytest.mark.parametrize("way", RSYSLOG_TCP)
def test_rsyslog_over_tcp(site: Site, authority: Authority, way: str) -> None:
    with collecting(site, authority) as collector:
        action = f'protocol="tcp" port="{collector.ports["tcp"]}" {RSYSLOG_TCP[way]}'
        # Without it, rsyslog's RFC 5424 says `postfix` for `postfix/smtp`: docs/producers.md.
        with rsyslog(site.folder, 'parser.permitSlashInProgramName="on"', action) as port:
            send(port)
            check_arrived(site, COUNT, None)
        assert collector.stop() == 0


@needs_rsyslog
def test_rsyslog_over_udp(site: Site, authority: Authority) -> None:
    with collecting(site, authority) as collector:
        with rsyslog(site.folder, "", f'protocol="udp" port="{collector.ports["udp"]}"') as port:
            send(port)
            check_arrived(site, COUNT, None)
        assert collector.stop() == 0


@needs_rsyslog
@pytest.mark.parametrize("framing", ["octet-counted", "traditional"])
def test_rsyslog_over_tls(site: Site, authority: Authority, framing: str) -> None:
    cert, key = authority.issue("mx1.example.com", "DNS:mx1.example.com")
    head = (
        f'defaultNetstreamDriver="gtls" defaultNetstreamDriverCAFile="{authority.certificate}"'
        f' defaultNetstreamDriverCertFile="{cert}" defaultNetstreamDriverKeyFile="{key}"'
    )
    with collecting(site, authority) as collector:
        action = (
            f'protocol="tcp" port="{collector.ports["tls"]}" TCP_Framing="{framing}" StreamDriver="gtls"'
            ' StreamDriverMode="1" StreamDriverAuthMode="x509/name" StreamDriverPermittedPeers="collector.example.com"'
        )
        with rsyslog(site.folder, head, action) as port:
            send(port)
            check_arrived(site, COUNT, "mx1.example.com")
        assert collector.stop() == 0


@needs_syslog_ng
@pytest.mark.parametrize("driver", ["network", "syslog"])
@pytest.mark.parametrize("transport", ["tcp", "tls"])
def test_syslog_ng(site: Site, authority: Authority, driver: str, transport: str) -> None:
    """`network` sends RFC 3164 with newlines, `syslog` sends RFC 5424 with octet counting."""
    cert, key = authority.issue("mx2.example.com", "DNS:mx2.example.com")
    tls = f'tls(ca-file("{authority.certificate}") cert-file("{cert}") key-file("{key}") peer-verify(required-trusted))'
    with collecting(site, authority) as collector:
        options = f'port({collector.ports[transport]}) transport("{transport}") {tls if transport == "tls" else ""}'
        with syslog_ng(site.folder, f'{driver}("127.0.0.1" {options});') as port:
            send(port)
            check_arrived(site, COUNT, "mx2.example.com" if transport == "tls" else None)
        assert collector.stop() == 0


@needs_rsyslog
def test_a_restart_of_ours_between_two_bursts_of_rsyslog(site: Site, authority: Authority) -> None:
    """Rsyslog keeps what it could not send; nothing of it is doubled by us."""
    with collecting(site, authority) as collector:
        port_number = collector.ports["tcp"]
        with rsyslog(site.folder, "", f'protocol="tcp" port="{port_number}" action.resumeInterval="1"') as port:
            send(port, 0, 100)
            site.wait_for(100)
            assert collector.stop() == 0
            with site.producing("syslog", f"--tcp=127.0.0.1:{port_number}"):
                wait_until(lambda: site.said().count(f"port {port_number}") == 2, 30)
                send(port, 100, 200)
                check_arrived(site, 200, None)


def test_an_absent_broker_stops_streams_and_nothing_is_lost(
    mortal_broker: Broker, tmp_path: Path, authority: Authority
) -> None:
    broker, site = mortal_broker, Site(mortal_broker, tmp_path)
    site.setup()
    with (
        collecting(site, authority) as collector,
        socket.create_connection(("127.0.0.1", collector.ports["tcp"]), timeout=60) as client,
    ):
        client.sendall(b"".join(message + b"\n" for message in messages(0, 100)))
        site.wait_for(100)
        broker.kill()
        try:
            client.sendall(b"".join(message + b"\n" for message in messages(100, 2000)))
            wait_until(lambda: "waiting" in site.said())
        finally:
            broker.start()
        client.sendall(b"".join(message + b"\n" for message in messages(2000, 2100)))
        site.wait_for(2100)
        assert collector.stop() == 0
    assert kept(read_all(site.address, f"{site.prefix}.raw")) == [message[4:] for message in messages(0, 2100)]


def test_sigterm_with_the_broker_away_says_what_is_lost(
    mortal_broker: Broker, tmp_path: Path, authority: Authority
) -> None:
    broker, site = mortal_broker, Site(mortal_broker, tmp_path)
    site.setup()
    with collecting(site, authority) as collector:
        send(collector.ports["tcp"], 0, 10)
        site.wait_for(10)
        broker.kill()
        try:
            wait_until(lambda: "waiting" in site.said())
            send(collector.ports["tcp"], 10, 30)
            assert collector.stop() == 3
        finally:
            broker.start()
    assert "not_arrived=20" in site.said()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["syslog"], "needs at least one of --udp, --tcp and --tls"),
        (["syslog", "--tcp", "nowhere"], "--tcp: 'nowhere' is no address"),
        (["syslog", "--tls", "127.0.0.1:0"], "--tls needs --cert and --key"),
        (["syslog", "--tcp", "127.0.0.1:0", "--cert", "x"], "are for --tls"),
        (["syslog", "--tls", ":0", "--cert", "/nonexistent", "--key", "x"], "--cert /nonexistent: cannot be read"),
        (["syslog", "--tcp", ":0", "--max-connections", "0"], "--max-connections: 0"),
        (["syslog", "x.log", "--tcp", ":0"], "syslog takes no files"),
        (["tail", "x.log", "--tcp", ":0"], "--tcp is an argument of `produce syslog`"),
        (["stdin", "--unit", "x"], "--unit is an argument of `produce journal`"),
    ],
)
def test_wrong_arguments_get_one_clear_line(site: Site, arguments: list[str], said: str) -> None:
    done = site.run("produce", *arguments)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr.decode()
    assert len(done.stderr.splitlines()) == 1


def test_an_address_in_use_is_one_clear_line(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = site.run("produce", "syslog", f"--tcp=127.0.0.1:{taken.getsockname()[1]}")
    assert done.returncode == 3
    assert b"cannot listen (Address already in use)" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# -- journal ----------------------------------------------------------------------------------------------------------


def entries(first: int, last: int) -> list[Sent]:
    return [Sent(b"%08X: line %d" % (number, number), number) for number in range(first, last)]


@needs_journal
def test_the_journal_arrives_and_kill_9_loses_and_doubles_nothing(site: Site) -> None:
    folder = site.folder / "journal"
    folder.mkdir()
    for number in range(4):
        first = number * 500
        write_journal(folder / "system.journal", entries(first, first + 500))
        with site.producing("journal", f"--directory={folder}") as process:
            site.wait_for(first + 500)
            process.kill()
            process.wait()
    with site.producing("journal", f"--directory={folder}") as process:
        write_journal(folder / "system.journal", entries(2000, 2010))
        site.wait_for(2010)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    arrived = read_all(site.address, f"{site.prefix}.raw")
    lines = kept(arrived)
    assert [line.rpartition(b" ")[2] for line in lines] == [b"%d" % number for number in range(2010)]
    assert {each.partition for each in arrived} == {partition_of(b"mx1", PARTITIONS)}
    before = len(arrived)
    done = site.run("produce", "journal", "--once", f"--directory={folder}")
    assert done.returncode == 0, done.stderr
    assert len(read_all(site.address, f"{site.prefix}.raw")) == before


@needs_journal
def test_once_ends_with_3_where_the_journal_cannot_be_read(site: Site) -> None:
    done = site.run("produce", "journal", "--once", "--directory=/nonexistent")
    assert done.returncode == 3
    assert b"journalctl: Failed to open" in done.stderr


def test_a_missing_journalctl_is_said(site: Site) -> None:
    site.others["PATH"] = "/nonexistent"
    done = site.run("produce", "journal", "--once")
    assert done.returncode == 3
    assert b"journalctl cannot be run (No such file or directory)" in done.stderr
