"""Why a delivery failed, as one of a few classes: a table of rules over the code and the words of a reply.

The first rule of RULES that fits is the reason. Rules that need the enhanced status code and words stand before those
of words alone, and those of a code alone (RFC 3463, 5248, 7372, 7505) come last: many servers give one code, above all
5.7.1, for different things. Each rule has a real reply as its example, which is a test; addresses in it are made
example.com, the end may be cut. Its source is a public issue (GitHub's owner/repository#number) or `lab`, the logs of
tests/corpus.

Replies are hostile text of any length: there is no regular expression here, only the first 4096 characters are looked
at, and words that look like addresses, host names or URLs are left out, so a sender cannot choose the class by a name.
"""

from __future__ import annotations

from dataclasses import dataclass

CLASSES = (
    "unknown user", "mailbox full", "policy", "reputation", "greylisted", "DNS", "TLS", "connection", "size", "content",
    "other",
)  # fmt: skip

_LOOKED_AT = 4096
_TEMPORARY = "4"
_DSN_PARTS = 3


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: all that it names must hold; of `dsns` (subject.detail of the code, or subject.) and `words`, any."""

    reason: str
    means: str
    """A few plain words."""
    example: str
    source: str
    dsn: str | None = None
    """The status code that the log gave with the example."""
    dsns: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    level: str = ""
    """4: temporary failures only."""


@dataclass(frozen=True, slots=True)
class Reason:
    """The class of a failure, and the same in a few plain words."""

    reason: str
    means: str


RULES: tuple[Rule, ...] = (
    Rule(
        "greylisted",
        "greylisted: try again later",
        "450 4.2.0 <alice@example.com>: Recipient address rejected: Greylisted, see http://postgrey.schweikert.ch/help",
        "schweikert/postgrey#84",
        dsn="4.2.0",
        words=("greylist", "delayed by postgrey"),
        level=_TEMPORARY,
    ),
    Rule(
        "TLS",
        "no TLS connection",
        "TLS is required, but was not offered by host mail.example.com[192.0.2.1]",
        "alterrebe/docker-mail-relay#2",
        dsn="4.7.4",
        words=("tls is required", "cannot start tls", "tls handshake failed"),
    ),
    Rule(
        "policy",
        "rate limit of the recipient",
        "450-4.2.1 The user you are trying to contact is receiving mail at a rate that 450-4.2.1 prevents additional "
        "messages from being delivered.",
        "getlantern/lantern_aws#80",
        dsn="4.2.1",
        words=("is receiving mail at a rate",),
    ),
    Rule(
        "policy",
        "rate limit of the sending user",
        '4.7.1 Ratelimit "user" exceeded',
        "hardware/mailserver#152",
        dsn="4.7.1",
        words=("ratelimit",),
    ),
    Rule(
        "unknown user",
        "no such recipient",
        "host example-com.mail.protection.outlook.com[104.47.0.36] said: 550 5.4.1 Recipient address rejected: Access "
        "denied. AS(201806281) [HE1EUR01FT048.eop-EUR01.prod.protection.outlook.com] (in reply to RCPT TO command)",
        "fschulze/jumpnbump#3",
        dsn="5.4.1",
        dsns=("4.1",),
        words=("recipient address rejected: access denied",),
    ),
    Rule(
        "DNS",
        "the domain takes no mail (null MX)",
        "Domain example.com does not accept mail (nullMX)",
        "sisimai/p5-sisimai#206",
        dsn="5.1.0",
        words=("(nullmx)", "host does not accept mail"),
    ),
    Rule(
        "reputation",
        "rate limit",
        "host alt1.aspmx.l.google.com[74.125.28.26] said: 421-4.7.28 [192.0.2.1 4] Our system has detected an unusual "
        "rate of 421-4.7.28 unsolicited mail originating from your IP address.",
        "mail-in-a-box/mailinabox#1771",
        dsn="4.7.28",
        dsns=("7.28",),
    ),
    Rule(
        "reputation",
        "rate limit by the reputation of the sending server",
        "451 4.7.651 The mail server [192.0.2.1] has been temporarily rate limited due to IP reputation.",
        "Mailu/Mailu#3013",
        dsn="4.7.651",
        words=("due to ip reputation",),
    ),
    Rule(
        "reputation",
        "put off for volume or complaints",
        "421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume or user complaints - "
        "4.16.55.1; see https://postmaster.yahooinc.com/error-codes (in reply to MAIL FROM command)",
        "tutao/tutanota#7113",
        dsn="4.7.0",
        words=("user complaints", "will be permanently deferred"),
    ),
    Rule(
        "reputation",
        "the sending server is on a block list",
        "550 5.7.1 Service unavailable, Client host [192.0.2.1] blocked using Spamhaus. To request removal from this "
        "list see https://www.spamhaus.org/query/ip/192.0.2.1 (AS3130).",
        "sendgrid/docs#6275",
        dsn="5.7.1",
        words=("blocked using", "due to listing in"),
    ),
    Rule(
        "reputation",
        "the sending server's network is on a block list",
        "550 5.7.1 Unfortunately, messages from [192.0.2.1] weren't sent. Please contact your Internet service "
        "provider since part of their network is on our block list (S3150).",
        "simple-login/app#1875",
        dsn="5.7.1",
        words=("block list", "blocklist"),
    ),
    Rule(
        "reputation",
        "mail of the sending server looks unsolicited",
        "host gmail-smtp-in.l.google.com[66.102.1.27] said: 550-5.7.1 [192.0.2.1 1] Our system has detected an unusual "
        "rate of 550-5.7.1 unsolicited mail originating from your IP address.",
        "maxking/docker-mailman#303",
        dsn="5.7.1",
        words=("unsolicited mail originating from your ip",),
    ),
    Rule(
        "policy",
        "the sender is not authenticated (SPF, DKIM)",
        "host gmail-smtp-in.l.google.com[2a00:1450:4013:c06::1b] said: 550-5.7.26 Your email has been blocked because "
        "the sender is unauthenticated. 550-5.7.26 Gmail requires all senders to authenticate with either SPF or DKIM.",
        "jtojnar/nixfiles#13",
        dsn="5.7.26",
        dsns=("7.20", "7.21", "7.22", "7.23", "7.24", "7.26", "7.515"),
    ),
    Rule(
        "policy",
        "the sender's DMARC policy",
        "550-5.7.1 Unauthenticated email from example.com is not accepted due to domain's 550-5.7.1 DMARC policy.",
        "postalserver/postal#898",
        dsn="5.7.1",
        words=("dmarc policy",),
    ),
    Rule(
        "policy",
        "the server does not relay for this recipient",
        "554 5.7.1 <alice@example.com>: Relay access denied",
        "postalserver/postal#647",
        dsn="5.7.1",
        words=("relay access denied", "relay not permitted", "relay denied"),
    ),
    Rule(
        "content",
        "taken for unsolicited mail by its content",
        "host gmail-smtp-in.l.google.com[74.125.206.27] said: 550-5.7.1 [192.0.2.1 12] Our system has detected that "
        "this message is 550-5.7.1 likely unsolicited mail.",
        "root-io/vmail#89",
        dsn="5.7.1",
        words=("likely unsolicited mail",),
    ),
    Rule(
        "content",
        "taken for spam",
        "host mx1.sink.lab.test[10.77.0.21] said: 554 5.7.1 Message rejected as spam by Content Filtering (score=11.2) "
        "(in reply to end of DATA command)",
        "lab",
        dsn="5.7.1",
        words=("rejected as spam", "- spam", "for spam or virus"),
    ),
    Rule(
        "content",
        "its content is a security risk",
        "5.7.0 This message was blocked because its content presents a potential 5.7.0 security issue.",
        "nylas/nylas-mail#1296",
        dsn="5.7.0",
        words=("its content presents", "illegal attachment"),
    ),
    Rule(
        "size",
        "the message is too large",
        "552 5.3.4 Message size exceeds fixed limit",
        "zokradonh/kopano-docker#409",
        dsn="5.3.4",
        dsns=("3.4", "2.3"),
    ),
    Rule(
        "size",
        "the message is too large",
        "552 #5.3.4 message size exceeds limit",
        "codeforamerica/clean#331",
        words=("message size exceeds", "exceeded google's message size"),
    ),
    Rule(
        "mailbox full",
        "the mailbox is full",
        "552 5.2.2 <alice@example.com> Quota exceeded (mailbox for user is full) (in reply to end of DATA command)",
        "docker-mailserver/docker-mailserver#1508",
        dsn="5.2.2",
        dsns=("2.2",),
    ),
    Rule(
        "mailbox full",
        "the mailbox is full",
        "550 5.2.5 Folder full",
        "voku/PHPMailer-BMH#23",
        dsn="5.2.5",
        words=("folder full", "mailbox full", "mailbox for user is full"),
    ),
    Rule(
        "unknown user",
        "no such user",
        "550-5.1.1 The email account that you tried to reach does not exist. Please try 550-5.1.1 double-checking the "
        "recipient's email address for typos or 550-5.1.1 unnecessary spaces.",
        "maks/MGit#198",
        dsn="5.1.1",
        dsns=("1.1", "1.6"),
    ),
    Rule(
        "unknown user",
        "no such user",
        "550 5.1.2 Mailbox does not exist.",
        "stalwartlabs/stalwart#2460",
        dsn="5.1.2",
        words=("mailbox does not exist", "recipientnotfound"),
    ),
    Rule(
        "unknown user",
        "no such user",
        "host mx1.sink.lab.test[10.77.0.21] said: 550 no such user here (noenh-d0052@sink.lab.test) (in reply to RCPT "
        "TO command)",
        "lab",
        dsn="5.0.0",
        words=("no such user", "user unknown", "invalid recipient"),
    ),
    Rule(
        "DNS",
        "the domain has no address",
        "Host or domain name not found. Name service error for name=nx.lab.test type=A: Host not found",
        "lab",
        dsn="5.4.4",
        words=("name service error", "host unknown", "domain name not found"),
    ),
    Rule(
        "other",
        "no such user or domain: the server says no more",
        "Unrouteable address",
        "lab",
        words=("unrouteable address",),
    ),
    Rule(
        "connection",
        "the server refused the connection",
        "connect to dead.lab.test[10.77.0.31]:25: Connection refused",
        "lab",
        dsn="4.4.1",
        words=("connection refused",),
    ),
    Rule(
        "connection",
        "the server did not answer",
        "connect to pb-mx10.pobox.com[64.147.108.51]:25: Connection timed out",
        "catatnight/docker-postfix#22",
        dsn="4.4.1",
        words=("connection timed out",),
    ),
    Rule(
        "DNS",
        "the domain does not exist",
        "Domain does not exist",
        "lab",
        words=("domain does not exist",),
    ),
    Rule(
        "connection",
        "no server of the domain could be reached",
        "Network error on destination MXs",
        "lab",
        words=("network error on destination",),
    ),
    Rule(
        "other",
        "the domain takes no mail",
        "550 5.1.2 <x-d0331@err.lab.test>: Recipient address rejected: mail to this domain is disabled",
        "lab",
        dsn="5.1.2",
        dsns=("1.2",),
    ),
    Rule(
        "other",
        "the server has no space left",
        "452 4.3.1 Insufficient system storage",
        "muquit/mailsend#15",
        dsn="4.3.1",
        dsns=("3.1",),
    ),
    Rule(
        "other",
        "an error of the server",
        "host mx1.sink.lab.test[10.77.0.21] said: 451 4.3.0 Error: queue file write error (in reply to end of DATA "
        "command)",
        "lab",
        dsn="4.3.0",
        dsns=("3.0",),
    ),
    Rule(
        "policy",
        "refused by policy",
        "554 5.7.1 <alice@example.com>: Recipient address rejected: Access denied",
        "Turgon37/docker-smtp-relay#25",
        dsn="5.7.1",
        dsns=("7.",),
    ),
)
"""The rules, in the order in which they are tried."""

OTHER = Reason("other", "")


def reason_of(status: str | None, dsn: str | None) -> Reason:
    """Return the reason of a failure by its reply (any text, of any length) and its enhanced status code."""
    words = _words(status or "")
    code = dsn or ""
    level, _, detail = code.partition(".")
    if code.count(".") != _DSN_PARTS - 1:
        level, detail = "", ""
    for rule in RULES:
        if rule.level and level not in ("", rule.level):
            continue
        if rule.dsns and not any(detail.startswith(each) if each[-1] == "." else detail == each for each in rule.dsns):
            continue
        if rule.words and not any(each in words for each in rule.words):
            continue
        return Reason(rule.reason, rule.means)
    return OTHER


def _words(status: str) -> str:
    """Return the words of a reply in lower case, without what can be a name, and without the codes between them."""
    kept = [each for each in status[:_LOOKED_AT].lower().split() if not _is_name(each)]
    return " ".join(kept)


def _is_name(word: str) -> bool:
    if "@" in word or "://" in word or "[" in word[1:] or word[0].isdigit():
        return True
    return "." in word.rstrip(".,;:)") and "recipientnotfound" not in word
