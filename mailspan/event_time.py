"""Event times: from the stamps that logs carry to UTC.

Pure: the reference time and the zone are given by the caller, no clock is read. RFC 3164 stamps have no year and no
zone. The year is, in this order: the forced one (`-y`), the queue ID's own where it holds the time, else the latest
year that puts the stamp at most 26 hours after the reference; inside a file it changes only where the stamps pass New
Year. An hour that comes twice (the clock is put back) is told apart by the order of the lines.
"""

from __future__ import annotations

import calendar
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo

from mailspan.record import Stamp

_SLACK_SECONDS = 26 * 3600
_MONTHS = {
    name: number
    for number, name in enumerate(
        ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"), start=1
    )
}
_LEAP_SEARCH_YEARS = 8  # 29 February comes at least once in eight years


@dataclass(frozen=True, slots=True)
class TimeSettings:
    """How to read stamps that say too little.

    `reference` is the epoch second that no line can be much later than (a file's modification time, or when a live
    line was read); `year` forces the year of the first line; `zone` None means the zone of the reading machine;
    `host_zones` has the zones of single hosts (lower-case names).
    """

    reference: int
    year: int | None = None
    zone: tzinfo | None = None
    host_zones: tuple[tuple[str, tzinfo], ...] = ()


@dataclass(frozen=True, slots=True)
class WallTime:
    """A stamp without year and zone, as RFC 3164 writes it."""

    month: int
    day: int
    hour: int
    minute: int
    second: int


def read_wall_time(month: str, day: str, hour: str, minute: str, second: str) -> WallTime | None:
    """Return the wall time, or None where no calendar has it (`Feb 30`, `25:00:00`)."""
    number = _MONTHS.get(month)
    if number is None:
        return None
    wall = WallTime(number, int(day), int(hour), int(minute), int(second))
    longest = 29 if number == 2 else calendar.monthrange(2000, number)[1]  # noqa: PLR2004
    if not 1 <= wall.day <= longest or wall.hour > 23 or wall.minute > 59 or wall.second > 60:  # noqa: PLR2004
        return None
    return wall


def _instants(year: int, wall: WallTime, zone: tzinfo | None) -> tuple[int, ...]:
    """Return the epoch seconds that the wall time stands for: none (no such day), one, or two (clock put back)."""
    try:
        moment = datetime(year, wall.month, wall.day, wall.hour, wall.minute, tzinfo=zone)
        first = int(moment.timestamp()) + wall.second
        second = int(moment.replace(fold=1).timestamp()) + wall.second
    except (ValueError, OverflowError, OSError):
        return ()
    return (first,) if first >= second else (first, second)


class Calendar:
    """Gives the stamps of one input their event times, line by line in the input's order.

    One per input and zone: it remembers the time of the line before to follow New Year and the clock put back.
    """

    def __init__(self, settings: TimeSettings, zone: tzinfo | None, first_known: int | None = None) -> None:
        """`first_known` is the time in the first queue ID of the input that holds one."""
        self._settings = settings
        self._zone = zone
        self._last: int | None = None
        self._first_known = first_known

    def place(self, wall: WallTime, known: int | None) -> tuple[int, bool] | None:
        """Return the epoch second of a stamp and whether its year is a guess; None where no year has that day.

        `known` is the time in the line's own queue ID, None where it holds none.
        """
        forced = self._settings.year
        if forced is not None and self._last is None:
            second = self._in_year(forced, wall)
        elif known is not None and forced is None:
            second = self._nearest(wall, known)
        elif self._last is not None:
            second = self._after(wall, self._last)
        elif self._first_known is not None:
            second = self._nearest(wall, self._first_known)
        else:
            second = self._before(wall, self._settings.reference + _SLACK_SECONDS)
        if second is None:
            return None
        self._last = second
        return second, forced is None

    def _in_year(self, year: int, wall: WallTime) -> int | None:
        instants = _instants(year, wall, self._zone)
        if len(instants) > 1 and self._last is not None and instants[0] < self._last - 60:
            return instants[1]
        return instants[0] if instants else None

    def _nearest(self, wall: WallTime, known: int) -> int | None:
        year = _year_of(known)
        found = [self._in_year(y, wall) for y in (year, year - 1, year + 1)]
        return min((s for s in found if s is not None), key=lambda s: abs(s - known), default=None)

    def _before(self, wall: WallTime, limit: int) -> int | None:
        year = _year_of(limit) + 1
        for candidate in range(year, year - 1 - _LEAP_SEARCH_YEARS, -1):
            second = self._in_year(candidate, wall)
            if second is not None and second <= limit:
                return second
        return None

    def _after(self, wall: WallTime, last: int) -> int | None:
        """Return the first time from a day before `last` on; none later than the reference allows."""
        year = _year_of(last) - 1
        for candidate in range(year, year + 2 + _LEAP_SEARCH_YEARS):
            second = self._in_year(candidate, wall)
            if second is not None and second >= last - _SLACK_SECONDS:
                limit = max(self._settings.reference, last) + _SLACK_SECONDS
                if second > limit and self._settings.year is None:
                    return self._before(wall, limit)
                return second
        return None


def _year_of(second: int) -> int:
    return (datetime(1970, 1, 1) + timedelta(seconds=second)).year  # noqa: DTZ001


def read_timestamp(date: str, time: str, fraction: str, zone: str) -> Stamp | None:
    """Return the stamp of an RFC 3339 time: `2026-11-23`, `07:55:08`, `123456` (or empty), `Z` or `+01:00` or `+0100`.

    A leap second (`:60`) is the second after; None where the calendar does not have it.
    """
    try:
        year, month, day = int(date[:4]), int(date[5:7]), int(date[8:10])
        hour, minute, second = int(time[:2]), int(time[3:5]), int(time[6:8])
        if second > 60 or hour > 23 or minute > 59:  # noqa: PLR2004
            return None
        base = datetime(year, month, day, hour, minute) - datetime(1970, 1, 1)  # noqa: DTZ001
    except ValueError:
        return None
    seconds = base.days * 86400 + base.seconds + second - offset_seconds(zone)
    return Stamp(seconds, int((fraction + "00")[:3]) if fraction else 0, len(fraction), guessed=False)


def offset_seconds(zone: str) -> int:
    """Return the seconds east of UTC of `Z`, `+01:00`, `-0330` or `+01`."""
    if zone[:1] not in "+-" or not zone:
        return 0
    digits = zone[1:].replace(":", "").ljust(4, "0")
    seconds = int(digits[:2]) * 3600 + int(digits[2:4]) * 60
    return -seconds if zone[0] == "-" else seconds


def format_time(second: int, millisecond: int) -> str:
    """Return an event time as the documents write it: RFC 3339, UTC, milliseconds."""
    moment = datetime(1970, 1, 1) + timedelta(seconds=second)  # noqa: DTZ001
    return f"{moment.isoformat(timespec='seconds')}.{millisecond:03d}Z"
