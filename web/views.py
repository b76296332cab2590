"""What pages show of documents, as plain values for the templates: rows of a list, and one transaction.

Pure. Nothing here is escaped or made safe: the templates' environment does that for every value (web.pages).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from mailspan.document import FIELDS
from search.explain import NOTES
from search.output import mail_of
from search.select import QUEUE_LIFETIME_MS
from search.times import in_zone, milliseconds
from search.trace_text import how_long

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import tzinfo

    from sink.store import Document

MOST_NAMES = 3
_REVISIONS = 65_536

TONES = {
    "delivered": "good", "relayed": "good", "expanded": "good",
    "deferred": "wait", "held": "wait", "queued": "wait", "aborted": "wait",
    "bounced": "bad", "expired": "bad", "rejected": "bad",
    "discarded": "calm", "unknown": "calm",
}  # fmt: skip
"""How each outcome looks: beside its word and a sign, never by colour alone."""

LINKS = {
    "next": "the next server has it as",
    "bounce": "its notice of failure",
    "bounce_of": "is the notice of failure of",
    "delay_notice": "its notice of delay",
    "receipt": "its receipt",
    "requeued_as": "was queued again as",
    "requeued_from": "was queued before as",
    "clone": "other recipients went on in",
    "clone_of": "was split from",
    "forwarded_as": "was forwarded as",
    "original": "was before",
}
_OF_DELIVERIES = frozenset({
    "to", "links", "notes", "recipients", "recipient_domains", "relays", "outcomes", "dsns", "deliveries",
})  # fmt: skip
"""What stands in the tables, or follows from them."""
_TIMES = frozenset({"date", "updated"})
_LABELS = {
    "id": "ID", "queue_id": "Queue ID", "mta": "MTA", "msgid": "Message ID", "client_ip": "Client IP", "helo": "HELO",
    "orig_client": "Original client", "orig_client_ip": "Original client IP", "sasl_username": "Logged in as",
    "tls": "TLS", "host": "Mail server",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Clock:
    """A reader's zone: None is the machine's."""

    zone: tzinfo | None

    def day(self, ms: int) -> str:
        """Return the date of a moment."""
        return self._local(ms).strftime("%Y-%m-%d")

    def time(self, ms: int) -> str:
        """Return its time of day."""
        return self._local(ms).strftime("%H:%M:%S")

    def both(self, ms: int) -> str:
        """Return its date and time."""
        return self._local(ms).strftime("%Y-%m-%d %H:%M:%S")

    def _local(self, ms: int) -> datetime:
        return in_zone(datetime.fromtimestamp(ms / 1000, UTC), self.zone)


def stamp(ms: int) -> str:
    """Return a moment as HTML's datetime attribute takes it."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def tone_of(outcome: object) -> str:
    """Return how an outcome looks."""
    return TONES.get(str(outcome), "calm")


def url(path: str, **values: str) -> str:
    """Return an address of ours; what is None or empty is left out."""
    given = {name: value for name, value in values.items() if value}
    return f"{path}?{urlencode(given, errors='replace')}" if given else path


# -- results and lists of mails


@dataclass(frozen=True, slots=True)
class Row:
    """One mail of a list."""

    id: str
    queue_id: str | None
    host: str
    date_ms: int
    sender: str | None
    recipients: tuple[str, ...]
    more_recipients: int
    subject: str | None
    outcome: str
    kind: str
    state: str


def row_of(pages: Sequence[Document], now_ms: int) -> Row:
    """Return a mail as a row of a list."""
    document = pages[0]
    names = list(dict.fromkeys(attempt.get("recipient") or "" for page in pages for attempt in page.get("to") or ()))
    number = len(names)
    if (document.get("page_count") or 1) > len(pages):
        number = max(number, document.get("recipient_count") or 0)
    return Row(
        id=mail_of(document),
        queue_id=document.get("queue_id"),
        host=document["host"],
        date_ms=milliseconds(document["date"]),
        sender=document.get("from"),
        recipients=tuple(names[:MOST_NAMES]),
        more_recipients=number - len(names[:MOST_NAMES]),
        subject=document.get("subject"),
        outcome=str(document.get("outcome") or "unknown"),
        kind=str(document.get("kind") or "transaction"),
        state=state_of(document, now_ms),
    )


def state_of(document: Document, now_ms: int) -> str:
    """Return open, closed, or incomplete: open without news for longer than a queue keeps mail."""
    state = str(document.get("state") or "open")
    if state == "open" and milliseconds(document["updated"]) < now_ms - QUEUE_LIFETIME_MS:
        return "incomplete"
    return state


# -- one transaction


@dataclass(frozen=True, slots=True)
class Fact:
    """One field of a document. `ms` where it is a moment."""

    name: str
    label: str
    text: str
    ms: int | None = None


@dataclass(frozen=True, slots=True)
class Link:
    """Another transaction that the log names."""

    kind: str
    means: str
    queue_id: str
    host: str | None


@dataclass(frozen=True, slots=True)
class Attempted:
    """One attempt."""

    ms: int | None
    recipient: str | None
    original: str | None
    outcome: str
    relay: str | None
    dsn: str | None
    delay: str | None
    delays: str
    status: str | None
    more: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Transaction:
    """One page of one transaction."""

    row: Row
    facts: tuple[Fact, ...]
    attempts: tuple[Attempted, ...]
    links: tuple[Link, ...]
    notes: tuple[tuple[str, str], ...]
    lines: int
    revision: int
    page: int
    page_count: int


_SHOWN_OF_ATTEMPT = frozenset({
    "recipient", "original_recipient", "relay", "status", "outcome", "dsn", "date", "delay_seconds", "delays",
})  # fmt: skip


def transaction_of(pages: Sequence[Document], number: int, now_ms: int) -> Transaction:
    """Return a page of a mail; the first where there is no page of that number."""
    document = next((page for page in pages if (page.get("page") or 0) == number), pages[0])
    version = int(document.get("version") or 0)
    return Transaction(
        row=row_of(pages, now_ms),
        facts=tuple(_facts(document, now_ms)),
        attempts=tuple(_attempted(each) for each in document.get("to") or ()),
        links=tuple(
            Link(str(each["kind"]), LINKS.get(str(each["kind"]), "belongs to"), str(each["queue_id"]), each.get("host"))
            for each in document.get("links") or ()
            if each.get("queue_id")
        ),
        notes=tuple((str(note), NOTES.get(note, "")) for note in document.get("notes") or ()),
        lines=version // _REVISIONS,
        revision=version % _REVISIONS,
        page=document.get("page") or 0,
        page_count=document.get("page_count") or 1,
    )


def _facts(document: Document, now_ms: int) -> Iterator[Fact]:
    names = [field.name for field in FIELDS]
    for name in (*names, *sorted(set(document) - set(names))):
        value = document.get(name)
        if name in _OF_DELIVERIES or name == "version" or value is None or value == []:
            continue
        if name == "page" or (name == "page_count" and value == 1):
            continue
        label = _LABELS.get(name, name.replace("_", " ").capitalize())
        if name in _TIMES:
            yield Fact(name, label, "", milliseconds(value))
        elif name == "state":
            yield Fact(name, label, state_of(document, now_ms))
        elif name == "from":
            yield Fact(name, label, value or "<> (a notice, which is never answered)")
        else:
            yield Fact(name, label, _plain(value))


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {_plain(each)}" for name, each in value.items() if each is not None)
    if isinstance(value, list):
        return "; ".join(_plain(each) for each in value)
    return "(empty)" if value == "" else str(value)


def _attempted(attempt: Mapping[str, Any]) -> Attempted:
    delay, date = attempt.get("delay_seconds"), attempt.get("date")
    parts = attempt.get("delays") or {}
    return Attempted(
        ms=milliseconds(date) if date else None,
        recipient=attempt.get("recipient"),
        original=attempt.get("original_recipient"),
        outcome=str(attempt.get("outcome") or "unknown"),
        relay=attempt.get("relay"),
        dsn=attempt.get("dsn"),
        delay=None if delay is None else how_long(delay),
        delays=", ".join(f"{name.replace('_', ' ')} {each:g} s" for name, each in parts.items() if each is not None),
        status=attempt.get("status"),
        more=tuple(
            (name.replace("_", " "), _plain(value))
            for name, value in sorted(attempt.items())
            if name not in _SHOWN_OF_ATTEMPT and value is not None
        ),
    )
