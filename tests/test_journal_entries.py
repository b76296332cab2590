"""Journal entries as journalctl writes them: fields of every form, stamps, places, what is not wanted."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailspan.grammar import syslog
from mailspan.inputs.lines import LONGEST_LINE_BYTES
from producers.journal_entries import Entry, EntrySplitter, read_entry

SEQUENCE, BOOT = "8f04b99f3f1b40d49af9a9c4371dc3d2", "0" * 31 + "5"
CURSOR = f"s={SEQUENCE};i=4f2a;b={BOOT};m=f4628;t=6445941718240;x=25ff32146e90e5a7"
USUAL: dict[str, Any] = {
    "__CURSOR": CURSOR,
    "__REALTIME_TIMESTAMP": "1764000001000000",
    "_HOSTNAME": "mx1",
    "SYSLOG_IDENTIFIER": "postfix/qmgr",
    "SYSLOG_PID": "90",
    "_PID": "91",
    "MESSAGE": "B6D781149FE: removed",
}


def read(*, is_mail_only: bool = True, **changes: Any) -> Entry | None:  # noqa: ANN401 - any JSON
    fields = {name: value for name, value in {**USUAL, **changes}.items() if value != "absent"}
    return read_entry(json.dumps(fields).encode(), b"own", is_mail_only=is_mail_only)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, b"2025-11-24T16:00:01.000000Z mx1 postfix/qmgr[90]: B6D781149FE: removed"),
        (
            {"_SOURCE_REALTIME_TIMESTAMP": "1764000000999995"},
            b"2025-11-24T16:00:00.999995Z mx1 postfix/qmgr[90]: B6D781149FE: removed",
        ),
        ({"SYSLOG_PID": "absent"}, b"2025-11-24T16:00:01.000000Z mx1 postfix/qmgr[91]: B6D781149FE: removed"),
        (
            {"SYSLOG_PID": "absent", "_PID": "absent", "_HOSTNAME": "absent"},
            b"2025-11-24T16:00:01.000000Z own postfix/qmgr: B6D781149FE: removed",
        ),
        ({"MESSAGE": "one\ntwo\n"}, b"2025-11-24T16:00:01.000000Z mx1 postfix/qmgr[90]: one#012two"),
        ({"MESSAGE": [98, 255, 10, 99]}, b"2025-11-24T16:00:01.000000Z mx1 postfix/qmgr[90]: b\xff#012c"),
        ({"MESSAGE": ["first", "second"]}, b"2025-11-24T16:00:01.000000Z mx1 postfix/qmgr[90]: first"),
        ({"MESSAGE": [[255], "second"]}, b"2025-11-24T16:00:01.000000Z mx1 postfix/qmgr[90]: \xff"),
        ({"MESSAGE": "\u00e9"}, b"2025-11-24T16:00:01.000000Z mx1 postfix/qmgr[90]: \xc3\xa9"),
        ({"MESSAGE": ""}, b"2025-11-24T16:00:01.000000Z mx1 postfix/qmgr[90]: "),
        (
            {"SYSLOG_IDENTIFIER": "absent", "_COMM": "exim4", "MESSAGE": "x"},
            b"2025-11-24T16:00:01.000000Z mx1 exim4[90]: x",
        ),
        ({"_HOSTNAME": "a b\n"}, b"2025-11-24T16:00:01.000000Z a_b_ postfix/qmgr[90]: B6D781149FE: removed"),
    ],
)
def test_entries_become_lines(changes: dict[str, Any], line: bytes) -> None:
    entry = read(**changes)
    assert entry is not None
    assert entry.line == line
    header = syslog.split(line.decode("utf-8", "backslashreplace"))
    assert not isinstance(header, str)
    assert header.stamp is not None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"MESSAGE": None}, "no message"),
        ({"MESSAGE": "absent"}, "no message"),
        ({"SYSLOG_IDENTIFIER": "sshd"}, "foreign program"),
        ({"SYSLOG_IDENTIFIER": "absent", "_COMM": "absent"}, "foreign program"),
    ],
)
def test_entries_that_give_no_line_still_have_a_place(changes: dict[str, Any], reason: str) -> None:
    entry = read(**changes)
    assert entry is not None
    assert (entry.line, entry.reason, entry.cursor) == (None, reason, CURSOR)


@pytest.mark.parametrize("changes", [{"SYSLOG_FACILITY": "2"}, {"SYSLOG_IDENTIFIER": "rsyslogd"}])
def test_the_mail_facility_and_loggers_are_mail(changes: dict[str, Any]) -> None:
    """A logger's lines say that lines were lost."""
    entry = read(**{"SYSLOG_IDENTIFIER": "opendkim", **changes})
    assert entry is not None
    assert entry.line is not None
    chosen = read(is_mail_only=False, SYSLOG_IDENTIFIER="whatever")
    assert chosen is not None
    assert chosen.line is not None


def test_a_place_is_that_of_the_journal() -> None:
    entries = [
        read(),
        read(__CURSOR=CURSOR.replace("i=4f2a", "i=4f2b")),
        read(__CURSOR=CURSOR.replace(BOOT, "6" * 32)),
        read(__CURSOR=CURSOR.replace(SEQUENCE, "6" * 32)),
        read(__CURSOR="another form"),
    ]
    places = [entry.place for entry in entries if entry is not None]
    assert places[4] is None
    one, two, boot, sequence = (place for place in places if place is not None)
    assert (one.offset, two.offset) == (0x4F2A, 0x4F2B)
    assert one.generation == two.generation
    assert len({one.generation, boot.generation, sequence.generation}) == 3


def test_a_message_is_no_longer_than_a_line() -> None:
    entry = read(MESSAGE="x" * 1_000_000)
    assert entry is not None
    assert entry.line is not None
    assert len(entry.line) == LONGEST_LINE_BYTES


@pytest.mark.parametrize(
    "changes",
    [{"MESSAGE": [300]}, {"MESSAGE": [1, "x"]}, {"__CURSOR": None}, {"__REALTIME_TIMESTAMP": "x"},
     {"__REALTIME_TIMESTAMP": "9" * 30}, {"MESSAGE": {"a": 1}}],
)  # fmt: skip
def test_what_journalctl_never_writes_is_no_entry(changes: dict[str, Any]) -> None:
    assert read(**changes) is None


@given(st.binary(max_size=100))
def test_any_bytes_are_an_entry_or_none(raw: bytes) -> None:
    assert read_entry(raw, b"own", is_mail_only=True) is None


def test_entries_come_in_any_pieces_and_absurd_ones_are_passed_over() -> None:
    splitter = EntrySplitter()
    assert [splitter.feed(part) for part in (b"on", b"e\n\ntwo\nth", b"ree\n")] == [[], [b"one", b"two"], [b"three"]]
    for _ in range(50):
        assert splitter.feed(b"x" * 100_000) == []
    assert splitter.feed(b"x\nnext\n") == [b"next"]
    assert splitter.passed_over == 1
