"""Every golden case: as it stands, with each line twice, split anywhere, among foreign lines, and with CRLF."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from mailspan.event_time import format_time
from mailspan.record import Record
from tests import golden

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.parametrize("name", golden.names())

FOREIGN_QUEUE = "0F0F0F0F0F"
BESIDE = frozenset({"dovecot", "rspamd", "amavis"})  # whose text has the queue ID
_SAYING_IT_TWICE = re.compile(rb"message repeated")


@pytest.fixture
def case(name: str) -> golden.Case:
    return golden.load(name)


def expected(case: golden.Case) -> list[golden.Document]:
    return list(case.expected)


def test_the_documents_are_those_expected(case: golden.Case) -> None:
    assert golden.run(case) == expected(case)


def test_only_the_lines_that_say_so_are_unparsed(case: golden.Case) -> None:
    found = golden.unparsed(case)
    assert sum(found.values()) == int(case.options.get("unparsed", "0")), found


def test_expectations_are_in_the_accepted_form(case: golden.Case) -> None:
    raw = (golden.FOLDER / f"{case.name}.case").read_text("utf-8", "surrogateescape")
    written = raw.partition("\n# output\n")[2]
    assert golden.shown(case.expected) == written


def test_lines_that_come_twice_change_nothing(case: golden.Case) -> None:
    twice = [line for line in case.lines for _ in range(2)]
    assert golden.run(case, twice) == expected(case)


def test_any_batch_split_gives_the_same(case: golden.Case) -> None:
    assert golden.run_in_batches(case, [[line] for line in case.lines]) == expected(case)
    for cut in range(1, len(case.lines)):
        halves = [case.lines[:cut], case.lines[cut:]]
        assert golden.run_in_batches(case, halves) == expected(case), cut


def test_a_replay_of_the_last_lines_changes_nothing(case: golden.Case) -> None:
    cut = len(case.lines) // 2
    batches = [case.lines[:cut], case.lines[cut:], case.lines[-1:]]
    assert golden.run_in_batches(case, batches) == expected(case)


def test_carriage_returns_change_nothing(case: golden.Case) -> None:
    assert golden.run(case, [line + b"\r" for line in case.lines]) == expected(case)


def test_foreign_lines_change_nothing(case: golden.Case) -> None:
    """Another host uses the same queue IDs; another queue of this host works in between."""
    mixed = list(with_foreign_lines(case))
    assert len(mixed) > len(case.lines)
    found = [d for d in golden.run(case, mixed) if not is_foreign(d)]
    assert found == expected(case)


def is_foreign(document: dict[str, Any]) -> bool:
    return bool(document["host"] == "foreign.example.net" or document["queue_id"] == FOREIGN_QUEUE)


def with_foreign_lines(case: golden.Case) -> Iterator[bytes]:
    """Yield the case's lines, and behind each one two of others, stamped with the same second."""
    parser = case.parser()
    parser.calibrate(golden.decode(line) for line in case.lines)
    hosts: set[str] = set()
    for number, line in enumerate(case.lines):
        yield line
        record = parser.parse(golden.decode(line))
        if not isinstance(record, Record):
            continue
        hosts.add(record.host)
        stamp = format_time(record.stamp.second, 0)
        if record.queue_id is not None:
            tag = {"postfix": "postfix/qmgr[9]: ", "sendmail": "sendmail[9]: ", "opensmtpd": "smtpd[9]: "}
            tag["exim"] = f"exim[9]: {record.queue_id} "
            beside = f"{record.program}[9]: " if record.program in BESIDE else tag[record.mta]
            yield f"{stamp} foreign.example.net {beside}{record.text}".encode()
            yield (
                f"{stamp} foreign.example.net postfix/smtp[9]: {record.queue_id}: to=<alien@example.net>, "
                f"relay=alien.example.net[192.0.2.99]:25, delay={number}, delays=0/0/0/0, dsn=5.0.0, status=bounced (no)"
            ).encode()
        yield (
            f"{stamp} {record.host} postfix/smtp[9]: {FOREIGN_QUEUE}: to=<other{number}@example.net>, "
            "relay=other.example.net[192.0.2.98]:25, delay=1, delays=0/0/0/1, dsn=2.0.0, status=sent (250 ok)"
        ).encode()
