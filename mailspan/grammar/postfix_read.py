r"""How Postfix lines are read: one function for each shape of text, left to right.

Pure. The table of line kinds that uses these is in postfix.py. Sources: src/global/log_adhoc.c (to=), smtpd/smtpd.c
(client=), smtpd/smtpd_check.c log_whatsup (reject), cleanup/cleanup_message.c cleanup_act_log and
cleanup_milter.c (content actions), qmgr/qmgr_active.c, bounce/bounce_notify_util.c.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from mailspan.address import INSIDE, canonical_ip, decode_escapes, read_angle, read_client, relay_name, unbracket
from mailspan.event import (
    Aborted,
    Attempted,
    Client,
    Closed,
    Connected,
    Disconnected,
    Expired,
    Gap,
    Held,
    Identified,
    Inspected,
    Linked,
    Notified,
    Queued,
    Received,
    Refused,
    Released,
    Remarked,
    Secured,
)
from mailspan.queue_id import is_postfix
from mailspan.record import Ignored
from mailspan.reply import next_queue_id, reply_code, reply_dsn

if TYPE_CHECKING:
    from mailspan.grammar.kind import Reading

_NUMBER = r"-?[0-9]{1,15}(?:\.[0-9]{1,15})?"  # negative after the clock was set back
_DELIVERY = re.compile(
    r"relay=([^,]*)(?:, conn_use=[0-9]+)?"
    rf"(?:,? delay=({_NUMBER}))?(?:, delays=({_NUMBER})/({_NUMBER})/({_NUMBER})/({_NUMBER}))?"
    r"(?:, tls=([^,]*))?(?:, dsn=([0-9.]+))?, status=((\S+).*)",
    re.DOTALL,
)
# The same with all its usual fields, and addresses without quotes: what most lines are, in one simple step.
_USUAL_DELIVERY = re.compile(
    r'to=<([^">\\#]*+)>(?:, orig_to=<([^">\\#]*+)>)?, relay=([^,]*+)(?:, conn_use=[0-9]++)?, delay=([0-9.]{1,15}+), '
    r"delays=([0-9.]{1,15}+)/([0-9.]{1,15}+)/([0-9.]{1,15}+)/([0-9.]{1,15}+)(?:, tls=([^,]*+))?, dsn=([0-9.]++), "
    r"status=(([^ ]++) .*)",
    re.DOTALL,
)
_USUAL_QUEUED = re.compile(r'from=<([^">\\#]*)>, size=([0-9]{1,18}), nrcpt=([0-9]{1,18}) \(queue active\)')
_USUAL_MESSAGE_ID = re.compile(r"message-id=<([^<>\\#]*)>")
_RELAY = re.compile(r"([^\[]*)\[([^\]]*)\](?::([0-9]{1,5}))?")
# smtpd_sasl_proto.c; a user name or an AUTH= address may hold commas, so what stands behind them is read from the right.
_CLIENT = re.compile(
    r"client=([^,]*)(?:, (?!sasl_)[a-z_]+=[^,]*)*(?:, sasl_method=[^,]*)?(?:, sasl_username=(.*?))?(?:, sasl_sender=.*)?",
    re.DOTALL,
)
_ORIGINAL = re.compile(r"(?:, orig_queue_id=([0-9A-Za-z]{1,32}))?(?:, orig_client=([^,]*))?\Z")
_QUEUED = re.compile(r"(?:, size=([0-9]{1,18}))?(?:, nrcpt=([0-9]{1,18}))? \(queue active\)\s*\Z")
_EXPIRED = re.compile(r", status=((?:force-)?expired\b[^<>]*)\Z")
_PICKUP = re.compile(r"uid=([0-9]+) from=<(.*)>(?: orig_id=([0-9A-Za-z]+))?\Z", re.DOTALL)
_TLS = re.compile(
    r"(?:\w+ )?TLS connection (?:established|reused) (from|to) "
    r"(?:([^\[\]]*)\[([^\[\]]*)\](?::[0-9]+)?|([^\s\[\]]+)): "  # 2.2 named the server only
    r"((?:TLS|SSL)v[0-9.]+) with cipher (\S+)"
)
_LOST = re.compile(
    r"(?:lost connection|timeout|too many errors|bare <[CL][RF]> received) after (\S+)(?: content)?"
    r"(?: \((?:approximately )?\d+ bytes\))? from (.*)"
)

# What smtpd and cleanup write behind a reply. HELO names are neutered (no "<>") by smtpd, so the end is firm.
_WHATSUP = (
    rf"(?: from=<(?P<sender>{INSIDE})>)?(?:,? to=<(?P<recipient>{INSIDE})>)?"
    r"(?:,? proto=(?P<protocol>[^\s,]+))?(?:,? helo=<(?P<helo>[^<>]*)>)?"
)
# Behind sasl_…= of 3.10, or fields that a patch or a later version adds behind the HELO name.
_REFUSED_TAIL = re.compile(rf";{_WHATSUP}(?P<sasl>(?:,? sasl_\w+=.*|(?<=>)(?:,? [a-z]\w*=<[^<>;]*>)+)?)\Z", re.DOTALL)
_INSPECTED_TAIL = re.compile(rf";{_WHATSUP}(?:: (?P<text>.*))?\Z", re.DOTALL)
# Postfix 2.0: `warning: header Subject: …; from=<> to=<>: text`, without an origin, with `to=<unknown>` for nobody yet.
_OLD_INSPECTED_TAIL = re.compile(
    rf"; from=<(?P<sender>{INSIDE})> to=<(?P<recipient>{INSIDE})>(?P<protocol>)(?P<helo>)(?:: (?P<text>.*))?\Z",
    re.DOTALL,
)
_SASL_USERNAME = re.compile(r",? sasl_username=(?:<([^<>]*)>|(.*?))(?=,? sasl_\w+=|\Z)", re.DOTALL)
_WHERE = re.compile(
    r"(?P<where>[A-Z][A-Z-]*|connect)(?: command| content)?(?: from (?P<client>[^\[\]]*\[[^\[\]]*\](?::\d+)?))?: "
)
_ORIGIN = re.compile(r" from (local|unknown|[^\s\[\]]*\[[^\[\]]*\](?::\d+)?)\Z")
_CANDIDATES = 12  # how many places a tail may begin at before we stop looking: hostile text is bounded

STAGES = {
    "CONNECT": "connect",
    "HELO": "helo",
    "EHLO": "helo",
    "AUTH": "auth",
    "MAIL": "mail",
    "RCPT": "rcpt",
    "DATA": "data",
    "BDAT": "data",
    "END-OF-MESSAGE": "end_of_data",
    "VRFY": "rcpt",
}
# These agents speak to no server: no reply code, no next queue ID; their relay= is the service's name.
_OWN_WORDS = frozenset({"local", "virtual"})
_SUCCESS = {"local": "delivered", "virtual": "delivered", "lmtp": "delivered", "pipe": "delivered"}
_OUTCOMES = {
    "deferred": "deferred",
    "SOFTBOUNCE": "deferred",
    "bounced": "bounced",
    "undeliverable": "bounced",
    "expired": "expired",
}
REFUSING = ("reject: ", "milter-reject: ", "proxy-reject: ")
"""The actions of a line that refuse something (smtpd_check.c, smtpd_milter.c, smtpd_proxy.c, postscreen_smtpd.c)."""
_BY_DSN = {"2": "relayed", "4": "deferred", "5": "bounced"}
_NOTICES = {
    "non-delivery": "bounce",
    "delay": "delay_notice",
    "delivery status": "receipt",
}


def read_delivery(text: str, program: str) -> Reading:
    """`to=<>, orig_to=<>, relay=, conn_use=, delay=, delays=, tls=, dsn=, status=word (text)`."""
    usual = _USUAL_DELIVERY.match(text)
    if usual is not None:
        try:
            return _attempted(program, False, *usual.groups())
        except ValueError:
            return None  # a number like 1.2.3
    ambiguous = False
    original = None
    found = read_angle(text, 3)
    match = None
    if found is not None:
        address, at = found
        if text.startswith(", orig_to=<", at):
            found = read_angle(text, at + 10) or _read_raw_address(text, at + 10)
            if found is not None:
                original, at = found
        match = _DELIVERY.match(text, at + 2) if text.startswith(", ", at) else None
    if match is None:
        # An address from before Postfix quoted them (3.5): it may hold a bare ">" or an odd quote.
        raw = _read_raw_delivery(text)
        if raw is None:
            return None
        address, original, match = raw
        ambiguous = True
    original = None if original is None else decode_escapes(original)
    return _attempted(program, ambiguous, decode_escapes(address), original, *match.groups())


def _attempted(  # noqa: PLR0913, PLR0917  the fields of a line, in its order
    program: str,
    ambiguous: bool,  # noqa: FBT001
    recipient: str,
    original: str | None,
    relay: str,
    delay: str | None,
    before: str | None,
    inside: str | None,
    connection: str | None,
    transmission: str | None,
    tls: str | None,
    dsn: str | None,
    status: str,
    word: str,
) -> Attempted:
    """Make the event of a delivery line's fields. Raises ValueError for a number that is none."""
    words = status[len(word) + 2 : -1] if status[-1:] == ")" else status[len(word) + 2 :]
    if ">, relay=" in words:
        ambiguous = True  # either a reply that quotes a log line, or an unquoted address that holds one
    outcome = _outcome(word, words, program, dsn)
    name, ip, port = _relay(relay)
    if program in _OWN_WORDS and name != "none" and "[" not in relay:
        name = "local"
    delays = None
    if before is not None and inside is not None and connection is not None and transmission is not None:
        delays = float(before), float(inside), float(connection), float(transmission)
    child: str | None = None
    if outcome == "expanded":
        child = words[13:] if is_postfix(words[13:]) else None
    elif word == "sent" and program not in _OWN_WORDS:
        child = next_queue_id(words)
    return Attempted(
        (recipient,),
        status,
        outcome,
        None if original == recipient else original,
        name,
        ip,
        port,
        dsn,
        None if program in _OWN_WORDS else reply_code(words),
        float(delay) if delay is not None else None,
        delays,
        program,
        None,
        child,
        None,
        tls,
        False,
        ambiguous,
    )


def _read_raw_delivery(text: str) -> tuple[str, str | None, re.Match[str]] | None:
    """Read addresses without quoting: each ends where the next field begins, at the first place where all fits."""
    place = text.find(">, relay=")
    for _ in range(_CANDIDATES):
        if place < 0:
            return None
        match = _DELIVERY.match(text, place + 3)
        if match is not None:
            address, found, original = text[4:place].partition(">, orig_to=<")
            return address, original if found else None, match
        place = text.find(">, relay=", place + 1)
    return None


def _read_raw_address(text: str, start: int) -> tuple[str, int] | None:
    """Read an address with unbalanced quotes, as Postfix wrote them before 3.5: it ends where `relay=` begins."""
    end = text.find(">, relay=", start)
    return (text[start + 1 : end], end + 1) if end > 0 else None


@lru_cache(maxsize=4096)
def _relay(text: str) -> tuple[str, str | None, int | None]:
    match = _RELAY.fullmatch(text)
    if match is None:
        return relay_name(text), None, None
    name, ip, port = match.groups()
    return relay_name(name), canonical_ip(ip), int(port) if port else None


def _outcome(word: str, words: str, program: str, dsn: str | None) -> str:
    if word in ("sent", "deliverable"):
        if program == "discard" or words in ("dropped", "delivered to file: /dev/null"):
            return "discarded"
        if program == "local" and words.startswith("forwarded as "):
            return "expanded"
        return _SUCCESS.get(program, "relayed")
    return _OUTCOMES.get(word) or _BY_DSN.get(dsn[:1] if dsn else "", "unknown")


def read_client_line(text: str, _program: str) -> Reading:
    """`client=H[ip], sasl_method=, sasl_username=, sasl_sender=, orig_queue_id=, orig_client=`."""
    if "," not in text:
        return Received(read_client(text[7:]))
    end = text.rfind(", orig_queue_id=")
    if end < 0:
        end = text.rfind(", orig_client=")
    original = _ORIGINAL.match(text, end) if end >= 0 else None
    match = _CLIENT.fullmatch(text, 0, end if original else len(text))
    if match is None:
        return None
    client, username = match.groups()
    original_queue_id, original_client = original.groups() if original else (None, None)
    return Received(
        read_client(client),
        sasl_username=username,
        original_client=read_client(original_client) if original_client else None,
        original_queue_id=original_queue_id,
    )


def read_pickup(text: str, _program: str) -> Reading:
    """`uid=0 from=<root>`, and ` orig_id=OLD` behind it after a requeue."""
    match = _PICKUP.match(text)
    if match is None:
        return None
    return Received(Client(f"uid={match[1]}"), sender=decode_escapes(match[2]), requeued_from=match[3])


def read_message_id(text: str, _program: str) -> Reading:
    """`message-id=<x>`; the value may be empty, without brackets, with spaces."""
    usual = _USUAL_MESSAGE_ID.fullmatch(text)
    return Identified(usual[1] if usual is not None else unbracket(text[11:].strip()))


def read_resent_message_id(text: str, _program: str) -> Reading:
    """`resent-message-id=<x>`."""
    return Identified(unbracket(text[18:].strip()), resent=True)


def read_queue_manager(text: str, _program: str) -> Reading:
    """`from=<>, size=, nrcpt= (queue active)` and `from=<>, status=expired, returned to sender`; their ends are firm."""
    usual = _USUAL_QUEUED.fullmatch(text)
    if usual is not None:
        return Queued(usual[1], int(usual[2]), int(usual[3]))
    found = read_angle(text, 5)
    cut = max(text.rfind(">, size="), text.rfind(">, status="))
    ways = [] if found is None else [found]
    if cut > 0:
        ways.append((text[6:cut], cut + 1))  # from before Postfix quoted addresses (3.5)
    for sender, at in ways:
        match = _QUEUED.match(text, at)
        if match is not None:
            size, count = match.groups()
            return Queued(decode_escapes(sender), int(size) if size else None, int(count) if count else None)
        match = _EXPIRED.match(text, at)
        if match is not None:
            return Expired(match[1])
    return None


_REMOVED = Closed("removed")  # events are never changed, so that one will do


def read_removed(_text: str, program: str) -> Reading:
    """`removed`, by the queue manager (the end), by postsuper (deleted), by cleanup (3.10: canceled, discarded)."""
    return Closed("deleted") if program == "postsuper" else _REMOVED


def read_canceled(text: str, _program: str) -> Reading:
    """`removed (canceled)` and `removed (discarded)`: cleanup's end of a mail that never was queued, since 3.10."""
    return Closed("discarded" if text.startswith("removed (discarded)") else "removed")


def read_notice(text: str, _program: str) -> Reading:
    """`sender non-delivery notification: NEW` and its kin."""
    head, _, child = text.partition(" notification: ")
    kind = _NOTICES.get(head.partition(" ")[2])
    return Notified(child, kind, status=text) if kind and is_postfix(child) else None


def read_hold(text: str, _program: str) -> Reading:
    """Postsuper's `placed on hold`."""
    return Held(text)


def read_release(_text: str, _program: str) -> Reading:
    """Postsuper's `released from hold`."""
    return Released()


def read_requeued(_text: str, _program: str) -> Reading:
    """Postsuper's `requeued`: pickup gives it a new ID."""
    return Closed("requeued")


def _tail(text: str, pattern: re.Pattern[str], *, rightmost: bool) -> re.Match[str] | None:
    """Find where the fields behind a free text begin: the last of a few `;` from which `pattern` fits to the end."""
    found = None
    at = len(text)
    for _ in range(_CANDIDATES):
        at = text.rfind(";", 0, at)
        if at < 0:
            break
        match = pattern.match(text, at)
        if match is not None and (not rightmost or _ORIGIN.search(text, max(0, at - 300), at)):
            found = match
            if rightmost:
                break
    return found


def _refused(text: str, stage_at: int, program: str) -> Refused | None:
    where = _WHERE.match(text, stage_at)
    if where is None:
        return None
    tail = _tail(text, _REFUSED_TAIL, rightmost=False)
    status = text[where.end() : tail.start()] if tail else text[where.end() :].rstrip(";")
    stage = STAGES.get(where["where"], "connect")
    dsn = reply_dsn(status)
    code = reply_code(status)
    if code is None and status[:1] in "245" and status[1:2] == ".":
        dsn = status.partition(" ")[0]  # milter-reject has the enhanced code only
    client = where["client"]
    event = Refused(stage, status, code=code, dsn=dsn, client=read_client(client) if client else None)
    # Of a mail that came by no SMTP dialogue, cleanup's Milters refuse all of it (cleanup_milter.c cleanup_milter_emul_*).
    event.whole = stage in ("data", "end_of_data") or program == "cleanup"
    if tail is not None:
        sender, recipient = tail["sender"], tail["recipient"]
        event.sender = None if sender is None else decode_escapes(sender)
        event.recipient = None if recipient is None else decode_escapes(recipient)
        event.protocol, event.helo = tail["protocol"], tail["helo"]
        sasl = _SASL_USERNAME.match(tail["sasl"], max(0, tail["sasl"].find(" sasl_username=")))
        event.sasl_username = (sasl[1] or sasl[2]) if sasl else None
        first = text.find("; from=<", where.end())
        event.ambiguous = 0 <= first < tail.start()
    return event


def read_reject(text: str, program: str) -> Reading:
    """`reject: RCPT from H[ip]: 550 5.1.1 <x>: …; from=<> to=<> proto= helo=<>`; also cleanup's header rejects."""
    action, _, _ = text.partition(": ")
    refused = _refused(text, len(action) + 2, program)
    if refused is not None:
        return refused
    inspected, content = _inspect(text)
    dsn = inspected.status.partition(" ")[0]
    return Refused(
        "end_of_data",
        inspected.status or content,  # a MIME error has no text: `reject: mime-error REASON: HEADER from …`
        whole=True,
        dsn=dsn if re.fullmatch(r"[245]\.\d{1,3}\.\d{1,3}", dsn) else None,
        sender=inspected.sender,
        recipient=inspected.recipient,
        helo=inspected.helo,
        protocol=inspected.protocol,
        subject=inspected.subject,
    )


def read_rejection(text: str, program: str) -> Reading:
    """`NOQUEUE: reject: …`, `proxy-reject: …`: refused before a queue ID existed; other actions refuse nothing."""
    text = text.removeprefix("NOQUEUE: ")
    if not text.startswith(REFUSING):
        return Ignored("no queue id")
    refused = _refused(text, text.find(": ") + 2, program)
    return Ignored("no queue id") if refused is None else refused


def read_harmless(text: str, program: str) -> Reading:
    """`hold: RCPT from H[ip]: …`, `discard:`, `filter:`, `warn:`, `info:`, … by an access rule: nothing is refused."""
    action, _, _ = text.partition(": ")
    refused = _refused(text, len(action) + 2, program)
    if refused is None:
        return read_inspected(text, program)
    return Inspected(action, refused.status, refused.sender, refused.recipient, refused.helo, refused.protocol)


def read_inspected(text: str, _program: str) -> Reading:
    """`ACTION: header Subject: … from ORIGIN; from=<> to=<> proto= helo=<>: text` (cleanup), read from the right."""
    return _inspect(text)[0]


def _inspect(text: str) -> tuple[Inspected, str]:
    """Read an action; return it and the content that it is about."""
    action, _, rest = text.partition(": ")
    tail = _tail(text, _INSPECTED_TAIL, rightmost=True)
    origin = _ORIGIN.search(text, max(0, tail.start() - 300), tail.start()) if tail else None
    if tail is None:
        place = text.rfind("; from=<")
        tail = _OLD_INSPECTED_TAIL.match(text, place) if place >= 0 else None
        if tail is None:
            return Inspected(action, rest), rest
    content = text[len(action) + 2 : origin.start() if origin else tail.start()]
    subject = content[15:].lstrip() if content[:15].lower() == "header subject:" else None
    sender, recipient = tail["sender"], tail["recipient"]
    if recipient == "unknown":
        recipient = None  # cleanup's word for "none yet" in Postfix 2.0
    event = Inspected(
        action,
        tail["text"] or "",
        None if sender is None else decode_escapes(sender),
        None if recipient is None else decode_escapes(recipient),
        tail["helo"] or None,
        tail["protocol"] or None,
        subject,
    )
    return event, content


def read_proxy_accept(text: str, _program: str) -> Reading:
    """`proxy-accept: END-OF-MESSAGE: 250 2.0.0 Ok: queued as X; from=<> to=<>`: where a proxied mail went."""
    tail = _tail(text, _REFUSED_TAIL, rightmost=False)
    reply = text[: tail.start()] if tail else text
    place = reply.find("END-OF-MESSAGE")
    child = next_queue_id(reply[place:].partition(": ")[2]) if place >= 0 else None
    if child is None:
        return Remarked("proxy accept")
    return Linked(child, tail["sender"] if tail else None, tail["recipient"] if tail else None)


def read_connect(text: str, _program: str) -> Reading:
    """`connect from H[ip]`."""
    return Connected(text[13:])


_DISCONNECTED = Disconnected()


def read_disconnect(_text: str, _program: str) -> Reading:
    """`disconnect from H[ip] ehlo=1 … commands=5`: whoever it was, this process's session is over."""
    return _DISCONNECTED


def read_lost(text: str, _program: str) -> Reading:
    """`lost connection after DATA (15054 bytes) from H[ip]`, `timeout after …`."""
    match = _LOST.match(text)
    return Disconnected(lost_after=match[1]) if match else None


def read_tls(text: str, _program: str) -> Reading:
    """`Untrusted TLS connection established to H[ip]:25: TLSv1.3 with cipher X …`."""
    match = _TLS.match(text)
    if match is None:
        return None
    way, name, ip, name_only, version, cipher = match.groups()
    if way == "from":
        return Secured(incoming=True, tls=f"{version} {cipher}")
    peer_ip = canonical_ip(ip) if ip else None
    return Secured(incoming=False, tls=f"{version} {cipher}", peer=relay_name(name or name_only or ""), peer_ip=peer_ip)


def read_remark(_text: str, _program: str) -> Reading:
    """A line about a transaction that changes nothing."""
    return Remarked()


_MATTERS = re.compile(
    r"(?:to|from|client|uid|message-id|resent-message-id)=|[a-z_-]{0,40}(?:reject|hold|discard)[a-z_-]{0,40}: |removed|.*\bstatus=",
    re.DOTALL,
)


def read_free_text(text: str, _program: str) -> Reading:
    """Whatever else msg_info() writes behind a queue ID: counted as unparsed only where it has the form of a fact."""
    return None if _MATTERS.match(text) else Remarked("free text")


_TOO_LARGE = "queue file size limit exceeded"


def read_warning(text: str) -> Refused | None:
    """`queue file size limit exceeded` (cleanup_out.c, mail_stream.c): all that says why the mail was refused."""
    return Refused("end_of_data", text, whole=True) if text == _TOO_LARGE else None


_MATTERS_UNQUEUED = re.compile(
    r"(?:NOQUEUE|warning|error|fatal|panic): |(?=[A-Za-z]*[0-9])[0-9A-Za-z]{6,32}: |(?:to|from|client|uid|message-id|resent-message-id)="
    r"|[a-z_-]{0,40}(?:reject|hold|discard)[a-z_-]{0,40}: |.{0,40}TLS connection |.*\bstatus=",
    re.DOTALL,
)


def read_free_message(text: str, _program: str) -> Reading:
    """Whatever else is logged without a queue ID (libraries, `-v`): unparsed only where it has the form of a fact."""
    return None if _MATTERS_UNQUEUED.match(text) else Ignored("free text")


def read_aborted(text: str, _program: str) -> Reading:
    """`lost connection after DATA (N bytes) from H[ip]` behind a queue ID, since 3.10."""
    return Aborted(text)


def read_gap(text: str, _program: str) -> Reading:
    """A logger's word that lines are missing."""
    return Gap(text)
