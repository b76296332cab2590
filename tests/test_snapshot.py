"""Snapshots: their form, what is read of older ones, and when transactions are kept as such."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING

import msgspec
import pytest
import zstandard

from mailspan.document import documents
from mailspan.event_time import TimeSettings
from mailspan.grammar import Parser
from mailspan.record import Record
from reducer import snapshot
from reducer.assembler import Assembler
from reducer.dictionary import DICTIONARY, DICTIONARY_ID
from reducer.sessions import Sessions
from reducer.snapshot import (
    SCHEMA_VERSION,
    SnapshotError,
    due_of,
    is_unwritten,
    pack,
    pack_sessions,
    plain_part,
    unpack,
    unpack_sessions,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mailspan.transaction import Transaction

LINES = (
    "postfix/smtpd[7]: 4A1B2C3D4E: client=mail.example.net[192.0.2.1]",
    "postfix/cleanup[8]: 4A1B2C3D4E: message-id=<1.2@example.net>",
    "postfix/qmgr[9]: 4A1B2C3D4E: from=<a@example.net>, size=300, nrcpt=1 (queue active)",
    "postfix/smtp[5]: 4A1B2C3D4E: to=<b@example.org>, relay=none, delay=1, dsn=4.4.1, status=deferred (timed out)",
)


def feed(assembler: Assembler, lines: Iterable[str]) -> None:
    parser = Parser(TimeSettings(1_780_000_000, year=2026, zone=UTC), "here")
    for line in lines:
        record = parser.parse(line)
        assert isinstance(record, Record)
        assembler.apply(record)


def transaction() -> Transaction:
    assembler = Assembler()
    feed(assembler, (f"Mar  9 06:00:00 mx1 {line}" for line in LINES))
    (found,) = assembler.remaining()
    return found


def test_a_snapshot_is_read_back_and_its_head_without_decompressing() -> None:
    found = transaction()
    found.changed = True
    packed = pack(found, 1_790_000_000)
    head = packed[:10]
    assert packed[0] == SCHEMA_VERSION
    assert (due_of(head), is_unwritten(head)) == (1_790_000_000, True)
    assert documents(unpack(packed)) == documents(found)


def test_a_snapshot_names_its_dictionary() -> None:
    assert DICTIONARY.dict_id() == DICTIONARY_ID
    assert zstandard.get_frame_parameters(pack(transaction(), 1)[10:]).dict_id == DICTIONARY_ID


def test_a_frame_without_a_dictionary_is_read() -> None:
    packed = pack(transaction(), 1)
    other = packed[:10] + zstandard.ZstdCompressor().compress(plain_part(packed))
    assert documents(unpack(other)) == documents(transaction())


def test_the_schema_before_is_read() -> None:
    packed = pack(transaction(), 77)
    before = b"\x02" + packed[1:10] + plain_part(packed)
    assert due_of(before) == 77
    assert documents(unpack(before)) == documents(transaction())
    assert unpack_sessions(b"\x02" + pack_sessions(Sessions())[1:]) == {}


@pytest.mark.parametrize("version", [0, 1, SCHEMA_VERSION + 1])
def test_other_schemas_are_refused(version: int) -> None:
    with pytest.raises(SnapshotError, match="schema version"):
        unpack(bytes((version,)) + pack(transaction(), 1)[1:])
    with pytest.raises(SnapshotError, match="schema version"):
        unpack_sessions(bytes((version,)) + pack_sessions(Sessions())[1:])


def test_broken_snapshots_are_refused() -> None:
    packed = pack(transaction(), 1)
    huge = b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 7 + b"\x0f"  # a frame that claims to hold an exabyte
    not_ours = zstandard.ZstdCompressor().compress(msgspec.msgpack.encode(["host", 1]))
    for broken in (b"", packed[:12], packed[:-5], packed[:10] + huge, packed[:10] + not_ours):
        with pytest.raises(SnapshotError):
            unpack(broken)


def test_the_limit_is_one_for_all_hosts() -> None:
    assembler = Assembler(most_unpacked=10)
    feed(assembler, (f"Mar  9 06:00:{n:02d} mx{n} {line}" for n in range(50) for line in LINES))
    assert assembler.unpacked_count <= 10
    assert {each.host for each in assembler.remaining()} == {f"mx{n}" for n in range(50)}


def test_what_is_forgotten_counts_no_more() -> None:
    assembler = Assembler()
    feed(assembler, (f"Mar  9 06:00:00 mx1 {line}" for line in LINES))
    assert assembler.unpacked_count == 1
    feed(assembler, ["Mar  9 06:00:01 mx1 postfix/qmgr[9]: 4A1B2C3D4E: removed"])
    feed(assembler, ["Mar  9 06:05:00 mx1 postfix/qmgr[9]: 5A1B2C3D4E: removed"])
    assert len(assembler.forgotten()) == 1
    assert assembler.unpacked_count == 1


def test_a_host_whose_clock_is_behind_loses_nothing_when_its_mail_is_packed_first() -> None:
    assembler = Assembler(most_unpacked=4)
    for number in range(40):
        stamp = "Mar  9 07:00:00 mx1" if number % 3 else "Mar  9 06:00:00 mx2"
        feed(assembler, (f"{stamp} {line.replace('4A1B', f'4A{number:02d}')}" for line in LINES))
    found = [document for each in assembler.remaining() for document in documents(each)]
    assert len(found) == 40
    assert all(document["client"] and document["msgid"] and document["outcome"] == "deferred" for document in found)
    assert {document["version"] >> 16 for document in found} == {len(LINES)}


def test_where_all_wait_to_be_written_packing_is_not_tried_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = 0
    whether_it_waits = snapshot.waits

    def counted(newest: Transaction) -> bool:
        nonlocal tried
        tried += 1
        return whether_it_waits(newest)

    monkeypatch.setattr("reducer.host.waits", counted)
    assembler = Assembler(incremental=True, most_unpacked=100)
    feed(assembler, (f"Mar  9 06:00:00 mx1 {line.replace('4A1B', f'{n:04X}')}" for n in range(1000) for line in LINES))
    assert 0 < tried < 10_000
