"""The name of this machine, and of the host of lines that name none: always text that can be written as UTF-8.

The kernel takes any bytes as a machine's name, and a shell any as an argument. Documents, keys and headers hold UTF-8
only.
"""

from __future__ import annotations

import os
import socket

from mailspan.errors import UsageError


def own_name() -> str:
    """Return the name of this machine, with U+FFFD for what is no UTF-8."""
    return os.fsencode(socket.gethostname()).decode("utf-8", "replace")


def log_host(asked: str | None) -> str:
    """Return the host of lines that name none: what --log-host asks for, else this machine. Raises UsageError."""
    if not asked:
        return own_name()
    try:
        asked.encode()
    except UnicodeEncodeError:
        raise UsageError(f"--log-host {asked!r}: expected UTF-8") from None
    return asked
