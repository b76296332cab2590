"""The line kinds of filters beside Postfix, each joined by the queue ID that it names.

The filters are rspamd, amavis, opendkim and opendmarc. One entry per kind of line, each with a line of the real Debian package (tests/corpus/filters); how each is read is in
filters_read.py. Lines of theirs that name a queue ID of another form than Postfix's are ignored: nothing was captured
of them beside another mail server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailspan.event import Filtered, Remarked
from mailspan.grammar import filters_read as read
from mailspan.grammar.kind import LineKind, compile_rules, ignore
from mailspan.record import Ignored

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailspan.event import Event

MTA = "postfix"
"""Whose transactions they add to."""

_RSPAMD = ("rspamd",)
_AMAVIS = ("amavis",)
_DKIM = ("opendkim",)
_DMARC = ("opendmarc",)

KINDS: tuple[LineKind, ...] = (
    LineKind(
        "scanned by rspamd",
        _RSPAMD,
        ("<",),
        lambda text, _program: read.read_rspamd(text)[1],
        "<7cb105>; proxy; rspamd_task_write_log: id: <h3@client.example.org>, qid: <70ABFA30413>, ip: "
        "198.51.100.7, from: <a, (default: T (reject)), qid: <DEADBEEF2>,@example.org>, (default: T (add header): "
        "[8.00/15.00] [LAB_ADD(6.50){addheader hostile from;},FROM_INVALID(2.00){},"
        "DMARC_POLICY_ALLOW(-0.50){example.org;none;},FORGED_SENDER(0.30){@example.org;a, (default: T (reject)), "
        "qid: <DEADBEEF2>,@example.org;},R_SPF_ALLOW(-0.20){+ip4:198.51.100.7;},MIME_GOOD(-0.10){text/plain;},"
        "ARC_NA(0.00){},FROM_HAS_DN(0.00){},FROM_NEQ_ENVFROM(0.00){@example.org;a, (default: T (reject)), qid: "
        "<DEADBEEF2>,@example.org;},GREYLIST(0.00){pass;body;},MID_RHS_MATCH_FROMTLD(0.00){},"
        "MIME_TRACE(0.00){0:+;},RCPT_COUNT_ONE(0.00){1;},RCVD_COUNT_ZERO(0.00){0;},R_DKIM_NA(0.00){},"
        "TO_DN_NONE(0.00){},TO_MATCH_ENVRCPT_ALL(0.00){}]), len: 338, time: 50.062ms, dns req: 9, digest: "
        "<55000ecf0e59490ec3e19b7ef39c8a64>, rcpts: <alice@example.com>, mime_rcpts: <alice@example.com>",
        Filtered,
        {
            "filter": "rspamd",
            "verdict": "add header",
            "score": 8.0,
            "required_score": 15.0,
            "detail": "[LAB_ADD(6.50){addheader hostile from;},FROM_INVALID(2.00){},"
            "DMARC_POLICY_ALLOW(-0.50){example.org;none;},FORGED_SENDER(0.30){@example.org;a, (default: T "
            "(reject)), qid: <DEADBEEF2>,@example.org;},R_SPF_ALLOW(-0.20){+ip4:198.51.100.7;},"
            "MIME_GOOD(-0.10){text/plain;},ARC_NA(0.00){},FROM_HAS_DN(0.00){},"
            "FROM_NEQ_ENVFROM(0.00){@example.org;a, (default: T (reject)), qid: <DEADBEEF2>,@example.org;},"
            "GREYLIST(0.00){pass;body;},MID_RHS_MATCH_FROMTLD(0.00){},MIME_TRACE(0.00){0:+;},"
            "RCPT_COUNT_ONE(0.00){1;},RCVD_COUNT_ZERO(0.00){0;},R_DKIM_NA(0.00){},TO_DN_NONE(0.00){},"
            "TO_MATCH_ENVRCPT_ALL(0.00){}]",
        },
        queued=False,
        source="the log of a 3.4; src/libserver/protocol.c",
    ),
    LineKind(
        "passed or blocked by amavis",
        _AMAVIS,
        ("(",),
        lambda text, _program: read.read_amavis(text)[1],
        '(20227-02-5) Passed CLEAN {RelayedInbound}, [198.51.100.7]:60421 [198.51.100.7] <"a> -> <b>, Queue-ID: '
        'DEADBEEF4, queued_as: DEADBEEF5"@example.org> -> <alice@example.com>, Queue-ID: 7FC7DA30B91, Message-ID: '
        "<amavis.11@client.example.org>, mail_id: fHl4k6Bg7sGk, Hits: 3.3, size: 639, queued_as: 77DC7A304B2, 1706 ms",
        Filtered,
        {
            "filter": "amavis",
            "verdict": "Passed CLEAN",
            "score": 3.3,
            "detail": "RelayedInbound",
            "next_queue_ids": ("77DC7A304B2",),
        },
        queued=False,
        source="the log of a 2.13.0, its default log template",
    ),
    LineKind(
        "signed",
        _DKIM,
        ("DKIM-Signature field added ",),
        read.read_signed,
        "74467A303FF: DKIM-Signature field added (s=mail, d=example.com)",
        Filtered,
        {"filter": "opendkim", "verdict": "signed", "detail": "s=mail, d=example.com"},
        source="the log of a 2.11.0; opendkim.c",
    ),
    LineKind(
        "signature verified or not",
        _DKIM,
        ("DKIM verification successful", "bad signature data", "no signature data"),
        read.read_verified,
        "62977A30400: bad signature data",
        Filtered,
        {"filter": "opendkim", "verdict": "bad signature", "detail": None},
        source="the log of a 2.11.0; opendkim.c",
    ),
    LineKind(
        "no key",
        _DKIM,
        ("key retrieval failed ",),
        read.read_no_key,
        "8568DA305A8: key retrieval failed (s=gone, d=example.org): 'gone._domainkey.example.org' record not found",
        Filtered,
        {
            "filter": "opendkim",
            "verdict": "key retrieval failed",
            "detail": "(s=gone, d=example.org): 'gone._domainkey.example.org' record not found",
        },
        source="the log of a 2.11.0; opendkim.c",
    ),
    LineKind(
        "not signed",
        _DKIM,
        (
            "no signing table match for ",
            "no signing domain match for ",
            "no signing subdomain match for ",
            "no signing keylist match for ",
        ),
        read.read_remark,
        "4FC4EA30415: no signing table match for 'u@example.org'",
        Remarked,
        {"reason": "filter detail"},
        source="the log of a 2.11.0; opendkim.c",
    ),
    LineKind(
        "several signatures",
        _DKIM,
        ("message has signatures from ",),
        read.read_remark,
        "4A1B2C3D4E: message has signatures from example.com, example.net",
        Remarked,
        {"reason": "filter detail"},
        source="opendkim.c, by the words of public logs: what became of them is said by the lines behind it",
    ),
    LineKind(
        "signer's remark",
        _DKIM,
        ("",),
        read.read_dkim_remark,
        "B57F6A30400: spam.example.net [203.0.113.66] not internal",
        Remarked,
        {"reason": "filter detail"},
        source="the log of a 2.11.0; opendkim.c, LogWhy",
    ),
    LineKind(
        "SPF",
        _DMARC,
        ("SPF(",),
        read.read_spf,
        "B57F6A30400: SPF(mailfrom): example.net fail",
        Filtered,
        {"filter": "opendmarc", "verdict": "SPF fail", "detail": "mailfrom example.net"},
        source="the log of a 1.4.2; opendmarc.c",
    ),
    LineKind(
        "several authors",
        _DMARC,
        ("multi-valued From field detected",),
        read.read_no_author,
        "21B42A3053F: multi-valued From field detected",
        Filtered,
        {"filter": "opendmarc", "verdict": "not checked", "detail": "multi-valued From field detected"},
        source="the log of a 1.4.2; opendmarc.c",
    ),
    LineKind(
        "others' results",
        _DMARC,
        ("ignoring Authentication-Results at ",),
        read.read_remark,
        "4A1B2C3D4E: ignoring Authentication-Results at 1 from mx.example.net",
        Remarked,
        {"reason": "filter detail"},
        source="opendmarc.c, by the words of public logs",
    ),
    LineKind(
        "DMARC",
        _DMARC,
        ("",),
        read.read_dmarc,
        "E6DE7A303A7: example.net fail",
        Filtered,
        {"filter": "opendmarc", "verdict": "fail", "detail": "example.net"},
        source="the log of a 1.4.2; opendmarc.c",
    ),
    LineKind(
        "filter's own affairs",
        (*_DMARC, *_DKIM),
        ("",),
        ignore("filter detail"),
        "ignoring connection from localhost",
        Ignored,
        queued=False,
        source="the log of a 1.4.2",
    ),
)

PROGRAMS = frozenset(program for kind in KINDS for program in kind.programs)
"""The syslog names of filters."""

QUEUED_RULES, _ = compile_rules(KINDS, queued=True)
RULES, _ = compile_rules(KINDS, queued=False)

_READERS: dict[str, Callable[[str], tuple[str | None, Filtered | Ignored | None]]] = {
    "rspamd": read.read_rspamd,
    "amavis": read.read_amavis,
}
INSIDE = frozenset(_READERS)
"""Those whose lines have the queue ID inside."""


def read_message(message: str, program: str) -> tuple[str | None, str | None, Event | Ignored | None]:
    """Read a whole message of a filter whose lines do not begin with the queue ID: no session, the ID, the meaning."""
    queue_id, reading = _READERS[program](message)
    return None, queue_id, reading
