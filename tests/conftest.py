"""What several test files share: real Kafka brokers and one real Elasticsearch for the whole run.

Each is started when the first test asks for it. `broker` always runs; `mortal_broker` is there to be killed and frozen,
and has few topics, so that it is soon back.
"""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import elasticsearch_server
from tests.kafka_server import Broker, running

if TYPE_CHECKING:
    from collections.abc import Iterator

# Tests start Python some hundred times. Where it is told to keep no bytecode, as in many images, each of these processes
# would compile all modules again: theirs is kept apart from the sources.
if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    os.environ["PYTHONPYCACHEPREFIX"] = str(Path(__file__).parent.parent / "build" / "pycache")


SERVERS = {"broker": "kafka", "mortal_broker": "kafka", "node": "elasticsearch", "busy_node": "elasticsearch"}
"""Which fixture gives which mark."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the servers that they use, so that the parts of a run (tests/parts.py) share none."""
    for item in items:
        for name in {SERVERS[each] for each in getattr(item, "fixturenames", ()) if each in SERVERS}:
            item.add_marker(name)


def pytest_collection_finish() -> None:
    """Leave what was collected to no later garbage collection: a whole one would count as CPU of the test it falls in."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One broker; ANONYMOUS may do anything, over SASL only admin may, and bob may nothing."""
    users = {"admin": "admin-secret", "bob": "bob-secret"}
    with running(tmp_path_factory.mktemp("kafka"), users=users) as found:
        yield found


@pytest.fixture(scope="session")
def _second_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with running(tmp_path_factory.mktemp("mortal-kafka"), heap="384m") as found:
        yield found


@pytest.fixture
def mortal_broker(_second_broker: Broker) -> Iterator[Broker]:
    """A broker that a test may kill, stop and freeze; the next test finds it running again."""
    yield _second_broker
    _second_broker.send(signal.SIGCONT)
    if not _second_broker.is_running:
        _second_broker.start()


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[elasticsearch_server.Node]:
    """One Elasticsearch; a test takes an index prefix of its own."""
    with elasticsearch_server.running(tmp_path_factory.mktemp("elasticsearch")) as found:
        yield found
