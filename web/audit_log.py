"""The audit log: one JSON line for each look-up, on the disk before its answer is shown.

Whole lines or nothing: one that could not be written to its end is taken out again, and who asked is not answered. A
value cannot end its line or act on a terminal: JSON, with all that a terminal acts on written as escapes. The file is
opened anew for each line, so it may be renamed at any time (logrotate without copytruncate).
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from typing import TYPE_CHECKING

import orjson

from mailspan.errors import MailspanError
from mailspan.terminal import sanitise_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_MODE = 0o640
_TURN_SECONDS = 0.02
LOCK_SECONDS = 5.0
"""What another one holds for so long is not waited for."""


class AuditError(MailspanError):
    """The audit log cannot be written; the message names it."""


class AuditLog:
    """The log at a path; its folder must be there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def check(self) -> None:
        """Open it once, to see now rather than at the first look-up that it can be. Raises AuditError."""
        try:
            os.close(self._open())
        except OSError as error:
            raise self._fault(error) from None

    def write(self, entry: Mapping[str, object]) -> None:
        """Append one line; return when it is safe. Blocks for the disk. Raises AuditError."""
        line = sanitise_json(orjson.dumps(entry).decode()).encode() + b"\n"
        deadline = time.monotonic() + LOCK_SECONDS
        try:
            if not self._lock.acquire(timeout=LOCK_SECONDS):
                raise _held()
            try:
                descriptor = self._open()
                try:
                    _hold(descriptor, deadline)
                    _append(descriptor, line)
                finally:
                    os.close(descriptor)
            finally:
                self._lock.release()
        except OSError as error:
            raise self._fault(error) from None

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        return os.open(self._path, flags, _MODE)

    def _fault(self, error: OSError) -> AuditError:
        return AuditError(
            f"the audit log {self._path} cannot be written ({error.strerror or error}): nobody is answered until it"
            " can; see MAILSPAN_WEB_AUDIT_LOG"
        )


def _hold(descriptor: int, deadline: float) -> None:
    """Lock the file, for another process may write to it. Whoever may read it can hold it, too: so not for ever."""
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise _held() from None
            time.sleep(_TURN_SECONDS)
        else:
            return


def _held() -> OSError:
    return OSError(errno.EAGAIN, f"another one has locked it for {LOCK_SECONDS:g} seconds")


def _append(descriptor: int, line: bytes) -> None:
    before = os.fstat(descriptor).st_size
    try:
        left = memoryview(line)
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, before)
        raise
