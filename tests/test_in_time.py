"""A call that never returns is given up in time; one that returns or fails does so here as well."""

from __future__ import annotations

import threading
import time

import pytest

from reducer.in_time import HeldError, call_in_time


def test_a_call_that_never_returns_is_given_up() -> None:
    is_over = threading.Event()
    begun = time.monotonic()
    with pytest.raises(HeldError):
        call_in_time(is_over.wait, lambda: begun + 0.2 - time.monotonic())
    took = time.monotonic() - begun
    is_over.set()
    assert 0.2 <= took < 5


def test_it_is_given_up_as_soon_as_there_is_less_time_than_thought() -> None:
    """As where the process is told to stop meanwhile."""
    is_over = threading.Event()
    left = iter((3600.0, 0.0))
    with pytest.raises(HeldError):
        call_in_time(is_over.wait, lambda: next(left))
    is_over.set()


def test_what_the_call_raises_is_raised() -> None:
    def fail() -> None:
        raise BufferError("full")

    with pytest.raises(BufferError, match="full"):
        call_in_time(fail, lambda: 60.0)


def test_it_waits_for_the_answer() -> None:
    done: list[int] = []
    call_in_time(lambda: done.append(1), lambda: 60.0)
    assert done == [1]
