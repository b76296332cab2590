"""How snapshots are laid out as records of mail.open-transactions. Pure.

The value's first byte says how many further records it goes on in (0 for nearly all): their keys are `part:`, a number,
and the first one's. A snapshot may be larger than a record: the recipients of a large mailing list are in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailspan.errors import MailspanError
from reducer.snapshot import SnapshotError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PART_BYTES = 1 << 20
_PART = "part:"
_MOST_PARTS = 255


class TooLargeError(MailspanError):
    """A snapshot is larger than its records can be; the reducer cannot go on."""


def split_state(name: str, value: bytes | None, parts: dict[str, int]) -> Iterator[tuple[str, bytes | None]]:
    """Yield the records of one key; `parts` has, and gets, how many further records it had before.

    Raises TooLargeError for a snapshot of more than 256 MiB; `parts` is then void.
    """
    before = parts.pop(name, 0)
    after = 0
    if value is None:
        yield name, None
    else:
        after = (max(0, len(value) - 1)) // PART_BYTES
        if after > _MOST_PARTS:
            raise TooLargeError(
                f"the state of {name} has {len(value)} bytes, and {(_MOST_PARTS + 1) * PART_BYTES} can be"
                " stored; see that host's log for what one queue ID has so many lines of"
            )
        yield name, bytes((after,)) + value[:PART_BYTES]
        for number in range(1, after + 1):
            yield _part_key(name, number), value[number * PART_BYTES : (number + 1) * PART_BYTES]
        if after:
            parts[name] = after
    for number in range(after + 1, before + 1):
        yield _part_key(name, number), None


def _part_key(name: str, number: int) -> str:
    return f"{_PART}{number}:{name}"


class StoredState:
    """The records of a partition's state as they are read, each key's newest; `joined` is the snapshots that they make.

    Only snapshots of several records are copied for that: a partition may have hundreds of thousands of others.
    """

    def __init__(self, records: Iterable[tuple[str, bytes | None]] = ()) -> None:
        self._first: dict[str, bytes] = {}
        self._counts: dict[str, int] = {}
        self._further: dict[str, bytes] = {}
        for key, value in records:
            self.take(key, value)

    def take(self, key: str, value: bytes | None) -> None:
        """Take the next record; None deletes its key."""
        if key.startswith(_PART):
            if value is None:
                self._further.pop(key, None)
            else:
                self._further[key] = value
            return
        if value is None:
            self._first.pop(key, None)
        else:
            self._first[key] = value[1:]
        if value and value[0]:
            self._counts[key] = value[0]
        elif self._counts:
            self._counts.pop(key, None)

    def joined(self) -> tuple[dict[str, bytes], dict[str, int]]:
        """Return the snapshots by key, and how many further records each has that has any. To be called once.

        Raises SnapshotError where one of those is missing.
        """
        for key, count in self._counts.items():
            further = [self._further.get(_part_key(key, number)) for number in range(1, count + 1)]
            found = [part for part in further if part is not None]
            if len(found) < count:
                raise SnapshotError(f"{count - len(found)} of the {count} further records of a snapshot are missing")
            self._first[key] = b"".join((self._first[key], *found))
        return self._first, self._counts
