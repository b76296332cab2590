"""The index template and the lifecycle of the daily indices, made from the table of document fields. Pure.

A field of the document gets its mapping from its type in words, or from EXCEPTIONS; so a new row of FIELDS needs
nothing here. Documents are not looked into: what has no mapping is kept in `_source` and not indexed.
"""

from __future__ import annotations

import re
from datetime import date, timedelta
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from mailspan.document import FIELDS
from sink.indexed import HIDDEN, HIDDEN_MAPPING
from sink.indices import index_of_day

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

VERSION = 3
"""Raise it whenever the mapping changes so that what is written needs the new one."""

Mapped = dict[str, Any]

_FIRST_DAY, _DAYS = date(2000, 1, 1), 36_525
_LOWER = "lower"
_LONGEST = 8191  # characters: Lucene takes 32766 bytes
_KEYWORD: Mapped = {"type": "keyword", "ignore_above": _LONGEST}
_FOLDED: Mapped = {**_KEYWORD, "normalizer": _LOWER}
_IP: Mapped = {"type": "ip", "ignore_malformed": True}
# A number that its type cannot hold is kept in the document and not found by; the document is found by all else.
_LONG: Mapped = {"type": "long", "ignore_malformed": True}
_INTEGER: Mapped = {"type": "integer", "ignore_malformed": True}
_FLOAT: Mapped = {"type": "float", "ignore_malformed": True}
_TEXT: Mapped = {"type": "wildcard"}
"""Long text in the server's or a sender's words; a keyword where the server has no such type."""

_BY_TYPE: dict[str, Mapped] = {
    "string": _KEYWORD,
    "array of strings": _KEYWORD,
    "integer": _LONG,
    "boolean": {"type": "boolean"},
    "time": {"type": "date"},
    "array of {kind, queue_id, host}": {"properties": dict.fromkeys(("kind", "queue_id", "host"), _KEYWORD)},
    "array of {filter, verdict, score, required_score, detail, date}": {
        "properties": {
            "filter": _KEYWORD,
            "verdict": _KEYWORD,
            "score": _FLOAT,
            "required_score": _FLOAT,
            "detail": {**_KEYWORD, "index": False, "doc_values": False},
            "date": {"type": "date"},
        },
    },
}
_DELIVERY: dict[str, Mapped] = {  # in the order of deliveries.delivery
    "recipient": _FOLDED,
    "original_recipient": _FOLDED,
    "relay": _FOLDED,
    "relay_ip": _IP,
    "relay_port": _INTEGER,
    "status": _TEXT,
    "outcome": _KEYWORD,
    "dsn": _KEYWORD,
    "code": _INTEGER,
    "date": {"type": "date"},
    "delay_seconds": _FLOAT,
    "delays": {
        "properties": dict.fromkeys(("before_queue", "in_queue", "connection", "transmission"), _FLOAT),
    },
    "mailer": _KEYWORD,
    "next_queue_id": _KEYWORD,
    "mailbox": _FOLDED,
    "tls": _KEYWORD,
}
_EXCEPTIONS: dict[str, Mapped] = {
    "from": _FOLDED,
    "host": {**_FOLDED, "fields": {"name": _FOLDED}},  # host.name is what ECS calls it
    "to": {"type": "nested", "dynamic": False, "properties": _DELIVERY},
    "msgid": _TEXT,
    "subject": _TEXT,
    "client_name": _FOLDED,
    "client_ip": _IP,
    "orig_client_ip": _IP,
    "helo": _FOLDED,
    "sasl_username": _FOLDED,
    "controlling_user": _FOLDED,
}
_ALIASES = {
    "@timestamp": "date",
    "email.message_id": "msgid",
    "email.local_id": "queue_id",
    "email.from.address": "from",
    "email.to.address": "recipients",
    "source.ip": "client_ip",
    "source.domain": "client_name",
}
"""Names of the Elastic Common Schema where they are true; the addresses are those of the envelope."""


class Wanted(NamedTuple):
    """What a server has, and how its indices are to be."""

    shards: int = 1
    replicas: int = 1
    retention_days: int = 90
    has_lifecycle: bool = True
    has_wildcard: bool = True


def mapping(*, has_wildcard: bool) -> Mapped:
    """Return the mapping of a daily index."""
    properties: dict[str, Any] = {field.name: _mapped(field.name, field.type) for field in FIELDS}
    for name, path in _ALIASES.items():
        _put(properties, name.split("."), {"type": "alias", "path": path})
    properties[HIDDEN] = {"dynamic": False, **HIDDEN_MAPPING}
    found: Mapped = {"dynamic": False, "_source": {"excludes": [HIDDEN]}, "properties": properties}
    if not has_wildcard:
        found = _without_wildcard(found)
    return marked(found)


def marked(found: Mapped) -> Mapped:
    """Return a mapping with our mark on it: its version, and its digest."""
    return {**found, "_meta": {"mailspan": {"version": VERSION, "digest": _digest(found)}}}


def template(prefix: str, wanted: Wanted, mapped: Mapped | None = None) -> Mapped:
    """Return the index template: the mapping (None: that of mails), settings, and the names it is for."""
    mapped = mapping(has_wildcard=wanted.has_wildcard) if mapped is None else mapped
    index: dict[str, Any] = {
        "number_of_shards": wanted.shards,
        "number_of_replicas": wanted.replicas,
        "codec": "best_compression",
        "refresh_interval": "1s",
        "mapping.nested_objects.limit": 10_000,
        "analysis": {"normalizer": {_LOWER: {"type": "custom", "filter": ["lowercase"]}}},
    }
    if wanted.has_lifecycle:
        index["lifecycle"] = {"name": prefix, "parse_origination_date": True}
    body = {
        "index_patterns": _patterns(prefix),
        "priority": _priority(prefix),
        "template": {"settings": {"index": index}, "mappings": mapped},
    }
    return {**body, "_meta": {"mailspan": {"version": VERSION, "digest": _digest(body)}}}


def _priority(prefix: str) -> int:
    """Return what is above the templates that come with the server, and for PREFIX-2 above PREFIX."""
    return 500 + len(prefix)


def _patterns(prefix: str) -> list[str]:
    """Return what matches every day, and for the years 1000 to 2999 hardly a name that merely looks like one.

    It is not the template's to catch 2026.01.01-old: with parse_origination_date such an index could not be created,
    and 2026.01.01-2 would be deleted (IndexLifecycleOriginationDateParser). Nor PREFIX-x-2026.01.01, of another prefix.
    Other years are only in logs that are wrong, and patterns for each of their days would be many.
    """
    days = [f"{prefix}-{millennium}*.*.{day:02}" for millennium in (1, 2) for day in range(1, 32)]
    return [*days, *(f"{prefix}-{millennium}*.*.*" for millennium in (0, *range(3, 10)))]


def lifecycle(retention_days: int) -> Mapped:
    """Return the policy: an index is deleted so many days after the day in its name."""
    phases = {"delete": {"min_age": f"{retention_days}d", "actions": {"delete": {}}}}
    return {"policy": {"phases": phases, "_meta": {"mailspan": {"version": VERSION}}}}


def is_made_of(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a template or mapping on a server is what is wanted, by the digest in its `_meta`."""
    return bool(_mark(found).get("digest") == _mark(wanted)["digest"])


def is_current(found: Mapping[str, Any]) -> bool:
    """Whether a template or mapping is ours, of this version or a later one."""
    version = _mark(found).get("version")
    return isinstance(version, int) and version >= VERSION


def template_fault(found: Mapping[str, Any] | None) -> str | None:
    """Return why nothing may be written with the template of a server; None where it is good."""
    if found is None:
        return "there is no index template; run `mailspan setup`"
    if not is_current(found):
        version = _mark(found).get("version")
        return f"the index template is of version {version}, and {VERSION} is needed; run `mailspan setup`"
    return None


def overruled(prefix: str, templates: Iterable[Mapping[str, Any]]) -> str | None:
    """Return which of a server's index templates is taken for daily indices in place of ours; None if none is.

    Of all that match a name the server takes the one of the highest priority, and nothing of the others. One that
    carries our mark, of this version or a later one, was made from ours. Looked at are the days of this century.
    """
    for each in templates:
        body = each.get("index_template") or {}
        priority = int(body.get("priority") or 0)
        if each.get("name") == prefix or priority <= _priority(prefix) or template_fault(body) is None:
            continue
        patterns = [_matching(str(pattern)) for pattern in body.get("index_patterns") or ()]
        for name in (index_of_day(prefix, _FIRST_DAY + timedelta(days=number)) for number in range(_DAYS)):
            if any(pattern.fullmatch(name) for pattern in patterns):
                return (
                    f"index template {each.get('name')} (priority {priority}) is taken for {name} and others in place"
                    f" of {prefix} ({_priority(prefix)}); give it a lower priority or other index patterns"
                )
    return None


def _matching(pattern: str) -> re.Pattern[str]:
    """Return the pattern of an index template, in which only `*` is special."""
    return re.compile(".*".join(re.escape(part) for part in re.split(r"\*+", pattern)))


def _mark(found: Mapping[str, Any]) -> Mapping[str, Any]:
    mark = (found.get("_meta") or {}).get("mailspan")
    return mark if isinstance(mark, dict) else {}


def _digest(value: object) -> str:
    return blake2b(orjson.dumps(value, option=orjson.OPT_SORT_KEYS), digest_size=8).hexdigest()


def _mapped(name: str, type_: str) -> Mapped:
    return _EXCEPTIONS[name] if name in _EXCEPTIONS else _BY_TYPE[type_.removesuffix(" or null")]


def _put(properties: dict[str, Any], path: list[str], mapped: Mapped) -> None:
    for name in path[:-1]:
        properties = properties.setdefault(name, {"properties": {}})["properties"]
    properties[path[-1]] = mapped


def _without_wildcard(value: Any) -> Any:  # noqa: ANN401 - JSON
    if value == _TEXT:
        return _KEYWORD
    return {name: _without_wildcard(each) for name, each in value.items()} if isinstance(value, dict) else value
