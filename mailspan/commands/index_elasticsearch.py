"""`mailspan index --store https://…`: log files straight into Elasticsearch, in one pass.

Nothing is kept of how far a file was read: each run reads all of it. Versions make that harmless: what is there from as
many lines or more stays.
"""

from __future__ import annotations

import gc
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tqdm import tqdm

from mailspan.clock_skew import ClockSkews
from mailspan.commands.logs import (
    EXIT_DONE,
    EXIT_FILE_FAILED,
    LineCounts,
    apply_results,
    open_inputs,
    say_counts,
    say_skews,
)
from mailspan.document import documents
from mailspan.errors import UsageError
from mailspan.terminal import sanitise
from reducer.assembler import MOST_UNPACKED_ALONE, Assembler
from sink.elasticsearch import Server
from sink.elasticsearch_settings import connection_of
from sink.elasticsearch_writer import ElasticsearchWriter
from sink.indices import first_kept_day, last_taken_day

if TYPE_CHECKING:
    import argparse
    from datetime import date

    from mailspan.transaction import Transaction

_GARBAGE_THRESHOLD = 100_000  # nothing in the hot path makes reference cycles
_WRITE_TRANSACTIONS = 2000
_PATIENCE_SECONDS = 60.0


def run(args: argparse.Namespace) -> int:
    """Index and print a summary; return 0, or 3 where a file could not be read or a document was refused.

    Raises UsageError, StoreError and NoAnswerError.
    """
    if args.follow:
        raise UsageError("--follow: not into Elasticsearch; run it again, or follow into a store of this machine")
    gc.set_threshold(_GARBAGE_THRESHOLD)
    settings = args.settings
    with Server(connection_of(settings, args.store)) as server:
        server.version()
        today = datetime.now(UTC).date()
        writer = ElasticsearchWriter(
            server,
            settings.index_prefix,
            _first_kept(today, settings.retention_days),
            last_taken=last_taken_day(today),
            patience_seconds=_PATIENCE_SECONDS,
        )
        indexing = _Indexing(writer)
        inputs = open_inputs(args)
        assembler = Assembler(rejections=settings.rejections == "index", most_unpacked=MOST_UNPACKED_ALONE)
        try:
            with tqdm(total=inputs.packed_bytes, unit="B", unit_scale=True, disable=None, leave=False) as bar:
                for batch in inputs.batches():
                    apply_results(batch.results, assembler.apply, indexing.counts)
                    for transaction in assembler.forgotten():
                        indexing.add(transaction)
                    bar.update(inputs.packed_bytes_done - bar.n)
            for transaction in assembler.remaining():
                indexing.add(transaction)
            indexing.write()
        finally:
            indexing.tell_refused()  # also where the run ends with an error
    say_skews(indexing.skews, args.zone)
    if args.stats:
        say_counts(indexing.counts)
    return EXIT_FILE_FAILED if indexing.summary(server.shown) or inputs.faults else EXIT_DONE


def _first_kept(today: date, days: int) -> date:
    """Return the oldest day that is kept: the first of all where more days are kept than there are."""
    return first_kept_day(today, min(days, today.toordinal()))


class _Indexing:
    """Gathers transactions and writes them; counts what became of them."""

    def __init__(self, writer: ElasticsearchWriter) -> None:
        self.counts = LineCounts()
        self.skews = ClockSkews()
        self._writer = writer
        self._waiting: list[Transaction] = []
        self._indexed = self._expired = 0

    def add(self, transaction: Transaction) -> None:
        """Take a transaction that no line will change any more."""
        self._waiting.append(transaction)
        if len(self._waiting) >= _WRITE_TRANSACTIONS:
            self.write()

    def write(self) -> None:
        """Write what waits. Raises StoreError."""
        found = [document for transaction in self._waiting for document in documents(transaction)]
        self._waiting = []
        for document in found:
            if document["notes"]:
                self.skews.add(document)
        result = self._writer.write(found)
        self._indexed += result.indexed
        self._expired += result.expired

    def summary(self, shown: str) -> bool:
        """Print what was done; return whether documents were refused."""
        if self._expired:
            _say(f"{self._expired} documents are of days older than MAILSPAN_RETENTION_DAYS: left out")
        lines = self.counts.lines
        print(
            f"indexed {self._indexed} {'document' if self._indexed == 1 else 'documents'}"
            f" from {lines} {'line' if lines == 1 else 'lines'} into {sanitise(shown)}"
        )
        return bool(self._writer.refused)

    def tell_refused(self) -> None:
        """Say on stderr how many documents were refused, and why the first was."""
        refused = self._writer.refused
        if refused:
            _say(f"{len(refused)} documents were refused; the first: {refused[0][0]}: {refused[0][1]}")


def _say(message: str) -> None:
    sys.stderr.write(f"mailspan: {sanitise(message)}\n")
