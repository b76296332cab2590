"""`mailspan reduce`: lines of mail.raw to documents in mail.transactions, with nothing lost and nothing doubled.

As many may run as there are partitions. SIGTERM or SIGINT: what was read is committed, the group is left, exit 0. Where
that commit does not happen, or Kafka does not answer, it ends within 10 seconds all the same, exit 3
(mailspan/commands/stopping.py).
"""

from __future__ import annotations

import gc
import os
import sys
import time
from typing import TYPE_CHECKING

from mailspan.commands.host_name import own_name
from mailspan.commands.logs import read_zone, read_zones
from mailspan.commands.serving import serving
from mailspan.errors import UsageError
from mailspan.kafka_settings import client_config
from mailspan.terminal import sanitise
from reducer.figures import STAGE
from reducer.loop import Loop
from reducer.partition import Options

if TYPE_CHECKING:
    import argparse
    from datetime import tzinfo

    from mailspan.commands.stopping import Stop
    from mailspan.settings import Settings

DESCRIPTION = "Lines of Kafka's mail.raw to documents in mail.transactions."

_GARBAGE_THRESHOLD = 100_000  # nothing in the hot path makes reference cycles
_CRASH_POINT = "MAILSPAN_TEST_CRASH_POINT"  # tests kill the process at a step of the commit, as a power failure would


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `reduce`."""
    parser.add_argument(
        "--zone",
        metavar="[HOST=]ZONE",
        action="append",
        default=[],
        help="the zone of stamps that have none, where the producer did not say it; may be given again",
    )


def run(args: argparse.Namespace) -> int:
    """Reduce until told to stop; return 0. Raises UsageError, ServeError and ReducerError."""
    gc.set_threshold(_GARBAGE_THRESHOLD)
    settings: Settings = args.settings
    zone, host_zones = read_zones(args.zone)
    options = Options(
        find_zone=_find_zone,
        zone=zone,
        host_zones=host_zones,
        host_aliases=settings.host_aliases,
        rejections=settings.rejections == "index",
    )
    stop: Stop = args.stop
    with serving(settings.metrics_address, STAGE, stop, _say) as served:
        loop = Loop(
            client_config(settings),
            settings.topic_prefix,
            settings.instance or own_name(),
            options,
            commit_seconds=settings.commit_interval_seconds,
            report=_say,
            epoch=time.time,
            checkpoint=_crash_here,
        )
        loop.turned, served.figures, served.is_ready = served.turn, loop.figures, lambda: loop.is_ready
        stop.begin(
            f"told to stop, and Kafka at {settings.kafka_bootstrap_servers} held the reducer up; ended without its"
            " answer. Nothing is lost: what was not committed is read again at the next start"
        )
        loop.run(stop)
    return 0


def _find_zone(name: str) -> tzinfo | None:
    try:
        return read_zone(name)
    except UsageError:
        return None


def _crash_here(step: str) -> None:
    if os.environ.get(_CRASH_POINT) == step:
        os._exit(137)


def _say(message: str) -> None:
    sys.stderr.write(f"mailspan: {sanitise(message)}\n")
    sys.stderr.flush()
