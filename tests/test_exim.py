"""Exim: its stamps, IDs, durations and parts, and that no line with an ID of the lab's logs goes unread."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from mailspan.document import documents
from mailspan.event import Attempted, Received, Refused
from mailspan.event_time import TimeSettings
from mailspan.grammar import Parser, exim_lines
from mailspan.grammar.exim_fields import read_address, seconds_of
from mailspan.queue_id import exim_time
from mailspan.record import Ignored, Record, Unparsed
from reducer.assembler import Assembler
from tests.test_properties import CORPUS

REFERENCE = int(datetime(2026, 11, 25, tzinfo=UTC).timestamp())
MOMENT = int(datetime(2026, 11, 23, 7, 55, 8, tzinfo=UTC).timestamp())
ARRIVAL = "1xVOtI-00000E-1i <= alice@example.com H=client.example.com [192.0.2.10] P=esmtp S=1"


def parser(**zones: str) -> Parser:
    host_zones = tuple((host, ZoneInfo(zone)) for host, zone in zones.items())
    return Parser(TimeSettings(REFERENCE, zone=UTC, host_zones=host_zones), "mx1")


def read(line: str, by: Parser | None = None) -> Record:
    result = (by or parser()).parse(line)
    assert isinstance(result, Record), result
    return result


def assemble(*lines: str) -> list[dict[str, Any]]:
    by, assembler = parser(), Assembler()
    for line in lines:
        result = by.parse(line)
        if isinstance(result, Record):
            assembler.apply(result)
    found = [*assembler.forgotten(), *assembler.remaining()]
    return [document for transaction in found for document in documents(transaction)]


@pytest.mark.parametrize(
    ("line", "stamp"),
    [
        (f"2026-11-23 07:55:08 {ARRIVAL}", (MOMENT, 0, 0)),
        (f"2026-11-23 07:55:08.250 {ARRIVAL}", (MOMENT, 250, 3)),
        (f"2026-11-23 16:55:08.250 +0900 [15] {ARRIVAL}", (MOMENT, 250, 3)),
        (f"2026-11-23 04:25:08 -0330 {ARRIVAL}", (MOMENT, 0, 0)),
        (f"2026-11-23 07:55:08 [15] {ARRIVAL}", (MOMENT, 0, 0)),
        (f"Nov 23 07:55:08 mx1 exim[15]: {ARRIVAL}", (MOMENT, 0, 0)),
        (f"Nov 23 07:55:08 mx1 exim4[15]: [15] {ARRIVAL}", (MOMENT, 0, 0)),
        (f"Nov 23 07:55:09 mx1 exim[15]: 2026-11-23 07:55:08.999 {ARRIVAL}", (MOMENT, 999, 3)),
        (f"Nov 23 07:55:09 mx1 exim[15]: 2026-11-23 16:55:08.999 {ARRIVAL}", (MOMENT, 999, 3)),
        (f"2026-11-23T07:55:08Z mx1 exim[15]: {ARRIVAL}", (MOMENT, 0, 0)),
        (f"<22>1 2026-11-23T07:55:08.5Z mx1 exim 15 - - {ARRIVAL}", (MOMENT, 500, 1)),
    ],
)
def test_every_form_of_a_line_gives_the_same_record(line: str, stamp: tuple[int, int, int]) -> None:
    by = parser()
    for _ in range(2):  # the second time by the short way
        record = read(line, by)
        assert (record.host, record.mta, record.queue_id) == ("mx1", "exim", "1xVOtI-00000E-1i")
        assert record.text == ARRIVAL.partition(" ")[2]
        assert (record.stamp.second, record.stamp.millisecond, record.stamp.digits) == stamp


def test_the_zone_of_own_stamps_is_a_setting_of_the_host() -> None:
    line = f"2026-11-23 16:55:08 {ARRIVAL}"
    assert read(line, parser(mx1="Asia/Tokyo")).stamp.second == MOMENT
    assert read(line, parser(mx2="Asia/Tokyo")).stamp.second == MOMENT + 9 * 3600


def test_an_id_tells_the_year_of_syslog() -> None:
    """The reference alone says 2025: its year is not over."""
    by = Parser(TimeSettings(MOMENT - 30 * 86400, zone=UTC), "mx1")
    by.calibrate([f"Nov 23 07:55:08 mx1 exim[15]: {ARRIVAL}"])
    assert read("Nov 23 07:55:08 mx1 exim[15]: H=[192.0.2.1] rejected MAIL <a@example.com>", by).stamp.second == MOMENT


@pytest.mark.parametrize("line", ["2026-02-30 07:55:08 ", "2026-11-23 07:55:61 ", "2026-11-23 25:00:00 +0000 "])
def test_a_time_that_no_calendar_has_is_counted(line: str) -> None:
    assert parser().parse(line + ARRIVAL) == Unparsed("exim", "no such time", "1xVOtI-00000E-1i")


def test_an_rfc_3339_stamp_with_spaces_is_syslog() -> None:
    line = "2026-11-23 07:55:08 +0000 edge postfix/qmgr[9]: B6D781149FE: removed"
    assert read(line).mta == "postfix"


@pytest.mark.parametrize(
    ("queue_id", "moment"),
    [
        ("1sFUlr-000rus-Io", "2024-06-07T08:16:23"),
        ("1xVOtI-000000000Nd-3iLA", "2026-11-23T07:55:08"),
        ("TOY3BW-00000E-1I", "2026-11-23T07:55:08"),
    ],
)
def test_ids_hold_their_time(queue_id: str, moment: str) -> None:
    assert exim_time(queue_id) == int(datetime.fromisoformat(f"{moment}+00:00").timestamp())


@pytest.mark.parametrize("queue_id", ["TOy3BW-00000E-1i", "9xVOtI-00000E-1i", "1xVOtI-00000E", "1xVOtI-00000E-1i-0"])
def test_what_is_no_id_of_these_years_holds_none(queue_id: str) -> None:
    assert exim_time(queue_id) is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2m3s", 123.0), ("0.123s", 0.123), ("1d2h", 93600.0), ("1w", 604800.0), ("0s", 0.0), ("", None), ("2m3", None)],
)
def test_durations(text: str, seconds: float | None) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    ("text", "recipient", "original", "rest"),
    [
        ("a@example.com R=x", "a@example.com", None, " R=x"),
        ("a <a@example.com> R=x", "a", "a@example.com", " R=x"),
        ("a@example.com <A@example.com>: no", "a@example.com", "A@example.com", ": no"),
        ('b c@example.com (list@example.com) <"b c"@example.com> R=x', "b c@example.com", '"b c"@example.com', " R=x"),
        ('a R=y@example.com <"a R=y"@example.com> R=x', "a R=y@example.com", '"a R=y"@example.com', " R=x"),
        ("a@example.com: Unrouteable <b@example.com> R=x", "a@example.com", None, ": Unrouteable <b@example.com> R=x"),
        ('|/bin/x "<y>" <a@example.com> R=x', '|/bin/x "<y>"', "a@example.com", " R=x"),
    ],
)
def test_addresses(text: str, recipient: str, original: str | None, rest: str) -> None:
    address = read_address(text, 0)
    assert (address.recipient, address.original, text[address.end :]) == (recipient, original, rest)


def test_of_two_copies_the_finer_stamp_wins_in_either_order() -> None:
    coarse = f"Nov 23 07:55:08 mx1 exim[15]: {ARRIVAL}"
    fine = f"2026-11-23 07:55:08.836 {ARRIVAL}"
    for lines in ((coarse, fine), (fine, coarse)):
        (document,) = assemble(*lines)
        assert (document["date"], document["version"] >> 16) == ("2026-11-23T07:55:08.836Z", 1)


def test_a_refusal_in_logs_with_and_without_process_is_one_in_either_order() -> None:
    text = "H=[192.0.2.10] F=<a@example.com> rejected RCPT <b@example.net>: no"
    named = [f"Nov 23 07:55:08 mx1 exim[{pid}]: {text}" for pid in (15, 16)]
    unnamed = f"2026-11-23 07:55:08 {text}"
    found = [assemble(*lines) for lines in ((unnamed, *named), (*named, unnamed), (named[0], unnamed, named[1]))]
    assert found[0] == found[1] == found[2]
    assert [document["repeat_count"] for document in found[0]] == [1]
    assert found[0][0]["session"] == "mx1/exim[15] 2026-11-23T07:55:08.000Z"


def test_a_process_id_that_comes_again_is_another_session() -> None:
    def refusal(time: str, ip: str, recipient: str) -> str:
        return f"2026-11-23 {time} [15] H=[{ip}] F=<> rejected RCPT <{recipient}@example.net>: no"

    found = assemble(
        refusal("07:55:08", "192.0.2.10", "a"),
        refusal("07:55:09", "192.0.2.10", "b"),
        refusal("07:55:10", "192.0.2.11", "c"),
        refusal("10:55:10", "192.0.2.11", "d"),
    )
    sessions = [document["session"] for document in found]
    assert sessions[0] == sessions[1]
    assert len(set(sessions)) == 3


def test_parts_are_bounded_and_what_was_cut_is_used() -> None:
    by = parser()
    results = [
        by.parse(f"Nov 23 07:55:08 mx1 exim[{pid}]: [1/2] 1xVOtI-0{pid:05d}-1i <= a@example.com P=local S=1 for b@x c")
        for pid in range(exim_lines.MAX_RECORDS_IN_PARTS + 2)
    ]
    assert [isinstance(each, Ignored) for each in results[:-2]] == [True] * exim_lines.MAX_RECORDS_IN_PARTS
    for number, result in enumerate(results[-2:]):
        assert isinstance(result, Record)
        assert result.queue_id == f"1xVOtI-0{number:05d}-1i"
        assert isinstance(result.event, Received)
        assert (result.event.truncated, result.event.recipients) == (True, ("b@x",))


def test_a_record_in_parts_does_not_grow_without_end() -> None:
    by = parser()
    lines = [
        f"Nov 23 07:55:08 mx1 exim[1]: [{n}/100] {'x' * 870 if n > 1 else ARRIVAL + ' for '}" for n in range(1, 101)
    ]
    results = [by.parse(line) for line in lines]
    assert all(isinstance(each, Ignored) for each in results[:-1])
    assert isinstance(results[-1], Record)
    assert len(results[-1].text) <= exim_lines.MAX_CHARACTERS


def test_a_delivery_has_the_delay_that_the_log_states_or_the_stamps_give() -> None:
    delivery = "1xVOtI-00000E-1i => bob <bob@mx1.example.com> R=localuser T=local_delivery"
    (plain,) = assemble(f"2026-11-23 07:55:08 {ARRIVAL}", f"2026-11-23 07:57:08 {delivery}")
    (stated,) = assemble(f"2026-11-23 07:55:08 {ARRIVAL}", f"2026-11-23 07:57:08 {delivery} QT=2m3s")
    assert plain["to"][0]["delay_seconds"] == 120.0
    assert stated["to"][0]["delay_seconds"] == 123.0


def test_more_than_500_recipients_are_pages() -> None:
    deliveries = [f"2026-11-23 07:55:09 1xVOtI-00000E-1i => u{n} <u{n}@example.net> R=a T=b" for n in range(1001)]
    pages = assemble(f"2026-11-23 07:55:08 {ARRIVAL}", *deliveries)
    assert [(page["page"], len(page["to"]), page["attempt_count"]) for page in pages] == [
        (0, 500, 1001),
        (1, 500, 1001),
        (2, 1, 1001),
    ]


def test_an_expiry_is_no_attempt() -> None:
    record = read("2026-11-23 07:55:08 1xVOtI-00000E-1i ** a@example.com <b@example.com>: retry timeout exceeded")
    assert record.event == Attempted(
        ("a@example.com",), "retry timeout exceeded", "expired", "b@example.com", given_up=True
    )


@pytest.mark.parametrize("name", sorted(path.name for path in CORPUS.glob("store*")))
def test_every_line_of_the_labs_logs_is_understood(name: str) -> None:
    by = parser()
    lines = (CORPUS / name).read_text(encoding="utf-8").splitlines()
    unread = [line for line in lines if isinstance(by.parse(line), Unparsed)]
    assert lines
    assert unread == []


def test_an_alias_member_that_was_deferred_is_the_one_that_is_delivered_under_its_bare_name() -> None:
    (document,) = assemble(
        f"2026-11-23 07:55:08 {ARRIVAL}",
        "2026-11-23 07:55:08 1xVOtI-00000E-1i == dave@mx1.example.com <sales@mx1.example.com> R=a T=b defer (-22): full",
        "2026-11-23 07:55:08 1xVOtI-00000E-1i => erin@example.net <sales@mx1.example.com> R=a T=c H=mx [192.0.2.1]",
        "2026-11-23 08:55:08 1xVOtI-00000E-1i => dave <sales@mx1.example.com> R=a T=b",
    )
    assert document["outcome"] == "relayed"
    assert document["deliveries"][:2] == ["delivered dave", "delivered sales@mx1.example.com"]


REFUSED = "2026-11-23 07:55:08 rejected from <a@example.com> H=[192.0.2.10]: message abandoned"
FOLDED = ("  Subject: one", " two", "\tthree")


def test_a_folded_subject_that_comes_twice_is_the_same() -> None:
    once = assemble(REFUSED, *FOLDED)
    assert once[0]["subject"] == "one two three"
    assert assemble(REFUSED, *(line for line in FOLDED for _ in range(2))) == once
    assert assemble(REFUSED, *FOLDED, REFUSED, *FOLDED) == once


def test_headers_of_a_refusal_that_is_not_kept_are_counted_only() -> None:
    by, assembler = parser(), Assembler(rejections=False)
    results = [by.parse(line) for line in (REFUSED, "Envelope-to: <b@example.net>", *FOLDED)]
    reasons = [assembler.apply(result) for result in results if isinstance(result, Record)]
    assert reasons == ["rejection"] * 5
    assert list(assembler.remaining()) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            " DSH=c.example.com [192.0.2.1] F=<a@example.com> rejected RCPT <b@example.net>: no",
            ("rcpt", "b@example.net"),
        ),
        ('H=[192.0.2.1] dropped by "connect" ACL: 421 busy', ("connect", None)),
        ("H=[192.0.2.1] rejected DATA: no", ("data", None)),
        ("H=[192.0.2.1] F=<a@example.com> rejected during MIME ACL checks: no", ("end_of_data", None)),
        ('H=[192.0.2.1] temporarily rejected EHLO or HELO x: "no"', ("helo", None)),
        ("H=[192.0.2.1] rejected STARTTLS: no", ("helo", None)),
        ("U=bob F=<bob@example.com> rejected RCPT <c@example.com>: no", ("rcpt", "c@example.com")),
    ],
)
def test_refusals_without_an_id(text: str, expected: tuple[str, str | None]) -> None:
    event = read(f"2026-11-23 07:55:08 {text}").event
    assert isinstance(event, Refused)
    assert (event.stage, event.recipient) == expected


def test_a_mail_that_the_next_hop_refused_while_it_came_in() -> None:
    (document,) = assemble(
        "2026-11-23 07:55:08 1xVOtI-00000E-1i H=c.example.com [192.0.2.10] bob@example.net F=<a@example.com> "
        "rejected after DATA: R=relay T=remote_smtp H=mail.example.net [198.51.100.25]"
    )
    assert (document["outcome"], document["closed_by"], document["from"]) == ("rejected", "rejected", "a@example.com")
    assert [entry["recipient"] for entry in document["to"]] == ["bob@example.net"]


def test_of_very_many_attempts_all_are_counted_and_some_are_kept() -> None:
    name = "1xVOtI-00000E-1i"
    deferrals = [
        f"2026-11-23 {8 + n // 60:02d}:{n % 60:02d}:00 {name} == bob@mx1.example.com R=a T=b defer (-{n % 3 + 20}): full"
        for n in range(300)
    ]
    delivery = f"2026-11-23 14:00:00 {name} => bob <bob@mx1.example.com> R=a T=b"
    (document,) = assemble(f"2026-11-23 07:55:08 {ARRIVAL}", *deferrals, delivery)
    assert (document["attempt_count"], len(document["to"]), document["outcome"]) == (301, 10, "delivered")
    assert document["outcomes"] == ["deferred", "delivered"]
    assert document["recipients"] == ["bob", "bob@mx1.example.com"]
