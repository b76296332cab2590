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
_FINAL = "5"
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
    """4: temporary failures only; 5: final ones only."""


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
        "TLS",
        "a certificate that does not fit",
        "Server certificate not verified",
        "csware/postfix-tls-policy#9",
        dsn="4.7.5",
        words=("server certificate not", "tlsa lookup error"),
    ),
    Rule(
        "TLS",
        "the server takes mail by TLS only",
        "host mx.example.com[54.186.28.113] said: 530 5.7.0 Must issue a STARTTLS command first (in reply to "
        "MAIL FROM command)",
        "zrm/snow#3",
        dsn="5.7.0",
        words=(
            "must issue a starttls",
            "session encryption is required",
            "over a tls connection",
            "a tls session is required",
            "tls required for",
            "tls session: (",
        ),
    ),
    Rule(
        "policy",
        "rate limit of the recipient",
        "450-4.2.1 The user you are trying to contact is receiving mail at a rate that 450-4.2.1 prevents additional "
        "messages from being delivered.",
        "getlantern/lantern_aws#80",
        dsn="4.2.1",
        words=("is receiving mail at a rate", "is receiving mail too quickly"),
    ),
    Rule(
        "policy",
        "rate limit of the sending user",
        '4.7.1 Ratelimit "user" exceeded',
        "hardware/mailserver#152",
        dsn="4.7.1",
        words=("ratelimit", "sending quota", "sending limit"),
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
        "the sending server is banned",
        "host example-com.mail.protection.outlook.com[213.199.154.202] said: 550 5.7.606 Access denied, "
        "banned sending IP [192.0.2.1]. To request removal from this list please visit "
        "https://sender.office.com/ and follow the directions.",
        "JamBrain/JamBrain#271",
        dsn="5.7.606",
        words=("access denied, banned", "traffic not accepted from this ip"),
    ),
    Rule(
        "reputation",
        "the sending server is on a block list of Proofpoint",
        "host mx1.mail.icloud.com[17.158.8.68] said: 550 5.7.0 Blocked - see "
        "https://support.proofpoint.com/dnsbl-lookup.cgi?ip=192.0.2.1 (in reply to RCPT TO command)",
        "docker-mailserver/docker-mailserver#22",
        dsn="5.7.0",
        words=("blocked - see",),
    ),
    Rule(
        "reputation",
        "the sending server is on a block list",
        '550-"JunkMail rejected - mail.example.com 550-(example.com) [192.0.2.1]:34032 is in an RBL, see 550 '
        'https://www.spamhaus.org/query/ip/192.0.2.1"',
        "getconversio/email-deep-validator#9",
        words=("is in an rbl", "spamhaus", "blacklist"),
    ),
    Rule(
        "reputation",
        "low reputation of the sending server or domain",
        "550-5.7.1 [192.0.2.1 19] Our system has detected that this message is 550-5.7.1 likely suspicious "
        "due to the very low reputation of the sending 550-5.7.1 domain.",
        "postalserver/postal#367",
        dsn="5.7.1",
        words=("low reputation", "bad reputation", "poor reputation", "reputation fail"),
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
        words=("relay access denied", "relay not permitted", "relay denied", "relaying denied"),
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
        words=(
            "rejected as spam",
            "- spam",
            "for spam or virus",
            "spam message rejected",
            "spam detected",
            "detected as spam",
            "identified as spam",
            "considered spam",
            "flagged as spam",
            "suspicion of spam",
            "probability of spam",
            "spam url",
        ),
    ),
    Rule(
        "content",
        "a kind of attachment that is not taken",
        "550 Rejected due to bad file extension in attachment",
        "poolpOrg/filter-rspamd#5",
        words=("bad file extension", "- banned:"),
    ),
    Rule(
        "content",
        "its content is a security risk",
        "5.7.0 This message was blocked because its content presents a potential 5.7.0 security issue.",
        "nylas/nylas-mail#1296",
        dsn="5.7.0",
        words=(
            "its content presents",
            "illegal attachment",
            "banned content",
            "contains malware",
            "contains a virus",
            "virus detected",
            "virus found",
            "- infected:",
        ),
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
        words=(
            "message size exceeds",
            "exceeded google's message size",
            "message is too large",
            "message too large",
            "message too big",
            "message file too big",
        ),
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
        words=(
            "folder full",
            "mailbox full",
            "mailbox for user is full",
            "mailbox is full",
            "over quota",
            "overquota",
            "quota exceeded",
            "out of storage space",
        ),
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
        "the mailbox is disabled",
        "552 5.2.1 <alice@example.com>: Recipient address rejected: User disabled",
        "anonaddy/anonaddy#580",
        dsn="5.2.1",
        dsns=("2.1",),
        level=_FINAL,
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
        words=(
            "no such user",
            "user unknown",
            "unknown user",
            "invalid recipient",
            "no such recipient",
            "unknown recipient",
            "recipient unknown",
            "addressee unknown",
            "address unknown",
            "mailbox not found",
            "user not found",
            "user does not exist",
            "user doesn't exist",
            "this user doesn't have a",
            "no mailbox here by that name",
            "invalid mailbox",
        ),
    ),
    Rule(
        "DNS",
        "the sender's domain is not found",
        "host mx.example.com said: 450 4.1.8 <alice@example.com>: Sender address rejected: Domain not found "
        "(in reply to RCPT TO command)",
        "openaustralia/infrastructure#122",
        dsn="4.1.8",
        words=("address rejected: domain not found", "domain of sender address"),
    ),
    Rule(
        "DNS",
        "the sending server's reverse DNS",
        "host mx2.free.fr[212.27.42.58] refused to talk to me: 421 Refused. Your reverse DNS entry does not "
        "resolve to an IP.",
        "iredmail/iRedMail#156",
        dsn="4.0.0",
        words=("reverse dns", "reverse hostname", "cannot find your hostname", "ptr record"),
    ),
    Rule(
        "DNS",
        "the domain has no address",
        "Host or domain name not found. Name service error for name=nx.lab.test type=A: Host not found",
        "lab",
        dsn="5.4.4",
        words=(
            "name service error",
            "host unknown",
            "domain name not found",
            "host name lookup failure",
            "mx records point to non-existent hosts",
        ),
    ),
    Rule(
        "DNS",
        "the name service did not answer",
        "host lookup did not complete",
        "namshi/docker-smtp#49",
        words=("host lookup did not complete",),
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
        words=("connection timed out", "operation timed out", "smtp timeout"),
    ),
    Rule(
        "connection",
        "the server cannot be reached",
        "connect to mx-ha02.web.de[212.227.17.8]:25: No route to host",
        "mailcow/mailcow-dockerized#3688",
        dsn="4.4.1",
        words=("no route to host", "network is unreachable"),
    ),
    Rule(
        "connection",
        "the connection was lost",
        "lost connection with localhost[127.0.0.1] while receiving the initial server greeting",
        "maxking/docker-mailman#471",
        dsn="4.4.2",
        words=("lost connection with", "connection reset", "remote host closed connection"),
    ),
    Rule(
        "connection",
        "the server took too long",
        "conversation with mx00.emig.gmx.net[212.227.15.9] timed out while receiving the initial server greeting",
        "docker-mailserver/docker-mailserver#3094",
        dsn="4.4.2",
        words=("timed out while",),
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
        "policy",
        "refused by policy",
        "host eu-smtp-inbound-1.mimecast.com [195.130.217.211]: 550 Administrative prohibition - envelope "
        "blocked - https://community.mimecast.com/docs/DOC-1369#550",
        "mysociety/writetothem#364",
        words=(
            "administrative prohibition",
            "envelope blocked",
            "security policies",
            "policy reasons",
            "local policy",
            "blocked senders",
            "anti-spoofing policy",
        ),
    ),
    Rule(
        "policy",
        "the sending server's HELO name",
        "504 5.5.2 <localhost>: Helo command rejected: need fully-qualified hostname",
        "postalserver/postal#19",
        dsn="5.5.2",
        words=("helo command rejected",),
    ),
    Rule(
        "unknown user",
        "no such mailbox, or a closed one",
        "host mx3.hotmail.com[65.54.188.110] said: 550 Requested action not taken: mailbox unavailable (in "
        "reply to RCPT TO command)",
        "hippich/PHPMailer-BMH#3",
        dsn="5.0.0",
        words=("mailbox unavailable",),
        level=_FINAL,
    ),
    Rule(
        "other",
        "the mail went in a circle",
        "mail for svcenmta01.ldomain.local loops back to myself",
        "darold/sendmailanalyzer#30",
        dsn="5.4.6",
        words=("loops back to myself", "too many hops", "forwarding loop"),
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
        "connection",
        "no answer or a bad connection",
        "451 4.4.2 Timeout waiting for data from client",
        "mozilla/fxa#11575",
        dsn="4.4.2",
        dsns=("4.1", "4.2"),
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
