"""Searches of the SQLite store against a plain filter over all documents, written from the contract alone.

Hundreds of seeded queries, made of what is in the documents, in other spellings too. The filter knows no terms, no
index and no walks: it reads each document and compares. What both say must be the same documents in the same order,
the same counts, and the same counts by field.
"""

from __future__ import annotations

import random
import re
import sqlite3
import unicodedata
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime
from encodings.idna import ToUnicode
from functools import cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from itertools import islice
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from search.counts import FIELDS as COUNT_FIELDS
from search.counts import count_by
from search.query import FLAGS, parse_query
from search.select import select
from sink.sqlite import open_for_writing
from sink.sqlite_reader import SqliteReader
from tests.search_documents import FIRST, OUTCOMES, Document, all_documents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from sink.store import DocumentReader

NOW = datetime.fromtimestamp(FIRST + 45 * 86400, UTC)
ROUNDS = 300

Flags = dict[str, str]


@cache
def folded(text: str) -> str:
    text = re.sub(r"(?<![a-z0-9-])xn--[a-z0-9-]+", lambda label: ToUnicode(label[0]), text.lower())
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def bare(text: str) -> str:
    return text[1:-1] if text.startswith("<") and text.endswith(">") else text


def is_address(wanted: str, address: str | None) -> bool:
    if address is None:
        return False
    wanted = bare(wanted)
    if wanted.startswith("@"):
        return "@" in address and folded(address.rpartition("@")[2]) == folded(wanted[1:])
    return folded(address) == folded(wanted)


def ends_of(document: Document) -> list[tuple[str, str]]:
    """Return each recipient, final or original, with how its last attempt ended."""
    ends = [(each.partition(" ")[2], each.partition(" ")[0]) for each in document["deliveries"]]
    by_final = dict.fromkeys(name for name, _ in ends)
    for attempt in document["to"]:
        original, final = attempt.get("original_recipient"), (attempt["recipient"] or "").casefold()
        if original and final in by_final:
            ends += [(original, outcome) for name, outcome in list(ends) if name == final]
    return ends


def is_client(wanted: str, document: Document) -> bool:
    names = [document["client_name"] or "", (document["orig_client"] or "").partition(" [")[0]]
    if document["client_ip"] is None:
        names.append(document["client"] or "")
    if any(name and folded(name) == folded(wanted) for name in names):
        return True
    return is_client_network(wanted, document)


def network_of(wanted: str) -> IPv4Network | IPv6Network | None:
    try:
        network = ip_network(wanted.strip("[]"), strict=False)
    except ValueError:
        return None
    if isinstance(network, IPv6Network) and network.prefixlen >= 96 and network.network_address.ipv4_mapped:
        return ip_network(f"{network.network_address.ipv4_mapped}/{network.prefixlen - 96}")
    return network


def is_client_network(wanted: str, document: Document) -> bool:
    network = network_of(wanted)
    if network is None:
        return False
    for name in ("client_ip", "orig_client_ip"):
        if document[name]:
            address = ip_address(document[name])
            mapped = getattr(address, "ipv4_mapped", None)
            if (address if mapped is None else mapped) in network:
                return True
    return False


def is_relay_address(wanted: str, document: Document) -> bool:
    network = network_of(wanted)
    return network is not None and network.num_addresses == 1 and is_relay(str(network.network_address), document)


def is_message_id(wanted: str, document: Document) -> bool:
    logged = document["msgid"]
    if logged is None:
        return False
    one, other = folded(bare(wanted)), folded(bare(logged))
    was_cut = "truncated" in document["notes"] and len(other) >= 80
    asked_cut = 80 <= len(one) <= 100
    return one == other or (was_cut and one.startswith(other)) or (asked_cut and other.startswith(one))


def is_queue_id(wanted: str, document: Document) -> bool:
    if document["queue_id"] is None:
        return wanted.casefold() in ("noqueue", document["id"].casefold())
    known = folded(document["queue_id"])
    host, slash, queue_id = wanted[: -len(known) - 1], wanted[: -len(known)][-1:], wanted[-len(known) :]
    if slash == "/" and is_host(host, document) and folded(queue_id) == known:
        return True
    return known == folded(wanted)


def is_host(wanted: str, document: Document) -> bool:
    return folded(wanted) in (document["host"], document["host"].partition(".")[0])


def is_relay(wanted: str, document: Document) -> bool:
    return wanted.lower() in document["relays"] or wanted in {each.get("relay_ip") for each in document["to"]}


def is_term(wanted: str, document: Document) -> bool:
    return (
        is_queue_id(wanted, document)
        or is_message_id(wanted, document)
        or is_address(wanted, document["from"])
        or any(is_address(wanted, each) for each in document["recipients"])
        or is_client_network(wanted, document)
        or is_relay_address(wanted, document)
    )


@cache
def milliseconds(stamp: str) -> int:
    return round(datetime.fromisoformat(stamp).timestamp() * 1000)


def matches(document: Document, flags: Flags, *, started: bool, probes: bool, mailboxes: bool) -> bool:
    date, updated = milliseconds(document["date"]), milliseconds(document["updated"])
    age_ms = round(NOW.timestamp() * 1000) - updated
    recipient, outcome = flags.get("recipient"), flags.get("outcome")
    checks: dict[str, Callable[[str], bool]] = {
        "term": lambda value: is_term(value, document),
        "sender": lambda value: document["from"] == "" if value == "<>" else is_address(value, document["from"]),
        "recipient": lambda value: any(is_address(value, each) for each in document["recipients"]),
        "since": lambda value: (date if started else max(date, updated)) >= milliseconds(value),
        "until": lambda value: date < milliseconds(value),
        "host": lambda value: is_host(value, document),
        "message_id": lambda value: is_message_id(value, document),
        "client": lambda value: is_client(value, document),
        "queue_id": lambda value: is_queue_id(value, document),
        "relay": lambda value: is_relay(value, document),
        "outcome": lambda value: value.lower() in {document["outcome"], *(end for _, end in ends_of(document))},
        "dsn": lambda value: any(each == value or each.startswith(f"{value}.") for each in document["dsns"]),
        "subject": lambda value: folded(value) in folded(document["subject"] or ""),
        "state": lambda value: (
            document["state"] == "closed"
            if value.lower() == "closed"
            else document["state"] == "open" and (value.lower() == "open" or age_ms > 5 * 86_400_000)
        ),
    }
    if recipient and outcome:
        checks["outcome"] = lambda value: any(
            end == value.lower() and is_address(recipient, name) for name, end in ends_of(document)
        )
    named = any(is_queue_id(flags[name], document) for name in ("term", "queue_id") if name in flags)
    if (document["kind"] == "probe" and not probes) or (document["kind"] == "mailbox" and not (mailboxes or named)):
        return False
    return all(checks[name](value) for name, value in flags.items())


def mail_of(document: Document) -> str:
    return re.sub(r"#\d+$", "", document["id"])


def values_of(document: Document, field: str) -> list[str]:
    if field in ("day", "hour"):
        return [document["date"].replace("T", " ")[: 10 if field == "day" else 13] + (":00" if field == "hour" else "")]
    if field in ("host", "mta", "kind", "state", "outcome", "stage", "client"):
        return [document[field] or "-"]
    if field in ("outcomes", "dsn", "relay", "recipient"):
        return document[{"dsn": "dsns", "relay": "relays", "recipient": "recipients"}.get(field, field)] or ["-"]
    if field == "recipient_domain":
        return [each.rpartition("@")[2] or each for each in document["recipients"]] or ["-"]
    sender = "-" if document["from"] is None else document["from"].casefold() or "<>"
    return [sender.rpartition("@")[2] or sender if field == "sender_domain" else sender]


def counted(found: list[Document], field: str) -> dict[str, int]:
    by_mail: dict[str, set[str]] = {}
    for document in found:
        by_mail.setdefault(mail_of(document), set()).update(values_of(document, field))
    return dict(
        Counter(value for values in by_mail.values() for value in values - ({"-"} if len(values) > 1 else set()))
    )


def another_spelling(chance: random.Random, value: str) -> str:
    return chance.choice((value, value.upper(), value.swapcase()))


def some_flag(chance: random.Random, document: Document) -> tuple[str, str]:
    """Return a flag with a value that the document has, or nearly has."""
    people = [*document["recipients"], *([document["from"]] if document["from"] else [])]
    person = chance.choice(people) if people else "nobody@example.com"
    domain = "@" + person.rpartition("@")[2]
    date = milliseconds(document["date"])
    around = datetime.fromtimestamp(date / 1000 + chance.choice((-90_000, -7200, -1, 0, 1, 5000, 400_000)), UTC)
    ip = document["client_ip"] or "192.0.2.7"
    network = f"{ip}/{chance.choice((0, 7, 8, 17, 24, 25, 32) if ':' not in ip else (0, 16, 29, 33, 48, 63, 64, 128))}"
    msgid = document["msgid"] or "none@example.com"
    choices: list[tuple[str, str]] = [
        ("term", chance.choice((document["queue_id"] or document["id"], f"<{bare(msgid)}>", person, domain, ip))),
        ("term", chance.choice((f"{document['host']}/{document['queue_id']}", f"<{person}>", network))),
        ("sender", chance.choice((person, f"<{person}>", domain, "<>"))),
        ("recipient", chance.choice((person, f"<{person}>", domain))),
        ("since", around.isoformat()),
        ("until", around.isoformat()),
        ("host", chance.choice((document["host"], document["host"].partition(".")[0], "smtp"))),
        ("message_id", chance.choice((bare(msgid), f"<{bare(msgid)}>", bare(msgid)[:90], bare(msgid) + "x" * 30))),
        ("client", chance.choice((ip, network, document["client_name"] or document["client"] or "uid=0"))),
        ("queue_id", chance.choice((document["queue_id"] or "NOQUEUE", f"{document['host']}/{document['queue_id']}"))),
        ("relay", chance.choice((*document["relays"], "203.0.113.5", "none"))),
        ("outcome", chance.choice((document["outcome"], *OUTCOMES))),
        ("dsn", chance.choice(("5", "5.1", "5.1.1", "4", "2.0", "2"))),
        ("subject", chance.choice(((document["subject"] or "voice")[-6:], "INVOICE", "köln", "a", "strasse"))),
        ("state", chance.choice(("open", "closed", "incomplete"))),
    ]
    name, value = chance.choice(choices)
    return name, value if name in ("since", "until") else another_spelling(chance, value)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store that got the documents in many commits, some of them in an earlier version first."""
    path = tmp_path_factory.mktemp("oracle") / "mail.db"
    chance = random.Random(5)  # noqa: S311  reproducible
    documents = list(all_documents())
    chance.shuffle(documents)
    with open_for_writing(path) as writer:
        for start in range(0, len(documents), 130):
            batch = documents[start : start + 130]
            earlier = [
                {**each, "version": 1, "state": "open", "outcome": "queued", "from": "early@example.com", "dsns": []}
                for each in chance.sample(batch, len(batch) // 3)
            ]
            assert writer.write(earlier).indexed == len(earlier)
            assert writer.write(batch).indexed == len(batch)
            assert writer.write(batch).superseded == len(batch)
    return path


def queries(seed: int, documents: Sequence[Document]) -> Iterator[tuple[random.Random, Flags, dict[str, bool]]]:
    chance = random.Random(seed)  # noqa: S311  reproducible
    for _ in range(ROUNDS):
        document = chance.choice(documents)
        flags = dict(some_flag(chance, document) for _ in range(chance.choice((0, 1, 1, 2, 2, 3))))
        if "since" in flags and "until" in flags and flags["since"] >= flags["until"]:
            del flags["until"]
        yield chance, flags, {name: chance.random() < 0.3 for name in ("started", "probes", "mailboxes")}


def selection_of(flags: Flags, modes: dict[str, bool]) -> Any:  # noqa: ANN401 - a Selection
    values = {name: flags.get(name) for name in FLAGS}
    started, probes, mailboxes = (modes[name] for name in ("started", "probes", "mailboxes"))
    return select(parse_query(values, now=NOW, zone=UTC, started_only=started, probes=probes, mailboxes=mailboxes))


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 4))])
def test_the_store_answers_as_a_plain_filter_does(store: Path, seed: int) -> None:
    with SqliteReader(store) as reader:
        compare(reader, seed, all_documents())


def compare(reader: DocumentReader, seed: int, documents: Sequence[Document]) -> None:
    """Ask a store with `documents` many things, and compare each answer with that of a plain filter."""
    nothing, all_of_them = 0, 0
    for chance, flags, modes in queries(seed, documents):
        selection = selection_of(flags, modes)
        wanted = [each for each in documents if matches(each, flags, **modes)]
        wanted.sort(key=lambda each: (-milliseconds(each["date"]), mail_of(each), each["page"]))
        mails = list(dict.fromkeys(map(mail_of, wanted)))
        limit = chance.choice((1, 3, 100, 10_000))
        shown = [each["id"] for each in wanted if mail_of(each) in set(mails[:limit])]
        found = [orjson.loads(each)["id"] for each in reader.newest(selection, limit)]
        assert found == shown, (flags, modes)
        assert reader.count(selection) == len(mails), (flags, modes)
        field = chance.choice(COUNT_FIELDS)
        assert dict(count_by(reader, selection, field, UTC)) == counted(wanted, field), (flags, modes, field)
        nothing += not wanted
        all_of_them += len(mails) > 100
    # The queries are worth their time: few find nothing, and some find much.
    assert nothing < ROUNDS * 0.4
    assert all_of_them > ROUNDS * 0.1


def test_what_comes_in_parts_is_counted_whole(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [(flags, modes) for _, flags, modes in islice(queries(3, all_documents()), 12)]
    before = [({"until": "2026-12-05"}, modes) for _, modes in chosen]
    selections = [selection_of(flags, modes) for flags, modes in before + chosen]
    with SqliteReader(store) as reader:
        at_once = [count_by(reader, each, field) for each in selections for field in ("client", "recipient")]
        monkeypatch.setattr("sink.sqlite_reader._TEXTS_AT_ONCE", 7)
        assert [count_by(reader, each, field) for each in selections for field in ("client", "recipient")] == at_once


def test_no_query_reads_a_whole_table(store: Path) -> None:
    """Every statement begins with terms of the index, or seeks by a key; one of each shape is explained."""
    shapes: dict[str, str] = {}

    def note(statement: str) -> None:
        if statement.startswith("SELECT") and "postings_" not in statement:  # those are the index's own
            shapes.setdefault(re.sub(r"'(?:[^']|'')*'|-?\d+", "?", statement), statement)

    with SqliteReader(store) as reader:
        reader._connection.set_trace_callback(note)  # noqa: SLF001 - what it runs is the question
        for chance, flags, modes in islice(queries(9, all_documents()), 80):
            selection = selection_of(flags, modes)
            reader.newest(selection, 10)
            reader.count(selection)
            count_by(reader, selection, chance.choice(COUNT_FIELDS), UTC)
            list(reader.written_after(selection, 40, 41))
    steps: set[str] = set()
    with closing(sqlite3.connect(store)) as plans:
        for statement in shapes.values():
            found = [step for *_, step in plans.execute(f"EXPLAIN QUERY PLAN {statement}")]
            steps |= {re.sub(r"INDEX \d+:(=?)M\d.*", r"INDEX \1terms", step) for step in found}
    assert len(shapes) > 20
    scans = {step for step in steps if step.startswith("SCAN")}
    scans.discard("SCAN (subquery-1)")  # what the statement inside it gives
    assert scans == {"SCAN p VIRTUAL TABLE INDEX terms", "SCAN p VIRTUAL TABLE INDEX =terms"}
    assert not [step for step in steps if "AUTOMATIC" in step]
