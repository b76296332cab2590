"""A call that may never return, and for which only so long is waited. No Kafka in here.

Some calls of the Kafka client keep to no limit, and in one of its faults they never return (reducer/kafka.py). Such a
call is made in a thread of its own. Where it is given up the thread stays behind, with all that the call holds on to,
until the call returns or the process ends: what it was called on must not be used again.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_SLICE_SECONDS = 1.0


class HeldError(Exception):
    """A call did not return in time, and is still under way."""


def call_in_time(call: Callable[[], object], seconds_left: Callable[[], float]) -> None:
    """Call and wait for the end of it while `seconds_left`, asked at least once a second, is more than 0.

    Raises what the call raises; HeldError where the time is over first.
    """
    answer: Future[object] = Future()

    def ask() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised again where the answer is waited for
            answer.set_exception(error)

    threading.Thread(target=ask, name="call in time", daemon=True).start()
    while (seconds := seconds_left()) > 0:
        if wait((answer,), min(seconds, _SLICE_SECONDS)).done:
            answer.result()
            return
    raise HeldError("no answer in time")
