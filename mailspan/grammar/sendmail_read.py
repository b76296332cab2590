r"""How Sendmail lines are read: one function for each shape of text, left to right.

Pure. The table of line kinds that uses these is in sendmail.py. Sources (freebsd-src contrib/sendmail/src): headers.c
logsender (from=), deliver.c logdelivery (to=), srvrsmtp.c and milter.c (refusals), collect.c (lost clients), savemail.c
returntosender (DSN children), deliver.c sendall (clones).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mailspan.address import INSIDE as CLASSIC_INSIDE
from mailspan.address import QUOTED as CLASSIC_QUOTED
from mailspan.address import canonical_ip, clean_address, read_client, relay_name, unbracket
from mailspan.event import (
    Aborted,
    Attempted,
    Authenticated,
    Client,
    Cloned,
    Closed,
    Held,
    Inspected,
    Named,
    Notified,
    Received,
    Refused,
    Remarked,
    Secured,
)
from mailspan.queue_id import is_sendmail
from mailspan.record import Ignored
from mailspan.reply import next_queue_id, reply_code, reply_dsn

if TYPE_CHECKING:
    from mailspan.grammar.kind import Reading

_SENDER_CUT, _MESSAGE_ID_CUT = 200, 100  # logsender: from=%.200s, msgid=%.100s
# sm_syslog writes through str2prt (libsm/util.c): a backslash is doubled, so that `\\"` is a quoted quote, and bytes are
# `\ooo`. Until 8.11 it did not: what only reads with single ones is read so.
_PAIR = r"\\\\(?:\\\\|\\[0-7tnr]|[^\\])|\\[^\\]"
QUOTED = rf'"(?:[^"\\]|{_PAIR})*+"'
INSIDE = rf'(?:[^">\\]|{_PAIR}|{QUOTED})*+'
_LIST_ITEM = re.compile(rf'(?:<{INSIDE}>|{QUOTED}|\\\\[^\\]|[^,"<])++')
_CLASSIC_ITEM = re.compile(rf'(?:<{CLASSIC_INSIDE}>|{CLASSIC_QUOTED}|[^,"<])++')
# An address as a header has it, which the submission program logs as it was given: `Name <a@example.com>`, also with the
# name in quotes, and `a@example.com (Name)`. Programs and files begin with `|`, `/` or `:`.
_BEHIND_NAME = re.compile(rf'(?![|/:])(?:{QUOTED}|[^<>"])*+<({INSIDE})>')
_BEFORE_COMMENT = re.compile(r'(?![|/:])([^\s()<>"]+@[^\s()<>"]+) \([^()]*\)')
_SIZE = re.compile(r", size=(-?[0-9]{1,18}), class=-?[0-9]+(?:, pri=-?[0-9]+)?, nrcpts=([0-9]{1,18})")
_INTERVAL = r"(?:[0-9]{1,9}\+)?[0-9]{1,9}(?::[0-9]{1,9}){0,2}"  # pintvl(): days+hours:minutes:seconds
_ENVELOPE, _USUAL_ENVELOPE = (
    re.compile(
        rf"(?:, msgid=(?P<msgid>{msgid}))?(?:, bodytype=[^,]*)?(?:, proto=(?P<proto>[^,]*))?(?:, daemon=[^,]*)?"
        r"(?:, (?:tls_[a-z]+|cipher|bits|auth)=[^,]*)*(?:, relay=(?P<relay>[^,]*))?\Z",
        re.DOTALL,
    )
    for msgid in (r".*?", r"[^,]*+")
)
_ATTEMPT = re.compile(
    rf"(?:, ctladdr=(?P<ctladdr>(?:<{INSIDE}>|{QUOTED}|[^,\"<])++))?(?:, delay=(?P<delay>{_INTERVAL}))?"
    r"(?:, xdelay=[0-9+:]+)?(?:, mailer=(?P<mailer>[^,]*))?(?:, pri=-?[0-9]+)?(?:, relay=(?P<relay>[^,]*))?"
    r"(?:, quarantine=(?P<quarantine>[^,]*))?(?:, dsn=(?P<dsn>[0-9.]+))?(?:, ntries=[0-9]+)?"
    r"(?=, (?:reply|stat)=)"
)
_FIELD = re.compile(
    rf", (?:ctladdr=(?P<ctladdr>(?:<{INSIDE}>|{QUOTED}|[^,\"<])++)|delay=(?P<delay>{_INTERVAL})|xdelay=[0-9+:]+"
    r"|mailer=(?P<mailer>[^,]*)|pri=-?[0-9]+|relay=(?P<relay>[^,]*)|quarantine=(?P<quarantine>[^,]*)"
    r"|dsn=(?P<dsn>[0-9.]+)|(?!reply=|stat=)[a-z][a-z0-9_]{0,31}=[^,]*)"  # tls_verify=, cipher=, what a version adds
)
_MORE = " [more]"  # logdelivery: the list goes on in the next line; the piece before it keeps its comma
_QUARANTINED = ", stat=quarantined"
_DELAY = re.compile(rf", (?=delay={_INTERVAL}(?:, |\Z))")
_CTLADDR_USER = re.compile(r" \([0-9]+/[0-9]+\)\Z")
_STARTS_FIELDS = (
    "ctladdr=", "delay=", "xdelay=", "mailer=", "pri=", "relay=", "dsn=", "stat=", "reply=", "ntries=", "quarantine=",
)  # fmt: skip
_LOCAL_MAILERS = frozenset({"local", "prog", "*file*", "*include*", "lmtp", "cyrus", "cyrusv2", "procmail", "cyrusbb"})
# sysexits.c: what Sendmail itself says of a mailer's exit. The reply of a server stands behind ": " or in "(…)".
_REFUSING_STATUS = re.compile(
    r"User unknown|Host unknown|Service unavailable|Data format error|Addressee unknown|Name server|Permission denied"
    r"|Local configuration error|Remote protocol error|Command line usage error|Cannot open input|Can't create output"
    r"|Host (?:name )?not found|Bad (?:address|usage)|returned|Local error|Internal error|unknown mailer error"
    r"|Insufficient permission|System file missing"
)
_DEFERRING_STATUS = re.compile(r"Deferred|Operating system error|I/O error|transient ")
_BY_DSN = {"2": "relayed", "4": "deferred", "5": "bounced"}
_RULESET = re.compile(r"ruleset=([\w-]+), arg1=(.*)", re.DOTALL)
_RULESET_END = r"(?:, relay=(?P<relay>[^,]*))?, (?P<action>reject|discard|quarantine)\b=?(?P<reply>.*)"
_RULESET_RELAY = re.compile(rf"(?:, arg2=.*?)??{_RULESET_END}", re.DOTALL)
_RULESET_ANYWHERE = re.compile(_RULESET_END, re.DOTALL)
_STAGES = {
    "check_relay": "connect", "check_mail": "mail", "check_rcpt": "rcpt", "check_data": "data", "check_eom": "end_of_data",
    "check_eoh": "end_of_data", "check_vrfy": "connect", "check_expn": "connect", "check_etrn": "connect",
    "tls_client": "connect", "auth_check": "auth",
}  # fmt: skip
# Rulesets about our own connections to others, and of single deliveries: a to= line says what became of the recipient.
_OUTGOING = frozenset(
    {"tls_server", "tls_rcpt", "try_tls", "clt_features", "authinfo", "check_compat", "srv_features", "queuegroup"}
)
# Its refusal drops AUTH= of the MAIL command; the mail goes on (srvrsmtp.c mail_esmtp_args).
_REFUSING_NOTHING = _OUTGOING | {"trust_auth"}
_MILTER_STAGES = {
    "connect": "connect", "helo": "helo", "from": "mail", "mail": "mail", "to": "rcpt", "rcpt": "rcpt", "data": "data",
    "header": "end_of_data", "eoh": "end_of_data", "body": "end_of_data", "eom": "end_of_data",
}  # fmt: skip
_MILTER = re.compile(
    rf"Milter: (?P<where>(?:cmd=)?data|(?:to|from|helo|connect)=(?P<address><{INSIDE}>|(?!<)[^,]*+)[^,]*+), "
    r"(?P<action>reject|discard|tempfail)(?:=(?P<reply>.*))?",
    re.DOTALL,
)
_MILTER_CONNECT = re.compile(
    r"Milter: connect: host=(?P<host>[^,]*), addr=(?P<ip>[^,]*), "
    r"(?P<action>rejecting commands|temp failing commands|shutdown|reject=(?P<reply>.*))\Z",
    re.DOTALL,
)
_SHUT_CODES = {"temp failing commands": 451, "shutdown": 421}
_EARLY_TALKER = re.compile(r"rejecting commands from (.*) due to pre-greeting traffic")
_NAMED_MILTER = re.compile(
    r"milter=(?P<name>[^,]*)(?:, action=(?P<where>\w+))?, (?P<action>reject|discard|quarantine|tempfail)"
    r"(?:=(?P<reply>.*))?\Z",
    re.DOTALL,
)
_NOTICES = {
    "DSN": "bounce",
    "return to sender": "bounce",
    "sender notify": "bounce",
    "postmaster notify": "bounce",
    "unsupported: ": "bounce",
}
_ABOUT_SENDERS = (
    "Domain of sender",
    "Domain name required for sender",
    "Real domain name required for sender",
    "Sender ",
)
_CLAIMED = re.compile(r"Authentication-Warning: \S+: (?:Host )?.{1,300} claimed to be (?P<helo>\S+)\Z")
_FROM_HOST = re.compile(r"(?:from|on) (\S+(?: \[[^\]]*\])?)")
_DID_NOT_ISSUE = re.compile(r"(?P<client>.*?) did not issue (?:MAIL|EXPN|VRFY|ETRN)")
# err.c usrerr: `<address>... text`, until 8.9 with the enhanced code before it.
_RECIPIENT_REPLY = re.compile(
    rf"(?P<dsn>[245]\.[0-9]{{1,3}}\.[0-9]{{1,3}} )?(?:<(?P<angle>{INSIDE})>|(?P<bare>[^\s<>,:]+))\.\.\. (?P<text>.+)",
    re.DOTALL,
)
_TLS = re.compile(r"STARTTLS=(client|server), relay=([^,]*), version=([^,]*), verify=[^,]*, cipher=([^,]*)")
_AUTH = re.compile(r"AUTH=server, relay=(?P<relay>[^,]*)(?:, authid=(?P<user>.*?))?(?:, mech=[^,]*)(?:, bits=\d+)?\Z")


def seconds_of(text: str) -> float:
    """Return the seconds of Sendmail's interval `1+02:03:04` (days+hours:minutes:seconds)."""
    days, _, clock = text.rpartition("+")
    total = 0
    for part in clock.split(":"):
        total = total * 60 + int(part or 0)
    return float(total + 86400 * int(days or 0))


def _address(text: str) -> str:
    """Return an address in the document's form, without the name or the comment that stands beside it."""
    if text.endswith((">", ")")) and text[:1] != "<":
        match = (_BEHIND_NAME if text[-1] == ">" else _BEFORE_COMMENT).fullmatch(text)
        if match is not None:
            return clean_address(match[1])
    return clean_address(text)


def read_sender(text: str, _program: str) -> Reading:
    """`from=<>, size=, class=, nrcpts=, msgid=, bodytype=, proto=, daemon=, tls_verify=, auth=, relay=H [ip]`."""
    match = None
    truncated = False
    for pattern in (_LIST_ITEM, _CLASSIC_ITEM):
        item = pattern.match(text, 5)
        at = item.end() if item else 5
        match = _SIZE.match(text, at)
        if match is not None:
            break
    if match is None:
        # Cut at 200 characters, perhaps inside quotes: then the next field stands right behind.
        match = _SIZE.match(text, 5 + _SENDER_CUT)
        truncated = match is not None
        match = match or _SIZE.search(text, 5)
        if match is None:
            return None
        at = match.start()
    envelope = _USUAL_ENVELOPE.match(text, match.end()) or _ENVELOPE.match(text, match.end())
    sender: str | None = text[5:at]
    if truncated:
        sender = text[6:at] if text[5:6] == "<" else text[5:at]
    elif sender == "<NONE>" and match[2] == "0":
        sender = None  # logsender's word for "no sender yet"
    else:
        sender = _address(text[5:at])
    event = Received(
        sender=sender,
        size=max(0, int(match[1])),
        recipient_count=int(match[2]),
        truncated=truncated,
    )
    if envelope is None:
        event.truncated = True
        return event
    message_id = envelope["msgid"]
    if message_id is not None:
        if len(message_id) >= _MESSAGE_ID_CUT and message_id[:1] == "<" and message_id[-1:] != ">":
            event.truncated = True
            message_id = message_id[1:]
        event.message_id = unbracket(message_id)
    event.protocol = envelope["proto"] or None
    relay = envelope["relay"]
    if relay and relay != "[RESPONSE]":  # a bounce has no client
        event.client = Client(relay) if "[" not in relay and "@" in relay else read_client(relay)
    return event


# Sendmail cuts stat= at 203 characters and a list at about 1000 (deliver.c logdelivery). What is longer is not its own:
# it must not give each of thousands of recipients a text of thousands of characters.
_MANY_RECIPIENTS, _STATUS_OF_MANY = 100, 1000


def read_recipients(text: str, start: int) -> tuple[tuple[str, ...], int] | None:
    """Read the list of `to=`, which ends at the first `, key=` outside quotes; return it and where it ends."""
    end = text.find(", ", start)
    if end > 0 and text.startswith(_STARTS_FIELDS, end + 2):
        listed = text[start:end]
        if '"' not in listed and "\\" not in listed:
            items = listed.split(",")
            return tuple([clean_address(item) if item[:1] == "<" else _address(item) for item in items]), end
    return _read_list(text, start, _LIST_ITEM) or _read_list(text, start, _CLASSIC_ITEM)


def _read_list(text: str, start: int, pattern: re.Pattern[str]) -> tuple[tuple[str, ...], int] | None:
    found: list[str] = []
    at = start
    while True:
        item = pattern.match(text, at)
        if item is None:
            return None
        at = item.end()
        if item[0] != _MORE:
            found.append(_address(item[0].removesuffix(_MORE)))
        if text.startswith(", ", at) and text.startswith(_STARTS_FIELDS, at + 2):
            return tuple(found), at
        if text[at : at + 1] != ",":
            return None
        at += 1


def read_attempt(text: str, _program: str) -> Reading:
    """`to=<a>,<b>, ctladdr=, delay=, xdelay=, mailer=, pri=, relay=H. [ip], dsn=, reply=, stat=…`."""
    found = read_recipients(text, 3)
    ambiguous = found is None
    if found is None:
        # Unbalanced quotes: the list ends where the fields that Sendmail always writes begin.
        cut = re.search(rf", (?:ctladdr=.{{0,200}}?, )?delay={_INTERVAL}, ", text)
        if cut is None:
            return None
        found = (text[3 : cut.start()],), cut.start()
    recipients, at = found
    if any(name[:1] == "<" and name[-1:] != ">" for name in recipients):
        ambiguous = True  # logdelivery cut an address that was too long for the line
    fields, at = _fields(text, at)
    dsn = fields.get("dsn")
    status, reply = _status(text, at, dsn)
    if status is None:
        return None
    if recipients == ("NO-TO-LIST",):
        recipients = ()
    if len(recipients) > _MANY_RECIPIENTS:
        status = status[:_STATUS_OF_MANY]
    return _attempt(recipients, status, reply, fields, ambiguous=ambiguous)


def _fields(text: str, at: int) -> tuple[dict[str, str | None], int]:
    """Read the fields between the list and reply= or stat=; return them and where they end."""
    match = _ATTEMPT.match(text, at)
    if match is not None:
        at = match.end()
        if match["quarantine"] is not None and text.endswith(_QUARANTINED):
            at = len(text) - len(_QUARANTINED)  # the reason is free text, and nothing stands behind it
        return match.groupdict(), at
    fields: dict[str, str | None] = {}
    delay = _DELAY.search(text, at) if text.startswith(", ctladdr=", at) else None
    if delay is not None and _FIELD.match(text, at) is None:
        # ctladdr= is shortened to 83 characters in its middle, which may leave a quote without its partner.
        fields["ctladdr"], at = text[at + 10 : delay.start()], delay.start()
    while (field := _FIELD.match(text, at)) is not None:
        fields.update({key: value for key, value in field.groupdict().items() if value is not None})
        at = field.end()
    if "quarantine" in fields and text.endswith(_QUARANTINED):
        at = len(text) - len(_QUARANTINED)
    return fields, at


def _status(text: str, at: int, dsn: str | None) -> tuple[str | None, str | None]:
    """Return stat= and reply=. A reply is the remote's free text, so of several `, stat=` the first that fits dsn= is it."""
    if text.startswith(", stat=", at):
        return text[at + 7 :], None
    place = first = text.find(", stat=", at)
    if first < 0:
        return None, None
    if not text.startswith(", reply=", at):
        return text[first + 7 :], None  # "..." in place of what was cut in between (the "desperation move")
    for _ in range(16):
        if place < 0 or dsn is None or _fits(text, place + 7, dsn):
            break
        place = text.find(", stat=", place + 1)
    place = place if place >= 0 else first
    return text[place + 7 :], text[at + 8 : place]


def _fits(text: str, place: int, dsn: str) -> bool:
    """Whether the words at `place` can be Sendmail's own for this DSN: reply= is logged for failures only."""
    if dsn.startswith("4"):
        return _DEFERRING_STATUS.match(text, place) is not None
    return dsn.startswith("5") and _REFUSING_STATUS.match(text, place) is not None


def _attempt(
    recipients: tuple[str, ...], status: str, reply: str | None, fields: dict[str, str | None], *, ambiguous: bool
) -> Attempted:
    mailer, relay, dsn, user = fields.get("mailer"), fields.get("relay"), fields.get("dsn"), fields.get("ctladdr")
    event = Attempted(recipients, status, _outcome(status, mailer, dsn, recipients), dsn=dsn, mailer=mailer)
    event.ambiguous = ambiguous
    delay = fields.get("delay")
    if delay:
        event.delay_seconds = seconds_of(delay)
    if user is not None:
        event.controlling_user = _address(_CTLADDR_USER.sub("", user))
        if mailer in ("prog", "*file*"):
            event.original_recipient = event.controlling_user
    # Without a mailer there was no attempt: logundelrcpts() lists whom a discarded mail would have gone to.
    event.pending = event.outcome in ("queued", "held") or (event.outcome == "discarded" and mailer is None)
    words = status.partition(" (")[2].removesuffix(")") if status.startswith("Sent (") else status.partition(": ")[2]
    event.code = reply_code(reply or "") or reply_code(words)
    if mailer is not None or relay is not None:
        _set_relay(event, relay, local=mailer in _LOCAL_MAILERS)
    if event.outcome in ("relayed", "delivered") and words:
        event.next_queue_id = next_queue_id(words)
    return event


def _set_relay(event: Attempted, relay: str | None, *, local: bool) -> None:
    if relay is None:
        event.relay = "local" if local or event.outcome == "delivered" else "none"
        return
    name, bracket, ip = relay.rpartition(" [")
    if bracket and ip[-1:] == "]":
        event.relay, event.relay_ip = relay_name(name), canonical_ip(ip[:-1])
    elif local:
        event.relay = "local"
    else:
        event.relay, event.relay_ip = relay_name(relay), canonical_ip(relay.strip("[]"))


def _outcome(status: str, mailer: str | None, dsn: str | None, recipients: tuple[str, ...]) -> str:
    if status.startswith("Sent"):
        if mailer == "*file*" and recipients and recipients[0].strip('"') == "/dev/null":
            return "discarded"
        return "delivered" if mailer in _LOCAL_MAILERS else "relayed"
    if status.startswith("queued"):
        return "queued"
    if _DEFERRING_STATUS.match(status):
        return "deferred"
    if status.startswith("quarantined"):
        return "held"
    if status.lower().startswith("discarded"):
        return "discarded"
    if dsn:
        return _BY_DSN.get(dsn[:1], "unknown")
    return "bounced" if mailer is not None and _REFUSING_STATUS.match(status) else "unknown"


def read_child(text: str, _program: str) -> Reading:
    """`NEW: DSN: reason`, `NEW: sender notify: …`, `NEW: clone: owner=X`."""
    child, found, rest = text.partition(": ")
    if not found or not is_sendmail(child):
        return None
    if rest.startswith("clone"):
        owner = rest.partition("owner=")[2]
        return Cloned(child, clean_address(owner) if owner else None)
    what, _, reason = rest.partition(": ")
    kind = _NOTICES.get(what)
    if kind is None:
        return Notified(child, "receipt", status=rest) if "eturn receipt" in rest else None
    if reason.startswith(("Warning: could not send", "Warning: delayed")):
        return Notified(child, "delay_notice", status=reason)
    if what == "DSN" and reason.lower().startswith("return receipt"):
        return Notified(child, "receipt", status=reason)
    return Notified(child, kind, expires=reason.startswith("Cannot send"), status=reason)


def read_recipient_refused(text: str, _program: str) -> Reading:
    """`<addr>... User unknown`: that RCPT was refused, often before the from= line."""
    match = _RECIPIENT_REPLY.match(text)
    if match is None:
        return None
    address = clean_address(match["angle"] if match["angle"] is not None else match["bare"])
    dsn = match["dsn"].rstrip() if match["dsn"] else None
    if match["text"].startswith(_ABOUT_SENDERS):
        return Refused("mail", text, dsn=dsn, sender=address)
    return Refused("rcpt", text, dsn=dsn, recipient=address)


def read_oversize(text: str, _program: str) -> Reading:
    """`Message size exceeds fixed maximum message size (200000)`: MAIL's SIZE= was too large (srvrsmtp.c)."""
    return Refused("mail", text, whole=True)


def read_ruleset(text: str, _program: str) -> Reading:
    """`ruleset=check_rcpt, arg1=<>, relay=H [ip], reject=550 5.7.1 …`; also `discard` and `quarantine`."""
    head = _RULESET.match(text)
    if head is None:
        return None
    ruleset = head[1]
    if ruleset.lower() in _REFUSING_NOTHING:
        return Remarked("ruleset")
    start = head.start(2)
    if ruleset in _STAGES:
        item = _LIST_ITEM.match(text, start)
        tail = _RULESET_RELAY.match(text, item.end() if item else start) or _RULESET_ANYWHERE.search(text, start)
    else:
        # A ruleset of its own name checks a header: arg1 is the header's text.
        tail = None
        for action in (", reject=", ", quarantine=", ", discard"):
            place = text.rfind(action, start)
            if place >= 0:
                relay = text.rfind(", relay=", start, place)
                at = relay if relay >= 0 and "," not in text[relay + 8 : place] else place
                tail = _RULESET_RELAY.match(text, at)
                break
    if tail is None:
        return Remarked("ruleset")
    argument = clean_address(text[start : tail.start()])
    client = read_client(tail["relay"]) if tail["relay"] else None
    reply = tail["reply"]
    if tail["action"] != "reject":
        return Inspected("discard" if tail["action"] == "discard" else "hold", reply or f"ruleset={ruleset}")
    stage = _STAGES.get(ruleset, "end_of_data")
    return Refused(
        stage,
        reply,
        whole=stage in ("data", "end_of_data"),
        code=reply_code(reply),
        dsn=reply_dsn(reply),
        client=client,
        sender=argument if ruleset == "check_mail" else None,
        recipient=argument if ruleset == "check_rcpt" else None,
    )


def read_early_talker(text: str, _program: str) -> Reading:
    """`rejecting commands from H [ip] due to pre-greeting traffic after N seconds`: FEATURE(`greet_pause')."""
    match = _EARLY_TALKER.match(text)
    return Refused("connect", text, client=read_client(match[1].strip())) if match else None


def _refused_at_connect(match: re.Match[str]) -> Refused:
    """`Milter: connect: host=H, addr=IP, rejecting commands`: all commands of the connection are refused."""
    host, ip, action, reply = match.group("host", "ip", "action", "reply")
    client = read_client(f"[{ip}]" if host[:1] == "[" else f"{host} [{ip}]")
    if reply is None:
        return Refused("connect", action, code=_SHUT_CODES.get(action), client=client)
    return Refused("connect", reply, code=reply_code(reply), dsn=reply_dsn(reply), client=client)


def read_milter(text: str, _program: str) -> Reading:
    """`Milter: data, reject=…`, `Milter: to=<x>, reject=…`, `milter=N, action=eom, reject=…`, `quarantine=…`."""
    match = _MILTER.match(text)
    if match is not None:
        where = match["where"].removeprefix("cmd=").partition("=")[0]
        address = match["address"]
    else:
        match = _MILTER_CONNECT.match(text)
        if match is not None:
            return _refused_at_connect(match)
        match = _NAMED_MILTER.match(text)
        if match is None:
            return Remarked("milter")
        where, address = match["where"] or "eom", None
    action, reply = match["action"], match["reply"] or ""
    if action in ("discard", "quarantine"):
        return Inspected("discard" if action == "discard" else "hold", reply or f"Milter: {action}")
    stage = _MILTER_STAGES.get(where, "end_of_data")
    return Refused(
        stage,
        reply or action,
        whole=stage in ("data", "end_of_data"),
        code=reply_code(reply) or (451 if action == "tempfail" else None),
        dsn=reply_dsn(reply),
        sender=clean_address(address) if stage == "mail" and address is not None else None,
        recipient=clean_address(address) if stage == "rcpt" and address is not None else None,
    )


def read_too_large(text: str, _program: str) -> Reading:
    """`message size (200001) exceeds maximum value (200000)`, `headers too large (…)`: the whole mail is refused."""
    return Refused("end_of_data", text, whole=True)


def read_aborted(text: str, _program: str) -> Reading:
    """`lost input channel from H [ip] …`, `collect: premature EOM: …`, `timeout waiting for input from …`."""
    return Aborted(text)


def read_no_mail(text: str, _program: str) -> Reading:
    """`H [ip] did not issue MAIL/EXPN/VRFY/ETRN during connection to MTA`."""
    return Aborted(text) if _DID_NOT_ISSUE.match(text) else None


def read_done(_text: str, _program: str) -> Reading:
    """`done; delay=00:00:01, ntries=1`, at log level 10 and above."""
    return Closed("completed")


def read_discarded(_text: str, _program: str) -> Reading:
    """`discarded`: the mail was dropped on purpose."""
    return Inspected("discard", "discarded")


def read_quarantined(text: str, _program: str) -> Reading:
    """`quarantine=reason` outside of a delivery line."""
    return Held(text)


def read_warning(text: str, _program: str) -> Reading:
    """`Authentication-Warning: host: user set sender to x using -f`, `…: Host H [ip] claimed to be NAME`."""
    match = _CLAIMED.match(text)
    return Named(helo=match["helo"] if match else None)


def read_tls(text: str, _program: str) -> Reading:
    """`STARTTLS=client, relay=H., version=TLSv1.3, verify=FAIL, cipher=X, bits=256/256`."""
    match = _TLS.match(text)
    if match is None:
        return None
    tls, client = f"{match[3]} {match[4]}", read_client(match[2])
    if match[1] == "server":
        return Secured(incoming=True, tls=tls, client=client)
    name = relay_name(client.name) if client.name else None
    return Secured(incoming=False, tls=tls, peer=name, peer_ip=client.ip)


def read_queued_tls(text: str, program: str) -> Reading:
    """The same behind a queue ID: of the client's connection."""
    event = read_tls(text, program)
    return Named(tls=event.tls) if isinstance(event, Secured) and event.incoming else Remarked("TLS")


def read_auth(text: str, _program: str) -> Reading:
    """`AUTH=server, relay=H [ip], authid=user, mech=PLAIN, bits=0`."""
    match = _AUTH.match(text)
    return Authenticated(match["user"], read_client(match["relay"])) if match else None


def read_queued_auth(text: str, program: str) -> Reading:
    """The same behind a queue ID."""
    event = read_auth(text, program)
    return Named(sasl_username=event.user) if isinstance(event, Authenticated) else Remarked("AUTH")


_MATTERS = re.compile(
    r"(?:to|from|stat|ctladdr|ruleset|milter)=|[0-9A-Za-x]{7,8}[0-9]{5,10}: |.{0,600}, (?:stat|reject|discard|quarantine)=",
    re.DOTALL,
)


def read_free_text(text: str, _program: str) -> Reading:
    """Whatever else follows a queue ID: any text of usrerr(), syserr() and others (err.c), which are without number.

    Counted as unparsed only where it has the form of a fact.
    """
    return None if _MATTERS.match(text) else Remarked("free text")


def read_free_message(text: str, _program: str) -> Reading:
    """Whatever else is logged without a queue ID: counted as unparsed only where it has the form of a fact."""
    is_other = text.startswith(("NOQUEUE: ", "warning: ", "error: ", "fatal: ", "panic: "))
    return None if is_other or _MATTERS.match(text) else Ignored("free text")


def read_remark(_text: str, _program: str) -> Reading:
    """A line about a transaction that changes nothing."""
    return Remarked()
