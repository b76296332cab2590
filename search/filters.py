"""What filters said of a mail, and a user's script did, in one line each. Pure; safe for a terminal.

Filters write what senders wrote: every value goes through `sanitise`, and long detail is cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mailspan.terminal import sanitise

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOST_DETAIL = 200
_HARMLESS = frozenset(
    {
        ("rspamd", "no action"),
        ("amavis", "Passed CLEAN"),
        ("opendkim", "no signature"),
        ("opendkim", "signed"),
        ("opendkim", "signature verified"),
        ("opendmarc", "pass"),
        ("opendmarc", "none"),
        ("opendmarc", "SPF pass"),
        ("opendmarc", "SPF none"),
    }
)


def is_harmless(row: Mapping[str, Any]) -> bool:
    """Whether a filter had nothing against the mail, and did nothing with it that its reader would notice."""
    return (row.get("filter"), row.get("verdict")) in _HARMLESS


def filter_text(row: Mapping[str, Any]) -> str:
    """Return a row of a document's `filters`: `rspamd: reject, score 19.2 of 15: [...]`."""
    score, required = row.get("score"), row.get("required_score")
    points = "" if score is None else f", score {score:g}" + ("" if required is None else f" of {required:g}")
    detail = sanitise(str(row.get("detail") or ""))
    if len(detail) > _MOST_DETAIL:
        detail = f"{detail[:_MOST_DETAIL]}…"
    words = f"{sanitise(str(row.get('filter')))}: {sanitise(str(row.get('verdict')))}{points}"
    return f"{words}: {detail}" if detail else words
