"""What the commands that read logs share: their arguments, how the files are read, and the count of their lines."""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, timedelta, timezone, tzinfo
from functools import partial
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from mailspan.commands.host_name import log_host
from mailspan.errors import UsageError
from mailspan.event_time import TimeSettings, offset_seconds
from mailspan.inputs import Inputs, ReadSettings
from mailspan.inputs.following import Following
from mailspan.record import Ignored, Record
from mailspan.terminal import sanitise

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mailspan.clock_skew import ClockSkews
    from mailspan.inputs import Result

EXIT_DONE, EXIT_FILE_FAILED = 0, 3

_OFFSET = re.compile(r"[+-](?:0[0-9]|1[0-4]):?[0-5][0-9]")
_FIRST_YEAR, _LAST_YEAR = 1980, 2105
_MOST_PROGRAMS = 100  # names in a log are hostile: those after the first hundred are counted together
_OTHER_PROGRAMS = "other"
_NO_PROGRAM = "no program"


def add_log_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the FILEs and the flags that say how to read them."""
    add = parser.add_argument
    add("files", metavar="FILE", nargs="+", help="log files, plain or .gz, .bz2, .xz, .zst, in any order; - is stdin")
    add("-y", "--year", metavar="YEAR", help="the year of each file's first line, where stamps have none")
    add("--log-host", metavar="NAME", help="the host of lines that name none (default: this machine)")
    add(
        "--zone",
        metavar="[HOST=]ZONE",
        action="append",
        default=[],
        help="the zone of stamps that have none, for all hosts or one: Europe/Madrid, UTC, +01:00"
        " (default: this machine's); may be given again",
    )


def open_inputs(
    args: argparse.Namespace,
    *,
    stored: Mapping[str, bytes] | None = None,
    use_last_line: bool = True,
    is_followed: bool = False,
) -> Inputs:
    """Return the inputs that the arguments name; faults of files are told on stderr. Raises UsageError.

    With `is_followed` the files are looked at again: what is left for then is not told.
    """
    return Inputs(
        args.files,
        _read_settings(args),
        report=_say,
        note=_say_nothing if is_followed else _say_note,
        stored=stored,
        use_last_line=use_last_line,
        may_move=is_followed,
    )


def open_following(args: argparse.Namespace) -> Following:
    """Return the files that the arguments name as they grow. Raises UsageError."""
    return Following(
        args.files,
        _read_settings(args),
        clock=time.time,
        steady=time.monotonic,
        report=_say,
        note=_say_nothing,
    )


def _read_settings(args: argparse.Namespace) -> ReadSettings:
    zone, host_zones = read_zones(args.zone)
    year = _read_year(args.year)
    return ReadSettings(
        time_settings=partial(TimeSettings, year=year, zone=zone, host_zones=host_zones),
        now=int(time.time()),
        default_host=log_host(args.log_host),
        host_aliases=dict(args.settings.host_aliases),
    )


def read_zone(text: str, asked_by: str = "--zone") -> tzinfo:
    """Return the zone that `Europe/Madrid`, `UTC` or `+01:00` names. Raises UsageError, which says what asked."""
    if text.upper() in {"UTC", "Z"}:
        return UTC
    if _OFFSET.fullmatch(text):
        return timezone(timedelta(seconds=offset_seconds(text)))
    try:
        return ZoneInfo(text)
    except (ValueError, OSError, KeyError):
        raise UsageError(
            f"{asked_by} {text!r}: no such zone; expected a name like Europe/Madrid, UTC, or an offset like +01:00"
        ) from None


def read_zones(texts: Sequence[str]) -> tuple[tzinfo | None, tuple[tuple[str, tzinfo], ...]]:
    """Return the zone for all hosts and those of single ones, of `ZONE` and `HOST=ZONE`. Raises UsageError."""
    zone: tzinfo | None = None
    host_zones = []
    for text in texts:
        host, found, name = text.rpartition("=")
        if not found:
            zone = read_zone(name)
        elif host:
            host_zones.append((host.lower(), read_zone(name)))
        else:
            raise UsageError(f"--zone {text!r}: expected HOST=ZONE or ZONE")
    return zone, tuple(host_zones)


def say_counts(counts: LineCounts) -> None:
    """Say what became of the lines: applied, ignored, unparsed."""
    for row in counts.table():
        sys.stderr.write(row + "\n")


def say_skews(skews: ClockSkews, texts: Sequence[str]) -> None:
    """Say on stderr, once per host, where stamps and queue IDs differ; `texts` are the --zone arguments."""
    zone, host_zones = read_zones(texts)
    zones = dict(host_zones)
    for host, report in skews.reports(lambda host: zones.get(host, zone)):
        _say_note(host, report)


def _read_year(text: str | None) -> int | None:
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{4}", text) or not _FIRST_YEAR <= int(text) <= _LAST_YEAR:
        raise UsageError(f"--year {text!r}: expected a year from {_FIRST_YEAR} to {_LAST_YEAR}")
    return int(text)


def _say(name: str, fault: str) -> None:
    sys.stderr.write(f"mailspan: {_shown(name)}: {sanitise(fault)}\n")


def _say_note(name: str, note: str) -> None:
    sys.stderr.write(f"mailspan: note: {_shown(name)}: {sanitise(note)}\n")


def _say_nothing(_name: str, _note: str) -> None:
    """Take a note that is only for those who run the command once."""


def _shown(name: str) -> str:
    return "standard input" if name == "-" else sanitise(name)


@dataclass(slots=True)
class LineCounts:
    """lines in = applied + ignored{reason} + unparsed{program}."""

    lines: int = 0
    ignored: Counter[str] = field(default_factory=Counter)
    unparsed: Counter[str] = field(default_factory=Counter)

    @property
    def applied(self) -> int:
        """The lines that are part of a transaction."""
        return self.lines - self.ignored.total() - self.unparsed.total()

    def add_unparsed(self, program: str) -> None:
        """Count a line that was not understood, by its program."""
        name = sanitise(program) or _NO_PROGRAM
        if name not in self.unparsed and len(self.unparsed) >= _MOST_PROGRAMS:
            name = _OTHER_PROGRAMS
        self.unparsed[name] += 1

    def table(self) -> Iterator[str]:
        """Yield the lines of --stats; the last one is the balance, for programs to read."""
        rows = [("lines", self.lines), ("applied", self.applied)]
        rows += [(f"ignored{{{sanitise(reason)}}}", count) for reason, count in _by_count(self.ignored)]
        rows += [(f"unparsed{{{program}}}", count) for program, count in _by_count(self.unparsed)]
        width = max(len(name) for name, _ in rows)
        for name, count in rows:
            yield f"{name:{width}} {count:12,}"
        ignored, unparsed = self.ignored.total(), self.unparsed.total()
        yield f"lines={self.lines} applied={self.applied} ignored={ignored} unparsed={unparsed}"


def _by_count(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda row: (-row[1], row[0]))


def apply_results(results: Sequence[Result], apply: Callable[[Record], str | None], counts: LineCounts) -> None:
    """Apply the records among the results and count every one of them."""
    ignored = counts.ignored
    for result in results:
        if isinstance(result, Record):
            reason = apply(result)
            if reason is not None:
                ignored[reason] += 1
        elif isinstance(result, Ignored):
            ignored[result.reason] += 1
        else:
            counts.add_unparsed(result.program)
    counts.lines += len(results)
