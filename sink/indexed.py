"""What is indexed for a document: its own JSON, and beside it hidden fields that only searches read. Pure.

They stand in one object, HIDDEN, which is left out of `_source`: that is the document and nothing else. The terms are
the very ones of `sink.terms`, so that all stores find the same documents.
"""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec
import orjson

from sink.facets import COLUMNS, recipients_of, sender_of
from sink.terms import fold, terms_of

if TYPE_CHECKING:
    from sink.store import Document

HIDDEN = "mailspan"
TERMS = f"{HIDDEN}.terms"
SUBJECT = f"{HIDDEN}.subject"
"""The folded subject: what `--subject` must be a part of."""
UPDATED = f"{HIDDEN}.updated"
"""Milliseconds since 1970 UTC of the last update or, where clocks differ and that is later, of the date."""
_COUNTED = {
    "sender": (sender_of, COLUMNS["sender"][1]),
    "sender_domain": (sender_of, COLUMNS["sender_domain"][1]),
    "recipient_domain": (recipients_of, COLUMNS["recipient_domain"][1]),
}
"""What is counted by and is no field of the document as it is counted: the text it is made of, and its values."""

_HIDDEN_KEY = f',"{HIDDEN}":'.encode()
_TIMES_AT_HAND = 4096  # documents that come together are of the same seconds
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
    """Return the JSON to index: `encoded`, which is the document's, with the hidden fields at its end, in one line.

    A request holds a line for each document and for what to do with it: another line would be taken for the latter.
    """
    if b"\n" in encoded or not encoded.endswith(b"}"):
        encoded = msgspec.json.format(encoded, indent=-1)
    begin, end = _milliseconds(document["date"]), _milliseconds(document["updated"])
    hidden: dict[str, object] = {"terms": terms_of(document, end - begin).split("\n"), "updated": max(begin, end)}
    for name, (text_of, values_of) in _COUNTED.items():
        hidden[name] = values_of(text_of(document))
    if subject := document.get("subject"):
        hidden["subject"] = fold(subject)
    return b"".join((memoryview(encoded)[:-1], _HIDDEN_KEY, orjson.dumps(hidden), b"}"))


@lru_cache(maxsize=_TIMES_AT_HAND)
def _milliseconds(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)
