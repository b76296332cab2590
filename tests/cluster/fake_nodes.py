"""What kwok is told: nodes are ready, pods start after a second, those of jobs end well, and deleted ones go at once.

Pods are ready by decree: scheduling, the order of updates and disruption budgets are shown, never our program.
"""

from __future__ import annotations

import json
from typing import Any

ZONES = 3
NODES_PER_ZONE = 2
ZONE = "topology.kubernetes.io/zone"
MAIL_SERVER = "mailspan.io/mail-server"
MAIL_SERVERS = 4
_SIZES = {"cpu": "16", "memory": "64Gi", "pods": "110", "ephemeral-storage": "200Gi"}

_NODE_STATUS = """
{{ $now := Now }}
conditions:
- type: Ready
  status: "True"
  reason: KubeletReady
  message: it is fake
  lastHeartbeatTime: {{ $now | Quote }}
  lastTransitionTime: {{ $now | Quote }}
"""
_POD_STATUS = """
{{ $now := Now }}
phase: Running
hostIP: 192.0.2.1
podIP: 198.51.100.1
startTime: {{ $now | Quote }}
conditions:
- {type: Initialized, status: "True", lastTransitionTime: {{ $now | Quote }}}
- {type: ContainersReady, status: "True", lastTransitionTime: {{ $now | Quote }}}
- {type: Ready, status: "True", lastTransitionTime: {{ $now | Quote }}}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  imageID: ""
  ready: true
  restartCount: 0
  started: true
  state:
    running:
      startedAt: {{ $now | Quote }}
{{ end }}
"""
_JOB_STATUS = """
{{ $now := Now }}
phase: Succeeded
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  imageID: ""
  ready: false
  restartCount: 0
  state:
    terminated:
      exitCode: 0
      reason: Completed
      startedAt: {{ $now | Quote }}
      finishedAt: {{ $now | Quote }}
{{ end }}
"""


def nodes() -> list[dict[str, Any]]:
    """Return the nodes, in all zones; some of them are mail servers."""
    return [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": f"node-{number}",
                "labels": {
                    "kubernetes.io/hostname": f"node-{number}",
                    ZONE: f"zone-{number % ZONES}",
                    **({MAIL_SERVER: "true"} if number < MAIL_SERVERS else {}),
                },
            },
            "status": {"capacity": _SIZES, "allocatable": _SIZES},
        }
        for number in range(ZONES * NODES_PER_ZONE)
    ]


def stages() -> str:
    """Return kwok's configuration."""
    living = {"key": ".metadata.deletionTimestamp", "operator": "DoesNotExist"}
    ready = '.status.conditions.[] | select( .type == "Ready" ) | .status'
    found = [
        _stage(
            "node", "Node", [{"key": ready, "operator": "NotIn", "values": ["True"]}], {"statusTemplate": _NODE_STATUS}
        ),
        _stage(
            "pod",
            "Pod",
            [living, {"key": ".status.podIP", "operator": "DoesNotExist"}],
            {"statusTemplate": _POD_STATUS},
        ),
        _stage(
            "job",
            "Pod",
            [
                living,
                {"key": ".metadata.ownerReferences.[].kind", "operator": "In", "values": ["Job"]},
                {"key": ".status.phase", "operator": "In", "values": ["Running"]},
            ],
            {"statusTemplate": _JOB_STATUS},
        ),
        _stage(
            "deleted",
            "Pod",
            [{"key": ".metadata.deletionTimestamp", "operator": "Exists"}],
            {"finalizers": {"empty": True}, "delete": True},
        ),
    ]
    return "\n---\n".join(json.dumps(each) for each in found)


def _stage(name: str, kind: str, selected: list[dict[str, Any]], then: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": kind},
            "selector": {"matchExpressions": selected},
            **({"delay": {"durationMilliseconds": 1000}} if name in {"pod", "job"} else {}),
            "next": then,
        },
    }
