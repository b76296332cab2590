"""What a line becomes: a `Record`, or the reason why there is none.

Pure data. A `Record` says when and where a line was logged and which event it means; `Ignored` and `Unparsed` are data
too, never exceptions, so that `lines in = applied + ignored{reason} + unparsed{program}` can always be counted.

The classes are slotted but not frozen, for speed (a frozen one costs three times as much to make, and one is made for
each line): by convention nothing changes a record after the grammar made it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mailspan.event import Event


@dataclass(slots=True)
class Stamp:
    """The event time of a line.

    `second` is the UTC epoch second, `millisecond` the part below it, `digits` how many digits of a fraction the log
    wrote (0 for RFC 3164: the finer stamp of two copies of one line wins), `guessed` whether the year is a guess by
    a reference such as the file's modification time.
    """

    second: int
    millisecond: int
    digits: int
    guessed: bool


@dataclass(slots=True)
class Record:
    """A parsed line of one mail server.

    `text` is the message from the queue ID on: with the event second it is what makes two lines the same line.
    `queue_id` is None for what is known by process or connection only.
    """

    stamp: Stamp
    host: str
    program: str
    pid: str
    mta: str
    queue_id: str | None
    text: str
    event: Event


@dataclass(slots=True)
class Ignored:
    """A line that is understood and says nothing of any transaction."""

    reason: str


@dataclass(slots=True)
class Unparsed:
    """A line that should have been understood and was not; kept and counted."""

    program: str
    reason: str
    queue_id: str | None = None
