"""`index` again and again: nothing doubled, nothing lost, whatever became of the files in between.

The oracle is one `parse` of all lines: what the store holds must be the same documents, byte for byte.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import random
import shutil
from typing import TYPE_CHECKING

import pytest
import zstandard

from tests.indexing import Bench, is_sound, lines_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LOGS = ("edge1.mail.log", "edge2.mail.log", "relay.mail.log")
LARGE_LOGS = ("bulk1.mail.log", "bulk2.mail.log", "relay2.mail.log")
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.ZstdCompressor().compress,
}


@pytest.fixture
def bench(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Bench:
    return Bench(tmp_path, capfdbinary)


def rotate(bench: Bench, chance: random.Random) -> None:
    """Rotate mail.log as logrotate does, one way or the other; some of the older ones are packed."""
    old = sorted(bench.folder.glob("mail.log.*"), key=lambda path: -int(path.name.split(".")[2]))
    for path in old:
        _, _, number, *packing = path.name.split(".")
        renamed = path.with_name(".".join(["mail.log", str(int(number) + 1), *packing]))
        path.rename(renamed)
        if not packing and chance.random() < 0.6:
            suffix = chance.choice(sorted(PACKERS))
            renamed.with_name(f"{renamed.name}.{suffix}").write_bytes(PACKERS[suffix](renamed.read_bytes()))
            if chance.random() < 0.8:  # else the run finds both: compression was under way
                renamed.unlink()
    live = bench.folder / "mail.log"
    if chance.random() < 0.5:
        live.rename(bench.folder / "mail.log.1")
        live.touch()
    else:
        shutil.copyfile(live, bench.folder / "mail.log.1")
        os.truncate(live, 0)


def grow_and_index(bench: Bench, lines: tuple[bytes, ...], runs: int, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - reproducible
    raw = b"".join(lines)
    cuts = sorted(chance.sample(range(len(raw)), runs - 1))
    live = bench.folder / "mail.log"
    live.touch()
    for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        if live.read_bytes()[-1:] == b"\n" and chance.random() < 0.4:
            rotate(bench, chance)
        with live.open("ab") as file:
            file.write(raw[start:end])
        names = [str(path) for path in bench.folder.glob("mail.log*")]
        chance.shuffle(names)
        bench.index(*names)


@pytest.mark.parametrize("name", LOGS)
@pytest.mark.parametrize("seed", range(3))
def test_ten_runs_over_a_log_that_grows_and_rotates_are_as_one(bench: Bench, name: str, seed: int) -> None:
    grow_and_index(bench, lines_of(name), 10, seed)
    assert bench.stored() == bench.parse_of(b"".join(lines_of(name)))
    assert is_sound(bench.database)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE_LOGS)
def test_ten_runs_over_a_large_log_are_as_one(bench: Bench, name: str) -> None:
    grow_and_index(bench, lines_of(name), 10, 7)
    assert bench.stored() == bench.parse_of(b"".join(lines_of(name)))
    assert is_sound(bench.database)


def test_the_summary_counts_documents_and_new_lines(bench: Bench) -> None:
    lines = lines_of("edge1.mail.log")
    log = bench.write("mail.log", b"".join(lines[:-1]))
    count = len(bench.parse(log))
    end = f"into {bench.database}\n"
    assert bench.index(log) == f"indexed {count} documents from {len(lines) - 1} new lines {end}"
    assert bench.index(log) == f"indexed 0 documents from 0 new lines {end}"
    log.write_bytes(b"".join(lines))
    assert bench.index(log).endswith(f" from 1 new line {end}")
    assert bench.index(bench.write("empty.log", b"")) == f"indexed 0 documents from 0 new lines {end}"


def test_a_small_log_that_grows_line_by_line(bench: Bench) -> None:
    """As long as it is shorter than the head that it is known by, it has another fingerprint each time."""
    lines = lines_of("edge1.mail.log")[:60]
    for count in range(len(lines) + 1):
        log = bench.write("mail.log", b"".join(lines[:count]))
        said = bench.index(log)
        assert f" from {min(count, 1)} new line" in said
    assert bench.stored() == bench.parse(log)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_copies_and_beginnings_are_one_content(bench: Bench, order: tuple[int, ...]) -> None:
    raw = b"".join(lines_of("edge2.mail.log"))
    paths = [
        bench.write("mail.log", raw),
        bench.write("copy", raw),
        bench.write("begin", raw[: len(raw) // 2]),  # cut inside a line
        bench.write("old.log.gz", gzip.compress(raw[: len(raw) // 3])),
    ]
    said = bench.index(*[paths[at] for at in order])
    assert f" from {len(lines_of('edge2.mail.log'))} new lines" in said
    assert bench.stored() == bench.parse(paths[0])
    for path in paths:
        bench.index(path)
        assert bench.stored() == bench.parse(paths[0])


def test_the_last_line_of_the_longest_copy_is_used_by_parse(bench: Bench) -> None:
    lines = lines_of("edge1.mail.log")[:40]
    whole = bench.parse_of(b"".join(lines))
    log = bench.write("mail.log", b"".join(lines).rstrip(b"\n"))
    begin = bench.write("begin", b"".join(lines[:20]))
    assert bench.parse(log, begin) == whole
    assert bench.parse(begin, log) == whole


def branches(shared: int, most: int) -> tuple[bytes, bytes]:
    """Return two logs that share their first lines, as mail.log and syslog may; then one has another host's lines."""
    lines = lines_of("edge1.mail.log")[:most]
    return b"".join(lines), b"".join([*lines[:shared], *lines_of("edge2.mail.log")])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("together", [False, True])
def test_logs_that_begin_alike_and_differ_later_are_both_read(bench: Bench, together: bool, packed: bool) -> None:  # noqa: FBT001
    """Both share far more than the head by which a file is known."""
    one, two = branches(300, 1500)
    assert one[:20_000] == two[:20_000]
    shorter = one[: one.index(b"\n", len(one) // 2) + 1]
    expected = bench.parse_of(one, two)
    files = [
        bench.write("two.gz", gzip.compress(two)) if packed else bench.write("two", two),
        bench.write("one.xz", lzma.compress(shorter)) if packed else bench.write("one", shorter),
    ]
    if together:
        bench.index(*files)
    else:
        for file in files:
            bench.index(file)
    rest = bench.write("rest", one)
    bench.index(rest, *files)
    assert bench.stored() == expected
    assert " from 0 new lines" in bench.index(rest, *reversed(files))


def test_a_log_that_differs_after_the_part_that_was_read_is_read(bench: Bench) -> None:
    """The second one is longer than what is known of the first; its bytes before that offset are others."""
    one, two = branches(100, 2000)
    bench.index(bench.write("one", one[: one.index(b"\n", 60_000) + 1]))
    bench.index(bench.write("two", two))
    bench.index(bench.write("one", one))
    assert bench.stored() == bench.parse_of(one, two)


def test_a_last_line_waits_until_it_is_whole(bench: Bench) -> None:
    lines = lines_of("edge1.mail.log")
    log = bench.write("mail.log", b"".join(lines)[:-30])
    assert f" from {len(lines) - 1} new lines" in bench.index(log)
    assert "no newline yet" in bench.said
    assert " from 0 new lines" in bench.index(log)
    log.write_bytes(b"".join(lines))
    assert " from 1 new line " in bench.index(log)
    assert bench.stored() == bench.parse(log)


def test_a_last_line_is_used_once_its_file_was_rotated_away(bench: Bench) -> None:
    lines = lines_of("edge1.mail.log")
    log = bench.write("mail.log", b"".join(lines)[:-1])
    bench.index(log)
    moved = log.rename(bench.folder / "mail.log.1")
    assert " from 0 new lines" in bench.index(moved)  # its daemon may not have been told of the new file yet
    log.touch()
    assert " from 0 new lines" in bench.index(moved, log)
    log.write_bytes(lines_of("edge1.mail.log")[-1].replace(b"07:5", b"08:1"))
    os.utime(log, ns=(0, moved.stat().st_mtime_ns + 1))
    assert " from 2 new lines" in bench.index(log, moved)
    assert " from 0 new lines" in bench.index(moved, log)


def test_a_last_line_of_an_archive_is_used(bench: Bench) -> None:
    lines = lines_of("edge1.mail.log")
    packed = bench.write("mail.log.1.gz", gzip.compress(b"".join(lines)[:-1]))
    assert f" from {len(lines)} new lines" in bench.index(packed)
    assert " from 0 new lines" in bench.index(packed)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("name", LOGS)
def test_a_part_of_a_log_that_was_indexed_adds_nothing(bench: Bench, name: str, share: float) -> None:
    """It is another file; of transactions whose beginning it lacks it makes fragments, which the whole ones contain."""
    lines = lines_of(name)
    cut = int(len(lines) * share)
    whole = bench.write("mail.log", b"".join(lines))
    bench.index(whole)
    bench.index(bench.write("tail.log", b"".join(lines[cut:])))
    bench.index(bench.write("middle.log", b"".join(lines[cut // 2 : cut])))
    assert bench.stored() == bench.parse(whole)
    assert is_sound(bench.database)


@pytest.mark.parametrize("cut", range(300, 2200, 250))
def test_a_log_cut_within_a_second_is_read_in_its_order(bench: Bench, cut: int) -> None:
    """The older part ends in the second in which the newer begins: the lines of one queue ID keep their order."""
    lines = lines_of("edge1.mail.log")
    old, new = bench.write("b", b"".join(lines[:cut])), bench.write("a", b"".join(lines[cut:]))
    whole = bench.parse_of(b"".join(lines))
    assert bench.parse(new, old) == whole
    bench.index(new, old)
    assert bench.stored() == whole
