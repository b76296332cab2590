"""Compares each fact known of the lab's mail with what `mailspan parse` says: `python -m tests.facts [--verbose]`.

Runs the installed command on each host's log and prints every mismatch, then one line with the counts of transactions
and facts. Exit code 1 if a fact is wrong. What is compared is in fact_checks.py and fact_checks_of_recipients.py.
A transaction must be found exactly once, by host and queue ID, and by its date where an ID was used again.
"""

from __future__ import annotations

import argparse
import json
import lzma
import subprocess
import sys
import sysconfig
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.fact import Fact, Json
from tests.fact_checks import compare, in_time

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

CORPUS = Path(__file__).parent / "corpus"
MIXED = "mixed.expected_transactions.jsonl.xz"
LOAD = "load.expected_transactions.jsonl.xz"


@dataclass(frozen=True, slots=True)
class Host:
    """One server of the lab: its log, the file with what is known of its mail, and how else the log is to be read.

    `others` are further logs of the same events, `arguments` what tells the command what they do not say themselves.
    """

    name: str
    log: str
    expectations: str
    others: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ("--zone", "UTC", "--year", "2026")
    mta: str = ""

    @property
    def label(self) -> str:
        """The host's name, and its logs where it has several."""
        return "+".join((self.log, *self.others)) if self.others else self.name


# Stamps with their zone by the server's own log, without one, in UTC, by syslog. No --year: the IDs hold it.
STORE = ("--zone", "UTC", "--log-host", "store")
STORE2 = ("--zone", "UTC", "--log-host", "store2")
HOSTS = (
    Host("edge1", "edge1.mail.log", MIXED),
    Host("edge2", "edge2.mail.log", MIXED),
    Host("relay", "relay.mail.log", MIXED),
    Host("store", "store.exim-mainlog", MIXED, ("store.exim-rejectlog",), STORE, "exim"),
    Host("store2", "store2.exim-mainlog", MIXED, ("store2.exim-rejectlog",), STORE2, "exim"),
    Host("store2", "store2.mail.log", MIXED, mta="exim"),
    Host("store2", "store2.mail.log", MIXED, ("store2.exim-mainlog", "store2.exim-rejectlog"), STORE2, "exim"),
    Host("osm", "osm.mail.log", MIXED),
    Host("bulk1", "bulk1.mail.log.xz", LOAD),
    Host("bulk2", "bulk2.mail.log.xz", LOAD),
    Host("relay2", "relay2.mail.log.xz", LOAD),
)


@dataclass(slots=True)
class Report:
    """What one host's comparison came to."""

    transactions: int = 0
    facts: int = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, queue_id: str, facts: Iterable[Fact]) -> None:
        """Count the facts of one transaction."""
        self.transactions += 1
        for fact in facts:
            self.facts += 1
            if not fact.right:
                self.wrong.append(f"{queue_id} {fact.name}: stated {fact.stated!r}, found {fact.found!r}")


def expectations(host: Host) -> list[Json]:
    """Read what is known of the host's transactions."""
    with lzma.open(CORPUS / host.expectations, "rt", encoding="utf-8") as lines:
        stated: Iterable[Json] = map(json.loads, lines)
        return [one for one in stated if one["host"] == host.name]


def parse(host: Host) -> list[Json]:
    """Run `mailspan parse` on a host's logs and return its documents; raises when it fails."""
    command = [sysconfig.get_path("scripts") + "/mailspan", "parse", *host.arguments]
    logs = [str(CORPUS / log) for log in (host.log, *host.others)]
    answer = subprocess.run([*command, *logs], check=True, capture_output=True)
    return [json.loads(line) for line in answer.stdout.splitlines()]


def by_queue_id(documents: Iterable[Json], host: str) -> Mapping[str, list[Json]]:
    """Group the host's transactions by queue ID, the pages of one joined into one document."""
    pages: dict[str, list[Json]] = defaultdict(list)
    for document in documents:
        if document["host"] == host and document["kind"] != "rejection":
            pages[document["id"].partition("#")[0]].append(document)
    found: dict[str, list[Json]] = defaultdict(list)
    for parts in pages.values():
        ordered = sorted(parts, key=lambda part: part["page"])
        joined = {name: [entry for part in ordered for entry in part[name]] for name in ("to", "deliveries")}
        whole = {**ordered[0], **joined}
        found[whole["queue_id"]].append(whole)
    return found


def pick(expected: Json, candidates: Sequence[Json]) -> list[Json]:
    """Return the incarnations of a queue ID that can be the expected transaction."""
    if len(candidates) > 1 and expected.get("accepted_between"):
        return [one for one in candidates if in_time(expected, one)]
    return list(candidates)


def check_documents(stated: Iterable[Json], found: Mapping[str, Sequence[Json]]) -> Report:
    """Compare one host's expected transactions with its documents by queue ID."""
    report = Report()
    for expected in stated:
        queue_id = expected["queue_id"]
        chosen = pick(expected, found.get(queue_id, ()))
        once = Fact("found", 1, len(chosen), right=len(chosen) == 1)
        report.add(queue_id, [once, *(compare(expected, chosen[0]) if once.right else ())])
    return report


def check_host(host: Host) -> Report:
    """Parse one host's log and compare it with what is known of its mail."""
    found = by_queue_id(parse(host), host.name)
    return check_documents(expectations(host), found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare every host of the table; print the mismatches and the counts."""
    parser = argparse.ArgumentParser(prog="python -m tests.facts", description=__doc__)
    parser.add_argument("--verbose", action="store_true", help="one line of counts per host")
    parser.add_argument("hosts", nargs="*", metavar="HOST", help="only these (default: all)")
    options = parser.parse_args(arguments)
    total = Report()
    for host in HOSTS:
        if options.hosts and host.name not in options.hosts:
            continue
        report = check_host(host)
        for line in report.wrong:
            print(f"{host.name} {line}")
        if options.verbose:
            print(f"{host.name}: {_counts(report)}")
        total.transactions += report.transactions
        total.facts += report.facts
        total.wrong += report.wrong
    print(_counts(total))
    return 1 if total.wrong or not total.facts else 0


def _counts(report: Report) -> str:
    return f"transactions={report.transactions} facts={report.facts} wrong={len(report.wrong)}"


if __name__ == "__main__":
    sys.exit(main())
