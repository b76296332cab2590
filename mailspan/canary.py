"""The canary: a marked record that each producer sends now and then, to be seen at the end of the way. Pure.

A Kafka header of its own marks it, never its text: no log, journal or syslog sender can write a header. In mail.raw its
value is empty, for who knows no canaries an empty line, to be ignored; in mail.transactions it has none, for who knows
none the withdrawal of an id that no document has. It is no line and no document, and is counted as neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from mailspan.metrics import Figure

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator

CANARY_NAME = "mailspan-canary"
"""The name of the header."""
CANARY_KEY = b"mailspan-canary"
"""The key, in both topics: no id is so, for want of a slash."""
LONGEST_NAME, LONGEST_INPUT = 100, 16
"""In characters, of the machine and of the input: with a partition they are an id, which may have 512 bytes."""
_LAST_MS = 253_402_300_799_999  # the end of the year 9999
_Moment = Annotated[int, msgspec.Meta(gt=0, le=_LAST_MS)]
_Name = Annotated[str, msgspec.Meta(max_length=LONGEST_NAME)]
_Input = Annotated[str, msgspec.Meta(max_length=LONGEST_INPUT)]


class Canary(msgspec.Struct, frozen=True, array_like=True):
    """What the header says. A later version may only append fields."""

    sent_ms: _Moment
    """When it was sent, in milliseconds since 1970 UTC, by the clock of the producer."""
    producer: _Name
    """The producer's machine."""
    input: _Input
    """tail, journal, syslog or stdin."""


_decode = msgspec.msgpack.Decoder(Canary).decode
encode_canary: Callable[[Canary], bytes] = msgspec.msgpack.Encoder().encode
"""Return the value of the header."""


def find_canary(headers: Iterable[tuple[str, Any]]) -> Canary | None:
    """Return what the header of a canary says; None where there is none that can be read: then it is no canary."""
    for name, raw in headers:
        if name == CANARY_NAME and isinstance(raw, bytes):
            try:
                return _decode(raw)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                return None
    return None


class CanaryFigures:
    """How many canaries a stage has settled, and how old the newest one is, of the partitions that it has.

    `epoch` is the wall clock, in seconds. One that comes from the future, as clocks differ, is of now.
    """

    def __init__(self, stage: str, epoch: Callable[[], float]) -> None:
        self.count = 0
        self._stage = stage
        self._epoch = epoch
        self._newest: dict[int, float] = {}

    def settle(self, partition: int, sent_ms: int) -> None:
        """Count one."""
        self.count += 1
        self._newest[partition] = max(self._newest.get(partition, 0.0), min(sent_ms / 1000, self._epoch()))

    def keep(self, partitions: Container[int]) -> None:
        """Forget the newest ones of other partitions: those are somebody else's now."""
        self._newest = {number: moment for number, moment in self._newest.items() if number in partitions}

    def show(self) -> Iterator[Figure]:
        """Yield the figures; without an age before the first."""
        yield Figure("mailspan_canaries_total", self.count, (self._stage,))
        if self._newest:
            yield Figure("mailspan_canary_age_seconds", max(self._newest.values()), (self._stage,))
