"""What rules and dashboards ask for: names and labels in PromQL, and the searches of Grafana's Elasticsearch panels."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from mailspan.metrics import BY_NAME, HISTOGRAM

if TYPE_CHECKING:
    from collections.abc import Iterator

_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"')
_NAME = re.compile(r"(?<![\w:$.])[a-zA-Z_][\w:]*")
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^()]*)\)")
_MATCHERS = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"\[[^\]]*\]|\boffset\s+\w+|\b\d[\w.]*")
_KEYWORDS = {"and", "or", "unless", "bool", "offset"}
OF_PROMETHEUS = {"job", "instance"}
OF_OTHERS = {"up", "process_cpu_seconds_total", "process_resident_memory_bytes"}
"""Metrics of Prometheus itself and of its client library."""


class Asked(NamedTuple):
    """What an expression asks for: metrics as they are written, and all labels that it names."""

    metrics: frozenset[str]
    labels: frozenset[str]


def asked(expression: str) -> Asked:
    """Return what an expression asks for. A name before a bracket is a function."""
    text = _TEXT.sub('""', expression)
    labels = {label.strip() for group in _GROUPING.findall(text) for label in group.split(",")}
    labels |= {re.split(r"[=!]", each)[0].strip() for inside in _MATCHERS.findall(text) for each in inside.split(",")}
    bare = _RANGE.sub(" ", _MATCHERS.sub("", _GROUPING.sub("", text)))
    found = {each[0] for each in _NAME.finditer(bare) if not bare[each.end() :].lstrip().startswith("(")}
    return Asked(frozenset(found - _KEYWORDS), frozenset(labels))


def series_of(listed: dict[str, tuple[str, ...]]) -> dict[str, set[str]]:
    """Return the labels of each series that processes show, by its name in Prometheus; `listed` are labels by metric."""
    found: dict[str, set[str]] = {}
    for name, labels in listed.items():
        if BY_NAME[name].type == HISTOGRAM:
            found |= {f"{name}_{part}": set(labels) for part in ("sum", "count")}
            found[f"{name}_bucket"] = {*labels, "le"}
        else:
            found[name] = set(labels)
    return found


def faults(expression: str, series: dict[str, set[str]], recorded: dict[str, set[str]]) -> list[str]:
    """Return what is wrong with an expression: a metric that nobody shows, a label that none of its metrics has."""
    metrics, labels = asked(expression)
    known = {**{name: set[str]() for name in OF_OTHERS}, **series, **recorded}
    wrong = [f"no such metric: {name}" for name in sorted(metrics - known.keys())]
    has = OF_PROMETHEUS.union(*(known.get(name, set()) for name in metrics))
    return wrong + [f"no such label: {name}" for name in sorted(labels - has)]


def prometheus_queries(dashboard: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield title and PromQL of a dashboard, with a range in place of Grafana's variable."""
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            if "expr" in target:
                yield panel["title"], target["expr"].replace("$__rate_interval", "1m")


def _aggregation(bucket: dict[str, Any]) -> dict[str, Any]:
    kind, settings = bucket["type"], bucket.get("settings", {})
    if kind == "nested":
        return {"nested": {"path": bucket["field"]}}
    if kind == "terms":
        order = {settings["orderBy"]: settings["order"]}
        return {"terms": {"field": bucket["field"], "size": int(settings["size"]), "order": order, "min_doc_count": 1}}
    if kind == "date_histogram":
        return {"date_histogram": {"field": bucket["field"], "fixed_interval": "1m", "min_doc_count": 0}}
    assert kind == "filters", kind
    queries = {each["label"]: _words(each["query"]) for each in settings["filters"]}
    return {"filters": {"filters": queries}}


def _words(query: str) -> dict[str, Any]:
    return {"query_string": {"query": query, "analyze_wildcard": True}}


def search_of(target: dict[str, Any], since_ms: int, until_ms: int) -> dict[str, Any]:
    """Return the search that Grafana makes of a panel over documents."""
    metric = target["metrics"][0]
    inner: dict[str, Any] = {}
    if metric["type"] != "count":
        assert metric["type"] == "percentiles"
        percents = [float(each) for each in metric["settings"]["percents"]]
        inner = {metric["id"]: {"percentiles": {"field": metric["field"], "percents": percents}}}
    for bucket in reversed(target["bucketAggs"]):
        inner = {bucket["id"]: {**_aggregation(bucket), **({"aggs": inner} if inner else {})}}
    span = {"range": {target["timeField"]: {"gte": since_ms, "lte": until_ms, "format": "epoch_millis"}}}
    return {"size": 0, "query": {"bool": {"filter": [span, _words(target["query"])]}}, "aggs": inner}


def fields_of(target: dict[str, Any]) -> set[str]:
    """Return all fields that a panel over documents names."""
    queries = [target["query"]]
    found = {target["timeField"]}
    for bucket in target["bucketAggs"]:
        queries += [each["query"] for each in bucket.get("settings", {}).get("filters", ())]
        found |= {bucket["field"]} if "field" in bucket else set()
    found |= {each["field"] for each in target["metrics"] if "field" in each}
    return found | {name for query in queries for name in re.findall(r"([\w.@]+):", query)}
