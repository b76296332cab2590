"""`mailspan parse`: log files to documents, as JSON lines on stdout; no store, no server.

Each document is written once, in its last form: when its transaction is forgotten, or at the end. So memory holds the
open transactions only, however long the logs are.
"""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING

import orjson

from mailspan.clock_skew import ClockSkews
from mailspan.commands.logs import (
    EXIT_DONE,
    EXIT_FILE_FAILED,
    LineCounts,
    add_log_arguments,
    apply_results,
    open_inputs,
    say_counts,
    say_skews,
)
from mailspan.document import documents
from mailspan.record import Ignored, Record
from mailspan.terminal import sanitise, sanitise_json
from reducer.assembler import MOST_UNPACKED_ALONE, Assembler

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from mailspan.inputs import Taken
    from mailspan.transaction import Transaction

DESCRIPTION = "Log files to transactions, one JSON document a line, on stdout."

_GARBAGE_THRESHOLD = 100_000  # nothing in the hot path makes reference cycles
_WRITE_TRANSACTIONS = 2000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `parse`."""
    add_log_arguments(parser)
    parser.add_argument("--stats", action="store_true", help="count the lines on stderr: applied, ignored, unparsed")
    parser.add_argument("--unparsed", action="store_true", help="print the lines that were not understood on stderr")
    parser.add_argument("--json", action="store_true", help="print documents as JSON lines (always so)")


def run(args: argparse.Namespace) -> int:
    """Parse and print; return 0, or 3 where a file could not be read to its end. Raises UsageError."""
    gc.set_threshold(_GARBAGE_THRESHOLD)
    inputs = open_inputs(args)
    assembler = Assembler(rejections=args.settings.rejections == "index", most_unpacked=MOST_UNPACKED_ALONE)
    counts = LineCounts()
    for_terminal = sys.stdout.isatty()
    skews = ClockSkews()
    finished: list[Transaction] = []
    for batch in inputs.batches():
        apply_results(batch.results, assembler.apply, counts)
        if args.unparsed:
            _print_unparsed(batch)
        finished += assembler.forgotten()
        if len(finished) >= _WRITE_TRANSACTIONS:
            _write(finished, skews, for_terminal=for_terminal)
            finished.clear()
    for transaction in assembler.remaining():
        finished.append(transaction)
        if len(finished) >= _WRITE_TRANSACTIONS:
            _write(finished, skews, for_terminal=for_terminal)
            finished.clear()
    _write(finished, skews, for_terminal=for_terminal)
    sys.stdout.flush()
    say_skews(skews, args.zone)
    if args.stats:
        say_counts(counts)
    return EXIT_FILE_FAILED if inputs.faults else EXIT_DONE


def _write(transactions: Iterable[Transaction], skews: ClockSkews, *, for_terminal: bool) -> None:
    dumps = orjson.dumps
    encoded = []
    for transaction in transactions:
        for document in documents(transaction):
            if document["notes"]:
                skews.add(document)
            encoded.append(dumps(document))
    if not encoded:
        return
    encoded.append(b"")
    output = b"\n".join(encoded)
    if for_terminal:
        output = "\n".join(map(sanitise_json, output.decode().split("\n"))).encode()
    sys.stdout.buffer.write(output)


def _print_unparsed(batch: Taken) -> None:
    for result, line in zip(batch.results, batch.lines, strict=True):
        if not isinstance(result, (Record, Ignored)):
            program = sanitise(result.program) or "no program"
            sys.stderr.write(f"unparsed: {program}: {result.reason}: {sanitise(line)}\n")
