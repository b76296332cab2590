"""Writes the tables of docs/metrics.md, which are made from the list of metrics: `python -m tests.metrics_page`."""

from __future__ import annotations

from pathlib import Path

from mailspan.metrics import table

PAGE = Path(__file__).parent.parent / "docs" / "metrics.md"
BEGIN, END = "<!-- made by `make docs` from mailspan/metrics.py: -->\n", "<!-- until here -->\n"


def made() -> str:
    """Return the page as it should be."""
    text = PAGE.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{PAGE}: the lines that the tables stand between are missing")
    return f"{before}{BEGIN}\n{table()}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(made(), encoding="utf-8")
