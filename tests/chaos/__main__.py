"""`make chaos`: random faults for producers, reducers and the broker while files grow and rotate; then the oracle.

The last line is `faults=N transactions=N lost=N doubled=N different=N`. Exit code 1 if anything differs; with --control
the reducers write without Kafka's transactions, and it is 1 if nothing differs: the harness must see the damage.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from tests.chaos.fleet import Fleet
from tests.chaos.oracle import settle
from tests.kafka_server import running

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.chaos.oracle import Verdict

Faults = dict[str, tuple[int, "Callable[[], None]"]]
"""By name: how often it comes, compared with others, and what does it."""
SETTLE_SECONDS = 90.0
CONTROL = ("-m", "tests.chaos.unsafe_reducer")


def faults_of(fleet: Fleet) -> Faults:
    """Return the faults of producers, reducers, the broker and the logs."""
    chance = fleet.chance
    producers = [child for child in fleet.children if child.name.startswith("producer")]
    reducers = [child for child in fleet.children if child.name.startswith("reducer")]

    def broker_killed() -> None:
        fleet.broker.kill()
        fleet.broker.start()

    def broker_restarted() -> None:
        fleet.broker.stop()
        fleet.broker.start()

    return {
        "producer killed": (5, lambda: chance.choice(producers).send(signal.SIGKILL)),
        "producer ended": (2, lambda: chance.choice(producers).send(signal.SIGTERM)),
        "producer frozen": (1, lambda: fleet.freeze(chance.choice(producers))),
        "reducer killed": (6, lambda: chance.choice(reducers).send(signal.SIGKILL)),
        "reducer ended": (3, lambda: chance.choice(reducers).send(signal.SIGTERM)),
        "reducer frozen": (2, lambda: fleet.freeze(chance.choice(reducers))),
        "broker killed": (1, broker_killed),
        "broker restarted": (1, broker_restarted),
        "log rotated": (4, fleet.rotate),
    }


def run(
    fleet: Fleet,
    count: int,
    pause_seconds: float,
    only: Sequence[str] = (),
    settle_seconds: float = SETTLE_SECONDS,
    *,
    faults: Faults | None = None,
    found: Callable[[], dict[str, bytes]] | None = None,
) -> tuple[Counter[str], Verdict]:
    """Write all lines while `count` faults happen; return the faults and the verdict on what is `found` in the end."""
    known = faults_of(fleet) if faults is None else faults
    names = [name for name in known if not only or name in only]
    done: Counter[str] = Counter()
    fleet.start()
    try:
        writing = fleet.write()
        per_fault = max(1, fleet.lines // 100 // count)  # about 100 lines are written at a step
        has_lines = True
        for _ in range(count):
            for _ in range(per_fault):
                has_lines = next(writing, None) is not None
            name = fleet.chance.choices(names, [known[each][0] for each in names])[0]
            known[name][1]()
            done[name] += 1
            until = time.monotonic() + fleet.chance.random() * 2 * pause_seconds
            while time.monotonic() < until:
                fleet.tend()
                time.sleep(0.1)  # the pace of the faults: nothing is waited for
        while has_lines:
            has_lines = next(writing, None) is not None
        return done, settle(fleet, settle_seconds, found)
    finally:
        fleet.stop()


def summary(done: Counter[str], verdict: Verdict) -> str:
    """Return the last line."""
    return (
        f"faults={done.total()} transactions={verdict.transactions} lost={len(verdict.lost)}"
        f" doubled={len(verdict.doubled)} different={len(verdict.different)}"
    )


def report(done: Counter[str], verdict: Verdict) -> None:
    """Print the faults, the first of what differs, and the last line."""
    for fault, count in sorted(done.items()):
        print(f"{fault}: {count}")
    for kind, ids in (("lost", verdict.lost), ("doubled", verdict.doubled), ("different", verdict.different)):
        for identity in ids[:5]:
            print(f"{kind}: {identity} {verdict.fields.get(identity, '')}")
    print(summary(done, verdict))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run once and say what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--lines", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pause", type=float, default=1.0, metavar="SECONDS", help="between two faults, on average")
    parser.add_argument("--control", action="store_true", help="without Kafka's transactions: damage is expected")
    called = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name, running(Path(name) / "kafka") as broker:
        module = CONTROL if called.control else Fleet.reducer_module
        fleet = Fleet(Path(name) / "fleet", broker, called.lines, called.seed, reducer_module=module)
        done, verdict = run(fleet, called.faults, called.pause)
        report(done, verdict)
    return int(verdict.is_right if called.control else not verdict.is_right)


if __name__ == "__main__":
    sys.exit(main())
