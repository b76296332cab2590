"""Who may reach whom in deploy/k8s: the table of what is needed, and what rendered network policies let through.

The policies are evaluated as Kubernetes says that they are: a connection needs the leave of both ends, policies add up, and
a pod that no policy selects for a direction is open in it. Nothing is sent. Of Kafka's pods the policy is Strimzi's, which
is taken from `networkPolicyPeers` of the listeners; it writes none for what they send. The kubelet's probes pass always.

`python -m tests.kubernetes_flows` (`make docs`) writes the table into docs/kubernetes.md, a test compares.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.kubernetes import OPERATED, OVERLAYS, TEMPLATES, labels_of

if TYPE_CHECKING:
    from collections.abc import Iterator

Object = dict[str, Any]
PAGE = Path(__file__).parent.parent / "docs" / "kubernetes.md"
BEGIN, END = "<!-- made by `make docs` from tests/kubernetes_flows.py: -->\n", "<!-- until here -->\n"
OURS = ("mailspan", "mailspan-producer")
ANYONE = "anyone"


@dataclass(frozen=True, slots=True)
class End:
    """One end of a connection: a pod of a namespace, or an address outside the cluster."""

    name: str
    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    address: str = ""
    is_limited: bool = True
    """Whether it is meant to be held to the table in what it sends."""


@dataclass(frozen=True, slots=True)
class Flow:
    """A connection that is needed."""

    source: str
    target: str
    ports: tuple[str, ...]
    why: str
    overlays: tuple[str, ...] = OVERLAYS


_DNS = ("UDP 53", "TCP 53")
FLOWS = (
    Flow("producer", "kafka", ("TCP 9093",), "sends lines"),
    Flow("syslog", "kafka", ("TCP 9093",), "sends lines"),
    Flow("reducer", "kafka", ("TCP 9093",), "reads lines, writes documents and state"),
    Flow("sink", "kafka", ("TCP 9093",), "reads documents, writes dead letters"),
    Flow("setup", "kafka", ("TCP 9093",), "makes topics"),
    Flow("keda", "kafka", ("TCP 9093",), "asks how far the sinks are behind", ("dev", "production")),
    Flow("mail-host", "kafka", ("TCP 9094",), "sends lines, through a load balancer", ("production",)),
    Flow(ANYONE, "syslog", ("TCP 6514",), "sends syslog, through a load balancer; it shows a certificate"),
    Flow("sink", "elasticsearch", ("TCP 9200",), "writes documents"),
    Flow("setup", "elasticsearch", ("TCP 9200",), "makes the index template and the lifecycle"),
    Flow("retention", "elasticsearch", ("TCP 9200",), "deletes old days"),
    Flow("kibana", "elasticsearch", ("TCP 9200",), "searches"),
    Flow("grafana", "elasticsearch", ("TCP 9200",), "draws the mail flow"),
    Flow("eck", "elasticsearch", ("TCP 9200",), "ECK's operator looks after it"),
    Flow("elasticsearch", "elasticsearch", ("TCP 9300",), "its nodes among themselves"),
    Flow("setup-kibana", "kibana", ("TCP 5601",), "brings the data view, searches and dashboards"),
    Flow("ingress", "kibana", ("TCP 5601",), "people who search"),
    *(
        Flow("prometheus", stage, ("TCP 9464",), "asks for metrics")
        for stage in ("producer", "syslog", "reducer", "sink")
    ),
    *(
        Flow(name, "dns", _DNS, "looks names up")
        for name in (
            "producer", "syslog", "reducer", "sink", "setup", "retention", "elasticsearch", "kibana", "setup-kibana",
        )
    ),
)  # fmt: skip
"""All that is needed. Whatever else an end of ours takes part in must be refused."""

_STRANGERS = (
    End("dns", "kube-system", {"k8s-app": "kube-dns"}, is_limited=False),
    End("prometheus", "monitoring", {"app.kubernetes.io/name": "prometheus"}, is_limited=False),
    End("grafana", "monitoring", {"app.kubernetes.io/name": "grafana"}, is_limited=False),
    End("keda", "keda", {"app": "keda-operator"}, is_limited=False),
    End("eck", "elastic-system", {"control-plane": "elastic-operator"}, is_limited=False),
    End("ingress", "ingress-nginx", {"app.kubernetes.io/name": "ingress-nginx"}, is_limited=False),
    End("a pod elsewhere", "default", {"app.kubernetes.io/name": "mailspan"}, is_limited=False),
    End("a pod beside ours", "mailspan", {"app.kubernetes.io/name": "shell"}, is_limited=False),
    End("a pod beside producers", "mailspan-producer", {"app.kubernetes.io/name": "shell"}, is_limited=False),
    End("mail-host", address="203.0.113.25", is_limited=False),
    End("a host elsewhere", address="100.64.0.1", is_limited=False),
)
_OUTSIDE = (
    End("kafka", address="192.0.2.9", is_limited=False),
    End("elasticsearch", address="198.51.100.9", is_limited=False),
)
"""Where no operator makes them: the networks that overlays/external has as examples."""


def ends(found: list[Object]) -> list[End]:
    """Return all ends that are looked at: what the objects make, and strangers."""
    made = [*_STRANGERS]
    for each in found:
        namespace = each["metadata"].get("namespace", "")
        if each["kind"] in TEMPLATES:
            labels = labels_of(each)
            made.append(End(labels["app.kubernetes.io/component"], namespace, labels))
        elif each["kind"] in OPERATED:
            is_limited = each["kind"] != "Kafka"
            made.append(End(each["kind"].lower(), namespace, labels_of(each), is_limited=is_limited))
    known = {end.name for end in made}
    return [*made, *(end for end in _OUTSIDE if end.name not in known)]


def differences(overlay: str, found: list[Object]) -> list[str]:
    """Return what the policies refuse though it is needed, and what they let through though it is not, a line each."""
    known = ends(found)
    policies = [*(each for each in found if each["kind"] == "NetworkPolicy"), *_of_strimzi(found)]
    needed = {
        (source.name, flow.target, port): flow.why
        for flow in FLOWS
        if overlay in flow.overlays
        for source in known
        if source.name == flow.source or (flow.source == ANYONE and not source.is_limited)
        for port in flow.ports
    }
    ports = sorted({port for flow in FLOWS for port in flow.ports} | {"TCP 22", "TCP 443", "UDP 9093"})
    rows = []
    for source in known:
        for target in known:
            for port in ports if _is_ours(source, target) else ():
                is_open = _lets_out(policies, source, target, port) and _lets_in(policies, source, target, port)
                why = needed.get((source.name, target.name, port))
                if is_open != (why is not None):
                    said = "is let through" if is_open else f"is refused, but {why}"
                    rows.append(f"{source.name} to {target.name}, {port}: {said}")
    return rows


def _is_ours(source: End, target: End) -> bool:
    """Whether policies are to decide: about what is sent to pods of the overlay, or by those that are limited."""
    return source.is_limited or (target.namespace in OURS and not target.name.startswith("a pod"))


def _of_strimzi(found: list[Object]) -> Iterator[Object]:
    """Yield the policy that Strimzi writes for each cluster's brokers, as far as its listeners go."""
    for each in found:
        if each["kind"] == "Kafka":
            rules = []
            for listener in each["spec"]["kafka"]["listeners"]:
                rule: Object = {"ports": [{"protocol": "TCP", "port": listener["port"]}]}
                if "networkPolicyPeers" in listener:
                    rule["from"] = listener["networkPolicyPeers"]
                rules.append(rule)
            yield {
                "metadata": {"namespace": each["metadata"]["namespace"]},
                "spec": {"podSelector": {"matchLabels": labels_of(each)}, "policyTypes": ["Ingress"], "ingress": rules},
            }


def _lets_out(policies: list[Object], source: End, target: End, port: str) -> bool:
    return _passes(policies, source, target, port, ("Egress", "egress", "to"))


def _lets_in(policies: list[Object], source: End, target: End, port: str) -> bool:
    return _passes(policies, target, source, port, ("Ingress", "ingress", "from"))


def _passes(policies: list[Object], pod: End, other: End, port: str, direction: tuple[str, str, str]) -> bool:
    """Whether the policies that are about a pod let it talk with another end."""
    kind, rules, peers = direction
    about = [each for each in policies if _is_about(each, pod) and kind in _types(each["spec"])]
    return not about or any(
        _has_port(rule, port) and (not rule.get(peers) or any(_is_peer(peer, other, each) for peer in rule[peers]))
        for each in about
        for rule in each["spec"].get(rules) or ()
    )


def _is_about(policy: Object, end: End) -> bool:
    is_near = end.namespace != "" and policy["metadata"]["namespace"] == end.namespace
    return is_near and _is_selected(policy["spec"]["podSelector"], end.labels)


def _types(spec: Object) -> list[str]:
    types: list[str] = spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") else [])]
    return types


def _has_port(rule: Object, port: str) -> bool:
    """Whether a rule is about a port, `TCP 9093`; ours have numbers, not names."""
    protocol, _, number = port.partition(" ")
    return not rule.get("ports") or any(
        each.get("protocol", "TCP") == protocol
        and ("port" not in each or each["port"] <= int(number) <= each.get("endPort", each["port"]))
        for each in rule["ports"]
    )


def _is_peer(peer: Object, end: End, policy: Object) -> bool:
    if "ipBlock" in peer:
        return end.address != "" and _is_in(peer["ipBlock"], end.address)
    if end.namespace == "":
        return False
    if "namespaceSelector" in peer:
        is_near = _is_selected(peer["namespaceSelector"], {"kubernetes.io/metadata.name": end.namespace})
    else:
        is_near = policy["metadata"]["namespace"] == end.namespace
    return is_near and _is_selected(peer.get("podSelector", {}), end.labels)


def _is_in(block: Object, address: str) -> bool:
    found = ipaddress.ip_address(address)
    is_excepted = any(found in ipaddress.ip_network(each) for each in block.get("except", ()))
    return found in ipaddress.ip_network(block["cidr"]) and not is_excepted


def _is_selected(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a selector, which asks for nothing when it is empty, fits labels."""
    asked = [
        {
            "In": labels.get(each["key"]) in each.get("values", ()),
            "NotIn": labels.get(each["key"]) not in each.get("values", ()),
            "Exists": each["key"] in labels,
            "DoesNotExist": each["key"] not in labels,
        }[each["operator"]]
        for each in selector.get("matchExpressions", ())
    ]
    return all(asked) and selector.get("matchLabels", {}).items() <= labels.items()


def table() -> str:
    """Return what is needed as a Markdown table, a row for each target and port."""
    rows: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for flow in FLOWS:
        rows[flow.target, ", ".join(flow.ports)][flow.why].append(flow.source)
    lines = []
    for (target, ports), reasons in rows.items():
        sources = "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items())
        lines.append(f"| {target} | {ports} | {sources} |")
    return "\n".join(["| to | port | from |", "| --- | --- | --- |", *lines])


def made() -> str:
    """Return the page as it should be. Raises SystemExit where the lines around the table are missing."""
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{PAGE}: the lines that the table stands between are missing")
    return f"{before}{BEGIN}\n{table()}\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(made(), encoding="utf-8")
