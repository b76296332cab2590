"""The names of the daily indices: PREFIX-YYYY.MM.DD, the day of a document's date in UTC. Pure.

Only a name that is exactly one of these is ours; anything that merely looks like one is never written nor deleted.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

DAY_MS = 86_400_000
DAYS_AHEAD = 7
"""So many days after today are written. A live line is at most a day ahead of the clock of its producer; a week is for
clocks that are wrong by days. Each day that is written is an index: without a bound, a flood of absurd stamps would
take all the shards that a cluster may have."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def first_kept_day(today: date, days: int) -> date:
    """Return the oldest of the `days` days that are kept; today (UTC) is the newest of them. Raises OverflowError."""
    return today - timedelta(days=days - 1)


def last_taken_day(today: date) -> date:
    """Return the newest day that is written, DAYS_AHEAD of today (UTC), or the last of all."""
    return today + timedelta(days=min(DAYS_AHEAD, date.max.toordinal() - today.toordinal()))


def index_of(prefix: str, document_date: str) -> str:
    """Return the index of a document by its `date` (RFC 3339, UTC)."""
    return f"{prefix}-{document_date[:4]}.{document_date[5:7]}.{document_date[8:10]}"


def index_of_day(prefix: str, day: date) -> str:
    """Return the index of a day."""
    return f"{prefix}-{day.year:04}.{day.month:02}.{day.day:02}"


def day_of(prefix: str, name: str) -> date | None:
    """Return the day of a daily index; None for a name that is none of ours."""
    try:
        year, month, day = (int(part) for part in name.removeprefix(f"{prefix}-").split("."))
        found = date(year, month, day)
    except ValueError:
        return None
    return found if name == index_of_day(prefix, found) else None


def day_of_ms(milliseconds: int) -> date:
    """Return the day of an instant in milliseconds since 1970 UTC."""
    return (_EPOCH + timedelta(days=milliseconds // DAY_MS)).date()
