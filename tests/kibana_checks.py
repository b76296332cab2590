"""What must hold for saved objects before a Kibana sees them: references, fields, queries, forms.

What Kibana takes was read in its source (elastic/kibana): the schemas of the attributes of each type, which forbid what
they do not name (visualizations/server/saved_objects/visualization.ts, saved_search/server/saved_objects/
schema_legacy.ts, dashboard/server/dashboard_saved_object/schema/v1), and the last migration of each type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from tests.kql import KqlError, read

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Object = dict[str, Any]

ATTRIBUTES = {
    "index-pattern": {
        "title", "name", "timeFieldName", "allowNoIndex", "fields", "sourceFilters", "fieldAttrs", "runtimeFieldMap",
        "typeMeta", "fieldFormatMap",
    },
    "search": {
        "title", "description", "columns", "sort", "grid", "hideChart", "isTextBasedQuery", "timeRestore", "timeRange",
        "kibanaSavedObjectMeta",
    },
    "visualization": {"title", "description", "visState", "uiStateJSON", "version", "kibanaSavedObjectMeta"},
    "dashboard": {
        "title", "description", "panelsJSON", "optionsJSON", "timeRestore", "timeFrom", "timeTo", "refreshInterval",
        "kibanaSavedObjectMeta", "controlGroupInput",
    },
}  # fmt: skip
"""Those of the attributes that both versions know which we need."""
LAST_MIGRATIONS = {"index-pattern": (8, 0, 0), "search": (8, 0, 0), "visualization": (8, 5, 0), "dashboard": (8, 9, 0)}
"""A higher one is of a model version that 8.19 or the first of 9 may not have."""
TO_COUNT_BY = {"keyword", "date", "long", "integer", "float", "boolean", "ip"}
NUMBERS = {"long", "integer", "float"}
WIDTH = 48
_SOURCE_INDEX = "kibanaSavedObjectMeta.searchSourceJSON.index"


def field_types(mapping: Mapping[str, Any]) -> dict[str, str]:
    """Return the type of each field of a mapping by its full name; what is in a nested one is `nested TYPE`."""
    return dict(_fields(mapping["properties"], "", ""))


def _fields(properties: Mapping[str, Any], path: str, nested: str) -> Iterator[tuple[str, str]]:
    for name, mapped in properties.items():
        type_ = mapped.get("type", "object")
        inner = "nested " if type_ == "nested" else nested
        yield path + name, nested + type_
        yield from _fields(mapped.get("properties", {}), f"{path}{name}.", inner)
        yield from _fields(mapped.get("fields", {}), f"{path}{name}.", nested)


def faults(objects: Sequence[Object], mapping: Mapping[str, Any]) -> list[str]:
    """Return all that is wrong with the objects, for indices of this mapping."""
    types = field_types(mapping)
    there = {(each["type"], each["id"]): each for each in objects}
    found = [] if len(there) == len(objects) else ["two objects have one id"]
    for each in objects:
        checks = (_form(each), _references(each, there), _OF[each["type"]](each, types))
        found += [f"{each['type']} {each['id']}: {fault}" for check in checks for fault in check]
    return found


def _form(each: Object) -> Iterator[str]:
    if each["coreMigrationVersion"] != "8.8.0":
        yield "coreMigrationVersion"
    if tuple(map(int, each["typeMigrationVersion"].split("."))) > LAST_MIGRATIONS[each["type"]]:
        yield f"typeMigrationVersion {each['typeMigrationVersion']} is newer than a Kibana"
    if unknown := set(each["attributes"]) - ATTRIBUTES[each["type"]]:
        yield f"unknown attributes {sorted(unknown)}"
    if not each["attributes"].get("title") or each["attributes"].get("description") == "":
        yield "no title or description"


def _references(each: Object, there: Mapping[tuple[str, str], Object]) -> Iterator[str]:
    """Each reference is to an object of the file, and each place that needs a reference has one, and none is left."""
    names = {reference["name"]: reference for reference in each["references"]}
    if len(names) < len(each["references"]):
        yield "two references have one name"
    for name, reference in names.items():
        if (reference["type"], reference["id"]) not in there:
            yield f"{name} refers to {reference['type']} {reference['id']}, which is not there"
    wanted = dict(_wanted_references(each))
    for name, type_ in wanted.items():
        if name not in names:
            yield f"no reference {name}"
        elif names[name]["type"] != type_:
            yield f"{name} refers to {names[name]['type']}, not {type_}"
    yield from (f"{name} is referred to by nothing" for name in set(names) - set(wanted))


def _wanted_references(each: Object) -> Iterator[tuple[str, str]]:
    attributes = each["attributes"]
    source = _source(each)
    if each["type"] in {"search", "visualization"}:
        yield source.get("indexRefName", "no indexRefName"), "index-pattern"
    for panel in orjson.loads(attributes.get("panelsJSON", "[]")):
        yield f"{panel['panelIndex']}:{panel['panelRefName']}", panel["type"]
    for name in orjson.loads(attributes.get("controlGroupInput", {}).get("panelsJSON", "{}")):
        yield f"controlGroup_{name}:optionsListDataView", "index-pattern"


def _source(each: Object) -> Object:
    source: Object = orjson.loads(each["attributes"].get("kibanaSavedObjectMeta", {}).get("searchSourceJSON", "{}"))
    return source


def _query(each: Object, types: Mapping[str, str], *, takes_nested: bool = False) -> Iterator[str]:
    source = _source(each)
    if source["query"]["language"] != "kuery" or source["filter"] != []:
        yield "not KQL alone"
    try:
        fields = read(source["query"]["query"]).fields
    except KqlError as error:
        yield f"query: {error}"
        return
    for field in fields:
        type_ = types.get(field, "none")
        if type_ not in TO_COUNT_BY | {"wildcard"} and not (takes_nested and type_.startswith("nested ")):
            yield f"query: {field} is {type_}"


def _data_view_faults(each: Object, types: Mapping[str, str]) -> Iterator[str]:
    if types.get(each["attributes"]["timeFieldName"]) != "date":
        yield f"timeFieldName {each['attributes']['timeFieldName']} is no date"
    if each["attributes"]["title"] != f"{each['id'].removesuffix('-data-view')}-*":
        yield "title"
    for field in orjson.loads(each["attributes"]["fieldFormatMap"]):
        if types.get(field) not in NUMBERS:
            yield f"fieldFormatMap: {field} is {types.get(field)}"


def _search_faults(each: Object, types: Mapping[str, str]) -> Iterator[str]:
    yield from _query(each, types, takes_nested=True)
    for field in [*each["attributes"]["columns"], *(field for field, _ in each["attributes"]["sort"])]:
        if types.get(field) not in TO_COUNT_BY | {"wildcard"}:
            yield f"column {field} is {types.get(field)}"


def _panel_faults(each: Object, types: Mapping[str, str]) -> Iterator[str]:
    yield from _query(each, types)
    state = orjson.loads(each["attributes"]["visState"])
    if state["title"] != each["attributes"]["title"] or state["type"] not in {"metric", "histogram", "table"}:
        yield "visState"
    ids = [aggregation["id"] for aggregation in state["aggs"]]
    if len(set(ids)) < len(ids):
        yield "two aggregations have one id"
    for aggregation in state["aggs"]:
        field, type_ = aggregation["params"].get("field"), aggregation["type"]
        if field is None and type_ == "count":
            continue
        good = {"terms": TO_COUNT_BY, "sum": NUMBERS, "date_histogram": {"date"}}.get(type_, set())
        if types.get(field) not in good:
            yield f"{type_} by {field}, which is {types.get(field)}"
        if type_ == "terms" and aggregation["params"]["orderBy"] not in ids:
            yield "orderBy names no aggregation"
    for series in state["params"].get("seriesParams", ()):
        if series["data"]["id"] not in ids:
            yield "a series of no aggregation"


def _dashboard_faults(each: Object, types: Mapping[str, str]) -> Iterator[str]:
    yield from _query(each, types)
    taken: set[tuple[int, int]] = set()
    for panel in orjson.loads(each["attributes"]["panelsJSON"]):
        at = panel["gridData"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        if cells & taken or at["x"] + at["w"] > WIDTH or at["i"] != panel["panelIndex"]:
            yield f"panel {panel['panelIndex']} lies over another, or outside"
        taken |= cells
    for control in orjson.loads(each["attributes"].get("controlGroupInput", {}).get("panelsJSON", "{}")).values():
        field = control["explicitInput"]["fieldName"]
        if types.get(field) not in {"keyword", "ip", "boolean"}:
            yield f"a choice of {field}, which is {types.get(field)}"


_OF = {
    "index-pattern": _data_view_faults,
    "search": _search_faults,
    "visualization": _panel_faults,
    "dashboard": _dashboard_faults,
}
