"""Compares what is known of a mail transaction with its document, fact by fact.

An expected transaction (tests/corpus/README.md) is a JSON object whose keys are facts. The two tables at the end of
this file name every key: how it is checked, or why it is not. A key in neither raises, so that no fact is dropped
in silence. An absent or null value asserts nothing, nor does a name in `may_not_be_logged`.

Rejections (expected_rejections.jsonl) are not compared yet.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

Json = Mapping[str, Any]

SENT = frozenset({"delivered", "relayed", "discarded", "expanded"})
NO_ATTEMPT = frozenset({"expired", "rejected", "queued", "held"})
PARENT_TO_CHILD = frozenset({"bounce", "delay_notice", "receipt"})
CHILD_TO_PARENT = frozenset({"bounce_of", "delay_notice_of", "receipt_of"})


class UnknownKeyError(Exception):
    """An expectation has a key that no table names."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One stated fact, what the document says instead, and whether that is right."""

    name: str
    stated: object
    found: object
    right: bool


def compare(expected: Json, document: Json) -> list[Fact]:
    """Return each fact that `expected` states, compared with `document` (its pages joined)."""
    facts: list[Fact] = []
    unlogged = set(expected.get("may_not_be_logged") or ())
    for key, stated in expected.items():
        check = _look_up(key, TRANSACTION_CHECKS, TRANSACTION_SKIPPED)
        if check is not None and stated is not None and key not in unlogged:
            facts += check(expected, document)
    return facts


def _look_up[Check](key: str, checks: Mapping[str, Check], skipped: Json) -> Check | None:
    if key not in checks and key not in skipped:
        raise UnknownKeyError(key)
    return checks.get(key)
