"""Dead letters as headers, as lists and as records to be replayed: whatever was in them comes out again."""

from __future__ import annotations

import random
from datetime import UTC
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailspan.dead_letter import DeadLetter, Source, headers_of, mark_of, read_headers
from mailspan.grammar import Parser
from mailspan.terminal import sanitise
from mailspan.wire import HEADER_NAME, Reading, decode_header, encode_header, encode_reading
from reducer.partition import Options, Partition
from sink.kafka_topic import TopicRecord
from sink.letters import (
    Choice,
    Contents,
    Letter,
    Withdrawals,
    headers_to_replay,
    json_of,
    letter_of,
    line_of,
    portions,
    why_not,
)
from sink.place import Place, offsets_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailspan.dead_letter import Headers

TOPIC = "mail.dead-letter"
SOURCE = Source("mail.raw", 3, 1234)
OURS = ("reason", "stage", "topic", "partition", "offset", HEADER_NAME)
SEVERAL = st.lists(st.tuples(st.sampled_from(OURS) | st.text(max_size=20), st.binary(max_size=50)), max_size=8)


def record_of(
    said: DeadLetter, *, offset: int = 0, key: bytes | None = b"mx1/4F1A", value: bytes | None = b"line", at: int = 0
) -> TopicRecord:
    return TopicRecord(0, offset, at or offset, key, value, headers_of(said))


def said_by(stage: str = "reduce", reason: str = "KeyError: 'a'", source: Source | None = SOURCE) -> DeadLetter:
    return DeadLetter(reason, stage, source, ())


@given(SEVERAL)
def test_a_record_has_its_own_headers_back_even_such_as_are_named_like_ours(own: list[tuple[str, bytes]]) -> None:
    letter = DeadLetter("KeyError: 'a'", "sink", SOURCE, tuple(own))
    assert read_headers(headers_of(letter)) == letter


def test_a_reason_is_one_short_line() -> None:
    headers = dict(headers_of(DeadLetter("a\nb\r\n\tc\x00 " + "ü" * 5000, "reduce", SOURCE, ())))
    assert headers["reason"].startswith(b"a b c\x00 \xc3\xbc")
    assert len(headers["reason"]) == 2000
    assert read_headers(list(headers.items())).reason.startswith("a b c")
    assert dict(headers_of(DeadLetter("\udcff", "reduce", SOURCE, ())))["reason"] == b"\\udcff"


@pytest.mark.parametrize(
    "headers",
    [
        None,
        [],
        [("reason", None), ("stage", None)],
        [("reason", b"\xff\xfe"), ("topic", b"mail.raw"), ("partition", b"three"), ("offset", b"1")],
        [("topic", b"mail.raw"), ("partition", b"3")],
        [("topic", b"mail.raw"), ("partition", b"3"), ("offset", b"9" * 5000)],
        {"stage": b"reduce"},
    ],
)
def test_headers_of_others_have_no_source_and_raise_nothing(headers: list[tuple[str, bytes]] | None) -> None:
    assert read_headers(headers).source is None


def test_a_mark_says_which_letter_and_takes_it_off_the_list() -> None:
    contents = Contents(TOPIC, Choice())
    for offset in range(3):
        contents.add(record_of(said_by(), offset=offset))
    contents.add(TopicRecord(0, 3, 3, None, None, mark_of(Source(TOPIC, 0, 1))))
    contents.add(TopicRecord(0, 4, 4, None, None, mark_of(Source("other.dead-letter", 0, 2))))  # a copied one
    assert contents.replayed == {Place(0, 1)}
    assert [entry.place.offset for entry in contents.entries(with_replayed=False)] == [0, 2, 4]
    assert [entry.place.offset for entry in contents.entries(with_replayed=True)] == [0, 1, 2, 4]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (Choice(), [0, 1, 2]),
        (Choice(stage="sink"), [1]),
        (Choice(reason="ZERO"), [2]),
        (Choice(places=frozenset({Place(0, 0), Place(0, 2), Place(1, 1)})), [0, 2]),
        (Choice(places=frozenset({Place(0, 0)}), stage="sink"), []),
    ],
)
def test_a_choice_means_what_all_its_parts_mean(choice: Choice, expected: list[int]) -> None:
    contents = Contents(TOPIC, choice)
    for offset, said in enumerate((said_by(), said_by("sink"), said_by(reason="ZeroDivisionError: x"))):
        contents.add(record_of(said, offset=offset))
    assert [entry.place.offset for entry in contents.entries(with_replayed=False)] == expected


def test_letters_are_in_order_of_time_and_held_in_portions() -> None:
    contents = Contents(TOPIC, Choice())
    sizes = [10, 500, 20, 30, 1000, 5]
    for offset, size in enumerate(sizes):
        contents.add(record_of(said_by(), offset=offset, key=None, value=b"x" * size, at=100 - offset))
    entries = contents.entries(with_replayed=False)
    assert [entry.size for entry in entries] == sizes[::-1]
    found = [[entry.size for entry in portion] for portion in portions(entries, 100)]
    assert found == [[5], [1000], [30, 20], [500], [10]]
    assert list(portions([], 100)) == []
    assert offsets_of([Place(1, 5), Place(0, 2), Place(1, 3)]) == {1: [5, 3], 0: [2]}


def test_what_cannot_be_replayed_says_why() -> None:
    partitions: dict[str, range] = {"mail.raw": range(4), "mail.transactions": range(4)}

    def reason(source: Source | None) -> str | None:
        return why_not(letter_of(record_of(said_by(source=source))), partitions)

    assert reason(SOURCE) is None
    for source, part in (
        (None, "no source"),
        (Source("mail.open-transactions", 0, 1), "topic that no letters come from"),
        (Source("__consumer_offsets", 0, 1), "topic that no letters come from"),
        (Source("mail.raw", 4, 1), "partition that is not there"),
        (Source("mail.raw", -1, 1), "partition that is not there"),
    ):
        assert part in str(reason(source)), source


def raw_letter(offset: int, headers: Headers) -> Letter:
    return letter_of(record_of(DeadLetter("x", "reduce", SOURCE, headers), offset=offset))


def test_a_replayed_line_has_another_place_and_says_the_same_else() -> None:
    reading = Reading("file-one", 1_795_420_800, 1_795_420_900, "mx1", "Europe/Madrid", "tail", "shipper")
    ours = (HEADER_NAME, encode_header(777, encode_reading(reading)))
    broken = (HEADER_NAME, b"\x09 of a later version")
    headers = headers_to_replay(raw_letter(0, (("a", b"1"), ours, ("b", b""), broken)), "replay-x", 5)
    assert [name for name, _ in headers] == ["a", HEADER_NAME, "b", HEADER_NAME]
    found = decode_header(headers[1][1])
    assert found is not None
    assert (found.offset, found.reading.generation) == (5, "replay-x")
    assert found.reading == Reading(
        "replay-x", reading.reference, reading.read, reading.host, reading.zone, reading.input, reading.observer
    )
    assert (headers[0], headers[2], headers[3]) == (("a", b"1"), ("b", b""), broken)


def test_a_document_that_was_withdrawn_since_stays_away() -> None:
    source = Source("mail.transactions", 3, 10)

    def letter(offset: int, key: bytes) -> Letter:
        return letter_of(record_of(DeadLetter("x", "sink", source, ()), offset=offset, key=key))

    names = [b"mx1/GONE", b"mx1/PAGE#2", b"mx1/BACK", b"mx1/KEPT", b"mx1/BEFORE", b"mx1/OTHER", b"\xff#1"]
    found = Withdrawals([letter(offset, name) for offset, name in enumerate(names)])
    for partition, offset, key, value in (
        (3, 9, b"mx1/BEFORE", None),
        (3, 11, b"mx1/GONE", None),
        (3, 12, b"mx1/PAGE", b""),
        (3, 13, b"mx1/BACK", None),
        (3, 14, b"mx1/BACK", b"{}"),
        (4, 15, b"mx1/OTHER", None),
        (3, 16, b"mx1/KEPT", b"{}"),
        (3, 17, None, None),
    ):
        found.add(TopicRecord(partition, offset, 0, key, value, ()))
    assert found.places == {Place(0, 0), Place(0, 1)}


def hostile(make: Callable[[random.Random], bytes]) -> list[Letter]:
    chance = random.Random(5)  # noqa: S311 - reproducible
    return [
        letter_of(
            TopicRecord(
                0,
                offset,
                chance.choice((-1, 0, 1_795_420_800_000, 1 << 62)),
                chance.choice((None, b"", make(chance))),
                chance.choice((None, b"", make(chance))),
                tuple((name, make(chance)) for name in OURS),
            )
        )
        for offset in range(200)
    ]


def test_a_list_is_one_safe_line_for_each_and_json_has_every_byte() -> None:
    controls = b"\x1b]0;x\x07\n\r\xe2\x80\xae\xff"
    for letter in hostile(lambda chance: bytes(chance.choices(controls + b"abc", k=12))):
        line = sanitise(line_of(letter, UTC, is_replayed=False))
        assert not any(character < " " or "\x7f" <= character < "\xa0" or character == "\u202e" for character in line)
        told = orjson.loads(orjson.dumps(json_of(letter, is_replayed=True)))
        assert told["replayed"] is True
        assert ("value" in told) != ("value_base64" in told)


def test_how_a_letter_looks() -> None:
    letter = letter_of(record_of(said_by(), offset=17, value=b"\xff\x00", at=1_795_420_800_123))
    assert (
        line_of(letter, UTC, is_replayed=True)
        == "2026-11-23 08:00:00  0:17  reduce  mail.raw 3:1234  mx1/4F1A  2 bytes, replayed  KeyError: 'a'"
    )
    assert json_of(letter, is_replayed=False) == {
        "date": "2026-11-23T08:00:00.123Z",
        "partition": 0,
        "offset": 17,
        "stage": "reduce",
        "reason": "KeyError: 'a'",
        "source": {"topic": "mail.raw", "partition": 3, "offset": 1234},
        "replayed": False,
        "key": "mx1/4F1A",
        "value_base64": "/wA=",
        "headers": [],
    }
    nothing = letter_of(TopicRecord(0, 1, 0, None, None, ()))
    assert line_of(nothing, UTC, is_replayed=False) == "1970-01-01 00:00:00  0:1  -  -  -  no value  -"


HOST = "mx1.example.com"
SENT = f"Nov 23 07:55:09 {HOST} postfix/smtp[3]: 4F1A2B3C4D: to=<b@example.net>, relay=none, delay=1, delays=0/0/0/1, dsn=2.0.0, status=sent (250 Ok)"
AROUND = (
    f"Nov 23 07:55:08 {HOST} postfix/smtpd[1]: 4F1A2B3C4D: client=mail.example.net[192.0.2.7]",
    SENT,
    f"Nov 23 07:55:10 {HOST} postfix/qmgr[2]: 4F1A2B3C4D: removed",
)
LATER = f"Nov 23 09:00:00 {HOST} postfix/smtpd[1]: 5F1A2B3C4D: client=mail.example.net[192.0.2.7]"
READING = Reading("life-of-a-file", 1_795_420_900, 1_795_420_900, HOST, "UTC", "tail", "shipper")


def apply(partition: Partition, line: str, offset: int, header: bytes) -> list[dict[str, Any]]:
    """Apply one record and return the documents that it changes."""
    found = decode_header(header)
    assert found is not None
    partition.apply(line.encode(), offset, found.offset, found.reading)
    return partition.output(urgent_only=False).documents


@pytest.mark.parametrize("is_over", [False, True])
def test_a_line_that_failed_counts_as_read_where_it_stood_and_is_applied_when_it_is_replayed(
    *, is_over: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition = Partition(Options(find_zone=lambda _name: None))
    headers = [encode_header(100 * (number + 1), encode_reading(READING)) for number in range(4)]
    for offset, line in enumerate(AROUND):
        with monkeypatch.context() as patched:
            if line is SENT:
                patched.setattr(Parser, "parse", lambda _parser, _line: 1 // 0)
                with pytest.raises(ZeroDivisionError):
                    apply(partition, line, offset, headers[offset])
            else:
                apply(partition, line, offset, headers[offset])
    if is_over:
        apply(partition, LATER, 3, headers[3])
    assert apply(partition, SENT, 4, headers[1]) == []
    assert partition.counts.ignored == {"read before": 1}
    letter = raw_letter(0, ((HEADER_NAME, headers[1]),))
    for number in range(2):  # once more does no harm
        ((_, header),) = headers_to_replay(letter, f"replay-{number}", 7)
        found = apply(partition, SENT, 5 + number, header)
        if number:
            assert found == []
            continue
        (changed,) = found
        assert changed["recipients"] == ["b@example.net"]
        # The lines of a transaction that is over are kept no longer: then it is a fragment, found by the same search.
        assert (changed["fragment"], changed["version"] // 65536) == ((True, 1) if is_over else (False, 3))
