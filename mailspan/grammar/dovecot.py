"""The line kinds of Dovecot's LMTP server and its Sieve plugin: what became of a mail that was handed to a mailbox.

One entry per kind of line, each with a line of the real Debian package (tests/corpus/filters); how each is read is in
dovecot_read.py, which also takes the head off. Other services of Dovecot are ignored; `dovecot-lda` and the plugin
mail_log have no entry, as nothing was captured of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailspan.event import Attempted, Filtered, Remarked, Stored
from mailspan.grammar import dovecot_read as read
from mailspan.grammar.kind import LineKind, compile_rules, ignore
from mailspan.record import Ignored

if TYPE_CHECKING:
    from mailspan.event import Event

PROGRAM = "dovecot"
_ANY: tuple[str, ...] = ()
_SOURCE = "the log of a 2.3.19.1; "


def _expected(
    message_id: str, recipient: str, status: str, outcome: str, original: str | None = None, mailbox: str | None = None
) -> dict[str, object]:
    """Return what the example of an attempt must give."""
    attempt = Attempted((recipient,), status, outcome, original, relay="local", mailer="lmtp", mailbox=mailbox)
    return {"message_id": message_id, "attempt": attempt}


KINDS: tuple[LineKind, ...] = (
    LineKind(
        "kept by Sieve",
        _ANY,
        ("stored mail into mailbox '",),
        read.read_stored,
        "lmtp(bob@example.com)<14684><+MKRMKGsCmtcOQAAMzN6MA>: sieve: msgid=<dovecot.3@client.example.org>: stored mail "
        "into mailbox 'INBOX'",
        Stored,
        _expected(
            "dovecot.3@client.example.org",
            "bob@example.com",
            "stored mail into mailbox 'INBOX'",
            "delivered",
            mailbox="INBOX",
        ),
        queued=False,
        source=_SOURCE + "pigeonhole sieve-actions.c",
    ),
    LineKind(
        "saved",
        _ANY,
        ("saved mail to ",),
        read.read_saved,
        "lmtp(alice@example.com)<20614><eAWxCOGuCmuGUAAAMzN6MA>: msgid=<full.1@client.example.org>: saved mail to INBOX",
        Stored,
        _expected(
            "full.1@client.example.org", "alice@example.com", "saved mail to INBOX", "delivered", mailbox="INBOX"
        ),
        queued=False,
        source=_SOURCE + "lib-lda mail-deliver.c",
    ),
    LineKind(
        "filed",
        _ANY,
        ("fileinto action: stored mail into mailbox '",),
        read.read_stored,
        "lmtp(ken@example.com)<14706><gqt7L6KsCmtyOQAAMzN6MA>: sieve: msgid=<dovecot.13@client.example.org>: fileinto "
        "action: stored mail into mailbox 'It's 'quoted' <here>: saved'",
        Stored,
        _expected(
            "dovecot.13@client.example.org",
            "ken@example.com",
            "fileinto action: stored mail into mailbox 'It's 'quoted' <here>: saved'",
            "delivered",
            mailbox="It's 'quoted' <here>: saved",
        ),
        queued=False,
        source=_SOURCE + "pigeonhole sieve-actions.c",
    ),
    LineKind(
        "redirected",
        _ANY,
        ("redirect action: forwarded to <",),
        read.read_redirected,
        "lmtp(carol@example.com)<20614><iOQDEuOuCmuGUAAAMzN6MA>: sieve: msgid=<full.4@client.example.org>: redirect "
        "action: forwarded to <carol@example.net>",
        Stored,
        _expected(
            "full.4@client.example.org",
            "carol@example.net",
            "redirect action: forwarded to <carol@example.net>",
            "expanded",
            "carol@example.com",
        ),
        queued=False,
        source=_SOURCE + "pigeonhole cmd-redirect.c",
    ),
    LineKind(
        "discarded",
        _ANY,
        ("discard action: ",),
        read.read_discarded,
        "lmtp(dave@example.com)<20614><+Nd5KeSuCmuGUAAAMzN6MA>: sieve: msgid=<full.5@client.example.org>: discard "
        "action: Marked message to be discarded if not explicitly delivered (discard action)",
        Stored,
        _expected(
            "full.5@client.example.org",
            "dave@example.com",
            "discard action: Marked message to be discarded if not explicitly delivered (discard action)",
            "discarded",
        ),
        queued=False,
        source=_SOURCE + "pigeonhole cmd-discard.c",
    ),
    LineKind(
        "refused by the user",
        _ANY,
        ("reject action: rejected message from <",),
        read.read_refused_by_user,
        "lmtp(frank@example.com)<13142><sKBRNRysCmtWMwAAMzN6MA>: sieve: msgid=<dovecot.7@client.example.org>: reject "
        "action: rejected message from <u@example.org> (reject)",
        Stored,
        _expected(
            "dovecot.7@client.example.org",
            "frank@example.com",
            "reject action: rejected message from <u@example.org> (reject)",
            "bounced",
        ),
        queued=False,
        source=_SOURCE + "pigeonhole ext-reject.c",
    ),
    LineKind(
        "redirected before",
        _ANY,
        ("redirect action: discarded duplicate forward to <",),
        read.read_duplicate,
        "lmtp(carol@example.com)<14691><aq33MqGsCmtjOQAAMzN6MA>: sieve: msgid=<dovecot.4@client.example.org>: redirect "
        "action: discarded duplicate forward to <carol@example.net>",
        Stored,
        _expected(
            "dovecot.4@client.example.org",
            "carol@example.net",
            "redirect action: discarded duplicate forward to <carol@example.net>",
            "discarded",
            "carol@example.com",
        ),
        queued=False,
        source=_SOURCE + "pigeonhole cmd-redirect.c",
    ),
    LineKind(
        "not saved",
        _ANY,
        ("save failed to ",),
        read.read_failed,
        "lmtp(full@example.com)<20614><oMe3DeiuCmuGUAAAMzN6MA:R2>: msgid=<full.9@client.example.org>: save failed to "
        "INBOX: Quota exceeded (mailbox for user is full)",
        Remarked,
        {"reason": "not saved"},
        queued=False,
        source=_SOURCE + "lib-lda mail-deliver.c: the reply to the mail server says it, too, and names no session",
    ),
    LineKind(
        "answered",
        _ANY,
        ("vacation action: ",),
        read.read_vacation,
        "lmtp(erin@example.com)<13137><UD9PNRysCmtRMwAAMzN6MA>: sieve: msgid=<dovecot.6@client.example.org>: vacation "
        "action: sent vacation response to <u@example.org>",
        Stored,
        {
            "message_id": "dovecot.6@client.example.org",
            "attempt": None,
            "action": Filtered("sieve", "vacation", detail="sent vacation response to <u@example.org>"),
        },
        queued=False,
        source=_SOURCE + "pigeonhole cmd-vacation.c",
    ),
    LineKind(
        "script failed",
        _ANY,
        ("Failed to compile script `", "Execution of script "),
        read.read_script,
        "lmtp(heidi@example.com)<13145><WOQyOxysCmtZMwAAMzN6MA>: sieve: Failed to compile script "
        "`/var/mail/vhosts/example.com/heidi/.dovecot.sieve' (view user logfile "
        "`/var/mail/vhosts/example.com/heidi/.dovecot.sieve.log' for more information)",
        Stored,
        {
            "message_id": None,
            "attempt": None,
            "action": Filtered(
                "sieve",
                "script failed",
                detail="Failed to compile script `/var/mail/vhosts/example.com/heidi/.dovecot.sieve' (view user logfile "
                "`/var/mail/vhosts/example.com/heidi/.dovecot.sieve.log' for more information)",
            ),
        },
        queued=False,
        source=_SOURCE + "pigeonhole lda-sieve-plugin.c",
    ),
    LineKind(
        "session",
        _ANY,
        ("lmtp(",),
        ignore("lmtp session"),
        "lmtp(13137): Disconnect from local: Logged out (state=READY)",
        Ignored,
        queued=False,
        source=_SOURCE + "lmtp client.c",
    ),
)

_, RULES = compile_rules(KINDS, queued=False)
_SESSION_LINE = Ignored("lmtp session")
_OTHER_SERVICE = Ignored("not lmtp")


def read_message(message: str, program: str) -> tuple[str | None, str | None, Event | Ignored | None]:
    """Read a whole message: no session apart, the LMTP session as the queue ID, and what the line means."""
    if not message.startswith("lmtp("):
        return None, None, _OTHER_SERVICE
    found = read.split(message)
    if found is None:
        return None, None, _SESSION_LINE if message[5:].partition(")")[0].isdecimal() else None
    user, session, text = found
    if not text.startswith("msgid="):
        action = _reading(text, program)
        return None, session, Stored(None, action=action) if isinstance(action, Filtered) else None
    readings: list[Stored | Remarked] = []
    for message_id, is_cut, rest in read.message_ids(text):
        reading = _reading(rest, program)
        if isinstance(reading, Attempted):
            reading.original_recipient = user if reading.recipients else None
            reading.recipients = reading.recipients or (user,)
            readings.append(Stored(message_id, is_cut, attempt=reading))
        elif isinstance(reading, Filtered):
            readings.append(Stored(message_id, is_cut, action=reading))
        elif reading is not None:
            readings.append(reading)
        elif read.looks_like_an_action(rest):
            return None, session, None  # a kind that is not known, or a sender's invention
    return None, session, readings[0] if len(readings) == 1 else None


def _reading(text: str, program: str) -> Attempted | Filtered | Remarked | None:
    for begin, reader in RULES[text[:4]]:
        if text.startswith(begin):
            reading = reader(text, program)
            if isinstance(reading, (Attempted, Filtered, Remarked)):
                return reading
    return None
