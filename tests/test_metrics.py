"""The list of metrics: each entry is shown by somebody, labels come from closed sets, and the docs are made from it."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mailspan.grammar import name_program
from mailspan.grammar.postfix import DAEMONS
from mailspan.metrics import (
    AGE,
    BY_NAME,
    COUNTER,
    GAUGE,
    HISTOGRAM,
    LABELS,
    METRICS,
    Distribution,
    Figure,
    Histogram,
    check,
)
from mailspan.wire import Reading
from reducer.figures import Figures
from reducer.partition import Options, Partition
from tests import metrics_page

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
NAME = re.compile(r"mailspan(?:_[a-z]+)+")
OPTIONS = Options(find_zone=lambda _name: None)
UNITS = ("_seconds", "_bytes", "_total", "_info")


def files(*tops: str) -> Iterator[tuple[str, ast.AST]]:
    for top in tops:
        for path in sorted((ROOT / top).rglob("*.py")):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))


def strings(tree: ast.AST) -> set[str]:
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_names_types_and_labels_follow_the_rules() -> None:
    assert len(BY_NAME) == len(METRICS)
    for metric in METRICS:
        assert NAME.fullmatch(metric.name), metric
        assert metric.type in {COUNTER, GAUGE, AGE, HISTOGRAM}
        assert metric.name.endswith("_total") == (metric.type == COUNTER), metric
        assert bool(metric.bounds) == (metric.type == HISTOGRAM)
        assert list(metric.bounds) == sorted(set(metric.bounds))
        assert set(metric.labels) <= LABELS.keys()
        assert metric.meaning
        assert not metric.meaning.endswith(".")
        if metric.type in {AGE, HISTOGRAM}:
            assert metric.name.endswith(UNITS)
    assert {label for metric in METRICS for label in metric.labels} == LABELS.keys()
    assert not LABELS.keys() & {"host", "address", "queue_id", "message_id", "path", "file", "client", "relay"}


def test_each_is_shown_by_somebody_and_nobody_shows_another() -> None:
    shown: set[str] = set()
    for path, tree in files("producers", "reducer", "sink", "web", "mailspan"):
        if path != "mailspan/metrics.py":
            shown |= {text for text in strings(tree) if NAME.fullmatch(text)}
    assert shown - BY_NAME.keys() == set()
    assert BY_NAME.keys() - shown == set()


@pytest.mark.parametrize(
    "figure",
    [
        Figure("mailspan_made_up", 1),
        Figure("mailspan_reducer_lines_total", 1, ("one",)),
        Figure("mailspan_reducer_lines_unparsed_total", 1, ("one",)),
        Figure("mailspan_reducer_lines_total", Histogram("mailspan_commit_seconds").distribution),
        Figure("mailspan_commit_seconds", 1.0, ("reduce",)),
    ],
)
def test_a_figure_that_is_not_listed_so_is_a_fault(figure: Figure) -> None:
    with pytest.raises(ValueError, match="mailspan_"):
        check(figure)


def test_a_histogram_counts_up_to_each_bound() -> None:
    found = Histogram("mailspan_commit_seconds")
    for value, count in ((-1.0, 1), (0.005, 2), (0.0051, 3), (10.0, 4), (11.0, 5)):
        found.observe(value, count)
    cumulative, total = found.distribution
    assert (cumulative[0], cumulative[1], cumulative[-2], cumulative[-1]) == (3, 6, 10, 15)
    assert total == pytest.approx(0.01 + 0.0153 + 40 + 55)


def test_programs_come_from_a_closed_set() -> None:
    """A log may name any program: what is no MTA's name is `other`, whatever it looks like."""
    assert name_program("postfix/smtpd") == name_program("postfix-in/submission/smtpd") == "postfix/smtpd"
    assert name_program("sm-mta") == name_program("sendmail-made-up-4711") == "sendmail"
    assert (name_program("exim4"), name_program("smtpd"), name_program("rsyslogd")) == ("exim", "opensmtpd", "rsyslogd")
    hostile = [
        f"{text}{number}" for number in range(300) for text in ("x", "postfix/smtpd", "exim-", "sm-", "a/b/smtp")
    ]
    hostile += ["", "\0", "postfix/", "/smtpd", "\u202e", '"', "sm-\n", "x" * 10_000]
    closed = {f"postfix/{name}" for name in DAEMONS} | {"sendmail", "exim", "opensmtpd", "other"}
    assert {name_program(each) for each in hostile} <= closed


def test_reasons_are_words_of_the_program() -> None:
    """What gives a reason gives a constant, never a text that was made: so their number is closed."""
    found: Counter[str] = Counter()
    for path, tree in files("mailspan/grammar", "reducer", "producers"):
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            place = {"Ignored": 0, "Remarked": 0, "ignore": 0, "Unparsed": 1, "PeerError": 0}.get(node.func.id)
            if place is None or len(node.args) <= place:
                continue
            given = node.args[place]
            is_word = isinstance(given, ast.Constant) or (isinstance(given, ast.Name) and given.id.isupper())
            handed_on = isinstance(given, ast.Name) and (path, given.id) in {
                ("mailspan/grammar/kind.py", "reason"),  # that of `ignore`
                ("mailspan/grammar/__init__.py", "header"),  # what syslog.split returns: constants
            }
            assert is_word or handed_on, f"{path}:{node.lineno}"
            found[node.func.id] += 1
    assert found.keys() == {"Ignored", "Remarked", "ignore", "Unparsed", "PeerError"}
    split = next(tree for path, tree in files("mailspan/grammar") if path.endswith("/syslog.py"))
    returned = [node.value for node in ast.walk(split) if isinstance(node, ast.Return)]
    assert not [node for node in returned if isinstance(node, ast.JoinedStr)]


def test_hostile_lines_make_no_label() -> None:
    """Whatever a log says, the figures' labels are words of ours."""
    partition = Partition(OPTIONS)
    reading = Reading("", 1795500000, 1795500000, "own")
    for number in range(500):
        for line in (
            f"Nov 23 07:55:08 mx{number} p{number}/smtpd[1]: secret{number}",
            f"Nov 23 25:61:61 a b{number}: c",
        ):
            partition.apply(line.encode(), number, 0, reading)
    figures = Figures(lambda: 1795500001.0)
    figures.begin(0, 0, 0)
    figures.settle({0: partition}, {0: partition.output(urgent_only=False)})
    shown = list(figures.show({0: partition}, 0, 0, lambda _: 500))
    assert {figure.name for figure in shown if check(figure).labels == ("program", "reason")}
    assert len(shown) < 80
    assert not [label for figure in shown for label in figure.labels if re.search(r"secret|mx\d|p\d|b\d", label)]
    values = {figure.name: figure.value for figure in shown if not figure.labels}
    assert values["mailspan_reducer_lines_total"] == 1000


def test_only_what_is_settled_counts_and_each_line_once() -> None:
    partition, figures = Partition(OPTIONS), Figures(lambda: 150.0)
    figures.begin(0, 0, 0)
    readings = [Reading("", 100, read, "own") for read in (100, 100, 110, 100, 149)]
    for offset, reading in enumerate(readings):
        partition.apply(b"no line", offset, 0, reading)
    for expected in (5, 5):  # a second commit without lines adds nothing
        figures.settle({0: partition}, {0: partition.output(urgent_only=False)})
        values = {figure.name: figure.value for figure in figures.show({0: partition}, 0, 0, lambda _: None)}
        assert values["mailspan_reducer_lines_total"] == expected
        ages = values["mailspan_record_age_seconds"]
        assert isinstance(ages, Distribution)
        assert (ages.cumulative[-1], ages.sum) == (5, 3 * 50 + 40 + 1)


def test_lag_is_since_the_last_settled_record_or_since_all_was_settled() -> None:
    clock = [200.0]
    partition, figures = Partition(OPTIONS), Figures(lambda: clock[0])

    def lag(end: int | None) -> tuple[float, float | None] | None:
        shown = figures.show({0: partition}, 0, 0, lambda _: end)
        found = {each.name: each.value for each in shown if not isinstance(each.value, Distribution)}
        records = found.get("mailspan_lag_records")
        return None if records is None else (records, found.get("mailspan_lag_seconds", -1))

    figures.begin(0, 0, 10)
    assert lag(None) is None  # the client has not heard yet where it ends
    assert lag(10) == (10, -1)  # nothing is settled yet: the age is not known
    for offset in range(4):
        partition.apply(b"no line", offset, 0, Reading("", 100, 100 + offset, "own"))
    assert lag(10) == (10, -1)
    figures.settle({0: partition}, {0: partition.output(urgent_only=False)})
    assert lag(10) == (6, 103)
    assert lag(4) == (0, None)
    clock[0] = 300.0
    assert lag(5) == (1, 200.0)  # it was settled to its end at 200, however old the last record was


def test_silent_hosts_are_counted_as_of_where_a_partition_has_got_to() -> None:
    clock = [10_000.0]
    partition, figures = Partition(OPTIONS), Figures(lambda: clock[0])
    lines = [(f"Nov 23 07:55:08 mx{host} postfix/qmgr[1]: 4D{host}1A2B3C: removed", 10_000) for host in range(3)]

    def silent(end: int) -> float:
        shown = figures.show({0: partition}, 0, 0, lambda _: end)
        found = {each.name: each.value for each in shown if not isinstance(each.value, Distribution)}
        return found["mailspan_reducer_silent_hosts"] or 0.0

    figures.begin(0, 0, 0)
    for offset, (line, read) in enumerate(lines):
        partition.apply(line.encode(), offset, 0, Reading("", read, read, "own"))
    figures.settle({0: partition}, {0: partition.output(urgent_only=False)})
    assert silent(3) == 0
    clock[0] += 3599
    silent(3)
    assert silent(3) == 0
    clock[0] += 2
    assert silent(4) == 0  # there is more to read: perhaps theirs
    silent(3)
    assert silent(3) == 3
    partition.apply(lines[0][0].encode(), 3, 0, Reading("", 13_601, 13_601, "own"))
    figures.settle({0: partition}, {0: partition.output(urgent_only=False)})
    assert silent(4) == 2
    clock[0] = 10_000.0 + 86_401
    silent(4)
    assert silent(4) == 1  # the two wrote more than a day ago: they are forgotten


def test_hosts_without_number_are_heard_within_bounds() -> None:
    partition = Partition(OPTIONS)
    for number in range(10_050):
        line = f"Nov 23 07:55:08 h{number} postfix/qmgr[1]: 4D1A2B3C: removed"
        partition.apply(line.encode(), number, 0, Reading("", 100_000, 100_000, "own"))
    assert partition.silent_hosts(103_600.0) == 10_000


def test_the_page_is_made_from_the_list() -> None:
    assert metrics_page.PAGE.read_text(encoding="utf-8") == metrics_page.made(), "run `make docs`"
