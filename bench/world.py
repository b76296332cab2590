"""What generated logs are made of: seeded choices, names, processes, the pending lines, and the truth about them.

Times are integers: microseconds since 1970, UTC. Names are in the domains that are kept for examples.
"""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SECOND = 1_000_000
WORDS = ("amber", "birch", "cedar", "delta", "ember", "fable", "grove", "heron", "iris", "juniper", "kestrel", "lark")
TOP = ("example.com", "example.net", "example.org")


@dataclass(slots=True)
class Truth:
    """What a reader of the log must find."""

    lines: int = 0
    transactions: int = 0
    attempts: int = 0
    sent: int = 0
    bounced: int = 0
    deferrals: int = 0
    rejections: int = 0

    def as_dict(self) -> dict[str, int]:
        """Return the counts by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Client:
    """Who connects."""

    name: str
    ip: str

    def __str__(self) -> str:
        """As Postfix writes it."""
        return f"{self.name}[{self.ip}]"


class World:
    """Seeded choices: the same seed gives the same world."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._message_numbers = itertools.count(1)
        self._local_domains = [f"{word}.{top}" for word in WORDS[:4] for top in TOP]

    def client(self) -> Client:
        """Return somebody who connects; some have no name."""
        number = self.random.randrange(60_000)
        ip = f"192.0.2.{number % 254 + 1}" if number % 3 else f"198.51.{number // 254 % 256}.{number % 254 + 1}"
        if number % 17 == 0:
            return Client("unknown", ip)
        return Client(f"mail{number % 97}.{WORDS[number % 12]}{number % 1009}.{TOP[number % 3]}", ip)

    def remote(self) -> str:
        """Return an address somewhere else."""
        number = int(self.random.paretovariate(0.6)) % 300_000
        return f"{WORDS[number % 12]}.{number % 977}@{WORDS[number % 11]}{number % 4001}.{TOP[number % 3]}"

    def local(self) -> str:
        """Return an address of ours."""
        number = int(self.random.paretovariate(0.7)) % 5_000
        return f"{WORDS[number % 12]}{number}@{self.random.choice(self._local_domains)}"

    def message_id(self, at: int, sender: str) -> str:
        """Return a Message-ID nobody else has."""
        number = next(self._message_numbers)
        return f"{at // SECOND:x}.{number:08d}.{self.random.getrandbits(32):08x}@{sender.rpartition('@')[2]}"

    def some(self, make: str, most: int) -> list[str]:
        """Return one to `most` different addresses, mostly one, by the method called `make`."""
        count = min(most, int(self.random.paretovariate(2.4)))
        return list(dict.fromkeys(getattr(self, make)() for _ in range(count)))

    def after(self, at: int, milliseconds: float) -> int:
        """Return a time later, on average by so many milliseconds."""
        return at + 50 + int(self.random.expovariate(1) * milliseconds * 1000)


class Processes:
    """The process IDs of one daemon: each serves one session at a time."""

    def __init__(self, numbers: Iterator[int]) -> None:
        self._numbers = numbers
        self._free: list[tuple[int, int]] = []

    def take(self, at: int, until: int) -> int:
        """Return a process that is free at a time, busy until another."""
        number = heapq.heappop(self._free)[1] if self._free and self._free[0][0] < at else next(self._numbers)
        heapq.heappush(self._free, (until, number))
        return number


class Pending:
    """The lines to come, in order of time; equal times keep the order in which they were added."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, str]] = []
        self._order = itertools.count()
        self.added = 0

    def add(self, at: int, host: str, tag: str, message: str) -> None:
        """Add one line as syslog writes it."""
        self.add_line(at, f"{host} {tag}: {message}")

    def add_line(self, at: int, line: str) -> None:
        """Add one line, all of it but its stamp."""
        self.added += 1
        heapq.heappush(self._heap, (at, next(self._order), line))

    def until(self, at: float) -> Iterator[tuple[int, str]]:
        """Yield the lines before a time."""
        while self._heap and self._heap[0][0] < at:
            time, _, line = heapq.heappop(self._heap)
            yield time, line


def in_base(number: int, alphabet: str, width: int = 1) -> str:
    """Write a number with the digits of an alphabet."""
    digits: list[str] = []
    while number or len(digits) < width:
        number, digit = divmod(number, len(alphabet))
        digits.append(alphabet[digit])
    return "".join(reversed(digits))


def pick(random_: random.Random, table: Sequence[tuple[float, str]]) -> str:
    """Return a name of a table of weights and names."""
    return random_.choices([name for _, name in table], [weight for weight, _ in table])[0]
