"""The SQLite file: its tables, how it is opened, and its failures said in one line.

documents  the JSON as it was written, by `place`: the date in milliseconds shifted left by
           PLACE_BITS, plus a number that tells documents of one millisecond apart. So the table,
           and all that points into it, is in date order. `written` numbers the commits.
facets     what is compared or counted for many documents at once: a narrow row each (sink.facets).
           Those of documents that lasted long have a small index of their own (`lasting`).
subjects   the folded subject of each document that has one, apart: few have one, and all of these are compared.
counts     how many documents of each quarter hour, day, or at all, have a value of a field (sink.facets).
postings   an inverted index (FTS5, no text kept) from each term of `sink.terms` to places. Terms of
           one batch are written side by side, where a B-tree would touch a page for each: half the
           time and no slower when it grows.
commits    one row: how many commits wrote documents; it only grows, also where documents are deleted.
kept       one row: documents dated before `since` are not kept, since `mailspan retention` deleted those days.
state, inputs  opaque bytes of `index`, changed in the same transaction as the documents they belong
               to.

WAL: readers never wait for the writer nor it for them. synchronous=NORMAL: kill -9 loses nothing
that was committed; a power cut may lose the last commits whole, and then documents, state and file
positions go back together.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from mailspan.errors import StoreError, UsageError
from sink.terms import SPANS_MS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SCHEMA_VERSION = 5
APPLICATION_ID = 0x6D73706E  # "mspn", in the file's header
PLACE_BITS = 21
PLACES_PER_MS = 1 << PLACE_BITS
LARGEST_DATE_MS = (1 << (63 - PLACE_BITS)) - 1  # year 2109; a later date sorts as this one


def lasting(table: str = "") -> str:
    """Return what holds for the facets of all that have a term `span:`; a statement must say it to use their index."""
    return f"{table}updated - ({table}place >> {PLACE_BITS}) > {SPANS_MS[0]}"


_URL_PREFIX = "sqlite:///"
_TOKEN_PUNCTUATION = "!#$%&()*+,-./:;<=>?@[\\]^_`{|}~"  # noqa: S105 - characters that belong to a term
_TOKENIZER = f"ascii tokenchars ''{_TOKEN_PUNCTUATION}''"
_TABLES = (
    """CREATE TABLE documents(
        place INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        version INTEGER NOT NULL,
        written INTEGER NOT NULL,
        document BLOB NOT NULL
    )""",
    "CREATE INDEX documents_written ON documents(written)",
    """CREATE TABLE facets(
        place INTEGER PRIMARY KEY,
        class INTEGER NOT NULL,
        updated INTEGER NOT NULL,
        host TEXT NOT NULL,
        client TEXT NOT NULL,
        sender TEXT NOT NULL,
        relay TEXT NOT NULL,
        outcomes TEXT NOT NULL,
        dsn TEXT NOT NULL,
        recipient TEXT NOT NULL
    )""",
    f"CREATE INDEX facets_lasting ON facets(place, updated) WHERE {lasting()}",
    "CREATE TABLE subjects(place INTEGER PRIMARY KEY, subject TEXT NOT NULL)",
    """CREATE TABLE counts(
        field TEXT NOT NULL,
        class INTEGER NOT NULL,
        value TEXT NOT NULL,
        bucket INTEGER NOT NULL,
        number INTEGER NOT NULL,
        PRIMARY KEY (field, class, value, bucket)
    ) WITHOUT ROWID""",
    f"""CREATE VIRTUAL TABLE postings USING fts5(
        terms, content='', detail=none, columnsize=0, tokenize='{_TOKENIZER}'
    )""",
    "INSERT INTO postings(postings, rank) VALUES ('automerge', 16), ('hashsize', 16777216)",
    "CREATE TABLE state(key BLOB PRIMARY KEY, value BLOB NOT NULL)",
    "CREATE TABLE inputs(key BLOB PRIMARY KEY, value BLOB NOT NULL)",
    "CREATE TABLE commits(only INTEGER PRIMARY KEY CHECK (only = 1), number INTEGER NOT NULL)",
    "INSERT INTO commits VALUES (1, 0)",
    "CREATE TABLE kept(only INTEGER PRIMARY KEY CHECK (only = 1), since INTEGER NOT NULL)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
_WRITER_SETTINGS = "PRAGMA synchronous = NORMAL; PRAGMA cache_size = -65536; PRAGMA wal_autocheckpoint = 4000;"
_PAGE_BYTES = 16_384

# What SQLite says (a part of it) and what to tell the user.
_ADVICE = (
    ("not a database", "it is not an SQLite database; name another file with --store"),
    ("malformed", "the database is damaged; move it away and run `mailspan index` again"),
    ("disk is full", "the disk is full; nothing of this batch was kept; free some space and run it again"),
    ("readonly", "it may not be written; check the rights of the file and its folder"),
    ("unable to open", "it cannot be opened; check the rights of the file and its folder"),
    ("no such module", "this Python's SQLite was built without FTS5; use another build of Python"),
    ("locked", "another program holds it; wait for that to end and try again"),
    ("interrupted", "it took longer than it may"),
    ("disk i/o error", "the disk failed or is full; nothing of this batch was kept"),
)


def default_path(environment: Mapping[str, str]) -> Path:
    """Return where the database is when no store is named: in the user's data folder."""
    data_home = environment.get("XDG_DATA_HOME", "")
    folder = Path(data_home) if data_home.startswith("/") else Path.home() / ".local" / "share"
    return folder / "mailspan" / "mailspan.db"


def path_of_store(store: str | None, environment: Mapping[str, str]) -> Path:
    """Return the database file that `--store`, else MAILSPAN_STORE, else the default names.

    `sqlite:///PATH`, or just a path. PATH is absolute where it starts with `/`; else it is looked
    for from the working folder, and where its folder is missing there but not in the root, in the
    root. Raises UsageError.
    """
    named = store or environment.get("MAILSPAN_STORE")
    if not named:
        return default_path(environment)
    if named.startswith(("http://", "https://")):
        # An empty --store, and a URL in the environment: not repeated, there may be a password in it.
        raise UsageError("--store is empty, and MAILSPAN_STORE is a URL: give one or the other")
    text = named.removeprefix(_URL_PREFIX)
    if not text or "\0" in text or (text == named and (named.startswith("sqlite:") or "://" in named)):
        raise UsageError(f"--store {named!r}: expected sqlite:///PATH or https://HOST:9200")
    path = Path(text)
    if text != named and not path.is_absolute():
        from_root = Path("/") / path
        if not path.parent.is_dir() and from_root.parent.is_dir():
            return from_root
    return path


def connect_for_writing(path: Path) -> sqlite3.Connection:
    """Open the database at `path` for writing and make its tables where it is new. Raises StoreError."""
    with failures(path, "open"):
        connection = sqlite3.connect(path, isolation_level=None, timeout=60)
        try:
            if _is_new(connection, path):
                connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # retention can give space back
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript(";".join(("BEGIN IMMEDIATE", *_TABLES, "COMMIT;")))
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(_WRITER_SETTINGS)
        except BaseException:
            connection.close()
            raise
    return connection


def connect_for_reading(path: Path, wait_seconds: float = 60.0) -> sqlite3.Connection:
    """Open the database at `path` for reading; it never waits for a writer of ours. Raises StoreError.

    `wait_seconds`: for another program that has locked all of it.
    """
    with failures(path, "open"):
        connection = _open_reader(path, wait_seconds)
        try:
            if _is_new(connection, path):
                raise StoreError(_nothing_at(path))  # noqa: TRY301 - the connection is closed below
            connection.execute("PRAGMA cache_size = -65536")
        except BaseException:
            connection.close()
            raise
    return connection


@contextmanager
def failures(path: Path, doing: str) -> Iterator[None]:
    """Turn what SQLite and the file system raise inside into a StoreError of one line that names `path`."""
    try:
        yield
    except sqlite3.Error as error:
        said = str(error)
        advice = next((advice for part, advice in _ADVICE if part in said.lower()), said)
        if path.is_dir():  # which SQLite calls what comes to it: an open that failed, or a disk that did
            advice = "it is a folder; name a file with --store"
        raise StoreError(f"cannot {doing} the database {path}: {advice}") from error
    except OSError as error:
        raise StoreError(f"cannot {doing} the database {path}: {error.strerror or error}") from error


def _open_reader(path: Path, wait_seconds: float) -> sqlite3.Connection:
    if not path.exists():
        raise StoreError(_nothing_at(path))
    uri = path.absolute().as_uri()
    connection = sqlite3.connect(f"{uri}?mode=ro", uri=True, isolation_level=None, timeout=wait_seconds)
    try:
        connection.execute("PRAGMA user_version").fetchone()
    except sqlite3.OperationalError:
        connection.close()
        # A database nobody writes, in a folder that may not be written: SQLite cannot make its -shm file there.
        if not path.is_file() or not os.access(path, os.R_OK) or Path(f"{path}-wal").exists():
            raise
        connection = sqlite3.connect(f"{uri}?mode=ro&immutable=1", uri=True, isolation_level=None)
    return connection


def _nothing_at(path: Path) -> str:
    return f"no mail at {path}: run `mailspan index FILE…` first, or name another database with --store"


def _is_new(connection: sqlite3.Connection, path: Path) -> bool:
    """Say whether the file has no tables yet; raise StoreError where they are not ours or from a newer mailspan."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application_id == APPLICATION_ID and version == SCHEMA_VERSION:
        return False
    if application_id == APPLICATION_ID and version < SCHEMA_VERSION:
        raise StoreError(
            f"the database {path} was made by an older mailspan (schema {version});"
            " move it away and run `mailspan index` on the logs again"
        )
    if application_id == APPLICATION_ID:
        raise StoreError(f"the database {path} was made by a newer mailspan (schema {version}); update mailspan")
    if tables:
        raise StoreError(f"the database {path} belongs to another program; name another file with --store")
    return True
