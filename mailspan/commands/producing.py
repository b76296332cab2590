"""What all inputs of `mailspan produce` share: how they stop, and how they say something."""

from __future__ import annotations

import sys

from mailspan.terminal import sanitise

END_SECONDS = 7.0
"""How long what is under way may take to arrive, when told to stop; well before stopping.LAST_SECONDS."""
IDLE_SECONDS = 0.2
TOLD_SECONDS = 60.0
"""How often the figures are said."""


def say(message: str) -> None:
    """Say one line on stderr; what senders wrote into it does no harm to a terminal."""
    sys.stderr.write(f"mailspan: {sanitise(message)}\n")
    sys.stderr.flush()
