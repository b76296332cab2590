"""What all inputs of `mailspan produce` share: how they stop, and how they say something."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mailspan.terminal import sanitise

if TYPE_CHECKING:
    from mailspan.commands.serving import Served
    from mailspan.commands.stopping import Stop
    from producers.kafka import KafkaTopic
    from producers.tail import Clock

END_SECONDS = 7.0
"""How long what is under way may take to arrive, when told to stop; well before stopping.LAST_SECONDS."""
IDLE_SECONDS = 0.2
TOLD_SECONDS = 60.0
"""How often the figures are said."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an input runs with: the topic, the clocks, when to stop, and where its figures are shown."""

    topic: KafkaTopic
    clock: Clock
    stop: Stop
    served: Served


def say(message: str) -> None:
    """Say one line on stderr; what senders wrote into it does no harm to a terminal."""
    sys.stderr.write(f"mailspan: {sanitise(message)}\n")
    sys.stderr.flush()
