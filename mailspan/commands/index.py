"""`mailspan index`: log files into the store that `search` reads.

May be run again, on the same, grown or rotated files: each commit keeps documents, the snapshots of open transactions
and the positions in the files together, so nothing is doubled and nothing lost, whenever a run ends.
With --follow it goes on as the files grow (follow.py).
"""

from __future__ import annotations

import gc
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from mailspan.clock_skew import ClockSkews
from mailspan.commands.follow import Stop, follow
from mailspan.commands.logs import (
    EXIT_DONE,
    EXIT_FILE_FAILED,
    LineCounts,
    add_log_arguments,
    apply_results,
    open_following,
    open_inputs,
    say_counts,
    say_skews,
)
from mailspan.errors import StoreError, UsageError
from mailspan.inputs.files import STDIN
from mailspan.terminal import sanitise
from reducer.assembler import MOST_UNPACKED_ALONE, Assembler
from reducer.snapshot import SnapshotError
from sink.elasticsearch_settings import is_elasticsearch
from sink.sqlite import SqliteStore, open_for_writing
from sink.sqlite_schema import path_of_store

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from mailspan.inputs import Taken

DESCRIPTION = "Log files into the store that search reads; may be run again without doubling or losing anything."

_GARBAGE_THRESHOLD = 100_000  # nothing in the hot path makes reference cycles
COMMIT_LINES = 50_000
_COMMIT_SECONDS = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `index`."""
    add_log_arguments(parser)
    parser.add_argument(
        "--store", metavar="URL", help="sqlite:///PATH, https://HOST:9200 (default: mailspan.db in your data folder)"
    )
    parser.add_argument("--follow", action="store_true", help="go on as the files grow, until SIGTERM or Ctrl-C")
    parser.add_argument("--stats", action="store_true", help="count the lines on stderr: applied, ignored, unparsed")


def run(args: argparse.Namespace) -> int:
    """Index and print a summary; return 0, or 3 where a file could not be read to its end.

    Blocks while another process writes to the store. Raises UsageError and StoreError.
    """
    if is_elasticsearch(args.store or ""):
        from mailspan.commands import index_elasticsearch  # noqa: PLC0415 - its client is slow to import

        return index_elasticsearch.run(args)
    gc.set_threshold(_GARBAGE_THRESHOLD)
    path = path_of_store(args.store, os.environ)
    if args.follow and STDIN in args.files:
        raise UsageError("--follow needs the names of files; standard input is read to its end without it")
    with open_for_writing(path, on_wait=_say) as store:
        indexing = Indexing(store, _restore(store, path, rejections=args.settings.rejections == "index"))
        faults = _follow(args, store, indexing) if args.follow else _read(args, store, indexing)
    say_skews(indexing.skews, args.zone)
    if args.stats:
        say_counts(indexing.counts)
    if indexing.expired:
        _say(f"{indexing.expired} documents are of days that `mailspan retention` has deleted: left out")
    written, lines = indexing.written, indexing.counts.lines
    print(
        f"indexed {written} {'document' if written == 1 else 'documents'}"
        f" from {lines} new {'line' if lines == 1 else 'lines'} into {sanitise(str(path))}"
    )
    return EXIT_FILE_FAILED if faults else EXIT_DONE


class Indexing:
    """Puts lines into the store: all that came of them is kept in one commit with how far the files were read."""

    def __init__(self, store: SqliteStore, assembler: Assembler) -> None:
        self.counts = LineCounts()
        self.skews = ClockSkews()
        self.expired = 0
        """How many documents were not kept: `mailspan retention` had deleted their days."""
        self.written = 0
        """How many times a document was written: one that changes after a commit is written again."""
        self._store = store
        self._assembler = assembler
        self._committed_lines = 0
        self._committed_at = time.monotonic()

    def apply(self, batch: Taken) -> bool:
        """Apply the results and say whether it is time for a commit."""
        apply_results(batch.results, self._assembler.apply, self.counts)
        new_lines = self.counts.lines - self._committed_lines
        return new_lines >= COMMIT_LINES or time.monotonic() - self._committed_at >= _COMMIT_SECONDS

    def commit(self, positions: Mapping[str, bytes | None]) -> None:
        """Keep it; `positions` are the changes of how far the files were read. Raises StoreError."""
        changes = self._assembler.changed()
        for document in changes.documents:
            if document["notes"]:
                self.skews.add(document)
        state = self._assembler.snapshot_changes()
        result = self._store.commit(changes.documents, state, positions, withdrawn=changes.withdrawn)
        self.written += result.indexed
        self.expired += result.expired
        self._committed_lines, self._committed_at = self.counts.lines, time.monotonic()


def _restore(store: SqliteStore, path: Path, *, rejections: bool) -> Assembler:
    assembler = Assembler(incremental=True, rejections=rejections, most_unpacked=MOST_UNPACKED_ALONE)
    try:
        assembler.restore(store.load_state())
    except SnapshotError as error:
        raise StoreError(f"{path}: its open transactions cannot be read ({error}); index into a new store") from error
    return assembler


def _read(args: argparse.Namespace, store: SqliteStore, indexing: Indexing, stop: Stop | None = None) -> int:
    """Read all files to their ends, or until `stop`; return the number of faults."""
    inputs = open_inputs(args, stored=store.load_inputs(), use_last_line=False, is_followed=stop is not None)
    with tqdm(total=inputs.packed_bytes, unit="B", unit_scale=True, disable=None, leave=False) as bar:
        for batch in inputs.batches():
            is_due = indexing.apply(batch)
            bar.update(inputs.packed_bytes_done - bar.n)
            if is_due:
                indexing.commit(inputs.position_changes())
            if stop:
                break
    indexing.commit(inputs.position_changes())
    return inputs.faults


def _follow(args: argparse.Namespace, store: SqliteStore, indexing: Indexing) -> int:
    """Read what is there, then what is added, until a signal ends it; return the number of faults."""
    stop = Stop()
    following = open_following(args)
    # One that is not there yet is no fault, and what cannot be followed is told by `following`.
    args.files = [name for name in args.files if Path(name).is_file()]
    try:
        faults = _read(args, store, indexing, stop)
        following.start(store.load_inputs())
        follow(following, stop, indexing.apply, lambda: indexing.commit(following.position_changes()))
    finally:
        following.close()
    return faults + following.faults


def _say(message: str) -> None:
    sys.stderr.write(f"mailspan: {message}\n")
