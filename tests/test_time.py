"""Event time: a row for each trouble that years, zones, clocks and styles of stamps give."""

from __future__ import annotations

import calendar
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailspan import queue_id as ids
from mailspan.document import documents
from mailspan.event_time import TimeSettings, format_time
from mailspan.grammar import Parser, syslog
from mailspan.inputs import Inputs, ReadSettings
from mailspan.record import Record
from reducer.assembler import Assembler
from tests.running import mailspan

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import tzinfo
    from pathlib import Path

MADRID = ZoneInfo("Europe/Madrid")
BASE_52 = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"
BASE_60 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwx"
SHORT = "4A1B2C3D4E"
EXAMPLES = settings(max_examples=300, deadline=None, derandomize=True)


def at(text: str) -> int:
    """Return the epoch second of `2026-11-23 07:55:08`, UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def long_id(text: str) -> str:
    """Return a long Postfix queue ID that holds the time."""
    second, digits = at(text), ""
    while second:
        second, digit = divmod(second, 52)
        digits = BASE_52[digit] + digits
    return f"{digits.rjust(6, '0')}0sf8z9gC"


def sendmail_id(text: str, number: int = 12460) -> str:
    """Return a Sendmail queue ID that holds the time."""
    moment = datetime.fromisoformat(text)
    parts = ((moment.year - 1900) % 60, moment.month - 1, moment.day, moment.hour, moment.minute, moment.second)
    return "".join(BASE_60[part] for part in parts) + f"wP{number:06d}"


def line_of(stamp: str, queue_id: str = SHORT, host: str = "mx1") -> str:
    if ids.is_postfix(queue_id):
        return f"{stamp} {host} postfix/qmgr[9]: {queue_id}: removed"
    return (
        f"{stamp} {host} sm-mta[9]: {queue_id}: to=<b@example.net>, delay=00:00:01, mailer=esmtp,"
        " relay=m.example.net. [192.0.2.9], dsn=2.0.0, stat=Sent (ok)"
    )


def stamps_of(parser: Parser, lines: Sequence[str]) -> list[str]:
    """Return the event times of the lines, without fractions; why not, where there is none."""
    results = [parser.parse(line) for line in lines]
    return [
        format_time(each.stamp.second, 0)[:-5].replace("T", " ") if isinstance(each, Record) else str(each)
        for each in results
    ]


def read(time_settings: TimeSettings, lines: Sequence[str]) -> list[str]:
    """Return the event times of the lines of one whole input."""
    parser = Parser(time_settings, "here")
    parser.calibrate(lines)
    return stamps_of(parser, lines)


def test_the_ids_of_these_tests_hold_their_times() -> None:
    assert ids.postfix_time(long_id("2026-11-23 07:55:08")) == at("2026-11-23 07:55:08")
    assert ids.sendmail_time(sendmail_id("2026-11-23 07:55:08")) == at("2026-11-23 07:55:08")


# What the reference tells: trouble, reference, stamps, event times.
REFERENCES = [
    ("26 hours after", "2026-11-25 00:00:00", ["Nov 26 02:00:00"], ["2026-11-26 02:00:00"]),
    ("a second more", "2026-11-25 00:00:00", ["Nov 26 02:00:01"], ["2025-11-26 02:00:01"]),
    ("just before", "2026-11-25 00:00:00", ["Nov 24 23:59:59"], ["2026-11-24 23:59:59"]),
    ("read on 1 January", "2027-01-01 00:10:00", ["Dec 31 23:59:59"], ["2026-12-31 23:59:59"]),
    ("stamp of tomorrow's year", "2026-12-31 23:10:00", ["Jan  1 00:59:59"], ["2027-01-01 00:59:59"]),
    (
        "New Year",
        "2027-01-02 00:00:00",
        ["Dec 31 23:59:59", "Jan  1 00:00:00"],
        ["2026-12-31 23:59:59", "2027-01-01 00:00:00"],
    ),
    (
        "out of order at New Year",
        "2027-01-02 00:00:00",
        ["Dec 31 23:59:58", "Jan  1 00:00:01", "Dec 31 23:59:59", "Jan  1 00:00:02", "Dec 31 23:59:57"],
        [
            "2026-12-31 23:59:58",
            "2027-01-01 00:00:01",
            "2026-12-31 23:59:59",
            "2027-01-01 00:00:02",
            "2026-12-31 23:59:57",
        ],
    ),
    (
        "1 January first",
        "2027-01-02 00:00:00",
        ["Jan  1 00:00:01", "Dec 31 23:59:59", "Jan  1 00:00:02"],
        ["2027-01-01 00:00:01", "2026-12-31 23:59:59", "2027-01-01 00:00:02"],
    ),
    (
        "two New Years, the second copy of a stamp a year later",
        "2027-02-01 00:00:00",
        ["Nov  1 00:00:00", "Jan  5 00:00:00", "Nov  1 00:00:00", "Jan  5 00:00:00"],
        ["2025-11-01 00:00:00", "2026-01-05 00:00:00", "2026-11-01 00:00:00", "2027-01-05 00:00:00"],
    ),
    (
        "a gap of most of a year",
        "2026-12-01 00:00:00",
        ["Jan 15 00:00:00", "Nov 20 00:00:00"],
        ["2026-01-15 00:00:00", "2026-11-20 00:00:00"],
    ),
    (
        "days back inside a file",
        "2030-01-01 00:00:00",
        ["Nov 20 00:00:00", "Nov 14 00:00:00", "Nov 21 00:00:00"],
        ["2029-11-20 00:00:00", "2029-11-14 00:00:00", "2029-11-21 00:00:00"],
    ),
    (
        "a clock lost at boot",
        "2029-12-01 00:00:00",
        ["Nov 20 00:00:00", "Jan  1 00:00:07", "Nov 20 00:05:00"],
        ["2029-11-20 00:00:00", "2029-01-01 00:00:07", "2029-11-20 00:05:00"],
    ),
    ("29 February, not a leap year", "2027-03-01 00:00:00", ["Feb 29 12:00:00"], ["2024-02-29 12:00:00"]),
    (
        "28 February, then 29",
        "2027-03-05 00:00:00",
        ["Feb 28 12:00:00", "Feb 29 12:00:00", "Mar  1 12:00:00"],
        ["2024-02-28 12:00:00", "2024-02-29 12:00:00", "2024-03-01 12:00:00"],
    ),
    ("29 February of a century", "2101-03-01 00:00:00", ["Feb 29 12:00:00"], ["2096-02-29 12:00:00"]),
    ("leap second", "2017-01-02 00:00:00", ["Dec 31 23:59:60"], ["2017-01-01 00:00:00"]),
]


@pytest.mark.parametrize(("trouble", "reference", "stamps", "times"), REFERENCES, ids=[row[0] for row in REFERENCES])
def test_years_by_the_reference(trouble: str, reference: str, stamps: list[str], times: list[str]) -> None:
    assert read(TimeSettings(at(reference), zone=UTC), [line_of(stamp) for stamp in stamps]) == times, trouble


# What queue IDs tell: trouble, reference, (stamp, queue ID), event times.
IDENTIFIED = [
    (
        "an old copy",
        "2026-11-25 00:00:00",
        [("Nov 23 07:55:08", SHORT), ("Nov 23 07:55:09", long_id("2019-11-23 07:55:09"))],
        ["2019-11-23 07:55:08", "2019-11-23 07:55:09"],
    ),
    (
        "a reference before the lines",
        "2015-01-01 00:00:00",
        [("Nov 23 07:55:08", sendmail_id("2019-11-23 07:55:08")), ("Nov 23 07:55:09", SHORT)],
        ["2019-11-23 07:55:08", "2019-11-23 07:55:09"],
    ),
    (
        "an old copy over several years",
        "2026-11-25 00:00:00",
        [
            ("Nov 23 07:55:08", sendmail_id("2011-11-23 07:55:08", 1)),
            ("Feb  3 07:55:08", SHORT),
            ("Nov 23 07:55:08", SHORT),
            ("Jan  3 07:55:08", sendmail_id("2013-01-03 07:55:08", 2)),
        ],
        ["2011-11-23 07:55:08", "2012-02-03 07:55:08", "2012-11-23 07:55:08", "2013-01-03 07:55:08"],
    ),
    (
        "waited over New Year",
        "2026-11-25 00:00:00",
        [("Jan  2 08:00:00", sendmail_id("2018-12-29 08:00:00"))],
        ["2019-01-02 08:00:00"],
    ),
    (
        "held for more than half a year",
        "2026-11-25 00:00:00",
        [("Nov 20 08:00:00", sendmail_id("2018-01-10 08:00:00"))],
        ["2018-11-20 08:00:00"],
    ),
    (
        "held for years, among young ones",
        "2026-11-25 00:00:00",
        [
            ("Nov 20 08:00:00", sendmail_id("2019-11-20 08:00:00", 1)),
            ("Nov 20 08:00:01", sendmail_id("2016-03-10 08:00:00", 2)),
            ("Nov 20 08:00:02", sendmail_id("2016-03-10 08:00:00", 3)),
            ("Nov 20 08:00:03", sendmail_id("2019-11-20 08:00:03", 4)),
        ],
        [f"2019-11-20 08:00:0{n}" for n in range(4)],
    ),
    (
        "forged, in the past and the future, and first",
        "2026-11-25 00:00:00",
        [
            ("Nov 23 07:55:07", sendmail_id("1994-11-23 07:55:07", 1)),
            ("Nov 23 07:55:08", long_id("2026-11-23 07:55:08")),
            ("Nov 23 07:55:09", sendmail_id("1994-11-23 07:55:09", 2)),
            ("Nov 23 07:55:09", SHORT),
            ("Nov 23 07:55:10", long_id("2026-11-23 07:55:10")),
            ("Nov 23 07:55:11", sendmail_id("2049-11-23 07:55:11", 3)),
            ("Nov 23 07:55:12", SHORT),
        ],
        [
            "1994-11-23 07:55:07",
            "2026-11-23 07:55:08",
            "2026-11-23 07:55:09",
            "2026-11-23 07:55:09",
            "2026-11-23 07:55:10",
            "2026-11-23 07:55:11",
            "2026-11-23 07:55:12",
        ],
    ),
    (
        "one forged ID among short ones",
        "2026-11-25 00:00:00",
        [
            ("Nov 23 07:55:08", SHORT),
            ("Nov 23 07:55:09", sendmail_id("1994-11-23 07:55:09")),
            ("Nov 23 07:55:10", SHORT),
        ],
        ["2026-11-23 07:55:08", "2026-11-23 07:55:09", "2026-11-23 07:55:10"],
    ),
    (
        "held for years, hours after the last line",
        "2026-11-25 00:00:00",
        [
            ("Nov 20 08:00:00", sendmail_id("2019-11-20 08:00:00", 1)),
            ("Nov 20 08:00:01", sendmail_id("2019-11-20 08:00:01", 2)),
            ("Nov 20 11:00:01", sendmail_id("2016-03-10 08:00:00", 3)),
        ],
        ["2019-11-20 08:00:00", "2019-11-20 08:00:01", "2019-11-20 11:00:01"],
    ),
    (
        "forged in the future, hours after the last line",
        "2026-11-25 00:00:00",
        [
            ("Nov 20 08:00:00", SHORT),
            ("Nov 20 11:00:01", sendmail_id("2049-11-20 11:00:01")),
            ("Nov 20 11:00:02", SHORT),
        ],
        ["2026-11-20 08:00:00", "2026-11-20 11:00:01", "2026-11-20 11:00:02"],
    ),
    (
        "one forged ID, twice",
        "2026-11-25 00:00:00",
        [
            ("Nov 20 08:00:00", SHORT),
            ("Nov 20 08:00:00", SHORT),
            ("Nov 20 11:00:01", sendmail_id("1994-11-20 11:00:01")),
            ("Nov 20 11:00:02", sendmail_id("1994-11-20 11:00:01")),
            ("Nov 20 11:00:03", SHORT),
        ],
        [
            "2026-11-20 08:00:00",
            "2026-11-20 08:00:00",
            "1994-11-20 11:00:01",
            "1994-11-20 11:00:02",
            "2026-11-20 11:00:03",
        ],
    ),
    (
        "one stamp with another year",
        "2026-11-25 00:00:00",
        [("Nov 20 08:00:00", SHORT), ("Nov 20 2011 08:03:01", SHORT), ("Nov 20 08:05:02", SHORT)],
        ["2026-11-20 08:00:00", "2011-11-20 08:03:01", "2026-11-20 08:05:02"],
    ),
    (
        "another year's ID hours after the last line",
        "2026-11-25 00:00:00",
        [
            ("Nov 23 07:55:08", sendmail_id("2019-11-23 07:55:08", 1)),
            ("Nov 23 07:55:09", sendmail_id("2019-11-23 07:55:09", 2)),
            ("Nov 23 09:55:09", sendmail_id("1994-11-23 09:55:09", 3)),
            ("Nov 23 09:55:10", SHORT),
        ],
        ["2019-11-23 07:55:08", "2019-11-23 07:55:09", "1994-11-23 09:55:09", "2019-11-23 09:55:10"],
    ),
    (
        "two logs put together, years apart",
        "2026-11-25 00:00:00",
        [
            ("Nov 23 07:55:08", sendmail_id("2017-11-23 07:55:08", 1)),
            ("Nov 23 07:55:09", sendmail_id("2017-11-23 07:55:09", 2)),
            ("Nov 24 07:55:10", sendmail_id("2019-11-24 07:55:10", 3)),
            ("Nov 24 07:55:11", sendmail_id("2019-11-24 07:55:11", 4)),
            ("Nov 24 07:55:12", SHORT),
        ],
        [
            "2017-11-23 07:55:08",
            "2017-11-23 07:55:09",
            "2019-11-24 07:55:10",
            "2019-11-24 07:55:11",
            "2019-11-24 07:55:12",
        ],
    ),
    (
        "a zone that is wrong, at New Year",
        "2026-11-25 00:00:00",
        [("Dec 31 19:30:00", long_id("2019-01-01 00:30:00"))],
        ["2018-12-31 19:30:00"],
    ),
    (
        "a long ID of a host without a clock",
        "2026-11-25 00:00:00",
        [("Nov 23 07:55:08", "000pTn0sf8z9gC")],
        ["2026-11-23 07:55:08"],
    ),
]


@pytest.mark.parametrize(("trouble", "reference", "rows", "times"), IDENTIFIED, ids=[row[0] for row in IDENTIFIED])
def test_years_by_queue_ids(trouble: str, reference: str, rows: list[tuple[str, str]], times: list[str]) -> None:
    lines = [line_of(stamp, queue_id) for stamp, queue_id in rows]
    assert read(TimeSettings(at(reference), zone=UTC), lines) == times, trouble


def test_a_forced_year_is_that_of_the_first_line() -> None:
    lines = [
        line_of("Dec 31 23:59:59"),
        line_of("Jan  1 00:00:00", host="mx2"),
        line_of("Jan  1 00:00:01", long_id("2019-01-01 00:00:01")),
    ]
    forced = TimeSettings(at("2026-11-25 00:00:00"), year=2011, zone=UTC, host_zones=(("mx2", MADRID),))
    assert read(forced, lines) == ["2011-12-31 23:59:59", "2011-12-31 23:00:00", "2012-01-01 00:00:01"]


def test_reading_goes_on_behind_the_last_line_of_the_run_before() -> None:
    """The head tells 2024; nine months and a New Year later the log goes on, long after the head's IDs."""
    parser = Parser(TimeSettings(at("2026-11-25 00:00:00"), zone=UTC), "here")
    parser.calibrate([line_of("Mar  3 07:55:08", long_id("2024-03-03 07:55:08"))])
    parser.resume(at("2025-12-31 23:59:59"))
    assert stamps_of(parser, [line_of("Jan  1 00:00:01"), line_of("Nov 23 07:55:08")]) == [
        "2026-01-01 00:00:01",
        "2026-11-23 07:55:08",
    ]


# The hour that comes twice (25 October 2026) and the one that is not there (29 March 2026): stamps, event times.
CHANGES = [
    (
        "twice, by order",
        ["Oct 25 02:30:00", "Oct 25 02:59:59", "Oct 25 02:00:00", "Oct 25 02:30:00", "Oct 25 03:00:00"],
        ["10-25 00:30:00", "10-25 00:59:59", "10-25 01:00:00", "10-25 01:30:00", "10-25 02:00:00"],
    ),
    (
        "twice, few lines",
        ["Oct 25 02:30:00", "Oct 25 02:59:59", "Oct 25 02:30:00", "Oct 25 02:29:59"],
        ["10-25 00:30:00", "10-25 00:59:59", "10-25 01:30:00", "10-25 01:29:59"],
    ),
    (
        "twice, a line late",
        ["Oct 25 02:59:58", "Oct 25 02:00:01", "Oct 25 02:59:59", "Oct 25 02:00:02"],
        ["10-25 00:59:58", "10-25 01:00:01", "10-25 00:59:59", "10-25 01:00:02"],
    ),
    (
        "not there",
        ["Mar 29 01:59:59", "Mar 29 02:30:00", "Mar 29 03:00:01"],
        ["03-29 00:59:59", "03-29 01:30:00", "03-29 01:00:01"],
    ),
]


@pytest.mark.parametrize(("trouble", "stamps", "times"), CHANGES, ids=[row[0] for row in CHANGES])
def test_the_clock_is_changed(trouble: str, stamps: list[str], times: list[str]) -> None:
    found = read(TimeSettings(at("2026-11-25 00:00:00"), zone=MADRID), [line_of(stamp) for stamp in stamps])
    assert found == [f"2026-{time}" for time in times], trouble


def test_no_line_is_older_than_its_queue_id() -> None:
    """The first line after the clock was put back: the order does not tell, the ID does."""
    lines = [line_of("Oct 25 01:10:00"), line_of("Oct 25 02:30:00", long_id("2026-10-25 01:30:00"))]
    found = read(TimeSettings(at("2026-11-25 00:00:00"), zone=MADRID), lines)
    assert found == ["2026-10-24 23:10:00", "2026-10-25 01:30:00"]


def test_zones_of_hosts_and_renamed_hosts() -> None:
    time_settings = TimeSettings(
        at("2026-11-25 00:00:00"), zone=UTC, host_zones=(("mx2", MADRID), ("old", ZoneInfo("Asia/Kolkata")))
    )
    parser = Parser(time_settings, "here", {"old": "new"})
    lines = [line_of("Nov 23 07:55:08", host=host) for host in ("mx1", "MX2", "old", "mx1")]
    assert stamps_of(parser, lines) == [
        f"2026-11-23 {time}" for time in ("07:55:08", "06:55:08", "02:25:08", "07:55:08")
    ]


# Styles of stamps: what stands before ` mx1 postfix/…`, the UTC time with milliseconds.
STYLES = [
    ("Nov 23 07:55:08", "2026-11-23T07:55:08.000Z"),
    ("Nov  3 07:55:08", "2026-11-03T07:55:08.000Z"),
    ("Nov 3 07:55:08", "2026-11-03T07:55:08.000Z"),
    ("Nov 03 07:55:08", "2026-11-03T07:55:08.000Z"),
    ("Nov 23 2011 07:55:08", "2011-11-23T07:55:08.000Z"),
    ("Feb 29 2012 07:55:08:", "2012-02-29T07:55:08.000Z"),
    ("Nov 23 07:55:08:", "2026-11-23T07:55:08.000Z"),
    ("Nov 23 07:55:08.1", "2026-11-23T07:55:08.100Z"),
    ("Nov 23 07:55:08.123456789:", "2026-11-23T07:55:08.123Z"),
    ("<22>Nov 23 07:55:08", "2026-11-23T07:55:08.000Z"),
    ("<22>2026-11-23T07:55:08Z", "2026-11-23T07:55:08.000Z"),
    ("2026-11-23T07:55:08Z", "2026-11-23T07:55:08.000Z"),
    ("2026-11-23t07:55:08z", "2026-11-23T07:55:08.000Z"),
    ("2026-11-23T07:55:08+01:00", "2026-11-23T06:55:08.000Z"),
    ("2026-11-23 07:55:08 +0100", "2026-11-23T06:55:08.000Z"),
    ("2026-11-23T07:55:08-03", "2026-11-23T10:55:08.000Z"),
    ("2026-11-23T07:55:08-03:30", "2026-11-23T11:25:08.000Z"),
    ("2026-11-23T07:55:08-00:00", "2026-11-23T07:55:08.000Z"),
    ("2026-11-23T07:55:08.9Z", "2026-11-23T07:55:08.900Z"),
    ("2026-11-23T07:55:08,98Z", "2026-11-23T07:55:08.980Z"),
    ("2026-11-23T07:55:08.987654321+14:00", "2026-11-22T17:55:08.987Z"),
    ("2026-11-23T07:55:08.001:", "2026-11-23T07:55:08.001Z"),
    ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00.000Z"),
    ("1970-01-01T00:00:05+01:00", "1969-12-31T23:00:05.000Z"),
]
NO_TIMES = [
    "Feb 30 07:55:08",
    "Nov 31 07:55:08",
    "Nov 0 07:55:08",
    "Foo 23 07:55:08",
    "Nov 23 24:00:00",
    "Nov 23 07:60:00",
    "Nov 23 07:55:61",
    "Feb 29 2026 07:55:08",
    "Nov 23 0000 07:55:08",
    "Nov 23 9999 07:55:08",
    "2026-02-30T07:55:08Z",
    "2026-13-01T07:55:08Z",
    "2026-11-23T24:00:00Z",
    "2026-11-23T07:55:08+24:00",
    "0000-01-01T00:00:00Z",
    "0001-01-01T00:00:00+01:00",
    "9999-12-31T23:59:60-01:00",
]


@pytest.mark.parametrize(("stamp", "time"), STYLES)
def test_styles_of_stamps(stamp: str, time: str) -> None:
    parser = Parser(TimeSettings(at("2026-11-25 00:00:00"), zone=UTC), "here")
    for _ in range(2):  # the second line may take the short way
        result = parser.parse(line_of(stamp))
        assert isinstance(result, Record), result
        assert (result.host, format_time(result.stamp.second, result.stamp.millisecond)) == ("mx1", time)


@pytest.mark.parametrize("stamp", NO_TIMES)
def test_times_that_no_calendar_has(stamp: str) -> None:
    assert syslog.split(line_of(stamp)) == "no such time"
    assert not isinstance(Parser(TimeSettings(0, zone=UTC), "here").parse(line_of(stamp)), Record)


@pytest.mark.parametrize("priority", ["<22>", ""])
def test_versions(priority: str) -> None:
    line = f"{priority}1 2026-11-23T07:55:08.5Z mx1 postfix/qmgr 9 - - {SHORT}: removed"
    result = Parser(TimeSettings(0, zone=UTC), "here").parse(line)
    assert isinstance(result, Record)
    assert (result.host, result.stamp.second, result.stamp.millisecond) == ("mx1", at("2026-11-23 07:55:08"), 500)


# Live lines: stamp, event time; the reference is 25 November 2026, 00:00.
LIVE = [
    ("Nov 24 23:59:59", "2026-11-24 23:59:59"),
    ("Nov 25 23:59:59", "2026-11-25 23:59:59"),
    ("Nov 26 00:00:01", "2026-11-25 00:00:00"),
    ("Nov 26 03:00:00", "2025-11-26 03:00:00"),
    ("Feb 29 00:00:00", "2026-11-25 00:00:00"),
    ("2025-10-21T00:00:00Z", "2025-10-21 00:00:00"),
    ("2025-10-20T23:59:59Z", "2026-11-25 00:00:00"),
    ("2026-11-26T00:00:00Z", "2026-11-26 00:00:00"),
    ("2026-11-26T00:00:01Z", "2026-11-25 00:00:00"),
    ("Nov 23 2011 07:55:08", "2026-11-25 00:00:00"),
]


@pytest.mark.parametrize(("stamp", "time"), LIVE)
def test_live_lines_are_near_their_reference(stamp: str, time: str) -> None:
    live = TimeSettings(at("2026-11-25 00:00:00"), zone=UTC, is_live=True)
    parser = Parser(live, "here")
    assert stamps_of(parser, [line_of("2026-11-24T00:00:00Z"), line_of(stamp), line_of(stamp)])[1:] == [time, time]
    result = parser.parse(line_of(stamp))
    assert isinstance(result, Record)
    assert result.stamp.guessed == (time == "2026-11-25 00:00:00" or "T" not in stamp)


def test_a_live_line_has_its_own_reference() -> None:
    parser = Parser(TimeSettings(at("2026-11-25 00:00:00"), zone=UTC, is_live=True), "here")
    found = stamps_of(parser, [line_of("Dec 20 00:00:00"), line_of("2026-12-20T00:00:00Z")])
    parser.refer_to(at("2026-12-20 00:00:05"))
    found += stamps_of(parser, [line_of("Dec 20 00:00:00"), line_of("2026-12-20T00:00:00Z")])
    assert found == ["2025-12-20 00:00:00", "2026-11-25 00:00:00", "2026-12-20 00:00:00", "2026-12-20 00:00:00"]


def test_files_may_be_of_any_age() -> None:
    lines = [line_of("2011-11-23T07:55:08Z"), line_of("Nov 23 07:55:08", sendmail_id("2011-11-23 07:55:08"))]
    assert read(TimeSettings(at("2026-11-25 00:00:00"), zone=UTC), lines) == ["2011-11-23 07:55:08"] * 2


@EXAMPLES
@given(
    st.integers(at("1995-01-01 00:00:00"), at("2095-01-01 00:00:00")),
    st.integers(0, 300 * 86400),
    st.sampled_from(
        ["UTC", "Europe/Madrid", "America/St_Johns", "Asia/Kolkata", "Pacific/Kiritimati", "Pacific/Pago_Pago"]
    ),
)
def test_a_rendered_instant_comes_back(second: int, later: int, name: str) -> None:
    zone = ZoneInfo(name)
    local = datetime.fromtimestamp(second, UTC).astimezone(zone)
    stamp = f"{calendar.month_abbr[local.month]} {local.day:2} {local:%H:%M:%S}"
    parser = Parser(TimeSettings(second + later, zone=zone), "here")
    result = parser.parse(line_of(stamp))
    assert isinstance(result, Record)
    twice = local.replace(fold=0).timestamp() != local.replace(fold=1).timestamp()
    if not twice:
        assert result.stamp.second == second
    else:
        assert result.stamp.second in (second, int(local.replace(fold=0).timestamp()))


@EXAMPLES
@given(
    st.lists(st.integers(0, 90 * 86400), min_size=2, max_size=30),
    st.integers(at("1995-01-01 00:00:00"), at("2040-01-01 00:00:00")),
    st.integers(0, 86400),
    st.booleans(),
)
def test_a_file_of_any_length_is_dated_by_its_end(gaps: list[int], second: int, later: int, in_madrid: bool) -> None:  # noqa: FBT001
    zone: tzinfo = MADRID if in_madrid else UTC
    seconds = []
    for gap in gaps:
        second += gap
        local = datetime.fromtimestamp(second, UTC).astimezone(zone)
        if local.replace(fold=0).timestamp() == local.replace(fold=1).timestamp():
            seconds.append(second)
    lines = []
    for each in seconds:
        local = datetime.fromtimestamp(each, UTC).astimezone(zone)
        lines.append(line_of(f"{calendar.month_abbr[local.month]} {local.day:2} {local:%H:%M:%S}"))
    expected = [format_time(each, 0)[:-5].replace("T", " ") for each in seconds]
    assert read(TimeSettings((seconds or [0])[-1] + later, zone=zone), lines) == expected


def postfix_mail(queue_id: str, stamps: Sequence[str], host: str = "mx1") -> list[str]:
    client, queued, sent, removed = stamps
    return [
        f"{client} {host} postfix/smtpd[1]: {queue_id}: client=c.example.com[192.0.2.1]",
        f"{queued} {host} postfix/qmgr[2]: {queue_id}: from=<a@example.com>, size=9, nrcpt=1 (queue active)",
        (
            f"{sent} {host} postfix/smtp[3]: {queue_id}: to=<b@example.net>, relay=m.example.net[192.0.2.9]:25,"
            " delay=1, delays=0/0/0/1, dsn=2.0.0, status=sent (250 ok)"
        ),
        f"{removed} {host} postfix/qmgr[2]: {queue_id}: removed",
    ]


def assembled(lines: Sequence[str], *, each_alone: bool = False) -> dict[str, tuple[int, list[str]]]:
    """Return the number of lines and the notes of each document; `each_alone`: as many runs as there are lines."""
    parser = Parser(TimeSettings(at("2026-11-25 00:00:00"), zone=UTC), "here")
    parser.calibrate(lines)
    records = [result for result in map(parser.parse, lines) if isinstance(result, Record)]
    assert len(records) == len(lines)
    if each_alone:
        state: dict[str, bytes] = {}
        store: dict[str, dict[str, Any]] = {}
        for record in records:
            assembler = Assembler(incremental=True)
            assembler.restore(state)
            assembler.apply(record)
            changes = assembler.changed()
            for identity in changes.withdrawn:
                store.pop(identity, None)
            for page in changes.documents:
                store[page["id"]] = page
            for key, value in assembler.snapshot_changes().items():
                if value is None:
                    state.pop(key, None)
                else:
                    state[key] = value
        pages = list(store.values())
    else:
        assembler = Assembler()
        for record in records:
            assembler.apply(record)
        transactions = [*assembler.forgotten(), *assembler.remaining()]
        pages = [page for each in transactions for page in documents(each)]
    return {page["id"]: (page["version"] >> 16, page["notes"]) for page in pages}


OPEN = postfix_mail(
    SHORT, ["2026-11-20T00:00:00Z", "2026-11-20T00:00:01Z", "2026-11-21T00:00:00Z", "2026-11-21T00:00:01Z"]
)
OPEN_ID = f"mx1/{SHORT}/{at('2026-11-20 00:00:00')}"


def absurd(number: int, second: int = 0) -> str:
    return line_of(f"2049-01-01T00:00:{second:02}Z", f"BBBBBBBBB{number}")


# Where absurd stamps stand among the four lines of a mail: none of them may part it.
ABSURD = [
    ("one", [OPEN[0], absurd(1), *OPEN[1:]]),
    ("two in a row", [*OPEN[:2], absurd(1), absurd(2, 1), *OPEN[2:]]),
    ("one that comes twice", [*OPEN[:2], *[absurd(1)] * 5, *OPEN[2:]]),
    ("two that come twice", [*OPEN[:2], *[absurd(1), absurd(2, 1)] * 4, *OPEN[2:]]),
    ("the first line", [absurd(1), *OPEN]),
    ("one between all lines", [each for n, line in enumerate(OPEN) for each in (absurd(n, n), line)]),
]


@pytest.mark.parametrize("each_alone", [False, True])
@pytest.mark.parametrize(("trouble", "lines"), ABSURD, ids=[row[0] for row in ABSURD])
def test_absurd_stamps_make_nothing_be_forgotten(trouble: str, lines: list[str], each_alone: bool) -> None:  # noqa: FBT001
    assert assembled(lines, each_alone=each_alone)[OPEN_ID] == (4, []), trouble


def test_a_clock_that_was_wrong_comes_back_and_forgets_again() -> None:
    """Behind an absurd first line: the closed mails leave memory as the host's time goes on."""
    parser = Parser(TimeSettings(at("2026-11-25 00:00:00"), zone=UTC), "here")
    lines = [absurd(1)]
    for minute in range(10):
        lines += postfix_mail(f"CCCCCCCCC{minute}", [f"2026-11-20T00:{5 * minute:02}:0{n}Z" for n in range(4)])
    assembler = Assembler()
    for line in lines:
        record = parser.parse(line)
        assert isinstance(record, Record)
        assembler.apply(record)
    assert len(assembler.forgotten()) == 9
    assert len(list(assembler.remaining())) == 2


def test_three_seconds_of_absurd_stamps_do_not_stop_the_clock_for_good() -> None:
    lines = [*OPEN, *[absurd(n, n) for n in range(4)]]
    later = postfix_mail("DDDDDDDDDD", [f"2026-11-22T00:00:0{n}Z" for n in range(4)])
    found = assembled([*lines, *later])
    assert found[OPEN_ID] == (4, [])
    assert found[f"mx1/DDDDDDDDDD/{at('2026-11-22 00:00:00')}"] == (4, [])


@pytest.mark.parametrize("each_alone", [False, True])
def test_after_a_pause_the_first_mail_stays_together(each_alone: bool) -> None:  # noqa: FBT001
    """Nothing was logged for 22 days: the clock follows, what was open before is forgotten, what is new is not."""
    new = postfix_mail("DDDDDDDDDD", [f"2026-12-12T00:00:0{n}Z" for n in (1, 3, 5, 9)])
    found = assembled(
        [*OPEN[:2], *new[:3], OPEN[2].replace("11-21", "12-12").replace("00Z", "07Z"), new[3]], each_alone=each_alone
    )
    assert found[f"mx1/DDDDDDDDDD/{at('2026-12-12 00:00:01')}"] == (4, [])
    assert found[OPEN_ID] == (2, [])


def skew_of(lines: Sequence[str]) -> list[str]:
    (notes,) = [notes for _, notes in assembled(lines).values()]
    return notes


def from_line(stamp: str, queue_id: str) -> str:
    return f"{stamp} mx1 sm-mta[9]: {queue_id}: from=<a@example.com>, size=9, class=0, nrcpts=1, relay=c [192.0.2.1]"


# The birth line against the time in its ID: trouble, lines, notes.
SKEWS = [
    ("five hours", [from_line("Jun 26 00:01:21", "w5PJ1L0X012460")], ["clock skew"]),
    ("half an hour back", postfix_mail(long_id("2026-11-20 00:30:00"), ["Nov 20 00:00:00"] * 4), ["clock skew"]),
    ("a message that came slowly", [from_line("Nov 20 00:40:00", sendmail_id("2026-11-20 00:00:00"))], []),
    (
        "waited for days",
        [
            from_line("Nov 20 00:00:00", sendmail_id("2026-11-20 00:00:00")),
            line_of("Nov 23 00:00:00", sendmail_id("2026-11-20 00:00:00")),
        ],
        [],
    ),
    ("no birth line", [line_of("Nov 23 00:00:00", long_id("2026-11-20 00:00:00"))], ["head missing"]),
]


@pytest.mark.parametrize(("trouble", "lines", "notes"), SKEWS, ids=[row[0] for row in SKEWS])
def test_clock_skew_is_noted(trouble: str, lines: list[str], notes: list[str]) -> None:
    assert skew_of(lines) == notes, trouble


@pytest.mark.parametrize("command", ["parse", "index"])
def test_the_likely_zone_is_reported_once_per_host(command: str, tmp_path: Path) -> None:
    log = tmp_path / "mail.log"
    lines = [from_line("Jun 26 00:01:21", "w5PJ1L0X012460"), from_line("Jun 26 00:01:21", "w5PJ1L0X012461")]
    lines += [line.replace(" mx1 ", " mx2 ") for line in lines[:1]]
    lines += [from_line("Jun 26 00:01:21", sendmail_id("2018-06-26 00:01:21")).replace(" mx1 ", " mx3 ")]
    log.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    store = ["--store", f"sqlite:///{tmp_path}/db"] if command == "index" else []
    done = mailspan(command, *store, "--zone", "UTC", "--zone", "mx2=Asia/Tashkent", "--stats", str(log))
    said = [line for line in done.stderr.decode().splitlines() if "zone" in line]
    assert said == [
        (
            "mailspan: note: mx1: queue ID w5PJ1L0X012460 was made at 2018-06-25T19:01:21Z, its line is stamped 5:00:00"
            " later: the host's zone is likely UTC+05:00; if so, read it with --zone mx1=+05:00"
        )
    ]
    assert done.stderr.decode().splitlines()[-1].startswith("lines=4 ")


def parsed(tmp_path: Path, pieces: Sequence[Sequence[str]], modified: int) -> dict[str, bytes]:
    """Return the documents that `Inputs` gives of files with these lines, all last written at one time."""
    names = []
    for number, piece in enumerate(pieces):
        path = tmp_path / f"{number}.log"
        path.write_text("".join(f"{line}\n" for line in piece), encoding="utf-8")
        os.utime(path, (modified, modified))
        names.append(str(path))
    faults: list[str] = []
    read_settings = ReadSettings(
        time_settings=lambda second: TimeSettings(second, zone=MADRID), now=0, default_host="here"
    )
    inputs = Inputs(names, read_settings, report=lambda _, fault: faults.append(fault), note=lambda *_: None)
    assembler = Assembler()
    for batch in inputs.batches():
        for result in batch.results:
            assert isinstance(result, Record)
            assembler.apply(result)
    assert not faults
    transactions = [*assembler.forgotten(), *assembler.remaining()]
    return {page["id"]: orjson.dumps(page) for each in transactions for page in documents(each)}


def rendered(second: int, zone: tzinfo = MADRID) -> str:
    local = datetime.fromtimestamp(second, UTC).astimezone(zone)
    return f"{calendar.month_abbr[local.month]} {local.day:2} {local:%H:%M:%S}"


@pytest.mark.parametrize("is_long", [False, True])
@pytest.mark.parametrize("begin", ["2026-12-31 20:00:00", "2026-10-24 22:00:00"])
def test_pieces_in_any_order_are_the_whole(begin: str, is_long: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """Two hosts over New Year, or over the hour that comes twice; the pieces are cut every hour."""
    first = at(begin)
    pieces: list[list[str]] = []
    for hour in range(8):
        lines: list[str] = []
        for minute in range(0, 60, 7):
            second = first + hour * 3600 + minute * 60
            for host in ("mx1", "mx2"):
                moment = datetime.fromtimestamp(second, UTC)
                queue_id = long_id(f"{moment:%Y-%m-%d %H:%M:%S}") if is_long else f"{hour:05X}{minute:05X}"
                lines += postfix_mail(queue_id, [rendered(second + n) for n in range(4)], host)
        pieces.append(lines)
    modified = first + 9 * 3600 if not is_long else at("2030-05-05 00:00:00")
    whole = parsed(tmp_path, [[line for piece in pieces for line in piece]], modified)
    assert len(whole) == 8 * 9 * 2
    assert {page["date"][:4] for page in map(orjson.loads, whole.values())} <= {"2026", "2027"}
    cut_at_fold = begin.startswith("2026-10") and not is_long
    for order in (pieces, pieces[::-1], pieces[1::2] + pieces[::2]):
        if not cut_at_fold:  # a piece that begins in the second 02:00 and has no timed ID cannot know it
            assert parsed(tmp_path, order, modified) == whole


@pytest.mark.parametrize("years", [2, 5])
def test_a_large_file_of_several_years_is_dated_by_its_end(years: int, tmp_path: Path) -> None:
    """More than what is looked at first, so the New Years behind that are counted in samples."""
    end = at("2026-11-20 00:00:00")
    begin = end - years * 365 * 86400
    count = 600 * years
    seconds = [begin + (end - begin) * n // (count - 1) for n in range(count)]
    lines = [line for n, s in enumerate(seconds) for line in postfix_mail(f"{n:010X}", [rendered(s)] * 4)]
    assert len("\n".join(lines)) > 2 * 65536
    found = parsed(tmp_path, [lines], end + 3600)
    dates = sorted(orjson.loads(page)["date"] for page in found.values())
    assert dates == sorted(format_time(second, 0) for second in seconds)


def test_an_absurd_first_line_does_not_put_a_file_off(tmp_path: Path) -> None:
    early = ["2049-01-01T00:00:00Z mx1 postfix/qmgr[2]: AAAAAAAAAA: removed", *OPEN[:2]]
    late = OPEN[2:]
    found = parsed(tmp_path, [late, early], 0)
    assert orjson.loads(found[OPEN_ID])["version"] >> 16 == 4


def test_a_wrong_zone_or_year_is_told(tmp_path: Path) -> None:
    log = tmp_path / "mail.log"
    log.write_text(line_of("Nov 23 07:55:08") + "\n", encoding="utf-8")
    for arguments in (("--zone", "Mars/Phobos"), ("--zone", "=UTC"), ("--zone", "mx1="), ("--year", "26")):
        done = mailspan("parse", *arguments, str(log))
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    done = mailspan("parse", "--zone", "mx1=-03:30", "--year", "2011", str(log))
    assert orjson.loads(done.stdout)["updated"] == "2011-11-23T11:25:08.000Z"


def test_a_log_that_grows_over_new_year_goes_on_in_the_next(tmp_path: Path) -> None:
    log, store = tmp_path / "mail.log", f"sqlite:///{tmp_path}/db"
    lines = [line_of("Mar  3 07:55:08", long_id("2024-03-03 07:55:08")), line_of("Dec 30 07:55:08")]
    log.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    assert mailspan("index", "--store", store, "--zone", "UTC", str(log)).returncode == 0
    grown = line_of("Mar 20 07:55:08", "5A1B2C3D4E")
    log.write_text("".join(f"{line}\n" for line in [*lines, grown]), encoding="utf-8")
    assert mailspan("index", "--store", store, "--zone", "UTC", str(log)).returncode == 0
    (found,) = mailspan("search", "--store", store, "--json", "-i", "5A1B2C3D4E").stdout.splitlines()
    assert orjson.loads(found)["updated"] == "2025-03-20T07:55:08.000Z"


def test_a_fragment_is_not_dated_by_an_id_of_the_future() -> None:
    parser = Parser(TimeSettings(at("2026-11-25 00:00:00"), zone=UTC), "here")
    record = parser.parse(line_of("2026-11-20T00:00:00Z", sendmail_id("2049-11-20 00:00:00")))
    assert isinstance(record, Record)
    assembler = Assembler()
    assembler.apply(record)
    ((page,),) = [documents(each) for each in assembler.remaining()]
    assert page["date"] == "2026-11-20T00:00:00.000Z"
