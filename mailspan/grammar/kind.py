"""The shape of a grammar: line kinds.

A line kind is one entry in a grammar's table: which programs log it, what it begins with, how it is read, a real
example, and what the example must give. The table is walked in order, so the frequent kinds stand first; a reader that
returns None says "not mine after all" and the next entry is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mailspan.event import Event
from mailspan.record import Ignored

Reading = Event | Ignored | None
Reader = Callable[[str, str], Reading]
"""Takes the text behind the queue ID (or the whole message of a line without one) and the program's last part."""


@dataclass(frozen=True, slots=True)
class LineKind:
    """One kind of line.

    `programs` are the last parts of the syslog name (`smtp` of `postfix/smtp`), empty for every program of the MTA;
    `begins` is what the text begins with; `queued` says that it stands behind `QUEUEID: `; `example` is a real
    message (text behind `program[pid]: `), logged by `programs[0]` or by `example_program`; `expect` are the fields
    of the event that the example must give.
    """

    name: str
    programs: tuple[str, ...]
    begins: tuple[str, ...]
    read: Reader
    example: str
    event: type
    expect: Mapping[str, object] = field(default_factory=dict)
    queued: bool = True
    source: str = ""


Rule = tuple[str, Reader]
"""What a text begins with, and what reads it then."""

_PREFIX = 4
_MAX_PREFIXES = 4096  # texts are hostile: how many beginnings are remembered


class Rules(dict[str, tuple[Rule, ...]]):
    """The rules of one program: `rules[text[:4]]` are those that a text may fit, in table order.

    Found by the first four characters, so that a line meets one or two rules instead of the whole table.
    """

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        super().__init__()
        self.all = rules

    def __missing__(self, prefix: str) -> tuple[Rule, ...]:
        """Find the rules of a beginning that was not met before, and remember them."""
        found = tuple(rule for rule in self.all if rule[0].startswith(prefix) or prefix.startswith(rule[0][:_PREFIX]))
        if len(self) < _MAX_PREFIXES:
            self[prefix] = found
        return found


def compile_rules(kinds: tuple[LineKind, ...], *, queued: bool) -> tuple[dict[str, Rules], Rules]:
    """Return the rules of each program that has its own, and those of all other programs, in table order."""
    chosen = [kind for kind in kinds if kind.queued == queued]
    names = {program for kind in chosen for program in kind.programs}

    def rules(program: str | None) -> Rules:
        return Rules(
            tuple(
                (begin, kind.read)
                for kind in chosen
                if not kind.programs or program in kind.programs
                for begin in kind.begins
            )
        )

    return {name: rules(name) for name in names}, rules(None)


def ignore(reason: str) -> Reader:
    """Return a reader that says: understood, and of no use to any transaction."""

    def read(_text: str, _program: str) -> Ignored:
        return Ignored(reason)

    return read
