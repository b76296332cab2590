"""Log files in, results in the order of their event times out.

The edge of the program: this package reads files, unpacks them and knows them again; the grammar makes each line a
result. `Inputs.batches` merges all inputs by time; in a tie the log that began earlier comes first, else the
fingerprints of their heads decide: the order of the arguments never matters. Inputs that do not overlap in time are
read one after the other, each opened when its turn comes; of those that do, a chunk each is in memory.
"""

from __future__ import annotations

from bisect import insort
from itertools import chain
from typing import TYPE_CHECKING

from mailspan.inputs.files import Input, ReadSettings, find_inputs
from mailspan.inputs.identity import Positions
from mailspan.inputs.limits import allow_open_files
from mailspan.inputs.reading import Reading, Result, Taken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

__all__ = ["Inputs", "ReadSettings", "Result", "Taken", "merge"]

_ALL_CHUNKS_BYTES = 8 << 20  # shared by the inputs that are read side by side
_LARGEST_CHUNK_BYTES = 1 << 18
_SMALLEST_CHUNK_BYTES = 1 << 13
_USUAL_OPEN_FILES = 64


class Inputs:
    """All files of one run; `batches` may be called once.

    `report` is told the name and the fault of each file that cannot be read (to its end); `faults` counts them.
    `note` is told what is no fault. `stored` are the positions that earlier runs got from `position_changes`.
    With `use_last_line` a line at the end of a plain file counts as whole without its newline; with `may_move` it is
    no fault when a file has another name by the time it is opened: the caller looks again.
    """

    def __init__(
        self,
        names: Iterable[str],
        settings: ReadSettings,
        *,
        report: Callable[[str, str], None],
        note: Callable[[str, str], None],
        stored: Mapping[str, bytes] | None = None,
        use_last_line: bool = True,
        may_move: bool = False,
    ) -> None:
        self.faults = 0
        self.moved = 0
        """How many files had other names when they were opened than when they were looked at."""
        self._may_move = may_move
        self._tell = report
        self._note = note
        self._use_last_line = use_last_line
        inputs = find_inputs(names, settings, Positions(stored or {}), self._report)
        self._waiting = sorted(inputs, key=_begin, reverse=True)
        self._active: list[Reading] = []  # by rank
        self._ended: list[Reading] = []  # whose positions were not asked for yet
        self._packed_bytes_ended = 0
        self.packed_bytes: int | None = None
        """The size of all files as they are on disk; None where a pipe is among them."""
        files = [file for each in inputs for file in each.files]
        if all(file.stream is None for file in files):
            self.packed_bytes = sum(file.size for file in files)
        if len(inputs) > _USUAL_OPEN_FILES:
            allow_open_files()

    @property
    def packed_bytes_done(self) -> int:
        """How much of `packed_bytes` was read."""
        return self._packed_bytes_ended + sum(each.packed_bytes_done for each in self._active)

    def batches(self) -> Iterator[Taken]:
        """Yield the results of all inputs in order, some thousands at a time. Blocks on pipes."""
        try:
            while self._active or self._waiting:
                self._fill()
                if self._is_alone():
                    yield self._active[0].take_all()
                    continue
                horizon = min(((each.last_second, each.rank) for each in self._active), default=None)
                if self._waiting and (horizon is None or _begin(self._waiting[-1]) <= horizon):
                    self._start(self._waiting.pop())
                elif horizon is not None:
                    parts = [part for each in self._active if (part := each.take_until(*horizon)).results]
                    yield parts[0] if len(parts) == 1 else merge(parts)
        finally:
            for each in self._active:
                each.close()

    def position_changes(self) -> dict[str, bytes | None]:
        """Return how far the files were read in the batches up to now, as changes since the last call.

        Stored together with what was made of these batches, they let the next run go on behind them.
        """
        changes: dict[str, bytes | None] = {}
        for each in (*self._ended, *self._active):
            changes.update(each.position_changes())
        self._ended.clear()
        return changes

    def _is_alone(self) -> bool:
        return len(self._active) == 1 and not self._waiting

    def _start(self, source: Input) -> None:
        reading = Reading(
            source,
            use_last_line=self._use_last_line,
            report=self._report,
            note=self._note,
            report_moved=self._report_moved,
        )
        insort(self._active, reading, key=lambda each: each.rank)

    def _fill(self) -> None:
        """Read on where all was taken; let go of inputs that have ended."""
        size = _ALL_CHUNKS_BYTES // max(1, len(self._active))
        size = min(_LARGEST_CHUNK_BYTES, max(_SMALLEST_CHUNK_BYTES, size))
        for each in [each for each in self._active if each.is_empty]:
            if each.fill(size):
                if not self._is_alone():
                    each.time()
            else:
                each.close()
                self._packed_bytes_ended += each.packed_bytes_done
                self._ended.append(each)
                self._active.remove(each)

    def _report(self, name: str, fault: str) -> None:
        self.faults += 1
        self._tell(name, fault)

    def _report_moved(self, name: str) -> None:
        self.moved += 1
        if not self._may_move:
            self._report(name, "was replaced while other files were read; run it again")


def _begin(source: Input) -> tuple[int, tuple[int, str]]:
    return source.first_second, source.rank


def merge(parts: Sequence[Taken]) -> Taken:
    """Merge parts that are each in order; those of one time stay in the order of the parts."""
    results = list(chain.from_iterable(each.results for each in parts))
    lines = list(chain.from_iterable(each.lines for each in parts))
    seconds = list(chain.from_iterable(each.seconds for each in parts))
    order = sorted(range(len(seconds)), key=seconds.__getitem__)
    return Taken([results[at] for at in order], [lines[at] for at in order], [seconds[at] for at in order])
