r"""Makes hostile log lines, a block at a time: `Source(…).block(seed)`, always the same for the same seed.

A line is a real one (the corpora, the examples of all line kinds, the hostile cases) or a line kind's text whose values
were replaced by others, then mutated: cut, doubled, crossed with another, filled with pieces that have a meaning to some
grammar. Queue IDs come from a small pool, so that the lines of a block meet in the same transactions. Bytes that are no
UTF-8 are written as lone surrogates, as surrogateescape does; `encode` gives the bytes of a log file.
"""

from __future__ import annotations

import json
import lzma
import random
import re
from pathlib import Path

from mailspan.grammar import KINDS

TESTS = Path(__file__).parent.parent
LOGS = (
    "edge1.mail.log",
    "edge2.mail.log",
    "relay.mail.log",
    "relay2.mail.log.xz",
    "store.exim-mainlog",
    "store.exim-rejectlog",
    "store2.mail.log",
    "osm.mail.log",
)
LOGS_OF_FILTERS = tuple(f"filters/{name}.mail.log" for name in ("all", "dovecot", "hostile", "rspamd"))
LINES_OF_A_LOG = 4000
BLOCK_LINES = 2000

IDS = {
    "postfix": ("B6D781149FE", "4jXysS5MXcz9CLt", "94D3C762A0C", "9E17C11F70"),
    "sendmail": ("6AN7t85o000020", "n6BKbwgB009156", "pBFERI8l019936"),
    "exim": ("1xVOtI-00000E-1i", "1xVOtJ-00000T-0L", "1tAbCd-0000000ABCD-1234", "1sFUlr-000rus-Io"),
    "opensmtpd": ("b16fa2ed53cd2ecd", "b16fa2ed", "255290cd8d9e1e24", "881c4ca6d2b48602"),
    "dovecot": ("+MKRMKGsCmtcOQAAMzN6MA", "oMe3DeiuCmuGUAAAMzN6MA:R3", "aq33MqGsCmtjOQAAMzN6MA:T2:R4"),
    "filters": ("B6D781149FE", "4jXysS5MXcz9CLt", "94D3C762A0C", "9E17C11F70"),
}
PROGRAMS = {
    "postfix": ("smtpd", "smtp", "qmgr", "cleanup", "pickup", "local", "bounce", "postsuper", "lmtp", "error", "pipe"),
    "sendmail": ("sm-mta", "sendmail", "sm-msp-queue"),
    "exim": ("exim", "exim4", "exim-in"),
    "opensmtpd": ("smtpd", "opensmtpd"),
    "dovecot": ("dovecot",),
    "filters": ("rspamd", "amavis", "opendkim", "opendmarc"),
}
BESIDE = ("dovecot", "filters")
"""What stands beside a mail server: its lines are mutated in blocks of their own."""
PIECES = (
    '"', "<", ">", "<>", "(", ")", "[", "]", "\\", '\\"', "'", ";", ",", ":", ": ", " ", "  ", "=", "@", "%", "|", "/", "-",
    ", relay=", ", stat=", ", status=sent (", "; from=<", "> to=<", ">, orig_to=<", ", delay=", ", delays=1/2/3/4",
    ", dsn=5.7.1", ", reject=550 5.7.1 no", ", mailer=", ", ctladdr=", ", nrcpts=", ", msgid=", ", [more]", " ... ",
    " H=", " H=(", ") [", "[192.0.2.1]", "[::1]", "[IPv6:2001:db8::1]", ":25", ' C="', ' T="', " F=<", " P=<", " R=", " A=",
    " S=1", " for ", " from <", " id=", " X=", " QT=1d", " DT=", "**", "=>", "->", "==", ">>", "*>", "<=", "(=", "Completed",
    " rejected RCPT <", " temporarily ", " defer (-44)", " defer (-53): retry time not reached", "retry timeout exceeded",
    "[1/2] ", "[2/2] ", "[2\\2] ", "[1\\3] ", " rcpt=<->", ' relay="', ' result="', ' stat="', " delay=1s", "evpid=",
    "msgid=", "queued as ", "forwarded as ", "removed", "status=expired, returned to sender", "message-id=",
    "client=", "uid=0 from=<", "NOQUEUE: ", "warning: ", "reject: RCPT from ", "milter-reject: END-OF-MESSAGE from ",
    "header Subject: ", "sender non-delivery notification: ", "postmaster notify: ", "DSN: ", "clone: owner=", "discard",
    "hold", "quarantine", "message repeated 2 times: [ ", "last message repeated 3 times", "[ID 801593 mail.info] ",
    "messages lost due to rate-limiting", "#1", "#033", "\\303\\251", "\\M-C\\M-)", "#303#251", "%s", "%n", "{}", "\0", "\t",
    "\r", "\x1b[31m", "\x1b]0;x\x07", "\x7f", "\x85", "\x9b", "\u00ad", "\u200b", "\u200f", "\u202e", "\u2028", "\u2066",
    "\ufeff", "\ufffe", "\U000e0041", "\udc80", "\udcff", "é", "ß", "İ", "ı", "ſ", "K", "ﬁ", "１", "٣", "²", "𝟘", "0", "-1", "9" * 30,
    "1e999", "nan", "inf", "00:00:00", "99:99:99", "1+24:60:60", "2026-11-23 07:55:08 ", "Nov 23 07:55:08 ", "a" * 300,
    "x@" + "d" * 250, "user@example.com", "<user@example.com>", '"a, b"@example.net', "a,b,c", "a@b,", "SYSERR(root): ",
)  # fmt: skip
PIECES_OF_FILTERS = (
    ">: ", "...: ", ", qid: <", "(default: T (reject): [9.00/15.00] [", "]), len: 1", ', forced: reject "x"; score=1 (set by y)',
    ", Queue-ID: ", ", Queue-ID: 94D3C762A0C, ", ", mail_id: x, Hits: 1, size: 1, 5 ms", ", queued_as: B6D781149FE, 5 ms",
    "saved mail to ", "sieve: ", "msgid=<", "msgid=unspecified: ", "stored mail into mailbox '", " pass", " fail", "> -> <",
    "redirect action: forwarded to <", "discard action: ", "DKIM-Signature field added (", "SPF(mailfrom): ",
)  # fmt: skip
STAMPS = (
    "Nov 23 07:55:08", "Nov 23 07:55:09", "Nov 23 07:55:08.5", "Nov 23 2026 07:55:08", "Nov  3 07:55:08", "Dec 31 23:59:60",
    "Feb 29 00:00:00", "Feb 30 00:00:00", "Jan  1 00:00:00", "Nov 23 25:00:00", "<22>Nov 23 07:55:08", "Nov 23 07:55:08:",
    "2026-11-23T07:55:08Z", "2026-11-23T07:55:08.123456+01:00", "2026-11-23T07:55:08", "2026-11-23 07:55:08+01:00",
    "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:60-12:00", "1900-01-01T00:00:00+23:59", "2026-11-23T07:55:08+99:99",
    "1970-01-01T00:00:00Z", "2038-01-19T03:14:08Z", "<22>1 2026-11-23T07:55:08Z", "1 2026-11-23T07:55:08.1Z",
)  # fmt: skip
EXIM_STAMPS = (
    "2026-11-23 07:55:08", "2026-11-23 07:55:08.836 +0900 [15]", "2026-11-23 07:55:08 [15]", "0001-01-01 00:00:00 +2359",
    "9999-12-31 23:59:60 -9999", "2026-02-30 00:00:00", "0000-00-00 00:00:00", "2026-11-23 07:55:09 +9959",
)  # fmt: skip

_VALUE = re.compile(r"<[^<>]*>|\"[^\"]*\"|\([^()]*\)|\[[^\[\]]*\]|(?<==)[^\s,;<\"(\[]+|[0-9]+")
_ID = {
    "postfix": re.compile(r"\b[0-9A-F]{10,11}\b|\b[0-9B-DF-HJ-NP-TV-Zb-df-hj-np-tv-z]{10}z[0-9A-Za-z]{3,6}\b"),
    "sendmail": re.compile(r"\b[0-9A-Za-x]{8}0[0-9]{5}\b"),
    "exim": re.compile(r"\b[0-9A-Za-z]{6}-[0-9A-Za-z]{6,11}-[0-9A-Za-z]{2,4}\b"),
    "opensmtpd": re.compile(r"\b[0-9a-f]{16}\b|\b[0-9a-f]{8}\b"),
    "dovecot": re.compile(r"(?<=><)[0-9A-Za-z+/]{22}(?::[TR][0-9])*"),
    "filters": re.compile(r"\b[0-9A-F]{10,11}\b"),
}


class Source:
    """The lines that mutations begin with: `whole` ones of the corpora, and (MTA, program, text) of single kinds.

    Those of mail servers, or with `beside` those of filters and Dovecot, whole ones with their server's.
    """

    def __init__(self, *, beside: bool = False) -> None:
        self.pieces = (*PIECES, *PIECES_OF_FILTERS) if beside else PIECES
        self.whole = [line for name in (LOGS_OF_FILTERS if beside else LOGS) for line in _log(name)]
        self.texts = [
            (
                mta,
                kind.programs[0] if kind.programs else PROGRAMS[mta][0],
                _with_id(mta, kind.example, queued=kind.queued),
            )
            for mta, kinds in KINDS.items()
            for kind in kinds
            if (mta in BESIDE) == beside
        ]
        if beside:
            return
        for path in sorted((TESTS / "hostile").glob("*.jsonl")):
            for line in path.read_text("utf-8").splitlines():
                case = json.loads(line)
                self.texts.append((path.stem, case["program"].rpartition("/")[2], case["text"]))

    def block(self, seed: str, count: int = BLOCK_LINES) -> list[str]:
        """Return `count` lines; equal seeds give equal lines."""
        chance = random.Random(seed)  # noqa: S311  reproducible
        clock = chance.randrange(86400)
        lines: list[str] = []
        for _ in range(count):
            if chance.random() < 0.1:
                clock = (clock + chance.choice((1, 1, 1, 5, 60, 3600))) % 86400
            lines.append(self._line(chance, clock))
        return lines

    def _line(self, chance: random.Random, clock: int) -> str:
        draw = chance.random()
        if draw < 0.35:
            line = chance.choice(self.whole)
        elif draw < 0.36:
            return _mutate(chance, chance.choice(self.whole)[:16], self) * chance.randrange(3)
        else:
            mta, program, text = chance.choice(self.texts)
            if chance.random() < 0.5:
                text = _VALUE.sub(lambda found: _value(chance, found[0]), text)
            if chance.random() < 0.7:
                text = _ID[mta].sub(lambda _: chance.choice(IDS[mta]), text)
            if chance.random() < 0.1:
                program = chance.choice(PROGRAMS[mta])
            line = _head(chance, mta, program, clock) + text
        for _ in range(chance.choice((0, 0, 1, 1, 1, 2, 3, 5))):
            line = _mutate(chance, line, self)
        return line


def _log(name: str) -> list[str]:
    raw = (TESTS / "corpus" / name).read_bytes()
    text = (lzma.decompress(raw) if name.endswith(".xz") else raw).decode("utf-8", "surrogateescape")
    lines = text.split("\n")
    return lines[:: max(1, len(lines) // LINES_OF_A_LOG)]


def _with_id(mta: str, example: str, *, queued: bool) -> str:
    if not queued or _ID[mta].match(example):
        return example
    return f"{IDS[mta][0]} {example}" if mta == "exim" else f"{IDS[mta][0]}: {example}"


def _head(chance: random.Random, mta: str, program: str, clock: int) -> str:
    hour, minute, second = clock // 3600, clock // 60 % 60, clock % 60
    draw = chance.random()
    if mta == "exim" and draw < 0.4:
        stamp = f"2026-11-23 {hour:02}:{minute:02}:{second:02}" if draw < 0.3 else chance.choice(EXIM_STAMPS)
        return f"{stamp} "
    name = f"postfix/{program}" if mta == "postfix" else program
    stamp = f"Nov 23 {hour:02}:{minute:02}:{second:02}" if draw < 0.9 else chance.choice(STAMPS)
    host = chance.choice(("mx1", "mx1", "mx1", "MX2.example.com", "h" * 130))
    if " 2026" in stamp or stamp.startswith("1 "):
        return f"{stamp} {host} {name} {chance.randrange(3)} - - "
    return f"{stamp} {host} {name}[{chance.randrange(3)}]: "


def _value(chance: random.Random, value: str) -> str:
    if chance.random() < 0.7:
        return value
    inside = "".join(chance.choice(PIECES) for _ in range(chance.choice((0, 1, 1, 2, 4))))
    return f"{value[0]}{inside}{value[-1]}" if value[0] in '<"([' else inside


def _mutate(chance: random.Random, line: str, source: Source) -> str:
    at = chance.randrange(len(line) + 1)
    if at < 40 and chance.random() < 0.6:  # the head is soon broken: the grammar behind it matters more
        at = chance.randrange(len(line) + 1)
    size = min(chance.choice((0, 1, 1, 2, 5, 20, 100)), len(line) - at)
    draw = chance.random()
    if draw < 0.5:
        return line[:at] + chance.choice(source.pieces) + line[at + chance.choice((0, 0, size)) :]
    if draw < 0.65:
        return line[:at] + line[at + size :]
    if draw < 0.75:
        return line[: at + size] + line[at:]
    if draw < 0.85:
        other = chance.choice(source.whole) if chance.random() < 0.5 else chance.choice(source.texts)[2]
        return line[:at] + other[chance.randrange(len(other) + 1) :]
    if draw < 0.9:
        return line[:at]
    if draw < 0.902:
        piece = chance.choice(source.pieces) + chance.choice(source.pieces)
        return (line[:at] + piece * (chance.randrange(70_000) // len(piece)) + line[at:])[:70_000]
    return line[:at] + chr(chance.choice((chance.randrange(128), chance.randrange(0xD800)))) + line[at + 1 :]


def encode(lines: list[str]) -> bytes:
    """Return the lines as the bytes of a log file."""
    return "\n".join(lines).encode("utf-8", "surrogateescape")
