"""The small part of Kibana's query language (KQL) that our saved searches and panels keep to, read strictly.

`FIELD: VALUE` with `and`, `or`, `not` and parentheses, and `PATH: { … }` for nested fields; a VALUE is "quoted", without
escapes, or a bare word in which `*` stands for anything. All else is refused, though Kibana may take it. `query` is what
Kibana asks Elasticsearch for it: a phrase, a match, a query_string with wildcards.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

Query = dict[str, Any]

_TOKEN = re.compile(r'\s*(?:(?P<quoted>"[^"\\]*")|(?P<sign>[(){}:])|(?P<word>[A-Za-z0-9_@.*-]+))')
_FIELD = re.compile(r"[@a-z_]+(?:\.[a-z_]+)*")
_WORDS = {"and", "or", "not"}
_SPECIAL = re.compile(r'[+\-=&|><!(){}\[\]^"~?:\\/]')


class KqlError(Exception):
    """The text is not of this part of KQL."""


class Kql(NamedTuple):
    """What a text means: the query, and the fields that it names, nested ones with their path."""

    query: Query
    fields: tuple[str, ...]


def read(text: str) -> Kql:
    """Return what a text means; the empty one matches all. Raises KqlError."""
    if not text.strip():
        return Kql({"match_all": {}}, ())
    reader = _Reader(_tokens(text))
    query = reader.either("")
    if reader.left:
        raise KqlError(f"{text!r}: {reader.left[0]!r} is not understood")
    return Kql(query, tuple(reader.fields))


def _tokens(text: str) -> list[str]:
    found, at = [], 0
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        if match is None:
            raise KqlError(f"{text!r}: not understood from {text[at:]!r} on")
        found.append(match[0].strip())
        at = match.end()
    return found


class _Reader:
    def __init__(self, tokens: list[str]) -> None:
        self.left = tokens
        self.fields: list[str] = []

    def _take(self, expected: str = "") -> str:
        if not self.left or (expected and self.left[0] != expected):
            raise KqlError(f"expected {expected or 'more'}, found {self.left[:1] or 'the end'}")
        return self.left.pop(0)

    def either(self, path: str) -> Query:
        """Read what is joined by `or`, which binds less than `and`."""
        parts = [self._both(path)]
        while self.left[:1] == ["or"]:
            self._take()
            parts.append(self._both(path))
        return parts[0] if len(parts) == 1 else {"bool": {"should": parts, "minimum_should_match": 1}}

    def _both(self, path: str) -> Query:
        parts = [self._one(path)]
        while self.left[:1] == ["and"]:
            self._take()
            parts.append(self._one(path))
        return parts[0] if len(parts) == 1 else {"bool": {"filter": parts}}

    def _one(self, path: str) -> Query:
        word = self._take()
        if word == "not":
            return {"bool": {"must_not": [self._one(path)]}}
        if word == "(":
            found = self.either(path)
            self._take(")")
            return found
        if not _FIELD.fullmatch(word) or word in _WORDS:
            raise KqlError(f"{word!r} is no field")
        self._take(":")
        if self.left[:1] == ["{"]:
            self._take()
            found = self.either(f"{path}{word}.")
            self._take("}")
            return {"nested": {"path": path + word, "query": found}}
        self.fields.append(path + word)
        return _is(path + word, self._take())


def _is(field: str, value: str) -> Query:
    if value.startswith('"'):
        return {"match_phrase": {field: value[1:-1]}}
    if value in _WORDS or value in set("(){}:"):
        raise KqlError(f"{value!r} is no value")
    if value == "*":
        return {"exists": {"field": field}}
    if "*" in value:
        return {"query_string": {"fields": [field], "query": _SPECIAL.sub(r"\\\g<0>", value)}}
    return {"bool": {"should": [{"match": {field: value}}], "minimum_should_match": 1}}
