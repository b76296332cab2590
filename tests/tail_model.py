"""The tail against a model: random writers, rotations, truncations, deletions, faults and restarts; seeded.

The model knows every line that was written. Without truncation each line has to arrive exactly once, in the order of
its file, as a reducer with watermarks keeps them. A truncated file may lose what was not read yet, and nothing else:
what had been read by then arrives. `python -m tests.tail_model --steps 10000` prints what it did.
"""

from __future__ import annotations

import argparse
import gzip
import os
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from tests.tail_rig import Rig

if TYPE_CHECKING:
    from collections.abc import Callable

FILES = ("a.log", "b.log", "c.log")
WRAPPED = "c.log"


class Model:
    """One run; `failures` tells what went wrong."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = Random(seed)  # noqa: S311 - a seeded model
        self.rig = Rig(folder, ("*.log",))
        self.rig.topic.capacity = 40
        self.rig.topic.choose = lambda count: self.random.randint(0, count)
        self.written: dict[str, list[str]] = {name: [] for name in FILES}
        self.begun: dict[str, str] = dict.fromkeys(FILES, "")
        self.may_be_lost: set[str] = set()
        self.done: Counter[str] = Counter()
        self.next_line = 0

    def step(self) -> None:
        """Do one random thing."""
        actions: tuple[tuple[int, Callable[[], None]], ...] = (
            (30, self.write),
            (20, self.write_part),
            (60, self.work),
            (4, self.rename),
            (2, self.rename_and_pack),
            (2, self.truncate),
            (2, self.copy_and_truncate),
            (1, self.delete),
            (2, self.stop),
            (3, self.crash),
            (1, self.fail),
        )
        (action,) = self.random.choices([each for _, each in actions], [weight for weight, _ in actions])
        self.done[action.__name__] += 1
        action()

    def work(self) -> None:
        tail = self.rig.tail or self.rig.start()
        for _ in range(self.random.randint(1, 4)):
            tail.step()
        self.rig.now += self.random.choice((0.1, 0.5, 1.0, 1.0, 5.0, 40.0))

    def write(self) -> None:
        name = self.random.choice(FILES)
        for _ in range(self.random.randint(1, 12)):
            self._end_line(name)

    def write_part(self) -> None:
        name = self.random.choice(FILES)
        if self.begun[name]:
            self._end_line(name)
        else:
            self.begun[name] = self._text(name)
            self._append(name, self.begun[name])

    def rename(self) -> None:
        """Rotate; now and then nothing is written to the new file for a while."""
        self._rotate()

    def _rotate(self) -> str:
        """Rotate as logrotate does, oldest first; the writer ends its line in the old file, then opens the new one."""
        name = self.random.choice(FILES)
        self._finish_line(name)
        path = self.rig.path(name)
        for number in range(8, 0, -1):
            for ending in ("", ".gz"):
                old = self.rig.path(f"{name}.{number}{ending}")
                if old.exists():
                    old.rename(self.rig.path(f"{name}.{number + 1}{ending}"))
        if path.exists():
            path.rename(self.rig.path(f"{name}.1"))
        return name

    def rename_and_pack(self) -> None:
        """Rotate and pack at once; the tail sees the file beforehand, as it was there for longer than a look takes."""
        self._see()
        old = self.rig.path(f"{self._rotate()}.1")
        if old.exists() and old.stat().st_size:
            packed = Path(f"{old}.gz")
            packed.write_bytes(gzip.compress(old.read_bytes()))
            shutil.copystat(old, packed)
            old.unlink()

    def truncate(self) -> None:
        name = self.random.choice(FILES)
        if self.rig.path(name).exists():
            self._lose(name)
            os.truncate(self.rig.path(name), 0)

    def copy_and_truncate(self) -> None:
        """As logrotate's copytruncate: what the copy has must not be lost if the tail knew the file."""
        self._see()
        name = self.rename_siblings()
        path = self.rig.path(name)
        if path.exists():
            self._finish_line(name)
            shutil.copy2(path, self.rig.path(f"{name}.1"))
            os.truncate(path, 0)
            self._lose(name)

    def rename_siblings(self) -> str:
        name = self.random.choice(FILES)
        for number in range(8, 0, -1):
            for ending in ("", ".gz"):
                old = self.rig.path(f"{name}.{number}{ending}")
                if old.exists():
                    old.rename(self.rig.path(f"{name}.{number + 1}{ending}"))
        return name

    def delete(self) -> None:
        """Delete a file that the tail holds open."""
        self._see()
        name = self.random.choice(FILES)
        self._finish_line(name)
        if self.rig.tail is None:
            return
        self.rig.path(name).unlink(missing_ok=True)
        self._drain()

    def stop(self) -> None:
        if self.rig.tail is not None and self.rig.now >= self.rig.tail.resume_at:
            self.rig.stop()

    def crash(self) -> None:
        if self.rig.tail is not None:
            self.rig.crash(self.random.randint(0, self.rig.topic.under_way))

    def fail(self) -> None:
        self.rig.topic.is_failing = True

    def finish(self) -> list[str]:
        """Let everything arrive and return what differs from the model."""
        for name in FILES:
            self._finish_line(name)
        self._drain()
        arrived = self.rig.lines
        faults = []
        counts = Counter(arrived)
        for name, lines in self.written.items():
            mine = [line for line in arrived if line.startswith(name)]
            expected = [line for line in lines if counts[line] or line not in self.may_be_lost]
            whole = [line for line in mine if line in set(lines)]
            if Counter(whole) != Counter(expected):
                missing = Counter(expected) - Counter(whole)
                doubled = Counter(whole) - Counter(expected)
                faults.append(f"{name}: missing {sorted(missing)[:5]}, doubled {sorted(doubled)[:5]}")
            elif whole != expected:
                faults.append(f"{name}: out of order")
        return faults

    def _text(self, name: str) -> str:
        self.next_line += 1
        return f"{name} line {self.next_line} {'x' * self.random.randint(0, 400)}."

    def _end_line(self, name: str) -> None:
        line, self.begun[name] = self.begun[name], ""
        rest = "" if line else self._text(name)
        self.written[name].append(line + rest)
        self._append(name, f"{rest}\n")

    def _finish_line(self, name: str) -> None:
        if self.begun[name]:
            self._end_line(name)

    def _append(self, name: str, text: str) -> None:
        """Write to a file; to one of them as a container runtime does, each part as a line."""
        if name == WRAPPED:
            part = "F" if text.endswith("\n") else "P"
            text = f"2026-11-23T07:55:08.000000001Z stdout {part} {text.rstrip()}\n"
        self.rig.write(text, name)

    def _lose(self, name: str) -> None:
        """What was not read yet may be lost; a begun line is."""
        counts = Counter(self.rig.lines)
        self.may_be_lost |= {line for line in self.written[name] if not counts[line]}
        self.begun[name] = ""

    def _see(self) -> None:
        """Let the tail look at what is there, so that it knows every file."""
        tail = self.rig.tail or self.rig.start()
        tail.scan()
        tail.save()

    def _drain(self) -> None:
        """Let everything arrive, as it would when a while passes without faults."""
        choose, self.rig.topic.choose = self.rig.topic.choose, lambda count: count
        self.rig.topic.is_failing = False
        for seconds in (31.0, 12.0, 12.0):
            self.rig.run(seconds)
        self.rig.topic.choose = choose


def run(folder: Path, seed: int, steps: int) -> tuple[list[str], Model]:
    """Run one model and return its faults."""
    model = Model(folder, seed)
    with model.rig:
        for _ in range(steps):
            model.step()
        return model.finish(), model


def main() -> int:
    """Run models of 500 steps each until so many steps are done."""
    parser = argparse.ArgumentParser(description="The tail against a model.")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    failed = lines = 0
    done: Counter[str] = Counter()
    for number in range(max(1, args.steps // 500)):
        with tempfile.TemporaryDirectory() as folder:
            faults, model = run(Path(folder), args.seed + number, min(500, args.steps))
        done += model.done
        lines += sum(map(len, model.written.values()))
        for fault in faults:
            print(f"seed {args.seed + number}: {fault}")
            failed += 1
    print(" ".join(f"{name}={count}" for name, count in sorted(done.items())))
    print(f"steps={done.total()} lines={lines} faults={failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
