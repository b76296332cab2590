"""`mailspan sink`: documents of mail.transactions into the daily indices of Elasticsearch.

As many may run as there are partitions. SIGTERM or SIGINT: what is under way is settled, offsets are committed, the
group is left, exit 0. Where Elasticsearch or Kafka does not answer then, it ends within 10 seconds all the same
(mailspan/commands/stopping.py). What only somebody else can mend (credentials, a missing template) ends it with exit 3.
"""

from __future__ import annotations

import gc
import math
import sys
import time
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from mailspan.commands.serving import serving
from mailspan.kafka_settings import client_config
from mailspan.terminal import sanitise
from sink.canary_index import CanaryIndex
from sink.elasticsearch import NoAnswerError, Server
from sink.elasticsearch_settings import connection_of
from sink.elasticsearch_writer import ElasticsearchWriter
from sink.figures import STAGE
from sink.indices import first_kept_day, last_taken_day
from sink.kafka import SinkKafka
from sink.loop import Loop, Waiting

if TYPE_CHECKING:
    import argparse

    from mailspan.commands.serving import Served
    from mailspan.commands.stopping import Stop
    from mailspan.settings import Settings
    from sink.elasticsearch_settings import Connection

DESCRIPTION = "Documents of Kafka's mail.transactions to Elasticsearch."

_GARBAGE_THRESHOLD = 100_000  # nothing in the hot path makes reference cycles
_START_SECONDS = 15.0
_AGAIN_SECONDS = 0.5


def add_arguments(_parser: argparse.ArgumentParser) -> None:
    """`sink` has no arguments of its own."""


def run(args: argparse.Namespace) -> int:
    """Index until told to stop; return 0. Raises UsageError, ServeError, SinkError, StoreError and NoAnswerError."""
    gc.set_threshold(_GARBAGE_THRESHOLD)
    settings: Settings = args.settings
    connection = connection_of(settings)
    config = client_config(settings)
    stop: Stop = args.stop
    with serving(settings.metrics_address, STAGE, stop, _say) as served:
        _run(settings, connection, SinkKafka(config, settings.topic_prefix, stop, _say), stop, served)
    return 0


def _run(settings: Settings, connection: Connection, kafka: SinkKafka, stop: Stop, served: Served) -> None:
    waiting = Waiting(kafka, _say)

    def days() -> tuple[date, date]:
        today = datetime.now(UTC).date()
        return first_kept_day(today, min(settings.retention_days, today.toordinal())), last_taken_day(today)

    with Server(connection) as server:
        writer = _writer(server, settings, days()[0], waiting)
        canaries = CanaryIndex(server, settings.index_prefix, epoch=time.time, report=_say)
        loop = Loop(kafka, writer, canaries, waiting, stop, days=days, report=_say, epoch=time.time)
        loop.turned, served.figures, served.is_ready = served.turn, loop.figures, lambda: kafka.is_ready
        stop.begin(
            f"told to stop, and Elasticsearch at {connection.shown} or Kafka at {settings.kafka_bootstrap_servers} held"
            " the sink up; ended without its answer. Nothing is lost: what was not committed is read again at the next"
            " start"
        )
        loop.run()


def _writer(server: Server, settings: Settings, first_kept: date, waiting: Waiting) -> ElasticsearchWriter:
    """Return the writer, as soon as the server answers. Raises as `run` does."""
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            server.version()
            return ElasticsearchWriter(
                server, settings.index_prefix, first_kept, patience_seconds=math.inf, wait=waiting.wait
            )
        except NoAnswerError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_AGAIN_SECONDS)


def _say(message: str) -> None:
    sys.stderr.write(f"mailspan: {sanitise(message)}\n")
    sys.stderr.flush()
