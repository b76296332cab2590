"""Golden traces: what belongs to a mail, what it rests on, how it ended, and what is missing; and that it is bounded."""

from __future__ import annotations

import random
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from search.joins import Joins
from search.nodes import Nodes, is_same_host
from search.query import FLAGS, parse_query
from search.select import select
from search.trace import Trace, json_trace, traces_of
from search.trace_text import Page, trace_text
from search.walk import MOST_QUERIES, TERMS_AT_ONCE
from sink.sqlite import open_for_writing
from sink.sqlite_reader import SqliteReader
from tests.search_documents import FIRST, Document, document, stamp
from tests.trace_cases import BOB, CASES, FANNED, ROUNDS, all_of_them, from_client, given, hop, kept
from web.trace_views import delay_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from sink.store import DocumentReader, Selection

NOW = datetime.fromtimestamp(FIRST + 10 * 86_400, UTC)
NOBODY: Mapping[str, str] = {}


class Counting:
    """A reader that counts what it is asked, and asks another."""

    def __init__(self, reader: DocumentReader) -> None:
        self._reader = reader
        self.questions = 0

    @property
    def gaps(self) -> Sequence[str]:
        return self._reader.gaps

    @property
    def faults(self) -> Sequence[str]:
        return self._reader.faults

    def newest(self, selection: Selection, limit: int) -> list[bytes]:
        self.questions += 1
        return self._reader.newest(selection, limit)

    def count(self, selection: Selection) -> int:
        self.questions += 1
        return self._reader.count(selection)

    def count_by(self, selection: Selection, field: str) -> list[tuple[str, int]]:
        self.questions += 1
        return self._reader.count_by(selection, field)

    def count_by_date(self, selection: Selection) -> dict[int, int]:
        self.questions += 1
        return self._reader.count_by_date(selection)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("traces") / "mail.db"
    with open_for_writing(path) as writer:
        documents = all_of_them()
        assert writer.write(documents).indexed == len(documents)
    return path


def written(folder: Path, documents: Sequence[Document]) -> Path:
    """Return a store of these documents."""
    path = folder / "mail.db"
    with open_for_writing(path) as writer:
        writer.write(documents)
    return path


@contextmanager
def counting(store: Path) -> Iterator[Counting]:
    with SqliteReader(store) as reader:
        yield Counting(reader)


def asked(reader: DocumentReader, term: str, hosts: Mapping[str, str] = NOBODY) -> list[Trace]:
    """Return the traces that a user gets who asks for a term."""
    query = parse_query({**dict.fromkeys(FLAGS), "term": term}, now=NOW, zone=UTC)
    return traces_of(reader, reader.newest(select(query), 100), hosts)


def key(trace: Trace, identity: str) -> str:
    node = next(node for node in trace.nodes if node.id == identity)
    return f"{node.host}/{node.queue_id}"


def check_case(reader: DocumentReader, name: str) -> Trace:
    """Compare a trace with what the case says it must be."""
    case = CASES[name]
    traces = asked(reader, case.seed, case.hosts)
    assert len(traces) == 1
    trace = traces[0]
    found = orjson.loads(orjson.dumps(json_trace(trace)))
    nodes = [f"{node['host']}/{node['queue_id']}" for node in found["nodes"]]
    if case.count is None:
        assert nodes == list(case.nodes)
    else:
        assert len(nodes) == case.count
        assert nodes[: len(case.nodes)] == list(case.nodes)
    if case.edges:
        edges = [(key(trace, e["from"]), key(trace, e["to"]), e["kind"], e["weak"]) for e in found["edges"]]
        assert sorted(edges) == sorted(case.edges)
    if case.ends:
        assert [(end["recipient"], end["final_outcome"]) for end in found["final_outcome"]] == list(case.ends)
    assert len(found["missing"]) == len(case.missing)
    for each, (relay, reason) in zip(found["missing"], case.missing, strict=True):
        assert each["relay"] == relay
        assert reason in each["reason"]
    assert found["limits"] == []
    return trace


@pytest.mark.parametrize("name", [name for name in CASES if name != "fan_out"])  # that has a test of its own
def test_a_case_is_traced(store: Path, name: str) -> None:
    with counting(store) as reader:
        check_case(reader, name)


@pytest.mark.parametrize("name", ["loop", "missing_middle", "another_name", "expansion", "only_a_queue_id"])
def test_every_hop_leads_to_the_same_trace(store: Path, name: str) -> None:
    with counting(store) as reader:
        whole = json_trace(check_case(reader, name))
        for node in CASES[name].nodes:
            assert [json_trace(trace) for trace in asked(reader, node)] == [whole]


def test_a_fan_out_takes_some_dozens_of_queries_and_seconds(store: Path) -> None:
    with counting(store) as reader:
        begin = time.process_time()
        trace = check_case(reader, "fan_out")
        seconds = time.process_time() - begin
        # Of each: its own queue id and whoever names it; the queue id in its parent's link is the same as its own.
        assert reader.questions <= 3 + -(-2 * (FANNED + 1) // TERMS_AT_ONCE) + 1
        assert seconds < 20
    ends = {end.recipient: end.outcome for end in trace.final_outcomes}
    assert len(ends) == FANNED
    assert [name for name, outcome in ends.items() if outcome != "delivered"] == ["reader4711@example.net"]
    drawn = trace_text(trace, Page(zone=UTC))
    assert "10,001 transactions on 2 hosts" in drawn
    assert "bounced  1 recipients" in drawn
    assert drawn.count("\n") < 70


def test_a_loop_takes_a_query_for_each_round_at_most(store: Path) -> None:
    with counting(store) as reader:
        check_case(reader, "loop")
        assert reader.questions <= 6  # the message id finds all rounds at once
    with counting(store) as reader:
        assert reader.questions + ROUNDS < MOST_QUERIES


def test_a_loop_without_message_ids_is_bounded(tmp_path: Path) -> None:
    """More rounds than a walk may ask for: what was found is shown, and that it is not all is said."""
    rounds = MOST_QUERIES + 20
    documents = [
        hop("osm", f"{n:08x}", n, [given("bob@example.net", "osm.example.com", f"{n + 1:08x}", n + 1)])
        for n in range(rounds)
    ]
    path = written(tmp_path, documents)
    with counting(path) as reader:
        (trace,) = asked(reader, "00000000")
        assert reader.questions <= MOST_QUERIES + 2
    assert len(trace.nodes) > MOST_QUERIES / 2
    assert trace.limits == (f"more than {MOST_QUERIES} queries: what is further away is missing here",)
    assert "not complete: more than" in trace_text(trace, Page())


def test_a_circle_is_drawn_once(store: Path) -> None:
    with counting(store) as reader:
        drawn = trace_text(check_case(reader, "circle"), Page(zone=UTC))
    assert [line.split()[-1] for line in drawn.split("final outcome")[0].splitlines() if "08:00:00  " in line] == [
        "mx1/C0",
        "mx1/C1",
        "mx1/C2",
    ]


def test_ways_that_part_and_meet_again_do_not_multiply_the_ends(tmp_path: Path) -> None:
    """Two entries for one mailbox on each of 40 hops: counted anew at each, these were 2**40 ends."""
    documents = [
        hop(
            f"h{n}", f"D{n}", n,
            [given(BOB, f"h{n + 1}.example.com", f"D{n + 1}", n + 1, original_recipient=name) for name in "ab"],
            msgid="d@example.com",
        )
        for n in range(40)
    ]  # fmt: skip
    documents.append(hop("h40", "D40", 40, [kept(BOB, 41)], msgid="d@example.com"))
    path = written(tmp_path, documents)
    with counting(path) as reader:
        (trace,) = asked(reader, "D0")
    assert [(end.recipient, end.outcome) for end in trace.final_outcomes] == [("a", "delivered"), ("b", "delivered")]


def test_long_hostile_traces_cost_no_square(tmp_path: Path) -> None:
    """A loop without queue ids in its replies, and a hop that gave all recipients other addresses: both took minutes."""
    turns = 3000
    loop = [
        hop(
            f"mx{n % 2}", f"W{n}", n / 2, [given(BOB, f"mx{(n + 1) % 2}.example.com", None, (n + 1) / 2)],
            msgid="w@example.com", **from_client(f"mx{(n + 1) % 2}.example.com", "192.0.2.9"),
        )
        for n in range(turns)
    ]  # fmt: skip
    names = [
        hop("mx1", "R1", 0, [given(f"q{n}@example.net", "t", "R2", 1) for n in range(FANNED)], msgid="r@example.com"),
        hop("t", "R2", 1, [kept(f"r{n}@example.net", 2) for n in range(FANNED)], msgid="r@example.com"),
    ]
    path = written(tmp_path, [*loop, *names])
    with counting(path) as reader:
        begin = time.process_time()
        (trace,) = asked(reader, "W7")
        assert (len(trace.nodes), len(trace.edges)) == (turns, turns - 1)
        (trace,) = asked(reader, "R1")
        assert len(trace.final_outcomes) == FANNED
        assert time.process_time() - begin < 12


def shared(chance: random.Random, number: int, *, spread: int) -> list[Document]:
    """Return transactions that all have the queue ID X, of many hosts, which name X in their replies and links."""
    documents = []
    for n in range(number):
        second, host = n * 2 + chance.random(), f"h{chance.randrange(spread)}"
        there = chance.choice(
            (f"h{chance.randrange(spread)}.example.com", "pool.example.com", f"nobody{n}.example.net")
        )
        message_id = chance.choice(
            (None, f"m{chance.randrange(spread)}@example.com", f"{'m' * 90}{chance.randrange(9)}")
        )
        is_cut = message_id is not None and len(message_id) > 80 and chance.random() < 0.5
        links = [{"kind": kind, "queue_id": "X", "host": None} for kind in ("original",) if chance.random() < 0.2]
        links += [{"kind": "clone_of", "queue_id": "X", "host": host}] if chance.random() < 0.2 else []
        documents.append(
            hop(
                host, "X", second, [given(BOB, there, chance.choice(("X", "X", None)), second + 1)], id=f"{host}/X/{n}",
                msgid=message_id[:85] if is_cut and message_id else message_id, links=links,
                notes=["truncated"] if is_cut else [], **(from_client(f"h{chance.randrange(spread)}.example.com", "192.0.2.9") if chance.random() < 0.3 else {}),
            )
        )  # fmt: skip
    return documents


def joined(documents: Sequence[Document]) -> list[tuple[object, ...]]:
    """Return all edges between transactions."""
    joins = Joins(Nodes(map(orjson.dumps, documents)).values(), {"gate": "h1"})
    doubts = sorted((one.id, other.id) for one, other in joins.doubtful)
    return [(e.source.id, e.target.id, e.kind, e.evidence, e.weak, e.via, e.ways) for e in joins.edges] + [*doubts]


@pytest.mark.parametrize("seed", range(12))
def test_of_many_with_one_queue_id_the_same_are_joined_as_if_all_were_compared(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = shared(random.Random(seed), 60, spread=20)  # noqa: S311  reproducible
    found = joined(documents)
    monkeypatch.setattr("search.candidates.MOST_COMPARED", 1000)
    assert joined(documents) == found
    assert len(found) > 20


@pytest.mark.parametrize(
    ("relay", "values"),
    [
        ("far.example.com", {}),
        ("pool.example.com", from_client("gate.example.com", "192.0.2.7")),
        ("pool.example.com", {"links": [{"kind": "original", "queue_id": "G1", "host": None}]}),
        ("pool.example.com", {"msgid": "far@example.com"}),
    ],
)
def test_what_an_edge_rests_on_is_found_among_many_that_are_nearer_in_time(relay: str, values: dict[str, Any]) -> None:
    crowd = [hop(f"o{n}", "X", n / 10, [kept(BOB, n / 10)]) for n in range(200)]
    gate = hop("gate", "G1", 0, [given(BOB, relay, "X", 1)], msgid="far@example.com" if "msgid" in values else None)
    far = hop("far", "X", 500, [kept(BOB, 501)], **values)
    edges = Joins(Nodes(map(orjson.dumps, [gate, *crowd, far])).values(), NOBODY).edges
    assert [(edge.source.id, edge.target.id, edge.weak) for edge in edges] == [("gate/G1", "far/X", False)]


def test_a_queue_id_of_thousands_of_hosts_costs_no_square() -> None:
    seconds = []
    for number in (500, 4000):
        documents = shared(random.Random(1), number, spread=number)  # noqa: S311  reproducible
        begin = time.process_time()
        assert joined(documents)
        seconds.append(time.process_time() - begin)
    assert seconds[1] < 24 * seconds[0]  # eight times as many: each with each were 64 times as much


def test_fields_that_the_writer_did_not_know_are_as_if_empty(tmp_path: Path) -> None:
    """The sink takes such documents."""
    wanted = ("id", "host", "mta", "date", "updated", "to", "version")
    bare = {name: hop("mx1", "OLD1", 0, [])[name] for name in wanted}
    bare["to"] = [{"recipient": BOB, "date": stamp(FIRST), "status": None}]
    path = written(tmp_path, [])
    with counting(path) as reader:
        (trace,) = traces_of(reader, [orjson.dumps(bare)], NOBODY)
    assert trace.outcome == json_trace(trace)["outcome"] == "unknown"
    assert BOB in trace_text(trace, Page())


def test_a_long_way_beside_a_large_fan_out_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.walk.MOST_JOINED", 1000)
    documents = [
        hop("osm", f"{n:08x}", n, [given(BOB, "osm.example.com", f"{n + 1:08x}", n + 1)]) for n in range(MOST_QUERIES)
    ]
    path = written(tmp_path, documents)
    with counting(path) as reader:
        (trace,) = asked(reader, "00000000")
    assert trace.limits == ("a long way with very many transactions: what is further away is missing here",)
    assert 40 < len(trace.nodes) < 60  # 1 + 2 + ... of them is 1000


def test_a_message_id_that_everybody_uses_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.walk.MOST_OF_MESSAGE_IDS", 50)
    spam = [hop("mx7", f"{n:X}", n, [kept(f"bob{n}@example.net", n)], msgid="spam@example.com") for n in range(60)]
    mine = [
        hop("mx1", "SPAM1", 0, [given("bob@example.net", "mx2.example.com", "SPAM2", 1)], msgid="spam@example.com"),
        hop("mx2", "SPAM2", 1, [kept("bob@example.net", 2)], msgid="spam@example.com"),
    ]
    path = written(tmp_path, [*spam, *mine])
    with counting(path) as reader:
        (trace,) = asked(reader, "SPAM2")
    assert [node.id for node in trace.nodes] == ["mx1/SPAM1", "mx2/SPAM2"]
    assert trace.limits == ("message ids that more than 50 transactions have: followed by queue ids alone",)


def test_the_drawing_of_a_missing_middle_hop(store: Path) -> None:
    with counting(store) as reader:
        trace = check_case(reader, "missing_middle")
    assert trace_text(trace, Page(zone=UTC)) == (
        "message <gap@example.com> from <alice@example.com>\n"
        "2026-11-23 08:00:00, 2 transactions on 2 hosts, 3 s\n"
        "\n"
        "2026-11-23 08:00:00  mx1/M1\n"
        "│  relayed  bob@example.net by mx9.example.com after 1.5 s\n"
        "└─ 08:00:02  +2 s  by way of mx9.example.com, which has no log here, mx3/M3  (weak: message id, client)\n"
        "      delivered  bob@example.net after 1.5 s\n"
        "\n"
        "final outcome\n"
        "  delivered  bob@example.net, mx3/M3, 2026-11-23 08:00:03 (weak)\n"
        "missing\n"
        "  relay mx9.example.com (there M2): no log in the store\n"
    )


def test_the_drawing_of_an_expansion(store: Path) -> None:
    with counting(store) as reader:
        trace = check_case(reader, "expansion")
    assert trace_text(trace, Page(zone=UTC)) == (
        "message <team@example.com> from <alice@example.com>\n"
        "2026-11-23 08:00:00, 4 transactions on 1 host, 15 min 0 s\n"
        "\n"
        "2026-11-23 08:00:00  mx1/A1\n"
        "│  relayed  team@example.com by 127.0.0.1 after 1.5 s\n"
        "└─ 08:00:01  +1 s  mx1/A2\n"
        "   │  delivered  dave@example.com (for team@example.com) after 1.5 s\n"
        "   │  expanded  team@example.com after 1.5 s\n"
        "   ├─ 08:00:02  +1 s  forwarded as mx1/A3\n"
        "   │     expired  out@example.net (for team@example.com) after 1.5 s: expired (said so)\n"
        "   └─ 08:10:00  +9 min 59 s  delay notice mx1/A9\n"
        "         delivered  alice@example.com after 1.5 s\n"
        "\n"
        "final outcome\n"
        "  delivered  team@example.com as dave@example.com, mx1/A2, 2026-11-23 08:00:02\n"
        "  expired  team@example.com as out@example.net, mx1/A3, 2026-11-23 08:15:00\n"
    )


@pytest.mark.parametrize(
    ("seconds", "shown", "on_the_page"),
    [(-0.09, "-0.09 s", "−0.09 s"), (-0.004, "+0 s", "+0 s"), (0.09, "+0.09 s", "+0.09 s")],
)
def test_a_hop_that_seems_older_than_its_source_has_a_minus(
    tmp_path: Path, seconds: float, shown: str, on_the_page: str
) -> None:
    with open_for_writing(tmp_path / "mail.db") as writer:
        first = hop("mx1", "A1", 0.5, [given(BOB, "mx2", "B1", 1)], msgid="early@example.com")
        writer.write(
            [first, hop("mx2", "B1", 0.5 + seconds, [given(BOB, "local", None, 2)], msgid="early@example.com")]
        )
    with SqliteReader(tmp_path / "mail.db") as reader:
        (trace,) = traces_of(reader, [orjson.dumps(first)], NOBODY)
    (edge,) = trace.edges
    assert f"  {shown}  mx2/B1" in trace_text(trace, Page(zone=UTC))
    assert delay_of(edge) == on_the_page


def test_a_narrow_terminal_cuts_lines_and_deep_branches(store: Path) -> None:
    with counting(store) as reader:
        trace = check_case(reader, "loop")
    lines = trace_text(trace, Page(width=40, zone=UTC)).splitlines()
    assert max(map(len, lines)) <= 40
    assert any("mx2/L023" in line for line in lines)  # of a deep branch, the hop is still to be read


def test_hostile_text_is_shown_as_escapes(tmp_path: Path) -> None:
    evil = "x\x1b[2J\u202e\n└─ forged@example.com"
    one = hop(
        f"mx1{evil}", f"E1{evil}", 0, [given(evil, evil, evil, 1, "relayed", status=evil, original_recipient=evil)],
        msgid=evil, **from_client(evil, evil), **{"from": evil},
    )  # fmt: skip
    path = written(tmp_path, [one])
    with counting(path) as reader:
        (trace,) = asked(reader, evil)
        for page in (Page(verbose=True), Page(width=50, colours=False)):
            drawn = trace_text(trace, page)
            assert not set(drawn) & {"\x1b", "\u202e"}
            assert not [line for line in drawn.splitlines() if line.startswith("└─ forged")]


def test_a_queue_id_of_other_letters_case_is_another(tmp_path: Path) -> None:
    path = tmp_path / "mail.db"
    documents = [
        hop("mx1", "K1", 0, [given("bob@example.net", "mx2.example.com", "4jXyA", 1)], msgid="a@example.com"),
        hop("mx2", "4jXya", 1, [kept("bob@example.net", 2)], msgid="a@example.com"),
    ]
    with open_for_writing(path) as writer:
        writer.write(documents)
    with counting(path) as reader:
        (trace,) = asked(reader, "K1")
        assert [node.id for node in trace.nodes] == ["mx1/K1"]


def test_a_rejection_is_a_trace_of_its_own(tmp_path: Path) -> None:
    path = written(
        tmp_path, [document(id="mx1~1", queue_id=None, kind="rejection", outcome="rejected", date=stamp(FIRST))]
    )
    with counting(path) as reader:
        (trace,) = asked(reader, "NOQUEUE")
        assert trace.outcome == "rejected"
        assert "mx1.example.com/NOQUEUE" in trace_text(trace, Page(zone=UTC))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("mx1", "mx1.example.com", True),
        ("mx1.example.com", "mx1", True),
        ("mx1.example.com", "mx1.example.net", False),
        ("mx1", "mx2", False),
        ("10.0.0.1", "10", False),
        ("mx1.example.com", "mx1.example.com", True),
    ],
)
def test_a_short_name_is_the_same_host(one: str, other: str, same: bool) -> None:  # noqa: FBT001 - a row of a table
    assert is_same_host(one, other) is same
