"""deploy/k8s as it is rendered, and what of it breaks our own rules.

Nothing is run on a cluster. Schemas are asked in `tests.kubernetes_schemas`, network policies in `tests.kubernetes_flows`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from copy import deepcopy
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML

from mailspan.__main__ import parse
from mailspan.errors import UsageError
from mailspan.settings import PREFIX, Settings, read_settings
from tests.running import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

Object = dict[str, Any]
FOLDER = ROOT / "deploy" / "k8s"
OVERLAYS = ("dev", "production", "external")
TEMPLATES = {
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
OPERATED = {
    "Kafka": {"strimzi.io/cluster": "", "strimzi.io/kind": "Kafka", "app.kubernetes.io/name": "kafka"},
    "Elasticsearch": {"elasticsearch.k8s.elastic.co/cluster-name": ""},
    "Kibana": {"kibana.k8s.elastic.co/name": ""},
}
"""Custom resources whose operators make pods, and these pods' labels; empty is the resource's name."""
_SELECTORS = {
    "PodDisruptionBudget": ("selector", "matchLabels"),
    "NetworkPolicy": ("podSelector", "matchLabels"),
    "Service": ("selector",),
}
_SERVING = frozenset({"Deployment", "StatefulSet", "DaemonSet"})
_REVISIONS = {"Deployment": "pod-template-hash", "StatefulSet": "controller-revision-hash"}
"""The label that tells the pods of one template from those of the one before, while these are replaced."""
_SPREAD_OVER = {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
_ROOT_ALLOWED = ("DaemonSet", "mailspan-producer", "mailspan-producer")
_TAG = re.compile(r"\S+(?::v?\d+\.\d+\.\d+|@sha256:[0-9a-f]{64})")
_TRIGGER_KEYS = frozenset(
    [
        "bootstrapServers",
        "consumerGroup",
        "topic",
        "lagThreshold",
        "activationLagThreshold",
        "offsetResetPolicy",
        "allowIdleConsumers",
        "scaleToZeroOnInvalidOffset",
        "excludePersistentLag",
        "limitToPartitionsWithLag",
        "ensureEvenDistributionOfPartitions",
        "version",
        "partitionLimitation",
        "sasl",
        "tls",
        "unsafeSsl",
    ]
)


def renderer() -> list[str] | None:
    """Return the command that renders a folder: what is installed, or what .ci/run built; None where there is none."""
    if (found := shutil.which("kubectl")) is not None:
        return [found, "kustomize"]
    built = Path(os.environ.get("MAILSPAN_CACHE_DIR") or ROOT / "build") / "kustomize" / "kustomize"
    found = shutil.which("kustomize") or shutil.which(built)
    return [found, "build"] if found is not None else None


@cache
def rendered(overlay: str) -> str:
    """Return an overlay as YAML."""
    command = renderer()
    assert command is not None
    done = subprocess.run([*command, str(FOLDER / "overlays" / overlay)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def objects(overlay: str) -> list[Object]:
    """Return the objects of an overlay, each time anew."""
    return deepcopy(_loaded(overlay))


@cache
def _loaded(overlay: str) -> list[Object]:
    return list(YAML(typ="safe", pure=True).load_all(rendered(overlay)))


def named(found: list[Object], kind: str, name: str) -> Object:
    """Return one object."""
    return next(each for each in found if each["kind"] == kind and each["metadata"]["name"] == name)


def template(found: Object) -> Object:
    """Return the pod template of a workload."""
    for step in TEMPLATES[found["kind"]]:
        found = found[step]
    return found


def faults(found: list[Object]) -> list[str]:
    """Return what breaks our own rules, a line each."""
    rows: list[str] = []
    for each in found:
        where = f"{each['kind']} {each['metadata']['name']}"
        if each["kind"] in TEMPLATES:
            rows += [f"{where}: {fault}" for fault in _workload_faults(each, found)]
            if not any(_selects(other, each) and "egress" in other["spec"] for other in found):
                rows.append(f"{where}: no policy lets it reach anything")
        if each["kind"] in _SELECTORS and not any(_selects(each, other) for other in found):
            rows.append(f"{where}: matches no pod")
        if each["kind"] == "Elasticsearch":
            rows += [f"{where}: {fault}" for fault in _mapping_faults(each)]
        if each["kind"] == "ScaledObject":
            for trigger in each["spec"]["triggers"]:
                rows += [f"{where}: {fault}" for fault in _sign_in_faults(trigger, found)]
                unknown = set(trigger["metadata"]) - _TRIGGER_KEYS
                rows += [f"{where}: no such key of a trigger: {key}" for key in sorted(unknown)]
                if {"limitToPartitionsWithLag", "allowIdleConsumers"} <= set(trigger["metadata"]):
                    rows.append(f"{where}: idle consumers beside partitions with lag only")
    return rows


def _mapping_faults(found: Object) -> Iterator[str]:
    """Yield what keeps Elasticsearch from starting where nodes have the kernel's default of vm.max_map_count."""
    for each in found["spec"]["nodeSets"]:
        if each.get("config", {}).get("node.store.allow_mmap") is not False:
            yield f"node set {each['name']} maps files into memory"


def _sign_in_faults(trigger: Object, others: list[Object]) -> Iterator[str]:
    """Yield what a trigger that signs in to Kafka does not know, or not where it is looked for."""
    name = trigger.get("authenticationRef", {}).get("name")
    references = [each["spec"] for each in others if _is(each, "TriggerAuthentication", name)]
    maps = [row for spec in references for row in spec.get("configMapTargetRef", ())]
    secrets = [row for spec in references for row in spec.get("secretTargetRef", ())]
    given = {row["parameter"] for row in maps + secrets}
    if trigger["metadata"].get("sasl", "none") != "none":
        yield from (f"no {each} for SASL" for each in ("username", "password") if each not in given)
    for row in maps:
        if not any(_is(each, "ConfigMap", row["name"]) and row["key"] in each["data"] for each in others):
            yield f"config map {row['name']} has no {row['key']}"


def _is(found: Object, kind: str, name: str | None) -> bool:
    return bool(found["kind"] == kind and found["metadata"]["name"] == name)


def _selects(found: Object, workload: Object) -> bool:
    """Whether a budget, policy or service is about the pods of a workload."""
    if found["kind"] not in _SELECTORS or workload["kind"] not in {*TEMPLATES, *OPERATED}:
        return False
    wanted = found["spec"]
    for step in _SELECTORS[found["kind"]]:
        wanted = wanted[step]
    is_near = found["metadata"]["namespace"] == workload["metadata"]["namespace"]
    return bool(is_near and wanted.items() <= labels_of(workload).items())


def labels_of(found: Object) -> dict[str, str]:
    """Return the labels of the pods that an object makes, itself or by its operator."""
    if found["kind"] in OPERATED:
        return {label: value or found["metadata"]["name"] for label, value in OPERATED[found["kind"]].items()}
    labels: dict[str, str] = template(found)["metadata"]["labels"]
    return labels


def _workload_faults(found: Object, others: list[Object]) -> Iterator[str]:
    pod = template(found)["spec"]
    selector = found["spec"].get("selector", {}).get("matchLabels", {})
    if not selector.items() <= labels_of(found).items():
        yield "its selector does not match its labels"
    if pod.get("automountServiceAccountToken") is not False:
        yield "has a token"
    if pod.get("enableServiceLinks") is not False:
        yield "has service links"
    if not pod.get("priorityClassName"):
        yield "has no priority"
    if pod.get("terminationGracePeriodSeconds", 0) < 30:
        yield "is ended too soon"
    context = pod.get("securityContext", {})
    if context.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "has no seccomp profile"
    is_root = (found["kind"], found["metadata"]["namespace"], found["metadata"]["name"]) == _ROOT_ALLOWED
    if not is_root and (context.get("runAsNonRoot") is not True or not context.get("runAsUser")):
        yield "may run as root"
    volumes = {each["name"] for each in pod.get("volumes", ())}
    if (revision := _REVISIONS.get(found["kind"])) is not None:
        spread = pod.get("topologySpreadConstraints", ())
        if {each["topologyKey"] for each in spread} != _SPREAD_OVER:
            yield "is not spread over zones and hosts"
        if any(each.get("matchLabelKeys") != [revision] for each in spread):
            yield f"is spread together with its older pods: no {revision}"
    if not is_root and any("hostPath" in each for each in pod.get("volumes", ())):
        yield "mounts a path of the node"
    for container in pod["containers"]:
        yield from _container_faults(container, volumes, others, is_serving=found["kind"] in _SERVING, is_root=is_root)


def _container_faults(
    container: Object, volumes: set[str], others: list[Object], *, is_serving: bool, is_root: bool
) -> Iterator[str]:
    if not _TAG.fullmatch(container["image"]):
        yield f"image {container['image']}: no exact version"
    context = container.get("securityContext", {})
    if context.get("readOnlyRootFilesystem") is not True:
        yield "its file system can be written"
    if context.get("allowPrivilegeEscalation") is not False:
        yield "may gain privileges"
    added = context.get("capabilities", {}).get("add", [])
    if context.get("capabilities", {}).get("drop") != ["ALL"] or added != (["DAC_READ_SEARCH"] if is_root else []):
        yield "keeps capabilities"
    resources = container.get("resources", {})
    if not {"cpu", "memory"} <= set(resources.get("requests", {})) or "memory" not in resources.get("limits", {}):
        yield "has no requests, or no limit of memory"
    if "cpu" in resources.get("limits", {}):
        yield "has a limit of CPU"
    mounted = {each["name"] for each in container.get("volumeMounts", ())}
    yield from (f"mounts {name}, which is no volume" for name in sorted(mounted - volumes))
    yield from (f"volume {name} is not mounted" for name in sorted(volumes - mounted))
    ports = {each["name"] for each in container.get("ports", ())}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe") if is_serving else ():
        asked = container.get(probe, {}).get("httpGet", {})
        path = "/readyz" if probe == "readinessProbe" else "/livez"
        if asked.get("path") != path or asked.get("port") not in ports:
            yield f"{probe}: not {path} at a declared port"
    yield from _program_faults(container, others)


def _program_faults(container: Object, others: list[Object]) -> Iterator[str]:
    values: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        name = source["configMapRef"]["name"]
        maps = [each for each in others if each["kind"] == "ConfigMap" and each["metadata"]["name"] == name]
        if not maps:
            yield f"config map {name} is not there"
        for each in maps:
            values |= each["data"]
    for each in container.get("env", ()):
        values[each["name"]] = each.get("value", "from-elsewhere")
    known = {PREFIX + each.name.upper() for each in fields(Settings)}
    yield from (f"{name}: no such setting" for name in sorted(values) if name.startswith(PREFIX) and name not in known)
    for name in values:
        if name.endswith(("PASSWORD", "API_KEY")):
            yield f"{name}: a secret in the environment"
    try:
        read_settings(values)
        parse([re.sub(r"\$\((\w+)\)", lambda match: values[match[1]], each) for each in container["args"]])
    except (UsageError, KeyError) as error:
        yield str(error)
