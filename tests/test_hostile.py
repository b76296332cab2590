r"""Lines whose texts a client, a remote server or a user chose: each gives what its MTA meant, or says that it cannot.

One line of tests/hostile/*.jsonl is a case: `program` and `text` as logged (text behind `program[pid]: `), the event
that it must give, and `fields` of it; `event` may be Ignored or Unparsed. The addresses are quoted as each MTA does:
Postfix since 3.5 by quote_822_local, before not at all (`raw` in the name); Sendmail as typed, through str2prt (a
backslash is doubled, bytes are `\ooo`); Exim puts a backslash before quotes and backslashes in `T=` and `C=`, and drops the
quotes of final addresses, not of those in `<>`; OpenSMTPD quotes nothing. `ambiguous: true` is the right answer where no one could tell.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mailspan.document import Document, documents
from mailspan.event import Attempted, Client, Refused
from mailspan.event_time import TimeSettings
from mailspan.grammar import Parser
from mailspan.record import Ignored, Record, Unparsed
from reducer.assembler import Assembler

FOLDER = Path(__file__).parent / "hostile"
SETTINGS = TimeSettings(reference=int(datetime(2026, 11, 24, tzinfo=UTC).timestamp()), zone=UTC)
CASES: list[dict[str, Any]] = [
    {**json.loads(line), "file": path.stem}
    for path in sorted(FOLDER.glob("*.jsonl"))
    for line in path.read_text("utf-8").splitlines()
]
LIMIT_SECONDS = 0.05


def parse(case: dict[str, Any]) -> Record | Ignored | Unparsed:
    return Parser(SETTINGS, "here").parse(f"Nov 23 07:55:08 mx1 {case['program']}[94]: {case['text']}")


def plain(value: object) -> object:
    """Return a field's value as the case files write it."""
    if isinstance(value, Client):
        return value.text
    return list(value) if isinstance(value, tuple) else value


def document_of(record: Record) -> Document:
    assembler = Assembler()
    assembler.apply(record)
    return next(page for transaction in assembler.remaining() for page in documents(transaction))


def test_there_are_enough() -> None:
    counts = Counter(case["file"] for case in CASES)
    assert counts.keys() == {"postfix", "sendmail", "exim", "opensmtpd"}
    assert min(counts.values()) >= 40
    assert counts.total() >= 440


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['file']}: {case['name']}")
def test_hostile_line(case: dict[str, Any]) -> None:
    result, least = None, LIMIT_SECONDS
    for _ in range(3):  # the least: the collector of cycles may look at all that the other tests have left
        started = time.process_time()
        result = parse(case)
        least = min(least, time.process_time() - started)
    assert least < LIMIT_SECONDS
    if not isinstance(result, Record):
        assert (type(result).__name__, *[getattr(result, name) for name in case["fields"]]) == (
            case["event"],
            *case["fields"].values(),
        )
        return
    assert type(result.event).__name__ == case["event"], result.event
    assert {name: plain(getattr(result.event, name)) for name in case["fields"]} == case["fields"]
    if isinstance(result.event, Attempted):
        document = document_of(result)
        stated = [(name, result.event.relay, result.event.outcome) for name in result.event.recipients]
        assert sorted((row["recipient"], row["relay"], row["outcome"]) for row in document["to"]) == sorted(stated)
        assert ("ambiguous address" in document["notes"]) == result.event.ambiguous
    elif isinstance(result.event, Refused):
        document = document_of(result)
        rejected = (result.event.recipient, "rejected")  # a rejection says so even where it names nobody
        named = [rejected] if result.event.recipient is not None or result.queue_id is None else []
        assert [(row["recipient"], row["outcome"]) for row in document["to"]] == named
        assert document["from"] == result.event.sender
        assert ("ambiguous address" in document["notes"]) == result.event.ambiguous
