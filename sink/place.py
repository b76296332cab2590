"""Where a record is in its topic. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class Place(NamedTuple):
    """A record's partition and offset."""

    partition: int
    offset: int


def offsets_of(places: Iterable[Place]) -> dict[int, list[int]]:
    """Return the offsets by partition."""
    found: dict[int, list[int]] = {}
    for partition, offset in places:
        found.setdefault(partition, []).append(offset)
    return found
