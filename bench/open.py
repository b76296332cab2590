"""What open transactions cost: `python -m bench.open` (`make bench-open`).

Feeds the assembler so many mails that each are deferred once and stay open, with names that nothing else shares, as a
flood to many places has them. Prints the time per line, the peak memory of this process, and how long a new assembler
takes to restore them from their snapshots. Nothing is written.
"""

from __future__ import annotations

import argparse
import gc
import random
import resource
import string
import sys
import time
from datetime import UTC
from typing import TYPE_CHECKING

from bench.generate import YEAR
from bench.run import MAXRSS_UNITS_PER_MIB
from mailspan.event_time import TimeSettings
from mailspan.grammar import Parser
from mailspan.record import Record
from reducer.assembler import MOST_UNPACKED_ALONE, Assembler

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PER_SECOND = 300
COMMIT_MAILS = 10_000


def lines_of(number: int, names: random.Random, hosts: int) -> Iterator[str]:
    """Yield the lines of one mail: client, Message-ID, sender, and a deferral with a long status."""
    second = number // PER_SECOND
    stamp = f"Mar  9 {6 + second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}"
    head = f"{stamp} mx{number % hosts + 1} postfix/"
    queue_id = f"{names.randrange(1 << 20):05X}{0x110000 + number:X}"
    sender, target = _name(names, 8), _name(names, 9)
    address = f"{_name(names, 7)}@{target}.example.org"
    ip = ".".join(str(names.randrange(1, 255)) for _ in range(4))
    relay = f"mx1.{target}.example.org[{ip}]"
    yield f"{head}smtpd[{number % 100}]: {queue_id}: client={_name(names, 6)}.{sender}.example.net[{ip}]"
    yield f"{head}cleanup[17]: {queue_id}: message-id=<{_name(names, 20)}@{sender}.example.com>"
    yield (
        f"{head}qmgr[1]: {queue_id}: from=<{_name(names, 6)}@{sender}.example.com>, size={names.randrange(100_000)},"
        " nrcpt=1 (queue active)"
    )
    yield (
        f"{head}smtp[1012]: {queue_id}: to=<{address}>, relay={relay}:25, delay={number % 10},"
        f" delays=0.03/0.01/0/0, dsn=4.2.0, status=deferred (host {relay} said: 450 4.2.0 <{address}>: Recipient"
        f" address rejected: Greylisted, see https://grey.{target}.example.org/help.html (in reply to RCPT TO command))"
    )


def _name(names: random.Random, length: int) -> str:
    return "".join(names.choices(string.ascii_lowercase, k=length))


def peak_mib() -> float:
    """Return the most memory that this process has had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MAXRSS_UNITS_PER_MIB


def fill(mails: int, hosts: int, *, incremental: bool) -> tuple[Assembler, dict[str, bytes], float]:
    """Return an assembler with so many open mails, their snapshots where it is incremental, and the seconds it took."""
    gc.set_threshold(100_000)
    parser = Parser(TimeSettings(1_780_000_000, year=YEAR, zone=UTC), "mx1")
    assembler = Assembler(incremental=incremental, most_unpacked=MOST_UNPACKED_ALONE)
    names = random.Random(1)
    state: dict[str, bytes] = {}
    spent = 0.0
    for begin in range(0, mails, COMMIT_MAILS):
        lines = [
            line for number in range(begin, min(mails, begin + COMMIT_MAILS)) for line in lines_of(number, names, hosts)
        ]
        started = time.process_time()
        for line in lines:
            record = parser.parse(line)
            if isinstance(record, Record):
                assembler.apply(record)
        if incremental:
            assembler.changed()
            state.update({key: value for key, value in assembler.snapshot_changes().items() if value is not None})
        spent += time.process_time() - started
    return assembler, state, spent


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill, print; restore, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.open", description=__doc__)
    parser.add_argument("--mails", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--hosts", type=int, default=1, metavar="N")
    parser.add_argument("--restore", action="store_true", help="measure restoring instead: keeps the snapshots, too")
    called = parser.parse_args(arguments)
    before = peak_mib()
    assembler, state, spent = fill(called.mails, called.hosts, incremental=called.restore)
    per_line = spent / called.mails / 4 * 1e6
    print(f"{called.mails:,} open mails of {called.hosts} hosts: {per_line:.1f} µs CPU per line")
    if not called.restore:
        print(f"peak memory {peak_mib():,.0f} MiB, {before:.0f} of it before the first line")
        return 0
    del assembler
    size = sum(map(len, state.values())) / called.mails
    started = time.process_time()
    Assembler(incremental=True).restore(state)
    print(f"restored in {time.process_time() - started:.1f} s CPU; {size:.0f} bytes of snapshot each")
    return 0


if __name__ == "__main__":
    sys.exit(main())
