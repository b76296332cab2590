"""deploy/systemd: units keep our rules, systemd understands them and finds them hardened; broken ones are refused."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from mailspan.settings import read_settings
from tests.systemd_units import ALONE, FOLDER, PAGE, PRODUCERS, exposure_faults, faults, read, services, text_of, verify

if TYPE_CHECKING:
    from pathlib import Path

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")


def test_every_service_is_known() -> None:
    assert services() == sorted([*PRODUCERS, *ALONE, PAGE])


@pytest.mark.parametrize("name", [*PRODUCERS, *ALONE, PAGE])
def test_a_unit_keeps_our_rules(name: str) -> None:
    assert faults(name, text_of(name)) == []


def test_no_two_units_serve_metrics_at_one_port() -> None:
    names = [*PRODUCERS, PAGE]
    addresses = [row for name in names for row in read(text_of(name))["Environment"] if "METRICS_ADDRESS" in row]
    assert len(addresses) == len(set(addresses)) == len(names)


def test_the_example_of_settings_can_be_read() -> None:
    rows = (FOLDER / "mailspan.env.example").read_text(encoding="utf-8").splitlines()
    given = dict(row.split("=", 1) for row in rows if row and not row.startswith("#"))
    settings = read_settings(given)
    assert settings.kafka_bootstrap_servers.startswith("kafka1.")
    assert settings.kafka_options["sasl.username"] == "mailspan-producer"
    assert settings.partitions == 48


@needs_systemd
@pytest.mark.parametrize("name", [*PRODUCERS, *ALONE, PAGE])
def test_systemd_understands_a_unit(name: str, tmp_path: Path) -> None:
    assert verify(tmp_path, text_of(name)) == ""


@needs_systemd
def test_systemd_understands_the_timer(tmp_path: Path) -> None:
    verify(tmp_path, text_of("mailspan-retention"))
    timer = (FOLDER / "mailspan-retention.timer").read_text(encoding="utf-8")
    assert verify(tmp_path, timer, "timer") == ""


@needs_systemd
@pytest.mark.parametrize("name", [*PRODUCERS, *ALONE, PAGE])
def test_systemd_finds_a_unit_hardened(name: str, tmp_path: Path) -> None:
    assert exposure_faults(tmp_path, text_of(name)) == ""


PLANTED = {
    "a setting that is none": ("mailspan-tail", "MAILSPAN_STATE_DIR", "MAILSPAN_STATE_DIRECTORY", "no such setting"),
    "a wrong value": ("mailspan-tail", "127.0.0.1:9464", "127.0.0.1:x", "is not right"),
    "a secret": ("mailspan-tail", "Environment=PYTHONUNBUFFERED", "Environment=MAILSPAN_KIBANA_PASSWORD", "a secret"),
    "another program": ("mailspan-tail", "/opt/mailspan/bin/mailspan", "/usr/bin/mailspan", "ExecStart: not"),
    "a command that is none": ("mailspan-tail", "produce tail", "product tail", "no such command"),
    "a flag of another input": ("mailspan-tail", "produce tail", "produce tail --udp :1514", "argument of"),
    "a credential that is not loaded": ("mailspan-syslog", "LoadCredential=syslog-key", "# ", "credentials: asked"),
    "no limit of memory": ("mailspan-index", "MemoryMax", "# ", "no limit of memory"),
    "no restart": ("mailspan-journal", "Restart=always", "Restart=no", "started again for ever"),
    "gives up": ("mailspan-journal", "StartLimitIntervalSec=0", "StartLimitIntervalSec=60", "again for ever"),
    "exit code 2": ("mailspan-tail", "RestartPreventExitStatus=2\n", "", "a wrong setting starts"),
    "killed early": ("mailspan-tail", "TimeoutStopSec=20", "TimeoutStopSec=8", "is killed before"),
    "the system can be written": ("mailspan-tail", "ProtectSystem=strict", "ProtectSystem=full", "ProtectSystem"),
    "all system calls": ("mailspan-tail", "SystemCallFilter=~", "# ", "SystemCallFilter"),
    "a capability": ("mailspan-tail", "BoundingSet=", "BoundingSet=CAP_SYS_ADMIN", "capabilities: not none"),
    "no capability for port 514": ("mailspan-syslog", "AmbientCapabilities=CAP", "# ", "capabilities: not CAP_NET"),
    "root": ("mailspan-tail", "DynamicUser=yes", "User=root", "not of its own"),
    "a network": ("mailspan-index", "PrivateNetwork=yes", "", "it has a network"),
    "readable state": ("mailspan-tail", "StateDirectoryMode=0700", "StateDirectoryMode=0755", "readable by all"),
    "a page for all": ("mailspan-web", "WEB_ADDRESS=127.0.0.1", "WEB_ADDRESS=10.0.0.1", "nobody would be asked"),
    "a page that is reached": ("mailspan-web", "IPAddressDeny=any\n", "", "can be reached from other machines"),
    "another folder": ("mailspan-tail", "%S/mailspan-tail", "%S/mailspan", "another folder"),
}
"""The unit, what is replaced in it, and the fault that must be told."""


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_fault_is_told(planted: str) -> None:
    name, old, new, told = PLANTED[planted]
    assert old in text_of(name)
    assert any(told in fault for fault in faults(name, text_of(name).replace(old, new)))


@needs_systemd
def test_a_key_that_systemd_does_not_know_is_told(tmp_path: Path) -> None:
    assert "Unknown key" in verify(tmp_path, text_of("mailspan-tail").replace("MemoryMax", "MemoryMaximum"))


@needs_systemd
def test_an_exposed_unit_is_told(tmp_path: Path) -> None:
    rows = text_of("mailspan-tail").splitlines()
    kept = [row for row in rows if not row.startswith(("Protect", "Restrict", "System", "Private"))]
    assert "exposure" in exposure_faults(tmp_path, "\n".join(kept))
