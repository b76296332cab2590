"""Traces of Elasticsearch are those of SQLite, to the byte, and take as many questions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import pytest

from mailspan.settings import Settings
from search.trace import json_trace
from sink.elasticsearch import Server
from sink.elasticsearch_reader import ElasticsearchReader
from sink.elasticsearch_settings import connection_of
from sink.sqlite import open_for_writing
from sink.sqlite_reader import SqliteReader
from tests.running import mailspan
from tests.test_search_elasticsearch import put
from tests.test_trace import Counting, asked
from tests.trace_cases import CASES, all_of_them

if TYPE_CHECKING:
    from pathlib import Path

    from sink.elasticsearch import Answer
    from sink.elasticsearch_settings import Connection
    from tests.elasticsearch_server import Node

pytestmark = pytest.mark.slow


def test_both_stores_give_the_same_traces(node: Node, tmp_path: Path) -> None:
    documents = all_of_them()
    for start in range(0, len(documents), 5000):
        put(node, "traces", documents[start : start + 5000])
    path = tmp_path / "mail.db"
    with open_for_writing(path) as writer:
        writer.write(documents)
    with Server(connection_of(Settings(elasticsearch_url=node.url))) as server, SqliteReader(path) as sqlite:
        elastic = ElasticsearchReader(server, "traces")
        for name, case in CASES.items():
            here, there = Counting(sqlite), Counting(elastic)
            wanted = [orjson.dumps(json_trace(trace)) for trace in asked(here, case.seed, case.hosts)]
            assert [orjson.dumps(json_trace(trace)) for trace in asked(there, case.seed, case.hosts)] == wanted, name
            assert here.questions == there.questions
        assert elastic.faults == []


class Noting(Server):
    """A server that keeps the paths that it is asked."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.paths: list[str] = []

    def request(self, method: str, path: str, **options: Any) -> Answer:  # noqa: ANN401 - passed on
        self.paths.append(path)
        return super().request(method, path, **options)


def test_a_trace_takes_few_requests(node: Node) -> None:
    case = CASES["another_name"]
    put(node, "requests", list(case.documents))
    with Noting(connection_of(Settings(elasticsearch_url=node.url))) as server:
        (trace,) = asked(ElasticsearchReader(server, "requests"), case.seed, case.hosts)
        assert len(trace.nodes) == len(case.nodes)
        assert [path.partition("-")[0] for path in server.paths].count("/_resolve/index/requests") == 1
        assert len(server.paths) <= 6


def test_the_command_asks_elasticsearch(node: Node) -> None:
    case = CASES["another_name"]
    put(node, "traced", list(case.documents))
    done = mailspan("trace", case.seed, "--store", node.url, "--json", settings={"INDEX_PREFIX": "traced"})
    assert (done.returncode, done.stderr) == (0, b"")  # days around the mail without an index are no matter
    assert [each["id"] for each in orjson.loads(done.stdout)["nodes"]] == list(case.nodes)
