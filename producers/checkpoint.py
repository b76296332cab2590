"""How far the files were shipped, kept so that a crash at any moment loses nothing.

A *generation* is one life of one file: until it is truncated, or its inode used for another. Its id is random and
durable before its first line is sent, so that a line sent twice carries the same id and offset both times. Device and
inode find the file again, the fingerprint of its head proves it. Positions come from delivery reports only. How it is
kept is said in `state_folder`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from producers.state_folder import StateFolder

if TYPE_CHECKING:
    from pathlib import Path

_NAME = "tail.checkpoint"
_VERSION = 1


class Generation(msgspec.Struct):
    """One life of one file. `path` is the name without what rotation adds; `offset` is where to read on."""

    id: str
    path: str
    device: int
    inode: int
    length: int = 0
    digest: str = ""
    offset: int = 0
    size: int = 0
    """How long it was when it was last looked at."""
    modified: int = 0
    """When the file was last written, in ns: what was written later, and is not known, was missed."""
    is_finished: bool = False
    """Nothing more is expected of it; remembered so that it is not taken for new."""
    seen: int = 0
    """Epoch second at which it was last there."""

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode."""
        return self.device, self.inode


class _Stored(msgspec.Struct):
    version: int
    generations: list[Generation]


class Checkpoint:
    """The state folder of one tail; opens and locks it. Raises StateError."""

    def __init__(self, folder: Path) -> None:
        self._folder = StateFolder(folder, _NAME)

    def load(self) -> tuple[list[Generation], str | None]:
        """Return what was saved, and a note where the newest save was damaged. Raises StateError."""
        generations, note = self._folder.load(_decode)
        return generations or [], note

    def save(self, generations: list[Generation]) -> None:
        """Make the positions durable. Raises StateError; what was saved before then still stands."""
        self._folder.save(msgspec.json.format(msgspec.json.encode(_Stored(_VERSION, generations)), indent=1))

    def close(self) -> None:
        """Give the folder free."""
        self._folder.close()


def _decode(body: bytes) -> list[Generation] | None:
    try:
        stored = msgspec.json.decode(body, type=_Stored)
    except msgspec.MsgspecError:
        return None
    return stored.generations if stored.version == _VERSION else None
