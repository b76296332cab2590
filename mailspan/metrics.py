"""All metrics, in one list: a metric is one line of METRICS, and docs/metrics.md is made from it. Pure: no server here.

A stage yields `Figure`s of these names; mailspan/commands/serving.py shows them over HTTP. Names are Prometheus's:
base units, `_total` for what only grows since the process's start. Labels are those of LABELS. Their values come from
closed sets of our own: never an address, a queue ID, a message ID, a path or anything else that a log says.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import NamedTuple

COUNTER, GAUGE, AGE, HISTOGRAM = "counter", "gauge", "age", "histogram"
"""The types. An AGE is a gauge whose figure is a moment (epoch seconds): shown is how long ago it is, 0 for None."""

LABELS = {
    "cause": "`full`: by us, as too much was under way to Kafka; `kernel`: as they were not read in time",
    "code": "the status of an answer of the page: 200, 400, 503, …",
    "input": "tail, journal, syslog or stdin",
    "page": "search, transaction, trace, explain, or `other`: its files, and what is no page",
    "partition": "a partition of the topic that the stage reads",
    "program": "a program of the grammar (`postfix/smtpd`, `sendmail`, `exim`, …), a logger, or `other`",
    "python": "the version of Python",
    "reason": "one of the program's own words; the reasons for lines are those of `mailspan parse --stats`",
    "result": "`indexed`; `superseded`: as new or newer a version is there; `expired`: of a day that is not kept; `dead_letters`; `withdrawn`",
    "stage": "produce, reduce, sink or web",
    "state": "`running`, or `restoring`: its stored state is being read (a sink: where to begin is being looked for)",
    "status": "the class of Elasticsearch's answer: 2xx, 401, 403, 413, 429, 4xx (another one), 5xx, or `none`: no answer",
    "transport": "udp, tcp or tls",
    "version": "the version of mailspan",
}
"""All labels, and what their values are."""

AGES = (0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 300.0, 1800.0, 3600.0, 21600.0, 86400.0)
COMMITS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ANSWERS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0)
BULKS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
RESTORES = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)


class Metric(NamedTuple):
    """One metric: its name, type, labels, meaning, and a histogram's upper bounds."""

    name: str
    type: str
    labels: tuple[str, ...]
    meaning: str
    bounds: tuple[float, ...] = ()


# fmt: off
METRICS = (
    # every process
    Metric("mailspan_build_info", GAUGE, ("stage", "version", "python"), "1; its labels say what runs"),
    Metric("mailspan_heartbeat_timestamp_seconds", GAUGE, ("stage",), "when the loop last turned; /livez looks at it"),
    Metric("mailspan_ready", GAUGE, ("stage",), "1 where /readyz says so"),
    Metric("mailspan_record_age_seconds", HISTOGRAM, ("stage",), "how old lines were when they were settled, from the (whole) second that they were read at their source: produce: when Kafka acknowledged them; reduce: at the commit; sink: each document, by the oldest of the lines that its reducer committed with it", AGES),
    Metric("mailspan_canaries_total", COUNTER, ("stage",), "canaries, which producers send and which are neither lines nor documents: produce: acknowledged by Kafka; reduce: committed; sink: in their index"),
    Metric("mailspan_canary_age_seconds", AGE, ("stage",), "age of the newest canary that this process has settled, in partitions that it has now; not shown before the first"),
    # every consumer
    Metric("mailspan_lag_records", GAUGE, ("stage", "partition"), "records of a partition that are not settled; of partitions that run"),
    Metric("mailspan_lag_seconds", AGE, ("stage", "partition"), "age of the last settled record, from when it was read at its source, or since the partition was last settled to its end if that is later; 0 where all is settled"),
    Metric("mailspan_partitions", GAUGE, ("stage", "state"), "partitions that this process has"),
    Metric("mailspan_rebalances_total", COUNTER, ("stage",), "times that partitions came or went"),
    Metric("mailspan_restore_seconds", HISTOGRAM, ("stage",), "how long a partition waited, from its assignment or a rollback until it ran", RESTORES),
    Metric("mailspan_commit_seconds", HISTOGRAM, ("stage",), "how long successful commits took", COMMITS),
    Metric("mailspan_rollbacks_total", COUNTER, ("stage",), "commits that did not happen, or nobody knows: the stored state was read again, and everything since is done again"),
    Metric("mailspan_dead_letters_total", COUNTER, ("stage", "reason"), "records that went to mail.dead-letter"),
    Metric("mailspan_lost_records_total", COUNTER, ("stage",), "records that the topic had deleted before they were read"),
    Metric("mailspan_topic_retention_seconds", GAUGE, ("stage",), "how long the topic that the stage reads keeps records, its retention.ms; +Inf: without limit; not shown where the stage has no right to see it"),
    # producers
    Metric("mailspan_producer_lines_total", COUNTER, ("input",), "lines that Kafka has acknowledged; what has to be sent again counts again"),
    Metric("mailspan_producer_bytes_total", COUNTER, ("input",), "their bytes, without newlines"),
    Metric("mailspan_producer_restarts_total", COUNTER, ("input",), "times that sending failed and began anew at the last safe place"),
    Metric("mailspan_producer_kafka_up", GAUGE, ("input",), "0 while no broker answers"),
    Metric("mailspan_producer_queue_lines", GAUGE, ("input",), "lines in the Kafka client that are not acknowledged"),
    Metric("mailspan_producer_queue_limit_lines", GAUGE, ("input",), "how many it may hold; 32 MiB is its other limit"),
    Metric("mailspan_producer_queue_full_total", COUNTER, ("input",), "times that the client took nothing more, and the input waited"),
    Metric("mailspan_producer_held_bytes", GAUGE, ("input",), "bytes read and not acknowledged that this process holds besides; the input is not read where they are too many"),
    Metric("mailspan_producer_bytes_behind", GAUGE, ("input",), "tail: bytes of the files that have not arrived"),
    Metric("mailspan_producer_files", GAUGE, ("input",), "tail: files that are open"),
    Metric("mailspan_producer_known_files", GAUGE, ("input",), "tail: files whose position is kept"),
    Metric("mailspan_producer_truncations_total", COUNTER, ("input",), "tail: files that were truncated"),
    Metric("mailspan_producer_lost_files_total", COUNTER, ("input",), "tail: files that vanished before they were read to their end"),
    Metric("mailspan_producer_file_faults_total", COUNTER, ("input",), "tail: files and patterns that could not be read; each fault once"),
    Metric("mailspan_journal_newest_timestamp_seconds", GAUGE, (), "when the newest entry that was read was written"),
    Metric("mailspan_journal_entries_passed_over_total", COUNTER, ("reason",), "entries that gave no line"),
    Metric("mailspan_journal_starts_total", COUNTER, (), "starts of journalctl"),
    Metric("mailspan_journal_lost_cursors_total", COUNTER, (), "saved positions whose entries were gone"),
    Metric("mailspan_syslog_lines_total", COUNTER, ("transport",), "lines taken in"),
    Metric("mailspan_syslog_bytes_total", COUNTER, ("transport",), "bytes taken in, with their framing"),
    Metric("mailspan_syslog_datagrams_dropped_total", COUNTER, ("cause",), "datagrams of UDP that were dropped: lost"),
    Metric("mailspan_syslog_connections", GAUGE, (), "connections that are open"),
    Metric("mailspan_syslog_connections_accepted_total", COUNTER, (), "connections that were let in"),
    Metric("mailspan_syslog_connections_refused_total", COUNTER, ("reason",), "connections that were not let in: a limit is reached"),
    Metric("mailspan_syslog_connections_closed_total", COUNTER, ("reason",), "connections that we ended, or that broke off"),
    Metric("mailspan_syslog_frames_cut_total", COUNTER, (), "messages whose end was passed over: too long"),
    Metric("mailspan_syslog_frames_truncated_total", COUNTER, (), "messages that were not complete when their connection ended"),
    Metric("mailspan_syslog_paused", GAUGE, (), "1 while TCP and TLS are not read, as too much is under way"),
    # the reducer; counted at the commit: lines = applied + ignored + unparsed
    Metric("mailspan_reducer_lines_total", COUNTER, (), "lines of mail.raw that are settled: applied + ignored + unparsed"),
    Metric("mailspan_reducer_bytes_total", COUNTER, (), "their bytes"),
    Metric("mailspan_reducer_lines_applied_total", COUNTER, (), "lines that are part of a transaction"),
    Metric("mailspan_reducer_lines_ignored_total", COUNTER, ("reason",), "lines that are understood and change nothing"),
    Metric("mailspan_reducer_lines_unparsed_total", COUNTER, ("program", "reason"), "lines that should have been understood and were not"),
    Metric("mailspan_reducer_misplaced_records_total", COUNTER, (), "records whose host belongs to another partition: a shipper with another partitioner, or other host aliases"),
    Metric("mailspan_reducer_documents_total", COUNTER, (), "documents written to mail.transactions"),
    Metric("mailspan_reducer_withdrawn_total", COUNTER, (), "documents withdrawn, as their transaction got another id"),
    Metric("mailspan_reducer_state_written_bytes_total", COUNTER, (), "bytes of state written to mail.open-transactions"),
    Metric("mailspan_reducer_pending_records", GAUGE, (), "records applied and not committed"),
    Metric("mailspan_reducer_open_transactions", GAUGE, (), "queue IDs kept in memory: open, or lingering for late lines"),
    Metric("mailspan_reducer_unpacked_transactions", GAUGE, (), "those of them that are not packed, which takes some ten times the memory"),
    Metric("mailspan_reducer_state_bytes", GAUGE, (), "bytes of the packed ones"),
    Metric("mailspan_reducer_hosts", GAUGE, (), "hosts that something is kept of"),
    Metric("mailspan_reducer_silent_hosts", GAUGE, (), "hosts that wrote in the last day and have been silent for an hour, of those that this process has heard since it has their partition; of a partition that lags: as of where it has got to"),
    # the sink; counted when offsets are passed
    Metric("mailspan_sink_records_total", COUNTER, (), "records of mail.transactions that are settled: the sum of all results"),
    Metric("mailspan_sink_results_total", COUNTER, ("result",), "what became of them"),
    Metric("mailspan_sink_canaries_dropped_total", COUNTER, (), "canaries that Elasticsearch did not take at once, or of days that are not kept: they are not sent again"),
    Metric("mailspan_sink_bulk_seconds", HISTOGRAM, (), "how long bulk requests took, with those that failed", BULKS),
    Metric("mailspan_sink_bulk_requests_total", COUNTER, ("status",), "bulk requests, by how Elasticsearch answered"),
    Metric("mailspan_sink_bulk_bytes_total", COUNTER, (), "bytes of their bodies; what is sent again counts again"),
    Metric("mailspan_sink_bulk_items", GAUGE, (), "how many items the next bulk request may have"),
    Metric("mailspan_sink_retries_total", COUNTER, (), "items that had to be sent again"),
    Metric("mailspan_sink_waiting", GAUGE, (), "1 while it waits for Elasticsearch"),
    # the page of the help desk
    Metric("mailspan_web_answers_total", COUNTER, ("page", "code"), "answers of the page, by page and status"),
    Metric("mailspan_web_answer_seconds", HISTOGRAM, (), "how long they took", ANSWERS),
)
# fmt: on
"""The list."""

BY_NAME = {metric.name: metric for metric in METRICS}


class Distribution(NamedTuple):
    """What a histogram shows: how many were at most each bound, in the end all of them, and the sum of all."""

    cumulative: tuple[int, ...]
    sum: float


class Histogram:
    """Counts values by the upper bounds of a metric."""

    def __init__(self, name: str) -> None:
        self._bounds = BY_NAME[name].bounds
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        """Count a value, `count` times; one below 0, as clocks differ, is 0."""
        value = max(0.0, value)
        self._counts[bisect_left(self._bounds, value)] += count
        self._sum += value * count

    @property
    def distribution(self) -> Distribution:
        """What was counted so far."""
        return Distribution(tuple(accumulate(self._counts)), self._sum)


class Figure(NamedTuple):
    """The value of a metric now, with the values of its labels in the order of the list."""

    name: str
    value: float | Distribution | None
    labels: tuple[str, ...] = ()


def check(figure: Figure) -> Metric:
    """Return the metric of a figure. Raises ValueError for one that the list does not have, or not so."""
    metric = BY_NAME.get(figure.name)
    if metric is None or len(metric.labels) != len(figure.labels):
        raise ValueError(f"no metric is listed as {figure.name} with {len(figure.labels)} labels")
    if isinstance(figure.value, Distribution) != (metric.type == HISTOGRAM):
        raise ValueError(f"{figure.name} is a {metric.type}")
    return metric


def table() -> str:
    """Return the list as a table for the docs."""
    kinds = {AGE: GAUGE}
    rows = [
        f"| `{each.name}` | {kinds.get(each.type, each.type)} | {', '.join(each.labels)} | {each.meaning} |"
        for each in METRICS
    ]
    labels = [f"| {name} | {meaning} |" for name, meaning in LABELS.items()]
    head = ("| metric | type | labels | meaning |", "| --- | --- | --- | --- |")
    label_head = ("| label | values |", "| --- | --- |")
    return "\n".join((*head, *rows, "", *label_head, *labels))
