"""Names that rotation gives to a log, and back.

Pure. logrotate: `mail.log.1`, `mail.log-20261125`, `mail-20261125.log` (extension), then `.gz`, `.bz2`, `.xz`, `.zst`;
newsyslog: `mail.log.0.bz2`; kubelet: `0.log.20261125-022537`. `mail.err` is no rotated `mail`.
"""

from __future__ import annotations

import re

_STAMP = r"(?:[.\-_](?:[0-9][0-9\-_.:T]*|old|bak))"
_PACKED = r"\.(?:gz|bz2|xz|zst)"
_BEHIND = re.compile(rf"(?P<base>.+?){_STAMP}(?:{_PACKED})?", re.DOTALL)
_BEFORE = re.compile(rf"(?P<stem>.+?){_STAMP}(?P<extension>\.[a-z]{{1,8}})(?:{_PACKED})?", re.DOTALL)
_PACKED_END = re.compile(rf"{_PACKED}\Z")


def is_rotated(name: str, base: str) -> bool:
    """Whether `name` is what rotation makes of `base`; both without their folder."""
    return name != base and base in bases(name)


def bases(name: str) -> list[str]:
    """Return the names that `name` may have had before it was rotated."""
    found = []
    match = _BEHIND.fullmatch(name)
    if match is not None:
        found.append(match["base"])
    match = _BEFORE.fullmatch(name)
    if match is not None:
        found.append(match["stem"] + match["extension"])
    packed = unpacked(name)
    if packed is not None:
        found.append(packed)
    return found


def unpacked(name: str) -> str | None:
    """Return the name without the ending of a packed file; None where it has none."""
    match = _PACKED_END.search(name)
    return None if match is None else name[: match.start()]
