r"""Documents as text for people, and as JSON lines for programs.

The text form keeps the look of the original mail log tracer: one labelled line per fact, one `to:`
line per attempt, a blank line between transactions. Each value from a log is made safe first; in
quoted values a quote is `\'` and a backslash `\\`, so no value can look like the end of its field.
JSON is passed on byte for byte as it is stored, but for a terminal, where characters it would act
on are written as \uXXXX: the same JSON.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, tzinfo
from itertools import groupby
from typing import TYPE_CHECKING, Any

import orjson

from mailspan.terminal import sanitise, sanitise_json
from search.filters import filter_text
from search.select import QUEUE_LIFETIME_MS
from search.times import in_zone, milliseconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sink.store import Document

_LABEL_WIDTH = 8
_ABSENT = "-"
_RESET = "\x1b[0m"
_RED, _YELLOW, _GREEN = "\x1b[31m", "\x1b[33m", "\x1b[32m"
_WHERE_LOGGED = ("subject", "helo", "protocol", "sasl_username", "tls", "controlling_user", "session", "repeat_count")
_COLOURS = {
    "bounced": _RED,
    "expired": _RED,
    "rejected": _RED,
    "aborted": _YELLOW,
    "deferred": _YELLOW,
    "held": _YELLOW,
    "delivered": _GREEN,
    "relayed": _GREEN,
    "expanded": _GREEN,
}


@dataclass(frozen=True, slots=True)
class Layout:
    """How the reader wants text; `zone` None is the machine's zone, `now_ms` milliseconds since 1970 UTC."""

    now_ms: int
    zone: tzinfo | None = None
    verbose: bool = False
    colours: bool = False


def text_form(documents: Iterable[Document], layout: Layout, *, goes_on: bool = False) -> Iterator[str]:
    """Yield the text of each mail, line ends included, with a blank line between two.

    Pages of one mail come one after another and are one block: `to:` lines of the first of them, and how many
    recipients stand on others; with `verbose` those of all. `goes_on` says that other blocks stand before.
    """
    separator = "\n" if goes_on else ""
    for _, pages in groupby(documents, key=mail_of):
        yield separator + "".join(f"{line}\n" for line in _lines(list(pages), layout))
        separator = "\n"


def mail_of(document: Document) -> str:
    """Return the id of the mail that a document, or a page of one, is about."""
    identity: str = document["id"]
    return identity.removesuffix(f"#{document['page']}") if document.get("page") else identity


def json_line(encoded: bytes, *, for_terminal: bool) -> bytes:
    """Return one document as a line: the stored bytes, or the same JSON without anything a terminal acts on."""
    if for_terminal:
        encoded = sanitise_json(encoded.decode("utf-8", "replace")).encode()
    return encoded + b"\n"


def colour_of(outcome: str | None) -> str:
    """Return what switches to the colour of an outcome; empty where it has none."""
    return _COLOURS.get(outcome or "", "")


def coloured(text: str, colour: str) -> str:
    """Return the text in a colour."""
    return f"{colour}{text}{_RESET}" if colour else text


def count_lines(counts: Iterable[tuple[str, int]], *, as_json: bool, for_terminal: bool = False) -> Iterator[str]:
    """Yield one line for each value and how many mails have it."""
    for value, count in counts:
        if as_json:
            yield json_line(orjson.dumps({"value": value, "count": count}), for_terminal=for_terminal).decode()
        else:
            yield f"{count:>9}  {sanitise(value)}\n"


def _lines(pages: list[Document], layout: Layout) -> Iterator[str]:
    document = pages[0]
    yield f"transaction: {_plain(document.get('queue_id') or 'NOQUEUE')}"
    yield _line("client", _plain(document.get("client")))
    yield _line("from", _plain(document.get("from"), empty="<>"))
    yield _line("msgid", _plain(document.get("msgid"), empty="<>"))
    yield _line("date", _local_time(document["date"], layout))
    shown = pages if layout.verbose else pages[:1]
    attempts = [attempt for page in shown for attempt in page.get("to") or ()]
    for attempt in attempts:
        yield _line("to", _attempt(attempt, layout))
    if not attempts:
        yield _line("to", _ABSENT)
    if (page_count := document.get("page_count") or 1) > len(shown):
        numbers = ", ".join(str(page.get("page", 0) + 1) for page in shown)
        yield _line("pages", f"{numbers} of {page_count} (-t finds a recipient on any, -v shows all that match)")
    yield _line("host", _plain(document.get("host")))
    if layout.verbose:
        yield from _more_lines(document, layout)


def _more_lines(document: Document, layout: Layout) -> Iterator[str]:
    yield _line("updated", _local_time(document["updated"], layout))
    yield _line("outcome", _coloured(_plain(document.get("outcome")), document.get("outcome"), layout))
    yield _line("state", _state(document, layout))
    yield _line("kind", " ".join(_plain(document[name]) for name in ("kind", "stage") if document.get(name)))
    yield _line("mta", _plain(document.get("mta")))
    yield _line("size", _plain(document.get("size")))
    for name in _WHERE_LOGGED:
        if document.get(name):
            yield _line(name.replace("_", " "), _plain(document[name]))
    for link in document.get("links") or ():
        where = f" on {_plain(link['host'])}" if link.get("host") else ""
        yield _line("link", f"{_plain(link.get('kind'))} {_plain(link.get('queue_id'))}{where}")
    for row in document.get("filters") or ():
        yield _line("filter", filter_text(row))
    for note in document.get("notes") or ():
        yield _line("note", _plain(note))


def _attempt(attempt: dict[str, Any], layout: Layout) -> str:
    outcome = attempt.get("outcome")
    fields = [
        f"recipient={_quoted(attempt.get('recipient'))}",
        f"relay={_quoted(attempt.get('relay'))}",
        f"status={_quoted(attempt.get('status'), colour=_colour(outcome, layout))}",
    ]
    if attempt.get("original_recipient"):
        fields.insert(1, f"original={_quoted(attempt['original_recipient'])}")
    if layout.verbose:
        date = attempt.get("date")
        delay = attempt.get("delay_seconds")
        fields += [
            f"date={_quoted(_local_time(date, layout) if date else None)}",
            f"outcome={_quoted(outcome, colour=_colour(outcome, layout))}",
            f"dsn={_quoted(attempt.get('dsn'))}",
            f"delay={_quoted(None if delay is None else f'{delay} s')}",
        ]
    return ", ".join(fields)


def _state(document: Document, layout: Layout) -> str:
    state = document.get("state")
    if state == "open" and milliseconds(document["updated"]) < layout.now_ms - QUEUE_LIFETIME_MS:
        return "incomplete"
    closed_by = document.get("closed_by")
    return f"{_plain(state)} ({_plain(closed_by)})" if closed_by else _plain(state)


def _line(label: str, value: str) -> str:
    return f"{f'{label}:':<{_LABEL_WIDTH - 1}} {value}"


def _plain(value: object, empty: str = _ABSENT) -> str:
    if value is None:
        return _ABSENT
    return sanitise(str(value)) or empty


def _quoted(value: str | None, colour: str = "") -> str:
    if value is None:
        return f"'{_ABSENT}'"
    safe = sanitise(value.replace("\\", "\\\\").replace("'", "\\'"))
    if colour:
        # Only the first word, the outcome as the MTA says it.
        word, space, rest = safe.partition(" ")
        safe = f"{colour}{word}{_RESET}{space}{rest}"
    return f"'{safe}'"


def _coloured(text: str, outcome: str | None, layout: Layout) -> str:
    return coloured(text, _colour(outcome, layout))


def _colour(outcome: str | None, layout: Layout) -> str:
    return colour_of(outcome) if layout.colours else ""


def _local_time(stamp: str, layout: Layout) -> str:
    return in_zone(datetime.fromisoformat(stamp), layout.zone).strftime("%Y-%m-%d %H:%M:%S")
