"""Read documents from the daily indices of Elasticsearch: newest first, or counted.

A selection becomes term, prefix, range and wildcard queries on exact values: no text of a user reaches a parser of
query strings. Only the indices of the asked days are asked, by their exact names, and of the days before them as many
as a mail may be in a queue: what rests longer than that is found by its date alone. The newest days are asked first,
the others only where these have too little: each index costs, whether anything is found in it or not. What is missing
in an answer is in `faults` and `gaps`, for the reader to be told.
"""

from __future__ import annotations

import time
from collections import Counter
from datetime import date, timedelta
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import orjson

from mailspan.errors import StoreError, UsageError
from sink.bulk import reason_of
from sink.daily_indices import DailyIndices
from sink.elasticsearch_settings import explain
from sink.index_template import mapping
from sink.indexed import HIDDEN, SUBJECT, TERMS, UPDATED
from sink.indices import DAY_MS, day_of_ms
from sink.store import BUCKET_MS
from sink.terms import PAGED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sink.daily_indices import Index
    from sink.elasticsearch import Server
    from sink.store import Document, Selection, Term

QUEUE_DAYS = 6
"""A mail that was last updated on an asked day may have begun so many days before it: the queue lifetime and a day."""

_INDICES_AT_ONCE = (3,)
"""So many are asked first, and then all others: today's may be young, and there may be some of days ahead."""
_DOCUMENTS_AT_FIRST = 101
"""So many are asked for first: a search wants 100 and a walk finds few, and each shard makes room for as many."""
_DOCUMENTS_AT_ONCE = 1000
_BUCKETS_AT_ONCE = 50_000
"""Each part of the values costs a walk over all documents. `search.max_buckets`, the bound of this and of the next
number, is 65,535 where nobody changed it."""
_VALUES_AT_FIRST = 65_000
"""So many are counted by the quick way; where there are more, all are counted anew, in parts."""
_MOST_DAYS_SHOWN = 3
_LONGEST_REASON = 200
_LONGEST_SUBJECT = 256
"""Lucene makes an automaton of what is looked for; one character may cost it as much as the length."""
_LEAST = -(1 << 63)
"""The least number of its type, so that nothing of the same millisecond comes after it."""
_SECONDS = 60.0
_KNOWN_SECONDS = 10.0
"""So long a reader takes it that no index came or went: a trace asks some times. One that went is left out."""
_NOT_NOW = 503  # HTTP's own
_FIELD_OF = {
    "outcomes": "outcomes", "dsn": "dsns", "relay": "relays", "recipient": "recipients",
    "sender": f"{HIDDEN}.sender", "sender_domain": f"{HIDDEN}.sender_domain",
    "recipient_domain": f"{HIDDEN}.recipient_domain",
}  # fmt: skip
"""The index's field for a field that is counted by, where it has another name."""


_Order = dict[str, "_Order"]


def _order_of(properties: Mapping[str, Any]) -> _Order:
    return {name: _order_of(each.get("properties", {})) for name, each in properties.items()}


_ORDER = _order_of(mapping(has_wildcard=True)["properties"])
"""The fields in the order in which documents are written, with those inside them; a test compares the bytes."""


_WHOLE: Mapping[str, Any] = {}
"""Documents as they were written."""


class ElasticsearchReader:
    """The reading side of Elasticsearch; see DocumentReader."""

    def __init__(self, server: Server, prefix: str) -> None:
        """Read the daily indices PREFIX-YYYY.MM.DD of a server; nothing is asked yet."""
        self._server = server
        self._daily = DailyIndices(server, prefix)
        self._known: tuple[float, list[Index]] | None = None
        self.faults: list[str] = []
        self.gaps: list[str] = []

    def newest(self, selection: Selection, limit: int) -> list[bytes]:
        """Return the documents of at most `limit` mails by date, newest first, then by id; see DocumentReader."""
        found: list[tuple[int, str, int, bytes]] = []
        mails: set[str] = set()
        names = self._indices(selection)
        at_once = min(limit + 1, _DOCUMENTS_AT_FIRST)
        # Who wants more than one answer holds wants all there is: nothing is saved by asking the newest first.
        asked = _newest_first(names) if limit < _DOCUMENTS_AT_ONCE or not names else (names,)
        body = _hits_body(selection, paged=None, at_once=at_once)
        parts = (self._hits(part, body, self._search(part, body)) for part in asked)
        for hit in chain.from_iterable(parts):
            milliseconds = int(hit["sort"][0])
            # All documents of the last millisecond are read, so that of these the first by id are given.
            if len(mails) >= limit and -milliseconds != found[-1][0]:
                break
            document = _in_order(hit["_source"], _ORDER)
            mails.add(_mail_of(document))
            found.append((-milliseconds, _mail_of(document), document.get("page", 0), orjson.dumps(document)))
        found.sort()
        chosen = set(list(dict.fromkeys(mail for _, mail, _, _ in found))[:limit])
        return [encoded for _, mail, _, encoded in found if mail in chosen]

    def count(self, selection: Selection) -> int:
        """Return the number of mails; see DocumentReader."""
        names = self._indices(selection)
        plain, pages = self._plain_and_pages(names, selection, {"track_total_hits": True})
        count = int(plain["hits"]["total"]["value"]) if plain else 0
        return count + len({mail for mail, _, _ in pages})

    def count_by(self, selection: Selection, field: str) -> list[tuple[str, int]]:
        """Return each value of `field` and how many mails have it; see DocumentReader."""
        indexed = _FIELD_OF.get(field, field)
        terms = {"field": indexed, "size": _VALUES_AT_FIRST, "shard_size": _VALUES_AT_FIRST}
        aggregations = {"by": {"terms": terms}, "none": {"missing": {"field": indexed}}}
        counts: Counter[str] = Counter()
        names = self._indices(selection)
        found, pages = self._plain_and_pages(names, selection, {"aggs": aggregations}, indexed)
        by: dict[str, Any] = found["aggregations"]["by"] if found else {"buckets": (), "sum_other_doc_count": 0}
        if by["sum_other_doc_count"]:  # there are more values than were asked for
            source = {"terms": {"field": indexed, "missing_bucket": True}}
            for value, number in self._buckets(names, selection, source):
                counts["" if value is None else str(value)] += number
        else:
            counts.update({str(each["key"]): int(each["doc_count"]) for each in by["buckets"]})
            counts[""] += int(found["aggregations"]["none"]["doc_count"]) if found else 0
        values: dict[str, set[str]] = {}
        for mail, some, _ in pages:
            values.setdefault(mail, set()).update(some)
        for each in values.values():
            counts.update(each - {""} or {""})
        return [(value, number) for value, number in counts.items() if number]

    def count_by_date(self, selection: Selection) -> dict[int, int]:
        """Return how many mails begin in each quarter hour; see DocumentReader."""
        histogram = {"date_histogram": {"field": "date", "fixed_interval": f"{BUCKET_MS}ms"}}
        counts: Counter[int] = Counter()
        names = self._indices(selection)
        if len(names) * DAY_MS // BUCKET_MS <= _BUCKETS_AT_ONCE:
            by = {"by": {"date_histogram": {**histogram["date_histogram"], "min_doc_count": 1}}}
            found, pages = self._plain_and_pages(names, selection, {"aggs": by})
            for bucket in found["aggregations"]["by"]["buckets"] if found else ():
                counts[int(bucket["key"])] += int(bucket["doc_count"])
        else:
            for value, number in self._buckets(names, selection, histogram):
                counts[int(value)] += number
            _, pages = self._plain_and_pages(names, selection, None)
        begin = {mail: milliseconds for mail, _, milliseconds in pages}
        counts.update(milliseconds // BUCKET_MS * BUCKET_MS for milliseconds in begin.values())
        return dict(counts)

    def _plain_and_pages(
        self, names: Sequence[str], selection: Selection, wanted: Mapping[str, Any] | None, field: str = "id"
    ) -> tuple[dict[str, Any] | None, Iterator[tuple[str, list[str], int]]]:
        """Ask for what is wanted of the documents of one page; return the answer, and all pages of other mails.

        Of each page come its mail, the values of `field`, and its date in milliseconds: from the columns and not from
        the document, which may hold 500 recipients with all that was said of them, nor from the stored id, for which
        the document would be unpacked.
        """
        columns = {
            "_source": False,
            "stored_fields": "_none_",
            "docvalue_fields": list(dict.fromkeys(("id", "page", field))),
        }
        pages = _hits_body(selection, paged=True, at_once=_DOCUMENTS_AT_ONCE, wanted=columns)
        bodies = [] if wanted is None else [{"query": _query(selection, paged=False), "size": 0, **wanted}]
        *plain, first = self._search_all(names, [*bodies, pages])
        return plain[0] if plain else None, self._read_pages(self._hits(names, pages, first), field)

    def _read_pages(self, hits: Iterator[dict[str, Any]], field: str) -> Iterator[tuple[str, list[str], int]]:
        for hit in hits:
            found = hit["fields"]
            mail = _mail_of({"id": found["id"][0], "page": found.get("page", [0])[0]})
            yield mail, found.get(field, [""]), int(hit["sort"][0])

    def _hits(
        self, names: Sequence[str], body: dict[str, Any], first: dict[str, Any] | None
    ) -> Iterator[dict[str, Any]]:
        """Yield what is found, newest first, in no order within a millisecond; `first` is the answer to `body`.

        The id is not sorted by: a text is looked up for every document that is newer than those before it, and
        documents lie in an index in the order of their dates. The second key is a number, which costs little, and one
        that is hidden: an index that was made without the template has none, and its shards fail instead of finding
        nothing.
        """
        known: set[str] = set()
        answer = first
        while True:
            hits = answer["hits"]["hits"] if answer else []
            yield from (hit for hit in hits if _id_of(hit) not in known)
            if len(hits) < body["size"]:
                return
            # The next part begins with the last millisecond of this one, which may have more.
            last = int(hits[-1]["sort"][0])
            known = {_id_of(hit) for hit in hits if hit["sort"][0] == last}
            body = {**body, "size": _DOCUMENTS_AT_ONCE, "search_after": [last + 1, _LEAST]}
            if len(known) == len(hits):
                yield from self._of_one_millisecond(names, body, last, known)
                known = set()
                body["search_after"] = [last, _LEAST]
            answer = self._search(names, body)

    def _of_one_millisecond(
        self, names: Sequence[str], wanted: Mapping[str, Any], milliseconds: int, known: set[str]
    ) -> Iterator[dict[str, Any]]:
        """Yield what is found of one millisecond, which may be any number, but what is known."""
        at = {"range": {"date": {"gte": milliseconds, "lte": milliseconds, "format": "epoch_millis"}}}
        body: dict[str, Any] = {
            **{name: value for name, value in wanted.items() if name != "search_after"},
            "query": {"bool": {"filter": [wanted["query"], at]}},
            "size": _DOCUMENTS_AT_ONCE,
            "sort": [{"date": "desc"}, {"id": "asc"}],
        }
        while True:
            answer = self._search(names, body)
            hits = answer["hits"]["hits"] if answer else []
            yield from (hit for hit in hits if _id_of(hit) not in known)
            if len(hits) < _DOCUMENTS_AT_ONCE:
                return
            body = {**body, "search_after": hits[-1]["sort"]}

    def _buckets(
        self, names: Sequence[str], selection: Selection, source: Mapping[str, Any]
    ) -> Iterator[tuple[Any, int]]:
        """Yield each value with its number of documents of one page: all of them, however many there are."""
        composite: dict[str, Any] = {"size": _BUCKETS_AT_ONCE, "sources": [{"value": source}]}
        while True:
            body = {"query": _query(selection, paged=False), "size": 0, "aggs": {"by": {"composite": composite}}}
            answer = self._search(names, body)
            found = answer["aggregations"]["by"] if answer else {}
            for bucket in found.get("buckets", ()):
                yield bucket["key"]["value"], int(bucket["doc_count"])
            if "after_key" not in found:
                return
            composite = {**composite, "after": found["after_key"]}

    def _search(self, names: Sequence[str], body: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the answer to one search of these indices; None where there are none. Raises StoreError."""
        return self._search_all(names, [body])[0]

    def _search_all(self, names: Sequence[str], bodies: Sequence[Mapping[str, Any]]) -> list[dict[str, Any] | None]:
        """Return the answers to several searches of these indices, which are asked at once; see `_search`."""
        if not names:
            return [None] * len(bodies)
        # Names go into the body: a year of them is too long for an address.
        header = {"index": names, "ignore_unavailable": True, "allow_partial_search_results": True}
        lines = b"".join(orjson.dumps(header) + b"\n" + orjson.dumps(body) + b"\n" for body in bodies)
        answer = self._server.ask("POST", "/_msearch", "to search", needs="responses", body=lines, seconds=_SECONDS)
        return [self._checked(names, found) for found in answer["responses"]]

    def _checked(self, names: Sequence[str], found: dict[str, Any]) -> dict[str, Any] | None:
        """Return an answer; note what is missing in it, and None where that is all of it. Raises StoreError."""
        if "error" in found:
            status = int(found.get("status", 500))
            reason = reason_of(found["error"], status)
            if status == _NOT_NOW and found["error"].get("type") == "search_phase_execution_exception":
                more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                self._fault(f"no shard of {names[0]}{more} answered ({reason}): mail is missing here")
                return None
            raise StoreError(explain(status, reason, self._server.shown, "to search"))
        shards = found["_shards"]
        if shards["failed"] or found.get("timed_out"):
            failures = [
                f" ({each.get('index')}: {' '.join(reason.split())[:_LONGEST_REASON]})"
                for each in shards.get("failures", ())
                if (reason := str(each.get("reason", {}).get("reason") or each.get("reason", {}).get("type") or ""))
            ]
            first = next(iter(failures), "")
            self._fault(f"{shards['failed']} of {shards['total']} shards did not answer{first}: mail is missing here")
        return found

    def _indices(self, selection: Selection) -> list[str]:
        """Return the indices to ask, by exact name. Raises StoreError."""
        first, asked, last = _days(selection)
        every = self._every()
        wanted = [index for index in every if (first or index.day) <= index.day <= (last or index.day)]
        for index in wanted:
            if index.is_closed:
                self._fault(f"{index.name} is closed: its mail is missing here; open it")
        if asked is not None and every:
            self._note_gaps(asked, last or every[-1].day, {index.day for index in every})
        return [index.name for index in wanted if not index.is_closed]

    def _every(self) -> list[Index]:
        """Return all daily indices. They are asked for once, and again after some seconds. Raises StoreError."""
        now = time.monotonic()
        if self._known is None or now - self._known[0] > _KNOWN_SECONDS:
            self._known = now, self._daily.all()
        return self._known[1]

    def _note_gaps(self, first: date, last: date, days: set[date]) -> None:
        number = max(0, (last - first).days + 1) - sum(first <= day <= last for day in days)
        if number > 0:
            asked = (first + timedelta(days=each) for each in range((last - first).days + 1))
            missing = islice((day.isoformat() for day in asked if day not in days), _MOST_DAYS_SHOWN)
            more = f" and {number - _MOST_DAYS_SHOWN} more" if number > _MOST_DAYS_SHOWN else ""
            shown = ", ".join(missing) + more
            message = f"there is no index of {shown}: no mail was indexed of such a day, or it was deleted"
            if message not in self.gaps:
                self.gaps.append(message)

    def _fault(self, message: str) -> None:
        if message not in self.faults:
            self.faults.append(message)


def _newest_first(names: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield parts of the names of indices, which are in the order of their days: the newest are the first part."""
    end = len(names)
    for number in _INDICES_AT_ONCE:
        if end:
            yield names[max(0, end - number) : end]
            end = max(0, end - number)
    if end:
        yield names[:end]


def _days(selection: Selection) -> tuple[date | None, date | None, date | None]:
    """Return the first day to look at, the first that was asked for, and the last; None: no limit."""
    first = asked = None
    if selection.updated_from_ms is not None:
        asked = day_of_ms(selection.updated_from_ms)
        first = asked - timedelta(days=QUEUE_DAYS) if asked > date.min + timedelta(days=QUEUE_DAYS) else date.min
    if selection.date_from_ms is not None:
        asked = day_of_ms(selection.date_from_ms)
        first = asked if first is None else max(first, asked)
    last = None if selection.date_until_ms is None else day_of_ms(selection.date_until_ms - 1)
    return first, asked, last


def _query(selection: Selection, *, paged: bool | None) -> dict[str, Any]:
    """Return the query; `paged` True or False asks for pages of mails with several only, or for all others."""
    groups = [*selection.all_of, *([(PAGED,)] if paged else [])]
    excluded = [*selection.none_of, *([PAGED] if paged is False else [])]
    filters: list[dict[str, Any]] = [_one_of(group) for group in groups]
    for field, first, until, form in (
        ("date", selection.date_from_ms, selection.date_until_ms, {"format": "epoch_millis"}),
        (UPDATED, selection.updated_from_ms, selection.updated_until_ms, {}),
    ):
        limits = {name: value for name, value in (("gte", first), ("lt", until)) if value is not None}
        if limits:
            filters.append({"range": {field: {**limits, **form}}})
    if selection.subject is not None:
        if len(selection.subject) > _LONGEST_SUBJECT:
            raise UsageError(f"--subject: Elasticsearch looks for at most {_LONGEST_SUBJECT} characters")
        filters.append({"wildcard": {SUBJECT: {"value": f"*{_escaped(selection.subject)}*"}}})
    found: dict[str, Any] = {"filter": filters}
    if excluded:
        found["must_not"] = [_one_of(excluded)]
    return {"bool": found}


def _hits_body(
    selection: Selection, *, paged: bool | None, at_once: int, wanted: Mapping[str, Any] = _WHOLE
) -> dict[str, Any]:
    order = [{"date": "desc"}, {UPDATED: "desc"}]
    query = _query(selection, paged=paged)
    return {"query": query, "size": at_once, "sort": order, "track_total_hits": False, **wanted}


def _one_of(terms: Sequence[Term]) -> dict[str, Any]:
    whole = [each.text for each in terms if not each.is_prefix]
    queries: list[dict[str, Any]] = [{"terms": {TERMS: whole}}] if whole else []
    queries += [{"prefix": {TERMS: {"value": each.text}}} for each in terms if each.is_prefix]
    return queries[0] if len(queries) == 1 else {"bool": {"should": queries, "minimum_should_match": 1}}


def _escaped(text: str) -> str:
    for character in "\\*?":
        text = text.replace(character, f"\\{character}")
    return text


def _in_order(document: Mapping[str, Any], order: _Order) -> dict[str, Any]:
    """Return a document with its fields in their order again: Elasticsearch mixes them as it leaves hidden ones out."""
    found = {name: document[name] for name in order if name in document}
    for name, inside in order.items():
        if inside and (value := found.get(name)):
            if isinstance(value, dict):
                found[name] = _in_order(value, inside)
            elif isinstance(value, list):
                found[name] = [_in_order(each, inside) for each in value]
    return {**found, **document, **found} if len(found) < len(document) else found


def _id_of(hit: Mapping[str, Any]) -> str:
    return str(hit["_id"] if "_id" in hit else hit["fields"]["id"][0])


def _mail_of(document: Document) -> str:
    identity, page = str(document["id"]), document.get("page", 0)
    return identity.removesuffix(f"#{page}") if page else identity
