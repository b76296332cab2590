"""Write documents into the daily indices of Elasticsearch.

Items that were not settled are sent again, and only those, until they are or `patience_seconds` are over. What only
somebody else can mend (credentials, a missing template, a closed index) ends the writing with an error. Documents of
days that are not kept are left out: they must not bring a deleted index back.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import orjson

from mailspan.errors import StoreError
from sink.bulk import (
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
from sink.daily_indices import DailyIndices
from sink.elasticsearch import NoAnswerError
from sink.elasticsearch_settings import explain
from sink.fragments import family_of, is_fragment, joined, mail_of, says_all_of
from sink.index_template import template_fault
from sink.indexed import HIDDEN, indexed
from sink.indices import day_of, index_of
from sink.store import WriteResult

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import date

    from sink.elasticsearch import Server
    from sink.store import Document

_BULK_SECONDS = 60.0
_FAMILIES_AT_ONCE = 500
_MOST_OF_A_FAMILY = 10_000
_STORM = 20
"""So many documents of one request, all of them refused: then it is the mapping, and not the documents."""


class ElasticsearchWriter:
    """The writing side of Elasticsearch; see DocumentWriter. `first_kept` is the oldest day that is kept."""

    def __init__(
        self,
        server: Server,
        prefix: str,
        first_kept: date,
        *,
        patience_seconds: float,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        """Look whether the template is there. Raises StoreError and NoAnswerError."""
        self._server = server
        self._prefix = prefix
        self._first_kept = first_kept.isoformat()
        self._patience_seconds = patience_seconds
        self._wait = wait
        self._most_items = BATCH_ITEMS
        self.refused: list[tuple[str, str]] = []
        """Id and reason of the documents that will never be taken."""
        if (fault := template_fault(DailyIndices(server, prefix).stored_template())) is not None:
            raise StoreError(f"Elasticsearch at {server.shown}: {fault}")

    def write(self, documents: Sequence[Document], encoded: Sequence[bytes] | None = None) -> WriteResult:
        """Keep `documents`; see DocumentWriter. Raises StoreError; then some of them may be kept.

        Refused ones count as superseded in the result, and are in `refused`.

        Blocks for as long as `patience_seconds` without any progress.
        """
        payloads = [orjson.dumps(document) for document in documents] if encoded is None else encoded
        kept = [
            (document, payload)
            for document, payload in zip(documents, payloads, strict=True)
            if document["date"] >= self._first_kept
        ]
        left_out = self._superfluous([document for document, _ in kept])
        items = newest_of_each(
            [
                Item(
                    index_of(self._prefix, document["date"]),
                    document["id"],
                    document["version"],
                    indexed(document, payload),
                )
                for document, payload in kept
                if document["id"] not in left_out
            ]
        )
        indexed_count = sum(self._send(batch) for batch in list(batches(items, self._most_items)))
        expired = len(documents) - len(kept)
        return WriteResult(indexed_count, len(documents) - indexed_count - expired, expired)

    def _send(self, batch: list[Item]) -> int:
        """Send until each item is settled; return how many were indexed. Raises StoreError."""
        indexed_count, attempt, last = 0, 0, time.monotonic()
        pending = [batch]
        while pending:
            items = pending.pop()
            left: list[Item] = []
            outcomes, is_whole_too_large = self._once(items)
            for item, outcome in zip(items, outcomes, strict=True):
                if outcome.verdict is Verdict.INDEXED:
                    indexed_count += 1
                elif outcome.verdict is Verdict.REFUSED or (
                    outcome.verdict is Verdict.TOO_LARGE and not is_whole_too_large
                ):
                    self.refused.append((item.id, outcome.reason))
                elif outcome.verdict is Verdict.HALT:
                    raise StoreError(f"Elasticsearch at {self._server.shown} takes no documents: {outcome.reason}")
                elif outcome.verdict is not Verdict.SUPERSEDED:
                    left.append(item)
            if len(items) >= _STORM and all(outcome.verdict is Verdict.REFUSED for outcome in outcomes):
                raise StoreError(
                    f"Elasticsearch at {self._server.shown} refuses all documents ({outcomes[0].reason});"
                    " see the mapping of their index, or run `mailspan setup`"
                )
            if is_whole_too_large:
                half = len(left) // 2
                pending += [part for part in (left[half:], left[:half]) if part]
                continue
            if len(left) < len(items):
                last, attempt = time.monotonic(), 0
                self._most_items = min(BATCH_ITEMS, self._most_items * 2)
            if left:
                if time.monotonic() - last > self._patience_seconds:
                    reason = next(outcome.reason for outcome in outcomes if outcome.verdict is Verdict.RETRY)
                    raise StoreError(reason)
                self._most_items = max(LEAST_ITEMS, self._most_items // 2)
                self._wait(pause_seconds(attempt, random.random()))  # noqa: S311 - so that not all come at once
                attempt += 1
                pending.append(left)
        return indexed_count

    def _once(self, items: Sequence[Item]) -> tuple[list[Outcome], bool]:
        """Send once; return what became of each item, and whether the request as a whole was too large."""
        try:
            answer = self._server.request("POST", "/_bulk", body=body_of(items), seconds=_BULK_SECONDS)
        except NoAnswerError as error:
            return [Outcome(Verdict.RETRY, str(error))] * len(items), False
        if answer.is_good:
            return outcomes_of(items, answer.body), False
        verdict = verdict_of(answer.status, answer.kind)
        reason = explain(answer.status, answer.reason, self._server.shown, "to write")
        if verdict is Verdict.HALT or verdict is Verdict.REFUSED:
            raise StoreError(reason)  # of the request as a whole: no document of it is at fault
        if verdict is Verdict.TOO_LARGE:
            return [Outcome(verdict, reason)] * len(items), len(items) > 1
        return [Outcome(Verdict.RETRY, reason)] * len(items), False

    def _superfluous(self, documents: Sequence[Document]) -> set[str]:
        """Return the ids of fragments that a fuller document makes superfluous; those that are stored are deleted.

        What was written within the last second is not found: such a fragment stays until its transaction is written
        again. Raises StoreError.
        """
        families = {name for document in documents if (name := family_of(document["id"])) is not None}
        given = {document["id"]: document for document in documents}
        fragments = {id_ for id_ in given if is_fragment(id_)}
        of_fragments = {family_of(id_) for id_ in fragments}
        stored, indices = self._stored(sorted(families), {name for name in of_fragments if name is not None})
        known = {**stored, **{id_: each for id_, each in given.items() if _is_newer(each, stored.get(id_))}}
        candidates = fragments | {id_ for id_ in stored if is_fragment(id_)}
        names = {family_of(id_) for id_ in candidates}
        pages: dict[str, list[Document]] = {}
        for id_, document in known.items():
            if family_of(id_) in names:
                pages.setdefault(mail_of(id_), []).append(document)
        mails = {id_: joined(found) for id_, found in pages.items()}
        alike: dict[str | None, list[Document]] = {}
        for id_, mail in mails.items():
            alike.setdefault(family_of(id_), []).append(mail)
        gone = {
            id_ for id_ in candidates if any(says_all_of(other, mails[mail_of(id_)]) for other in alike[family_of(id_)])
        }
        for id_ in sorted(gone & set(stored)):
            self._delete(indices[id_], stored[id_])
        return gone & set(given)

    def _stored(self, families: Sequence[str], of_fragments: set[str]) -> tuple[dict[str, Document], dict[str, str]]:
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
            body = {"query": query, "size": _MOST_OF_A_FAMILY, "_source": {"excludes": [HIDDEN]}}
            options = {"ignore_unavailable": "true", "allow_no_indices": "true"}
            path = f"/{self._prefix}-*.*.*/_search"
            answer = self._server.ask("POST", path, "to look for fragments", query=options, body=body)
            for hit in answer["hits"]["hits"]:
                document = hit["_source"]
                is_ours = day_of(self._prefix, hit["_index"]) is not None  # and no index that merely looks alike
                if is_ours and family_of(document["id"]) in wanted:
                    found[document["id"]] = document
                    indices[document["id"]] = hit["_index"]
        return found, indices

    def _delete(self, index: str, document: Document) -> None:
        """Delete a stored document of just this version; one that is gone, or newer by now, is left alone."""
        action = {
            "_index": index,
            "_id": document["id"],
            "version": document["version"],
            "version_type": "external_gte",
        }
        answer = self._server.ask(
            "POST", "/_bulk", "to delete a fragment", body=orjson.dumps({"delete": action}) + b"\n"
        )
        found = answer["items"][0]["delete"]
        if found["status"] not in {200, 404, 409}:
            reason = found.get("error", {}).get("reason", "")
            raise StoreError(explain(found["status"], reason, self._server.shown, "to delete a fragment"))


def _of(families: Sequence[str]) -> dict[str, object]:
    """Return the query for documents of these host/queue_ids; it finds some more."""
    pairs = [name.partition("/")[::2] for name in families]
    hosts, queue_ids = sorted({host for host, _ in pairs}), sorted({queue_id for _, queue_id in pairs})
    return {"bool": {"filter": [{"terms": {"host": hosts}}, {"terms": {"queue_id": queue_ids}}]}}


def _is_newer(document: Document, stored: Document | None) -> bool:
    return stored is None or document["version"] > stored["version"]
