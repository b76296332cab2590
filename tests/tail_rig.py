"""A tail with a topic in memory and a clock that tests move: started, stopped and crashed at will."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from producers.checkpoint import Checkpoint
from producers.tail import Clock, Tail, TailSettings
from tests.memory_topic import MemoryTopic

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Rig:
    """Follows `patterns` in the folder `logs`; state in `state`."""

    folder: Path
    patterns: tuple[str, ...] = ("mail.log",)
    backfill: bool = False
    topic: MemoryTopic = field(default_factory=MemoryTopic)
    reports: list[str] = field(default_factory=list)
    now: float = 0.0
    tail: Tail | None = None
    make: type[Tail] = Tail

    def __post_init__(self) -> None:
        self.logs = self.folder / "logs"
        self.logs.mkdir(exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.tail is not None:
            self.tail.abandon()

    def path(self, name: str = "mail.log") -> Path:
        return self.logs / name

    def write(self, text: str, name: str = "mail.log") -> None:
        with self.path(name).open("ab") as file:
            file.write(text.encode())

    def start(self) -> Tail:
        self.tail = self.make(
            TailSettings([str(self.logs / each) for each in self.patterns], "own", backfill=self.backfill),
            Checkpoint(self.folder / "state"),
            self.topic,
            Clock(lambda: self.now, lambda: 1_700_000_000 + self.now),
            self.reports.append,
        )
        return self.tail

    def run(self, seconds: float = 1.5, most: int = 10_000) -> None:
        """Work until there is nothing to do, then let time pass and work again."""
        tail = self.tail or self.start()
        self._work(tail, most)
        self.now += seconds
        self._work(tail, most)

    def _work(self, tail: Tail, most: int) -> None:
        for _ in range(most):
            if not tail.step() and not self.topic.under_way and tail.is_settled:
                return
            self.now = max(self.now, tail.resume_at)
        raise AssertionError("it never came to rest")

    def stop(self) -> None:
        assert self.tail is not None
        while not self.tail.is_settled:
            self.tail.settle()
        self.tail.close()
        self.tail = None

    def crash(self, arrived: int = 0) -> None:
        """End as by kill -9: nothing is saved, `arrived` lines of what was under way did arrive."""
        assert self.tail is not None
        self.topic.crash(arrived)
        self.tail.abandon()
        self.tail = None

    @property
    def lines(self) -> list[str]:
        """What a reducer keeps: of each generation, what is not at or below the highest offset seen of it.

        A line that comes again has to have the same text at the same place.
        """
        highest: dict[str, int] = {}
        texts: dict[tuple[str, int], bytes] = {}
        kept = []
        for header, value in self.topic.arrived:
            generation = header.reading.generation
            assert texts.setdefault((generation, header.offset), value) == value
            if header.offset > highest.get(generation, -1):
                highest[generation] = header.offset
                kept.append(value.decode("utf-8", "backslashreplace"))
        return kept
