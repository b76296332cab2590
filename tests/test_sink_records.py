"""What records of mail.transactions are, in which steps they take effect, and how far offsets may move."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sink.indexed import indexed
from sink.records import NoDocumentError, Record, plan, read_document, read_id, settled_offsets
from tests.chain import record
from tests.search_documents import all_documents, document

A, B = (document(queue_id=name, outcome="queued") for name in "AB")
PAGE = {**A, "id": f"{A['id']}#1"}


def records(*what: dict[str, Any] | str | bytes) -> list[Record]:
    """Return records of one partition: documents, withdrawals by id, and bytes as they are."""
    pairs = [
        record(each) if isinstance(each, dict) else (each.encode(), None) if isinstance(each, str) else (b"k", each)
        for each in what
    ]
    return [Record(0, offset, key, value) for offset, (key, value) in enumerate(pairs)]


def steps(*what: dict[str, Any] | str | bytes) -> list[tuple[list[str], dict[str, list[int]]]]:
    return [([each["id"] for each in step.documents], step.withdrawn) for step in plan(records(*what)).steps]


def test_documents_of_real_logs_are_read_as_they_are() -> None:
    for each in all_documents():
        seen = {"recipient", "date", "status", "original_recipient", "relay_ip"}
        to = [{name: value for name, value in attempt.items() if name in seen} for attempt in each["to"]]
        assert read_document(orjson.dumps(each)) == {**each, "to": to}


def test_a_withdrawal_ends_what_came_before_it_with_its_pages() -> None:
    assert steps(A, PAGE, B, A["id"]) == [([B["id"]], {A["id"]: [3, 0, 1]})]


def test_what_comes_after_a_withdrawal_is_another_step() -> None:
    assert steps(A, A["id"], B, A, A["id"]) == [([B["id"]], {A["id"]: [1, 0]}), ([], {A["id"]: [4, 3]})]


def test_what_is_no_document_holds_no_other_up() -> None:
    made = plan(records(A, b"{", B))
    assert [each["id"] for each in made.steps[0].documents] == [A["id"], B["id"]]
    assert made.steps[0].places == [0, 2]
    assert list(made.faults) == [1]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"id": ""}, "length >= 1"),
        ({"id": "x" * 129}, "length <= 128"),
        ({"id": 7}, "Expected `str`"),
        ({"version": -1}, ">= 0"),
        ({"version": 1 << 63}, "<= 9223372036854775807"),
        ({"version": 1.5}, "Expected `int`"),
        ({"date": "2026-02-30T00:00:00.000Z"}, "a time cannot be read"),
        ({"date": "2026-02-03T00:00:00.000+01:00"}, "`date` is not in UTC"),
        ({"date": "2026-02-03T00:00:00.000"}, "`date` is not in UTC"),
        ({"updated": "../../2026-02-30T00:00"}, "a time cannot be read"),
        ({"to": [1]}, "Expected `object`"),
        ({"to": [{"recipient": 7, "date": "", "status": ""}]}, "Expected `str | null`"),
        ({"to": [{"recipient": "bob"}]}, "missing required field"),
        ({"filters": [{}]}, "missing required field"),
        ({"filters": [{"filter": "a", "verdict": "b", "score": 1, "detail": None, "date": 7}]}, "Expected `str`"),
        ({"recipients": "bob"}, "Expected `array`"),
        ({"client_forged": "yes"}, "Expected `bool | null`"),
    ],
)
def test_wrong_fields_are_named(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(NoDocumentError) as caught:
        read_document(orjson.dumps({**A, **change}))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["id", "host", "mta", "date", "updated", "to", "version"])
def test_what_every_document_has_must_be_there(name: str) -> None:
    with pytest.raises(NoDocumentError, match=f"`{name}`"):
        read_document(orjson.dumps({key: value for key, value in A.items() if key != name}))


def test_a_field_that_its_writer_did_not_know_is_as_if_empty() -> None:
    older = {key: value for key, value in A.items() if key not in {"tls", "links", "page"}}
    found = read_document(orjson.dumps(older))
    assert (found["tls"], found["links"], found["page"]) == (None, [], 0)


@pytest.mark.parametrize("key", [b"", b"\xff", b"x" * 129])
def test_a_key_that_is_no_id_withdraws_nothing(key: bytes) -> None:
    with pytest.raises(NoDocumentError):
        read_id(key)


names = st.text(max_size=10) | st.sampled_from(["recipient", "original_recipient", "relay_ip", "date", "status"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(sorted(A)), value=json_values)
def test_whatever_is_taken_for_a_document_can_be_indexed(name: str, value: object) -> None:
    try:
        encoded = orjson.dumps({**A, name: value})
    except orjson.JSONEncodeError:
        return  # no JSON: it can come from nowhere
    try:
        found = read_document(encoded)
    except NoDocumentError:
        return
    assert orjson.loads(indexed(found, encoded))["mailspan"]["terms"]


def test_what_is_indexed_is_one_line() -> None:
    for encoded in (orjson.dumps(A, option=orjson.OPT_INDENT_2), orjson.dumps(A) + b" ", orjson.dumps(A) + b"\r\n"):
        found = indexed(read_document(encoded), encoded)
        assert b"\n" not in found
        assert {**orjson.loads(found), "mailspan": None} == {**A, "mailspan": None}


def test_offsets_stop_before_what_is_not_settled_in_each_partition() -> None:
    found = [
        Record(partition, offset, b"", b"") for partition, offset in ((0, 5), (1, 7), (0, 6), (1, 8), (0, 9), (2, 1))
    ]
    assert settled_offsets(found, [True] * 6) == {0: 10, 1: 9, 2: 2}
    assert settled_offsets(found, [True, False, False, True, True, True]) == {0: 6, 2: 2}
    assert settled_offsets(found, [False] * 6) == {}
