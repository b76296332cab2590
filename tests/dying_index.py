"""Runs `mailspan index` in a process that kills itself, with SIGKILL, just before SQLite's statement number N.

`python -m tests.dying_index N LINES ARGUMENT…`; it commits after so many LINES. At its end it writes the numbers of the
last statement and of those that begin and end a commit to stderr. SQLite tells of each statement before it runs it, so every point of a commit can be hit: before
BEGIN, between its parts, before COMMIT and after it.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from typing import Any

from mailspan.__main__ import main
from mailspan.commands import index

_seen = 0


def _run(kill_at: int, commit_lines: int, arguments: list[str]) -> int:
    edges: list[int] = []

    def trace(statement: str) -> None:
        global _seen  # noqa: PLW0603 - one counter of this process
        _seen += 1
        if statement in {"BEGIN IMMEDIATE", "COMMIT"}:
            edges.append(_seen)
        if _seen == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    connect = sqlite3.connect

    def traced(*values: Any, **options: Any) -> sqlite3.Connection:  # noqa: ANN401 - whatever connect takes
        connection: sqlite3.Connection = connect(*values, **options)
        connection.set_trace_callback(trace)
        return connection

    sqlite3.connect = traced  # type: ignore[assignment]
    index.COMMIT_LINES = commit_lines
    status = main(["index", *arguments])
    sys.stderr.write(f"statements={_seen} edges={','.join(map(str, edges))}\n")
    return status


if __name__ == "__main__":
    sys.exit(_run(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
