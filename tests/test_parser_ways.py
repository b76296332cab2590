"""The parser's short ways give what its general ones give."""

from __future__ import annotations

from datetime import UTC
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from bench.generate import Options, generate
from bench.world import Truth
from mailspan.event import Attempted, Gap, Received
from mailspan.event_time import TimeSettings
from mailspan.grammar import Parser
from mailspan.grammar.exim_fields import USUAL_DELIVERY
from mailspan.grammar.exim_read import read_arrival, read_delivery
from mailspan.record import Ignored, Record, Unparsed

CORPUS = Path(__file__).parent / "corpus"
SETTINGS = TimeSettings(1_780_000_000, year=2026, zone=UTC)


def parsed(line: str, settings: TimeSettings = SETTINGS) -> Record | Ignored | Unparsed:
    return Parser(settings, "here").parse(line)


@pytest.mark.parametrize("mta", ["postfix", "sendmail", "exim", "opensmtpd"])
@pytest.mark.parametrize("time", ["rfc3164", "iso"])
def test_a_line_means_the_same_whatever_came_before(mta: str, time: str) -> None:
    """A parser that has seen nothing reads each line the general way."""
    parser = Parser(SETTINGS, "here")
    for line in generate(Options(1500, mta, hosts=2, time=time), Truth()):
        assert parser.parse(line.rstrip("\n")) == parsed(line.rstrip("\n"))


@pytest.mark.parametrize("mta", ["postfix", "sendmail", "opensmtpd"])
def test_with_zones_of_hosts_too(mta: str) -> None:
    zones = (("mx1", ZoneInfo("Asia/Karachi")), ("mx2", ZoneInfo("America/New_York")))
    settings = TimeSettings(1_780_000_000, year=2026, zone=UTC, host_zones=zones)
    parser = Parser(settings, "here")
    for line in generate(Options(1500, mta, hosts=3), Truth()):
        assert parser.parse(line.rstrip("\n")) == parsed(line.rstrip("\n"), settings)


def test_an_hour_that_comes_twice_is_known_by_another_hosts_lines() -> None:
    """Of one minute by the words, of two hours: between the two lines of mx1, mx2 logged for an hour."""
    settings = TimeSettings(1_780_000_000, year=2025, zone=UTC, host_zones=(("mx1", ZoneInfo("Europe/Madrid")),))
    parser = Parser(settings, "here")
    lines = ["Oct 26 02:30:10 mx1", "Oct 26 00:30:11 mx2", "Oct 26 01:00:00 mx2", "Oct 26 01:30:15 mx2"]
    lines.append("Oct 26 02:30:20 mx1")
    results = [parser.parse(f"{line} postfix/qmgr[9]: 4A1B2C3D4E: removed") for line in lines]
    seconds = [result.stamp.second for result in results if isinstance(result, Record)]
    assert seconds[-1] - seconds[0] == 3610


@pytest.mark.parametrize("pid", ["", "x", "12345678901", "１", "1]["])
def test_what_is_no_process_id_takes_the_general_way(pid: str) -> None:
    parser = Parser(SETTINGS, "here")
    line = "Mar  9 06:00:00 mx1 sm-mta[{}]: 629600HO001000: done; delay=00:00:01, ntries=1"
    parser.parse(line.format(17))
    assert parser.parse(line.format(pid)) == parsed(line.format(pid))


def test_a_logger_that_was_ignored_once_may_tell_a_gap_later() -> None:
    parser = Parser(SETTINGS, "here")
    parser.parse("Mar  9 06:00:00 mx1 postfix/qmgr[9]: 4A1B2C3D4E: removed")  # the second is known from here on
    head = "Mar  9 06:00:00 mx1 rsyslogd[7]: "
    parser.parse(f"{head}rsyslogd was HUPed")
    gap = parser.parse(f"{head}imuxsock lost 34 messages from pid 94 due to rate-limiting")
    assert isinstance(gap, Record)
    assert isinstance(gap.event, Gap)


def exim_texts() -> list[str]:
    lines = list(generate(Options(3000, "exim"), Truth()))
    lines += (CORPUS / "store.exim-mainlog").read_text(errors="surrogateescape").splitlines()
    return [line.rstrip("\n").partition(line[20:36])[2][1:] for line in lines if len(line) > 40]


def test_exims_usual_arrival_is_read_as_the_general_one() -> None:
    """` K` (chunking) before the size says nothing, and is not of the usual shape."""
    texts = [text for text in exim_texts() if text.startswith("<= ") and " S=" in text]
    assert len(texts) > 500
    for text in texts:
        event = read_arrival(text, "exim")
        assert isinstance(event, Received)
        assert event == read_arrival(text.replace(" S=", " K S=", 1), "exim")


def test_exims_usual_delivery_is_read_as_the_general_one() -> None:
    """` L` (proxied) before the transport says nothing, and is not of the usual shape."""
    texts = [text for text in exim_texts() if USUAL_DELIVERY.match(text, 3)]
    assert len(texts) > 500
    for text in texts:
        event = read_delivery(text, "exim")
        general = read_delivery(text.replace(" T=", " L T=", 1), "exim")
        assert isinstance(general, Attempted)
        general.status = general.status.replace(" L T=", " T=")
        assert event == general


@pytest.mark.parametrize(
    "text",
    [
        "=> /dev/null <a@example.org> R=r T=address_file",
        "=> :blackhole: <a@example.org> R=r T=t",
        "=> discarded <a@example.org> R=r T=t",
        "=> b: <a@example.org> R=r T=t",
        '=> a@example.org R=r T=t X=TLS1.3: C="250 ok"',
        '=> a@example.org R=r T=t H=mx [192.0.2.1] C="250 <\\"a\\"@example.org> ok" QT=1s',
        "=> a (b@example.org) <c@example.org> R=r T=t",
        "*> a@example.org R=r T=**bypassed**",
        "-> a#b@example.org R=r T=t",
    ],
)
def test_exims_odd_deliveries_too(text: str) -> None:
    event = read_delivery(text, "exim")
    general = read_delivery(text.replace(" T=", " L T=", 1), "exim")
    assert isinstance(general, Attempted)
    general.status = general.status.replace(" L T=", " T=")
    assert event == general
