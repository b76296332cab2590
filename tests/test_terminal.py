"""Nothing that a log says can act on a terminal, and nothing else is changed."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailspan.terminal import sanitise, sanitise_json, use_colours

EXAMPLES = settings(max_examples=200, deadline=None, derandomize=True)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, café, 日本", "plain, café, 日本"),
        ("\x1b[2J\x9b1m", "\\x1b[2J\\x9b1m"),
        ("a\r\nb\tc\x7f", "a\\x0d\\x0ab\\x09c\\x7f"),
        ("moc.elpmaxe\u202eevil", "moc.elpmaxe\\u202eevil"),
        ("\udcff", "\\udcff"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_what_is_shown(text: str, shown: str) -> None:
    assert sanitise(text) == shown


@EXAMPLES
@given(st.text())
def test_no_control_and_no_format_character_is_left(text: str) -> None:
    shown = sanitise(text)
    assert len(shown.splitlines()) <= 1
    assert not any(unicodedata.category(each) in {"Cc", "Cs", "Zl", "Zp"} for each in shown)
    assert not any(unicodedata.bidirectional(each) in {"RLO", "LRO", "RLE", "LRE", "PDF", "RLI"} for each in shown)


@EXAMPLES
@given(st.dictionaries(st.text(), st.text()))
def test_json_means_the_same(value: dict[str, str]) -> None:
    text = json.dumps(value, ensure_ascii=False)
    assert json.loads(sanitise_json(text)) == value
    assert sanitise(sanitise_json(text)) == sanitise_json(text)


class Terminal:
    def isatty(self) -> bool:
        return True


class Pipe:
    def isatty(self) -> bool:
        return False


@pytest.mark.parametrize(
    ("stream", "environment", "colours"),
    [
        (Terminal(), {}, True),
        (Terminal(), {"NO_COLOR": ""}, True),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"TERM": "dumb"}, False),
        (Pipe(), {}, False),
    ],
)
def test_when_to_colour(stream: Terminal | Pipe, environment: dict[str, str], colours: bool) -> None:  # noqa: FBT001
    assert use_colours(stream, environment) is colours
