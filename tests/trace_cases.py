"""Mail over several hosts, each case named for its trouble: documents as a store has them, and what must be found.

`seed` of each case is what a user would ask for: a queue id. Both stores are asked with the same cases.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sink.terms import OUTCOMES
from tests.search_documents import FIRST, Document, attempt, document, stamp

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FANNED = 10_000
ROUNDS = 25


@dataclass(frozen=True, slots=True)
class Case:
    """Documents, the queue id to ask for, and what the trace must be."""

    seed: str
    documents: Sequence[Document]
    nodes: Sequence[str]
    """All that belong to the mail, by HOST/QUEUE_ID, the oldest first; more are only counted (`count`)."""
    edges: Sequence[tuple[str, str, str, bool]] = ()
    """From, to, kind, and whether it is weak."""
    ends: Sequence[tuple[str, str]] = ()
    """Recipient and final outcome."""
    missing: Sequence[tuple[str | None, str]] = ()
    """Relay and a part of the reason."""
    hosts: Mapping[str, str] = field(default_factory=dict)
    count: int | None = None


def hop(host: str, queue_id: str, second: float, to: Sequence[Document], **values: Any) -> Document:  # noqa: ANN401
    """Return a transaction that begins `second` seconds after the first of its case."""
    links = [
        {"kind": "next", "queue_id": each["next_queue_id"], "host": each["relay"]}
        for each in to
        if each.get("next_queue_id")
    ]
    last = max((each["date"] for each in to), default=stamp(FIRST + second))
    ends = {each["recipient"]: each["outcome"] for each in to}
    values.setdefault("state", "closed")
    values.setdefault("outcome", max(ends.values(), key=OUTCOMES.index, default="aborted"))
    made = document(host=host, queue_id=queue_id, date=stamp(FIRST + second), updated=last, to=list(to), **values)
    made["id"] = values.get("id") or f"{host}/{queue_id}"
    made["links"] = [*links, *values.get("links", ())]
    made["from"] = values.get("from", "alice@example.com")
    return made


def given(
    recipient: str,
    relay: str,
    next_queue_id: str | None,
    second: float,
    outcome: str = "relayed",
    **values: Any,  # noqa: ANN401
) -> Document:
    """Return an entry of `to` at a second."""
    ours = {"relay": relay, "relay_ip": None, "date": stamp(FIRST + second), **values}
    if next_queue_id is not None:
        ours["next_queue_id"] = next_queue_id
    return attempt(recipient, outcome, **ours)


def kept(recipient: str, second: float, **values: Any) -> Document:  # noqa: ANN401
    """Return the entry of a mailbox."""
    return given(recipient, "local", None, second, "delivered", **values)


def from_client(name: str, ip: str) -> dict[str, Any]:
    """Return the fields of a client."""
    return {"client": f"{name} [{ip}]", "client_name": name, "client_ip": ip}


BOB = "bob@example.net"


def _loop() -> Case:
    """mx1 and mx2 give the mail to each other until one has had enough; the notice goes to the sender."""
    documents, nodes, edges = [], [], []
    for turn in range(ROUNDS):
        here, there = ("mx1", "mx2") if turn % 2 == 0 else ("mx2", "mx1")
        mine, its = f"L{turn:03}", f"L{turn + 1:03}"
        nodes.append(f"{here}/{mine}")
        if turn < ROUNDS - 1:
            to = [given(BOB, f"{there}.example.com", its, turn + 1)]
            edges.append((f"{here}/{mine}", f"{there}/{its}", "next", False))
            links = []
        else:
            to = [given(BOB, "none", None, turn + 1, "bounced", status="bounced (mail forwarding loop)")]
            links = [{"kind": "bounce", "queue_id": "LDSN", "host": here}]
            edges.append((f"{here}/{mine}", f"{here}/LDSN", "bounce", False))
        documents.append(hop(here, mine, turn, to, msgid="loop@example.com", links=links))
    documents.append(
        hop("mx1", "LDSN", ROUNDS, [kept("alice@example.com", ROUNDS)], msgid="dsn.loop@mx1", **{"from": ""})
    )
    nodes.append("mx1/LDSN")
    return Case("L007", documents, nodes, edges, [(BOB, "bounced")])


def _fan_out() -> Case:
    """A newsletter with a transaction for each recipient on the next host; one of them bounces there."""
    documents = []
    for page in range(FANNED // 500):
        numbers = range(page * 500, page * 500 + 500)
        to = [given(f"reader{n}@example.net", "out.example.com", f"F{n:05}", 2 + n / 1000) for n in numbers]
        one = hop("list", "FANOUT", 0, to, msgid="news@example.com", page=page, page_count=FANNED // 500)
        one["updated"] = stamp(FIRST + 12)
        one["id"] = f"list/FANOUT#{page}" if page else "list/FANOUT"
        documents.append(one)
    documents[0]["links"] = [link for each in documents for link in each["links"]]
    for n in range(FANNED):
        name = f"reader{n}@example.net"
        end = given(name, "mx.example.net", None, 30, "bounced") if n == 4711 else kept(name, 20)
        documents.append(hop("out", f"F{n:05}", 2 + n / 1000, [end], msgid="news@example.com"))
    return Case("F00042", documents, ["list/FANOUT"], count=FANNED + 1)


def _missing_middle() -> Case:
    """The log of mx9 is not in the store: the last hop is found by the message id and its client."""
    documents = [
        hop("mx1", "M1", 0, [given(BOB, "mx9.example.com", "M2", 1, relay_ip="192.0.2.9")], msgid="gap@example.com"),
        hop("mx3", "M3", 2, [kept(BOB, 3)], msgid="gap@example.com", **from_client("mx9.example.com", "192.0.2.9")),
    ]
    return Case(
        "M1", documents, ["mx1/M1", "mx3/M3"], [("mx1/M1", "mx3/M3", "next", True)], [(BOB, "delivered")],
        [("mx9.example.com", "no log in the store")],
    )  # fmt: skip


def _queue_id_on_three_hosts() -> Case:
    """C0FFEE1 is a queue id on three hosts at once: the message id says which one is meant."""
    documents = [hop("gate", "G1", 0, [given(BOB, "mx2.example.com", "C0FFEE1", 1)], msgid="three@example.com")]
    for number in (1, 2, 3):
        msgid = "three@example.com" if number == 2 else f"other{number}@example.com"
        documents.append(
            hop(f"mx{number}", "C0FFEE1", 1, [kept(BOB if number == 2 else "eve@example.net", 2)], msgid=msgid)
        )
    return Case(
        "G1", documents, ["gate/G1", "mx2/C0FFEE1"], [("gate/G1", "mx2/C0FFEE1", "next", False)], [(BOB, "delivered")]
    )


def _message_id_twice() -> Case:
    """A program sends two mails with one message id: they are two traces."""
    documents = []
    for number, second in ((1, 0), (2, 1)):
        to = [given(f"bob{number}@example.net", "mx2.example.com", f"T{number}B", second + 0.5)]
        documents.append(hop("mx1", f"T{number}A", second, to, msgid="twice@example.com"))
        documents.append(
            hop(
                "mx2",
                f"T{number}B",
                second + 0.5,
                [kept(f"bob{number}@example.net", second + 1)],
                msgid="twice@example.com",
            )
        )
    return Case(
        "T2B",
        documents,
        ["mx1/T2A", "mx2/T2B"],
        [("mx1/T2A", "mx2/T2B", "next", False)],
        [("bob2@example.net", "delivered")],
    )


def _another_name() -> Case:
    """The relay is called smtp.example.com and its log says node7: learned from the first mail, used for the second.

    The last hop logged no message id, and another host uses its queue id at the same time: that the relay is node7 is
    what the join rests on.
    """
    eve = "eve@example.net"
    documents = [
        hop("mx1", "N1", 0, [given(BOB, "smtp.example.com", "N2", 1)], msgid="named@example.com"),
        hop("node7", "N2", 1, [kept(BOB, 2), given(eve, "mx1.example.com", "N3", 3)], msgid="named@example.com"),
        hop("mx1", "N3", 3, [given(eve, "smtp.example.com", "N4", 4)], msgid="named@example.com"),
        hop("node7", "N4", 4, [kept(eve, 5)]),
        hop("node8", "N4", 4, [kept("mallory@example.net", 5)]),
    ]
    return Case(
        "node7/N4", documents, ["mx1/N1", "node7/N2", "mx1/N3", "node7/N4"],
        [
            ("mx1/N1", "node7/N2", "next", False), ("node7/N2", "mx1/N3", "next", False),
            ("mx1/N3", "node7/N4", "next", False),
        ],
        [(BOB, "delivered"), (BOB, "delivered")],
    )  # fmt: skip


def _told_name() -> Case:
    """The same without a mail to learn from: the setting says which host the relay is."""
    documents = [
        hop("mx1", "S1", 0, [given(BOB, "10.9.8.7", "S2", 1)], msgid="told@example.com"),
        hop("node7", "S2", 1, [kept(BOB, 2)]),
        hop("node8", "S2", 1, [kept("mallory@example.net", 2)]),
    ]
    return Case(
        "S1", documents, ["mx1/S1", "node7/S2"], [("mx1/S1", "node7/S2", "next", False)], [(BOB, "delivered")],
        hosts={"10.9.8.7": "node7"},
    )  # fmt: skip


def _untold_name() -> Case:
    """Without the setting, two hosts can be meant: nothing is joined."""
    told = _told_name()
    documents = [{**each, "id": each["id"] + "U", "queue_id": each["queue_id"] + "U"} for each in told.documents]
    for each in documents:
        each["msgid"] = each["msgid"] and "untold@example.com"
        each["links"] = [{**link, "queue_id": link["queue_id"] + "U"} for link in each["links"]]
        each["to"] = [{**row, "next_queue_id": "S2U"} if row.get("next_queue_id") else row for row in each["to"]]
    return Case("S1U", documents, ["mx1/S1U"], [], [(BOB, "relayed")], [("10.9.8.7", "no log in the store")])


def _only_a_queue_id() -> Case:
    """OpenSMTPD logs no message id, and its relay has another name: a queue id that is there once makes a weak edge."""
    documents = [
        hop("osm", "0ddba11", 0, [given(BOB, "10.1.1.1", "W2", 1)], mta="opensmtpd"),
        hop("mx7", "W2", 1, [given(BOB, "mx.example.net", "REMOTE1", 2)], msgid="weak@example.com"),
    ]
    return Case(
        "W2", documents, ["osm/0ddba11", "mx7/W2"], [("osm/0ddba11", "mx7/W2", "next", True)], [(BOB, "relayed")],
        [("mx.example.net", "no log in the store")],
    )  # fmt: skip


def _wrong_message_id() -> Case:
    """A short queue id came back on the next host for another mail; the log of the right one is lost."""
    documents = [
        hop("mx1", "R1", 0, [given(BOB, "mx2.example.com", "AB12CD", 1)], msgid="right@example.com"),
        hop("mx2", "AB12CD", 1, [kept("eve@example.net", 2)], msgid="wrong@example.com"),
    ]
    return Case(
        "R1", documents, ["mx1/R1"], [], [(BOB, "relayed")],
        [("mx2.example.com", "its log is in the store, and has no such transaction")],
    )  # fmt: skip


def _expansion() -> Case:
    """An alias to a mailbox, and to another host by a forward; a notice of delay; the filter's side by XFORWARD."""
    team = "team@example.com"
    documents = [
        hop(
            "mx1", "A1", 0,
            [given(team, "127.0.0.1", "A2", 1)], msgid="team@example.com",
        ),
        hop(
            "mx1", "A2", 1,
            [
                kept("dave@example.com", 2, original_recipient=team),
                given(team, "local", "A3", 2, "expanded"),
            ],
            msgid="team@example.com", links=[
                {"kind": "original", "queue_id": "A1", "host": None},
                {"kind": "forwarded_as", "queue_id": "A3", "host": "mx1"},
                {"kind": "delay_notice", "queue_id": "A9", "host": "mx1"},
            ],
        ),
        hop(
            "mx1", "A3", 2, [given("out@example.net", "none", None, 900, "expired", original_recipient=team)],
            msgid="team@example.com", links=[{"kind": "original", "queue_id": "A2", "host": "mx1"}],
        ),
        hop("mx1", "A9", 600, [kept("alice@example.com", 601)], msgid="late@mx1", **{"from": ""}),
    ]  # fmt: skip
    return Case(
        "A3", documents, ["mx1/A1", "mx1/A2", "mx1/A3", "mx1/A9"],
        [
            ("mx1/A1", "mx1/A2", "next", False), ("mx1/A2", "mx1/A3", "forwarded_as", False),
            ("mx1/A2", "mx1/A9", "delay_notice", False),
        ],
        [(team, "delivered"), (team, "expired")],
    )  # fmt: skip


def _program() -> Case:
    """A filter behind pipe(8) took the mail, `delivered`, and gave it back by sendmail(1): followed to its quarantine."""
    documents = [
        hop("mx1", "P1", 0, [given(BOB, "filter", None, 1, "delivered")], msgid="pipe@example.com"),
        hop("mx1", "P2", 1, [given(BOB, "none", None, 2, "discarded")], msgid="pipe@example.com", client="uid=999"),
    ]
    return Case("P1", documents, ["mx1/P1", "mx1/P2"], [("mx1/P1", "mx1/P2", "next", True)], [(BOB, "discarded")])


def _mailing_list() -> Case:
    """A list's program took the mail for the list and for Bob, and gave it back some members at a time, and Bob alone."""
    client = from_client("localhost", "127.0.0.1")
    others = ["carol@example.org", "dave@example.org", "erin@example.org"]
    taken = [given(each, "127.0.0.1", None, 1, "delivered", mailer="lmtp") for each in ("list@example.net", BOB)]
    documents = [
        hop("lists", "V1", 0, taken, msgid="list@example.com"),
        hop("lists", "V2", 2, [given(others[0], "none", None, 3, "bounced")], msgid="list@example.com", **client),
        hop(
            "lists", "V3", 4, [given(other, "mx.example.org", None, 5) for other in others[1:]],
            msgid="list@example.com", **client,
        ),
        hop("lists", "V4", 6, [kept(BOB, 7)], msgid="list@example.com", **client),
    ]  # fmt: skip
    return Case(
        "V1", documents, ["lists/V1", "lists/V2", "lists/V3", "lists/V4"],
        [("lists/V1", f"lists/V{n}", "next", True) for n in (2, 3, 4)],
        [("list@example.net", "bounced"), ("list@example.net", "relayed"), ("list@example.net", "relayed"), (BOB, "delivered")],
        [("mx.example.org", "no log in the store")],
    )  # fmt: skip


def _late_lines() -> Case:
    """Lines that came after a transaction was forgotten are a fragment: what they say is the last word."""
    documents = [
        hop("mx1", "H1", 0, [given(BOB, "none", None, 1, "deferred")], msgid="late@example.com", state="open"),
        hop("mx1", "H1", 400_000, [given(BOB, "none", None, 400_000, "bounced")], fragment=True, id="mx1/H1~0a"),
    ]
    return Case("H1", documents, ["mx1/H1", "mx1/H1"], [("mx1/H1", "mx1/H1", "fragment", False)], [(BOB, "bounced")])


def _too_early() -> Case:
    """The next host's transaction of this queue id began a minute before: it is another mail's."""
    documents = [
        hop("osm", "ea51e500", 60, [given(BOB, "mx2.example.com", "AB12CE", 61)], mta="opensmtpd"),
        hop("mx2", "AB12CE", 0, [kept("eve@example.net", 1)]),
    ]
    return Case(
        "ea51e500", documents, ["osm/ea51e500"], [], [(BOB, "relayed")],
        [("mx2.example.com", "its log is in the store, and has no such transaction")],
    )  # fmt: skip


def _used_again() -> Case:
    """The next host used the queue id again an hour later; neither logged a message id: the nearer one is meant."""
    documents = [
        hop("osm", "a6a1a000", 0, [given(BOB, "mx2.example.com", "AB12CF", 1)], mta="opensmtpd"),
        hop("mx2", "AB12CF", 3600, [given("eve@example.net", "none", None, 3601, "bounced")], id="mx2/AB12CF/1"),
        hop("mx2", "AB12CF", 1, [kept(BOB, 2)], id="mx2/AB12CF/2"),
    ]
    return Case(
        "a6a1a000", documents, ["osm/a6a1a000", "mx2/AB12CF"], [("osm/a6a1a000", "mx2/AB12CF", "next", False)],
        [(BOB, "delivered")],
    )  # fmt: skip


def _back_and_forth() -> Case:
    """Two relays whose replies name no queue id, each with the other as relay: the older one is the first."""
    documents = [
        hop("mxa", "BF1", 0, [given(BOB, "mxb.example.com", None, 1)], msgid="forth@example.com"),
        hop("mxb", "BF2", 1, [given(BOB, "mxa.example.com", None, 2)], msgid="forth@example.com"),
    ]
    return Case(
        "BF1", documents, ["mxa/BF1", "mxb/BF2"], [("mxa/BF1", "mxb/BF2", "next", True)], [(BOB, "relayed")],
        [("mxa.example.com", "its log is in the store, and has no such transaction")],
    )  # fmt: skip


def _late_relay() -> Case:
    """A fragment says to whom the mail went at last; there it bounced."""
    documents = [
        hop("mx1", "J1", 0, [given(BOB, "none", None, 1, "deferred")], msgid="later@example.com", state="open"),
        hop("mx1", "J1", 90_000, [given(BOB, "mx2.example.com", "J2", 90_001)], fragment=True, id="mx1/J1~0b"),
        hop("mx2", "J2", 90_001, [given(BOB, "none", None, 90_002, "bounced")], msgid="later@example.com"),
    ]
    return Case(
        "J2", documents, ["mx1/J1", "mx1/J1", "mx2/J2"],
        [("mx1/J1", "mx1/J1", "fragment", False), ("mx1/J1", "mx2/J2", "next", False)], [(BOB, "bounced")],
    )  # fmt: skip


def _requeued() -> Case:
    """`postsuper -r`: who was deferred under the old queue id is sent to under the new one; who had it, had it."""
    carol = "carol@example.com"
    documents = [
        hop(
            "mx1", "Q1", 0, [kept(carol, 1), given(BOB, "none", None, 1, "deferred")], msgid="again@example.com",
            links=[{"kind": "requeued_as", "queue_id": "Q2", "host": "mx1"}], closed_by="requeued",
        ),
        hop(
            "mx1", "Q2", 60, [kept(BOB, 61)], msgid="again@example.com", client="uid=105",
            links=[{"kind": "requeued_from", "queue_id": "Q1", "host": "mx1"}],
        ),
    ]  # fmt: skip
    return Case(
        "Q2", documents, ["mx1/Q1", "mx1/Q2"], [("mx1/Q1", "mx1/Q2", "requeued_as", False)],
        [(carol, "delivered"), (BOB, "delivered")],
    )  # fmt: skip


def _on_hold() -> Case:
    """An administrator put the mail on hold after an attempt: nobody tries again, it is held."""
    to = [given(BOB, "none", None, 1, "deferred")]
    return Case(
        "W1",
        [hop("mx1", "W1", 0, to, msgid="hold@example.com", outcome="held", state="open")],
        ["mx1/W1"],
        [],
        [(BOB, "held")],
    )


def _circle() -> Case:
    """Links that run in a circle, as no server writes them: it ends, and every node is there once."""
    documents = [
        hop(
            "mx1", f"C{n}", 0, [given(BOB, "mx1.example.com", f"C{(n + 1) % 3}", 0)], msgid="circle@example.com",
            links=[{"kind": "bounce", "queue_id": f"C{(n + 2) % 3}", "host": "mx1"}],
        )
        for n in range(3)
    ]  # fmt: skip
    return Case("C1", documents, ["mx1/C0", "mx1/C1", "mx1/C2"])


CASES = {
    "loop": _loop(),
    "fan_out": _fan_out(),
    "missing_middle": _missing_middle(),
    "queue_id_on_three_hosts": _queue_id_on_three_hosts(),
    "message_id_twice": _message_id_twice(),
    "another_name": _another_name(),
    "told_name": _told_name(),
    "untold_name": _untold_name(),
    "only_a_queue_id": _only_a_queue_id(),
    "wrong_message_id": _wrong_message_id(),
    "expansion": _expansion(),
    "program": _program(),
    "mailing_list": _mailing_list(),
    "late_lines": _late_lines(),
    "too_early": _too_early(),
    "used_again": _used_again(),
    "back_and_forth": _back_and_forth(),
    "late_relay": _late_relay(),
    "requeued": _requeued(),
    "on_hold": _on_hold(),
    "circle": _circle(),
}


def all_of_them() -> list[Document]:
    """Return the documents of all cases: they lie in one store."""
    return [each for case in CASES.values() for each in case.documents]
