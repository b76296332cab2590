"""What answers cost on a real Elasticsearch: `make bench-search-elasticsearch`, `python -m bench.search_elasticsearch`.

A node of its own is filled with the documents of `bench.search` through the sink's writer, into 30 daily indices. Then
questions of every kind are asked, each many times with values drawn anew from the documents and for a day, for seven
days and for all days, in an order that is drawn, too. A time goes from the text of the flags to the documents, as the
command spends it: a connection, the server's version, the list of its indices and the search are in it, and starting
Python is not. The first question of each kind, asked with empty caches, stands apart as `cold`.

CPU times are those of this process and of the server's together. The last line is for programs. With `--keep FOLDER`
the node and its data stay there, and the next run asks what an earlier one wrote.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from datetime import UTC, date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import orjson

from bench.search import DAYS, FIRST_MS, GOAL_TRACE_MS, NOW, Generator, Question, trace, trails
from mailspan.settings import Settings
from search.counts import FIELDS, count_by
from search.query import FLAGS, parse_query
from search.select import select
from sink.bulk import BATCH_ITEMS
from sink.daily_indices import DailyIndices
from sink.elasticsearch import Server
from sink.elasticsearch_reader import ElasticsearchReader
from sink.elasticsearch_settings import connection_of
from sink.elasticsearch_writer import ElasticsearchWriter
from sink.index_template import Wanted
from sink.indices import day_of_ms
from tests.elasticsearch_server import VERSION, Node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sink.elasticsearch_settings import Connection
    from sink.store import Document

PREFIX = "bench"
GOAL_MS = 100.0
GOAL_WRITER_US = 40.0
RANGES = {"1 day": 1, "7 days": 7, "all": None}
"""How many days are asked for; None: no times at all."""
_HEAP = "2g"
_JVM = ("-Xms1g",)
_FILLED = "filled.json"
"""In a folder that is kept: how many documents the node holds, and those that stand for them."""
_SAMPLES = 5000
_TICK = os.sysconf("SC_CLK_TCK")

Flags = dict[str, str]


def _whole(name: str, field: str) -> Callable[[random.Random, Document], Flags]:
    return lambda _chance, one: {name: str(one[field])}


def _network(_chance: random.Random, one: Document, bytes_: int) -> Flags:
    first = ".".join(one["client_ip"].split(".")[:bytes_])
    return {"client": f"{first}{'.0' * (4 - bytes_)}/{bytes_ * 8}"}


def _domain(address: str) -> str:
    return "@" + address.rpartition("@")[2]


KINDS: dict[str, Callable[[random.Random, Document], Flags]] = {
    "newest": lambda _chance, _one: {},
    "recipient": lambda chance, one: {"recipient": chance.choice(one["recipients"])},
    "recipient, domain": lambda _chance, one: {"recipient": _domain(one["recipients"][0])},
    "recipient of a list": lambda chance, _one: {"recipient": f"member{chance.randrange(500, 50000)}@list.example.org"},
    "recipient, its outcome": lambda _chance, one: {"recipient": one["recipients"][0], "outcome": one["outcomes"][0]},
    "recipient domain bounced": lambda _chance, one: {"recipient": _domain(one["recipients"][0]), "outcome": "bounced"},
    "sender": _whole("sender", "from"),
    "sender, frequent": lambda _chance, _one: {"sender": "newsletter@example.com"},
    "sender, domain": lambda _chance, one: {"sender": _domain(one["from"])},
    "message id": _whole("message_id", "msgid"),
    "queue id": _whole("queue_id", "queue_id"),
    "TERM: address": lambda _chance, one: {"term": one["recipients"][0]},
    "TERM: message id": lambda _chance, one: {"term": f"<{one['msgid']}>"},
    "TERM: host/queue id": lambda _chance, one: {"term": f"{one['host']}/{one['queue_id']}"},
    "TERM: IP": _whole("term", "client_ip"),
    "host, short": lambda _chance, one: {"host": one["host"].partition(".")[0]},
    "host, full": _whole("host", "host"),
    "client, name": lambda _chance, one: {"client": one["client_name"] or one["client"]},
    "client, IP": _whole("client", "client_ip"),
    "client, /24": lambda chance, one: _network(chance, one, 3),
    "client, /16": lambda chance, one: _network(chance, one, 2),
    "relay": lambda _chance, one: {"relay": one["relays"][0]},
    "outcome": lambda chance, _one: {"outcome": chance.choice(("bounced", "deferred", "delivered", "rejected"))},
    "outcome, none has it": lambda _chance, _one: {"outcome": "expired"},
    "dsn": lambda chance, _one: {"dsn": chance.choice(("4", "5", "5.1", "4.7.1", "2.0.0"))},
    "subject, rare": lambda chance, _one: {"subject": f"report {chance.randrange(1_000_000) // 20 * 20}"},
    "subject, frequent": lambda chance, _one: {"subject": chance.choice(("report", "amber report", "for grove"))},
    "state": lambda chance, _one: {"state": chance.choice(("open", "closed", "incomplete"))},
    "sender and recipient": lambda _chance, one: {"sender": one["from"], "recipient": one["recipients"][0]},
    "frequent and frequent": lambda _chance, one: {
        "sender": "newsletter@example.com", "recipient": _domain(one["recipients"][0]), "host": one["host"],
    },
    "client, outcome, dsn": lambda chance, one: {**_network(chance, one, 2), "outcome": "bounced", "dsn": "5"},
    "relay, host, subject": lambda _chance, one: {"relay": one["relays"][0], "host": one["host"], "subject": "report"},
}  # fmt: skip
"""The flags of each kind of question, made with values of one document."""

COUNTS = {
    "--count": KINDS["newest"],
    "--count recipient domain": KINDS["recipient, domain"],
    "--count outcome": KINDS["outcome"],
    "--count client /16": KINDS["client, /16"],
}


class Times(NamedTuple):
    """Milliseconds that questions of one kind took: at first, then for each of RANGES, and of CPU for each."""

    cold: float
    taken: dict[str, list[float]]
    cpu: list[float]


class Site:
    """A node, its client, and the documents that were put there."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.connection: Connection = connection_of(Settings(elasticsearch_url=node.url))
        self.samples: list[Document] = []
        self.documents = 0

    def server_cpu_seconds(self) -> float:
        """Return what the server has used so far."""
        fields = Path(f"/proc/{self.node.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICK

    def fill(self, transactions: int, seed: int) -> float:
        """Write all documents; print what that took; return µs of CPU of this process per document."""
        chance = random.Random(seed)
        with Server(self.connection) as server:
            list(DailyIndices(server, PREFIX).set_up(Wanted(replicas=0), is_dry_run=False))
            writer = ElasticsearchWriter(server, PREFIX, day_of_ms(FIRST_MS), patience_seconds=600.0)
            batch: list[Document] = []
            wall = cpu = server_cpu = 0.0
            payload_bytes = 0

            def write() -> None:
                nonlocal wall, cpu, server_cpu, payload_bytes
                encoded = [orjson.dumps(each) for each in batch]  # the sink has them from Kafka
                payload_bytes += sum(map(len, encoded))
                begin, used, used_there = time.perf_counter(), time.process_time(), self.server_cpu_seconds()
                found = writer.write(batch, encoded)
                wall += time.perf_counter() - begin
                cpu += time.process_time() - used
                server_cpu += self.server_cpu_seconds() - used_there
                if found.indexed != len(batch):
                    raise SystemExit(f"not all documents were taken: {found}, {writer.refused[:1]}")
                self.documents += found.indexed
                batch.clear()

            for document in Generator(seed, transactions).documents():
                batch.append(document)
                if document["kind"] == "transaction" and document["page"] == 0:
                    self._sample(chance, document)
                if len(batch) >= BATCH_ITEMS:
                    write()
            write()
            server.ask("POST", f"/{PREFIX}-*/_refresh", "to refresh")
            answer = server.ask("GET", f"/{PREFIX}-*/_stats/store,segments", "to see sizes", needs="_all")
        stats = answer["_all"]["total"]
        each, there = (seconds / self.documents * 1e6 for seconds in (cpu, server_cpu))
        verdict = "met" if each <= GOAL_WRITER_US else "not met"
        size = stats["store"]["size_in_bytes"]
        print(
            f"written: {self.documents:,} documents, {payload_bytes / 2**20:,.0f} MiB of JSON, in {wall:.0f} s:"
            f" {self.documents / wall:,.0f} documents/s, {payload_bytes / 2**20 / wall:.1f} MiB/s\n"
            f"the writer: {each:.1f} µs of CPU per document (goal {GOAL_WRITER_US:.0f}: {verdict}); the server:"
            f" {there:.0f} µs; the writer's share {each / (each + there):.0%}\n"
            f"on disk: {size / 2**20:,.0f} MiB, {size / self.documents:.0f} bytes per document,"
            f" {stats['segments']['count']} segments"
        )
        return each

    def _sample(self, chance: random.Random, document: Document) -> None:
        """Keep documents that stand for all so far (reservoir sampling)."""
        if len(self.samples) < _SAMPLES:
            self.samples.append(document)
        elif (place := chance.randrange(self.documents + 1)) < _SAMPLES:
            self.samples[place] = document

    def remember(self, transactions: int, seed: int) -> None:
        """Say in the node's folder what was written."""
        said = {"transactions": transactions, "seed": seed, "documents": self.documents, "samples": self.samples}
        (self.node.folder / _FILLED).write_bytes(orjson.dumps(said))

    def is_filled(self, transactions: int, seed: int) -> bool:
        """Whether the node's folder holds these documents already; they are known from then on."""
        path = self.node.folder / _FILLED
        said = orjson.loads(path.read_bytes()) if path.exists() else {}
        if (said.get("transactions"), said.get("seed")) != (transactions, seed):
            return False
        self.documents, self.samples = said["documents"], said["samples"]
        return True

    def clear_caches(self) -> None:
        """Empty the server's caches; not those of the system."""
        with Server(self.connection) as server:
            server.ask("POST", f"/{PREFIX}-*/_cache/clear", "to empty the caches")

    def ask(self, question: Question) -> int:
        """Return the number of documents, mails or values found."""
        with Server(self.connection) as server:
            server.version()
            reader = ElasticsearchReader(server, PREFIX)
            selection = select(parse_query({name: question.flags.get(name) for name in FLAGS}, now=NOW, zone=UTC))
            if question.is_trace:
                found = trace(reader, selection)
            elif question.by is None:
                found = len(reader.newest(selection, 100))
            elif question.by:
                found = len(count_by(reader, selection, question.by, UTC))
            else:
                found = reader.count(selection)
            if reader.faults:
                raise SystemExit(reader.faults[0])
            return found


def drawn(chance: random.Random, samples: Sequence[Document], name: str, range_: str) -> Question:
    """Return a question of this kind with the values of a document, for as many days."""
    one = chance.choice(samples)
    days = RANGES[range_]
    first = day_of_ms(FIRST_MS)
    flags: Flags = {}
    if days is not None:
        since = first + timedelta(days=chance.randrange(DAYS - days + 1))
        if name in KINDS and name != "newest":  # where there is something to be found
            of_it = date.fromisoformat(one["date"][:10])
            since = min(max(first, of_it - timedelta(days=chance.randrange(days))), first + timedelta(days=DAYS - days))
        flags = {"since": since.isoformat(), "until": (since + timedelta(days=days - 1)).isoformat()}
    if name in KINDS:
        return Question(name, {**flags, **KINDS[name](chance, one)})
    if name in COUNTS:
        return Question(name, {**flags, **COUNTS[name](chance, one)}, "")
    return Question(name, flags, name.removeprefix("--by "))


def measure(site: Site, names: Sequence[str], rounds: int, seed: int) -> dict[str, Times]:
    """Ask so many questions of each kind and range, in drawn order."""
    chance = random.Random(seed)
    times = {}
    site.clear_caches()
    for name in names:
        begin = time.perf_counter()
        site.ask(drawn(chance, site.samples, name, "all"))
        times[name] = Times((time.perf_counter() - begin) * 1000, {each: [] for each in RANGES}, [])
    order = [(name, range_) for name in names for range_ in RANGES for _ in range(rounds)]
    chance.shuffle(order)
    for name, range_ in order:
        question = drawn(chance, site.samples, name, range_)
        begin, cpu = time.perf_counter(), time.process_time() + site.server_cpu_seconds()
        site.ask(question)
        times[name].taken[range_].append((time.perf_counter() - begin) * 1000)
        times[name].cpu.append((time.process_time() + site.server_cpu_seconds() - cpu) * 1000)
    return times


def measure_traces(site: Site, transactions: int, rounds: int, seed: int) -> float:
    """Follow mails over all their servers, each by every kind of question; print times; return the p99."""
    chance = random.Random(seed)
    times: dict[str, list[float]] = {}
    site.clear_caches()
    for _ in range(rounds):
        for question in trails(chance.randrange(max(1, transactions - 1000))):
            begin = time.perf_counter()
            site.ask(question)
            times.setdefault(question.name, []).append((time.perf_counter() - begin) * 1000)
    print(f"\nms{'':24}{'p50':>8}{'p99':>8}")
    for name, values in times.items():
        print(f"{name:26}{percentile(values, 50):8.1f}{percentile(values, 99):8.1f}")
    return percentile([each for values in times.values() for each in values], 99)


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the smallest value that `percent` of them do not exceed."""
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]


def tell(times: dict[str, Times]) -> tuple[float, float]:
    """Print a row for each kind; return the p50 and p99 of all questions."""
    print(f"\nms{'':24}{'cold':>8}" + "".join(f"{f'{each}: p50':>14}{'p99':>8}" for each in RANGES) + f"{'CPU':>8}")
    every: list[float] = []
    missed = []
    for name, found in times.items():
        row = f"{name:26}{found.cold:8.1f}"
        for values in found.taken.values():
            row += f"{percentile(values, 50):14.1f}{percentile(values, 99):8.1f}"
            every += values
        print(f"{row}{statistics.fmean(found.cpu):8.1f}")
        if any(percentile(values, 99) > GOAL_MS for values in found.taken.values()):
            missed.append(name)
    print(f"\np99 above {GOAL_MS:.0f} ms: {'; '.join(missed) or 'none'}")
    return percentile(every, 50), percentile(every, 99)


@contextmanager
def filled(called: argparse.Namespace) -> Iterator[tuple[Site, float]]:
    """Run a node with the documents; give it, and µs of CPU that writing one took (0 if they were there)."""
    with tempfile.TemporaryDirectory(prefix="mailspan-bench-") as folder:
        kept = Path(called.keep or folder)
        if (kept / "data").exists() and not (kept / _FILLED).exists():
            raise SystemExit(f"{kept} holds the data of a run that did not end; delete it")
        node = Node(kept, heap=_HEAP, jvm=_JVM)
        try:
            node.start()
            print(
                f"Elasticsearch {VERSION}, java {' '.join(node.jvm)}; {DAYS} indices of 1 shard, no replicas",
                flush=True,
            )
            site = Site(node)
            each = 0.0
            if not site.is_filled(called.transactions, called.seed):
                if (kept / _FILLED).exists():
                    raise SystemExit(f"{kept} holds other documents; delete it")
                each = site.fill(called.transactions, called.seed)
                site.remember(called.transactions, called.seed)
            yield site, each
        finally:
            node.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill, ask, print. Exit code 1 when the p99 of all questions, or of the traces, is above the goal."""
    parser = argparse.ArgumentParser(prog="python -m bench.search_elasticsearch", description=__doc__)
    parser.add_argument("--transactions", type=int, default=1_000_000, metavar="N", help="how many are in the store")
    parser.add_argument("--rounds", type=int, default=40, metavar="N", help="questions of each kind and range")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="another seed, other documents and questions")
    parser.add_argument("--traces", action="store_true", help="measure traces only")
    parser.add_argument("--keep", metavar="FOLDER", help="the node's folder, kept with its data for the next run")
    parser.add_argument("--only", metavar="TEXT", default="", help="ask only kinds whose names contain this")
    called = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the node ends with this
    names = [*KINDS, *COUNTS, *(f"--by {field}" for field in FIELDS)]
    names = [] if called.traces else [name for name in names if called.only in name]
    with filled(called) as (site, each):
        times = measure(site, names, called.rounds, called.seed)
        traced = measure_traces(site, called.transactions, called.rounds, called.seed)
    said = f"documents={site.documents} days={DAYS}"
    high = 0.0
    if times:
        middle, high = tell(times)
        number = sum(len(values) for found in times.values() for values in found.taken.values())
        cpu = statistics.fmean([value for found in times.values() for value in found.cpu])
        said += f" searches={number} p50_ms={middle:.1f} p99_ms={high:.1f} cpu_ms={cpu:.1f}"
    print(f"{said} writer_cpu_us={each:.1f} trace_p99_ms={traced:.1f}")
    return 1 if high > GOAL_MS or traced > GOAL_TRACE_MS else 0


if __name__ == "__main__":
    sys.exit(main())
