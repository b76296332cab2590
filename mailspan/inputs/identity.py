"""How a file is known again: by the fingerprint of its uncompressed head, whatever its name or packing.

The fingerprint grows with the file: it is the digest of the first HEAD_BYTES, of fewer as long as there are fewer, and
its length is kept with it. So a small file that grew is still itself, and mail.log is found again in mail.log.1.gz.

Two logs may begin alike and differ later: mail.log and syslog, written by one daemon since one rotation. So a position
also holds a fingerprint of the bytes before its offset, its *tail*; a file is known only where it has the same ones
there. Any number of positions may share a head. What comes through a pipe is never known: it cannot be looked at.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, NamedTuple

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping

HEAD_BYTES = 4096
TAIL_BYTES = 4096
_VERSION = 2


def fingerprint(head: bytes) -> str:
    """Return the digest of a head, or of a tail."""
    return blake2b(head, digest_size=16).hexdigest()


class Tail(NamedTuple):
    """What stands before an offset: the digest of so many bytes; of none: nothing is known of it."""

    length: int
    digest: str


NO_TAIL = Tail(0, fingerprint(b""))


@dataclass(frozen=True, slots=True)
class Position:
    """How far a file was read.

    `length` and `digest` are the fingerprint of its head; `offset` is behind the last line that was used, `tail` is
    before it; `second` is the event time of the last record there (0: none yet); `packed_size` is the size of the
    compressed file that was read to its end (0: none was): it need not be opened again.
    """

    length: int
    digest: str
    offset: int = 0
    tail: Tail = NO_TAIL
    second: int = 0
    packed_size: int = 0

    @property
    def key(self) -> str:
        """The key a store keeps it by."""
        return f"file:{self.length}:{self.digest}:{self.offset}:{self.tail.digest}"

    def encode(self) -> bytes:
        """Return what a store keeps."""
        return orjson.dumps({"v": _VERSION, **asdict(self), "tail": list(self.tail)})


class Positions:
    """The positions that earlier runs left in a store."""

    def __init__(self, stored: Mapping[str, bytes]) -> None:
        self._known: dict[tuple[int, str], dict[str, Position]] = {}  # by head, then by key
        self.change(stored)

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._known)

    def change(self, changes: Mapping[str, bytes | None]) -> None:
        """Take over changes of what is stored: None deletes a key."""
        for key, value in changes.items():
            if value is None:
                for alike in self._known.values():
                    alike.pop(key, None)
                continue
            fields = orjson.loads(value)
            if fields.pop("v", None) == _VERSION:  # what another version left is read again
                position = Position(**{**fields, "tail": Tail(*fields["tail"])})
                self._known.setdefault((position.length, position.digest), {})[key] = position

    def of_head(self, head: bytes) -> list[Position]:
        """Return the positions of all files that may be the one that begins with `head`, the furthest first."""
        lengths = {length for length, _ in self._known if length <= len(head)}
        heads = [(length, fingerprint(head[:length])) for length in lengths]
        found = [position for each in heads for position in self._known.get(each, {}).values()]
        return sorted(found, key=lambda each: (-each.offset, -each.length, each.key))


def at_begin(head: bytes, known: Position | None = None) -> Position:
    """Return the position of the file that begins with `head`: the known one under its present head, or its begin."""
    head = head[:HEAD_BYTES]
    if known is None:
        return Position(len(head), fingerprint(head))
    return replace(known, length=len(head), digest=fingerprint(head))
