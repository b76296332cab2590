"""Every line kind's real example is read, and gives the event and the fields that its entry promises."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from mailspan.event import Attempted, Client, Disconnected, Linked, Received, Refused, Secured
from mailspan.event_time import TimeSettings
from mailspan.grammar import KINDS, Parser
from mailspan.record import Ignored, Record, Unparsed

if TYPE_CHECKING:
    from mailspan.grammar.kind import LineKind

PROGRAMS = {"postfix": "smtp", "sendmail": "sm-mta", "exim": "exim", "opensmtpd": "smtpd", "dovecot": "dovecot"}
PREFIXES = {"postfix": "postfix/"}
BEHIND_ID = {"exim": " "}
SETTINGS = TimeSettings(reference=int(datetime(2026, 11, 24, tzinfo=UTC).timestamp()), zone=UTC)
ALL = [(mta, kind) for mta, kinds in KINDS.items() for kind in kinds]


@pytest.mark.parametrize(("mta", "kind"), ALL, ids=[f"{mta}: {kind.name}" for mta, kind in ALL])
def test_the_example_gives_what_the_entry_promises(mta: str, kind: LineKind) -> None:
    program = PREFIXES.get(mta, "") + (kind.programs[0] if kind.programs else PROGRAMS[mta])
    result = Parser(SETTINGS, "here").parse(f"Nov 23 07:55:08 mx1 {program}[94]: {kind.example}")
    if kind.event is Ignored:
        assert isinstance(result, Ignored)
        return
    assert isinstance(result, Record), result
    assert type(result.event) is kind.event
    for name, value in kind.expect.items():
        assert getattr(result.event, name) == value, name
    if kind.queued and not kind.example.startswith("NOQUEUE"):
        assert result.queue_id == kind.example.partition(BEHIND_ID.get(mta, ":"))[0]


HEADERS = [
    "Nov 23 07:55:08 mx1 postfix/smtpd[94]: ",
    "<22>Nov 23 07:55:08 mx1 postfix/submission/smtpd[94]: ",
    "Nov 23 07:55:08 postfix-in/smtpd[94]: ",
    "Nov 23 07:55:08.250 MX1 postfix-239.58.50.50/smtpd[94]: ",
    "2026-11-23T08:55:08.123456+01:00 mx1 postfix/smtpd[94]: ",
    "2026-11-23T07:55:08Z mx1 postfix/smtpd[94]: ",
    "2026-11-23T04:25:08-0330 mx1 postfix/smtpd[94]: ",
    "<22>1 2026-11-23T07:55:08.5Z mx1 postfix/smtpd 94 - - ",
    '<22>1 2026-11-23T07:55:08Z mx1 postfix/smtpd 94 - [x y="a]b\\"c"] ',
    "Nov 23 07:55:08 mx1 postfix/smtpd[94]: [ID 197553 mail.info] ",
    "Nov 23 07:55:08 <mail.info> mx1 postfix/smtpd[94]: ",
    "Nov 23 07:55:08 <2.6> mx1 postfix/smtpd[94]: ",
    "Nov 23 07:55:08 mx1 mail.info postfix/smtpd[94]: ",
    "Nov 23 07:55:08 mx1 mail:info postfix/smtpd[94]: ",
    "Nov 23 07:55:08 Message forwarded from mx1: postfix/smtpd[94]: ",
    "<22>Nov 23 07:55:08 relay Message forwarded from mx1: postfix/smtpd[94]: ",
    "Nov 23 07:55:08 2026 mx1 postfix/smtpd[94]: ",
    "Mon Nov 23 07:55:08 2026 mail.info postfix/smtpd[94]: ",
    "2026-11-23 07:55:08 mx1 postfix/smtpd[94]: ",
    "2026-11-23 07:55:08,123 mx1 postfix/smtpd[94]: ",
    "2026-11-23 08:55:08 +01:00 mx1 postfix/smtpd[94]: ",
    "Mon 2026-11-23 07:55:08 UTC mx1 postfix/smtpd[94]: ",
    "Mon 2026-11-23 08:55:08.123456 +01 mx1 postfix/smtpd[94]: ",
    "Mon 2026-11-23 07:55:08 CET mx1 postfix/smtpd[94]: ",
    "1795420508.123456 mx1 postfix/smtpd[94]: ",
    "mail-1  | Nov 23 07:55:08 mx1 postfix/smtpd[94]: ",
    "mail.1 | Nov 23 07:55:08 mx1 postfix/smtpd[94]: ",
    "mail-1  | 2026-11-23T07:55:08.123+00:00 mx1 postfix/smtpd[94]: ",
    "mail-1  | 2026-11-23T07:55:09.000000000Z Nov 23 07:55:08 mx1 postfix/smtpd[94]: ",
    "2026-11-23T07:55:09.123456789Z Nov 23 07:55:08 mx1 postfix/smtpd[94]: ",
    "2026-11-23T07:55:09.123456789Z 2026-11-23T07:55:08.120000+00:00 mx1 postfix/smtpd[94]: ",
    "2026-11-23T07:55:09.123456789Z stdout F Nov 23 07:55:08 mx1 postfix/smtpd[94]: ",
]


@pytest.mark.parametrize("header", HEADERS)
def test_every_header_gives_the_same_record(header: str) -> None:
    parser = Parser(SETTINGS, "MX1")
    for _ in range(2):  # the second time by the short way
        result = parser.parse(header + "B6D781149FE: client=mua1.lab.test[10.77.0.32]")
        assert isinstance(result, Record), result
        assert (result.host, result.queue_id, result.mta, result.pid) == ("mx1", "B6D781149FE", "postfix", "94")
        assert result.stamp.second == 1795420508
        assert result.stamp.second == int(datetime(2026, 11, 23, 7, 55, 8, tzinfo=UTC).timestamp())
        assert result.text == "client=mua1.lab.test[10.77.0.32]"


@pytest.mark.parametrize("day", ["Nov 3 ", "Nov  3 ", "Nov 03 "])
def test_one_digit_days(day: str) -> None:
    result = Parser(SETTINGS, "here").parse(f"{day}07:55:08 mx1 postfix/qmgr[9]: B6D781149FE: removed")
    assert isinstance(result, Record), result
    assert result.stamp.second == int(datetime(2026, 11, 3, 7, 55, 8, tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("Nov 23 07:55:08 edge2 su[1]: (to root) root on none", "foreign program"),
        ("Nov 23 07:55:08 edge2 last message repeated 3 times", "repeated"),
        ("Nov 23 07:55:08 last message repeated 3 times", "repeated"),
        ("Nov 23 07:55:08: --- last message repeated 3 times ---", "repeated"),
    ],
)
def test_what_is_not_read_says_why(line: str, reason: str) -> None:
    assert Parser(SETTINGS, "here").parse(line) == Ignored(reason)


# Dialects of kinds whose example shows another one: (program, message, event, its fields).
DIALECTS = [
    (
        "postfix/smtp",  # 2.4
        (
            "4A1B2C3D4E: to=<to@example.net>, relay=mail.example.net[10.0.0.1]:25, conn_use=2 delay=1021, "
            "delays=1020/0.04/0.56/0.78, dsn=2.0.0, status=sent (250 Ok: queued as 6EAC4719EB)"
        ),
        Attempted,
        {"relay_ip": "10.0.0.1", "delay_seconds": 1021.0, "next_queue_id": "6EAC4719EB"},
    ),
    (
        "postfix/smtpd",  # with fields of a patch
        "4A1B2C3D4E: client=example.com[192.168.0.1], helo=example.com, sasl_method=LOGIN, sasl_username=a,b@example.com",
        Received,
        {
            "client": Client("example.com [192.168.0.1]", "example.com", "192.168.0.1"),
            "sasl_username": "a,b@example.com",
        },
    ),
    (
        "postfix/smtpd",  # 2.6
        "lost connection after DATA (approximately 0 bytes) from example.com[10.0.0.1]",
        Disconnected,
        {"lost_after": "DATA"},
    ),
    (
        "postfix/smtpd",
        "lost connection after BDAT content (12 bytes) from example.com[10.0.0.1]",
        Disconnected,
        {"lost_after": "BDAT"},
    ),
    (
        "postfix/smtpd",  # 3.9
        "bare <LF> received after DATA (1234 bytes) from example.com[10.0.0.1]",
        Disconnected,
        {"lost_after": "DATA"},
    ),
    (
        "postfix/smtpd",  # 2.2 to 2.4
        "TLS connection established from example.com[192.168.0.1]: TLSv1 with cipher DHE-RSA-AES256-SHA (256/256 bits)",
        Secured,
        {"incoming": True, "tls": "TLSv1 DHE-RSA-AES256-SHA"},
    ),
    (
        "postfix/smtp",  # 2.2
        "TLS connection established to example.com: TLSv1 with cipher AES256-SHA (256/256 bits)",
        Secured,
        {"incoming": False, "peer": "example.com", "peer_ip": None},
    ),
    (
        "postfix/smtp",  # an address in place of a name
        "Untrusted TLS connection established to 2001:db8::1[2001:db8::1]:25: TLSv1.3 with cipher X (256/256 bits)",
        Secured,
        {"incoming": False, "peer": "2001:db8::1", "peer_ip": "2001:db8::1"},
    ),
    (
        "postfix/postscreen",  # 2.8
        "reject: connect from [192.168.0.1]:21225: all screening ports busy",
        Refused,
        {"stage": "connect", "status": "all screening ports busy"},
    ),
    (
        "postfix/smtpd",  # with a field of a patch behind the HELO name
        (
            "proxy-accept: END-OF-MESSAGE: 250 2.0.0 from MTA([127.0.0.1]:10025): 250 2.0.0 Ok: queued as E152B24A6286; "
            "from=<user@example.com> to=<othermail@example.net> proto=ESMTP helo=<sbit5> realsend_user=<realuser@example.com>"
        ),
        Linked,
        {"next_queue_id": "E152B24A6286", "recipient": "othermail@example.net"},
    ),
    (
        "sm-mta",
        "6AN7tBfo000126: Milter: connect: host=mua2.lab.test, addr=10.77.0.33, reject=550 5.7.1 Access denied",
        Refused,
        {"stage": "connect", "code": 550, "dsn": "5.7.1", "status": "550 5.7.1 Access denied"},
    ),
    (
        "sm-mta",
        "6AN7tBfo000126: rejecting commands from  [198.51.100.7] due to pre-greeting traffic after 0 seconds",
        Refused,
        {"stage": "connect", "client": Client("[198.51.100.7]", None, "198.51.100.7")},
    ),
    (
        "sendmail",
        "6AN7tBfo000126: to=, delay=00:00:00, mailer=local, pri=1, dsn=2.0.0, stat=Sent",
        Attempted,
        {"recipients": ("",)},
    ),
    (
        "sendmail",  # Proofpoint's
        (
            "27PNO8ta032358: to=<a@example.com>, delay=00:00:00, xdelay=00:00:00, mailer=esmtp, tls_verify=FAIL, "
            "tls_version=TLSv1.2, cipher=X, pri=32434, relay=mx.example.com. [192.0.2.1], dsn=5.1.1, "
            "reply=550 5.1.1 <a@example.com>, stat=x, stat=User unknown"
        ),
        Attempted,
        {"relay": "mx.example.com", "dsn": "5.1.1", "code": 550, "outcome": "bounced", "status": "User unknown"},
    ),
    (
        "sendmail",  # Proofpoint's
        (
            "27PNO8ta032357: from=<a@example.com>, size=123, class=0, nrcpts=1, msgid=<1@example.com>, proto=ESMTP, "
            "daemon=MTA, tls_verify=NONE, tls_version=TLSv1.2, cipher=ECDHE-RSA-AES256-GCM-SHA384, auth=NONE, "
            "relay=host.example.com [192.0.2.5]"
        ),
        Received,
        {"message_id": "1@example.com", "protocol": "ESMTP", "truncated": False},
    ),
    (
        "sendmail",
        (
            '6AN7tBfo000126: to="|/usr/bin/filter <x>",/var/mail/a (b),:include:<y>, delay=00:00:00, mailer=prog, pri=1, '
            "dsn=2.0.0, stat=Sent"
        ),
        Attempted,
        {"recipients": ('"|/usr/bin/filter <x>"', "/var/mail/a (b)", ":include:<y>")},
    ),
]


@pytest.mark.parametrize(("program", "message", "event", "expect"), DIALECTS)
def test_dialects(program: str, message: str, event: type, expect: dict[str, object]) -> None:
    result = Parser(SETTINGS, "here").parse(f"Nov 23 07:55:08 mx1 {program}[94]: {message}")
    assert isinstance(result, Record), result
    assert type(result.event) is event
    for name, value in expect.items():
        assert getattr(result.event, name) == value, name


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("postfix/smtpd", "odd-reject: RCPT from example.com[192.168.0.1]: 554 x"),
        ("postfix/smtpd", "4A1B2C3D4g: client=example.com[192.168.0.1]"),
        ("postfix/smtp", "to=<a@example.com>, relay=none, status=deferred (x)"),
        ("postfix/smtp", "Doubted TLS connection established to mx1.example.com[192.168.0.1]:25: XYZ"),
        ("sm-mta", "to=<a@example.com>, delay=00:00:00, mailer=local, pri=1, dsn=2.0.0, stat=Sent"),
        ("sm-mta", "from=<a@example.com>, size=1, class=0, nrcpts=1"),
    ],
)
def test_what_looks_like_a_fact_without_an_id_is_unparsed(program: str, message: str) -> None:
    result = Parser(SETTINGS, "here").parse(f"Nov 23 07:55:08 mx1 {program}[94]: {message}")
    assert isinstance(result, Unparsed)
