"""Why a delivery failed: each rule by its real reply, the order of rules, names that must not count, hostile length."""

from __future__ import annotations

import time

import pytest

from search.reasons import CLASSES, OTHER, RULES, Reason, Rule, reason_of

SLOWEST_SECONDS = 0.005
SIZE = 65_536


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.example[:40])
def test_each_rule_reads_its_example(rule: Rule) -> None:
    assert reason_of(rule.example, rule.dsn) == Reason(rule.reason, rule.means)
    assert rule.source
    assert rule.dsns or rule.words


def test_every_class_has_a_rule() -> None:
    assert {rule.reason for rule in RULES} == set(CLASSES)


@pytest.mark.parametrize(
    ("status", "dsn", "reason"),
    [
        # Of the lab's logs: Sendmail's own words.
        ("Deferred: Connection refused by dead.lab.test.", "4.0.0", "connection"),
        ("User unknown", "5.1.1", "unknown user"),
        ("Host unknown (Name server: nx.lab.test: host not found)", "5.1.2", "DNS"),
        (
            "host mx1.sink.lab.test[10.77.0.21] said: 452 4.2.2 <full-d0135@sink.lab.test>: Mailbox full",
            "4.2.2",
            "mailbox full",
        ),
        ("Service unavailable", "5.0.0", "other"),
    ],
)
def test_other_real_replies(status: str, dsn: str, reason: str) -> None:
    assert reason_of(status, dsn).reason == reason


@pytest.mark.parametrize(
    "status",
    [
        "451 <greylist@example.com>: try again",
        "deferred (host greylisted.example.com[192.0.2.1] said: 451 try again)",
        "451 see https://example.com/greylist",
    ],
)
def test_names_choose_no_class(status: str) -> None:
    assert reason_of(status, "4.0.0") == OTHER


def test_a_final_failure_is_not_greylisted() -> None:
    assert reason_of("550 Greylisted", "5.0.0") == OTHER


@pytest.mark.parametrize("status", [None, "", " ", "\x00", "\ud800"])
@pytest.mark.parametrize("dsn", [None, "", ".", "4", "4.", "x.y.z", "4.7", "....", "5.7.1.1"])
def test_nothing_known_is_other(status: str | None, dsn: str | None) -> None:
    assert reason_of(status, dsn) == OTHER


@pytest.mark.parametrize(
    "part",
    ["a ", "x", "@", "spam - ", "[", "450-4.2.1 ", "greylis ", ". ", "\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}"],
)
def test_hostile_text_is_read_in_a_few_milliseconds(part: str) -> None:
    text = (part * SIZE)[:SIZE]
    spent = []
    for _ in range(5):
        start = time.process_time()
        reason_of(text, "4.0.0")
        spent.append(time.process_time() - start)
    assert min(spent) < SLOWEST_SECONDS
