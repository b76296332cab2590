"""A rolling upgrade under load: `python -m tests.recovery.upgrade FOLDER`, a checkout of an older mailspan.

Two reducers, a sink and three producers of the older one run while logs grow; then each is ended and started as the
present one, in the order of docs/upgrade.md, and one reducer goes back and forward again. In the end no document may be
missing, none too many, each of as many lines as it should be, and `mailspan audit` must find no difference. Documents
that the older one closed keep its revision of the grammar: that is told. Needs no network; the older one runs with the
dependencies of the present one.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

from tests import elasticsearch_server, kafka_server
from tests.chaos.fleet import Child
from tests.jars import free_port
from tests.kafka_site import wait_until
from tests.recovery.plant import Plant

if TYPE_CHECKING:
    from collections.abc import Sequence

_LINES_BITS = 16  # of a version, behind its revision


def _other(plant: Plant, child: Child, folder: Path) -> Child:
    """Return a child as that checkout runs it."""
    command = [child.arguments[0], "-P", *child.arguments[1:]]
    log = plant.folder / f"{child.name}-{folder.name}.log"
    return _served(Child(child.name, command, {**child.environment, "PYTHONPATH": str(folder)}, log))


def _served(child: Child) -> Child:
    """Give a child an address for its probes."""
    child.environment = {**child.environment, "MAILSPAN_METRICS_ADDRESS": f"127.0.0.1:{free_port()}"}
    return child


def _wait_ready(child: Child) -> None:
    """Wait until its /readyz answers 200."""
    port = int(child.environment["MAILSPAN_METRICS_ADDRESS"].rpartition(":")[2])

    def is_ready() -> bool:
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    wait_until(is_ready, 90)


def _swap(plant: Plant, before: Child, after: Child) -> None:
    """End one and start the other, with some load around it; wait until the other is ready."""
    status = plant.stop([before])[0]
    print(f"{before.name}: ended with {status}", flush=True)
    assert status == 0, plant.said_by(before)
    plant.more()
    after.start()
    _wait_ready(after)


def main(arguments: Sequence[str] | None = None) -> int:
    """Try it and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.recovery.upgrade", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lines", type=int, default=6000)
    called = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory() as name,
        kafka_server.running(Path(name) / "kafka") as broker,
        elasticsearch_server.running(Path(name) / "elasticsearch") as node,
    ):
        plant = Plant(broker, node, Path(name) / "plant", called.lines)
        second = Child(
            "reducer2", [*plant.reducer.arguments], plant.environment(INSTANCE="second"), plant.folder / "r2"
        )
        new = [_served(child) for child in (plant.reducer, second, plant.sinks, *plant.producers)]
        old = [_other(plant, child, called.folder.resolve()) for child in new]
        try:
            plant.setup()
            plant.wait_for_topics()
            for child in old:
                child.start()
            plant.more()
            for child in old:
                _wait_ready(child)
            _swap(plant, old[2], new[2])  # the sink
            _swap(plant, old[0], new[0])  # a reducer
            _swap(plant, new[0], old[0])  # and back: the older one reads what the present one wrote
            _swap(plant, old[0], new[0])
            _swap(plant, old[1], new[1])
            for before, after in zip(old[3:], new[3:], strict=True):
                _swap(plant, before, after)
            print(_verdict(plant), flush=True)
            for child in (*old, *new):
                for line in plant.said_by(child):
                    print(f"    {child.name} ({'older' if child in old else 'present'}): {line}", flush=True)
        finally:
            plant.kill()
            for child in (second, *old):
                child.end(signal.SIGKILL)
    return 0


def _verdict(plant: Plant) -> str:
    """Wait until no document is missing, too many or of fewer lines, then ask `mailspan audit`. Raises AssertionError."""
    want = plant.expected()
    deadline = time.monotonic() + 120

    def differences() -> tuple[list[str], list[str], list[str]]:
        found = plant.difference(want)
        have = plant.stored()
        fewer = [
            id_ for id_ in found.different if want[id_]["version"] >> _LINES_BITS != have[id_]["version"] >> _LINES_BITS
        ]
        return found.missing, found.surplus, fewer

    while any(differences()):
        assert time.monotonic() < deadline, differences()
        time.sleep(0.5)
    done = plant.run("audit", "2026-03-09")
    assert done.returncode == 0, done
    have = plant.stored()
    older = [each for each in want if have[each]["version"] != want[each]["version"]]
    other = [each for each in plant.difference(want).different if each not in older]
    assert not other, other
    return f"{done.stdout.decode().strip()}\nof the older revision of the grammar: {len(older)} of {len(want)}"


if __name__ == "__main__":
    sys.exit(main())
