"""What users type: times, flags and their mistakes, and the terms that both sides of the search share."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, tzinfo
from ipaddress import ip_network
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import orjson
import pytest

from mailspan.errors import UsageError
from search.counts import count_by, field_named
from search.query import FLAGS, Query, network_of, parse_query
from search.select import select
from search.times import parse_time
from sink.sqlite import open_for_writing
from sink.sqlite_reader import SqliteReader
from sink.store import Selection
from sink.terms import fold, network_terms, terms_of
from tests.running import ROOT, mailspan
from tests.search_documents import Document, attempt, document, pages

if TYPE_CHECKING:
    from pathlib import Path

MADRID, CAIRO, KOLKATA = ZoneInfo("Europe/Madrid"), ZoneInfo("Africa/Cairo"), ZoneInfo("Asia/Kolkata")
NOW = datetime(2026, 11, 25, 0, 30, tzinfo=UTC)


def at(text: str, zone: ZoneInfo = MADRID, *, is_end: bool = False, now: datetime = NOW) -> str:
    """Return what a user's time means, as UTC."""
    read = parse_time("-D" if is_end else "-d", text, now=now, zone=zone, is_end=is_end)
    return datetime.fromtimestamp(read / 1000, UTC).isoformat().removesuffix("+00:00")


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("2011-12-15 00:00:00", "2011-12-14T23:00:00"),
        ("2011-12-15T00:00", "2011-12-14T23:00:00"),
        ("2011-12-15 00:00:00,5", "2011-12-14T23:00:00.500000"),
        ("2026-07-01 12:00", "2026-07-01T10:00:00"),  # summer time
        ("2011-12-15T10:00:00Z", "2011-12-15T10:00:00"),
        ("2011-12-15T10:00:00.25+05:30", "2011-12-15T04:30:00.250000"),
        ("2011-12-15 10:00:00 -0500", "2011-12-15T15:00:00"),
        ("2h", "2026-11-24T22:30:00"),
        ("90m", "2026-11-24T23:00:00"),
        ("1w", "2026-11-18T00:30:00"),
        ("now", "2026-11-25T00:30:00"),
        ("today", "2026-11-24T23:00:00"),  # it is 01:30 in Madrid
        ("Yesterday", "2026-11-23T23:00:00"),
        ("2026-03-29 02:30", "2026-03-29T01:30:00"),  # never shown by a clock: an hour was left out
        ("2026-10-25 02:30", "2026-10-25T00:30:00"),  # shown twice: the first
    ],
)
def test_times(text: str, means: str) -> None:
    assert at(text) == means


@pytest.mark.parametrize(
    ("text", "zone", "begin", "end"),
    [
        ("2011-12-15", MADRID, "2011-12-14T23:00:00", "2011-12-15T23:00:00"),
        ("2026-03-29", MADRID, "2026-03-28T23:00:00", "2026-03-29T22:00:00"),  # 23 hours
        ("2026-10-25", MADRID, "2026-10-24T22:00:00", "2026-10-25T23:00:00"),  # 25 hours
        ("2026-04-24", CAIRO, "2026-04-23T22:00:00", "2026-04-24T21:00:00"),  # begins at 01:00
        ("today", KOLKATA, "2026-11-24T18:30:00", "2026-11-25T18:30:00"),
        ("yesterday", KOLKATA, "2026-11-23T18:30:00", "2026-11-24T18:30:00"),
        ("0001-01-01", KOLKATA, "0001-01-01T00:00:00", "0001-01-01T18:06:32"),  # it began in the year 0
    ],
)
def test_a_whole_day(text: str, zone: ZoneInfo, begin: str, end: str) -> None:
    assert (at(text, zone), at(text, zone, is_end=True)) == (begin, end)


@pytest.mark.parametrize(("zone", "milliseconds"), [(KOLKATA, 253_402_280_999_999), (UTC, 253_402_300_799_999)])
def test_to_the_end_of_the_last_day_there_is(zone: tzinfo, milliseconds: int) -> None:
    assert parse_time("-D", "9999-12-31", now=NOW, zone=zone, is_end=True) == milliseconds


@pytest.mark.parametrize(
    "text",
    ["", "tomorrow", "2011-13-01", "2011-02-30", "2011-12-15 25:00", "2 hours", "-2h", "99999999w", "٢h", "0000-01-01"],
)
def test_no_time(text: str) -> None:
    with pytest.raises(UsageError, match=r"^-d .*: not a time; expected 'YYYY-MM-DD'"):
        at(text)


def test_the_machines_zone_is_the_readers(tmp_path: Path) -> None:
    """-d and what is shown are local time, in the zone of the process."""
    path = tmp_path / "mail.db"
    with open_for_writing(path) as writer:
        writer.write(
            [
                document(queue_id="A", date="2026-11-23T22:59:59.999Z"),
                document(queue_id="B", date="2026-11-23T23:00:00.000Z"),
            ]
        )
    found = mailspan(
        "search", "--store", f"sqlite:///{path}", "-d", "2026-11-24", "-D", "2026-11-24", zone="Europe/Madrid"
    ).stdout
    assert b"transaction: B\n" in found
    assert b"date:   2026-11-24 00:00:00\n" in found
    assert b"transaction: A\n" not in found
    by_day = mailspan("search", "--store", f"sqlite:///{path}", "--count", "--by", "date", zone="Europe/Madrid").stdout
    assert by_day.split() == [b"1", b"2026-11-24", b"1", b"2026-11-23"]


def query(**flags: str) -> Query:
    return parse_query({name: flags.get(name) for name in FLAGS}, now=NOW, zone=UTC)


def found(path: Path, **flags: str) -> list[str]:
    with SqliteReader(path) as reader:
        return [orjson.loads(each)["id"].partition("/")[2] for each in reader.newest(select(query(**flags)), 1000)]


def stored(tmp_path: Path, *documents: Document) -> Path:
    path = tmp_path / "mail.db"
    with open_for_writing(path) as writer:
        writer.write(documents)
    return path


def test_that_recipient_bounced_not_another(tmp_path: Path) -> None:
    path = stored(
        tmp_path,
        document(queue_id="ONE", to=[attempt("a@example.com", "deferred"), attempt("a@example.com", "bounced")]),
        document(queue_id="OTHER", to=[attempt("a@example.com"), attempt("b@example.com", "bounced")]),
        document(queue_id="BEFORE", to=[attempt("a@example.com", "deferred"), attempt("a@example.com")]),
        document(
            queue_id="ALIAS",
            to=[
                attempt("x@example.net", original_recipient="a@example.com"),
                attempt("y@example.net", "bounced", original_recipient="a@example.com"),
            ],
        ),
    )
    assert sorted(found(path, recipient="A@example.com", outcome="bounced")) == ["ALIAS", "ONE"]
    assert sorted(found(path, recipient="a@example.com", outcome="deferred")) == []
    assert sorted(found(path, recipient="@EXAMPLE.com", outcome="bounced")) == ["ALIAS", "ONE", "OTHER"]
    assert len(found(path, recipient="<a@example.com>")) == 4


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ({"sender": "STRASSE@example.net"}, ["A"]),  # casefold: ß is ss
        ({"sender": "@XN--BCHER-KVA.example.org"}, ["B", "C"]),
        ({"sender": "carol@b\N{COMBINING DIAERESIS}ucher.example.org"}, []),
        ({"sender": "carol@bu\N{COMBINING DIAERESIS}cher.example.org"}, ["B", "C"]),
        ({"sender": "carol"}, []),  # whole, or as @domain
        ({"sender": "@example.org"}, []),
        ({"client": "::ffff:c000:207"}, ["A"]),
        ({"client": "192.0.2.0/29"}, ["A"]),
        ({"client": "IPv6:2001:DB8::/47"}, ["B"]),
        ({"client": "[2001:db8:1::1]"}, ["B"]),
        ({"client": "mail.example.net [192.0.2.7]"}, ["A"]),
        ({"client": "unknown [192.0.2.7]"}, ["A"]),
        ({"client": "other.example.net [192.0.2.7]"}, []),
        ({"host": "MX1"}, ["A", "B", "C"]),
        ({"host": "mx1.example.com."}, ["A", "B", "C"]),
        ({"host": "mx1.example"}, []),
        ({"term": "mx1/a"}, ["A"]),
        ({"term": "mx2/A"}, []),
        ({"term": "mx1.example.com/A/1795420800#7"}, ["A"]),
        ({"queue_id": "mx1.example.com/b"}, ["B"]),
        ({"term": "0123abcd00000001"}, ["0123abcd"]),  # OpenSMTPD's envelope id
        ({"message_id": "<LONG." + "x" * 120 + "@example.com>"}, ["A"]),
        ({"message_id": "long." + "x" * 90}, ["A"]),
        ({"message_id": "long." + "x" * 70}, []),  # Sendmail cuts none so short
        ({"subject": "KÖLN"}, ["C"]),
        ({"subject": "ko\N{COMBINING DIAERESIS}ln"}, ["C"]),
    ],
)
def test_other_spellings(tmp_path: Path, flags: dict[str, str], wanted: list[str]) -> None:
    long = "long." + "x" * 120 + "@example.com"
    people = {"A": "straße@example.net", "B": "carol@bücher.example.org", "C": "Carol@xn--bcher-kva.example.org"}
    clients = {"A": ("mail.example.net", "192.0.2.7"), "B": (None, "2001:db8:1::1"), "C": (None, None)}
    documents = [
        document(
            queue_id=name, **{"from": person}, to=[], msgid=long[:100] if name == "A" else None,
            notes=["truncated"] if name == "A" else [], subject="Grüße aus Köln" if name == "C" else None,
            client=f"{clients[name][0]} [{clients[name][1]}]", client_name=clients[name][0], client_ip=clients[name][1],
        )
        for name, person in people.items()
    ]  # fmt: skip
    documents.append(document(queue_id="0123abcd", host="mail.example.org", mta="opensmtpd", to=[]))
    assert sorted(found(stored(tmp_path, *documents), **flags)) == wanted


def test_fold_twice_is_fold_once() -> None:
    for text in (
        "İSTANBUL",
        "xn--xn---foo",
        "xn--a.xn--bcher-kva.XN--BCHER-KVA",
        "xn--xn--bcher-kva-",
        "ﬀ",
        "e\u0301",
        "xn--" + "z" * 80,
        "xn--1",
    ):
        assert fold(fold(text)) == fold(text)


def test_networks() -> None:
    assert str(network_of("10.1.2.3/8")) == "10.0.0.0/8"
    assert str(network_of("::ffff:10.1.0.0/112")) == "10.1.0.0/16"
    assert str(network_of("ipv6:2001:db8::1")) == "2001:db8::1/128"
    for text in ("1234", "ABCDEF", "10.1", "alice@example.com", "10.1.2.3/33", "4fT3Kq1cVbz9CLt"):
        assert network_of(text) is None


def test_a_wide_network(tmp_path: Path) -> None:
    """A /9 is 128 of the networks that documents are found by."""
    path = stored(
        tmp_path,
        *(
            document(queue_id=f"{number:X}", client=f"[198.{number}.0.1]", client_ip=f"198.{number}.0.1")
            for number in (0, 1, 77, 126, 127, 128, 200, 255)
        ),
    )
    with SqliteReader(path) as reader:
        for network, wanted in (("198.0.0.0/9", 5), ("198.128.0.0/9", 3), ("198.0.0.0/11", 2), ("199.0.0.0/9", 0)):
            selection = Selection((network_terms(ip_network(network)),))
            assert reader.count(selection) == wanted, network
            assert len(reader.newest(selection, 100)) == wanted, network


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-h",), "-h needs the name of a host, as in -h smtp; for help use --help"),
        (("-h", "-f", "a@example.com"), "-h needs the name of a host"),
        (("-o", "lost"), "-o 'lost': expected one of delivered, relayed"),
        (("--dsn", "5.7.x"), "--dsn '5.7.x': expected an enhanced status code"),
        (("--state", "gone"), "--state 'gone': expected one of open, closed, incomplete"),
        (("-r", "0"), "-r '0': expected a whole number from 1 to 999999999"),
        (("-r", "1000000000"), "expected a whole number from 1 to 999999999"),
        (("-c", "192.0.2.0/33"), "-c '192.0.2.0/33': expected a name, an IP or a network"),
        (("-c", "2001:db8::/129"), "expected a name, an IP or a network"),
        (("--store", "ftp://mail.example.com"), "expected sqlite:///PATH or https://HOST:9200"),
        (("-r", "²"), "expected a whole number"),
        (("-f", " "), "-f ' ': expected a value"),
        (("-d", "2026-01-02", "-D", "2026-01-01"), "nothing lies between"),
        (("--by", "host"), "only with --count"),
        (("--count", "--by", "colour"), "expected one of day, hour, host"),
        (("--no-such",), "mailspan search --help"),
    ],
)  # fmt: skip
def test_mistakes(arguments: tuple[str, ...], said: str) -> None:
    done = mailspan("search", *arguments)
    assert done.returncode == 2
    assert said in done.stderr.decode()
    assert len(done.stderr.splitlines()) == 1


def test_nothing_found_is_said(tmp_path: Path) -> None:
    path = stored(tmp_path, document(queue_id="A"))
    for flags in ((), ("--count",), ("--count", "--by", "host"), ("--json",)):
        done = mailspan("search", "--store", f"sqlite:///{path}", "-f", "nobody@example.com", *flags)
        assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"nothing found\n")


def test_fifty_thousand_recipients(tmp_path: Path) -> None:
    """A hundred pages are one mail, and anyone of any page is found."""
    mail = pages(100, 500, queue_id="BIG", **{"from": "news@example.com"})
    before = {"from": "news@example.com", "date": "2026-11-23T07:59:00.000Z", "to": [attempt("x@example.com")]}
    rest = [document(queue_id=f"Q{n}", **before) for n in range(5)]
    path = stored(tmp_path, *mail, *rest)
    assert found(path, recipient="member37123@list.example.org") == ["BIG#74"]
    assert found(path, recipient="member49999@list.example.org", outcome="bounced") == ["BIG#99"]
    assert found(path, recipient="member49998@list.example.org", outcome="bounced") == []
    everything = Selection(all_of=())
    with SqliteReader(path) as reader:
        assert reader.count(everything) == 6
        assert reader.count(select(query(recipient="@list.example.org"))) == 1
        for field, value, number in (
            ("outcome", "bounced", 1),
            ("relay", "mx.example.org", 6),
            ("dsn", "5.1.1", 1),
            ("sender", "news@example.com", 6),
        ):
            assert dict(count_by(reader, everything, field, UTC))[value] == number
        assert len(dict(count_by(reader, everything, "recipient", UTC))) == 50_001
        newest = [orjson.loads(each)["id"].partition("/")[2] for each in reader.newest(everything, 3)]
    assert newest == ["BIG", *(f"BIG#{page}" for page in range(1, 100)), "Q0", "Q1"]
    text = mailspan("search", "--store", f"sqlite:///{path}", "-f", "news@example.com").stdout.decode()
    assert text.count("transaction: BIG\n") == 1
    assert text.count("transaction: ") == 6


def test_days_of_half_hour_zones(tmp_path: Path) -> None:
    path = stored(
        tmp_path,
        document(queue_id="A", date="2026-11-23T18:29:59.000Z"),
        document(queue_id="B", date="2026-11-23T18:30:00.000Z"),
    )
    with SqliteReader(path) as reader:
        assert count_by(reader, Selection(all_of=()), "day", KOLKATA) == [("2026-11-24", 1), ("2026-11-23", 1)]
        assert count_by(reader, Selection(all_of=()), "hour", KOLKATA) == [
            ("2026-11-24 00:00", 1),
            ("2026-11-23 23:00", 1),
        ]
    assert field_named("Recipient-Domains") == "recipient_domain"
    assert field_named("date") == "day"


def test_the_terms_are_these() -> None:
    """They are in every store: who changes them raises sink.sqlite_schema.SCHEMA_VERSION."""
    one = document(
        queue_id="4F1A2", **{"from": "Bob@example.com"}, msgid="<1@example.com>", subject="Abcd", updated="2026-11-23T14:00:00.000Z",
        client="c.example.com [192.0.2.7]", client_name="c.example.com", client_ip="192.0.2.7",
        to=[attempt("a b@example.com", original_recipient="list@example.net")],
        links=[{"kind": "next", "queue_id": "5B0C1", "host": None}],
    )  # fmt: skip
    assert sorted(set(terms_of(one, 6 * 3_600_000).split("\n"))) == [
        "client:c.example.com", "dsn:2", "dsn:2.0", "dsn:2.0.0", "ended:relayed", "from:@example.com", "from:bob@example.com",
        "had:relayed", "has:subject", "host:mx1", "host:mx1.example.com", "kind:transaction", "link:5b0c1", "msgid:1@example.com", "mta:postfix",
        "net:192", "net:192.0", "net:192.0.2", "net:192.0.2.7", "on:mx1.example.com", "outcome:relayed", "queue:4f1a2",
        "relay:203.0.113.5", "relay:mx.example.org", "span:0", "span:1", "state:open",
        "subject:abc", "subject:bcd", "to-relayed:@example.com", "to-relayed:@example.net", "to-relayed:a%20b@example.com",
        "to-relayed:list@example.net",
    ]  # fmt: skip


def test_a_store_of_an_older_schema_is_told(tmp_path: Path) -> None:
    path = stored(tmp_path, document(queue_id="A"))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 1")
    for command in (("search",), ("retention",), ("index", "samples/original.mail.log")):
        done = mailspan(*command, "--store", f"sqlite:///{path}")
        assert done.returncode == 3
        assert b"made by an older mailspan (schema 1)" in done.stderr


def test_search_starts_without_the_grammar() -> None:
    """A search must not pay for reading logs."""
    program = "import sys, mailspan.commands.search; print('mailspan.grammar' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, cwd=ROOT)
    assert done.stdout == b"False\n"
