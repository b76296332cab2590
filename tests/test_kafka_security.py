"""SCRAM, TLS and mTLS against a real broker, for each command that uses Kafka; and what is said where it fails."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Consumer

from tests.kafka_security import PASSWORD, WRONG, Secured
from tests.kafka_site import Site, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

LOG = b"""Nov 23 07:55:08 mx1 postfix/qmgr[1]: 4F1A2B3C4D: from=<a@example.com>, size=9, nrcpt=1 (queue active)
Nov 23 07:55:09 mx1 postfix/smtp[2]: 4F1A2B3C4D: to=<b@example.net>, relay=mx.example.net[192.0.2.1]:25, delay=1, delays=0/0/0/1, dsn=2.0.0, status=sent (250 Ok)
Nov 23 07:55:10 mx1 postfix/qmgr[1]: 4F1A2B3C4D: removed
"""


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with Secured(tmp_path_factory.mktemp("secured")).running() as found:
        yield found


@pytest.mark.parametrize("source", ["stdin", "tail"])
@pytest.mark.parametrize("way", ["SCRAM", "SCRAMTLS", "TLS", "MTLS"])
def test_each_way_in_gives_the_documents_of_parse(secured: Secured, tmp_path: Path, way: str, source: str) -> None:
    site = Site(secured.broker, tmp_path)
    options = secured.client(secured.authority) if way == "MTLS" else {}
    site.settings |= secured.way(way, **options)
    log = tmp_path / "mail.log"
    log.write_bytes(LOG)
    done = site.run("setup")
    assert done.returncode == 0, done.stderr
    expected = [json.loads(line) for line in site.run("parse", str(log)).stdout.splitlines()]
    assert len(expected) == 1
    if source == "stdin":
        assert site.run("produce", "stdin", given=LOG).returncode == 0
    else:
        with site.tailing(str(log)):
            site.wait_for(3)
    reducer = subprocess.Popen([sys.executable, "-m", "mailspan", "reduce"], env=site.environment())
    reader = Consumer(
        {
            "bootstrap.servers": site.address,
            "group.id": site.prefix,
            "auto.offset.reset": "earliest",
            "topic.metadata.refresh.interval.ms": 1000,
        }
    )
    reader.subscribe([f"{site.prefix}.transactions"])
    try:
        found: list[object] = []

        def has_come() -> bool:
            found.extend(json.loads(value) for each in reader.consume(100, 1.0) if (value := each.value()) is not None)
            return found[-1:] == expected

        wait_until(has_come)
        reducer.terminate()
        assert reducer.wait(20) == 0
    finally:
        reader.close()
        reducer.kill()
        reducer.wait()


@pytest.mark.parametrize("command", [("setup",), ("produce", "stdin"), ("reduce",)])
def test_what_is_wrong_is_said_in_one_line_with_the_setting(
    secured: Secured, tmp_path: Path, command: tuple[str, ...]
) -> None:
    site = Site(secured.broker, tmp_path)
    site.setup()
    stranger = secured.client(secured.stranger)
    other_ca = str(secured.stranger.certificate)
    mine = secured.client(secured.authority)
    cases = {
        "password": (secured.way("SCRAM", password=WRONG), 3, "MAILSPAN_KAFKA_PASSWORD_FILE"),
        "password over TLS": (secured.way("SCRAMTLS", password=WRONG), 3, "MAILSPAN_KAFKA_PASSWORD_FILE"),
        "CA": (secured.way("TLS", ssl_ca_location=other_ca), 3, "ssl.ca.location in MAILSPAN_KAFKA_OPTIONS"),
        "CA file": (secured.way("TLS", ssl_ca_location="/nonexistent"), 2, "ssl.ca.location"),
        "no certificate": (secured.way("MTLS"), 3, "ssl.certificate.location"),
        "certificate of another CA": (secured.way("MTLS", **stranger), 3, "ssl.certificate.location"),
        "certificate run out": (
            secured.way("MTLS", **secured.client(secured.authority, "old", -1)),
            3,
            "ssl.certificate.location",
        ),
        "broker's certificate run out": (secured.way("EXPIRED"), 3, "ssl.ca.location"),
        "no TLS there": (secured.way("SCRAM", security_protocol="SASL_SSL"), 3, "security.protocol"),
        "key": (
            secured.way("MTLS", **{**mine, "ssl_key_location": stranger["ssl_key_location"]}),
            2,
            "ssl.key.location",
        ),
    }
    with ThreadPoolExecutor(len(cases)) as pool:  # most wait for a broker for 10 to 15 s
        runs = {name: pool.submit(site.run, *command, given=LOG, **case[0]) for name, case in cases.items()}
    for name, (_, status, setting) in cases.items():
        done = runs[name].result()
        said = done.stderr.decode()
        assert done.returncode == status, (name, said)
        assert setting in said, (name, said)
        assert len(said.splitlines()) == 1, (name, said)
        assert PASSWORD not in said + done.stdout.decode(), name
        assert WRONG not in said + done.stdout.decode(), name
