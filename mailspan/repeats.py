"""What is said of something that may happen to every record: the first at once, then once a minute how many. Pure.

Who runs this calls `tell` from time to time, so that the last ones are said too when no other comes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

EVERY_SECONDS = 60.0
_MOST_REASON = 300


class Repeats:
    """Counts, and reports in lines: `one` for the first, `more` for several, each with the reason of the last."""

    def __init__(self, one: str, more: str, report: Callable[[str], None]) -> None:
        self._one = one
        self._more = more
        self._report = report
        self._count = 0
        self._reason = ""
        self._told_at: float | None = None

    def note(self, reason: str, now: float) -> None:
        """Count one; `now` is a monotonic time in seconds."""
        self._count += 1
        self._reason = reason[:_MOST_REASON]
        self.tell(now)

    def tell(self, now: float, *, at_once: bool = False) -> None:
        """Report what was counted, if anything was and the last line is a minute ago, or `at_once`."""
        is_time = at_once or self._told_at is None or now - self._told_at >= EVERY_SECONDS
        if not self._count or not is_time:
            return
        said = self._one if self._count == 1 else f"{self._count} {self._more}"
        self._report(f"{said} ({self._reason})")
        self._count, self._told_at = 0, now
