"""What commands that read a store share: which store is meant, and what its answers lack."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mailspan.terminal import sanitise
from sink.elasticsearch_settings import connection_of, is_elasticsearch
from sink.sqlite_reader import SqliteReader
from sink.sqlite_schema import path_of_store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mailspan.settings import Settings
    from sink.store import DocumentReader


@contextmanager
def open_reader(store: str | None, settings: Settings) -> Iterator[DocumentReader]:
    """Open the store that `--store`, else MAILSPAN_STORE, else the default names. Raises UsageError and StoreError."""
    if store is None or not is_elasticsearch(store):
        with SqliteReader(path_of_store(store, os.environ)) as sqlite:
            yield sqlite
        return
    # Both are slow to import, and SQLite needs neither.
    from sink.elasticsearch import Server  # noqa: PLC0415
    from sink.elasticsearch_reader import ElasticsearchReader  # noqa: PLC0415

    with Server(connection_of(settings, store)) as server:
        server.version()
        yield ElasticsearchReader(server, settings.index_prefix)


def say_what_is_missing(reader: DocumentReader, gaps: Sequence[str] | None = None) -> bool:
    """Say on stderr what the answers lacked; return whether something that is there could not be read.

    `gaps` are those that matter, where not all of the reader's do.
    """
    for message in (*(reader.gaps if gaps is None else gaps), *reader.faults):
        sys.stderr.write(f"mailspan: {sanitise(message)}\n")
    return bool(reader.faults)
