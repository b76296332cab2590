"""Dead letters, for who looks at them: which there are, which are meant, what becomes of a replayed one. Pure.

A letter is replayed into the partition it came from, with the key, value and headers of its record. A raw line gets
another place in its header: it counts as read before where it stood, although it was never applied. That a letter was
replayed is said by a mark in the same topic (mailspan/dead_letter.py), so that it is neither listed nor replayed again
unless somebody asks for it.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from mailspan.dead_letter import REPLAY, DeadLetter, read_headers
from mailspan.wire import HEADER_NAME, placed_anew
from sink.fragments import mail_of
from sink.place import Place

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
    from datetime import tzinfo

    from mailspan.dead_letter import Headers
    from sink.kafka_topic import TopicRecord

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MS = 253_402_300_799_999  # of the year 9999

WITHDRAWN = "their documents were withdrawn since"


class Letter(NamedTuple):
    """One letter, and what it says."""

    place: Place
    milliseconds: int
    """When it was written, since 1970 UTC."""
    key: bytes | None
    value: bytes | None
    said: DeadLetter


def letter_of(record: TopicRecord) -> Letter:
    """Return the letter that a record is."""
    place = Place(record.partition, record.offset)
    return Letter(place, record.milliseconds, record.key, record.value, read_headers(record.headers))


@dataclass(frozen=True, slots=True)
class Choice:
    """Which letters are meant: all that are as each given part says."""

    places: frozenset[Place] = frozenset()
    stage: str = ""
    reason: str = ""
    """Part of the reason, in any case."""

    def has(self, letter: Letter) -> bool:
        """Whether a letter is meant."""
        return (
            (not self.places or letter.place in self.places)
            and (not self.stage or letter.said.stage == self.stage)
            and (not self.reason or self.reason.casefold() in letter.said.reason.casefold())
        )


class Entry(NamedTuple):
    """What is kept of each letter until it is read again; sorted, they are in the order of time."""

    milliseconds: int
    place: Place
    size: int


class Contents:
    """What a topic of dead letters holds, told record by record."""

    def __init__(self, topic: str, choice: Choice) -> None:
        """Keep what `choice` means."""
        self._topic = topic
        self._choice = choice
        self._entries: list[Entry] = []
        self.replayed: set[Place] = set()
        """The letters that a mark says were replayed, whichever they are."""

    def add(self, record: TopicRecord) -> None:
        """Take the next record."""
        letter = letter_of(record)
        source = letter.said.source
        if letter.said.stage == REPLAY and source is not None and source.topic == self._topic:
            self.replayed.add(Place(source.partition, source.offset))
        elif self._choice.has(letter):
            size = len(record.key or b"") + len(record.value or b"")
            self._entries.append(Entry(record.milliseconds, letter.place, size))

    def entries(self, *, with_replayed: bool) -> list[Entry]:
        """Return the letters that are meant, oldest first."""
        return sorted(each for each in self._entries if with_replayed or each.place not in self.replayed)


def portions(entries: Sequence[Entry], most_bytes: int) -> Iterator[Sequence[Entry]]:
    """Yield the entries in groups of at most so many bytes; one letter may be larger than that."""
    start = size = 0
    for at, entry in enumerate(entries):
        if at > start and size + entry.size > most_bytes:
            yield entries[start:at]
            start, size = at, 0
        size += entry.size
    if start < len(entries):
        yield entries[start:]


def why_not(letter: Letter, partitions: Mapping[str, Container[int]]) -> str | None:
    """Return why a letter cannot be replayed, for several; None where it can be.

    `partitions` has the topics that letters come from, each with its partitions.
    """
    source = letter.said.source
    if source is None:
        return "they have no source: nobody's record is whole in them"
    if source.topic not in partitions:
        return "they are of a topic that no letters come from"
    if source.partition not in partitions[source.topic]:
        return "they are of a partition that is not there"
    return None


def headers_to_replay(letter: Letter, generation: str, number: int) -> Headers:
    """Return the headers of a replayed record: those it had, but a raw line stands elsewhere now.

    `generation` is that of one replay, and `number` rises in it: lines are told apart by both, as those of a file.
    """
    return tuple(
        (name, placed_anew(value, generation, number) if name == HEADER_NAME else value)
        for name, value in letter.said.headers
    )


class Withdrawals:
    """Which of some documents were withdrawn after the letters about them: those must not come back."""

    def __init__(self, letters: Iterable[Letter]) -> None:
        """Look out for the documents of these letters."""
        self._asked: dict[bytes, list[Letter]] = {}
        for letter in letters:
            key = letter.key or b""
            for name in {key, mail_of(key.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")}:
                self._asked.setdefault(name, []).append(letter)
        self.places: set[Place] = set()

    def add(self, record: TopicRecord) -> None:
        """Take the next record of the documents' topic."""
        for letter in self._asked.get(record.key or b"", ()):
            source = letter.said.source
            if source is None or (record.partition, record.offset) <= (source.partition, source.offset):
                continue
            if record.partition == source.partition:
                if not record.value:
                    self.places.add(letter.place)
                elif record.key == letter.key:
                    self.places.discard(letter.place)


def shown_time(milliseconds: int, zone: tzinfo | None) -> str:
    """Return a time as lists have it, in the reader's zone; None is the machine's."""
    return _instant(milliseconds).astimezone(zone).strftime("%Y-%m-%d %H:%M:%S")


def line_of(letter: Letter, zone: tzinfo | None, *, is_replayed: bool) -> str:
    """Return one line about a letter. What is in it is as hostile as the record: sanitise it."""
    said, source = letter.said, letter.said.source
    place = "-" if source is None else f"{source.topic} {source.partition}:{source.offset}"
    key = (letter.key or b"").decode("utf-8", "backslashreplace")
    size = "no value" if letter.value is None else f"{len(letter.value)} bytes"
    parts = (
        shown_time(letter.milliseconds, zone),
        f"{letter.place.partition}:{letter.place.offset}",
        said.stage or "-",
        place,
        key or "-",
        size + (", replayed" if is_replayed else ""),
        said.reason or "-",
    )
    return "  ".join(parts)


def json_of(letter: Letter, *, is_replayed: bool) -> dict[str, Any]:
    """Return a letter as a JSON object: text where it is UTF-8, else base64 under a name that says so."""
    said, source = letter.said, letter.said.source
    return {
        "date": _instant(letter.milliseconds).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "partition": letter.place.partition,
        "offset": letter.place.offset,
        "stage": said.stage,
        "reason": said.reason,
        "source": None if source is None else source._asdict(),
        "replayed": is_replayed,
        **_told("key", letter.key),
        **_told("value", letter.value),
        "headers": [{"name": name, **_told("value", value)} for name, value in said.headers],
    }


def _told(name: str, raw: bytes | None) -> dict[str, str | None]:
    try:
        return {name: None if raw is None else raw.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(raw or b"").decode("ascii")}


def _instant(milliseconds: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=max(0, min(milliseconds, _LAST_MS)))
