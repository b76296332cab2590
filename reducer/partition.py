"""One partition of mail.raw as a reducer sees it: records in, documents and state out. Pure: no Kafka, no clock.

It reads each line with the parser of its source, drops what it has read before (by the watermark of the line's
generation), and has an assembler of its own: one host's lines are all in one partition. What must be stored with the
documents of a commit is `Output.state`; `restore` takes it over. Offsets are kept with it, so that a partition goes on
from its own state and never from what the consumer group says.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from mailspan.event_time import TimeSettings
from mailspan.grammar import Parser
from mailspan.partition import partition_of
from mailspan.record import Ignored, Record
from reducer.assembler import Assembler
from reducer.snapshot import SnapshotError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import tzinfo

    from mailspan.canary import Canary
    from mailspan.document import Document
    from mailspan.wire import Reading
    from reducer.assembler import Sizes

META = "meta"
"""The key of the record that says how far the state goes."""

_MAX_PARSERS = 4096
_MAX_HEARD = 10_000
_SILENT_SECONDS, _DAY_SECONDS = 3600, 86400
_MAX_WATERMARKS = 65536
_WATERMARK_SECONDS = 14 * 86400  # twice the raw topic's retention: older lines cannot come again


class Watermark(msgspec.Struct, array_like=True):
    """The last line of a generation that was applied: its offset in the file, and when it was read."""

    offset: int
    read: int


class Meta(msgspec.Struct):
    """How far a partition's state goes: the offset of the next record of mail.raw, and the watermarks.

    `topic_id` is that of the mail.raw that the offset is of; empty where no broker told it.
    """

    offset: int
    watermarks: dict[str, Watermark]
    schema: int = 1
    topic_id: str = ""


@dataclass(frozen=True, slots=True)
class Options:
    """How a reducer reads lines. `find_zone` gives the zone that a name means, None where there is none."""

    find_zone: Callable[[str], tzinfo | None]
    zone: tzinfo | None = None
    host_zones: tuple[tuple[str, tzinfo], ...] = ()
    host_aliases: Mapping[str, str] = field(default_factory=dict)
    rejections: bool = True


@dataclass(slots=True)
class Counts:
    """lines in = applied + ignored{reason} + unparsed{program, reason}."""

    lines: int = 0
    bytes: int = 0
    applied: int = 0
    ignored: Counter[str] = field(default_factory=Counter)
    unparsed: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Program and reason; the program is as the log names it."""
    misplaced: int = 0
    """Records whose host belongs to another partition."""
    read: Counter[int] = field(default_factory=Counter)
    """Lines by when they were read at their source, in epoch seconds."""
    last_read: int = 0
    """That of the last one."""
    canaries: list[Canary] = field(default_factory=list)
    """Those that passed, which are no lines."""


@dataclass(frozen=True, slots=True)
class Output:
    """What one commit writes of a partition; None deletes a key. `offset` is that of the next record to read.

    `read` is the epoch second at which the oldest line since the commit before was read at its source, where there is
    none the last line before; 0 where that is not known. Documents that waited for this commit may be 5 s older.
    """

    documents: list[Document]
    withdrawn: list[str]
    state: dict[str, bytes | None]
    offset: int
    read: int = 0
    canaries: tuple[Canary, ...] = ()
    """To be passed on."""


class Placement:
    """Which of a partition's hosts belong to another one; nobody knows where there is no number of partitions."""

    def __init__(self, number: int = 0, partitions: int = 0) -> None:
        self.number = number
        self.partitions = partitions
        self.strangers: set[str] = set()

    def meet(self, host: str) -> None:
        """Look at a host that is new here; lines that name none may be anywhere."""
        if self.partitions and host:
            place = partition_of(host.encode("utf-8", "surrogateescape"), self.partitions)
            if place != self.number:
                self.strangers.add(host)


class Partition:
    """The parsers, watermarks and transactions of one partition: `number` of `partitions`, where that is known."""

    def __init__(self, options: Options, number: int = 0, partitions: int = 0) -> None:
        self.offset = 0
        """The offset of the next record to apply."""
        self.topic_id = ""
        """Of which mail.raw that is; see Meta."""
        self.counts = Counts()
        """What was counted since `take_counts`; `read` and `last_read` are up to date only then, and after `output`."""
        self._noted = 0
        self._reading: Reading | None = None  # that of the last line
        self._options = options
        placement = Placement(number, partitions)
        self._strangers = placement.strangers
        self._assembler = Assembler(incremental=True, rejections=options.rejections, meet=placement.meet)
        self._parsers: dict[str, Parser] = {}
        self._parser: Parser | None = None  # that of `_reading`
        self._watermarks: dict[str, Watermark] = {}
        self._newest_read = 0
        self._heard: dict[str, int] = {}  # by host, when its last line was read at its source
        self._heard_host: str | None = None  # that of the last line of `_reading`

    def restore(self, state: Mapping[str, bytes]) -> None:
        """Take over the stored state. Raises SnapshotError where it cannot be read."""
        raw = state.get(META)
        if raw is not None:
            try:
                meta = msgspec.msgpack.decode(raw, type=Meta)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise SnapshotError(f"the record of a partition's offsets cannot be read: {error}") from error
            self.offset, self.topic_id, self._watermarks = meta.offset, meta.topic_id, meta.watermarks
            self._newest_read = max((each.read for each in meta.watermarks.values()), default=0)
        try:
            self._assembler.restore(state)
        except SnapshotError:
            raise
        except ValueError as error:
            raise SnapshotError(f"a host's clock cannot be read: {error}") from error

    def apply(self, value: bytes, offset: int, line_offset: int, reading: Reading) -> None:
        """Apply one record of mail.raw, at `offset`; `line_offset` and `reading` are of its header.

        A record of another shipper has an empty generation: it is told from a copy by its text only.
        """
        self.offset = offset + 1
        counts = self.counts
        parser = self._parser
        if reading is not self._reading or parser is None:
            parser = self._begin_reading(reading)
        counts.lines += 1
        counts.bytes += len(value)
        generation = reading.generation
        if generation:
            known = self._watermarks.get(generation)
            if known is None:
                self._watermarks[generation] = Watermark(line_offset, reading.read)
            elif line_offset <= known.offset:
                counts.ignored["read before"] += 1
                return
            else:
                known.offset, known.read = line_offset, reading.read
            self._newest_read = max(self._newest_read, reading.read)
        result = parser.parse(_decode(value))
        if isinstance(result, Record):
            reason = self._assembler.apply(result)
            host = result.source.host
            if host != self._heard_host:
                self._hear(host, reading.read)
            if self._strangers and host in self._strangers:
                counts.misplaced += 1
            if reason is None:
                counts.applied += 1
            else:
                counts.ignored[reason] += 1
        elif isinstance(result, Ignored):
            counts.ignored[result.reason] += 1
        else:
            counts.unparsed[result.program, result.reason] += 1

    def pass_on(self, canary: Canary, offset: int) -> None:
        """Take a record of mail.raw that is a canary: nothing is kept of it but that it was read."""
        self.offset = offset + 1
        self.counts.canaries.append(canary)

    def _begin_reading(self, reading: Reading) -> Parser:
        """Return what parses the lines that come with this reading: thousands in a row share one."""
        self._note_read(reading)
        parser = self._parser = self._parser_of(reading)
        parser.refer_to(reading.reference)
        self._heard_host = None
        return parser

    def _hear(self, host: str, read: int) -> None:
        self._heard_host = host
        if host in self._heard or len(self._heard) < _MAX_HEARD:
            self._heard[host] = read

    def take_counts(self) -> Counts:
        """Return what was counted since the last call, and begin anew."""
        taken = self.counts
        self._note_read(self._reading)
        self.counts, self._noted = Counts(last_read=taken.last_read), 0
        return taken

    def _note_read(self, next_reading: Reading | None) -> None:
        """Count the lines since the last call under the second at which they were read; the next ones have another."""
        counts = self.counts
        if self._reading is not None and counts.lines > self._noted:
            counts.last_read = self._reading.read
            counts.read[counts.last_read] += counts.lines - self._noted
        self._reading, self._noted = next_reading, counts.lines

    def silent_hosts(self, now: float) -> int:
        """Return how many hosts wrote in the day before `now` and have been silent for an hour; forget older ones.

        Of what this process has read itself: nothing of it is stored.
        """
        for host in [host for host, read in self._heard.items() if read <= now - _DAY_SECONDS]:
            del self._heard[host]
        return sum(read <= now - _SILENT_SECONDS for read in self._heard.values())

    @property
    def sizes(self) -> Sizes:
        """How much is kept in memory."""
        return self._assembler.sizes

    def output(self, *, urgent_only: bool) -> Output:
        """Return what is to be written now, in one transaction. To be called once for each commit."""
        changes = self._assembler.changed(urgent_only=urgent_only)
        state = self._assembler.snapshot_changes()
        self._forget_watermarks()
        state[META] = msgspec.msgpack.encode(Meta(self.offset, self._watermarks, topic_id=self.topic_id))
        self._note_read(self._reading)
        read = min(self.counts.read, default=self.counts.last_read)
        return Output(changes.documents, changes.withdrawn, state, self.offset, read, tuple(self.counts.canaries))

    def _parser_of(self, reading: Reading) -> Parser:
        key = f"{reading.generation}\0{reading.host}\0{reading.zone}"
        parser = self._parsers.get(key)
        if parser is None:
            options = self._options
            zone = options.find_zone(reading.zone) if reading.zone else options.zone
            settings = TimeSettings(reading.reference, zone=zone, host_zones=options.host_zones, is_live=True)
            parser = Parser(settings, reading.host, dict(options.host_aliases))
            if len(self._parsers) >= _MAX_PARSERS:
                del self._parsers[next(iter(self._parsers))]
            self._parsers[key] = parser
        return parser

    def _forget_watermarks(self) -> None:
        oldest = self._newest_read - _WATERMARK_SECONDS
        for generation in [name for name, mark in self._watermarks.items() if mark.read < oldest]:
            del self._watermarks[generation]
        if len(self._watermarks) > _MAX_WATERMARKS:
            by_age = sorted(self._watermarks, key=lambda name: self._watermarks[name].read)
            for generation in by_age[: len(by_age) - _MAX_WATERMARKS]:
                del self._watermarks[generation]


def _decode(value: bytes) -> str:
    r"""Return a line as text, as the reader of files does: what is no UTF-8 as `\xNN`, no NUL or CR at its ends."""
    text = value.decode("utf-8", "backslashreplace")
    return text.lstrip("\0").rstrip("\r\0")
