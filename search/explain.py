"""What happened to one mail on one server, as facts for plain words: document → explanation. Pure.

An explanation says who handed the mail in, what each recipient's attempts came to, grouped by where and why they
failed, what the notes mean, and which other transactions the log names. It adds nothing that the document does not say.
The words are those of `explain_text`; the dataclasses here are the schema of `explain --json` (docs/explain.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from search.reasons import OTHER, reason_of
from search.select import QUEUE_LIFETIME_MS
from search.times import milliseconds
from sink.records import EMPTY

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sink.store import Document

FAILURES = frozenset({"deferred", "bounced", "expired", "rejected"})
_GOOD = frozenset({"delivered", "relayed", "expanded"})
_NO_ATTEMPT = frozenset({"queued", "held", "rejected", "expired", "unknown", "aborted"})
_EXAMPLES = 3
_NOT_SAID: dict[str, Any] = {
    **dict.fromkeys(("recipient", "original_recipient", "relay", "dsn", "code", "status")), "outcome": "unknown",
}  # fmt: skip
"""What an attempt is where its writer did not know a field."""

NOTES = {
    "head missing": "the beginning is not in the logs that were read, nor perhaps who handed it in or what was tried",
    "tail missing": "the end is not in the logs that were read: it may have been delivered since",
    "recipients not logged": "the server refused something without naming all recipients it was for",
    "year guessed": "the log has no year, and none of its queue IDs holds one: the year is the likeliest",
    "ambiguous address": "an address can be read in more than one way: the log does not quote it",
    "ambiguous queue id": "this queue ID was used for several mails: some lines may belong to another",
    "truncated": "the log, or this record of it, was cut: something is missing",
    "clock skew": "the server's clock and its log's time stamps differ: times may be wrong by that much",
    "log gap": "the logger lost lines while this mail was there: attempts may be missing",
}
"""What each note of a document means for its reader."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Attempts one after another that ended the same way for the same reason at the same server."""

    outcome: str
    relay: str | None
    times: int
    reason: str
    means: str
    dsn: str | None
    code: int | None
    status: str
    """The server's own words, of the last of them."""
    first: str
    last: str


@dataclass(frozen=True, slots=True)
class Story:
    """What happened to one recipient."""

    recipient: str | None
    original_recipient: str | None
    outcome: str
    relay: str | None
    mailbox: str | None
    """Of a mailbox server."""
    status: str
    date: str
    seconds: float
    """From the mail's beginning to this end, or to the last attempt."""
    attempts: int
    """Those of the document: it keeps a recipient's first 2 and last 8."""
    failures: tuple[Failure, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """Recipients to whom the same happened."""

    outcome: str
    relay: str | None
    reason: str | None
    means: str | None
    dsn: str | None
    count: int
    examples: tuple[str, ...]
    longest_seconds: float


@dataclass(frozen=True, slots=True)
class Note:
    """A note of the document, and what it means."""

    note: str
    means: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """One mail on one server."""

    id: str
    queue_id: str | None
    host: str
    mta: str
    kind: str
    state: str
    """open, closed, or incomplete: open, but without news for longer than a queue's lifetime."""
    closed_by: str | None
    outcome: str
    stage: str | None
    temporary: bool
    repeat_count: int
    sender: str | None
    msgid: str | None
    client: str | None
    sasl_username: str | None
    size: int | None
    date: str
    updated: str
    attempt_count: int
    missing_pages: int
    """Of a mail with more than 500 recipients: pages that were not given."""
    recipients: tuple[Story, ...]
    groups: tuple[Group, ...]
    links: tuple[dict[str, str | None], ...]
    filters: tuple[dict[str, Any], ...]
    """As in the document."""
    notes: tuple[Note, ...]


def explain(pages: Sequence[Document], *, now_ms: int) -> Explanation:
    """Return what happened to the mail of these pages (one, unless it has more than 500 recipients).

    `now_ms` is milliseconds since 1970 UTC.
    """
    pages = [{**EMPTY, **page} for page in pages]
    document = pages[0]
    stories = tuple(
        _stories(document, [{**_NOT_SAID, **attempt} for page in pages for attempt in page.get("to") or ()])
    )
    links = {tuple(sorted(each.items())): each for page in pages for each in page["links"]}
    return Explanation(
        id=document["id"],
        queue_id=document["queue_id"],
        host=document["host"],
        mta=document["mta"],
        kind=document["kind"],
        state=_state(document, now_ms),
        closed_by=document["closed_by"],
        outcome=document["outcome"],
        stage=document["stage"],
        temporary=document["temporary"],
        repeat_count=document["repeat_count"],
        sender=document["from"],
        msgid=document["msgid"],
        client=document["client"],
        sasl_username=document["sasl_username"],
        size=document["size"],
        date=document["date"],
        updated=document["updated"],
        attempt_count=document["attempt_count"],
        missing_pages=max(0, document["page_count"] - len(pages)),
        recipients=stories,
        groups=_groups(stories),
        links=tuple(links.values()),
        filters=tuple(document["filters"]),
        notes=tuple(Note(each, NOTES.get(each, "")) for each in document["notes"]),
    )


def _state(document: Document, now_ms: int) -> str:
    state: str = document["state"]
    if state == "open" and milliseconds(document["updated"]) < now_ms - QUEUE_LIFETIME_MS:
        return "incomplete"
    return state


def _stories(document: Document, attempts: Iterable[dict[str, Any]]) -> Iterable[Story]:
    """Yield one story for each recipient, in the order of their first attempts; addresses are one in any case."""
    by_recipient: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for attempt in attempts:
        names = (attempt["recipient"], attempt["original_recipient"])
        folded = tuple((name or "").casefold() for name in names)
        by_recipient.setdefault((folded[0], folded[1]), []).append(attempt)
    start = milliseconds(document["date"])
    for rows in by_recipient.values():
        last = rows[-1]
        yield Story(
            recipient=last["recipient"],
            original_recipient=last["original_recipient"],
            outcome=last["outcome"],
            relay=last["relay"],
            mailbox=last.get("mailbox") if document["kind"] == "mailbox" else None,
            status=last["status"] or "",
            date=last["date"],
            seconds=max(0.0, (milliseconds(last["date"]) - start) / 1000),
            attempts=sum(row["outcome"] not in _NO_ATTEMPT for row in rows),
            failures=tuple(_failures(rows)),
        )


def _failures(rows: Iterable[dict[str, Any]]) -> Iterable[Failure]:
    before = OTHER
    judged = []
    for row in rows:
        if row["outcome"] in FAILURES:
            reason = reason_of(row["status"], row["dsn"])
            # An expiry says only that time is up: the reason is that of the attempts before it.
            reason = before if row["outcome"] == "expired" and reason == OTHER else reason
            before = reason
            judged.append((row, reason))
    for _, alike in groupby(judged, key=lambda each: (each[0]["outcome"], each[0]["relay"], each[0]["dsn"], each[1])):
        same = list(alike)
        first, (last, reason) = same[0][0], same[-1]
        yield Failure(
            outcome=last["outcome"],
            relay=last["relay"],
            times=len(same),
            reason=reason.reason,
            means=reason.means,
            dsn=last["dsn"],
            code=last["code"],
            status=last["status"] or "",
            first=first["date"],
            last=last["date"],
        )


def _groups(stories: Iterable[Story]) -> tuple[Group, ...]:
    """Return the groups of recipients, the largest first."""
    found: dict[tuple[str | None, ...], list[Story]] = {}
    for story in stories:
        failure = story.failures[-1] if story.failures and story.outcome not in _GOOD else None
        why = (None, None, None) if failure is None else (failure.reason, failure.means, failure.dsn)
        found.setdefault((story.outcome, story.relay, *why), []).append(story)
    groups = [
        Group(
            outcome=key[0] or "unknown",
            relay=key[1],
            reason=key[2],
            means=key[3],
            dsn=key[4],
            count=len(same),
            examples=tuple(each.recipient for each in same[:_EXAMPLES] if each.recipient is not None),
            longest_seconds=max(each.seconds for each in same),
        )
        for key, same in found.items()
    ]
    return tuple(sorted(groups, key=lambda each: -each.count))
