"""What commands must know of the machine they run on: its zone, and where a user's state is kept."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from mailspan.commands.logs import read_zone
from mailspan.errors import UsageError


def state_folder(setting: str) -> Path:
    """Return where MAILSPAN_STATE_DIR, else the default for this user, keeps what must last."""
    if setting:
        return Path(setting)
    if os.geteuid() == 0:
        return Path("/var/lib/mailspan")
    base = os.environ.get("XDG_STATE_HOME", "")
    return Path(base if base.startswith("/") else Path.home() / ".local" / "state") / "mailspan"


def zone_name() -> str:
    """Return this machine's zone as a name if it has one, else as its present offset, else nothing."""
    name = os.environ.get("TZ", "").removeprefix(":")
    if not name:
        found = str(Path("/etc/localtime").resolve())
        _, found_zone, name = found.partition("/zoneinfo/")
        if not found_zone:
            name = ""
    for text in (name, datetime.now(UTC).astimezone().strftime("%z")):
        try:
            read_zone(text)
        except UsageError:
            continue
        return text
    return ""
