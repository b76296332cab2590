"""What a Kafka client says of its connections, in callbacks only, and which of it a person must be told. Pure.

No client is imported here: whatever has a name, a code and a text is an error.
"""

from __future__ import annotations

from typing import Protocol

from mailspan.kafka_settings import CREDENTIALS, explain, is_telling

AWAY = CREDENTIALS | {"_ALL_BROKERS_DOWN", "_SSL", "_RESOLVE"}
"""What is told, by the errors' names: a single connection that ends, as idle ones do, is none of it."""


class Fault(Protocol):
    """An error of the client."""

    def name(self) -> str:
        """Return its name, as librdkafka has it."""

    def code(self) -> int:
        """Return its number: librdkafka's own are negative."""

    def str(self) -> str:
        """Return its reason."""


class Faults:
    """Remembers the last fault; a wrong password is not hidden by the closed connections that come after it."""

    def __init__(self, servers: str) -> None:
        self._servers = servers
        self._last: Fault | None = None

    def note(self, fault: Fault) -> None:
        """Remember a fault, as the client's `error_cb`."""
        if self._last is None or not is_telling(self._last.name(), self._last.str()):
            self._last = fault

    def forget(self) -> None:
        """Forget the last fault: it is over."""
        self._last = None

    @property
    def are_credentials(self) -> bool:
        """Whether the broker refuses user or password: asking again is in vain."""
        return self._last is not None and self._last.name() in CREDENTIALS

    def away(self) -> str | None:
        """Return one line about why no broker can be read from now; None where nothing says so."""
        return None if self._last is None or self._last.name() not in AWAY else self.explain(self._last, "to read")

    def explain(self, fault: Fault, doing: str) -> str:
        """Return one line about `fault`, with what the connections said before where it is the client's own."""
        shown = self._last if self._last is not None and fault.code() < 0 else fault
        return explain(shown.name(), shown.code(), shown.str().strip() or shown.name(), self._servers, doing)
