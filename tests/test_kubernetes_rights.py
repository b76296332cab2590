"""The rights that deploy/k8s gives each user of Kafka are enough for its stage: on a real broker that refuses all else."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from ruamel.yaml import YAML

from mailspan.settings import Settings
from producers.kafka import Admin
from tests.chain import Chain
from tests.jars import free_port
from tests.kafka_site import wait_until
from tests.kubernetes import FOLDER
from tests.running import mailspan
from tests.scraping import scrape

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from tests.elasticsearch_server import Node
    from tests.kafka_server import Broker

pytestmark = pytest.mark.slow

USERS = {
    each["metadata"]["name"]: each["spec"]["authorization"]["acls"]
    for file in ("strimzi/users.yaml", "mail-hosts/user.yaml")
    for each in YAML(typ="safe", pure=True).load_all(FOLDER / "components" / file)
}
TYPES = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "transactionalId": ResourceType.TRANSACTIONAL_ID,
    "cluster": ResourceType.BROKER,  # the client's name for it
}
WEEK_SECONDS = 7 * 86400
Right = tuple[ResourceType, str, ResourcePatternType, str, str, AclOperation, AclPermissionType]
PATTERNS = {"literal": ResourcePatternType.LITERAL, "prefix": ResourcePatternType.PREFIXED}
LOG = b"""\
2026-11-23T07:55:10Z mx1 postfix/smtpd[1]: 4D00000001: client=mua.example.com[192.0.2.1]
2026-11-23T07:55:10Z mx1 postfix/qmgr[2]: 4D00000001: from=<bob@example.com>, size=1, nrcpt=1 (queue active)
2026-11-23T07:55:11Z mx1 postfix/smtp[3]: 4D00000001: to=<a@example.net>, relay=none, delay=1, status=sent (ok)
2026-11-23T07:55:11Z mx1 postfix/qmgr[2]: 4D00000001: removed
"""
"""A whole mail: its document is in the commit that passes its lines."""


def renamed(name: str, prefix: str) -> str:
    """Return the name that a topic, group or transactional id has under another prefix than `mail`."""
    if name in {"mailspan-reducer", "mailspan-sink"}:
        return f"{prefix}-{name}"
    return re.sub(r"^mail(?=[.-])", prefix, name)


def rights_in(user: str, prefix: str) -> Iterator[Right]:
    for acl in USERS[user]:
        resource = acl["resource"]
        name = renamed(resource["name"], prefix) if "name" in resource else "kafka-cluster"
        pattern = PATTERNS[resource.get("patternType", "literal")]
        for operation in acl["operations"]:
            wanted = AclOperation[re.sub(r"(?<=[a-z])(?=[A-Z])", "_", operation).upper()]
            yield TYPES[resource["type"]], name, pattern, "User:bob", "*", wanted, AclPermissionType.ALLOW


class Secured(Chain):
    """A chain whose stages are all the user bob, who has the rights of one of the manifests' users at a time."""

    def __init__(self, broker: Broker, node: Node, folder: Path) -> None:
        super().__init__(broker, node, folder)
        self.admin = AdminClient({"bootstrap.servers": broker.address, "log_level": 0})
        secret = folder / "password"
        secret.write_text("bob-secret\n", encoding="utf-8")
        self.bob = {
            "KAFKA_BOOTSTRAP_SERVERS": broker.sasl_address,
            "KAFKA_OPTIONS": "security.protocol=SASL_PLAINTEXT,sasl.mechanism=PLAIN,sasl.username=bob",
            "KAFKA_PASSWORD_FILE": str(secret),
        }

    @contextmanager
    def rights_of(self, user: str) -> Iterator[None]:
        rights = list(rights_in(user, self.prefix))
        for made in self.admin.create_acls([AclBinding(*each) for each in rights]).values():
            made.result(30)
        try:
            yield
        finally:
            for gone in self.admin.delete_acls([AclBindingFilter(*each) for each in rights]).values():
                gone.result(30)

    def as_bob(self, *arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return mailspan(*arguments, given=given, settings={**self.settings, **self.bob})

    def wait_until_reduced(self) -> None:
        self._wait_for(lambda: not self.behind("raw", "reducer"), 60.0)

    def dead_letters(self) -> int:
        return len(self.run("dead-letter", "list", "--json").stdout.splitlines())


@pytest.fixture
def chain(broker: Broker, node: Node, tmp_path: Path) -> Secured:
    return Secured(broker, node, tmp_path)


def test_each_user_of_the_manifests_may_do_its_work(chain: Secured) -> None:
    with chain.rights_of("mailspan-setup"):
        done = chain.as_bob("setup")
        assert (done.returncode, b"cannot be seen" in done.stderr) == (0, False), done.stderr
        chain.wait_for_topics()
        Admin(Settings(kafka_bootstrap_servers=chain.address)).alter(f"{chain.prefix}.raw", {"max.message.bytes": "9"})
        done = chain.as_bob("setup")
        assert (done.returncode, b"max.message.bytes was 9" in done.stdout) == (0, True), done.stderr
    assert USERS["mailspan-producer"] == USERS["mailspan-syslog"] == USERS["mailspan-mail-hosts"]
    with chain.rights_of("mailspan-producer"):
        done = chain.as_bob("produce", "stdin", given=LOG)
        assert done.returncode == 0, done.stderr
    port = free_port()
    shown = {**chain.bob, "METRICS_ADDRESS": f":{port}"}
    with chain.rights_of("mailspan-reducer"), chain.stage("reduce", **shown):
        chain.wait_until_reduced()
        wait_until(lambda: scrape(port).total("mailspan_topic_retention_seconds", stage="reduce") == WEEK_SECONDS)
    chain.send([(b"poison", b"no document")])
    with chain.rights_of("mailspan-sink"), chain.sink(**shown):
        chain.wait_until_settled()
        wait_until(lambda: scrape(port).total("mailspan_topic_retention_seconds", stage="sink") == WEEK_SECONDS)
        wait_until(lambda: chain.dead_letters() == 1)
    wait_until(lambda: b"bob@example.com" in chain.run("search", "4D00000001", "--store", chain.node.url).stdout)
    assert chain.as_bob("produce", "stdin", given=LOG).returncode == 3  # nothing is left of all the rights
