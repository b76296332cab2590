"""Grafana's dashboards, from one table of panels: `python -m deploy.grafana.dashboards` (`make dashboards`).

Pure but for that command. Those of the stages ask Prometheus, by the names in mailspan/metrics.py. That of the mail flow
asks Elasticsearch, by the fields of the documents. The JSON is that of Grafana's classic schema, which versions from 9 on
read. Every panel has a unit and a description.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent / "dashboards"
PROMETHEUS = {"type": "prometheus", "uid": "prometheus"}
ELASTICSEARCH = {"type": "elasticsearch", "uid": "elasticsearch"}
_WIDTH, _HEIGHT, _COLUMNS = 12, 8, 24

Json = dict[str, Any]


class Panel(NamedTuple):
    """One panel. `queries` are pairs of PromQL and legend."""

    title: str
    unit: str
    description: str
    queries: tuple[tuple[str, str], ...]


class Flow(NamedTuple):
    """One panel over documents: a Lucene query, the buckets from the outermost on, and what is counted in them."""

    title: str
    unit: str
    description: str
    query: str
    buckets: tuple[Json, ...]
    metric: Json


def _quantiles(metric: str, where: str, by: str = "stage") -> tuple[tuple[str, str], ...]:
    return tuple(
        (
            f"histogram_quantile({quantile}, sum by ({by}, le) (rate({metric}_bucket{where}[$__rate_interval])))",
            f"{{{{{by}}}}} p{round(quantile * 100)}",
        )
        for quantile in (0.5, 0.99)
    )


def _rates(stage: str) -> tuple[Panel, ...]:
    """Return the panels that the reducer and the sink share."""
    where = f'{{stage="{stage}"}}'
    return (
        Panel(
            "Lag in time",
            "s",
            "Age of the last settled record of each partition, from when it was read at its source; 0 where all is settled.",
            ((f"max by (partition) (mailspan_lag_seconds{where})", "{{partition}}"),),
        ),
        Panel(
            "Lag in records",
            "short",
            "Records of each partition that are not settled.",
            ((f"sum by (partition) (mailspan_lag_records{where})", "{{partition}}"),),
        ),
        Panel(
            "Age of records",
            "s",
            "How old records were when they were settled: the median and the oldest hundredth.",
            _quantiles("mailspan_record_age_seconds", where),
        ),
        Panel(
            "Partitions",
            "short",
            "Partitions by what is done with them; those that are restored stand still.",
            ((f"sum by (state) (mailspan_partitions{where})", "{{state}}"),),
        ),
        Panel(
            "Rebalances",
            "short",
            "Times in the last hour that partitions came or went.",
            ((f"sum(increase(mailspan_rebalances_total{where}[1h]))", "rebalances"),),
        ),
        Panel(
            "Lost and dead",
            "short",
            "Records of the last hour that the topic had deleted before they were read, and those that went to the dead letters.",
            (
                (f"sum(increase(mailspan_lost_records_total{where}[1h]))", "lost"),
                (f"sum(increase(mailspan_dead_letters_total{where}[1h]))", "dead letters"),
            ),
        ),
    )


OVERVIEW = (
    Panel("Late records", "percentunit", "Part of the records that the sink settled later than 30 s after they were read; the objective is at most 0.1 %.", (('stage:mailspan_record_age_seconds:late_ratio_rate5m{stage="sink"}', "5 minutes"), ('stage:mailspan_record_age_seconds:late_ratio_rate1h{stage="sink"}', "1 hour"))),
    Panel("Age of the newest canary", "s", "Of the marked records that producers send every 10 s, the newest that each stage has settled, of the process where that is oldest. Where it grows the pipeline stands, with mail or without.", (("max by (stage) (mailspan_canary_age_seconds)", "{{stage}}"),)),
    Panel("Throughput", "short", "Records a second: lines that Kafka acknowledged, lines that the reducer settled, documents that it wrote, records that the sink settled.", (("sum(rate(mailspan_producer_lines_total[$__rate_interval]))", "lines produced"), ("sum(rate(mailspan_reducer_lines_total[$__rate_interval]))", "lines reduced"), ("sum(rate(mailspan_reducer_documents_total[$__rate_interval]))", "documents written"), ("sum(rate(mailspan_sink_records_total[$__rate_interval]))", "records settled by the sink"))),
    Panel("Lag in time", "s", "Age of the last settled record in the worst partition of each stage; 0 where all is settled.", (("max by (stage) (mailspan_lag_seconds)", "{{stage}}"),)),
    Panel("Age of records", "s", "The oldest hundredth of the records, by stage, when they were settled there.", (("stage:mailspan_record_age_seconds:p99_rate5m", "{{stage}}"),)),
    Panel("Processes", "short", "Processes of each stage that say that they do their work.", (("sum by (stage) (mailspan_ready)", "{{stage}} ready"), ("count by (stage) (mailspan_build_info)", "{{stage}} running"))),
    Panel("What is not used", "short", "In the last hour: dead letters, lines that were not understood, records lost before they were read.", (("sum(increase(mailspan_dead_letters_total[1h]))", "dead letters"), ("sum(increase(mailspan_reducer_lines_unparsed_total[1h]))", "unparsed lines"), ("sum(increase(mailspan_lost_records_total[1h]))", "lost records"))),
    Panel("Lines balance", "short", "Lines a second by what became of them: applied, ignored and unparsed are together all that were settled.", (("sum(rate(mailspan_reducer_lines_applied_total[$__rate_interval]))", "applied"), ("sum(rate(mailspan_reducer_lines_ignored_total[$__rate_interval]))", "ignored"), ("sum(rate(mailspan_reducer_lines_unparsed_total[$__rate_interval]))", "unparsed"))),
    Panel("Memory", "bytes", "Resident memory of each process.", (("process_resident_memory_bytes and on (instance) mailspan_build_info", "{{instance}}"),)),
    Panel("CPU", "percentunit", "Processor time of each process; 100 % is one core, which is all that one process can use.", (("rate(process_cpu_seconds_total[$__rate_interval]) and on (instance) mailspan_build_info", "{{instance}}"),)),
)  # fmt: skip

PRODUCERS = (
    Panel("Lines", "short", "Lines a second that Kafka acknowledged, by input.", (("sum by (input) (rate(mailspan_producer_lines_total[$__rate_interval]))", "{{input}}"),)),
    Panel("Bytes", "Bps", "Their bytes a second.", (("sum by (input) (rate(mailspan_producer_bytes_total[$__rate_interval]))", "{{input}}"),)),
    Panel("Bytes behind", "bytes", "tail: bytes of the files that have not arrived in Kafka.", (("max by (instance) (mailspan_producer_bytes_behind)", "{{instance}}"),)),
    Panel("Age of lines", "s", "How old lines were when Kafka acknowledged them: the median and the oldest hundredth.", _quantiles("mailspan_record_age_seconds", '{stage="produce"}')),
    Panel("Queue", "percentunit", "How full the Kafka client's queue is: where it is full, the input waits.", (("max by (instance) (mailspan_producer_queue_lines / mailspan_producer_queue_limit_lines)", "{{instance}}"),)),
    Panel("Kafka reached", "short", "1 where a broker answers, by process.", (("min by (instance) (mailspan_producer_kafka_up)", "{{instance}}"),)),
    Panel("Began anew", "short", "In the last hour: times that sending failed and began anew, and that the client took nothing more.", (("sum(increase(mailspan_producer_restarts_total[1h]))", "restarts"), ("sum(increase(mailspan_producer_queue_full_total[1h]))", "queue full"))),
    Panel("Files", "short", "tail: files that are open, and files whose position is kept.", (("sum(mailspan_producer_files)", "open"), ("sum(mailspan_producer_known_files)", "known"))),
    Panel("Trouble with files", "short", "tail, in the last hour: files that were truncated, that vanished before they were read to their end, that could not be read.", (("sum(increase(mailspan_producer_truncations_total[1h]))", "truncated"), ("sum(increase(mailspan_producer_lost_files_total[1h]))", "lost"), ("sum(increase(mailspan_producer_file_faults_total[1h]))", "could not be read"))),
    Panel("Held bytes", "bytes", "Bytes read and not acknowledged that a process holds besides the client's queue.", (("max by (instance) (mailspan_producer_held_bytes)", "{{instance}}"),)),
    Panel("Syslog", "short", "syslog: lines a second by transport, and datagrams a second that were dropped.", (("sum by (transport) (rate(mailspan_syslog_lines_total[$__rate_interval]))", "{{transport}}"), ("sum by (cause) (rate(mailspan_syslog_datagrams_dropped_total[$__rate_interval]))", "dropped: {{cause}}"))),
    Panel("Journal", "s", "journal: how old the newest entry is that was read.", (("time() - max by (instance) (mailspan_journal_newest_timestamp_seconds)", "{{instance}}"),)),
)  # fmt: skip

REDUCER = (
    Panel("Lines", "short", "Lines a second that were settled, by what became of them.", (("sum(rate(mailspan_reducer_lines_applied_total[$__rate_interval]))", "applied"), ("sum(rate(mailspan_reducer_lines_ignored_total[$__rate_interval]))", "ignored"), ("sum(rate(mailspan_reducer_lines_unparsed_total[$__rate_interval]))", "unparsed"))),
    Panel("Unparsed by program", "short", "Lines of the last hour that should have been understood and were not.", (("sum by (program, reason) (increase(mailspan_reducer_lines_unparsed_total[1h]))", "{{program}}: {{reason}}"),)),
    *_rates("reduce"),
    Panel("Documents", "short", "Documents a second that were written, and that were withdrawn as their transaction got another id.", (("sum(rate(mailspan_reducer_documents_total[$__rate_interval]))", "written"), ("sum(rate(mailspan_reducer_withdrawn_total[$__rate_interval]))", "withdrawn"))),
    Panel("Open transactions", "short", "Queue IDs kept in memory, and those of them that are not packed, which take some ten times the memory.", (("sum(mailspan_reducer_open_transactions)", "open"), ("sum(mailspan_reducer_unpacked_transactions)", "not packed"))),
    Panel("State", "bytes", "Bytes of the packed transactions in memory.", (("sum by (instance) (mailspan_reducer_state_bytes)", "{{instance}}"),)),
    Panel("State written", "Bps", "Bytes of state a second that were written to Kafka.", (("sum(rate(mailspan_reducer_state_written_bytes_total[$__rate_interval]))", "state"),)),
    Panel("Commits", "s", "How long commits took: the median and the slowest hundredth.", _quantiles("mailspan_commit_seconds", '{stage="reduce"}')),
    Panel("Restoring", "s", "How long a partition waited from its assignment until it ran: the median and the slowest hundredth.", _quantiles("mailspan_restore_seconds", '{stage="reduce"}')),
    Panel("Rollbacks and misplaced records", "short", "In the last hour: commits that did not happen, and records in a partition that is not their host's.", (('sum(increase(mailspan_rollbacks_total{stage="reduce"}[1h]))', "rollbacks"), ("sum(increase(mailspan_reducer_misplaced_records_total[1h]))", "misplaced"))),
    Panel("Hosts", "short", "Hosts that something is kept of, and hosts that wrote in the last day and have been silent for an hour.", (("sum(mailspan_reducer_hosts)", "known"), ("sum(mailspan_reducer_silent_hosts)", "silent"))),
)  # fmt: skip

SINK = (
    Panel("Records by result", "short", "Records a second that were settled, by what became of them; superseded: the index had as new a version.", (("sum by (result) (rate(mailspan_sink_results_total[$__rate_interval]))", "{{result}}"),)),
    *_rates("sink"),
    Panel("Bulk requests", "short", "Requests a second to Elasticsearch, by the status of the answer; none: no answer came.", (("sum by (status) (rate(mailspan_sink_bulk_requests_total[$__rate_interval]))", "{{status}}"),)),
    Panel("Time of bulk requests", "s", "The median and the slowest hundredth.", tuple((f"histogram_quantile({quantile}, sum by (le) (rate(mailspan_sink_bulk_seconds_bucket[$__rate_interval])))", f"p{round(quantile * 100)}") for quantile in (0.5, 0.99))),
    Panel("Bytes", "Bps", "Bytes a second that were sent in bulk requests.", (("sum(rate(mailspan_sink_bulk_bytes_total[$__rate_interval]))", "bytes"),)),
    Panel("Items of the next bulk", "short", "How many items the next request may have: fewer where Elasticsearch refuses.", (("min by (instance) (mailspan_sink_bulk_items)", "{{instance}}"),)),
    Panel("Retries", "short", "Items of the last hour that had to be sent again.", (("sum(increase(mailspan_sink_retries_total[1h]))", "retries"),)),
    Panel("Waiting", "short", "1 where a sink waits for Elasticsearch.", (("max by (instance) (mailspan_sink_waiting)", "{{instance}}"),)),
    Panel("Taking over", "s", "How long a partition waited from its assignment until it ran: the median and the slowest hundredth.", _quantiles("mailspan_restore_seconds", '{stage="sink"}')),
)  # fmt: skip

_COUNT: Json = {"id": "1", "type": "count"}
_OVER_TIME: Json = {"type": "date_histogram", "field": "date", "settings": {"interval": "auto", "min_doc_count": "0"}}
SENT, DEFERRED = "outcome:(delivered OR relayed)", "outcome:deferred"
BOUNCED, REJECTED = "outcome:(bounced OR expired)", "outcome:rejected"
DOMAIN_CLASSES = {
    "Google": "recipient_domains:(gmail.com OR googlemail.com)",
    "Microsoft": "recipient_domains:(outlook.* OR hotmail.* OR live.* OR msn.com)",
    "Yahoo, AOL": "recipient_domains:(yahoo.* OR ymail.com OR aol.*)",
    "Apple": "recipient_domains:(icloud.com OR me.com OR mac.com)",
    "others": "recipient_domains:* AND NOT recipient_domains:(gmail.com OR googlemail.com OR outlook.* OR hotmail.* OR live.* OR msn.com OR yahoo.* OR ymail.com OR aol.* OR icloud.com OR me.com OR mac.com)",
}


def _terms(field: str, size: int = 10) -> Json:
    settings = {"size": str(size), "order": "desc", "orderBy": "_count", "min_doc_count": "1"}
    return {"type": "terms", "field": field, "settings": settings}


_CLASSES: Json = {
    "type": "filters",
    "settings": {"filters": [{"query": query, "label": label} for label, query in DOMAIN_CLASSES.items()]},
}
_MAIL = "NOT kind:probe AND NOT kind:mailbox"
_ATTEMPTS: Json = {"type": "nested", "field": "to", "settings": {}}
_DELAYS: Json = {
    "id": "1",
    "type": "percentiles",
    "field": "to.delay_seconds",
    "settings": {"percents": ["50", "95", "99"]},
}
_ATTEMPTS_OVER_TIME: Json = {**_OVER_TIME, "field": "to.date"}


def _flow() -> tuple[Flow, ...]:
    """Return the panels of the mail flow: each of the four results by each of three ways to look at it, and delays."""
    found = [
        Flow(
            "Mail by outcome",
            "short",
            "Transactions and refusals by their worst outcome, by the time that they began.",
            _MAIL,
            (_terms("outcome"), _OVER_TIME),
            _COUNT,
        )
    ]
    results = {"Sent": SENT, "Deferred": DEFERRED, "Bounced": BOUNCED, "Rejected": REJECTED}
    ways = {"host": _terms("host"), "relay": _terms("relays"), "domain class": _CLASSES}
    for title, query in results.items():
        for name, bucket in ways.items():
            if (title, name) == ("Rejected", "relay"):
                continue  # what is refused in the dialogue has no relay: by reason instead
            text = f"{title} mail by {name}, by the time that it began."
            found.append(
                Flow(f"{title} by {name}", "short", text, f"{_MAIL} AND {query}", (bucket, _OVER_TIME), _COUNT)
            )
    found += [
        Flow(
            "Rejected by enhanced code",
            "short",
            "Refusals by the code that was answered (RFC 3463), where one was.",
            f"{_MAIL} AND {REJECTED}",
            (_terms("dsns"), _OVER_TIME),
            _COUNT,
        ),
        Flow(
            "Delay",
            "s",
            "How old mail was at its attempts, by the time of the attempt: median, 95th and 99th percentile.",
            _MAIL,
            (_ATTEMPTS, _ATTEMPTS_OVER_TIME),
            _DELAYS,
        ),
        Flow(
            "Delay by relay",
            "s",
            "The same for the relays with the most attempts.",
            _MAIL,
            (_ATTEMPTS, _terms("to.relay", 5), _ATTEMPTS_OVER_TIME),
            _DELAYS,
        ),
    ]
    return tuple(found)  # fmt: skip


FLOW = _flow()

DASHBOARDS: dict[str, tuple[str, str, tuple[Panel | Flow, ...]]] = {
    "mailspan-overview": ("mailspan: overview", "Is mail searchable, how soon, and where does it stand?", OVERVIEW),
    "mailspan-producers": ("mailspan: producers", "From log files, the journal and syslog to Kafka.", PRODUCERS),
    "mailspan-reducer": ("mailspan: reducer", "From lines to documents.", REDUCER),
    "mailspan-sink": ("mailspan: sink", "From documents to Elasticsearch.", SINK),
    "mailspan-mail-flow": ("mailspan: mail flow", "What became of the mail, from the documents.", FLOW),
}
"""By their uid, which is also the file's name: title, description, panels."""


def _target(panel: Flow) -> Json:
    buckets = [{"id": str(number), **bucket} for number, bucket in enumerate(panel.buckets, 2)]
    return {
        "refId": "A", "datasource": ELASTICSEARCH, "timeField": "date", "query": panel.query, "alias": "",
        "metrics": [panel.metric], "bucketAggs": buckets,
    }  # fmt: skip


def _panel(panel: Panel | Flow, number: int) -> Json:
    is_flow = isinstance(panel, Flow)
    targets = (
        [_target(panel)]
        if isinstance(panel, Flow)
        else [
            {"refId": chr(ord("A") + place), "datasource": PROMETHEUS, "expr": query, "legendFormat": legend}
            for place, (query, legend) in enumerate(panel.queries)
        ]
    )
    place = {"x": number * _WIDTH % _COLUMNS, "y": number * _WIDTH // _COLUMNS * _HEIGHT, "w": _WIDTH, "h": _HEIGHT}
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": ELASTICSEARCH if is_flow else PROMETHEUS,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "custom": {"fillOpacity": 10}}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": targets,
    }


def dashboard(uid: str) -> Json:
    """Return a dashboard as Grafana reads it."""
    title, description, panels = DASHBOARDS[uid]
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": ["mailspan"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "1m",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "links": [{"type": "dashboards", "tags": ["mailspan"], "title": "mailspan", "asDropdown": True}],
        "panels": [_panel(panel, number) for number, panel in enumerate(panels)],
    }


def text(uid: str) -> str:
    """Return a dashboard as its file has it."""
    return json.dumps(dashboard(uid), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in DASHBOARDS:
        (FOLDER / f"{name}.json").write_text(text(name), encoding="utf-8")
