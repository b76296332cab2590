"""The tail through each kind of rotation, restart and fault, with real files and a topic in memory."""

from __future__ import annotations

import bz2
import gzip
import os
import shutil
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import pytest

from producers.checkpoint import Checkpoint
from producers.tail import Tail
from tests.memory_topic import MemoryTopic
from tests.tail_model import run as run_model
from tests.tail_rig import Rig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from producers.tail import _Place
    from producers.tailed import OpenFile


def numbered(first: int, last: int) -> list[str]:
    return [f"Nov 23 07:55:08 mx1 postfix/smtp[1]: {number:08X}: line {number}" for number in range(first, last)]


def text(first: int, last: int) -> str:
    return "".join(line + "\n" for line in numbered(first, last))


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with Rig(tmp_path) as rig:
        yield rig


def age(path: Path, seconds: float) -> None:
    """Make a file look as if it had been written `seconds` ago."""
    moment = path.stat().st_mtime_ns - int(seconds * 1e9)
    os.utime(path, ns=(moment, moment))


def test_lines_arrive_once_and_a_begun_one_waits(rig: Rig) -> None:
    rig.write(text(0, 3) + "begun")
    rig.run()
    assert rig.lines == numbered(0, 3)
    rig.write(" and ended\n" + text(3, 5))
    rig.run()
    assert rig.lines == [*numbered(0, 3), "begun and ended", *numbered(3, 5)]
    assert len(rig.topic.arrived) == 6
    header = rig.topic.arrived[3].header
    assert header.offset == len(text(0, 3))
    assert (header.reading.input, header.reading.host) == ("tail", "own")
    assert header.reading.reference == int(rig.path().stat().st_mtime)


def test_a_restart_goes_on_behind_what_arrived(rig: Rig) -> None:
    rig.write(text(0, 3) + "beg")
    rig.run()
    rig.stop()
    rig.write("un\n" + text(3, 4))
    rig.run()
    assert rig.lines == [*numbered(0, 3), "begun", *numbered(3, 4)]
    assert len(rig.topic.arrived) == 5


def test_a_crash_before_the_save_sends_the_same_generation_and_offsets_again(rig: Rig) -> None:
    rig.write(text(0, 20))
    rig.topic.choose = lambda count: min(count, 7)
    tail = rig.start()
    for _ in range(3):
        tail.step()
    assert 0 < len(rig.topic.arrived) < 20
    rig.crash(arrived=3)
    before = len(rig.topic.arrived)
    rig.run()
    assert len(rig.topic.arrived) == before + 20
    assert rig.lines == numbered(0, 20)
    assert len({each.header.reading.generation for each in rig.topic.arrived}) == 1


def test_a_generation_is_durable_before_its_first_line(rig: Rig) -> None:
    rig.write(text(0, 2))
    tail = rig.start()
    state = rig.folder / "state"
    state.rename(rig.folder / "gone")  # nothing can be saved
    for _ in range(5):
        tail.step()
        rig.now += 2
    assert rig.topic.arrived == []
    assert rig.topic.under_way == 0
    assert sum("MAILSPAN_STATE_DIR" in each for each in rig.reports) == 1
    (rig.folder / "gone").rename(state)
    rig.run()
    assert rig.lines == numbered(0, 2)


def test_positions_that_cannot_be_saved_do_not_stop_what_is_known(rig: Rig) -> None:
    rig.write(text(0, 2))
    rig.run()
    (rig.folder / "state").rename(rig.folder / "gone")
    rig.write(text(2, 4))
    rig.run()
    assert rig.lines == numbered(0, 4)
    (rig.folder / "gone").rename(rig.folder / "state")


def test_renamed_and_created_while_it_runs(rig: Rig) -> None:
    rig.write(text(0, 3))
    rig.run()
    rig.path().rename(rig.path("mail.log.1"))
    rig.write(text(3, 5), "mail.log.1")  # the logger has not noticed yet
    rig.write(text(5, 7))
    rig.run()
    rig.write(text(7, 8), "mail.log.1")
    rig.write(text(8, 9))
    rig.run()
    assert rig.lines == numbered(0, 9)
    rig.write("the end has no newline", "mail.log.1")
    rig.run(seconds=12)
    rig.run()
    assert rig.lines == [*numbered(0, 9), "the end has no newline"]
    assert len(rig.topic.arrived) == 10


@pytest.mark.parametrize("patterns", [("mail.log",), ("mail.log*",)])
@pytest.mark.parametrize("pack", [None, gzip.compress, bz2.compress])
def test_rotated_twice_and_packed_while_it_was_down(rig: Rig, patterns: tuple[str], pack: object) -> None:
    rig.patterns = patterns
    rig.write(text(0, 3))
    rig.run()
    rig.stop()
    rig.write(text(3, 5))
    rig.write(text(5, 7), "new1")
    rig.write(text(7, 9), "new2")
    age(rig.path(), 7200)
    age(rig.path("new1"), 3600)
    ending = ""
    if pack is not None:
        ending = ".gz" if pack is gzip.compress else ".bz2"
        packed = rig.path(f"mail.log.2{ending}")
        packed.write_bytes(pack(rig.path().read_bytes()))  # type: ignore[operator]
        shutil.copystat(rig.path(), packed)
        keep = rig.path("keep")
        keep.write_bytes(b"")  # takes care that the inode is not used again
        rig.path().unlink()
    else:
        rig.path().rename(rig.path("mail.log.2"))
    rig.path("new1").rename(rig.path("mail.log.1"))
    rig.path("new2").rename(rig.path("mail.log"))
    rig.run()
    assert rig.lines == numbered(0, 9)
    assert len(rig.topic.arrived) == 9
    rig.run(seconds=15)
    rig.stop()
    rig.run()
    rig.run(seconds=15)
    assert len(rig.topic.arrived) == 9
    assert not [each for each in rig.reports if "gone" in each]


def test_rotated_twice_between_two_looks(rig: Rig) -> None:
    """Kubelet renames, packs and deletes quickly: all siblings that came since are opened at once and held."""
    rig.patterns = ("0.log",)
    rig.write(text(0, 2), "0.log")
    rig.run()
    rig.path("0.log").rename(rig.path("0.log.20261125-022500"))
    rig.write(text(2, 4), "0.log")
    rig.path("0.log").rename(rig.path("0.log.20261125-022600"))
    rig.write(text(4, 6), "0.log")
    tail = rig.tail
    assert tail is not None
    rig.now += 1
    tail.scan()
    rig.path("0.log.20261125-022500").unlink()
    rig.path("0.log.20261125-022600").unlink()
    rig.run()
    assert rig.lines == numbered(0, 6)


class _Interrupted(Tail):
    """A tail that something happens to just before it opens a file."""

    def _open(self, place: _Place) -> OpenFile | None:
        if self.happenings:
            self.happenings.pop(0)()
        return super()._open(place)

    happenings: ClassVar[list[Callable[[], None]]] = []


@pytest.mark.parametrize("is_restart", [False, True])
@pytest.mark.parametrize("moment", [0, 1, 2])
def test_rotated_while_it_looks(rig: Rig, moment: int, is_restart: bool) -> None:  # noqa: FBT001 - a parameter
    rig.make = _Interrupted
    rig.write(text(0, 3))
    rig.run()

    def rotate(number: int) -> None:
        for old in range(5, 0, -1):
            if rig.path(f"mail.log.{old}").exists():
                rig.path(f"mail.log.{old}").rename(rig.path(f"mail.log.{old + 1}"))
        rig.path().rename(rig.path("mail.log.1"))
        rig.write(text(number, number + 3))

    if is_restart:
        rig.stop()
    rig.write(text(3, 6))
    rotate(6)
    happenings = [lambda: None] * moment + [lambda: rotate(9), lambda: rotate(12)]
    _Interrupted.happenings = happenings
    rig.run()
    while happenings:
        happenings.pop()()  # what it did not come to happens afterwards
    rig.run()
    rig.run()
    assert set(rig.lines) >= set(numbered(0, 12))
    assert len(rig.lines) == len(set(rig.lines))
    assert not [each for each in rig.reports if "gone" in each]
    rig.stop()


class _Blind(Tail):
    """A tail whose first listing of rotated files misses one that is renamed just then."""

    def _look_at_siblings(self, log: str, places: dict[tuple[int, int], _Place]) -> list[_Place]:
        self.looks += 1
        return [] if self.looks == 1 else super()._look_at_siblings(log, places)

    looks = 0


class _Early(Tail):
    """A tail that is about to open a rotated file which is renamed just then, while its log is not renamed yet."""

    def _open(self, place: _Place) -> OpenFile | None:
        for happen in self.openings.pop(str(place.path), []):
            happen()
        return super()._open(place)

    openings: ClassVar[dict[str, list[Callable[[], None]]]] = {}


@pytest.mark.parametrize("is_unknown", [False, True])
def test_a_rotation_that_has_begun_does_not_change_the_order(rig: Rig, is_unknown: bool) -> None:  # noqa: FBT001
    rig.make = _Early
    rig.write(text(0, 3))
    rig.run()
    rig.stop()
    old, older = rig.path("mail.log.1"), rig.path("mail.log.2")
    if is_unknown:
        rig.path().rename(rig.path("mail.log.5"))
    rig.write(text(3, 6))
    rig.path().rename(old)
    age(old, -1)
    rig.write(text(6, 9))
    age(rig.path(), -2)

    def rename() -> None:
        old.rename(older)

    _Early.openings[str(old)] = [rename]
    rig.run()
    assert rig.lines == numbered(0, 9)
    rig.stop()


def test_a_file_is_rotated_and_made_anew_within_a_tick_of_the_clock(rig: Rig) -> None:
    rig.write(text(0, 3))
    rig.run()
    rig.path().rename(rig.path("mail.log.2"))
    rig.write(text(3, 6), "mail.log.1")
    rig.write(text(6, 9))
    moment = rig.path().stat().st_mtime_ns + 10**9
    for name in ("mail.log.1", "mail.log"):
        os.utime(rig.path(name), ns=(moment, moment))
    rig.run()
    assert rig.lines == numbered(0, 9)


def test_a_link_that_leads_nowhere_does_not_stop_it(rig: Rig) -> None:
    rig.write(text(0, 3))
    rig.run()
    rig.path().rename(rig.path("mail.log.1"))
    rig.path("mail.log.2").symlink_to("/nonexistent")
    rig.write(text(3, 6))
    rig.run()
    rig.run()
    assert rig.lines == numbered(0, 6)


@pytest.mark.parametrize("is_restart", [False, True])
def test_a_listing_that_misses_a_file(rig: Rig, is_restart: bool) -> None:  # noqa: FBT001 - a parameter
    rig.make = _Blind
    rig.write(text(0, 3))
    rig.run()
    if is_restart:
        rig.stop()
    rig.write(text(3, 6))
    rig.path().rename(rig.path("mail.log.2"))
    rig.write(text(6, 9), "mail.log.1")
    age(rig.path("mail.log.1"), -1)
    rig.write(text(9, 12))
    age(rig.path(), -2)
    rig.run()
    rig.run()
    assert set(rig.lines) == set(numbered(0, 12))
    assert len(rig.topic.arrived) == 12
    assert not [each for each in rig.reports if "gone" in each]
    rig.stop()


def test_older_siblings_are_not_taken_at_the_first_start_or_later(rig: Rig) -> None:
    rig.write("old\n", "mail.log.1")
    rig.path("mail.log.2.gz").write_bytes(gzip.compress(b"older\n"))
    age(rig.path("mail.log.1"), 7200)
    age(rig.path("mail.log.2.gz"), 9000)
    rig.write(text(0, 2))
    rig.run()
    rig.path("mail.log.1").rename(rig.path("mail.log.3"))
    rig.path().rename(rig.path("mail.log.1"))
    rig.write(text(2, 4))
    rig.run()
    assert rig.lines == numbered(0, 4)


def test_copied_and_truncated(rig: Rig) -> None:
    rig.write(text(0, 3))
    rig.run()
    rig.write(text(3, 5))
    shutil.copy(rig.path(), rig.path("mail.log.1"))  # with two lines that were not read yet
    rig.run(most=100)
    assert rig.lines == numbered(0, 5)
    rig.write(text(5, 6))
    shutil.copy2(rig.path(), rig.path("mail.log.1"))
    os.truncate(rig.path(), 0)
    rig.write(text(6, 7))
    rig.run()
    assert rig.lines == numbered(0, 7)  # line 5 was found in the copy
    assert rig.tail is not None
    assert rig.tail.counts.truncations == 1
    assert rig.tail.counts.lost_files == 0


@pytest.mark.parametrize("restart", [False, True])
def test_truncated_and_grown_past_the_old_offset(rig: Rig, restart: bool) -> None:  # noqa: FBT001 - a parameter
    rig.write(text(0, 3))
    rig.run()
    if restart:
        rig.stop()
    os.truncate(rig.path(), 0)
    rig.write(text(100, 110))
    rig.run()
    assert rig.lines == [*numbered(0, 3), *numbered(100, 110)]
    assert len({each.header.reading.generation for each in rig.topic.arrived}) == 2


def test_cut_in_the_middle(rig: Rig) -> None:
    """What is behind the cut is new; its head is the old one, so only the size tells."""
    rig.write(text(0, 300))
    rig.run()
    os.truncate(rig.path(), len(text(0, 150)))
    rig.run()
    rig.write(text(300, 301))
    rig.run()
    assert rig.lines[-1:] == numbered(300, 301)
    assert set(rig.lines) == {*numbered(0, 301)}


def test_an_inode_of_an_empty_file_that_is_used_again_by_a_copy(rig: Rig) -> None:
    """The fingerprint of an empty file proves nothing."""
    rig.write("")
    rig.run()
    rig.path().rename(rig.path("mail.log.1"))
    rig.write(text(0, 9))
    rig.run(seconds=12)
    rig.run(seconds=12)
    rig.path("mail.log.1").write_bytes(rig.path().read_bytes())
    os.truncate(rig.path(), 0)
    rig.write(text(9, 12))
    rig.run(seconds=12)
    rig.run(seconds=12)
    assert rig.lines == numbered(0, 12)
    assert len(rig.topic.arrived) == 12


def test_copies_of_what_is_known_are_not_read(rig: Rig) -> None:
    rig.patterns, rig.backfill = ("mail.log*",), True
    rig.write(text(0, 200))
    rig.run()
    shutil.copy(rig.path(), rig.path("mail.log.bak"))
    rig.run()
    rig.path().rename(rig.path("mail.log.1"))
    rig.write(text(200, 202))
    rig.run(seconds=12)
    rig.run(seconds=12)
    rig.path("mail.log.1.gz").write_bytes(gzip.compress(rig.path("mail.log.1").read_bytes()))
    rig.path("mail.log.1").unlink()
    rig.run()
    assert rig.lines == numbered(0, 202)
    assert len(rig.topic.arrived) == 202


def test_a_file_that_is_being_packed_is_read_once(rig: Rig) -> None:
    rig.write(text(0, 2))
    rig.run()
    rig.stop()
    rig.path().rename(rig.path("mail.log.2"))
    rig.write(text(2, 4), "mail.log.1")
    rig.path("mail.log.1.gz").write_bytes(gzip.compress(text(2, 4).encode()))
    rig.write(text(4, 6))
    rig.run()
    assert len(rig.topic.arrived) == 6
    assert rig.lines == numbered(0, 6)


def test_an_inode_that_is_used_again(rig: Rig) -> None:
    rig.write(text(0, 30))
    rig.run()
    rig.stop()
    inode = rig.path().stat().st_ino
    rig.path().write_bytes(b"")  # the same inode; as if deleted, and made anew
    rig.write(text(50, 52))
    assert rig.path().stat().st_ino == inode
    rig.run()
    assert rig.lines == [*numbered(0, 30), *numbered(50, 52)]


@pytest.mark.parametrize("is_moved", [False, True])
def test_the_same_file_on_another_device(rig: Rig, is_moved: bool) -> None:  # noqa: FBT001 - a parameter
    """Device numbers may change at a boot; a log may be moved to another disk, with all that it holds."""
    rig.write(text(0, 100))
    rig.run()
    rig.stop()
    if is_moved:
        shutil.copy2(rig.path(), rig.path("copy"))
        rig.path("copy").rename(rig.path())
    else:
        checkpoint = Checkpoint(rig.folder / "state")
        generations, _ = checkpoint.load()
        generations[0].device += 1
        checkpoint.save(generations)
        checkpoint.close()
    rig.write(text(100, 101))
    rig.run()
    assert len(rig.topic.arrived) == 101
    assert len({each.header.reading.generation for each in rig.topic.arrived}) == 1


def test_a_new_file_with_the_same_first_line_is_new(rig: Rig) -> None:
    rig.write("=== started ===\n")
    rig.run()
    rig.stop()
    rig.path("new").write_text("=== started ===\nnew\n", encoding="utf-8")
    rig.path("new").rename(rig.path())
    rig.run()
    assert rig.lines == ["=== started ===", "=== started ===", "new"]


def test_files_that_begin_alike_are_different_files(rig: Rig) -> None:
    rig.patterns = ("*.log",)
    for name in ("a.log", "b.log", "c.log"):
        rig.write("the same first line\n", name)
    rig.run()
    rig.write("a\n", "a.log")
    rig.write("b\n", "b.log")
    rig.run()
    rig.stop()
    rig.run()
    assert sorted(rig.lines) == ["a", "b", *["the same first line"] * 3]


def test_deleted_with_lines_unread(rig: Rig) -> None:
    rig.topic = MemoryTopic(capacity=5, choose=lambda _: 0)
    rig.write(text(0, 50))
    tail = rig.start()
    tail.step()
    assert tail.bytes_behind == len(text(0, 50))
    rig.path().unlink()
    rig.now += 1
    tail.step()
    rig.topic.choose = lambda count: count
    rig.run()
    rig.run(seconds=15)
    assert rig.lines == numbered(0, 50)
    assert tail.bytes_behind == 0


def test_gone_before_it_was_read_is_said(rig: Rig) -> None:
    rig.topic.choose = lambda _: 0
    rig.write(text(0, 2))
    rig.start().step()
    assert rig.tail is not None
    rig.tail.save()
    rig.crash()
    rig.path("keep").write_bytes(b"")
    rig.path().unlink()
    rig.topic.choose = lambda count: count
    rig.run()
    assert [each for each in rig.reports if "gone before" in each]


def test_a_full_topic_stops_the_reading(rig: Rig) -> None:
    rig.topic = MemoryTopic(capacity=10, choose=lambda _: 0)
    for number in range(5):
        rig.write(text(0, 5000), f"{number}.log")
    rig.patterns = ("*.log",)
    tail = rig.start()
    for _ in range(50):
        tail.step()
    assert rig.topic.under_way == 10
    assert tail.counts.lines == 0  # one batch is held, no other was read
    assert tail.bytes_behind == 5 * len(text(0, 5000))
    rig.topic.choose = lambda count: count
    rig.run()
    assert len(rig.topic.arrived) == 25_000
    assert tail.bytes_behind == 0


def test_a_failed_report_sends_again_from_what_is_safe(rig: Rig) -> None:
    rig.write(text(0, 5))
    rig.run()
    rig.topic.is_failing = True
    rig.write(text(5, 9))
    rig.write(text(20, 22), "b.log")
    rig.run()
    assert rig.lines == numbered(0, 9)
    assert rig.tail is not None
    assert rig.tail.counts.restarts == 1
    assert "sending failed" in rig.reports[-1]


@pytest.mark.parametrize("fault", ["is_down", "keeps_failing"])
def test_a_topic_that_refuses_is_tried_again_ever_more_slowly(rig: Rig, fault: str) -> None:
    setattr(rig.topic, fault, True)
    rig.write(text(0, 5))
    tail = rig.start()
    moments = []
    for _ in range(2000):
        before = tail.counts.restarts
        tail.step()
        if tail.counts.restarts > before:
            moments.append(rig.now)
        rig.now += 0.25
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    assert gaps[0] <= 1
    assert 30 <= max(gaps) <= 30.25
    setattr(rig.topic, fault, False)
    rig.run(seconds=31)
    assert rig.lines == numbered(0, 5)


def test_an_unreadable_file_does_not_stop_the_others(rig: Rig) -> None:
    rig.patterns = ("*.log", "missing")
    rig.write(text(0, 2), "a.log")
    rig.path("b.log").symlink_to("/proc/self/mem")  # opens, but cannot be read
    rig.path("c.log").mkdir()
    rig.run()
    rig.run()
    assert rig.lines == numbered(0, 2)
    assert len(rig.reports) == 3
    assert sum("missing: no such file yet" in each for each in rig.reports) == 1


def test_kubernetes_links_and_wrapped_lines(rig: Rig) -> None:
    rig.patterns = ("containers/*.log",)
    pod = rig.path("pods")
    pod.mkdir()
    rig.path("containers").mkdir()
    rig.path("containers/mail.log").symlink_to(pod / "0.log")
    head = "2026-11-23T07:55:08.1Z stdout"
    rig.write(f"{head} F one\n{head} P two, ", "pods/0.log")
    rig.run()
    rig.write(f"\n{head} F and its end\n", "pods/0.log")
    rig.run()
    (pod / "0.log").rename(pod / "0.log.20261125-022500")
    rig.write(f"{head} F three\n", "pods/0.log")
    rig.run()
    rig.stop()
    rig.write(f"{head} F four\n", "pods/0.log")
    rig.run()
    assert rig.lines == ["one", "two, and its end", "three", "four"]
    assert len(rig.topic.arrived) == 4


@pytest.mark.parametrize("backfill", [False, True])
def test_packed_files_only_when_asked_for(rig: Rig, backfill: bool) -> None:  # noqa: FBT001 - a parameter
    rig.patterns, rig.backfill = ("*.gz",), backfill
    rig.path("mail.log.1.gz").write_bytes(gzip.compress(text(0, 3).encode()))
    rig.run()
    rig.stop()
    rig.run()
    assert rig.lines == (numbered(0, 3) if backfill else [])
    assert len(rig.topic.arrived) == len(rig.lines)


def test_a_damaged_packed_file_is_said_and_its_good_part_sent(rig: Rig) -> None:
    rig.patterns, rig.backfill = ("*.gz",), True
    raw = gzip.compress(text(0, 20_000).encode())
    rig.path("mail.log.1.gz").write_bytes(raw[: len(raw) // 2])
    rig.run()
    assert 100 < len(rig.lines) < 20_000
    assert [each for each in rig.reports if "cut off" in each]


def test_memory_of_vanished_files_is_bounded(rig: Rig) -> None:
    rig.patterns = ("*.log",)
    for number in range(20):
        rig.write(text(number, number + 1), f"{number}.log")
    rig.run()
    for number in range(19):
        rig.path(f"{number}.log").unlink()
    rig.run(seconds=12)
    rig.run(seconds=12)
    rig.run(seconds=90_000)
    assert rig.tail is not None
    assert rig.tail.known == 1


@pytest.mark.parametrize("seed", [1, 2])
def test_a_model_of_random_writers_and_faults(tmp_path: Path, seed: int) -> None:
    """A short run of `make tail-property`."""
    faults, model = run_model(tmp_path, seed, 400)
    assert faults == []
    assert model.done.total() == 400
