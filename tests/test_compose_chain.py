"""The commands and settings of docker-compose.yml, run as processes on the real Kafka and Elasticsearch.

No container is needed: only the addresses and folders are other ones. What this cannot see: the images of others, the
network between containers, mounts, and the user of our image.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import orjson
import pytest
from confluent_kafka.admin import AdminClient, ConfigResource

from tests.compose import FILE, METRICS_PORT, is_one_shot, load
from tests.jars import end, free_port
from tests.kafka_site import wait_until
from tests.running import ROOT, environment, mailspan

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.elasticsearch_server import Node
    from tests.kafka_server import Broker

pytestmark = pytest.mark.slow

SERVICES = load(FILE.read_text(encoding="utf-8"))["services"]
STAGES = [
    name for name, service in SERVICES.items() if service["image"] == "mailspan:local" and not is_one_shot(service)
]
CHECKED = [name for name in STAGES if "healthcheck" in SERVICES[name]]
SYSLOG_PORT = "5514"
PREFIX = "MAILSPAN_"


class Laptop:
    """Runs the services of ours as processes; `logs` is the folder that they mount."""

    def __init__(self, broker: Broker, node: Node, folder: Path) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self.logs.mkdir()
        self.syslog_port = free_port()
        self.metrics_ports = {name: free_port() for name in CHECKED}
        self._places = {
            "kafka:9092": broker.address,
            "http://elasticsearch:9200": node.url,
            f"0.0.0.0:{SYSLOG_PORT}": f"127.0.0.1:{self.syslog_port}",
            "/logs/": f"{self.logs}/",
        }

    def run(self, name: str, *command: str) -> subprocess.CompletedProcess[bytes]:
        return mailspan(*(command or self._command(name)), settings=self._settings(name))

    @contextmanager
    def running(self, name: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a stage; it must end well when it is told to."""
        with (self.folder / f"{name}.said").open("wb") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "mailspan", *self._command(name)],
                env=environment(self._settings(name)),
                stderr=said,
            )
        try:
            yield process
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0, self.said(name)
        finally:
            end(process, signal.SIGKILL)

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.said").read_text(encoding="utf-8")

    def is_healthy(self, name: str) -> bool:
        kind, _, *arguments = SERVICES[name]["healthcheck"]["test"]
        assert kind == "CMD"
        ours = [each.replace(METRICS_PORT, str(self.metrics_ports[name])) for each in arguments]
        return subprocess.run([sys.executable, *ours], stderr=subprocess.DEVNULL, check=False).returncode == 0

    def _command(self, name: str) -> list[str]:
        return [self._placed(each) for each in SERVICES[name]["command"]]

    def _settings(self, name: str) -> dict[str, str]:
        given = {
            key.removeprefix(PREFIX): self._placed(value)
            for key, value in SERVICES[name]["environment"].items()
            if key.startswith(PREFIX)
        }
        if name in self.metrics_ports:
            given["METRICS_ADDRESS"] = f"127.0.0.1:{self.metrics_ports[name]}"
        return {
            **given,
            "STATE_DIR": str(self.folder / name),
            "TOPIC_PREFIX": "laptop",
            "INDEX_PREFIX": "laptop",
        }

    def _placed(self, text: str) -> str:
        for inside, here in self._places.items():
            text = text.replace(inside, here)
        return text


def mail_of_now() -> bytes:
    return subprocess.run(["sh", str(ROOT / "samples" / "now.sh")], capture_output=True, check=True).stdout  # noqa: S607 - that of PATH


def test_mail_comes_from_files_and_syslog_to_the_search(broker: Broker, node: Node, tmp_path: Path) -> None:
    laptop = Laptop(broker, node, tmp_path)
    for _ in range(2):  # each `docker compose up` runs it again
        done = laptop.run("setup")
        assert done.returncode == 0, done.stderr
    with ExitStack() as stages:
        for name in STAGES:
            stages.enter_context(laptop.running(name))
        wait_until(lambda: "port" in laptop.said("producer-syslog"))
        (laptop.logs / "mail.log").write_bytes(mail_of_now())
        with socket.create_connection(("127.0.0.1", laptop.syslog_port)) as sender:
            sender.sendall(mail_of_now())
        with socket.socket(type=socket.SOCK_DGRAM) as sender:
            for line in mail_of_now().splitlines():
                sender.sendto(line, ("127.0.0.1", laptop.syslog_port))

        def found() -> list[bytes]:
            return laptop.run("mailspan", "search", "-t", "alice@example.net", "--json").stdout.splitlines()

        wait_until(lambda: len(found()) == 3)
        assert {orjson.loads(each)["state"] for each in found()} == {"closed"}
        wait_until(lambda: all(laptop.is_healthy(name) for name in CHECKED))
    assert not any(laptop.is_healthy(name) for name in CHECKED)


def test_kafka_knows_its_settings(broker: Broker) -> None:
    """A name that Kafka does not know changes nothing, and Kafka says nothing of it."""
    admin = AdminClient({"bootstrap.servers": broker.address})
    resource = ConfigResource(ConfigResource.Type.BROKER, "1")
    known = admin.describe_configs([resource])[resource].result(30)
    given = set(SERVICES["kafka"]["environment"]) - {"KAFKA_HEAP_OPTS"}
    assert {name for name in given if name.removeprefix("KAFKA_").lower().replace("_", ".") not in known} == set()
