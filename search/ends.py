"""How a mail really ended for each recipient: from the first transaction over every hop to the last one known.

Pure. `relayed` and `expanded` are not the end where the transaction that came of it is known: then its recipients'
ends are meant, of those with the same address, final or original; where none has it, of all that answer to nobody
else. A mail that a filter or a program took is followed in the same way when it came back.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from search.joins import NOTICE_KINDS
from search.nodes import is_loopback
from sink.terms import OUTCOMES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from search.joins import Edge, Way
    from search.nodes import Attempt, Node


_WAITING = frozenset({"deferred", "queued", "held", "unknown"})
"""How it stands for a recipient who goes with the mail when that is requeued."""
_NOT_TAKEN = "Blocked MTA-BLOCKED"
"""amavis could not give the mail back, and told its server to try again."""
_TRIED_AGAIN = frozenset({"deferred", "queued"})
_RANK = {outcome: rank for rank, outcome in enumerate(OUTCOMES)}


@dataclass(frozen=True, slots=True)
class End:
    """How it ended for one recipient: as whom it got there, where, and when."""

    recipient: str
    """As the first transaction has it: the address before it was replaced, where that is known."""
    final_recipient: str
    outcome: str
    node: Node
    attempt: Attempt | None
    weak: bool = False
    """On the way is a weak edge, or the recipient was not named on both sides of a hop."""

    @property
    def date_ms(self) -> int:
        """When it ended, milliseconds since 1970 UTC."""
        return self.node.updated_ms if self.attempt is None else self.attempt.date_ms


class Ends:
    """The ends of every transaction of a trace."""

    def __init__(self, nodes: Sequence[Node], edges: Sequence[Edge]) -> None:
        """Work out all ends, the last transactions first."""
        self._onward: dict[str, list[Edge]] = defaultdict(list)
        self._late: dict[str, list[Node]] = defaultdict(list)
        for edge in edges:
            if edge.kind == "fragment":
                self._late[edge.source.id].append(edge.target)
            elif edge.kind not in NOTICE_KINDS:
                self._onward[edge.source.id].append(edge)
        for source, late in self._late.items():
            self._onward[source] += [edge for each in late for edge in self._onward[each.id]]
        self._ends: dict[str, tuple[End, ...]] = {}
        self._by_name: dict[str, dict[str, list[End]]] = {}
        for node in self._last_first(nodes):
            self._ends[node.id] = _once_each(self._ends_of(node))

    def of(self, node: Node) -> tuple[End, ...]:
        """Return how it ended for each recipient that a transaction had."""
        return self._ends[node.id]

    def _last_first(self, nodes: Sequence[Node]) -> Iterable[Node]:
        """Yield each node behind all that came of it; where links run in a circle, the circle is cut."""
        done: set[str] = set()
        for start in nodes:
            if start.id in done:
                continue
            done.add(start.id)
            stack = [(start, iter(self._onward[start.id]))]
            while stack:
                node, edges = stack[-1]
                for edge in edges:
                    if edge.target.id not in done:
                        done.add(edge.target.id)
                        stack.append((edge.target, iter(self._onward[edge.target.id])))
                        break
                else:
                    stack.pop()
                    yield node

    def _ends_of(self, node: Node) -> Iterable[End]:
        attempts = [*node.attempts, *(each for late in self._late[node.id] for each in late.attempts)]
        if self._late[node.id]:
            attempts.sort(key=lambda each: each.date_ms)
        last: dict[tuple[str, str], Attempt] = {}
        for attempt in attempts:
            if attempt.recipient is not None:
                last[attempt.recipient.casefold(), (attempt.original or "").casefold()] = attempt
        edges = self._onward[node.id]
        edges_of: dict[Way, list[Edge]] = defaultdict(list)
        for edge in edges:
            for way in edge.ways:
                edges_of[way].append(edge)
        requeued = next((edge for edge in edges if edge.kind == "requeued_as"), None)
        given: dict[str, list[Attempt]] = defaultdict(list)
        by_way: dict[Way, list[Attempt]] = defaultdict(list)
        for attempt in last.values():
            by_way[attempt.way].append(attempt)
        for way, sent in by_way.items():
            for attempt, taken in self._edges_for(sent, edges_of.get(way, ())):
                onward = [requeued] if not taken and requeued is not None and attempt.outcome in _WAITING else taken
                for edge in onward:
                    given[edge.target.id].append(attempt)
                if not onward:
                    yield End(_name(attempt), str(attempt.recipient), judged(node, attempt), node, attempt)
        for edge in edges:
            if edge.target.id in given:
                yield from self._follow(edge, given.pop(edge.target.id))
            else:  # Recipients that moved to another transaction, or of whom no line is left here.
                for end in self._ends.get(edge.target.id, ()):
                    yield replace(end, weak=end.weak or edge.weak)

    def _edges_for(
        self, attempts: Sequence[Attempt], edges: Sequence[Edge]
    ) -> Iterable[tuple[Attempt, Sequence[Edge]]]:
        """Yield the attempts of a way, each with its edges: of several those to its recipient, else those to strangers.

        A script that redirected twice makes several, or a list that sent the mail to its members, some at a time.
        """
        if len(edges) <= 1:
            yield from ((attempt, edges) for attempt in attempts)
            return
        named = [self._named(edge.target).keys() for edge in edges]
        own = [
            [edge for edge, theirs in zip(edges, named, strict=True) if not theirs.isdisjoint(names)]
            for names in map(_names, attempts)
        ]
        claimed = {edge.target.id for each in own for edge in each}
        strangers = [edge for edge in edges if edge.target.id not in claimed]
        for attempt, mine in zip(attempts, own, strict=True):
            yield attempt, mine or strangers or edges[-1:]

    def _follow(self, edge: Edge, attempts: Sequence[Attempt]) -> Iterable[End]:
        """Yield the ends of the recipients that a transaction handed on to one other."""
        target = edge.target
        by_name = self._named(target)
        lost = [attempt for attempt in attempts if not any(name in by_name for name in _names(attempt))]
        names = {name for attempt in attempts for name in _names(attempt)}
        # An address that was replaced there without a word is one of those that nobody else is.
        others = [end for end in self._ends.get(target.id, ()) if not names & _names_of(end)]
        worst_of_others = max(others, key=_badness, default=None)
        for attempt in attempts:
            name = _name(attempt)
            mine = {id(end): end for each in sorted(_names(attempt)) for end in by_name.get(each, ())}
            if mine:
                for end in mine.values():
                    yield replace(end, recipient=name, weak=end.weak or edge.weak)
            elif worst_of_others is None:
                outcome = "queued" if target.document.get("state") == "open" else "unknown"
                yield End(name, str(attempt.recipient), outcome, target, None, edge.weak)
            elif len(lost) > 1:
                yield replace(worst_of_others, recipient=name, weak=True)
        if len(lost) <= 1:  # who was added there came of the one who is not named there, or who is alone
            origin = lost[0] if lost else attempts[0] if len(attempts) == 1 else None
            for end in others:
                recipient = end.recipient if origin is None else _name(origin)
                yield replace(end, recipient=recipient, weak=end.weak or edge.weak)

    def _named(self, node: Node) -> dict[str, list[End]]:
        found = self._by_name.get(node.id)
        if found is None:
            found = defaultdict(list)
            for end in self._ends.get(node.id, ()):
                for name in _names_of(end):
                    found[name].append(end)
            self._by_name[node.id] = found = dict(found)
        return found


def judged(node: Node, attempt: Attempt) -> str:
    """Return an attempt's outcome; what a content filter of this host took and blocked did not go on.

    Who waits with a mail that an administrator put on hold is `held`, whatever the attempt before that was.
    """
    if attempt.outcome in _TRIED_AGAIN and node.document.get("outcome") == "held":
        return "held"
    if attempt.outcome != "relayed" or attempt.next_queue_id is not None or not is_loopback(attempt.relay):
        return attempt.outcome
    said = [
        each
        for each in node.document.get("filters") or ()
        if each.get("filter") == "amavis" and each.get("verdict") != _NOT_TAKEN
    ]
    if not said or not all(str(each.get("verdict")).startswith("Blocked ") for each in said):
        return attempt.outcome
    is_kept = any(str(each.get("detail")).rpartition("; ")[2].startswith("quarantine: ") for each in said)
    return "held" if is_kept else "discarded"


def _once_each(ends: Iterable[End]) -> tuple[End, ...]:
    """Return each end once: several ways may lead to it, and with each hop there would be twice as many."""
    found: dict[tuple[str, str, str, int], End] = {}
    for end in ends:
        key = end.recipient, end.final_recipient, end.node.id, id(end.attempt)
        known = found.get(key)
        if known is None or known.weak:
            found[key] = end
    return tuple(found.values())


def worst(ends: Iterable[End]) -> str | None:
    """Return the worst outcome, None of nobody."""
    found = max(ends, key=_badness, default=None)
    return None if found is None else found.outcome


def _badness(end: End) -> int:
    return _RANK.get(end.outcome, 0)


def _name(attempt: Attempt) -> str:
    return str(attempt.original or attempt.recipient)


def _names(attempt: Attempt) -> set[str]:
    return {name.casefold() for name in (attempt.recipient, attempt.original) if name}


def _names_of(end: End) -> set[str]:
    return {end.recipient.casefold(), end.final_recipient.casefold()}


def json_of(end: End) -> dict[str, Any]:
    """Return an end as --json gives it."""
    row = {} if end.attempt is None else end.attempt.row
    return {
        "recipient": end.recipient,
        "final_recipient": end.final_recipient,
        "final_outcome": end.outcome,
        "node": end.node.id,
        "relay": row.get("relay"),
        "mailbox": row.get("mailbox"),
        "dsn": row.get("dsn"),
        "status": row.get("status"),
        "date": row.get("date") or end.node.document["updated"],
        "weak": end.weak,
    }
