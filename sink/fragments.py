"""Fragments that a fuller document makes superfluous.

A fragment is what lines tell of a transaction whose birth line was not seen. Where a part of a log is read before or
after the whole of it (a filtered copy, a log cut in two), the whole transaction says all that the fragment says, under
another id: then the fragment is not kept. Pure; which documents are compared is the store's business.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sink.store import Document

_QUEUE_ID = re.compile(r"[^/~#]+")
_SAID_ONCE = (
    "from", "msgid", "size", "client", "subject", "closed_by", "helo", "protocol", "sasl_username", "tls",
    "controlling_user", "recipient_count",
)  # fmt: skip
_LISTED = ("recipients", "relays", "dsns", "links")
_SECOND = len("2026-11-23T07:55:08")  # copies of a log may have finer stamps
_MOST_COMPARED = 50
"""A queue ID that is used for ever must not cost time that grows with the square: fragments too many are kept."""


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


def superfluous(documents: Mapping[str, Document]) -> set[str]:
    """Return the ids of the fragments, each with its pages, of which another of these documents says all.

    Of the mails of one host and queue ID each fragment is compared with those that began last before it, for such are
    of its time, and with the one whose ID is used once.
    """
    names = {family_of(id_) for id_ in documents if is_fragment(id_)}
    pages: dict[str, list[Document]] = {}
    for id_, document in documents.items():
        if family_of(id_) in names:
            pages.setdefault(mail_of(id_), []).append(document)
    mails = {id_: _joined(found) for id_, found in pages.items()}
    alike: dict[str | None, list[Document]] = {}
    for id_, mail in sorted(mails.items(), key=lambda each: _begin(each[1])):
        alike.setdefault(family_of(id_), []).append(mail)
    gone: set[str] = set()
    for id_, mail in mails.items():
        if is_fragment(id_):
            name = family_of(id_)
            until = bisect_right(alike[name], _begin(mail), key=_begin)
            compared = alike[name][max(0, until - _MOST_COMPARED) : until]
            if name in mails:
                compared.append(mails[name])
            if any(_says_all_of(each, mail) for each in compared):
                gone.update(str(page["id"]) for page in pages[id_])
    return gone


def _joined(pages: Sequence[Document]) -> Document:
    """Return the pages of one mail as one document."""
    first = min(pages, key=lambda page: int(page["page"]))
    return {**first, **{name: [each for page in pages for each in page[name]] for name in ("to", *_LISTED)}}


def _says_all_of(whole: Document, fragment: Document) -> bool:
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
    return _attempts(fragment) <= _attempts(whole) and _filters(fragment) <= _filters(whole)


def _spans(whole: Document, fragment: Document) -> bool:
    """Whether the fragment's lines are of the other's time; where IDs are used once, they are of its mail anyhow."""
    if fragment["updated"][:_SECOND] > whole["updated"][:_SECOND]:
        return False
    is_used_once: bool = whole["id"] == family_of(whole["id"])
    return is_used_once or _begin(fragment) >= _begin(whole)


def _begin(document: Document) -> str:
    begin: str = document["date"][:_SECOND]
    return begin


def _different(whole: Sequence[object], fragment: Sequence[object]) -> bool:
    known = set(map(repr, whole))
    return any(repr(each) not in known for each in fragment)


def _attempts(document: Document) -> set[tuple[str | None, str, str | None]]:
    return {(each["recipient"], each["date"][:_SECOND], each["status"]) for each in document["to"]}


def _filters(document: Document) -> set[tuple[str | float | None, ...]]:
    """Return the rows of filters, which documents of an older mailspan do not have."""
    return {
        (each["filter"], each["verdict"], each["score"], each["detail"], each["date"][:_SECOND])
        for each in document.get("filters") or ()
    }
