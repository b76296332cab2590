"""What a line becomes: a `Record`, or the reason why there is none.

Pure data. A `Record` says when and where a line was logged and which event it means; `Ignored` and `Unparsed` are data
too, never exceptions, so that `lines in = applied + ignored{reason} + unparsed{program}` can always be counted.

One record is made for each line: hence msgspec's structs (docs/adr/0005), which are made in a third of the time that a
slotted dataclass takes. By convention nothing changes a record after the grammar made it.
"""

from __future__ import annotations

from msgspec import Struct

from mailspan.event import Event


class Stamp(Struct, gc=False, array_like=True):
    """The event time of a line.

    `second` is the UTC epoch second, `millisecond` the part below it, `digits` how many digits of a fraction the log
    wrote (0 for RFC 3164: the finer stamp of two copies of one line wins), `guessed` whether the year is a guess by
    a reference such as the file's modification time.
    """

    second: int
    millisecond: int
    digits: int
    guessed: bool


class Source(Struct, gc=False):
    """Who logged a line. `program` is the whole syslog name, `process` is `program[pid]`."""

    host: str
    program: str
    pid: str
    mta: str
    process: str


class Record(Struct, gc=False):
    """A parsed line of one mail server.

    `text` is what stands behind the queue ID, or the whole message of a line without one: with the event second it is
    what makes two lines of one queue ID the same line. `queue_id` is None for what is known by process or session
    only. `session` is the MTA's own name of the session, None where the process is the session.
    """

    stamp: Stamp
    source: Source
    queue_id: str | None
    text: str
    event: Event
    session: str | None = None

    @property
    def host(self) -> str:
        """The host that logged the line."""
        return self.source.host

    @property
    def program(self) -> str:
        """The syslog name."""
        return self.source.program

    @property
    def pid(self) -> str:
        """The process ID, empty where the log has none."""
        return self.source.pid

    @property
    def mta(self) -> str:
        """The kind of mail server."""
        return self.source.mta


class Ignored(Struct, gc=False):
    """A line that is understood and says nothing of any transaction."""

    reason: str


class Unparsed(Struct, gc=False):
    """A line that should have been understood and was not; kept and counted."""

    program: str
    reason: str
    queue_id: str | None = None
