"""One input while it is read: its lines as results, with the event time each of them has in the order of all inputs.

The files of an input are copies of one log, or the log at different times: each goes on behind the last line of the
one before, so nothing is read twice, and what one of them lacks or has damaged comes from the next. The last line of
all may lack its newline: it is used where nothing more can be written to it, or where the caller wants it anyhow.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from mailspan.inputs.files import ChangedError
from mailspan.inputs.identity import TAIL_BYTES, Tail, fingerprint
from mailspan.inputs.lines import LineReader
from mailspan.inputs.streams import DamagedError
from mailspan.record import Ignored, Record, Unparsed

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailspan.inputs.files import Candidate, Input
    from mailspan.inputs.identity import Position
    from mailspan.inputs.lines import Chunk
    from mailspan.inputs.streams import Stream

Result = Record | Ignored | Unparsed

_JUMP_SECONDS = 86400  # stamps further ahead count only when three seconds in a row agree, as in the assembler
_AGREEING_SECONDS = 3
_AGREEING_RESULTS = 1000


class Taken(NamedTuple):
    """Results that come next in the order of all inputs, their lines and their times in that order."""

    results: list[Result]
    lines: list[str]
    seconds: list[int]


class Reading:
    """Reads one input. `results` holds what was parsed; `take` hands it out."""

    def __init__(
        self,
        source: Input,
        *,
        use_last_line: bool,
        report: Callable[[str, str], None],
        note: Callable[[str, str], None],
        report_moved: Callable[[str], None],
    ) -> None:
        self.rank = source.rank
        self.results: list[Result] = []
        self.packed_bytes = 0
        self._source = source
        self._use_last_line = use_last_line
        self._report = report
        self._note = note
        parser = source.files[0].parser
        if source.position.second:
            parser.resume(source.position.second)
        self._parse = parser.parse
        self._report_moved = report_moved
        self._files = iter(source.files)
        self._file: Candidate | None = None
        self._stream: Stream | None = None
        self._reader: LineReader | None = None
        self._last_line: Chunk | None = None  # without a newline, of the files that were read to their end
        self._last_line_of: Candidate | None = None
        self._packed_size = 0  # of the compressed file that was read to its end last
        self._position = source.position
        self._saved = source.stored
        self._chunk: Chunk | None = None
        self._taken = 0
        self._seconds: list[int] = []
        self._clock = source.first_second

    @property
    def last_second(self) -> int:
        """The time of the last result that was read: nothing that follows is earlier."""
        return self._clock

    @property
    def is_empty(self) -> bool:
        """Whether all that was read is taken."""
        return self._taken == len(self.results)

    @property
    def packed_bytes_done(self) -> int:
        """How far into its files, as they are on disk, the input was read."""
        return self.packed_bytes + (0 if self._stream is None else self._stream.packed_bytes)

    def fill(self, size: int) -> bool:
        """Read and parse about `size` bytes more; to be called when all is taken. False at the end."""
        self._leave_chunk()
        chunk = self._next_chunk(size)
        if chunk is None:
            return False
        parse = self._parse
        self._chunk = chunk
        self._seconds = []
        self.results = [parse(line) for line in chunk.lines]
        return True

    def time(self) -> None:
        """Give the results their times; not needed for an input that is read alone."""
        clock = self._clock
        seconds = self._seconds
        append = seconds.append
        for at, result in enumerate(self.results):
            if type(result) is Record:
                second = result.stamp.second
                if second > clock and (second - clock <= _JUMP_SECONDS or not clock or self._agree(at, second)):
                    clock = second
            append(clock)
        self._clock = clock

    def _agree(self, at: int, second: int) -> bool:
        """Whether the results from `at` on agree with a time far ahead: the log paused, it is no absurd stamp."""
        latest, agreed = second, 1
        for result in self.results[at : at + _AGREEING_RESULTS]:
            if isinstance(result, Record):
                if abs(result.stamp.second - second) > _JUMP_SECONDS:
                    return False
                if result.stamp.second > latest:
                    latest = result.stamp.second
                    agreed += 1
                    if agreed == _AGREEING_SECONDS:
                        return True
        return False

    def take_all(self) -> Taken:
        """Hand out all that was read and not taken."""
        return self._take(len(self.results))

    def take_until(self, second: int, rank: tuple[int, str]) -> Taken:
        """Hand out what comes no later than `second`, of that second only if this input does not come after `rank`."""
        find = bisect_right if self.rank <= rank else bisect_left
        return self._take(find(self._seconds, second, self._taken))

    def position(self) -> Position:
        """Return the position behind the last result that was taken."""
        if self._chunk is None or not self._taken:
            return self._position
        second = next(
            (each.stamp.second for each in reversed(self.results[: self._taken]) if isinstance(each, Record)),
            self._position.second,
        )
        offset = self._chunk.offset_after(self._taken)
        tail = self._chunk.before(offset, TAIL_BYTES)
        return replace(self._position, offset=offset, tail=Tail(len(tail), fingerprint(tail)), second=second)

    def position_changes(self) -> dict[str, bytes | None]:
        """Return what is to be stored since the last call: the position, and that an older key of it is to go."""
        position, saved = self.position(), self._saved
        if self._source.is_pipe:
            return {}
        if position == saved or not position.offset:
            return {}
        self._saved = position
        changes: dict[str, bytes | None] = {}
        if saved is not None and saved.key != position.key:
            changes[saved.key] = None
        changes[position.key] = position.encode()
        return changes

    def close(self) -> None:
        """Close the file that is open."""
        if self._stream is not None:
            self.packed_bytes += self._stream.packed_bytes
            self._stream.close()
        self._stream = self._reader = None

    def _take(self, until: int) -> Taken:
        start, self._taken = self._taken, until
        if self._chunk is None or until == start:
            return Taken([], [], [])
        if until - start == len(self.results):
            return Taken(self.results, self._chunk.lines, self._seconds)
        return Taken(self.results[start:until], self._chunk.lines[start:until], self._seconds[start:until])

    def _leave_chunk(self) -> None:
        self._position = self.position()
        self._chunk = None
        self._taken = 0
        self.results = []

    def _next_chunk(self, size: int) -> Chunk | None:
        """Return the next lines of the input's files; a file that has no more is left for the next one."""
        while self._reader is not None or self._open_next():
            if self._reader is None:
                continue
            chunk = self._reader.read(size)
            if chunk is not None:
                self._last_line = None
                return chunk
            self._end_of_file(self._reader)
        chunk = self._end_of_input()
        if chunk is None and self._packed_size:
            # Only now: were it stored before the last line was used, that line would be left for ever.
            self._position = replace(self._position, packed_size=self._packed_size)
        return chunk

    def _end_of_file(self, reader: LineReader) -> None:
        """Close a file that was read to its end; remember its last line if that has no newline."""
        file, self._reader = self._file, None
        is_compressed = self._stream is not None and self._stream.is_compressed
        self.close()
        if file is None:
            return
        if reader.damage is not None:
            self._report(file.name, f"{reader.damage}; the lines before that are used")
            return
        if is_compressed:
            self._packed_size = file.size
        chunk = reader.last_line()
        if chunk is not None and (self._last_line is None or chunk.end > self._last_line.end):
            self._last_line, self._last_line_of = chunk, file

    def _end_of_input(self) -> Chunk | None:
        """Return the last line without a newline, once, if it may be used."""
        chunk, file = self._last_line, self._last_line_of
        self._last_line = None
        if chunk is None or file is None or self._use_last_line or file.is_ended:
            return chunk
        self._note(file.name, "its last line has no newline yet; it is left for the next run")
        return None

    def _open_next(self) -> bool:
        """Open the next file behind what was read; False where there is none. Files that hold no more are left out."""
        self._file = file = next(self._files, None)
        if file is None:
            return False
        offset = self._position.offset
        length = file.content.known_length
        if file.stream is None and length is not None and length <= offset:
            self.packed_bytes += file.size
            if file.content.damage is not None:
                self._report(file.name, f"{file.content.damage}; the lines before that are known already")
            elif file.is_compressed:
                self._packed_size = file.size
            return True
        try:
            self._stream, head = file.open()
            self._stream.skip(max(0, offset - len(head)))
        except (ChangedError, FileNotFoundError):
            self._report_moved(file.name)
        except DamagedError as error:
            self._report(file.name, str(error))
        except OSError as error:
            self._report(file.name, f"cannot be read: {error.strerror or error}")
        else:
            self._reader = LineReader(self._stream, offset, head[offset:])
        return True
