"""`make chaos-chain`: the whole chain under random faults, from log files to the index; then the oracle.

Producers, reducers and sinks are killed, ended and frozen, Kafka and Elasticsearch are killed and restarted; indices are
read-only, the disk is said to be full, the queue of writes is tiny, and between sinks and Elasticsearch is a line that
is slow, silent or reset. What `mailspan search` then finds must be what `mailspan parse` makes of the files. The last
line is `faults=N transactions=N lost=N doubled=N different=N`. Exit code 1 if anything differs; with --control the sinks
commit before they write, and it is 1 if nothing differs: the harness must see the damage.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from tests import elasticsearch_server, kafka_server
from tests.chaos.__main__ import Faults, faults_of, report, run
from tests.chaos.fleet import Child, Fleet
from tests.tcp_proxy import Proxy, proxied

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.elasticsearch_server import Node

NODE_SETTINGS = {
    # One thread and a queue of two: several sinks, and bulks for several days, are refused with 429 now and then.
    "thread_pool.write.size": "1",
    "thread_pool.write.queue_size": "2",
    "cluster.routing.allocation.disk.threshold_enabled": "true",
    "cluster.info.update.interval": "10s",
}
ROOMY = {f"cluster.routing.allocation.disk.watermark.{name}": "1b" for name in ("low", "high", "flood_stage")}
FULL = {f"cluster.routing.allocation.disk.watermark.{name}": "100000tb" for name in ("low", "high", "flood_stage")}
"""How many bytes must be free: then indices are made read-only at the next look."""
SETTLE_SECONDS = 180.0
CONTROL_SECONDS = 20.0
CONTROL = ("-m", "tests.chaos.unsafe_sink")
_MOST_FOUND = 1_000_000


@dataclass
class Chain(Fleet):
    """A fleet with sinks behind it; they reach `node` by `proxy` only."""

    node: Node | None = None
    proxy: Proxy | None = None
    sinks: int = 2
    sink_module: tuple[str, ...] = ("-m", "mailspan", "sink")
    lifts: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    """When what is to be lifted: faults that last for a while."""

    def __post_init__(self) -> None:
        """Add the sinks."""
        super().__post_init__()
        for number in range(self.sinks):
            self._add(f"sink{number}", list(self.sink_module))

    def environment(self, **settings: str) -> dict[str, str]:
        """Return the environment of a child."""
        return super().environment(
            **{
                "ELASTICSEARCH_URL": f"http://127.0.0.1:{self.the_proxy.port}",
                "INDEX_PREFIX": self.index_prefix,
                "INDEX_REPLICAS": "0",
                "RETENTION_DAYS": "700000",
                **settings,
            }
        )

    @property
    def index_prefix(self) -> str:
        """What its indices' names begin with."""
        return f"{self.prefix}-transactions"

    @property
    def the_node(self) -> Node:
        """The node; a chain has one."""
        assert self.node is not None
        return self.node

    @property
    def the_proxy(self) -> Proxy:
        """The proxy; a chain has one."""
        assert self.proxy is not None
        return self.proxy

    def start(self) -> None:
        """Make room on the disk, then as a fleet."""
        self.put("/_cluster/settings", {"persistent": ROOMY})
        super().start()

    def put(self, path: str, body: object) -> None:
        """Send a PUT to the node; where that is away, it is over anyway."""
        with suppress(OSError, HTTPException):
            self.the_node.ask("PUT", path, body, seconds=5)

    def for_a_while(self, seconds: float, begin: Callable[[], None], end: Callable[[], None]) -> None:
        """Do something and undo it as `tend` is called later."""
        begin()
        self.lifts.append((time.monotonic() + seconds, end))

    def tend(self) -> None:
        """Lift what lasted long enough; else as a fleet."""
        now = time.monotonic()
        due = [each for each in self.lifts if each[0] <= now]
        self.lifts = [each for each in self.lifts if each[0] > now]
        for _, end in due:
            end()
        super().tend()

    def found(self) -> dict[str, bytes]:
        """Return what a search finds, by id. What is there twice has another name the second time."""
        command = [sys.executable, "-m", "mailspan", "search", "--probes", "--json", "-r", str(_MOST_FOUND)]
        command += ["--store", self.the_node.url]
        done = subprocess.run(command, env=self.environment(), check=False, capture_output=True)
        if done.returncode > 1:
            return {}  # not now: all are lost, as far as one can see, and it is asked again
        documents: dict[str, bytes] = {}
        for line in done.stdout.splitlines():
            identity = str(orjson.loads(line)["id"])
            documents[f"{identity} (again)" if identity in documents else identity] = line
        return documents


def chain_faults(chain: Chain) -> Faults:
    """Return the faults: those of a fleet, and those of sinks and Elasticsearch."""
    chance, node, proxy = chain.chance, chain.the_node, chain.the_proxy
    sinks = [child for child in chain.children if child.name.startswith("sink")]

    def sink() -> Child:
        return chance.choice(sinks)

    def node_killed() -> None:
        node.kill()
        node.start()

    def node_restarted() -> None:
        node.stop()
        node.start()

    def read_only() -> None:
        def block(*, is_set: bool) -> None:
            chain.put(f"/{chain.index_prefix}-*/_settings", {"index.blocks.read_only_allow_delete": is_set or None})

        chain.for_a_while(2.0, lambda: block(is_set=True), lambda: block(is_set=False))

    def disk_full() -> None:
        def watermarks(found: dict[str, str]) -> Callable[[], None]:
            return lambda: chain.put("/_cluster/settings", {"persistent": found})

        chain.for_a_while(12.0, watermarks(FULL), watermarks(ROOMY))

    def on_the_line(name: str, value: Any) -> Callable[[], None]:  # noqa: ANN401 - each has its own type
        before = getattr(proxy, name)
        return lambda: chain.for_a_while(
            3.0, lambda: setattr(proxy, name, value), lambda: setattr(proxy, name, type(before)())
        )

    return {
        **faults_of(chain),
        "sink killed": (7, lambda: sink().send(signal.SIGKILL)),
        "sink ended": (3, lambda: sink().send(signal.SIGTERM)),
        "sink frozen": (1, lambda: chain.freeze(sink())),
        "elasticsearch killed": (2, node_killed),
        "elasticsearch restarted": (1, node_restarted),
        "elasticsearch frozen": (1, lambda: chain.for_a_while(3.0, node.freeze, node.thaw)),
        "indices read-only": (2, read_only),
        "disk full": (1, disk_full),
        "line reset": (4, proxy.reset),
        "line slow": (2, on_the_line("delay_seconds", 0.2)),
        "line silent": (2, on_the_line("is_silent", True)),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run once and say what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.chain", description=__doc__)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--lines", type=int, default=40_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pause", type=float, default=1.0, metavar="SECONDS", help="between two faults, on average")
    parser.add_argument("--control", action="store_true", help="offsets before documents: damage is expected")
    called = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory() as name,
        kafka_server.running(Path(name) / "kafka") as broker,
        elasticsearch_server.running(Path(name) / "elasticsearch", settings=NODE_SETTINGS) as node,
        proxied(node.port) as proxy,
    ):
        module = CONTROL if called.control else Chain.sink_module
        folder = Path(name) / "fleet"
        chain = Chain(folder, broker, called.lines, called.seed, node=node, proxy=proxy, sink_module=module)
        done, verdict = run(
            chain, called.faults, called.pause, faults=chain_faults(chain), found=chain.found,
            settle_seconds=CONTROL_SECONDS if called.control else SETTLE_SECONDS,
        )  # fmt: skip
        report(done, verdict)
    return int(verdict.is_right if called.control else not verdict.is_right)


if __name__ == "__main__":
    sys.exit(main())
