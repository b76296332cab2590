"""Which hosts' clocks or zones are wrong: their birth lines' stamps differ from the UTC times in their queue IDs.

Pure, over documents with the note `clock skew`. It finds the likely zone and says so once per host; it corrects
nothing, for a stamp with a zone of its own, or a host whose clock is simply off, looks the same.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any

from mailspan.queue_id import TIME_OF

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOTE = "clock skew"

_MOST_HOSTS = 100  # names in a log are hostile
_QUARTER = 900  # zones differ by quarters of an hour
_DELAY_SECONDS = 300  # between the ID and the birth line
_WIDEST_SECONDS = 14 * 3600


class ClockSkews:
    """Collects what differs, by host."""

    def __init__(self) -> None:
        self._examples: dict[str, dict[int, tuple[str, int, int]]] = {}  # by host, by the difference in quarters
        self._counts: dict[str, Counter[int]] = {}

    def add(self, document: dict[str, Any]) -> None:
        """Add a document; one without the note changes nothing."""
        host = document["host"]
        if NOTE not in document["notes"] or (host not in self._counts and len(self._counts) >= _MOST_HOSTS):
            return
        known = TIME_OF[document["mta"]](document["queue_id"])
        if known is None:
            return
        second = int(datetime.fromisoformat(document["date"]).timestamp())
        quarters = round((second - known) / _QUARTER)
        self._counts.setdefault(host, Counter())[quarters] += 1
        self._examples.setdefault(host, {}).setdefault(quarters, (document["queue_id"], known, second))

    def reports(self, zone_of: Callable[[str], tzinfo | None]) -> Iterator[tuple[str, str]]:
        """Yield each host and a sentence on it. `zone_of` tells the zone that its stamps were read with."""
        for host, counts in sorted(self._counts.items()):
            quarters = counts.most_common(1)[0][0]
            queue_id, known, second = self._examples[host][quarters]
            made = datetime.fromtimestamp(known, UTC)
            ahead = second - known
            said = f"queue ID {queue_id} was made at {made:%Y-%m-%dT%H:%M:%SZ}, its line is stamped {_span(ahead)}"
            offset = _offset(second, zone_of(host)) + quarters * _QUARTER
            if quarters and abs(ahead - quarters * _QUARTER) <= _DELAY_SECONDS and abs(offset) <= _WIDEST_SECONDS:
                zone = f"{'-' if offset < 0 else '+'}{abs(offset) // 3600:02d}:{abs(offset) // 60 % 60:02d}"
                yield host, f"{said}: the host's zone is likely UTC{zone}; if so, read it with --zone {host}={zone}"
            else:
                yield host, f"{said}: the host's clock was likely wrong"


def _offset(second: int, zone: tzinfo | None) -> int:
    """Return how far east of UTC the zone was then, in seconds."""
    offset = datetime.fromtimestamp(second, UTC).astimezone(zone).utcoffset()
    return 0 if offset is None else int(offset.total_seconds())


def _span(seconds: int) -> str:
    return f"{timedelta(seconds=abs(seconds))} {'earlier' if seconds < 0 else 'later'}"
