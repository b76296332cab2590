"""Properties: any bytes parse, and the documents are a function of the host's lines alone."""

from __future__ import annotations

import lzma
import random
import time
from datetime import UTC
from functools import cache
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from mailspan.document import documents
from mailspan.event_time import TimeSettings
from mailspan.grammar import Parser
from mailspan.record import Ignored, Record, Source, Unparsed
from reducer.assembler import Assembler

CORPUS = Path(__file__).parent / "corpus"
LOGS = (
    "edge1.mail.log",
    "edge2.mail.log",
    "relay.mail.log",
    "store.exim-mainlog",
    "store2.mail.log",
    "osm.mail.log",
)
LINE_SECONDS = 0.05
EXAMPLES = settings(max_examples=200, deadline=None, derandomize=True)
FEW = settings(max_examples=25, deadline=None, derandomize=True)


def settings_of_time() -> TimeSettings:
    return TimeSettings(reference=1795500000, year=2026, zone=UTC)


@cache
def lines_of(name: str) -> tuple[str, ...]:
    path = CORPUS / name
    raw = path.read_bytes() if path.exists() else lzma.decompress((CORPUS / f"{name}.xz").read_bytes())
    return tuple(raw.decode("utf-8", "backslashreplace").splitlines())


@cache
def records_of(name: str) -> tuple[Record, ...]:
    parser = Parser(settings_of_time(), "here")
    return tuple(result for result in map(parser.parse, lines_of(name)) if isinstance(result, Record))


def assemble(records: list[Record] | tuple[Record, ...], assembler: Assembler | None = None) -> dict[str, bytes]:
    """Return the encoded documents by id, of one pass."""
    assembler = assembler or Assembler()
    for record in records:
        assembler.apply(record)
    found = [*assembler.forgotten(), *assembler.remaining()]
    return {page["id"]: orjson.dumps(page) for each in found for page in documents(each)}


def commit(
    assembler: Assembler, state: dict[str, bytes], store: dict[str, tuple[int, bytes]], *, urgent_only: bool
) -> None:
    """Write what a commit writes: documents as a store takes them, and the state."""
    changes = assembler.changed(urgent_only=urgent_only)
    for identity in changes.withdrawn:
        store.pop(identity, None)
    for page in changes.documents:
        if store.get(page["id"], (0, b""))[0] < page["version"]:
            store[page["id"]] = (page["version"], orjson.dumps(page))
    for key, value in assembler.snapshot_changes().items():
        if value is None:
            state.pop(key, None)
        else:
            state[key] = value


def assemble_in_parts(records: tuple[Record, ...], cuts: list[int]) -> dict[str, bytes]:
    """Return what a store holds after as many runs as there are parts, each from the stored state alone."""
    state: dict[str, bytes] = {}
    store: dict[str, tuple[int, bytes]] = {}
    for start, end in zip([0, *cuts], [*cuts, len(records)], strict=True):
        assembler = Assembler(incremental=True)
        assembler.restore(state)
        for record in records[start:end]:
            assembler.apply(record)
        commit(assembler, state, store, urgent_only=False)
    return {identity: encoded for identity, (_, encoded) in store.items()}


@EXAMPLES
@given(st.binary(max_size=400))
def test_any_bytes_parse(raw: bytes) -> None:
    result = Parser(settings_of_time(), "here").parse(raw.decode("utf-8", "backslashreplace"))
    assert isinstance(result, (Record, Ignored, Unparsed))


@st.composite
def mutated(draw: st.DrawFn) -> str:
    line = draw(st.sampled_from(lines_of(draw(st.sampled_from(LOGS)))))
    for _ in range(draw(st.integers(1, 4))):
        at, size = draw(st.integers(0, len(line))), draw(st.integers(0, 30))
        inserted = draw(
            st.one_of(
                st.text(max_size=12),
                st.sampled_from(('"', "<", ">, ", "; from=<", ", stat=", "\\", ' C="', " <", ": ")),
            )
        )
        line = line[:at] + inserted + line[at + size :]
    return line


@EXAMPLES
@given(st.lists(mutated(), min_size=1, max_size=12))
def test_mutated_lines_give_documents_in_valid_utf8(lines: list[str]) -> None:
    parser = Parser(settings_of_time(), "here")
    encodable = [line.encode("utf-8", "backslashreplace").decode() for line in lines]
    results = [parser.parse(line) for line in encodable]
    for encoded in assemble([each for each in results if isinstance(each, Record)]).values():
        assert encoded.decode("utf-8")


@pytest.mark.parametrize("name", LOGS)
@FEW
@given(st.integers(0, 2**32))
def test_duplicated_lines_change_nothing(name: str, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311  reproducible
    records = records_of(name)
    doubled: list[Record] = []
    for at, record in enumerate(records):
        doubled.append(record)
        again = records[max(0, at - chance.randrange(20))]
        if record.stamp.second - again.stamp.second < 30:
            doubled.append(again)
    assert len(doubled) > len(records)
    assert assemble(doubled) == assemble(records)


@pytest.mark.parametrize("name", LOGS)
def test_foreign_lines_change_nothing(name: str) -> None:
    own = records_of(name)
    foreign = [
        replace(each, source=Source("elsewhere", each.program, each.pid, each.mta, each.source.process)) for each in own
    ]
    mixed = [record for pair in zip(own, foreign, strict=True) for record in pair]
    found = assemble(mixed)
    assert {key: value for key, value in found.items() if not key.startswith("elsewhere/")} == assemble(own)
    assert len(found) == 2 * len(assemble(own))


@pytest.mark.parametrize("name", LOGS)
@FEW
@given(st.integers(0, 2**32))
def test_any_batch_split_gives_equal_documents(name: str, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311  reproducible
    records = records_of(name)
    cuts = sorted(chance.sample(range(1, len(records)), chance.randrange(1, 12)))
    assert assemble_in_parts(records, cuts) == assemble(records)


@pytest.mark.parametrize("name", LOGS)
@FEW
@given(st.integers(0, 2**32))
def test_lines_of_one_second_may_come_in_another_order(name: str, seed: int) -> None:
    """Those of one queue ID or session keep theirs: what hangs together by either changes places as a whole."""
    chance = random.Random(seed)  # noqa: S311  reproducible
    by_second: dict[int, list[Record]] = {}
    for record in records_of(name):
        by_second.setdefault(record.stamp.second, []).append(record)
    shuffled: list[Record] = []
    for second in sorted(by_second):
        groups = hanging_together(by_second[second])
        chance.shuffle(groups)
        shuffled += [record for group in groups for record in group]
    assert assemble(shuffled) == assemble(sorted(records_of(name), key=lambda record: record.stamp.second))


def hanging_together(records: list[Record]) -> list[list[Record]]:
    """Group records that share a queue ID or a session (a process, where the MTA names none), directly or by others; in each group the order is kept."""
    group_of: dict[str, list[int]] = {}
    for at, record in enumerate(records):
        merged = [at]
        for name in {session_of(record), record.queue_id or session_of(record)}:
            known = group_of.get(name)
            if known is not None and known is not merged:
                merged = known + [each for each in merged if each not in known]
        for each in merged:
            group_of[session_of(records[each])] = merged
            group_of[records[each].queue_id or session_of(records[each])] = merged
    unique = {id(group): group for group in group_of.values()}
    return [[records[at] for at in sorted(group)] for group in unique.values()]


def session_of(record: Record) -> str:
    return record.session or record.source.process


@pytest.mark.parametrize("name", LOGS)
@FEW
@given(st.integers(0, 2**32))
def test_what_waits_to_be_written_is_written_whenever_a_run_ends(name: str, seed: int) -> None:
    """Commits write what is urgent; a run may end after any of them, and the next one goes on from the stored state."""
    chance = random.Random(seed)  # noqa: S311  reproducible
    records = records_of(name)
    state: dict[str, bytes] = {}
    store: dict[str, tuple[int, bytes]] = {}
    assembler = Assembler(incremental=True)
    at = 0
    while at < len(records):
        size = chance.randrange(1, 400)
        for record in records[at : at + size]:
            assembler.apply(record)
        at += size
        commit(assembler, state, store, urgent_only=at < len(records) and chance.random() < 0.9)
        if chance.random() < 0.3:
            assembler = Assembler(incremental=True)
            assembler.restore(state)
    commit(assembler, state, store, urgent_only=False)
    assert {identity: document for identity, (_, document) in store.items()} == assemble(records)


@pytest.mark.parametrize("name", LOGS)
def test_what_rests_packed_gives_the_same_documents(name: str) -> None:
    packing = Assembler(most_unpacked=3)
    assert assemble(records_of(name), packing) == assemble(records_of(name))


HOSTILE = [
    "postfix/smtpd[1]: B6D781149FE: reject: RCPT from a[192.0.2.1]: 550 5.1.1 {}",
    "postfix/cleanup[1]: B6D781149FE: warning: header Subject: {}",
    "postfix/smtp[1]: B6D781149FE: to=<{}>, relay=none",
    "postfix/qmgr[1]: B6D781149FE: from=<{}",
    "postfix/smtp[1]: B6D781149FE: to=<a@example.com>, relay=none, delay=1, status=sent ({}",
    "sm-mta[1]: 6AN7t8iX000022: to={}, delay=00:00:01",
    "sm-mta[1]: 6AN7t8iX000022: to=<a@example.com>, delay=00:00:01, dsn=5.0.0, reply={}",
    "sm-mta[1]: 6AN7t8iX000022: from={}, size=1",
    "sm-mta[1]: 6AN7t8iX000022: from=<a@example.com>, size=1, class=0, nrcpts=1, msgid={}",
    "sm-mta[1]: ruleset=check_rcpt, arg1={}",
    "sm-mta[1]: 6AN7t8iX000022: ruleset=CheckSubject, arg1={}",
    "sm-mta[1]: 6AN7t8iX000022: to=<a@example.com>, ctladdr={}, delay=00:00:01, stat=Sent",
    "sm-mta[1]: 6AN7t8iX000022: {}",
    "postfix/smtpd[1]: B6D781149FE: client=a[192.0.2.1], sasl_username={}",
    "postfix/smtpd[1]: proxy-reject: END-OF-MESSAGE: 550 {}",
    "postfix/local[1]: B6D781149FE: {}",
    "postfix/pickup[1]: B6D781149FE: uid=0 from=<{}",
    "sm-mta[1]: 6AN7t8iX000022: {}... User unknown",
    "sm-mta[1]: 6AN7t8iX000022: Milter: to={}",
    "smtpd[1]: 881c4ca7ad2782c1 smtp envelope evpid=b16fa2ed53cd2ecd from=<{}> to=<a@example.com>",
    "smtpd[1]: 881c4ca7ad2782c1 smtp event=message msgid=b16fa2ed from=<> to=<{}",
    "smtpd[1]: 881c4ca7ad2782c1 smtp connected address=192.0.2.1 host={}",
    'smtpd[1]: 881c4ca7ad2782c1 smtp failed-command command="RCPT TO:<{}" result="550 no"',
    'smtpd[1]: 881c4ca7ad2782c1 mta delivery evpid=b16fa2ed53cd2ecd from=<> to=<{}> rcpt=<-> source="-" relay="x',
    'smtpd[1]: 881c4ca7ad2782c1 mta delivery evpid=b16fa2ed53cd2ecd from=<> to=<a> rcpt=<-> source="-" relay="{}',
    "smtpd[1]: 881c4ca7ad2782c1 mda delivery evpid=b16fa2ed53cd2ecd from=<> to=<a> rcpt=<-> user={}",
    "smtpd[1]: relay: Expire for b16fa2ed53cd2ecd: from=<>, to=<a>, rcpt=<{}",
    "exim[1]: 1xVOtI-00000E-1i <= {}",
    "exim[1]: 1xVOtI-00000E-1i <= a@example.com H=({}",
    "exim[1]: 1xVOtI-00000E-1i <= a@example.com H=[192.0.2.1] P=esmtp A={} S=1",
    "exim[1]: 1xVOtI-00000E-1i <= a@example.com P=local S=1 id={}",
    'exim[1]: 1xVOtI-00000E-1i <= a@example.com P=local S=1 T="{}" for {}',
    "exim[1]: 1xVOtI-00000E-1i => {} R=a T=b",
    "exim[1]: 1xVOtI-00000E-1i => |{} <a@example.com> R=a",
    'exim[1]: 1xVOtI-00000E-1i => a@example.com R=a T=b H=c [192.0.2.1] C="{}',
    "exim[1]: 1xVOtI-00000E-1i == a@example.com R=a defer (111): {}",
    "exim[1]: 1xVOtI-00000E-1i ** a@example.com R=a: SMTP error from remote mail server after RCPT TO:<{}",
    "exim[1]: H=({}) [192.0.2.1] F=<a@example.com> rejected RCPT <{}",
    "exim[1]: rejected EHLO {} from ({}",
    "exim[1]: rejected from <{}",
    "exim[1]: rejected {} from x",
    "exim[1]: F={} H=({} rejected by local_scan(): x",
    "exim[1]: {} authenticator failed for ({}",
    'exim[1]: SMTP protocol synchronization error ({}): rejected "{}',
    "exim[1]: [1/2] 1xVOtI-00000E-1i <= {}",
]
PIECES = [
    " H=(",
    ' <"',
    ") [",
    ' C="',
    " F=<",
    " from (",
    ";",
    '"',
    "<",
    ">",
    "\\",
    ", stat=",
    "; from=<",
    ' "',
    "a,",
    '<"',
    '\\"',
    "(",
    ", relay=",
    "]",
    "\\303",
    "#0",
    " method=",
    " delay=0s",
    '" relay="',
    '" result="',
    "> to=<",
    "> rcpt=<",
    ", sasl_sender=",
    ", orig_client=",
    ", arg2=",
    "reject",
    ">, size=",
    ">, relay=",
    "\\\\",
    ", [more]",
    ", reject=",
]


@pytest.mark.parametrize("shape", HOSTILE)
@pytest.mark.parametrize("piece", PIECES)
def test_no_line_is_slow(shape: str, piece: str) -> None:
    line = "Nov 23 07:55:08 mx1 " + shape.replace("{}", piece * (65000 // len(piece) // shape.count("{}")))
    parser = Parser(settings_of_time(), "here")
    best = LINE_SECONDS * 2
    for _ in range(3):  # the least: other programs use the machine, too
        begin = time.process_time()
        parser.parse(line)
        best = min(best, time.process_time() - begin)
        if best < LINE_SECONDS:
            break
    assert best < LINE_SECONDS
