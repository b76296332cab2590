"""What a hostile or broken log may cost: memory is bounded, and time grows with the lines, not with their square.

Times are compared, not measured: twice the lines may take a little more than twice as long.
"""

from __future__ import annotations

import gc
import itertools
import time
import tracemalloc
from datetime import UTC
from typing import TYPE_CHECKING

import orjson
import pytest

from mailspan import address
from mailspan.document import Document, documents
from mailspan.event_time import TimeSettings
from mailspan.grammar import MAX_NAME_CHARACTERS, Parser
from mailspan.record import Ignored, Record, Unparsed
from mailspan.transaction import MAX_LINKS
from reducer.assembler import Assembler
from reducer.belonging import MOST_INCARNATIONS
from reducer.host import Host
from reducer.snapshot import unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

FEW, MANY = 1_000, 8_000
DELIVERY = "mailer=esmtp, pri=1, relay=m. [192.0.2.2], dsn=2.0.0, stat=Sent (ok)"


def clock(second: int) -> str:
    return f"Nov 23 {second // 3600 % 24:02}:{second // 60 % 60:02}:{second % 60:02}"


def new_parser() -> Parser:
    return Parser(TimeSettings(reference=1795500000, year=2026, zone=UTC), "here")


def assemble(lines: Iterable[str], assembler: Assembler | None = None) -> Assembler:
    parser, assembler = new_parser(), assembler or Assembler()
    for line in lines:
        result = parser.parse(line)
        if isinstance(result, Record):
            assembler.apply(result)
    return assembler


def documents_of(assembler: Assembler) -> list[Document]:
    found = [*assembler.forgotten(), *assembler.remaining()]
    return [page for each in found for page in documents(each)]


def incarnations(count: int) -> Iterator[str]:
    return (f"{clock(0)} mx1 postfix/smtpd[1]: B6D781149FE: client=c{at}[192.0.2.1]" for at in range(count))


def notices(count: int) -> Iterator[str]:
    begin = f"{clock(0)} mx1 postfix/bounce[1]: B6D781149FE: sender non-delivery notification:"
    return (f"{begin} {at:011X}" for at in range(count))


def bounces_of_exim(count: int) -> Iterator[str]:
    return (
        f"{clock(0)} mx1 exim[1]: 1xVOtI-{at:06}-1i <= <> R=1xVOtI-ZZZZZZ-1i U=exim P=local S=1" for at in range(count)
    )


def gaps(count: int) -> Iterator[str]:
    for at in range(count):
        yield f"{clock(at // 2)} mx1 postfix/smtpd[1]: {at:011X}: client=c[192.0.2.1]"
        yield f"{clock(at // 2)} mx1 rsyslogd: imuxsock lost {at} messages from pid 1 due to rate-limiting"


def one_at_a_time(count: int) -> Iterator[str]:
    """A long list of Sendmail's: it is looked at again for each second in which a recipient became final."""
    yield f"{clock(0)} mx1 sm-mta[1]: 6AN7t85o000020: from=<a@example.com>, size=1, class=0, nrcpts={count}, relay=a [192.0.2.1]"
    for at in range(count):
        yield f"{clock(at * 2)} mx1 sm-mta[1]: 6AN7t85o000020: to=<r{at}@example.net>, delay=00:00:01, {DELIVERY}"


def births(count: int) -> Iterator[str]:
    return (f"{clock(at)} mx1 postfix/cleanup[1]: B6D781149FE: message-id=<same@example.com>" for at in range(count))


def skipped(count: int) -> Iterator[str]:
    return (
        f"{clock(at)} mx1 exim[1]: 1xVOtI-00000E-1i == a@example.com routing defer (-52): retry time not reached"
        for at in range(count)
    )


def new_mails(count: int) -> Iterator[str]:
    return (f"{clock(at // 100)} mx1 postfix/smtpd[1]: {at:011X}: client=c[192.0.2.1]" for at in range(count))


def run_all(make: Callable[[int], Iterable[str]], count: int) -> float:
    """Return the CPU time of a run with everything: assembled, written, stored."""
    lines = list(make(count))
    best = float("inf")
    for _ in range(2):  # the least: other programs use the machine, too
        begin = time.process_time()
        assembler = assemble(lines, Assembler(incremental=True, most_unpacked=100))
        orjson.dumps(assembler.changed().documents)
        assembler.snapshot_changes()
        best = min(best, time.process_time() - begin)
    return best


@pytest.mark.slow
@pytest.mark.parametrize(
    "make", [incarnations, notices, bounces_of_exim, gaps, one_at_a_time, births, skipped, new_mails]
)
def test_time_grows_with_the_lines(make: Callable[[int], Iterable[str]]) -> None:
    times = run_all(make, FEW), run_all(make, MANY)
    assert times[1] < 2.5 * MANY / FEW * times[0] + 0.2, times


def test_what_an_assembler_kept_is_free_at_once_when_it_is_dropped() -> None:
    """A partition that is reloaded, or goes to another reducer, must not wait for the collector of cycles."""
    gc.collect()
    gc.disable()
    try:
        before = sum(isinstance(each, Host) for each in gc.get_objects())
        assembler = assemble(incarnations(3), Assembler(incremental=True))
        assert sum(isinstance(each, Host) for each in gc.get_objects()) == before + 1
        del assembler
        assert sum(isinstance(each, Host) for each in gc.get_objects()) == before
    finally:
        gc.enable()


def test_of_an_id_that_comes_again_and_again_the_last_uses_are_kept() -> None:
    assembler = assemble(incarnations(100))
    kept = list(assembler.remaining())
    assert len(kept) == MOST_INCARNATIONS
    assert len(assembler.forgotten()) == 100 - MOST_INCARNATIONS
    packed = assemble(incarnations(5_000), Assembler(incremental=True))
    assert len(packed.changed().documents) == 5_000
    newest = unpack(packed.snapshot_changes()["transaction:mx1/B6D781149FE"] or b"")
    assert newest.received is not None
    assert newest.received.client is not None
    assert newest.received.client.name == "c4999"


def test_links_are_bounded_whatever_order_they_come_in() -> None:
    lines = list(notices(2 * MAX_LINKS))
    found = [
        next(page for page in documents_of(assemble(each)) if page["queue_id"] == "B6D781149FE")
        for each in (lines, lines[::-1])
    ]
    assert len(found[0]["links"]) == MAX_LINKS
    assert "truncated" in found[0]["notes"]
    assert found[0]["links"] == found[1]["links"]
    parent = next(
        page
        for page in documents_of(assemble(bounces_of_exim(2 * MAX_LINKS)))
        if page["queue_id"] == "1xVOtI-ZZZZZZ-1i"
    )
    assert len(parent["links"]) == MAX_LINKS


def test_a_page_has_the_links_of_its_own_recipients_and_the_first_one_all() -> None:
    lines = [
        f"{clock(at)} mx1 postfix/smtp[1]: B6D781149FE: to=<r{at}@example.net>, relay=m[192.0.2.2]:25, delay=1, "
        f"dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as {at:011X})"
        for at in range(1200)
    ]
    pages = documents_of(assemble(lines))
    assert [len(page["links"]) for page in pages] == [1200, 500, 200]
    assert [page["links"][0]["queue_id"] for page in pages] == [f"{at:011X}" for at in (0, 500, 1000)]


def test_a_gap_in_the_log_is_noted_in_any_order_of_its_second() -> None:
    head = f"{clock(5)} mx1 "
    gap = f"{head}rsyslogd: imuxsock lost 5 messages from pid 1 due to rate-limiting"
    before = [f"{clock(4)} mx1 postfix/smtpd[1]: AAAAAAAAA01: client=c[192.0.2.1]"]
    own = [f"{head}postfix/smtpd[1]: BBBBBBBBB01: client=c[192.0.2.1]", f"{head}postfix/qmgr[1]: AAAAAAAAA01: removed"]
    after = [f"{clock(6)} mx1 postfix/smtpd[1]: CCCCCCCCC01: client=c[192.0.2.1]"]
    found = []
    for at in range(3):
        lines = [*before, *own[:at], gap, *own[at:], *after]
        one = {page["id"]: orjson.dumps(page) for page in documents_of(assemble(lines))}
        found.append(one)
        in_parts: dict[str, bytes] = {}
        state: dict[str, bytes] = {}
        for line in lines:
            assembler = Assembler(incremental=True)
            assembler.restore(state)
            assemble([line], assembler)
            in_parts |= {page["id"]: orjson.dumps(page) for page in assembler.changed().documents}
            state |= {key: value for key, value in assembler.snapshot_changes().items() if value is not None}
        assert in_parts == one
    assert found[0] == found[1] == found[2]
    gapped = [identity for identity, page in found[0].items() if b'"log gap"' in page]
    assert sorted(identity[:15] for identity in gapped) == ["mx1/AAAAAAAAA01", "mx1/BBBBBBBBB01"]


def test_what_is_final_by_another_line_than_an_attempt_is_forgotten_in_time() -> None:
    """After an hour, in one run as in several: a notice gave its deferred recipient up."""
    mail = "mx1 sm-mta[1]: 6AN7t85o000020:"
    lines = [
        f"{clock(0)} {mail} from=<a@example.com>, size=1, class=0, nrcpts=1, relay=a [192.0.2.1]",
        f"{clock(1)} {mail} to=<b@example.net>, delay=00:00:01, mailer=esmtp, pri=1, relay=m. [192.0.2.2], dsn=4.0.0, stat=Deferred: x",
        f"{clock(4000)} {mail} 6AN7t85o000021: sender notify: Cannot send message for 5 days",
        f"{clock(7700)} mx1 sm-mta[1]: 6AN7t85o000022: from=<a@example.com>, size=1, class=0, nrcpts=1, relay=a [192.0.2.1]",
    ]
    assembler = assemble(lines)
    assert {transaction.queue_id for transaction in assembler.forgotten()} >= {"6AN7t85o000020"}


def test_what_sendmail_refused_may_still_get_its_birth_line() -> None:
    """It logs `from=` when the whole dialogue is over, which may take long: one mail, not two of one id."""
    mail = "mx1 sm-mta[1]: 6AN7t85o000020:"
    lines = [
        f"{clock(0)} {mail} Milter: data, reject=550 5.7.1 no",
        f"{clock(900)} {mail} from=<a@example.com>, size=1, class=0, nrcpts=1, relay=a [192.0.2.1]",
    ]
    (document,) = documents_of(assemble(lines))
    assert (document["from"], document["closed_by"]) == ("a@example.com", "rejected")


def test_old_ids_of_sendmail_are_told_apart_by_their_birth() -> None:
    lines = [
        f"{clock(second)} mx1 sendmail[1]: HAA12345: from=<{sender}@example.com>, size=1, class=0, pri=1, nrcpts=1, relay=a [192.0.2.1]"
        for second, sender in ((0, "a"), (60, "b"))
    ]
    found = {page["id"]: page["from"] for page in documents_of(assemble(lines))}
    assert sorted(found.values()) == ["a@example.com", "b@example.com"]


def test_a_note_stands_once() -> None:
    refusal = "reject: RCPT from a[192.0.2.1]: 550 5.1.1 <x>: y; from=<a> to=<b> proto=SMTP helo=<c> to=<d> proto=SMTP helo=<e>"
    lines = [f"{clock(at)} mx1 postfix/smtpd[1]: B6D781149FE: {refusal}" for at in range(3)]
    (document,) = documents_of(assemble(lines))
    assert len(document["notes"]) == len(set(document["notes"]))


@pytest.mark.parametrize(
    "stamp", ["0001-01-01 00:00:00 +2359", "9999-12-31 23:59:60 -2359", "2026-11-23 07:55:08 +9959"]
)
def test_a_stamp_of_exim_that_no_calendar_has(stamp: str) -> None:
    assert isinstance(new_parser().parse(f"{stamp} 1xVOtI-00000E-1i Completed"), Unparsed)


@pytest.mark.parametrize("name", ["/" * 24, "/a" * 5000, "postfix/" * 5000, "a" * 60000])
def test_no_program_name_is_slow(name: str) -> None:
    begin = time.process_time()
    result = new_parser().parse(f"{clock(0)} mx1 {name}[x: y")
    assert isinstance(result, (Unparsed, Ignored))
    assert time.process_time() - begin < 0.05


def test_long_names_are_not_remembered() -> None:
    parser = new_parser()
    long = "h" * (MAX_NAME_CHARACTERS + 1)
    for at in range(3):
        parser.parse(f"{clock(0)} {long}{at} postfix/smtp{long}{at}[1]: x")
    held = [value for name in ("_hosts", "_programs", "_heads") for value in getattr(parser, name)]
    assert not any(long in name for name in held)
    tracemalloc.start()
    for at in range(100):
        assert address.relay_name(f"{at}{long * 400}.") == f"{at}{long * 400}"
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 1_000_000


def test_queue_runs_without_an_attempt_are_counted_not_kept() -> None:
    (transaction,) = assemble(skipped(1000)).remaining()
    assert transaction.skipped_count == 1000
    assert len(transaction.attempts) < 200


def test_a_mail_that_one_recipient_has_is_not_rejected() -> None:
    lines = [
        f"{clock(0)} mx1 postfix/cleanup[1]: B6D781149FE: milter-reject: END-OF-MESSAGE from c[192.0.2.1]: 5.7.1 no; from=<a@example.com> to=<b@example.net> proto=ESMTP helo=<c>",
        f"{clock(1)} mx1 postfix/smtp[2]: B6D781149FE: to=<d@example.net>, relay=m[192.0.2.2]:25, delay=1, status=sent (250 ok)",
    ]
    outcomes = [documents_of(assemble(some))[0]["outcome"] for some in (lines, lines[:1])]
    assert outcomes == ["relayed", "rejected"]


def test_a_list_of_thousands_does_not_repeat_a_long_status() -> None:
    recipients = ",".join(f"<r{at}@example.net>" for at in range(1000))
    line = f"{clock(0)} mx1 sm-mta[1]: 6AN7t85o000020: to={recipients}, delay=00:00:01, mailer=esmtp, pri=1, dsn=5.0.0, stat={'x' * 30000}"
    written = sum(len(orjson.dumps(page)) for page in documents_of(assemble([line])))
    assert written < 40 * len(line)


def test_sessions_keep_no_long_lines() -> None:
    lines = [f"{clock(0)} mx1 postfix/smtpd[1]: connect from {'x' * 50000}{at}[192.0.2.1]" for at in range(100)]
    assembler = assemble(lines, Assembler(incremental=True))
    stored = b"".join(value or b"" for key, value in assembler.snapshot_changes().items() if key.startswith("sessions"))
    assert 0 < len(stored) < 200_000


def test_a_clock_that_jumps_by_years_loses_nothing() -> None:
    """A host whose clock jumps to and fro by years forgets nothing that is open, and does not fail."""
    lines = [
        f"{year}-11-23T07:55:{second:02}Z mx1 postfix/smtpd[1]: {at:011X}: client=c[192.0.2.1]"
        for at, (year, second) in enumerate(itertools.product((2026, 2038, 1990, 2026), range(4)))
    ]
    assert len(documents_of(assemble(lines))) == 16


@pytest.mark.parametrize("incremental", [False, True])
def test_a_transaction_that_begins_is_not_packed_before_its_line_is_applied(*, incremental: bool) -> None:
    """An ID that is used again stands where it stood; within one second nothing else says that it is the newest."""
    head = f"{clock(0)} mx1 postfix/"
    lines = [f"{head}qmgr[1]: {at:011X}: from=<a@example.com>, size=1, nrcpt=1 (queue active)" for at in range(8)]
    lines += [f"{head}qmgr[1]: {at:011X}: removed" for at in range(8)]
    lines += [f"{head}smtpd[1]: {at:011X}: client=c[192.0.2.1]" for at in range(8)]
    packing = Assembler(incremental=incremental, most_unpacked=2)
    assemble(lines[:16], packing)
    packing.changed()
    assemble(lines[16:], packing)
    assert sum(page["client"] == "c [192.0.2.1]" for page in documents_of(packing)) == 8


def test_what_is_packed_takes_room_from_what_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reducer.assembler.MOST_UNPACKED", 10)
    kept, counts = Assembler(most_unpacked=200), []
    for record in map(new_parser().parse, new_mails(4000)):
        assert isinstance(record, Record)
        kept.apply(record)
        counts.append(kept.unpacked_count)
    room = 200 - kept.sizes.packed_bytes // 4000
    assert 10 < room < 150
    assert (counts[198], max(counts)) == (199, 200)
    assert room // 2 < max(counts[-200:]) <= room + 10
