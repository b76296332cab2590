"""What is known by process only reaches the transactions of that session, and no others; lines twice change nothing."""

from __future__ import annotations

import random
from datetime import UTC
from typing import Any

import pytest

from mailspan.document import documents
from mailspan.event_time import TimeSettings
from mailspan.grammar import Parser
from mailspan.record import Record, Stamp
from reducer import sessions
from reducer.assembler import Assembler

CONNECT = "smtpd[94]: connect from client.example.com[192.0.2.10]"
TLS = (
    "smtpd[94]: Anonymous TLS connection established from client.example.com[192.0.2.10]: TLSv1.3 with cipher "
    "TLS_AES_256_GCM_SHA384 (256/256 bits)"
)
CLIENT = "smtpd[94]: B6D781149FE: client=client.example.com[192.0.2.10]"
DISCONNECT = "smtpd[94]: disconnect from client.example.com[192.0.2.10] ehlo=1 mail=1 quit=1 commands=3"
OTHER_CONNECT = "smtpd[94]: connect from other.example.net[192.0.2.99]"
OTHER_CLIENT = "smtpd[94]: B6D781149FF: client=other.example.net[192.0.2.99]"
RELAY_TLS = (
    "smtp[70]: Trusted TLS connection established to mx.example.org[192.0.2.25]:25: TLSv1.3 with cipher "
    "TLS_CHACHA20_POLY1305_SHA256 (256/256 bits)"
)
TO = "smtp[70]: B6D781149FE: to=<{}@example.org>, relay={}, delay=1, delays=0/0/1/0, dsn=2.0.0, status=sent (250 ok)"
HERE, THERE = "mx.example.org[192.0.2.25]:25", "mx2.example.org[192.0.2.26]:25"


def assemble(*lines: str, second: int = 8) -> dict[str, dict[str, Any]]:
    """Return the documents by queue ID; each line is a second later unless it begins with `=`."""
    parser, assembler = Parser(TimeSettings(reference=1795500000, zone=UTC), "mx1"), Assembler()
    for line in lines:
        second += not line.startswith("=")
        program = "" if line.lstrip("=").startswith("sm-mta") else "postfix/"
        record = parser.parse(f"Nov 23 07:55:{second:02d} mx1 {program}{line.lstrip('=')}")
        assert isinstance(record, Record), record
        assembler.apply(record)
    found = [document for transaction in assembler.remaining() for document in documents(transaction)]
    return {document["queue_id"]: document for document in found}


def test_the_clients_tls_reaches_the_mail_of_its_session() -> None:
    assert assemble(CONNECT, TLS, CLIENT)["B6D781149FE"]["tls"] == "TLSv1.3 TLS_AES_256_GCM_SHA384"


@pytest.mark.parametrize(
    "before", [(CONNECT, TLS, DISCONNECT), (CONNECT, TLS, DISCONNECT, OTHER_CONNECT), (CONNECT, TLS, OTHER_CONNECT)]
)
def test_it_does_not_reach_the_next_session(before: tuple[str, ...]) -> None:
    assert assemble(*before, OTHER_CLIENT)["B6D781149FF"]["tls"] is None


def test_a_lost_head_does_not_give_one_client_the_tls_of_another() -> None:
    assert assemble(CONNECT, TLS, OTHER_CLIENT)["B6D781149FF"]["tls"] is None


SESSION_LINES = (CONNECT, TLS, DISCONNECT, OTHER_CONNECT)


@pytest.mark.parametrize(
    ("again", "at"), [(line, at) for number, line in enumerate(SESSION_LINES) for at in range(number + 1, 7)]
)
@pytest.mark.parametrize("same_second", [True, False])
def test_a_line_that_comes_twice_changes_nothing(again: str, at: int, *, same_second: bool) -> None:
    lines = [*SESSION_LINES, OTHER_CLIENT, "smtpd[94]: lost connection after DATA from other.example.net[192.0.2.99]"]
    if same_second:
        lines = [lines[0], *("=" + line for line in lines[1:])]
        again = "=" + again
        assert assemble(*lines[:at], again, *lines[at:]) == assemble(*lines)
        return
    parser = Parser(TimeSettings(reference=1795500000, zone=UTC), "mx1")
    records = [parser.parse(f"Nov 23 07:55:{8 + n:02d} mx1 postfix/{line}") for n, line in enumerate(lines)]
    twice = [*records[:at], records[lines.index(again)], *records[at:]]
    found = []
    for some in (records, twice):
        assembler = Assembler()
        for record in some:
            assert isinstance(record, Record)
            assembler.apply(record)
        found.append([documents(transaction) for transaction in assembler.remaining()])
    assert found[0] == found[1]


def test_tls_with_a_relay_goes_to_the_attempts_of_that_connection_only() -> None:
    lines = [
        CLIENT,
        RELAY_TLS,
        TO.format("a", HERE),
        TO.format("b", HERE),
        TO.format("c", THERE),
        TO.format("d", HERE).replace("[70]", "[71]"),
    ]
    rows = assemble(*lines)["B6D781149FE"]["to"]
    assert {row["recipient"][0]: row.get("tls") for row in rows} == {
        "a": "TLSv1.3 TLS_CHACHA20_POLY1305_SHA256",
        "b": "TLSv1.3 TLS_CHACHA20_POLY1305_SHA256",
        "c": None,
        "d": None,
    }


def test_sendmails_login_and_tls_reach_the_mail_of_that_process() -> None:
    found = assemble(
        "sm-mta[20]: STARTTLS=server, relay=mua2.lab.test [10.77.0.33], version=TLSv1.3, verify=NO, "
        "cipher=TLS_AES_256_GCM_SHA384, bits=256/256",
        "sm-mta[20]: AUTH=server, relay=mua2.lab.test [10.77.0.33], authid=alice, mech=PLAIN, bits=0",
        "sm-mta[20]: 6AN7t85o000020: from=<a@example.com>, size=214, class=0, nrcpts=1, msgid=<x@example.com>, "
        "proto=ESMTP, daemon=MTA-v4, relay=mua2.lab.test [10.77.0.33]",
    )
    document = found["6AN7t85o000020"]
    assert (document["tls"], document["sasl_username"]) == ("TLSv1.3 TLS_AES_256_GCM_SHA384", "alice")


def test_sessions_are_bounded() -> None:
    parser, known = Parser(TimeSettings(reference=1795500000, zone=UTC), "mx1"), sessions.Sessions()
    for pid in range(sessions.MAX_SESSIONS + 10):
        record = parser.parse(f"Nov 23 07:55:08 mx1 postfix/smtpd[{pid}]: connect from client.example.com[192.0.2.10]")
        assert isinstance(record, Record)
        sessions.apply(known, record)
    assert len(known) == sessions.MAX_SESSIONS
    assert "postfix/smtpd[9]" not in known


def test_sessions_outlive_the_run() -> None:
    parser = Parser(TimeSettings(reference=1795500000, zone=UTC), "mx1")
    state: dict[str, bytes] = {}
    for line in (CONNECT, TLS, CLIENT):
        assembler = Assembler(incremental=True)
        assembler.restore(state)
        record = parser.parse(f"Nov 23 07:55:08 mx1 postfix/{line}")
        assert isinstance(record, Record)
        assembler.apply(record)
        found = assembler.changed().documents
        state.update({key: value for key, value in assembler.snapshot_changes().items() if value is not None})
    assert [document["tls"] for document in found] == ["TLSv1.3 TLS_AES_256_GCM_SHA384"]


def test_lost_lines_are_noted_on_what_was_open() -> None:
    gap = "Nov 23 07:55:20 mx1 rsyslogd: imuxsock lost 34 messages from pid 94 due to rate-limiting"
    parser, assembler = Parser(TimeSettings(reference=1795500000, zone=UTC), "mx1"), Assembler()
    closed = [CLIENT.replace("9FE", "9FA"), "qmgr[9]: B6D781149FA: removed"]
    lines = [*(f"Nov 23 07:55:08 mx1 postfix/{line}" for line in (*closed, CLIENT)), gap, gap]
    for line in lines:
        record = parser.parse(line)
        assert isinstance(record, Record), record
        assembler.apply(record)
    found = {one["queue_id"]: one for transaction in assembler.remaining() for one in documents(transaction)}
    assert "log gap" in found["B6D781149FE"]["notes"]
    assert "log gap" not in found["B6D781149FA"]["notes"]
    assert found["B6D781149FE"]["version"] // 65536 == 2


def test_the_sessions_that_began_first_are_dropped_first() -> None:
    """In whatever order processes come back: those that did are the newest."""
    stamp = Stamp(1, 0, 0, guessed=False)
    known, expected = sessions.Sessions(), dict[str, sessions.Session]()
    chance = random.Random(1)  # noqa: S311 - the same each time
    for _ in range(20_000):
        key = str(chance.randrange(3000))
        for each in (known, expected):
            each.pop(key, None)
        if len(known) >= 1500:
            known.drop_oldest()
            del expected[next(iter(expected))]
        known[key] = expected[key] = sessions.Session(stamp)
    assert list(known) == list(expected)
