"""A trace: one mail over all hops, as a tree of transactions, with how it ended and what is missing.

Pure but for the reader that it is given. `search.walk` finds the transactions, `search.joins` says which came of
which, `search.ends` how it ended. Here they become traces: one for each mail that was found, and of each relay that
nothing is known of, whether the store has its log at all.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any

from search.candidates import short
from search.ends import End, Ends, json_of, judged, worst
from search.joins import NOTICE_KINDS
from search.nodes import is_loopback, is_same_host
from search.walk import walk
from sink.store import Selection
from sink.terms import term

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from search.joins import Edge, Joins
    from search.nodes import Attempt, Node
    from sink.store import DocumentReader

NO_LOG = "no log in the store"
NOT_THERE = "its log is in the store, and has no such transaction"
UNKNOWN_HOST = "no such transaction in the store"
_AROUND_MS = 3_600_000
"""Whether a relay has a log in the store is looked for so long before and after it was given the mail."""
_RELAYS_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Missing:
    """Something that the logs name and the store does not have."""

    source: Node
    kind: str
    relay: str | None
    queue_id: str | None
    reason: str
    recipients: int = 0
    """How many went that way."""


@dataclass(frozen=True, slots=True)
class Trace:
    """One mail. Nodes and edges are in the order of their dates; `roots` came of nothing that is known."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    roots: tuple[Node, ...]
    ends: Ends
    missing: tuple[Missing, ...]
    limits: tuple[str, ...]

    @property
    def children(self) -> dict[str, list[Edge]]:
        """The edges of the tree by their sources: of several that lead to one node, the first that is no notice.

        They are taken from the roots on: where edges run in a circle, each node is in the tree once all the same.
        """
        onward: dict[str, list[tuple[bool, int]]] = defaultdict(list)
        for number, edge in enumerate(self.edges):
            onward[edge.source.id].append((edge.kind in NOTICE_KINDS, number))
        found: dict[str, list[Edge]] = defaultdict(list)
        reached = {root.id for root in self.roots}
        waiting = [each for root in self.roots for each in onward[root.id]]
        heapify(waiting)
        while waiting:
            edge = self.edges[heappop(waiting)[1]]
            if edge.target.id not in reached:
                reached.add(edge.target.id)
                found[edge.source.id].append(edge)
                for each in onward[edge.target.id]:
                    heappush(waiting, each)
        for edges in found.values():
            edges.sort(key=lambda edge: edge.target.order)
        return found

    @property
    def final_outcomes(self) -> list[End]:
        """How it ended for each recipient of the mail itself, the notices about it left out."""
        return [end for root in self.roots for end in self.ends.of(root)]

    @property
    def outcome(self) -> str:
        """The worst of the final outcomes; where nobody was a recipient, that of the first transaction."""
        return worst(self.final_outcomes) or str(self.nodes[0].document.get("outcome") or "unknown")

    @property
    def notices(self) -> list[tuple[Edge, End]]:
        """How the notices about the mail ended: those that the trace knows a mail for."""
        return [(edge, end) for edge in self.edges if edge.kind in NOTICE_KINDS for end in self.ends.of(edge.target)]


def traces_of(reader: DocumentReader, seeds: Iterable[bytes], hosts: Mapping[str, str]) -> list[Trace]:
    """Return the traces of all mails that the documents `seeds` belong to, the oldest first.

    `hosts` tells relay names and addresses that are hosts of other names in the logs. Raises StoreError.
    """
    found = walk(reader, seeds, hosts)
    parts = [(nodes, edges, _unknown_relays(nodes, edges, found.joins)) for nodes, edges in found.groups]
    logged = _hosts_with_logs(reader, [way for _, _, ways in parts for _, way, _ in ways], found.joins)
    return [
        Trace(
            nodes,
            edges,
            _roots(nodes, edges),
            Ends(nodes, edges),
            (*_missing_relays(ways, found.joins, logged), *_missing_links(nodes, edges)),
            found.limits,
        )
        for nodes, edges, ways in parts
    ]


def _roots(nodes: Sequence[Node], edges: Sequence[Edge]) -> tuple[Node, ...]:
    """Return what came of nothing; of a circle of links, its oldest."""
    came = {edge.target.id for edge in edges}
    roots = [node for node in nodes if node.id not in came]
    onward: dict[str, list[str]] = defaultdict(list)
    for edge in edges:
        onward[edge.source.id].append(edge.target.id)
    seen: set[str] = set()
    for node in (*roots, *nodes):
        if node.id not in seen:
            if node.id in came:
                roots.append(node)
            waiting = [node.id]
            while waiting:
                one = waiting.pop()
                if one not in seen:
                    seen.add(one)
                    waiting += onward[one]
    return tuple(sorted(roots, key=lambda node: node.order))


def _unknown_relays(nodes: Sequence[Node], edges: Sequence[Edge], joins: Joins) -> list[tuple[Node, Attempt, int]]:
    """Return the ways to other hosts of which nothing is known, and how many recipients went each."""
    found: list[tuple[Node, Attempt, int]] = []
    leapt = {(edge.source.id, way) for edge in edges if edge.via is not None for way in edge.ways}
    for node in nodes:
        number: dict[object, int] = defaultdict(int)
        for attempt in node.attempts:
            number[attempt.way] += 1
        found += [
            (node, way, number[way.way])
            for way in node.ways
            if judged(node, way) == "relayed" and ((node.id, way.way) in leapt or not joins.is_taken(node, way.way))
        ]
    return found


def _hosts_with_logs(reader: DocumentReader, ways: Sequence[Attempt], joins: Joins) -> set[str]:
    """Return which hosts that can be these relays have a log in the store, near the time of the attempts."""
    names = {way.relay for way in ways if way.relay}
    names.update(*(joins.hosts_of(*each) for each in {(way.relay, way.relay_ip) for way in ways}))
    names |= {name.partition(".")[0] for name in names if not name.partition(".")[0].isdigit() and ":" not in name}
    ordered = sorted(names)
    found: set[str] = set()
    since = min((way.date_ms for way in ways), default=0) - _AROUND_MS
    until = max((way.date_ms for way in ways), default=0) + _AROUND_MS
    for start in range(0, len(ordered), _RELAYS_AT_ONCE):
        group = tuple(term("host", name) for name in ordered[start : start + _RELAYS_AT_ONCE])
        selection = Selection(all_of=(group,), date_from_ms=since, date_until_ms=until)
        found.update(host for host, _ in reader.count_by(selection, "host"))
    return found


def _missing_relays(ways: Sequence[tuple[Node, Attempt, int]], joins: Joins, logged: set[str]) -> list[Missing]:
    found: dict[tuple[str, str | None, str | None], Missing] = {}
    by_first: dict[str, list[str]] = defaultdict(list)
    for host in logged:
        by_first[short(host)].append(host)
    for node, way, number in ways:
        hosts: AbstractSet[str] = joins.hosts_of(way.relay, way.relay_ip)
        if not hosts and way.relay is not None:
            hosts = {host for host in by_first[short(way.relay)] if is_same_host(way.relay, host)}
        if is_loopback(way.relay) or is_loopback(way.relay_ip):
            hosts = {node.host}
        reason = NO_LOG if node.host not in hosts and not hosts & logged else NOT_THERE
        key = (node.id, way.relay or way.relay_ip, way.next_queue_id)
        earlier = found[key].recipients if key in found else 0
        found[key] = Missing(node, "next", key[1], key[2], reason, number + earlier)
    return list(found.values())


def _missing_links(nodes: Sequence[Node], edges: Sequence[Edge]) -> list[Missing]:
    """Return what transactions name by other lines than a relay's reply, and is not there."""
    near: dict[str, set[str | None]] = defaultdict(set)
    for edge in edges:
        near[edge.source.id].add(edge.target.queue_id)
        near[edge.target.id].add(edge.source.queue_id)
    return [
        Missing(node, kind, host, queue_id, UNKNOWN_HOST)
        for node in nodes
        for kind, queue_id, host in node.links
        if kind != "next" and queue_id not in near[node.id]
    ]


def json_trace(trace: Trace) -> dict[str, Any]:
    """Return a trace as --json gives it (docs/trace.md)."""
    return {
        "outcome": trace.outcome,
        "roots": [root.id for root in trace.roots],
        "nodes": [_json_node(node) for node in trace.nodes],
        "edges": [_json_edge(edge) for edge in trace.edges],
        "missing": [
            {
                "from": missing.source.id,
                "kind": missing.kind,
                "relay": missing.relay,
                "queue_id": missing.queue_id,
                "reason": missing.reason,
                "recipients": missing.recipients,
            }
            for missing in trace.missing
        ],
        "final_outcome": [json_of(end) for end in trace.final_outcomes],
        "notices": [{"kind": edge.kind, "of": edge.source.id, **json_of(end)} for edge, end in trace.notices],
        "limits": list(trace.limits),
    }


def _json_node(node: Node) -> dict[str, Any]:
    wanted = ("host", "queue_id", "mta", "kind", "date", "updated", "state", "outcome", "from", "msgid", "client")
    return {
        "id": node.id,
        **{name: node.document.get(name) for name in wanted},
        "fragment": bool(node.document.get("fragment")),
        "notes": node.document.get("notes") or [],
        "filters": node.document.get("filters") or [],
        "to": [dict(attempt.row) for attempt in node.attempts],
    }


def _json_edge(edge: Edge) -> dict[str, Any]:
    return {
        "from": edge.source.id,
        "to": edge.target.id,
        "kind": edge.kind,
        "evidence": list(edge.evidence),
        "weak": edge.weak,
        "via": edge.via,
        "delay_seconds": round((edge.target.date_ms - edge.source.date_ms) / 1000, 3),
    }
