"""What tests of `index` share: commands in this process, what a store holds, and what one `parse` says of the same logs."""

from __future__ import annotations

import lzma
import os
import sqlite3
import sys
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from mailspan.__main__ import main

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

ROOT = Path(__file__).parent.parent
CORPUS = ROOT / "tests" / "corpus"
READING = ("--zone", "UTC", "--year", "2026")
ENVIRONMENT = {**os.environ, "TZ": "UTC", "PYTHONPATH": str(ROOT)}
ENVIRONMENT.pop("MAILSPAN_STORE", None)
COMMAND = (sys.executable, "-m", "mailspan")


@cache
def lines_of(name: str, most: int | None = None) -> tuple[bytes, ...]:
    """Return the lines of a lab log, with their ends."""
    path = CORPUS / name
    raw = path.read_bytes() if path.exists() else lzma.decompress((CORPUS / f"{name}.xz").read_bytes())
    return tuple(raw.splitlines(keepends=True)[:most])


class Bench:
    """A folder with logs and a store."""

    def __init__(self, folder: Path, capture: pytest.CaptureFixture[bytes]) -> None:
        self.folder = folder
        self.database = folder / "store.db"
        self.said = ""
        """What the last command wrote on stderr."""
        self._capture = capture

    @property
    def store(self) -> str:
        """The store as an argument."""
        return f"sqlite:///{self.database}"

    def write(self, name: str, raw: bytes) -> Path:
        """Write a file; the folder is the bench's."""
        path = self.folder / name
        path.write_bytes(raw)
        return path

    def run(self, *arguments: str | Path) -> tuple[int, bytes]:
        """Run a command; return its exit code and output."""
        self._capture.readouterr()
        status = main([str(each) for each in arguments])
        output, errors = self._capture.readouterr()
        self.said = errors.decode()
        return status, output

    def index(self, *files: str | Path) -> str:
        """Index files, which must succeed; return the line it prints."""
        status, output = self.run("index", "--store", self.store, *READING, *files)
        assert status == 0, self.said
        return output.decode()

    def parse(self, *files: str | Path) -> dict[str, bytes]:
        """Return the documents of one `parse`, by id."""
        _, output = self.run("parse", *READING, *files)
        found = output.splitlines()
        assert found
        documents = {orjson.loads(line)["id"]: line for line in found}
        assert len(documents) == len(found), "parse gave an id twice"
        return documents

    def parse_of(self, *logs: bytes) -> dict[str, bytes]:
        """Return the documents of one `parse` of logs that are not in the folder."""
        paths = []
        for number, raw in enumerate(logs):
            paths.append(self.write(f"oracle{number}", raw))
        found = self.parse(*paths)
        for path in paths:
            path.unlink()
        return found

    def stored(self) -> dict[str, bytes]:
        """Return the documents in the store, by id."""
        return stored_in(self.database)


def stored_in(database: Path) -> dict[str, bytes]:
    """Return the documents in a store, by id; none where there is no store yet."""
    if not database.exists():
        return {}
    connection = sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)
    try:
        if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            return {}
        return dict(connection.execute("SELECT id, document FROM documents").fetchall())
    finally:
        connection.close()


def is_sound(database: Path) -> bool:
    """Whether SQLite finds no fault in the database and its inverted index has each document once."""
    connection = sqlite3.connect(database, isolation_level=None)
    try:
        (said,) = connection.execute("PRAGMA integrity_check").fetchone()
        connection.execute("INSERT INTO postings(postings) VALUES ('integrity-check')")
        connection.execute("CREATE VIRTUAL TABLE temp.terms USING fts5vocab(main, postings, instance)")
        indexed = {place for (place,) in connection.execute("SELECT DISTINCT doc FROM terms")}
        stored = {place for (place,) in connection.execute("SELECT place FROM documents")}
    finally:
        connection.close()
    return bool(said == "ok" and indexed == stored)


def wait_until(holds: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Look again and again until something holds; whether it did in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        os.sched_yield()
    return True
