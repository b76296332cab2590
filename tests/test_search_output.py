"""What search prints: the original tool's look, rejections, pages, and nothing that a terminal would act on."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from datetime import UTC
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from search.output import Layout, count_lines, json_line, text_form
from sink.sqlite import open_for_writing
from tests.running import ROOT, mailspan
from tests.search_documents import attempt, document, pages

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LAYOUT = Layout(now_ms=1_795_420_800_000, zone=UTC)
# Moves the cursor, retitles the window, starts a sequence by one C1 byte, turns the text around, hides, ends the line.
HOSTILE = "a\x1b[2J\x1b]0;owned\x07\x9b31m\u202egpj.exe\u2066\u200b\r\n\x00\x7fz"
UNSAFE = set(HOSTILE) - set("a[2J]0;owned31mgpj.exez\n")


def text(*found: dict[str, Any], **layout: Any) -> str:  # noqa: ANN401 - each field has its own type
    return "".join(text_form(found, Layout(now_ms=LAYOUT.now_ms, zone=UTC, **layout)))


def hostile() -> dict[str, Any]:
    return document(
        **dict.fromkeys(("queue_id", "host", "msgid", "client", "subject", "helo", "protocol", "tls"), HOSTILE),
        **{"from": HOSTILE, "sasl_username": HOSTILE, "controlling_user": HOSTILE, "closed_by": HOSTILE, "id": "h/q"},
        notes=[HOSTILE],
        links=[{"kind": "next", "queue_id": HOSTILE, "host": HOSTILE}],
        to=[attempt(HOSTILE, status=HOSTILE, relay=HOSTILE, dsn=HOSTILE, original_recipient=HOSTILE)],
    )


@pytest.fixture(scope="module")
def hostile_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("hostile") / "mail.db"
    with open_for_writing(path) as writer:
        writer.write([hostile()])
    return f"sqlite:///{path}"


def on_a_terminal(*arguments: str, **environment: str) -> str:
    """Return what a command writes to a terminal, both streams."""
    leader, terminal = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "mailspan", *arguments],
        stdin=terminal, stdout=terminal, stderr=terminal, cwd=ROOT,
        env={**os.environ, "TZ": "UTC", "TERM": "xterm", **environment},
    )  # fmt: skip
    os.close(terminal)
    written = b"".join(_chunks(leader))
    child.wait(timeout=60)
    os.close(leader)
    return written.decode().replace("\r\n", "\n")


def _chunks(leader: int) -> Iterator[bytes]:
    while True:
        try:
            chunk = os.read(leader, 65536)
        except OSError:  # Linux says so when the last writer is gone
            return
        if not chunk:
            return
        yield chunk


def test_what_is_absent_and_the_null_sender() -> None:
    one = document(queue_id="A1", **{"from": ""}, msgid="", to=[])
    assert text(one).splitlines()[1:6] == [
        "client: -",
        "from:   <>",
        "msgid:  <>",
        "date:   2026-11-23 08:00:00",
        "to:     -",
    ]
    assert text(document(queue_id="A1", to=[])).splitlines()[2:4] == ["from:   -", "msgid:  -"]


def test_one_line_per_attempt_and_a_blank_line_between() -> None:
    two = [attempt("a@example.com", "deferred"), attempt("a@example.com", original_recipient="list@example.com")]
    assert text(document(queue_id="A1", to=two), document(queue_id="A2", to=two)).splitlines()[5:9] == [
        "to:     recipient='a@example.com', relay='mx.example.org', status='deferred (said so)'",
        "to:     recipient='a@example.com', original='list@example.com', relay='mx.example.org', status='relayed (said so)'",
        "host:   mx1.example.com",
        "",
    ]


def test_a_rejection() -> None:
    refused = attempt("x@example.com", "rejected", relay=None, status="550 5.7.1 no")
    one = document(
        queue_id=None,
        id="mx1/~12",
        kind="rejection",
        stage="rcpt",
        session="mx1/smtpd[1]",
        to=[refused],
        repeat_count=3,
    )
    lines = text(one, verbose=True).splitlines()
    assert lines[0] == "transaction: NOQUEUE"
    assert lines[5].startswith("to:     recipient='x@example.com', relay='-', status='550 5.7.1 no'")
    assert "kind:   rejection rcpt" in lines
    assert "session: mx1/smtpd[1]" in lines
    assert "repeat count: 3" in lines
    whole = document(queue_id=None, id="mx1/~13", to=[{**refused, "recipient": ""}], outcome="rejected")
    whole["to"][0]["recipient"] = None  # refused before any recipient was named
    assert "to:     recipient='-', relay='-', status='550 5.7.1 no'" in text(whole)


def test_a_quote_cannot_end_a_value() -> None:
    one = document(queue_id="A1", to=[attempt("a', relay='evil", status="x\\' y")])
    assert r"recipient='a\', relay=\'evil', relay='mx.example.org', status='x\\\' y'" in text(one)


def test_pages_are_one_block() -> None:
    four = pages(4, 3, queue_id="A1")
    lines = text(*four).splitlines()
    assert sum(line.startswith("transaction:") for line in lines) == 1
    assert sum(line.startswith("to:") for line in lines) == 3
    assert "pages:  1 of 4 (-t finds a recipient on any, -v shows all that match)" in lines
    lines = text(*four, verbose=True).splitlines()
    assert sum(line.startswith("to:") for line in lines) == 12
    assert not [line for line in lines if line.startswith("pages:")]
    assert "pages:  3 of 4" in text(four[2])


def test_an_open_mail_without_news_is_incomplete() -> None:
    old = document(queue_id="A1", state="open", date="2026-11-01T00:00:00.000Z")
    assert "state:  incomplete\n" in text(old, verbose=True)
    assert "state:  open\n" in text(document(queue_id="A1", state="open"), verbose=True)


def test_nothing_hostile_is_printed_raw() -> None:
    for layout in ({}, {"verbose": True}):
        shown = text(hostile(), **layout)
        assert not UNSAFE & set(shown)
        assert "\\x1b]0;owned\\x07\\x9b31m\\u202egpj.exe" in shown
        assert len(shown.splitlines()) == len(text(document(), **layout).splitlines()) + (0 if not layout else 8)
    counts = [(HOSTILE, 1)]
    assert not UNSAFE & set("".join(count_lines(counts, as_json=False)))
    shown = "".join(count_lines(counts, as_json=True, for_terminal=True))
    assert not UNSAFE & set(shown)
    assert orjson.loads(shown)["value"] == HOSTILE
    encoded = orjson.dumps(hostile())
    assert json_line(encoded, for_terminal=False) == encoded + b"\n"
    assert not UNSAFE & set(json_line(encoded, for_terminal=True).decode())
    assert orjson.loads(json_line(encoded, for_terminal=True)) == hostile()


@pytest.mark.parametrize(
    "arguments",
    [(), ("-v",), ("--json",), ("--count", "--by", "sender"), ("--count", "--by", "host", "--json"), ("-o", HOSTILE)],
)
def test_a_terminal_never_gets_it_raw(hostile_store: str, arguments: tuple[str, ...]) -> None:
    given = [each.replace("\x00", "") for each in arguments]
    shown = on_a_terminal("search", "--store", hostile_store, *given, NO_COLOR="1")
    assert "owned" in shown
    assert not UNSAFE & set(shown)


def test_colours_only_where_wanted(hostile_store: str) -> None:
    assert "\x1b[32m" in on_a_terminal("search", "--store", hostile_store, "-v", NO_COLOR="")
    assert "\x1b" not in on_a_terminal("search", "--store", hostile_store, "-v", NO_COLOR="1")
    assert "\x1b" not in on_a_terminal("search", "--store", hostile_store, "-v", NO_COLOR="", TERM="dumb")
    assert b"\x1b" not in mailspan("search", "--store", hostile_store, "-v").stdout


def test_a_closed_pipe_is_silent(tmp_path: Path) -> None:
    path = tmp_path / "mail.db"
    with open_for_writing(path) as writer:
        writer.write([document(queue_id=f"A{n}", subject="x" * 900) for n in range(2000)])
    for flags in ("--json -r 2000", "-v -r 2000"):
        command = f"{sys.executable} -m mailspan search --store sqlite:///{path} {flags} | head -n 1"
        done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, check=False, cwd=ROOT, timeout=60)
        assert done.stderr == b""
        assert len(done.stdout.splitlines()) == 1


def test_json_is_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "mail.db"
    written = [*pages(3, 2, queue_id="A1"), document(queue_id="A2", subject="Grüße \u202e")]
    with open_for_writing(path) as writer:
        writer.write(written)
    found = mailspan("search", "--store", f"sqlite:///{path}", "--json", "-r", "2").stdout
    assert sorted(io.BytesIO(found)) == sorted(orjson.dumps(each) + b"\n" for each in written)
