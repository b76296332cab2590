"""The sink's loop: documents of mail.transactions into Elasticsearch, and nothing is passed over.

A batch is gathered, planned (sink/records.py), written, and only then are the group's offsets moved: behind what is
settled, and never further. Where Elasticsearch takes nothing now, it is tried again for as long as it takes, with the
partitions paused. What no one will ever take goes to the dead letters with its reason. What only somebody else can mend
ends the loop with an error, and the offsets stay. So a record may be written twice, never not at all; versions make the
second time harmless.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from mailspan.canary import CanaryFigures
from mailspan.metrics import Figure
from mailspan.repeats import Repeats
from sink.bulk import Verdict
from sink.figures import STAGE, Ages
from sink.records import plan, settled_offsets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import date

    from mailspan.canary import Canary
    from sink.canary_index import CanaryIndex
    from sink.elasticsearch_writer import ElasticsearchWriter
    from sink.kafka import SinkKafka, Stop
    from sink.records import Record, Step

MOST_RECORDS = 2000
MOST_BYTES = 5 << 20
GATHER_SECONDS = 0.5

_SETTLED = {
    Verdict.INDEXED: "indexed",
    Verdict.SUPERSEDED: "superseded",
    Verdict.EXPIRED: "expired",
    Verdict.REFUSED: "dead_letters",
}
"""What each verdict counts as. Any other one: not settled."""
COUNTED = ("records", *_SETTLED.values(), "withdrawn")
"""The figures, in the order in which they are told."""
_CANARY = "canaries"
"""What a canary counts as: it is none of the records."""


class Waiting:
    """What is done while Elasticsearch takes nothing: the membership is kept up, and it is said, not too often."""

    def __init__(self, kafka: SinkKafka, report: Callable[[str], None]) -> None:
        self._kafka = kafka
        self._report = report
        self._told = ""
        self.is_waiting = False
        """Whether something was not taken, and was not settled since."""
        self._refusals = Repeats("waiting for Elasticsearch", "attempts more; waiting for Elasticsearch", self._tell)

    def wait(self, seconds: float, reason: str) -> None:
        """Wait before the next attempt; see ElasticsearchWriter."""
        self.is_waiting = True
        self._refusals.note(reason, time.monotonic())
        self._kafka.idle(seconds)

    def over(self) -> None:
        """Say that documents are taken again, where it was said that they are not."""
        self.is_waiting = False
        if self._told:
            self._told = ""
            self._report("Elasticsearch takes documents again")

    def _tell(self, message: str) -> None:
        self._told = message
        self._report(message)


class Loop:
    """Runs until told to stop. `days` is asked for the oldest and the newest that are written; `report` gets lines.

    `epoch`, the wall clock, dates nothing but figures.
    """

    def __init__(
        self,
        kafka: SinkKafka,
        writer: ElasticsearchWriter,
        canaries: CanaryIndex,
        waiting: Waiting,
        stop: Stop,
        *,
        days: Callable[[], tuple[date, date]],
        report: Callable[[str], None],
        epoch: Callable[[], float],
    ) -> None:
        self._kafka = kafka
        self._writer = writer
        self._canaries = canaries
        self._canary_figures = CanaryFigures(STAGE, epoch)
        self._waiting = waiting
        self._stop = stop
        self._days = days
        self._report = report
        self._ages = Ages(epoch)
        self.counts: Counter[str] = Counter()
        """What became of all records whose offsets were passed: `records` is the sum of the others."""
        self.turned: Callable[[], None] = lambda: None
        """Called at each turn and each request; in there, `figures` may be asked."""
        self._dead = Repeats(
            "a document cannot be indexed, it goes to the dead letters",
            "documents cannot be indexed, they go to the dead letters",
            report,
        )

    def run(self) -> None:
        """Run; in the end the group is left. Raises SinkError and StoreError."""
        try:
            self._kafka.start()
            while not self._stop.is_set:
                self.step()
            self._dead.tell(time.monotonic(), at_once=True)
            self._report("stopped; " + " ".join(f"{name}={self.counts[name]}" for name in COUNTED))
        finally:
            self._kafka.close()

    def figures(self) -> Iterator[Figure]:
        """Yield what its metrics show now: of records, what is settled and passed."""
        records, *results = COUNTED
        yield Figure("mailspan_sink_records_total", self.counts[records])
        for result in results:
            yield Figure("mailspan_sink_results_total", self.counts[result], (result,))
        yield Figure("mailspan_dead_letters_total", self.counts["dead_letters"], (STAGE, "record refused"))
        yield Figure("mailspan_sink_waiting", self._waiting.is_waiting)
        yield from self._writer.figures()
        yield from self._kafka.figures()
        yield from self._ages.show(self._kafka.lags())
        self._canary_figures.keep(self._kafka.owned)
        yield from self._canary_figures.show()
        yield Figure("mailspan_sink_canaries_dropped_total", self._canaries.dropped)

    def step(self) -> None:
        """Gather and settle one batch."""
        self.turned()
        records = self._kafka.gather(MOST_RECORDS, MOST_BYTES, GATHER_SECONDS)
        self._dead.tell(time.monotonic())
        self._canaries.tell(time.monotonic())
        if not records:
            self._kafka.commit({})  # what could not be committed before
            return
        self._writer.first_kept, self._writer.last_taken = self._days()
        became = self._settle(records)
        if all(name is not None for name in became):
            self._waiting.over()
        self._kafka.commit(settled_offsets(records, [name is not None for name in became]))
        self._ages.settle(record for record, name in zip(records, became, strict=True) if name is not None)
        found = Counter(name for name in became if name not in {None, _CANARY})
        self.counts += Counter({**found, "records": found.total()})

    def _settle(self, records: Sequence[Record]) -> list[str | None]:
        """Return what each record counts as; None: it is not settled, since the loop is to stop."""
        steps, faults, canaries = plan(records)
        became: list[str | None] = [None] * len(records)
        letters = dict(faults)
        for step in steps:
            if not self._write(step, became, letters):
                break
        for reason in letters.values():
            self._dead.note(reason, time.monotonic())
        if letters and not self._kafka.bury([(records[place], reason) for place, reason in letters.items()]):
            return became
        for place in letters:
            became[place] = "dead_letters"
        if all(name is not None for place, name in enumerate(became) if place not in canaries):
            self._pass(canaries, records, became)
        return became

    def _pass(self, canaries: dict[int, Canary], records: Sequence[Record], became: list[str | None]) -> None:
        """Write the canaries, once, behind the documents that came with them; whatever comes of it, they are past."""
        found = [(records[place].partition, canary) for place, canary in canaries.items()]
        for (partition, canary), is_settled in zip(found, self._canaries.write(found), strict=True):
            if is_settled:
                self._canary_figures.settle(partition, canary.sent_ms)
                self._ages.reach(partition, canary.sent_ms)
        for place in canaries:
            became[place] = _CANARY

    def _write(self, step: Step, became: list[str | None], letters: dict[int, str]) -> bool:
        """Write one step; return whether all of it is settled."""
        if step.documents:
            outcomes = self._writer.settle(step.documents, step.encoded, stop=self._is_to_stop)
            for place, outcome in zip(step.places, outcomes, strict=True):
                if outcome.verdict is Verdict.REFUSED:
                    letters[place] = outcome.reason
                else:
                    became[place] = _SETTLED.get(outcome.verdict)
            if any(outcome.verdict not in _SETTLED for outcome in outcomes):
                return False
        if step.withdrawn:
            if not self._writer.withdraw(list(step.withdrawn), stop=self._is_to_stop):
                return False
            for places in step.withdrawn.values():
                for place in places:
                    became[place] = "withdrawn"
        return True

    def _is_to_stop(self) -> bool:
        """Be asked before each request: a batch may take long, and must cost neither the membership nor the figures."""
        self._kafka.stay()
        self.turned()
        return self._stop.is_set
