"""The tables of sink/kibana_objects.py in the form that Kibana imports: saved objects, one JSON object a line. Pure.

Each carries the version of its form: of those that Kibana 8.19 and the versions of 9 know, the newest that both take as
it is or bring up to their own. An object of a form that is newer than a Kibana's own is refused by it ("belongs to a
more recent version of Kibana"). Panels are visualizations built of aggregations, the oldest and plainest kind: their
form has not changed since 8.5, and what they ask is what Elasticsearch is asked.

Ids are made of the index prefix, so that two prefixes go into one Kibana, and importing again replaces what is there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from sink.kibana_objects import DASHBOARDS, DATA_VIEW, PANELS, SEARCHES, TIME_FIELD

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sink.kibana_objects import Dashboard, Panel, Place, Search

Object = dict[str, Any]

CORE_VERSION = "8.8.0"
TYPE_VERSIONS = {"index-pattern": "8.0.0", "search": "8.0.0", "visualization": "8.5.0", "dashboard": "8.9.0"}
"""The form of the attributes: the last migration of each type that both majors have."""

_SOURCE_INDEX = "kibanaSavedObjectMeta.searchSourceJSON.index"
_PANEL_VERSION = "8.9.0"
_COUNT, _SPLIT, _SUM = "1", "2", "3"
_COUNT_LABEL = {"kind: rejection": "Rejections"}


def saved_objects(prefix: str) -> list[Object]:
    """Return all saved objects for the daily indices of a prefix; what is referred to comes first."""
    return [
        _data_view(prefix),
        *(_search(prefix, search) for search in SEARCHES),
        *(_panel(prefix, panel) for panel in PANELS),
        *(_dashboard(prefix, dashboard) for dashboard in DASHBOARDS),
    ]


def ndjson(objects: Iterable[Mapping[str, Any]]) -> bytes:
    """Return them as a file that Kibana imports."""
    return b"".join(orjson.dumps(each, option=orjson.OPT_SORT_KEYS) + b"\n" for each in objects)


def _saved(kind: str, id_: str, attributes: Object, references: list[Object]) -> Object:
    return {
        "type": kind,
        "id": id_,
        "attributes": attributes,
        "references": references,
        "coreMigrationVersion": CORE_VERSION,
        "typeMigrationVersion": TYPE_VERSIONS[kind],
        "managed": False,
    }


def _data_view(prefix: str) -> Object:
    attributes = {
        "title": f"{prefix}-*",
        "name": f"Mail transactions ({prefix})",
        "timeFieldName": TIME_FIELD,
        "allowNoIndex": True,  # before the first mail there is no index
        **dict.fromkeys(("fields", "sourceFilters"), "[]"),
        **dict.fromkeys(("fieldAttrs", "runtimeFieldMap", "typeMeta"), "{}"),
        "fieldFormatMap": _text({"size": {"id": "bytes"}}),
    }
    return _saved("index-pattern", f"{prefix}-{DATA_VIEW}", attributes, [])


def _search(prefix: str, search: Search) -> Object:
    attributes = {
        "title": search.title,
        "description": search.description,
        "columns": list(search.columns),
        "sort": [[TIME_FIELD, "desc"]],
        "grid": {},
        "hideChart": False,
        "isTextBasedQuery": False,
        "timeRestore": True,
        "timeRange": {"from": search.since, "to": "now"},
        "kibanaSavedObjectMeta": {"searchSourceJSON": _source(search.query)},
    }
    return _saved("search", f"{prefix}-{search.key}", attributes, [_data_view_reference(prefix, _SOURCE_INDEX)])


def _panel(prefix: str, panel: Panel) -> Object:
    label = _COUNT_LABEL.get(panel.query, "Mails")
    state, type_ = _PARAMETERS[panel.kind](label), _TYPES[panel.kind]
    attributes = {
        "title": panel.title,
        "description": panel.description,
        "visState": _text({"title": panel.title, "type": type_, "aggs": _aggregations(panel, label), "params": state}),
        "uiStateJSON": "{}",
        "version": 1,
        "kibanaSavedObjectMeta": {"searchSourceJSON": _source(panel.query)},
    }
    references = [_data_view_reference(prefix, _SOURCE_INDEX)]
    return _saved("visualization", f"{prefix}-{panel.key}", attributes, references)


def _aggregations(panel: Panel, label: str) -> list[Object]:
    found = [_aggregation(_COUNT, "count", "metric", {"customLabel": label})]
    if panel.sum_of:
        summed = {"field": panel.sum_of, "customLabel": f"Sum of {panel.sum_of}"}
        found.append(_aggregation(_SUM, "sum", "metric", summed))
    if panel.kind == "bars":
        over_time = {"field": TIME_FIELD, "interval": "auto", "min_doc_count": 1, "useNormalizedEsInterval": True}
        over_time |= {"drop_partials": False, "scaleMetricValues": False, "extended_bounds": {}}
        found.append(_aggregation("4", "date_histogram", "segment", over_time))
    if panel.split is not None:
        split: Object = {
            "field": panel.split.field,
            "customLabel": panel.split.label,
            "size": panel.split.size,
            "order": "desc",
            "orderBy": _COUNT,
            "otherBucket": False,
            "otherBucketLabel": "Other",
            "missingBucket": False,
            "missingBucketLabel": "Missing",
        }
        if panel.split.include:
            split |= {"include": panel.split.include, "includeIsRegex": True}
        found.append(_aggregation(_SPLIT, "terms", "group" if panel.kind == "bars" else "bucket", split))
    return found


def _aggregation(id_: str, type_: str, schema: str, parameters: Object) -> Object:
    return {"id": id_, "enabled": True, "type": type_, "schema": schema, "params": parameters}


def _metric_parameters(_label: str) -> Object:
    return {
        "addTooltip": True,
        "addLegend": False,
        "type": "metric",
        "metric": {
            "percentageMode": False,
            "useRanges": False,
            "colorSchema": "Green to Red",
            "metricColorMode": "None",
            "colorsRange": [{"from": 0, "to": 10000}],
            "labels": {"show": True},
            "invertColors": False,
            "style": {"bgFill": "#000", "bgColor": False, "labelColor": False, "subText": "", "fontSize": 48},
        },
    }


def _bars_parameters(label: str) -> Object:
    axis = {"show": True, "style": {}, "labels": {"show": True, "filter": True, "truncate": 100}}
    return {
        "type": "histogram",
        "grid": {"categoryLines": False},
        "categoryAxes": [
            {
                **axis,
                "id": "CategoryAxis-1",
                "type": "category",
                "position": "bottom",
                "scale": {"type": "linear"},
                "title": {},
            }
        ],
        "valueAxes": [
            {
                **axis,
                "id": "ValueAxis-1",
                "name": "LeftAxis-1",
                "type": "value",
                "position": "left",
                "scale": {"type": "linear", "mode": "normal"},
                "title": {"text": label},
            }
        ],
        "seriesParams": [
            {
                "show": True,
                "type": "histogram",
                "mode": "stacked",
                "data": {"label": label, "id": _COUNT},
                "valueAxis": "ValueAxis-1",
                "drawLinesBetweenPoints": True,
                "lineWidth": 2,
                "showCircles": True,
            }
        ],
        "addTooltip": True,
        "addLegend": True,
        "legendPosition": "right",
        "palette": {"type": "palette", "name": "default"},
        "times": [],
        "addTimeMarker": False,
        "truncateLegend": True,
        "maxLegendLines": 1,
        "labels": {"show": False},
        "thresholdLine": {"show": False, "value": 10, "width": 1, "style": "full", "color": "#E7664C"},
    }


def _table_parameters(_label: str) -> Object:
    return {
        "perPage": 10,
        "showPartialRows": False,
        "showMetricsAtAllLevels": False,
        "showTotal": False,
        "showToolbar": True,
        "totalFunc": "sum",
        "percentageCol": "",
    }


_TYPES = {"metric": "metric", "bars": "histogram", "table": "table"}
_PARAMETERS = {"metric": _metric_parameters, "bars": _bars_parameters, "table": _table_parameters}


def _dashboard(prefix: str, dashboard: Dashboard) -> Object:
    panels, references = [], []
    for number, place in enumerate(dashboard.places, 1):
        panels.append(_on_dashboard(place, str(number)))
        name = f"{number}:panel_{number}"
        references.append({"name": name, "type": _type_of(place.key), "id": f"{prefix}-{place.key}"})
    attributes = {
        "title": dashboard.title,
        "description": dashboard.description,
        "panelsJSON": _text(panels),
        "optionsJSON": _text({"useMargins": True, "syncColors": False, "hidePanelTitles": False}),
        "timeRestore": True,
        "timeFrom": dashboard.since,
        "timeTo": "now",
        "refreshInterval": {"pause": True, "value": 60_000},
        "kibanaSavedObjectMeta": {"searchSourceJSON": _text({"query": _kql(""), "filter": []})},
    }
    if dashboard.choices:
        attributes["controlGroupInput"] = _choices(dashboard)
        references += [
            _data_view_reference(prefix, f"controlGroup_{field}:optionsListDataView") for field, _ in dashboard.choices
        ]
    return _saved("dashboard", f"{prefix}-{dashboard.key}", attributes, references)


def _on_dashboard(place: Place, index: str) -> Object:
    return {
        "version": _PANEL_VERSION,
        "type": _type_of(place.key),
        "panelIndex": index,
        "gridData": {"x": place.x, "y": place.y, "w": place.width, "h": place.height, "i": index},
        "embeddableConfig": {"enhancements": {}},
        "panelRefName": f"panel_{index}",
    }


def _choices(dashboard: Dashboard) -> Object:
    panels = {
        field: {
            "type": "optionsListControl",
            "order": order,
            "grow": True,
            "width": "medium",
            "explicitInput": {
                "id": field,
                "fieldName": field,
                "title": label,
                "singleSelect": True,
                "selectedOptions": [],
                "enhancements": {},
            },
        }
        for order, (field, label) in enumerate(dashboard.choices)
    }
    ignored = dict.fromkeys(("ignoreFilters", "ignoreQuery", "ignoreTimerange", "ignoreValidations"), False)
    return {
        "controlStyle": "oneLine",
        "chainingSystem": "HIERARCHICAL",
        "ignoreParentSettingsJSON": _text(ignored),
        "panelsJSON": _text(panels),
    }


def _type_of(key: str) -> str:
    return "search" if any(search.key == key for search in SEARCHES) else "visualization"


def _data_view_reference(prefix: str, name: str) -> Object:
    return {"name": name, "type": "index-pattern", "id": f"{prefix}-{DATA_VIEW}"}


def _source(query: str) -> str:
    return _text({"query": _kql(query), "filter": [], "indexRefName": _SOURCE_INDEX})


def _kql(query: str) -> Object:
    return {"query": query, "language": "kuery"}


def _text(value: object) -> str:
    """Return JSON as the text that Kibana keeps inside of its JSON."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
