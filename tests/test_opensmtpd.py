"""What OpenSMTPD's lines are about: their session and message, delays, and the cost of a mail with many envelopes."""

from __future__ import annotations

import json
import time
from datetime import UTC
from pathlib import Path

import pytest

from mailspan.document import documents
from mailspan.event import Attempted, Connected, Enveloped, Refused
from mailspan.event_time import TimeSettings
from mailspan.grammar import Parser
from mailspan.grammar.opensmtpd_read import seconds_of
from mailspan.record import Ignored, Record, Unparsed
from reducer.assembler import Assembler

CORPUS = Path(__file__).parent / "corpus"
MANY = 10_000
MANY_SECONDS = 1.0


def parse(message: str, program: str = "smtpd[16]", hour: int = 7) -> Record | Ignored | Unparsed:
    parser = Parser(TimeSettings(reference=1795500000, year=2026, zone=UTC), "here")
    return parser.parse(f"2026-11-23T{hour:02d}:55:08.500+00:00 osm {program}: {message}")


def record(message: str, program: str = "smtpd[16]") -> Record:
    found = parse(message, program)
    assert isinstance(found, Record), found
    return found


@pytest.mark.parametrize(
    ("message", "session", "queue_id"),
    [
        ("881c4ca7ad2782c1 smtp connected address=10.77.0.32 host=mua1.lab.test", "881c4ca7ad2782c1", None),
        ("881c4ca7ad2782c1 smtp message msgid=b16fa2ed size=3 nrcpt=1 proto=SMTP", "881c4ca7ad2782c1", "b16fa2ed"),
        (
            "881c4ca7ad2782c1 smtp envelope evpid=b16fa2ed53cd2ecd from=<> to=<a@example.com>",
            "881c4ca7ad2782c1",
            "b16fa2ed",
        ),
        (
            "0000000000000000 mda delivery evpid=b16fa2ed53cd2ecd from=<> to=<a@b> user=a delay=0s result=Ok stat=",
            None,
            "b16fa2ed",
        ),
        (
            "relay: Expire for b16fa2ed53cd2ecd: from=<@>, to=<a@example.com>, rcpt=<->, delay=4d, stat=Envelope expired",
            None,
            "b16fa2ed",
        ),
        ('881c4ca7ad2782c1 smtp failed-command command="" result="550 no rDNS please fix"', "881c4ca7ad2782c1", None),
    ],
)
@pytest.mark.parametrize("program", ["smtpd[16]", "smtpd", "opensmtpd[16]"])
def test_session_and_message(message: str, session: str | None, queue_id: str | None, program: str) -> None:
    found = record(message, program)
    assert (found.session, found.queue_id, found.mta, found.text) == (session, queue_id, "opensmtpd", message)


@pytest.mark.parametrize(
    ("delay", "seconds"),
    [("0s", 0), ("1m31s", 91), ("1d2h2m4s", 93724), ("4d", 345600), ("-3s", -3), ("3s1m", None), ("s", None)],
)
def test_delays(delay: str, seconds: float | None) -> None:
    assert seconds_of(delay) == seconds


@pytest.mark.parametrize(
    ("address", "name", "text"),
    [
        ("[2001:0db8::25]", "mx.example.net", "mx.example.net [2001:db8::25]"),
        ("192.0.2.1", "<unknown>", "[192.0.2.1]"),
        ("192.0.2.1", "192.0.2.1", "[192.0.2.1]"),
    ],
)
def test_clients(address: str, name: str, text: str) -> None:
    event = record(f"881c4ca7ad2782c1 smtp connected address={address} host={name}").event
    assert isinstance(event, Connected)
    assert (event.peer, event.client) == (text, None)


def test_a_name_with_brackets_is_no_other_client() -> None:
    event = record("881c4ca7ad2782c1 smtp connected address=192.0.2.1 host=a[198.51.100.1](may be forged)").event
    assert isinstance(event, Connected)
    assert event.client is not None
    assert (event.client.ip, event.client.forged) == ("192.0.2.1", None)


@pytest.mark.parametrize(
    ("command", "stage", "sender", "recipient"),
    [
        ("", "connect", None, None),
        ("EHLO -", "helo", None, None),
        ("starttls", "helo", None, None),
        ("AUTH LOGIN (password)", "auth", None, None),
        ("mail from:<> SIZE=3", "mail", "", None),
        ("MAIL FROM: <a@example.com>", "mail", "a@example.com", None),
        ("RCPT TO:<caf\\M-C\\M-)@example.com> ", "rcpt", None, "café@example.com"),
        ("RCPT TO:nobody", "rcpt", None, "nobody"),
        ('RCPT TO:<"a" result="550 x"@example.com>', "rcpt", None, '"a" result="550 x"@example.com'),
        ("DATA", "data", None, None),
    ],
)
def test_stages(command: str, stage: str, sender: str | None, recipient: str | None) -> None:
    event = record(f'881c4ca7ad2782c1 smtp failed-command command="{command}" result="451 4.3.0 Later" it said"').event
    assert isinstance(event, Refused)
    assert (event.stage, event.sender, event.recipient) == (stage, sender, recipient)
    assert (event.status, event.code, event.dsn) == ('451 4.3.0 Later" it said', 451, "4.3.0")


@pytest.mark.parametrize("command", ["GET / HTTP/1.1", "RSET", "QUIT now", "VRFY root"])
def test_commands_that_refuse_no_mail(command: str) -> None:
    assert parse(f'881c4ca7ad2782c1 smtp failed-command command="{command}" result="500 no"') == Ignored(
        "failed command"
    )


@pytest.mark.parametrize(
    ("relay", "name", "ip"),
    [
        ("10.77.0.21 (mx1.sink.lab.test)", "mx1.sink.lab.test", "10.77.0.21"),
        ("[2001:db8::25] (MX.example.net.)", "mx.example.net", "2001:db8::25"),
        ("198.51.100.7 (<unknown>)", "198.51.100.7", "198.51.100.7"),
        ("198.51.100.7", "198.51.100.7", "198.51.100.7"),
        ("refuse.example", "none", None),
        ("", "none", None),
        ('198.51.100.7 (a" relay="b)', 'a" relay="b', "198.51.100.7"),
    ],
)
def test_relays(relay: str, name: str, ip: str | None) -> None:
    event = record(
        "881c4cb571580205 mta delivery evpid=b16fa2ed53cd2ecd from=<> to=<a@example.com> rcpt=<-> "
        f'source="-" relay="{relay}" delay=0s result="TempFail" stat="what"'
    ).event
    assert isinstance(event, Attempted)
    assert (event.relay, event.relay_ip, event.outcome) == (name, ip, "deferred")


def test_a_cut_line_is_unparsed_with_its_message() -> None:
    found = parse("881c4cb571580205 mta delivery evpid=b16fa2ed53cd2ecd from=<> to=<a@example.com> rcpt=<-> sour")
    assert found == Unparsed("smtpd", "no rule", "b16fa2ed")


def test_an_old_message_line_without_its_client() -> None:
    line = "881c4ca7ad2782c1 smtp event=message msgid=b16fa2ed from=<> to=<a@example.com> size=3 ndest=1 proto=SMTP"
    event = record(line).event
    assert isinstance(event, Enveloped)
    assert (event.sender, event.recipient, event.size, event.protocol) == ("", "a@example.com", 3, "SMTP")


def test_the_queue_writes_the_null_sender_with_an_at_sign() -> None:
    line = "relay: Expire for b16fa2ed53cd2ecd: from=<@>, to=<a@example.com>, rcpt=<->, delay=4d, stat=Envelope expired"
    event = record(line).event
    assert isinstance(event, Attempted)
    assert event.sender == ""


def test_an_old_mail_is_forgotten_an_hour_after_its_last_envelope() -> None:
    """Its message lines name no envelopes: those that answer them close it, under the address or what came of it."""
    said = "881c4ca7ad2782c1 smtp event=message msgid=b16fa2ed from=<> to=<{}@example.com> size=3 ndest=1 proto=SMTP"
    done = (
        "0000000000000000 mda event=delivery evpid=b16fa2ed0000000{} from=<> to=<{}> {}user=a delay=0s result=Ok stat="
    )
    messages = [
        said.format("a"),
        said.format("team"),
        done.format(1, "a@example.com", ""),
        done.format(2, "b@example.com", "rcpt=<team@example.com> "),
    ]
    assembler = Assembler()
    for message in messages:
        assembler.apply(record(message))
    later = parse("881c4ca7ad2782c9 smtp message msgid=c16fa2ed size=3 nrcpt=1 proto=SMTP", hour=9)
    assert isinstance(later, Record)
    assembler.apply(later)
    assert [each.queue_id for each in assembler.forgotten()] == ["b16fa2ed"]


def test_a_mail_of_many_envelopes_is_not_quadratic() -> None:
    lines = [f"881c4ca7ad2782c1 smtp message msgid=b16fa2ed size=3 nrcpt={MANY} proto=SMTP"]
    envelopes = [f"evpid=b16fa2ed{number:08x} from=<> to=<r{number}@example.com>" for number in range(MANY)]
    lines += [f"881c4ca7ad2782c1 smtp envelope {envelope}" for envelope in envelopes]
    lines += [f"881c4ca7ad2782c2 mda delivery {each} user=a delay=0s result=Ok stat=Delivered" for each in envelopes]
    records = [record(line) for line in lines]
    assembler = Assembler()
    begin = time.process_time()
    for each in records:
        assembler.apply(each)
    assert time.process_time() - begin < MANY_SECONDS


def test_each_refusal_that_a_client_got_is_one_rejection() -> None:
    with (CORPUS / "expected_rejections.jsonl").open(encoding="utf-8") as lines:
        stated = [one for one in map(json.loads, lines) if one["host"] == "osm"]
    parser = Parser(TimeSettings(reference=1795500000, year=2026, zone=UTC), "here")
    assembler = Assembler()
    for line in (CORPUS / "osm.mail.log").read_text("utf-8").splitlines():
        found = parser.parse(line)
        if isinstance(found, Record):
            assembler.apply(found)
    transactions = [*assembler.forgotten(), *assembler.remaining()]
    rejections = [page for each in transactions for page in documents(each) if page["kind"] == "rejection"]
    assert len(rejections) == len(stated) > 0
    for one in stated:
        (document,) = [each for each in rejections if each["recipients"] == [one["recipient"]]]
        (entry,) = document["to"]
        assert entry["status"] == f"{one['code']} {one['text']}"
        assert (entry["code"], entry["dsn"], document["stage"]) == (one["code"], one["enhanced"], one["stage"].lower())
        assert document["client_ip"] == one["client_ip"]
