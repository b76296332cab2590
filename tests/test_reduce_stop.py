"""The reducer ends in ten seconds of SIGTERM while its broker is frozen: it takes connections and answers nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reducer.records import PART_BYTES, StoredState, TooLargeError, split_state
from reducer.snapshot import SnapshotError
from tests.chaos.fleet import Fleet
from tests.chaos.oracle import newest
from tests.kafka_site import set_up
from tests.test_reduce_kafka import mails, reducers, send, wait_for

if TYPE_CHECKING:
    from tests.chaos.fleet import Child
    from tests.kafka_server import Broker

END_SECONDS = 10
HELD = """
import ctypes
from mailspan.commands.stopping import Stop
stop = Stop()
stop.begin("held by a client")
mutex = ctypes.create_string_buffer(256)
lock = ctypes.CDLL(None).pthread_mutex_lock
lock(mutex)
print("held", flush=True)
lock(mutex)
"""
"""A call that never returns, and that no signal interrupts."""
UNHEARD = HELD.replace("mutex =", "__import__('os').close(2)\nmutex =", 1)


def threads(child: Child) -> int:
    assert child.process is not None
    return len(list(Path(f"/proc/{child.process.pid}/task").iterdir()))


@pytest.mark.slow
def test_a_process_that_a_call_holds_ends_all_the_same() -> None:
    """And so does one that has nobody to tell: its stderr is closed."""
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for code in (HELD, UNHEARD)
    ]
    try:
        for held in processes:
            assert held.stdout is not None
            assert held.stdout.readline() == b"held\n"
            held.send_signal(signal.SIGTERM)
            held.send_signal(signal.SIGTERM)
        said = [held.communicate(timeout=END_SECONDS)[1] for held in processes]
    finally:
        for held in processes:
            held.kill()
    assert [held.returncode for held in processes] == [3, 3]
    assert said == [b"mailspan: held by a client\n", b""]


@pytest.mark.slow
def test_it_ends_while_the_broker_is_frozen_and_nothing_is_lost(mortal_broker: Broker, tmp_path: Path) -> None:
    """With records in hand, in the middle of a commit (told twice), idle, and while it starts."""
    broker = mortal_broker
    fleet = Fleet(tmp_path / "fleet", broker, 100, seed=7, producers=1, reducers=1, prefix="frozen")
    try:
        set_up(fleet.environment())
        reducer = reducers(fleet)[0]
        reducer.environment["MAILSPAN_COMMIT_INTERVAL_SECONDS"] = "2"
        count = 0
        for moment in ("in hand", "in a commit", "idle", "starting"):
            reducer.start()
            send(fleet, "raw", b"mx1", mails(count, count + 10))
            count += 10
            wait_for(lambda wanted=count: len(newest(fleet)) == wanted)  # type: ignore[misc]
            if moment != "idle":
                sent_until = time.monotonic() + 1.5
                while time.monotonic() < sent_until:  # some are read and not committed when the broker freezes
                    send(fleet, "raw", b"mx1", mails(count, count + 10))
                count += 10
            if moment == "starting":
                assert reducer.end(signal.SIGTERM, END_SECONDS) == 0
            broker.send(signal.SIGSTOP)
            try:
                if moment == "starting":
                    reducer.start()
                    wait_for(lambda: threads(reducer) > 4)  # its clients are made
                if moment == "in a commit":
                    wait_for(lambda: "waiting" in reducer.log.read_text())
                    reducer.send(signal.SIGTERM)
                begun = time.monotonic()
                code = reducer.end(signal.SIGTERM, END_SECONDS)
                print(f"{moment}: {time.monotonic() - begun:.1f} s, exit code {code}")
            finally:
                broker.send(signal.SIGCONT)
        reducer.start()
        wait_for(lambda: len(newest(fleet)) == count and threads(reducer) > 4)
        assert reducer.end(signal.SIGTERM, END_SECONDS) == 0
        assert "Traceback" not in reducer.log.read_text()
    finally:
        fleet.stop()


def test_a_missing_part_of_a_large_snapshot_is_an_error_and_not_nothing() -> None:
    stored = dict(split_state("transaction:mx1/AB", b"x" * (3 * PART_BYTES), {}))
    whole = {key: value for key, value in stored.items() if value is not None}
    assert len(StoredState(whole.items()).joined()[0]["transaction:mx1/AB"]) == 3 * PART_BYTES
    del whole["part:1:transaction:mx1/AB"]
    with pytest.raises(SnapshotError, match="1 of the 2 further records"):
        StoredState(whole.items()).joined()


def test_a_snapshot_that_is_too_large_is_told_in_one_line() -> None:
    with pytest.raises(TooLargeError, match="transaction:mx1/AB") as raised:
        list(split_state("transaction:mx1/AB", bytes(256 * PART_BYTES + 1), {}))
    assert raised.value.exit_code == 3
    assert "\n" not in str(raised.value)
