"""`mailspan retention`: delete the documents of days that are too old.

Days are whole days of UTC, by the date of the document. Today and the days before it, N in all, are kept.
"""

from __future__ import annotations

import os
import re
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mailspan.commands.setup_elasticsearch import delete_before as delete_before_on_server
from mailspan.errors import UsageError
from sink.elasticsearch_settings import is_elasticsearch
from sink.indices import first_kept_day
from sink.sqlite_retention import days_before, delete_before
from sink.sqlite_schema import path_of_store

if TYPE_CHECKING:
    import argparse
    from datetime import date
    from pathlib import Path

DESCRIPTION = (
    "Delete documents older than --days whole days (UTC, by their date; today counts). What `index` still reads of"
    " deleted days is left out from then on; run it with more days to let them in again."
)

_DONE = 0
_POSITIVE = re.compile("0*[1-9][0-9]{0,5}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `retention`."""
    add = parser.add_argument
    add("--days", metavar="N", help="how many days are kept (default: MAILSPAN_RETENTION_DAYS, else 90)")
    add("--dry-run", action="store_true", help="say what would be deleted, and delete nothing")
    add("--store", metavar="URL", help="sqlite:///PATH, https://HOST:9200 (default: MAILSPAN_STORE, else a file)")


def run(args: argparse.Namespace) -> int:
    """Delete and say what; return 0. Raises UsageError and StoreError."""
    days = args.settings.retention_days if args.days is None else _days(args.days)
    if is_elasticsearch(args.store or ""):
        first_kept = first_day(datetime.now(UTC).date(), days)
        return delete_before_on_server(args.settings, args.store, first_kept, days, is_dry_run=args.dry_run)
    return delete_old(
        path_of_store(args.store, os.environ), days, today=datetime.now(UTC).date(), is_dry_run=args.dry_run
    )


def delete_old(path: Path, days: int, *, today: date, is_dry_run: bool) -> int:
    """Delete from the store at `path` what is older than `days`, or say what would be; return 0.

    Raises UsageError and StoreError.
    """
    first_kept = first_day(today, days)
    found = days_before(path, first_kept)
    documents = sum(each.documents for each in found)
    if is_dry_run:
        for each in found:
            print(f"{each.day}  {each.documents:>9} documents")
        print(f"would delete {documents} documents of {len(found)} days before {first_kept}, and keep {days} days")
        return _DONE
    deleted = delete_before(path, first_kept, _progress if sys.stderr.isatty() else None)
    print(f"deleted {deleted} documents of {len(found)} days before {first_kept}; {days} days are kept in {path}")
    return _DONE


def first_day(today: date, days: int) -> date:
    """Return the oldest of the days that are kept. Raises UsageError where there are not so many."""
    try:
        return first_kept_day(today, days)
    except OverflowError:
        message = f"--days, MAILSPAN_RETENTION_DAYS: there are not so many days before {today}: {days}"
        raise UsageError(message) from None


def _progress(deleted: int) -> None:
    sys.stderr.write(f"\rdeleted {deleted} ")
    sys.stderr.flush()


def _days(text: str) -> int:
    if not _POSITIVE.fullmatch(text):
        raise UsageError(f"--days {text!r}: expected a whole number from 1 to 999999")
    return int(text)
