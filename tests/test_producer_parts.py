"""The pure parts of the producers: partition, key, header, lines, wrappers, names of rotated files, checkpoint."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailspan.inputs.lines import LONGEST_LINE_BYTES
from mailspan.line_key import LineKeys
from mailspan.partition import murmur2, partition_of
from mailspan.wire import HEADER_NAME, Header, Reading, decode_header, encode_header, encode_reading, find_header
from producers.checkpoint import Checkpoint, Generation
from producers.lines import Lines, Splitter
from producers.rotation import is_rotated
from producers.state_folder import StateError
from producers.wrappers import find_wrapper

CORPUS = Path(__file__).parent / "corpus"
READING = Reading("0123456789abcdef", 1700000000, 1700000001, "mx1", "Europe/Madrid", "tail", "mx1.example.com")


@pytest.mark.parametrize(
    ("key", "signed"),
    [  # org.apache.kafka.common.utils.UtilsTest.testMurmur2
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_that_of_java(key: bytes, signed: int) -> None:
    assert murmur2(key) == signed & 0xFFFFFFFF
    assert partition_of(key, 48) == (signed & 0x7FFFFFFF) % 48


@pytest.mark.parametrize(
    ("line", "key"),
    [
        (b"Nov 23 07:55:08 Edge1 postfix/smtpd[100]: B6D781149FE: client=a", b"edge1/B6D781149FE"),
        (b"Nov  3 07:55:08 edge1 postfix/qmgr[90]: 4jXysS5MXcz9CLt: removed", b"edge1/4jXysS5MXcz9CLt"),
        (b"<22>Nov  3 07:55:08 edge1 postfix/qmgr[90]: 4jXysS5MXcz9CLt: removed", b"edge1/4jXysS5MXcz9CLt"),
        (b"<22>1 2026-11-23T07:55:08Z edge1 postfix/smtpd 95 - - B6D781149FE: client=a", b"edge1/B6D781149FE"),
        (b"2026-11-23T07:55:08.123+01:00 edge1 sm-mta[20]: 6AN7t85o000020: from=<>", b"edge1/6AN7t85o000020"),
        (b"Nov 23 07:55:08 edge1 postfix/smtpd[95]: connect from a[192.0.2.1]", b"edge1/postfix/smtpd[95]"),
        (b"Nov 23 07:55:08 edge1 postfix/smtpd[95]: warning: B6D: x", b"edge1/postfix/smtpd[95]"),
        (b"Jun  7 08:16:23 mx exim[12]: 1sFUlr-000rus-Io => a@example.com", b"mx/1sFUlr-000rus-Io"),
        (b"Jun  7 08:16:23 mx smtpd[12]: 12345678 mta delivery evpid=01234567aaaaaaaa to=", b"mx/01234567"),
        (b"2024-06-07 08:16:23 1sFUlr-000rus-Io <= a@example.com", b"own/1sFUlr-000rus-Io"),
        (b"2024-06-07 08:16:23 +0200 [12] no host name found", b"own/exim"),
        (b"2024-06-07 08:16:23 mx1 sm-mta[20]: 6AN7t85o000020: from=<>", b"mx1/6AN7t85o000020"),
        (b"2024-06-07 08:16:23 +02:00 mx1 sm-mta[20]: 6AN7t85o000020: from=<>", b"mx1/6AN7t85o000020"),
        (b"2024-06-07 08:16:23 +0200 mx1 sm-mta[20]: 6AN7t85o000020: from=<>", b"mx1/6AN7t85o000020"),
        (b"Nov 23 07:55:08 <mail.info> edge1 postfix/smtpd[100]: B6D781149FE: client=a", b"edge1/B6D781149FE"),
        (b"Nov 23 07:55:08 edge1 mail.info postfix/smtpd[100]: B6D781149FE: client=a", b"edge1/B6D781149FE"),
        (b"Nov 23 07:55:08 relay Message forwarded from edge1: sm-mta[20]: 6AN7t85o000020: x", b"edge1/6AN7t85o000020"),
        (b"Nov 23 07:55:08 postfix/smtpd[95]: B6D781149FE: client=a", b"own/B6D781149FE"),
        (b"Nov 23 07:55:08 old postfix/smtpd[95]: B6D781149FE: client=a", b"new/B6D781149FE"),
        (b"\xff\0 no log", b"own/"),
        (b"", b"own/"),
    ],
)
def test_the_key_of_a_line(line: bytes, key: bytes) -> None:
    keys = LineKeys("Own", 48, {"old": "new"})
    for _ in range(2):  # the second time by what is remembered
        assert keys.locate(line) == (partition_of(key.partition(b"/")[0], 48), key)


def test_all_lines_of_a_corpus_go_to_the_partition_of_their_host() -> None:
    keys = LineKeys("own", 48)
    lines = (CORPUS / "edge1.mail.log").read_bytes().splitlines()
    located = [keys.locate(line) for line in lines]
    assert {partition for partition, _ in located} == {partition_of(b"edge1", 48)}
    assert b"edge1/B6D781149FE" in {key for _, key in located}


@given(st.binary(max_size=200))
def test_any_bytes_have_a_key(line: bytes) -> None:
    partition, key = LineKeys("own", 7).locate(line)
    assert 0 <= partition < 7
    assert b"/" in key


def test_a_header_comes_back() -> None:
    raw = encode_header(123456789012, encode_reading(READING))
    assert decode_header(raw) == Header(123456789012, READING)
    assert find_header([("other", b"x"), (HEADER_NAME, raw)]) == Header(123456789012, READING)


@pytest.mark.parametrize("headers", [None, [], [("traceparent", b"00")], [(HEADER_NAME, b"\x02whatever, later")]])
def test_records_of_others_have_no_header(headers: list[tuple[str, bytes | None]] | None) -> None:
    assert find_header(headers) is None


def test_a_header_with_fields_of_a_later_version_is_read() -> None:
    raw = encode_reading(READING)
    assert raw[0] == 0x97  # an array of 7
    assert decode_header(encode_header(5, b"\x98" + raw[1:] + b"\xa3new")) == Header(5, READING)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_header_or_none(raw: bytes) -> None:
    decoded = decode_header(raw)
    assert decoded is None or decoded.offset >= 0


@given(st.binary(max_size=300).map(lambda raw: raw.replace(b"\x01", b"\n")), st.lists(st.integers(0, 300)))
def test_lines_do_not_depend_on_how_they_come_in(raw: bytes, cuts: list[int]) -> None:
    splitter = Splitter(10)
    places = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    found = [splitter.feed(raw[start:end]) for start, end in pairwise(places)]
    lines = [line for each in found for line in each.lines]
    starts = [start for each in found for start in each.starts]
    assert b"".join(line + b"\n" for line in lines) + (splitter.last_line().lines or [b""])[0] == raw
    assert all(raw[start - 10 :].startswith(line + b"\n") for line, start in zip(lines, starts, strict=True))
    assert found[-1].end == 10 + raw.rfind(b"\n") + 1


def test_a_line_too_long_is_cut_and_memory_is_bounded() -> None:
    splitter = Splitter()
    found = [splitter.feed(b"x" * 100_000) for _ in range(20)] + [splitter.feed(b"x\nnext\nbegun")]
    assert [each.lines for each in found if each.lines] == [[b"x" * LONGEST_LINE_BYTES, b"next"]]
    assert found[-1].starts == [0, 2_000_002]
    assert found[-1].end == 2_000_007
    assert len(splitter.last_line().lines[0]) == 5
    assert Splitter().feed(b"y" * (LONGEST_LINE_BYTES + 9) + b"\nz\n").lines == [b"y" * LONGEST_LINE_BYTES, b"z"]


def test_a_block_of_nul_bytes_does_not_hide_a_line() -> None:
    splitter = Splitter()
    for _ in range(30):
        assert splitter.feed(b"\0" * 65536).lines == []
    assert splitter.feed(b"Nov 23 the line\n").lines == [b"Nov 23 the line"]


CRI = (
    b"2026-11-23T07:55:08.000000001Z stdout P Nov 23 part one,\n"
    b"2026-11-23T07:55:08.000000002Z stderr F other\n"
    b"2026-11-23T07:55:08.000000003Z stdout F  part two\n"
    b"not wrapped\n"
    b"2026-11-23T07:55:08.000000004Z stdout P begun\n"
)
DOCKER = (
    b'{"log":"Nov 23 part one,","stream":"stdout","time":"2026-11-23T07:55:08Z"}\n'
    b'{"log":"other\\n","stream":"stderr","time":"2026-11-23T07:55:08Z"}\n'
    b'{"log":" part two\\n","stream":"stdout","time":"2026-11-23T07:55:08Z"}\n'
    b"not wrapped\n"
    b'{"log":"begun","stream":"stdout","time":"2026-11-23T07:55:08Z"}\n'
)


@pytest.mark.parametrize("raw", [CRI, DOCKER])
def test_containers_lines_are_unwrapped_and_joined(raw: bytes) -> None:
    starts = [0]
    for line in raw.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for step in (1, 7, len(raw)):
        wrapper, splitter = find_wrapper(raw), Splitter()
        assert wrapper is not None
        lines: list[bytes] = []
        offsets: list[int] = []
        ends = set()
        for at in range(0, len(raw), step):
            found = wrapper.unwrap(splitter.feed(raw[at : at + step]))
            lines, offsets = lines + found.lines, offsets + found.starts
            ends.add(found.end)
        assert lines == [b"other", b"Nov 23 part one, part two", b"not wrapped"]
        assert offsets == starts[1:4]
        assert found.end == starts[4]  # the begun line is read again
        assert not ends & set(starts[1:3])  # never between the parts of a line
        assert wrapper.last_lines(starts[5]) == Lines([b"begun"], [starts[4]], starts[5])


@pytest.mark.parametrize(
    "head", [b"", b"Nov 23 07:55:08 mx postfix", b"{}", b"2026-11-23T07:55:08Z mx postfix/smtpd[1]: x"]
)
def test_a_plain_log_has_no_wrapper(head: bytes) -> None:
    assert find_wrapper(head) is None


@pytest.mark.parametrize(
    ("name", "base", "expected"),
    [
        ("mail.log.1", "mail.log", True),
        ("mail.log.2.gz", "mail.log", True),
        ("mail.log-20261125", "mail.log", True),
        ("mail.log-20261125.zst", "mail.log", True),
        ("mail-20261125.log", "mail.log", True),
        ("mail.1.log.gz", "mail.log", True),
        ("maillog.0.bz2", "maillog", True),
        ("0.log.20261125-022537", "0.log", True),
        ("0.log.20261125-022537.gz", "0.log", True),
        ("mail.log.gz", "mail.log", True),
        ("mail.log", "mail.log", False),
        ("mail.err", "mail", False),
        ("mail.log2", "mail.log", False),
        ("1.log", "0.log", False),
        ("syslog.1", "mail.log", False),
    ],
)
def test_names_of_rotated_files(name: str, base: str, expected: bool) -> None:  # noqa: FBT001 - a table's column
    assert is_rotated(name, base) is expected


def test_positions_come_back_and_a_damaged_save_falls_back(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "state")
    one, two = ([Generation("a", "/x", 1, 2, offset=offset)] for offset in (10, 20))
    assert checkpoint.load() == ([], None)
    checkpoint.save(one)
    checkpoint.save(two)
    assert checkpoint.load() == (two, None)
    saved = tmp_path / "state" / "tail.checkpoint"
    for damage in (saved.read_bytes()[:-9], saved.read_bytes().replace(b"20", b"99"), b"", b"\0" * 100):
        saved.write_bytes(damage)
        generations, note = checkpoint.load()
        assert generations == one
        assert note is not None
        assert "damaged" in note
    before = saved.with_name("tail.checkpoint.previous")
    good = before.read_bytes()
    before.write_bytes(b"")
    assert checkpoint.load() == ([], f"{saved} is damaged, and no older state is there; all is sent again")
    before.write_bytes(good)
    saved.unlink()  # a crash between the two renames of a save
    assert checkpoint.load() == (one, None)
    checkpoint.close()


def test_a_state_folder_has_one_user(tmp_path: Path) -> None:
    first = Checkpoint(tmp_path)
    with pytest.raises(StateError, match="MAILSPAN_STATE_DIR"):
        Checkpoint(tmp_path)
    first.close()
    Checkpoint(tmp_path).close()


def test_a_state_folder_that_cannot_be_written_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(StateError, match="MAILSPAN_STATE_DIR"):
        Checkpoint(tmp_path / "file" / "state")
    assert len(list(Path("/proc/self/fd").iterdir())) == before
