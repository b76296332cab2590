"""What must hold of any log: `check_lines` for the parser, `check_documents` for all that follows.

Each raises Broken with what does not hold; an exception of the code under test is left to the caller.
"""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from mailspan.commands.logs import LineCounts, apply_results
from mailspan.deliveries import FIRST_ATTEMPTS, LAST_ATTEMPTS, OUTCOMES, time_text
from mailspan.document import FIELDS, MAX_ID_CHARACTERS, PAGE_RECIPIENTS, documents
from mailspan.event_time import FIRST_YEAR, TimeSettings
from mailspan.filtering import is_unborn
from mailspan.grammar import REVISION, Parser
from mailspan.inputs.lines import split_lines
from mailspan.record import Ignored, Record, Unparsed
from mailspan.terminal import sanitise_json
from mailspan.transaction import MAX_LINKS, digest
from reducer.assembler import Assembler, Sizes
from reducer.snapshot import is_unwritten
from search.output import Layout, json_line, text_form
from sink.terms import terms_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mailspan.document import Document
    from mailspan.transaction import Transaction

Result = Record | Ignored | Unparsed

LINE_SECONDS = 0.05
TIMED_LINES = 100
BYTES_PER_CHARACTER, MOST_BYTES = 60, 8_000_000  # how much longer than its lines a document may be
NAMES = [field.name for field in FIELDS]
LONGEST_TERM = 300
KINDS = {"transaction", "rejection", "probe", "mailbox"}
STAGES = {"connect", "helo", "auth", "mail", "rcpt", "data", "end_of_data"}
CLOSED_BY = {"removed", "completed", "all_recipients_final", "rejected", "discarded", "deleted", "requeued"}
MTAS = {"postfix", "sendmail", "exim", "opensmtpd", "dovecot"}
GROUPING_MTAS = {"exim", "opensmtpd"}  # one address may be several recipients
ROLL_UPS = ("recipients", "recipient_domains", "relays", "outcomes", "dsns", "deliveries", "notes")
MOST_ROWS = FIRST_ATTEMPTS + LAST_ATTEMPTS
LIST_LIMIT = (FIRST_ATTEMPTS + LAST_ATTEMPTS) * PAGE_RECIPIENTS
_NO_ATTEMPTS = {"queued", "held", "rejected", "expired"}
LABELS = re.compile(
    r"(?:transaction|client|from|msgid|date|to|pages|host|updated|outcome|state|kind|mta|size|subject|helo|protocol|sasl username|tls|filter|controlling user|session|repeat count|link|note):"
)

_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff]")
_LAYOUT = Layout(now_ms=1795500000000, zone=UTC, verbose=True)


class Broken(Exception):  # noqa: N818  what is broken is the code under test
    """Something that must hold of any log does not."""


def new_parser() -> Parser:
    """Return a parser as the commands make one for a file."""
    return Parser(TimeSettings(reference=1795500000, year=2026, zone=UTC), "here")


def check_lines(raw: bytes) -> list[Result]:
    """Parse the lines of a log file; return the results."""
    lines = split_lines(raw)
    parser = new_parser()
    results: list[Result] = []
    for start in range(0, len(lines), TIMED_LINES):
        some = lines[start : start + TIMED_LINES]
        begin = time.process_time()
        results += map(parser.parse, some)
        if time.process_time() - begin > LINE_SECONDS:
            for line in some:
                _time(line)
    for result in results:
        if not isinstance(result, (Record, Ignored, Unparsed)):
            raise Broken(f"parsed into {result!r}")
    return results


def _time(line: str) -> None:
    """Look whether one line alone is too slow; the least of three, for other programs use the machine, too."""
    best = LINE_SECONDS * 2
    for _ in range(3):
        parser = new_parser()
        begin = time.process_time()
        parser.parse(line)
        best = min(best, time.process_time() - begin)
        if best < LINE_SECONDS:
            return
    raise Broken(f"a line takes {best:.3f} s: {line[:200]!r}…")


def check_documents(results: Sequence[Result], lines: int, seed: str) -> int:
    """Assemble the results, look at every document, and compare with runs in parts and with lines that come twice."""
    counts = LineCounts()
    assembler = Assembler()
    apply_results(results, assembler.apply, counts)
    list(counts.table())
    if not counts.lines == lines == counts.applied + counts.ignored.total() + counts.unparsed.total():
        raise Broken(f"{lines} lines, {counts.lines} counted")
    every = [*assembler.forgotten(), *assembler.remaining()]
    for transaction in every:
        pages = documents(transaction)
        if not pages and is_unborn(transaction):
            continue
        check_transaction(transaction, pages)
        _check_shown(pages, [orjson.dumps(page) for page in pages])
    found = as_stored(every)
    written = sum(map(len, found.values()))
    if written > MOST_BYTES + BYTES_PER_CHARACTER * sum(len(each.text) for each in results if isinstance(each, Record)):
        largest = max(found.values(), key=len)
        raise Broken(f"{written} bytes of documents; the largest has {len(largest)}: {largest[:500]!r}")
    records = [result for result in results if isinstance(result, Record)]
    stored = in_parts(records, random.Random(seed))  # noqa: S311  reproducible
    ambiguous = ambiguous_ids(every)
    _compare("runs in parts", *({name: each[name] for name in each.keys() - ambiguous} for each in (found, stored)))
    return len(found)


def check_without_year(raw: bytes) -> None:
    """Look whether the years of any lines can be told, in a file and live."""
    lines = split_lines(raw)
    in_file, live = (Parser(TimeSettings(1795500000, zone=UTC, is_live=each), "here") for each in (False, True))
    in_file.calibrate(lines)
    for at, line in enumerate(lines):
        live.refer_to(1795500000 + at)
        for result in (in_file.parse(line), live.parse(line)):
            if isinstance(result, Record):
                time_text(result.stamp)


def check_doubled(raw: bytes) -> None:
    """Look whether lines that come twice in a row change anything."""
    lines = split_lines(raw)
    once, twice = Assembler(), Assembler()
    parser, doubling = new_parser(), new_parser()
    for line in lines:
        for result in (parser.parse(line),):
            if isinstance(result, Record):
                once.apply(result)
        for result in (doubling.parse(line), doubling.parse(line)):
            if isinstance(result, Record):
                twice.apply(result)
    _compare(
        "doubled lines",
        *(as_stored([*assembler.forgotten(), *assembler.remaining()]) for assembler in (once, twice)),
    )


def as_stored(every: Iterable[Transaction]) -> dict[str, bytes]:
    """Return what a store holds of one pass: a birth line of an ID that was forgotten gives a second document of its id."""
    store: dict[str, tuple[int, bytes]] = {}
    for transaction in every:
        for page in documents(transaction):
            if store.get(page["id"], (0, b""))[0] < page["version"]:
                store[page["id"]] = (page["version"], orjson.dumps(page))
    return {identity: encoded for identity, (_, encoded) in store.items()}


def ambiguous_ids(every: Iterable[Transaction]) -> set[str]:
    """Return the ids of which the store holds the one or the other document, by where the runs ended (docs/supported.md).

    Two uses of a short queue ID within a second have one id, and may have equal versions. A line that comes again after its fragment was forgotten
    begins another with the same id, until more is known of it (docs/adr/0004).
    """
    seen: dict[tuple[str, str, bytes], Transaction] = {}
    versions: Counter[tuple[str, int]] = Counter()
    found = set()
    for transaction in every:
        versions.update((page["id"], page["version"]) for page in documents(transaction))
        for line in transaction.lines:
            key = line if isinstance(line, bytes) else digest(line)
            first = seen.setdefault((transaction.host, transaction.queue_id, key), transaction)
            if first is not transaction:
                found |= {page["id"] for page in documents(first)}
    return found | {identity for (identity, _), count in versions.items() if count > 1}


def check_memory(assembler: Assembler) -> None:
    """Raise where what waits to be written is kept packed, where it would be forgotten, or sizes are wrong."""
    hosts = list(assembler._hosts.values())  # noqa: SLF001 - what is kept is nobody else's affair
    found = [each for host in hosts for each in host.transactions.values()]
    packed = [each for each in found if isinstance(each, bytes)]
    if any(is_unwritten(each) for each in packed):
        raise Broken("what waits to be written is kept packed")
    expected = Sizes(len(hosts), len(found), len(found) - len(packed), sum(map(len, packed)))
    if assembler.sizes != expected:
        raise Broken(f"sizes are {assembler.sizes}, and should be {expected}")


def in_parts(records: Sequence[Record], chance: random.Random) -> dict[str, bytes]:
    """Return what a store holds after several runs, each from the stored state, with commits of what is urgent."""
    state: dict[str, bytes] = {}
    store: dict[str, tuple[int, bytes]] = {}
    assembler = Assembler(incremental=True, most_unpacked=chance.choice((5, 20_000)))
    at = 0
    while True:
        size = chance.randrange(1, 600)
        for record in records[at : at + size]:
            assembler.apply(record)
        at += size
        check_memory(assembler)
        changes = assembler.changed(urgent_only=at < len(records) and chance.random() < 0.7)
        for identity in changes.withdrawn:
            store.pop(identity, None)
        for page in changes.documents:
            if store.get(page["id"], (0, b""))[0] < page["version"]:
                store[page["id"]] = (page["version"], orjson.dumps(page))
        for key, value in assembler.snapshot_changes().items():
            if value is None:
                state.pop(key, None)
            else:
                state[key] = value
        if at >= len(records):
            return {identity: encoded for identity, (_, encoded) in store.items()}
        if chance.random() < 0.5:
            assembler = Assembler(incremental=True)
            assembler.restore(state)


def _compare(what: str, wanted: dict[str, bytes], found: dict[str, bytes]) -> None:
    if wanted == found:
        return
    for identity in sorted(wanted.keys() | found.keys()):
        one, other = wanted.get(identity), found.get(identity)
        if one != other:
            raise Broken(f"{what}: {identity}: {one!r} is not {other!r}")


def check_transaction(transaction: Transaction, pages: list[Document]) -> None:
    """Look at the pages of one transaction together, and at each alone."""
    if len({page["id"] for page in pages}) != len(pages) or any(page["page_count"] != len(pages) for page in pages):
        raise Broken(f"pages of {pages[0]['id']}")
    if not 1 <= len(transaction.lines) * 65536 + REVISION == pages[0]["version"]:
        raise Broken(f"version of {pages[0]['id']}")
    for number, page in enumerate(pages):
        faults = list(faults_of(page, number))
        if faults:
            raise Broken(f"{'; '.join(faults)}: {orjson.dumps(page)[:3000]!r}")
    shown = sum(_is_attempt(row) for page in pages for row in page["to"])
    if pages[0]["attempt_count"] < shown:
        raise Broken(f"{shown} attempts shown of {pages[0]['attempt_count']}: {pages[0]['id']}")


def _is_attempt(row: dict[str, Any]) -> bool:
    return row["relay"] is not None and row["outcome"] not in _NO_ATTEMPTS


def _is_page(page: Document, number: int) -> bool:
    named = page["id"].endswith(f"#{number}") if number else "#" not in page["id"][-6:]
    return page["page"] == number and named


def _is_time(text: str) -> bool:
    return _TIME.fullmatch(text) is not None and datetime.fromisoformat(text).year >= FIRST_YEAR - 1


def _is_list(values: list[Any]) -> bool:
    """Whether a roll-up is bounded, and has each name once."""
    return len(values) == len(set(values)) <= 3 * LIST_LIMIT and all(isinstance(value, str) for value in values)


def _are_links(page: Document) -> bool:
    links = page["links"]
    whole = all(list(link) == ["kind", "queue_id", "host"] and link["kind"] and link["queue_id"] for link in links)
    return (
        whole
        and len({tuple(link.values()) for link in links})
        == len(links)
        <= LIST_LIMIT * page["page_count"] + 2 * MAX_LINKS
    )


def _is_number(value: int | None) -> bool:
    return value is None or 0 <= value < 2**63


def _are_deliveries(page: Document) -> bool:
    parts = [name.partition(" ") for name in page["deliveries"]]
    return bool(page["to"] or not parts) and all(
        outcome in page["outcomes"] and recipient in page["recipients"] for outcome, _, recipient in parts
    )


RULES: dict[str, Callable[[Document, int], bool]] = {
    "fields": lambda page, _: list(page) == NAMES,
    "id": lambda page, _: 0 < len(page["id"]) <= MAX_ID_CHARACTERS,
    "page": _is_page,
    "mta": lambda page, _: page["mta"] in MTAS,
    "kind": lambda page, _: page["kind"] in KINDS and (page["kind"] == "mailbox") == (page["mta"] == "dovecot"),
    "queue_id": lambda page, _: (page["kind"] == "rejection") == (page["queue_id"] is None),
    "outcome": lambda page, _: page["outcome"] in OUTCOMES and set(page["outcomes"]) <= set(OUTCOMES),
    "state": lambda page, _: page["state"] == ("open" if page["closed_by"] is None else "closed"),
    "closed_by": lambda page, _: page["closed_by"] in {None, *CLOSED_BY},
    "stage": lambda page, _: page["stage"] in (STAGES if page["kind"] == "rejection" else {None}),
    "date": lambda page, _: _is_time(page["date"]),
    "updated": lambda page, _: _is_time(page["updated"]),
    "roll-ups": lambda page, _: all(_is_list(page[name]) for name in ROLL_UPS),
    "links": lambda page, _: _are_links(page),
    "size": lambda page, _: _is_number(page["size"]),
    "recipient_count": lambda page, _: _is_number(page["recipient_count"]),
    "counts": lambda page, _: min(page["attempt_count"], page["skipped_count"], page["repeat_count"]) >= 0,
    "repeat_count": lambda page, _: not page["repeat_count"] or page["kind"] == "rejection",
    "fragment": lambda page, _: page["fragment"] == ("head missing" in page["notes"]),
    "length of to": lambda page, _: len(page["to"]) <= LIST_LIMIT,
    "order of to": lambda page, _: [row["date"] for row in page["to"]] == sorted(row["date"] for row in page["to"]),
    "attempts of a recipient": lambda page, _: page["mta"] in GROUPING_MTAS or _most_rows(page) <= MOST_ROWS,
    "deliveries": lambda page, _: _are_deliveries(page),
}
"""What must hold of every document, by the name of what is wrong if it does not."""

ROW_RULES: dict[str, Callable[[dict[str, Any], Document], bool]] = {
    "outcome": lambda row, page: row["outcome"] in page["outcomes"],
    "date": lambda row, _: _is_time(row["date"]),
    "recipient": lambda row, page: _is_named(row["recipient"], page) if row["recipient"] is not None else page["kind"] == "rejection",
    "original_recipient": lambda row, page: row["original_recipient"] is None or _is_named(row["original_recipient"], page),
    "two names": lambda row, _: row["recipient"] is None or row["original_recipient"] != row["recipient"],
    "relay": lambda row, page: row["relay"] is None or row["relay"] in page["relays"],
    "relay_port": lambda row, _: row["relay_port"] is None or 0 <= row["relay_port"] <= 99999,
    "dsn": lambda row, page: row["dsn"] is None or row["dsn"] in page["dsns"],
}  # fmt: skip
"""What must hold of every row of `to`."""


def _is_named(recipient: str, page: Document) -> bool:
    return recipient.casefold() in page["recipients"]


def _most_rows(page: Document) -> int:
    """Return how many rows the recipient with the most of them has; refusals are rows, too."""
    return max(Counter(row["recipient"] for row in page["to"]).values(), default=0)


def faults_of(page: Document, number: int) -> Iterable[str]:
    """Yield what is wrong with one document."""
    for name, holds in RULES.items():
        if not holds(page, number):
            yield name
    for row in page["to"]:
        for name, fits in ROW_RULES.items():
            if not fits(row, page):
                yield f"{name} of {row}"


def _check_shown(pages: list[Document], encoded: list[bytes]) -> None:
    """Look at the terms by which a store finds it, and at what a terminal would get."""
    for one, page in zip(encoded, pages, strict=True):
        for term in terms_of(page, 0).split("\n"):
            if ":" not in term or len(term) > LONGEST_TERM:
                raise Broken(f"term {term!r}")
        shown = json_line(one, for_terminal=True).decode()
        if _UNSAFE.search(shown[:-1]) or shown[-1] != "\n":
            raise Broken(f"JSON for a terminal: {shown[:2000]!r}")
        if "\\u" in shown and orjson.loads(shown) != page | {"to": orjson.loads(one)["to"]}:
            raise Broken(f"JSON for a terminal says something else: {shown[:2000]!r}")
        if sanitise_json(one.decode()) + "\n" != shown:
            raise Broken("two ways to a terminal differ")
    for text in text_form(pages, _LAYOUT):
        for line in text.split("\n"):
            if line and (_UNSAFE.search(line) or not LABELS.match(line)):
                raise Broken(f"text for a terminal: {line[:2000]!r}")
