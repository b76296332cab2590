"""A short run of the fuzzer with a fixed seed, and that each of its checks can fail. `make fuzz` runs it for long."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import pytest

from mailspan.document import documents
from mailspan.record import Record
from reducer import host
from reducer.assembler import Assembler
from sink.fragments import superfluous
from tests.facts import CORPUS
from tests.fuzz.__main__ import check, failure_of, main, make_smaller
from tests.fuzz.checks import (
    Broken,
    ambiguous_ids,
    as_stored,
    check_lines,
    check_transaction,
    faults_of,
    in_parts,
    new_parser,
)
from tests.fuzz.lines import BLOCK_LINES, Source, encode
from tests.running import mailspan

if TYPE_CHECKING:
    from pathlib import Path

    from mailspan.document import Document
    from mailspan.transaction import Transaction

SEED = 20261125
LINES = (
    "Nov 23 07:55:08 mx1 postfix/smtpd[1]: B6D781149FE: client=a.example.com[192.0.2.1]",
    "Nov 23 07:55:09 mx1 postfix/smtp[3]: B6D781149FE: to=<b@example.net>, relay=m[192.0.2.2]:25, delay=1, dsn=2.0.0, status=sent (250 ok: queued as 4A1B2C3D4E)",
)


@pytest.mark.slow
@pytest.mark.parametrize("share", range(6))
def test_a_share_of_hostile_lines(share: int) -> None:
    source = Source()
    for number in range(share * 6, share * 6 + 6):
        name = f"{SEED}:{number}"
        lines = source.block(name)
        assert len(lines) == BLOCK_LINES
        deep = number % 2 == 0
        assert (check(lines, name, deep=deep) > 100) == deep


@pytest.mark.slow
@pytest.mark.parametrize("number", range(2))
def test_hostile_lines_of_filters(number: int) -> None:
    name = f"{SEED}:filters:{number}"
    assert check(Source(beside=True).block(name), name, deep=True) > 100


def test_equal_seeds_make_equal_lines_that_reach_every_mta() -> None:
    blocks = [Source().block(f"{seed}:0", 500) for seed in (1, 1, 2)]
    assert blocks[0] == blocks[1] != blocks[2]
    found = {result.mta for result in check_lines(encode(blocks[0])) if isinstance(result, Record)}
    assert found >= {"postfix", "sendmail", "exim", "opensmtpd"}


def transaction() -> Transaction:
    assembler = Assembler()
    for result in map(new_parser().parse, LINES):
        assert isinstance(result, Record)
        assembler.apply(result)
    (found,) = assembler.remaining()
    return found


def document() -> Document:
    (found,) = documents(transaction())
    assert list(faults_of(found, 0)) == []
    return found


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "x" * 129),
        ("page", 1),
        ("mta", "qmail"),
        ("kind", "rejection"),
        ("outcome", "lost"),
        ("outcomes", []),
        ("state", "closed"),
        ("stage", "rcpt"),
        ("date", "2026-11-23 07:55:08"),
        ("recipients", []),
        ("relays", []),
        ("dsns", []),
        ("notes", ["x", "x"]),
        ("deliveries", ["bounced b@example.net"]),
        ("links", [{"kind": "next", "queue_id": "A", "host": None}] * 2),
        ("size", -1),
        ("repeat_count", 1),
        ("fragment", True),
        ("to", []),
    ],
)
def test_each_fault_of_a_document_is_found(field: str, value: Any) -> None:  # noqa: ANN401  any wrong value
    assert list(faults_of({**document(), field: value}, 0)) != []


def test_a_field_that_is_not_in_the_table_is_found() -> None:
    assert list(faults_of({**document(), "more": 1}, 0)) == ["fields"]


@pytest.mark.parametrize("change", [{"version": 1}, {"attempt_count": 0}, {"page_count": 2}])
def test_faults_between_a_transaction_and_its_document_are_found(change: dict[str, int]) -> None:
    with pytest.raises(Broken):
        check_transaction(transaction(), [{**document(), **change}])


def test_a_failure_is_made_small_and_can_be_checked_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A lone surrogate that stands for no byte is a mistake of who calls: it fails, whatever stands around it."""
    lines = [*LINES, "x \ud800 y", *LINES]
    assert failure_of(lines, "1:1", deep=False) is not None
    small = make_smaller(lines, "1:1", deep=False)
    assert small == ["x \ud800 y"]
    path = tmp_path / "failure.json"
    path.write_text(json.dumps({"seed": "1:1", "deep": False, "failure": "", "lines": small}), "utf-8")
    assert main(["--replay", str(path)]) == 1
    assert "UnicodeEncodeError" in capsys.readouterr().out
    path.write_text(json.dumps({"seed": "1:1", "deep": True, "failure": "", "lines": list(LINES)}), "utf-8")
    assert main(["--replay", str(path)]) == 0


def test_what_a_store_holds_is_the_fuller_document() -> None:
    records = [result for result in map(new_parser().parse, LINES) if isinstance(result, Record)]
    assert in_parts(records, random.Random(1)) == as_stored([transaction()])  # noqa: S311  reproducible


def test_ids_that_two_uses_have_are_known() -> None:
    removed = "Nov 23 07:55:16 edge1 postfix/qmgr[90]: B24E2114A87: removed"
    later = "Nov 23 07:56:41 edge1 postfix/qmgr[90]: AC690114A4A: removed"
    born = "Nov 23 07:55:16 edge1 postfix/cleanup[105]: B24E2114A87: message-id=<a@example.com>"
    queued = "Nov 23 07:55:16 edge1 postfix/qmgr[90]: B24E2114A87: from=<a@example.com>, size=1, nrcpt=1 (queue active)"
    another = "Nov 23 07:55:16 edge1 postfix/cleanup[106]: B24E2114A87: message-id=<b@example.com>"
    found = []
    for lines in (
        (removed, later, removed, born),
        (removed, born, another, queued),
        (removed, born, another),
        (removed, later, born),
        (removed, removed, born, later),
    ):
        assembler = Assembler()
        for result in map(new_parser().parse, lines):
            assert isinstance(result, Record)
            assembler.apply(result)
        found.append(ambiguous_ids([*assembler.forgotten(), *assembler.remaining()]))
    (fragment,), (use,) = found[:2]
    assert fragment.startswith("edge1/B24E2114A87~")
    assert use == "edge1/B24E2114A87/1795420516"
    assert found[2:] == [set(), set(), set()]


@pytest.mark.parametrize("name", ["edge1.mail.log", "osm.mail.log"])
def test_nothing_that_waits_to_be_written_is_kept_packed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """There it could be forgotten unseen; where the host does not look whether a transaction waits, that happens."""
    lines = (CORPUS / name).read_text(encoding="utf-8", errors="backslashreplace").splitlines()[:1500]
    records = [result for result in map(new_parser().parse, lines) if isinstance(result, Record)]
    in_parts(records, random.Random(1))  # noqa: S311  reproducible
    monkeypatch.setattr(host, "waits", lambda _: False)
    with pytest.raises(Broken, match="kept packed"):
        in_parts(records, random.Random(1))  # noqa: S311  reproducible


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2])
def test_a_store_finds_of_hostile_lines_what_parse_prints(number: int, tmp_path: Path) -> None:
    """Where an ID comes back after it was forgotten `parse` prints it twice; a store holds the fuller one.

    Nor does it hold a fragment of which a fuller document says all (tests/test_index_again.py).
    """
    log, store = tmp_path / "mail.log", f"sqlite:///{tmp_path}/mail.db"
    log.write_bytes(encode(Source().block(f"{SEED}:store:{number}")) + b"\n")
    reading = ("--zone", "UTC", "--year", "2026", "--log-host", "here", str(log))
    wanted: dict[str, bytes] = {}
    for line in mailspan("parse", *reading).stdout.splitlines():
        page = json.loads(line)
        if json.loads(wanted.get(page["id"], b'{"version": 0}'))["version"] < page["version"]:
            wanted[page["id"]] = line
    for identity in superfluous({identity: json.loads(line) for identity, line in wanted.items()}):
        del wanted[identity]
    for _ in range(2):
        assert mailspan("index", "--store", store, *reading).returncode == 0
    found = mailspan(
        "search", "--store", store, "--json", "--probes", "--mailboxes", "-r", "1000000", "-d", "0001-01-01"
    )
    assert {json.loads(line)["id"]: line for line in found.stdout.splitlines()} == wanted
