"""deploy/k8s: it renders, fits the schemas of custom resources and our own rules; broken manifests are refused."""

from __future__ import annotations

import re
import subprocess
from base64 import b64decode
from typing import TYPE_CHECKING

import orjson
import pytest
from ruamel.yaml import YAML

from mailspan.topics import TOPICS, settings_of, topic_name
from sink.bulk import Item, body_of
from tests import alert_cases, manifests
from tests.kubernetes import OVERLAYS, faults, named, objects, renderer, template
from tests.kubernetes_schemas import CRDS, schema_faults
from tests.prometheus_server import find, needs_prometheus
from tests.running import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.kubernetes import Object

pytestmark = pytest.mark.skipif(
    renderer() is None, reason="neither kubectl nor kustomize is here; `make kustomize` builds it"
)
needs_crds = pytest.mark.skipif(not CRDS, reason="MAILSPAN_CRDS names no folder of custom resource definitions")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_keeps_our_rules(overlay: str) -> None:
    assert faults(objects(overlay)) == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_fits_the_schemas(overlay: str) -> None:
    """Those of Kubernetes, and where MAILSPAN_CRDS names them those of the custom resources."""
    assert schema_faults(objects(overlay)) == []


@pytest.mark.parametrize(("overlay", "partitions", "replication"), [("production", 48, 3), ("dev", 12, 1)])
def test_topics_are_those_of_the_program(overlay: str, partitions: int, replication: int) -> None:
    found = {each["metadata"]["name"]: each["spec"] for each in objects(overlay) if each["kind"] == "KafkaTopic"}
    assert found == {
        topic_name("mail", topic.name): {
            "partitions": partitions if topic.is_partitioned else 1,
            "replicas": replication,
            "config": settings_of(topic, replication),
        }
        for topic in TOPICS
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_all_stages_know_the_same_number_of_partitions(overlay: str) -> None:
    found = objects(overlay)
    settings = [each["data"]["MAILSPAN_PARTITIONS"] for each in found if "MAILSPAN_PARTITIONS" in each.get("data", {})]
    topics = [str(each["spec"]["partitions"]) for each in found if each["kind"] == "KafkaTopic"]
    assert len(settings) == 1 + sum(each["kind"] == "DaemonSet" for each in found)
    assert len({*settings, *topics} - {"1"}) == 1  # that of dead letters


def test_alerts_and_dashboards_are_those_of_deploy() -> None:
    assert manifests.FILE.read_text(encoding="utf-8") == manifests.text(), "run `make docs`"


def test_the_rules_that_are_rendered_are_those_of_deploy() -> None:
    rule_file = YAML(typ="safe", pure=True).load(ROOT / "deploy" / "prometheus" / "rules.yml")
    assert named(objects("production"), "PrometheusRule", "mailspan")["spec"] == {"groups": rule_file["groups"]}


@needs_prometheus
@pytest.mark.parametrize(("planted", "exit_code"), [("", 0), ("sum(", 1)], ids=["as they are", "no expression"])
def test_promtool_reads_the_rules_that_are_rendered(tmp_path: Path, planted: str, exit_code: int) -> None:
    spec = named(objects("production"), "PrometheusRule", "mailspan")["spec"]
    if planted:
        spec["groups"][0]["rules"][0]["expr"] = planted
    (tmp_path / "rules.json").write_bytes(orjson.dumps(spec))
    command = [str(find("promtool")), "check", "rules", str(tmp_path / "rules.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == exit_code, done.stderr


def test_a_target_that_is_down_is_known_by_the_jobs_that_the_operator_makes() -> None:
    prefixes = {"PodMonitor": "", "ScrapeConfig": "scrapeConfig/"}
    found = [each for each in objects("production") if each["kind"] in prefixes]
    jobs = [f"{prefixes[each['kind']]}{each['metadata']['namespace']}/{each['metadata']['name']}" for each in found]
    asked = re.search(r'up\{job=~"([^"]+)"\} == 0', alert_cases.alerts()["MailspanTargetDown"]["expr"])
    assert asked is not None
    assert (len(jobs), [job for job in jobs if re.fullmatch(asked[1], job) is None]) == (2, [])


def test_the_sink_has_a_privilege_for_each_action_that_it_sends() -> None:
    found = named(objects("production"), "Secret", "mailspan-elasticsearch-roles")["data"]["roles.yml"]
    roles = YAML(typ="safe", pure=True).load(b64decode(found))
    body = body_of([Item("mail-transactions-2026.11.23", "mx1/A", 1, each) for each in (b"{}", None)])
    actions = {next(iter(orjson.loads(line))) for line in body.splitlines() if line != b"{}"}
    assert actions == {"index", "delete"}
    assert actions <= set(roles["mailspan-sink"]["indices"][0]["privileges"])


def _pod(found: list[Object]) -> Object:
    spec: Object = template(named(found, "StatefulSet", "mailspan-reducer"))["spec"]
    return spec


def _container(found: list[Object]) -> Object:
    only: Object = _pod(found)["containers"][0]
    return only


def _trigger(found: list[Object]) -> Object:
    metadata: Object = named(found, "ScaledObject", "mailspan-sink")["spec"]["triggers"][0]["metadata"]
    return metadata


PLANTED: dict[str, tuple[Callable[[list[Object]], object], str]] = {
    "a token": (lambda found: _pod(found).pop("automountServiceAccountToken"), "has a token"),
    "service links": (lambda found: _pod(found).pop("enableServiceLinks"), "has service links"),
    "no priority": (lambda found: _pod(found).pop("priorityClassName"), "has no priority"),
    "no grace": (lambda found: _pod(found).pop("terminationGracePeriodSeconds"), "is ended too soon"),
    "no spread": (lambda found: _pod(found)["topologySpreadConstraints"].pop(), "is not spread over zones and hosts"),
    "spread with older pods": (
        lambda found: _pod(found)["topologySpreadConstraints"][0].pop("matchLabelKeys"), "no controller-revision-hash"),
    "no seccomp": (lambda found: _pod(found)["securityContext"].pop("seccompProfile"), "has no seccomp"),
    "uid 0": (lambda found: _pod(found)["securityContext"].update(runAsUser=0), "may run as root"),
    "may be root": (lambda found: _pod(found)["securityContext"].pop("runAsNonRoot"), "may run as root"),
    "a host path": (lambda found: _pod(found)["volumes"][0].update(hostPath={"path": "/"}), "a path of the node"),
    "newest image": (lambda found: _container(found).update(image="mailspan:latest"), "no exact version"),
    "writable": (lambda found: _container(found)["securityContext"].pop("readOnlyRootFilesystem"), "be written"),
    "escalation": (lambda found: _container(found)["securityContext"].pop("allowPrivilegeEscalation"), "may gain"),
    "capabilities": (lambda found: _container(found)["securityContext"].pop("capabilities"), "keeps capabilities"),
    "no memory": (lambda found: _container(found)["resources"]["limits"].pop("memory"), "no limit of memory"),
    "CPU limit": (lambda found: _container(found)["resources"]["limits"].update(cpu="1"), "has a limit of CPU"),
    "no volume": (lambda found: _pod(found)["volumes"].pop(0), "mounts tmp, which is no volume"),
    "no mount": (lambda found: _container(found)["volumeMounts"].pop(0), "volume tmp is not mounted"),
    "probe's port": (lambda found: _container(found)["livenessProbe"]["httpGet"].update(port="metric"), "livenessProbe"),
    "ready is not live": (
        lambda found: _container(found)["livenessProbe"]["httpGet"].update(path="/readyz"), "livenessProbe"),
    "a setting that is none": (
        lambda found: _container(found)["env"].append({"name": "MAILSPAN_PARTITION", "value": "1"}), "no such setting"),
    "a wrong value": (
        lambda found: _container(found)["env"].append({"name": "MAILSPAN_PARTITIONS", "value": "no"}), "is not right"),
    "a secret": (
        lambda found: _container(found)["env"].append({"name": "MAILSPAN_ELASTICSEARCH_PASSWORD", "value": "x"}),
        "a secret in the environment"),
    "a command that is none": (lambda found: _container(found).update(args=["reduces"]), "no such command"),
    "no config map": (
        lambda found: _container(found)["envFrom"][0]["configMapRef"].update(name="x"), "config map x is not there"),
    "selector": (
        lambda found: named(found, "StatefulSet", "mailspan-reducer")["spec"]["selector"]["matchLabels"].update(a="b"),
        "selector does not match"),
    "budget": (
        lambda found: named(found, "PodDisruptionBudget", "mailspan-sink")["spec"]["selector"]["matchLabels"].update(
            a="b"), "matches no pod"),
    "policy": (
        lambda found: named(found, "NetworkPolicy", "mailspan-retention")["spec"]["podSelector"]["matchLabels"].update(
            a="b"), "NetworkPolicy mailspan-retention: matches no pod"),
    "no policy": (
        lambda found: found.remove(named(found, "NetworkPolicy", "mailspan-syslog")), "no policy lets it reach anything"),
    "service": (
        lambda found: named(found, "Service", "mailspan-syslog")["spec"]["selector"].update(a="b"), "matches no pod"),
    "a trigger's key": (lambda found: _trigger(found).update(lagTreshold="1"), "no such key of a trigger"),
    "a user in a trigger": (lambda found: _trigger(found).update(username="mailspan-keda"), "no such key of a trigger"),
    "no user": (
        lambda found: named(found, "TriggerAuthentication", "mailspan-keda")["spec"].pop("configMapTargetRef"),
        "no username for SASL"),
    "no user's config map": (
        lambda found: named(found, "ConfigMap", "mailspan-keda")["data"].clear(), "mailspan-keda has no username"),
    "mapped files": (
        lambda found: named(found, "Elasticsearch", "mailspan")["spec"]["nodeSets"][0].pop("config"),
        "maps files into memory"),
    "idle consumers": (lambda found: _trigger(found).update(allowIdleConsumers="true"), "idle consumers"),
}  # fmt: skip
"""What is changed in production's objects, and the fault that must be told."""


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_fault_is_told(planted: str) -> None:
    change, told = PLANTED[planted]
    found = objects("production")
    change(found)
    assert any(re.search(told, fault) for fault in faults(found))


Planted = dict[str, tuple[str, str, "Callable[[Object], object]", str]]
CORE: Planted = {
    "replicas as text": ("StatefulSet", "mailspan-reducer", lambda each: each["spec"].update(replicas="3"), "spec/replicas"),
    "a misspelt probe": (
        "StatefulSet", "mailspan-reducer",
        lambda each: _first(each).update(livenesProbe=_first(each).pop("livenessProbe")), "'livenesProbe' was unexpected"),
    "a probe's seconds as text": (
        "Deployment", "mailspan-sink", lambda each: _first(each)["readinessProbe"].update(periodSeconds="5"),
        "containers/0/readinessProbe/periodSeconds"),
    "a probe's port of a wrong type": (
        "Deployment", "mailspan-sink", lambda each: _first(each)["livenessProbe"]["httpGet"].update(port=[9464]),
        "containers/0/livenessProbe/httpGet/port"),
    "a field of another place": (
        "Deployment", "mailspan-sink", lambda each: _first(each).update(runAsNonRoot=True), "'runAsNonRoot' was unexpected"),
    "a field that is none": (
        "StatefulSet", "mailspan-syslog", lambda each: template(each)["spec"].update(terminationGracePeriod=60),
        "'terminationGracePeriod' was unexpected"),
    "a strategy on a DaemonSet": (
        "DaemonSet", "mailspan-producer", lambda each: each["spec"].update(strategy={}), "'strategy' was unexpected"),
    "a number in the environment": (
        "StatefulSet", "mailspan-syslog", lambda each: _first(each)["env"][0].update(value=5), "env/0/value"),
    "a truth as text": (
        "Deployment", "mailspan-sink",
        lambda each: template(each)["spec"]["securityContext"].update(runAsNonRoot="true"), "runAsNonRoot"),
    "a list where a map is": (
        "Deployment", "mailspan-sink", lambda each: each["spec"]["selector"].update(matchLabels=[]), "selector/matchLabels"),
    "a volume's limit": (
        "StatefulSet", "mailspan-reducer",
        lambda each: template(each)["spec"]["volumes"][0]["emptyDir"].update(sizeLimits="1Mi"), "'sizeLimits'"),
    "a spread without a key": (
        "StatefulSet", "mailspan-reducer",
        lambda each: template(each)["spec"]["topologySpreadConstraints"][0].pop("topologyKey"), "'topologyKey' is a required"),
    "a schedule that is not there": (
        "CronJob", "mailspan-retention", lambda each: each["spec"].pop("schedule"), "'schedule' is a required"),
    "a limit of tries as text": ("Job", "mailspan-setup", lambda each: each["spec"].update(backoffLimit="20"), "backoffLimit"),
    "a policy's selector": (
        "NetworkPolicy", "mailspan-sink",
        lambda each: each["spec"].update(podSelectors=each["spec"].pop("podSelector")), "'podSelectors' was unexpected"),
    "a policy's peer": (
        "NetworkPolicy", "mailspan-sink", lambda each: each["spec"]["egress"][1].update(to={}), "spec/egress/1/to"),
    "a policy's rule that is none": (
        "NetworkPolicy", "mailspan-sink", lambda each: each["spec"]["ingress"][0].update(form=[]), "'form' was unexpected"),
    "a budget": (
        "PodDisruptionBudget", "mailspan-sink", lambda each: each["spec"].update(maxUnavailable=[1]), "maxUnavailable"),
    "a service's port as text": (
        "Service", "mailspan-syslog", lambda each: each["spec"]["ports"][0].update(port="6514"), "spec/ports/0/port"),
    "a config map's number": ("ConfigMap", "mailspan-keda", lambda each: each["data"].update(username=1), "data/username"),
    "a version that is gone": (
        "Deployment", "mailspan-sink", lambda each: each.update(apiVersion="apps/v1beta2"), "apps/v1beta2 is not served"),
    "a group that is none": (
        "NetworkPolicy", "mailspan-sink", lambda each: each.update(apiVersion="network.k8s.io/v1"), "is not served"),
    "a typo in ECK's pods": (
        "Elasticsearch", "mailspan",
        lambda each: each["spec"]["nodeSets"][0]["podTemplate"]["spec"]["containers"][0].update(resourses={}),
        "nodeSets/0/template/spec/containers/0: Additional properties are not allowed ('resourses'"),
}  # fmt: skip
"""An object of production, what is changed in it, and the fault that must be told."""


def _first(found: Object) -> Object:
    only: Object = template(found)["spec"]["containers"][0]
    return only


@pytest.mark.parametrize("planted", CORE)
def test_what_breaks_the_schemas_of_kubernetes_is_told(planted: str) -> None:
    _refused(CORE[planted])


def _refused(planted: tuple[str, str, Callable[[Object], object], str]) -> None:
    kind, name, change, told = planted
    broken = named(objects("production"), kind, name)
    change(broken)
    assert any(told in fault for fault in schema_faults([broken])), schema_faults([broken])


FOREIGN: Planted = {
    "v1beta2": (
        "KafkaTopic", "mail.raw", lambda each: each.update(apiVersion="kafka.strimzi.io/v1beta2"), "is not served"),
    "partitions as text": (
        "KafkaTopic", "mail.raw", lambda each: each["spec"].update(partitions="48"), "spec/partitions"),
    "authentication": (
        "KafkaUser", "mailspan-sink", lambda each: each["spec"]["authentication"].update(type="scram-sha-256"), "type"),
    "listener's port": (
        "Kafka", "mailspan", lambda each: each["spec"]["kafka"]["listeners"][0].update(port=90), "port"),
    "no triggers": ("ScaledObject", "mailspan-sink", lambda each: each["spec"].pop("triggers"), "triggers"),
    "interval": (
        "PodMonitor", "mailspan",
        lambda each: each["spec"]["podMetricsEndpoints"][0].update(interval=15), "interval"),
    "addresses as text": (
        "Kafka", "mailspan",
        lambda each: each["spec"]["kafka"]["listeners"][1]["configuration"].update(loadBalancerSourceRanges="0.0.0.0/0"),
        "listeners/1/configuration/loadBalancerSourceRanges"),
    "a listener's kind": (
        "Kafka", "mailspan", lambda each: each["spec"]["kafka"]["listeners"][1].update(type="loadBalancer"),
        "listeners/1/type"),
    "targets as text": (
        "ScrapeConfig", "mailspan-mail-hosts",
        lambda each: each["spec"]["staticConfigs"][0].update(targets="mx1.example.com:9464"), "staticConfigs/0/targets"),
    "a key that is none": (
        "Elasticsearch", "mailspan", lambda each: each["spec"].update(nodeSet=[]), "nodeSet"),
}  # fmt: skip


@needs_crds
@pytest.mark.parametrize("planted", FOREIGN)
def test_a_broken_custom_resource_is_told(planted: str) -> None:
    _refused(FOREIGN[planted])
