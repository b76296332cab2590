"""docker-compose.yml: the schema, our own rules, and that each of these refuses a file which breaks it."""

from __future__ import annotations

import re
import subprocess
import tomllib
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import orjson
import pytest

from tests import compose_cli
from tests.compose import FILE, METRICS_PORT, faults, is_one_shot, load, variables
from tests.running import ROOT, mailspan

if TYPE_CHECKING:
    from pathlib import Path

TEXT = FILE.read_text(encoding="utf-8")
PROMETHEUS = ROOT / "deploy" / "prometheus" / "prometheus.yml"
DATA_SOURCE = ROOT / "deploy" / "grafana" / "provisioning" / "datasources" / "prometheus.yml"
IMAGE = ROOT / "Dockerfile"
IGNORED = ROOT / ".dockerignore"
DOCS = ROOT / "docs" / "compose.md"

PLANTED = {
    "a key that is none": ("    mem_limit: 2g", "    mem_limits: 2g", "schema: services/elasticsearch"),
    "a value of a wrong type": ("    command: [reduce]", "    command: {reduce: 1}", "schema: services/reducer/command"),
    "a key that comes twice": ("  sink:\n", "  reducer:\n", "no YAML: .*duplicate key"),
    "no YAML": ("volumes:\n  kafka-data:", "volumes:\n kafka-data", "no YAML"),
    "a variable without a default": ("${MAILSPAN_ZONE:-UTC}", "$MAILSPAN_ZONE", "a variable without a default"),
    "the newest image": ("apache/kafka:4.3.1", "apache/kafka:latest", "kafka: image .*: no exact version"),
    "an image without a tag": ("grafana/grafana:13.1.3", "grafana/grafana", "grafana: image .*: no exact version"),
    "half a version": ("prom/prometheus:v3.13.0", "prom/prometheus:v3", "prometheus: image .*: no exact version"),
    "our image from a registry": ("  pull_policy: never\n", "", "sink: image .*: would be looked for"),
    "two builds of one image": (
        "    command: [sink]",
        "    command: [sink]\n    build: .",
        "setup: two services build the same image",
    ),
    "a port for everybody": ("127.0.0.1:9200:9200", "9200:9200", "elasticsearch: port 9200:9200: not on 127.0.0.1"),
    "a port on all addresses": ("127.0.0.1:5514:5514/udp", "0.0.0.0:5514:5514/udp", "producer-syslog: port"),
    "the host's network": ("    command: [sink]", "    command: [sink]\n    network_mode: host", "sink: network_mode"),
    "all rights": ("    command: [sink]", "    command: [sink]\n    privileged: true", "sink: privileged"),
    "a password": (
        "      GF_AUTH_BASIC_ENABLED:",
        "      GF_SECURITY_ADMIN_PASSWORD: admin\n      GF_AUTH_BASIC_ENABLED:",
        "/services/grafana/environment/GF_SECURITY_ADMIN_PASSWORD: looks like a secret",
    ),
    "a password in a URL": (
        "ELASTICSEARCH_HOSTS: http://",
        "ELASTICSEARCH_HOSTS: http://elastic:changeme@",
        "/services/kibana/environment/ELASTICSEARCH_HOSTS: looks like a secret",
    ),
    "a password in an option": (
        "KAFKA_HEAP_OPTS: -Xms512m",
        "KAFKA_HEAP_OPTS: -Djavax.net.ssl.keyStorePassword=changeit -Xms512m",
        "/services/kafka/environment/KAFKA_HEAP_OPTS: looks like a secret",
    ),
    "no limit of memory": ("    mem_limit: 1536m\n", "", "kibana: no mem_limit"),
    "new privileges": ("no-new-privileges:true", "no-new-privileges:false", "kafka: may gain privileges"),
    "too short a grace": ("stop_grace_period: 20s", "stop_grace_period: 10s", "sink: stop_grace_period"),
    "no restart": ("  restart: unless-stopped\n  depends_on:", "  depends_on:", "reducer: does not come back"),
    "no healthcheck": ("    healthcheck:\n      # 503", "    x-none:\n      # 503", "kibana: no healthcheck"),
    "a healthcheck that is off": ("test: [CMD-SHELL, wget -q -O /dev/null http://127.0.0.1:3000/api/health]", "test: [NONE]", "grafana: a healthcheck that looks at nothing"),
    "a healthcheck that looks at nothing": (
        "test: [CMD-SHELL, curl --silent --fail --max-time 8 http://127.0.0.1:5601/api/status >/dev/null]",
        "test: [CMD-SHELL, exit 0]",
        "kibana: a healthcheck that looks at nothing",
    ),
    "a dependency that is no service": ("      kafka:\n        condition", "      kafak:\n        condition", "setup: depends on kafak"),
    "waiting for no health": (
        "      prometheus:\n        condition: service_healthy",
        "      setup:\n        condition: service_healthy",
        "grafana: waits for the health of setup",
    ),
    "waiting for no end": (
        "      prometheus:\n        condition: service_healthy",
        "      prometheus:\n        condition: service_completed_successfully",
        "grafana: waits for the end of prometheus",
    ),
    "not waiting": ("service_completed_successfully", "service_started", "sink: does not wait until setup"),
    "an undeclared volume": ("  producer-state:\n", "", "volume producer-state: used, not declared"),
    "an unused volume": ("      - kafka-data:/var/lib/kafka/data\n", "      - .:/x\n", "volume kafka-data: declared, not used"),
    "a file that is not there": ("./deploy/prometheus:", "./deploy/prometheos:", "prometheus: mounts ./deploy/prometheos"),
    "a file system to write": ("  read_only: true\n  tmpfs", "  tmpfs", "sink: its file system can be written"),
    "capabilities": ("    - ALL\n", "    - NET_RAW\n", "sink: keeps capabilities"),
    "root": ("    command: [sink]", '    command: [sink]\n    user: "0:0"', "sink: runs as root"),
    "a setting that is none": ("MAILSPAN_PARTITIONS:", "MAILSPAN_PARTITION:", "sink: MAILSPAN_PARTITION: no such setting"),
    "a wrong value": ('MAILSPAN_PARTITIONS: "12"', 'MAILSPAN_PARTITIONS: "no"', "sink: MAILSPAN_PARTITIONS: 'no' is not right"),
    "a command that is none": ("command: [reduce]", "command: [reduces]", "reducer: no such command: 'reduces'"),
    "an argument that is none": ("      - --zone", "      - --zones", "producer-tail: unrecognized arguments: --zones"),
    "metrics elsewhere": ("0.0.0.0:9464", "0.0.0.0:9465", "reducer: its metrics and its healthcheck"),
    "a healthcheck of something else": (
        "    command: [sink]",
        "    command: [sink]\n    healthcheck:\n      test: [CMD, python3, -c, pass]",
        "sink: its metrics and its healthcheck",
    ),
}  # fmt: skip
"""What is replaced in the file, by what, and the fault that must be told."""


def test_the_file_is_as_it_should_be() -> None:
    assert faults(TEXT) == []


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_fault_is_told(planted: str) -> None:
    old, new, told = PLANTED[planted]
    assert old in TEXT
    assert any(re.match(told, fault) for fault in faults(TEXT.replace(old, new)))


def test_it_is_the_whole_system() -> None:
    services = load(TEXT)["services"]
    assert set(services) == {
        "kafka", "elasticsearch", "kibana", "prometheus", "grafana", "setup", "producer-tail", "producer-syslog",
        "reducer", "sink", "mailspan",
    }  # fmt: skip
    assert {name for name, service in services.items() if is_one_shot(service)} == {"setup", "mailspan"}
    assert services["kibana"]["image"].partition(":")[2] == services["elasticsearch"]["image"].partition(":")[2]


def test_prometheus_scrapes_the_stages_and_grafana_asks_prometheus() -> None:
    services = load(TEXT)["services"]
    jobs = load(PROMETHEUS.read_text(encoding="utf-8"))["scrape_configs"]
    asked = {name: found["port"] for job in jobs for found in job.get("dns_sd_configs", ()) for name in found["names"]}
    stages = {
        name for name, service in services.items() if "MAILSPAN_METRICS_ADDRESS" in service.get("environment", {})
    }
    assert asked == dict.fromkeys(stages, int(METRICS_PORT))
    source = load(DATA_SOURCE.read_text(encoding="utf-8"))["datasources"][0]
    assert source["url"] == "http://prometheus:9090"


def test_the_image_is_the_dockerfiles() -> None:
    base = load(TEXT)["services"]["setup"]["build"]["args"]["BASE_IMAGE"]
    assert f"ARG BASE_IMAGE={base}\n" in IMAGE.read_text(encoding="utf-8")


def test_the_image_holds_every_package_and_its_build_is_given_what_it_copies() -> None:
    copied = {
        source.rstrip("/")
        for line in IMAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith("COPY ") and "--from=" not in line
        for source in line.split()[1:-1]
    }
    given = {line[1:] for line in IGNORED.read_text(encoding="utf-8").splitlines() if line.startswith("!")}
    assert given - {"requirements"} == copied  # a folder must be named before a file in it
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    assert {name.rstrip("*") for name in packages["find"]["include"]} <= copied


def test_each_variable_of_the_caller_is_documented() -> None:
    for text in (DOCS.read_text(encoding="utf-8"), TEXT.partition("\nname:")[0]):
        assert {name for name in variables(TEXT) if name not in text} == set()


def test_the_mail_of_now_is_one_whole_mail() -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    printed = subprocess.run(["sh", str(ROOT / "samples" / "now.sh")], capture_output=True, check=True)  # noqa: S607 - that of PATH
    document = orjson.loads(mailspan("parse", "-", zone="Asia/Tokyo", given=printed.stdout).stdout)
    assert (document["state"], document["deliveries"], document["notes"]) == (
        "closed",
        ["relayed alice@example.net"],
        [],
    )
    assert before <= datetime.fromisoformat(document["date"]) <= datetime.now(UTC)


COMMAND = compose_cli.find()
needs_docker_compose = pytest.mark.skipif(
    COMMAND is None, reason="no docker compose 2 here; `make compose-config` builds it"
)


@needs_docker_compose
def test_docker_compose_reads_it() -> None:
    assert COMMAND is not None
    done = compose_cli.config(COMMAND, FILE)
    assert (done.returncode, done.stderr) == (0, "")


@needs_docker_compose
@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("    mem_limit: 2g", "    mem_limits: 2g", "mem_limits"),
        ("      kafka:\n        condition", "      kafak:\n        condition", "kafak"),
        ("  producer-state:\n", "", "producer-state"),
    ],
    ids=["a key that is none", "a dependency that is no service", "an undeclared volume"],
)
def test_docker_compose_refuses_what_is_wrong(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert COMMAND is not None
    broken = tmp_path / "docker-compose.yml"
    broken.write_text(TEXT.replace(old, new), encoding="utf-8")
    done = compose_cli.config(COMMAND, broken)
    assert done.returncode != 0
    assert told in done.stderr
