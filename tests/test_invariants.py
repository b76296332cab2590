"""DESIGN's invariants over the corpora of all four MTAs, by the commands that users run.

| invariant | by the commands, here | by single records |
| --- | --- | --- |
| 1 a document is a function of its host's lines | all tests of a "way to give the same logs" | test_properties.py |
| 2 identity | test_an_id_is_of_one_mail, test_a_mail_that_waits_for_days_keeps_its_document | test_time.py |
| 3 version | test_less_of_a_log_replaces_nothing, test_the_version_counts_the_lines | test_properties.py |
| 4 every line is counted | test_every_line_is_counted | test_fuzz.py |
| 5 bad input is data | | test_fuzz.py, test_hostile.py, test_properties.py |
| 6 bounded | | test_bounds.py, test_large.py, test_sessions.py |
"""

from __future__ import annotations

import bz2
import gzip
import itertools
import lzma
import random
from datetime import UTC
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import pytest
from msgspec.structs import replace

from mailspan.document import documents
from mailspan.event_time import TimeSettings
from mailspan.grammar import REVISION, Parser
from mailspan.queue_id import TIME_OF
from mailspan.record import Record, Stamp
from reducer.assembler import Assembler
from tests.running import mailspan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

pytestmark = pytest.mark.slow

CORPUS = Path(__file__).parent / "corpus"
READING = ("--zone", "UTC", "--year", "2026", "--log-host", "store")
ALL = ("-r", "1000000", "--probes", "--mailboxes", "-d", "2000-01-01", "--json")
LOGS = (
    "edge1.mail.log",
    "edge2.mail.log",
    "relay.mail.log",
    "store.exim-mainlog",
    "store.exim-rejectlog",
    "osm.mail.log",
)
COPIES = ("store2.exim-mainlog", "store2.exim-rejectlog", "store2.mail.log")
READING_COPIES = ("--zone", "UTC", "--log-host", "store2")

Logs = dict[str, list[bytes]]


@cache
def corpus() -> Logs:
    return {name: (CORPUS / name).read_bytes().splitlines(keepends=True) for name in LOGS}


def write(folder: Path, logs: Mapping[str, Iterable[bytes]]) -> list[str]:
    for name, lines in logs.items():
        (folder / name).write_bytes(b"".join(lines))
    return [str(folder / name) for name in logs]


def by_id(output: bytes) -> dict[str, bytes]:
    lines = output.splitlines()
    found = {orjson.loads(line)["id"]: line for line in lines}
    assert len(found) == len(lines)
    return found


def parse(files: Iterable[str], reading: tuple[str, ...] = READING) -> dict[str, bytes]:
    done = mailspan("parse", *reading, *files)
    assert done.returncode == 0, done.stderr
    return by_id(done.stdout)


@cache
def once() -> dict[str, bytes]:
    """Return the documents of all logs as they are."""
    found = parse(str(CORPUS / name) for name in LOGS)
    assert {orjson.loads(line)["mta"] for line in found.values()} == {"postfix", "sendmail", "exim", "opensmtpd"}
    return found


def differences(
    found: Mapping[str, bytes], wanted: Mapping[str, bytes]
) -> list[tuple[str, bytes | None, bytes | None]]:
    names = sorted(found.keys() | wanted.keys())
    return [(name, found.get(name), wanted.get(name)) for name in names if found.get(name) != wanted.get(name)][:3]


def shuffled(folder: Path, chance: random.Random) -> list[str]:
    files = write(folder, corpus())
    chance.shuffle(files)
    return files


def split(folder: Path, chance: random.Random) -> list[str]:
    """Files as logrotate leaves them, in any order and under any name; cut between two seconds."""
    parts: Logs = {}
    for name, lines in corpus().items():
        seconds = seconds_of(name, lines)
        places = [at for at in range(1, len(lines)) if seconds[at] > seconds[at - 1] > 0]
        cuts = [0, *sorted(chance.sample(places, min(3, len(places)))), len(lines)]
        for start, end in itertools.pairwise(cuts):
            parts[f"{chance.randrange(10**9)}-{name}"] = lines[start:end]
    files = write(folder, parts)
    chance.shuffle(files)
    return files


def compressed(folder: Path, chance: random.Random) -> list[str]:
    packers: tuple[Callable[[bytes], bytes], ...] = (gzip.compress, bz2.compress, lzma.compress)
    return write(folder, {name: [chance.choice(packers)(b"".join(lines))] for name, lines in corpus().items()})


def with_cr(folder: Path, chance: random.Random) -> list[str]:
    ends = (b"\r\n", b"\r\n", b"\n")
    return write(folder, {n: [line[:-1] + chance.choice(ends) for line in lines] for n, lines in corpus().items()})


def doubled(folder: Path, _chance: random.Random) -> list[str]:
    return write(folder, {n: [again for line in lines for again in (line, line)] for n, lines in corpus().items()})


def copied(folder: Path, chance: random.Random) -> list[str]:
    files = write(folder, corpus()) + write(folder, {f"copy-{name}": lines for name, lines in corpus().items()})
    chance.shuffle(files)
    return files


def without_last_newline(folder: Path, _chance: random.Random) -> list[str]:
    return write(folder, {name: [b"".join(lines).rstrip(b"\n")] for name, lines in corpus().items()})


def in_one_file(folder: Path, chance: random.Random) -> list[str]:
    """The hosts that name themselves, as one log host writes them: each host's lines in order, in any mixture."""
    logs = {name: lines for name, lines in corpus().items() if name.endswith(".mail.log")}
    turns = [name for name, lines in logs.items() for _ in lines]
    chance.shuffle(turns)
    each = {name: iter(lines) for name, lines in logs.items()}
    mixed = sorted((next(each[name]) for name in turns), key=lambda line: line[:15])
    return write(folder, {"all.log": mixed, **{name: corpus()[name] for name in corpus() if name not in logs}})


WAYS = (shuffled, split, compressed, with_cr, doubled, copied, without_last_newline, in_one_file)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", [1, 2])
def test_every_way_to_give_the_same_logs_gives_the_same_documents(
    way: Callable[[Path, random.Random], list[str]], seed: int, tmp_path: Path
) -> None:
    files = way(tmp_path, random.Random(seed))  # noqa: S311  reproducible
    assert differences(parse(files), once()) == []


@pytest.mark.parametrize("order", list(itertools.permutations(COPIES)))
def test_the_three_logs_of_exim_in_any_order(order: tuple[str, ...]) -> None:
    assert differences(parse([str(CORPUS / name) for name in order], READING_COPIES), of_copies()) == []


@cache
def of_copies() -> dict[str, bytes]:
    return parse([str(CORPUS / name) for name in COPIES], READING_COPIES)


def records_of(lines: Iterable[bytes], host: str) -> list[Record]:
    parser = Parser(TimeSettings(reference=1795500000, year=2026, zone=UTC), host)
    results = [parser.parse(line.decode("utf-8", "backslashreplace").rstrip("\n")) for line in lines]
    return [result for result in results if isinstance(result, Record)]


def assembled(records: Iterable[Record]) -> dict[str, bytes]:
    assembler = Assembler()
    for record in records:
        assembler.apply(record)
    found = [*assembler.forgotten(), *assembler.remaining()]
    return {page["id"]: orjson.dumps(page) for each in found for page in documents(each)}


def any_merge(logs: list[list[Record]], chance: random.Random) -> list[Record]:
    """Merge logs by the second; of the lines of one second those of each log keep their order."""
    turns = [(record.stamp.second, chance.random(), at) for at, log in enumerate(logs) for record in log]
    turns.sort(key=lambda turn: turn[:2])
    each = [iter(sorted(log, key=lambda record: record.stamp.second)) for log in logs]
    return [next(each[at]) for _, _, at in turns]


@pytest.mark.parametrize("seed", range(12))
def test_the_logs_of_exim_in_any_order_within_a_second(seed: int) -> None:
    logs = [records_of((CORPUS / name).read_bytes().splitlines(), "store2") for name in COPIES]
    wanted = assembled(any_merge(logs, random.Random(0)))  # noqa: S311  reproducible
    assert differences(assembled(any_merge(logs, random.Random(seed))), wanted) == []  # noqa: S311


@pytest.mark.parametrize("name", [name for name in LOGS if name != "store.exim-rejectlog"])
@pytest.mark.parametrize("seed", range(3))
def test_a_copy_with_finer_stamps_in_any_order_within_a_second(name: str, seed: int) -> None:
    """Two files of one syslog, one with old stamps: whichever line is read first, the finer stamp counts."""
    chance = random.Random(seed)  # noqa: S311  reproducible
    coarse = [
        replace(each, stamp=Stamp(each.stamp.second, 0, 0, guessed=False))
        for each in records_of(corpus()[name], "store")
    ]
    fine = [
        replace(each, stamp=Stamp(each.stamp.second, at % 1000, 6, guessed=False)) for at, each in enumerate(coarse)
    ]
    found = assembled(any_merge([[replace(each) for each in coarse], fine], chance))
    assert differences(found, assembled(records_like(fine))) == []


def records_like(records: Iterable[Record]) -> list[Record]:
    """Return equal records with events of their own, for a transaction keeps those that it is given."""
    return [replace(each, event=replace(each.event)) for each in records]


def index(store: str, files: Iterable[str], reading: tuple[str, ...] = READING) -> None:
    done = mailspan("index", "--store", store, *reading, *files)
    assert done.returncode == 0, done.stderr


def stored(store: str) -> dict[str, bytes]:
    return by_id(mailspan("search", "--store", store, *ALL).stdout)


def test_index_and_search_equal_parse(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/mail.db"
    for _ in range(2):
        index(store, [str(CORPUS / name) for name in LOGS])
        assert differences(stored(store), once()) == []


def seconds_of(name: str, lines: list[bytes]) -> list[int]:
    """Return the event time of each line; a line without one has that of the line before."""
    parser = Parser(TimeSettings(reference=1795500000, year=2026, zone=UTC), "store")
    seconds: list[int] = []
    for line in lines:
        result = parser.parse(line.decode("utf-8", "backslashreplace").rstrip("\n"))
        last = seconds[-1] if seconds else 0
        seconds.append(max(last, result.stamp.second) if isinstance(result, Record) else last)
    assert seconds[-1] > 1795000000, name
    return seconds


@pytest.mark.parametrize(
    ("names", "reading"), [(LOGS, READING), (COPIES, READING_COPIES)], ids=["all hosts", "three logs of one host"]
)
def test_ten_runs_over_growing_logs_equal_one(names: tuple[str, ...], reading: tuple[str, ...], tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/mail.db"
    logs = {name: (CORPUS / name).read_bytes().splitlines(keepends=True) for name in names}
    seconds = {name: seconds_of(name, lines) for name, lines in logs.items()}
    every = sorted(second for each in seconds.values() for second in each if second)
    chance = random.Random(5)  # noqa: S311  reproducible
    for cut in [*sorted(chance.sample(every, 9)), every[-1]]:
        grown = {
            name: [b for b, s in zip(lines, seconds[name], strict=True) if s <= cut] for name, lines in logs.items()
        }
        files = write(tmp_path, grown)
        chance.shuffle(files)
        index(store, files, reading)
    wanted = once() if names == LOGS else of_copies()
    assert differences(stored(store), wanted) == []


def test_less_of_a_log_replaces_nothing(tmp_path: Path) -> None:
    """A day's log that is read again in part, under a name and with a head of its own, brings nothing back."""
    store = f"sqlite:///{tmp_path}/mail.db"
    index(store, [str(CORPUS / name) for name in LOGS])
    half = {f"half-{n}": [b"\n", *lines[: len(lines) // 2]] for n, lines in corpus().items()}
    index(store, write(tmp_path, half))
    assert differences(stored(store), once()) == []


def test_every_line_is_counted() -> None:
    done = mailspan("parse", "--stats", *READING, *(str(CORPUS / name) for name in LOGS))
    counts = {
        key: int(value) for key, value in (item.split("=") for item in done.stderr.decode().splitlines()[-1].split())
    }
    assert counts["lines"] == sum(len(lines) for lines in corpus().values())
    assert counts["lines"] == counts["applied"] + counts["ignored"] + counts["unparsed"]
    assert counts["unparsed"] == 0


def test_an_id_is_of_one_mail() -> None:
    """An ID that holds no time is told from its next use by the second of its birth; no other is."""
    for identity, line in once().items():
        document = orjson.loads(line)
        assert identity.startswith(f"{document['host']}/")
        rest = identity.removeprefix(f"{document['host']}/")
        if document["queue_id"] is None:
            assert rest.startswith("~")
        elif document["fragment"]:
            assert rest.startswith(f"{document['queue_id']}~")
        elif TIME_OF[document["mta"]](document["queue_id"]) is None:
            assert rest.partition("#")[0].removeprefix(f"{document['queue_id']}/").isdigit()
        else:
            assert rest.partition("#")[0] == document["queue_id"]


def test_the_version_counts_the_lines() -> None:
    """Every line that is applied is one of one transaction, and of those of other IDs that it names."""
    for name, lines in corpus().items():
        if "reject" in name:  # refusals without an ID only
            continue
        parser = Parser(TimeSettings(reference=1795500000, year=2026, zone=UTC), "store")
        assembler = Assembler()
        own: dict[tuple[str, str], set[tuple[int, str]]] = {}
        for line in lines:
            record = parser.parse(line.decode("utf-8", "backslashreplace").rstrip("\n"))
            if isinstance(record, Record) and assembler.apply(record) is None and record.queue_id is not None:
                own.setdefault((record.host, record.queue_id), set()).add((record.stamp.second, record.text))
        counted: dict[tuple[str, str], int] = {}
        for transaction in [*assembler.forgotten(), *assembler.remaining()]:
            version = documents(transaction)[0]["version"]
            assert version % 65536 == REVISION
            key = (transaction.host, transaction.queue_id)
            counted[key] = counted.get(key, 0) + version // 65536
        assert own, name
        assert all(counted[key] >= len(texts) for key, texts in own.items())
        assert sum(counted.values()) < 2 * sum(map(len, own.values()))


WAITING = {
    "postfix": (
        ("Nov 23 07:55:08", "mx1 postfix/smtpd[1]: B6D781149FE: client=a.example.com[192.0.2.1]"),
        ("Nov 23 07:55:08", "mx1 postfix/qmgr[2]: B6D781149FE: from=<a@example.com>, size=1, nrcpt=1 (queue active)"),
        ("Nov 23 07:55:09", "mx1 postfix/smtp[3]: B6D781149FE: to=<b@example.net>, relay=none, delay=1, status=deferred (x)"),
        ("Nov 28 06:55:09", "mx1 postfix/smtp[9]: B6D781149FE: to=<b@example.net>, relay=m[192.0.2.2]:25, delay=9, status=sent (250 ok)"),
    ),
    "sendmail": (
        ("Nov 23 07:55:08", "mx1 sm-mta[20]: 6AN7t85o000020: from=<a@example.com>, size=1, class=0, nrcpts=1, relay=a [192.0.2.1]"),
        ("Nov 23 07:55:09", "mx1 sm-mta[20]: 6AN7t85o000020: to=<b@example.net>, delay=00:00:01, mailer=esmtp, relay=m [192.0.2.2], dsn=4.0.0, stat=Deferred: x"),
        ("Nov 28 06:55:09", "mx1 sm-mta[29]: 6AN7t85o000020: to=<b@example.net>, delay=00:00:01, mailer=esmtp, relay=m [192.0.2.2], dsn=2.0.0, stat=Sent (ok)"),
    ),
    "exim": (
        ("Nov 23 07:55:08", "mx1 exim[20]: 1xVOtI-00000E-1i <= a@example.com H=a [192.0.2.1] P=esmtp S=1"),
        ("Nov 23 07:55:09", "mx1 exim[20]: 1xVOtI-00000E-1i == b@example.net R=r T=t defer (-44): SMTP error"),
        ("Nov 28 06:55:09", 'mx1 exim[29]: 1xVOtI-00000E-1i => b@example.net R=r T=t H=m [192.0.2.2] C="250 ok"'),
    ),
    "opensmtpd": (
        ("Nov 23 07:55:08", "mx1 smtpd[20]: 881c4ca6d2b48602 smtp message msgid=b16fa2ed size=1 nrcpt=1 proto=ESMTP"),
        ("Nov 23 07:55:08", "mx1 smtpd[20]: 881c4ca6d2b48602 smtp envelope evpid=b16fa2ed53cd2ecd from=<a@example.com> to=<b@example.net>"),
        ("Nov 23 07:55:09", 'mx1 smtpd[20]: 881c4ca6d2b48603 mta delivery evpid=b16fa2ed53cd2ecd from=<a@example.com> to=<b@example.net> rcpt=<-> source="-" relay="192.0.2.2 (m)" delay=1s result="TempFail" stat="421 x"'),
        ("Nov 28 06:55:09", 'mx1 smtpd[20]: 881c4ca6d2b48604 mta delivery evpid=b16fa2ed53cd2ecd from=<a@example.com> to=<b@example.net> rcpt=<-> source="-" relay="192.0.2.2 (m)" delay=9s result="Ok" stat="250 x"'),
    ),
}  # fmt: skip


@pytest.mark.parametrize("mta", WAITING)
def test_a_mail_that_waits_for_days_keeps_its_document(mta: str, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/mail.db"
    lines = [f"{stamp} {rest}\n".encode() for stamp, rest in WAITING[mta]]
    for count in range(1, len(lines) + 1):
        index(store, write(tmp_path, {"mail.log": lines[:count]}))
    (document,) = (orjson.loads(line) for line in stored(store).values())
    assert [row["outcome"] for row in document["to"]] == ["deferred", "relayed"]
    assert document["date"] == "2026-11-23T07:55:08.000Z"
    assert document["version"] == len(lines) * 65536 + REVISION
