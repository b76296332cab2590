"""Refusals without a queue ID are documents: every one that a client of the lab got, and how repeats are told apart."""

from __future__ import annotations

import json
from datetime import UTC
from typing import Any

import pytest

from mailspan.document import FIELDS, documents
from mailspan.event_time import TimeSettings
from mailspan.grammar import Parser
from mailspan.record import Record
from reducer.assembler import Assembler
from tests.facts import CORPUS, HOSTS, Host, parse

CONNECT = "Nov 23 07:55:08 mx1 postfix/smtpd[94]: connect from client.example.com[192.0.2.10]"
REFUSAL = (
    "NOQUEUE: reject: RCPT from client.example.com[192.0.2.10]: 550 5.1.1 <x@example.com>: Recipient address rejected: "
    "User unknown; from=<a@example.net> to=<x@example.com> proto=ESMTP helo=<client.example.com>"
)
LOGGED_WITHOUT_ID = frozenset({"postfix"})  # Sendmail gives an ID before it refuses


def assemble(*lines: str, rejections: bool = True) -> list[dict[str, Any]]:
    parser = Parser(TimeSettings(reference=1795500000, zone=UTC), "mx1")
    assembler = Assembler(rejections=rejections)
    for line in lines:
        record = parser.parse(line)
        if isinstance(record, Record):
            assembler.apply(record)
    return [document for transaction in assembler.remaining() for document in documents(transaction)]


def refusal(pid: int, second: int = 9, text: str = REFUSAL) -> str:
    return f"Nov 23 07:55:{second:02d} mx1 postfix/smtpd[{pid}]: {text}"


def expected_rejections(host: Host) -> list[dict[str, Any]]:
    with (CORPUS / "expected_rejections.jsonl").open(encoding="utf-8") as lines:
        stated = [json.loads(line) for line in lines]
    # A Milter's and a header check's refusal come after the queue ID: they are facts of a transaction.
    return [one for one in stated if one["host"] == host.name and one["queue_id"] is None and one["stage"] != "DATA"]


@pytest.mark.parametrize("host", [host for host in HOSTS if host.name.startswith("edge")], ids=lambda host: host.name)
def test_each_refusal_that_a_client_got_is_one_document(host: Host) -> None:
    found = [document for document in parse(host) if document["kind"] == "rejection"]
    expected = expected_rejections(host)
    assert len(found) == len(expected) > 0
    for one in expected:
        matching = [
            document
            for document in found
            if document["to"][0]["recipient"] == one["recipient"]
            and document["from"] == one["sender"]
            and document["to"][0]["code"] == one["code"]
            and document["to"][0]["dsn"] == one["enhanced"]
            and document["stage"] == one["stage"].lower()
            and document["client_ip"] == one["client_ip"]
            and document["helo"] == one["helo"]
        ] or [
            document
            for document in found
            if one["sender"] is None
            and document["stage"] == one["stage"].lower()
            and document["to"][0]["code"] == one["code"]
        ]
        assert len(matching) == 1, one


@pytest.mark.parametrize("host", [host for host in HOSTS if host.mta == "exim"], ids=lambda host: host.label)
def test_each_refusal_of_exim_is_one_document_in_however_many_logs(host: Host) -> None:
    """Exim gives no ID to a mail before its data, and logs no reply code. It refused other servers of the lab, too."""
    found = [document for document in parse(host) if document["kind"] == "rejection"]
    with (CORPUS / "expected_rejections.jsonl").open(encoding="utf-8") as lines:
        expected = [one for one in map(json.loads, lines) if one["host"] == host.name]
    assert len(found) == len(expected) + sum(document["client_name"] == "relay.lab.test" for document in found)
    assert len(expected) == 5
    for one in expected:
        matching = [
            document
            for document in found
            if document["to"][0]["recipient"] == one["recipient"]
            and document["from"] == one["sender"]
            and document["stage"] == one["stage"].lower()
            and document["client_ip"] == one["client_ip"]
            and document["helo"] == one["helo"]
        ]
        assert len(matching) == 1, one
        assert matching[0]["repeat_count"] == 0
        assert (matching[0]["session"] is None) == (host.name == "store")  # its log names no process


def test_a_rejection_says_all_that_is_known() -> None:
    (document,) = assemble(CONNECT, refusal(94))
    assert list(document) == [field.name for field in FIELDS]
    assert document["queue_id"] is None
    assert document["id"].startswith("mx1/~")
    assert document["from"] == "a@example.net"
    assert document["client"] == "client.example.com [192.0.2.10]"
    assert (document["stage"], document["outcome"], document["closed_by"]) == ("rcpt", "rejected", "rejected")
    assert document["session"] == "mx1/postfix/smtpd[94] 2026-11-23T07:55:08.000Z"
    assert document["to"][0]["status"].startswith("550 5.1.1 <x@example.com>: ")
    assert document["deliveries"] == ["rejected x@example.com"]
    assert not document["temporary"]


def test_refusals_of_one_connection_share_their_session() -> None:
    other = REFUSAL.replace("x@example.com", "y@example.com")
    first, second = assemble(CONNECT, refusal(94), refusal(94, 10, other))
    assert first["id"] != second["id"]
    assert first["session"] == second["session"]


def test_the_same_line_twice_is_one_rejection_and_another_process_a_repeat() -> None:
    (document,) = assemble(CONNECT, refusal(94), refusal(94))
    assert document["repeat_count"] == 0
    (document,) = assemble(CONNECT, refusal(94), refusal(95), refusal(96), refusal(95))
    assert document["repeat_count"] == 2
    assert document["version"] // 65536 == 3


def test_a_refused_sender_names_no_recipient_but_keeps_the_reply() -> None:
    text = "NOQUEUE: reject: MAIL from client.example.com[192.0.2.10]: 452 4.3.1 Insufficient system storage; from=<a@example.net> proto=ESMTP helo=<h>"
    (document,) = assemble(refusal(94, text=text))
    assert [(row["recipient"], row["status"]) for row in document["to"]] == [
        (None, "452 4.3.1 Insufficient system storage")
    ]
    assert document["temporary"]
    assert document["recipients"] == document["deliveries"] == []
    assert document["dsns"] == ["4.3.1"]


def test_a_flood_can_be_counted_instead() -> None:
    assert assemble(CONNECT, refusal(94), rejections=False) == []
