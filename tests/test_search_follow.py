"""search --follow: what comes into the store is printed, each once, until somebody says stop or nobody reads."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import orjson
import pytest

from sink.sqlite import open_for_writing
from sink.sqlite_reader import SqliteReader
from sink.store import Selection
from tests.running import ROOT, mailspan
from tests.search_documents import Document, attempt, document

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEADLINE_SECONDS = 30
QUIET_SECONDS = 1.5


def one(name: str, version: int = 65536, day: int = 23) -> Document:
    date = f"2026-11-{day}T08:00:00.000Z"
    return document(queue_id=name, date=date, version=version, to=[attempt("a@example.com")])


class Followed:
    """A running `search --follow`, and the lines it has printed."""

    def __init__(self, path: Path, *flags: str) -> None:
        command = [sys.executable, "-m", "mailspan", "search", "--store", f"sqlite:///{path}", "--follow", *flags]
        environment = {**os.environ, "TZ": "UTC"}
        self.child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, env=environment, bufsize=0
        )
        self._buffer = b""

    def lines(self, count: int, seconds: float = DEADLINE_SECONDS) -> list[str]:
        """Return the next `count` lines, or those that come until the deadline."""
        assert self.child.stdout is not None
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self.child.stdout, selectors.EVENT_READ)
            while self._buffer.count(b"\n") < count and selector.select(max(0, deadline - time.monotonic())):
                chunk = os.read(self.child.stdout.fileno(), 65536)
                if not chunk:
                    break
                self._buffer += chunk
        *whole, self._buffer = self._buffer.split(b"\n", count)
        return [line.decode() for line in whole]

    def ids(self, count: int) -> list[str]:
        return [orjson.loads(line)["queue_id"] for line in self.lines(count)]

    def end(self, number: signal.Signals) -> tuple[int, bytes]:
        self.child.send_signal(number)
        _, errors = self.child.communicate(timeout=DEADLINE_SECONDS)
        return self.child.returncode, errors

    def cpu_seconds(self) -> float:
        with open(f"/proc/{self.child.pid}/stat", encoding="ascii") as stat:  # noqa: PTH123
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture
def followed() -> Iterator[list[Followed]]:
    started: list[Followed] = []
    yield started
    for each in started:
        each.child.kill()
        each.child.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_each_document_once_and_again_when_it_changed(
    tmp_path: Path, followed: list[Followed], number: signal.Signals
) -> None:
    path = tmp_path / "mail.db"
    with open_for_writing(path) as writer:
        writer.write([one("OLD1", day=21), one("OLD2", day=22)])
        follower = Followed(path, "--json", "-t", "a@example.com")
        followed.append(follower)
        assert follower.ids(2) == ["OLD1", "OLD2"]
        writer.write([one("NEW1")])
        assert follower.ids(1) == ["NEW1"]
        other = document(queue_id="NOT", to=[attempt("b@example.com")])
        writer.write([other, one("OLD1", day=21)])  # another recipient; nothing changed
        writer.commit([], {"key": b"state"})
        writer.write([one("OLD1", version=131072, day=21), one("NEW2")])
        assert follower.ids(2) == ["OLD1", "NEW2"]
        assert follower.end(number) == (0, b"")


def test_text_has_a_blank_line_between_what_comes(tmp_path: Path, followed: list[Followed]) -> None:
    path = tmp_path / "mail.db"
    with open_for_writing(path) as writer:
        writer.write([one("OLD")])
        follower = Followed(path)
        followed.append(follower)
        assert follower.lines(7)[0] == "transaction: OLD"
        writer.write([one("NEW")])
        assert follower.lines(8)[:2] == ["", "transaction: NEW"]


def test_what_takes_the_place_of_a_withdrawn_document_is_new(tmp_path: Path) -> None:
    """A fragment is withdrawn in the commit that writes its document under another id: that one must not be missed."""
    path = tmp_path / "mail.db"
    everything = Selection(all_of=())
    with open_for_writing(path) as writer:
        writer.write([one("FRAGMENT")])
        with SqliteReader(path) as reader:
            seen, change = reader.last_written(), reader.change()
            writer.commit([one("WHOLE")], withdrawn=[one("FRAGMENT")["id"]])
            assert reader.change() != change
            found = reader.written_after(everything, seen, reader.last_written())
            assert [orjson.loads(each)["queue_id"] for each in found] == ["WHOLE"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads the CPU time in /proc")
def test_an_idle_follower_costs_nothing_and_ends_when_nobody_reads(tmp_path: Path, followed: list[Followed]) -> None:
    path = tmp_path / "mail.db"
    with open_for_writing(path) as writer:
        writer.write([one("OLD")])
        follower = Followed(path, "--json")
        followed.append(follower)
        assert follower.ids(1) == ["OLD"]
        before = follower.cpu_seconds()
        assert follower.lines(1, seconds=QUIET_SECONDS) == []
        assert follower.cpu_seconds() - before < QUIET_SECONDS / 10
        assert follower.child.stdout is not None
        follower.child.stdout.close()
        assert follower.child.wait(timeout=DEADLINE_SECONDS) == 0
        assert follower.child.stderr is not None
        assert follower.child.stderr.read() == b""


def test_not_with_count(tmp_path: Path) -> None:
    done = mailspan("search", "--follow", "--count", "--store", f"sqlite:///{tmp_path}/mail.db")
    assert done.returncode == 2
    assert b"--follow" in done.stderr
