"""The index of canaries: a small daily index of its own, beside those of mails and never among them.

Mail comes first: what Elasticsearch does not take of canaries is dropped, counted and told, and never waited for; the
next ones come in seconds. Of each producer, input and partition an index keeps the newest canary, so it does not grow.
`setup` makes template and lifecycle; without the template nothing is written, for the server would make an index of its
own choice.
"""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from mailspan.errors import StoreError
from mailspan.repeats import Repeats
from sink.bulk import Item, Verdict, body_of, newest_of_each, outcomes_of
from sink.daily_indices import DailyIndices, template_in
from sink.elasticsearch import NoAnswerError
from sink.elasticsearch_settings import explain
from sink.index_template import marked, template_fault
from sink.indices import day_of, first_kept_day, index_of, last_taken_day

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import date

    from mailspan.canary import Canary
    from sink.elasticsearch import Server

CANARY_DAYS = 3
"""So many days of canaries are kept, today among them: what they tell is told by their age, at once."""
_SECONDS = 5.0
_SLOW_SECONDS = 1.0
_SHARE = 10
"""After a slow request none is sent until canaries have had no more than one in so many seconds of the sink's time."""
_TAKEN = frozenset({Verdict.INDEXED, Verdict.SUPERSEDED})
_PROPERTIES = {
    "producer": {"type": "keyword"},
    "input": {"type": "keyword"},
    "partition": {"type": "integer"},
    "sent": {"type": "date"},
    "written": {"type": "date"},
}


def canary_prefix(index_prefix: str) -> str:
    """Return what names of these indices begin with, for that of mails, in which there is never a dot.

    So no pattern `PREFIX-*` of mails, of this prefix or another one, matches them.
    """
    return f"canary.{index_prefix}"


def identity_of(canary: Canary, partition: int) -> str:
    """Return the id of a canary's document: at most 512 bytes, for one that `find_canary` has read."""
    return f"{canary.producer}/{canary.input}/{partition}"


def canary_mapping(*, has_wildcard: bool = False) -> dict[str, Any]:  # noqa: ARG001 - no field here needs it
    """Return the mapping of these indices."""
    return marked({"dynamic": False, "properties": _PROPERTIES})


def canary_indices(server: Server, index_prefix: str) -> DailyIndices:
    """Return the indices of canaries of a server; nothing is asked yet."""
    return DailyIndices(server, canary_prefix(index_prefix), canary_mapping)


class CanaryIndex:
    """Writes canaries. `epoch` is the wall clock; `report` is told, not too often, what is not taken."""

    def __init__(
        self,
        server: Server,
        index_prefix: str,
        *,
        epoch: Callable[[], float],
        report: Callable[[str], None],
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self.dropped = 0
        """How many were not taken."""
        self._server = server
        self._prefix = canary_prefix(index_prefix)
        self._indices = canary_indices(server, index_prefix)
        self._epoch = epoch
        self._steady = steady
        self._rests_until = -math.inf
        self._begun: frozenset[str] = frozenset()  # names that the template was looked at for
        self._faults = Repeats("a canary is not indexed", "canaries are not indexed", report)

    def tell(self, now: float) -> None:
        """Say what was not said yet; `now` is a monotonic time in seconds."""
        self._faults.tell(now)

    def write(self, canaries: Sequence[tuple[int, Canary]]) -> list[bool]:
        """Write canaries, each with its partition; return which are in their index now, or a newer one is.

        Blocks for some seconds at most. Raises nothing: mail must not wait for a canary.
        """
        if not canaries:
            return []
        now = datetime.fromtimestamp(self._epoch(), UTC)
        first, last = first_kept_day(now.date(), CANARY_DAYS), last_taken_day(now.date())
        items = [self._item(partition, canary, now) for partition, canary in canaries]
        are_kept = [self._is_kept(item, first, last) for item in items]
        kept = [item for item, is_kept in zip(items, are_kept, strict=True) if is_kept]
        verdicts = self._send(newest_of_each(kept)) if kept else {}
        taken = [is_kept and verdicts.get(item.id) in _TAKEN for item, is_kept in zip(items, are_kept, strict=True)]
        self.dropped += taken.count(False)
        return taken

    def _item(self, partition: int, canary: Canary, now: datetime) -> Item:
        sent = datetime.fromtimestamp(canary.sent_ms // 1000, UTC).replace(microsecond=canary.sent_ms % 1000 * 1000)
        body: dict[str, str | int] = {
            "producer": canary.producer,
            "input": canary.input,
            "partition": partition,
            "sent": _shown(sent),
            "written": _shown(now),
        }
        return Item(
            index_of(self._prefix, _shown(sent)), identity_of(canary, partition), canary.sent_ms, orjson.dumps(body)
        )

    def _is_kept(self, item: Item, first: date, last: date) -> bool:
        day = day_of(self._prefix, item.into)
        if day is not None and first <= day <= last:
            return True
        self._note(f"one was sent on {day}, which is not kept; see the clock of {item.id}, and the lag")
        return False

    def _send(self, items: Sequence[Item]) -> dict[str, Verdict]:
        """Send once, unless a slow answer was just waited for; return the verdicts by id, of none where there are none.

        A hung index of canaries would else take some seconds of each batch of mail.
        """
        begun = self._steady()
        if begun < self._rests_until:
            self._note(f"Elasticsearch at {self._server.shown} is too slow with canaries; trying again soon")
            return {}
        try:
            return self._send_now(items)
        finally:
            seconds = self._steady() - begun
            if seconds >= _SLOW_SECONDS:
                self._rests_until = begun + seconds * _SHARE

    def _send_now(self, items: Sequence[Item]) -> dict[str, Verdict]:
        try:
            fault = self._fault_of_template(frozenset(item.into for item in items))
            if fault is not None:
                self._note(fault)
                return {}
            answer = self._server.request("POST", "/_bulk", body=body_of(items), seconds=_SECONDS)
        except (NoAnswerError, StoreError) as error:
            self._begun = frozenset()  # what answers next may be another server, an empty one
            self._note(str(error))
            return {}
        if not answer.is_good:
            self._note(explain(answer.status, answer.reason, self._server.shown, "to write canaries"))
            return {}
        outcomes = outcomes_of(items, answer.body)
        for outcome in outcomes:
            if outcome.verdict not in _TAKEN:
                self._note(f"Elasticsearch at {self._server.shown}: {outcome.reason}")
        return {item.id: outcome.verdict for item, outcome in zip(items, outcomes, strict=True)}

    def _fault_of_template(self, names: frozenset[str]) -> str | None:
        """Return why no index may be made now; None where it may, or these were begun before.

        Raises NoAnswerError and StoreError.
        """
        if names <= self._begun:
            return None
        answer = self._server.request("GET", self._indices.template_path, seconds=_SECONDS)
        found = None
        if answer.status != 404:  # noqa: PLR2004 - HTTP's own
            doing = "to see the index template of canaries"
            body = self._server.good(answer, doing, needs="index_templates")
            found = template_in(body) if body["index_templates"] else None
        fault = template_fault(found)
        if fault is None:
            self._begun = names
            return None
        return f"canaries: {fault}"

    def _note(self, reason: str) -> None:
        self._faults.note(reason, time.monotonic())


def _shown(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
