"""`index --follow`: what it stores equals one `parse` of the same lines, whatever is done to the files meanwhile."""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.indexing import COMMAND, ENVIRONMENT, READING, Bench, lines_of, stored_in, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

END_SECONDS = 10


@pytest.fixture
def bench(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Bench:
    return Bench(tmp_path, capfdbinary)


class Follower:
    """A child that follows files."""

    def __init__(self, bench: Bench, child: subprocess.Popen[bytes]) -> None:
        self.child = child
        self.output, self.said = "", ""
        self._bench = bench

    def has(self, expected: dict[str, bytes]) -> bool:
        """Whether the store holds exactly these documents, or does soon."""
        return wait_until(lambda: self.child.poll() is not None or self._bench.stored() == expected)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.child.send_signal(number)
        output, errors = self.child.communicate(timeout=END_SECONDS)
        self.output, self.said = output.decode(), errors.decode()
        return self.child.returncode


@contextmanager
def following(
    bench: Bench, *names: str | Path, reading: Sequence[str] = READING, held: Sequence[Path] | None = None
) -> Iterator[Follower]:
    """Follow files from before the first line that the caller writes; the child is ended in any case."""
    opened = names if held is None else held
    ready = bench.folder / "store.db"
    command = [*COMMAND, "index", "--follow", "--store", bench.store, *reading, *map(str, names)]
    child = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with child:
        try:
            assert wait_until(lambda: ready.exists() and is_looking(child.pid, opened)), "it did not begin"
            yield Follower(bench, child)
        finally:
            child.kill()


def is_looking(pid: int, names: Sequence[str | Path]) -> bool:
    """Whether the child holds those of the files open that are there."""
    try:
        held = {os.path.realpath(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
    except OSError:
        return False
    wanted = {os.path.realpath(name) for name in names if Path(name).exists()}
    is_at_store = any(name.endswith("store.db") for name in held)
    return is_at_store and wanted <= held


def parts_of(lines: Sequence[bytes], count: int, seed: int) -> list[bytes]:
    """Cut a log anywhere, inside lines too."""
    raw = b"".join(lines)
    cuts = sorted(random.Random(seed).sample(range(len(raw)), count - 1))  # noqa: S311 - reproducible
    return [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]


def append(path: Path, raw: bytes) -> None:
    with path.open("ab") as file:
        file.write(raw)


def whole_lines(raw: bytes) -> tuple[bytes, bytes]:
    """Return what a log may be rotated after, and the begin of the line that follows."""
    end = raw.rfind(b"\n") + 1
    return raw[:end], raw[end:]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_goes_on_as_a_file_grows_and_ends_with_a_commit(bench: Bench, number: int) -> None:
    lines = lines_of("edge1.mail.log")
    half = len(lines) // 2
    log = bench.write("mail.log", b"".join(lines[:half]))
    with following(bench, log) as follower:
        assert follower.has(bench.parse(log))
        for part in parts_of(lines[half:], 6, 1):
            append(log, part)
        assert follower.has(bench.parse(log))
        last = lines_of("edge2.mail.log")
        append(log, b"".join(last))
        assert follower.end(number) == 0
    assert bench.stored() == bench.parse(log)
    assert follower.said == ""
    assert f" from {len(lines) + len(last)} new lines into {bench.database}\n" in follower.output


SIGNALLED_AGAIN_AND_AGAIN = """
import os, signal, threading, time
from mailspan.commands.follow import Stop

stop, ends_at = Stop(), time.monotonic() + 1

def signal_it():
    while time.monotonic() < ends_at:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.0005)

threading.Thread(target=signal_it).start()
while time.monotonic() < ends_at:
    stop.wait(0)
assert stop
"""


def test_a_signal_may_come_at_any_moment_of_a_rest() -> None:
    """A handler that waited for a lock of the rest that it interrupts would wait for ever."""
    command = [sys.executable, "-c", SIGNALLED_AGAIN_AND_AGAIN]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def by_rename(log: Path) -> None:
    log.rename(log.with_name("mail.log.1"))
    log.touch()


def by_copy(log: Path) -> None:
    shutil.copyfile(log, log.with_name("mail.log.1"))
    os.truncate(log, 0)


@pytest.mark.slow
@pytest.mark.parametrize("rotate", [by_rename, by_copy])
@pytest.mark.parametrize("in_haste", [False, True])
@pytest.mark.parametrize("name", ["edge1.mail.log", "edge2.mail.log"])
def test_rotation(bench: Bench, rotate: Callable[[Path], None], in_haste: bool, name: str) -> None:  # noqa: FBT001
    """In haste: written and rotated between two looks, two times in a row."""
    lines = lines_of(name)
    log = bench.write("mail.log", b"")
    with following(bench, log) as follower:
        written = b""
        begun = b""
        for number, part in enumerate(parts_of(lines, 8, 2)):
            whole, begun = whole_lines(begun + part)
            append(log, whole)
            written += whole
            if not in_haste or number % 3 == 2:
                assert follower.has(bench.parse_of(written))
            for old in sorted(bench.folder.glob("mail.log.*"), key=lambda path: -int(path.suffix[1:])):
                old.rename(old.with_suffix(f".{int(old.suffix[1:]) + 1}"))
            rotate(log)
        append(log, begun)
        assert follower.has(bench.parse_of(b"".join(lines)))
        assert follower.end() == 0


def test_a_daemon_that_still_writes_to_the_renamed_file(bench: Bench) -> None:
    lines = lines_of("edge1.mail.log")
    log = bench.write("mail.log", b"".join(lines[:500]))
    with following(bench, log) as follower, log.open("ab", buffering=0) as daemon:
        assert follower.has(bench.parse(log))
        moved = log.rename(bench.folder / "mail.log.1")
        daemon.write(b"".join(lines[500:1000]))
        assert follower.has(bench.parse(moved))
        log.touch()
        daemon.write(b"".join(lines[1000:1400]))
        assert follower.has(bench.parse(moved))
        append(log, b"".join(lines[1400:]))
        assert follower.has(bench.parse(moved, log))
        assert follower.end() == 0


def test_a_file_that_comes_later_and_one_beside_that_nobody_named(bench: Bench) -> None:
    log, other = bench.folder / "mail.log", bench.folder / "other.log"
    bench.write("mail.log.1", b"".join(lines_of("relay.mail.log")))
    with following(bench, log, other) as follower:
        append(log, b"".join(lines_of("edge1.mail.log")))
        assert follower.has(bench.parse(log))
        append(other, b"".join(lines_of("edge2.mail.log")))
        assert follower.has(bench.parse(log, other))
        assert follower.end() == 0
    assert follower.said == ""


def test_a_run_after_it_finds_nothing_new_and_a_second_follower_goes_on(bench: Bench) -> None:
    lines = lines_of("edge2.mail.log")
    log = bench.write("mail.log", b"".join(lines[:400]))
    with following(bench, log) as follower:
        append(log, b"".join(lines[400:600]))
        assert follower.has(bench.parse(log))
        assert follower.end() == 0
    assert " 0 documents from 0 new lines" in bench.index(log)
    append(log, b"".join(lines[600:800]))
    with following(bench, log) as follower:
        append(log, b"".join(lines[800:]))
        assert follower.has(bench.parse(log))
        assert follower.end() == 0
    assert f" from {len(lines) - 600} new lines" in follower.output


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_killed_while_it_follows(bench: Bench, seed: int) -> None:
    """SIGKILL in the middle; the next one goes on, over a rotation that nobody saw."""
    chance = random.Random(seed)  # noqa: S311 - reproducible
    lines = lines_of("bulk2.mail.log")
    log = bench.write("mail.log", b"")
    parts = parts_of(lines, 6, seed)
    for part in parts[:-1]:
        with following(bench, log) as follower:
            append(log, part)
            known = len(bench.stored())
            wait_until(lambda: len(bench.stored()) > known + chance.randrange(1, 300), 5)  # noqa: B023
            follower.child.kill()
    append(log, parts[-1])
    assert bench.index(log, *bench.folder.glob("mail.log.*")).startswith("indexed")
    assert bench.stored() == bench.parse_of(b"".join(lines))


def test_at_rest_it_uses_next_to_no_time(bench: Bench) -> None:
    log = bench.write("mail.log", b"".join(lines_of("edge1.mail.log")))
    with following(bench, log) as follower:
        assert follower.has(bench.parse(log))
        begin = used_seconds(follower.child.pid)
        output = follower.child.stdout
        assert output is not None
        assert not select.select([output], [], [], 3.0)[0]  # it rests: nothing to be read for so long
        assert used_seconds(follower.child.pid) - begin < 0.15
        assert follower.end() == 0


def used_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_lines_are_found_within_two_seconds(bench: Bench) -> None:
    log = bench.write("mail.log", b"")
    with following(bench, log) as follower:
        append(log, b"".join(lines_of("edge1.mail.log")))
        begin = time.monotonic()
        assert follower.has(bench.parse(log))
        assert time.monotonic() - begin < 2 + 2
        assert follower.end() == 0


def test_what_cannot_be_followed(bench: Bench) -> None:
    status, _ = bench.run("index", "--follow", "--store", bench.store, "-")
    assert (status, bench.said.count("\n")) == (2, 1)
    assert "--follow needs the names of files" in bench.said
    log = bench.write("mail.log", b"")
    os.mkfifo(bench.folder / "pipe")
    with following(bench, log, bench.folder, bench.folder / "pipe", held=[log]) as follower:
        append(log, b"".join(lines_of("edge1.mail.log")))
        assert follower.has(bench.parse(log))
        assert follower.end() == 3
    assert follower.said.splitlines() == [
        f"mailspan: {bench.folder}: is not a plain file and cannot be followed",
        f"mailspan: {bench.folder / 'pipe'}: is not a plain file and cannot be followed",
    ]


def test_the_year_of_a_live_line_is_that_of_its_reading(bench: Bench) -> None:
    log = bench.write("mail.log", b"")
    with following(bench, log, reading=("--zone", "UTC")) as follower:
        stamp = time.strftime("%b %e %H:%M:%S", time.gmtime())
        append(log, f"{stamp} mx1 postfix/smtpd[1]: B6D781149FE: client=a.example.com[192.0.2.1]\n".encode())
        os.utime(log, (0, 0))  # as a file restored from a backup
        assert wait_until(lambda: bool(stored_in(bench.database)))
        assert follower.end() == 0
    (document,) = stored_in(bench.database).values()
    assert f'"date":"{time.strftime("%Y", time.gmtime())}-'.encode() in document
