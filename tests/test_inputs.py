"""Files to lines: compression and its damage, identity, offsets, and what the bytes of a line may be."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from typing import TYPE_CHECKING

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from mailspan.inputs.content import Content
from mailspan.inputs.files import live_name
from mailspan.inputs.identity import HEAD_BYTES, TAIL_BYTES, Position, Positions, Tail, at_begin, fingerprint
from mailspan.inputs.lines import LONGEST_LINE_BYTES, LineReader, split_lines
from mailspan.inputs.streams import DamagedError, Stream
from tests.indexing import lines_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RAW = b"".join(lines_of("edge1.mail.log"))
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}
PADDED = ("gzip", "xz")
EXAMPLES = settings(max_examples=100, deadline=None, derandomize=True)


def stream_of(folder: Path, raw: bytes) -> Stream:
    path = folder / "file"
    path.write_bytes(raw)
    return Stream(path.open("rb", buffering=0))


def read_all(stream: Stream, size: int) -> tuple[bytes, str | None]:
    """Return all bytes and the damage; no read gives more than it was asked for."""
    found = b""
    try:
        while part := stream.read(size):
            assert len(part) <= size
            found += part
    except DamagedError as error:
        return found, str(error)
    finally:
        stream.close()
    return found, None


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("size", [999, 65536, 1 << 20])
def test_archives_of_several_parts_are_read_through(tmp_path: Path, packing: str, size: int) -> None:
    pack = PACKERS[packing]
    padding = bytes(8) if packing in PADDED else b""
    raw = pack(RAW[:1000]) + padding + pack(b"") + pack(RAW[1000:]) + padding
    assert read_all(stream_of(tmp_path, raw), size) == (RAW, None)


@pytest.mark.parametrize("packing", PACKERS)
def test_a_bomb_is_given_in_portions(tmp_path: Path, packing: str) -> None:
    found, damage = read_all(stream_of(tmp_path, PACKERS[packing](bytes(20_000_000))), 65536)
    assert (len(found), damage) == (20_000_000, None)


@pytest.mark.parametrize("packing", PACKERS)
def test_a_cut_archive_gives_what_is_before_the_cut(tmp_path: Path, packing: str) -> None:
    pack = PACKERS[packing]
    found, damage = read_all(stream_of(tmp_path, pack(RAW[:5000]) + pack(RAW[5000:])[:-20]), 4096)
    assert damage == f"this {packing} file is cut off"
    assert RAW.startswith(found)
    assert len(found) >= 5000


@pytest.mark.parametrize("at", [-8, -4, -3000, 3000, 300])
@pytest.mark.parametrize("size", [1000, 1 << 18])
def test_gzip_gives_every_byte_before_the_damage(tmp_path: Path, at: int, size: int) -> None:
    """What zlib finds when it is given one byte after the other."""
    raw = bytearray(gzip.compress(RAW, mtime=0))
    raw[at] ^= 0xFF
    expected, inflate = b"", zlib.decompressobj(wbits=31)
    for number in range(len(raw)):
        try:
            expected += inflate.decompress(raw[number : number + 1])
        except zlib.error:
            break
    else:
        pytest.fail("there is no damage")
    assert read_all(stream_of(tmp_path, bytes(raw)), size) == (expected, "this gzip file is damaged")


@pytest.mark.parametrize("packing", ["plain", *PACKERS])
@pytest.mark.parametrize("offset", [0, 1, 70_000, len(RAW), len(RAW) + 5])
def test_skipping(tmp_path: Path, packing: str, offset: int) -> None:
    stream = stream_of(tmp_path, PACKERS[packing](RAW) if packing in PACKERS else RAW)
    stream.skip(offset)
    assert read_all(stream, 65536) == (RAW[offset:], None)


def lines_and_offsets(folder: Path, raw: bytes, size: int) -> tuple[list[str], LineReader]:
    """Return the lines, and check that each chunk's offsets are those of its lines in the file."""
    stream = stream_of(folder, raw)
    reader = LineReader(stream)
    found: list[str] = []
    while (chunk := reader.read(size)) is not None:
        for count in range(len(chunk.lines) + 1):
            offset = chunk.offset_after(count)
            assert raw[:offset].count(b"\n") == len(found) + count
            before = chunk.before(offset, TAIL_BYTES)
            assert raw[:offset].endswith(before)
            assert before or offset == chunk.start or offset - chunk.start > LONGEST_LINE_BYTES
        found += chunk.lines
    stream.close()
    return found, reader


@EXAMPLES
@given(raw=st.binary(max_size=300).map(lambda raw: b"#" + raw.replace(b"a", b"\n")), size=st.integers(1, 80))
def test_lines_are_the_same_however_they_are_read(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes, size: int
) -> None:
    folder = tmp_path_factory.mktemp("lines")
    whole, _, rest = raw.rpartition(b"\n")
    expected = [text.lstrip("\0") for text in split_lines(whole)] if b"\n" in raw else []
    found, reader = lines_and_offsets(folder, raw, size)
    assert [line.removeprefix("\ufeff") for line in found] == [line.removeprefix("\ufeff") for line in expected]
    last = reader.last_line()
    assert (last is None) == (not rest.strip(b"\0\r"))


@pytest.mark.parametrize(
    ("raw", "lines"),
    [
        (b"one\r\ntwo\n", ["one", "two"]),
        (b"lone\rreturn\n", ["lone\rreturn"]),
        (b"\0\0\0\0one\0\n", ["one"]),
        (b"in\0side\n", ["in\0side"]),
        (b"\xff\xfe caf\xe9\n", ["\\xff\\xfe caf\\xe9"]),
        ("café\n".encode(), ["café"]),
        (b"\xef\xbb\xbfone\n", ["one"]),
        (b"\n\n", ["", ""]),
    ],
)
def test_what_the_bytes_of_a_line_may_be(tmp_path: Path, raw: bytes, lines: list[str]) -> None:
    assert lines_and_offsets(tmp_path, raw, 4096)[0] == lines


@pytest.mark.parametrize("length", [65536, LONGEST_LINE_BYTES - 1, LONGEST_LINE_BYTES, 3 * LONGEST_LINE_BYTES])
@pytest.mark.parametrize("size", [4096, 1 << 18])
def test_a_line_without_measure_hides_no_other(tmp_path: Path, length: int, size: int) -> None:
    found, reader = lines_and_offsets(tmp_path, b"one\n" + b"x" * length + b"\ntwo\nthree\n", size)
    assert [found[0], *found[2:]] == ["one", "two", "three"]
    assert found[1].startswith("x" * 65536)
    assert len(found[1]) <= LONGEST_LINE_BYTES + size
    assert reader.offset == length + 15


def position_in(raw: bytes, offset: int) -> Position:
    tail = raw[max(0, offset - TAIL_BYTES) : offset]
    return Position(
        **{
            **{name: getattr(at_begin(raw[:HEAD_BYTES]), name) for name in ("length", "digest")},
            "offset": offset,
            "tail": Tail(len(tail), fingerprint(tail)),
        }
    )


def test_positions_are_found_by_any_beginning_of_a_head() -> None:
    small = position_in(RAW[:100], 80)
    positions = Positions({small.key: small.encode()})
    assert positions.of_head(RAW[:HEAD_BYTES]) == [small]
    assert positions.of_head(RAW[:99]) == []
    assert positions.of_head(b"x" + RAW[: HEAD_BYTES - 1]) == []
    large = position_in(RAW, 90_000)
    positions.change({large.key: large.encode()})
    assert positions.of_head(RAW[:HEAD_BYTES]) == [large, small]
    positions.change({small.key: None})
    assert positions.of_head(RAW[:HEAD_BYTES]) == [large]


def test_a_position_of_another_version_is_left_alone() -> None:
    assert not Positions({"file:3:abc": b'{"v":1,"offset":3,"second":0,"packed_size":0}'})


@pytest.mark.parametrize("packing", ["plain", *PACKERS])
def test_content(tmp_path: Path, packing: str) -> None:
    def content(name: str, raw: bytes) -> Content:
        path = tmp_path / name
        path.write_bytes(PACKERS[packing](raw) if packing in PACKERS else raw)
        return Content(str(path), packing in PACKERS, path.stat().st_size)

    whole, begin = content("whole", RAW), content("begin", RAW[:200_000])
    assert begin.begins(whole)
    assert not whole.begins(begin)
    assert not begin.begins(content("third", RAW[:199_000] + b"x" + RAW[199_001:]))
    assert whole.length == len(RAW)
    for offset in (1, 5000, 200_000):
        assert whole.goes_on_from(position_in(RAW, offset))
        assert begin.goes_on_from(position_in(RAW, offset))
    assert not begin.goes_on_from(position_in(RAW, 200_001))
    assert not whole.goes_on_from(position_in(b"x" + RAW[1:], 3000))


@pytest.mark.parametrize(
    ("name", "live"),
    [
        ("mail.log.1", "mail.log"),
        ("mail.log.2.gz", "mail.log"),
        ("mail.log-20261124", "mail.log"),
        ("mail.log-20261124.xz", "mail.log"),
        ("mail.log-2026-11-24-0130", "mail.log"),
        ("/var/log/maillog.old", "/var/log/maillog"),
        ("mail.log", None),
        ("mail.log.gz", None),
        ("mail.err", None),
    ],
)
def test_the_name_before_rotation(name: str, live: str | None) -> None:
    assert live_name(name) == live
