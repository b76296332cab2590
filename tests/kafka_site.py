"""A place of its own on the real broker for one test: topics, a state folder, and mailspan run on them as a process.

Topics are made by `mailspan setup` within this process: starting Python costs more than all that it does. The command
itself is tested as a process in tests/test_produce_kafka.py and tests/test_kafka_security.py.
"""

from __future__ import annotations

import subprocess
import sys
import time
from argparse import Namespace
from contextlib import AbstractContextManager, contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from confluent_kafka.admin import AdminClient

from mailspan.commands import setup
from mailspan.settings import read_settings
from mailspan.topics import TOPICS, topic_name
from tests.kafka_reading import read_all
from tests.running import environment, mailspan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tests.kafka_server import Broker

ROOT = Path(__file__).parent.parent
PARTITIONS = 6
_prefixes = (f"test{number}" for number in count())


class Site:
    """A topic prefix of its own on the broker, a state folder and logs; runs mailspan on them."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        self.folder = folder
        self.prefix = next(_prefixes)
        self.address = broker.address
        self.others: dict[str, str] = {}  # variables of the environment that are no settings of ours
        self.settings = {
            "KAFKA_BOOTSTRAP_SERVERS": broker.address,
            "TOPIC_PREFIX": self.prefix,
            "PARTITIONS": str(PARTITIONS),
            "STATE_DIR": str(folder / "state"),
            "CANARY_SECONDS": "0",  # tests count records; tests/test_canary_live.py and chaos have canaries
        }

    def environment(self, **settings: str) -> dict[str, str]:
        return environment({**self.settings, **settings}, others=self.others)

    def run(self, *arguments: str, given: bytes = b"", **settings: str) -> subprocess.CompletedProcess[bytes]:
        return mailspan(*arguments, given=given, settings={**self.settings, **settings}, others=self.others)

    def tailing(self, *patterns: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
        return self.producing("tail", *patterns)

    @contextmanager
    def producing(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        with (self.folder / "stderr").open("ab") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "mailspan", "produce", *arguments], stderr=stderr, env=self.environment()
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def said(self) -> str:
        return (self.folder / "stderr").read_text(encoding="utf-8")

    def setup(self) -> None:
        set_up(self.environment())

    def wait_for_topics(self) -> None:
        """Wait until the broker tells of the topics that were just made: a client that asks once must find them."""
        names = {topic_name(self.prefix, topic.name) for topic in TOPICS}
        admin = AdminClient({"bootstrap.servers": self.address, "log_level": 0})

        def are_led() -> bool:
            found = admin.list_topics(timeout=30).topics
            return all(
                name in found
                and found[name].error is None
                and found[name].partitions
                and all(each.leader >= 0 for each in found[name].partitions.values())
                for name in names
            )

        wait_until(are_led)

    def wait_for(self, lines: int) -> None:
        """Wait until that many different lines have arrived."""
        wait_until(lambda: len({each.value for each in read_all(self.address, f"{self.prefix}.raw")}) >= lines)


def set_up(environment: Mapping[str, str]) -> None:
    """Make the topics that these settings name. Raises MailspanError."""
    settings = read_settings(environment)
    assert setup.run(Namespace(settings=settings, replication_factor=None, dry_run=False, kibana=None)) == 0


def wait_until(is_so: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)
