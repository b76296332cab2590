"""What all inputs of `mailspan produce` share: how they stop, and how they say something."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from mailspan.terminal import sanitise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mailspan.commands.serving import Served
    from mailspan.commands.stopping import Stop
    from mailspan.metrics import Figure
    from producers.canaries import Canaries
    from producers.kafka import KafkaTopic
    from producers.tail import Clock

END_SECONDS = 7.0
"""How long what is under way may take to arrive, when told to stop; well before stopping.LAST_SECONDS."""
IDLE_SECONDS = 0.2
TOLD_SECONDS = 60.0
"""How often the figures are said."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an input runs with: topic, clocks, when to stop, where its figures are shown, and the canaries beside it."""

    topic: KafkaTopic
    clock: Clock
    stop: Stop
    served: Served
    canaries: Canaries

    def turn(self) -> None:
        """Do what is due beside the input; to be called at each turn of its loop."""
        self.served.turn()
        self.canaries.turn()

    def show(self, figures: Callable[[], Iterable[Figure]]) -> None:
        """Have these figures shown, and those of the canaries."""
        self.served.figures = lambda: chain(figures(), self.canaries.figures())


def say(message: str) -> None:
    """Say one line on stderr; what senders wrote into it does no harm to a terminal."""
    sys.stderr.write(f"mailspan: {sanitise(message)}\n")
    sys.stderr.flush()
