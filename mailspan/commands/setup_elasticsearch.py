"""The part of `mailspan setup` and `mailspan retention` that works on Elasticsearch."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mailspan.errors import MailspanError, StoreError
from sink.canary_index import CANARY_DAYS, canary_indices
from sink.daily_indices import DailyIndices
from sink.elasticsearch import Server
from sink.elasticsearch_settings import connection_of
from sink.index_template import Wanted
from sink.indices import first_kept_day

if TYPE_CHECKING:
    from datetime import date

    from mailspan.settings import Settings


def set_up(settings: Settings, *, is_dry_run: bool) -> None:
    """Install or update template, lifecycle and mappings, and say so. Raises UsageError and StoreError."""
    with Server(connection_of(settings)) as server:
        server.version()
        wanted = Wanted(settings.index_shards, settings.index_replicas, settings.retention_days)
        said = set()
        for line in DailyIndices(server, settings.index_prefix).set_up(wanted, is_dry_run=is_dry_run):
            print(line)
            said.add(line)
        of_canaries = Wanted(1, settings.index_replicas, CANARY_DAYS)
        for line in canary_indices(server, settings.index_prefix).set_up(of_canaries, is_dry_run=is_dry_run):
            if line not in said:  # of the server
                print(line)


def delete_before(settings: Settings, store: str, first_kept: date, days: int, *, is_dry_run: bool) -> int:
    """Delete the daily indices before `first_kept`, or say which would be; return 0. Raises UsageError, StoreError."""
    with Server(connection_of(settings, store)) as server:
        server.version()
        indices = DailyIndices(server, settings.index_prefix)
        old = [index for index in indices.all() if index.day < first_kept]
        documents = 0
        for index in old:
            count = indices.count(index)
            documents += count or 0
            if not is_dry_run:
                indices.delete(index)
            print(f"{index.name}  {_shown(count, is_closed=index.is_closed)}")
        done = "would delete" if is_dry_run else "deleted"
        kept = f"and keep {days} days" if is_dry_run else f"{days} days are kept"
        print(f"{done} {len(old)} indices of {documents} documents of days before {first_kept}; {kept}")
        try:
            _delete_canaries(server, settings.index_prefix, is_dry_run=is_dry_run)
        except MailspanError as error:
            raise StoreError(f"mail is done, its canaries are not: {error}") from None
    return 0


def _delete_canaries(server: Server, index_prefix: str, *, is_dry_run: bool) -> None:
    """Delete the indices of canaries that are too old: those have few days of their own, and no documents of mail."""
    first_kept = first_kept_day(datetime.now(UTC).date(), CANARY_DAYS)
    indices = canary_indices(server, index_prefix)
    old = [index for index in indices.all() if index.day < first_kept]
    for index in old:
        if not is_dry_run:
            indices.delete(index)
    if old:
        print(f"{'would delete' if is_dry_run else 'deleted'} {len(old)} indices of canaries before {first_kept}")


def _shown(count: int | None, *, is_closed: bool) -> str:
    if count is None:
        return "closed" if is_closed else "not counted: not all its shards answer"
    return f"{count:>9} documents"
