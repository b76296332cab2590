"""Templates to HTML: the only file that imports Jinja2.

Every value that a template puts out is escaped, and made visible first where it could not be seen or would turn other
text around: the environment does it, so no template can forget it. There is no filter that lets a value through as
HTML, and no value is put where it would be read as anything but text or an address of ours.
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mailspan.terminal import sanitise
from web.views import stamp, tone_of

if TYPE_CHECKING:
    from collections.abc import Mapping

_NOTHING = "–"
_LONGEST = 300


def _shown(value: object) -> object:
    """Return what is put out for a value: markup of our own macros as it is, all else as safe text."""
    if isinstance(value, Markup):
        return value
    return _NOTHING if value is None else sanitise(str(value))


def _short(text: str | None) -> str | None:
    """Return a text cut to what a heading or a row of a list has room for; fields and attempts show all of it."""
    return text if text is None or len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _file(name: str) -> bytes:
    return (resources.files("web") / "static" / name).read_bytes()


class Pages:
    """All templates, and the files beside them by their paths."""

    def __init__(self) -> None:
        self._environment = Environment(
            loader=PackageLoader("web"),
            autoescape=True,
            finalize=_shown,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._environment.globals.update(stamp=stamp, tone=tone_of, short=_short)
        self.files = {
            "/style.css": ("text/css; charset=utf-8", _file("style.css")),
            "/icon.svg": ("image/svg+xml", _file("icon.svg")),
        }

    def html(self, name: str, values: Mapping[str, Any]) -> str:
        """Return the page that a template makes of these values."""
        return self._environment.get_template(f"{name}.html").render(values)
