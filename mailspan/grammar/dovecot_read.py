"""How Dovecot's LMTP lines are read: `lmtp(USER)<PID><SESSION>: [sieve: ]msgid=<ID>: what became of the mail`.

Pure. The session is what Dovecot's reply names (`250 2.0.0 <USER> SESSION Saved`), so it serves as the queue ID. A
Message-ID is the sender's, and Dovecot writes it without its quotes: `<"x>: saved mail to A <y"@example.org>` comes
out as two Message-IDs and two actions. A line that can be read in two ways is not read.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mailspan import queue_id
from mailspan.event import Attempted, Filtered, Remarked

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEAD = re.compile(rf"lmtp\((.{{1,255}}?)\)<[0-9]{{1,10}}><({queue_id.DOVECOT})>: (?:sieve: )?")
_LIKE_AN_ACTION = re.compile(
    r"[a-z]+ action: |(?:stor|sav|fail|forward|discard|reject|mark|keep|kept|left|sent|pip|not)[a-z]* ", re.IGNORECASE
)
_LONGEST_ID = 200  # bytes, with the bracket before it and the three dots behind what is cut [lib-lda mail-deliver.c]
_NEARLY = 190  # a letter of several bytes is not cut in two
_MAX_DETAIL = 1000


def split(message: str) -> tuple[str, str, str] | None:
    """Return the user, the session, and what stands behind them; None for a line of no delivery."""
    match = _HEAD.match(message)
    return None if match is None else (match[1], match[2], message[match.end() :])


def message_ids(text: str) -> Iterator[tuple[str | None, bool, str]]:
    """Yield how `msgid=…: ` may be read: the Message-ID, whether it was cut, and the text behind it."""
    if text.startswith("msgid=unspecified: "):
        yield None, False, text[len("msgid=unspecified: ") :]
    elif text.startswith("msgid=<"):
        value = text[6:]
        place = value.find(": ", 0, _LONGEST_ID + 2)
        while place >= 0:
            found = value[:place]
            if found[-1] == ">":
                yield found[1:-1], False, value[place + 2 :]
            elif found.endswith("...") and len(found.encode("utf-8", "replace")) >= _NEARLY:
                yield found[1:-3], True, value[place + 2 :]
            place = value.find(": ", place + 2, _LONGEST_ID + 2)


def looks_like_an_action(text: str) -> bool:
    """Whether a text begins as what Dovecot says behind a Message-ID does: also a kind of line that has no rule."""
    return _LIKE_AN_ACTION.match(text) is not None


def read_saved(text: str, _program: str) -> Attempted:
    """`saved mail to INBOX`: without Sieve."""
    return _attempt(text, "delivered", mailbox=text.removeprefix("saved mail to "))


def read_stored(text: str, _program: str) -> Attempted | None:
    """`fileinto action: stored mail into mailbox 'Lists.announce'`, or without an action: the mail was kept."""
    mailbox = text.partition("stored mail into mailbox '")[2]
    if mailbox[-1:] == ")":  # the script's name for it, and in brackets the server's [sieve-actions.c]
        _, found, name = mailbox.partition("' (")
        return _attempt(text, "delivered", mailbox=name[:-1]) if found and "' (" not in name else None
    return _attempt(text, "delivered", mailbox=mailbox[:-1]) if mailbox[-1:] == "'" else None


def _attempt(text: str, outcome: str, recipients: tuple[str, ...] = (), mailbox: str | None = None) -> Attempted:
    return Attempted(recipients, text, outcome, relay="local", mailer="lmtp", mailbox=mailbox)


def read_redirected(text: str, _program: str) -> Attempted | None:
    """`redirect action: forwarded to <carol@example.net>`: the mail goes on, as another one, to that address."""
    return _redirected(text, text.removeprefix("redirect action: forwarded to "), "expanded")


def read_duplicate(text: str, _program: str) -> Attempted | None:
    """`redirect action: discarded duplicate forward to <…>`: a mail of that Message-ID went there before."""
    return _redirected(text, text.removeprefix("redirect action: discarded duplicate forward to "), "discarded")


def _redirected(text: str, address: str, outcome: str) -> Attempted | None:
    if address[:1] != "<" or address[-1:] != ">" or len(address) == 2:  # noqa: PLR2004  <>
        return None
    return _attempt(text, outcome, (address[1:-1],))


def read_discarded(text: str, _program: str) -> Attempted:
    """`discard action: Marked message …`: no more than a mark, which any other action for the user outdoes."""
    return _attempt(text, "discarded")


def read_refused_by_user(text: str, _program: str) -> Attempted:
    """`reject action: rejected message from <…> (reject)`: Dovecot sends the sender a notice."""
    return _attempt(text, "bounced")


def read_failed(_text: str, _program: str) -> Remarked:
    """`save failed to INBOX: Quota exceeded …`: Dovecot's reply was no, which the mail server logs with its codes."""
    return Remarked("not saved")


def read_vacation(text: str, _program: str) -> Filtered:
    """`vacation action: sent vacation response to <…>`, or why none was sent."""
    return Filtered("sieve", "vacation", detail=text.removeprefix("vacation action: ")[:_MAX_DETAIL])


def read_script(text: str, _program: str) -> Filtered:
    """A script that cannot be run, or failed: the mail is kept."""
    return Filtered("sieve", "script failed", detail=text[:_MAX_DETAIL])
