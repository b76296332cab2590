"""What all inputs of `mailspan produce` share: how they stop, and how they say something."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

from mailspan.terminal import sanitise

if TYPE_CHECKING:
    from types import FrameType

END_SECONDS = 7.0
"""How long what is under way may take to arrive, when told to stop."""
IDLE_SECONDS = 0.2
TOLD_SECONDS = 60.0
"""How often the figures are said."""


class Stop:
    """Whether to stop: set by SIGTERM and SIGINT. Signals only set a flag: nothing is interrupted half-way."""

    def __init__(self) -> None:
        self.is_set = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._set)

    def _set(self, _number: int, _frame: FrameType | None) -> None:
        self.is_set = True


def say(message: str) -> None:
    """Say one line on stderr; what senders wrote into it does no harm to a terminal."""
    sys.stderr.write(f"mailspan: {sanitise(message)}\n")
    sys.stderr.flush()
