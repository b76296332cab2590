"""A dead letter: a record that a stage could not use, as it was, with where it came from and why.

Pure. Key, value and headers are those of the record itself; before the headers stand five of ours: `reason` (one line),
`stage` (reduce, sink), and `topic`, `partition`, `offset` of the record. A document that was never a record, because
it is larger than one can be, has no source: it is cut, and cannot be replayed.

That a letter was replayed is a record of the same topic, too: a mark, whose stage is `replay` and whose source is the
letter. It has neither key nor value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

Headers = tuple[tuple[str, bytes], ...]

REASON, STAGE, TOPIC, PARTITION, OFFSET = "reason", "stage", "topic", "partition", "offset"
_OURS = frozenset({REASON, STAGE, TOPIC, PARTITION, OFFSET})
_LONGEST_REASON = 2000  # bytes
REPLAY = "replay"
"""The stage of a mark."""


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
    ours: dict[str, str] = {}
    own = []
    for name, value in headers_in(headers):
        if name in _OURS and name not in ours:  # a second one of that name is the record's own
            ours[name] = value.decode("utf-8", "replace")
        else:
            own.append((name, value))
    return DeadLetter(ours.get(REASON, ""), ours.get(STAGE, ""), _source(ours), tuple(own))


def mark_of(letter: Source) -> Headers:
    """Return the headers of the record that says that the letter at this place was replayed."""
    return headers_of(DeadLetter("this letter was replayed", REPLAY, letter, ()))


class HasHeaders(Protocol):
    """A record as a client gives it."""

    def headers(self) -> Any:  # noqa: ANN401 - pairs, a mapping or nothing: each client's own
        """Return its headers."""


def headers_of_record(record: HasHeaders) -> Headers:
    """Return all headers of a record; none where the client itself stumbles over them (a name that is no UTF-8)."""
    try:
        return headers_in(record.headers())
    except (ValueError, SystemError):
        return ()


def headers_in(headers: Iterable[tuple[str, Any]] | Mapping[str, Any] | None) -> Headers:
    """Return the headers of a record as pairs; those without a value have an empty one."""
    # A list is what nearly all have, and told at once.
    pairs = headers.items() if not isinstance(headers, list) and isinstance(headers, Mapping) else headers or ()
    return tuple((str(name), value if isinstance(value, bytes) else str(value or "").encode()) for name, value in pairs)


def _source(ours: Mapping[str, str]) -> Source | None:
    try:
        return Source(ours[TOPIC], int(ours[PARTITION]), int(ours[OFFSET]))
    except (KeyError, ValueError):
        return None
