"""Writes a log as a busy mail server's, and the truth about it: `python -m bench.generate FILE`.

The same options and seed give the same bytes. At least --lines lines are written, then those that still follow from
what had begun, so that every mail is whole. FILE.json has the counts that a reader of the log must find.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bench.exim_server import EximServer
from bench.opensmtpd_server import OpenSmtpdServer
from bench.postfix_server import PostfixServer
from bench.sendmail_server import SendmailServer
from bench.world import SECOND, Pending, Truth, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

YEAR = 2026
START = int(datetime(YEAR, 3, 9, 6, tzinfo=UTC).timestamp()) * SECOND
SESSIONS_PER_SECOND = 12


@dataclass(frozen=True, slots=True)
class Options:
    """What kind of log to write."""

    lines: int
    mta: str = "postfix"
    hosts: int = 1
    long_queue_ids: bool = False
    time: str = "rfc3164"
    seed: int = 1


def generate(options: Options, truth: Truth) -> Iterator[str]:
    """Yield the lines of a log, in order of time; `truth` is complete after the last one."""
    world, pending = World(options.seed), Pending()
    servers: list[PostfixServer | SendmailServer | OpenSmtpdServer | EximServer] = []
    for number in range(1, options.hosts + 1):
        if options.mta == "postfix":
            long = options.long_queue_ids
            servers.append(PostfixServer(f"mx{number}", world, pending, truth, long_queue_ids=long))
        elif options.mta == "sendmail":
            servers.append(SendmailServer(f"mx{number}", world, pending, truth))
        elif options.mta == "exim":
            servers.append(EximServer(world, pending, truth))
        else:
            servers.append(OpenSmtpdServer(f"mx{number}", world, pending, truth))
    stamp = STAMPS[options.time]() if options.mta != "exim" else _exim()
    now = START
    while pending.added < options.lines:
        now += 1 + int(world.random.expovariate(SESSIONS_PER_SECOND) * SECOND)
        for time, line in pending.until(now):
            truth.lines += 1
            yield f"{stamp(time)} {line}\n"
        servers[world.random.randrange(len(servers))].session(now)
    for time, line in pending.until(math.inf):
        truth.lines += 1
        yield f"{stamp(time)} {line}\n"


def _rfc3164() -> Callable[[int], str]:
    """Return a writer of stamps like `Mar  9 06:00:00`; most are like the one before."""
    known_second, known = -1, ""

    def stamp(time: int) -> str:
        nonlocal known_second, known
        second = time // SECOND
        if second != known_second:
            at = datetime.fromtimestamp(second, UTC)
            known_second, known = second, f"{at:%b} {at.day:2d} {at:%H:%M:%S}"
        return known

    return stamp


def _exim() -> Callable[[int], str]:
    """Return a writer of stamps like `2026-03-09 06:00:00`, as Exim's own log has them."""
    known_second, known = -1, ""

    def stamp(time: int) -> str:
        nonlocal known_second, known
        second = time // SECOND
        if second != known_second:
            known_second, known = second, f"{datetime.fromtimestamp(second, UTC):%Y-%m-%d %H:%M:%S}"
        return known

    return stamp


def _iso() -> Callable[[int], str]:
    """Return a writer of stamps like `2026-03-09T06:00:00.000123+00:00`."""
    known_second, known = -1, ""

    def stamp(time: int) -> str:
        nonlocal known_second, known
        second, microsecond = divmod(time, SECOND)
        if second != known_second:
            known_second, known = second, f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}"
        return f"{known}.{microsecond:06d}+00:00"

    return stamp


STAMPS = {"rfc3164": _rfc3164, "iso": _iso}


def write(options: Options, path: Path) -> Truth:
    """Write the log and, beside it, its truth; neither is seen half-written."""
    truth = Truth()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as out:
        out.writelines(generate(options, truth))
    truth_path(path).write_text(json.dumps(truth.as_dict()) + "\n", encoding="utf-8")
    partial.rename(path)
    return truth


def truth_path(path: Path) -> Path:
    """Return where the truth about a log is."""
    return path.with_name(path.name + ".json")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what kind of log to write."""
    parser.add_argument("--lines", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--mta", choices=("postfix", "sendmail", "exim", "opensmtpd"), default="postfix")
    parser.add_argument("--hosts", type=int, default=1, metavar="N")
    parser.add_argument("--long-qid", action="store_true", help="Postfix's long queue IDs")
    parser.add_argument("--time", choices=tuple(STAMPS), default="rfc3164")
    parser.add_argument("--seed", type=int, default=1, metavar="N")


def options_of(called: argparse.Namespace) -> Options:
    """Return the options as called."""
    return Options(called.lines, called.mta, called.hosts, called.long_qid, called.time, called.seed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write one log; print its truth."""
    parser = argparse.ArgumentParser(prog="python -m bench.generate", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE")
    add_options(parser)
    called = parser.parse_args(arguments)
    if called.mta == "exim" and called.hosts != 1:
        parser.error("--hosts: Exim's main log names no host, so it is one host's")
    print(json.dumps(write(options_of(called), called.file).as_dict()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
