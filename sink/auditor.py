"""Compares the topic of documents with the index of one day, and mends the index.

What is a difference is said in sink/audit.py. The order matters: first the offsets of the sink's group, then the topic,
then the index, then the rest of the topic. So whatever the sink wrote or deleted meanwhile is known when it is judged.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from sink.audit import DayAudit
from sink.bulk import Verdict
from sink.day_index import DayIndex
from sink.fragments import is_fragment
from sink.kafka_topic import Range
from sink.letters import Choice, Contents, letter_of
from sink.place import Place, offsets_of
from sink.records import read_document

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import date

    from sink.audit import Comparison
    from sink.elasticsearch import Server
    from sink.elasticsearch_writer import ElasticsearchWriter
    from sink.kafka_topic import TopicReader
    from sink.store import Document

_DOCUMENTS_AT_ONCE = 500
_BYTES_AT_ONCE = 5 << 20


class Mended(NamedTuple):
    """What was done: documents written, withdrawn ids deleted."""

    written: int
    withdrawn: int
    superseded: int
    """Not written: they are there by now, or the server remembers for a minute that they were deleted."""
    refused: Counter[str]
    """Those that the server will never take, by the reason."""


class Auditor:
    """One day's audit. All methods raise KafkaUseError, StoreError and NoAnswerError."""

    def __init__(
        self, documents: TopicReader, letters: Callable[[], TopicReader], server: Server, prefix: str, day: date
    ) -> None:
        """Nothing is asked yet. `letters` opens the topic of dead letters, where that is needed."""
        self._documents = documents
        self._letters = letters
        self._server = server
        self._prefix = prefix
        self._day = day
        self._audit = DayAudit(day)
        self._read_to: dict[int, int] = {}
        self._since: int | None = None
        self.index: str | None = None
        """The name of the index that was compared; None where there is none."""

    @property
    def since(self) -> str:
        """How far the topic goes back: the time where its last partition begins, or `begin` where nothing is gone."""
        if self._since is None:
            return "begin"
        return datetime.fromtimestamp(self._since / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def compare(self, writer: ElasticsearchWriter) -> Comparison:
        """Return how the index differs. To be called again, it reads what the topic has since then, and the index."""
        ranges = self._documents.ranges()
        committed = self._documents.committed(ranges)
        self._read_on(ranges)
        index = DayIndex(self._server, self._prefix, self._day)
        self.index = index.name
        self._audit.begin_index()
        for identity, version in index.versions():
            self._audit.add_indexed(identity, version)
        self._read_on(self._documents.ranges())
        found = self._audit.compare(committed)
        found = found.without(self._superfluous(found, writer), counted_as="superfluous")
        return found.without(self._buried(found), counted_as="dead_letters")

    def mend(self, found: Comparison, writer: ElasticsearchWriter) -> Mended:
        """Write what is missing or older, as the topic has it, and delete what was withdrawn."""
        became: Counter[Verdict] = Counter()
        refused: Counter[str] = Counter()
        for documents, encoded in self._batches([*found.missing.values(), *found.older.values()]):
            for outcome in writer.settle(documents, encoded):
                became[outcome.verdict] += 1
                if outcome.verdict is Verdict.REFUSED:
                    refused[outcome.reason] += 1
        writer.withdraw(found.withdrawn)
        return Mended(became[Verdict.INDEXED], len(found.withdrawn), became[Verdict.SUPERSEDED], refused)

    def _read_on(self, ranges: dict[int, Range]) -> None:
        """Read what each partition has from where it was read up to."""
        begun: dict[int, int] = {}
        rest = {
            number: Range(max(each.first, self._read_to.get(number, 0)), each.end) for number, each in ranges.items()
        }
        for record in self._documents.read(rest):
            begun.setdefault(record.partition, record.milliseconds)
            self._audit.add(record)
        if not self._read_to:
            self._since = max((begun[number] for number in begun if ranges[number].first > 0), default=None)
        self._read_to = {number: each.end for number, each in ranges.items()}

    def _superfluous(self, found: Comparison, writer: ElasticsearchWriter) -> set[str]:
        """Return the missing fragments that the writer would leave out."""
        places = [place for id_, place in found.missing.items() if is_fragment(id_)]
        return {id_ for documents, _ in self._batches(places) for id_ in writer.superfluous(documents)}

    def _buried(self, found: Comparison) -> set[str]:
        """Return the documents that are dead letters of the sink, in the very record that is meant."""
        if not found.missing and not found.older:
            return set()
        with self._letters() as reader:
            contents = Contents(reader.topic, Choice())
            sources: dict[Place, Place] = {}
            for record in reader.read(reader.ranges()):
                contents.add(record)
                letter = letter_of(record)
                source = letter.said.source
                if source is not None and source.topic == self._documents.topic:
                    sources[Place(source.partition, source.offset)] = letter.place
        return {
            id_
            for id_, place in {**found.missing, **found.older}.items()
            if place in sources and sources[place] not in contents.replayed
        }

    def _batches(self, places: Iterable[Place]) -> Iterator[tuple[list[Document], list[bytes]]]:
        """Yield the documents at these places, and their bytes, in portions."""
        encoded: list[bytes] = []
        size = 0
        for record in self._documents.at(offsets_of(places)):
            if record.value is None:
                continue
            encoded.append(record.value)
            size += len(record.value)
            if len(encoded) >= _DOCUMENTS_AT_ONCE or size >= _BYTES_AT_ONCE:
                yield [read_document(each) for each in encoded], encoded
                encoded, size = [], 0
        if encoded:
            yield [read_document(each) for each in encoded], encoded
