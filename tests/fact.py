"""What the checks of expected transactions share: a fact, and how values are made comparable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Json = Mapping[str, Any]


class UnknownKeyError(Exception):
    """An expectation has a key or a value that no table names."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One stated fact, what the document says, and whether the two agree."""

    name: str
    stated: object
    found: object
    right: bool


def strip_brackets(text: str) -> str:
    """Strip exactly one outer `<>`, as documents hold addresses and message IDs."""
    if text.startswith("<") and text.endswith(">"):
        return text[1:-1]
    return text
