"""`make recovery-test`: each way back of docs/recovery.md on a real Kafka and a real Elasticsearch, timed.

`--only NAME` tries those whose name has this text. Exit code 1 where one does not end with everything right.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests import elasticsearch_server, kafka_server
from tests.recovery.plant import Plant
from tests.recovery.ways import WAYS, elasticsearch_lost, gap_read, kafka_lost

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.kafka_server import Broker
    from tests.recovery.ways import Way


class Servers:
    """A broker that may be replaced by an empty one at the same address."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.broker = kafka_server.Broker(folder / "kafka")
        self.broker.start()

    def new_broker(self) -> Broker:
        """Replace the broker by one that knows of nothing."""
        self.broker.kill()
        shutil.rmtree(self.broker.folder)
        self.broker = kafka_server.Broker(self._folder / "kafka", port=self.broker.port)
        self.broker.start()
        return self.broker


def main(arguments: Sequence[str] | None = None) -> int:
    """Try them, each on a plant of its own, and print what came of each."""
    parser = argparse.ArgumentParser(prog="python -m tests.recovery", description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT")
    parser.add_argument("--lines", type=int, default=3000)
    called = parser.parse_args(arguments)
    failed = 0
    with (
        tempfile.TemporaryDirectory() as name,
        elasticsearch_server.running(Path(name) / "elasticsearch") as node,
    ):
        servers = Servers(Path(name))
        ways: dict[str, Callable[[Plant], Way]] = {each.__name__: each for each in (*WAYS, gap_read)}
        ways["elasticsearch_lost"] = elasticsearch_lost
        ways["kafka_lost"] = partial(kafka_lost, new_broker=servers.new_broker)
        try:
            for title, way in ways.items():
                if called.only in title:
                    plant = Plant(servers.broker, node, Path(name) / title, called.lines)
                    failed += not _is_tried(title, way, plant)
        finally:
            servers.broker.kill()
    return int(bool(failed))


def _is_tried(title: str, way: Callable[[Plant], Way], plant: Plant) -> bool:
    began = time.monotonic()
    try:
        plant.begin()
        found = way(plant)
    except (AssertionError, OSError):
        print(f"{title}: FAILED after {time.monotonic() - began:.0f} s", flush=True)
        traceback.print_exc()
        return False
    finally:
        plant.kill()
    print(f"{title}: right again after {found.seconds:.1f} s; {plant.difference().documents} documents", flush=True)
    for line in found.seen:
        print(f"    {line}", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
