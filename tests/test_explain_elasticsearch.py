"""Explanations over Elasticsearch are those over SQLite, to the byte."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sink.sqlite import open_for_writing
from tests.running import mailspan_here
from tests.search_documents import FIRST, all_documents, stamp
from tests.test_search_elasticsearch import put

if TYPE_CHECKING:
    from pathlib import Path

    from tests.elasticsearch_server import Node

pytestmark = pytest.mark.slow


def test_both_stores_give_the_same_explanations(node: Node, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documents = [each for each in all_documents() if each["date"] < stamp(FIRST + 2 * 86_400)]
    put(node, "explained", documents)
    path = tmp_path / "mail.db"
    with open_for_writing(path) as writer:
        writer.write(documents)
    kinds = {(each["kind"], each["outcome"]): each["id"] for each in documents}
    for asked in (*sorted(kinds.values()), "AA0001", "nowhere"):
        here, there = (
            mailspan_here(capsys, "explain", asked, "--store", store, "--json", settings={"INDEX_PREFIX": "explained"})
            for store in (f"sqlite:///{path}", node.url)
        )
        assert (there.status, there.output) == (here.status, here.output)
        assert here.status == (1 if asked == "nowhere" else 0)
