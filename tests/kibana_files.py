"""Writes deploy/kibana/mailspan.ndjson and the tables of docs/kibana.md: `python -m tests.kibana_files`.

All of it is made from sink/kibana_objects.py and the settings; a test says that the files are what these make.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from mailspan.settings import PREFIX, Settings
from sink.kibana_ndjson import ndjson, saved_objects
from sink.kibana_objects import DASHBOARDS, SEARCHES

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).parent.parent
FILE = ROOT / "deploy" / "kibana" / "mailspan.ndjson"
PAGE = ROOT / "docs" / "kibana.md"
_TABLES = {
    "objects": "<!-- made by `make kibana` from sink/kibana_objects.py: -->\n",
    "settings": "<!-- made by `make kibana` from mailspan/settings.py: -->\n",
}
_END = "<!-- until here -->\n"


def made_file() -> bytes:
    """Return the file to import, for the default prefix."""
    return ndjson(saved_objects(Settings().index_prefix))


def made_page() -> str:
    """Return the page with its tables as they should be."""
    text = PAGE.read_text(encoding="utf-8")
    rows = {
        "objects": _table(("what", "shows"), [*_searches(), *_dashboards()]),
        "settings": _table(("setting", "meaning", "expected"), _settings()),
    }
    for name, begin in _TABLES.items():
        before, found, rest = text.partition(begin)
        _, end, after = rest.partition(_END)
        if not found or not end:
            raise SystemExit(f"{PAGE}: the lines that the table of {name} stands between are missing")
        text = f"{before}{begin}\n{rows[name]}\n\n{_END}{after}"
    return text


def _searches() -> Iterable[tuple[str, ...]]:
    return ((f"search *{each.title}*", f"{each.description} `{each.query}`") for each in SEARCHES)


def _dashboards() -> Iterable[tuple[str, ...]]:
    return ((f"dashboard *{each.title}*", each.description) for each in DASHBOARDS)


def _settings() -> Iterable[tuple[str, ...]]:
    return (
        (f"`{PREFIX}{each.name.upper()}`", each.metadata["help"], each.metadata["expected"])
        for each in fields(Settings)
        if each.name.startswith("kibana_")
    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    FILE.write_bytes(made_file())
    PAGE.write_text(made_page(), encoding="utf-8")
