"""Documents for the tests of search and the store: those of the lab logs, and seeded ones with what the logs lack."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from functools import cache
from typing import Any

import orjson

from mailspan.document import FIELDS
from tests.test_properties import LOGS, assemble, records_of

Document = dict[str, Any]

DEFAULTS: Document = {field.name: field.default for field in FIELDS}
LISTS = (
    "to",
    "recipients",
    "recipient_domains",
    "relays",
    "outcomes",
    "dsns",
    "deliveries",
    "links",
    "filters",
    "notes",
)
FIRST = 1_795_420_800  # 2026-11-23 08:00 UTC
PEOPLE = (
    "alice@example.com",
    "Bob@Example.COM",
    "bob@example.com",
    "carol@bücher.example.org",
    "Carol@xn--bcher-kva.example.org",
    "straße@example.net",
    "dora",
    '"odd name\' %"@example.net',
    "e\N{COMBINING ACUTE ACCENT}va@example.net",
)
CLIENTS: tuple[tuple[str, str | None, str | None], ...] = (
    ("mail.example.net [192.0.2.7]", "mail.example.net", "192.0.2.7"),
    ("[192.0.2.9]", None, "192.0.2.9"),
    ("mx.example.org [2001:db8::7]", "mx.example.org", "2001:db8::7"),
    ("[2001:db8:1::1]", None, "2001:db8:1::1"),
    ("[::ffff:192.0.2.7]", None, "::ffff:192.0.2.7"),
    ("uid=0", None, None),
    ("root@localhost", "root@localhost", None),
)
OUTCOMES = ("delivered", "relayed", "deferred", "bounced", "expired", "rejected")
SUBJECTS = (None, None, "Invoice 42", "invoice; from=<x@example.com>", "Grüße aus KÖLN", "ab")


def stamp(second: float) -> str:
    """Return a document's stamp."""
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{round(second % 1 * 1000):03d}Z"


def document(**values: Any) -> Document:  # noqa: ANN401 - each field has its own type
    """Return a document with these values; roll-ups are made of `to`."""
    made = {**DEFAULTS, **{name: [] for name in LISTS}, "mta": "postfix", "date": stamp(FIRST), "version": 65536}
    made.update(values)
    made.setdefault("updated", made["date"])
    made["updated"] = made["updated"] or made["date"]
    made["host"] = made["host"] or "mx1.example.com"
    made["id"] = made["id"] or f"{made['host']}/{made['queue_id']}"
    last: dict[str, str] = {}
    for attempt in made["to"]:
        folded = attempt["recipient"].casefold()
        last[folded] = attempt["outcome"]
        for name in (folded, (attempt.get("original_recipient") or "").casefold()):
            if name and name not in made["recipients"]:
                made["recipients"].append(name)
        for roll_up, name in (("relays", "relay"), ("outcomes", "outcome"), ("dsns", "dsn")):
            if attempt.get(name) and attempt[name] not in made[roll_up]:
                made[roll_up].append(attempt[name])
    made["deliveries"] = [f"{outcome} {name}" for name, outcome in last.items()]
    domains = (each.rpartition("@")[2] for each in made["recipients"] if "@" in each)
    made["recipient_domains"] = list(dict.fromkeys(domains))
    made["outcome"] = made["outcome"] or max(last.values(), key=OUTCOMES.index, default="aborted")
    return made


def attempt(recipient: str, outcome: str = "relayed", **values: Any) -> Document:  # noqa: ANN401 - as above
    """Return one entry of `to`."""
    dsn = {"deferred": "4.7.1", "bounced": "5.1.1", "rejected": "5.7.1", "expired": None}.get(outcome, "2.0.0")
    return {
        "recipient": recipient, "original_recipient": None, "relay": "mx.example.org", "relay_ip": "203.0.113.5",
        "relay_port": 25, "status": f"{outcome} (said so)", "outcome": outcome, "dsn": dsn, "code": None,
        "date": stamp(FIRST), "delay_seconds": 1.5, **values,
    }  # fmt: skip


def pages(count: int, recipients_each: int, **values: Any) -> list[Document]:  # noqa: ANN401 - as above
    """Return the pages of one mail to `count` × `recipients_each` people; the last of all bounced."""
    made = []
    total = count * recipients_each
    for page in range(count):
        numbers = range(page * recipients_each, (page + 1) * recipients_each)
        to = [attempt(f"member{n}@list.example.org", "bounced" if n == total - 1 else "relayed") for n in numbers]
        one = document(**values, to=to, page=page, page_count=count, outcome="bounced")
        if page:
            one["id"] += f"#{page}"
        made.append(one)
    return made


def _random_one(chance: random.Random, number: int) -> Document:
    text, name, ip = chance.choice(CLIENTS)
    second = FIRST + chance.randrange(40 * 86400)
    lasted = chance.choice((-7200, 0, 2, 90, 3000, 3601, 20_000, 100_000, 400_000, 2_000_000))
    to = []
    for person in chance.sample(PEOPLE, chance.randrange(4)):
        for outcome in chance.choices(OUTCOMES, k=chance.randrange(1, 3)):
            original = chance.choice((None, None, "list@example.com", "Team@Example.com"))
            relay = chance.choice(("mx.example.org", "local", None, "203.0.113.5"))
            to.append(attempt(person, outcome, original_recipient=original, relay=relay))
    kind = chance.choice(("transaction",) * 6 + ("rejection", "probe", "mailbox"))
    host = chance.choice(("mx1.example.com", "mx1.example.net", "smtp", "smtp.example.com"))
    long_id = f"{number}.{'x' * 120}@example.com"
    msgid: str | None = chance.choice((None, "", f"{number}@example.com", f"<{number}@Odd.example.com>", long_id))
    notes = []
    if msgid == long_id and chance.random() < 0.5:
        msgid, notes = long_id[:95], ["truncated"]
    queue_id = f"{number * 7919:06X}"
    if kind == "mailbox":  # a session, with a slash or none
        queue_id = f"{number:012d}{chance.choice('/+')}{number * 7919:09d}"
    values: Document = {
        "queue_id": None if kind == "rejection" else queue_id,
        "kind": kind, "host": host, "date": stamp(second), "updated": stamp(second + lasted),
        "from": chance.choice((None, "", *PEOPLE)), "to": to, "msgid": msgid, "notes": notes,
        "client": text, "client_name": name, "client_ip": ip, "subject": chance.choice(SUBJECTS),
        "mta": chance.choice(("postfix", "sendmail")), "state": chance.choice(("open", "closed")),
        "stage": chance.choice(("rcpt", "mail")) if kind == "rejection" else None,
    }  # fmt: skip
    if kind == "rejection":
        values |= {"id": f"{host}~{number:016x}", "outcome": "rejected"}
    elif chance.random() < 0.1:
        values |= {"orig_client": "inner.example.com [10.0.0.8]", "orig_client_ip": "10.0.0.8"}
    return document(**values)


@cache
def all_documents(seed: int = 1) -> tuple[Document, ...]:
    """Return the documents of three lab logs, random ones, and two mails with pages."""
    chance = random.Random(seed)  # noqa: S311  reproducible
    found = [orjson.loads(each) for name in LOGS for each in assemble(records_of(name)).values()]
    found += [_random_one(chance, number) for number in range(800)]
    for queue_id, days in (("AA0001", 1), ("AA0002", 9)):
        values = {"queue_id": queue_id, "from": "news@example.com", "date": stamp(FIRST + days * 86400)}
        found += pages(4, 5, **values, updated=stamp(FIRST + (days + 3) * 86400))
    return tuple(found)
