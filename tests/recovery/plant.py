"""A small installation to lose parts of: logs of some hosts, a producer for each, a reducer, a sink, and what is right.

Topics and indices are one prefix of a real Kafka and a real Elasticsearch. Each stage is a process of its own, ended by
its id. What is right is what `mailspan parse` makes of the log files.
"""

from __future__ import annotations

import signal
import sys
import time
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from confluent_kafka.admin import AdminClient

from bench.generate import Options, generate
from bench.world import Truth
from mailspan.topics import topic_name
from tests.chain import Chain
from tests.chaos.fleet import Child
from tests.kafka_site import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from tests.elasticsearch_server import Node
    from tests.kafka_server import Broker

HOSTS = 3
_END_SECONDS = 15.0
_instances = count()


class Difference(NamedTuple):
    """How the index differs from what is right."""

    documents: int
    """How many there should be."""
    missing: list[str]
    surplus: list[str]
    """Those that no mail stands behind: fragments, for example."""
    different: list[str]

    @property
    def is_none(self) -> bool:
        """Whether nothing differs."""
        return not (self.missing or self.surplus or self.different)

    def __str__(self) -> str:
        """In one line."""
        return (
            f"documents={self.documents} missing={len(self.missing)} surplus={len(self.surplus)}"
            f" different={len(self.different)}"
        )


class Plant(Chain):
    """The installation; `more` writes its logs on, in ten steps."""

    def __init__(self, broker: Broker, node: Node, folder: Path, lines: int = 1500, seed: int = 1) -> None:
        super().__init__(broker, node, folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.settings["COMMIT_INTERVAL_SECONDS"] = "0.3"
        self.admin = AdminClient({"bootstrap.servers": broker.address, "log_level": 0})
        self._lines: dict[str, list[bytes]] = {}
        for line in generate(Options(lines, hosts=HOSTS, seed=seed), Truth()):
            self._lines.setdefault(line[16:].partition(" ")[0], []).append(line.encode())
        self._written = dict.fromkeys(self._lines, 0)
        for host in self._lines:
            self.log(host).parent.mkdir(parents=True)
        self.producers = [self._child(f"producer-{host}", self._tail(host)) for host in self.hosts]
        self.reducer = self._child("reducer", ["reduce"], INSTANCE=f"{self.prefix}-{next(_instances)}")
        self.sinks = self._child("sink", ["sink"])

    @property
    def hosts(self) -> list[str]:
        """The hosts, in order."""
        return sorted(self._lines)

    @property
    def logs(self) -> list[str]:
        """The log files."""
        return sorted(str(path) for path in (self.folder / "logs").rglob("mail.log*"))

    @property
    def children(self) -> list[Child]:
        """All processes."""
        return [*self.producers, self.reducer, self.sinks]

    def log(self, host: str) -> Path:
        """Return where a host's log is."""
        return self.folder / "logs" / host / "mail.log"

    def state(self, host: str) -> Path:
        """Return where the producer of a host keeps its positions."""
        return self.folder / "state" / host

    def _tail(self, host: str) -> list[str]:
        return ["produce", "tail", f"{self.log(host)}*"]

    def _child(self, name: str, arguments: Sequence[str], **settings: str) -> Child:
        if name.startswith("producer-"):
            settings["STATE_DIR"] = str(self.state(name.removeprefix("producer-")))
        command = [sys.executable, "-m", "mailspan", *arguments]
        return Child(name, command, self.environment(**settings), self.folder / f"{name}.log")

    def more(self) -> None:
        """Write the next tenth of each log."""
        for host, lines in self._lines.items():
            begin, step = self._written[host], len(lines) // 10 + 1
            with self.log(host).open("ab") as log:
                log.write(b"".join(lines[begin : begin + step]))
            self._written[host] = begin + step

    def begin(self) -> None:
        """Start everything on the first tenth, and wait until the index is right."""
        self.setup()
        self.wait_for_topics()
        self.more()
        self.start()
        self.wait_right()

    def start(self, children: Iterable[Child] | None = None) -> None:
        """Start these, by default all that do not run."""
        for child in self.children if children is None else children:
            child.start()

    def stop(self, children: Iterable[Child] | None = None) -> list[int]:
        """End these in order, by default all; return their exit codes."""
        return [child.end(signal.SIGTERM, _END_SECONDS) for child in (self.children if children is None else children)]

    def kill(self) -> None:
        """End whatever runs, at once."""
        for child in self.children:
            child.end(signal.SIGKILL)

    def said_by(self, child: Child) -> list[str]:
        """Return the lines that a process said so far."""
        return child.log.read_text(encoding="utf-8").splitlines() if child.log.exists() else []

    def wait_said(self, child: Child, text: str, seconds: float = 60.0) -> str:
        """Wait until a process says a line with this text; return the line."""
        wait_until(lambda: any(text in line for line in self.said_by(child)), seconds)
        return next(line for line in self.said_by(child) if text in line)

    def wait_ended(self, child: Child, seconds: float = 60.0) -> int:
        """Wait until a process ends by itself; return its exit code."""
        assert child.process is not None
        return child.process.wait(seconds)

    def expected(self) -> dict[str, Any]:
        """Return what is right for the logs as they are now."""
        done = self.run("parse", *self.logs)
        assert done.returncode == 0, done.stderr
        return {found["id"]: found for found in map(orjson.loads, done.stdout.splitlines())}

    def difference(self, want: Mapping[str, Any] | None = None) -> Difference:
        """Compare the index with what is right."""
        want = self.expected() if want is None else want
        have = self.stored()
        return Difference(
            len(want),
            sorted(want.keys() - have.keys()),
            sorted(have.keys() - want.keys()),
            sorted(each for each in want.keys() & have.keys() if want[each] != have[each]),
        )

    def wait_right(self, seconds: float = 90.0) -> float:
        """Wait until the index is right for the logs as they are now; return how long it took."""
        began, want = time.monotonic(), self.expected()
        found: Difference | None = None

        def is_right() -> bool:
            nonlocal found
            found = self.difference(want)
            return found.is_none

        try:
            wait_until(is_right, seconds)
        except AssertionError:
            said = {child.name: self.said_by(child)[-3:] for child in self.children}
            raise AssertionError(f"the index is not right: {found}; {said}") from None
        return time.monotonic() - began

    def wait_all_read(self, group: str) -> None:
        """Wait until the `reducer` or the `sink` has passed all records of its topic."""
        topic = "raw" if group == "reducer" else "transactions"
        self._wait_for(lambda: not self.behind(topic, group), 60.0)

    def delete_topics(self, *names: str) -> None:
        """Delete topics, those of them that are there, and wait until the broker tells of them no more."""
        wanted = {topic_name(self.prefix, name) for name in names}

        def there() -> set[str]:
            return wanted & self.admin.list_topics(timeout=30).topics.keys()

        if found := sorted(there()):
            for answer in self.admin.delete_topics(found).values():
                answer.result(30)
        wait_until(lambda: not there())

    def delete_group(self, name: str) -> None:
        """Delete a group with its offsets; nobody may be in it."""
        for answer in self.admin.delete_consumer_groups([f"{self.prefix}-mailspan-{name}"]).values():
            answer.result(30)
