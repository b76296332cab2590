"""`mailspan index`: log files into the store that `search` reads.

May be run again, on the same, grown or rotated files: each commit keeps documents, the snapshots of open transactions
and the positions in the files together, so nothing is doubled and nothing lost, whenever a run ends.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from typing import TYPE_CHECKING

from tqdm import tqdm

from mailspan.clock_skew import ClockSkews
from mailspan.commands.logs import (
    EXIT_DONE,
    EXIT_FILE_FAILED,
    LineCounts,
    add_log_arguments,
    apply_results,
    open_inputs,
    say_skews,
)
from mailspan.errors import StoreError
from mailspan.terminal import sanitise
from reducer.assembler import Assembler
from reducer.snapshot import SnapshotError
from sink.sqlite import SqliteStore, open_for_writing
from sink.sqlite_schema import path_of_store
from sink.store import WriteResult

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from mailspan.inputs import Inputs

DESCRIPTION = "Log files into the store that search reads; may be run again without doubling or losing anything."

_GARBAGE_THRESHOLD = 100_000  # nothing in the hot path makes reference cycles
_COMMIT_LINES = 50_000
_COMMIT_SECONDS = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `index`."""
    add_log_arguments(parser)
    parser.add_argument(
        "--store", metavar="URL", help="sqlite:///PATH (default: mailspan.db in the user's data folder)"
    )
    parser.add_argument("--stats", action="store_true", help="count the lines on stderr: applied, ignored, unparsed")


def run(args: argparse.Namespace) -> int:
    """Index and print a summary; return 0, or 3 where a file could not be read to its end.

    Blocks while another process writes to the store. Raises UsageError and StoreError.
    """
    gc.set_threshold(_GARBAGE_THRESHOLD)
    path = path_of_store(args.store, os.environ)
    counts = LineCounts()
    skews = ClockSkews()
    with open_for_writing(path, on_wait=_say) as store:
        assembler = _restore(store, path, rejections=args.settings.rejections == "index")
        inputs = open_inputs(args, stored=store.load_inputs(), use_last_line=False)
        written = _index(inputs, assembler, store, counts, skews)
    say_skews(skews, args.zone)
    if args.stats:
        for row in counts.table():
            sys.stderr.write(row + "\n")
    if written.expired:
        _say(f"{written.expired} documents are of days that `mailspan retention` has deleted: left out")
    print(f"indexed {written.indexed} documents from {counts.lines} new lines into {sanitise(str(path))}")
    return EXIT_FILE_FAILED if inputs.faults else EXIT_DONE


def _restore(store: SqliteStore, path: Path, *, rejections: bool) -> Assembler:
    assembler = Assembler(incremental=True, rejections=rejections)
    try:
        assembler.restore(store.load_state())
    except SnapshotError as error:
        raise StoreError(f"{path}: its open transactions cannot be read ({error}); index into a new store") from error
    return assembler


def _index(
    inputs: Inputs, assembler: Assembler, store: SqliteStore, counts: LineCounts, skews: ClockSkews
) -> WriteResult:
    """Read all inputs, with a commit now and then; return what became of the documents of all commits."""
    results = []
    committed_lines, committed_at = 0, time.monotonic()
    with tqdm(total=inputs.packed_bytes, unit="B", unit_scale=True, disable=None, leave=False) as bar:
        for batch in inputs.batches():
            apply_results(batch.results, assembler.apply, counts)
            bar.update(inputs.packed_bytes_done - bar.n)
            now = time.monotonic()
            if counts.lines - committed_lines >= _COMMIT_LINES or now - committed_at >= _COMMIT_SECONDS:
                results.append(_commit(inputs, assembler, store, skews))
                committed_lines, committed_at = counts.lines, now
    results.append(_commit(inputs, assembler, store, skews))
    return WriteResult(
        indexed=sum(each.indexed for each in results),
        superseded=sum(each.superseded for each in results),
        expired=sum(each.expired for each in results),
    )


def _commit(inputs: Inputs, assembler: Assembler, store: SqliteStore, skews: ClockSkews) -> WriteResult:
    """Keep all that came of the lines so far, and how far the files were read, in one transaction of the store."""
    changes = assembler.changed()
    for document in changes.documents:
        if document["notes"]:
            skews.add(document)
    state = assembler.snapshot_changes()
    return store.commit(changes.documents, state, inputs.position_changes(), withdrawn=changes.withdrawn)


def _say(message: str) -> None:
    sys.stderr.write(f"mailspan: {message}\n")
