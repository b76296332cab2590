"""Log files in, results in the order of their event times out.

The edge of the program: this package reads files, decompresses them and knows them again; the grammar makes each line
a result. `Inputs.batches` merges all inputs by time, ties by the fingerprints of their heads, so the order of the
arguments never matters. Files that do not overlap in time are read one after the other, each opened when its turn
comes; of those that do, a chunk each is in memory.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from mailspan.inputs.files import Input, ReadSettings, find_inputs
from mailspan.inputs.identity import Positions
from mailspan.inputs.reading import Reading, Result, Taken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

__all__ = ["Inputs", "ReadSettings", "Result", "Taken"]

_ALL_CHUNKS_BYTES = 8 << 20  # shared by the inputs that are read side by side
_LARGEST_CHUNK_BYTES = 1 << 18
_SMALLEST_CHUNK_BYTES = 1 << 13


class Inputs:
    """All files of one run.

    `report` is told the name and the fault of each file that cannot be read (to its end); `faults` counts them.
    `note` is told what is no fault. `stored` are the positions that an earlier run got from `position_changes`.
    With `use_last_line` a line at the end of a plain file counts as whole without its newline.
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
    ) -> None:
        self.faults = 0
        self._tell = report
        self._note = note
        self._use_last_line = use_last_line
        inputs = find_inputs(names, settings, Positions(stored or {}), self._report)
        self._waiting = sorted(inputs, key=lambda each: (each.first_second, each.rank), reverse=True)
        self._active: list[Reading] = []
        self._touched: dict[str, tuple[Input, Reading]] = {}
        self.count = len(inputs)
        self.packed_bytes = sum(file.size for each in inputs for file in each.files)
        """The size of all files as they are on disk; pipes count nothing."""
        self._packed_bytes_left = 0
