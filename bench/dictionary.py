"""Makes the dictionary of snapshots: `python -m bench.dictionary` writes reducer/snapshot-3.dict.

Trained on the snapshots that the logs of the lab (tests/corpus) and the generated ones of all four servers give, some
hundred lines behind the last snapshot of each transaction, as they are when it rests. The same inputs give the same
file. A new dictionary needs a new DICTIONARY_ID: stored snapshots name theirs.
"""

from __future__ import annotations

import lzma
import random
import sys
from datetime import UTC
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import zstandard

from bench.generate import YEAR, Options, generate
from bench.world import Truth
from mailspan.event_time import TimeSettings
from mailspan.grammar import Parser
from mailspan.record import Record
from reducer.assembler import Assembler
from reducer.dictionary import DICTIONARY_ID
from reducer.snapshot import plain_part

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

CORPUS = Path("tests/corpus")
TARGET = Path(f"reducer/snapshot-{DICTIONARY_ID}.dict")
SIZE_BYTES = 24 * 1024
LINES_PER_LOG = 12_000
LINES_PER_LOOK = 400
MOST_PER_LOG = 2_000
MTAS = ("postfix", "sendmail", "exim", "opensmtpd")


def snapshots(lines: Iterable[str]) -> Iterator[bytes]:
    """Yield what would be compressed of each transaction of a log, whenever some hundred lines have changed some."""
    parser = Parser(TimeSettings(1_780_000_000, year=YEAR, zone=UTC), "mx1")
    assembler = Assembler(incremental=True)
    left = iter(lines)
    while batch := list(islice(left, LINES_PER_LOOK)):
        for line in batch:
            record = parser.parse(line)
            if isinstance(record, Record):
                assembler.apply(record)
        assembler.changed()
        for key, value in sorted(assembler.snapshot_changes().items()):
            if value is not None and key.startswith("transaction:"):
                yield plain_part(value)


def logs() -> Iterator[Iterable[str]]:
    """Yield the lines of each log."""
    for mta in MTAS:
        for options in (Options(LINES_PER_LOG, mta), Options(LINES_PER_LOG, mta, long_queue_ids=True, seed=2)):
            yield (line.rstrip("\n") for line in generate(options, Truth()))
    for path in sorted(CORPUS.glob("*.log*")) + sorted(CORPUS.glob("*mainlog*")):
        content = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
        yield content.decode(errors="surrogateescape").split("\n")[:LINES_PER_LOG]


def main() -> int:
    """Train and write the dictionary."""
    chosen = random.Random(1)
    samples: list[bytes | bytearray | memoryview] = []
    for log in logs():
        found = list(snapshots(log))
        samples += found if len(found) <= MOST_PER_LOG else chosen.sample(found, MOST_PER_LOG)
    trained = zstandard.train_dictionary(SIZE_BYTES, samples, dict_id=DICTIONARY_ID, level=3)
    TARGET.write_bytes(trained.as_bytes())
    print(f"{TARGET}: {len(trained.as_bytes())} bytes, of {len(samples)} snapshots")
    return 0


if __name__ == "__main__":
    sys.exit(main())
