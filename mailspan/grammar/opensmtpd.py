"""The OpenSMTPD line kinds: OpenSMTPD 6.0 to 7.x, whose lines begin with a session's 16 hex digits.

One entry per kind of line; how each is read is in opensmtpd_read.py, which also takes the session off. What 5.x logged
(`smtp-in: Accepted message …`, `relay: Ok for …`) is counted as of an older version, not applied.
"""

from __future__ import annotations

from mailspan.event import (
    Attempted,
    Authenticated,
    Client,
    Connected,
    Disconnected,
    Enveloped,
    Event,
    Received,
    Refused,
    Secured,
)
from mailspan.grammar import opensmtpd_read as read
from mailspan.grammar.kind import LineKind, Rule, compile_rules, ignore
from mailspan.record import Ignored

PROGRAMS = frozenset({"smtpd", "opensmtpd"})
"""The names under which OpenSMTPD logs; Postfix's smtpd is always `…/smtpd`."""

_ANY: tuple[str, ...] = ()

KINDS: tuple[LineKind, ...] = (
    LineKind(
        "relayed",
        _ANY,
        ("mta delivery evpid=", "mta event=delivery evpid="),
        read.read_relayed,
        "881c4cb571580205 mta delivery evpid=4f56038d43dd6cd2 from=<u-d0458@sender.lab.test> "
        'to=<sales-out@sink.lab.test> rcpt=<sales@osm.lab.test> source="10.77.0.15" relay="10.77.0.21 '
        '(mx1.sink.lab.test)" delay=1s result="Ok" stat="250 2.0.0 Ok: queued as 4A0004B9CD"',
        Attempted,
        {
            "recipients": ("sales-out@sink.lab.test",),
            "original_recipient": "sales@osm.lab.test",
            "sender": "u-d0458@sender.lab.test",
            "envelope_id": "4f56038d43dd6cd2",
            "relay": "mx1.sink.lab.test",
            "relay_ip": "10.77.0.21",
            "delay_seconds": 1.0,
            "outcome": "relayed",
            "status": "250 2.0.0 Ok: queued as 4A0004B9CD",
            "code": 250,
            "dsn": "2.0.0",
            "next_queue_id": "4A0004B9CD",
            "mailer": "mta",
        },
        queued=False,
        source="mta.c mta_log; the log of a 6.8.0",
    ),
    LineKind(
        "relayed, before 6.4",
        _ANY,
        ("mta event=delivery evpid=",),
        read.read_relayed,
        "8f4864084ecc48f4 mta event=delivery evpid=7077717e797a776e from=<puffy@example.com> to=<bill@example.net> "
        'rcpt=<-> source="203.0.113.1" relay="104.47.38.33 (104.47.38.33)" delay=1s result="PermFail" '
        'stat="550 5.7.1 Unfortunately, messages from [203.0.113.1] weren\'t sent."',
        Attempted,
        {
            "recipients": ("bill@example.net",),
            "original_recipient": None,
            "relay": "104.47.38.33",
            "outcome": "bounced",
            "dsn": "5.7.1",
        },
        queued=False,
        source="a public log of 6.x; mta.c mta_log",
    ),
    LineKind(
        "delivered",
        _ANY,
        ("mda delivery evpid=", "mda event=delivery evpid="),
        read.read_delivered,
        "881c4d0039df0b61 mda delivery evpid=255290cd8d9e1e24 from=<u-d0231@sender.lab.test> to=<team@osm.lab.test> "
        "rcpt=<team@osm.lab.test> user=carol delay=0s result=Ok stat=Delivered",
        Attempted,
        {
            "recipients": ("team@osm.lab.test",),
            "original_recipient": "team@osm.lab.test",
            "mailbox": "carol",
            "relay": "local",
            "outcome": "delivered",
            "status": "Delivered",
            "delay_seconds": 0.0,
            "mailer": "mda",
        },
        queued=False,
        source="mda.c mda_log; the log of a 6.8.0",
    ),
    LineKind(
        "message",
        _ANY,
        ("smtp message msgid=",),
        read.read_accepted,
        "881c4ca6d2b48602 smtp message msgid=b16fa2ed size=396 nrcpt=1 proto=ESMTP",
        Received,
        {"size": 396, "recipient_count": 1, "protocol": "ESMTP"},
        queued=False,
        source="smtp_session.c smtp_queue_commit; the log of a 6.8.0",
    ),
    LineKind(
        "envelope",
        _ANY,
        ("smtp envelope evpid=",),
        read.read_envelope,
        "881c4ca6d2b48602 smtp envelope evpid=b16fa2ed53cd2ecd from=<u-d0005@sender.lab.test> "
        "to=<tls-d0005@tls.lab.test>",
        Enveloped,
        {
            "recipient": "tls-d0005@tls.lab.test",
            "sender": "u-d0005@sender.lab.test",
            "envelope_id": "b16fa2ed53cd2ecd",
        },
        queued=False,
        source="smtp_session.c smtp_queue_commit; the log of a 6.8.0",
    ),
    LineKind(
        "recipient of a message, before 6.4",
        _ANY,
        ("smtp event=message ",),
        read.read_old_accepted,
        "8f4864084ecc48f4 smtp event=message address=192.0.2.10 host=mx.example.net msgid=7077717e from=<> "
        "to=<team@example.com> size=1746 ndest=3 proto=ESMTP",
        Enveloped,
        {
            "recipient": "team@example.com",
            "sender": "",
            "envelope_id": None,
            "size": 1746,
            "envelope_count": 3,
            "protocol": "ESMTP",
        },
        queued=False,
        source="smtp_session.c of 6.0, IMSG_SMTP_MESSAGE_COMMIT: the form, not a real line",
    ),
    LineKind(
        "connected",
        _ANY,
        ("smtp connected ", "smtp event=connected "),
        read.read_connected,
        "881c4ca6d2b48602 smtp connected address=10.77.0.32 host=mua1.lab.test",
        Connected,
        {"peer": "mua1.lab.test [10.77.0.32]", "client": None},
        queued=False,
        source="smtp_session.c smtp_connected; the log of a 6.8.0",
    ),
    LineKind(
        "submitted locally",
        _ANY,
        ("smtp connected ",),
        read.read_connected,
        "881c4d4ee747ead6 smtp connected address=local host=osm.lab.test",
        Connected,
        {"client": Client("local")},
        queued=False,
        source="smtp_session.c smtp_connected, to.c ss_to_text; the log of a 6.8.0",
    ),
    LineKind(
        "disconnected",
        _ANY,
        ("smtp disconnected ", "smtp event=closed ", "mta disconnected ", "mta closing ", "mta event=closed "),
        read.read_disconnected,
        "881c4ca7ad2782c1 smtp disconnected reason=quit",
        Disconnected,
        queued=False,
        source="smtp_session.c smtp_io, mta_session.c mta_io; the log of a 6.8.0",
    ),
    LineKind(
        "failed command",
        _ANY,
        ("smtp failed-command ", "smtp event=failed-command "),
        read.read_failed_command,
        '881c4ca7ad2782c1 smtp failed-command command="RCPT TO:<nosuch-d0004@osm.lab.test>" '
        'result="550 Invalid recipient: <nosuch-d0004@osm.lab.test>"',
        Refused,
        {
            "stage": "rcpt",
            "recipient": "nosuch-d0004@osm.lab.test",
            "status": "550 Invalid recipient: <nosuch-d0004@osm.lab.test>",
            "code": 550,
            "dsn": None,
            "sender": None,
        },
        queued=False,
        source="smtp_session.c smtp_reply; the log of a 6.8.0",
    ),
    LineKind(
        "bad input",
        _ANY,
        ("smtp bad-input ", "smtp event=bad-input "),
        read.read_bad_input,
        'c1a89cb8c5b84cbf smtp bad-input result="500 5.5.1 Invalid command: Pipelining not supported"',
        Refused,
        {"stage": "connect", "code": 500, "dsn": "5.5.1"},
        queued=False,
        source="smtp_session.c smtp_reply; a public log",
    ),
    LineKind(
        "client's TLS",
        _ANY,
        ("smtp tls ", "smtp event=starttls "),
        read.read_tls,
        "f7a2e6aa567530c9 smtp tls ciphers=TLSv1.3:TLS_AES_256_GCM_SHA384:256",
        Secured,
        {"incoming": True, "tls": "TLSv1.3 TLS_AES_256_GCM_SHA384"},
        queued=False,
        source="smtp_session.c smtp_io; a public log",
    ),
    LineKind(
        "relay's TLS",
        _ANY,
        ("mta tls ", "mta event=starttls "),
        read.read_tls,
        "881c4caba76043ca mta tls ciphers=TLSv1.3:TLS_AES_256_GCM_SHA384:256",
        Secured,
        {"incoming": False, "tls": "TLSv1.3 TLS_AES_256_GCM_SHA384"},
        queued=False,
        source="mta_session.c mta_io; the log of a 6.8.0",
    ),
    LineKind(
        "login",
        _ANY,
        ("smtp authentication ", "smtp event=authentication "),
        read.read_login,
        "f7a2e6aa567530c9 smtp authentication user=bar result=ok",
        Authenticated,
        {"user": "bar"},
        queued=False,
        source="smtp_session.c IMSG_SMTP_AUTHENTICATE; a public log",
    ),
    LineKind(
        "end of an envelope",
        _ANY,
        ("relay: Expire for ", "delivery: Expire for ", "relay: Remove for ", "delivery: Remove for "),
        read.read_queue,
        "relay: Expire for 3b4dab2b4e6afb22: from=<u-d0153@sender.lab.test>, to=<grey1-d0153@sink.lab.test>, "
        "rcpt=<->, delay=1m31s, stat=Envelope expired",
        Attempted,
        {
            "recipients": ("grey1-d0153@sink.lab.test",),
            "original_recipient": None,
            "envelope_id": "3b4dab2b4e6afb22",
            "outcome": "expired",
            "status": "Envelope expired",
            "relay": None,
            "delay_seconds": 91.0,
            "given_up": True,
        },
        queued=False,
        source="queue.c queue_log; the log of a 6.8.0",
    ),
    LineKind(
        "connecting",
        _ANY,
        ("mta connecting ", "mta event=connecting "),
        read.read_connecting,
        "881c4cb1122e3877 mta connecting address=smtp://10.77.0.31:25 host=dead.lab.test",
        Connected,
        {"peer": "", "client": None},
        queued=False,
        source="mta_session.c mta_connect; the log of a 6.8.0",
    ),
    LineKind(
        "relay's connection",
        _ANY,
        (
            "mta connected",
            "mta error ",
            "mta host-rejects-all-mails",
            "mta event=connected",
            "mta event=error ",
        ),
        ignore("relay connection"),
        "881c4cb1122e3877 mta error reason=IO Error: Connection refused",
        Ignored,
        queued=False,
        source="mta_session.c; the log of a 6.8.0",
    ),
    LineKind(
        "certificate",
        _ANY,
        (
            "mta server-cert-check ",
            "mta event=server-cert-check ",
            "mta cert-check ",
            "smtp cert-check ",
            "smtp client-cert-check ",
            "smtp event=client-cert-check ",
        ),
        ignore("certificate"),
        '881c4caba76043ca mta server-cert-check result="failure"',
        Ignored,
        queued=False,
        source="mta_session.c mta_tls_started, smtp_session.c smtp_tls_started; the log of a 6.8.0",
    ),
    LineKind(
        "proxy's client",
        _ANY,
        ("smtp event=proxy ",),
        ignore("proxy"),
        "8f4864084ecc48f4 smtp event=proxy address=192.0.2.10",
        Ignored,
        queued=False,
        source="proxy.c proxy_session: the form, not a real line",
    ),
    LineKind(
        "route",
        _ANY,
        ("smtp-out: ",),
        ignore("route"),
        "smtp-out: Disabling route [] <-> 10.77.0.31 (dead.lab.test) for 15s",
        Ignored,
        queued=False,
        source="mta.c; the log of a 6.8.0",
    ),
    LineKind(
        "older version",
        _ANY,
        (
            "smtp-in: ",
            "relay: Ok for ",
            "relay: TempFail for ",
            "relay: PermFail for ",
            "delivery: Ok for ",
            "delivery: TempFail for ",
            "delivery: PermFail for ",
        ),
        ignore("older opensmtpd"),
        "smtp-in: Accepted message 4296f490 on session 08d856b172f69c5c: from=<root@ix.example.com>, "
        "to=<ddp@ix.example.com>, size=1746, ndest=1, proto=ESMTP",
        Ignored,
        queued=False,
        source="a public log of 5.x",
    ),
    LineKind(
        "server",
        _ANY,
        (
            "info: ",
            "warn: ",
            "debug: ",
            "queue: ",
            "scheduler: ",
            "control: ",
            "lookup: ",
            "mta: ",
            "mda: ",
            "smtp: ",
            "fatal: ",
            "Exiting",
            "proxy ",
            "rule ",
            "expand: ",
            "envelope: ",
            "getnameinfo: ",
            "getaddrinfo: ",
            "io_dispatch_connect: ",
            "SRS failed ",
            "commands executed ",
            "failed to push dataline",
        ),
        ignore("server"),
        "info: OpenSMTPD 6.8.0p2 starting",
        Ignored,
        queued=False,
        source="smtpd.c and others; the log of a 6.8.0",
    ),
    LineKind(
        "filter or first version",
        _ANY,
        ("",),
        read.read_without_session,
        "dkimsign: Can't open key file (/etc/mail/dkim/private.key): Permission denied",
        Ignored,
        queued=False,
        source="lka_filter.c, a filter's stderr; a public log of 7.7: last, for what no kind above takes",
    ),
)

_, RULES = compile_rules(KINDS, queued=False)


def _by_words() -> dict[str, tuple[Rule, ...]]:
    """Return the rules by the first two words that they begin with, or the only one: most begin with `smtp` or `mta`."""
    found: dict[str, tuple[Rule, ...]] = {}
    for rule in RULES.all:
        words = " ".join(rule[0].split()[:2])
        found[words] = (*found.get(words, ()), rule)
    return found


_RULES_BY_WORDS = _by_words()
_WITHOUT_SESSION = _RULES_BY_WORDS.pop("")


def read_message(message: str, program: str) -> tuple[str | None, str | None, Event | Ignored | None]:
    """Read a whole message: the session and the message ID that it names, and what it means."""
    session, message_id, text = read.split(message)
    words = text.split(" ", 2)
    rules = _RULES_BY_WORDS.get(" ".join(words[:2])) or _RULES_BY_WORDS.get(words[0]) or _WITHOUT_SESSION
    for begin, reader in rules:
        if text.startswith(begin):
            reading = reader(text, program)
            if reading is not None:
                return session, message_id, reading
    return session, message_id, None
