"""A transaction as a trace sees it: the pages of one mail put together, with what joins compare.

Pure. A node keeps its first page's document for output; what joins need of it is read once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from search.output import mail_of
from search.times import milliseconds
from sink.terms import fold

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sink.store import Document

HANDED_ON = frozenset({"relayed", "expanded"})
"""Outcomes that are not the end: somebody else has the mail now."""
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True)
class Attempt:
    """One entry of `to`, or a link that no entry names: whom the mail was given to, and under which queue ID."""

    recipient: str | None
    original: str | None
    outcome: str
    relay: str | None
    relay_ip: str | None
    next_queue_id: str | None
    date_ms: int
    row: Mapping[str, Any]

    @property
    def way(self) -> tuple[str | None, str | None, str | None, str]:
        """What attempts that gave the mail to the same transaction have in common."""
        return self.next_queue_id, self.relay, self.relay_ip, self.outcome


@dataclass(slots=True, eq=False)
class Node:
    """One transaction of a trace; times are milliseconds since 1970 UTC."""

    id: str
    host: str
    queue_id: str | None
    date_ms: int
    updated_ms: int
    message_id: str | None
    """Bare and folded; None where none or an empty one was logged."""
    is_cut: bool
    document: Document
    attempts: tuple[Attempt, ...]
    links: tuple[tuple[str, str, str | None], ...]
    ways: tuple[Attempt, ...] = ()
    """One attempt, the last, of each way."""
    clients: frozenset[str] = field(default_factory=frozenset)
    """Name and address of who handed the mail over, folded; without those of the loopback."""
    is_local: bool = False
    """It came from this very host: over the loopback, or from a program."""

    @property
    def order(self) -> tuple[int, str]:
        """Nodes are drawn and joined in the order of their dates."""
        return self.date_ms, self.id


class Nodes(dict[str, Node]):
    """Nodes by their ids, made of stored documents; those that come again cost next to nothing."""

    def __init__(self, encoded: Iterable[bytes] = ()) -> None:
        """Begin with some documents."""
        super().__init__()
        self._known: set[bytes] = set()
        self._pages: dict[str, dict[int, Document]] = {}
        self.add(encoded)

    def add(self, encoded: Iterable[bytes]) -> bool:
        """Add documents, the pages of one mail to one node; return whether there was anything new."""
        changed: dict[str, None] = {}
        for each in encoded:
            if each not in self._known:
                self._known.add(each)
                document = orjson.loads(each)
                mail = mail_of(document)
                self._pages.setdefault(mail, {})[document.get("page") or 0] = document
                changed[mail] = None
        for mail in changed:
            pages = self._pages[mail]
            self[mail] = _node(mail, [pages[number] for number in sorted(pages)])
        return bool(changed)


def is_same_host(one: str, other: str) -> bool:
    """Whether two names can be of one host: equal, or one is the other's short name."""
    if one == other:
        return True
    first, _, rest = one.partition(".")
    second, _, other_rest = other.partition(".")
    return first == second and not (rest and other_rest) and not first.isdigit()


def is_loopback(name: str | None) -> bool:
    """Whether a relay or client is this host itself."""
    return name is not None and (name in _LOOPBACK or name.startswith("127."))


def is_message_id(one: Node, other: Node) -> bool | None:
    """Whether two nodes have one message id; None where one of them does not say. Sendmail cuts long ones."""
    if one.message_id is None or other.message_id is None:
        return None
    if one.message_id == other.message_id:
        return True
    return (one.is_cut and other.message_id.startswith(one.message_id)) or (
        other.is_cut and one.message_id.startswith(other.message_id)
    )


def _node(mail: str, pages: list[Document]) -> Node:
    first = pages[0]
    attempts = tuple(_attempt(row, first) for page in pages for row in page.get("to") or ())
    links = {
        (str(link["kind"]), str(link["queue_id"]), link.get("host")): None
        for page in pages
        for link in page.get("links") or ()
        if link.get("queue_id")
    }
    ways = {attempt.way: attempt for attempt in attempts}
    named = {attempt.next_queue_id for attempt in attempts}
    for kind, queue_id, host in links:  # of attempts that are not kept any more
        if kind in ("next", "forwarded_as") and queue_id not in named:
            outcome = "relayed" if kind == "next" else "expanded"
            unkept = Attempt(None, None, outcome, host, None, queue_id, milliseconds(first["updated"]), {})
            ways[unkept.way] = unkept
    message_id = first.get("msgid")
    client = fold(first.get("client") or "")
    names = {fold(name) for name in (first.get("client_name"), first.get("client_ip")) if name}
    bare = fold((message_id or "").strip().removeprefix("<").removesuffix(">"))
    return Node(
        id=mail,
        host=first["host"],
        queue_id=first.get("queue_id"),
        date_ms=milliseconds(first["date"]),
        updated_ms=max(milliseconds(first["updated"]), milliseconds(first["date"])),
        message_id=bare or None,
        is_cut="truncated" in (first.get("notes") or ()),
        document=first,
        attempts=attempts,
        links=tuple(links),
        ways=tuple(ways.values()),
        clients=frozenset(name for name in names if not is_loopback(name)),
        is_local=client.startswith("uid=")
        or client == "local"
        or client.endswith("@localhost")
        or any(map(is_loopback, names)),
    )


def _attempt(row: Mapping[str, Any], document: Document) -> Attempt:
    return Attempt(
        recipient=row.get("recipient"),
        original=row.get("original_recipient"),
        outcome=row.get("outcome") or "unknown",
        relay=row.get("relay"),
        relay_ip=row.get("relay_ip"),
        next_queue_id=row.get("next_queue_id"),
        date_ms=milliseconds(row.get("date") or document["updated"]),
        row=row,
    )
