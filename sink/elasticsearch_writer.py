"""Write documents into the daily indices of Elasticsearch.

Items that were not settled are sent again, and only those, until they are or `patience_seconds` are over. What only
somebody else can mend (credentials, a missing template, a closed index) ends the writing with an error. Documents of
days that are not kept are left out: they must not bring a deleted index back. Those of days far ahead are refused: each
day is an index, and a cluster may have so many shards and no more.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from contextlib import suppress
from datetime import date
from typing import TYPE_CHECKING, Any

import orjson

from mailspan.errors import StoreError
from mailspan.metrics import Figure
from sink.bulk import (
    ANSWERED,
    BATCH_ITEMS,
    LEAST_ITEMS,
    Item,
    Outcome,
    Verdict,
    batches,
    body_of,
    newest_of_each,
    outcomes_of,
    pause_seconds,
    verdict_of,
)
from sink.daily_indices import DailyIndices, template_in, template_path
from sink.elasticsearch import NoAnswerError
from sink.elasticsearch_settings import explain
from sink.figures import BulkFigures
from sink.fragments import family_of, is_fragment, superfluous
from sink.index_template import is_current, template_fault
from sink.indexed import HIDDEN, indexed
from sink.indices import day_of, index_of
from sink.records import EMPTY
from sink.store import WriteResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sink.elasticsearch import Server
    from sink.store import Document

_BULK_SECONDS = 60.0
_FAMILIES_AT_ONCE = 500
_IDS_AT_ONCE = 200
_MORE_ITEMS = 64
"""At most so many more in the next request when all of one were settled; what was not halves it."""
_MOST_BEGUN = 1000
_HITS_AT_ONCE = 1000
_SCROLL = "1m"
_NO_OPTIONS: Mapping[str, str] = {}
_STORM = 20
"""So many documents of one request, all of them refused: then their mapping is looked at."""
_EXPIRED = Outcome(Verdict.EXPIRED)
_SUPERSEDED = Outcome(Verdict.SUPERSEDED)
_UNSETTLED = Outcome(Verdict.RETRY, "stopped before it was settled")
_COUNTED = (Verdict.INDEXED, Verdict.SUPERSEDED, Verdict.EXPIRED, Verdict.REFUSED)
"""In the order of WriteResult."""


class ElasticsearchWriter:
    """The writing side of Elasticsearch; see DocumentWriter.

    `patience_seconds` bounds how long it tries without any progress; infinity is for ever. `wait` is called with the
    seconds of a pause and its reason, and may do something else meanwhile.
    """

    def __init__(
        self,
        server: Server,
        prefix: str,
        first_kept: date,
        *,
        last_taken: date = date.max,
        patience_seconds: float,
        wait: Callable[[float, str], None] = lambda seconds, _reason: time.sleep(seconds),
    ) -> None:
        """Look whether the template is there and is taken. Raises StoreError and NoAnswerError."""
        self._server = server
        self._prefix = prefix
        self.first_kept = first_kept
        """The oldest day that is kept: who runs for days moves it on."""
        self.last_taken = last_taken
        """The newest day that is written (`last_taken_day`): likewise."""
        self._patience_seconds = patience_seconds
        self._wait = wait
        self._most_items = BATCH_ITEMS
        self._figures = BulkFigures()
        self.refused: list[tuple[str, str]] = []
        """Id and reason of the documents given to `write` that were refused."""
        self._begun: set[str] = set()
        """The indices that were written to after a look at the template: the first document makes an index.

        None once the server did not answer: an empty one may have come in its place.
        """
        indices = DailyIndices(server, prefix)
        self._must_be_good(indices.stored_template())
        if (fault := indices.overruled()) is not None:
            raise StoreError(f"Elasticsearch at {server.shown}: {fault}")

    def _must_be_good(self, found: dict[str, Any] | None) -> None:
        """Raise StoreError where nothing may be written with this template."""
        if (fault := template_fault(found)) is not None:
            raise StoreError(f"Elasticsearch at {self._server.shown}: {fault}")

    def figures(self) -> Iterator[Figure]:
        """Yield what its metrics show of its bulk requests now."""
        yield from self._figures.show()
        yield Figure("mailspan_sink_bulk_items", self._most_items)

    def write(self, documents: Sequence[Document], encoded: Sequence[bytes] | None = None) -> WriteResult:
        """Keep `documents`; see DocumentWriter. Raises StoreError; then some of them may be kept.

        Blocks for as long as `patience_seconds` without any progress.
        """
        outcomes = self.settle(documents, encoded)
        for document, outcome in zip(documents, outcomes, strict=True):
            if outcome.verdict is Verdict.REFUSED:
                self.refused.append((document["id"], outcome.reason))
        counts = Counter(outcome.verdict for outcome in outcomes)
        return WriteResult(*(counts[each] for each in _COUNTED))

    def settle(
        self,
        documents: Sequence[Document],
        encoded: Sequence[bytes] | None = None,
        *,
        stop: Callable[[], bool] = lambda: False,
    ) -> list[Outcome]:
        """Keep `documents` and return what became of each, in their order. Raises StoreError as `write` does.

        RETRY is the outcome of what was not settled when `stop`, asked before each request, said so; all others are
        INDEXED, SUPERSEDED, EXPIRED or REFUSED.
        """
        payloads = [orjson.dumps(document) for document in documents] if encoded is None else encoded
        oldest, newest_day = self.first_kept.isoformat(), self.last_taken.isoformat()
        items = [
            Item(index_of(self._prefix, each["date"]), each["id"], each["version"], indexed(each, payload))
            if oldest <= each["date"][: len(newest_day)] <= newest_day
            else None
            for each, payload in zip(documents, payloads, strict=True)
        ]
        newest = {item.id: item for item in newest_of_each([item for item in items if item is not None])}
        given = {
            item.id: document
            for item, document in zip(items, documents, strict=True)
            if item is not None and newest[item.id] is item
        }
        settled = self._settle(newest, given, _Tries(self._patience_seconds, self._wait, stop))
        return [
            self._not_sent(document) if item is None else _outcome_of(item, newest, settled)
            for item, document in zip(items, documents, strict=True)
        ]

    def _not_sent(self, document: Document) -> Outcome:
        """Return what becomes of a document that is of none of the days from `first_kept` to `last_taken`."""
        if document["date"] < self.first_kept.isoformat():
            return _EXPIRED
        reason = f"its date, {document['date']}, is after {self.last_taken}, the last day that is written now"
        return Outcome(Verdict.REFUSED, f"{reason}; see the clock of {document['host']}")

    def _settle(self, newest: dict[str, Item], given: dict[str, Document], tries: _Tries) -> dict[str, Outcome]:
        """Send, then delete the fragments that are superfluous now; return the outcomes of what is settled by id.

        Nothing is deleted or left out for a document that was refused.
        """
        settled: dict[str, Outcome] = {}
        superfluous: dict[str, Item] = {}
        deleted: dict[str, Outcome] = {}
        try:
            left_out, superfluous = self._superfluous(given, tries)
            self._send([item for id_, item in newest.items() if id_ not in left_out], tries, settled)
            refused = {family_of(id_) for id_, outcome in settled.items() if outcome.verdict is Verdict.REFUSED}
            self._send([newest[id_] for id_ in given if id_ in left_out and family_of(id_) in refused], tries, settled)
            superfluous = {id_: item for id_, item in superfluous.items() if family_of(id_) not in refused}
            self._send(list(superfluous.values()), tries, deleted)
        except _StoppedError:
            # What has a fragment yet to delete comes again: then that is deleted, too.
            waiting = {family_of(id_) for id_ in superfluous.keys() - deleted.keys()}
            return {id_: outcome for id_, outcome in settled.items() if family_of(id_) not in waiting}
        return {**dict.fromkeys(left_out, _SUPERSEDED), **settled}

    def withdraw(self, ids: Sequence[str], *, stop: Callable[[], bool] = lambda: False) -> bool:
        """Delete the documents of these ids, and their pages; return whether that was done before `stop`.

        An id says nothing of its day: they are looked for on all days, after a refresh, and then deleted from exactly
        the indices they are in and in no newer version than was found. Within a minute (`index.gc_deletes`) the server
        takes no document of the same id and version again. Raises StoreError.
        """
        tries = _Tries(self._patience_seconds, self._wait, stop)
        try:
            if ids:
                self._search(tries, "to refresh the indices", f"/{self._prefix}-*.*.*/_refresh")
            for start in range(0, len(ids), _IDS_AT_ONCE):
                self._send(self._items_of(ids[start : start + _IDS_AT_ONCE], tries), tries, {})
        except _StoppedError:
            return False
        return True

    def superfluous(self, documents: Sequence[Document]) -> set[str]:
        """Return the ids of those fragments that `write` would leave out. Raises StoreError."""
        tries = _Tries(self._patience_seconds, self._wait, lambda: False)
        return self._superfluous({each["id"]: each for each in documents}, tries)[0]

    def _items_of(self, ids: Sequence[str], tries: _Tries) -> list[Item]:
        """Return the deletion of each document of these ids, and of their pages."""
        pages = [{"prefix": {"id": f"{id_}#"}} for id_ in ids]
        query = {"bool": {"should": [{"terms": {"id": list(ids)}}, *pages], "minimum_should_match": 1}}
        body = {"query": query, "version": True, "_source": False}
        return [
            Item(hit["_index"], hit["_id"], hit["_version"], None)
            for hit in self._hits(tries, "to look for withdrawn documents", body, is_whole=True)
        ]

    def _send(self, items: Sequence[Item], tries: _Tries, settled: dict[str, Outcome]) -> None:
        """Send until each item is settled, and put its outcome into `settled`. Raises StoreError, _StoppedError."""
        pending = list(items)
        while pending:
            tries.begin()
            batch = next(batches(pending, self._most_items))
            self._begin({item.into for item in batch if item.body is not None}, tries)
            outcomes, is_whole_too_large = self._once(batch)
            self._mind(batch, outcomes, tries)
            left: list[Item] = []
            reason = ""
            for item, outcome in zip(batch, outcomes, strict=True):
                if is_whole_too_large or outcome.verdict is Verdict.RETRY:
                    left.append(item)
                    reason = reason or self._explained(item, outcome)
                else:
                    is_refused = outcome.verdict is Verdict.TOO_LARGE
                    settled[item.id] = Outcome(Verdict.REFUSED, outcome.reason) if is_refused else outcome
            self._figures.retries += len(left)
            pending = [*left, *pending[len(batch) :]]
            if len(left) < len(batch):
                tries.progressed()
            if is_whole_too_large:
                self._most_items = max(1, len(batch) // 2)
            elif left:
                self._most_items = max(min(LEAST_ITEMS, self._most_items), self._most_items // 2)
                tries.pause(reason)
            elif all(outcome.verdict is not Verdict.TOO_LARGE for outcome in outcomes):
                self._most_items = min(BATCH_ITEMS, self._most_items + min(self._most_items, _MORE_ITEMS))

    def _begin(self, names: set[str], tries: _Tries) -> None:
        """Look at the template again before an index is made by it. Raises StoreError, _StoppedError."""
        if names <= self._begun:
            return
        found = self._ask(tries, "to see the index template", template_path(self._prefix), method="GET", may_miss=True)
        self._must_be_good(None if found is None else template_in(found))
        self._begun = names if len(self._begun) > _MOST_BEGUN else self._begun | names

    def _mind(self, items: Sequence[Item], outcomes: Sequence[Outcome], tries: _Tries) -> None:
        """Raise StoreError where somebody must mend something first, _StoppedError."""
        for item, outcome in zip(items, outcomes, strict=True):
            if outcome.verdict is Verdict.HALT:
                raise StoreError(
                    f"Elasticsearch at {self._server.shown} takes no documents: {outcome.reason} (index {item.into})"
                )
            if item.body is None and outcome.verdict is Verdict.REFUSED:
                raise StoreError(f"Elasticsearch at {self._server.shown} does not delete {item.id}: {outcome.reason}")
        if len(items) < _STORM or any(outcome.verdict is not Verdict.REFUSED for outcome in outcomes):
            return
        names = sorted({item.into for item in items})
        found = self._ask(tries, "to see a mapping", f"/{','.join(names)}/_mapping", method="GET", may_miss=True)
        if not isinstance(found, dict) or not all(
            is_current(found.get(name, {}).get("mappings", {})) for name in names
        ):
            raise StoreError(
                f"Elasticsearch at {self._server.shown} refuses all documents ({outcomes[0].reason});"
                " see the mapping of their index, or run `mailspan setup`"
            )

    def _explained(self, item: Item, outcome: Outcome) -> str:
        """Return why an item must be sent again, in one line; that of a whole request says already who it is."""
        if self._server.shown in outcome.reason:
            return outcome.reason
        return (
            f"Elasticsearch at {self._server.shown} does not take documents yet: {outcome.reason} (index {item.into})"
        )

    def _once(self, items: Sequence[Item]) -> tuple[list[Outcome], bool]:
        """Send once; return what became of each item, and whether the request as a whole was too large."""
        body, begun = body_of(items), time.monotonic()
        status: int | None = None
        try:
            answer = self._server.request("POST", "/_bulk", query=ANSWERED, body=body, seconds=_BULK_SECONDS)
            status = answer.status
        except NoAnswerError as error:
            self._begun = set()
            return [Outcome(Verdict.RETRY, str(error))] * len(items), False
        finally:
            self._figures.note(status, len(body), time.monotonic() - begun)
        if answer.is_good:
            return outcomes_of(items, answer.body), False
        verdict = verdict_of(answer.status, answer.kind)
        reason = explain(answer.status, answer.reason, self._server.shown, "to write")
        if verdict is Verdict.HALT or verdict is Verdict.REFUSED:
            raise StoreError(reason)  # of the request as a whole: no document of it is at fault
        if verdict is Verdict.TOO_LARGE:
            return [Outcome(verdict, reason)] * len(items), len(items) > 1
        return [Outcome(Verdict.RETRY, reason)] * len(items), False

    def _superfluous(self, given: dict[str, Document], tries: _Tries) -> tuple[set[str], dict[str, Item]]:
        """Return the given fragments that a fuller document makes superfluous, and the deletions of stored ones by id.

        What was written within the last second is not found: such a fragment stays until its transaction is written
        again. Raises StoreError, _StoppedError.
        """
        families = {name for id_ in given if (name := family_of(id_)) is not None}
        of_fragments = {family_of(id_) for id_ in given if is_fragment(id_)}
        stored, indices = self._stored(sorted(families), {name for name in of_fragments if name is not None}, tries)
        known = {**stored, **{id_: each for id_, each in given.items() if _is_newer(each, stored.get(id_))}}
        gone = superfluous(known)
        deletions = {id_: Item(indices[id_], id_, stored[id_]["version"], None) for id_ in sorted(gone & set(stored))}
        return gone & set(given), deletions

    def _stored(
        self, families: Sequence[str], of_fragments: set[str], tries: _Tries
    ) -> tuple[dict[str, Document], dict[str, str]]:
        """Return what is stored of these host/queue_ids: all fragments, and of `of_fragments` all there is."""
        found: dict[str, Document] = {}
        indices: dict[str, str] = {}
        wanted = set(families)
        for start in range(0, len(families), _FAMILIES_AT_ONCE):
            asked = families[start : start + _FAMILIES_AT_ONCE]
            whole = [name for name in asked if name in of_fragments]
            query = {
                "bool": {
                    "should": [
                        {"bool": {"filter": [_of(asked), {"term": {"fragment": True}}]}},
                        *([_of(whole)] if whole else []),
                    ],
                    "minimum_should_match": 1,
                }
            }
            body = {"query": query, "_source": {"excludes": [HIDDEN]}}
            for hit in self._hits(tries, "to look for fragments", body):
                document = {**EMPTY, **hit["_source"]}  # its writer may have known fewer fields
                if family_of(document["id"]) in wanted:
                    found[document["id"]] = document
                    indices[document["id"]] = hit["_index"]
        return found, indices

    def _hits(
        self, tries: _Tries, doing: str, body: Mapping[str, object], *, is_whole: bool = False
    ) -> list[dict[str, Any]]:
        """Return all that a search over the daily indices finds; `is_whole`: only when all their shards have answered.

        Raises StoreError, _StoppedError.
        """
        first = {**body, "size": _HITS_AT_ONCE}
        while True:
            found = self._search(tries, doing, f"/{self._prefix}-*.*.*/_search", first)
            hits, fault = _hits_of(found, is_whole=is_whole)
            if len(hits) >= _HITS_AT_ONCE:
                hits, fault = self._scrolled(tries, doing, first, is_whole=is_whole)
            if not fault:
                tries.progressed()
                # and no index that merely looks alike
                return [hit for hit in hits if day_of(self._prefix, hit["_index"]) is not None]
            tries.pause(f"Elasticsearch at {self._server.shown}: {fault} ({doing})")

    def _scrolled(
        self, tries: _Tries, doing: str, body: Mapping[str, object], *, is_whole: bool
    ) -> tuple[list[dict[str, Any]], str]:
        """Return what is found where one answer does not hold it, and why it must be looked for again, if it must.

        A scroll, since it sorts by no field: an index that merely looks alike may have any mapping.
        """
        path, scroll = f"/{self._prefix}-*.*.*/_search", {"scroll": _SCROLL}
        every: list[dict[str, Any]] = []
        found = self._search(tries, doing, path, {**body, "sort": ["_doc"]}, scroll)
        try:
            while True:
                hits, fault = _hits_of(found, is_whole=is_whole)
                if fault or not hits:
                    return every, fault
                every += hits
                tries.begin()
                body = {**scroll, "scroll_id": found["_scroll_id"]}
                answer = self._server.request("POST", "/_search/scroll", body=body)
                if not answer.is_good:
                    return [], answer.reason
                found = answer.body
        except NoAnswerError as error:
            return [], str(error)
        finally:
            self._end_scroll(found)

    def _end_scroll(self, found: object) -> None:
        """Let the server forget a scroll; by itself it does within _SCROLL."""
        if isinstance(found, dict) and "_scroll_id" in found:
            with suppress(NoAnswerError):
                self._server.request("DELETE", "/_search/scroll", body={"scroll_id": [found["_scroll_id"]]})

    def _search(
        self, tries: _Tries, doing: str, path: str, body: object = None, options: Mapping[str, str] = _NO_OPTIONS
    ) -> Any:  # noqa: ANN401 - JSON
        """Ask the indices that are there; see `_ask`."""
        query = {"ignore_unavailable": "true", "allow_no_indices": "true", **options}
        return self._ask(tries, doing, path, body=body, query=query)

    def _ask(
        self,
        tries: _Tries,
        doing: str,
        path: str,
        *,
        method: str = "POST",
        query: Mapping[str, str] | None = None,
        body: object = None,
        may_miss: bool = False,
    ) -> Any:  # noqa: ANN401 - JSON
        """Ask until there is a good answer, and return its JSON. Raises StoreError, _StoppedError.

        With `may_miss`, 404 is an answer too: None.
        """
        while True:
            tries.begin()
            try:
                answer = self._server.request(method, path, query=query, body=body)
            except NoAnswerError as error:
                self._begun = set()
                tries.pause(str(error))
                continue
            if answer.is_good:
                return answer.body
            if may_miss and answer.status == 404:  # noqa: PLR2004 - HTTP's own
                return None
            reason = explain(answer.status, answer.reason, self._server.shown, doing)
            if verdict_of(answer.status, answer.kind) is not Verdict.RETRY:
                raise StoreError(reason)
            tries.pause(reason)


class _StoppedError(Exception):
    """The caller's `stop` said so."""


class _Tries:
    """How often was tried without any progress, and what that means."""

    def __init__(self, patience_seconds: float, wait: Callable[[float, str], None], stop: Callable[[], bool]) -> None:
        self._patience_seconds, self._wait, self._stop = patience_seconds, wait, stop
        self.progressed()

    def begin(self) -> None:
        """Raise _StoppedError where nothing more is to be sent."""
        if self._stop():
            raise _StoppedError

    def progressed(self) -> None:
        self._attempt, self._last = 0, time.monotonic()

    def pause(self, reason: str) -> None:
        """Wait before the next attempt. Raises StoreError with the reason where that has gone on for too long."""
        if time.monotonic() - self._last > self._patience_seconds:
            raise StoreError(reason)
        self._wait(pause_seconds(self._attempt, random.random()), reason)  # noqa: S311 - so that not all come at once
        self._attempt += 1


def _outcome_of(item: Item, newest: dict[str, Item], settled: dict[str, Outcome]) -> Outcome:
    outcome = settled.get(item.id, _UNSETTLED)
    return outcome if newest[item.id] is item or outcome is _UNSETTLED else _SUPERSEDED


def _hits_of(found: object, *, is_whole: bool) -> tuple[list[dict[str, Any]], str]:
    """Return the hits of an answer, or why it is none; `is_whole`: all shards must have answered."""
    hits = found.get("hits") if isinstance(found, dict) else None
    if not isinstance(found, dict) or not isinstance(hits, dict) or not isinstance(hits.get("hits"), list):
        return [], "what answers is no Elasticsearch"
    if is_whole and (found.get("timed_out") or found.get("_shards", {}).get("failed")):
        return [], "not all shards answer"
    return hits["hits"], ""


def _of(families: Sequence[str]) -> dict[str, object]:
    """Return the query for documents of these host/queue_ids; it finds some more."""
    pairs = [name.partition("/")[::2] for name in families]
    hosts, queue_ids = sorted({host for host, _ in pairs}), sorted({queue_id for _, queue_id in pairs})
    return {"bool": {"filter": [{"terms": {"host": hosts}}, {"terms": {"queue_id": queue_ids}}]}}


def _is_newer(document: Document, stored: Document | None) -> bool:
    return stored is None or document["version"] > stored["version"]
