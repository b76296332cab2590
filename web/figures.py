"""What the page counts for its metrics (mailspan/metrics.py): answers by page and status, and how long they took."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING

from mailspan.metrics import Figure, Histogram

if TYPE_CHECKING:
    from collections.abc import Iterator

STAGE = "web"
PAGES = ("search", "transaction", "trace", "explain", "other")


class WebFigures:
    """The counts of one process; any thread may note and show."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: Counter[tuple[str, int]] = Counter({(page, 200): 0 for page in PAGES})
        self._seconds = Histogram("mailspan_web_answer_seconds")

    def note(self, page: str, status: int, seconds: float) -> None:
        """Count one answer: its page is one of PAGES."""
        with self._lock:
            self._answers[page, status] += 1
            self._seconds.observe(seconds)

    def show(self) -> Iterator[Figure]:
        """Yield all figures."""
        with self._lock:
            answers, seconds = dict(self._answers), self._seconds.distribution
        for (page, status), number in answers.items():
            yield Figure("mailspan_web_answers_total", number, (page, str(status)))
        yield Figure("mailspan_web_answer_seconds", seconds)
