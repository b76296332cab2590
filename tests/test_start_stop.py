"""A long-running command that is told to stop as it starts ends at once, with one line and exit code 0."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.running import environment

if TYPE_CHECKING:
    from pathlib import Path

SLOW_IMPORT = "import os, time; os.write(1, b'importing\\n'); time.sleep(60)\n"
SAID = b"mailspan: told to stop before it began\n"
COMMANDS = {
    "reduce": ("confluent_kafka", ("reduce",)),
    "sink": ("confluent_kafka", ("sink",)),
    "tail": ("confluent_kafka", ("produce", "tail", "mail.log")),
    "web": ("waitress", ("web",)),
}
"""By name: a module that it imports, and its arguments."""
SIGNALS = [signal.SIGTERM, signal.SIGINT]
END_SECONDS = 5


def begun(tmp_path: Path, arguments: tuple[str, ...], settings: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a command; modules in `tmp_path` are imported before others of their name."""
    run = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from mailspan.__main__ import main; sys.exit(main())"
    given = environment({"STATE_DIR": str(tmp_path), "WEB_ADDRESS": "127.0.0.1:0", **settings})
    return subprocess.Popen(
        [sys.executable, "-c", run, *arguments], env=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def told_while_importing(process: subprocess.Popen[bytes], number: signal.Signals) -> tuple[int, bytes]:
    """Send a signal while SLOW_IMPORT runs; return the exit code and what was said."""
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"importing\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=END_SECONDS)
    finally:
        process.kill()
    return process.returncode, said


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("command", COMMANDS)
def test_while_it_is_imported(tmp_path: Path, command: str, number: signal.Signals) -> None:
    module, arguments = COMMANDS[command]
    (tmp_path / f"{module}.py").write_text(SLOW_IMPORT)
    assert told_while_importing(begun(tmp_path, arguments, {}), number) == (0, SAID)


@pytest.mark.parametrize("command", ["sink", "tail"])
def test_while_its_first_server_says_nothing(tmp_path: Path, command: str) -> None:
    """One that takes connections and never answers, as a frozen one does."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30)
        where = f"127.0.0.1:{silent.getsockname()[1]}"
        settings = {"KAFKA_BOOTSTRAP_SERVERS": where, "ELASTICSEARCH_URL": f"http://{where}"}
        process = begun(tmp_path, COMMANDS[command][1], settings)
        try:
            with silent.accept()[0]:
                started = time.monotonic()
                process.send_signal(signal.SIGTERM)
                _, said = process.communicate(timeout=30)
                assert time.monotonic() - started < END_SECONDS
        finally:
            process.kill()
    assert (process.returncode, said) == (0, SAID)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_one_that_ends_by_itself_tells_that_it_did_not(tmp_path: Path, number: signal.Signals, code: int) -> None:
    (tmp_path / "elasticsearch.py").write_text(SLOW_IMPORT)
    process = begun(tmp_path, ("search", "--store", "https://127.0.0.1:1", "--to", "a@example.com"), {})
    assert told_while_importing(process, number) == (code, b"")
