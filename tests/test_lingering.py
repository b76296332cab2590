"""Mail that no line closes lingers for an hour: forgotten at that line, in whatever form it is kept, and packed once."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from mailspan.document import documents
from mailspan.event_time import TimeSettings
from mailspan.grammar import Parser
from mailspan.record import Record
from reducer import host as under_test
from reducer import snapshot
from reducer.assembler import Assembler

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mailspan.transaction import Transaction

FROM = "sendmail[7]: 62960070{n:06d}: from=<a@example.com>, size=900, class=0, nrcpts={count}, relay=c.example.com [192.0.2.1]"
SENT = "sendmail[8]: 62960070{n:06d}: to=<b{to}@example.net>, delay=00:00:01, mailer=esmtp, relay=d.example.net., stat=Sent"
LATER = "sendmail[8]: 62960070{n:06d}: to=<b{to}@example.net>, delay=00:00:01, mailer=esmtp, dsn=4.0.0, stat=Deferred"
BORN = "smtpd[9]: 06839eb905b6e6e3 smtp message msgid=701966a0 size=9 nrcpt=1 proto=ESMTP"
TRIED = (
    "smtpd[9]: 9b33d94725ef2114 mta delivery evpid=701966a08d88348a from=<a@example.com> to=<b@example.net> rcpt=<-> "
    'source="192.0.2.1" relay="192.0.2.9 (d.example.net)" delay=0s result="{result}" stat="{result}"'
)
POSTFIX = (
    "postfix/qmgr[9]: 4A1B2C3D4E: from=<a@example.net>, size=300, nrcpt=1 (queue active)",
    "postfix/smtp[5]: 4A1B2C3D4E: to=<b@example.org>, relay=d.example.net, delay=1, dsn=2.0.0, status=sent (ok)",
    "postfix/qmgr[9]: 4A1B2C3D4E: removed",
)
FORMS = ("unpacked", "packed", "stored", "restored", "of the schema before")


def at(second: int, line: str, n: int = 0, to: int = 0, count: int = 1) -> str:
    minutes, seconds = divmod(second, 60)
    hours, minutes = divmod(minutes, 60)
    return f"Mar  9 {6 + hours:02d}:{minutes:02d}:{seconds:02d} mx1 {line.format(n=n, to=to, count=count)}"


def feed(assembler: Assembler, lines: Iterable[str]) -> None:
    parser = Parser(TimeSettings(1_780_000_000, year=2026, zone=UTC), "mx1")
    for line in lines:
        record = parser.parse(line)
        assert isinstance(record, Record)
        assert assembler.apply(record) is None


def commit(assembler: Assembler, state: dict[str, bytes]) -> list[str]:
    """Store what changed; return the IDs of which nothing is stored any more."""
    assembler.changed()
    changes = assembler.snapshot_changes()
    state.update({key: value for key, value in changes.items() if value is not None})
    gone = [key for key, value in changes.items() if value is None]
    for key in gone:
        state.pop(key, None)
    return [key.rpartition("/")[2] for key in gone]


def as_before(state: dict[str, bytes]) -> dict[str, bytes]:
    """Return a state as the schema before stored it: nothing compressed, and no flag for a single incarnation."""
    found = {}
    for key, value in state.items():
        if key.startswith("transaction:"):
            value = b"\x02" + bytes((value[1] & 3,)) + value[2:10] + snapshot.plain_part(value)  # noqa: PLW2901
        elif key.startswith("sessions:"):
            value = b"\x02" + value[1:]  # noqa: PLW2901
        found[key] = value
    return found


HISTORIES = {
    "closed at once": [(0, FROM, 1), (3, SENT, 0)],
    "after hours": [(0, FROM, 1), (2, LATER, 0), (9000, SENT, 0)],
    "in two steps": [(0, FROM, 2), (3, SENT, 0), (3500, LATER, 1), (7000, SENT, 1)],
    "within the hour": [(0, FROM, 1), (2, LATER, 0), (3000, SENT, 0)],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("history", HISTORIES)
def test_it_is_forgotten_an_hour_after_its_last_line(history: str, form: str) -> None:
    incremental = form in ("stored", "restored", "of the schema before")
    assembler = Assembler(incremental=incremental, most_unpacked=1 if form == "packed" else 1000)
    state: dict[str, bytes] = {}
    last = 0
    for number, (last, line, to) in enumerate(HISTORIES[history]):
        feed(assembler, [at(last, line, to=to, count=to if number == 0 else 1)])
        if form == "packed":
            feed(assembler, [at(last, FROM, 100 + number)])  # takes its place among the unpacked
        if incremental:
            commit(assembler, state)
        if form in ("restored", "of the schema before"):
            assembler = Assembler(incremental=True)
            assembler.restore(state if form == "restored" else as_before(state))
    gone = {}
    for second in (last + 3599, last + 3600):
        feed(assembler, [at(second, FROM, 200 + second % 60)])
        if incremental:
            gone[second] = "62960070000000" in commit(assembler, state)
        else:
            gone[second] = "62960070000000" in [each.queue_id for each in assembler.forgotten()]
    assert gone == {last + 3599: False, last + 3600: True}


def test_one_of_a_used_id_is_forgotten_an_hour_after_its_last_line() -> None:
    """While the one before, whose end was not seen, is still kept."""
    assembler = Assembler()
    temporary, done = TRIED.replace("{result}", "TempFail"), TRIED.replace("{result}", "Ok")
    feed(assembler, [at(0, BORN), at(1, temporary), at(100, BORN), at(3000, temporary), at(5000, done)])
    feed(assembler, [at(8599, FROM)])
    assert assembler.forgotten() == []
    feed(assembler, [at(8600, FROM, 1)])
    assert [each.births and len(each.lines) for each in assembler.forgotten()] == [3]


def test_what_a_line_closed_is_kept_as_its_snapshot() -> None:
    assembler = Assembler(incremental=True)
    state: dict[str, bytes] = {}
    feed(assembler, [at(0, line) for line in POSTFIX[:2]])
    commit(assembler, state)
    assert assembler.unpacked_count == 1
    feed(assembler, [at(1, POSTFIX[2])])
    commit(assembler, state)
    assert assembler.unpacked_count == 0
    feed(assembler, [at(60, FROM)])
    assert commit(assembler, state) == []
    feed(assembler, [at(61, FROM, 1)])
    assert commit(assembler, state) == ["4A1B2C3D4E"]


def test_what_is_over_is_packed_once_and_forgotten_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reducer does no more for it than it must: one snapshot, which it stores and keeps."""
    packed: list[str] = []
    unpacked: list[bytes] = []

    def count_pack(newest: Transaction, due: int) -> bytes:
        packed.append(newest.queue_id)
        return snapshot.pack(newest, due)

    def count_unpack(content: bytes) -> Transaction:
        unpacked.append(content)
        return snapshot.unpack(content)

    monkeypatch.setattr(under_test, "pack", count_pack)
    monkeypatch.setattr(under_test, "unpack", count_unpack)
    assembler = Assembler(incremental=True, most_unpacked=20)
    state: dict[str, bytes] = {}
    for n in range(100):
        feed(assembler, [at(n, FROM, n), at(n, SENT, n)])
        commit(assembler, state)
    assert assembler.unpacked_count == 0
    feed(assembler, [at(7000, FROM, 100)])
    assert sorted(commit(assembler, state)) == [f"62960070{n:06d}" for n in range(100)]
    assert packed == [f"62960070{n:06d}" for n in range(101)]
    assert unpacked == []


def test_what_is_open_is_packed_away_as_it_was_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[str] = []

    def count_pack(newest: Transaction, due: int) -> bytes:
        packed.append(newest.queue_id)
        return snapshot.pack(newest, due)

    monkeypatch.setattr(under_test, "pack", count_pack)
    assembler = Assembler(incremental=True, most_unpacked=20)
    state: dict[str, bytes] = {}
    for n in range(100):
        feed(assembler, [at(n, FROM, n), at(n, LATER, n)])
        commit(assembler, state)
    assert packed == [f"62960070{n:06d}" for n in range(100)]
    assert assembler.unpacked_count <= 20
    feed(assembler, [at(200, SENT, n) for n in range(100)])  # what was packed away is as it was stored, or newer
    commit(assembler, state)
    restored = Assembler(incremental=True)
    restored.restore(state)
    for kept in (assembler, restored):
        found = [document for each in kept.remaining() for document in documents(each)]
        assert [document["version"] >> 16 for document in found] == [3] * 100
        assert {document["state"] for document in found} == {"closed"}


def test_a_change_after_the_commit_is_not_packed_away_as_it_was_before() -> None:
    assembler = Assembler(incremental=True, most_unpacked=4)
    state: dict[str, bytes] = {}
    feed(assembler, [at(0, FROM, n, count=3) for n in range(3)])
    commit(assembler, state)
    feed(assembler, [at(1, SENT, 0)])
    assembler.changed()  # handed out for writing, the snapshot not yet
    feed(assembler, [at(2, FROM, n) for n in range(3, 9)])  # packs the first ones
    found = next(each for each in assembler.remaining() if each.queue_id == "62960070000000")
    assert len(found.lines) == 2


def test_what_came_and_went_between_two_commits_is_not_told_to_the_state() -> None:
    assembler, state = Assembler(incremental=True), dict[str, bytes]()
    feed(assembler, [at(0, line) for line in POSTFIX] + [at(90, FROM, 1)])
    assert commit(assembler, state) == []
    assert [key for key in state if key.startswith("transaction:")] == ["transaction:mx1/62960070000001"]


def test_what_is_stored_is_deleted_though_its_queue_id_came_and_went_again() -> None:
    assembler, state = Assembler(incremental=True), dict[str, bytes]()
    feed(assembler, [at(0, line) for line in POSTFIX])
    assert commit(assembler, state) == []
    assert "transaction:mx1/4A1B2C3D4E" in state
    feed(assembler, [at(90, FROM, 1), *(at(95, line) for line in POSTFIX), at(190, FROM, 2)])
    assert commit(assembler, state) == ["4A1B2C3D4E"]
    assert "transaction:mx1/4A1B2C3D4E" not in state


@pytest.mark.parametrize("seed", range(20))
def test_the_stored_state_is_what_is_kept_after_each_commit(seed: int) -> None:
    """However IDs come, go and come again around commits, packings and restarts: no key too many, and none missing."""
    chance = random.Random(seed)  # noqa: S311 - reproducible
    parser = Parser(TimeSettings(1_780_000_000, year=2026, zone=UTC), "mx1")
    assembler, state, second, told = Assembler(incremental=True, most_unpacked=3), dict[str, bytes](), 0, 0
    for _ in range(250):
        second += chance.choice((0, 0, 1, 20, 70, 70, 3700, 90_000 * (chance.random() < 0.1)))
        name = f"4A1B2C3D{chance.randrange(4):02d}"
        lines = (*(line.replace("4A1B2C3D4E", name) for line in POSTFIX), FROM, SENT, LATER)
        stamp = datetime.fromtimestamp(1_770_000_000 + second, UTC).strftime("%b %e %H:%M:%S")
        line = chance.choice(lines).format(n=chance.randrange(4), to=chance.randrange(2), count=1)
        record = parser.parse(f"{stamp} mx1 {line}")
        assert isinstance(record, Record)
        assembler.apply(record)
        if chance.random() < 0.3:
            told += len(commit(assembler, state))
            kept = {f"transaction:mx1/{each.queue_id}" for each in assembler.remaining()}
            assert {key for key in state if key.startswith("transaction:")} == kept
            if chance.random() < 0.2:
                assembler = Assembler(incremental=True, most_unpacked=3)
                assembler.restore(state)
    assert told
