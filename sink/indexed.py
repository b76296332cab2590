"""What is indexed for a document: its own JSON, and beside it hidden fields that only searches read. Pure.

They stand in one object, HIDDEN, which is left out of `_source`: that is the document and nothing else. The terms are
the very ones of `sink.terms`, so that all stores find the same documents.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson

from sink.facets import COLUMNS, facets_of
from sink.terms import terms_of

if TYPE_CHECKING:
    from sink.store import Document

HIDDEN = "mailspan"
TERMS = f"{HIDDEN}.terms"
SUBJECT = f"{HIDDEN}.subject"
"""The folded subject: what `--subject` must be a part of."""
UPDATED = f"{HIDDEN}.updated"
"""Milliseconds since 1970 UTC of the last update or, where clocks differ and that is later, of the date."""
_COUNTED = ("sender", "sender_domain", "recipient_domain")
"""What is counted by and is no field of the document as it is counted."""

_LONGEST_TERM = 8191  # characters: Lucene takes 32766 bytes
HIDDEN_MAPPING: dict[str, Any] = {
    "properties": {
        "terms": {"type": "keyword", "doc_values": False, "ignore_above": _LONGEST_TERM},
        "subject": {"type": "keyword", "doc_values": False, "ignore_above": _LONGEST_TERM},
        "updated": {"type": "long"},
        **{name: {"type": "keyword", "index": False, "ignore_above": _LONGEST_TERM} for name in _COUNTED},
    }
}
"""The mapping of HIDDEN."""


def indexed(document: Document, encoded: bytes) -> bytes:
    """Return the JSON to index: `encoded`, which is the document's, with the hidden fields at its end."""
    begin, end = (round(datetime.fromisoformat(document[name]).timestamp() * 1000) for name in ("date", "updated"))
    facets = facets_of(document, 0, begin, end)
    hidden: dict[str, object] = {"terms": terms_of(document, end - begin).split("\n"), "updated": facets.updated}
    for name in _COUNTED:
        column, values_of = COLUMNS[name]
        hidden[name] = values_of(getattr(facets, column))
    if facets.subject is not None:
        hidden["subject"] = facets.subject
    return encoded[:-1] + b',"' + HIDDEN.encode() + b'":' + orjson.dumps(hidden) + b"}"
