"""Golden cases: a file of raw log lines, and the documents that they must give.

A case is `tests/cases/<trouble>.case`: comments (`#`: what the trouble is, where the lines come from), one line of
options, the raw lines, `# output`, and the expected documents as JSON, ordered by id. To stay readable, a document
leaves out what is at its default in mailspan.document.FIELDS or empty, and has `lines` in place of `version`; a
delivery leaves out its nulls. `python -m tests.golden --accept [NAME…]` (`make accept`) rewrites the expectations: the
diff is what to review. Without `--accept` it prints the cases that differ.

Options: `year=`, `zone=`, `zones=HOST:ZONE,…`, `host=` (of lines that carry none), `reference=` (RFC 3339: the input's own time),
`unparsed=N` (how many lines nobody can read; 0 unless said).
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from mailspan.document import FIELDS, documents
from mailspan.event_time import TimeSettings
from mailspan.grammar import REVISION, Parser
from mailspan.record import Record, Unparsed
from reducer.assembler import Assembler

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

Document = dict[str, Any]

FOLDER = Path(__file__).parent / "cases"
OUTPUT = b"# output"
OPTIONS = b"# options:"
REFERENCE = "2026-11-25T00:00:00+00:00"
LINES_PER_VERSION = 65536

_DEFAULTS = {field.name: field.default for field in FIELDS}
_ARRAYS = frozenset(field.name for field in FIELDS if field.type.startswith("array"))
_DELIVERY = (
    "recipient", "original_recipient", "relay", "relay_ip", "relay_port", "status", "outcome", "dsn", "code", "date",
    "delay_seconds",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """One golden case: `head` is all that stands before the raw lines."""

    name: str
    head: bytes
    options: dict[str, str]
    lines: tuple[bytes, ...]
    expected: tuple[Document, ...]

    def parser(self) -> Parser:
        """Return a parser with the case's options."""
        year, zone = self.options.get("year"), self.options.get("zone", "UTC")
        reference = datetime.fromisoformat(self.options.get("reference", REFERENCE))
        rows = [row.split(":") for row in self.options.get("zones", "").split(",") if row]
        settings = TimeSettings(
            int(reference.timestamp()),
            year=int(year) if year else None,
            zone=ZoneInfo(zone),
            host_zones=tuple((host, ZoneInfo(name)) for host, name in rows),
        )
        return Parser(settings, self.options.get("host", "mx1"))


def load(name: str) -> Case:
    """Read the case of that name."""
    raw = (FOLDER / f"{name}.case").read_bytes()
    before, found, after = raw.partition(b"\n" + OUTPUT + b"\n")
    head: list[bytes] = []
    options: dict[str, str] = {}
    lines = before.split(b"\n")
    while lines and lines[0].startswith(b"#"):
        line = lines.pop(0)
        head.append(line)
        if line.startswith(OPTIONS):
            words = line.removeprefix(OPTIONS).decode().split()
            options = dict(word.split("=", 1) for word in words)
    if not lines or not options:
        raise ValueError(f"{name}: no options line or no raw lines")
    expected = json.loads(after) if found and after.strip() else []
    return Case(name, b"\n".join(head), options, tuple(lines), tuple(full(d) for d in expected))


def names() -> list[str]:
    """Return the names of all cases."""
    return sorted(path.stem for path in FOLDER.glob("*.case"))


def decode(line: bytes) -> str:
    """Return a raw line as text; bytes that are no UTF-8 are replaced, so that documents always encode."""
    return line.decode("utf-8", "replace")


def read(parser: Parser, lines: Iterable[bytes]) -> Iterator[Record]:
    """Yield the records of the lines."""
    for line in lines:
        record = parser.parse(decode(line))
        if isinstance(record, Record):
            yield record


def run(case: Case, lines: Sequence[bytes] | None = None) -> list[Document]:
    """Return the documents of the case's lines, or of other lines with its options, ordered by id."""
    parser = case.parser()
    lines = case.lines if lines is None else lines
    parser.calibrate(decode(line) for line in lines)
    assembler = Assembler()
    found: list[Document] = []
    for record in read(parser, lines):
        assembler.apply(record)
        for transaction in assembler.forgotten():
            found += documents(transaction)
    for transaction in assembler.remaining():
        found += documents(transaction)
    return ordered(found)


def run_in_batches(case: Case, batches: Iterable[Sequence[bytes]]) -> list[Document]:
    """Return what a store holds after each batch was read by an assembler that knows only the stored state."""
    parser = case.parser()
    parser.calibrate(decode(line) for line in case.lines)
    state: dict[str, bytes] = {}
    store: dict[str, Document] = {}
    for batch in batches:
        assembler = Assembler(incremental=True)
        assembler.restore(state)
        for record in read(parser, batch):
            assembler.apply(record)
        changes = assembler.changed()
        for identity in changes.withdrawn:
            store.pop(identity, None)
        write(store, changes.documents)
        for key, value in assembler.snapshot_changes().items():
            if value is None:
                state.pop(key, None)
            else:
                state[key] = value
    return ordered(store.values())


def write(store: dict[str, Document], found: Iterable[Document]) -> None:
    """Write documents as a store does: fewer lines never replace more."""
    for document in found:
        known = store.get(document["id"])
        if known is None or known["version"] < document["version"]:
            store[document["id"]] = document


def unparsed(case: Case) -> Counter[str]:
    """Count the case's lines that no rule reads, by program and reason."""
    parser = case.parser()
    results = [parser.parse(decode(line)) for line in case.lines]
    return Counter(f"{r.program}: {r.reason}" for r in results if isinstance(r, Unparsed))


def ordered(found: Iterable[Document]) -> list[Document]:
    """Return the documents in the order of their ids."""
    return sorted(found, key=lambda document: str(document["id"]))


def full(document: Document) -> Document:
    """Fill in what a golden file leaves out."""
    filled = {**_DEFAULTS, **{name: [] for name in _ARRAYS}, **document}
    filled["version"] = filled.pop("lines") * LINES_PER_VERSION + REVISION
    filled["to"] = [dict.fromkeys(_DELIVERY) | delivery for delivery in filled["to"]]
    return filled


def slim(document: Document) -> Document:
    """Leave out what `full` fills in."""
    left = {
        name: value
        for name, value in document.items()
        if name not in _DEFAULTS or (value != _DEFAULTS[name] and not (name in _ARRAYS and value == []))
    }
    left["lines"] = left.pop("version") // LINES_PER_VERSION
    if "to" in left:
        left["to"] = [{k: v for k, v in row.items() if v is not None or k not in _DELIVERY} for row in left["to"]]
    return left


def shown(found: Iterable[Document]) -> str:
    """Return the documents as a golden file writes them: a field a line, short arrays on one line."""
    return "[" + ",".join(_show(slim(document)) for document in found) + "\n]\n"


def _show(document: Document) -> str:
    fields = [f'"{name}": {_show_rows(value) if name == "to" else _compact(value)}' for name, value in document.items()]
    return "\n {\n  " + ",\n  ".join(fields) + "\n }"


def _show_rows(rows: list[Document]) -> str:
    shown_rows = [
        "{\n    " + ",\n    ".join(f'"{name}": {_compact(value)}' for name, value in row.items()) + "\n   }"
        for row in rows
    ]
    return "[\n   " + ",\n   ".join(shown_rows) + "\n  ]"


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def accept(name: str) -> bool:
    """Rewrite the expectation of a case; return whether it changed."""
    case = load(name)
    path = FOLDER / f"{name}.case"
    before = path.read_bytes()
    after = b"\n".join([case.head, *case.lines, OUTPUT, shown(run(case)).encode()])
    if after != before:
        path.write_bytes(after)
    return after != before


def main(arguments: Sequence[str]) -> int:
    """Compare, or accept, the named cases (all, where none is named); return 1 if any differed."""
    accepting = "--accept" in arguments
    chosen = [argument for argument in arguments if not argument.startswith("-")] or names()
    changed = [name for name in chosen if (accept(name) if accepting else run(c := load(name)) != list(c.expected))]
    for name in changed:
        print(f"{'rewritten' if accepting else 'differs'}: {name}")
    print(f"{len(chosen)} cases, {len(changed)} {'rewritten' if accepting else 'differ'}")
    return 1 if changed and not accepting else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
