"""A real Kafka broker for tests and for trying things out: jars from Maven Central, one JVM, no container.

A broker has free loopback ports, a folder of its own, and keeps both through `kill` and `start`.
`python -m tests.kafka_server` (`make kafka`) runs one in the foreground.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from base64 import b64encode
from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

from tests.jars import INSTALL, ServerError, end, foreground, free_port, jars

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VERSION = "4.3.1"
ARTIFACTS = (
    ("org.apache.kafka", "kafka_2.13", VERSION),
    ("org.slf4j", "slf4j-simple", "1.7.36"),  # that of Kafka's own slf4j-api
)
_START_SECONDS = 90.0
_HEAP = "512m"


class Broker:
    """One broker, also its own controller; `address` is what clients are told. SASL_PLAINTEXT beside it if asked for.

    `protocols` are further listeners, a name in capitals to its security protocol, and `properties` what they need;
    `addresses` says where they are.
    """

    def __init__(
        self,
        folder: Path,
        *,
        users: dict[str, str] | None = None,
        port: int = 0,
        heap: str = _HEAP,
        protocols: dict[str, str] | None = None,
        properties: dict[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.sasl_address = f"127.0.0.1:{free_port()}" if users else ""
        self.addresses = {name: f"127.0.0.1:{free_port()}" for name in protocols or {}}
        self._protocols = protocols or {}
        self._more_properties = properties or {}
        self._heap = heap
        self._controller = f"127.0.0.1:{free_port()}"
        self._users = users or {}
        self._classpath = f"{jars('kafka', VERSION, ARTIFACTS)}/*"
        self._process: subprocess.Popen[bytes] | None = None
        self._properties = folder / "server.properties"
        folder.mkdir(parents=True, exist_ok=True)
        self._format()

    @property
    def log(self) -> Path:
        """Where the broker writes what it says."""
        return self.folder / "broker.log"

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it and wait until it answers. Raises ServerError."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._java("kafka.Kafka", str(self._properties)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while True:
            if self._process.poll() is not None:
                raise ServerError(f"the broker ended at once: {self.tail()}")
            if _answers(self.address):
                return
            if time.monotonic() > deadline:
                self.kill()
                raise ServerError(f"the broker is not up after {_START_SECONDS} s: {self.tail()}")
            time.sleep(0.2)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it with SIGTERM; with SIGKILL if that takes too long."""
        self._end(signal.SIGTERM)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal: SIGSTOP freezes it, SIGCONT lets it go on."""
        if self._process is not None:
            self._process.send_signal(number)

    def wait(self) -> None:
        """Wait until it ends."""
        if self._process is not None:
            self._process.wait()

    def tail(self) -> str:
        """Return the end of what the broker said."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-800:] if self.log.exists() else ""

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        end(process, number)

    def _java(self, *arguments: str) -> list[str]:
        return [
            "java",
            f"-Xmx{self._heap}",
            "-Xms128m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-cp",
            self._classpath,
            *arguments,
        ]

    def _format(self) -> None:
        listeners = {"PLAINTEXT": self.address, "CONTROLLER": self._controller}
        if self.sasl_address:
            listeners["SASL_PLAINTEXT"] = self.sasl_address
        listeners |= self.addresses
        protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT", "SASL_PLAINTEXT": "SASL_PLAINTEXT"}
        protocols |= self._protocols
        shown = {name: address for name, address in listeners.items() if name != "CONTROLLER"}
        rows = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{self._controller}",
            "controller.listener.names": "CONTROLLER",
            "listeners": _join(listeners),
            "advertised.listeners": _join(shown),
            "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
            "log.dirs": str(self.folder / "data"),
            "num.network.threads": "2",
            "num.io.threads": "2",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "3",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "3",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",  # a test may have its dead members forgotten sooner
            "broker.session.timeout.ms": "2000",  # so that it is up again soon after a kill
            "broker.heartbeat.interval.ms": "500",
            "auto.create.topics.enable": "true",  # as many brokers have it: nothing of ours may rely on either
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS;User:admin",
            "allow.everyone.if.no.acl.found": "false",
        }
        if self._users:
            known = " ".join(f'user_{name}="{password}"' for name, password in self._users.items())
            login = f"org.apache.kafka.common.security.plain.PlainLoginModule required {known};"
            rows["sasl.enabled.mechanisms"] = "PLAIN"
            rows["listener.name.sasl_plaintext.plain.sasl.jaas.config"] = login
        rows |= self._more_properties
        self._properties.write_text("".join(f"{key}={value}\n" for key, value in rows.items()), encoding="utf-8")
        if (self.folder / "data" / "meta.properties").exists():
            return
        cluster = b64encode(uuid4().bytes, b"ab").decode().rstrip("=")
        done = subprocess.run(
            self._java("kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self._properties)),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if done.returncode:
            raise ServerError(f"java cannot make the broker's folder ({INSTALL}): {(done.stdout + done.stderr)[-500:]}")


def _join(listeners: dict[str, str]) -> str:
    return ",".join(f"{name}://{address}" for name, address in listeners.items())


def _answers(address: str) -> bool:
    from confluent_kafka import KafkaException  # noqa: PLC0415 - `make kafka` tells of missing programs without it
    from confluent_kafka.admin import AdminClient  # noqa: PLC0415

    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    client = AdminClient({"bootstrap.servers": address, "log_level": 0})
    try:
        return bool(client.list_topics(timeout=2.0).brokers)
    except KafkaException:
        return False


@contextmanager
def running(folder: Path, **options: object) -> Iterator[Broker]:
    """Run a broker in the folder; it ends with the block."""
    broker = Broker(folder, **options)  # type: ignore[arg-type]
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()


def _greeting(broker: Broker) -> str:
    return f"Kafka {VERSION} listens at {broker.address}\nexport MAILSPAN_KAFKA_BOOTSTRAP_SERVERS={broker.address}"


if __name__ == "__main__":
    sys.exit(foreground("Kafka", lambda folder, port: running(folder, port=port), _greeting))
