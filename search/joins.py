"""Which transactions are one mail's: edges between nodes, each with what it rests on.

Pure, and a function of the set of nodes: the same nodes give the same edges in whatever order they were found.

A relay's reply names the queue ID that it gave the mail. Hosts share queue IDs, and short ones come back, so such an
edge needs more: the same message id, or a client or relay that is the other host. Which relay name is which host of
the logs is learned from the edges that a message id confirms, or told (`relay_hosts`). Where nothing else is known, a
queue ID that one transaction alone can mean makes a weak edge; where no queue ID was logged, a message id and a host
do. Nothing is joined that is born more than 5 s before the other, or later than its last line and the queue lifetime.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from search.candidates import MOST_COMPARED, Candidates, Names, message_id_keys, short, unknown_keys
from search.nodes import HANDED_ON, is_loopback, is_message_id, is_same_host
from search.select import QUEUE_LIFETIME_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from search.candidates import Key
    from search.nodes import Attempt, Node

EARLY_MS = 5000
"""Clocks differ: a hop may seem to be so much older than the one before."""
SUBMITTED_MS = 60_000
"""A filter or a forwarding program gives the mail back to its own host within this time."""
_LONG_AGO = 1 << 62
MOST_CANDIDATES = 20
"""So many of the nearest are looked at, where only a message id and a host say which."""

FORWARD_KINDS = {
    "bounce": "bounce",
    "delay_notice": "delay_notice",
    "receipt": "receipt",
    "requeued_as": "requeued_as",
    "clone": "clone",
    "forwarded_as": "forwarded_as",
}
BACKWARD_KINDS = {"bounce_of": "bounce", "requeued_from": "requeued_as", "clone_of": "clone", "original": "original"}
NOTICE_KINDS = frozenset({"bounce", "delay_notice", "receipt"})
"""Edges to a mail about the mail; all other kinds lead to the mail itself."""
_JOINED = ("transaction", "mailbox")
"""Kinds of documents whose source is looked for by their message ID."""
_PREFERENCE = (
    "next", "forwarded_as", "clone", "requeued_as", "bounce", "delay_notice", "receipt", "original", "fragment",
)  # fmt: skip

Way = tuple[str | None, str | None, str | None, str]


@dataclass(slots=True, eq=False)
class Edge:
    """From a transaction to one that came of it."""

    source: Node
    target: Node
    kind: str
    evidence: tuple[str, ...]
    weak: bool = False
    via: str | None = None
    """The relay between both, which no log in the store tells of."""
    ways: tuple[Way, ...] = ()
    """The ways of the source's attempts that this edge goes on from."""


class Joins:
    """All edges between some nodes; `hosts` tells relay names and addresses that the logs know under another name."""

    def __init__(self, nodes: Iterable[Node], hosts: Mapping[str, str]) -> None:
        """Join the nodes."""
        self._nodes = sorted(nodes, key=lambda node: node.order)
        self._candidates = Candidates(self._nodes)
        self._told = {name.lower(): host.lower() for name, host in hosts.items()}
        self.relays: dict[str, set[str]] = defaultdict(set)
        """Relay names and addresses, and the hosts of the logs that they were found to be."""
        self._edges: dict[tuple[str, str], Edge] = {}
        self._taken: set[tuple[str, Way]] = set()
        self._fed: set[str] = set()
        self.doubtful: list[tuple[Node, Node]] = []
        """What nothing but a queue ID says, and more than one has that: what is found near them may decide."""
        self._children: dict[str, list[str]] = defaultdict(list)
        self._learn()
        self._hosts_of: dict[tuple[str | None, str | None], frozenset[str]] = {}
        self._names = Names(self.relays, self._told)
        for node in self._nodes:
            self._join_replies(node)
        for node in self._nodes:
            self._join_links(node)
        self._join_fragments()
        self._join_by_message_id()
        self.edges = sorted(self._edges.values(), key=lambda edge: (edge.source.order, edge.target.order))

    def is_taken(self, node: Node, way: Way) -> bool:
        """Whether an edge goes on from this way."""
        return (node.id, way) in self._taken

    def hosts_of(self, relay: str | None, address: str | None) -> frozenset[str]:
        """Return the hosts of the logs that a relay is, as far as it was told or learned."""
        found = self._hosts_of.get((relay, address))
        if found is None:
            names = [name for name in (relay, address) if name is not None]
            told = {self._told[name] for name in names if name in self._told}
            found = frozenset(told or {host for name in names for host in self.relays.get(name, ())})
            self._hosts_of[relay, address] = found
        return found

    def _learn(self) -> None:
        for node in self._nodes:
            for way in node.ways:
                if way.outcome != "relayed" or way.next_queue_id is None:
                    continue
                for other in self._with_its_message_id(node, way):
                    if is_message_id(node, other) and _is_in_time(node, other):
                        for name in (way.relay, way.relay_ip):
                            if name is not None and not is_loopback(name):
                                self.relays[name].add(other.host)
                        for name in other.clients:
                            self.relays[name].add(node.host)

    def _with_its_message_id(self, node: Node, way: Attempt) -> Sequence[Node]:
        """Return who can be meant by the queue ID that a relay gave, and have the same message id."""
        queue_id = str(way.next_queue_id)
        if not self._candidates.are_many(queue_id):
            return self._candidates.all(queue_id)
        return self._candidates.near(queue_id, message_id_keys(node), way.date_ms, *_time_after(node))

    def _that_came_of(self, node: Node, queue_id: str, way: Attempt | None) -> Sequence[Node]:
        """Return who can be meant where a node, or the relay of one of its ways, names a queue ID."""
        if not self._candidates.are_many(queue_id):
            return self._candidates.all(queue_id)
        keys = [*message_id_keys(node), *unknown_keys(node), ("original", node.queue_id), ("host", node.host)]
        keys += [("client", name) for name in self._names.of_host(node.host)]
        reference = node.updated_ms
        if way is not None:
            reference = way.date_ms
            keys += [("host", host) for host in self._names.hosts((way.relay, way.relay_ip))]
        return self._candidates.near(queue_id, keys, reference, *_time_after(node))

    def _that_it_came_of(self, node: Node, queue_id: str, host: str | None) -> Sequence[Node]:
        """Return who can be meant where a node names the queue ID of what it came of."""
        if not self._candidates.are_many(queue_id):
            return self._candidates.all(queue_id)
        keys: list[Key] = [("host", host)]
        if host is None:
            keys = [*message_id_keys(node), *unknown_keys(node)]
            keys += [("host", each) for each in self._names.hosts(sorted(node.clients))]
        return self._candidates.near(queue_id, keys, node.date_ms, -_LONG_AGO, node.date_ms + EARLY_MS)

    def _is_host(self, names: Iterable[str | None], host: str) -> bool:
        for name in names:
            if name is None:
                continue
            if name in self._told:
                if self._told[name] == host:
                    return True
            elif is_same_host(name, host) or host in self.relays.get(name, ()):
                return True
        return False

    def _join_replies(self, node: Node) -> None:
        """Follow the queue IDs that relays gave."""
        for way in node.ways:
            if way.next_queue_id is None:
                continue
            if way.outcome == "expanded":
                self._join_best(node, way.next_queue_id, "forwarded_as", way, self._evidence_of_own)
            else:
                self._join_best(node, way.next_queue_id, "next", way, self._evidence_of_reply)

    def _join_links(self, node: Node) -> None:
        """Follow the queue IDs that other lines name, from either end."""
        for kind, queue_id, host in node.links:
            if kind in FORWARD_KINDS:
                if kind != "forwarded_as" or not any(way.next_queue_id == queue_id for way in node.ways):
                    self._join_best(node, queue_id, FORWARD_KINDS[kind], None, self._evidence_of_own)
            elif kind in BACKWARD_KINDS:
                self._join_parent(node, queue_id, host, BACKWARD_KINDS[kind])

    def _evidence_of_own(self, node: Node, other: Node, _way: Attempt | None) -> list[str] | None:
        """A host's own line names both."""
        if other.host != node.host:
            return None
        return ["queue id", "same host"]

    def _evidence_of_reply(self, node: Node, other: Node, way: Attempt | None) -> list[str] | None:
        """Return what says that the relay's queue ID is this transaction; None: something says that it is not."""
        evidence = ["queue id"]
        is_named = any(kind == "original" and queue_id == node.queue_id for kind, queue_id, _ in other.links)
        is_equal = is_message_id(node, other)
        if is_equal:
            evidence.append("message id")
        if is_named:
            evidence.append("original queue id")
        if way is not None and (
            self._is_host((way.relay, way.relay_ip), other.host)
            or (other.host == node.host and (is_loopback(way.relay) or is_loopback(way.relay_ip)))
        ):
            evidence.append("relay")
        if self._is_host(other.clients, node.host) or (other.is_local and other.host == node.host):
            evidence.append("client")
        if is_equal is False and not is_named:
            return None
        return evidence

    def _join_best(
        self,
        node: Node,
        queue_id: str,
        kind: str,
        way: Attempt | None,
        evidence_of: Callable[[Node, Node, Attempt | None], list[str] | None],
    ) -> None:
        """Join the best of those that have this queue ID: that with the most evidence, then the nearest in time."""
        reference = node.updated_ms if way is None else way.date_ms
        found = []
        for other in self._that_came_of(node, queue_id, way):
            if other is node or not _is_in_time(node, other):
                continue
            evidence = evidence_of(node, other, way)
            if evidence is not None:
                found.append((-len(evidence), abs(other.date_ms - reference), other.id, other, evidence))
        if not found:
            return
        found.sort(key=lambda each: each[:3])
        count, _, _, best, evidence = found[0]
        is_weak = count == -1
        if is_weak and len(found) > 1:
            self.doubtful += [(node, each[3]) for each in found[:MOST_CANDIDATES]]
            return
        self._add(Edge(node, best, kind, tuple(evidence), is_weak, ways=() if way is None else (way.way,)))

    def _join_parent(self, node: Node, queue_id: str, host: str | None, kind: str) -> None:
        """Join with a transaction that this one says it came of; a host that is not named is any."""
        found = []
        for other in self._that_it_came_of(node, queue_id, host):
            if other is node or not _is_in_time(other, node) or (host is not None and other.host != host):
                continue
            evidence = ["original queue id"] if host is None else ["queue id", "same host"]
            is_equal = is_message_id(other, node)
            if host is None and is_equal:
                evidence.append("message id")
            if host is None and self._is_host(node.clients, other.host):
                evidence.append("client")
            is_other_mail = host is None and is_equal is False and len(evidence) == 1
            if not is_other_mail:
                found.append((-len(evidence), abs(node.date_ms - other.date_ms), other.id, other, evidence))
        if not found:
            return
        found.sort(key=lambda each: each[:3])
        count, _, _, best, evidence = found[0]
        if count == -1 and len(found) > 1:
            self.doubtful += [(each[3], node) for each in found[:MOST_CANDIDATES]]
            return
        ways = tuple(way.way for way in best.ways if way.next_queue_id == node.queue_id)
        self._add(Edge(best, node, "next" if host is None else kind, tuple(evidence), count == -1, ways=ways))

    def _join_fragments(self) -> None:
        """Join late lines of a transaction with what was known of it before."""
        begun: dict[tuple[str, str], list[Node]] = defaultdict(list)
        late: dict[tuple[str, str], list[Node]] = defaultdict(list)
        for node in self._nodes:
            if node.queue_id is None:
                continue
            key = node.queue_id, node.host
            if not node.document.get("fragment"):
                begun[key].append(node)
                continue
            known = chain(reversed(begun[key]), late[key])
            whole = next((other for other in known if _is_in_time(other, node)), None)
            if whole is not None:
                self._add(Edge(whole, node, "fragment", ("queue id", "same host")))
            late[key].append(node)

    def _join_by_message_id(self) -> None:
        """Join what no queue ID joins: the replies of some relays name none, and some hops have no log."""
        ways: dict[tuple[str, str], list[tuple[int, str, Node, Attempt]]] = defaultdict(list)
        for node in self._nodes:
            if node.message_id is not None:
                for way in node.ways if not _is_mailbox(node) else node.attempts:
                    if (way.outcome in HANDED_ON or way.outcome == "delivered") and not self.is_taken(node, way.way):
                        for key in self._keys_of(node, way):
                            ways[node.message_id, key].append((way.date_ms, node.id, node, way))
        for found in ways.values():
            found.sort(key=lambda each: each[:2])
        # Clocks differ by some seconds: what seems to be older than its source is joined after all others.
        for seems_older in (False, True):
            for node in self._nodes:
                if node.message_id is None or node.id in self._fed or node.document.get("kind") not in _JOINED:
                    continue
                edges = [edge for edge in self._sources(node, ways) if (edge.source.order > node.order) == seems_older]
                if edges:
                    came = self._came_of(node)
                    edges = [edge for edge in edges if edge.source.id not in came]
                if edges:
                    self._add(min(edges, key=lambda edge: (-len(edge.evidence), edge.via is not None, _distance(edge))))

    def _keys_of(self, node: Node, way: Attempt) -> set[str]:
        """Return under which names a later hop can look for this way: the relay's, or the host's own."""
        if _is_mailbox(node):  # which gives back nothing but what a user's script redirects
            return {f"redirected {way.recipient}".casefold()} if way.outcome == "expanded" else set()
        if way.outcome == "delivered":
            return {f"from {node.host}"}
        if way.outcome == "expanded":
            return set()
        names = {name for name in (way.relay, way.relay_ip) if name is not None}
        if len(hosts := self.hosts_of(way.relay, way.relay_ip)) <= MOST_COMPARED:
            names |= hosts  # of a pool, each host looks for the pool's name
        firsts = {short(name) for name in names if not name.replace(".", "").isdigit() and ":" not in name}
        return {f"to {name}" for name in names | firsts}

    def _sources(
        self, node: Node, ways: Mapping[tuple[str, str], list[tuple[int, str, Node, Attempt]]]
    ) -> Iterator[Edge]:
        message_id = str(node.message_id)
        for key in sorted({f"to {each}" for each in (node.host, short(node.host), *self._names.pools(node.host))}):
            for source, way in _nearest(ways.get((message_id, key), ()), node):
                if way.next_queue_id is None and self._is_host((way.relay, way.relay_ip), node.host):
                    evidence = ["message id", "relay"]
                    if self._is_host(node.clients, source.host):
                        evidence.append("client")
                    yield Edge(source, node, "next", tuple(evidence), weak=True, ways=(way.way,))
        for client in sorted(node.clients):
            for source, way in _nearest(ways.get((message_id, f"to {client}"), ()), node):
                via = way.relay or way.relay_ip
                yield Edge(source, node, "next", ("message id", "client"), weak=True, via=via, ways=(way.way,))
        yield from self._redirected(node, ways)
        if node.is_local:
            for source, way in _nearest(ways.get((message_id, f"from {node.host}"), ()), node):
                if node.date_ms - way.date_ms <= SUBMITTED_MS:
                    yield Edge(source, node, "next", ("message id", "same host"), weak=True, ways=(way.way,))

    def _redirected(
        self, node: Node, ways: Mapping[tuple[str, str], list[tuple[int, str, Node, Attempt]]]
    ) -> Iterator[Edge]:
        """A mailbox server's script sent the mail on, to this address: to its own host, or to one that says so."""
        for name in sorted(
            {name.casefold() for each in node.attempts for name in (each.recipient, each.original) if name}
        ):
            for source, way in _nearest(ways.get((str(node.message_id), f"redirected {name}"), ()), node):
                if node.date_ms - way.date_ms <= SUBMITTED_MS:
                    evidence = ["message id", "recipient"]
                    if node.is_local and node.host == source.host:
                        evidence.append("same host")
                    elif self._is_host(node.clients, source.host):
                        evidence.append("client")
                    else:
                        continue
                    yield Edge(source, node, "next", tuple(evidence), weak=True, ways=(way.way,))

    def _came_of(self, node: Node) -> set[str]:
        """Return what is known to have come of a node, and itself: mostly little, while its source is not known."""
        seen: set[str] = set()
        waiting = [node.id]
        while waiting:
            one = waiting.pop()
            if one not in seen:
                seen.add(one)
                waiting += self._children.get(one, ())
        return seen

    def _add(self, edge: Edge) -> None:
        key = (edge.source.id, edge.target.id)
        known = self._edges.get(key)
        if known is None:
            self._edges[key] = edge
            self._children[edge.source.id].append(edge.target.id)
        else:
            known.kind = min(known.kind, edge.kind, key=_PREFERENCE.index)
            known.evidence = tuple(dict.fromkeys((*known.evidence, *edge.evidence)))
            known.weak = known.weak and edge.weak
            known.ways = tuple(dict.fromkeys((*known.ways, *edge.ways)))
        if edge.kind not in NOTICE_KINDS:
            self._fed.add(edge.target.id)
        self._taken |= {(edge.source.id, way) for way in edge.ways}


def _time_after(node: Node) -> tuple[int, int]:
    """Return when something that came of a node began, at the earliest and at the latest."""
    return node.date_ms - EARLY_MS, node.updated_ms + QUEUE_LIFETIME_MS


def _is_mailbox(node: Node) -> bool:
    """Whether a node is what a mailbox server did."""
    return node.document.get("kind") == "mailbox"


def _is_in_time(node: Node, other: Node) -> bool:
    """Whether `other` can have come of `node`."""
    first, last = _time_after(node)
    return first <= other.date_ms <= last


def _nearest(ways: Sequence[tuple[int, str, Node, Attempt]], node: Node) -> Iterator[tuple[Node, Attempt]]:
    """Yield the ways that were taken last before the node was born."""
    end = bisect_right(ways, node.date_ms + EARLY_MS, key=lambda each: each[0])
    # A server logs that the next took the mail after the next one's birth line, by as long as that took.
    for _, _, source, way in ways[max(0, end - MOST_CANDIDATES) : end + MOST_CANDIDATES]:
        if source is not node and _is_in_time(source, node):
            yield source, way


def _distance(edge: Edge) -> tuple[int, str]:
    dates = [way.date_ms for way in edge.source.ways if way.way in edge.ways]
    return min((abs(edge.target.date_ms - date) for date in dates), default=0), edge.source.id
