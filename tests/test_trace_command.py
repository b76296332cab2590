"""`mailspan trace` as it is called: what it finds by, its list of several, its exit codes, and its words."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import pytest

from sink.sqlite import open_for_writing
from tests.running import mailspan_here
from tests.search_documents import FIRST
from tests.trace_cases import CASES, hop, kept

if TYPE_CHECKING:
    from pathlib import Path

    from tests.running import Done


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("command") / "mail.db"
    with open_for_writing(path) as writer:
        for name in ("message_id_twice", "missing_middle", "queue_id_on_three_hosts", "told_name"):
            writer.write(CASES[name].documents)
        writer.write([hop("mx7", "5B2", n, [kept("bob@example.net", n)], id=f"mx7/5B2/{FIRST + n}") for n in (0, 1)])
        writer.write([hop(f"mx{n}", name, 0, [kept("bob@example.net", 1)]) for n, name in ((5, "4jXyB"), (6, "4jXyb"))])
    return path


def trace(capsys: pytest.CaptureFixture[str], store: Path, *arguments: str, **settings: str) -> Done:
    return mailspan_here(capsys, "trace", *arguments, "--store", f"sqlite:///{store}", settings=settings)


def nodes(output: str) -> list[list[str]]:
    return [[node["id"] for node in orjson.loads(line)["nodes"]] for line in output.splitlines()]


@pytest.mark.parametrize(
    "arguments",
    [
        ("T1B",),
        ("mx2/T1B",),
        ("-i", "T1A"),
        ("-m", "<twice@example.com>", "-t", "bob1@example.net"),
        ("-f", "alice@example.com", "-t", "bob1@example.net", "-d", "2026-11-23"),
    ],
)
def test_a_mail_is_found(capsys: pytest.CaptureFixture[str], store: Path, arguments: tuple[str, ...]) -> None:
    done = trace(capsys, store, *arguments, "--json")
    assert done.status == 0
    assert nodes(done.output) == [["mx1/T1A", "mx2/T1B"]]


def test_several_are_listed_and_all_draws_each(capsys: pytest.CaptureFixture[str], store: Path) -> None:
    done = trace(capsys, store, "<twice@example.com>")
    assert done.status == 0
    assert done.output == (
        "2 mails; name one of these, or add --all to draw each:\n"
        "2026-11-23 08:00:00  mx1/T1A  <alice@example.com> to bob1@example.net: delivered\n"
        "2026-11-23 08:00:01  mx1/T2A  <alice@example.com> to bob2@example.net: delivered\n"
    )
    listed = [orjson.loads(line) for line in trace(capsys, store, "twice@example.com", "--json").output.splitlines()]
    assert [(each["match"], each["outcome"], each["transactions"]) for each in listed] == [
        ("mx1/T1A", "delivered", 2),
        ("mx1/T2A", "delivered", 2),
    ]
    drawn = trace(capsys, store, "twice@example.com", "--all").output
    assert drawn.count("final outcome") == 2
    both = trace(capsys, store, "twice@example.com", "--all", "--json").output
    assert nodes(both) == [["mx1/T1A", "mx2/T1B"], ["mx1/T2A", "mx2/T2B"]]


def test_a_queue_id_of_three_hosts_lists_three_mails(capsys: pytest.CaptureFixture[str], store: Path) -> None:
    listed = trace(capsys, store, "C0FFEE1").output.splitlines()
    assert [line.split("  ")[1] for line in listed[1:]] == ["gate/G1", "mx1/C0FFEE1", "mx3/C0FFEE1"]


def test_case_matters_in_a_queue_id_where_it_can(capsys: pytest.CaptureFixture[str], store: Path) -> None:
    assert nodes(trace(capsys, store, "4jXyb", "--json").output) == [["mx6/4jXyb"]]
    assert nodes(trace(capsys, store, "mx5/4jXyB", "--json").output) == [["mx5/4jXyB"]]
    assert nodes(trace(capsys, store, "4JXYB", "--json", "--all").output) == [["mx5/4jXyB"], ["mx6/4jXyb"]]


def test_what_is_listed_can_be_asked_for(capsys: pytest.CaptureFixture[str], store: Path) -> None:
    """Where a host used a queue id twice, only the document's id tells the mails apart."""
    listed = trace(capsys, store, "mx7/5B2").output.splitlines()
    names = [line.split("  ")[1] for line in listed[1:]]
    assert names == [f"mx7/5B2/{FIRST}", f"mx7/5B2/{FIRST + 1}"]
    matches = [orjson.loads(line)["match"] for line in trace(capsys, store, "5B2", "--json").output.splitlines()]
    assert matches == names
    for name in names:
        assert nodes(trace(capsys, store, name, "--json").output) == [[name]]


def test_what_a_relay_is_can_be_told(capsys: pytest.CaptureFixture[str], store: Path) -> None:
    told = trace(capsys, store, "S1", "--json", RELAY_HOSTS="10.9.8.7=node7")
    assert nodes(told.output) == [["mx1/S1", "node7/S2"]]
    assert nodes(trace(capsys, store, "S1", "--json").output) == [["mx1/S1"]]


def test_nothing_found(capsys: pytest.CaptureFixture[str], store: Path) -> None:
    done = trace(capsys, store, "NOWHERE1")
    assert (done.status, done.output, done.errors) == (1, "", "nothing found\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "mailspan: which mail? give a queue id or message id, or flags as -f, -t and -d (see --help)\n"),
        (("-h",), "mailspan: -h needs the name of a host, as in -h smtp; for help use --help\n"),
        (("-o", "lost"), "mailspan: -o 'lost': expected one of "),
    ],
)
def test_a_wrong_call_is_said_in_a_line(
    capsys: pytest.CaptureFixture[str], store: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = trace(capsys, store, *arguments)
    assert (done.status, done.output) == (2, "")
    assert done.errors.startswith(message)


def test_a_store_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    done = trace(capsys, tmp_path / "none.db", "A1")
    assert done.status == 3
    assert "no mail at" in done.errors
