r"""How Exim's lines are read: one function for each shape of text, left to right.

Pure. The table of line kinds that uses these is in exim.py, the parts they share in exim_fields.py, what surrounds a
message (stamps, IDs, syslog's parts, header dumps) in exim_lines.py. Sources, of Exim 4.98: receive.c (`<=`),
deliver.c delivery_log, deferral_log, failure_log, post_process_one (deliveries), retry.c (expiry), smtp_in.c
smtp_handle_acl_fail (refusals), queue.c queue_action (administrators), log.c (`from <S> for R`, header dumps).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mailspan.address import INSIDE, IPV4, canonical_ip, clean_address, relay_name, unbracket
from mailspan.event import (
    Aborted,
    Attempted,
    Cancelled,
    Client,
    Closed,
    Disconnected,
    Held,
    Inspected,
    Received,
    Refused,
    Released,
    Remarked,
    Skipped,
)
from mailspan.grammar.exim_fields import (
    FIELDS,
    HOST,
    USUAL_DELIVERY,
    WORD,
    Address,
    codes_in,
    host_in,
    read_address,
    read_client,
    seconds_of,
    unescape,
)
from mailspan.queue_id import EXIM
from mailspan.record import Ignored
from mailspan.reply import next_queue_id, reply_code, reply_dsn

if TYPE_CHECKING:
    from mailspan.grammar.kind import Reading

_TLS = r'(?: X=(?P<tls>[^ ]+))?(?: CV=[a-z]+)?(?: DN="[^"]*+")?(?: SNI=[^ ]*)?'
_FROM = rf"(?:H=(?P<host>{HOST})(?: I=\[[^\]]*+\]:[0-9]+)?(?: TFO\*{{0,2}})?(?: U=(?P<ident>[^ ]+))?|U=(?P<user>[^ ]+))"
_ARRIVAL = re.compile(
    rf"(?:<=|\(=) (?P<sender>{WORD})(?: R=(?P<parent>{EXIM}))?(?: DS)?(?: {_FROM})?(?: Ci=[0-9]+)?"
    rf"(?: P=(?P<protocol>[^ ]+))?(?: L[.*]?-?)?{_TLS}(?: A=(?P<auth>[^ ].{{0,300}}?))?(?: PRDR)?(?: PRX=[^ ]*)?(?: K)?"
    r" S=(?P<size>[0-9]{1,15})(?= |\Z)",
    re.DOTALL,
)
# M8S=, DKIM=, ARC, RT=, Q= and what later versions add; then what strangers chose, each quoted or a word.
_REST = re.compile(
    r'(?: (?!id\*?=|T="|from <|for )[A-Za-z0-9]+\*?(?:=[^ ]*+)?)*+'
    rf'(?: id\*?=(?P<id>{WORD}))?(?: T="(?P<subject>(?:[^"\\]|\\.)*+)(?:"|\Z))?'
    rf"(?: from <(?P<claimed>{INSIDE})>)?(?: for (?P<recipients>.*))?",
    re.DOTALL,
)
_USUAL_ARRIVAL = re.compile(
    rf'<= (?P<sender>[^ <>"\\#]++) H=(?P<name>[^ ()\[\]]{{1,255}}+) \[(?P<ip>{IPV4})\] P=(?P<protocol>[^ ]++)'
    r"(?: X=(?P<tls>[^ ]++))?(?: CV=[a-z]++)?(?: A=(?P<auth>[^ ]++))? S=(?P<size>[0-9]{1,15})"
    r'(?: id=(?P<id>[^ "]++))?\Z',
    re.ASCII,
)
_BARE_ARRIVAL = re.compile(rf"(?:<=|\(=) (?P<sender>{WORD})")
_LISTED = re.compile(r'(?:"(?:[^"\\]|\\.){0,80}+"|[^ "])++|"')
_LIST_CHARACTERS = 8192
_DISCARDS = (":blackhole: <", "discarded <")
_CUT_LIST = "<trunc>"
_DELAY_WARNING = re.compile(rf"Warning: message {EXIM} delayed ")

_DEFER = re.compile(r"(?: routing)? ?defer \((-?[0-9]{1,5})\)")
_NOT_TRIED = range(-57, -51)  # macros.h: from ERRNO_RRETRY down, nothing was tried
_OLD_NOT_TRIED, _NOT_YET = -51, ": retry time not reached"  # before 4.93: -51 has been ERRNO_TAINT since
_DOMAIN_HELD = -23  # macros.h ERRNO_HELD
_FAILURE_TIME = re.compile(r" DT=[0-9][0-9.wdhms]{0,20}\Z")
_EXPIRY = "retry timeout exceeded"

_ENVELOPE = r"(?:(?: X=[^ ]+)?(?: CV=[a-z]+)?(?: DN=\"[^\"]*+\")?(?: SNI=[^ ]*)?)"
_REFUSAL = re.compile(
    rf"(?: ?DS ?)?(?:{_FROM})(?: Ci=[0-9]+)?{_ENVELOPE}"
    r"(?: (?!F=|A=|rejected |temporarily |dropped )(?P<onward>[^ <>]{1,320})(?: <[^<>]{1,320}>)?)?"
    rf"(?: F=<(?P<sender>{INSIDE})>)?(?: A=(?P<auth>[^ ].{{0,300}}?))?"
    r" (?P<status>(?P<temporarily>temporarily )?rejected (?P<what>.*)|(?P<dropped>dropped by .*))",
    re.DOTALL,
)
_DISCARDED = re.compile(
    rf"{_FROM}(?: Ci=[0-9]+)? F=<{INSIDE}> RCPT .{{0,1100}}?: discarded by (?:MAIL|RCPT) ACL", re.DOTALL
)
_INCOMPLETE = re.compile(rf"{_FROM}(?: Ci=[0-9]+)? incomplete transaction \(", re.DOTALL)
_VERIFY = re.compile(rf"{_FROM}(?: Ci=[0-9]+)? sender verify (?:defer|fail) for <", re.DOTALL)
_WARNED = re.compile(rf"{_FROM}(?: Ci=[0-9]+)? Warning: ", re.DOTALL)
_STAGES = (
    ("after DATA", "end_of_data"), ("during MIME ACL checks", "end_of_data"), ("DKIM", "end_of_data"), ("PRDR", "end_of_data"),
    ("by local_scan()", "end_of_data"), ("by non-SMTP ACL", "end_of_data"), ("DATA", "data"), ("RCPT ", "rcpt"),
    ("MAIL ", "mail"), ("MAILAUTH", "mail"), ("connection", "connect"), ("EHLO or HELO ", "helo"), ("EHLO", "helo"),
    ("HELO", "helo"), ("AUTH", "auth"), ("STARTTLS", "helo"), ("VRFY", "rcpt"), ("EXPN", "rcpt"), ("ETRN", "connect"),
    ("XCLIENT", "connect"), ("NOTQUIT", "connect"), ("QUIT", "connect"),
)  # fmt: skip
_WHOLE = frozenset({"end_of_data", "data"})
_ARGUMENT = re.compile(rf" ?(?:TO|FROM)?:?(?:<(?P<angle>{INSIDE})>|(?P<bare>[^ <>]+?)(?=:? |:?\Z))", re.IGNORECASE)

_SIZE_REFUSAL = re.compile(
    rf"rejected MAIL FROM:<(?P<sender>{INSIDE})> {_FROM}(?: Ci=[0-9]+)?: (?P<text>.*)", re.DOTALL
)
_MESSAGE_REFUSAL = re.compile(
    rf"rejected from <(?P<sender>{INSIDE})>(?: ?H=(?P<host>{HOST}))?(?: ?U=(?P<user>[^ :]+))?: (?P<text>.*)", re.DOTALL
)
_LOCAL_SCAN = re.compile(
    rf"F=(?P<sender>{WORD})(?: DS)?(?: {_FROM})?(?: [A-Z][A-Za-z0-9]*(?:[=*-][^ ]*)?)*+"
    r" (?P<status>(?P<temporarily>temporarily )?rejected by (?:local_scan\(\)|non-SMTP ACL).*)",
    re.DOTALL,
)
_COMMAND_REFUSAL = re.compile(
    rf'(?P<temporarily>temporarily )?rejected "?(?P<what>[A-Za-z]{{1,12}}+)[^\[\]]{{0,1100}}? from (?P<host>{HOST})',
    re.DOTALL,
)
_MAIL_COMMAND = re.compile(rf"rejected MAIL command {_FROM}", re.DOTALL)
_CONNECTION_REFUSAL = re.compile(
    rf"(?:(?P<temporarily>temporarily )?refused connection from|[Cc]onnection from) (?P<host>{HOST})(?P<rest>.*)",
    re.DOTALL,
)
_AUTH_FAILURE = re.compile(
    rf"[^ ]{{1,64}} authenticator failed for (?P<host>{HOST})(?: I=\[[^\]]*+\]:[0-9]+)?(?: U=[^ ]+)?(?: Ci=[0-9]+)?: "
    r"(?P<reply>.*)",
    re.DOTALL,
)
_SET_ID = re.compile(r".*? \(set_id=(?P<user>.*)\)", re.DOTALL)
_UNABLE = re.compile(r"435 Unable to authenticate at present \(set_id=(?P<user>.*?)\): ", re.DOTALL)  # then the error
_UNQUALIFIED = re.compile(
    rf"unqualified (?P<what>sender|recipient) rejected: <(?P<address>{INSIDE})> {_FROM}(?P<rest>.*)", re.DOTALL
)
_TOO_MANY = re.compile(
    rf"too many recipients: (?P<text>message rejected|excess temporarily rejected): sender=<(?P<sender>{INSIDE})> {_FROM}",
    re.DOTALL,
)
_SYNC_REFUSAL = re.compile(
    rf'SMTP protocol synchronization error \([^()]*\): rejected (?:connection from|"(?P<what>[A-Za-z]{{0,12}}+).{{0,600}}?") '
    rf"{_FROM} (?:next )?input=",
    re.DOTALL,
)
_COMMANDS = {
    "mail": "mail", "rcpt": "rcpt", "data": "data", "bdat": "data", "ehlo": "helo", "helo": "helo", "auth": "auth",
    "starttls": "helo", "vrfy": "rcpt", "expn": "rcpt", "rset": "mail", "xclient": "connect", "etrn": "connect",
}  # fmt: skip
_IGNORED_ERROR = re.compile(r": error ignored(?=\Z|:)")
_LOST_IN_DATA = re.compile(r".* lost while reading message data(?: \([a-z ]{1,20}\))?", re.DOTALL)
_RELAY_REMARK = re.compile(r"H=[^ ]+ \[[^\]]*+\]")


def read_arrival(text: str, _program: str) -> Reading:
    """`<= S R=ID H=N (helo) [ip] U= P= X= CV= A=auth:user S=size M8S= DKIM= RT= id= T="subject" from <S> for R1 R2`."""
    usual = _USUAL_ARRIVAL.match(text)
    if usual is not None:
        sender, name, ip, protocol, tls, auth, size, message_id = usual.groups()
        event = Received(
            Client(f"{name} [{ip}]", name, ip), sender, int(size), None, None, protocol, queued=True, tls=tls
        )
        if auth is not None:
            event.sasl_username = _login(auth)
        if message_id is not None:
            event.message_id = unbracket(message_id)
        return event
    head = _ARRIVAL.match(text)
    if head is None:
        bare = _BARE_ARRIVAL.match(text)
        return None if bare is None else Received(sender=_sender(bare["sender"]), queued=True, truncated=True)
    event = Received(sender=_sender(head["sender"]), size=int(head["size"]), queued=True)
    event.protocol = head["protocol"]
    event.tls = head["tls"]
    if event.sender == "" and head["parent"]:
        event.bounce_of = head["parent"]
    host = read_client(head["host"]) if head["host"] else None
    if host is not None:
        event.client, event.helo = host
    elif head["user"] and event.bounce_of is None:
        event.client = Client(f"{head['user']}@localhost")
    if head["auth"]:
        event.sasl_username = _login(head["auth"])
    rest = _REST.match(text, head.end())
    if rest is not None:
        _read_rest(event, rest)
    return event


def _read_rest(event: Received, rest: re.Match[str]) -> None:
    event.message_id = rest["id"] and unbracket(rest["id"])
    if rest["subject"] is not None:
        event.subject = unescape(rest["subject"])
        event.delay_notice = event.bounce_of is not None and _DELAY_WARNING.match(event.subject) is not None
    if rest["recipients"]:
        listed, event.truncated = _recipients(rest["recipients"])
        event.recipients = tuple(dict.fromkeys(map(clean_address, listed)))


def _recipients(text: str) -> tuple[list[str], bool]:
    """Split the list of `for`, and say whether its end was cut; of a list with quotes the beginning only is read."""
    if '"' not in text:
        listed, is_cut = text.split(), False
    else:
        listed, is_cut = _LISTED.findall(text[:_LIST_CHARACTERS]), len(text) > _LIST_CHARACTERS
    is_cut = is_cut or text.endswith(_CUT_LIST)
    return (listed[:-1] if is_cut else listed), is_cut


def _sender(word: str) -> str:
    return clean_address(word)


def _login(auth: str) -> str | None:
    """Return the user of `authenticator:user` or, with smtp_mailauth, `authenticator:user:sender`."""
    user = auth.partition(":")[2]
    name, colon, sender = user.rpartition(":")
    if colon and "@" in sender:
        user = name
    return user or None


def read_delivery(text: str, _program: str) -> Reading:
    """`=> A (parent) <O> F=<S> P=<R> R=router T=transport S= H=N [ip]:port X= A= L K C="reply" QT= DT=`; `->`, `>>`, `*>`."""
    fields = USUAL_DELIVERY.match(text, 3)
    if fields is not None:
        original = fields["original"]
        end = fields.end("recipient") if original is None else fields.end("original") + 1
        address = Address(fields["recipient"], original if original != fields["recipient"] else None, end)
    else:
        address = read_address(text, 3)
        fields = FIELDS.match(text, address.end)
        if fields is None or not address.recipient:
            return None
    is_bare = fields["transport"] is None and fields["router"] is None
    if is_bare and text.startswith(("blackhole ", "discarded ("), 3):
        return Inspected("discard", text[3:])
    discards = text.startswith("*>") or (fields["transport"] is None and text.startswith(_DISCARDS, 3))
    if discards and address.original is not None and fields["transport"] is None:
        address = address._replace(recipient=address.original, original=None)
    reply = fields["confirmation"]
    said = unescape(reply) if reply is not None else text[address.end :].strip() or text[:2]
    event = Attempted((address.recipient,), said, "relayed", original_recipient=address.original)
    if address.recipient == "/dev/null" or fields["transport"] == "**bypassed**":
        discards = True
    _set_relay(event, fields, local="local")
    if discards:
        event.outcome = "discarded"
    elif event.relay == "local" or fields["protocol"] == "lmtp":
        event.outcome = "delivered"
    if reply is not None:
        event.code, event.dsn = reply_code(said), reply_dsn(said)
        if event.outcome in ("relayed", "delivered"):
            event.next_queue_id = next_queue_id(said)
    return event


def _set_host(event: Attempted, found: re.Match[str], host: str) -> None:
    event.relay = relay_name(host)
    event.relay_ip = canonical_ip(found["ip"]) if found["ip"] else None
    event.relay_port = int(found["port"]) if found["port"] else None


def _set_relay(event: Attempted, fields: re.Match[str], *, local: str, message: str = "") -> None:
    """Fill in what the fields, or an old version's message, say of the way: transport, relay, TLS, time in the queue."""
    host = fields["host"] or fields["name"]
    if host:
        _set_host(event, fields, host)
    else:
        old = host_in(message)
        if old is not None:
            _set_host(event, old, old["host"])
        else:
            event.relay = local
    event.mailer = fields["transport"]
    event.tls = fields["tls"]
    if fields["queue_time"]:
        event.delay_seconds = seconds_of(fields["queue_time"])


def read_deferral(text: str, _program: str) -> Reading:
    """`== A <O> R= T= defer (-44): error H=N [ip] DT=: message`; from -52 on down nothing was tried."""
    address = read_address(text, 3)
    fields = FIELDS.match(text, address.end)
    if fields is None:
        return None
    defer = _DEFER.match(text, fields.end())
    if defer is None:
        return None
    error = int(defer[1])
    status = text[fields.end() :].strip()
    if error in _NOT_TRIED or (error == _OLD_NOT_TRIED and text[defer.end() :] == _NOT_YET):
        return Skipped(address.recipient, status, address.original)
    event = Attempted((address.recipient,), status, "deferred", original_recipient=address.original)
    at = defer.end()
    if error > 0 and text.startswith(": ", at):  # strerror() stands before the host
        at = _end_of_error(text, at + 2)
    way = FIELDS.match(text, at)
    message = text[way.end() :].lstrip(" ") if way is not None else ""
    message = message[2:] if message.startswith(": ") else ""
    _set_relay(event, way if way is not None else fields, local="none", message=message)
    event.mailer = fields["transport"]
    event.code, event.dsn = codes_in(message)
    if error == _DOMAIN_HELD:
        event.outcome, event.pending = "held", True
    return event


def _end_of_error(text: str, at: int) -> int:
    """Return where the words of strerror() end: at the host, the time or the message that follow, or with the line."""
    ends = [place for mark in (" H=", " DT=", ": ") if (place := text.find(mark, at, at + 200)) >= 0]
    return min(ends, default=len(text))


def read_failure(text: str, _program: str) -> Reading:
    """`** A <O> F=<S> P=<R> R= T= H=N [ip]: message DT=`; `** A: retry timeout exceeded` is the expiry of A."""
    if text.startswith("mua_wrapper is set ", 3):
        return Remarked()
    address = read_address(text, 3)
    fields = FIELDS.match(text, address.end)
    if fields is None or not address.recipient:
        return None
    message = text[fields.end() :].lstrip(" ").removeprefix(":").strip()
    message = _FAILURE_TIME.sub("", f" {message}")[1:]
    if message == _EXPIRY and fields["host"] is None:
        return Attempted((address.recipient,), message, "expired", address.original, given_up=True)
    event = Attempted((address.recipient,), message or text[address.end :].strip() or "**", "bounced", address.original)
    _set_relay(event, fields, local="none", message=message)
    event.code, event.dsn = codes_in(message)
    return event


def read_ignored_error(text: str, _program: str) -> Reading:
    """`A <O>: error ignored`: no notice is made of that failure; the recipient is done with."""
    address = read_address(text, 0)
    if not _IGNORED_ERROR.match(text, address.end):
        return None
    return Attempted(
        (address.recipient,), text[address.end + 2 :], "bounced", address.original, pending=True, given_up=True
    )


def read_completed(_text: str, _program: str) -> Reading:
    """`Completed`, with ` QT=` where selected."""
    return Closed("completed")


def read_removed(_text: str, _program: str) -> Reading:
    """`removed by root` (Completed follows), `Message removed because older than 4d`."""
    return Closed("deleted")


def read_frozen(text: str, _program: str) -> Reading:
    """`Frozen (delivery error message)`, `frozen by root`, and in a queue run `Message is frozen`."""
    return Held(text)


def read_released(_text: str, _program: str) -> Reading:
    """`Unfrozen by forced delivery`, `unfrozen by root`."""
    return Released()


def read_cancelled(text: str, _program: str) -> Reading:
    """`cancelled by root`, `cancelled by timeout_frozen_after`, `cancelled by system filter: text`: no `**` follows."""
    return Cancelled(text)


def read_aborted(text: str, _program: str) -> Reading:
    """`SMTP connection lost after final dot H=…`, `Message abandoned: …`, a data timeout, `rescind the above …`."""
    return Aborted(text)


def read_lost_connection(text: str, _program: str) -> Reading:
    """`SMTP connection from N [ip] lost while reading message data`: the last words are Exim's, a HELO stands before."""
    return Aborted(text) if _LOST_IN_DATA.fullmatch(text) else None


def read_local_scan_failure(text: str, _program: str) -> Reading:
    """`local_scan() function crashed with signal 11 - message temporarily rejected (size 1234)`, `… timed out - …`."""
    if " - message temporarily rejected " not in text:
        return None
    return Refused("end_of_data", text, whole=True, temporary=True)


def read_refusal(text: str, program: str) -> Reading:
    """`H=N (helo) [ip] X= CV= F=<S> A=auth:user temporarily rejected RCPT <R>: text`; ` DSH=…` with DNSSEC."""
    match = _REFUSAL.match(text)
    if match is None:
        return _read_other(text, program)
    if match["dropped"]:
        return _refused(match, "connect", match["dropped"])
    stage, argument, said = _stage(match["what"])
    event = _refused(match, stage, match["status"], said)
    event.recipient = match["onward"]  # cut-through: the next hop refused the mail for this one
    event.sender = clean_address(match["sender"]) if match["sender"] is not None else None
    event.sasl_username = _login(match["auth"]) if match["auth"] else None
    if stage == "rcpt":
        event.recipient = argument
    elif stage == "mail" and event.sender is None:
        event.sender = argument
    return event


def _read_other(text: str, _program: str) -> Reading:
    """Read what else begins with a client: none of it refuses anything or belongs to a mail."""
    if _INCOMPLETE.match(text):
        return Ignored("incomplete transaction")
    if _DISCARDED.match(text):
        return Ignored("discarded by ACL")
    if _VERIFY.match(text):
        return Ignored("sender verification")
    return Ignored("warning") if _WARNED.match(text) else None


def _stage(what: str) -> tuple[str, str | None, str]:
    """Return the stage of the dialogue that `rejected …` names, the address of the command, and what is said of it."""
    for begin, stage in _STAGES:
        if what.startswith(begin):
            argument = _ARGUMENT.match(what, len(begin.rstrip())) if stage in ("rcpt", "mail") else None
            if argument is None:
                return stage, None, what.partition(": ")[2]
            address = argument["angle"] if argument["angle"] is not None else argument["bare"]
            return stage, clean_address(address), what[argument.end() :].partition(": ")[2]
    return "connect", None, what.partition(": ")[2]


def _refused(match: re.Match[str], stage: str, status: str, said: str | None = None) -> Refused:
    """Return a refusal with what the match's groups say of the client and of how long; `said` may begin with a code."""
    groups = match.groupdict()
    event = Refused(stage, status, whole=stage in _WHOLE, temporary=bool(groups.get("temporarily")))
    host = read_client(groups["host"]) if groups.get("host") else None
    if host is not None:
        event.client, event.helo = host
    elif groups.get("user"):
        event.client = Client(f"{groups['user']}@localhost")
    said = status.partition(": ")[2] if said is None else said
    event.code, event.dsn = reply_code(said), reply_dsn(said)
    return event


def read_message_refusal(text: str, program: str) -> Reading:
    """`rejected from <S> H=N [ip]: message too big: …`, `rejected MAIL FROM:<S> H=…: …`, `rejected EHLO from N [ip]: …`."""
    match = _MESSAGE_REFUSAL.match(text)
    if match is not None:
        event = _refused(match, "end_of_data", text)
        event.sender = clean_address(match["sender"])
        return event
    match = _SIZE_REFUSAL.match(text)
    if match is not None:
        event = _refused(match, "mail", text)
        event.sender = clean_address(match["sender"])
        return event
    match = _MAIL_COMMAND.match(text)
    if match is not None:
        return _refused(match, "mail", text)
    match = _COMMAND_REFUSAL.match(text)
    if match is not None:
        return _refused(match, _COMMANDS.get(match["what"].lower(), "connect"), text)
    return read_refusal(f"U=unknown {text}", program) if "ACL" in text[:80] else None


def read_local_scan(text: str, _program: str) -> Reading:
    """`F=S H=N [ip] P=esmtp temporarily rejected by local_scan(): text`, `F=<S> rejected by non-SMTP ACL: text`."""
    match = _LOCAL_SCAN.match(text)
    if match is None:
        return None
    event = _refused(match, "end_of_data", match["status"])
    event.sender = _sender(match["sender"])
    return event


def read_connection_refusal(text: str, _program: str) -> Reading:
    """`refused connection from N [ip] (host_reject_connection)`, `Connection from [ip] refused: too many connections`."""
    match = _CONNECTION_REFUSAL.match(text)
    if match is None or ("refused" not in match["rest"][:60] and "refused" not in text[:24]):
        return None
    event = _refused(match, "connect", text)
    # daemon.c, smtp_in.c: all of these answer 421, but for the lists of refused hosts, which answer 554
    event.temporary = event.temporary or " refused: " in match["rest"]
    return event


def read_auth_failure(text: str, _program: str) -> Reading:
    """`login authenticator failed for N (helo) [ip]: 535 Incorrect authentication data (set_id=user)`."""
    match = _AUTH_FAILURE.match(text)
    if match is None:
        return None
    event = _refused(match, "auth", match["reply"], match["reply"])
    user = _UNABLE.match(match["reply"]) or _SET_ID.fullmatch(match["reply"])
    event.sasl_username = user["user"] if user else None
    return event


def read_unqualified(text: str, _program: str) -> Reading:
    """`unqualified sender rejected: <x> H=…`, `unqualified recipient rejected: <x> H=…`."""
    match = _UNQUALIFIED.match(text)
    if match is None:
        return None
    event = _refused(match, "mail" if match["what"] == "sender" else "rcpt", text)
    address = clean_address(match["address"])
    if match["what"] == "sender":
        event.sender = address
    else:
        event.recipient = address
    return event


def read_too_many(text: str, _program: str) -> Reading:
    """`too many recipients: message rejected: sender=<S> H=…`, `… excess temporarily rejected: …`."""
    match = _TOO_MANY.match(text)
    if match is None:
        return None
    event = _refused(match, "rcpt", text)
    event.sender = clean_address(match["sender"])
    event.temporary = "temporarily" in match["text"]
    return event


def read_sync_error(text: str, _program: str) -> Reading:
    """`SMTP protocol synchronization error (…): rejected "RCPT …" H=… next input="…"`."""
    match = _SYNC_REFUSAL.match(text)
    if match is None:
        return Ignored("SMTP protocol error")
    return _refused(match, _COMMANDS.get((match["what"] or "").lower(), "connect"), text)


def read_disconnect(text: str, _program: str) -> Reading:
    """`SMTP connection from N [ip] D=1s closed by QUIT`, `… lost`, `unexpected disconnection …`: the process is free."""
    return None if text.endswith(")") and "connection count = " in text else Disconnected()


_MATTERS = re.compile(
    r'[<(=*>-][=>*-] |(?:[^"]{0,600} )?rejected (?:after|by|during|from|connection|RCPT|DATA|MAIL)(?= |\Z)', re.DOTALL
)


def read_free_text(text: str, _program: str) -> Reading:
    """Whatever else stands behind an ID: words of an administrator's ACLs (`logwrite`) and Exim's rarer ones.

    Counted as unparsed only where it has the form of a fact.
    """
    return None if _MATTERS.match(text) else Remarked("free text")


def read_remark(_text: str, _program: str) -> Reading:
    """A line about a mail that changes nothing of its document."""
    return Remarked()


def read_relay_remark(text: str, program: str) -> Reading:
    """`H=N [ip] Connection refused`, `H=N [ip]: SMTP error …`: a relay was tried, `==` or `**` says what came of it."""
    match = _REFUSAL.match(text)
    if match is not None:
        return read_refusal(text, program)
    other = _read_other(text, program)
    if other is not None:
        return Remarked()
    return Remarked("relay tried") if _RELAY_REMARK.match(text) else Remarked()


def read_dumped_header(line: str, above: Refused | None) -> Reading:
    """Read a line that the reject log has below a refusal: the envelope, then `F From: <S>`, `  Subject: text`."""
    if line.startswith("Envelope-from: <"):
        return Inspected("header", "", sender=clean_address(line[15:].strip()))
    recipient = line[13:] if line.startswith("Envelope-to: <") else line[4:] if line.startswith("    <") else None
    if recipient is not None and above is not None:
        return Refused(
            above.stage,
            above.status,
            code=above.code,
            dsn=above.dsn,
            recipient=clean_address(recipient.strip()),
            temporary=above.temporary,
        )
    name, colon, value = line[2:].partition(":")
    value = value.strip()
    if colon and line[1:2] == " " and name.lower() == "subject":
        return Inspected("header", "", subject=value)
    if colon and line[1:2] == " " and name.lower() == "message-id":
        return Inspected("header", "", message_id=clean_address(value))
    return Remarked("header")


_NAMED_REMARK = re.compile(
    r"[^ ]{1,64} authenticator (?:failed|cancelled) |<[^>]{1,1000}>: [^ ]{1,64} transport output: |\"[^\"]{0,1000}\" from .{1,200}"
    r" rewritten as |\[[0-9A-Fa-f:.]{2,45}\] SSL |[^ ]{1,64} transport process |[^ ]{1,64} router .{1,200}: "
)


def read_named_remark(text: str, _program: str) -> Reading:
    """A remark that begins with a name: an authenticator, a transport's output, an address that is rewritten."""
    return Remarked() if _NAMED_REMARK.match(text) else None
