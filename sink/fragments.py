"""Fragments that a fuller document makes superfluous.

A fragment is what lines tell of a transaction whose birth line was not seen. Where a part of a log is read before or
after the whole of it (a filtered copy, a log cut in two), the whole transaction says all that the fragment says, under
another id: then the fragment is not kept. Pure; which documents are compared is the store's business.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sink.store import Document

_QUEUE_ID = re.compile(r"[^/~#]+")
_SAID_ONCE = (
    "from", "msgid", "size", "client", "subject", "closed_by", "helo", "protocol", "sasl_username", "tls",
    "controlling_user", "recipient_count",
)  # fmt: skip
_LISTED = ("recipients", "relays", "dsns", "links")
_SECOND = len("2026-11-23T07:55:08")  # copies of a log may have finer stamps


def family_of(identity: str) -> str | None:
    """Return what the ids of all documents of one host and queue ID begin with; None for what has no queue ID."""
    host, _, rest = identity.partition("/")
    match = _QUEUE_ID.match(rest)
    return None if match is None else f"{host}/{match[0]}"


def is_fragment(identity: str) -> bool:
    """Whether an id is a fragment's: host/queue_id, then the digest of its first line."""
    name = family_of(identity)
    return name is not None and identity[len(name) : len(name) + 1] == "~"


def mail_of(identity: str) -> str:
    """Return the id of a mail's first page."""
    return identity.partition("#")[0]


def joined(pages: Sequence[Document]) -> Document:
    """Return the pages of one mail as one document."""
    first = min(pages, key=lambda page: int(page["page"]))
    return {**first, **{name: [each for page in pages for each in page[name]] for name in ("to", *_LISTED)}}


def says_all_of(whole: Document, fragment: Document) -> bool:
    """Whether nothing in the fragment is missing in the other document of its queue ID, made of more lines."""
    if whole["id"] == fragment["id"] or any(whole[name] != fragment[name] for name in ("host", "queue_id")):
        return False
    if whole["version"] <= fragment["version"]:
        return False
    if not _spans(whole, fragment):
        return False
    if any(fragment[name] is not None and fragment[name] != whole[name] for name in _SAID_ONCE):
        return False
    if any(_different(whole[name], fragment[name]) for name in _LISTED):
        return False
    return _attempts(fragment) <= _attempts(whole)


def _spans(whole: Document, fragment: Document) -> bool:
    """Whether the fragment's lines are of the other's time; where IDs are used once, they are of its mail anyhow."""
    if fragment["updated"][:_SECOND] > whole["updated"][:_SECOND]:
        return False
    is_used_once: bool = whole["id"] == family_of(whole["id"])
    return is_used_once or bool(fragment["date"][:_SECOND] >= whole["date"][:_SECOND])


def _different(whole: Sequence[object], fragment: Sequence[object]) -> bool:
    known = set(map(repr, whole))
    return any(repr(each) not in known for each in fragment)


def _attempts(document: Document) -> set[tuple[str | None, str, str | None]]:
    return {(each["recipient"], each["date"][:_SECOND], each["status"]) for each in document["to"]}
