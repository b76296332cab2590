r"""How Sendmail lines are read: one function for each shape of text, left to right.

Pure. The table of line kinds that uses these is in sendmail.py. Sources (freebsd-src contrib/sendmail/src): headers.c
logsender (from=), deliver.c logdelivery (to=), srvrsmtp.c and milter.c (refusals), collect.c (lost clients), savemail.c
returntosender (DSN children), deliver.c sendall (clones).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mailspan.address import INSIDE, QUOTED, canonical_ip, clean_address, read_client, relay_name
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
from mailspan.reply import next_queue_id, reply_code, reply_dsn

if TYPE_CHECKING:
    from mailspan.grammar.kind import Reading

_SENDER_CUT, _MESSAGE_ID_CUT = 200, 100  # logsender: from=%.200s, msgid=%.100s
_LIST_ITEM = re.compile(rf'(?:<{INSIDE}>|{QUOTED}|[^,"<])++')
_SIZE = re.compile(r", size=(-?[0-9]+), class=-?[0-9]+(?:, pri=-?[0-9]+)?, nrcpts=([0-9]+)")
_ENVELOPE = re.compile(
    r"(?:, msgid=(?P<msgid>.*?))?(?:, bodytype=[^,]*)?(?:, proto=(?P<proto>[^,]*))?(?:, daemon=[^,]*)?"
    r"(?:, tls_verify=[^,]*)?(?:, auth=(?P<auth>[^,]*))?(?:, relay=(?P<relay>[^,]*))?\Z",
    re.DOTALL,
)
_ATTEMPT = re.compile(
    rf"(?:, ctladdr=(?P<ctladdr>(?:<{INSIDE}>|{QUOTED}|[^,\"<])++))?(?:, delay=(?P<delay>[0-9+:]+))?"
    r"(?:, xdelay=[0-9+:]+)?(?:, mailer=(?P<mailer>[^,]*))?(?:, pri=-?[0-9]+)?(?:, relay=(?P<relay>[^,]*))?"
    r"(?:, quarantine=(?P<quarantine>[^,]*))?(?:, dsn=(?P<dsn>[0-9.]+))?(?:, ntries=[0-9]+)?"
    r"(?=, (?:reply|stat)=)"
)
_FIELD = re.compile(
    rf", (?:ctladdr=(?P<ctladdr>(?:<{INSIDE}>|{QUOTED}|[^,\"<])++)|delay=(?P<delay>[0-9+:]+)|xdelay=[0-9+:]+"
    r"|mailer=(?P<mailer>[^,]*)|pri=-?[0-9]+|relay=(?P<relay>[^,]*)|quarantine=(?P<quarantine>[^,]*)"
    r"|dsn=(?P<dsn>[0-9.]+)|ntries=[0-9]+|tls_verify=[^,]*|auth=[^,]*)"
)
_CTLADDR_USER = re.compile(r" \([0-9]+/[0-9]+\)\Z")
_STARTS_FIELDS = (
    "ctladdr=", "delay=", "xdelay=", "mailer=", "pri=", "relay=", "dsn=", "stat=", "reply=", "ntries=", "quarantine=",
)  # fmt: skip
_LOCAL_MAILERS = frozenset({"local", "prog", "*file*", "*include*", "lmtp", "cyrus", "cyrusv2", "procmail", "cyrusbb"})
_REFUSING_STATUS = re.compile(
    r"User unknown|Host unknown|Service unavailable|Data format error|Addressee unknown|Name server|Permission denied"
    r"|Local configuration error|Remote protocol error|Command line usage error|Cannot open input|Can't create output"
    r"|Host (?:name )?not found|Bad (?:address|usage)|returned|Local error|Internal error"
)
_BY_DSN = {"2": "relayed", "4": "deferred", "5": "bounced"}
_RULESET = re.compile(r"ruleset=(\w+), arg1=(.*)", re.DOTALL)
_RULESET_RELAY = re.compile(
    r"(?:, arg2=.*?)??(?:, relay=(?P<relay>[^,]*))?, (?P<action>reject|discard|quarantine)\b=?(?P<reply>.*)", re.DOTALL
)
_STAGES = {
    "check_relay": "connect", "check_mail": "mail", "check_rcpt": "rcpt", "check_data": "data", "check_eom": "end_of_data",
    "check_vrfy": "rcpt", "check_expn": "rcpt", "check_etrn": "connect", "check_compat": "rcpt", "trust_auth": "auth",
    "tls_client": "mail", "check_header": "end_of_data",
}  # fmt: skip
_MILTER_STAGES = {
    "connect": "connect", "helo": "helo", "from": "mail", "mail": "mail", "to": "rcpt", "rcpt": "rcpt", "data": "data",
    "header": "end_of_data", "eoh": "end_of_data", "body": "end_of_data", "eom": "end_of_data",
}  # fmt: skip
_MILTER = re.compile(
    rf"Milter: (?P<where>data|(?:to|from|helo|connect)=(?:<(?P<address>{INSIDE})>|(?!<)[^,]*+)[^,]*+), "
    r"(?P<action>reject|discard|tempfail)(?:=(?P<reply>.*))?",
    re.DOTALL,
)
_NAMED_MILTER = re.compile(
    r"milter=(?P<name>[^,]*)(?:, action=(?P<where>\w+))?, (?P<action>reject|discard|quarantine|tempfail|continue|accept)"
    r"(?:=(?P<reply>.*))?",
    re.DOTALL,
)
_NOTICES = {
    "DSN": "bounce",
    "return to sender": "bounce",
    "sender notify": "bounce",
    "postmaster notify": "bounce",
    "unsupported: ": "bounce",
}
_FROM_HOST = re.compile(r"(?:from|on) (\S+(?: \[[^\]]*\])?)")
_DID_NOT_ISSUE = re.compile(r"(?P<client>.*?) did not issue (?:MAIL|EXPN|VRFY|ETRN)")
_RECIPIENT_REPLY = re.compile(rf"(?:<(?P<angle>{INSIDE})>|(?P<bare>[^\s<>,:]+))\.\.\. (?P<text>.+)", re.DOTALL)
_TLS = re.compile(r"STARTTLS=(client|server), relay=([^,]*), version=([^,]*), verify=[^,]*, cipher=([^,]*)")
_AUTH = re.compile(r"AUTH=server, relay=(?P<relay>[^,]*)(?:, authid=(?P<user>.*?))?(?:, mech=[^,]*)(?:, bits=\d+)?\Z")


def seconds_of(text: str) -> float:
    """Return the seconds of Sendmail's interval `1+02:03:04` (days+hours:minutes:seconds)."""
    days, _, clock = text.rpartition("+")
    total = 0
    for part in clock.split(":"):
        total = total * 60 + int(part or 0)
    return float(total + 86400 * int(days or 0))


def read_sender(text: str, _program: str) -> Reading:
    """`from=<>, size=, class=, nrcpts=, msgid=, bodytype=, proto=, daemon=, tls_verify=, auth=, relay=H [ip]`."""
    item = _LIST_ITEM.match(text, 5)
    at = item.end() if item else 5
    match = _SIZE.match(text, at)
    truncated = False
    if match is None:
        # Cut at 200 characters, perhaps inside quotes: then the next field stands right behind.
        match = _SIZE.match(text, 5 + _SENDER_CUT)
        truncated = match is not None
        match = match or _SIZE.search(text, 5)
        if match is None:
            return None
        at = match.start()
    envelope = _ENVELOPE.match(text, match.end())
    sender = text[5:at]
    event = Received(
        sender=clean_address(sender) if not truncated else sender.removeprefix("<"),
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
        event.message_id = clean_address(message_id)
    event.protocol = envelope["proto"] or None
    event.sasl_username = envelope["auth"] or None
    relay = envelope["relay"]
    if relay:
        event.client = Client(relay) if "[" not in relay and "@" in relay else read_client(relay)
    return event


def read_recipients(text: str, start: int) -> tuple[tuple[str, ...], int] | None:
    """Read the list of `to=`, which ends at the first `, key=` outside quotes; return it and where it ends."""
    end = text.find(", ", start)
    if end > 0 and '"' not in text[start:end] and text.startswith(_STARTS_FIELDS, end + 2):
        listed = text[start:end].removesuffix(" [more]")
        return tuple([clean_address(item) for item in listed.split(",")]), end
    found: list[str] = []
    at = start
    while True:
        item = _LIST_ITEM.match(text, at)
        if item is None:
            return None
        found.append(clean_address(item[0].removesuffix(" [more]")))
        at = item.end()
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
        cut = re.search(r", (?:ctladdr=.*?, )?delay=[0-9+:]+, ", text)
        if cut is None:
            return None
        found = (text[3 : cut.start()],), cut.start()
    recipients, at = found
    match = _ATTEMPT.match(text, at)
    if match is not None:
        fields: dict[str, str | None] = match.groupdict()
        at = match.end()
    else:
        fields = {}
        while (field := _FIELD.match(text, at)) is not None:
            fields.update({key: value for key, value in field.groupdict().items() if value is not None})
            at = field.end()
    dsn = fields.get("dsn")
    status, reply = _status(text, at, dsn)
    if status is None:
        return None
    if recipients == ("NO-TO-LIST",):
        recipients = ()
    return _attempt(recipients, status, reply, fields, ambiguous=ambiguous)


def _status(text: str, at: int, dsn: str | None) -> tuple[str | None, str | None]:
    """Return stat= and reply=. A reply is the remote's free text, so of several `, stat=` the first that fits dsn= is it."""
    if text.startswith(", stat=", at):
        return text[at + 7 :], None
    if not text.startswith(", reply=", at):
        return None, None
    place = text.find(", stat=", at)
    first = place
    sent = dsn is None or dsn.startswith("2")
    for _ in range(16):
        if place < 0 or dsn is None or text.startswith("Sent", place + 7) == sent:
            break
        place = text.find(", stat=", place + 1)
    place = place if place >= 0 else first
    return (None, None) if place < 0 else (text[place + 7 :], text[at + 8 : place])


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
        event.controlling_user = clean_address(_CTLADDR_USER.sub("", user))
        if mailer in ("prog", "*file*"):
            event.original_recipient = event.controlling_user
    event.pending = event.outcome in ("queued", "held")
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
    if status.startswith("Deferred"):
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
    address = match["angle"] if match["angle"] is not None else match["bare"]
    return Refused("rcpt", text, recipient=clean_address(address), dsn=None)


def read_ruleset(text: str, _program: str) -> Reading:
    """`ruleset=check_rcpt, arg1=<>, relay=H [ip], reject=550 5.7.1 …`; also `discard` and `quarantine`."""
    head = _RULESET.match(text)
    if head is None:
        return None
    ruleset = head[1]
    item = _LIST_ITEM.match(text, head.start(2))
    tail = _RULESET_RELAY.match(text, item.end() if item else head.start(2))
    if tail is None:
        tail = _RULESET_RELAY.search(text, head.start(2))
        if tail is None:
            return Remarked("ruleset")
    argument = clean_address(text[head.start(2) : tail.start()])
    client = read_client(tail["relay"]) if tail["relay"] else None
    reply = tail["reply"]
    if tail["action"] != "reject":
        return Inspected("discard" if tail["action"] == "discard" else "hold", reply)
    stage = _STAGES.get(ruleset, "rcpt")
    return Refused(
        stage,
        reply,
        whole=stage in ("data", "end_of_data"),
        code=reply_code(reply),
        dsn=reply_dsn(reply),
        client=client,
        sender=argument if stage == "mail" else None,
        recipient=argument if stage == "rcpt" else None,
    )


def read_milter(text: str, _program: str) -> Reading:
    """`Milter: data, reject=…`, `Milter: to=<x>, reject=…`, `milter=N, action=eom, reject=…`, `quarantine=…`."""
    match = _MILTER.match(text)
    if match is not None:
        where = match["where"].partition("=")[0]
        address = match["address"]
    else:
        match = _NAMED_MILTER.match(text)
        if match is None:
            return Remarked("milter")
        where, address = match["where"] or "eom", None
    action, reply = match["action"], match["reply"] or ""
    if action in ("continue", "accept"):
        return Remarked("milter")
    if action in ("discard", "quarantine"):
        return Inspected("discard" if action == "discard" else "hold", reply)
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
    """`message size (200001) exceeds maximum value (200000)`: the whole mail is refused."""
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


def read_warning(_text: str, _program: str) -> Reading:
    """`Authentication-Warning: host: user set sender to x using -f`."""
    return Named()


def read_tls(text: str, _program: str) -> Reading:
    """`STARTTLS=client, relay=H., version=TLSv1.3, verify=FAIL, cipher=X, bits=256/256`."""
    match = _TLS.match(text)
    if match is None:
        return None
    peer = match[2]
    if match[1] == "server":
        return Secured(incoming=True, tls=f"{match[3]} {match[4]}", client=read_client(peer))
    name, _, ip = peer.partition(" [")
    return Secured(
        incoming=False, tls=f"{match[3]} {match[4]}", peer=relay_name(name), peer_ip=canonical_ip(ip.rstrip("]"))
    )


def read_auth(text: str, _program: str) -> Reading:
    """`AUTH=server, relay=H [ip], authid=user, mech=PLAIN, bits=0`."""
    match = _AUTH.match(text)
    return Authenticated(match["user"], read_client(match["relay"])) if match else None


def read_remark(_text: str, _program: str) -> Reading:
    """A line about a transaction that changes nothing."""
    return Remarked()
