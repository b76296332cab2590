"""`index --follow`: go on with the files as they grow, until SIGTERM or SIGINT ends it.

Looks twice a second and commits what was read each time, so what was logged is found about a second later. Either
signal ends the command in an orderly way: what was read is committed, and the exit code is 0.
"""

from __future__ import annotations

import select
import signal
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from mailspan.inputs import Taken
    from mailspan.inputs.following import Following

_LOOK_SECONDS = 0.5
_LAST_SECONDS = 2.0  # for what was written before the signal


class Stop:
    """Set by SIGTERM and SIGINT, from its creation on.

    The handler takes no lock: it runs in the midst of whatever the main thread does, and that may hold the same one
    (threading.Event has one). A wait ends by the byte that the interpreter's own handler writes.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._woken, self._wakes = socket.socketpair()
        self._wakes.setblocking(False)
        signal.set_wakeup_fd(self._wakes.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._set)

    def __bool__(self) -> bool:
        """Whether a signal came."""
        return self._is_set

    def wait(self, seconds: float) -> None:
        """Return after so many seconds, or when a signal comes or came."""
        select.select([self._woken], [], [], seconds)

    def _set(self, _signal: int, _frame: FrameType | None) -> None:
        self._is_set = True


def follow(following: Following, stop: Stop, apply: Callable[[Taken], bool], commit: Callable[[], None]) -> None:
    """Give all that is new to `apply`, and `commit` when it says so and before each rest. Raises StoreError."""
    ends_at: float | None = None
    while True:
        is_last = bool(stop)
        has_new = False
        for batch in following.batches():
            has_new = True
            if apply(batch):
                commit()
            if stop:
                ends_at = ends_at or time.monotonic() + _LAST_SECONDS
                if time.monotonic() >= ends_at:
                    break
        if has_new or is_last:
            commit()
        if is_last:
            return
        stop.wait(_LOOK_SECONDS)
