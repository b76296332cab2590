"""The ways back that are needed first, on the shared servers; `make recovery-test` tries all of docs/recovery.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.recovery import ways
from tests.recovery.plant import Plant

if TYPE_CHECKING:
    from tests.elasticsearch_server import Node
    from tests.kafka_server import Broker

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
LINES = 800


def test_state_and_indices_come_back(broker: Broker, node: Node, tmp_path: Path) -> None:
    plant = Plant(broker, node, tmp_path / "plant", LINES)
    try:
        plant.begin()
        lost = ways.state_topic_lost(plant)
        assert "mailspan setup" in lost.seen[0]
        day = ways.day_index_lost(plant)
        assert re.search(r" missing=[1-9]\d* ", day.seen[0])
        assert " missing=0 " in day.seen[1]
        ways.all_indices_lost(plant)
    finally:
        plant.kill()


def test_the_page_tells_of_each_way() -> None:
    """Each line that an operator is told to look for is one that the program says."""
    page = " ".join((ROOT / "docs" / "recovery.md").read_text(encoding="utf-8").split())
    sources = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("reducer", "sink", "producers", "mailspan")
        for path in (ROOT / folder).rglob("*.py")
    )
    told = re.sub(r'"\s*\n\s*f?"', "", sources)  # texts over several lines are one
    for said in (
        "topics must have the same number of partitions",
        "there is no index of ",
        "waiting for Elasticsearch",
        "there is no index template",
        "a commit was rolled back (",
        "sending failed (",
        " records were deleted before they were read (offsets ",
        ", but was read up to ",
        "is damaged; an older state is used",
        "is damaged, and no older state is there; all is sent again",
        "positions cannot be saved (",
        "has no topic ",
    ):
        assert said.strip() in page, said
        assert said.strip() in told, said
