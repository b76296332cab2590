"""Large transactions: many attempts, many recipients. What is kept is bounded, and the document does not depend on it."""

from __future__ import annotations

import random
import time
from datetime import UTC
from typing import Any

import orjson
import pytest

from mailspan.document import documents
from mailspan.event_time import TimeSettings
from mailspan.grammar import Parser
from mailspan.record import Record
from mailspan.trim import TRIM_FROM
from reducer.assembler import Assembler
from reducer.effects import EFFECTS

BIRTH = "mx1 postfix/smtpd[94]: B6D781149FE: client=client.example.com[192.0.2.10]"
SECONDS_LIMIT = 20  # of CPU; it takes a few


def records(lines: list[str]) -> list[Record]:
    parser = Parser(TimeSettings(reference=1795500000, zone=UTC), "mx1")
    found = [parser.parse(line) for line in lines]
    assert all(isinstance(record, Record) for record in found)
    return [record for record in found if isinstance(record, Record)]


def attempt(number: int, recipient: str, status: str = "deferred", stat: str = "4.2.0 try later") -> str:
    minute, second = divmod(number, 60)
    hour, minute = divmod(minute, 60)
    relay = f"mx{number % 5}.example.org[192.0.2.{number % 5 + 1}]:25"
    return (
        f"Nov 23 {hour:02d}:{minute:02d}:{second:02d} mx1 postfix/smtp[70]: B6D781149FE: to=<{recipient}>, relay={relay}, "
        f"delay={number}, delays=0/0/1/0, dsn={stat[:5]}, status={status} ({stat})"
    )


def assemble(some: list[Record], assembler: Assembler | None = None) -> list[dict[str, Any]]:
    assembler = assembler or Assembler()
    for record in some:
        assembler.apply(record)
    return [document for transaction in assembler.remaining() for document in documents(transaction)]


@pytest.mark.parametrize("seed", range(5))
def test_what_is_dropped_changes_no_document(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)  # noqa: S311  reproducible
    lines = [f"Nov 23 00:00:00 {BIRTH}"]
    lines += [
        attempt(number, f"r{chance.randrange(4)}@example.com", stat=f"4.{chance.randrange(9)}.0 later")
        for number in range(1, 400)
    ]
    lines.append(attempt(401, "r1@example.com", "sent", "2.0.0 ok"))
    of_lines = records(lines)
    late = of_lines[1:]
    chance.shuffle(late)  # as bad as it can be: not only the lines of one second
    trimmed = assemble([of_lines[0], *late])
    effect = EFFECTS[type(of_lines[1].event)]
    untrimmed = Assembler()

    def keep_all(transaction: Any, key: Any, event: Any) -> None:  # noqa: ANN401
        transaction.trim_at = 1 << 30
        effect(transaction, key, event)

    monkeypatch.setitem(EFFECTS, type(of_lines[1].event), keep_all)
    assert orjson.dumps(trimmed) == orjson.dumps(assemble(of_lines, untrimmed))
    (kept,) = untrimmed.remaining()
    assert len(kept.attempts) == 400
    assert trimmed[0]["attempt_count"] == 400
    assert all(len([r for r in trimmed[0]["to"] if r["recipient"] == f"r{n}@example.com"]) == 10 for n in range(4))


def test_ten_thousand_attempts_are_counted_and_few_are_kept() -> None:
    lines = [f"Nov 23 00:00:00 {BIRTH}", *(attempt(number, "r@example.com") for number in range(1, 10_001))]
    assembler = Assembler()
    (document,) = assemble(records(lines), assembler)
    assert document["attempt_count"] == 10_000
    assert [row["delay_seconds"] for row in document["to"]] == [1, 2, *range(9993, 10_001)]
    assert document["relays"] == [f"mx{n}.example.org" for n in (1, 2, 0, 3, 4)]
    (transaction,) = assembler.remaining()
    assert len(transaction.attempts) <= TRIM_FROM


@pytest.mark.parametrize("mta", ["postfix", "sendmail"])
def test_fifty_thousand_recipients_are_a_hundred_pages(mta: str) -> None:
    if mta == "postfix":
        head = f"Nov 23 00:00:00 {BIRTH}"
        lines = [attempt(number % 3000, f"r{number}@example.com", "sent", "2.0.0 ok") for number in range(50_000)]
    else:
        head = (
            "Nov 23 00:00:00 mx1 sm-mta[20]: 6AN000Jm000020: from=<a@example.com>, size=214, class=0, nrcpts=50000, "
            "msgid=<x@example.com>, proto=ESMTP, daemon=MTA-v4, relay=mua2.lab.test [10.77.0.33]"
        )
        lines = [
            f"Nov 23 00:{number // 20 // 60:02d}:{number // 20 % 60:02d} mx1 sm-mta[21]: 6AN000Jm000020: to="
            + ",".join(f"<r{number + n}@example.com>" for n in range(20))
            + ", delay=00:00:01, xdelay=00:00:01, mailer=esmtp, pri=30214, relay=mx1.example.org. [192.0.2.1], "
            "dsn=2.0.0, stat=Sent (ok)"
            for number in range(0, 50_000, 20)
        ]
    begin = time.process_time()
    pages = assemble(records([head, *lines]))
    assert time.process_time() - begin < SECONDS_LIMIT
    assert len(pages) == 100
    assert [page["page"] for page in pages] == list(range(100))
    assert {page["page_count"] for page in pages} == {100}
    assert all(len(page["recipients"]) == 500 for page in pages)
    assert len({name for page in pages for name in page["recipients"]}) == 50_000
    assert {page["attempt_count"] for page in pages} == {50_000}
    assert pages[0]["id"] + "#99" == pages[99]["id"]
