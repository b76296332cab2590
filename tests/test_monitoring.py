"""Alerts and dashboards as files: names that exist, runbooks that are true, made files that are current, promtool's cases."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from deploy.grafana import dashboards
from mailspan.__main__ import COMMANDS
from mailspan.metrics import METRICS
from mailspan.settings import Settings
from sink.index_template import mapping
from tests import alert_cases
from tests.compose import load
from tests.monitoring import asked, faults, fields_of, prometheus_queries, series_of
from tests.prometheus_server import find, needs_prometheus
from tests.running import ROOT

if TYPE_CHECKING:
    from pathlib import Path

RUNBOOKS = ROOT / "docs" / "runbooks"
SERIES = series_of({metric.name: metric.labels for metric in METRICS})
RECORDED = {rule["record"]: rule["expr"] for rule in alert_cases.rules() if "record" in rule}
RECORDED_LABELS = {
    name: set(name.partition(":")[0].split("_")) for name in RECORDED
}  # the level of a recorded name is the labels that it keeps


def all_queries() -> list[tuple[str, str]]:
    found = [(rule.get("alert") or rule["record"], rule["expr"]) for rule in alert_cases.rules()]
    return found + [
        (f"{uid}: {title}", query)
        for uid in dashboards.DASHBOARDS
        for title, query in prometheus_queries(dashboards.dashboard(uid))
    ]


def flow_targets() -> list[tuple[str, dict[str, Any]]]:
    return [(panel["title"], panel["targets"][0]) for panel in dashboards.dashboard("mailspan-mail-flow")["panels"]]


def test_every_query_names_metrics_and_labels_that_are_listed() -> None:
    wrong = {(name, fault) for name, query in all_queries() for fault in faults(query, SERIES, RECORDED_LABELS)}
    assert wrong == set()


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("sum(rate(mailspan_reducer_linez_total[5m]))", "no such metric: mailspan_reducer_linez_total"),
        ("mailspan_lag_seconds_bucket > 3", "no such metric: mailspan_lag_seconds_bucket"),
        ('mailspan_commit_seconds{stage="reduce"}', "no such metric: mailspan_commit_seconds"),
        ("stage:made_up:rate5m > 1", "no such metric: stage:made_up:rate5m"),
        ('mailspan_ready{stages="reduce"} == 0', "no such label: stages"),
        ("sum by (host) (mailspan_ready)", "no such label: host"),
        ("mailspan_ready and on (le) mailspan_ready", "no such label: le"),
    ],
)
def test_a_query_for_what_nobody_shows_is_told(expression: str, told: str) -> None:
    assert told in faults(expression, SERIES, RECORDED_LABELS)


def test_what_an_expression_asks_for_is_read_from_it() -> None:
    found = asked('sum by (a, b) (rate(x_total{c="y{z}",d=~"e|f"}[5m] offset 1h)) / on (g) 1.5e3 * level:x:sum > 2')
    assert found == (frozenset({"x_total", "level:x:sum"}), frozenset("abcdg"))


def test_each_alert_says_what_it_is_and_has_a_runbook_and_two_cases() -> None:
    alerts = alert_cases.alerts()
    assert alerts.keys() == alert_cases.CASES.keys() == {path.stem for path in RUNBOOKS.glob("*.md")}
    for name, alert in alerts.items():
        assert alert["labels"]["severity"] in {"page", "ticket"}, name
        assert alert["annotations"]["runbook_url"] == f"docs/runbooks/{name}.md"
        assert alert["annotations"].keys() == {"summary", "description", "runbook_url"}
        text = (RUNBOOKS / f"{name}.md").read_text(encoding="utf-8")
        assert re.fullmatch(
            rf"# {name}\n\n\S.*\n\n## What to look at\n\n- .*\n\n## What to do\n\n- .*\n", text, re.DOTALL
        )


def test_runbooks_name_only_what_exists() -> None:
    commands = {command.name for command in COMMANDS}
    settings = {f"MAILSPAN_{name.upper()}" for name in Settings.__dataclass_fields__}
    titles = {title for title, _, _ in dashboards.DASHBOARDS.values()}
    for path in RUNBOOKS.glob("*.md"):
        text = path.read_text(encoding="utf-8")
        assert set(re.findall(r"`mailspan ([a-z-]+)", text)) <= commands, path
        assert set(re.findall(r"MAILSPAN_[A-Z_]+", text)) <= settings, path
        assert set(re.findall(r"`(mailspan: [a-z ]+)`", text)) <= titles, path
        assert set(re.findall(r"mailspan_[a-z_]+", text)) <= SERIES.keys(), path
        assert all((ROOT / name).exists() for name in re.findall(r"docs/[\w/-]+\.md", text)), path
        assert set(re.findall(r"\bMailspan[A-Z]\w+", text)) <= alert_cases.CASES.keys(), path


def test_the_made_files_are_what_the_tables_make() -> None:
    told = "run `make dashboards`"
    assert alert_cases.FILE.read_text(encoding="utf-8") == alert_cases.made(), told
    files = {path.name: path.read_text(encoding="utf-8") for path in dashboards.FOLDER.iterdir()}
    assert files == {f"{uid}.json": dashboards.text(uid) for uid in dashboards.DASHBOARDS}, told


@pytest.mark.parametrize("uid", dashboards.DASHBOARDS)
def test_each_panel_says_what_it_shows_in_which_unit(uid: str) -> None:
    made = orjson.loads(dashboards.text(uid))
    assert made["uid"] == uid
    assert len({panel["title"] for panel in made["panels"]}) == len(made["panels"]) > 5
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in made["panels"]]
    assert len(set(places)) == len(places)
    for panel in made["panels"]:
        assert panel["fieldConfig"]["defaults"]["unit"] in {"short", "s", "bytes", "Bps", "percentunit"}
        assert panel["description"].endswith(".")
        assert panel["targets"]


def mapped(properties: dict[str, Any], before: str = "") -> dict[str, str]:
    """Return the type of each field by its full name."""
    found: dict[str, str] = {}
    for name, each in properties.items():
        found[before + name] = each.get("type", "object")
        found |= mapped(each.get("properties", {}), f"{before}{name}.")
    return found


def field_faults(target: dict[str, Any], types: dict[str, str]) -> list[str]:
    """Return what is wrong with a panel over documents: no such field, one without values, one outside its nested path."""
    wrong = [f"no such field: {name}" for name in sorted(fields_of(target) - types.keys())]
    inside = ""
    for part in (*target["bucketAggs"], *target["metrics"]):
        name = part.get("field")
        if name is None or name not in types:
            continue
        if part["type"] == "nested":
            inside = f"{name}."
            wrong += [] if types[name] == "nested" else [f"not nested: {name}"]
            continue
        wrong += [f"outside its path: {name}"] if inside and not name.startswith(inside) else []
        wrong += [f"needs nested: {name}"] if not inside and types.get(name.partition(".")[0]) == "nested" else []
        needed = {"terms": {"keyword"}, "date_histogram": {"date"}, "percentiles": {"float", "long", "integer"}}
        wrong += [] if types[name] in needed[part["type"]] else [f"no {part['type']} of a {types[name]}: {name}"]
    return wrong


def test_the_mail_flow_asks_for_fields_that_the_index_template_has() -> None:
    types = mapped(mapping(has_wildcard=True)["properties"])
    assert {(title, fault) for title, target in flow_targets() for fault in field_faults(target, types)} == set()
    target = flow_targets()[0][1]
    for broken, told in (
        ({"query": "outcom:deferred"}, "no such field: outcom"),
        ({"bucketAggs": [{"type": "terms", "field": "msgid"}]}, "no terms of a wildcard: msgid"),
        ({"bucketAggs": [{"type": "terms", "field": "to.relay"}]}, "needs nested: to.relay"),
        (
            {"bucketAggs": [{"type": "nested", "field": "to"}, {"type": "terms", "field": "host"}]},
            "outside its path: host",
        ),
        ({"bucketAggs": [{"type": "date_histogram", "field": "host"}]}, "no date_histogram of a keyword: host"),
    ):
        assert told in field_faults({**target, **broken}, types)


def test_compose_gives_prometheus_the_rules_and_grafana_the_dashboards() -> None:
    services = load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    prometheus = load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    assert prometheus["rule_files"] == [alert_cases.RULES.name]
    assert "./deploy/prometheus:/etc/prometheus:ro" in services["prometheus"]["volumes"]
    provisioning = ROOT / "deploy" / "grafana" / "provisioning"
    provider = load((provisioning / "dashboards" / "mailspan.yml").read_text(encoding="utf-8"))["providers"][0]
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in services["grafana"]["volumes"]
    sources = [
        load(path.read_text(encoding="utf-8"))["datasources"][0]
        for path in sorted((provisioning / "datasources").glob("*.yml"))
    ]
    assert {(each["type"], each["uid"]) for each in sources} == {
        tuple(source.values()) for source in (dashboards.PROMETHEUS, dashboards.ELASTICSEARCH)
    }
    documents = next(each for each in sources if each["type"] == "elasticsearch")
    assert documents["jsonData"]["index"] == f"{Settings().index_prefix}-*"
    assert documents["url"] == "http://elasticsearch:9200"


@needs_prometheus
def test_promtool_finds_that_each_alert_fires_and_is_quiet(tmp_path: Path) -> None:
    promtool = find("promtool")
    assert promtool is not None
    configuration = ROOT / "deploy" / "prometheus" / "prometheus.yml"
    for command in (["check", "config", str(configuration)], ["test", "rules", str(alert_cases.FILE)]):
        done = subprocess.run([promtool, *command], capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
    for name in ("rules.yml", "rules_test.yml"):
        text = (alert_cases.FILE.parent / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text.replace("mailspan_ready == 0", "mailspan_ready == 1"), encoding="utf-8")
    command = [promtool, "test", "rules", str(tmp_path / "rules_test.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert "MailspanNotReady fires" in done.stdout + done.stderr
