"""Links of the documents: each leads to a file of the project, and each `#part` to a heading there.

Links to other sites are not followed.
"""

from __future__ import annotations

import re
from functools import cache

import pytest

from tests.running import ROOT

_LINK = re.compile(r"!?\[[^\]]*\]\(([^()\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
_FENCED = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")
_OTHER_SITE = re.compile(r"[a-z][a-z0-9+.-]*:")


def documents() -> list[str]:
    """Return the paths of the documents in Markdown: of the project's own folder, of docs and of deploy."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")]
    return sorted(str(path.relative_to(ROOT)) for path in found)


def anchor(heading: str) -> str:
    """Return how GitHub names a heading: lower case, hyphens for blanks, no other signs."""
    text = re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading).lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


@cache
def anchors(name: str) -> frozenset[str]:
    """Return the anchors of a document's headings; of equal headings all but the first have a number."""
    text = _FENCED.sub("", (ROOT / name).read_text())
    seen: dict[str, int] = {}
    found = set()
    for heading in _HEADING.findall(text):
        plain = anchor(heading)
        count = seen[plain] = seen.get(plain, -1) + 1
        found.add(f"{plain}-{count}" if count else plain)
    return frozenset(found)


def broken_links(name: str, text: str) -> list[str]:
    """Return the links of a document that lead nowhere."""
    broken = []
    for target in _LINK.findall(_CODE.sub("", _FENCED.sub("", text))):
        if _OTHER_SITE.match(target):
            continue
        path, _, part = target.partition("#")
        file = ((ROOT / name).parent / path).resolve() if path else ROOT / name
        if not file.exists() or (part and part not in anchors(str(file.relative_to(ROOT)))):
            broken.append(target)
    return broken


@pytest.mark.parametrize("name", documents())
def test_links_lead_somewhere(name: str) -> None:
    assert broken_links(name, (ROOT / name).read_text()) == []


def test_a_link_that_leads_nowhere_is_found() -> None:
    text = (
        "[a](README.md) [b](gone.md) [c](README.md#quick-start) [d](README.md#gone) [e](#gone) [f](https://x.test/#y)"
    )
    assert broken_links("README.md", text) == ["gone.md", "README.md#gone", "#gone"]
