"""What in rendered Kubernetes manifests breaks a schema: of Kubernetes itself, or of the operators' custom resources.

Both refuse unknown fields. The schemas of Kubernetes are in the package kubernetes-validate. The custom resource
definitions are other projects' files: MAILSPAN_CRDS names a folder of them; without it custom resources are not looked at,
but for the pod templates in them, which their own schemas leave open.
"""

from __future__ import annotations

import os
import re
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from ruamel.yaml import YAML

if TYPE_CHECKING:
    from collections.abc import Iterator

Object = dict[str, Any]
CRDS = os.environ.get("MAILSPAN_CRDS", "")
VERSION = "1.37.0"
"""The version of Kubernetes whose schemas are asked: that of tests/cluster."""
_FOLDER = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{VERSION}-local-strict"


def schema_faults(found: list[Object]) -> list[str]:
    """Return what breaks a schema, a line each."""
    rows: list[str] = []
    for each in found:
        where = f"{each['kind']} {each['metadata']['name']}"
        rows += [f"{where}: {fault}" for fault in _faults(each)]
        for place, template in _open_templates(each):
            rows += [f"{where}: {place}/{fault}" for fault in _faults(template)]
    return rows


def _faults(found: Object) -> Iterator[str]:
    api, kind = found["apiVersion"], found["kind"]
    schema = _core_schema(api, kind) if _is_core(api) else _custom_schemas().get((api, kind))
    if schema is not None:
        for error in schema.iter_errors(found):
            yield f"{'/'.join(map(str, error.absolute_path))}: {error.message}"
    elif _is_core(api) or _custom_schemas():
        yield f"{api} is not served"


def _is_core(api: str) -> bool:
    """Whether Kubernetes itself serves a group: `v1`, `apps/v1`, `networking.k8s.io/v1`."""
    group = api.rpartition("/")[0]
    return "." not in group or re.fullmatch(r"[a-z]+(\.authorization)?\.k8s\.io", group) is not None


def _open_templates(found: Object) -> Iterator[tuple[str, Object]]:
    """Yield the pod templates of ECK's resources, each as an object that has a schema."""
    spec = found.get("spec", {})
    if found["apiVersion"].partition("/")[0].endswith(".k8s.elastic.co"):
        for index, each in enumerate([spec, *spec.get("nodeSets", ())]):
            if "podTemplate" in each:
                place = f"spec/nodeSets/{index - 1}" if index else "spec"
                yield place, {"apiVersion": "v1", "kind": "PodTemplate", "template": each["podTemplate"]}


@cache
def _core_schema(api: str, kind: str) -> Draft202012Validator | None:
    group, _, version = api.rpartition("/")
    file = _FOLDER / f"{kind.lower()}-{group.partition('.')[0] + '-' if group else ''}{version}.json"
    if not file.is_file():
        return None
    return Draft202012Validator(orjson.loads(file.read_bytes()), registry=_definitions())


@cache
def _definitions() -> Registry[Any]:
    content: Any = orjson.loads((_FOLDER / "_definitions.json").read_bytes())
    registry: Registry[Any] = Registry().with_resource(content["$id"], Resource.from_contents(content))
    return registry


@cache
def _custom_schemas() -> dict[tuple[str, str], Draft202012Validator]:
    found = {}
    for file in sorted(Path(CRDS).glob("*.yaml")) if CRDS else ():
        for each in YAML(typ="safe", pure=True).load_all(file):
            for version in each["spec"]["versions"] if each and each["kind"] == "CustomResourceDefinition" else ():
                schema = _strict(version.get("schema", {}).get("openAPIV3Schema", {}))
                if version["served"] and "properties" in schema:
                    schema["properties"] |= {"metadata": {"type": "object"}, "apiVersion": {}, "kind": {}}
                    key = (f"{each['spec']['group']}/{version['name']}", each["spec"]["names"]["kind"])
                    found[key] = Draft202012Validator(schema)
    return found


def _strict(schema: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(value) for key, value in schema.items()}
    is_closed = isinstance(made.get("properties"), dict) and "x-kubernetes-preserve-unknown-fields" not in made
    if is_closed and ("type" in made) and "additionalProperties" not in made:
        made["additionalProperties"] = False
    return made
