"""What is wrong with a docker-compose.yml: the Compose specification's schema, and our own rules that no schema has.

Nothing is run here. The schema is the copy in the package check-jsonschema, which the development lock pins.
"""

from __future__ import annotations

import json
import re
from dataclasses import fields
from functools import cache
from importlib.resources import files
from io import StringIO
from typing import TYPE_CHECKING, Any

from jsonschema import Draft202012Validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from mailspan.__main__ import parse
from mailspan.errors import UsageError
from mailspan.settings import PREFIX, Settings, read_settings
from tests.running import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

FILE = ROOT / "docker-compose.yml"
OURS = "mailspan:local"
LOOPBACK = "127.0.0.1:"
LEAST_GRACE_SECONDS = 15
METRICS_PORT = "9464"
_SCHEMA = "builtin_schemas/vendor/compose-spec.json"
_VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")
_TAG = re.compile(r"[a-z0-9./-]+:v?\d+\.\d+\.\d+(?:[.-][a-z0-9.-]+)?")
_SECRET_NAME = re.compile(r"pass(?:word|wd|phrase)|secret|token|credential|api_?key|private_?key", re.IGNORECASE)
_SECRET_TEXT = re.compile(
    r"(?:pass(?:word|wd|phrase)|secret|token|api[_-]?key)\s*[=:]\s*\S|://[^/@\s]*:[^/@\s]*@|-----BEGIN|Basic [\w+/=]{6}",
    re.IGNORECASE,
)
_EMPTY_CHECKS = (["NONE"], ["CMD", "true"], ["CMD-SHELL", "true"], ["CMD-SHELL", "exit 0"], "true", "exit 0")
_SECONDS = re.compile(r"(\d+)s")
_NOT_OURS_TO_HAVE = ("privileged", "network_mode", "pid", "ipc", "devices", "cap_add", "userns_mode")
_NO_VOLUMES: tuple[str, ...] = ()


def load(text: str) -> dict[str, Any]:
    """Return the file's content, each `${NAME:-default}` as its default. Raises YAMLError, also for a key that comes twice."""
    content: dict[str, Any] = YAML(typ="safe", pure=True).load(StringIO(_VARIABLE.sub(r"\2", text)))
    return content


def variables(text: str) -> set[str]:
    """Return the names of the caller's variables that the file reads."""
    return {match[1] for match in _VARIABLE.finditer(text)}


def faults(text: str, root: Path = ROOT) -> list[str]:
    """Return what is wrong with the file's text, a line each; what it mounts is looked for under `root`."""
    try:
        content = load(text)
    except YAMLError as error:
        return [f"no YAML: {' '.join(str(error).split())}"]
    found = [
        f"schema: {'/'.join(str(each) for each in error.absolute_path)}: {error.message}"
        for error in _validator().iter_errors(content)
    ]
    if re.search(r"\$(?!\{\w+:-)", text):
        found.append("a variable without a default")
    if found:
        return found
    services: dict[str, dict[str, Any]] = content["services"]
    found += [f"{where}: looks like a secret" for where in _secrets(content, "")]
    for name, service in services.items():
        for fault in (*_faults_of(service, services), *_health_faults(service)):
            found.append(f"{name}: {fault}")
    used = {volume for service in services.values() for volume in _named_volumes(service)}
    declared = set(content.get("volumes") or _NO_VOLUMES)
    found += [f"volume {each}: used, not declared" for each in sorted(used - declared)]
    found += [f"volume {each}: declared, not used" for each in sorted(declared - used)]
    found += [
        f"{name}: mounts {source}, which is not there"
        for name, service in services.items()
        for source in _sources(service)
        if source.startswith(".") and not (root / source).exists()
    ]
    return found


def is_one_shot(service: Mapping[str, Any]) -> bool:
    """Return whether a service ends by itself: it has a task, or is a command that people run."""
    return service.get("restart") == "no" or "profiles" in service


@cache
def _validator() -> Draft202012Validator:
    return Draft202012Validator(json.loads((files("check_jsonschema") / _SCHEMA).read_text(encoding="utf-8")))


def _faults_of(service: Mapping[str, Any], services: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    image = service["image"]
    if image != OURS and not _TAG.fullmatch(image):
        yield f"image {image}: no exact version"
    if image == OURS and "build" not in service and service.get("pull_policy") != "never":
        yield f"image {image}: would be looked for in a registry"
    if "build" in service and sum("build" in each for each in services.values()) > 1:
        yield "two services build the same image at once"
    for port in service.get("ports", ()):
        if not str(port).startswith(LOOPBACK):
            yield f"port {port}: not on {LOOPBACK.rstrip(':')} alone"
    for key in _NOT_OURS_TO_HAVE:
        if key in service:
            yield f"{key}: must not be there"
    if "mem_limit" not in service:
        yield "no mem_limit"
    if "no-new-privileges:true" not in service.get("security_opt", ()):
        yield "may gain privileges"
    if _seconds(service.get("stop_grace_period", "10s")) < LEAST_GRACE_SECONDS:
        yield f"stop_grace_period: less than {LEAST_GRACE_SECONDS}s"
    if not is_one_shot(service) and service.get("restart") != "unless-stopped":
        yield "does not come back after a failure"
    yield from _dependency_faults(service, services)
    if image == OURS:
        yield from _our_faults(service)


def _health_faults(service: Mapping[str, Any]) -> Iterator[str]:
    if is_one_shot(service):
        return
    check = service.get("healthcheck")
    if check is None or check.get("disable") or not check.get("test"):
        yield "no healthcheck"
    elif check["test"] in _EMPTY_CHECKS:
        yield "a healthcheck that looks at nothing"
    elif service["image"] == OURS:
        address = service["environment"].get(f"{PREFIX}METRICS_ADDRESS", "")
        if not address.endswith(f":{METRICS_PORT}") or METRICS_PORT not in str(check["test"]):
            yield f"its metrics and its healthcheck are not at port {METRICS_PORT}"


def _dependency_faults(service: Mapping[str, Any], services: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for name, dependency in service.get("depends_on", {}).items():
        if name not in services:
            yield f"depends on {name}, which is no service"
        elif dependency["condition"] == "service_healthy" and "healthcheck" not in services[name]:
            yield f"waits for the health of {name}, which has no healthcheck"
        elif dependency["condition"] == "service_completed_successfully" and not is_one_shot(services[name]):
            yield f"waits for the end of {name}, which does not end"
        elif dependency["condition"] == "service_started":
            yield f"does not wait until {name} can be used"


def _our_faults(service: Mapping[str, Any]) -> Iterator[str]:
    if service.get("read_only") is not True:
        yield "its file system can be written"
    if service.get("cap_drop") != ["ALL"]:
        yield "keeps capabilities"
    if str(service.get("user", "10001")).partition(":")[0] in {"0", "root"}:
        yield "runs as root"
    known = {PREFIX + each.name.upper() for each in fields(Settings)}
    environment = service["environment"]
    for name in environment:
        if name.startswith(PREFIX) and name not in known:
            yield f"{name}: no such setting"
    try:
        read_settings(environment)
        if service["command"] != ["--help"]:
            parse(service["command"])
    except UsageError as error:
        yield str(error)


def _secrets(value: object, where: str) -> Iterator[str]:
    """Yield the places of values that look like passwords; the name of a file that holds one is none."""
    if isinstance(value, dict):
        for key, each in value.items():
            path = f"{where}/{key}"
            is_file = str(key).lower().endswith(("_file", "__file"))
            if _SECRET_NAME.search(str(key)) and each not in (None, "", {}, []) and not is_file:
                yield path
            else:
                yield from _secrets(each, path)
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from _secrets(each, f"{where}/{number}")
    elif isinstance(value, str) and _SECRET_TEXT.search(value):
        yield where


def _seconds(text: str) -> int:
    match = _SECONDS.fullmatch(text)
    return int(match[1]) if match else 0


def _sources(service: Mapping[str, Any]) -> list[str]:
    return [
        volume["source"] if isinstance(volume, dict) else volume.partition(":")[0]
        for volume in service.get("volumes", ())
    ]


def _named_volumes(service: Mapping[str, Any]) -> list[str]:
    return [source for source in _sources(service) if not source.startswith((".", "/"))]
