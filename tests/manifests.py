"""The manifests that are made from other files of deploy/: alerts as a PrometheusRule, dashboards as config maps.

`python -m tests.manifests` (`make docs`) writes them, a test compares. A rule file is one of deploy/prometheus/*.yml with
`groups` in it; a dashboard is one of deploy/grafana/dashboards/*.json.
"""

from __future__ import annotations

from io import StringIO
from typing import Any

from ruamel.yaml import YAML

from tests.running import ROOT

FILE = ROOT / "deploy" / "k8s" / "components" / "prometheus" / "generated.yaml"
_HEAD = "# Made by `make docs` from deploy/prometheus and deploy/grafana.\n"


def text() -> str:
    """Return what the file is to be."""
    groups: list[Any] = []
    for file in sorted((ROOT / "deploy" / "prometheus").glob("*.yml")):
        content = YAML(typ="safe", pure=True).load(file)
        groups += content.get("groups", ())
    made: list[dict[str, Any]] = [
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "PrometheusRule",
            "metadata": {"name": "mailspan", "namespace": "mailspan"},
            "spec": {"groups": groups},
        }
    ]
    made += [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": f"dashboard-{file.stem}",
                "namespace": "mailspan",
                "labels": {"grafana_dashboard": "1"},
            },
            "data": {file.name: file.read_text(encoding="utf-8")},
        }
        for file in sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
    ]
    written = StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.dump_all(made, written)
    return _HEAD + written.getvalue()


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
