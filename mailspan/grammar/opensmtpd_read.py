"""How OpenSMTPD's lines are read: one reader for each shape of line. Pure.

A line begins with the 16 hex digits of a session, `8f4864084ecc48f4 mta delivery evpid=…`: `split` takes them off, and
finds the message that a line is about. That is known by 8 hex digits, `msgid=`, with which the ID of each of its
envelopes, `evpid=`, begins. An envelope is one final recipient: an alias makes several of one address.

Addresses, replies and names are logged without escapes, but for SMTP commands (vis(3), quotes left alone). So fields
are taken from left to right, an address ends where the next field begins, and the last field is all that is left.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mailspan.address import canonical_ip, clean_address, read_angle, relay_name
from mailspan.event import (
    Attempted,
    Authenticated,
    Client,
    Connected,
    Disconnected,
    Enveloped,
    Received,
    Refused,
    Secured,
)
from mailspan.record import Ignored
from mailspan.reply import next_queue_id, reply_code, reply_dsn

if TYPE_CHECKING:
    from mailspan.grammar.kind import Reading

_SESSION = re.compile(r"([0-9a-f]{16}) ")
_NO_SESSION = "0000000000000000"  # a delivery that failed before any connection (mta.c mta_flush)
_MESSAGE = re.compile(
    r"(?:smtp message msgid=|smtp event=message (?:address=\S+ host=\S+ )?msgid=|smtp envelope evpid="
    r"|m[td]a (?:event=)?delivery evpid=|(?:relay|delivery): [A-Z][A-Za-z]* for )([0-9a-f]{8})"
)

# Before 6.4 or so a session's lines say `event=`, and up to 6.0 each of them repeats the client.
_CLIENT = r"(?:address=\S+ host=\S+ )?"
_CONNECTED = re.compile(r"smtp (?:event=)?connected address=(\S+) host=(.*)", re.DOTALL)
_ACCEPTED = re.compile(r"smtp message msgid=[0-9a-f]{8} size=([0-9]{1,18}) nrcpt=([0-9]{1,9}) proto=(\S+)")
_OLD_ACCEPTED = re.compile(rf"smtp event=message {_CLIENT}msgid=[0-9a-f]{{8}} from=")
_OLD_TAIL = re.compile(r" size=([0-9]{1,18}) ndest=([0-9]{1,9}) proto=(\S+)")
_ENVELOPE = re.compile(r"smtp envelope evpid=([0-9a-f]{16}) from=")
_TLS = re.compile(rf'(smtp|mta) (?:event=)?(?:start)?tls {_CLIENT}ciphers="?([^"]*)')
_OLD_CIPHERS = re.compile(r"version=([^,\s]+), cipher=([^,\s]+)")
_LOGIN = re.compile(rf"smtp (?:event=)?authentication user=(\S*) {_CLIENT}result=(\w+)")
_COMMAND = re.compile(rf'smtp (?:event=)?failed-command {_CLIENT}command="')
_BAD_INPUT = re.compile(rf'smtp (?:event=)?bad-input {_CLIENT}result="')
_ADDRESSED = re.compile(r"(MAIL FROM|RCPT TO):\s{0,8}", re.IGNORECASE)
_RESULT = re.compile(r'" result="(?=[45][0-9]{2}(?:[ -]|"))')
_DELIVERY = re.compile(r"m[td]a (?:event=)?delivery evpid=([0-9a-f]{16}) from=")
_RELAYED = re.compile(r'" delay=(?P<delay>[-0-9dhms]{1,32}) result="(?P<result>\w+)" stat="')
_DELIVERED = re.compile(
    r" user=(?P<user>.*?)(?: method=\S+)? delay=(?P<delay>[-0-9dhms]{1,32}) result=(?P<result>\w+) stat=", re.DOTALL
)
_QUEUE = re.compile(r"(?:relay|delivery): (?P<action>Expire|Remove) for (?P<envelope>[0-9a-f]{16}): from=")
_QUEUE_TAIL = re.compile(r", delay=(?P<delay>[-0-9dhms]{1,32}), stat=")
_DELAY = re.compile(r"(-?)(?:([0-9]{1,9})d)?(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9})s)?")
_RELAY = re.compile(r"(\[[^\]\s]*\]|\S+)(?: \((.*)\))?", re.DOTALL)

_OUTCOMES = {"TempFail": "deferred", "PermFail": "bounced"}
_ENDS = {"Expire": "expired", "Remove": "discarded"}
_STAGES = {
    "": "connect",
    "HELO": "helo",
    "EHLO": "helo",
    "STARTTLS": "helo",
    "AUTH": "auth",
    "MAIL FROM": "mail",
    "RCPT TO": "rcpt",
    "DATA": "data",
}
"""Where a failed command stands in the dialogue. A mail refused at its end fails as DATA: smtp_session.c keeps that."""

_UNUSUAL = re.compile(r"[][()]")  # a name that address.read_client would take apart
_NO_NAME = frozenset({"", "<unknown>"})


def split(message: str) -> tuple[str | None, str | None, str]:
    """Return the session, the message ID and the text behind the session; None for what the line does not say."""
    found = _SESSION.match(message)
    session, text = (found[1], message[17:]) if found else (None, message)
    about = _MESSAGE.match(text)
    return None if session == _NO_SESSION else session, about[1] if about else None, text


def _address(text: str, at: int, follows: str) -> tuple[str, int] | None:
    """Read `<address>` up to what follows it; return the address and where it ends.

    An address that does not balance its quotes, or holds a bare `>`, ends at the first `>` with the next field behind.
    """
    if text[at : at + 1] != "<":
        return None
    found = read_angle(text, at)
    if found is not None and text.startswith(follows, found[1]):
        return clean_address(found[0]), found[1]
    end = text.find(f">{follows}", at)
    return (clean_address(text[at + 1 : end]), end + 1) if end > 0 else None


def _last_address(text: str, at: int) -> str | None:
    """Read the `<address>` that ends a line."""
    if text[at : at + 1] != "<":
        return None
    found = read_angle(text, at)
    if found is not None and found[1] == len(text):
        return clean_address(found[0])
    return clean_address(text[at + 1 : -1]) if text[-1] == ">" else None


def _sender(address: str) -> str:
    """The null sender is `<>`, or `<@>` in queue.c queue_log."""
    return "" if address == "@" else address


def seconds_of(delay: str) -> float | None:
    """Return the seconds of `1d2h3m4s` (to.c duration_to_text); parts that are zero are left out."""
    found = _DELAY.fullmatch(delay)
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups()[1:])
    total = float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
    return -total if found[1] else total


def read_connected(text: str, _program: str) -> Reading:
    """`smtp connected address=[2001:db8::1] host=mx.example.com`; `address=local` is the enqueuer's socket."""
    found = _CONNECTED.match(text)
    if found is None:
        return None
    address, name = found[1], found[2].strip()
    if address == "local":
        return Connected("local", Client("local"))
    bare = address.removeprefix("[").removesuffix("]")
    ip = canonical_ip(bare)
    if name in _NO_NAME or canonical_ip(name) is not None:
        return Connected(f"[{ip or bare}]")
    peer = f"{name} [{ip or bare}]"
    return Connected(peer, Client(peer, name, ip) if _UNUSUAL.search(name) else None)


def read_disconnected(_text: str, _program: str) -> Reading:
    """`smtp disconnected reason=quit`, `mta disconnected reason=quit messages=1`, before 6.4 `event=closed`."""
    return Disconnected()


def read_connecting(_text: str, _program: str) -> Reading:
    """`mta connecting address=smtp://10.0.0.1:25 host=mx`: a connection of ours, no client's; one before it is over."""
    return Connected("")


def read_accepted(text: str, _program: str) -> Reading:
    """`smtp message msgid=b16fa2ed size=396 nrcpt=1 proto=ESMTP`: the queue has the mail. nrcpt is before aliases."""
    found = _ACCEPTED.match(text)
    if found is None:
        return None
    return Received(size=int(found[1]), recipient_count=int(found[2]), protocol=found[3])


def read_old_accepted(text: str, _program: str) -> Reading:
    """`smtp event=message msgid=… from=<> to=<> size=1 ndest=1 proto=ESMTP`: one for each recipient, before 6.4."""
    head = _OLD_ACCEPTED.match(text)
    sender = _address(text, head.end(), " to=<") if head else None
    recipient = _address(text, sender[1] + 4, " size=") if sender else None
    tail = _OLD_TAIL.match(text, recipient[1]) if recipient else None
    if sender is None or recipient is None or tail is None:
        return None
    return Enveloped(
        recipient[0], sender=_sender(sender[0]), size=int(tail[1]), envelope_count=int(tail[2]), protocol=tail[3]
    )


def read_envelope(text: str, _program: str) -> Reading:
    """`smtp envelope evpid=… from=<> to=<>`: one for each recipient, right behind the message's line."""
    head = _ENVELOPE.match(text)
    sender = _address(text, head.end(), " to=<") if head else None
    recipient = _last_address(text, sender[1] + 4) if sender else None
    if head is None or sender is None or recipient is None:
        return None
    return Enveloped(recipient, sender=_sender(sender[0]), envelope_id=head[1])


def read_tls(text: str, _program: str) -> Reading:
    """`smtp tls ciphers=TLSv1.3:TLS_AES_256_GCM_SHA384:256`; `mta tls …` for the connection to a relay."""
    found = _TLS.match(text)
    if found is None:
        return None
    old = _OLD_CIPHERS.match(found[2])
    version, _, cipher = found[2].partition(":")
    cipher = cipher.rpartition(":")[0] or cipher
    return Secured(found[1] == "smtp", f"{old[1]} {old[2]}" if old else f"{version} {cipher}".strip())


def read_login(text: str, _program: str) -> Reading:
    """`smtp authentication user=bob result=ok`; what failed is refused by the line behind it."""
    found = _LOGIN.match(text)
    if found is None:
        return None
    return Authenticated(found[1]) if found[2] == "ok" else Ignored("login failed")


def read_failed_command(text: str, _program: str) -> Reading:
    """`smtp failed-command command="RCPT TO:<x>" result="550 Invalid recipient: <x>"`.

    The log does not tie it to a message: those before it in its session are complete, and of the one that may
    follow nobody knows whether it is the same mail.
    """
    head = _COMMAND.match(text)
    if head is None:
        return None
    begin = at = head.end()
    addressed = _ADDRESSED.match(text, begin)
    address = None
    if addressed is not None:
        found = read_angle(text, addressed.end()) if text[addressed.end() : addressed.end() + 1] == "<" else None
        if found is not None:
            address, at = clean_address(found[0]), found[1]
    result = _RESULT.search(text, at)
    if result is None:
        return None
    command = text[begin : result.start()]
    if addressed is not None:
        verb = addressed[1].upper()
        if address is None:
            address = clean_address(command[addressed.end() - begin :].strip())
    else:
        verb = command.partition(" ")[0].upper()
    stage = _STAGES.get(verb)
    if stage is None:
        return Ignored("failed command")
    return _refusal(
        stage,
        text[result.end() :].removesuffix('"'),
        sender=address if stage == "mail" else None,
        recipient=address if stage == "rcpt" else None,
    )


def read_bad_input(text: str, _program: str) -> Reading:
    """`smtp bad-input result="500 5.5.1 Invalid command: Pipelining not supported"`: the server hangs up."""
    head = _BAD_INPUT.match(text)
    return _refusal("connect", text[head.end() :].removesuffix('"')) if head else None


def _refusal(stage: str, reply: str, sender: str | None = None, recipient: str | None = None) -> Refused:
    return Refused(stage, reply, code=reply_code(reply), dsn=reply_dsn(reply), sender=sender, recipient=recipient)


def read_relayed(text: str, _program: str) -> Reading:
    """`mta delivery evpid= from=<> to=<> rcpt=<-> source="" relay="ip (name)" delay=1s result="Ok" stat="250 …"`."""
    read = _parties(text, ' source="')
    if read is None:
        return None
    event, at = read
    start = text.find('" relay="', at) + 9
    tail = _RELAYED.match(text, text.find('" delay=', start)) if start > at else None
    if tail is None:
        return None
    status = text[tail.end() :].removesuffix('"')
    event.status, event.delay_seconds = status, seconds_of(tail["delay"])
    event.outcome = "relayed" if tail["result"] == "Ok" else _OUTCOMES.get(tail["result"], "unknown")
    event.relay, event.relay_ip = _relay(text[start : tail.start()])
    event.code, event.dsn, event.mailer = reply_code(status), reply_dsn(status), "mta"
    if event.outcome == "relayed":
        event.next_queue_id = next_queue_id(status)
    return event


def read_delivered(text: str, _program: str) -> Reading:
    """`mda delivery evpid= from=<> to=<> rcpt=<> user=bob delay=0s result=Ok stat=Delivered`; rcpt= may be missing."""
    read = _parties(text, " user=")
    tail = _DELIVERED.match(text, read[1]) if read else None
    if read is None or tail is None:
        return None
    event, _ = read
    event.status, event.delay_seconds = text[tail.end() :], seconds_of(tail["delay"])
    event.outcome = "delivered" if tail["result"] == "Ok" else _OUTCOMES.get(tail["result"], "unknown")
    event.relay, event.mailbox, event.mailer = "local", tail["user"], "mda"
    return event


def _parties(text: str, follows: str) -> tuple[Attempted, int] | None:
    """Read `evpid=… from=<> to=<>` and, where there is one, `rcpt=<>`; the outcome is not known yet."""
    head = _DELIVERY.match(text)
    sender = _address(text, head.end(), " to=<") if head else None
    if head is None or sender is None:
        return None
    at = sender[1] + 4
    recipient = _address(text, at, " rcpt=<") or _address(text, at, follows)
    if recipient is None:
        return None
    original, end = None, recipient[1]
    if text.startswith(" rcpt=<", end):
        given = _address(text, end + 6, follows)
        if given is None:
            return None
        original, end = given
    event = Attempted((recipient[0],), "", "unknown", sender=_sender(sender[0]), envelope_id=head[1])
    event.original_recipient = None if original == "-" else original
    return event, end


def _relay(text: str) -> tuple[str, str | None]:
    """Return the relay's name and IP of `10.0.0.1 (mx.example.com)`; a domain alone: no host of it was reached."""
    found = _RELAY.fullmatch(text)
    ip = canonical_ip(found[1].removeprefix("[").removesuffix("]")) if found else None
    if found is None or ip is None:
        return "none", None
    name = found[2] or ""
    return (ip if name in _NO_NAME else relay_name(name)), ip


_OLD_RELAYED = re.compile(r"[0-9a-f]{16}: to=<")
_FACT = re.compile(r"(?:relay|delivery): |.{0,200}(?:evpid|msgid)=", re.DOTALL)
_FILTER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}: ")


def read_without_session(text: str, _program: str) -> Reading:
    """Read a line that names no session and fits no other kind: of the first versions, or what a filter says."""
    if _OLD_RELAYED.match(text):
        return Ignored("older opensmtpd")
    if text.endswith(" exiting"):
        return Ignored("server")
    return Ignored("filter") if _FILTER.match(text) and not _FACT.match(text) else None


def read_queue(text: str, _program: str) -> Reading:
    """`relay: Expire for EVPID: from=<>, to=<>, rcpt=<->, delay=4d, stat=Envelope expired`: that envelope's end."""
    head = _QUEUE.match(text)
    sender = _address(text, head.end(), ", to=<") if head else None
    recipient = _address(text, sender[1] + 5, ", rcpt=<") if sender else None
    original = _address(text, recipient[1] + 7, ", delay=") if recipient else None
    tail = _QUEUE_TAIL.match(text, original[1]) if original else None
    if head is None or sender is None or recipient is None or original is None or tail is None:
        return None
    return Attempted(
        (recipient[0],),
        text[tail.end() :],
        _ENDS[head["action"]],
        original_recipient=None if original[0] == "-" else original[0],
        delay_seconds=seconds_of(tail["delay"]),
        sender=_sender(sender[0]),
        envelope_id=head["envelope"],
        given_up=True,
    )
