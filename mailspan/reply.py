"""SMTP replies: code, enhanced status code, and the next hop's queue ID at its known place.

Pure. A reply is the remote's free text: nothing in it is searched but these, each anchored where its software writes
it (Postfix smtpd.c "Ok: queued as", Sendmail srvrsmtp.c "Message accepted for delivery", Exim smtp_in.c "OK id=",
OpenSMTPD smtp_session.c "Message accepted for delivery", Dovecot lmtp "<rcpt> SESSION Saved").
"""

from __future__ import annotations

import re

_HOST_SAID = re.compile(r"host \S+ (?:said|refused to talk to me): ([2-5][0-9]{2})(?:[ -]|$)")
_DSN = re.compile(r"[2-5][0-9]{2}[ -]([245]\.[0-9]{1,3}\.[0-9]{1,3})(?![0-9.])")

_ID = r"([0-9A-Za-z][0-9A-Za-z-]{3,31})"
_NEXT = re.compile(
    r"(?:"
    rf"queued as {_ID}"  # Postfix, and amavis handing on Postfix's
    rf"|(?:[0-9]{{3}} )?(?:2\.[0-9]\.[0-9]:? )?{_ID} Message accepted for delivery"  # Sendmail, OpenSMTPD
    rf"|(?:[0-9]{{3}} )?(?:2\.[0-9]\.[0-9] )?(?:- )?OK id={_ID}"  # Exim
    rf"|.{{0,400}}<[^<>]*> ([0-9A-Za-z+/][0-9A-Za-z+/:._-]{{3,63}}) Saved"  # Dovecot's session token: base64, `:2`
    r"|(?:[0-9]{3} )?(?:2\.[0-9]\.[0-9] )?OK +[0-9]{9,11} ([0-9A-Za-z][0-9A-Za-z.-]{9,63}) - gsmtp"  # Google
    r")\s*\Z"
)
# A content filter hands on what the MTA behind it said (amavis: "250 2.0.0 from MTA(smtp:[10.77.0.12]:10025): 250 …").
_FILTER = re.compile(
    r"(?:[0-9]{3} )?(?:2\.[0-9]\.[0-9] )?(?:Ok, id=[!-~]{1,64}, )?from MTA\([!-'*-~]{1,100}\): (?=[0-9]{3}[ -])"
)
_ENDINGS = ("Message accepted for delivery", " Saved", " - gsmtp")


_CODES = {f"{code}{separator}": code for code in range(200, 600) for separator in " -"}


def reply_code(text: str) -> int | None:
    """Return the SMTP code of a reply, or of `host H[ip] said: 450 …`; None where there is none."""
    code = _CODES.get(text[:4])
    if code is None:
        if len(text) == 3 and text.isdigit():  # noqa: PLR2004  a bare code
            return _CODES.get(f"{text} ")
        match = _HOST_SAID.match(text) if text[:5] == "host " else None
        return int(match[1]) if match else None
    return code


def reply_dsn(text: str) -> str | None:
    """Return the enhanced status code right behind the reply's code, None where there is none."""
    match = _DSN.match(text) if text[:3].isdecimal() else None
    return match[1] if match else None


def next_queue_id(text: str) -> str | None:
    """Return the queue ID that the next hop gave, from the accepting reply's known place in its last line."""
    head, _, last = text.rpartition(" ")
    if head.endswith("queued as") and 4 <= len(last) <= 32 and last.isalnum() and last.isascii():  # noqa: PLR2004
        return last
    line = text.rfind("\\n")  # Exim's log of a reply of several lines: "250- 377 byte chunk, total 377\\n250 OK id=…"
    text = text[line + 2 :] if line >= 0 else text
    place = text.rfind("queued as ")
    if place < 0:
        if not text.endswith(_ENDINGS):
            place = text.find("OK id=")
            if place < 0:
                return None
        inner = _FILTER.match(text)
        match = _NEXT.match(text, inner.end() if inner else 0)
    else:
        match = _NEXT.match(text, place)
    if match is None:
        return None
    return match[1] or match[2] or match[3] or match[4] or match[5]
