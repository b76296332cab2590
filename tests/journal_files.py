"""Real journal files, made by systemd-journal-remote from the export format, and what is read of them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

REMOTE = next(
    (path for path in ("/lib/systemd/systemd-journal-remote", "/usr/lib/systemd/systemd-journal-remote") if Path(path).exists()),
    None,
)  # fmt: skip
JOURNALCTL = shutil.which("journalctl")
MISSING = "needs journalctl and systemd-journal-remote (Debian, Ubuntu: apt-get install systemd systemd-journal-remote)"
_FIRST_SECOND = 1_764_000_000


class Sent(NamedTuple):
    """An entry to be written."""

    message: bytes
    second: int
    boot: int = 5
    fields: tuple[str, ...] = ()


def write_journal(path: Path, entries: list[Sent]) -> None:
    """Write a journal file; a file that is there is appended to, as journald does."""
    assert REMOTE is not None
    exported = b"".join(_export(each) for each in entries)
    command = [REMOTE, f"--output={path}", "-"]
    done = subprocess.run(command, input=exported, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert path.exists()


def _export(entry: Sent) -> bytes:
    """Return an entry in the export format [systemd.io/JOURNAL_EXPORT_FORMATS]."""
    microseconds = (_FIRST_SECOND + entry.second) * 1_000_000
    fields = [
        f"__REALTIME_TIMESTAMP={microseconds}",
        f"__MONOTONIC_TIMESTAMP={(entry.second + 1) * 1_000_000}",
        f"_BOOT_ID={entry.boot:032x}",
        *(entry.fields or ("SYSLOG_IDENTIFIER=postfix/smtp", "SYSLOG_FACILITY=2")),
        "_HOSTNAME=mx1",
        "SYSLOG_PID=7",
    ]
    size = len(entry.message).to_bytes(8, "little")
    return "\n".join(fields).encode() + b"\nMESSAGE\n" + size + entry.message + b"\n\n"
