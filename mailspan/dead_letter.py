"""A dead letter: a record that a stage could not use, as it was, with where it came from and why.

Pure. Key, value and headers are those of the record itself; five headers of ours are added: `reason` (one line),
`stage` (reduce, sink), and `topic`, `partition`, `offset` of the record. A document that was never a record, because
it is larger than one can be, has no source: it is cut, and cannot be replayed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

Headers = tuple[tuple[str, bytes], ...]

REASON, STAGE, TOPIC, PARTITION, OFFSET = "reason", "stage", "topic", "partition", "offset"
_OURS = frozenset({REASON, STAGE, TOPIC, PARTITION, OFFSET})
_LONGEST_REASON = 2000  # bytes


class Source(NamedTuple):
    """Where a record came from."""

    topic: str
    partition: int
    offset: int


class DeadLetter(NamedTuple):
    """What the headers of a dead letter say; `headers` are those that the record had itself."""

    reason: str
    stage: str
    source: Source | None
    headers: Headers


def headers_of(letter: DeadLetter) -> Headers:
    """Return the headers of the record that is written."""
    reason = " ".join(letter.reason.split()).encode("utf-8", "backslashreplace")[:_LONGEST_REASON]
    found = [(REASON, reason), (STAGE, letter.stage.encode())]
    if letter.source is not None:
        topic, partition, offset = letter.source
        found += [(TOPIC, topic.encode()), (PARTITION, b"%d" % partition), (OFFSET, b"%d" % offset)]
    return (*found, *letter.headers)


def read_headers(headers: Iterable[tuple[str, Any]] | Mapping[str, Any] | None) -> DeadLetter:
    """Return what headers say, as a client gives them; what is missing or cannot be read is empty or None."""
    pairs = headers_in(headers)
    ours: dict[str, str] = {}
    for name, value in pairs:
        if name in _OURS:
            ours.setdefault(name, value.decode("utf-8", "replace"))
    return DeadLetter(
        ours.get(REASON, ""),
        ours.get(STAGE, ""),
        _source(ours),
        tuple(pair for pair in pairs if pair[0] not in _OURS),
    )


def headers_in(headers: Iterable[tuple[str, Any]] | Mapping[str, Any] | None) -> Headers:
    """Return the headers of a record as pairs; those without a value have an empty one."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers or ()
    return tuple((str(name), value if isinstance(value, bytes) else str(value or "").encode()) for name, value in pairs)


def _source(ours: Mapping[str, str]) -> Source | None:
    try:
        return Source(ours[TOPIC], int(ours[PARTITION]), int(ours[OFFSET]))
    except (KeyError, ValueError):
        return None
