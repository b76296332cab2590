"""Replays dead letters: each goes back to where it came from, and then a mark says so.

A mark is written only after all brokers have the record: a replay that ends half-way is repeated, and what is replayed
twice does no harm (docs/dead-letters.md).
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING
from uuid import uuid4

from mailspan.dead_letter import Source, mark_of
from mailspan.topics import RAW, TRANSACTIONS, topic_name
from sink.kafka_topic import Outgoing, Range, TopicReader
from sink.letters import WITHDRAWN, Withdrawals, headers_to_replay, letter_of, why_not
from sink.place import offsets_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sink.kafka_topic import TopicWriter
    from sink.letters import Letter
    from sink.place import Place

_MARKS_AT_ONCE = 500


class Replay:
    """One replay; `replayed` counts letters by topic, `left` those that were not, by the reason."""

    def __init__(
        self, config: Mapping[str, str], prefix: str, group: str, letters: TopicReader, writer: TopicWriter
    ) -> None:
        """Nothing is asked yet."""
        self._config = config
        self._group = group
        self._letters = letters
        self._writer = writer
        self._documents = topic_name(prefix, TRANSACTIONS)
        self._topics = (topic_name(prefix, RAW), self._documents)
        self._generation = f"replay-{uuid4().hex}"
        self._partitions: dict[str, dict[int, Range]] = {}
        self._acknowledged: list[Place] = []
        self.replayed: Counter[str] = Counter()
        self.left: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        """Those that a broker did not take, by its reason."""

    def run(self, places: Iterable[Place]) -> None:
        """Replay the letters at these places, in their order. Raises KafkaUseError."""
        offsets = offsets_of(places)
        withdrawn = self._withdrawn(offsets)
        for number, record in enumerate(self._letters.at(offsets)):
            letter = letter_of(record)
            reason = WITHDRAWN if letter.place in withdrawn else self._why_not(letter)
            if reason is not None:
                self.left[reason] += 1
                continue
            self._send(letter, number)
            if len(self._acknowledged) >= _MARKS_AT_ONCE:
                self._mark()
        self._writer.flush()
        self._mark()
        self._writer.flush()

    def _withdrawn(self, offsets: Mapping[int, list[int]]) -> set[Place]:
        """Return the letters about documents that were withdrawn since: the topic has it, as far back as it goes."""
        about = [
            letter._replace(value=None)
            for letter in map(letter_of, self._letters.at(offsets))
            if letter.said.source is not None and letter.said.source.topic == self._documents
        ]
        if not about:
            return set()
        found = Withdrawals(about)
        first: dict[int, int] = {}
        for source in (letter.said.source for letter in about):
            if source is not None:
                first[source.partition] = min(source.offset, first.get(source.partition, source.offset))
        with TopicReader(self._config, self._documents, self._group) as reader:
            there = reader.ranges()
            self._partitions[self._documents] = there
            ranges = {
                number: Range(max(offset, there[number].first), there[number].end)
                for number, offset in first.items()
                if number in there
            }
            for record in reader.read(ranges):
                found.add(record)
        return found.places

    def _why_not(self, letter: Letter) -> str | None:
        source = letter.said.source
        if source is not None and source.topic in self._topics and source.topic not in self._partitions:
            with TopicReader(self._config, source.topic, self._group) as reader:
                self._partitions[source.topic] = reader.ranges()
        return why_not(letter, self._partitions)

    def _send(self, letter: Letter, number: int) -> None:
        source = letter.said.source
        if source is None:
            raise ValueError(letter.place)  # `why_not` says so before
        headers = headers_to_replay(letter, self._generation, number)
        record = Outgoing(source.topic, source.partition, letter.key, letter.value, headers)
        self._writer.send(record, partial(self._told, letter.place, source.topic))

    def _told(self, place: Place, topic: str, reason: str | None) -> None:
        if reason is None:
            self.replayed[topic] += 1
            self._acknowledged.append(place)
        else:
            self.refused[reason] += 1

    def _mark(self) -> None:
        places, self._acknowledged = self._acknowledged, []
        for partition, offset in places:
            headers = mark_of(Source(self._letters.topic, partition, offset))
            self._writer.send(Outgoing(self._letters.topic, partition, None, None, headers), self._told_of_mark)

    def _told_of_mark(self, reason: str | None) -> None:
        if reason is not None:
            self.refused[f"the mark of a replayed letter: {reason}"] += 1
