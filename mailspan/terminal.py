r"""Log text made safe to show, and the choice of colours.

Anyone who sends mail chooses bytes that end in a mail log. Shown raw, they could move the cursor,
retitle the window or, with bidi marks, make one address read as another. `sanitise` shows every
such character as a visible escape (`\x1b`, `\u202e`) and leaves all other Unicode as it is. Nothing
here reads or writes a stream.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

# Each row: characters that act on a terminal or cannot be seen, and why they are listed.
_UNSAFE_RANGES = (
    ("\x00", "\x1f"),  # C0 controls, with ESC, tab and the line ends
    ("\x7f", "\x9f"),  # DEL and the C1 controls: U+009B alone starts a sequence
    ("\u00ad", "\u00ad"),  # soft hyphen, drawn or not as the terminal likes
    ("\u034f", "\u034f"),  # combining grapheme joiner, never drawn
    ("\u061c", "\u061c"),  # Arabic letter mark
    ("\u115f", "\u1160"),  # Hangul fillers, drawn as nothing
    ("\u17b4", "\u17b5"),  # Khmer inherent vowels, never drawn
    ("\u180b", "\u180f"),  # Mongolian variation selectors and vowel separator
    ("\u200b", "\u200f"),  # zero-width spaces and joiners, LRM and RLM
    ("\u2028", "\u202e"),  # line and paragraph separators, bidi embeddings and overrides
    ("\u2060", "\u206f"),  # word joiner, invisible operators, bidi isolates
    ("\u3164", "\u3164"),  # Hangul filler
    ("\ud800", "\udfff"),  # lone surrogates: bytes that were not UTF-8
    ("\ufeff", "\ufeff"),  # byte order mark
    ("\uffa0", "\uffa0"),  # half-width Hangul filler
    ("\ufff0", "\ufffb"),  # interlinear annotation marks
    ("\U000e0000", "\U000e0fff"),  # tag characters and variation selectors
)
_UNSAFE = re.compile("[" + "".join(f"{first}-{last}" for first, last in _UNSAFE_RANGES) + "]")
_BYTE_MAX = 0xFF
_BMP_MAX = 0xFFFF


class Stream(Protocol):
    """What the choice of colours needs to know of an output stream."""

    def isatty(self) -> bool:
        """Say whether a terminal is at the other end."""


def sanitise(text: str) -> str:
    """Return `text` with every control, bidi and invisible character shown as an escape; always one line."""
    return _UNSAFE.sub(_python_escape, text)


def sanitise_json(text: str) -> str:
    r"""Return JSON text that means the same and holds the unsafe characters as `\uXXXX`.

    `text` is one JSON value on one line, as orjson writes it: such characters stand inside strings
    only.
    """
    return _UNSAFE.sub(_json_escape, text)


def use_colours(stream: Stream, environment: Mapping[str, str]) -> bool:
    """Say whether to colour: only a terminal that is not `dumb`, and only while NO_COLOR is unset or empty."""
    return not environment.get("NO_COLOR") and environment.get("TERM") != "dumb" and stream.isatty()


def _python_escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code <= _BYTE_MAX:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= _BMP_MAX else f"\\U{code:08x}"


def _json_escape(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
