"""What is wrong with the units of deploy/systemd, by our own rules and by systemd-analyze. Nothing is started."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from dataclasses import fields
from typing import TYPE_CHECKING

from mailspan.__main__ import parse
from mailspan.commands import produce_journal, produce_syslog, web
from mailspan.commands.stopping import LAST_SECONDS
from mailspan.errors import UsageError
from mailspan.settings import PREFIX, Settings, read_settings
from tests.running import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOLDER = ROOT / "deploy" / "systemd"
PROGRAM = "/opt/mailspan/bin/mailspan"
PRODUCERS = ("mailspan-tail", "mailspan-journal", "mailspan-syslog")
ALONE = ("mailspan-index", "mailspan-retention")
PAGE = "mailspan-web"
MOST_EXPOSURE = 20
"""In tenths, as systemd-analyze takes it: 100 is a unit without any hardening."""
Unit = dict[str, list[str]]
"""All values of each key, in their order: no key of ours is in two sections."""

_SPECIFIERS = {"%d": "/run/credentials/unit", "%S": "/var/lib"}
_ALSO_KNOWN = frozenset({"PYTHONUNBUFFERED"})
_LOW_PORT = re.compile(r"--(?:udp|tcp|tls) \S*:(\d+)")
_FIRST_FREE_PORT = 1024
_HARDENING = {
    "NoNewPrivileges": ["yes"],
    "ProtectSystem": ["strict"],
    "ProtectHome": ["yes"],
    "PrivateTmp": ["yes"],
    "PrivateDevices": ["yes"],
    "ProtectClock": ["yes"],
    "ProtectHostname": ["yes"],
    "ProtectKernelLogs": ["yes"],
    "ProtectKernelModules": ["yes"],
    "ProtectKernelTunables": ["yes"],
    "ProtectControlGroups": ["yes"],
    "ProtectProc": ["invisible"],
    "RestrictNamespaces": ["yes"],
    "RestrictRealtime": ["yes"],
    "RestrictSUIDSGID": ["yes"],
    "LockPersonality": ["yes"],
    "MemoryDenyWriteExecute": ["yes"],
    "SystemCallArchitectures": ["native"],
    "SystemCallFilter": ["@system-service", "~@privileged @resources"],
    "UMask": ["0077"],
}


def services() -> list[str]:
    """Return the names of all services, without their suffix."""
    return sorted(path.stem for path in FOLDER.glob("*.service"))


def text_of(name: str) -> str:
    """Return the text of a service."""
    return (FOLDER / f"{name}.service").read_text(encoding="utf-8")


def read(text: str) -> Unit:
    """Return what a unit says."""
    found: Unit = {}
    for row in text.splitlines():
        key, has_value, value = row.partition("=")
        if has_value and not row.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def faults(name: str, text: str) -> list[str]:
    """Return what breaks our own rules, a line each."""
    unit = read(text)
    return [*_program_faults(unit), *_life_faults(name, unit), *_hardening_faults(name, unit)]


def verify(folder: Path, text: str, suffix: str = "service") -> str:
    """Return what `systemd-analyze verify` says of a unit; our program need not be installed."""
    file = folder / f"mailspan-checked.{suffix}"
    file.write_text(text.replace(PROGRAM, shutil.which("true") or PROGRAM), encoding="utf-8")
    return _analyze(folder, "verify", "--man=no", str(file))


def exposure_faults(folder: Path, text: str) -> str:
    """Return what `systemd-analyze security` says of a unit that is exposed more than MOST_EXPOSURE; else nothing."""
    file = folder / "mailspan-checked.service"
    file.write_text(text, encoding="utf-8")
    return _analyze(folder, "security", "--offline=true", "--no-pager", f"--threshold={MOST_EXPOSURE}", str(file))


def _analyze(folder: Path, what: str, *arguments: str) -> str:
    # Units of this machine are no business of ours: without them its faults are not told as if they were.
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:/lib/systemd/system", "SYSTEMD_COLORS": "0"}
    command = [shutil.which("systemd-analyze") or "", what, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    return done.stderr + (done.stdout if done.returncode else "")


def _program_faults(unit: Unit) -> Iterator[str]:
    values = dict(row.split("=", 1) for row in unit["Environment"])
    known = {PREFIX + each.name.upper() for each in fields(Settings)} | _ALSO_KNOWN
    yield from (f"{key}: no such setting" for key in values if key not in known)
    yield from (f"{key}: a secret in a unit" for key in values if key.endswith(("PASSWORD", "API_KEY")))
    program, *arguments = (_expand(each) for each in shlex.split(unit["ExecStart"][-1]))
    if program != PROGRAM:
        yield f"ExecStart: not {PROGRAM}"
    try:
        settings = read_settings({key: _expand(value) for key, value in values.items()})
        _, called = parse(arguments)
        if arguments[0] == "web":
            web.check(settings)
        if arguments[0] == "produce":
            produce_syslog.check(called)
            produce_journal.check(called)
    except UsageError as error:
        yield f"ExecStart: {error}"
    given = {row.partition(":")[0] for row in unit.get("LoadCredential", ())}
    said = unit["ExecStart"] + unit["Environment"]
    asked = {found for row in said for found in re.findall(r"%d/([a-z-]+)", row)}
    if asked != given:
        yield f"credentials: asked for {sorted(asked)}, given {sorted(given)}"


def _expand(text: str) -> str:
    for specifier, value in _SPECIFIERS.items():
        text = text.replace(specifier, value)
    return text


def _life_faults(name: str, unit: Unit) -> Iterator[str]:
    if "MemoryMax" not in unit or "TasksMax" not in unit:
        yield "no limit of memory or tasks"
    if name == "mailspan-retention":
        return
    if unit.get("Restart") != ["always"] or unit.get("StartLimitIntervalSec") != ["0"]:
        yield "is not started again for ever"
    if unit.get("RestartPreventExitStatus") != ["2"]:
        yield "a wrong setting starts it again"
    if int(unit.get("TimeoutStopSec", ["0"])[0]) <= LAST_SECONDS:
        yield "is killed before it ends by itself"


def _hardening_faults(name: str, unit: Unit) -> Iterator[str]:
    for key, value in _HARDENING.items():
        if unit.get(key) != value:
            yield f"{key}: {unit.get(key)}, not {value}"
    ports = [int(port) for port in _LOW_PORT.findall(unit["ExecStart"][-1])]
    wanted = "CAP_NET_BIND_SERVICE" if any(port < _FIRST_FREE_PORT for port in ports) else ""
    if unit.get("CapabilityBoundingSet") != [wanted] or unit.get("AmbientCapabilities", [""]) != [wanted]:
        yield f"capabilities: not {wanted or 'none'}"
    if name in PRODUCERS and unit.get("DynamicUser") != ["yes"]:
        yield "its user is not of its own"
    if name in ALONE and unit.get("PrivateNetwork") != ["yes"]:
        yield "it has a network"
    if name == PAGE and (unit.get("IPAddressDeny"), unit.get("IPAddressAllow")) != (["any"], ["localhost"]):
        yield "it can be reached from other machines"
    if unit.get("StateDirectoryMode") not in (["0700"], ["0750"]):
        yield "its state is readable by all"
    folder = unit.get("StateDirectory", [""])[0]
    if not any(f"{place}/{folder}" in row for row in unit["Environment"] for place in ("%S", "/var/lib")):
        yield "its state is in another folder than it is told"
