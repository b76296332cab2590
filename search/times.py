"""Times as users write them, for -d and -D.

The present time and the zone come from the caller: nothing here reads a clock. Written times
without a zone are the reader's local time. What is given back is always an instant.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache

from mailspan.errors import UsageError

EXPECTED = (
    "expected 'YYYY-MM-DD', 'YYYY-MM-DD HH:MM[:SS]', an RFC 3339 time, today, yesterday, now, "
    "or how long ago: 30m, 2h, 7d, 1w"
)

_AGO = re.compile(r"(\d{1,9})\s*([smhdw])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_STAMP = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[Tt ](\d\d:\d\d(?::\d\d(?:[.,]\d{1,9})?)?)\s?([Zz]|[+-]\d\d:?\d\d)?)?", re.ASCII
)
_DAYS_AGO = {"today": 0, "yesterday": 1}


def parse_time(flag: str, text: str, *, now: datetime, zone: tzinfo | None, is_end: bool) -> int:
    """Return the instant that `text` means, in milliseconds since 1970 UTC.

    `now` knows its zone. `zone` is the reader's, None the machine's. A whole day means its first
    instant, or with `is_end` the first one after it. Raises UsageError, which names `flag`, `text`
    and what is expected.
    """
    try:
        instant = _instant(text.strip(), now, zone, is_end=is_end)
    except (ValueError, OverflowError, OSError):
        instant = None
    if instant is None:
        raise UsageError(f"{flag} {text!r}: not a time; {EXPECTED}")
    return round(instant.timestamp() * 1000)


@lru_cache(maxsize=16_384)
def milliseconds(stamp: str) -> int:
    """Return a document's RFC 3339 stamp in milliseconds since 1970 UTC."""
    return round(datetime.fromisoformat(stamp).timestamp() * 1000)


def in_zone(moment: datetime, zone: tzinfo | None) -> datetime:
    """Return an instant in the reader's zone, None the machine's; in UTC where that is past the last year there is."""
    try:
        return moment.astimezone(zone)
    except OverflowError:
        return moment.astimezone(UTC)


def _instant(text: str, now: datetime, zone: tzinfo | None, *, is_end: bool) -> datetime | None:
    word = text.lower()
    if word == "now":
        return now
    if ago := _AGO.fullmatch(word):
        return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    if word in _DAYS_AGO:
        day = now.astimezone(zone).date() - timedelta(days=_DAYS_AGO[word])
        return _day(datetime(day.year, day.month, day.day), zone, is_end=is_end)  # noqa: DTZ001 - _local gives the zone
    stamp = _STAMP.fullmatch(text)
    if stamp is None:
        return None
    on, at, offset = stamp.groups()
    if at is None:
        return _day(datetime.fromisoformat(on), zone, is_end=is_end)
    moment = datetime.fromisoformat(f"{on}T{at.replace(',', '.')}{(offset or '').upper()}")
    return moment if offset else _local(moment, zone)


def _day(midnight: datetime, zone: tzinfo | None, *, is_end: bool) -> datetime:
    if is_end and midnight.date() == date.max:
        return _local(datetime.combine(date.max, time(23, 59, 59, 999_000)), zone)  # the last millisecond there is
    return _local(midnight + timedelta(days=1) if is_end else midnight, zone)


def _local(moment: datetime, zone: tzinfo | None) -> datetime:
    """Return a local time as an instant; on the first and last days there are, in UTC where a zone leaves them."""
    try:
        return moment.astimezone() if zone is None else moment.replace(tzinfo=zone).astimezone(UTC)
    except (OverflowError, ValueError):
        return moment.replace(tzinfo=UTC)
