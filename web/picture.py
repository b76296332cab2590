"""The picture of a trace: boxes from left to right, one for each transaction, with lines between them. Pure.

Places and texts only; the template draws them as SVG. A box has host, queue ID, time and outcome, a line how long after
the hop before. What the store does not have is a box with a broken line. Traces with more boxes than fit are not drawn:
the list of hops, which says the same in words and more, is there for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mailspan.terminal import sanitise
from search.trace import NO_LOG, NOT_THERE, UNKNOWN_HOST
from web.trace_views import delay_of, gone_of, in_order, kind_of
from web.views import tone_of

if TYPE_CHECKING:
    from search.trace import Trace
    from web.views import Clock

MOST_BOXES = 40
MOST_COLUMNS = 8
WIDTH, HEIGHT = 172, 78
ACROSS, DOWN = 238, 102
_MARGIN = 8
_ABOVE = 18
"""Room for a tag over the first row."""
_TEXT_WIDE = 20
"""Characters that fit into a box."""
_LABEL_WIDE = 12
_REASONS = {NO_LOG: "no log in the store", NOT_THERE: "not in its log", UNKNOWN_HOST: "not in the store"}


@dataclass(frozen=True, slots=True)
class Box:
    """One box; `x`, `y` its upper left corner."""

    x: int
    y: int
    title: str
    second: str
    third: str
    outcome: str
    tone: str
    is_missing: bool = False
    is_origin: bool = False
    tag: str = ""
    """How it came of the box before, where that did not just hand the mail on."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line from box to box: its path, and a label at its end."""

    path: str
    head: str
    label: str
    x: int
    y: int
    is_weak: bool
    is_missing: bool


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawing of this size."""

    width: int
    height: int
    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]
    box_width: int = WIDTH
    box_height: int = HEIGHT


@dataclass(slots=True)
class _Place:
    """A box that is to be placed: its column, what it says, and whose child it is."""

    column: int
    parent: int | None
    texts: tuple[str, str, str]
    outcome: str = ""
    label: str = ""
    is_weak: bool = False
    is_missing: bool = False
    is_origin: bool = False
    tag: str = ""
    row: float = 0.0


def picture_of(trace: Trace, clock: Clock) -> Picture | None:
    """Return the picture; None where it would be too large."""
    places = _places(trace, clock)
    if places is None:
        return None
    _set_rows(places)
    first = min(place.column for place in places)  # where no client is known, nothing stands in its column
    for place in places:
        place.column -= first
    boxes = [_box(place) for place in places]
    lines = []
    for place, box in zip(places, boxes, strict=True):
        if place.parent is not None:
            lines.append(_line(boxes[place.parent], box, place))
    return Picture(
        width=max(box.x for box in boxes) + WIDTH + _MARGIN,
        height=max(box.y for box in boxes) + HEIGHT + _MARGIN,
        boxes=tuple(boxes),
        lines=tuple(lines),
    )


def _places(trace: Trace, clock: Clock) -> list[_Place] | None:
    if len(trace.nodes) + len(trace.missing) + len(trace.roots) > MOST_BOXES:
        return None
    places: list[_Place] = []
    number_of: dict[str, int] = {}
    for edge, node, depth in in_order(trace):
        if depth + 2 > MOST_COLUMNS:
            return None
        parent = None
        if edge is None:
            if client := node.document.get("client"):
                parent = len(places)
                name, address = node.document.get("client_name"), node.document.get("client_ip")
                texts = "client", str(name or client), str(address or "") if name else ""
                places.append(_Place(0, None, texts, is_origin=True))
        else:
            parent = number_of[edge.source.id]
        number_of[node.id] = len(places)
        texts = node.host, node.queue_id or "NOQUEUE", clock.both(node.date_ms)
        places.append(
            _Place(
                depth + 1,
                parent,
                texts,
                str(node.document.get("outcome") or "unknown"),
                "" if edge is None else delay_of(edge),
                is_weak=edge is not None and edge.weak,
                tag="" if edge is None or edge.kind == "next" else kind_of(edge),
            )
        )
    for missing in trace.missing:
        parent = number_of[missing.source.id]
        gone = gone_of(missing)
        column = places[parent].column + 1
        texts = gone.what.removeprefix("relay "), gone.queue_id or "", _REASONS.get(gone.reason, gone.reason)
        places.append(_Place(column, parent, texts, is_missing=True))
    return places


def _set_rows(places: list[_Place]) -> None:
    """Give each leaf a row of its own, and what has children the middle of theirs."""
    children: dict[int | None, list[int]] = {}
    for number, place in enumerate(places):
        children.setdefault(place.parent, []).append(number)
    row = 0
    stack = [(each, False) for each in reversed(children.get(None, []))]
    while stack:
        number, is_done = stack.pop()
        below = children.get(number, [])
        if not below:
            places[number].row = row
            row += 1
        elif is_done:
            places[number].row = (places[below[0]].row + places[below[-1]].row) / 2
        else:
            stack.append((number, True))
            stack.extend((each, False) for each in reversed(below))


def _box(place: _Place) -> Box:
    first, second, third = place.texts
    return Box(
        x=_MARGIN + place.column * ACROSS,
        y=_ABOVE + round(place.row * DOWN),
        title=_cut(first),
        second=_cut(second),
        third=_cut(third),
        outcome=place.outcome,
        tone=tone_of(place.outcome),
        is_missing=place.is_missing,
        is_origin=place.is_origin,
        tag=_cut(place.tag),
    )


def _line(source: Box, target: Box, place: _Place) -> Line:
    x1, y1 = source.x + WIDTH, source.y + HEIGHT // 2
    x2, y2 = target.x, target.y + HEIGHT // 2
    middle = (x1 + x2) // 2 if y1 != y2 else x2
    path = f"M{x1} {y1}H{x2}" if y1 == y2 else f"M{x1} {y1}C{middle} {y1} {middle} {y2} {x2} {y2}"
    head = f"M{x2 - 8} {y2 - 4}l8 4l-8 4z"
    label_y = y2 + 17 if y2 > y1 else y2 - 8
    return Line(path, head, _cut(place.label, _LABEL_WIDE), x2 - 12, label_y, place.is_weak, place.is_missing)


def _cut(text: str, wide: int = _TEXT_WIDE) -> str:
    safe = sanitise(text)
    return safe if len(safe) <= wide else f"{safe[: wide - 1]}…"
