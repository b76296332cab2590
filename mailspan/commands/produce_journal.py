"""`mailspan produce journal`: the systemd journal, from the entry behind the last one that arrived."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from mailspan.commands.logs import EXIT_DONE, EXIT_FILE_FAILED
from mailspan.commands.producing import END_SECONDS, IDLE_SECONDS, TOLD_SECONDS, say
from mailspan.errors import UsageError
from producers import figures
from producers.journal import STATE_NAME, Journal, JournalSettings

if TYPE_CHECKING:
    import argparse

    from mailspan.commands.producing import Surroundings
    from producers.state_folder import StateFolder

__all__ = ["STATE_NAME", "add_arguments", "check", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `produce journal`."""
    add = parser.add_argument
    add("--unit", metavar="UNIT", action="append", help="journal: only this unit; may be repeated")
    add("--identifier", metavar="NAME", action="append", help="journal: only this syslog identifier; may be repeated")
    add("--directory", metavar="DIR", help="journal: the folder with the journal files (default: this machine's)")


def check(args: argparse.Namespace) -> None:
    """Raise UsageError where another input has arguments of this one."""
    given = [name for name in ("unit", "identifier", "directory") if getattr(args, name)]
    if given and args.input != "journal":
        raise UsageError(f"--{given[0]} is an argument of `produce journal`")


def run(
    args: argparse.Namespace,
    state: StateFolder,
    around: Surroundings,
    *,
    host: str,
    observer: str,
) -> int:
    """Produce until told to stop, or with --once until all has arrived; then 3 where it could not be read."""
    settings = JournalSettings(
        host=host,
        observer=observer,
        units=args.unit or (),
        identifiers=args.identifier or (),
        directory=Path(args.directory) if args.directory else None,
        is_followed=not args.once,
    )
    journal = Journal(settings, state, around.topic, around.clock, say)
    around.show(lambda: figures.of_journal(journal, around.topic))
    told_at = time.monotonic()
    try:
        while not around.stop.is_set and not (journal.is_ended and journal.is_settled):
            around.turn()
            journal.step(IDLE_SECONDS)
            if time.monotonic() - told_at >= TOLD_SECONDS:
                told_at = time.monotonic()
                _tell(journal)
        deadline = time.monotonic() + END_SECONDS
        while not journal.is_settled and time.monotonic() < deadline:
            journal.settle(IDLE_SECONDS)
    finally:
        journal.close()
    _tell(journal, "stopped; ")
    return EXIT_FILE_FAILED if args.once and (journal.is_failing or not journal.is_settled) else EXIT_DONE


def _tell(journal: Journal, before: str = "") -> None:
    lines, counts = journal.arrived.lines, journal.counts
    say(f"{before}lines={lines} passed_over={counts.passed_over.total()} lost_cursors={counts.lost_cursors}")
