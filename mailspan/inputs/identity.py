"""How a file is known again: by the fingerprint of its uncompressed head, whatever its name or packing.

The fingerprint grows with the file: it is the digest of the first HEAD_BYTES, of fewer as long as there are fewer, and
its length is kept with it. So a small file that grew is still itself, two files that begin alike are told apart as
soon as they differ, and mail.log is found again in mail.log.1.gz. What comes through a pipe is kept apart from files:
`cat a b` begins like `a`, but is more than that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping

HEAD_BYTES = 4096
_VERSION = 1


def fingerprint(head: bytes) -> str:
    """Return the digest of a head."""
    return blake2b(head, digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Position:
    """How far a file was read.

    `length` and `digest` are its fingerprint; `offset` is behind the last line that was used; `second` is the event
    time of the last record before it (0: none yet); `packed_size` is the size of the compressed file that was read to
    its end (0: none was): it need not be opened again.
    """

    length: int
    digest: str
    offset: int = 0
    second: int = 0
    packed_size: int = 0
    is_pipe: bool = False

    @property
    def key(self) -> str:
        """The key a store keeps it by."""
        return f"{'pipe' if self.is_pipe else 'file'}:{self.length}:{self.digest}"

    def encode(self) -> bytes:
        """Return what a store keeps."""
        return orjson.dumps(
            {"v": _VERSION, "offset": self.offset, "second": self.second, "packed_size": self.packed_size}
        )


class Positions:
    """The positions that earlier runs left in a store."""

    def __init__(self, stored: Mapping[str, bytes]) -> None:
        self._known: dict[str, Position] = {}
        self._lengths: set[int] = set()
        for key, value in stored.items():
            kind, _, rest = key.partition(":")
            length, _, digest = rest.partition(":")
            fields = orjson.loads(value)
            position = Position(
                int(length), digest, fields["offset"], fields["second"], fields["packed_size"], kind == "pipe"
            )
            self._known[key] = position
            self._lengths.add(position.length)

    def find(self, head: bytes, *, is_pipe: bool) -> tuple[Position, Position | None]:
        """Return the position of the file that begins with `head`, and the stored one that it takes the place of."""
        head = head[:HEAD_BYTES]
        new = Position(len(head), fingerprint(head), is_pipe=is_pipe)
        for length in sorted(self._lengths, reverse=True):
            if length <= len(head):
                old = self._known.get(Position(length, fingerprint(head[:length]), is_pipe=is_pipe).key)
                if old is not None:
                    return replace(old, length=new.length, digest=new.digest), old
        return new, None
