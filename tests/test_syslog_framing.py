"""Syslog frames and lines as pure functions: both framings, mixed, byte by byte, too long, hostile."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailspan.grammar import syslog
from mailspan.line_key import LineKeys
from producers.framing import LONGEST_COUNTED_BYTES, FrameSplitter
from producers.syslog_lines import as_line, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

NOW = b"2026-11-23T08:00:00Z"


def counted(message: bytes) -> bytes:
    return b"%d %b" % (len(message), message)


def split(raw: bytes, cuts: Sequence[int] = (), longest: int = 65536) -> tuple[list[bytes], FrameSplitter]:
    splitter = FrameSplitter(longest)
    places = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    return [frame for start, end in pairwise(places) for frame in splitter.feed(raw[start:end])], splitter


@pytest.mark.parametrize(
    ("raw", "frames"),
    [
        (b"<22>one\n<22>two\n", [b"<22>one", b"<22>two"]),
        (b"<22>one\r\n\n\n<22>two\n", [b"<22>one", b"<22>two"]),
        (b"<22>one\0<22>two\0\n", [b"<22>one", b"<22>two"]),
        (b"7 <22>one7 <22>two", [b"<22>one", b"<22>two"]),
        (b"8 <22>one\n7 <22>two", [b"<22>one", b"<22>two"]),
        (b"7 <22>one\n7 <22>two\n", [b"<22>one", b"<22>two"]),  # a newline that the count does not count
        (b"7 <22>one<22>two\n9 <22>a\nb\0c", [b"<22>one", b"<22>two", b"<22>a\nb\0c"]),
        (b"9 <22>7 one<22>7 two\n", [b"<22>7 one", b"<22>7 two"]),
        (b"16 Nov 23 without P", [b"Nov 23 without P"]),
        (b"2026-11-23T07:55:08Z mx a: b\n2026-11-23 07:55:08 x\n", [b"2026-11-23T07:55:08Z mx a: b", b"2026-11-23 07:55:08 x"]),
        (b"1 2026-11-23T07:55:08Z mx a - - - b\n", [b"1 2026-11-23T07:55:08Z mx a - - - b"]),
        (b"1234567890 x\n0 x\n", [b"1234567890 x", b"0 x"]),
    ],
)  # fmt: skip
def test_frames(raw: bytes, frames: list[bytes]) -> None:
    assert split(raw)[0] == frames
    found, splitter = split(raw, range(len(raw)))
    assert found == frames
    assert not splitter.is_begun
    assert not splitter.cut


def test_a_begun_frame_is_one() -> None:
    for raw in (b"<", b"<22>x", b"9", b"99", b"99 ", b"99 <22>x"):
        found, splitter = split(raw)
        assert found == []
        assert splitter.is_begun


@pytest.mark.parametrize(
    ("raw", "is_clean", "frames", "truncated"),
    [
        (b"<22>x", True, [b"<22>x"], 0),
        (b"<22>x\r", True, [b"<22>x"], 0),
        (b"<22>x", False, [], 1),
        (b"9 <22>x", True, [], 1),
        (b"99", True, [], 1),
        (b"<22>x\n", False, [], 0),
        (b"", True, [], 0),
    ],
)
def test_the_end_of_a_stream(raw: bytes, is_clean: bool, frames: list[bytes], truncated: int) -> None:  # noqa: FBT001 - a table's column
    _, splitter = split(raw)
    assert splitter.end(is_clean=is_clean) == frames
    assert splitter.truncated == truncated


@pytest.mark.parametrize("cuts", [(), range(300), (11, 12, 13)])
def test_what_is_too_long_is_cut_and_the_next_frame_is_found(cuts: Sequence[int]) -> None:
    for raw in (b"x" * 100 + b"\n<22>next\n", counted(b"x" * 100) + b"<22>next\n"):
        found, splitter = split(raw, cuts, longest=10)
        assert found == [b"x" * 10, b"<22>next"]
        assert splitter.cut == 1
        assert not splitter.is_begun


def test_memory_is_bounded_by_the_longest_frame() -> None:
    for begin in (b"", b"16000000 "):
        splitter = FrameSplitter(1000)
        splitter.feed(begin)
        for _ in range(100):
            splitter.feed(b"x" * 10_000)
            assert len(splitter._buffer) <= 1000  # noqa: SLF001 - what is bounded


def test_bytes_that_come_one_by_one_cost_no_more_than_each_its_share() -> None:
    splitter = FrameSplitter()
    began = time.process_time()
    for _ in range(65_000):
        splitter.feed(b"x")
    assert time.process_time() - began < 1


def test_a_count_beyond_reason_ends_it() -> None:
    found, splitter = split(b"<22>one\n999999999 <22>two\n<22>three\n")
    assert found == [b"<22>one"]
    assert "999999999" in splitter.fault
    assert splitter.feed(b"<22>more\n") == []
    assert split(b"%d " % LONGEST_COUNTED_BYTES)[1].fault == ""


messages = st.binary(min_size=1, max_size=40).map(
    lambda raw: b"<22>" + raw.replace(b"\n", b"").replace(b"\0", b"") + b"."
)


@given(
    st.lists(st.tuples(messages, st.booleans(), st.sampled_from([b"\n", b"\r\n", b"\0"]))),
    st.lists(st.integers(0, 400)),
)
def test_framings_may_change_with_each_frame(sent: list[tuple[bytes, bool, bytes]], cuts: list[int]) -> None:
    raw = b"".join(counted(message) if is_counted else message + trailer for message, is_counted, trailer in sent)
    assert split(raw, cuts)[0] == [message for message, _, _ in sent]


@given(st.binary(max_size=200), st.lists(st.integers(0, 200)), st.integers(1, 50))
def test_any_bytes_do_not_depend_on_how_they_come_in(raw: bytes, cuts: list[int], longest: int) -> None:
    whole, one = split(raw, (), longest)
    parts, other = split(raw, cuts, longest)
    assert whole == parts
    assert all(0 < len(frame) <= longest for frame in whole)
    assert (one.cut, one.fault, one.is_begun) == (other.cut, other.fault, other.is_begun)
    assert one.end(is_clean=True) == other.end(is_clean=True)


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (b"<22>Nov 23 07:55:08 mx a[1]: b\n", b"Nov 23 07:55:08 mx a[1]: b"),
        (b"<22>Nov  3 07:55:08 a[1]: b\0", b"Nov  3 07:55:08 peer a[1]: b"),
        (b"<22>Nov  3 07:55:08 postfix/smtpd: b\r\n", b"Nov  3 07:55:08 peer postfix/smtpd: b"),
        (b"<22>2026-11-23T07:55:08.123456+01:00 a[1]: b", b"2026-11-23T07:55:08.123456+01:00 peer a[1]: b"),
        (b"<22>2026-11-23T07:55:08Z mx a[1]: b", b"2026-11-23T07:55:08Z mx a[1]: b"),
        (b"<22>Nov 23 07:55:08 2001:db8::1 a[1]: b", b"Nov 23 07:55:08 2001:db8::1 a[1]: b"),
        (b"<22>1 2026-11-23T07:55:08Z mx a 1 - - b", b"1 2026-11-23T07:55:08Z mx a 1 - - b"),
        (b"<22>1 2026-11-23T07:55:08Z - a 1 - - b", b"1 2026-11-23T07:55:08Z peer a 1 - - b"),
        (b"<22>1 - - a 1 - - b", b"1 2026-11-23T08:00:00Z peer a 1 - - b"),
        (b"<22>a[1]: b", b"2026-11-23T08:00:00Z peer a[1]: b"),
        (b"a[1]: b", b"a[1]: b"),
        (b"<22>Nov 23 07:55:08 mx a[1]: b\nNov 23 forged\n", b"Nov 23 07:55:08 mx a[1]: b#012Nov 23 forged"),
        (b"<2222>x", b"<2222>x"),
        (b"\n\0", b""),
    ],
)
def test_messages_become_lines(message: bytes, line: bytes) -> None:
    assert as_line(message, b"peer", NOW) == line


@pytest.mark.parametrize(
    "message",
    [
        b"<22>Nov 23 07:55:08 edge1 postfix/qmgr[90]: B6D781149FE: removed",
        b"<22>Nov  3 07:55:08 postfix/qmgr[90]: B6D781149FE: removed\n",
        b"<22>2026-11-23T07:55:08.123+01:00 edge1 postfix/qmgr[90]: B6D781149FE: removed",
        b"<22>1 2026-11-23T07:55:08.123Z edge1 postfix/qmgr 90 - - B6D781149FE: removed",
        b'<22>1 2026-11-23T07:55:08Z - postfix/qmgr 90 - [meta sequenceId="1"] \xef\xbb\xbfB6D781149FE: removed',
        b"<22>1 2026-11-23T07:55:08.123Z edge1 postfix/qmgr 90 - -  B6D781149FE: removed",  # rsyslog's MSG
        b"<22>postfix/qmgr[90]: B6D781149FE: removed",
    ],
)  # fmt: skip
def test_the_grammar_reads_every_kind_of_stamp(message: bytes) -> None:
    line = as_line(message, b"edge1", NOW)
    header = syslog.split(line.decode())
    assert not isinstance(header, str)
    assert (header.host, header.program, header.pid) == ("edge1", "postfix/qmgr", "90")
    assert header.message == "B6D781149FE: removed"
    assert LineKeys("own", 48).locate(line)[1] == b"edge1/B6D781149FE"


@given(st.binary(max_size=300))
def test_any_message_is_one_line(message: bytes) -> None:
    line = as_line(message, b"peer", NOW)
    assert b"\n" not in line
    assert one_line(line) == line
