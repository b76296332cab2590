"""Builds the container image for real and runs it as docker-compose.yml does: `make image-test`, as root.

No registry of images is needed: the base is a Debian of debootstrap's. buildah builds, podman runs, a real Kafka answers.
Each thing that holds is said in a line; the first that does not ends it with exit code 1. Not part of `make test`: it
needs root, Debian's packages buildah, podman, runc and debootstrap, and some minutes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from tests.compose import FILE, load
from tests.kafka_reading import read_all
from tests.kafka_server import Broker, running
from tests.kafka_site import wait_until
from tests.running import ROOT, mailspan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BASE = "localhost/mailspan-base:bookworm"
IMAGE = "localhost/mailspan:test"
USER = "10001"
PROGRAMS = ("debootstrap", "buildah", "podman", "runc")
CORPUS = ROOT / "tests" / "corpus"
LOG = "edge1.mail.log"
READING = ("--zone", "UTC")

_MOST_STOP_SECONDS = 10.0
_ROUNDS = 5
_REST_SECONDS = 4.0
_RARELY = 60
"""So many seconds a reducer gathers here: what is there sooner was written because it was told to stop."""
_PODMAN = ("podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs")  # crun fails where cgroups are of both kinds
_LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096")  # podman's own are higher than some machines'


def call(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return it, whatever its exit code."""
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)


def hold(what: str, found: object, *, is_so: bool) -> None:
    """Say whether it holds; else show what was found. Raises SystemExit."""
    print(f"{'ok     ' if is_so else 'NOT SO '}{what}", flush=True)
    if not is_so:
        raise SystemExit(f"found: {found}")


def build() -> None:
    """Make the base if it is missing, and the image. Raises SystemExit."""
    if call(*_PODMAN, "image", "exists", BASE).returncode:
        print(f"making {BASE}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            debian = ("debootstrap", "--variant=minbase", "--include=python3,python3-venv,ca-certificates", "bookworm")
            made = call(*debian, folder)
            hold("debootstrap makes a Debian with Python", made.stdout[-2000:], is_so=made.returncode == 0)
            archive = Path(folder) / "base.tar"
            packed = call("tar", "-C", folder, "--exclude=./base.tar", "-cf", str(archive), ".")
            hold("it is packed", packed.stderr, is_so=packed.returncode == 0)
            taken = call(*_PODMAN, "import", str(archive), BASE)
            hold("podman takes it", taken.stderr, is_so=taken.returncode == 0)
    # The certificates of this machine: the index that pip asks may have one that no Debian knows.
    certificates = ("--volume", "/etc/ssl/certs:/etc/ssl/certs:ro")
    how = ("--isolation", "chroot", "--network", "host", "--pull-never", "--build-arg", f"BASE_IMAGE={BASE}")
    started = time.monotonic()
    built = call("buildah", "bud", *how, *certificates, "--tag", IMAGE, str(ROOT))
    hold("buildah builds the Dockerfile", built.stdout[-2000:] + built.stderr[-2000:], is_so=built.returncode == 0)
    size = call(*_PODMAN, "image", "inspect", "--format", "{{.Size}}", IMAGE).stdout.strip()
    print(f"       {time.monotonic() - started:.0f} s; {int(size) / 1e6:.0f} MB with the base")


def flags(name: str) -> list[str]:
    """Return podman's flags for what docker-compose.yml says of a service, but for its network and its mounts."""
    service: dict[str, Any] = load(FILE.read_text(encoding="utf-8"))["services"][name]
    found = [f"--memory={service['mem_limit']}", f"--pids-limit={service['pids_limit']}", "--read-only"]
    found += [f"--cap-drop={each}" for each in service["cap_drop"]]
    found += [f"--security-opt={each.removesuffix(':true')}" for each in service["security_opt"]]
    found += [f"--tmpfs={each}" for each in service["tmpfs"]]
    found += [f"--group-add={each}" for each in service.get("group_add", ())]
    return found


def run(name: str, *arguments: str, options: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run a container like the service `name`, without a network, to its end."""
    return call(*_PODMAN, "run", "--rm", "--network=none", *_LIMITS, *flags(name), *options, IMAGE, *arguments)


def check_what_is_in_it() -> None:
    """No root, nothing to write, nothing to build with. Raises SystemExit."""
    parsed = run("mailspan", "parse", *READING, f"/logs/{LOG}", options=[f"--volume={CORPUS}:/logs:ro"])
    expected = mailspan("parse", *READING, str(CORPUS / LOG)).stdout.decode()
    hold("it parses as the checkout does", parsed.stderr, is_so=bool(parsed.stdout) and parsed.stdout == expected)
    wrong = run("mailspan", "no-such-command")
    hold("exit code 2 for a wrong command", wrong.stderr, is_so=wrong.returncode == 2)

    def inside(script: str) -> str:
        done = run("mailspan", "-c", script, options=["--entrypoint=/bin/sh"])
        return done.stdout + done.stderr

    found = inside("id -u; id -g")
    hold(f"user and group are {USER}", found, is_so=found.split() == [USER, USER])
    found = inside("for each in / /opt/mailspan /etc /usr/bin; do touch $each/x 2>/dev/null && echo $each; done; true")
    hold("its file system cannot be written", found, is_so=not found)
    found = inside("touch /tmp/x /var/lib/mailspan/x && echo done")
    hold("its state folder and /tmp can", found, is_so=found == "done\n")
    found = inside("find /opt/mailspan \\( -user 10001 -o -group 10001 -o -perm -o=w ! -type l \\) | head -3")
    hold("nothing of the program is its user's", found, is_so=not found)
    found = inside("for each in pip pip3 gcc cc g++ make ld as; do command -v $each; done; true")
    hold("there are no build tools", found, is_so=not found)
    found = inside(
        'for each in pip setuptools wheel; do python3 -c "import $each" 2>/dev/null && echo $each; done; true'
    )
    hold("nor pip, setuptools or wheel", found, is_so=not found)
    found = inside(
        "cd /opt/mailspan/lib/python3*/site-packages && find mailspan reducer -name '*.py' | wc -l && find mailspan reducer -name '*.pyc' | wc -l"
    )
    counts = found.split()
    hold("all its modules are compiled", found, is_so=len(counts) == 2 and counts[0] == counts[1] != "0")
    found = inside("cd /opt/mailspan/lib/python3*/site-packages/web && ls templates static")
    named = {path.name for folder in ("templates", "static") for path in (ROOT / "web" / folder).iterdir()}
    hold("the page's templates and its style are in it", found, is_so=bool(named) and named <= set(found.split()))


class Pipeline:
    """Stages in containers of their own, beside a broker on this machine."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        self.broker = broker
        self.logs = folder / "logs"
        self.logs.mkdir()
        folder.chmod(0o755)
        self._settings = {
            "KAFKA_BOOTSTRAP_SERVERS": broker.address,
            "PARTITIONS": "3",
            "INSTANCE": "reducer-0",
            "CANARY_SECONDS": "0",
        }

    def _options(self, name: str, **settings: str) -> list[str]:
        given = {**self._settings, **settings}
        variables = [f"--env=MAILSPAN_{key}={value}" for key, value in given.items()]
        return ["--network=host", *_LIMITS, *flags(name), *variables, f"--volume={self.logs}:/logs:ro"]

    def setup(self) -> None:
        done = call(*_PODMAN, "run", "--rm", *self._options("setup"), IMAGE, "setup", "--replication-factor", "1")
        hold("`setup` makes the topics", done.stderr, is_so=done.returncode == 0)

    @contextmanager
    def running(self, name: str, *command: str, volume: str = "", **settings: str) -> Iterator[str]:
        """Run a stage as process 1 of a container until the end; yield the container's id."""
        mount = [f"--volume={volume}:/var/lib/mailspan"] if volume else []
        started = call(*_PODMAN, "run", "--detach", *self._options(name, **settings), *mount, IMAGE, *command)
        hold(f"`{' '.join(command)}` starts", started.stderr, is_so=started.returncode == 0)
        container = started.stdout.strip()
        try:
            yield container
        finally:
            call(*_PODMAN, "rm", "--force", "--volumes", container)

    def stop(self, container: str) -> str:
        """Stop it as an engine does; return what it said. It must end in time, with exit code 0."""
        started = time.monotonic()
        call(*_PODMAN, "stop", "--time", "20", container)
        seconds = time.monotonic() - started
        code = call(*_PODMAN, "inspect", "--format", "{{.State.ExitCode}}", container).stdout.strip()
        logs = call(*_PODMAN, "logs", container)
        said = logs.stdout + logs.stderr
        hold(
            f"SIGTERM ends it: exit code 0, {seconds:.1f} s",
            f"{code}: {said}",
            is_so=code == "0" and seconds < _MOST_STOP_SECONDS,
        )
        return said

    def count(self, topic: str) -> int:
        return len(read_all(self.broker.address, topic))

    def end(self, topic: str) -> int:
        """Return how many records all partitions of a topic have had, marks of transactions among them."""
        consumer = Consumer({"bootstrap.servers": self.broker.address, "group.id": "image-test", "log_level": 0})
        try:
            partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
            places = [TopicPartition(topic, number) for number in partitions]
            return sum(consumer.get_watermark_offsets(place, timeout=30)[1] for place in places)
        finally:
            consumer.close()

    def is_a_member(self) -> bool:
        """Whether a reducer has partitions."""
        admin = AdminClient({"bootstrap.servers": self.broker.address, "log_level": 0})
        groups = [each.group_id for each in admin.list_consumer_groups().result(30).valid]
        found = admin.describe_consumer_groups(groups) if groups else {}
        members = [member for each in found.values() for member in each.result(30).members]
        return any(member.assignment.topic_partitions for member in members)

    def rests(self, container: str) -> bool:
        """Whether its process uses next to no processor for _REST_SECONDS."""
        pid = call(*_PODMAN, "inspect", "--format", "{{.State.Pid}}", container).stdout.strip()
        before = _ticks(pid)
        time.sleep(_REST_SECONDS)  # what is measured, not what is waited for
        return _ticks(pid) - before < os.sysconf("SC_CLK_TCK") * _REST_SECONDS / 20


def _ticks(pid: str) -> int:
    """Return the processor time of a process, in clock ticks (proc(5), utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def check_what_it_does(pipeline: Pipeline) -> None:
    """Signals reach it, and it ends well. Raises SystemExit."""
    pipeline.setup()
    (pipeline.logs / "mail.log").write_bytes((CORPUS / LOG).read_bytes())
    lines = len((CORPUS / LOG).read_bytes().splitlines())
    volume = f"mailspan-test-{os.getpid()}"
    tail = ("produce", "tail", *READING, "/logs/mail.log")
    try:
        with pipeline.running("producer-tail", *tail, volume=volume) as container:
            wait_until(lambda: pipeline.count("mail.raw") == lines)
            pipeline.stop(container)
        more = subprocess.run(["sh", str(ROOT / "samples" / "now.sh")], capture_output=True, check=True).stdout  # noqa: S607 - that of PATH
        with (pipeline.logs / "mail.log").open("ab") as log:
            log.write(more)
        with pipeline.running("producer-tail", *tail, volume=volume) as container:
            wait_until(lambda: pipeline.count("mail.raw") > lines)
            said = pipeline.stop(container)
        new = len(more.splitlines())
        hold("started again, it knows from its volume what it sent", said, is_so=f"stopped; lines={new} " in said)
    finally:
        call(*_PODMAN, "volume", "rm", "--force", volume)
    is_flushed = False
    said, before, found = "", 0, 0
    for _ in range(_ROUNDS):  # told to stop before it has read anything, it has nothing to write
        started = time.monotonic()
        with pipeline.running("reducer", "reduce", COMMIT_INTERVAL_SECONDS=str(_RARELY)) as container:
            wait_until(pipeline.is_a_member)
            wait_until(partial(pipeline.rests, container))  # it has read all, and gathers
            before = pipeline.end("mail.transactions")
            said = pipeline.stop(container)
        found = pipeline.end("mail.transactions")
        is_early = time.monotonic() - started < _RARELY
        is_flushed = is_early and not before and bool(found) and "stopped; commits=1 " in said
        if found:
            break
    hold("told to stop, the reducer writes what it gathered", f"{before}, then {found}: {said}", is_so=is_flushed)


def main() -> int:
    """Build and check; return the exit code."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if os.geteuid() or missing:
        names = " ".join(PROGRAMS)
        print(
            f"image-test needs root and {names} (Debian: apt-get install --no-install-recommends {names})",
            file=sys.stderr,
        )
        return 1
    build()
    check_what_is_in_it()
    with tempfile.TemporaryDirectory() as folder, running(Path(folder) / "kafka") as broker:
        check_what_it_does(Pipeline(broker, Path(folder)))
    print("the image is as it should be")
    return 0


if __name__ == "__main__":
    sys.exit(main())
