"""The second at which lines were read, from the reducer's records to the sink's figures."""

from __future__ import annotations

import pytest

from mailspan.metrics import Distribution, Figure
from mailspan.wire import READ_NAME, find_read, read_headers_of
from sink.figures import Ages
from sink.records import Record


def record(read: int, partition: int = 0) -> Record:
    return Record(partition, 7, b"key", b"value", read_headers_of(read))


def figures(ages: Ages, lags: dict[int, int]) -> dict[tuple[str, tuple[str, ...]], Figure]:
    return {(each.name, each.labels): each for each in ages.show(lags)}


def test_the_second_is_found_again() -> None:
    assert find_read((("other", b"1"), *read_headers_of(1_795_000_000))) == 1_795_000_000
    assert read_headers_of(0) == read_headers_of(-1) == ()


@pytest.mark.parametrize("raw", [b"", b"-5", b" 5", b"5.0", b"\xb2", b"9" * 13, b"five", b"5\n"])
def test_what_is_no_second_is_none(raw: bytes) -> None:
    assert find_read(((READ_NAME, raw),)) == 0


def test_ages_are_counted_and_lag_is_that_of_the_last_settled_one() -> None:
    now = 1000.0
    ages = Ages(lambda: now)
    ages.settle([record(990), record(960), record(0), record(700, partition=1)])
    found = figures(ages, {0: 5, 1: 1, 2: 1})
    counted = found["mailspan_record_age_seconds", ("sink",)].value
    assert isinstance(counted, Distribution)
    assert (counted.cumulative[-1], counted.sum) == (3, 10 + 40 + 300)
    assert found["mailspan_lag_seconds", ("sink", "0")].value == 990  # not 960: that one came late
    assert found["mailspan_lag_seconds", ("sink", "1")].value == 700
    assert ("mailspan_lag_seconds", ("sink", "2")) not in found  # nothing is known of it
    assert found["mailspan_lag_records", ("sink", "2")].value == 1
    now = 2000.0
    assert figures(ages, {0: 0})["mailspan_lag_seconds", ("sink", "0")].value is None
    now = 2005.0
    assert figures(ages, {0: 1})["mailspan_lag_seconds", ("sink", "0")].value == 2000  # since when it is behind
    assert ("mailspan_lag_seconds", ("sink", "1")) not in figures(ages, {1: 1})  # it was away meanwhile
