"""Finds all transactions of a mail: a breadth-first walk over a store, a level at a time, few queries for each.

Pure but for the reader that it is given. A level asks for everything that its transactions name and that was not asked
for before: their own queue IDs (other pages, late fragments), the queue IDs in their links, whoever names them in a
link, and their message ids; all of it in one query, where that is little. Many ids stand in one query: a fan-out to
thousands needs some dozens of queries, a loop at most one for each round. Then the nodes are joined anew
(search.joins), and those that came to belong to the mail are the next level. No walk makes more than MOST_QUERIES
queries, finds more than about MOST_TRANSACTIONS, or joins more than about MOST_JOINED; what ends it before its end is
said in `limits`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from search.joins import EARLY_MS, Joins
from search.nodes import Node, Nodes
from search.select import QUEUE_LIFETIME_MS
from sink.store import Selection
from sink.terms import link_term, message_id_terms, queue_terms

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from search.joins import Edge
    from sink.store import DocumentReader, Term

MOST_QUERIES = 256
MOST_TRANSACTIONS = 25_000
MOST_OF_MESSAGE_IDS = 12_000
"""Senders of much spam use one message id for all of it: one that more transactions have says nothing."""
MOST_JOINED = 400_000
"""So many nodes are joined anew over all levels: a long loop beside a large fan-out would take minutes."""
TERMS_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Found:
    """What a walk found: groups of joined nodes, each with its edges, the oldest first."""

    groups: tuple[tuple[tuple[Node, ...], tuple[Edge, ...]], ...]
    joins: Joins
    limits: tuple[str, ...]
    queries: int


def walk(reader: DocumentReader, seeds: Iterable[bytes], hosts: Mapping[str, str]) -> Found:
    """Find what belongs to the same mail as the documents `seeds`; `hosts` see search.joins. Raises StoreError."""
    return _Walk(reader, hosts).run(seeds)


class _Walk:
    def __init__(self, reader: DocumentReader, hosts: Mapping[str, str]) -> None:
        self._reader = reader
        self._hosts = hosts
        self._nodes = Nodes()
        self._asked: set[Term] = set()
        self._queries = 0
        self._is_changed = False
        self._limits: dict[str, None] = {}

    def run(self, documents: Iterable[bytes]) -> Found:
        self._nodes.add(documents)
        seeds = list(self._nodes)
        visited: set[str] = set()
        joins = Joins(self._nodes.values(), self._hosts)
        reached = set(seeds)
        joined = 0
        while level := [self._nodes[each] for each in sorted(reached - visited)]:
            visited |= reached
            may_go_on = self._ask_for(level)
            if self._is_changed:
                self._is_changed = False
                joins = Joins(self._nodes.values(), self._hosts)
                joined += len(self._nodes)
            if joined > MOST_JOINED:
                self._limits["a long way with very many transactions: what is further away is missing here"] = None
                may_go_on = False
            if not may_go_on:
                break
            reached = _near(seeds, joins)
        return Found(_groups(seeds, self._nodes, joins), joins, tuple(self._limits), self._queries)

    def _ask_for(self, level: Sequence[Node]) -> bool:
        """Ask for what the nodes of a level name; say whether the walk may go on."""
        terms: dict[Term, None] = {}
        message_ids: dict[Term, None] = {}
        for node in level:
            if node.queue_id is not None:
                terms.update(dict.fromkeys((*queue_terms(node.queue_id), link_term(node.queue_id))))
            for _, queue_id, _ in node.links:
                terms.update(dict.fromkeys(queue_terms(queue_id)))
            if node.message_id is not None:
                message_ids.update(dict.fromkeys(message_id_terms(node.message_id)))
        # What came before may have waited as long as a mail may, and what it was given to may have been late as much.
        since = min(node.date_ms for node in level) - 2 * QUEUE_LIFETIME_MS - EARLY_MS
        until = max(node.updated_ms for node in level) + QUEUE_LIFETIME_MS + 1
        asked = [[each for each in some if each not in self._asked] for some in (terms, message_ids)]
        self._asked.update(*asked)
        if all(asked) and sum(map(len, asked)) <= TERMS_AT_ONCE:
            # Both at once, which costs half: as long as there is little, neither limit is reached.
            found = self._newest((*asked[0], *asked[1]), since, until, MOST_OF_MESSAGE_IDS)
            if found is not None and len(found) < MOST_OF_MESSAGE_IDS:
                return self._take(found, MOST_TRANSACTIONS)
        for new, most in zip(asked, (MOST_TRANSACTIONS, MOST_OF_MESSAGE_IDS), strict=True):
            for start in range(0, len(new), TERMS_AT_ONCE):
                found = self._newest(tuple(new[start : start + TERMS_AT_ONCE]), since, until, most)
                if found is None:
                    return False
                if len(found) >= most and new is asked[1]:
                    self._limits[
                        f"message ids that more than {most} transactions have: followed by queue ids alone"
                    ] = None
                elif not self._take(found, most):
                    return False
        return True

    def _newest(self, terms: tuple[Term, ...], since: int, until: int, most: int) -> list[bytes] | None:
        """Return what has one of the terms; None where no more may be asked."""
        if self._queries >= MOST_QUERIES:
            self._limits[f"more than {MOST_QUERIES} queries: what is further away is missing here"] = None
            return None
        self._queries += 1
        return self._reader.newest(Selection(all_of=(terms,), date_from_ms=since, date_until_ms=until), most)

    def _take(self, found: Sequence[bytes], most: int) -> bool:
        """Take documents up; say whether the walk may go on."""
        self._is_changed |= self._nodes.add(found)
        if len(self._nodes) > MOST_TRANSACTIONS or len(found) >= most:
            self._limits[f"more than {MOST_TRANSACTIONS} transactions: others are missing here"] = None
            return False
        return True


def _near(seeds: Iterable[str], joins: Joins) -> set[str]:
    """Return the nodes to which edges lead from a seed, either way, or doubts: what is there may settle these."""
    near: dict[str, list[str]] = defaultdict(list)
    for source, target in (*((edge.source, edge.target) for edge in joins.edges), *joins.doubtful):
        near[source.id].append(target.id)
        near[target.id].append(source.id)
    reached: set[str] = set()
    waiting = list(seeds)
    while waiting:
        one = waiting.pop()
        if one not in reached:
            reached.add(one)
            waiting += near[one]
    return reached


def _groups(
    seeds: Iterable[str], nodes: Mapping[str, Node], joins: Joins
) -> tuple[tuple[tuple[Node, ...], tuple[Edge, ...]], ...]:
    """Return the groups of joined nodes in which there is a seed, the oldest group first."""
    near: dict[str, list[str]] = defaultdict(list)
    for edge in joins.edges:
        near[edge.source.id].append(edge.target.id)
        near[edge.target.id].append(edge.source.id)
    group_of: dict[str, int] = {}
    groups: list[list[Node]] = []
    for seed in sorted(seeds, key=lambda each: nodes[each].order):
        if seed in group_of:
            continue
        group_of[seed] = len(groups)
        waiting, members = [seed], []
        while waiting:
            one = waiting.pop()
            members.append(nodes[one])
            for other in near[one]:
                if other not in group_of:
                    group_of[other] = len(groups)
                    waiting.append(other)
        groups.append(sorted(members, key=lambda node: node.order))
    edges: list[list[Edge]] = [[] for _ in groups]
    for edge in joins.edges:
        number = group_of.get(edge.source.id)
        if number is not None:
            edges[number].append(edge)
    found = [(tuple(members), tuple(edges[number])) for number, members in enumerate(groups)]
    return tuple(sorted(found, key=lambda each: each[0][0].order))
