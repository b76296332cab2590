"""Broken manifests that an apiserver refuses: what is changed in production's objects, and what it must say of that.

Most of them no static check here sees: only the server knows all rules, and what is there already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.kubernetes import template

if TYPE_CHECKING:
    from collections.abc import Callable

Object = dict[str, Any]

ROOT_POD: Object = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "root", "namespace": "mailspan"},
    "spec": {"serviceAccountName": "mailspan", "containers": [{"name": "root", "image": "root:1.0.0"}]},
}
"""The namespace takes no pod that may be root."""


def _container(found: Object) -> Object:
    only: Object = template(found)["spec"]["containers"][0]
    return only


BROKEN: dict[str, tuple[str, str, Callable[[Object], object], str]] = {
    "selector": (
        "Deployment", "mailspan-sink",
        lambda each: template(each)["metadata"]["labels"].pop("app.kubernetes.io/name"), "selector"),
    "no volume": (
        "Deployment", "mailspan-sink", lambda each: template(each)["spec"]["volumes"].pop(0), "Not found"),
    "both of a budget": (
        "PodDisruptionBudget", "mailspan-sink", lambda each: each["spec"].update(minAvailable=1), "cannot be both set"),
    "request above limit": (
        "Deployment", "mailspan-sink",
        lambda each: _container(each)["resources"]["requests"].update(memory="9Gi"), "less than or equal to"),
    "a unit that is none": (
        "Deployment", "mailspan-sink",
        lambda each: _container(each)["resources"]["requests"].update(memory="512MiB"), "quantities must match"),
    "a long name of a port": (
        "Deployment", "mailspan-sink",
        lambda each: _container(each)["ports"][0].update(name="metrics-of-the-sink"), "no more than 15"),
    "two values": (
        "Deployment", "mailspan-sink",
        lambda each: _container(each)["env"][2].update(value="x"), "may not be specified when"),
    "alive after three": (
        "Deployment", "mailspan-sink",
        lambda each: _container(each)["livenessProbe"].update(successThreshold=3), "must be 1"),
    "a probe of two kinds": (
        "Deployment", "mailspan-sink",
        lambda each: _container(each)["livenessProbe"].update(tcpSocket={"port": 1}), "more than 1 handler"),
    "a port beyond all": (
        "NetworkPolicy", "mailspan-sink",
        lambda each: each["spec"]["egress"][1]["ports"][0].update(port=99093), "between 1 and 65535"),
    "a network that is none": (
        "NetworkPolicy", "mailspan-sink",
        lambda each: each["spec"]["egress"][1].update(to=[{"ipBlock": {"cidr": "192.0.2.0/33"}}]), "CIDR"),
    "strategy of a daemon set": (
        "DaemonSet", "mailspan-producer", lambda each: each["spec"].update(strategy={}), "strategy"),
    "replicas as text": ("StatefulSet", "mailspan-reducer", lambda each: each["spec"].update(replicas="x"), "replicas"),
    "a key that is none": (
        "StatefulSet", "mailspan-reducer",
        lambda each: template(each)["spec"].update(terminationGraceSeconds=9), "field not declared"),
    "the service of a live set": (
        "StatefulSet", "mailspan-reducer", lambda each: each["spec"].update(serviceName="other"), "immutable"),
    "the template of a live job": (
        "Job", "mailspan-setup", lambda each: _container(each).update(args=["sink"]), "immutable"),
    "a schedule": (
        "CronJob", "mailspan-retention", lambda each: each["spec"].update(schedule="at three"), "schedule"),
    "a zone": ("CronJob", "mailspan-retention", lambda each: each["spec"].update(timeZone="Etc/Here"), "timeZone"),
    "the value of a live priority": (
        "PriorityClass", "mailspan", lambda each: each.update(value=1), "may not be changed"),
    "a kind of policy": (
        "Service", "mailspan-syslog", lambda each: each["spec"].update(externalTrafficPolicy="Here"), "supported values"),
    "v1beta2": (
        "KafkaTopic", "mail.raw", lambda each: each.update(apiVersion="kafka.strimzi.io/v1beta2"), "no matches for"),
    "partitions as text": ("KafkaTopic", "mail.raw", lambda each: each["spec"].update(partitions="48"), "partitions"),
    "authentication": (
        "KafkaUser", "mailspan-sink",
        lambda each: each["spec"]["authentication"].update(type="scram-sha-256"), "Unsupported value"),
    "a listener's port": (
        "Kafka", "mailspan", lambda each: each["spec"]["kafka"]["listeners"][0].update(port=90), "port"),
    "no triggers": ("ScaledObject", "mailspan-sink", lambda each: each["spec"].pop("triggers"), "triggers"),
    "an interval": (
        "PodMonitor", "mailspan",
        lambda each: each["spec"]["podMetricsEndpoints"][0].update(interval="15"), "interval"),
    "a duration": (
        "PrometheusRule", "mailspan",
        lambda each: next(rule for group in each["spec"]["groups"] for rule in group["rules"] if "for" in rule).update(
            {"for": "10 minutes"}), "for"),
    "nodes of Elasticsearch": (
        "Elasticsearch", "mailspan", lambda each: each["spec"].update(nodeSet=[]), "nodeSet"),
}  # fmt: skip
"""By name: the kind and the name of the object, the change, and what is said."""
