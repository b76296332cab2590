"""Imports are walked: the core is pure, and imports point one way."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COMMAND_LINE = {"mailspan/__main__.py", "mailspan/kafka_settings.py", "mailspan/settings.py"}
EDGES = ("mailspan/commands/", "mailspan/inputs/")
PURE_STANDARD = {
    "__future__", "ast", "bisect", "calendar", "collections", "dataclasses", "datetime", "enum", "functools", "hashlib",
    "heapq", "ipaddress", "itertools", "re", "struct", "typing",
}  # fmt: skip
CLIENTS = {"reducer/in_time.py", "reducer/kafka.py", "reducer/loop.py"}
"""The edge of the reducer: a broker, and how long to wait for it."""
PURE_LIBRARIES = {"msgspec", "orjson", "zstandard"}
ALLOWED = {("mailspan/terminal.py", "os"), ("reducer/dictionary.py", "importlib")}
"""What else may be imported: the terminal's width, a data file of the package."""
CLOCKS = {("datetime", "now"), ("datetime", "utcnow"), ("datetime", "today"), ("date", "today"), ("time", "time")}
MAY_IMPORT = {
    "core": {"mailspan"},
    "producers": {"mailspan", "producers"},
    "reducer": {"mailspan", "reducer"},
    "sink": {"mailspan", "sink"},
    "search": {"mailspan", "sink", "search"},
    "web": {"mailspan", "sink", "search", "web"},
}
OURS = {"mailspan", "producers", "reducer", "sink", "search", "web", "tests", "bench"}


def part_of(path: str) -> str | None:
    """Return which part of the project a file belongs to; None for the command line."""
    if path in COMMAND_LINE or path.startswith(EDGES):
        return None
    top = path.partition("/")[0]
    return "core" if top == "mailspan" else top


def imported(tree: ast.AST) -> set[str]:
    """Return the full names of all imported modules."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def faults(path: str, source: str) -> list[str]:
    """Return what a file imports or calls against the rules."""
    part = part_of(path)
    if part is None:
        return []
    tree = ast.parse(source)
    found = []
    for name in sorted(imported(tree)):
        top = name.partition(".")[0]
        if top in OURS and top not in MAY_IMPORT[part]:
            found.append(f"{path} imports {name}")
        if part == "web" and name.startswith(("mailspan.commands", "mailspan.inputs", "mailspan.settings")):
            found.append(f"{path} imports {name}")
        if part == "core" and name.startswith(("mailspan.commands", "mailspan.inputs", "mailspan.settings")):
            found.append(f"{path} imports {name}")
        is_pure = top in OURS | PURE_STANDARD | PURE_LIBRARIES or (path, top) in ALLOWED or path in CLIENTS
        if part in {"core", "reducer"} and not is_pure:
            found.append(f"{path} imports {name}")
    if part in {"core", "reducer"}:
        found += [
            f"{path} reads a clock: {ast.unparse(node)}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and (node.value.id, node.attr) in CLOCKS
        ]
    return found


def test_few_files_on_each_side_of_the_wire_import_the_kafka_client() -> None:
    users = [path for path in FILES if "confluent_kafka" in (ROOT / path).read_text(encoding="utf-8")]
    assert users
    assert set(users) == {"producers/kafka.py", "reducer/kafka.py", "sink/kafka.py", "sink/kafka_topic.py"}


def test_one_file_imports_the_elasticsearch_client() -> None:
    users = [
        path
        for path in FILES
        if {name.partition(".")[0] for name in imported(ast.parse((ROOT / path).read_text(encoding="utf-8")))}
        & {"elasticsearch", "elastic_transport"}
    ]
    assert users == ["sink/elasticsearch.py"]


def test_one_file_imports_the_client_of_prometheus() -> None:
    users = [
        path
        for path in FILES
        if any(
            name.partition(".")[0] == "prometheus_client"
            for name in imported(ast.parse((ROOT / path).read_text(encoding="utf-8")))
        )
    ]
    assert users == ["mailspan/commands/serving.py"]


def test_one_file_imports_each_part_of_the_page_s_framework() -> None:
    users: dict[str, list[str]] = {}
    for path in FILES:
        for name in imported(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            users.setdefault(name.partition(".")[0], []).append(path)
    assert users["werkzeug"] == ["web/app.py"]
    assert users["jinja2"] == users["markupsafe"] == ["web/pages.py"]
    assert set(users["waitress"]) == {"mailspan/commands/web_server.py"}


def test_what_the_page_decides_is_pure() -> None:
    """Only its edges touch sockets, files, threads and clocks."""
    edges = {"web/app.py", "web/audit_log.py", "web/figures.py", "web/pages.py", "web/stores.py"}
    for path in FILES:
        if path.startswith("web/") and path not in edges:
            names = {name.partition(".")[0] for name in imported(ast.parse((ROOT / path).read_text(encoding="utf-8")))}
            assert names <= PURE_STANDARD | PURE_LIBRARIES | OURS | {"urllib"}, path


def test_other_commands_import_nothing_of_the_page() -> None:
    code = (
        "import sys; from mailspan.__main__ import parse; parse(['search']); parse(['index', 'x']);"
        " print(sorted({'werkzeug', 'jinja2', 'waitress', 'web'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


FILES = sorted(
    str(path.relative_to(ROOT))
    for top in ("mailspan", "producers", "reducer", "sink", "search", "web")
    for path in (ROOT / top).rglob("*.py")
)


def test_there_are_files_to_walk() -> None:
    assert "mailspan/grammar/postfix.py" in FILES
    assert "reducer/assembler.py" in FILES


@pytest.mark.parametrize("path", FILES)
def test_imports_point_one_way(path: str) -> None:
    assert faults(path, (ROOT / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("mailspan/document.py", "import socket"),
        ("mailspan/document.py", "from reducer.assembler import Assembler"),
        ("mailspan/grammar/postfix.py", "from mailspan.inputs import Inputs"),
        ("reducer/assembler.py", "import time"),
        ("reducer/assembler.py", "from datetime import datetime\nx = datetime.now()"),
        ("reducer/assembler.py", "from confluent_kafka import Consumer"),
        ("sink/sqlite.py", "import search.query"),
        ("producers/tail.py", "from reducer.assembler import Assembler"),
        ("search/query.py", "import reducer"),
        ("search/query.py", "import web.views"),
        ("web/app.py", "from mailspan.commands.logs import read_zone"),
        ("web/app.py", "from reducer.assembler import Assembler"),
    ],
)
def test_a_planted_fault_is_found(path: str, source: str) -> None:
    assert faults(path, source)
