"""What is asked of a store for each page: a page of mails, the mails that an id means, the traces of a mail.

Pure but for the reader that is given. The query, what is meant by an id, and the traces are those of the command line.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

import orjson

from search.output import mail_of
from search.query import parse_query
from search.select import meant, select
from search.times import milliseconds
from search.trace import traces_of
from web.form import MOST_SKIPPED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime, tzinfo

    from search.trace import Trace
    from sink.store import Document, DocumentReader
    from web.form import Asked

MOST_MEANT = 100


@dataclass(frozen=True, slots=True)
class Results:
    """One page of mails, each as its pages that match, newest first."""

    mails: Sequence[Sequence[Document]]
    is_first: bool
    has_more: bool
    onward: Mapping[str, str] | None
    """What the form is asked for to go on; None where there is no more, or too many are of one millisecond."""


def find_mails(reader: DocumentReader, asked: Asked, now: datetime, zone: tzinfo | None) -> Results:
    """Return the page of mails that is asked for. Raises UsageError, StoreError and NoAnswerError."""
    selection = select(asked.query(now, zone))
    before = asked.values.get("before")
    if before is not None:
        until = int(before) + 1
        if selection.date_until_ms is not None:
            until = min(until, selection.date_until_ms)
        selection = replace(selection, date_until_ms=until)
    found = _mails(reader.newest(selection, asked.skip + asked.number + 1))[asked.skip :]
    shown = found[: asked.number]
    has_more = len(found) > len(shown)
    onward = None
    if has_more:
        last = milliseconds(shown[-1][0]["date"])
        skip = sum(milliseconds(pages[0]["date"]) == last for pages in shown)
        skip += asked.skip if before == str(last) else 0
        if skip <= MOST_SKIPPED:
            onward = {"before": str(last), "skip": str(skip)}
    return Results(shown, before is None, has_more, onward)


def find_meant(reader: DocumentReader, text: str, now: datetime) -> list[list[Document]]:
    """Return the mails that an id, queue ID or message ID means, newest first. Raises as `find_mails` does."""
    return _mails(_meant(reader, text, now))


def find_traces(
    reader: DocumentReader, text: str, now: datetime, hosts: Mapping[str, str]
) -> tuple[list[Trace], tuple[str, ...]]:
    """Return the traces of what an id means, the oldest first, and the gaps of what was asked for.

    A walk also asks for days around the mail, of which nobody wants to hear. `hosts` see search.trace. Raises as
    `find_mails` does.
    """
    seeds = _meant(reader, text, now)
    gaps = tuple(reader.gaps)
    return traces_of(reader, seeds, hosts), gaps


def _meant(reader: DocumentReader, text: str, now: datetime) -> list[bytes]:
    query = parse_query({"term": text}, now=now, probes=True, mailboxes=True, labels={"term": "id"})
    encoded = reader.newest(select(query), MOST_MEANT)
    documents = [orjson.loads(each) for each in encoded]
    mails = {mail_of(each) for each in meant(documents, text)}
    return [each for each, document in zip(encoded, documents, strict=True) if mail_of(document) in mails]


def _mails(encoded: Iterable[bytes]) -> list[list[Document]]:
    documents = [orjson.loads(each) for each in encoded]
    return [list(pages) for _, pages in groupby(documents, key=mail_of)]
