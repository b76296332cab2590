"""The ways back, each as docs/recovery.md has it: what is lost, what is seen, the steps in order, what must be right then.

Each takes a plant that runs and is right, and leaves it so. Where docs/recovery.md names a tool of Kafka
(`kafka-topics.sh --delete`, `kafka-consumer-groups.sh --delete`) the same is asked of the broker by its admin client.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from confluent_kafka import TopicPartition
from confluent_kafka.admin import OffsetSpec

from tests.kafka_site import PARTITIONS, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.elasticsearch_server import Node
    from tests.kafka_server import Broker
    from tests.recovery.plant import Plant

_END: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]


class Way(NamedTuple):
    """What came of one: the lines that an operator saw, and the seconds from the first step until all was right."""

    seen: list[str]
    seconds: float


def _back(plant: Plant, began: float, *seen: str) -> Way:
    """Wait until all is right, then until it is right for what is logged afterwards, too."""
    plant.wait_right()
    seconds = time.monotonic() - began
    plant.more()
    plant.wait_right()
    return Way([line.removeprefix("mailspan: ") for line in seen], seconds)


def _leave_lines_unread(plant: Plant) -> None:
    """Stop the reducer, and have lines in mail.raw that it has not read."""
    plant.stop([plant.reducer])
    plant.more()
    wait_until(lambda: all(_is_at_end(plant, host) for host in plant.hosts))


def state_topic_lost(plant: Plant) -> Way:
    """mail.open-transactions is deleted while mail is open and the reducer runs."""
    plant.delete_topics("open-transactions")
    plant.more()
    assert plant.wait_ended(plant.reducer) == 3
    seen = plant.said_by(plant.reducer)[-1]
    began = time.monotonic()
    plant.delete_topics("open-transactions")
    plant.setup()
    plant.start([plant.reducer])
    return _back(plant, began, seen)


def day_index_lost(plant: Plant) -> Way:
    """The index of a day is deleted, and the sinks run."""
    index = f"{plant.settings['INDEX_PREFIX']}-2026.03.09"
    assert plant.node.ask("DELETE", f"/{index}")[0] == 200
    began = time.monotonic()
    done = plant.run("audit", "2026-03-09", "--mend")
    assert done.returncode == 0, done
    return _back(plant, began, *done.stdout.decode().splitlines(), *done.stderr.decode().splitlines())


def all_indices_lost(plant: Plant) -> Way:
    """All indices are deleted."""
    assert plant.node.ask("DELETE", f"/{plant.settings['INDEX_PREFIX']}-*")[0] == 200
    began = time.monotonic()
    plant.stop([plant.sinks])
    plant.delete_group("sink")
    plant.start([plant.sinks])
    return _back(plant, began)


def documents_topic_lost(plant: Plant) -> Way:
    """mail.transactions is deleted with documents that no sink had read."""
    plant.stop([plant.sinks])
    plant.more()
    plant.wait_all_read("reducer")
    plant.delete_topics("transactions")
    plant.more()
    seen = plant.wait_said(plant.reducer, "a commit was rolled back")
    began = time.monotonic()
    plant.stop([plant.reducer, plant.sinks])
    plant.delete_topics("transactions", "open-transactions")
    plant.delete_group("sink")
    plant.setup()
    plant.start()
    return _back(plant, began, seen)


def raw_topic_lost(plant: Plant) -> Way:
    """mail.raw is deleted with lines that no reducer had read, and the producers run."""
    _leave_lines_unread(plant)
    plant.delete_topics("raw")
    plant.more()
    seen = plant.wait_said(plant.producers[0], "sending failed")
    began = time.monotonic()
    plant.stop()
    plant.delete_topics("raw", "open-transactions")
    plant.setup()
    for host in plant.hosts:
        shutil.rmtree(plant.state(host))
    plant.start()
    return _back(plant, began, seen)


def gap_read(plant: Plant) -> Way:
    """Kafka deletes lines before the reducer has read them; it goes on behind the gap, then the logs are read again."""
    _leave_lines_unread(plant)
    places = [TopicPartition(f"{plant.prefix}.raw", number) for number in range(PARTITIONS)]
    latest = plant.admin.list_offsets(dict.fromkeys(places, _END))
    ends = [TopicPartition(place.topic, place.partition, found.result().offset) for place, found in latest.items()]
    for answer in plant.admin.delete_records(ends).values():
        answer.result(30)
    plant.more()
    plant.start([plant.reducer])
    seen = plant.wait_said(plant.reducer, "were deleted before they were read")
    plant.wait_all_read("reducer")
    plant.wait_all_read("sink")
    before = plant.difference()
    assert before.missing
    began = time.monotonic()
    done = plant.run("index", "--store", plant.node.url, *plant.logs)
    assert done.returncode == 0, done.stderr
    after = plant.difference()
    assert not after.missing, (after, done.stdout, done.stderr)
    assert all("~" in id_ for id_ in after.surplus), after
    want, have = plant.expected(), plant.stored()
    fields = {name for id_ in after.different for name in want[id_] if want[id_][name] != have[id_].get(name)}
    assert fields <= {"tls", "session"}, fields
    return Way(
        [seen.removeprefix("mailspan: "), f"before: {before}", f"after: {after}, in {sorted(fields)}"],
        time.monotonic() - began,
    )


def groups_lost(plant: Plant) -> Way:
    """The offsets of both groups are gone."""
    plant.stop([plant.reducer, plant.sinks])
    plant.delete_group("reducer")
    plant.delete_group("sink")
    plant.more()
    began = time.monotonic()
    plant.start()
    return _back(plant, began)


def positions_lost(plant: Plant) -> Way:
    """The positions of a producer are gone, those of another are damaged, of a third both saves are."""
    plant.stop(plant.producers)
    first, second, third = (plant.state(host) for host in plant.hosts)
    shutil.rmtree(first)
    _damage(second / "tail.checkpoint")
    _damage(third / "tail.checkpoint")
    _damage(third / "tail.checkpoint.previous")
    plant.more()
    began = time.monotonic()
    plant.start()
    seen = [plant.wait_said(child, "damaged") for child in plant.producers[1:]]
    return _back(plant, began, *seen)


def disk_full(plant: Plant) -> Way:
    """The disk of a producer's positions is full: a tiny file system, as root; then there is room again."""
    child, host = plant.producers[0], plant.hosts[0]
    plant.stop([child])
    shutil.rmtree(plant.state(host))
    plant.state(host).mkdir()
    _run("mount", "-t", "tmpfs", "-o", "size=64k", "mailspan-test", str(plant.state(host)))
    try:
        child.start()
        plant.more()
        plant.wait_right()  # now it knows its file
        filler = plant.state(host) / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(512))
        plant.more()
        seen = plant.wait_said(child, "positions cannot be saved")
        plant.wait_right()  # a file that is known is read on
        began = time.monotonic()
        filler.unlink()
        return _back(plant, began, seen)
    finally:
        child.end(signal.SIGKILL)
        _run("umount", str(plant.state(host)))


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


def elasticsearch_lost(plant: Plant) -> Way:
    """Elasticsearch goes, and a new one without anything comes."""
    node: Node = plant.node
    node.kill()
    plant.more()
    waiting = plant.wait_said(plant.sinks, "waiting for Elasticsearch")
    shutil.rmtree(node.folder)
    node.folder.mkdir()
    node.start()
    assert plant.wait_ended(plant.sinks, 120) == 3
    seen = plant.said_by(plant.sinks)[-1]
    began = time.monotonic()
    plant.setup()
    plant.delete_group("sink")
    plant.start([plant.sinks])
    return _back(plant, began, waiting, seen)


def kafka_lost(plant: Plant, new_broker: Callable[[], Broker]) -> Way:
    """Kafka goes with all topics, and a new one without anything comes; producers, reducer and sink run meanwhile."""
    plant.more()
    new_broker()
    plant.more()
    assert plant.wait_ended(plant.reducer, 120) == 3
    seen = plant.said_by(plant.reducer)[-1]
    began = time.monotonic()
    plant.stop()
    plant.delete_topics("raw", "transactions", "open-transactions", "dead-letter")
    plant.setup()
    for host in plant.hosts:
        shutil.rmtree(plant.state(host))
    plant.start()
    return _back(plant, began, seen)


def _damage(path: Path) -> None:
    """Break a save of positions."""
    path.write_bytes(path.read_bytes()[:-20])


def _is_at_end(plant: Plant, host: str) -> bool:
    """Whether Kafka has acknowledged all of a host's log."""
    state = plant.state(host) / "tail.checkpoint"
    size = plant.log(host).stat().st_size
    return f'"offset": {size},' in state.read_text(encoding="utf-8")


WAYS: tuple[Callable[[Plant], Way], ...] = (
    state_topic_lost, day_index_lost, all_indices_lost, documents_topic_lost, raw_topic_lost, groups_lost,
    positions_lost, disk_full,
)  # fmt: skip
"""What can be tried on one plant, one after the other; `gap_read`, `elasticsearch_lost` and `kafka_lost` stand alone."""
