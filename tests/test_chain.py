"""The whole chain, from log files to the search, under faults; `make chaos-chain` is the long run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import elasticsearch_server
from tests.chaos.__main__ import run
from tests.chaos.chain import CONTROL, CONTROL_SECONDS, NODE_SETTINGS, SETTLE_SECONDS, Chain, chain_faults
from tests.tcp_proxy import proxied

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.elasticsearch_server import Node
    from tests.kafka_server import Broker

pytestmark = pytest.mark.slow

QUICK = (
    "producer killed", "reducer killed", "sink killed", "sink ended", "elasticsearch killed", "elasticsearch frozen",
    "indices read-only", "line reset", "line slow", "line silent", "log rotated",
)  # fmt: skip


@pytest.fixture(scope="module")
def busy_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node that refuses writes when several come at once."""
    folder = tmp_path_factory.mktemp("busy")
    with elasticsearch_server.running(folder, settings=NODE_SETTINGS) as found:
        yield found


def test_the_index_is_what_parse_says_after_faults(broker: Broker, busy_node: Node, tmp_path: Path) -> None:
    with proxied(busy_node.port) as proxy:
        chain = Chain(tmp_path / "fleet", broker, 4000, 11, prefix="chain", node=busy_node, proxy=proxy)
        done, verdict = run(
            chain, 14, 0.5, QUICK, SETTLE_SECONDS, faults=chain_faults(chain), found=chain.found
        )  # fmt: skip
    assert done.total() == 14
    assert verdict.transactions > 300
    assert verdict.is_right, verdict


def test_offsets_before_documents_do_damage(broker: Broker, busy_node: Node, tmp_path: Path) -> None:
    with proxied(busy_node.port) as proxy:
        chain = Chain(
            tmp_path / "fleet", broker, 1000, 12, producers=1, reducers=1, sinks=1, prefix="control", node=busy_node,
            proxy=proxy, sink_module=CONTROL,
        )  # fmt: skip
        _, verdict = run(
            chain, 3, 0.5, ("log rotated",), CONTROL_SECONDS, faults=chain_faults(chain), found=chain.found
        )  # fmt: skip
    assert verdict.lost or verdict.different
