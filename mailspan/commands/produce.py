"""`mailspan produce INPUT`: raw lines to Kafka's mail.raw, from files, the journal, syslog senders or standard input.

Runs until SIGTERM or SIGINT (stdin: until its end); then what is under way gets some seconds to arrive, the positions
are saved, and the exit code is 0 (--once: 3 where a file could not be read). Signals only set a flag: nothing is
interrupted half-way.
"""

from __future__ import annotations

import sys
import time
from secrets import token_hex
from typing import TYPE_CHECKING

from mailspan.commands import produce_journal, produce_syslog
from mailspan.commands.host_name import log_host, own_name
from mailspan.commands.logs import EXIT_DONE, EXIT_FILE_FAILED, read_zone
from mailspan.commands.machine import state_folder, zone_name
from mailspan.commands.producing import END_SECONDS, IDLE_SECONDS, TOLD_SECONDS, Surroundings, say
from mailspan.commands.serving import serving
from mailspan.errors import UsageError
from mailspan.inputs.limits import allow_open_files
from mailspan.line_key import LineKeys
from mailspan.wire import Reading
from producers import figures
from producers.canaries import Canaries
from producers.checkpoint import Checkpoint
from producers.kafka import KafkaTopic
from producers.state_folder import StateFolder
from producers.stdin import Stdin
from producers.tail import Clock, Tail, TailSettings

if TYPE_CHECKING:
    import argparse

    from mailspan.commands.stopping import Stop

DESCRIPTION = (
    "Raw lines to Kafka's mail.raw: from log files and the journal, which are followed, from syslog senders,"
    " or from standard input."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `produce`."""
    add = parser.add_argument
    inputs = ("tail", "journal", "syslog", "stdin")
    add("input", metavar="INPUT", choices=inputs, help="tail (files, followed), journal, syslog or stdin")
    add("patterns", metavar="GLOB", nargs="*", help="tail: files or patterns, in quotes; ** goes into folders")
    add("--log-host", metavar="NAME", help="the host of lines that name none (default: this machine)")
    add("--zone", metavar="ZONE", help="the zone of stamps that have none (default: this machine's)")
    add("--backfill", action="store_true", help="tail: read packed files (.gz, .bz2, .xz, .zst) that match, too")
    add("--once", action="store_true", help="tail, journal: end when all that is there has arrived")
    produce_journal.add_arguments(parser)
    produce_syslog.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Produce until told to stop; return 0, or 3 where lines of standard input did not arrive.

    Raises UsageError, ServeError, StateError and KafkaUseError.
    """
    if (args.input == "tail") != bool(args.patterns):
        raise UsageError("tail needs files or patterns" if args.input == "tail" else f"{args.input} takes no files")
    produce_journal.check(args)
    addresses = produce_syslog.check(args)
    zone = zone_name() if args.zone is None else args.zone
    if args.zone is not None:
        read_zone(args.zone)
    own, host = own_name(), log_host(args.log_host)
    stop: Stop = args.stop
    allow_open_files()
    clock = Clock(time.monotonic, time.time)
    folder = state_folder(args.settings.state_dir)
    checkpoint = Checkpoint(folder) if args.input == "tail" else None
    journal_state = StateFolder(folder, produce_journal.STATE_NAME) if args.input == "journal" else None
    keys = LineKeys(host, args.settings.partitions, args.settings.host_aliases)
    with serving(args.settings.metrics_address, figures.STAGE, stop, say) as served:
        topic = KafkaTopic(args.settings, keys, say)
        served.is_ready = lambda: True  # a broker has answered; where it goes away, lines wait at their source
        canaries = Canaries(
            topic,
            clock,
            say,
            producer=own,
            input=args.input,
            partitions=args.settings.partitions,
            interval_seconds=0 if args.once else args.settings.canary_seconds,
        )
        stop.begin(
            f"told to stop, and Kafka at {args.settings.kafka_bootstrap_servers} held the producer up; ended without"
            " its answer. What has not arrived is read again at the next start where the input can be"
        )
        around = Surroundings(topic, clock, stop, served, canaries)
        try:
            if checkpoint is not None:
                settings = TailSettings(args.patterns, host, zone, own, backfill=args.backfill)
                return _run_tail(Tail(settings, checkpoint, topic, clock, say), around, once=args.once)
            if journal_state is not None:
                return produce_journal.run(args, journal_state, around, host=host, observer=own)
            if addresses:
                return produce_syslog.run(args, addresses, around, host=host, zone=zone, observer=own)
            return _run_stdin(around, host, zone)
        finally:
            topic.close()


def _run_tail(tail: Tail, around: Surroundings, *, once: bool) -> int:
    topic, stop = around.topic, around.stop
    around.show(lambda: figures.of_tail(tail, topic))
    told_at = time.monotonic()
    while not stop.is_set:
        around.turn()
        if not tail.step():
            if once and tail.is_idle and time.monotonic() >= tail.resume_at:
                tail.flush_ends()
                break
            topic.serve(IDLE_SECONDS)
        now = time.monotonic()
        if now - told_at >= TOLD_SECONDS:
            told_at = now
            say(f"lines={tail.counts.lines} bytes_behind={tail.bytes_behind} truncations={tail.counts.truncations}")
    deadline = time.monotonic() + END_SECONDS
    while not tail.is_settled and (time.monotonic() < deadline or (once and not stop.is_set)):
        tail.settle()
        topic.serve(IDLE_SECONDS)
    tail.settle()
    behind, behind_at_end = tail.bytes_behind, not tail.is_settled
    tail.close()
    say(f"stopped; lines={tail.counts.lines} bytes_behind={behind}")
    return EXIT_FILE_FAILED if once and (tail.counts.faults or behind_at_end) else EXIT_DONE


def _run_stdin(around: Surroundings, host: str, zone: str) -> int:
    generation, observer = token_hex(8), own_name()

    def reading() -> Reading:
        now = int(time.time())
        return Reading(generation, now, now, host, zone, "stdin", observer)

    stream = Stdin(sys.stdin.fileno(), around.topic, reading, around.clock, say)
    around.show(lambda: figures.of_stdin(stream, around.topic))
    while not around.stop.is_set and not (stream.is_ended and stream.is_settled):
        around.turn()
        stream.step(IDLE_SECONDS)
    deadline = time.monotonic() + END_SECONDS
    while not stream.is_settled and time.monotonic() < deadline:
        stream.step(IDLE_SECONDS, is_reading=False)
    lost = stream.lines_under_way
    if lost:
        say(f"stopped; lines={stream.arrived.lines} not_arrived={lost}")
        return EXIT_FILE_FAILED
    return EXIT_DONE
