"""A broker that is soon back, as after its own restart: a reducer that was idle meanwhile goes on."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.chaos.fleet import Fleet
from tests.chaos.oracle import newest
from tests.kafka_site import set_up
from tests.test_reduce_kafka import mails, reducers, send, wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kafka_server import Broker

pytestmark = pytest.mark.slow


def test_it_goes_on_when_the_broker_was_away_for_seconds(mortal_broker: Broker, tmp_path: Path) -> None:
    """Two reducers, each of a fleet of its own.

    The client of the second drops its brokers when it reaches none, as that of the first does in a cluster that a
    broker leaves: what it then waits for may never come.
    """
    broker = mortal_broker
    fleets = [
        Fleet(tmp_path / name, broker, 100, seed=7, producers=1, reducers=1, prefix=name)
        for name in ("keeping", "dropping")
    ]
    keeping, dropping = (reducers(fleet)[0] for fleet in fleets)
    dropping.environment["MAILSPAN_KAFKA_OPTIONS"] = "metadata.recovery.strategy=rebootstrap"
    count = 0

    def have_all() -> bool:
        return all(len(newest(fleet)) == count for fleet in fleets)

    def send_more() -> None:
        for fleet in fleets:
            send(fleet, "raw", b"mx1", mails(count, count + 10))

    try:
        for fleet, reducer in zip(fleets, (keeping, dropping), strict=True):
            set_up(fleet.environment())
            reducer.start()
        send_more()
        count = 10
        wait_for(have_all)
        broker.kill()
        broker.start()
        begun = time.monotonic()
        send_more()
        count = 20
        wait_for(have_all)
        print(f"all documents {time.monotonic() - begun:.1f} s after the broker was back")
        assert "rolled back" not in keeping.log.read_text()
        for reducer in (keeping, dropping):
            assert reducer.end(signal.SIGTERM, 10) == 0
            assert reducer.starts == 1
    finally:
        for fleet in fleets:
            fleet.stop()
