"""Every line kind's real example is read, and gives the event and the fields that its entry promises."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from mailspan.event_time import TimeSettings
from mailspan.grammar import KINDS, Parser
from mailspan.record import Ignored, Record

if TYPE_CHECKING:
    from mailspan.grammar.kind import LineKind

PROGRAMS = {"postfix": "smtp", "sendmail": "sm-mta", "exim": "exim", "opensmtpd": "smtpd", "dovecot": "dovecot"}
PREFIXES = {"postfix": "postfix/"}
BEHIND_ID = {"exim": " "}
SETTINGS = TimeSettings(reference=int(datetime(2026, 11, 24, tzinfo=UTC).timestamp()), zone=UTC)
ALL = [(mta, kind) for mta, kinds in KINDS.items() for kind in kinds]


@pytest.mark.parametrize(("mta", "kind"), ALL, ids=[f"{mta}: {kind.name}" for mta, kind in ALL])
def test_the_example_gives_what_the_entry_promises(mta: str, kind: LineKind) -> None:
    program = PREFIXES.get(mta, "") + (kind.programs[0] if kind.programs else PROGRAMS[mta])
    result = Parser(SETTINGS, "here").parse(f"Nov 23 07:55:08 mx1 {program}[94]: {kind.example}")
    if kind.event is Ignored:
        assert isinstance(result, Ignored)
        return
    assert isinstance(result, Record), result
    assert type(result.event) is kind.event
    for name, value in kind.expect.items():
        assert getattr(result.event, name) == value, name
    if kind.queued and not kind.example.startswith("NOQUEUE"):
        assert result.queue_id == kind.example.partition(BEHIND_ID.get(mta, ":"))[0]


HEADERS = [
    "Nov 23 07:55:08 mx1 postfix/smtpd[94]: ",
    "<22>Nov 23 07:55:08 mx1 postfix/submission/smtpd[94]: ",
    "Nov 23 07:55:08 postfix-in/smtpd[94]: ",
    "Nov 23 07:55:08.250 MX1 postfix-239.58.50.50/smtpd[94]: ",
    "2026-11-23T08:55:08.123456+01:00 mx1 postfix/smtpd[94]: ",
    "2026-11-23T07:55:08Z mx1 postfix/smtpd[94]: ",
    "2026-11-23T04:25:08-0330 mx1 postfix/smtpd[94]: ",
    "<22>1 2026-11-23T07:55:08.5Z mx1 postfix/smtpd 94 - - ",
    '<22>1 2026-11-23T07:55:08Z mx1 postfix/smtpd 94 - [x y="a]b\\"c"] ',
    "Nov 23 07:55:08 mx1 postfix/smtpd[94]: [ID 197553 mail.info] ",
    "Nov 23 07:55:08 <mail.info> mx1 postfix/smtpd[94]: ",
    "Nov 23 07:55:08 <2.6> mx1 postfix/smtpd[94]: ",
    "Nov 23 07:55:08 mx1 mail.info postfix/smtpd[94]: ",
    "Nov 23 07:55:08 mx1 mail:info postfix/smtpd[94]: ",
    "Nov 23 07:55:08 Message forwarded from mx1: postfix/smtpd[94]: ",
    "<22>Nov 23 07:55:08 relay Message forwarded from mx1: postfix/smtpd[94]: ",
    "Nov 23 07:55:08 2026 mx1 postfix/smtpd[94]: ",
    "Mon Nov 23 07:55:08 2026 mail.info postfix/smtpd[94]: ",
    "2026-11-23 07:55:08 mx1 postfix/smtpd[94]: ",
    "2026-11-23 07:55:08,123 mx1 postfix/smtpd[94]: ",
    "2026-11-23 08:55:08 +01:00 mx1 postfix/smtpd[94]: ",
    "Mon 2026-11-23 07:55:08 UTC mx1 postfix/smtpd[94]: ",
    "Mon 2026-11-23 08:55:08.123456 +01 mx1 postfix/smtpd[94]: ",
    "Mon 2026-11-23 07:55:08 CET mx1 postfix/smtpd[94]: ",
    "1795420508.123456 mx1 postfix/smtpd[94]: ",
]


@pytest.mark.parametrize("header", HEADERS)
def test_every_header_gives_the_same_record(header: str) -> None:
    parser = Parser(SETTINGS, "MX1")
    for _ in range(2):  # the second time by the short way
        result = parser.parse(header + "B6D781149FE: client=mua1.lab.test[10.77.0.32]")
        assert isinstance(result, Record), result
        assert (result.host, result.queue_id, result.mta, result.pid) == ("mx1", "B6D781149FE", "postfix", "94")
        assert result.stamp.second == 1795420508
        assert result.stamp.second == int(datetime(2026, 11, 23, 7, 55, 8, tzinfo=UTC).timestamp())
        assert result.text == "client=mua1.lab.test[10.77.0.32]"


@pytest.mark.parametrize("day", ["Nov 3 ", "Nov  3 ", "Nov 03 "])
def test_one_digit_days(day: str) -> None:
    result = Parser(SETTINGS, "here").parse(f"{day}07:55:08 mx1 postfix/qmgr[9]: B6D781149FE: removed")
    assert isinstance(result, Record), result
    assert result.stamp.second == int(datetime(2026, 11, 3, 7, 55, 8, tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("Nov 23 07:55:08 edge2 su[1]: (to root) root on none", "foreign program"),
        ("Nov 23 07:55:08 edge2 last message repeated 3 times", "repeated"),
        ("Nov 23 07:55:08 last message repeated 3 times", "repeated"),
        ("Nov 23 07:55:08: --- last message repeated 3 times ---", "repeated"),
    ],
)
def test_what_is_not_read_says_why(line: str, reason: str) -> None:
    assert Parser(SETTINGS, "here").parse(line) == Ignored(reason)
