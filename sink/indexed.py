"""What is indexed for a document: its own JSON, and beside it the hidden fields that only searches read. Pure.

TERMS are the very terms of `sink.terms`, so that all stores find the same documents. They are left out of `_source`,
which is the document and nothing else.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import orjson

from sink.terms import fold, terms_of

if TYPE_CHECKING:
    from sink.store import Document

TERMS = "_terms"
SUBJECT = "_subject"
"""The folded subject: what `--subject` must be a part of."""
HIDDEN = (TERMS, SUBJECT)


def indexed(document: Document, encoded: bytes) -> bytes:
    """Return the JSON to index: `encoded`, which is the document's, with the hidden fields at its end."""
    hidden: dict[str, object] = {TERMS: terms_of(document, _lasted_ms(document)).split("\n")}
    if subject := document.get("subject"):
        hidden[SUBJECT] = fold(subject)
    return encoded[:-1] + b"," + orjson.dumps(hidden)[1:]


def _lasted_ms(document: Document) -> int:
    begin, end = (datetime.fromisoformat(document[name]) for name in ("date", "updated"))
    return round((end - begin).total_seconds() * 1000)
