"""What a reducer counts for its metrics (mailspan/metrics.py): what is settled, and what happened on the way. Pure.

Lines are counted when their commit has succeeded, so lines = applied + ignored + unparsed at any moment, and a commit
that was rolled back counts nothing: its lines are read again. Where nobody knew of a commit whether it happened, and
it did, its lines are never counted.

The wall clock that is handed in dates nothing but figures.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from mailspan.canary import CanaryFigures
from mailspan.grammar import name_program
from mailspan.metrics import Figure, Histogram
from reducer.partition import Counts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from reducer.assembler import Sizes
    from reducer.partition import Output, Partition

STAGE = "reduce"
"""What metrics and dead letters say of where they come from."""
NOT_APPLIED, TOO_LARGE = "record cannot be applied", "document too large"
"""The reasons of dead letters."""
_BY_STAGE = (STAGE,)


class _Place(NamedTuple):
    """How far a partition is settled: the offset of the next record, and since when it may be behind (0: not known)."""

    offset: int
    since: float


class Figures:
    """The counts of one reducer. `epoch` is the wall clock, in seconds."""

    def __init__(self, epoch: Callable[[], float]) -> None:
        self.rebalances = 0
        self.rollbacks = 0
        self.lost_records = 0
        self.restores = Histogram("mailspan_restore_seconds")
        self._epoch = epoch
        self._commits = Histogram("mailspan_commit_seconds")
        self._ages = Histogram("mailspan_record_age_seconds")
        self._settled = Counts()
        self._dead: Counter[str] = Counter({NOT_APPLIED: 0, TOO_LARGE: 0})
        self._documents = self._withdrawn = self._state_bytes = 0
        self._places: dict[int, _Place] = {}
        self._canaries = CanaryFigures(STAGE, epoch)

    def begin(self, number: int, offset: int, end: int) -> None:
        """Take note that a partition runs, from an offset on, and where it ends now."""
        self._places[number] = _Place(offset, self._epoch() if offset >= end else 0.0)

    def settle(self, partitions: Mapping[int, Partition], outputs: Mapping[int, Output]) -> None:
        """Count what a commit has settled."""
        now = self._epoch()
        for number, output in outputs.items():
            counts = partitions[number].take_counts()
            self._add(counts)
            for second, count in counts.read.items():
                self._ages.observe(now - second, count)
            for canary in counts.canaries:
                self._canaries.settle(number, canary.sent_ms)
            before = self._places.get(number, _Place(0, 0.0))
            sent = [min(now, canary.sent_ms / 1000) for canary in counts.canaries]
            self._places[number] = _Place(output.offset, max(before.since, float(counts.last_read), *sent))
            self._documents += len(output.documents)
            self._withdrawn += len(output.withdrawn)
            self._state_bytes += sum(map(len, filter(None, output.state.values())))

    def _add(self, counts: Counts) -> None:
        settled = self._settled
        settled.lines += counts.lines
        settled.bytes += counts.bytes
        settled.applied += counts.applied
        settled.misplaced += counts.misplaced
        settled.ignored.update(counts.ignored)
        for (program, reason), count in counts.unparsed.items():
            settled.unparsed[name_program(program), reason] += count

    def commit(self, seconds: float, dead: Iterable[str]) -> None:
        """Count a commit that took so long, and the dead letters in it by their reasons."""
        self._commits.observe(seconds)
        self._dead.update(dead)

    def show(
        self,
        running: Mapping[int, Partition],
        restoring: int,
        pending: int,
        end_of: Callable[[int], int | None],
    ) -> Iterator[Figure]:
        """Yield all figures. `end_of` gives the end of a partition, None where it is not known."""
        yield from self._show_settled()
        yield from self._show_lags(running, end_of)
        yield Figure("mailspan_reducer_silent_hosts", self._silent_hosts(running))
        self._canaries.keep(running)
        yield from self._canaries.show()
        yield from _show_sizes([partition.sizes for partition in running.values()])
        yield Figure("mailspan_reducer_pending_records", pending)
        yield Figure("mailspan_partitions", len(running), (STAGE, "running"))
        yield Figure("mailspan_partitions", restoring, (STAGE, "restoring"))
        yield Figure("mailspan_rebalances_total", self.rebalances, _BY_STAGE)
        yield Figure("mailspan_rollbacks_total", self.rollbacks, _BY_STAGE)
        yield Figure("mailspan_lost_records_total", self.lost_records, _BY_STAGE)
        yield Figure("mailspan_restore_seconds", self.restores.distribution, _BY_STAGE)
        yield Figure("mailspan_commit_seconds", self._commits.distribution, _BY_STAGE)
        yield Figure("mailspan_record_age_seconds", self._ages.distribution, _BY_STAGE)
        for reason, count in self._dead.items():
            yield Figure("mailspan_dead_letters_total", count, (STAGE, reason))

    def _silent_hosts(self, running: Mapping[int, Partition]) -> int:
        """Count silent hosts, in each partition as of where it has got to: one that lags must not make hosts silent."""
        return sum(
            partition.silent_hosts(self._places[number].since)
            for number, partition in running.items()
            if number in self._places
        )

    def _show_settled(self) -> Iterator[Figure]:
        settled = self._settled
        yield Figure("mailspan_reducer_lines_total", settled.lines)
        yield Figure("mailspan_reducer_bytes_total", settled.bytes)
        yield Figure("mailspan_reducer_lines_applied_total", settled.applied)
        yield Figure("mailspan_reducer_misplaced_records_total", settled.misplaced)
        for reason, count in settled.ignored.items():
            yield Figure("mailspan_reducer_lines_ignored_total", count, (reason,))
        for labels, count in settled.unparsed.items():
            yield Figure("mailspan_reducer_lines_unparsed_total", count, labels)
        yield Figure("mailspan_reducer_documents_total", self._documents)
        yield Figure("mailspan_reducer_withdrawn_total", self._withdrawn)
        yield Figure("mailspan_reducer_state_written_bytes_total", self._state_bytes)

    def _show_lags(self, running: Iterable[int], end_of: Callable[[int], int | None]) -> Iterator[Figure]:
        self._places = {number: self._places[number] for number in running}
        now = self._epoch()
        for number, place in self._places.items():
            end = end_of(number)
            if end is None:
                continue
            labels = (STAGE, str(number))
            yield Figure("mailspan_lag_records", max(0, end - place.offset), labels)
            if place.offset >= end:
                self._places[number] = _Place(place.offset, now)
                yield Figure("mailspan_lag_seconds", None, labels)
            elif place.since:
                yield Figure("mailspan_lag_seconds", place.since, labels)


def _show_sizes(sizes: Iterable[Sizes]) -> Iterator[Figure]:
    hosts, kept, unpacked, packed_bytes = (sum(column) for column in zip((0, 0, 0, 0), *sizes, strict=True))
    yield Figure("mailspan_reducer_hosts", hosts)
    yield Figure("mailspan_reducer_open_transactions", kept)
    yield Figure("mailspan_reducer_unpacked_transactions", unpacked)
    yield Figure("mailspan_reducer_state_bytes", packed_bytes)
