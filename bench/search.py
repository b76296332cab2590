"""What an answer of `mailspan search` costs on a million transactions: `python -m bench.search` (`make bench-search`).

Makes documents with a seeded generator, straight into a store (no log is read), then asks one question of every kind,
each in a store opened for it, as the command does, and prints the median and the longest time. The times go from the
text of the flags to the documents; starting Python is not in them. A first round, not counted, warms the file cache.
Beside them stands the median CPU time, which is the same thing on an idle machine, and the one to trust on a busy one.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import inspect
import itertools
import random
import statistics
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.world import TOP, WORDS, World
from mailspan.commands.search import GARBAGE_THRESHOLD
from mailspan.document import FIELDS
from search.counts import count_by
from search.query import FLAGS, parse_query
from search.select import select
from search.trace import traces_of
from sink.sqlite import open_for_writing
from sink.sqlite_reader import SqliteReader
from sink.sqlite_schema import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sink.store import DocumentReader, Selection

FOLDER = Path("build/bench")
FIRST_MS = 1_793_491_200_000  # 2026-11-01 00:00 UTC
DAYS = 30
DAY_MS = 86_400_000
NOW = datetime.fromtimestamp((FIRST_MS + DAYS * DAY_MS) / 1000 - 3600, UTC)
GOAL_MS = 50.0
BATCH = 20_000

Document = dict[str, Any]
_DEFAULTS: Document = {field.name: field.default for field in FIELDS}
_ENDS = ("relayed",) * 85 + ("deferred",) * 2 + ("bounced",) * 5 + ("delivered",) * 8
_STATUS = {
    "relayed": ("sent (250 2.0.0 Ok: queued as 5298B228B8B)", "2.0.0", 250),
    "delivered": ("sent (delivered to mailbox)", "2.0.0", None),
    "deferred": ("deferred (host mx.example.com said: 450 4.7.1 Greylisted)", "4.7.1", 450),
    "bounced": ("bounced (host mx.example.com said: 550 5.1.1 User unknown)", "5.1.1", 550),
}
_PAGES_EVERY = 100_000
_PAGES = 100
_TRAILS_EVERY = 1000
TRAIL = 5
"""How many servers a mail went over whose hops are all there."""
GOAL_TRACE_MS = 300.0


def stamp(ms: int) -> str:
    """Return milliseconds since 1970 as documents write them."""
    return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{ms % 1000:03d}Z"


class Generator:
    """Documents of one seed, oldest first."""

    def __init__(self, seed: int, transactions: int) -> None:
        self._world = World(seed)
        self._random = random.Random(seed)
        self._transactions = transactions

    def documents(self) -> Iterator[Document]:
        """Yield the documents of all transactions; some have pages."""
        for number in range(self._transactions):
            document = self._transaction(number)
            yield document
            if number % _PAGES_EVERY == _PAGES_EVERY // 2:
                yield from self._pages(document)
            if number % _TRAILS_EVERY == 1:
                yield from self._trail(number)

    def documents_until(self, number: int) -> Iterator[Document]:
        """Yield the first documents, without writing the others."""
        return itertools.islice(self.documents(), number)

    def _transaction(self, number: int) -> Document:
        chance, world = self._random, self._world
        date_ms = FIRST_MS + number * DAYS * DAY_MS // self._transactions // 1000 * 1000
        document = dict(_DEFAULTS)
        host = f"mx{number % 4}.example.com"
        queue_id = f"{number * 7919 % 0xFFFFF:05X}{number:06X}"
        sender = world.remote() if number % 10 else "newsletter@example.com"
        document.update(
            id=f"{host}/{queue_id}/{date_ms // 1000}", queue_id=queue_id, host=host, mta="postfix",
            date=stamp(date_ms), state="closed", closed_by="removed", msgid=world.message_id(date_ms * 1000, sender),
            size=chance.randrange(800, 90_000), notes=[], links=[], version=6 << 16,
        )  # fmt: skip
        document["from"] = sender
        client = world.client()
        name = None if client.name == "unknown" else client.name
        document.update(client=f"{name} [{client.ip}]" if name else f"[{client.ip}]", client_name=name)
        document.update(client_ip=client.ip, recipient_count=1, helo=name, protocol="ESMTP")
        kind = number % 50
        if kind == 0:
            document["kind"] = "probe"
        elif kind <= 5:  # noqa: PLR2004 - one in ten
            document.update(kind="rejection", id=f"{host}~{number:x}", queue_id=None, stage="rcpt", msgid=None)
        if number % 20 == 0:
            document["subject"] = f"{WORDS[number // 20 % 12].title()} report {number} for {WORDS[number // 7 % 12]}"
        self._fill(document, date_ms, [world.local() for _ in range(1 + (number % 9 == 0))])
        if document["kind"] == "rejection":
            document["outcome"] = "rejected"
        return document

    def _fill(self, document: Document, date_ms: int, recipients: Sequence[str]) -> None:
        """Fill in what depends on the recipients of a document or a page."""
        chance = self._random
        outcome = chance.choice(_ENDS)
        if document["kind"] == "rejection":
            outcome = "bounced"
        status, dsn, code = _STATUS[outcome]
        relay = "local" if outcome == "delivered" else f"mx{chance.randrange(40)}.{chance.choice(TOP)}"
        lasted = chance.randrange(500, 20_000)
        if chance.random() < 0.03:  # noqa: PLR2004 - greylisting, full mailboxes
            lasted = int(3_600_000 * chance.paretovariate(0.7)) % (5 * DAY_MS)
        if outcome == "deferred":
            document.update(state="open", closed_by=None)
        document["updated"] = stamp(date_ms + lasted)
        if document["kind"] == "rejection":
            outcome, relay = "rejected", "none"
        document["outcome"] = outcome
        document["to"] = [
            {
                "recipient": each, "original_recipient": None, "relay": relay, "relay_ip": None, "relay_port": 25,
                "status": status, "outcome": outcome, "dsn": dsn, "code": code, "date": document["updated"],
                "delay_seconds": lasted / 1000,
            }
            for each in recipients
        ]  # fmt: skip
        document["recipients"] = list(dict.fromkeys(recipients))
        document["recipient_domains"] = list(dict.fromkeys(each.rpartition("@")[2] for each in recipients))
        document.update(relays=[relay], outcomes=[outcome], dsns=[dsn], attempt_count=len(recipients))
        document["deliveries"] = [f"{outcome} {each}" for each in document["recipients"]]

    def _trail(self, number: int) -> Iterator[Document]:
        """Yield the transactions of one mail over TRAIL servers, each with what it was given by the one before."""
        date_ms = FIRST_MS + number * DAYS * DAY_MS // self._transactions // 1000 * 1000
        for turn in range(TRAIL):
            document = dict(_DEFAULTS)
            host, there = f"mx{turn}.example.com", f"mx{turn + 1}.example.com"
            mine, its = (f"7{turn + each:X}{number:07X}" for each in (0, 1))
            ours = date_ms + turn * 1500
            is_last = turn == TRAIL - 1
            document.update(
                id=f"{host}/{mine}/{ours // 1000}", queue_id=mine, host=host, mta="postfix", date=stamp(ours),
                state="closed", closed_by="removed", msgid=f"trail.{number}@example.com", notes=[], version=6 << 16,
                client=f"mx{turn - 1}.example.com [198.51.100.{turn}]", client_name=f"mx{turn - 1}.example.com",
                client_ip=f"198.51.100.{turn}", recipient_count=1, protocol="ESMTP",
                links=[] if is_last else [{"kind": "next", "queue_id": its, "host": there}],
            )  # fmt: skip
            document["from"] = f"trail{number}@example.com"
            self._fill(document, ours, [f"trail{number}@example.org"])
            row = {
                **document["to"][0], "relay": "local" if is_last else there, "date": stamp(ours + 1400),
                "outcome": "delivered" if is_last else "relayed", "status": f"sent (250 2.0.0 Ok: queued as {its})",
            }  # fmt: skip
            if not is_last:
                row["next_queue_id"] = its
            document.update(to=[row], relays=[row["relay"]], outcome=row["outcome"], outcomes=[row["outcome"]])
            document.update(state="closed", closed_by="removed", updated=row["date"])
            document["deliveries"] = [f"{row['outcome']} {row['recipient']}"]
            yield document

    def _pages(self, first: Document) -> Iterator[Document]:
        first["page_count"] = _PAGES
        date_ms = round(datetime.fromisoformat(first["date"]).timestamp() * 1000)
        for page in range(1, _PAGES):
            document = dict(first)
            self._fill(document, date_ms, [f"member{page * 500 + at}@list.example.org" for at in range(500)])
            document.update(id=f"{first['id']}#{page}", page=page, page_count=_PAGES)
            yield document


def make_store(transactions: int, seed: int) -> Path:
    """Return the store with these documents, made unless it is there already."""
    sources = [Path("sink", name) for name in ("terms.py", "sqlite.py", "facets.py", "sqlite_schema.py")]
    schema = f"{transactions} {seed} {SCHEMA_VERSION} {inspect.getsource(Generator)}"
    made_of = schema.encode() + b"".join(source.read_bytes() for source in sorted(sources))
    path = FOLDER / f"search-{transactions}-{hashlib.sha256(made_of).hexdigest()[:12]}.sqlite"
    if path.exists():
        return path
    for old in FOLDER.glob(f"search-{transactions}-*"):
        old.unlink()
    making = path.with_suffix(".making")
    begin = time.perf_counter()
    written = 0
    with open_for_writing(making) as store:
        batch: list[Document] = []
        for document in Generator(seed, transactions).documents():
            batch.append(document)
            if len(batch) >= BATCH:
                written += store.write(batch).indexed
                batch.clear()
        written += store.write(batch).indexed
    for left in FOLDER.glob(f"{making.name}*"):
        if left != making:
            left.unlink()
    making.rename(path)
    size = path.stat().st_size / 2**20
    print(f"made {path}: {written:,} documents, {size:,.0f} MiB, {time.perf_counter() - begin:.0f} s")
    return path


class Question(NamedTuple):
    """What is asked: the flags by their names in search.query.FLAGS; `by` is that of --count, "" for --count alone.

    `is_trace`: the mail is followed over its hops, and the number found is that of its transactions.
    """

    name: str
    flags: dict[str, str]
    by: str | None = None
    is_trace: bool = False


def questions(samples: Sequence[Document]) -> list[Question]:
    """Return one question of every kind; rare values are those of a document that is there."""
    one = samples[len(samples) // 3]
    rare, relay = str(one["from"]), str(one["relays"][0])
    news, local = "newsletter@example.com", "@amber.example.com"
    two_days = {"since": "2026-11-10", "until": "2026-11-11"}
    asked = [
        Question("newest", {}),
        Question("queue id", {"queue_id": str(one["queue_id"])}),
        Question("message id", {"message_id": str(one["msgid"])}),
        Question("TERM: queue id", {"term": str(one["queue_id"])}),
        Question("TERM: message id", {"term": f"<{one['msgid']}>"}),
        Question("TERM: address", {"term": str(one["recipients"][0])}),
        Question("TERM: IP", {"term": str(one["client_ip"])}),
        Question("TERM: host/queue id", {"term": f"{one['host']}/{one['queue_id']}"}),
        Question("sender, rare", {"sender": rare}),
        Question("sender, frequent", {"sender": news}),
        Question("sender, domain", {"sender": "@" + rare.rpartition("@")[2]}),
        Question("recipient", {"recipient": str(one["recipients"][0])}),
        Question("recipient, domain", {"recipient": local}),
        Question("recipient on page 74", {"recipient": "member37000@list.example.org"}),
        Question("recipient, bounced", {"recipient": local, "outcome": "bounced"}),
        Question("frequent and rare", {"sender": news, "recipient": "cedar4406@delta.example.org"}),
        Question("frequent and frequent", {"sender": news, "recipient": local, "host": "mx1"}),
        Question("host", {"host": "mx1"}),
        Question("client, name", {"client": str(one["client_name"] or "uid=0")}),
        Question("client, /24", {"client": "198.51.7.0/24"}),
        Question("client, /9", {"client": "198.0.0.0/9"}),
        Question("relay", {"relay": relay}),
        Question("outcome bounced", {"outcome": "bounced"}),
        Question("outcome bounced today", {"outcome": "bounced", "since": "today"}),
        Question("outcome expired today", {"outcome": "expired", "since": "today"}),
        Question("dsn 5.1", {"dsn": "5.1"}),
        Question("state open", {"state": "open"}),
        Question("state incomplete", {"state": "incomplete"}),
        Question("two days", two_days),
        Question("last 2 hours", {"since": "2h"}),
        Question("subject, rare", {"subject": "report 9000"}),
        Question("subject, frequent", {"subject": "report"}),
        Question("subject, nothing", {"subject": "annual report"}),
        Question("nothing found", {"sender": "nobody@nowhere.example.com"}),
    ]
    asked += [Question(f"--count {each.name}", each.flags, "") for each in asked if "TERM" not in each.name]
    for field in (
        "host",
        "outcome",
        "outcomes",
        "dsn",
        "kind",
        "state",
        "stage",
        "day",
        "hour",
        "relay",
        "sender_domain",
    ):
        asked.append(Question(f"--by {field}, today", {"since": "today"}, field))
        asked.append(Question(f"--by {field}, everything", {}, field))
    asked += [
        Question("--by sender_domain, today", {"since": "today"}, "sender_domain"),
        Question("--by sender, today", {"since": "today"}, "sender"),
        Question("--by sender, everything", {}, "sender"),
        Question("--by recipient, today", {"since": "today"}, "recipient"),
        Question("--by recipient, everything", {}, "recipient"),
        Question("--by client, today", {"since": "today"}, "client"),
        Question("--by client, everything", {}, "client"),
        Question("--by outcome, frequent sender", {"sender": news}, "outcome"),
        Question("--by day, frequent sender", {"sender": news}, "day"),
        Question("--by relay, bounced today", {"outcome": "bounced", "since": "today"}, "relay"),
        *trails(len(samples)),
    ]
    return asked


def trails(number: int) -> list[Question]:
    """Return questions for the trace of a mail over TRAIL servers, which began near a transaction of this number."""
    begun = number // _TRAILS_EVERY * _TRAILS_EVERY + 1
    return [
        Question("trace: first queue id", {"term": f"70{begun:07X}"}, is_trace=True),
        Question("trace: third queue id", {"term": f"72{begun:07X}"}, is_trace=True),
        Question("trace: last queue id", {"term": f"74{begun:07X}"}, is_trace=True),
        Question("trace: message id", {"message_id": f"trail.{begun}@example.com"}, is_trace=True),
        Question(
            "trace: -f and -t", {"sender": f"trail{begun}@example.com", "recipient": "@example.org"}, is_trace=True
        ),
    ]


def trace(reader: DocumentReader, selection: Selection) -> int:
    """Follow the mail that is meant; return the number of its transactions, which must be TRAIL."""
    found = sum(len(each.nodes) for each in traces_of(reader, reader.newest(selection, 100), {}))
    if found != TRAIL:
        raise SystemExit(f"a trace found {found} transactions, not {TRAIL}")
    return found


def ask(store: Path, question: Question) -> int:
    """Return the number of documents, mails or values found."""
    with SqliteReader(store) as reader:
        selection = select(parse_query({name: question.flags.get(name) for name in FLAGS}, now=NOW, zone=UTC))
        if question.is_trace:
            return trace(reader, selection)
        if question.by is None:
            return len(reader.newest(selection, 100))
        if question.by:
            return len(count_by(reader, selection, question.by, UTC))
        return reader.count(selection)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the store, ask, print. Exit code 1 when a question takes longer than the goal."""
    parser = argparse.ArgumentParser(prog="python -m bench.search", description=__doc__)
    parser.add_argument("--transactions", type=int, default=1_000_000, metavar="N", help="how many are in the store")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="how often each question is asked")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="another seed, other documents")
    called = parser.parse_args(arguments)
    store = make_store(called.transactions, called.seed)
    some = Generator(called.seed, called.transactions).documents_until(3001 + 3 * TRAIL)
    whole = (each for each in some if each["kind"] == "transaction" and each["page"] == 0)
    asked = questions([each for each in whole if not each["msgid"].startswith("trail.")])
    gc.set_threshold(GARBAGE_THRESHOLD)
    print(f"{called.transactions:,} transactions; {called.rounds} rounds; ms")
    print(f"{'':36}{'found':>9}{'p50':>9}{'max':>9}{'CPU p50':>9}")
    missed = []
    for question in asked:
        ask(store, question)
        times, used = [], []
        for _ in range(called.rounds):
            begin, cpu = time.perf_counter(), time.process_time()
            found = ask(store, question)
            times.append((time.perf_counter() - begin) * 1000)
            used.append((time.process_time() - cpu) * 1000)
        median = statistics.median(used)
        if median > (GOAL_TRACE_MS if question.is_trace else GOAL_MS):
            missed.append(question.name)
        print(f"{question.name:36}{found:9,}{statistics.median(times):9.1f}{max(times):9.1f}{median:9.1f}", flush=True)
    print(f"\nmore than {GOAL_MS:.0f} ms of CPU, traces {GOAL_TRACE_MS:.0f} ms: {'; '.join(missed) or 'none'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
