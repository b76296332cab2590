"""Write documents into one SQLite file, together with the state of `index`.

One commit takes documents, open transactions and file positions, all or nothing, so a run that was
killed goes on where the file says it was. One process writes at a time, for as long as its store is
open: a second one waits at a lock beside the database. Searching is in `sink.sqlite_reader`, deleting
old days in `sink.sqlite_retention`, the tables in `sink.sqlite_schema`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import contextmanager
from datetime import datetime
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple, Self

import orjson

from mailspan.errors import StoreError
from sink.facets import Facets, counts_of, facets_of, subject_of
from sink.fragments import family_of, is_fragment, superfluous
from sink.sqlite_schema import (
    LARGEST_DATE_MS,
    PLACE_BITS,
    PLACES_PER_MS,
    connect_for_writing,
    failures,
)
from sink.store import WriteResult
from sink.terms import terms_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from sink.store import Document

_NO_CHANGES: Mapping[str, bytes | None] = {}
_LOCK_POLL_SECONDS = 0.2


Counted = tuple["Document", Facets, int]
"""What the counts of a document are made of."""


class _Row(NamedTuple):
    """One document as its table holds it, with its terms."""

    place: int
    id: str
    version: int
    written: int
    encoded: bytes
    terms: str
    facets: Facets
    subject: str | None
    counted: Counted


class SqliteStore:
    """The writing side of the SQLite store; use as a context manager, or close it."""

    def __init__(self, connection: sqlite3.Connection, path: Path, lock: int) -> None:
        """Take over an open connection and the descriptor of the held lock; see `open_for_writing`."""
        self._connection = connection
        self._path = path
        self._lock = lock

    def __enter__(self) -> Self:
        """Return the store itself."""
        return self

    def __exit__(self, *_exception: object) -> None:
        """Close the store."""
        self.close()

    def close(self) -> None:
        """Close the database and let the next writer in."""
        with failures(self._path, "close"):
            try:
                self._connection.close()
            finally:
                if self._lock >= 0:
                    os.close(self._lock)
                    self._lock = -1

    def write(self, documents: Sequence[Document], encoded: Sequence[bytes] | None = None) -> WriteResult:
        """Keep `documents`; see DocumentWriter."""
        return self.commit(documents, encoded=encoded)

    def commit(
        self,
        documents: Sequence[Document],
        state_changes: Mapping[str, bytes | None] = _NO_CHANGES,
        input_changes: Mapping[str, bytes | None] = _NO_CHANGES,
        *,
        withdrawn: Sequence[str] = (),
        encoded: Sequence[bytes] | None = None,
    ) -> WriteResult:
        """Keep documents, open-transaction snapshots and file positions in one transaction; None deletes a key.

        Of one id the highest version stays; documents of `withdrawn` ids, and their pages, are deleted first, for
        their transactions have another id now. A fragment is not kept where a fuller document of its queue ID says all
        that it says. A document older than the last `mailspan retention` keeps is left out: it must not bring a deleted
        day back. `encoded` holds the documents' JSON in the same order,
        where the caller has it already. Raises StoreError; then nothing of this commit was kept.
        """
        payloads = [orjson.dumps(document) for document in documents] if encoded is None else encoded
        with failures(self._path, "write"), transaction(self._connection):
            if withdrawn:
                self._withdraw(withdrawn)
            since_ms = kept_since(self._connection)
            old = set() if since_ms is None else {n for n, each in enumerate(documents) if _ms(each["date"]) < since_ms}
            stored = self._stored(documents)
            kept = self._newer(documents, stored, old)
            self._drop_fragments(documents, kept, stored)
            self._replace(documents, payloads, kept)
            self._change("state", state_changes)
            self._change("inputs", input_changes)
        return WriteResult(len(kept), superseded=len(documents) - len(kept) - len(old), expired=len(old))

    def load_state(self) -> dict[str, bytes]:
        """Return the open-transaction snapshots by key. Raises StoreError."""
        return self._load("state")

    def load_inputs(self) -> dict[str, bytes]:
        """Return the file positions by key. Raises StoreError."""
        return self._load("inputs")

    def _stored(self, documents: Sequence[Document]) -> dict[str, tuple[int, int]]:
        """Return version and place of what is stored under the ids of `documents`, or of the same queue IDs."""
        names = {family_of(document["id"]) or document["id"] for document in documents}
        rows = self._connection.execute(
            "SELECT d.id, d.version, d.place FROM json_each(?) AS wanted"
            " CROSS JOIN documents AS d ON d.id >= wanted.value AND d.id < wanted.value || char(127)",
            (orjson.dumps(list(names)),),
        )
        return {id_: (version, place) for id_, version, place in rows}

    def _newer(
        self, documents: Sequence[Document], stored: Mapping[str, tuple[int, int]], left_out: set[int]
    ) -> dict[str, tuple[int, int | None]]:
        """Return, of each id that must be written, the index of its highest version and the place of the old row."""
        newer: dict[str, tuple[int, int | None]] = {}
        versions = {id_: version for id_, (version, _) in stored.items()}
        for index, document in enumerate(documents):
            id_, version = document["id"], document["version"]
            if index not in left_out and version > versions.get(id_, -1):
                versions[id_] = version
                newer[id_] = (index, stored[id_][1] if id_ in stored else None)
        return newer

    def _drop_fragments(
        self,
        documents: Sequence[Document],
        kept: dict[str, tuple[int, int | None]],
        stored: Mapping[str, tuple[int, int]],
    ) -> None:
        """Take fragments out of `kept`, or out of the store, where another document says all that they say."""
        names = {family_of(id_) for id_ in (*stored, *kept) if "~" in id_ and is_fragment(id_)}
        if not names:
            return
        known = {
            id_: documents[kept[id_][0]] if id_ in kept else _load(self._connection, stored[id_][1])
            for id_ in dict.fromkeys((*stored, *kept))
            if family_of(id_) in names
        }
        for id_ in superfluous(known):
            kept.pop(id_, None)
            if id_ in stored:
                remove(self._connection, [stored[id_][1]])

    def _withdraw(self, ids: Sequence[str]) -> None:
        rows = self._connection.execute(
            "SELECT d.place FROM json_each(?) AS gone CROSS JOIN documents AS d"
            " ON d.id = gone.value OR (d.id >= gone.value || '#' AND d.id < gone.value || '$')",
            (orjson.dumps(ids),),
        )
        remove(self._connection, sorted({place for (place,) in rows.fetchall()}))

    def _replace(
        self,
        documents: Sequence[Document],
        payloads: Sequence[bytes],
        kept: Mapping[str, tuple[int, int | None]],
    ) -> None:
        places = _Places(self._connection)  # while the old rows still hold theirs: no new one may take them
        self._connection.execute("UPDATE commits SET number = number + 1")
        (written,) = self._connection.execute("SELECT number FROM commits").fetchone()
        rows = [_row(documents[index], payloads[index], places, old, written) for index, old in kept.values()]
        superseded = _take_out(self._connection, sorted(place for _, place in kept.values() if place is not None))
        rows.sort(key=itemgetter(0))  # FTS5 keeps one batch in memory while places rise
        self._connection.executemany(
            "INSERT INTO documents(place, id, version, written, document) VALUES (?, ?, ?, ?, ?)",
            (row[:5] for row in rows),
        )
        self._connection.executemany(
            "INSERT INTO postings(rowid, terms) VALUES (?, ?)", ((row.place, row.terms) for row in rows)
        )
        self._connection.executemany(
            "INSERT INTO facets VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (row.facets for row in rows)
        )
        self._connection.executemany(
            "INSERT INTO subjects VALUES (?, ?)", ((row.place, row.subject) for row in rows if row.subject)
        )
        # Of a document that is written again most values stay: only what changes is changed.
        _change_counts(self._connection, [row.counted for row in rows], superseded)

    def _change(self, table: str, changes: Mapping[str, bytes | None]) -> None:
        removed = [(_key(key),) for key, value in changes.items() if value is None]
        changed = [(_key(key), value) for key, value in changes.items() if value is not None]
        self._connection.executemany(f"DELETE FROM {table} WHERE key = ?", removed)  # noqa: S608 - our own names
        self._connection.executemany(
            f"INSERT INTO {table}(key, value) VALUES (?, ?)"  # noqa: S608 - our own names
            " ON CONFLICT(key) DO UPDATE SET value = excluded.value",
            changed,
        )

    def _load(self, table: str) -> dict[str, bytes]:
        with failures(self._path, "read"):
            rows = self._connection.execute(f"SELECT key, value FROM {table}")  # noqa: S608 - our own names
            return {key.decode("utf-8", "surrogateescape"): value for key, value in rows}


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Make what is inside one transaction, all or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # A full disk makes SQLite roll back by itself.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def kept_since(connection: sqlite3.Connection) -> int | None:
    """Return the date, in milliseconds since 1970 UTC, before which documents are not kept; None: all are."""
    row = connection.execute("SELECT since FROM kept").fetchone()
    return None if row is None else int(row[0])


def remove(connection: sqlite3.Connection, places: Sequence[int]) -> None:
    """Delete documents."""
    _change_counts(connection, [], _take_out(connection, places))


def _take_out(connection: sqlite3.Connection, places: Sequence[int]) -> list[Counted]:
    """Delete documents, but not from the counts; return what these need.

    The index without text must be told the very terms that it was given.
    """
    taken: list[Counted] = []
    for place in places:
        document = _load(connection, place)
        date_ms, updated_ms = _ms(document["date"]), _ms(document["updated"])
        terms = terms_of(document, updated_ms - date_ms)
        connection.execute("INSERT INTO postings(postings, rowid, terms) VALUES ('delete', ?, ?)", (place, terms))
        connection.execute("DELETE FROM documents WHERE place = ?", (place,))
        connection.execute("DELETE FROM facets WHERE place = ?", (place,))
        connection.execute("DELETE FROM subjects WHERE place = ?", (place,))
        taken.append((document, facets_of(document, place, date_ms, updated_ms), date_ms))
    return taken


def _load(connection: sqlite3.Connection, place: int) -> Document:
    (encoded,) = connection.execute("SELECT document FROM documents WHERE place = ?", (place,)).fetchone()
    document: Document = orjson.loads(encoded)
    return document


def _change_counts(connection: sqlite3.Connection, added: Sequence[Counted], removed: Sequence[Counted]) -> None:
    """Change the table of counts; a number that becomes 0 leaves it."""
    changes = counts_of(added)
    for key, number in counts_of(removed).items():
        changes[key] = changes.get(key, 0) - number
    connection.executemany(
        "INSERT INTO counts(field, class, value, bucket, number) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET number = number + excluded.number",
        [(*key, change) for key, change in changes.items() if change],
    )
    connection.executemany(
        "DELETE FROM counts WHERE field = ? AND class = ? AND value = ? AND bucket = ? AND number = 0",
        [key for key, change in changes.items() if change < 0],
    )


class _Places:
    """Gives each new document of a millisecond the next place in it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._next: dict[int, int] = {}
        (last,) = connection.execute("SELECT max(place) FROM documents").fetchone()
        self._last = -LARGEST_DATE_MS << PLACE_BITS if last is None else last

    def take(self, date_ms: int, old: int | None) -> int:
        """Return a free place for `date_ms`: the old one where it still fits. Raises StoreError when none is left."""
        first = min(date_ms, LARGEST_DATE_MS) << PLACE_BITS
        if old is not None and old >> PLACE_BITS == first >> PLACE_BITS:
            return old
        place = self._next.get(first)
        if place is None and first > self._last:
            place = first
        elif place is None:
            (last,) = self._connection.execute(
                "SELECT max(place) FROM documents WHERE place >= ? AND place < ?", (first, first + PLACES_PER_MS)
            ).fetchone()
            place = first if last is None else last + 1
        if place >= first + PLACES_PER_MS:
            raise StoreError(f"more than {PLACES_PER_MS} documents share one date; are the log's time stamps right?")
        self._next[first] = place + 1
        return place


def open_for_writing(
    path: Path,
    on_wait: Callable[[str], None] | None = None,
    timeout_seconds: float | None = None,
) -> SqliteStore:
    """Open the store at `path` for its one writer, and make it where it is new; the folder is made too.

    Blocks while another process writes, after one call of `on_wait` with a message; after
    `timeout_seconds` of that (None: never) raises StoreError, as it does where the file cannot be
    written or is no database of ours.
    """
    lock = -1
    with failures(path, "open"):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        with failures(path, "lock"):
            _wait_for_lock(lock, path, on_wait, timeout_seconds)
        return SqliteStore(connect_for_writing(path), path, lock)
    except BaseException:
        os.close(lock)
        raise


def _wait_for_lock(lock: int, path: Path, on_wait: Callable[[str], None] | None, timeout_seconds: float | None) -> None:
    if _try_lock(lock):
        return
    if on_wait is not None:
        on_wait(f"another mailspan is writing to {path}; waiting for it to end")
    if timeout_seconds is None:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return
    deadline = time.monotonic() + timeout_seconds
    while not _try_lock(lock):
        left = deadline - time.monotonic()
        if left <= 0:
            raise StoreError(f"another mailspan is writing to {path}; try again when it has ended")
        time.sleep(min(left, _LOCK_POLL_SECONDS))


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def _row(document: Document, encoded: bytes, places: _Places, old: int | None, written: int) -> _Row:
    date_ms, updated_ms = _ms(document["date"]), _ms(document["updated"])
    place = places.take(date_ms, old)
    facets = facets_of(document, place, date_ms, updated_ms)
    return _Row(
        place=place,
        id=document["id"],
        version=document["version"],
        written=written,
        encoded=encoded,
        terms=terms_of(document, updated_ms - date_ms),
        facets=facets,
        subject=subject_of(document),
        counted=(document, facets, date_ms),
    )


def _ms(stamp: str) -> int:
    """Return an RFC 3339 stamp in milliseconds since 1970 UTC."""
    return round(datetime.fromisoformat(stamp).timestamp() * 1000)


def _key(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")
