"""The network policies of deploy/k8s let through what is needed and no more; each change of them is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import kubernetes_flows
from tests.kubernetes import OVERLAYS, named, objects, renderer
from tests.kubernetes_flows import FLOWS, PAGE, differences, ends

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.kubernetes import Object

needs_renderer = pytest.mark.skipif(
    renderer() is None, reason="neither kubectl nor kustomize is here; `make kustomize` builds it"
)


@needs_renderer
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_needed_is_let_through_and_nothing_else(overlay: str) -> None:
    assert differences(overlay, objects(overlay)) == []


@needs_renderer
def test_each_end_of_the_table_is_looked_at() -> None:
    known = {end.name for end in ends(objects("production"))} | {kubernetes_flows.ANYONE}
    assert {name for flow in FLOWS for name in (flow.source, flow.target)} - known == set()


def test_the_page_has_the_table() -> None:
    assert PAGE.read_text(encoding="utf-8") == kubernetes_flows.made(), "run `make docs`"


def _policy(found: list[Object], name: str) -> Object:
    spec: Object = named(found, "NetworkPolicy", name)["spec"]
    return spec


def _listeners(found: list[Object]) -> list[Object]:
    listeners: list[Object] = named(found, "Kafka", "mailspan")["spec"]["kafka"]["listeners"]
    return listeners


PLANTED: dict[str, tuple[Callable[[list[Object]], object], str]] = {
    "out to everybody": (lambda found: _policy(found, "mailspan-sink")["egress"].append({}), "sink to a host elsewhere, TCP 22: is let"),
    "out to all, at one port": (
        lambda found: _policy(found, "mailspan-sink")["egress"][2].pop("to"), "sink to a host elsewhere, TCP 9200: is let"),
    "out to one, at all ports": (
        lambda found: _policy(found, "mailspan-reducer")["egress"][0].pop("ports"), "reducer to dns, TCP 443: is let"),
    "in from everybody": (
        lambda found: _policy(found, "mailspan-reducer")["ingress"][0].pop("from"), "a pod elsewhere to reducer, TCP 9464: is let"),
    "in from a whole namespace": (
        lambda found: _policy(found, "mailspan-sink")["ingress"][0]["from"][0].pop("podSelector"),
        "grafana to sink, TCP 9464: is let"),
    "in from that pod of all namespaces": (
        lambda found: _policy(found, "mailspan-elasticsearch")["ingress"][1]["from"].append(
            {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app.kubernetes.io/name": "mailspan"}}}),
        "a pod elsewhere to elasticsearch, TCP 9200: is let"),
    "in by address": (
        lambda found: _policy(found, "mailspan-kibana")["ingress"][0]["from"].append({"ipBlock": {"cidr": "0.0.0.0/0"}}),
        "mail-host to kibana, TCP 5601: is let"),
    "all labels but those": (
        lambda found: _policy(found, "mailspan-elasticsearch")["ingress"][1]["from"][0]["podSelector"][
            "matchExpressions"][0].update(operator="NotIn"), "sink to elasticsearch, TCP 9200: is refused"),
    "no names": (lambda found: _policy(found, "mailspan-retention")["egress"].pop(0), "retention to dns, UDP 53: is refused"),
    "names over UDP alone": (
        lambda found: _policy(found, "mailspan-setup")["egress"][0]["ports"].pop(1), "setup to dns, TCP 53: is refused"),
    "another port": (
        lambda found: _policy(found, "mailspan-syslog")["egress"][1]["ports"][0].update(port=9092),
        "syslog to kafka, TCP 9093: is refused, but sends lines"),
    "a datagram's port": (
        lambda found: _policy(found, "mailspan-syslog")["egress"][1]["ports"][0].update(protocol="UDP"),
        "syslog to kafka, TCP 9093: is refused"),
    "a range of ports": (
        lambda found: _policy(found, "mailspan-syslog")["ingress"][1]["ports"][0].update(port=22, endPort=7000),
        "mail-host to syslog, TCP 443: is let"),
    "the pod's own namespace": (
        lambda found: _policy(found, "mailspan-producer")["egress"][1]["to"][0].pop("namespaceSelector"),
        "producer to kafka, TCP 9093: is refused"),
    "one direction only": (
        lambda found: [each["spec"].update(policyTypes=["Ingress"]) for each in found if each["kind"] == "NetworkPolicy"],
        "sink to a pod elsewhere, TCP 443: is let"),
    "nothing is denied": (
        lambda found: [each["spec"].update(policyTypes=["Egress"]) for each in found if each["kind"] == "NetworkPolicy"],
        "a pod elsewhere to setup, TCP 22: is let"),
    "Elasticsearch for all": (
        lambda found: found.remove(named(found, "NetworkPolicy", "mailspan-elasticsearch")),
        "a pod beside ours to elasticsearch, TCP 9200: is let"),
    "Kafka for all": (lambda found: _listeners(found)[0].pop("networkPolicyPeers"), "grafana to kafka, TCP 9093: is let"),
    "mail hosts of all the world": (
        lambda found: _listeners(found)[1]["networkPolicyPeers"][0]["ipBlock"].update(cidr="0.0.0.0/0"),
        "a host elsewhere to kafka, TCP 9094: is let"),
    "mail hosts but theirs": (
        lambda found: _listeners(found)[1]["networkPolicyPeers"][0]["ipBlock"].update({"except": ["203.0.113.16/28"]}),
        "mail-host to kafka, TCP 9094: is refused"),
    "no listener for mail hosts": (lambda found: _listeners(found).pop(), "mail-host to kafka, TCP 9094: is refused"),
}  # fmt: skip
"""What is changed in production's objects, and the difference that must be told."""


@needs_renderer
@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_change_is_told(planted: str) -> None:
    change, told = PLANTED[planted]
    found = objects("production")
    change(found)
    assert any(row.startswith(told) for row in differences("production", found)), differences("production", found)
