"""The lab's mail, traced: the trees and final outcomes that follow from what is known of it, and nothing else.

What is expected is made of the expected transactions alone (tests/corpus/README.md): which queue ID the next hop gave,
which reports were sent, what a filter's other side was called, and how each recipient ended on each host.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC
from typing import TYPE_CHECKING

import orjson
import pytest

from search.joins import NOTICE_KINDS
from search.trace import json_trace, traces_of
from search.trace_text import Page, trace_text
from sink.sqlite import open_for_writing
from sink.sqlite_reader import SqliteReader
from sink.store import Selection
from tests.facts import HOSTS, LOAD, MIXED, Host, expectations, parse
from tests.running import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from search.trace import Trace
    from tests.fact import Json

Key = tuple[str, str]
ENDS_OF = {
    "sent": {"delivered", "relayed", "discarded", "expanded"},
    "bounced": {"bounced", "expired"},
    "deferred": {"deferred", "queued"},
    "expired": {"expired", "bounced", "deferred"},
    "held": {"held"},
}
"""The outcomes that a known status can be told by: `expired` is what a report said, a log may say less."""


def hosts(expected: str) -> list[Host]:
    """Return one entry for each host of a part of the lab."""
    found = {host.name: host for host in reversed(HOSTS) if host.expectations == expected}
    return list(found.values())


def traced(path: Path, part: str) -> tuple[list[Trace], list[Json]]:
    """Put all documents of a part of the lab into a store; return all traces, and all that is known."""
    known: list[Json] = []
    with open_for_writing(path) as store:
        for host in hosts(part):
            store.write([dict(each) for each in parse(host)])
            known += expectations(host)
    with SqliteReader(path) as reader:
        everything = [
            each for each in reader.newest(Selection(all_of=()), 100_000) if orjson.loads(each)["kind"] != "rejection"
        ]
        return traces_of(reader, everything, {}), known


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mixed") / "mail.db"


@pytest.fixture(scope="module")
def mixed(store: Path) -> tuple[list[Trace], list[Json]]:
    return traced(store, MIXED)


class Known:
    """What is known of all mail: transactions by host and queue ID, and what came of them."""

    def __init__(self, known: Sequence[Json]) -> None:
        self.by_key: dict[Key, list[Json]] = defaultdict(list)
        by_queue_id: dict[str, set[Key]] = defaultdict(set)
        for one in known:
            key = one["host"], one["queue_id"]
            self.by_key[key].append(one)
            by_queue_id[one["queue_id"]].add(key)
        self.reused = {key for key, found in self.by_key.items() if len(found) > 1}
        self.edges: set[tuple[Key, Key, bool]] = set()
        self.next: dict[tuple[Key, str], Key] = {}
        for one in known:
            here = one["host"], one["queue_id"]
            for stated in one.get("to") or ():
                for there in by_queue_id.get(stated.get("next_queue_id") or "", ()):
                    if any(other["gid"] == one["gid"] for other in self.by_key[there]):
                        self.edges.add((here, there, False))
                        self.next[here, stated["next_queue_id"]] = there
            for child in one.get("dsn_queue_ids") or ():
                if one["mta"] != "opensmtpd":  # its log does not say which mail a report is about
                    self.edges.add((here, (one["host"], child), True))

    def ends(self, key: Key) -> Iterator[tuple[set[str], str | None]]:
        """Yield all names of each recipient, and how it ended at last."""
        for stated in self.by_key[key][0].get("to") or ():
            names = names_of(stated)
            there = self.next.get((key, stated.get("next_queue_id") or ""))
            if there is None:
                yield names, stated.get("status")
                continue
            further = [(others, status) for others, status in self.ends(there)]
            mine = [each for each in further if each[0] & names]
            for others, status in mine or further:
                yield names | others, status


def names_of(stated: Json) -> set[str]:
    names = [stated["recipient"], stated.get("orig_to"), *(stated.get("recipient_forms") or ())]
    return {name.casefold() for name in names if name}


def found_edges(traces: Iterable[Trace], known: Known) -> set[tuple[Key, Key, bool]]:
    """Return the edges between transactions that are known; a few that ended before DATA are not."""
    return {
        (source, target, edge.kind in NOTICE_KINDS)
        for trace in traces
        for edge in trace.edges
        if (source := (edge.source.host, str(edge.source.queue_id))) in known.by_key
        and (target := (edge.target.host, str(edge.target.queue_id))) in known.by_key
    }


def check(traces: Sequence[Trace], stated: Sequence[Json]) -> tuple[int, int]:
    """Compare trees and final outcomes; return how many transactions and recipients were compared."""
    known = Known(stated)
    assert found_edges(traces, known) == known.edges
    assert not [edge for trace in traces for edge in trace.edges if edge.weak or edge.via is not None]
    trace_of: dict[Key, Trace] = {}
    for trace in traces:
        trace_of.update({(node.host, str(node.queue_id)): trace for node in trace.nodes})
    recipients = 0
    for key in known.by_key:
        assert key in trace_of, key
        if key in known.reused:
            continue
        if known.by_key[key][0]["kind"] not in ("message", "dsn", "held"):
            continue
        trace = trace_of[key]
        node = next(node for node in trace.nodes if (node.host, node.queue_id) == key)
        ends = trace.ends.of(node)
        for names, status in known.ends(key):
            if status is None or known.by_key[key][0].get("final_known") is False:
                continue
            mine = [end for end in ends if {end.recipient.casefold(), end.final_recipient.casefold()} & names]
            assert [end for end in mine if end.outcome in ENDS_OF[status]], (key, names, status, ends)
            recipients += 1
    return len(known.by_key), recipients


def test_every_tree_and_every_final_outcome_of_the_mixed_lab(mixed: tuple[list[Trace], list[Json]]) -> None:
    transactions, recipients = check(*mixed)
    assert transactions > 600
    assert recipients > 700


def test_mail_over_four_hops_is_delivered_at_its_end(mixed: tuple[list[Trace], list[Json]]) -> None:
    traces, stated = mixed
    far = {(one["host"], one["queue_id"]) for one in stated if one["scenario"] == "far-4-hops"}
    hops = [trace for trace in traces if {(node.host, str(node.queue_id)) for node in trace.nodes} & far]
    longest = max(hops, key=lambda trace: len(trace.nodes))
    assert [node.host for node in longest.nodes][-1:] == [longest.final_outcomes[0].node.host]
    assert len({node.host for node in longest.nodes}) > 2


def test_the_transcripts_in_the_docs_are_real(mixed: tuple[list[Trace], list[Json]]) -> None:
    trace = next(trace for trace in mixed[0] if any(node.queue_id == "6AN7tA1k000072" for node in trace.nodes))
    drawn = "".join(f"    {line}".rstrip() + "\n" for line in trace_text(trace, Page(zone=UTC)).splitlines())
    for document in ("README.md", "docs/trace.md"):
        assert drawn in (ROOT / document).read_text(encoding="utf-8")


def test_every_hop_of_the_lab_leads_to_its_whole_trace(store: Path, mixed: tuple[list[Trace], list[Json]]) -> None:
    """From each transaction alone the same tree is found: nothing rests on what else was asked for."""
    with SqliteReader(store) as reader:
        for trace in mixed[0]:
            if len(trace.nodes) > 2:
                for node in trace.nodes:
                    (found,) = traces_of(reader, [orjson.dumps(node.document)], {})
                    assert json_trace(found) == json_trace(trace)


@pytest.mark.slow
def test_every_tree_and_every_final_outcome_of_five_thousand_mails(tmp_path: Path) -> None:
    transactions, recipients = check(*traced(tmp_path / "mail.db", LOAD))
    assert transactions > 9000
    assert recipients > 9000
