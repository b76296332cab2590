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
        # What large receivers and filters say; each from a public issue.
        ("550 5.5.0 Requested action not taken: mailbox unavailable (S2017062302)", "5.5.0", "unknown user"),
        (
            "554 delivery error: dd This user doesn't have a yahoo.fr account (bob@example.com) [0]",
            "5.0.0",
            "unknown user",
        ),
        (
            "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup",
            "5.1.10",
            "unknown user",
        ),
        ("550 5.7.1 No such user!", "5.7.1", "unknown user"),
        ("550 Message was not accepted -- invalid mailbox.", "5.0.0", "unknown user"),
        ("554 5.2.2 <bob@example.com>: Recipient address rejected: Quota exceeded", "5.2.2", "mailbox full"),
        ("550 5.7.708 Service unavailable. Access denied, traffic not accepted from this IP.", "5.7.708", "reputation"),
        ("550 5.7.511 Access denied, banned sender[192.0.2.1].", "5.7.511", "reputation"),
        (
            "550 Service unavailable; Client host [mx.example] blocked using Barracuda Reputation;",
            "5.0.0",
            "reputation",
        ),
        ("554 IP address 192.0.2.1 rejected [IP reputation fail]", "5.0.0", "reputation"),
        ("550 5.7.1 Your email was rejected due to having a domain present in the Spamhaus DBL", "5.7.1", "reputation"),
        ("421-4.7.28 Gmail has detected an unusual rate of unsolicited mail.", "4.7.28", "reputation"),
        ("550 Envelope blocked - User Entry - https://community.mimecast.com/docs/DOC-1369#550", "5.0.0", "policy"),
        ("554 Email rejected due to security policies - https://community.mimecast.com/docs/DOC", "5.0.0", "policy"),
        ("554 5.7.9 Message not accepted for policy reasons.", "5.7.9", "policy"),
        ("554 Message not allowed - [PH01] Email not accepted for policy reasons.", "5.0.0", "policy"),
        ("550 5.7.1 Relaying denied", "5.7.1", "policy"),
        ("5.7.1 Spam message rejected", "5.7.1", "content"),
        ("554 rejected due to spam URL in content", "5.0.0", "content"),
        ("554 5.7.1 [1] Message rejected under suspicion of SPAM;", "5.7.1", "content"),
        # The MTAs' own words.
        ("conversation with mx.example[192.0.2.1] timed out while sending RCPT TO", "4.4.2", "connection"),
        ("lost connection with mx.example[192.0.2.1] while sending end of data", "4.4.2", "connection"),
        ("connect to mx.example[2001:db8::1]:25: Network is unreachable", "4.4.1", "connection"),
        ("Deferred: Operation timed out with mx.example.", None, "connection"),
        ("Deferred: Connection reset by mx.example.", None, "connection"),
        ("Remote host closed connection in response to initial connection", None, "connection"),
        ("Deferred: Name server: mx.example.: host name lookup failure", None, "DNS"),
        (
            "Host or domain name not found. Name service error for name=a.example type=MX: Host not found",
            "4.4.3",
            "DNS",
        ),
        ("450 4.7.25 Client host rejected: cannot find your hostname, [192.0.2.1]", "4.7.25", "DNS"),
        ("Cannot start TLS: handshake failure", "4.7.5", "TLS"),
        ("a TLS session is required, but an attempt to start TLS failed", None, "TLS"),
        ("mailbox is full (MTA-imposed quota exceeded while writing to file /var/mail/bob)", None, "mailbox full"),
        ("552 5.3.4 Error: message file too big", None, "size"),
        ("554 5.7.0 Reject, id=14545-13 - INFECTED: Eicar-Signature", "5.7.0", "content"),
        # A code or a time that says otherwise.
        ("450 4.2.0 Requested mail action not taken: mailbox unavailable", "4.2.0", "other"),
        ("550 5.4.5 Daily user sending quota exceeded.", "5.4.5", "policy"),
    ],
)
def test_other_real_replies(status: str, dsn: str | None, reason: str) -> None:
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
