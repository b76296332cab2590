"""How a long-running command is told to stop, and that it ends in time whatever its clients do.

Until it has begun (imports, settings, the first answer of a server) it has nothing to end in order: either signal ends
the process at once, with one line and exit code 0. From then on the first one sets a flag and the one deadline that all
waits share; further signals change nothing.

Signals interrupt nothing half-way. But some calls of the Kafka client wait longer than they are told to, or have no
limit at all, and Python runs no handler of ours meanwhile. So a thread reads the signals from the descriptor that the
interpreter's C handler writes them to; LAST_SECONDS later it ends the process without goodbye. That loses nothing:
what was not committed, or not acknowledged, is read again at the next start.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from mailspan.terminal import sanitise

if TYPE_CHECKING:
    from types import FrameType

ORDERLY_SECONDS = 6.0
"""After the signal no wait of ours lasts longer; the rest of the time is for clients to let go."""
LAST_SECONDS = 8.5
"""So long after the signal the process ends, whatever holds it."""
EXIT_HELD = 3
EXIT_STOPPED = 0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """Whether to stop, and how much time is left for it. Made before anything that takes time."""

    def __init__(self) -> None:
        self._late: str | None = None
        self.asked_at = time.monotonic()
        """When it was last asked: loops ask each time they turn, and wherever they wait. So this tells who is alive."""
        self._told_at: float | None = None
        self._woken, wakes = socket.socketpair()
        wakes.setblocking(False)
        self._wakes = wakes  # the interpreter knows its number only
        signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)  # first: no signal may reach only one of both
        for number in _SIGNALS:
            signal.signal(number, self._handle)
        threading.Thread(target=self._watch, name="stop", daemon=True).start()

    def begin(self, late: str) -> None:
        """Have a signal only ask to stop from now on. `late` is said where the process has to be ended all the same."""
        self._late = late

    @property
    def is_set(self) -> bool:
        """Whether the process was told to stop."""
        self.asked_at = time.monotonic()
        return self._told_at is not None

    def seconds(self, most: float) -> float:
        """Return how long a wait may last: `most`, or what is left of ORDERLY_SECONDS once told to stop."""
        now = self.asked_at = time.monotonic()
        if self._told_at is None:
            return most
        return max(0.0, min(most, self._told_at + ORDERLY_SECONDS - now))

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        self._set()

    def _set(self) -> float:
        told_at = self._told_at
        if told_at is None:
            told_at = self._told_at = time.monotonic()
        return told_at

    def _watch(self) -> None:
        while not set(_SIGNALS) & set(self._woken.recv(64)):
            pass
        told_at = self._set()
        if self._late is None:
            _end("told to stop before it began", EXIT_STOPPED)
        time.sleep(max(0.0, told_at + LAST_SECONDS - time.monotonic()))
        _end(self._late, EXIT_HELD)


def _end(message: str, code: int) -> NoReturn:
    # Not by sys.stderr: a thread that hangs may hold its lock; and not where nobody reads it, or it is closed.
    with suppress(OSError):
        if select.select([], [2], [], 0)[1]:
            os.write(2, f"mailspan: {sanitise(message)}\n".encode("utf-8", "backslashreplace"))
    os._exit(code)
