"""Every fact known of the lab's mail is right; and a wrong one would be noticed."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.fact import UnknownKeyError
from tests.fact_checks import compare
from tests.facts import HOSTS, Host, by_queue_id, check_documents, check_host, expectations

EXPECTED: dict[str, Any] = {
    "host": "edge1",
    "mta": "postfix",
    "queue_id": "0B0BB114A09",
    "kind": "message",
    "from": "ann@example.com",
    "client": {"name": "mua2.lab.test", "ip": "10.77.0.33"},
    "msgid": "<one@example.com>",
    "accepted_between": [1795420510.043, 1795420510.047],
    "final_known": True,
    "nrcpt_expected": 1,
    "dsn_queue_ids": ["E50AC114A12"],
    "delay_warned": True,
    "orig_queue_id": "4jXysS5MXcz9CLt",
    "sasl_username": "ann",
    "to": [
        {
            "recipient": "Bob@example.net",
            "orig_to": "sales@example.com",
            "status": "sent",
            "relay": {"host": "mx1.example.net", "ip": "10.77.0.21", "port": 25},
            "dsn": "2.0.0",
            "reply": "250 2.0.0 Ok: queued as 4A000509F2",
            "next_queue_id": "4A000509F2",
            "delay_bounds": [9.9, 11.9],
            "deferrals_seen_by_peer": 1,
            "deferral_dsn": "4.2.0",
            "queue_reason": "450 4.2.0 Greylisted",
        }
    ],
}
ATTEMPT: dict[str, Any] = {
    "recipient": "bob@example.net",
    "original_recipient": "sales@example.com",
    "relay": "mx1.example.net",
    "relay_ip": "10.77.0.21",
    "relay_port": 25,
}
DEFERRED = {
    **ATTEMPT,
    "outcome": "deferred",
    "dsn": "4.2.0",
    "status": "deferred (host mx1 said: 450 4.2.0 Greylisted (in reply to RCPT TO command))",
    "delay_seconds": 0.0,
    "next_queue_id": None,
}
SENT = {
    **ATTEMPT,
    "outcome": "relayed",
    "dsn": "2.0.0",
    "status": "sent (250 2.0.0 Ok: queued as 4A000509F2)",
    "delay_seconds": 10,
    "next_queue_id": "4A000509F2",
}
DOCUMENT: dict[str, Any] = {
    "id": "edge1/0B0BB114A09/1795420510",
    "host": "edge1",
    "queue_id": "0B0BB114A09",
    "mta": "postfix",
    "kind": "transaction",
    "date": "2026-11-23T07:55:10.000Z",
    "from": "ann@example.com",
    "msgid": "one@example.com",
    "client": "mua2.lab.test [10.77.0.33]",
    "client_name": "mua2.lab.test",
    "client_ip": "10.77.0.33",
    "sasl_username": "ann",
    "outcome": "relayed",
    "state": "closed",
    "deliveries": ["relayed bob@example.net"],
    "links": [
        {"kind": "next", "queue_id": "4A000509F2", "host": "mx1.example.net"},
        {"kind": "delay_notice", "queue_id": "E50AC114A12", "host": "edge1"},
        {"kind": "original", "queue_id": "4jXysS5MXcz9CLt", "host": None},
    ],
    "page": 0,
    "to": [DEFERRED, SENT],
}

# A path into EXPECTED, and a value there that is not what happened.
WRONG: list[tuple[tuple[str | int, ...], object]] = [
    (("mta",), "sendmail"),
    (("from",), ""),
    (("kind",), "aborted"),
    (("kind",), "dsn"),
    (("kind",), "rejected-at-eom"),
    (("client", "name"), "mua1.lab.test"),
    (("client", "ip"), "10.77.0.32"),
    (("client",), {"local": True}),
    (("msgid",), "<two@example.com>"),
    (("accepted_between",), [1795420520.0, 1795420521.0]),
    (("nrcpt_expected",), 2),
    (("dsn_queue_ids",), ["E50AC114A12", "962AF13CB09"]),
    (("delay_warned",), False),
    (("orig_queue_id",), "E50AC114A12"),
    (("dsn_for",), "C8EB513CBE8"),
    (("sasl_username",), "bob"),
    (("seen_on_hold",), True),
    (("to", 0, "recipient"), "carol@example.net"),
    (("to", 0, "status"), "bounced"),
    (("to", 0, "status"), "deferred"),
    (("to", 0, "status"), "expired"),
    (("to", 0, "status"), "held"),
    (("to", 0, "relay", "host"), "none"),
    (("to", 0, "relay", "ip"), "10.77.0.22"),
    (("to", 0, "relay", "port"), 2525),
    (("to", 0, "dsn"), "2.1.5"),
    (("to", 0, "dsn_status_in_report"), "5.0.0"),
    (("to", 0, "reply"), "250 2.0.0 Ok: queued as 4A000509F3"),
    (("to", 0, "peer_reply"), "550 5.1.1 no such user"),
    (("to", 0, "next_queue_id"), "4A000509F3"),
    (("to", 0, "forwarded"), True),
    (("to", 0, "orig_to"), "info@example.com"),
    (("to", 0, "delay_bounds"), [0, 1.1]),
    (("to", 0, "deferrals_seen_by_peer"), 2),
    (("to", 0, "deferral_dsn"), "4.3.0"),
    (("to", 0, "queue_reason"), "450 4.3.0 Try later"),
]


# A field of DOCUMENT, and a value there that is not what was stated.
WRONG_DOCUMENT: list[tuple[str, object]] = [
    ("outcome", "deferred"),
    ("outcome", "bounced"),
    ("state", "open"),
    ("kind", "probe"),
    ("deliveries", ["deferred bob@example.net"]),
    ("date", "2026-11-23T07:54:10.000Z"),
    ("client_name", None),
    ("links", DOCUMENT["links"][1:]),
    ("links", [*DOCUMENT["links"], {"kind": "bounce", "queue_id": "962AF13CB09", "host": "edge1"}]),
    ("links", [*DOCUMENT["links"], {"kind": "original", "queue_id": "962AF13CB09", "host": None}]),
    ("links", [{**link, "host": "elsewhere"} for link in DOCUMENT["links"]]),
]


def stated(path: tuple[str | int, ...], value: object) -> dict[str, Any]:
    """Return EXPECTED with another value at the path."""
    expected = copy.deepcopy(EXPECTED)
    place: Any = expected
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return expected


@pytest.mark.slow
@pytest.mark.parametrize("host", HOSTS, ids=lambda host: host.name)
def test_lab_host(host: Host) -> None:
    report = check_host(host)
    assert report.wrong == []
    assert report.transactions == len(expectations(host)) > 0
    assert report.facts > 5 * report.transactions


def test_right_facts() -> None:
    assert [fact for fact in compare(EXPECTED, DOCUMENT) if not fact.right] == []


@pytest.mark.parametrize(("path", "value"), WRONG)
def test_wrong_fact_is_noticed(path: tuple[str | int, ...], value: object) -> None:
    assert [fact for fact in compare(stated(path, value), DOCUMENT) if not fact.right]


@pytest.mark.parametrize(("field", "value"), WRONG_DOCUMENT)
def test_wrong_document_is_noticed(field: str, value: object) -> None:
    assert [fact for fact in compare(EXPECTED, {**DOCUMENT, field: value}) if not fact.right]


def test_mail_that_bounced_has_a_bounce() -> None:
    bounced = {**SENT, "outcome": "bounced"}
    document = {**DOCUMENT, "outcome": "bounced", "to": [DEFERRED, bounced], "deliveries": ["bounced bob@example.net"]}
    names = {fact.name for fact in compare(stated(("to", 0, "status"), "bounced"), document) if not fact.right}
    assert names == {"dsn_queue_ids: a bounce"}


def test_local_mail_is_not_relayed() -> None:
    local = stated(("to", 0, "relay"), {"host": "local"})
    document = {**DOCUMENT, "to": [{**SENT, "relay": "local"}]}
    wrong = [fact.name for fact in compare(local, document) if not fact.right]
    assert "to Bob@example.net: status of local mail" in wrong


@pytest.mark.parametrize("path", [("colour",), ("to", 0, "colour"), ("to", 0, "relay", "colour")])
def test_unknown_key_raises(path: tuple[str | int, ...]) -> None:
    with pytest.raises(UnknownKeyError):
        compare(stated(path, "blue"), DOCUMENT)


@pytest.mark.parametrize("path", [("kind",), ("to", 0, "status")])
def test_unknown_value_raises(path: tuple[str | int, ...]) -> None:
    with pytest.raises(UnknownKeyError):
        compare(stated(path, "blue"), DOCUMENT)


def test_unlogged_and_null_assert_nothing() -> None:
    unlogged = {**EXPECTED, "from": "other", "msgid": None, "may_not_be_logged": ["from"]}
    assert all(fact.right for fact in compare(unlogged, DOCUMENT))


def test_missing_transaction_is_noticed() -> None:
    assert check_documents([EXPECTED], {}).wrong == ["0B0BB114A09 found: stated 1, found 0"]


def test_doubled_transaction_is_noticed() -> None:
    found = by_queue_id([DOCUMENT, {**DOCUMENT, "id": "another"}], "edge1")
    assert check_documents([EXPECTED], found).wrong == ["0B0BB114A09 found: stated 1, found 2"]


def test_used_again_queue_id_is_told_by_date() -> None:
    earlier = {**DOCUMENT, "id": "another", "date": "2026-11-23T07:54:10.000Z", "to": []}
    found = by_queue_id([earlier, DOCUMENT], "edge1")
    assert check_documents([EXPECTED], found).wrong == []


def test_pages_are_joined() -> None:
    first = {**DOCUMENT, "to": [DEFERRED], "deliveries": []}
    second = {**DOCUMENT, "id": DOCUMENT["id"] + "#1", "page": 1, "to": [SENT]}
    assert by_queue_id([second, first], "edge1")["0B0BB114A09"] == [DOCUMENT]
