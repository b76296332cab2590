"""A producer's state folder: one saved text that a crash at any moment leaves whole, and a lock.

The newest save is NAME, the one before it NAME.previous, read where the newest is damaged. A save is a new file, fsync,
rename, fsync of the folder. A digest in its first line tells a damaged one. One producer per folder.
"""

from __future__ import annotations

import fcntl
import os
from hashlib import blake2b
from typing import TYPE_CHECKING, TypeVar

from mailspan.errors import MailspanError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_LOCK = "lock"
_State = TypeVar("_State")


class StateError(MailspanError):
    """The state folder cannot be used; the message names it and the setting."""


class StateFolder:
    """The state folder of one producer; makes and locks it. Raises StateError."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
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

    def load(self, decode: Callable[[bytes], _State | None]) -> tuple[_State | None, str | None]:
        """Return what was saved, and a note where the newest save was damaged.

        `decode` gives None for what it cannot read. Raises StateError.
        """
        note = None
        for name in (self._name, f"{self._name}.previous"):
            path = self._folder / name
            try:
                raw = path.read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StateError(
                    f"{path} cannot be read ({error.strerror or error}); see MAILSPAN_STATE_DIR"
                ) from error
            digest, _, body = raw.partition(b"\n")
            body = body.removesuffix(b"\n")
            state = decode(body) if digest == _digest(body) else None
            if state is not None:
                return state, note
            note = f"{path} is damaged; an older state is used, so lines may be sent again"
        if note is not None:
            note = f"{self._folder / self._name} is damaged, and no older state is there; all is sent again"
        return None, note

    def save(self, body: bytes) -> None:
        """Make it durable. Raises StateError; what was saved before then still stands."""
        try:
            new = self._folder / f"{self._name}.new"
            file = os.open(new, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o640)
            try:
                raw = memoryview(_digest(body) + b"\n" + body + b"\n")
                while raw:
                    raw = raw[os.write(file, raw) :]
                os.fsync(file)
            finally:
                os.close(file)
            current = self._folder / self._name
            if current.exists():
                current.replace(self._folder / f"{self._name}.previous")
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
