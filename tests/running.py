"""mailspan with no settings but those a test gives: as a process of its own, or in this one where that is enough."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from mailspan.__main__ import main

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parent.parent
NONE: Mapping[str, str] = {}


def environment(settings: Mapping[str, str], zone: str = "UTC", others: Mapping[str, str] = NONE) -> dict[str, str]:
    """Return the environment with these settings, named without MAILSPAN_, and no others of ours; `others` as named."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MAILSPAN_")}
    given = {f"MAILSPAN_{name}": value for name, value in settings.items()}
    return {**kept, "TZ": zone, "PYTHONPATH": str(ROOT), **given, **others}


def mailspan(
    *arguments: str,
    zone: str = "UTC",
    given: bytes = b"",
    settings: Mapping[str, str] = NONE,
    others: Mapping[str, str] = NONE,
) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end; `given` is its standard input."""
    return subprocess.run(
        [sys.executable, "-m", "mailspan", *arguments],
        input=given,
        env=environment(settings, zone, others),
        capture_output=True,
        check=False,
        timeout=120,
    )


class Done(NamedTuple):
    """A command that was run to its end."""

    status: int
    output: str
    errors: str


def mailspan_here(capture: pytest.CaptureFixture[str], *arguments: str, settings: Mapping[str, str] = NONE) -> Done:
    """Run a command in this process: a start costs a second on a busy machine."""
    capture.readouterr()
    with pytest.MonkeyPatch.context() as patched:
        for name in os.environ.keys() - environment(settings).keys():
            patched.delenv(name)
        for name, value in environment(settings).items():
            patched.setenv(name, value)
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            status = main(arguments)
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return Done(status, *capture.readouterr())
