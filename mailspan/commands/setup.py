"""`mailspan setup`: Kafka's topics, Elasticsearch's template and lifecycle, Kibana's dashboards; safe to repeat.

Each is set up where its address is known: MAILSPAN_KAFKA_BOOTSTRAP_SERVERS, MAILSPAN_ELASTICSEARCH_URL, --kibana.

It says what it did and what differs. A number of partitions is never changed: a host's lines would part from what is
kept of them. Everything is looked at before anything is altered.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mailspan.commands import setup_elasticsearch, setup_kibana
from mailspan.errors import MailspanError, UsageError
from mailspan.topics import TOPICS, differences, settings_of, topic_name
from producers.kafka import Admin, TopicState
from sink.kibana_settings import kibana_of

if TYPE_CHECKING:
    import argparse

    from mailspan.settings import Settings
    from mailspan.topics import Topic

DESCRIPTION = (
    "Create Kafka's topics, Elasticsearch's index template and lifecycle and Kibana's data view, searches and"
    " dashboards, or bring them up to date; safe to repeat. Each is left alone where"
    " MAILSPAN_KAFKA_BOOTSTRAP_SERVERS, MAILSPAN_ELASTICSEARCH_URL or --kibana is not given."
)

_ABORT_CHECK = "transaction.abort.timed.out.transaction.cleanup.interval.ms"
_SLOW_ABORT_CHECK_MS = 2000
_SAFE_REPLICATION = 3
_MOST_REPLICATION = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `setup`."""
    add = parser.add_argument
    add("--replication-factor", metavar="N", help="of topics that are created (default: 3, or the number of brokers)")
    add("--kibana", metavar="URL", help="the Kibana to import into (default: MAILSPAN_KIBANA_URL; none)")
    add("--dry-run", action="store_true", help="say what would be done, and do nothing")


def run(args: argparse.Namespace) -> int:
    """Set up what has an address; return 0. Raises UsageError and MailspanError: what fails, or would do harm."""
    wanted = _replication(args.replication_factor)
    settings: Settings = args.settings
    kibana_url: str | None = args.kibana
    if kibana_url is not None and not kibana_url.strip():
        raise UsageError("--kibana is empty; expected https://HOST:PORT")
    kibana = kibana_of(settings, kibana_url or "") if kibana_url or settings.kibana_url else None
    if not settings.kafka_bootstrap_servers and not settings.elasticsearch_url and kibana is None:
        raise UsageError(
            "MAILSPAN_KAFKA_BOOTSTRAP_SERVERS is not set, nor is MAILSPAN_ELASTICSEARCH_URL, nor is --kibana given"
        )
    if settings.kafka_bootstrap_servers:
        _set_up_topics(args, settings, wanted)
    if settings.elasticsearch_url:
        setup_elasticsearch.set_up(settings, is_dry_run=args.dry_run)
    if kibana is not None:
        setup_kibana.set_up(kibana, settings.index_prefix, is_dry_run=args.dry_run)
    return 0


def _set_up_topics(args: argparse.Namespace, settings: Settings, wanted: int | None) -> None:
    admin = Admin(settings)
    partitions, brokers = admin.connect()
    names = {topic.name: topic_name(settings.topic_prefix, topic.name) for topic in TOPICS}
    _refuse_other_partitions(settings, partitions)
    replication = wanted or min(_SAFE_REPLICATION, max(1, len(brokers)))
    states = {name: admin.describe(name) for name in names.values() if name in partitions}
    for topic in TOPICS:
        name = names[topic.name]
        if name in states:
            _update(admin, topic, name, states[name], dry_run=args.dry_run)
        else:
            count = settings.partitions if topic.is_partitioned else 1
            if not args.dry_run:
                admin.create(name, count, replication, settings_of(topic, replication))
            done = "would be created" if args.dry_run else "created"
            print(f"{name}: {done}: {count} partitions, replication {replication}")
    lowest = min([state.replication for state in states.values()] + [replication] * (len(states) < len(TOPICS)))
    if lowest < _SAFE_REPLICATION:
        _warn(f"replication {lowest}: lines can be lost with a broker; 3 or more is safe")
    _warn_of_slow_aborts(admin, brokers)


def _replication(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= _MOST_REPLICATION:
        raise UsageError(f"--replication-factor {text!r}: expected a number from 1 to {_MOST_REPLICATION}")
    return int(text)


def _refuse_other_partitions(settings: Settings, partitions: dict[str, int]) -> None:
    for topic in TOPICS:
        name = topic_name(settings.topic_prefix, topic.name)
        found = partitions.get(name)
        if topic.is_partitioned and found is not None and found != settings.partitions:
            raise MailspanError(
                f"{name} has {found} partitions, and MAILSPAN_PARTITIONS is {settings.partitions}: a number of"
                " partitions is never changed; set it to that, or take another MAILSPAN_TOPIC_PREFIX"
            )


def _update(admin: Admin, topic: Topic, name: str, state: TopicState, *, dry_run: bool) -> None:
    wrong, chosen = differences(topic, state.settings, state.replication)
    if wrong and not dry_run:
        admin.alter(name, {key: wanted for key, _, wanted in wrong})
    for key, found, wanted in wrong:
        print(f"{name}: {key} {'is' if dry_run else 'was'} {found}, {'would be' if dry_run else 'is now'} {wanted}")
    for key, found, wanted in chosen:
        print(f"{name}: {key} is {found}, not {wanted}: left as it is")
    if not wrong and not chosen:
        print(f"{name}: as it should be: {state.partitions} partitions, replication {state.replication}")


def _warn_of_slow_aborts(admin: Admin, brokers: list[int]) -> None:
    for broker in brokers:
        found = admin.broker_setting(broker, _ABORT_CHECK)
        if found is None:
            _warn(f"broker {broker}: {_ABORT_CHECK} cannot be seen; it should be 1000")
        elif int(found) > _SLOW_ABORT_CHECK_MS:
            _warn(
                f"broker {broker}: {_ABORT_CHECK} is {found}: after a crash another reducer would wait that long;"
                " set it to 1000"
            )


def _warn(message: str) -> None:
    sys.stderr.write(f"mailspan: warning: {message}\n")
