"""A control plane on free loopback ports, in a folder of its own: etcd, kube-apiserver, its controllers, kwok's nodes.

What it started it ends, by its process alone. Who may ask it has a token that lives as long as it.
"""

from __future__ import annotations

import http.client
import json
import signal
import ssl
import subprocess
import time
from contextlib import contextmanager
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from tests.cluster import fake_nodes
from tests.jars import end, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

_UP_SECONDS = 90.0
_ANSWER_SECONDS = 30.0
_COMMAND_SECONDS = 300
_PATCH = "application/strategic-merge-patch+json"
_LOOPBACK = "127.0.0.1"


class ClusterError(Exception):
    """The cluster does not do what it should; the message says what was seen."""


def wait_until(is_so: Callable[[], bool], what: str, seconds: float) -> float:
    """Ask five times a second until it is so; return the seconds it took. Raises ClusterError."""
    started = time.monotonic()
    while not is_so():
        if time.monotonic() - started > seconds:
            raise ClusterError(f"not within {seconds:g} s: {what}")
        time.sleep(0.2)
    return time.monotonic() - started


class ControlPlane:
    """A running one."""

    def __init__(self, folder: Path, programs: Mapping[str, Path]) -> None:
        self.folder = folder
        self.programs = programs
        self._port = free_port()
        self._token = token_hex(16)
        self._processes: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._config = folder / "kubeconfig"

    def start(self) -> None:
        """Start all of it, and wait until its nodes are ready. Raises ClusterError."""
        self._write_files()
        etcd, peer = f"http://{_LOOPBACK}:{free_port()}", f"http://{_LOOPBACK}:{free_port()}"
        self._run(
            "etcd",
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={etcd}",
            f"--advertise-client-urls={etcd}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
        )
        self._run(
            "kube-apiserver",
            f"--bind-address={_LOOPBACK}",
            f"--secure-port={self._port}",
            f"--cert-dir={self.folder / 'certificates'}",
            f"--etcd-servers={etcd}",
            "--endpoint-reconciler-type=none",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.folder / 'accounts.pub'}",
            f"--service-account-signing-key-file={self.folder / 'accounts.key'}",
            f"--token-auth-file={self.folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            "--anonymous-auth=false",
        )
        self._wait("kube-apiserver", self._is_up)
        shared = (f"--kubeconfig={self._config}", f"--bind-address={_LOOPBACK}", "--leader-elect=false")
        self._run(
            "kube-controller-manager",
            *shared,
            f"--secure-port={free_port()}",
            "--authentication-skip-lookup=true",
            "--node-monitor-grace-period=24h",
            f"--service-account-private-key-file={self.folder / 'accounts.key'}",
        )
        self._run("kube-scheduler", *shared, f"--secure-port={free_port()}", "--authentication-skip-lookup=true")
        self._run(
            "kwok",
            f"--kubeconfig={self._config}",
            f"--config={self.folder / 'stages.yaml'}",
            "--manage-all-nodes=true",
            "--node-lease-duration-seconds=0",
            "--node-port=0",
        )
        for node in fake_nodes.nodes():
            self.ask("POST", "/api/v1/nodes", node)
        self._wait("kwok", self._has_ready_nodes)

    def stop(self) -> None:
        """End all of it, the last started first."""
        while self._processes:
            end(self._processes.pop()[1], signal.SIGTERM)

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Return the status and the answer to one request."""
        context = ssl.create_default_context(cafile=str(self.folder / "certificates" / "apiserver.crt"))
        connection = http.client.HTTPSConnection(_LOOPBACK, self._port, timeout=_ANSWER_SECONDS, context=context)
        try:
            kind = _PATCH if method == "PATCH" else "application/json"
            headers = {"Authorization": f"Bearer {self._token}", "Content-Type": kind}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        is_json = (answer.getheader("Content-Type") or "").startswith("application/json")
        return answer.status, json.loads(text) if is_json else text.decode(errors="replace")

    def get(self, path: str) -> Any:  # noqa: ANN401 - JSON
        """Return what is there. Raises ClusterError."""
        status, found = self.ask("GET", path)
        if status != http.client.OK:
            raise ClusterError(f"GET {path}: {status} {found}")
        return found

    def kubectl(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command of kubectl to its end; `given` is its standard input."""
        command = [str(self.programs["kubectl"]), f"--kubeconfig={self._config}", *arguments]
        return subprocess.run(
            command, input=given, capture_output=True, text=True, check=False, timeout=_COMMAND_SECONDS
        )

    def said(self, name: str) -> str:
        """Return the end of what a program said."""
        log = self.folder / f"{name}.log"
        return log.read_text(encoding="utf-8", errors="replace")[-2000:] if log.exists() else ""

    def _run(self, name: str, *options: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [str(self.programs[name]), *options],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._processes.append((name, process))

    def _wait(self, name: str, is_so: Callable[[], bool]) -> None:
        def is_so_or_ended() -> bool:
            for each, process in self._processes:
                if process.poll() is not None:
                    raise ClusterError(f"{each} ended: {self.said(each)}")
            return is_so()

        try:
            wait_until(is_so_or_ended, f"{name} works", _UP_SECONDS)
        except ClusterError as error:
            raise ClusterError(f"{error}: {self.said(name)}") from error

    def _is_up(self) -> bool:
        try:
            return self.ask("GET", "/readyz")[0] == http.client.OK
        except OSError:
            return False

    def _has_ready_nodes(self) -> bool:
        # The controllers take the taints of a new node away.
        found = self.get("/api/v1/nodes")["items"]
        return all(is_ready(each) and not each["spec"].get("taints") for each in found)

    def _write_files(self) -> None:
        (self.folder / "stages.yaml").write_text(fake_nodes.stages(), encoding="utf-8")
        (self.folder / "tokens.csv").write_text(f"{self._token},test,test,system:masters\n", encoding="utf-8")
        key = self.folder / "accounts.key"
        for command in (
            ["openssl", "genrsa", "-out", str(key), "2048"],
            ["openssl", "rsa", "-in", str(key), "-pubout", "-out", str(self.folder / "accounts.pub")],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise ClusterError(f"{command[:2]}: {done.stderr}")
        server = {
            "server": f"https://{_LOOPBACK}:{self._port}",
            "certificate-authority": str(self.folder / "certificates" / "apiserver.crt"),
        }
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": server}],
            "users": [{"name": "test", "user": {"token": self._token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        }
        self._config.write_text(json.dumps(config), encoding="utf-8")
        self._config.chmod(0o600)


def is_ready(found: Mapping[str, Any]) -> bool:
    """Return whether a node or a pod says that it is ready, and is not about to go."""
    conditions: Sequence[Mapping[str, str]] = found["status"].get("conditions", ())
    is_so = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
    return is_so and "deletionTimestamp" not in found["metadata"]


@contextmanager
def running(folder: Path, programs: Mapping[str, Path]) -> Iterator[ControlPlane]:
    """Start a control plane, and end it. Raises ClusterError."""
    plane = ControlPlane(folder, programs)
    try:
        plane.start()
        yield plane
    finally:
        plane.stop()
