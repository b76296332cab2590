"""`mailspan audit DAY`: whether the index of a day has what the topic of documents has, and with --mend to mend it.

It reads the topic and leaves the sink's group alone: sinks may run meanwhile.
"""

from __future__ import annotations

import re
import sys
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import orjson

from mailspan.errors import UsageError
from mailspan.kafka_settings import client_config
from mailspan.terminal import sanitise
from mailspan.topics import DEAD_LETTER, TRANSACTIONS, topic_name
from sink.audit import line_of
from sink.auditor import Auditor
from sink.elasticsearch import Server
from sink.elasticsearch_settings import connection_of
from sink.elasticsearch_writer import ElasticsearchWriter
from sink.indices import first_kept_day
from sink.kafka import group_of
from sink.kafka_topic import TopicReader

if TYPE_CHECKING:
    import argparse

    from mailspan.settings import Settings
    from sink.audit import Figures

DESCRIPTION = (
    "Compare the documents of one day in Kafka's mail.transactions with those in Elasticsearch, in one line of figures."
    " Exit code 0: none is missing, older or there in spite of being withdrawn."
)

_EQUAL, _DIFFERENT = 0, 1
_PATIENCE_SECONDS = 60.0
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `audit`."""
    add = parser.add_argument
    add("day", metavar="DAY", help="YYYY-MM-DD (UTC), today or yesterday")
    add("--mend", action="store_true", help="write what is missing or older, delete what was withdrawn, compare again")
    add("--json", action="store_true", help="print the figures as JSON objects")


def run(args: argparse.Namespace) -> int:
    """Compare and print; return 0 where both are equal in the end, else 1.

    Raises UsageError, KafkaUseError, StoreError and NoAnswerError.
    """
    settings: Settings = args.settings
    today = datetime.now(UTC).date()
    day = _day(args.day, today)
    connection, config = connection_of(settings), client_config(settings)
    first_kept = first_kept_day(today, min(settings.retention_days, today.toordinal()))
    if day < first_kept:
        _say(f"{day} is older than MAILSPAN_RETENTION_DAYS ({settings.retention_days}): nothing of it is kept")
        return _EQUAL
    documents, letters = (topic_name(settings.topic_prefix, name) for name in (TRANSACTIONS, DEAD_LETTER))
    group = group_of(settings.topic_prefix)
    with Server(connection) as server, TopicReader(config, documents, group) as reader:
        server.version()
        writer = ElasticsearchWriter(server, settings.index_prefix, first_kept, patience_seconds=_PATIENCE_SECONDS)
        auditor = Auditor(reader, lambda: TopicReader(config, letters, group), server, settings.index_prefix, day)
        found = auditor.compare(writer)
        _print(day, found.figures, auditor.since, as_json=args.json)
        if auditor.index is None:
            _say(f"there is no index of {day}")
        if found.figures.differences and args.mend:
            done = auditor.mend(found, writer)
            _say(f"mended: written={done.written} withdrawn={done.withdrawn} refused={done.refused.total()}")
            for reason, count in sorted(done.refused.items()):
                _say(f"refused={count}: {reason}")
            found = auditor.compare(writer)
            _print(day, found.figures, auditor.since, as_json=args.json)
            if done.superseded and found.figures.differences:
                _say("the server takes no document within a minute of its deletion (index.gc_deletes): run it again")
    return _DIFFERENT if found.figures.differences else _EQUAL


def _day(text: str, today: date) -> date:
    days_ago = {"today": 0, "yesterday": 1}.get(text.lower())
    if days_ago is not None:
        return today - timedelta(days=days_ago)
    try:
        if _DAY.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise UsageError(f"DAY {text!r}: expected YYYY-MM-DD (UTC), today or yesterday")


def _print(day: date, figures: Figures, since: str, *, as_json: bool) -> None:
    if as_json:
        print(orjson.dumps({"day": str(day), **figures._asdict(), "since": since}).decode())
    else:
        print(line_of(day, figures, since))
    sys.stdout.flush()


def _say(message: str) -> None:
    sys.stderr.write(f"mailspan: {sanitise(message)}\n")
