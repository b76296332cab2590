"""`mailspan produce tail GLOB…` and `mailspan produce stdin`: raw lines to Kafka's mail.raw.

Runs until SIGTERM or SIGINT (stdin: until its end); then what is under way gets some seconds to arrive, the positions
are saved, and the exit code is 0 (--once: 3 where a file could not be read). Signals only set a flag: nothing is
interrupted half-way.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING

from mailspan.commands.logs import EXIT_DONE, EXIT_FILE_FAILED, read_zone
from mailspan.errors import UsageError
from mailspan.inputs.limits import allow_open_files
from mailspan.line_key import LineKeys
from mailspan.terminal import sanitise
from mailspan.wire import Reading
from producers.checkpoint import Checkpoint
from producers.kafka import KafkaTopic
from producers.stdin import Stdin
from producers.tail import Clock, Tail, TailSettings

if TYPE_CHECKING:
    import argparse
    from types import FrameType

DESCRIPTION = "Raw lines to Kafka's mail.raw: from log files, which are followed, or from standard input."

_END_SECONDS = 7.0
_IDLE_SECONDS = 0.2
_TOLD_SECONDS = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `produce`."""
    add = parser.add_argument
    add("input", metavar="INPUT", choices=("tail", "stdin"), help="tail (files, followed) or stdin")
    add("patterns", metavar="GLOB", nargs="*", help="tail: files or patterns, in quotes; ** goes into folders")
    add("--log-host", metavar="NAME", help="the host of lines that name none (default: this machine)")
    add("--zone", metavar="ZONE", help="the zone of stamps that have none (default: this machine's)")
    add("--backfill", action="store_true", help="tail: read packed files (.gz, .bz2, .xz, .zst) that match, too")
    add("--once", action="store_true", help="tail: end when all that is there has arrived")


class _Stop:
    """Whether to stop: set by SIGTERM and SIGINT."""

    def __init__(self) -> None:
        self.is_set = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._set)

    def _set(self, _number: int, _frame: FrameType | None) -> None:
        self.is_set = True


def run(args: argparse.Namespace) -> int:
    """Produce until told to stop; return 0, or 3 where lines of standard input did not arrive.

    Raises UsageError, StateError and KafkaUseError.
    """
    if (args.input == "tail") != bool(args.patterns):
        raise UsageError("tail needs files or patterns" if args.input == "tail" else "stdin takes no files")
    zone = _zone_name() if args.zone is None else args.zone
    if args.zone is not None:
        read_zone(args.zone)
    host = args.log_host or socket.gethostname()
    stop = _Stop()
    allow_open_files()
    checkpoint = Checkpoint(_state_folder(args.settings.state_dir)) if args.input == "tail" else None
    keys = LineKeys(host, args.settings.partitions, args.settings.host_aliases)
    topic = KafkaTopic(args.settings, keys, _say)
    try:
        if checkpoint is None:
            return _run_stdin(topic, host, zone, stop)
        settings = TailSettings(args.patterns, host, zone, socket.gethostname(), backfill=args.backfill)
        tail = Tail(settings, checkpoint, topic, Clock(time.monotonic, time.time), _say)
        return _run_tail(tail, topic, stop, once=args.once)
    finally:
        topic.close()


def _run_tail(tail: Tail, topic: KafkaTopic, stop: _Stop, *, once: bool) -> int:
    told_at = time.monotonic()
    while not stop.is_set:
        if not tail.step():
            if once and tail.is_idle and time.monotonic() >= tail.resume_at:
                tail.flush_ends()
                break
            topic.serve(_IDLE_SECONDS)
        now = time.monotonic()
        if now - told_at >= _TOLD_SECONDS:
            told_at = now
            _say(f"lines={tail.counts.lines} bytes_behind={tail.bytes_behind} truncations={tail.counts.truncations}")
    deadline = time.monotonic() + _END_SECONDS
    while not tail.is_settled and (time.monotonic() < deadline or (once and not stop.is_set)):
        tail.settle()
        topic.serve(_IDLE_SECONDS)
    tail.settle()
    behind, behind_at_end = tail.bytes_behind, not tail.is_settled
    tail.close()
    _say(f"stopped; lines={tail.counts.lines} bytes_behind={behind}")
    return EXIT_FILE_FAILED if once and (tail.counts.faults or behind_at_end) else EXIT_DONE


def _run_stdin(topic: KafkaTopic, host: str, zone: str, stop: _Stop) -> int:
    generation, observer = token_hex(8), socket.gethostname()

    def reading() -> Reading:
        now = int(time.time())
        return Reading(generation, now, now, host, zone, "stdin", observer)

    stream = Stdin(sys.stdin.fileno(), topic, reading, time.monotonic, _say)
    while not stop.is_set and not (stream.is_ended and stream.is_settled):
        stream.step(_IDLE_SECONDS)
    deadline = time.monotonic() + _END_SECONDS
    while not stream.is_settled and time.monotonic() < deadline:
        stream.step(_IDLE_SECONDS, is_reading=False)
    lost = stream.lines_under_way
    if lost:
        _say(f"stopped; lines={stream.lines} not_arrived={lost}")
        return EXIT_FILE_FAILED
    return EXIT_DONE


def _state_folder(setting: str) -> Path:
    if setting:
        return Path(setting)
    if os.geteuid() == 0:
        return Path("/var/lib/mailspan")
    base = os.environ.get("XDG_STATE_HOME", "")
    return Path(base if base.startswith("/") else Path.home() / ".local" / "state") / "mailspan"


def _zone_name() -> str:
    """Return this machine's zone as a name if it has one, else as its present offset."""
    name = os.environ.get("TZ", "").removeprefix(":")
    if not name:
        found = str(Path("/etc/localtime").resolve())
        _, found_zone, name = found.partition("/zoneinfo/")
        if not found_zone:
            name = ""
    for text in (name, datetime.now(UTC).astimezone().strftime("%z")):
        try:
            read_zone(text)
        except UsageError:
            continue
        return text
    return ""


def _say(message: str) -> None:
    sys.stderr.write(f"mailspan: {sanitise(message)}\n")
    sys.stderr.flush()
