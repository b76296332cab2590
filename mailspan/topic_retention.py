"""For how long a topic keeps its records, as a metric: asked for now and then, and never waited for. Pure.

What it is asked with is the caller's: something that begins to ask and returns the promise of an answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from mailspan.metrics import Figure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_EVERY_SECONDS, _AGAIN_SECONDS = 600.0, 60.0
_SETTING = "retention.ms"


class Promise(Protocol):
    """The settings of a topic by name, each with its `value`, as soon as a broker has answered."""

    def done(self) -> bool:
        """Whether it has, or will not."""

    def result(self) -> Any:  # noqa: ANN401 - the client's own
        """Return them. Raises whatever says why not."""


class TopicRetention:
    """What the topic that a stage reads has as its retention. `report` is told, once, where that cannot be seen."""

    def __init__(self, topic: str, stage: str, ask: Callable[[], Promise], report: Callable[[str], None]) -> None:
        self._topic = topic
        self._stage = stage
        self._ask = ask
        self._report = report
        self._asked: Promise | None = None
        self._next = 0.0
        self._seconds: float | None = None
        self._is_told = False

    def figures(self, now: float) -> Iterator[Figure]:
        """Yield the figure as it was last seen; `now` is a monotonic time in seconds."""
        if self._asked is None and now >= self._next:
            self._asked = self._ask()
        elif self._asked is not None and self._asked.done():
            self._next = now + (_EVERY_SECONDS if self._take(self._asked) else _AGAIN_SECONDS)
            self._asked = None
        if self._seconds is not None:
            yield Figure("mailspan_topic_retention_seconds", self._seconds, (self._stage,))

    def _take(self, asked: Promise) -> bool:
        try:
            milliseconds = int(asked.result()[_SETTING].value)
        except Exception as error:  # noqa: BLE001 - the client's own: only a figure depends on it
            if not self._is_told:
                self._is_told = True
                self._report(
                    f"{_SETTING} of {self._topic} cannot be seen ({error}), and is not shown as a metric; the right to"
                    " describe its configuration is missing, or no broker answers"
                )
            return False
        self._seconds = float("inf") if milliseconds < 0 else milliseconds / 1000
        return True
