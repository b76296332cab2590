"""What the sink counts for its metrics (mailspan/metrics.py): bulk requests, and how old records are. Pure.

The clock is the caller's. A request counts when it is over, however it ended: so these figures show what Elasticsearch
was asked, and not what was settled (that is counted in sink/loop.py, when offsets are passed).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from mailspan.metrics import Figure, Histogram
from mailspan.wire import find_read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from sink.records import Record

STAGE = "sink"
"""What metrics and dead letters say of where they come from."""
NO_ANSWER = "none"
STATUSES = ("2xx", "401", "403", "413", "429", "4xx", "5xx", NO_ANSWER)
"""All classes of answers."""


def class_of(status: int | None) -> str:
    """Return the class of an answer's status: one of STATUSES; None is no answer, and so is what is no HTTP error."""
    if status is None:
        return NO_ANSWER
    exact, hundreds = str(status), f"{status // 100}xx"
    return next((each for each in (exact, hundreds) if each in STATUSES), NO_ANSWER)


class BulkFigures:
    """The counts of one writer's bulk requests."""

    def __init__(self) -> None:
        self.retries = 0
        """Items that had to be sent again."""
        self._seconds = Histogram("mailspan_sink_bulk_seconds")
        self._bytes = 0
        self._requests: Counter[str] = Counter(dict.fromkeys(STATUSES, 0))

    def note(self, status: int | None, size_bytes: int, seconds: float) -> None:
        """Count a request of so many bytes that took so long; None is the status where nobody answered."""
        self._requests[class_of(status)] += 1
        self._bytes += size_bytes
        self._seconds.observe(seconds)

    def show(self) -> Iterator[Figure]:
        """Yield all figures; each class of answers is there from the start, so that its first one is seen to come."""
        yield Figure("mailspan_sink_bulk_seconds", self._seconds.distribution)
        for status, count in self._requests.items():
            yield Figure("mailspan_sink_bulk_requests_total", count, (status,))
        yield Figure("mailspan_sink_bulk_bytes_total", self._bytes)
        yield Figure("mailspan_sink_retries_total", self.retries)


class Ages:
    """How old records were when they were settled, and how old the last settled one of each partition is.

    By the second at which their lines were read at their source, which the reducer passes on (mailspan/wire.py); what
    has none is not counted. `epoch` is the wall clock, in seconds.
    """

    def __init__(self, epoch: Callable[[], float]) -> None:
        self._epoch = epoch
        self._ages = Histogram("mailspan_record_age_seconds")
        self._since: dict[int, float] = {}

    def settle(self, records: Iterable[Record]) -> None:
        """Count records that are settled."""
        now = self._epoch()
        for record in records:
            if second := find_read(record.headers):
                self._ages.observe(now - second)
                self._since[record.partition] = max(self._since.get(record.partition, 0.0), float(second))

    def reach(self, partition: int, sent_ms: int) -> None:
        """Take note of a settled canary: it is no record whose age counts, but where the partition has got to."""
        self._since[partition] = max(self._since.get(partition, 0.0), min(self._epoch(), sent_ms / 1000))

    def show(self, lags: Mapping[int, int]) -> Iterator[Figure]:
        """Yield all figures. `lags` are the records that are not settled, by partition, where that is known."""
        yield Figure("mailspan_record_age_seconds", self._ages.distribution, (STAGE,))
        self._since = {partition: since for partition, since in self._since.items() if partition in lags}
        for partition, lag in lags.items():
            labels = (STAGE, str(partition))
            yield Figure("mailspan_lag_records", lag, labels)
            if lag == 0:
                self._since[partition] = self._epoch()
                yield Figure("mailspan_lag_seconds", None, labels)
            elif partition in self._since:
                yield Figure("mailspan_lag_seconds", self._since[partition], labels)
