"""Compares what is known of a mail transaction with its document, fact by fact.

An expected transaction (tests/corpus/README.md) is a JSON object whose keys are facts. TRANSACTION_CHECKS at the end
of this file, with the keys of one recipient in fact_checks_of_recipients.py, name every key: how it is checked, or why
it is not. A key in neither raises, so that no fact is dropped in silence. An absent or null value asserts nothing, nor
does a name in `may_not_be_logged`. Rejections (expected_rejections.jsonl) are not compared yet.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime

from tests.fact import Fact, Json, UnknownKeyError, strip_brackets
from tests.fact_checks_of_recipients import OUTCOMES_OF_STATUS, check_recipient, entries_of, says_expired

FROM_PARENT = frozenset({"bounce", "delay_notice", "receipt"})
# The contract has no kind for the way back from a delay notice or a receipt: the assembler says `original`.
# An expectation does not say which of the three a child is, so a bounce with `original` would pass here.
FROM_CHILD = frozenset({"bounce_of", "original"})

Check = Callable[[Json, Json], Iterator[Fact]]


def compare(expected: Json, document: Json) -> list[Fact]:
    """Return each fact that `expected` states, compared with `document` (its pages joined)."""
    facts: list[Fact] = []
    unlogged = {*(expected.get("may_not_be_logged") or ()), *NEVER_LOGGED.get(expected["mta"], ())}
    for key, stated in expected.items():
        if key in TRANSACTION_SKIPPED:
            continue
        if key not in TRANSACTION_CHECKS:
            raise UnknownKeyError(key)
        if stated is not None and key not in unlogged:
            facts += TRANSACTION_CHECKS[key](expected, document)
    return facts


def in_time(expected: Json, document: Json) -> bool:
    """Whether the document was born when the mail was accepted; stamps may be whole seconds."""
    first, last = expected["accepted_between"]
    born = datetime.fromisoformat(document["date"]).timestamp()
    return bool(math.floor(first) - 1 <= born <= last + 1)


def _equal(key: str, field: str) -> Check:
    def check(expected: Json, document: Json) -> Iterator[Fact]:
        found = document.get(field)
        yield Fact(key, expected[key], found, expected[key] == found)

    return check


def _message_id(expected: Json, document: Json) -> Iterator[Fact]:
    stated, found = strip_brackets(expected["msgid"]), document["msgid"]
    yield Fact("msgid", stated, found, stated == found)


def _client(expected: Json, document: Json) -> Iterator[Fact]:
    stated, found = expected["client"], document["client"]
    if not stated.get("local"):
        name, ip = stated.get("name"), stated["ip"]
        whole = f"{name} [{ip}]" if name else f"[{ip}]"
        yield Fact("client", whole, found, whole == found)
        yield Fact("client_name", name, document["client_name"], name == document["client_name"])
        yield Fact("client_ip", ip, document["client_ip"], ip == document["client_ip"])
    elif expected["kind"] == "dsn":
        yield Fact("client", None, found, found is None)
    elif expected["mta"] == "postfix":
        # A mail that local(8) forwards is born in cleanup: nobody is named.
        uid = stated.get("uid", r"\d+")
        right = re.fullmatch(rf"uid={uid}", found or "") is not None
        yield Fact("client", "uid= or null", found, right or (found is None and "uid" not in stated))
    elif expected["mta"] == "opensmtpd":
        yield Fact("client", "local", found, found == "local")
    else:
        # Sendmail's submission program hands the mail to the server over the loopback; Exim names the user.
        local = r"\S+@localhost|localhost \[(127\.0\.0\.1|::1)\]"
        yield Fact("client", local, found, re.fullmatch(local, found or "") is not None)


def _accepted_between(expected: Json, document: Json) -> Iterator[Fact]:
    yield Fact(
        "accepted_between",
        expected["accepted_between"],
        document["date"],
        in_time(expected, document),
    )


def _kind(expected: Json, document: Json) -> Iterator[Fact]:
    kind, outcome = expected["kind"], document["outcome"]
    yield Fact("kind", "transaction", document["kind"], document["kind"] == "transaction")
    if kind == "aborted":
        refused = any(entry["outcome"] == "rejected" for entry in document["to"])
        right = outcome == "aborted" or (refused and outcome == "rejected")
    elif kind in OUTCOME_OF_KIND:
        right = outcome == OUTCOME_OF_KIND[kind]
    elif kind == "dsn":
        # A child that Sendmail names without a from= line has its sender from the parent's line.
        yield Fact("kind: dsn", "", document["from"], document["from"] == "")
        return
    elif kind == "message":
        yield from _end(expected, document)
        return
    else:
        raise UnknownKeyError(f"kind {kind}")
    yield Fact(f"kind: {kind}", kind, outcome, right)


def _end(expected: Json, document: Json) -> Iterator[Fact]:
    """The whole mail ended as the worst of its recipients, and then it is closed."""
    statuses = {stated["status"] for stated in expected.get("to") or () if stated.get("status") is not None}
    if not statuses or expected.get("final_known") is False:
        return
    if unknown := statuses - set(WORSE):
        raise UnknownKeyError(f"status {sorted(unknown)}")
    worst = max(statuses, key=WORSE.index)
    found = document["outcome"]
    expired = worst == "bounced" and found == "expired" and any(map(says_expired, document["to"]))
    yield Fact("outcome", worst, found, found in OUTCOMES_OF_STATUS[worst] or expired)
    if not statuses & {"held", "deferred"}:
        yield Fact("state", "closed", document["state"], document["state"] == "closed")


def _recipient_count(expected: Json, document: Json) -> Iterator[Fact]:
    found = {entry["recipient"].casefold() for entry in document["to"] if entry["outcome"] != "rejected"}
    stated = expected["nrcpt_expected"]
    yield Fact("nrcpt_expected", stated, len(found), stated == len(found))


def _on_hold(_: Json, document: Json) -> Iterator[Fact]:
    yield Fact("seen_on_hold", "held", document["outcome"], document["outcome"] == "held")


def _linked(key: str, kinds: frozenset[str], *, same_host: bool) -> Check:
    """Check that the links of these kinds are those stated, and no others; `host` null where a log does not say it."""

    def check(expected: Json, document: Json) -> Iterator[Fact]:
        stated = expected[key]
        links = [link for link in document["links"] if link["kind"] in kinds]
        host = expected["host"] if same_host else None
        wanted = {(queue_id, host) for queue_id in ([stated] if isinstance(stated, str) else stated)}
        found = {(link["queue_id"], link["host"]) for link in links}
        yield Fact(key, sorted(wanted, key=str), sorted(found, key=str), wanted == found)

    return check


def _notices(expected: Json, document: Json) -> Iterator[Fact]:
    yield from _linked("dsn_queue_ids", FROM_PARENT, same_host=True)(expected, document)
    statuses = {stated.get("status") for stated in expected.get("to") or ()}
    if expected["dsn_queue_ids"] and statuses & {"bounced", "expired"}:
        kinds = sorted({link["kind"] for link in document["links"]})
        yield Fact("dsn_queue_ids: a bounce", "bounce", kinds, "bounce" in kinds)


def _delay_warned(expected: Json, document: Json) -> Iterator[Fact]:
    kinds = sorted({link["kind"] for link in document["links"]})
    stated = expected["delay_warned"]
    yield Fact("delay_warned", stated, kinds, ("delay_notice" in kinds) == stated)


def _recipients(expected: Json, document: Json) -> Iterator[Fact]:
    entries = entries_of(document)
    for stated in expected["to"]:
        yield from check_recipient(expected, stated, entries, document)


NEVER_LOGGED: Mapping[str, Mapping[str, str]] = {
    "opensmtpd": {
        "dsn_for": "the log does not say which mail a delivery report is about (bounce.c logs no ID)",
        "dsn_queue_ids": "the same, from the other side",
        "delay_warned": "a delay report is a mail like another",
    },
}
OUTCOME_OF_KIND = {"rejected-at-eom": "rejected", "held": "held"}
WORSE = ("sent", "held", "deferred", "expired", "bounced")
"""The statuses of recipients, from best to worst: a document's outcome is the worst one's."""

TRANSACTION_CHECKS: Mapping[str, Check] = {
    "mta": _equal("mta", "mta"),
    "kind": _kind,
    "from": _equal("from", "from"),
    "client": _client,
    "msgid": _message_id,
    "accepted_between": _accepted_between,
    "to": _recipients,
    "nrcpt_expected": _recipient_count,
    "seen_on_hold": _on_hold,
    "sasl_username": _equal("sasl_username", "sasl_username"),
    "orig_queue_id": _linked("orig_queue_id", frozenset({"original"}), same_host=False),
    "dsn_for": _linked("dsn_for", FROM_CHILD, same_host=True),
    "dsn_queue_ids": _notices,
    "delay_warned": _delay_warned,
}
TRANSACTION_SKIPPED: Mapping[str, str] = {
    "host": "the document is found by it",
    "queue_id": "the document is found by it",
    "gid": "a label",
    "scenario": "a label",
    "evidence": "where the facts come from",
    "final_known": "says which facts hold",
    "may_not_be_logged": "says which facts hold",
    "accepted_rcpts": "the client's recipients, before aliases: the log names the final ones",
    "milter": "what the lab's milter saw, which the server does not log",
    "milter_rcpts": "what the lab's milter saw, which the server does not log",
}
