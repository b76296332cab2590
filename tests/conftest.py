"""What several test files share: one real Kafka broker and one real Elasticsearch for the whole run.

Each is started when the first test asks for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import elasticsearch_server
from tests.kafka_server import Broker, running

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One broker; ANONYMOUS may do anything, over SASL only admin may, and bob may nothing."""
    users = {"admin": "admin-secret", "bob": "bob-secret"}
    with running(tmp_path_factory.mktemp("kafka"), users=users) as found:
        yield found


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[elasticsearch_server.Node]:
    """One Elasticsearch; a test takes an index prefix of its own."""
    with elasticsearch_server.running(tmp_path_factory.mktemp("elasticsearch")) as found:
        yield found
