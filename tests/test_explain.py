"""`mailspan explain`: words for one, many and no recipients, notes, links, several matches, hostile values."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from search.explain import NOTES, Explanation, Failure, Group, Note, Story, explain
from search.explain_text import explain_text
from sink.sqlite import open_for_writing
from tests.running import ROOT, mailspan_here
from tests.search_documents import FIRST, attempt, document, stamp
from tests.test_search_output import HOSTILE, UNSAFE, hostile

if TYPE_CHECKING:
    from pathlib import Path

NOW_MS = (FIRST + 7200) * 1000
GMAIL = "gmail-smtp-in.l.google.com"
RATE = f"deferred (host {GMAIL}[192.0.2.1] said: 421-4.7.28 Our system has detected an unusual rate of mail)"


def words(found: dict[str, Any], *more: dict[str, Any]) -> str:
    return explain_text(explain([found, *more], now_ms=NOW_MS), UTC)


def failed(minute: int, who: str = "alice@example.com") -> dict[str, Any]:
    return attempt(who, "deferred", status=RATE, relay=GMAIL, dsn="4.7.28", date=stamp(FIRST + 60 * minute))


def sent(minute: int, who: str = "alice@example.com") -> dict[str, Any]:
    return attempt(who, "relayed", status="sent (250 ok)", relay=GMAIL, dsn="2.0.0", date=stamp(FIRST + 60 * minute))


def test_deferred_and_then_delivered() -> None:
    found = document(
        queue_id="4A1", to=[failed(0), failed(5), failed(10), failed(20), sent(37)], attempt_count=5, state="closed",
        client="mua [192.0.2.9]", size=440, **{"from": "bob@example.com"},
    )  # fmt: skip
    assert words(found).splitlines() == [
        "4A1 on mx1.example.com (postfix)",
        "  A mail from bob@example.com was handed in by mua [192.0.2.9] on 2026-11-23 at 08:00:00, 440 bytes.",
        (
            f"  alice@example.com: deferred 4 times by {GMAIL}: 4.7.28 rate limit [reputation]; "
            f"handed on to {GMAIL} after 37 min on the 5th attempt"
        ),
        f"    last words: {RATE}",
    ]


def test_what_is_not_kept_is_said() -> None:
    found = document(queue_id="4A1", to=[failed(0), sent(37)], attempt_count=40, state="closed")
    assert "on the 40th attempt; of 40 attempts the record keeps 2" in words(found)


def test_one_of_several_recipients_may_have_had_more_attempts() -> None:
    to = [*(failed(n, "x@example.com") for n in range(9)), sent(50, "x@example.com"), sent(1, "y@example.com")]
    whole = words(document(queue_id="4A1", to=to, attempt_count=11, state="closed"))
    assert "after 50 min on the 10th attempt" in whole
    cut = words(document(queue_id="4A1", to=to, attempt_count=61, state="closed"))
    assert "10th" not in cut
    assert "after 50 min; the record keeps the first 2 attempts and the last 8" in cut


def test_fields_that_the_writer_did_not_know_are_as_if_empty() -> None:
    """The sink takes such documents."""
    wanted = ("id", "host", "mta", "date", "updated", "to", "version")
    bare = {name: document(queue_id="4A1")[name] for name in wanted}
    to = [{"recipient": "a@example.com", "date": stamp(FIRST), "status": None}]
    assert "a@example.com: the log does not say how it ended" in words({**bare, "to": to})
    text = words({**bare, "to": [{**to[0], "outcome": "deferred"}]})
    assert "a@example.com: deferred" in text
    assert "last words" not in text


def test_many_recipients_are_summed_up() -> None:
    to = [sent(1, f"user{n}@example.com") for n in range(9_998)] + [
        failed(1, "x@example.com"),
        failed(1, "y@example.com"),
    ]
    text = words(document(queue_id="4A1", to=to, attempt_count=10_000))
    assert len(text.splitlines()) == 6
    assert f"    9998 handed on ({GMAIL}), the slowest after 1 min: user0@example.com, user1@example.com" in text
    assert f"    2 still waiting for the next attempt ({GMAIL}): 4.7.28 rate limit [reputation]: x@example.com" in text


def test_no_recipient() -> None:
    text = words(document(queue_id="4A1", outcome="aborted", state="closed"))
    assert "No recipient is in the log: the client went away before the mail was whole." in text


def test_expiry_has_the_reason_of_the_attempts_before_it() -> None:
    over = attempt("alice@example.com", "expired", status="expired, returned to sender", date=stamp(FIRST + 600))
    found = explain([document(queue_id="4A1", to=[failed(0), over], state="closed")], now_ms=NOW_MS)
    assert [each.reason for each in found.recipients[0].failures] == ["reputation", "reputation"]
    assert found.recipients[0].outcome == "expired"


def test_each_note_and_link_is_put_into_words() -> None:
    kinds = ("next", "bounce", "bounce_of", "delay_notice", "clone", "original", "what nobody knows")
    links = [{"kind": kind, "queue_id": f"Q{n}", "host": None} for n, kind in enumerate(kinds)]
    text = words(document(queue_id="4A1", notes=list(NOTES), links=links, state="closed"))
    for note, means in NOTES.items():
        assert f"Note, {note}: {means}." in text
    assert "The sender was told of the failure in Q1." in text
    assert "It belongs to Q6." in text


def test_an_open_mail_without_news_is_incomplete() -> None:
    found = document(queue_id="4A1", to=[failed(0)], state="open")
    assert "still waiting" in words(found)
    later = explain([found], now_ms=NOW_MS + 6 * 86_400_000)
    assert later.state == "incomplete"
    assert "still waiting" not in explain_text(later, UTC)


def test_a_mail_on_hold_is_said_to_be() -> None:
    found = document(queue_id="4A2", to=[failed(0)], outcome="held", state="open")
    assert words(found).splitlines()[-1] == "  It is on hold: no attempt is made until it is released."
    assert "on hold" not in words({**found, "state": "closed", "closed_by": "deleted"})


def test_a_rejection_has_its_stage() -> None:
    found = document(
        id="mx1/~ab", host="mx1", kind="rejection", stage="rcpt", client="spam [192.0.2.9]", outcome="rejected",
        to=[attempt("a@example.com", "rejected", status="550 5.1.1 User unknown", dsn="5.1.1", relay=None, date=stamp(FIRST))],
    )  # fmt: skip
    text = words(found)
    assert "spam [192.0.2.9] was refused at the recipient for good" in text
    assert "a@example.com: refused: 5.1.1 no such user [unknown user]" in text


def test_nothing_of_a_log_acts_on_a_terminal() -> None:
    found = hostile()
    found["to"][0]["date"] = stamp(FIRST)
    text = words({**found, "outcome": HOSTILE, "mta": HOSTILE})
    assert not UNSAFE & set(text.replace("\n", ""))
    assert len(text.splitlines()) == len(
        words(document(queue_id="q", to=[sent(0)], links=found["links"], notes=["x"])).splitlines()
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("explain") / "mail.db"
    with open_for_writing(path) as writer:
        writer.write([
            document(queue_id="4A1", id="mx1/4A1", host="mx1", to=[sent(1)], msgid="m@example.com"),
            document(queue_id="4A1", id="mx2/4A1", host="mx2", to=[failed(1)], msgid="m@example.com"),
            document(queue_id="4a1", id="mx3/4a1", host="mx3", to=[sent(2)], msgid="n@example.com"),
            document(queue_id="5B2", id=f"mx4/5B2/{FIRST}", host="mx4", to=[sent(2)]),
            document(queue_id="5B2", id=f"mx4/5B2/{FIRST + 1}", host="mx4", to=[sent(2)]),
            document(queue_id="5b2", id=f"mx4/5b2/{FIRST}", host="mx4", to=[sent(2)]),
        ])  # fmt: skip
    return f"sqlite:///{path}"


@pytest.mark.parametrize(
    ("asked", "status", "hosts"),
    [
        (f"mx4/5B2/{FIRST}", 0, ["mx4"]),
        ("mx4/5B2", 0, ["mx4", "mx4"]),
        ("mx4/5b2", 0, ["mx4"]),
        ("mx1/4A1", 0, ["mx1"]),
        ("4a1", 0, ["mx3"]),  # case matters where it tells mails apart
        ("4A1", 0, ["mx1", "mx2"]),
        ("<m@example.com>", 0, ["mx1", "mx2"]),
        ("nothing", 1, []),
    ],
)
def test_which_mail_is_meant(
    capsys: pytest.CaptureFixture[str], store: str, asked: str, status: int, hosts: list[str]
) -> None:
    done = mailspan_here(capsys, "explain", "--store", store, "--json", asked)
    assert done.status == status
    assert sorted(orjson.loads(line)["host"] for line in done.output.splitlines()) == hosts


def test_several_are_listed_as_in_search(capsys: pytest.CaptureFixture[str], store: str) -> None:
    done = mailspan_here(capsys, "explain", "--store", store, "4A1")
    assert done.output.count("transaction: 4A1") == 2
    assert "2 mails are meant" in done.errors


def test_the_ways_to_fail(capsys: pytest.CaptureFixture[str]) -> None:
    assert mailspan_here(capsys, "explain").status == 2
    assert mailspan_here(capsys, "explain", "--store", "sqlite:////nonexistent/mail.db", "x").status == 3


def test_the_schema_is_documented() -> None:
    page = (ROOT / "docs/explain.md").read_text()
    names = {field.name for kind in (Explanation, Failure, Group, Note, Story) for field in fields(kind)}
    assert [name for name in sorted(names) if f"`{name}`" not in page] == []
