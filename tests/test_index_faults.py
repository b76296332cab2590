"""`index` under faults: killed at any moment, on a full disk, two at once, with files and stores that cannot be used.

The oracle is one `parse`: the run after the fault must complete the store.
"""

from __future__ import annotations

import bz2
import fcntl
import gzip
import lzma
import os
import random
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zstandard

from tests.indexing import COMMAND, ENVIRONMENT, READING, Bench, is_sound, lines_of, stored_in, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COMMIT_LINES = "300"
SMALL_BYTES = 700_000


@pytest.fixture
def bench(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Bench:
    return Bench(tmp_path, capfdbinary)


def two_logs(bench: Bench) -> tuple[Path, Path]:
    one = bench.write("one.log", b"".join(lines_of("edge1.mail.log")))
    two = bench.write("two.log.gz", gzip.compress(b"".join(lines_of("edge2.mail.log"))))
    return one, two


def run_dying(bench: Bench, kill_at: int, *files: Path) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "tests.dying_index", str(kill_at), COMMIT_LINES]
    command += ["--store", bench.store, *READING, *map(str, files)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, check=False, timeout=120)


@pytest.mark.slow
def test_killed_before_any_statement_of_sqlite(bench: Bench) -> None:
    """Each death leaves a store in which nothing is half done; the next run completes it."""
    files = two_logs(bench)
    expected = bench.parse(*files)
    whole = run_dying(bench, 0, *files)
    assert whole.returncode == 0, whole.stderr
    assert bench.stored() == expected
    told = dict(each.split("=") for each in whole.stderr.decode().split())
    statements, edges = int(told["statements"]), [int(each) for each in told["edges"].split(",")]
    assert len(edges) >= 8
    at_edges = {edge + after for edge in edges[1:6] for after in (0, 1)}
    chance = random.Random(1)  # noqa: S311 - reproducible
    for kill_at in sorted(at_edges | set(chance.sample(range(1, statements + 1), 10))):
        for left in bench.folder.glob("store.db*"):
            left.unlink()
        died = run_dying(bench, kill_at, *files)
        assert died.returncode == -signal.SIGKILL
        bench.index(*files)
        assert bench.stored() == expected, kill_at
        assert is_sound(bench.database)


@pytest.mark.slow
def test_killed_again_and_again_without_a_run_between(bench: Bench) -> None:
    """Deaths in a row, each a little later than the one before: the work done before them is kept."""
    files = two_logs(bench)
    expected = bench.parse(*files)
    deaths, done = 0, False
    for kill_at in range(40, 3000, 160):
        died = run_dying(bench, kill_at, *files)
        deaths += died.returncode == -signal.SIGKILL
        done = died.returncode == 0
        if done:
            break
    assert deaths > 3
    bench.index(*files)
    assert bench.stored() == expected


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_child_killed_at_some_moment(bench: Bench, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - reproducible
    files = [bench.write(name, b"".join(lines_of(name))) for name in ("bulk1.mail.log", "bulk2.mail.log")]
    expected = bench.parse(*files)
    command = [sys.executable, "-m", "tests.dying_index", "0", COMMIT_LINES, "--store", bench.store, *READING]
    for _ in range(5):
        known = len(bench.stored())
        child = subprocess.Popen([*command, *map(str, files)], env=ENVIRONMENT, stderr=subprocess.DEVNULL)
        more = chance.randrange(20, 1500)
        with child:
            wait_until(lambda: child.poll() is not None or len(bench.stored()) > known + more, 30)  # noqa: B023
            child.kill()
    bench.index(*files)
    assert bench.stored() == expected
    assert is_sound(bench.database)


def check_full_disk(bench: Bench, status: int, said: str, before: dict[str, bytes]) -> None:
    assert status == 3
    assert len(said.splitlines()) == 1
    assert "full" in said
    assert str(bench.database) in said
    assert bench.stored() == before


def test_a_store_that_may_not_grow(bench: Bench) -> None:
    """A file size limit is a full disk that every system has."""
    first, second = two_logs(bench)
    bench.index(bench.write("small.log", b"".join(lines_of("relay.mail.log")[:40])))
    before = bench.stored()
    command = [*COMMAND, "index", "--store", bench.store, *READING, str(first), str(second)]
    done = subprocess.run(
        command,
        env=ENVIRONMENT,
        capture_output=True,
        check=False,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL_BYTES, SMALL_BYTES)),
    )
    check_full_disk(bench, done.returncode, done.stderr.decode(), before)
    bench.index(first, second)
    assert bench.stored() == {**before, **bench.parse(first, second)}
    assert is_sound(bench.database)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    options = ["-t", "tmpfs", "-o", f"size={SMALL_BYTES}", "tmpfs", str(folder)]
    if (
        mount is None
        or umount is None
        or subprocess.run([mount, *options], check=False, capture_output=True).returncode
    ):
        pytest.skip("nothing can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run([umount, str(folder)], check=True)


def test_a_full_disk(bench: Bench, small_disk: Path) -> None:
    files = two_logs(bench)
    bench.database = small_disk / "store.db"
    bench.index(bench.write("small.log", b"".join(lines_of("relay.mail.log")[:20])))
    before = bench.stored()
    status, _ = bench.run("index", "--store", bench.store, *READING, *files)
    check_full_disk(bench, status, bench.said, before)
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)  # noqa: S607 - found above
    bench.index(*files)
    assert bench.stored() == {**before, **bench.parse(*files)}
    assert is_sound(bench.database)


def test_a_second_index_waits_and_says_so(bench: Bench) -> None:
    files = two_logs(bench)
    bench.index(bench.write("empty.log", b""))
    children = []
    with Path(f"{bench.database}.lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for file in files:
            command = [*COMMAND, "index", "--store", bench.store, *READING, str(file)]
            children.append(
                subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
            )
        for child in children:
            assert child.stderr is not None
            said = child.stderr.readline().decode()
            assert said == f"mailspan: another mailspan is writing to {bench.database}; waiting for it to end\n"
            assert child.poll() is None
    for child in children:
        with child:
            assert child.wait(60) == 0
    assert bench.stored() == bench.parse(*files)
    assert is_sound(bench.database)


RELAY = b"".join(lines_of("relay.mail.log"))
PACKED = gzip.compress(RELAY)
WRONG_SUM = PACKED[:-8] + b"\0\0\0\0" + PACKED[-4:]
SEVERAL = bz2.compress(RELAY[:30_000]) + bz2.compress(RELAY[30_000:])[:50]
BAD_FILES = [
    ("cut.gz", PACKED[: len(PACKED) // 2], "this gzip file is cut off; the lines before that are used"),
    ("sum.gz", WRONG_SUM, "this gzip file is damaged; the lines before that are used"),
    ("behind.gz", PACKED + b"garbage", "this gzip file is damaged; the lines before that are used"),
    ("begin.gz", PACKED[:12], "this gzip file is cut off; nothing of it can be used"),
    ("cut.bz2", SEVERAL, "this bzip2 file is cut off; the lines before that are used"),
    ("cut.xz", lzma.compress(RELAY)[:-40], "this xz file is cut off; the lines before that are used"),
    ("cut.zst", zstandard.compress(RELAY)[:-40], "this zstd file is cut off; nothing of it can be used"),
    ("binary", bytes(range(256)) * 40, "is not a log but a binary file"),
]


@pytest.mark.parametrize(("name", "raw", "said"), BAD_FILES, ids=[row[0] for row in BAD_FILES])
def test_a_file_that_cannot_be_used_is_told_in_one_line_and_the_others_are_read(
    bench: Bench, name: str, raw: bytes, said: str
) -> None:
    bad, good = bench.write(name, raw), bench.write("good.log", b"".join(lines_of("edge1.mail.log")))
    for _ in range(2):
        status, _ = bench.run("index", "--store", bench.store, *READING, bad, good)
        assert (status, bench.said.count("\n")) == (3, 1)
        assert bench.said.startswith(f"mailspan: {bad}: {said.partition(';')[0]}")
        assert bench.parse(good).items() <= bench.stored().items()
    if "lines before" in said:
        assert len(bench.stored()) > len(bench.parse(good))
    repaired = bench.write(f"whole-{name}", RELAY)
    bench.index(repaired)
    assert bench.stored() == bench.parse(good, repaired)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing.log", "no such file"),
        (".", "is a directory; name the files in it"),
        ("loop", "cannot be read: Too many levels of symbolic links"),
        ("\x1b[31mred", "no such file"),
    ],
)
def test_a_name_without_a_file(bench: Bench, name: str, said: str) -> None:
    (bench.folder / "loop").symlink_to("loop")
    good = bench.write("good.log", b"".join(lines_of("edge1.mail.log")))
    status, _ = bench.run("index", "--store", bench.store, *READING, bench.folder / name, good)
    assert status == 3
    assert re.fullmatch(rf"mailspan: \S+: {said}\n", bench.said)
    assert "\x1b" not in bench.said
    assert bench.stored() == bench.parse(good)


def test_a_log_with_rights_for_nobody(bench: Bench) -> None:
    log = bench.write("mail.log", RELAY)
    log.chmod(0)
    if os.access(log, os.R_OK):
        assert bench.index(log).startswith("indexed")  # root reads it all the same
        return
    status, _ = bench.run("index", "--store", bench.store, *READING, log)
    assert (status, bench.said) == (3, f"mailspan: {log}: may not be read: permission denied\n")


def test_an_empty_file_is_fine(bench: Bench) -> None:
    assert " 0 documents from 0 new lines" in bench.index(bench.write("empty.log", b""), "/dev/null")
    assert bench.said == ""


def newer(bench: Bench) -> Path:
    bench.index(bench.write("mail.log", RELAY))
    connection = sqlite3.connect(bench.database)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    return bench.database


def of_another_program(bench: Bench) -> Path:
    connection = sqlite3.connect(bench.database)
    connection.execute("CREATE TABLE other(x)")
    connection.close()
    return bench.database


BAD_STORES: dict[str, tuple[Callable[[Bench], Path], str]] = {
    "binary": (lambda bench: bench.write("store.db", bytes(range(256)) * 40), "it is not an SQLite database"),
    "newer": (newer, "was made by a newer mailspan"),
    "foreign": (of_another_program, "belongs to another program"),
    "folder": (lambda bench: bench.folder, "it is a folder; name a file with --store"),
    "nowhere": (lambda _bench: Path("/proc/mailspan/store.db"), "cannot open the database"),
    "below a file": (lambda bench: bench.write("file", b"x") / "store.db", "cannot open the database"),
}


@pytest.mark.parametrize("name", BAD_STORES)
def test_a_store_that_cannot_be_used(bench: Bench, name: str) -> None:
    make, said = BAD_STORES[name]
    path = make(bench)
    before = path.read_bytes() if path.is_file() else None
    log = bench.write("mail.log", RELAY)
    status, _ = bench.run("index", "--store", f"sqlite:///{path}", *READING, log)
    assert (status, bench.said.count("\n")) == (3, 1)
    assert said in bench.said
    assert str(path) in bench.said
    assert before is None or path.read_bytes() == before


def test_a_damaged_store(bench: Bench) -> None:
    bench.index(bench.write("mail.log", b"".join(lines_of("edge1.mail.log"))))
    raw = bytearray(bench.database.read_bytes())
    raw[16_384:] = bytes(len(raw) - 16_384)
    bench.database.write_bytes(raw)
    status, _ = bench.run("index", "--store", bench.store, *READING, bench.write("more.log", RELAY))
    assert (status, bench.said.count("\n")) == (3, 1)
    assert "damaged" in bench.said


def test_the_summary_on_a_full_output(bench: Bench) -> None:
    """What was read is kept all the same."""
    log = bench.write("mail.log", RELAY)
    with Path("/dev/full").open("wb") as full:
        command = [*COMMAND, "index", "--store", bench.store, *READING, str(log)]
        done = subprocess.run(command, env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (3, b"mailspan: cannot go on: No space left on device\n")
    assert stored_in(bench.database) == bench.parse(log)
