"""The cases of the alerts, and promtool's file made from them: `python -m tests.alert_cases` (`make dashboards`).

Each alert has one case in which it fires, with exactly these labels, and one in which it is quiet. Series are those of
promtool: `0+2x60` is 0, 2, 4, …, one a minute. What an alert says is taken from deploy/prometheus/rules.yml.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from tests.compose import load
from tests.running import ROOT

RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
FILE = ROOT / "deploy" / "prometheus" / "rules_test.yml"
_HEAD = """\
# Made by `make dashboards` from tests/alert_cases.py: of each alert a case that fires and one that is quiet.
# Run it with `promtool test rules deploy/prometheus/rules_test.yml`.
"""

Series = dict[str, str]
Labels = dict[str, str]


class Case(NamedTuple):
    """An alert: series with which it fires, series with which it does not, when it is looked at, and its labels."""

    firing: Series
    quiet: Series
    at: str
    labels: Labels


def _ages(in_time: int, count: int, minutes: int) -> Series:
    """Return the ages of `count` records a minute, of which `in_time` are settled within 30 s."""
    name = "mailspan_record_age_seconds"
    return {
        f'{name}_bucket{{stage="sink",instance="s1",le="30.0"}}': f"0+{in_time}x{minutes}",
        f'{name}_bucket{{stage="sink",instance="s1",le="+Inf"}}': f"0+{count}x{minutes}",
        f'{name}_count{{stage="sink",instance="s1"}}': f"0+{count}x{minutes}",
    }


def _one(series: str, firing: str, quiet: str, at: str, **labels: str) -> Case:
    return Case({series: firing}, {series: quiet}, at, labels)


_LAG = 'mailspan_lag_seconds{stage="reduce",partition="3",instance="r1"}'
_SINK_LAG = 'mailspan_lag_seconds{stage="sink",partition="3",instance="s1"}'
_RETENTION = 'mailspan_topic_retention_seconds{{stage="{}",instance="i1"}}'
_BUILD = {
    f'mailspan_build_info{{stage="{stage}",instance="{stage}1"}}': "1x60" for stage in ("produce", "reduce", "sink")
}
_UNPARSED = 'mailspan_reducer_lines_unparsed_total{program="exim",reason="of no rule",instance="r1"}'
_LINES = 'mailspan_reducer_lines_total{instance="r1"}'

CASES: dict[str, Case] = {
    "MailspanFreshnessBurnsFast": Case(_ages(900, 1000, 40), _ages(995, 1000, 40), "30m", {"stage": "sink"}),
    "MailspanFreshnessBurns": Case(_ages(990, 1000, 60), _ages(996, 1000, 60), "50m", {"stage": "sink"}),
    "MailspanFreshnessBurnsSlowly": Case(_ages(997, 1000, 90), _ages(9995, 10000, 90), "80m", {"stage": "sink"}),
    "MailspanCanaryLate": _one(
        'mailspan_canary_age_seconds{stage="sink",instance="s1"}', "5+60x20", "5 65 110 5 70 115 5 5 5 5 5", "10m",
        stage="sink",
    ),
    "MailspanCanaryAbsent": Case(
        {'mailspan_canary_age_seconds{stage="reduce",instance="r1"}': "5x60"},
        {'mailspan_canary_age_seconds{stage="sink",instance="s1"}': "5x60"},
        "10m",
        {"stage": "sink"},
    ),
    # Quiet: behind, and catching up.
    "MailspanLagGrowing": _one(_LAG, "0+60x60", "3600-100x30", "30m", stage="reduce", partition="3"),
    # Firing: of another stage nothing is known, and 7 days are assumed. Quiet: kept for longer, and for ever.
    "MailspanLagNearsRetention": Case(
        {_LAG: "400000x30", _RETENTION.format("sink"): "1e9x30"},
        {
            _LAG: "400000x30", _RETENTION.format("reduce"): "1209600x30",
            _SINK_LAG: "9e9x30", _RETENTION.format("sink"): "1e17x30",
        },
        "20m",
        {"stage": "reduce"},
    ),
    # Firing: found as the process started, before it was first asked.
    "MailspanLostRecords": _one(
        'mailspan_lost_records_total{stage="sink",instance="s1"}', "_x19 7 7 7 7", "7x60", "22m", stage="sink"
    ),
    "MailspanLinesDropped": _one(
        'mailspan_syslog_datagrams_dropped_total{cause="full",instance="p1"}', "0 0 0 7 7 7 7", "7x20", "6m",
        instance="p1",
    ),
    # Firing: the counter was not there before.
    "MailspanDeadLetters": _one(
        'mailspan_dead_letters_total{stage="sink",reason="record refused",instance="s1"}', "_x19 1 1 1 1", "1x60",
        "22m", stage="sink",
    ),
    "MailspanUnparsedLines": Case(
        {_UNPARSED: "0+2x120", _LINES: "0+100x120"}, {_UNPARSED: "0+2x120", _LINES: "0+1000x120"}, "40m", {}
    ),
    "MailspanMisplacedRecords": _one(
        'mailspan_reducer_misplaced_records_total{instance="r1"}', "0 0 0 7 7 7 7", "7x20", "6m"
    ),
    "MailspanStageAbsent": Case(
        {name: value for name, value in _BUILD.items() if "reduce" not in name}, _BUILD, "10m", {"stage": "reduce"}
    ),
    "MailspanTargetDown": Case(
        {'up{job="sink",instance="s1"}': "0x20"},
        {'up{job="sink",instance="s1"}': "0 0 0 1 0 0 0 1 1 1 1", 'up{job="another",instance="a"}': "0x20"},
        "10m",
        {"job": "sink", "instance": "s1"},
    ),
    "MailspanNotReady": _one(
        'mailspan_ready{stage="reduce",instance="r1"}', "0x30", "0 0 0 0 0 1 0 0 0 0 0 0 0 0 0 1", "14m",
        stage="reduce", instance="r1",
    ),
    "MailspanRestoreSlow": _one(
        'mailspan_partitions{stage="reduce",state="restoring",instance="r1"}', "3x20", "3 2 1 0x20", "10m",
        stage="reduce", instance="r1",
    ),
    "MailspanRollbacks": _one(
        'mailspan_rollbacks_total{stage="reduce",instance="r1"}', "0+1x20", "0 0 1 1 1 1x20", "16m", stage="reduce"
    ),
    "MailspanElasticsearchRefusesUs": Case(
        {'mailspan_sink_bulk_requests_total{status="403",instance="s1"}': "_x28 1 2 3"},
        {
            'mailspan_sink_bulk_requests_total{status="403",instance="s1"}': "3x60",
            'mailspan_sink_bulk_requests_total{status="429",instance="s1"}': "0+1x60",
        },
        "30m",
        {"status": "403"},
    ),
    "MailspanSinkWaits": _one(
        'mailspan_sink_waiting{instance="s1"}', "1x20", "1 1 1 0 1 1 1 0 1 1 1", "10m", instance="s1"
    ),
    "MailspanKafkaAway": _one(
        'mailspan_producer_kafka_up{input="tail",instance="p1"}', "0x20", "0 0 0 1 0 0 0 1 0 0 0", "10m", input="tail",
        instance="p1",
    ),
    "MailspanProducerBehind": _one(
        'mailspan_producer_bytes_behind{input="tail",instance="p1"}', "2e8x40", "2e8-1e7x12 0x40", "30m", input="tail",
        instance="p1",
    ),
    "MailspanHostsSilent": _one('mailspan_reducer_silent_hosts{instance="r1"}', "2x40", "0x40", "30m"),
}  # fmt: skip


def rules() -> list[dict[str, Any]]:
    """Return all rules, recording and alerting."""
    groups = load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    """Return the alerts by name."""
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def _filled(text: str, labels: Labels) -> str:
    return re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: labels[found[1]], text)


def _group(name: str, series: Series, at: str, alert: str, expected: list[Any]) -> dict[str, Any]:
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": each, "values": values} for each, values in series.items()],
        "alert_rule_test": [{"eval_time": at, "alertname": alert, "exp_alerts": expected}],
    }


def tests() -> dict[str, list[dict[str, Any]]]:
    """Return promtool's test groups by alert: firing, quiet."""
    found = {}
    for name, case in CASES.items():
        alert = alerts()[name]
        says = {key: _filled(str(text), case.labels) for key, text in alert["annotations"].items()}
        expected = [{"exp_labels": {**alert["labels"], **case.labels}, "exp_annotations": says}]
        found[name] = [
            _group(f"{name} fires", case.firing, case.at, name, expected),
            _group(f"{name} is quiet", case.quiet, case.at, name, []),
        ]
    return found


def made() -> str:
    """Return the file; JSON is YAML."""
    lines = [f"  - {json.dumps(group, ensure_ascii=False)}" for groups in tests().values() for group in groups]
    return "\n".join([f"{_HEAD}rule_files: [rules.yml]", "evaluation_interval: 1m", "tests:", *lines, ""])


if __name__ == "__main__":
    FILE.write_text(made(), encoding="utf-8")
