"""Every overlay of deploy/k8s on a real control plane with fake nodes: `make cluster-test`.

Each is validated strictly by the server, created, and waited for; production is rolled, evicted from, drained, and broken
in many ways that the server must refuse. What holds is said in a line; the first that does not ends it with exit code 1.
No container is run: this shows what Kubernetes does with the manifests, never what our program does. Not part of `make
test`: the first time Go builds the programs, for some ten CPU minutes. MAILSPAN_CRDS names the folder of definitions.
"""

from __future__ import annotations

import http.client
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML

from tests.cluster.broken import BROKEN, ROOT_POD
from tests.cluster.control_plane import ClusterError, ControlPlane, is_ready, running, wait_until
from tests.cluster.fake_nodes import MAIL_SERVERS, ZONE, ZONES
from tests.cluster.programs import BuildError, find
from tests.kubernetes import FOLDER, OVERLAYS, named
from tests.kubernetes_schemas import CRDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from subprocess import CompletedProcess

Object = dict[str, Any]
NAMESPACE = "mailspan"
LAST = "production"
SINKS = 2
"""As KEDA would have it: without it nobody says how many there are."""
_APPLY = ("apply", "--server-side", "--validate=strict", "--filename=-")
_READY_SECONDS = 180.0
_SETS = {"Deployment": "deployments", "StatefulSet": "statefulsets", "DaemonSet": "daemonsets"}
_ROLLED = {"reducer": ("statefulsets", 1), "sink": ("deployments", 0), "syslog": ("statefulsets", 1)}
"""What is rolled: its kind, and how many of its pods may be away while it is."""


def hold(what: str, found: object, *, is_so: bool) -> None:
    """Say whether it holds. Raises ClusterError with what was found where it does not."""
    print(f"{'ok     ' if is_so else 'NOT SO '}{what}", flush=True)
    if not is_so:
        raise ClusterError(str(found))


def dumped(found: object) -> str:
    """Return an object as YAML."""
    stream = StringIO()
    YAML(typ="safe", pure=True).dump(found, stream)
    return stream.getvalue()


def is_quiet(done: CompletedProcess[str]) -> bool:
    """Whether a command did what it should, and warned of nothing."""
    return done.returncode == 0 and not done.stderr


def install_definitions(plane: ControlPlane) -> None:
    """Install the custom resource definitions, and wait until the server knows them."""
    done = plane.kubectl("apply", "--server-side", f"--filename={CRDS}")
    hold("the custom resource definitions are taken", done.stderr, is_so=done.returncode == 0)
    wait_until(lambda: are_served(plane), "all definitions are served", _READY_SECONDS)


def are_served(plane: ControlPlane) -> bool:
    """Whether every custom resource is among those that the server says it has."""
    for each in plane.get("/apis/apiextensions.k8s.io/v1/customresourcedefinitions")["items"]:
        for version in (version["name"] for version in each["spec"]["versions"] if version["served"]):
            status, found = plane.ask("GET", f"/apis/{each['spec']['group']}/{version}")
            names = [resource["name"] for resource in found["resources"]] if status == http.client.OK else []
            if each["spec"]["names"]["plural"] not in names:
                return False
    return True


def install(plane: ControlPlane, overlay: str) -> tuple[str, list[Object]]:
    """Validate and create an overlay, and wait until all that it runs is ready; return its text and its objects."""
    made = plane.kubectl("kustomize", str(FOLDER / "overlays" / overlay))
    hold(f"{overlay}: it renders", made.stderr, is_so=is_quiet(made))
    objects = list(YAML(typ="safe", pure=True).load_all(made.stdout))
    for each in objects:
        if each["kind"] == "Namespace":
            done = plane.kubectl(*_APPLY, given=dumped(each))
            hold(f"{overlay}: namespace {each['metadata']['name']}", done.stderr, is_so=is_quiet(done))
    done = plane.kubectl(*_APPLY, "--dry-run=server", given=made.stdout)
    hold(f"{overlay}: {len(objects)} objects are valid, and nothing is warned of", done.stderr, is_so=is_quiet(done))
    done = plane.kubectl(*_APPLY, given=made.stdout)
    hold(f"{overlay}: they are created", done.stderr, is_so=is_quiet(done))
    for each in objects:
        if each["kind"] in _SETS:
            where = f"/apis/apps/v1/namespaces/{each['metadata']['namespace']}/{_SETS[each['kind']]}"
            path = f"{where}/{each['metadata']['name']}"
            wait_rolled(plane, path)
    path = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs/mailspan-setup"
    wait_until(lambda: plane.get(path)["status"].get("succeeded") == 1, f"{path} is done", _READY_SECONDS)
    hold(f"{overlay}: all that it runs is ready, and setup is done", "", is_so=True)
    done = plane.kubectl(*_APPLY, given=made.stdout)
    hold(f"{overlay}: it can be applied again", done.stderr, is_so=is_quiet(done))
    return made.stdout, objects


def wait_rolled(plane: ControlPlane, path: str) -> None:
    """Wait until what is there is rolled."""
    wait_until(lambda: is_rolled(plane.get(path)), f"{path} is ready", _READY_SECONDS)


def is_rolled(found: Object) -> bool:
    """Whether all pods of a Deployment, StatefulSet or DaemonSet are of its newest template, and available."""
    status = found["status"]
    if status.get("observedGeneration", 0) < found["metadata"]["generation"]:
        return False
    if found["kind"] == "DaemonSet":
        wanted: int = status.get("desiredNumberScheduled", 0)
        counts = [status.get(key, 0) for key in ("updatedNumberScheduled", "numberAvailable")]
        return wanted > 0 and counts == [wanted] * len(counts)
    wanted = found["spec"]["replicas"]
    counts = [status.get(key, 0) for key in ("replicas", "updatedReplicas", "availableReplicas")]
    return counts == [wanted] * len(counts)


def pods(plane: ControlPlane, component: str, namespace: str = NAMESPACE) -> list[Object]:
    """Return the pods of a component."""
    selector = f"labelSelector=app.kubernetes.io/component={component}"
    found: list[Object] = plane.get(f"/api/v1/namespaces/{namespace}/pods?{selector}")["items"]
    return found


def least_ready(plane: ControlPlane, is_over: Callable[[], bool], what: str) -> dict[str, int]:
    """Return the least number of ready pods of each component that was seen until it is over."""
    least: dict[str, int] = {}

    def look() -> bool:
        for component in _ROLLED:
            ready = sum(map(is_ready, pods(plane, component)))
            least[component] = min(least.get(component, ready), ready)
        return is_over()

    wait_until(look, what, _READY_SECONDS)
    return least


def paths() -> Iterator[str]:
    """Yield where that is which is rolled."""
    for component, (kind, _) in _ROLLED.items():
        yield f"/apis/apps/v1/namespaces/{NAMESPACE}/{kind}/mailspan-{component}"


def are_rolled(plane: ControlPlane) -> bool:
    """Whether all of them are."""
    return all(is_rolled(plane.get(path)) for path in paths())


def are_whole(plane: ControlPlane) -> bool:
    """Whether all of them are rolled and as many pods are ready as there should be: the status of a set comes later."""
    wanted = {name: plane.get(path)["spec"]["replicas"] for name, path in zip(_ROLLED, paths(), strict=True)}
    ready = {name: sum(map(is_ready, pods(plane, name))) for name in _ROLLED}
    return ready == wanted and are_rolled(plane)


def roll(plane: ControlPlane) -> str:
    """Give all stages another image; return the least number of ready pods."""
    wanted = {}
    for component, path in zip(_ROLLED, paths(), strict=True):
        found = plane.get(path)
        wanted[component] = found["spec"]["replicas"]
        container = found["spec"]["template"]["spec"]["containers"][0]
        changed = {"name": container["name"], "image": f"{container['image'].rpartition(':')[0]}:0.1.1"}
        body = {"spec": {"template": {"spec": {"containers": [changed]}}}}
        status, answer = plane.ask("PATCH", path, body)
        hold(f"{component}: another image", answer, is_so=status == 200)
    started = time.monotonic()
    least = least_ready(plane, lambda: are_rolled(plane), "all stages have the other image")
    images = {
        each["spec"]["containers"][0]["image"].rpartition(":")[2] for name in _ROLLED for each in pods(plane, name)
    }
    hold(f"all have it after {time.monotonic() - started:.0f} s", images, is_so=images == {"0.1.1"})
    for component, (_, away) in _ROLLED.items():
        seen = f"{least[component]} of {wanted[component]}"
        hold(f"{component}: never fewer ready than {seen}", seen, is_so=least[component] >= wanted[component] - away)
    return " ".join(f"{name}_min_ready={least[name]}/{wanted[name]}" for name in _ROLLED)


def evict(plane: ControlPlane) -> None:
    """Evict one reducer, then another at once, which the budget forbids."""

    def ask(name: str) -> int:
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": NAMESPACE}}
        return plane.ask("POST", f"/api/v1/namespaces/{NAMESPACE}/pods/{name}/eviction", body)[0]

    path = f"/apis/policy/v1/namespaces/{NAMESPACE}/poddisruptionbudgets/mailspan-reducer"
    wait_until(lambda: plane.get(path)["status"]["disruptionsAllowed"] == 1, "one may be away", _READY_SECONDS)
    first, second = ask("mailspan-reducer-0"), ask("mailspan-reducer-1")
    hold(
        f"one reducer may be evicted ({first}), another meanwhile not ({second})",
        "",
        is_so=(first, second) == (201, 429),
    )
    wait_until(lambda: are_whole(plane), "the evicted one is back", _READY_SECONDS)


def drain(plane: ControlPlane) -> str:
    """Drain the node of a reducer; return the least number of ready pods meanwhile."""
    node = next(each for each in pods(plane, "reducer") if each["metadata"]["name"].endswith("-0"))["spec"]["nodeName"]
    options = ("--ignore-daemonsets", "--delete-emptydir-data", "--timeout=150s")
    with ThreadPoolExecutor(1) as pool:
        drained = pool.submit(plane.kubectl, "drain", node, *options)
        least = least_ready(plane, lambda: drained.done() and are_whole(plane), f"{node} is drained")
    done = drained.result()
    hold(f"{node} is drained", done.stderr, is_so=done.returncode == 0)
    left = [
        each["metadata"]["name"] for name in _ROLLED for each in pods(plane, name) if each["spec"]["nodeName"] == node
    ]
    hold("no stage is left on it", left, is_so=not left)
    for path, component in zip(paths(), _ROLLED, strict=True):
        wanted = plane.get(path)["spec"]["replicas"]
        hold(f"{component}: at most one away meanwhile", least, is_so=least[component] >= wanted - 1)
    done = plane.kubectl("uncordon", node)
    hold(f"{node} is back", done.stderr, is_so=done.returncode == 0)
    return " ".join(f"drained_{name}={least[name]}" for name in _ROLLED)


def is_spread(plane: ControlPlane) -> None:
    """Reducers are in all zones; producers are on the nodes that are mail servers, and on all of them."""
    zones = {each["metadata"]["name"]: each["metadata"]["labels"][ZONE] for each in plane.get("/api/v1/nodes")["items"]}
    found = {zones[each["spec"]["nodeName"]] for each in pods(plane, "reducer")}
    hold(f"the reducers are in {len(found)} zones", found, is_so=len(found) == ZONES)
    nodes = {each["spec"]["nodeName"] for each in pods(plane, "producer", "mailspan-producer")}
    hold(f"producers are on the {len(nodes)} mail servers alone", nodes, is_so=len(nodes) == MAIL_SERVERS)


def refuse(plane: ControlPlane, text: str) -> int:
    """Have the server refuse what is broken; return how many."""
    for name, (kind, object_name, change, told) in BROKEN.items():
        found = named(list(YAML(typ="safe", pure=True).load_all(text)), kind, object_name)
        change(found)
        done = plane.kubectl(*_APPLY, "--dry-run=server", "--force-conflicts", given=dumped(found))
        is_told = done.returncode != 0 and told.lower() in done.stderr.lower()
        hold(f"refused: {name}", done.stdout + done.stderr, is_so=is_told)
    done = plane.kubectl(*_APPLY, "--dry-run=server", given=dumped(ROOT_POD))
    hold("refused: a pod that may be root", done.stderr, is_so="violates PodSecurity" in done.stderr)
    return len(BROKEN) + 1


def test(plane: ControlPlane) -> str:
    """Do all of it; return the figures."""
    objects = 0
    install_definitions(plane)
    for overlay in sorted(OVERLAYS, key=lambda each: each == LAST):
        text, found = install(plane, overlay)
        objects += len(found)
        if overlay != LAST:
            done = plane.kubectl("delete", "--filename=-", "--timeout=120s", given=text)
            hold(f"{overlay}: it can be removed", done.stderr, is_so=done.returncode == 0)
    path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/mailspan-sink"
    status, answer = plane.ask("PATCH", f"{path}/scale", {"spec": {"replicas": SINKS}})
    hold(f"the sink is scaled to {SINKS}", answer, is_so=status == 200)
    wait_rolled(plane, path)
    is_spread(plane)
    rolled = roll(plane)
    evict(plane)
    drained = drain(plane)
    refused = refuse(plane, text)
    return f"overlays={len(OVERLAYS)} objects={objects} refused={refused} {rolled} {drained}"


def main() -> int:
    """Run it; return the exit code."""
    if not CRDS or not list(Path(CRDS).glob("*.yaml")):
        print("MAILSPAN_CRDS names no folder of custom resource definitions", file=sys.stderr)
        return 2
    started = time.monotonic()
    try:
        programs = find()
        with (
            tempfile.TemporaryDirectory(prefix="mailspan-cluster-") as folder,
            running(Path(folder), programs) as plane,
        ):
            print(f"up after {time.monotonic() - started:.0f} s", flush=True)
            figures = test(plane)
    except (BuildError, ClusterError) as error:
        print(f"cluster-test: {error}", file=sys.stderr)
        return 1
    print(f"{figures} seconds={time.monotonic() - started:.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
