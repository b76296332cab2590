"""Event times: from the stamps that logs carry to UTC.

Pure: the reference time and the zone are given by the caller, no clock is read. RFC 3164 stamps have no year and no
zone. The year is, in this order: the forced one (`-y`), the queue ID's own where it holds the time, else the latest
year that puts the stamp at most 26 hours after the reference; inside a file it changes only where the stamps pass New
Year (`YearCount`), and it is the file's last stamp that the reference dates (`Survey`). An hour that comes twice (the
clock is put back) is told apart by the order of the lines, and by the queue ID: no line is older than its ID.

A queue ID is log text, so it may be forged, or much older than its line (a mail that waited). Its year counts where
that makes its line one of a young mail; alone among lines of another year it moves none of them, and two must agree.
"""

from __future__ import annotations

import calendar
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import NamedTuple

from mailspan.record import Stamp

_DAY = 86400
_SLACK_SECONDS = 26 * 3600
_YOUNG_SECONDS = 6 * _DAY  # a queue lifetime and a day: most lines are of younger mail
_CLOSE_SECONDS = 3600
_JITTER_SECONDS = 60  # lines come out of order by less
_LIVE_PAST_SECONDS, _LIVE_FUTURE_SECONDS = 400 * _DAY, _DAY
# How far apart two lines in a row may be, in either direction, decides which year the later one is of.
_STRAGGLER_SECONDS = 7 * _DAY  # from January to December: a line that came late, not a gap of nearly a year
_LATE_SECONDS = 120 * _DAY  # back in the year: a late line, or files put together in another order
_HALF_YEAR_SECONDS = 183 * _DAY
_LOST_CLOCK_SECONDS = 2 * _DAY  # into January: there a clock begins that was lost (1970)
_RETURN_SECONDS = 31 * _DAY  # it comes back near where it was
_YEAR_SECONDS = 365.25 * _DAY
_MONTHS = {
    name: number
    for number, name in enumerate(
        ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"), start=1
    )
}
_DAYS_BEFORE = {month: sum(calendar.monthrange(2000, m)[1] for m in range(1, month)) for month in range(1, 13)}
FIRST_YEAR, LAST_YEAR = 1900, 9998  # with any zone and a leap second, still years that a document can write
_ENOUGH_IDS = 16
_SURVEY_YEARS = 40
_LEAP_SEARCH_YEARS = 8  # 29 February comes at least once in eight years


@dataclass(frozen=True, slots=True)
class TimeSettings:
    """How to read stamps that say too little.

    `reference` is the epoch second that no line can be much later than (a file's modification time, or when a live
    line was read); `year` forces the year of the first line; `zone` None means the zone of the reading machine;
    `host_zones` has the zones of single hosts (lower-case names). With `is_live` (lines read as they are written) a
    stamp more than 400 days before or a day after the reference counts as the reference: some clock is wrong. Files
    may be of any age.
    """

    reference: int
    year: int | None = None
    zone: tzinfo | None = None
    host_zones: tuple[tuple[str, tzinfo], ...] = ()
    is_live: bool = False


@dataclass(frozen=True, slots=True)
class WallTime:
    """A stamp without a zone, and mostly without a year, as RFC 3164 writes it."""

    month: int
    day: int
    hour: int
    minute: int
    second: int
    year: int | None = None

    @property
    def in_year(self) -> int:
        """The seconds since the year began, in a year with a 29 February: it orders stamps without a year."""
        days = _DAYS_BEFORE[self.month] + self.day - 1
        return days * _DAY + self.hour * 3600 + self.minute * 60 + self.second

    @property
    def is_leap_day(self) -> bool:
        """Whether only leap years have it."""
        return self.month == 2 and self.day == 29  # noqa: PLR2004


def read_wall_time(
    month: str, day: str, hour: str, minute: str, second: str, year: str | None = None
) -> WallTime | None:
    """Return the wall time, or None where no calendar has it (`Feb 30`, `25:00:00`). A month is `Nov` or `11`."""
    number = int(month) if month.isdigit() else _MONTHS.get(month, 0)
    wall = WallTime(number, int(day), int(hour), int(minute), int(second), None if year is None else int(year))
    if not 1 <= number <= 12 or wall.hour > 23 or wall.minute > 59 or wall.second > 60:  # noqa: PLR2004
        return None
    if wall.year is not None and not FIRST_YEAR <= wall.year <= LAST_YEAR:
        return None
    longest = calendar.monthrange(2000 if wall.year is None else wall.year, number)[1]
    return wall if 1 <= wall.day <= longest else None


def _instants(year: int, wall: WallTime, zone: tzinfo | None) -> tuple[int, ...]:
    """Return the epoch seconds that the wall time stands for: none (no such day), one, or two (clock put back)."""
    try:
        moment = datetime(year, wall.month, wall.day, wall.hour, wall.minute, tzinfo=zone)
        first = int(moment.timestamp()) + wall.second
        second = int(moment.replace(fold=1).timestamp()) + wall.second
    except (ValueError, OverflowError, OSError):
        return ()
    return (first,) if first >= second else (first, second)


class YearCount:
    """Follows the year along stamps without one: it changes where they pass New Year, in either direction."""

    __slots__ = ("_before", "_in_year", "year")

    def __init__(self, year: int, in_year: int) -> None:
        self.year = year
        self._in_year = in_year
        self._before: tuple[int, int] | None = None  # the year and place that were left when the year last rose

    def next(self, in_year: int) -> int:
        """Return the year of the stamp that comes next."""
        ahead = in_year - self._in_year
        if ahead > 366 * _DAY - _STRAGGLER_SECONDS:
            return self.year - 1
        if ahead > _HALF_YEAR_SECONDS and self._before is not None and self._in_year < _LOST_CLOCK_SECONDS:
            year, left = self._before
            if -_STRAGGLER_SECONDS <= in_year - left <= _RETURN_SECONDS:
                return year  # a host without a clock began at 1 January, and has got the time since
        return self.year + 1 if ahead < -_LATE_SECONDS else self.year

    def go_on(self, year: int, in_year: int) -> None:
        """Take a stamp as the last one."""
        if year > self.year:
            self._before = (self.year, self._in_year)
        elif self._before is not None and year < self.year and year == self._before[0]:
            self._before = None
        self.year = year
        self._in_year = in_year


class Survey:
    """What the stamps of an input, or samples of them, tell of its first year before it is read."""

    def __init__(self) -> None:
        self.first: WallTime | None = None
        self._last: WallTime | None = None
        self._count = YearCount(0, 0)
        self._leap_years: set[int] = set()
        self._young: dict[str, int] = {}  # by queue ID, or stamp with a year: the first year of the input that it tells
        self._old: dict[str, int] = {}
        self._timed = self._untimed = 0  # lines

    @property
    def is_sure(self) -> bool:
        """Whether more lines would not tell more."""
        return len(self._young) >= _ENOUGH_IDS

    def add(self, wall: WallTime, zone: tzinfo | None, queue_id: str | None, known: int | None) -> None:
        """Add the stamp of the next line and, if there is one, its queue ID with the time that it holds."""
        if self.first is None:
            self.first = wall
            self._count = YearCount(0, wall.in_year)
        year = self._count.next(wall.in_year)
        self._count.go_on(year, wall.in_year)
        self._last = wall
        if wall.is_leap_day:
            self._leap_years.add(year)
        if wall.year is not None:
            self._timed += 1
            self._young.setdefault(f"{wall.year} {wall.in_year}", wall.year - year)
            return
        found = None if known is None else _first_after(wall, zone, known - _SLACK_SECONDS)
        if queue_id is None:
            return
        if found is None or known is None:
            self._untimed += 1
        else:
            self._timed += 1
            votes = self._young if found[1] - known <= _YOUNG_SECONDS else self._old
            votes.setdefault(queue_id, found[0] - year)

    def first_year(self, zone: tzinfo | None, reference: int) -> tuple[int | None, bool]:
        """Return the year of the first stamp, None where no year will do, and whether the lines themselves told it.

        One ID alone among others that hold no time may be forged or misread: two must agree.
        """
        limit = reference + _SLACK_SECONDS
        for votes in (self._young, self._old):
            counts = Counter(votes.values())
            if counts:
                year, number = max(counts.items(), key=lambda row: (row[1], row[0] <= _year_of(limit), row[0]))
                if number > 1 or self._timed >= self._untimed:
                    return year, True
        if self._last is None:
            return None, False
        fits = [
            year - self._count.year
            for year in range(_year_of(limit) + 1, _year_of(limit) - _SURVEY_YEARS, -1)
            if any(second <= limit for second in _instants(year, self._last, zone)[:1])
        ]
        leaps = [first for first in fits if all(calendar.isleap(first + year) for year in self._leap_years)]
        return next(iter(leaps or fits), None), False


class Placed(NamedTuple):
    """The event time of a stamp: whether its year is a guess, and whether it stands for other lines' stamps, too."""

    second: int
    is_guessed: bool
    is_common: bool


class Calendar:
    """Gives the stamps of one input their event times, line by line in the input's order."""

    def __init__(self, settings: TimeSettings) -> None:
        self._settings = settings
        self.reference = settings.reference
        self._count: YearCount | None = None
        self._last: int | None = None
        self._other: tuple[int, str] | None = None  # by how many years an ID differed, and which ID it was

    def begin(self, year: int, wall: WallTime) -> None:
        """Say of which year the first line is."""
        self._count = YearCount(year, wall.in_year)

    def resume(self, second: int, zone: tzinfo | None) -> None:
        """Go on behind a line of that event time."""
        local = datetime.fromtimestamp(second, UTC).astimezone(zone)
        wall = WallTime(local.month, local.day, local.hour, local.minute, local.second)
        self._count = YearCount(local.year, wall.in_year)
        self._last = second

    def bounded(self, second: int) -> int | None:
        """Return the reference in place of a live line's time that cannot be; None where the time may stand."""
        reference = self.reference
        if not self._settings.is_live or -_LIVE_PAST_SECONDS <= second - reference <= _LIVE_FUTURE_SECONDS:
            return None
        return reference

    def place(self, wall: WallTime, zone: tzinfo | None, known: int | None, queue_id: str | None) -> Placed | None:
        """Return the event time of a stamp; None where no year has that day.

        `known` is the time in the line's own queue ID, None where it holds none.
        """
        if self._settings.is_live:
            return self._place_live(wall, zone, known)
        limit = max(self.reference, self._last or 0) + _SLACK_SECONDS
        certain = self._settings.year is not None or wall.year is not None
        followed = self._follow(wall, zone, known, limit)
        if followed is None:
            return None
        year, second = followed
        if known is not None and queue_id is not None and not certain:
            own = _first_after(wall, zone, known - _SLACK_SECONDS)
            if own is not None and own[0] == year:
                self._other = None
            elif own is not None and own[1] - known <= _YOUNG_SECONDS:
                other = (own[0] - year, queue_id)
                if self._other is not None and self._other[0] == other[0] and self._other[1] != queue_id:
                    self._other = None
                    year, second = own
                    self._count = YearCount(year, wall.in_year)
                else:
                    self._other = other
                    # Close behind other lines it is of their year; the short way through the parser finds the same.
                    if self._last is None or abs(second - self._last) > _CLOSE_SECONDS:
                        return Placed(own[1] if own[1] <= limit else second, is_guessed=True, is_common=False)
        if self._count is None:
            self._count = YearCount(year, wall.in_year)
        elif wall.year is not None and abs(wall.year - self._count.year) > 1:
            return Placed(second, is_guessed=False, is_common=False)  # one stamp does not move the others
        self._count.go_on(year, wall.in_year)
        self._last = second
        return Placed(second, is_guessed=not certain, is_common=True)

    def _follow(self, wall: WallTime, zone: tzinfo | None, known: int | None, limit: int) -> tuple[int, int] | None:
        """Return the year and the time that the lines before, or else the reference, give the stamp."""
        forced = self._settings.year
        if wall.year is not None:
            second = self._in_year(wall.year, wall, zone, known)
            return None if second is None else (wall.year, second)
        if self._count is not None:
            year = self._count.next(wall.in_year)
            second = self._in_year(year, wall, zone, known)
            if year > self._count.year and forced is None and (second is None or second > limit):
                year = self._count.year
                second = self._in_year(year, wall, zone, known)
            if second is not None:
                return year, second
            if forced is not None:
                return None
        elif forced is not None:
            second = self._in_year(forced, wall, zone, known)
            return None if second is None else (forced, second)
        return self._before(wall, zone, known, limit)

    def _place_live(self, wall: WallTime, zone: tzinfo | None, known: int | None) -> Placed | None:
        """Each line has a reference of its own, so nothing but the hour that comes twice depends on lines before."""
        forced, limit = wall.year or self._settings.year, self.reference + _SLACK_SECONDS
        if forced is not None:
            second = self._in_year(forced, wall, zone, known)
        else:
            found = self._before(wall, zone, known, limit)
            second = None if found is None else found[1]
        if second is None:
            return None
        bound = self.bounded(second)
        if bound is not None:
            return Placed(bound, is_guessed=True, is_common=False)
        self._last = second
        return Placed(second, is_guessed=forced is None, is_common=True)

    def _in_year(self, year: int, wall: WallTime, zone: tzinfo | None, known: int | None) -> int | None:
        instants = _instants(year, wall, zone)
        if len(instants) > 1:
            last = self._last if self._last is not None and self._last <= instants[1] + _JITTER_SECONDS else None
            floor = max(instants[0] if last is None else last, instants[0] if known is None else known)
            if instants[0] < floor - _JITTER_SECONDS and floor <= instants[1] + _JITTER_SECONDS:
                return instants[1]
        return instants[0] if instants else None

    def _before(self, wall: WallTime, zone: tzinfo | None, known: int | None, limit: int) -> tuple[int, int] | None:
        """Return the latest year, and the time in it, that is not after the limit."""
        latest = _year_of(limit) + 1
        for year in range(latest, latest - 1 - _LEAP_SEARCH_YEARS, -1):
            second = self._in_year(year, wall, zone, known)
            if second is not None and second <= limit:
                return year, second
        return None


def _first_after(wall: WallTime, zone: tzinfo | None, begin: int) -> tuple[int, int] | None:
    """Return the first year, and the time in it, of a wall time that is not before `begin`."""
    first = _year_of(begin) - 1
    for year in range(first, first + 3 + _LEAP_SEARCH_YEARS):
        for second in _instants(year, wall, zone):
            if second >= begin:
                return year, second
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
        if second > 60 or hour > 23 or minute > 59 or not FIRST_YEAR <= year <= LAST_YEAR:  # noqa: PLR2004
            return None
        if abs(offset_seconds(zone)) >= _DAY:
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
