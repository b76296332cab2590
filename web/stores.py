"""The store that is looked into: opened for each request, and read until its deadline.

A connection to SQLite belongs to one request. The client of Elasticsearch is shared: it has a connection for each
request that may be under way. It is made when it is first needed, so that a page over SQLite never imports it.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from sink.sqlite_reader import SqliteReader

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from sink.elasticsearch import Server
    from sink.elasticsearch_settings import Connection
    from sink.store import DocumentReader


class Store(Protocol):
    """What is looked into."""

    def reader(self, deadline: float) -> AbstractContextManager[DocumentReader]:
        """Open it for one request, to be read until `deadline` (of time.monotonic).

        Opening and reading raise StoreError, and NoAnswerError where a server does not answer, or not in time.
        """

    def close(self) -> None:
        """Close what requests shared."""


class SqliteStore:
    """A file of SQLite."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def reader(self, deadline: float) -> Iterator[DocumentReader]:
        """Open it for one request."""
        with SqliteReader(self._path, wait_seconds=max(0.0, deadline - time.monotonic())) as reader:
            reader.end_at(deadline)
            yield reader

    def close(self) -> None:
        """Nothing is shared."""


class ElasticsearchStore:
    """The daily indices of Elasticsearch; at most `connections` requests at once."""

    def __init__(self, connection: Connection, prefix: str, connections: int) -> None:
        self._connection = connection
        self._prefix = prefix
        self._connections = connections
        self._lock = threading.Lock()
        self._server: Server | None = None
        self._is_known = False

    @contextmanager
    def reader(self, deadline: float) -> Iterator[DocumentReader]:
        """Open it for one request."""
        from sink.elasticsearch_reader import ElasticsearchReader  # noqa: PLC0415 - slow to import

        server = self._shared().until(deadline)
        if not self._is_known:
            server.version()
            self._is_known = True
        yield ElasticsearchReader(server, self._prefix)

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            if self._server is not None:
                self._server.close()
                self._server = None

    def _shared(self) -> Server:
        from sink.elasticsearch import Server  # noqa: PLC0415 - the same

        with self._lock:
            if self._server is None:
                self._server = Server(self._connection, self._connections)
            return self._server
