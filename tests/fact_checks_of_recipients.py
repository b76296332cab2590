"""The facts of one recipient: every key of an entry in an expectation's `to`, as in fact_checks.py.

A recipient may be spelled in several ways (`recipient_forms`), tried several times, and its mail may expire: the last
attempt is then the one before the entry that says so. Tolerances say what a log cannot hold: Postfix rounds delays to
two digits, Sendmail, OpenSMTPD and (unless told otherwise) Exim log whole seconds; Sendmail no port, and the reply
without its codes.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.fact import Fact, Json, UnknownKeyError

SENT = frozenset({"delivered", "relayed", "discarded", "expanded"})
NO_ATTEMPT = frozenset({"expired", "rejected", "queued", "held"})
OUTCOMES_OF_STATUS = {
    "sent": SENT,
    "bounced": frozenset({"bounced"}),
    "deferred": frozenset({"deferred"}),
    "expired": frozenset({"expired"}),
    "held": frozenset({"held"}),
}
REPLY_CODES = re.compile(r"\d{3}[ -](\d\.\d{1,3}\.\d{1,3} )?")


@dataclass(frozen=True, slots=True)
class Case:
    """One stated recipient and what the document has for it."""

    expected: Json
    stated: Json
    entries: Sequence[Json]
    document: Json

    @property
    def sendmail(self) -> bool:
        """Whether Sendmail logged it."""
        return bool(self.expected["mta"] == "sendmail")

    @property
    def whole_seconds(self) -> bool:
        """Whether delays are logged without their fractions."""
        return bool(self.expected["mta"] in {"sendmail", "opensmtpd", "exim"})

    @property
    def last(self) -> Json:
        """The last attempt, or an empty one."""
        attempts = [entry for entry in self.entries if entry["outcome"] not in NO_ATTEMPT]
        return attempts[-1] if attempts else {}

    @property
    def deferrals(self) -> list[Json]:
        """The attempts that the peer put off: those that reached it."""
        relay = (self.stated.get("relay") or {}).get("host")
        return [entry for entry in self.entries if entry["outcome"] == "deferred" and relay in {None, entry["relay"]}]


Check = Callable[[Case], Iterator[Fact]]


def entries_of(document: Json) -> Mapping[str, list[Json]]:
    """Return the document's deliveries by case-folded recipient, in their order."""
    entries: dict[str, list[Json]] = defaultdict(list)
    for entry in document["to"]:
        entries[entry["recipient"].casefold()].append(entry)
    return entries


def check_recipient(expected: Json, stated: Json, entries: Mapping[str, list[Json]], document: Json) -> Iterator[Fact]:
    """Yield each fact stated of one recipient, compared with the document's entries for it."""
    forms = [stated["recipient"], *(stated.get("recipient_forms") or ())]
    mine = [entry for form in dict.fromkeys(form.casefold() for form in forms) for entry in entries.get(form, ())]
    case = Case(expected, stated, mine, document)
    for key, value in stated.items():
        if key in RECIPIENT_SKIPPED:
            continue
        if key not in RECIPIENT_CHECKS:
            raise UnknownKeyError(f"to.{key}")
        if value is not None:
            for fact in RECIPIENT_CHECKS[key](case):
                name = f"to {stated['recipient']}: {fact.name}"
                yield Fact(name, fact.stated, fact.found, fact.right)


def _recipient(case: Case) -> Iterator[Fact]:
    right = bool(case.entries) or _held_unnamed(case)
    yield Fact("recipient", case.stated["recipient"], len(case.entries), right)


def _held_unnamed(case: Case) -> bool:
    """Mail on hold has no delivery line yet; the document as a whole then says so."""
    held = case.stated["status"] == "held" and case.document["outcome"] == "held"
    return held and not case.entries


def says_expired(entry: Json) -> bool:
    """Whether Exim gave up because of age: it says so in a line of a failure, which the lab noted as a bounce."""
    return bool(entry["outcome"] == "expired" and entry["status"] == "retry timeout exceeded")


def _status(case: Case) -> Iterator[Fact]:
    stated = case.stated["status"]
    if stated not in OUTCOMES_OF_STATUS:
        raise UnknownKeyError(f"status {stated}")
    if case.expected.get("final_known") is False and stated != "held":
        return
    found = case.entries[-1]["outcome"] if case.entries else None
    expired = stated == "bounced" and bool(case.entries) and says_expired(case.entries[-1])
    right = found in OUTCOMES_OF_STATUS[stated] or _held_unnamed(case) or expired
    yield Fact("status", stated, found, right)
    if case.entries:
        last = f"{found} {case.entries[-1]['recipient'].casefold()}"
        yield Fact("deliveries", last, case.document["deliveries"], last in case.document["deliveries"])
    if stated == "sent" and (case.stated.get("relay") or {}).get("host") == "local":
        yield Fact("status of local mail", "not relayed", found, found != "relayed")


def _relay(case: Case) -> Iterator[Fact]:
    stated = case.stated["relay"]
    for key in stated:
        if key not in {"host", "ip", "port"}:
            raise UnknownKeyError(f"to.relay.{key}")
    host = stated["host"].removeprefix("[").removesuffix("]").casefold()
    yield Fact("relay", host, case.last.get("relay"), host == case.last.get("relay"))
    if stated.get("ip") is not None:
        found = case.last.get("relay_ip")
        yield Fact("relay_ip", stated["ip"], found, stated["ip"] == found)
    if stated.get("port") is not None and not case.sendmail:
        port = case.last.get("relay_port")
        yield Fact("relay_port", stated["port"], port, stated["port"] == port)


def _equal_in_last(key: str, field: str) -> Check:
    def check(case: Case) -> Iterator[Fact]:
        found = case.last.get(field)
        yield Fact(key, case.stated[key], found, case.stated[key] == found)

    return check


def _reported_dsn(case: Case) -> Iterator[Fact]:
    if case.stated["status"] == "expired" and case.sendmail:
        return  # the report says 4.4.7; the log has the deferral's own code
    if case.expected["mta"] == "opensmtpd":
        return  # its reports say 5.0.0 whatever the peer said (mta.c: ESC_OTHER_STATUS); the log has the peer's code
    if case.expected["mta"] == "exim":
        return  # the report says 5.0.0 of every failure; the log has the peer's own code or none
    yield from _equal_in_last("dsn", "dsn")(
        Case(
            case.expected,
            {**case.stated, "dsn": case.stated["dsn_status_in_report"]},
            case.entries,
            case.document,
        )
    )


def _next_queue_id(case: Case) -> Iterator[Fact]:
    stated, found = case.stated["next_queue_id"], case.last.get("next_queue_id")
    if case.stated.get("forwarded"):
        return
    yield Fact("next_queue_id", stated, found, stated == found)
    link = {"kind": "next", "queue_id": stated, "host": case.last.get("relay")}
    yield Fact("link to the next hop", link, len(case.document["links"]), link in case.document["links"])


def _forwarded(case: Case) -> Iterator[Fact]:
    stated = case.stated["next_queue_id"]
    links = [link["queue_id"] for link in case.document["links"] if link["kind"] == "forwarded_as"]
    yield Fact("forwarded", stated, links, stated in links)
    outcome = case.last.get("outcome")
    yield Fact("forwarded", "expanded", outcome, outcome == "expanded")


def _reply(case: Case) -> Iterator[Fact]:
    stated, status = case.stated["reply"], case.last.get("status") or ""
    if case.sendmail:
        stated = REPLY_CODES.sub("", stated, count=1)
    yield Fact("reply", stated, status, stated in status)


def _peer_reply(case: Case) -> Iterator[Fact]:
    stated, status = case.stated["peer_reply"], case.last.get("status") or ""
    if case.sendmail:
        # stat= is Sendmail's own wording of it; the code is that of the logged reply=.
        code = str(case.last.get("code"))
        yield Fact("peer_reply", stated, code, stated in status or stated[:3] == code)
    else:
        yield Fact("peer_reply", stated, status, stated in status)


def _original_recipient(case: Case) -> Iterator[Fact]:
    stated, found = case.stated["orig_to"], case.last.get("original_recipient")
    same = stated.casefold() == case.stated["recipient"].casefold()
    right = (found or "").casefold() == stated.casefold() or (same and found is None)
    yield Fact("orig_to", stated, found, right)


def _deferral_count(case: Case) -> Iterator[Fact]:
    stated, found = case.stated["deferrals_seen_by_peer"], len(case.deferrals)
    yield Fact("deferrals_seen_by_peer", stated, found, stated == found)


def _deferral_dsn(case: Case) -> Iterator[Fact]:
    stated, found = case.stated["deferral_dsn"], [entry["dsn"] for entry in case.deferrals]
    yield Fact("deferral_dsn", stated, found, set(found) == {stated})


def _queue_reason(case: Case) -> Iterator[Fact]:
    stated = case.stated["queue_reason"]
    found = [entry["status"] for entry in case.entries if entry["outcome"] == "deferred"]
    yield Fact("queue_reason", stated, found, any(stated in status for status in found))


def _delay(case: Case) -> Iterator[Fact]:
    first, last = case.stated["delay_bounds"]
    found = case.last.get("delay_seconds")
    slack = 1.0 if case.whole_seconds else max(0.05, 0.05 * last)
    right = found is not None and first - slack <= found <= last + slack
    yield Fact("delay_bounds", [first, last], found, right)


RECIPIENT_CHECKS: Mapping[str, Check] = {
    "recipient": _recipient,
    "status": _status,
    "relay": _relay,
    "dsn": _equal_in_last("dsn", "dsn"),
    "dsn_status_in_report": _reported_dsn,
    "next_queue_id": _next_queue_id,
    "forwarded": _forwarded,
    "reply": _reply,
    "peer_reply": _peer_reply,
    "orig_to": _original_recipient,
    "deferrals_seen_by_peer": _deferral_count,
    "deferral_dsn": _deferral_dsn,
    "queue_reason": _queue_reason,
    "delay_bounds": _delay,
}
RECIPIENT_SKIPPED: Mapping[str, str] = {
    "recipient_forms": "other spellings that find the entry",
}
