"""Real journal files read by the real journalctl, with a topic in memory: follow, restarts, reboots, vacuuming."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from producers.journal import STATE_NAME, Journal, JournalError, JournalSettings
from producers.state_folder import StateFolder
from producers.tail import Clock
from tests.journal_files import JOURNALCTL, MISSING, REMOTE, Sent, write_journal
from tests.memory_topic import MemoryTopic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(JOURNALCTL is None or REMOTE is None, reason=MISSING)


def numbered(first: int, last: int, boot: int = 5) -> list[Sent]:
    return [Sent(b"%08X: line %d" % (number, number), number, boot) for number in range(first, last)]


class Rig:
    """A folder of journal files, a state folder and a topic in memory; journals are opened on them one by one."""

    def __init__(self, folder: Path) -> None:
        self.files = folder / "journal"
        self.files.mkdir()
        self.state = folder / "state"
        self.topic = MemoryTopic()
        self.reports: list[str] = []
        self.passed = 0.0
        self.journal: Journal | None = None

    def write(self, entries: list[Sent], name: str = "system.journal") -> None:
        write_journal(self.files / name, entries)

    def open(self, *, is_followed: bool = True, **settings: object) -> Journal:
        clock = Clock(lambda: time.monotonic() + self.passed, time.time)
        chosen = JournalSettings("own", "own", directory=self.files, is_followed=is_followed, **settings)  # type: ignore[arg-type]
        self.journal = Journal(chosen, StateFolder(self.state, STATE_NAME), self.topic, clock, self.reports.append)
        return self.journal

    def close(self) -> None:
        if self.journal is not None:
            self.journal.close()
            self.journal = None

    def crash(self) -> None:
        """End as after kill -9: nothing is saved."""
        assert self.journal is not None
        self.journal._stop()  # noqa: SLF001 - the child would see its pipe closed
        self.journal._state.close()  # noqa: SLF001 - the lock goes with the process
        self.journal = None
        self.topic.crash(0)

    def until(self, is_so: Callable[[], bool], seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        assert self.journal is not None
        while not is_so():
            assert time.monotonic() < deadline, f"it did not happen in time: {self.reports} {self.numbers}"
            self.journal.step(0.02)

    def until_lines(self, count: int) -> None:
        self.until(lambda: len(self.topic.arrived) >= count and self.journal is not None and self.journal.is_settled)

    @property
    def numbers(self) -> list[int]:
        return [int(each.value.rpartition(b" ")[2]) for each in self.topic.arrived]

    @property
    def kept(self) -> list[int]:
        """The numbers of the lines that a reducer keeps."""
        highest: dict[str, int] = {}
        found = []
        for each, number in zip(self.topic.arrived, self.numbers, strict=True):
            generation, offset = each.header.reading.generation, each.header.offset
            if offset > highest.get(generation, -1):
                highest[generation] = offset
                found.append(number)
        return found


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    found = Rig(tmp_path)
    yield found
    found.close()


def test_what_is_there_and_what_comes_is_read_once(rig: Rig) -> None:
    rig.write(numbered(0, 5))
    rig.open()
    rig.until_lines(5)
    assert rig.topic.arrived[3].value == b"2025-11-24T16:00:03.000000Z mx1 postfix/smtp[7]: 00000003: line 3"
    assert rig.topic.arrived[3].header.reading.input == "journal"
    rig.write(numbered(5, 8))
    rig.until_lines(8)
    rig.close()
    rig.write(numbered(8, 10))
    rig.open()
    rig.until_lines(10)
    assert rig.numbers == list(range(10))
    assert rig.reports == []


def test_other_boots_are_followed_too(rig: Rig) -> None:
    """`journalctl --follow` shows one boot only: what came between the last look and a reboot would be lost."""
    rig.write(numbered(0, 3, boot=5))
    rig.open()
    rig.until_lines(3)
    rig.close()
    rig.write(numbered(3, 5, boot=5))
    rig.write(numbered(5, 8, boot=6))
    rig.write(numbered(8, 9, boot=7))
    rig.open()
    rig.until_lines(9)
    assert rig.numbers == list(range(9))
    assert len({each.header.reading.generation for each in rig.topic.arrived}) == 3


def test_a_replay_has_the_same_places(rig: Rig) -> None:
    rig.write(numbered(0, 20, boot=5) + numbered(20, 40, boot=6))
    rig.open()
    rig.until_lines(40)
    rig.crash()
    rig.write(numbered(40, 45, boot=6))
    rig.open()
    rig.until_lines(85)
    assert rig.numbers == [*range(40), *range(45)]
    assert rig.kept == list(range(45))
    places = {(each.header.reading.generation, each.header.offset, each.value) for each in rig.topic.arrived}
    assert len(places) == 45


def test_a_position_moves_only_when_lines_have_arrived(rig: Rig) -> None:
    rig.write(numbered(0, 10))
    rig.topic.choose = lambda _: 0
    journal = rig.open()
    rig.until(lambda: rig.topic.under_way == 10)
    journal.save()
    rig.crash()
    rig.topic.choose = lambda count: count
    rig.open()
    rig.until_lines(10)
    assert rig.numbers == list(range(10))


def test_after_a_failed_sending_it_reads_again(rig: Rig) -> None:
    rig.write(numbered(0, 30))
    rig.topic.choose = lambda count: min(count, 3)
    rig.open()
    rig.until(lambda: len(rig.topic.arrived) >= 6)
    rig.topic.is_failing = True
    rig.until(lambda: bool(rig.reports))
    rig.passed += 1
    rig.topic.choose = lambda count: count
    rig.until(lambda: len(rig.kept) == 30)
    assert rig.kept == list(range(30))


def test_a_vacuumed_position_is_said_and_nothing_that_exists_is_passed_over(rig: Rig) -> None:
    rig.write(numbered(0, 5), "old.journal")
    rig.open()
    rig.until_lines(5)
    rig.close()
    (rig.files / "old.journal").unlink()
    rig.write(numbered(7, 10), "new.journal")
    journal = rig.open()
    rig.until_lines(8)
    assert rig.numbers == [0, 1, 2, 3, 4, 7, 8, 9]
    assert journal.counts.lost_cursors == 1
    assert len(rig.reports) == 1
    assert "not in the journal any more" in rig.reports[0]


def test_a_journalctl_that_dies_is_started_again(rig: Rig) -> None:
    rig.write(numbered(0, 5))
    journal = rig.open()
    rig.until_lines(5)
    child = journal._child  # noqa: SLF001 - whose end is tested
    assert child is not None
    os.kill(child.pid, signal.SIGKILL)
    rig.until(lambda: bool(rig.reports))
    assert "journalctl ended with -9" in rig.reports[0]
    rig.write(numbered(5, 7))
    rig.passed += 1
    rig.until_lines(7)
    assert rig.numbers == list(range(7))
    assert journal.counts.child_starts == 2


def test_only_mail_or_what_is_asked_for(rig: Rig) -> None:
    ssh = ("SYSLOG_IDENTIFIER=sshd", "SYSLOG_FACILITY=4", "_SYSTEMD_UNIT=ssh.service")
    exim = ("SYSLOG_IDENTIFIER=exim4", "SYSLOG_FACILITY=3", "_SYSTEMD_UNIT=exim4.service")
    dkim = ("SYSLOG_IDENTIFIER=opendkim", "SYSLOG_FACILITY=2")
    rig.write([Sent(b"line %d" % number, number, 5, fields) for number, fields in enumerate((ssh, exim, dkim, ()))])
    for settings, wanted in (
        ({}, [1, 2, 3]),
        ({"identifiers": ("sshd",)}, [0]),
        ({"identifiers": ("sshd", "opendkim")}, [0, 2]),
        ({"units": ("exim4.service",)}, [1]),
    ):
        rig.topic.arrived.clear()
        for kept in rig.state.glob("journal*"):
            kept.unlink()
        journal = rig.open(is_followed=False, **settings)
        rig.until(lambda: journal.is_ended and journal.is_settled)  # noqa: B023 - it is called at once
        assert rig.numbers == wanted
        rig.close()


def test_messages_of_any_form_are_whole(rig: Rig) -> None:
    messages = [b"two\nlines", b"\xff\xfe", b"x" * 50_000, b"\xff" * 30_000, "\u00e9".encode(), b"esc\x1b[0m", b"tab\t"]
    rig.write([Sent(message, number) for number, message in enumerate(messages)])
    rig.open()
    rig.until_lines(len(messages))
    found = [each.value.partition(b"]: ")[2] for each in rig.topic.arrived]
    assert found == [b"two#012lines", *messages[1:]]


def test_nothing_is_read_while_the_topic_is_full(rig: Rig) -> None:
    rig.write([Sent(b"y" * 2000 + b" %d" % number, number) for number in range(500)])
    rig.topic.capacity = 10
    rig.topic.choose = lambda _: 0
    journal = rig.open()
    rig.until(lambda: rig.topic.under_way == 10)
    for _ in range(50):
        journal.step(0)
    assert journal._bytes < 200_000  # noqa: SLF001 - what is bounded
    rig.topic.choose = lambda count: count
    rig.until_lines(500)
    assert rig.numbers == list(range(500))


def test_a_missing_folder_is_said_and_waited_for(rig: Rig) -> None:
    rig.files.rmdir()
    rig.open()
    rig.until(lambda: len(rig.reports) >= 2)
    assert "journalctl: Failed to open" in rig.reports[0]
    rig.files.mkdir()
    rig.write(numbered(0, 2))
    rig.passed += 60
    rig.until_lines(2)
    assert rig.numbers == [0, 1]


def test_a_missing_journalctl_is_one_clear_error(rig: Rig) -> None:
    journal = rig.open(program="/nonexistent/journalctl")
    with pytest.raises(JournalError, match="cannot be run"):
        journal.step(0)


def test_a_damaged_position_falls_back(rig: Rig) -> None:
    rig.write(numbered(0, 3))
    for count in (3, 4, 5):
        rig.open()
        rig.until_lines(count)
        rig.close()
        rig.write(numbered(count, count + 1))
    saved = rig.state / STATE_NAME
    saved.write_bytes(saved.read_bytes()[:-5])
    rig.open()
    rig.until(lambda: rig.kept == [0, 1, 2, 3, 4, 5])
    assert "damaged" in rig.reports[0]
