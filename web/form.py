"""The search form: its fields are the flags of `search`, and what it asks for is the query that these ask for.

Pure. What a browser sends is text of anybody: fields have a longest length, come once, and have known names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlencode

from mailspan.errors import UsageError
from search.query import STATES, parse_query
from sink.terms import OUTCOMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime, tzinfo

    from search.query import Query

LONGEST_VALUE = 1000
"""Characters of one field: a message id may have 998 in a line of RFC 5322."""
NUMBERS = ("20", "50", "100")
DEFAULT_NUMBER = "50"
MOST_SKIPPED = 1000


class Field(NamedTuple):
    """One field: its name here, that of the flag in search.query.FLAGS, its label, and an example or hint."""

    name: str
    flag: str
    label: str
    hint: str = ""
    choices: tuple[str, ...] = ()


_TIME_HINT = "2026-11-23 07:55, a date, today, 2h, 7d"
FIRST = (
    Field("term", "term", "Queue ID, message ID, address or IP"),
    Field("from", "sender", "From", "address, @domain, or <>"),
    Field("to", "recipient", "To", "address or @domain"),
    Field("since", "since", "Since", _TIME_HINT),
    Field("until", "until", "Until", "the same; a date means to its end"),
    Field("outcome", "outcome", "Outcome", "", OUTCOMES),
)
"""What is shown at once."""
MORE = (
    Field("host", "host", "Mail server", "full or short name"),
    Field("client", "client", "Client", "name, IP or network"),
    Field("relay", "relay", "Relay", "name, IP, local or none"),
    Field("queue_id", "queue_id", "Queue ID"),
    Field("message_id", "message_id", "Message ID", "with or without <>"),
    Field("subject", "subject", "Subject contains"),
    Field("dsn", "dsn", "Status code", "5.7 means 5.7.*"),
    Field("state", "state", "State", "", STATES),
)
"""What is shown under "More fields"."""
FIELDS = FIRST + MORE
LABELS = {field.flag: field.label for field in FIELDS}
SWITCHES = {
    "started": "Since and Until look at the start of a mail only",
    "probes": "Also address verification probes",
    "mailboxes": "Also what mailbox servers did with mail handed to them",
}
_KNOWN = {field.name for field in FIELDS} | set(SWITCHES) | {"zone", "number", "before", "skip"}


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked: texts by the names of fields, without those that are empty."""

    values: Mapping[str, str]

    @property
    def is_search(self) -> bool:
        """Whether anything is looked for at all, or the form is only opened."""
        return any(name not in ("zone", "number") for name in self.values)

    @property
    def uses_more(self) -> bool:
        """Whether a field is given that is shown under "More fields"."""
        return any(field.name in self.values for field in MORE) or any(name in self.values for name in SWITCHES)

    @property
    def number(self) -> int:
        """How many mails a page of results has."""
        return int(self.values.get("number", DEFAULT_NUMBER))

    @property
    def skip(self) -> int:
        """How many mails of the millisecond `before` stand on the pages before this one."""
        return int(self.values.get("skip", "0"))

    def query(self, now: datetime, zone: tzinfo | None) -> Query:
        """Return the query. Raises UsageError, which names the field."""
        flags = {field.flag: self.values.get(field.name) for field in FIELDS}
        return parse_query(
            flags,
            now=now,
            zone=zone,
            started_only="started" in self.values,
            probes="probes" in self.values,
            mailboxes="mailboxes" in self.values,
            labels=LABELS,
        )

    def with_values(self, **values: str) -> str:
        """Return the query string of the same question with other values."""
        return urlencode({**self.values, **values}, errors="replace")


def read_search(pairs: Iterable[tuple[str, str]]) -> Asked:
    """Return what a query string asks the form for. Raises UsageError."""
    values = read_fields(pairs, _KNOWN)
    if values.get("number", DEFAULT_NUMBER) not in NUMBERS:
        raise UsageError(f"Mails on a page: expected one of {', '.join(NUMBERS)}")
    if "before" in values and not _is_number(values["before"], 1 << 52):
        raise UsageError("before: expected milliseconds since 1970")
    if not _is_number(values.get("skip", "0"), MOST_SKIPPED):
        raise UsageError(f"skip: expected a number up to {MOST_SKIPPED}")
    return Asked(values)


def read_fields(pairs: Iterable[tuple[str, str]], known: Iterable[str]) -> dict[str, str]:
    """Return the fields that are not empty, by name. Raises UsageError."""
    values: dict[str, str] = {}
    names = set(known)
    for name, text in pairs:
        if name not in names:
            raise UsageError(f"{name[:50]!r}: there is no such field")
        if len(text) > LONGEST_VALUE:
            raise UsageError(f"{_label(name)}: longer than {LONGEST_VALUE} characters")
        if "\0" in text or not _is_unicode(text):
            raise UsageError(f"{_label(name)}: expected text")
        if name in values:
            raise UsageError(f"{_label(name)}: given twice")
        if text.strip():
            values[name] = text.strip()
    return values


def _label(name: str) -> str:
    return next((field.label for field in FIELDS if field.name == name), name)


def _is_number(text: str, most: int) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= len(str(most)) and int(text) <= most


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
