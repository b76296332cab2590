"""A fleet to break: logs that grow and rotate, producers, reducers and a broker, all real processes.

Each child is ended by its process id. What a fleet is asked to survive is in tests/chaos/__main__.py.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench.generate import Options, generate
from bench.world import Truth
from tests.kafka_site import set_up
from tests.running import environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.kafka_server import Broker

ROOT = Path(__file__).parent.parent.parent
PARTITIONS = 6
HOSTS = 12
FROZEN_SECONDS = 9.0  # longer than a reducer's session timeout


@dataclass(slots=True)
class Child:
    """One process of ours that is started again whenever it ends."""

    name: str
    arguments: list[str]
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    frozen_until: float = 0.0
    starts: int = 0

    def start(self) -> None:
        """Start it, unless it runs."""
        if self.process is not None and self.process.poll() is None:
            return
        self.starts += 1
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.arguments, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def end(self, number: signal.Signals, seconds: float = 20.0) -> int:
        """End it and return its exit code; SIGKILL where it does not end in time."""
        if self.process is None:
            return 0
        self.send(signal.SIGCONT)
        self.send(number)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


@dataclass
class Fleet:
    """The whole pipeline in a folder. `reducer_module` is what runs as a reducer: the control runs another one."""

    folder: Path
    broker: Broker
    lines: int
    seed: int
    producers: int = 2
    reducers: int = 3
    prefix: str = "mail"
    reducer_module: tuple[str, ...] = ("-m", "mailspan", "reduce")
    children: list[Child] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make the folders and say what each child is."""
        self.chance = random.Random(self.seed)  # noqa: S311  reproducible
        self.rotations = 0
        self._lines = self._by_host()
        (self.folder / "logs").mkdir(parents=True)
        for number in range(self.producers):
            hosts = [host for at, host in enumerate(sorted(self._lines)) if at % self.producers == number]
            patterns = [str(self.host_folder(host) / "mail.log*") for host in hosts]
            self._add(f"producer{number}", ["-m", "mailspan", "produce", "tail", *patterns], STATE_DIR=f"state{number}")
        for number in range(self.reducers):
            self._add(f"reducer{number}", list(self.reducer_module), INSTANCE=f"reducer{number}")
        for host in self._lines:
            self.host_folder(host).mkdir()

    def _add(self, name: str, arguments: list[str], **settings: str) -> None:
        if "STATE_DIR" in settings:
            settings["STATE_DIR"] = str(self.folder / settings["STATE_DIR"])
        self.children.append(
            Child(name, [sys.executable, *arguments], self.environment(**settings), self.folder / f"{name}.log")
        )

    def environment(self, **settings: str) -> dict[str, str]:
        """Return the environment of a child."""
        ours = {
            "KAFKA_BOOTSTRAP_SERVERS": self.broker.address,
            "TOPIC_PREFIX": self.prefix,
            "PARTITIONS": str(PARTITIONS),
            "COMMIT_INTERVAL_SECONDS": "0.5",
            "CANARY_SECONDS": "1",
            **settings,
        }
        return environment(ours)

    def _by_host(self) -> dict[str, list[bytes]]:
        found: dict[str, list[bytes]] = {}
        for line in generate(Options(self.lines, hosts=HOSTS, seed=self.seed), Truth()):
            found.setdefault(line[16:].partition(" ")[0], []).append(line.encode())
        return found

    def host_folder(self, host: str) -> Path:
        """Return where a host's log is."""
        return self.folder / "logs" / host

    def start(self) -> None:
        """Create the topics and start everything."""
        set_up(self.environment())
        for child in self.children:
            child.start()

    def write(self) -> Iterator[int]:
        """Write some lines of some hosts at each step; yield how many are left."""
        written = dict.fromkeys(self._lines, 0)
        left = self.lines_left(written)
        while left:
            host = self.chance.choice([host for host in self._lines if written[host] < len(self._lines[host])])
            begin = written[host]
            some = b"".join(self._lines[host][begin : begin + self.chance.randrange(1, 200)])
            cut = self.chance.randrange(len(some)) if self.chance.random() < 0.2 else 0  # a partial line, then the rest
            with (self.host_folder(host) / "mail.log").open("ab", buffering=0) as log:
                log.write(some[:cut])
                log.write(some[cut:])
            written[host] = begin + some.count(b"\n")
            left = self.lines_left(written)
            yield left

    def lines_left(self, written: dict[str, int]) -> int:
        """Return how many lines are not written yet."""
        return sum(len(lines) - written[host] for host, lines in self._lines.items())

    def rotate(self) -> None:
        """Rotate a host's log as logrotate does by renaming."""
        host = self.chance.choice(sorted(self._lines))
        folder = self.host_folder(host)
        kept = sorted(folder.glob("mail.log.*"), key=lambda path: int(path.suffix[1:]), reverse=True)
        for path in kept:
            path.rename(folder / f"mail.log.{int(path.suffix[1:]) + 1}")
        if (folder / "mail.log").exists():
            (folder / "mail.log").rename(folder / "mail.log.1")
            self.rotations += 1

    def tend(self) -> None:
        """Let frozen children go on when their time is over, and start again those that ended."""
        for child in self.children:
            if child.frozen_until and time.monotonic() >= child.frozen_until:
                child.frozen_until = 0.0
                child.send(signal.SIGCONT)
            if not child.frozen_until:
                child.start()

    def freeze(self, child: Child) -> None:
        """Stop a child for longer than its session lasts: it will wake up as a zombie."""
        child.send(signal.SIGSTOP)
        child.frozen_until = time.monotonic() + FROZEN_SECONDS

    def stop(self) -> None:
        """End all children."""
        for child in self.children:
            if child.process is not None and child.process.poll() is None:
                child.send(signal.SIGCONT)
                child.process.kill()
                child.process.wait()
