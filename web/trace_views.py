"""What the page of a trace shows, as plain values for the template: its hops, how it ended, and what is missing.

Pure. Long lists are cut, and what is left out is counted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from search.joins import NOTICE_KINDS
from search.trace_text import how_long, how_much_later
from web.views import LINKS, MOST_NAMES, tone_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from search.ends import End
    from search.joins import Edge
    from search.nodes import Attempt, Node
    from search.trace import Missing, Trace
    from web.views import Clock

MOST_HOPS = 200
MOST_ROWS = 100
"""Of recipients and of what is missing."""
DEEPEST = 6
"""Hops further in are drawn at this depth."""
_EDGES = {
    "next": "handed on",
    "forwarded_as": "forwarded",
    "clone": "split",
    "requeued_as": "queued again",
    "bounce": "notice of failure",
    "delay_notice": "notice of delay",
    "receipt": "receipt",
    "original": "the same mail",
    "fragment": "late lines",
}


@dataclass(frozen=True, slots=True)
class Step:
    """What happened to one recipient at one hop."""

    outcome: str
    recipient: str | None
    original: str | None
    relay: str | None
    after: str | None
    tries: int
    status: str | None


@dataclass(frozen=True, slots=True)
class Gone:
    """Something that the logs name and the store does not have."""

    what: str
    queue_id: str | None
    reason: str
    recipients: int


@dataclass(frozen=True, slots=True)
class Hop:
    """One transaction of a trace, as the list of hops has it."""

    id: str
    name: str
    depth: int
    date_ms: int
    is_other_day: bool
    mta: str
    client: str | None
    came: str
    """How it came of the hop before; empty for the first ones."""
    parent: str
    delay: str
    evidence: tuple[str, ...]
    is_weak: bool
    via: str | None
    is_notice: bool
    is_open: bool
    is_fragment: bool
    outcome: str
    steps: tuple[Step, ...]
    counts: tuple[tuple[str, int], ...]
    """In place of steps, where there are too many recipients."""
    gone: tuple[Gone, ...]
    guides: tuple[int, ...]
    """Lines that pass by it to hops below: how many steps of depth to its left."""
    bar_from: int
    bar_long: int
    """Its time as a part of the trace's, in thousandths."""


@dataclass(frozen=True, slots=True)
class Final:
    """How it ended for one recipient."""

    outcome: str
    recipient: str
    final_recipient: str | None
    relay: str | None
    id: str
    name: str
    date_ms: int
    status: str | None
    dsn: str | None
    is_weak: bool


@dataclass(frozen=True, slots=True)
class Traced:
    """One trace."""

    id: str
    message_id: str | None
    sender: str | None
    date_ms: int
    lasted: str
    transactions: int
    hosts: int
    outcome: str
    recipients: tuple[str, ...]
    more_recipients: int
    hops: tuple[Hop, ...]
    more_hops: int
    finals: tuple[Final, ...]
    more_finals: tuple[tuple[str, int], ...]
    missing: int
    limits: tuple[str, ...]


def traced(trace: Trace, clock: Clock) -> Traced:
    """Return a trace in a reader's words."""
    first = trace.nodes[0]
    last_ms = max(node.updated_ms for node in trace.nodes)
    ends = trace.final_outcomes
    gone: dict[str, list[Missing]] = {}
    for each in trace.missing:
        gone.setdefault(each.source.id, []).append(each)
    span = max(1, last_ms - first.date_ms)
    ways = list(in_order(trace))
    shown = ways[:MOST_HOPS]
    guides = _guides([min(depth, DEEPEST) for _, _, depth in shown])
    hops = [
        _hop(edge, node, (min(depth, DEEPEST), levels), gone.get(node.id, ()), (first.date_ms, span), clock)
        for (edge, node, depth), levels in zip(shown, guides, strict=True)
    ]
    rest = Counter(end.outcome for end in ends[MOST_ROWS:])
    names = list(dict.fromkeys(end.recipient for end in ends))
    return Traced(
        id=first.id,
        message_id=_message_id(trace),
        sender=first.document.get("from"),
        date_ms=first.date_ms,
        lasted=how_long((last_ms - first.date_ms) / 1000),
        transactions=len(trace.nodes),
        hosts=len({node.host for node in trace.nodes}),
        outcome=trace.outcome,
        recipients=tuple(names[:MOST_NAMES]),
        more_recipients=len(names) - len(names[:MOST_NAMES]),
        hops=tuple(hops),
        more_hops=len(ways) - len(hops),
        finals=tuple(_final(end) for end in ends[:MOST_ROWS]),
        more_finals=tuple(sorted(rest.items())),
        missing=len(trace.missing),
        limits=trace.limits,
    )


def in_order(trace: Trace) -> Iterator[tuple[Edge | None, Node, int]]:
    """Yield the hops depth first, each with the edge that leads there and its depth; without recursion."""
    children = trace.children
    stack: list[tuple[Edge | None, Node, int]] = [(None, root, 0) for root in reversed(trace.roots)]
    while stack:
        edge, node, depth = stack.pop()
        yield edge, node, depth
        stack.extend((each, each.target, depth + 1) for each in reversed(children.get(node.id, [])))


def _guides(depths: Sequence[int]) -> list[tuple[int, ...]]:
    """Return, for each hop of a tree in this order, the lines of its parents' later children that pass it by."""
    found: list[tuple[int, ...]] = []
    awaited: set[int] = set()  # depths at which a further child of the same parent comes below
    for depth in reversed(depths):
        found.append(tuple(sorted(depth - each for each in awaited if 0 < each <= depth)))
        awaited = {each for each in awaited if each < depth} | {depth}
    return found[::-1]


def name_of(node: Node) -> str:
    """Return host and queue ID."""
    return f"{node.host}/{node.queue_id or 'NOQUEUE'}"


def kind_of(edge: Edge) -> str:
    """Return how a hop came of the one before, in words."""
    return _EDGES.get(edge.kind, edge.kind.replace("_", " "))


def delay_of(edge: Edge) -> str:
    """Return how long after the hop before a hop began."""
    seconds = (edge.target.date_ms - edge.source.date_ms) / 1000
    return how_much_later(seconds, "−")


def gone_of(missing: Missing) -> Gone:
    """Return what is missing, in words."""
    if missing.kind == "next":
        return Gone(f"relay {missing.relay or '-'}", missing.queue_id, missing.reason, missing.recipients)
    host = f" on {missing.relay}" if missing.relay else ""
    what = f"{LINKS.get(missing.kind, missing.kind.replace('_', ' '))}{host}"
    return Gone(what, missing.queue_id, missing.reason, missing.recipients)


def _hop(
    edge: Edge | None,
    node: Node,
    place: tuple[int, tuple[int, ...]],
    gone: Iterable[Missing],
    span: tuple[int, int],
    clock: Clock,
) -> Hop:
    depth, guides = place
    start, length = span
    bar_from = max(0, min(990, (node.date_ms - start) * 1000 // length))
    bar_long = max(10, (node.updated_ms - node.date_ms) * 1000 // length)
    steps, counts = _steps(node)
    return Hop(
        id=node.id,
        name=name_of(node),
        depth=depth,
        date_ms=node.date_ms,
        is_other_day=edge is None or clock.day(node.date_ms) != clock.day(edge.source.date_ms),
        mta=str(node.document.get("mta") or ""),
        client=node.document.get("client") if edge is None else None,
        came="" if edge is None else kind_of(edge),
        parent="" if edge is None else name_of(edge.source),
        delay="" if edge is None else delay_of(edge),
        evidence=() if edge is None else edge.evidence,
        is_weak=edge is not None and edge.weak,
        via=None if edge is None else edge.via,
        is_notice=edge is not None and edge.kind in NOTICE_KINDS,
        is_open=node.document.get("state") == "open",
        is_fragment=bool(node.document.get("fragment")),
        outcome=str(node.document.get("outcome") or "unknown"),
        steps=steps,
        counts=counts,
        gone=tuple(gone_of(each) for each in list(gone)[:MOST_ROWS]),
        guides=guides,
        bar_from=bar_from,
        bar_long=min(bar_long, 1000 - bar_from),
    )


def _steps(node: Node) -> tuple[tuple[Step, ...], tuple[tuple[str, int], ...]]:
    last: dict[tuple[str | None, str | None], tuple[int, Attempt]] = {}
    for attempt in node.attempts:
        key = attempt.recipient, attempt.original
        last[key] = (last[key][0] + 1 if key in last else 1, attempt)
    if len(last) > MOST_ROWS:
        return (), tuple(sorted(Counter(attempt.outcome for _, attempt in last.values()).items()))
    return tuple(_step(tries, attempt) for tries, attempt in last.values()), ()


def _step(tries: int, attempt: Attempt) -> Step:
    delay = attempt.row.get("delay_seconds")
    says = tone_of(attempt.outcome) != "good"
    return Step(
        outcome=attempt.outcome,
        recipient=attempt.recipient,
        original=attempt.original,
        relay=None if attempt.relay in ("none", "local") else attempt.relay,
        after=None if delay is None else how_long(delay),
        tries=tries,
        status=attempt.row.get("status") if says else None,
    )


def _final(end: End) -> Final:
    row: Mapping[str, Any] = {} if end.attempt is None else end.attempt.row
    is_same = end.final_recipient.casefold() == end.recipient.casefold()
    return Final(
        outcome=end.outcome,
        recipient=end.recipient,
        final_recipient=None if is_same else end.final_recipient,
        relay=row.get("relay") if end.outcome == "relayed" else None,
        id=end.node.id,
        name=name_of(end.node),
        date_ms=end.date_ms,
        status=row.get("status") if tone_of(end.outcome) != "good" else None,
        dsn=row.get("dsn"),
        is_weak=end.weak,
    )


def _message_id(trace: Trace) -> str | None:
    notices = {edge.target.id for edge in trace.edges if edge.kind in NOTICE_KINDS}
    found = (node.document.get("msgid") for node in trace.nodes if node.id not in notices)
    return next((each for each in found if each), None)
