"""How far the files were shipped, kept so that a crash at any moment loses nothing.

A *generation* is one life of one file: until it is truncated, or its inode used for another. Its id is random and
durable before its first line is sent, so that a line sent twice carries the same id and offset both times. Device and
inode find the file again, the fingerprint of its head proves it. The state folder holds `tail.checkpoint`, the one
before it (`.previous`, read where the newest is damaged) and a lock: one producer per folder.

A save is a new file, fsync, rename, fsync of the folder. Positions come from delivery reports only.
"""

from __future__ import annotations

import fcntl
import os
from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec

from mailspan.errors import MailspanError

if TYPE_CHECKING:
    from pathlib import Path

_NAME, _PREVIOUS, _NEW, _LOCK = "tail.checkpoint", "tail.checkpoint.previous", "tail.checkpoint.new", "lock"
_VERSION = 1


class StateError(MailspanError):
    """The state folder cannot be used; the message names it and the setting."""


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
    """The state folder of one producer; opens and locks it. Raises StateError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = -1
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o750)
            self._lock = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o640)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise StateError(
                f"{folder} is used by another producer; give each its own folder with MAILSPAN_STATE_DIR"
            ) from None
        except OSError as error:
            if self._lock >= 0:
                os.close(self._lock)
            raise StateError(
                f"{folder}: the state folder cannot be written ({error.strerror or error});"
                " set MAILSPAN_STATE_DIR to one that can"
            ) from error

    def load(self) -> tuple[list[Generation], str | None]:
        """Return what was saved, and a note where the newest save was damaged. Raises StateError."""
        note = None
        for name in (_NAME, _PREVIOUS):
            path = self._folder / name
            try:
                raw = path.read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StateError(
                    f"{path} cannot be read ({error.strerror or error}); see MAILSPAN_STATE_DIR"
                ) from error
            stored = _decode(raw)
            if stored is not None:
                return stored.generations, note
            note = f"{path} is damaged; an older state is used, so lines may be sent again"
        return [], note

    def save(self, generations: list[Generation]) -> None:
        """Make the positions durable. Raises StateError; what was saved before then still stands."""
        try:
            new = self._folder / _NEW
            file = os.open(new, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o640)
            try:
                raw = memoryview(_encode(_Stored(_VERSION, generations)))
                while raw:
                    raw = raw[os.write(file, raw) :]
                os.fsync(file)
            finally:
                os.close(file)
            current = self._folder / _NAME
            if current.exists():
                current.replace(self._folder / _PREVIOUS)
            new.replace(current)
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise StateError(
                f"{self._folder}: positions cannot be saved ({error.strerror or error}); see MAILSPAN_STATE_DIR"
            ) from error

    def close(self) -> None:
        """Give the folder free."""
        os.close(self._lock)


def _digest(body: bytes) -> bytes:
    return blake2b(body, digest_size=16).hexdigest().encode()


def _encode(stored: _Stored) -> bytes:
    body = msgspec.json.format(msgspec.json.encode(stored), indent=1)
    return _digest(body) + b"\n" + body + b"\n"


def _decode(raw: bytes) -> _Stored | None:
    digest, _, body = raw.partition(b"\n")
    body = body.removesuffix(b"\n")
    if digest != _digest(body):
        return None
    try:
        stored = msgspec.json.decode(body, type=_Stored)
    except msgspec.MsgspecError:
        return None
    return stored if stored.version == _VERSION else None
