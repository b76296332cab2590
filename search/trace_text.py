"""A trace as text: a tree of transactions, the final outcome of each recipient, and what is missing.

Pure. Each value from a log is made safe first, so no value can look like a part of the drawing's structure by control
characters. On a terminal lines are cut to its width, deep branches lose their left end, and long lists are counted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Any

from mailspan.terminal import sanitise
from search.filters import filter_text, is_harmless
from search.joins import NOTICE_KINDS
from search.output import colour_of, coloured
from search.times import in_zone

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from search.ends import End
    from search.joins import Edge
    from search.nodes import Attempt, Node
    from search.trace import Missing, Trace

MOST_SHOWN = 20
"""Of recipients, of hops from one transaction, and of what is missing: more are counted, but for `verbose`."""
_DEEPEST_COLUMNS = 60
_NARROWEST = 20
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_SHORT_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Page:
    """How the reader wants text; `width` None: lines are not cut. `zone` None is the machine's."""

    width: int | None = None
    verbose: bool = False
    colours: bool = False
    zone: tzinfo | None = None


@dataclass(frozen=True, slots=True)
class _Line:
    """A line: the drawing before it, and its text, which may begin with an outcome, to be coloured."""

    drawing: str
    text: str
    outcome: str | None = None


def trace_text(trace: Trace, page: Page) -> str:
    """Return the drawing of one trace, line ends included."""
    return "".join(f"{_fitted(line, page)}\n" for line in _lines(trace, page))


def matches_text(traces: Sequence[Trace], page: Page) -> str:
    """Return a list of several traces: a line each, with what to ask for."""
    lines = [_Line("", f"{len(traces)} mails; name one of these, or add --all to draw each:")]
    for trace in traces:
        first = trace.nodes[0]
        ends = trace.final_outcomes
        people = _safe(ends[0].recipient) if ends else "-"
        more = f" and {len(ends) - 1} more" if len(ends) > 1 else ""
        text = f"{_date(first.date_ms, page)}  {_safe(first.id)}  {_sender(first)} to {people}{more}: {trace.outcome}"
        lines.append(_Line("", text))
    return "".join(f"{_fitted(line, page)}\n" for line in lines)


def json_match(trace: Trace) -> dict[str, Any]:
    """Return one of several traces as --json lists it: enough to ask for it alone."""
    first, ends = trace.nodes[0], trace.final_outcomes
    return {
        "match": first.id,
        "host": first.host,
        "queue_id": first.queue_id,
        "date": first.document["date"],
        "from": first.document.get("from"),
        "msgid": first.document.get("msgid"),
        "recipients": len(ends),
        "transactions": len(trace.nodes),
        "outcome": trace.outcome,
    }


def _lines(trace: Trace, page: Page) -> Iterator[_Line]:
    first = trace.nodes[0]
    hosts = len({node.host for node in trace.nodes})
    lasted = (max(node.updated_ms for node in trace.nodes) - first.date_ms) / 1000
    yield _Line("", f"message {_message_id(trace)} from {_sender(first)}")
    yield _Line(
        "",
        f"{_date(first.date_ms, page)}, {_number(len(trace.nodes), 'transaction')} on {_number(hosts, 'host')},"
        f" {how_long(lasted)}",
    )
    yield _Line("", "")
    yield from _tree(trace, page)
    yield _Line("", "")
    yield _Line("", "final outcome")
    yield from _finals(trace.final_outcomes, page)
    if trace.missing:
        yield _Line("", "missing")
        yield from _missing(trace.missing, page)
    for limit in trace.limits:
        yield _Line("", f"not complete: {limit}")


def _tree(trace: Trace, page: Page) -> Iterator[_Line]:
    """Draw depth first, without recursion: a mail loop may be deep."""
    children = trace.children
    # Of each: the edge that leads there (None: a root), the node, and the drawing for its line and for those below.
    stack: list[tuple[Edge | None, Node | None, str, str, str]] = [
        (None, root, "", "", "") for root in reversed(trace.roots)
    ]
    while stack:
        edge, node, drawing, below, text = stack.pop()
        if node is None:
            yield _Line(drawing, text)
            continue
        yield _Line(drawing, _head(edge, node, page))
        onward = children.get(node.id, [])
        shown = onward if page.verbose or len(onward) <= MOST_SHOWN else onward[:MOST_SHOWN]
        inner = below + ("│  " if onward else "   ")
        for line in _attempts(node, page):
            yield _Line(inner, line.text, line.outcome)
        for row in node.document.get("filters") or ():
            if page.verbose or not is_harmless(row):
                yield _Line(inner, f"filter  {filter_text(row)}")
        more = len(onward) - len(shown)
        if more:
            stack.append((None, None, f"{below}└─ ", "", f"and {more:,} more (-v draws all)"))
        for number, each in reversed(list(enumerate(shown))):
            is_last = number == len(onward) - 1
            last, rest = ("└─ ", "   ") if is_last else ("├─ ", "│  ")
            stack.append((each, each.target, below + last, below + rest, ""))


def _head(edge: Edge | None, node: Node, page: Page) -> str:
    words = []
    if edge is None:
        words += [_date(node.date_ms, page), _name(node)]
        if client := node.document.get("client"):
            words.append(f"from {_safe(client)}")
    else:
        delay = (node.date_ms - edge.source.date_ms) / 1000
        kind = "" if edge.kind == "next" else f"{edge.kind.replace('_', ' ')} "
        via = f"by way of {_safe(edge.via)}, which has no log here, " if edge.via is not None else ""
        words += [_clock(node.date_ms, edge.source.date_ms, page), how_much_later(delay), f"{kind}{via}{_name(node)}"]
        if edge.weak or page.verbose:
            words.append(f"({'weak: ' if edge.weak else ''}{', '.join(edge.evidence)})")
    if node.document.get("fragment"):
        words.append("[head missing]")
    if node.document.get("state") == "open":
        words.append("[open]")
    return "  ".join(words)


def _attempts(node: Node, page: Page) -> Iterator[_Line]:
    last: dict[tuple[str | None, str | None], tuple[int, Attempt]] = {}
    for attempt in node.attempts:
        key = attempt.recipient, attempt.original
        last[key] = (last[key][0] + 1 if key in last else 1, attempt)
    if not last:
        yield _outcome_line(str(node.document.get("outcome") or "unknown"), "")
        return
    if len(last) > MOST_SHOWN and not page.verbose:
        for outcome, count in sorted(Counter(attempt.outcome for _, attempt in last.values()).items()):
            yield _outcome_line(outcome, f"{count:,} recipients")
        return
    for count, attempt in last.values():
        yield _outcome_line(attempt.outcome, _attempt(count, attempt, page))


def _attempt(count: int, attempt: Attempt, page: Page) -> str:
    original = f" (for {_safe(attempt.original)})" if attempt.original else ""
    relay = f" by {_safe(attempt.relay)}" if attempt.relay and attempt.relay not in ("none", "local") else ""
    delay = attempt.row.get("delay_seconds")
    after = f" after {how_long(delay)}" if delay is not None else ""
    tries = f", attempt {count}" if count > 1 else ""
    says = attempt.outcome not in ("relayed", "delivered", "expanded") or page.verbose
    status = f": {_safe(attempt.row.get('status'))}" if says and attempt.row.get("status") else ""
    return f"{_safe(attempt.recipient)}{original}{relay}{after}{tries}{status}"


def _finals(ends: Sequence[End], page: Page) -> Iterator[_Line]:
    if not ends:
        yield _Line("  ", "no recipient is known")
    elif len(ends) > MOST_SHOWN and not page.verbose:
        for outcome, count in sorted(Counter(end.outcome for end in ends).items()):
            yield _outcome_line(outcome, f"{count:,} recipients", "  ")
    else:
        for end in ends:
            yield _outcome_line(end.outcome, _final(end, page), "  ")


def _final(end: End, page: Page) -> str:
    final = "" if end.final_recipient.casefold() == end.recipient.casefold() else f" as {_safe(end.final_recipient)}"
    row = {} if end.attempt is None else end.attempt.row
    relay = row.get("relay")
    where = f" to {_safe(relay)}" if end.outcome == "relayed" and relay else ""
    if end.outcome == "delivered" and row.get("mailbox") and end.node.document.get("kind") == "mailbox":
        where = f" to mailbox {_safe(row['mailbox'])}"
    weak = " (weak)" if end.weak else ""
    at = _date(end.date_ms, page)
    return f"{_safe(end.recipient)}{final}{where}, {_name(end.node)}, {at}{weak}"


def _missing(missing: Sequence[Missing], page: Page) -> Iterator[_Line]:
    shown = missing if page.verbose or len(missing) <= MOST_SHOWN else missing[:MOST_SHOWN]
    for each in shown:
        yield _Line("  ", _missing_text(each))
    if len(missing) > len(shown):
        yield _Line("  ", f"and {len(missing) - len(shown):,} more (-v names all)")


def _missing_text(missing: Missing) -> str:
    as_what = f" (there {_safe(missing.queue_id)})" if missing.queue_id else ""
    if missing.kind == "next":
        return f"relay {_safe(missing.relay)}{as_what}: {missing.reason}"
    host = f"{_safe(missing.relay)}/" if missing.relay else ""
    return f"{missing.kind.replace('_', ' ')} {host}{_safe(missing.queue_id)}: {missing.reason}"


def _outcome_line(outcome: str, text: str, drawing: str = "") -> _Line:
    return _Line(drawing, f"{_safe(outcome)}  {text}".rstrip(), outcome)


def _fitted(line: _Line, page: Page) -> str:
    """Cut a line to the width: its left end where the branch is deep, then its text."""
    width = None if page.width is None else max(page.width, _NARROWEST)
    deepest = _DEEPEST_COLUMNS if width is None else min(_DEEPEST_COLUMNS, width // 3)
    drawing, text = line.drawing, line.text
    if len(drawing) > deepest:
        drawing = f"…{drawing[len(drawing) - deepest + 1 :]}"
    if width is not None and len(drawing) + len(text) > width:
        text = f"{text[: width - len(drawing) - 1]}…"
    if page.colours and line.outcome is not None and text.startswith(line.outcome):
        text = coloured(line.outcome, colour_of(line.outcome)) + text[len(line.outcome) :]
    return f"{drawing}{text}".rstrip()


def _name(node: Node) -> str:
    return f"{_safe(node.host)}/{_safe(node.queue_id or 'NOQUEUE')}"


def _sender(node: Node) -> str:
    sender = node.document.get("from")
    return "-" if sender is None else f"<{_safe(sender)}>"


def _message_id(trace: Trace) -> str:
    notices = {edge.target.id for edge in trace.edges if edge.kind in NOTICE_KINDS}
    for node in trace.nodes:
        if node.id not in notices and node.document.get("msgid"):
            return f"<{_safe(node.document['msgid'])}>"
    return "-"


def _safe(value: object) -> str:
    return "-" if value is None else sanitise(str(value))


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _local(ms: int, page: Page) -> datetime:
    return in_zone(datetime.fromtimestamp(ms / 1000, UTC), page.zone)


def _date(ms: int, page: Page) -> str:
    return _local(ms, page).strftime("%Y-%m-%d %H:%M:%S")


def _clock(ms: int, before_ms: int, page: Page) -> str:
    """Return the time, with the date where the hop before was on another day."""
    local = _local(ms, page)
    return local.strftime("%H:%M:%S" if local.date() == _local(before_ms, page).date() else "%Y-%m-%d %H:%M:%S")


def how_much_later(seconds: float, minus: str = "-") -> str:
    """Return how long after another thing one was, with its sign: clocks differ, so it can seem to be before."""
    return f"{minus}{how_long(-seconds)}" if round(seconds, 2) < 0 else f"+{how_long(max(0.0, seconds))}"


def how_long(seconds: float) -> str:
    """Return how long something took, in the two largest units."""
    if seconds < _SHORT_SECONDS:
        return f"{round(seconds, 2):g} s"
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR} h"
