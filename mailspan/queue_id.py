"""Queue IDs: which forms there are, and the time that some of them hold.

Pure. Sources: Sendmail queue.c assign_queueid (gmtime, base 60), Postfix src/global/mail_queue.h (long IDs, base 52),
Exim spec.xfpt "Message identification" (base 62).
A decoded time is UTC epoch seconds; None means that the ID holds none.
"""

from __future__ import annotations

import calendar
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_BASE_60 = {c: i for i, c in enumerate("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwx")}
_BASE_52 = {c: i for i, c in enumerate("0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz")}
_BASE_62 = {c: i for i, c in enumerate("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")}

POSTFIX_SHORT = r"[0-9A-F]{6,25}"
# At least 6 characters of seconds, 4 of microseconds, "z", the inode in base 51 (all of base 52 but "z").
POSTFIX_LONG = r"[0-9B-DF-HJ-NP-TV-Zb-df-hj-np-tv-z]{10}z[0-9B-DF-HJ-NP-TV-Zb-df-hj-np-tv-y]{1,20}"
POSTFIX = f"(?:{POSTFIX_SHORT}|{POSTFIX_LONG})"
# 8.12 and later: 6 of time, 2 of sequence, the PID with at least 6 digits; before: 1 of sequence, 5 digits;
# before 8.9: the hour as a letter, two letters, 5 digits.
NONE = r"(?!)"  # OpenSMTPD's messages do not begin with one
SENDMAIL = r"(?:[0-9A-Za-x]{6,8}[0-9]{5,10}|[A-X][A-Z]{2}[0-9]{5})"

# 4.97 and later: 6 of time, 11 of PID, 4 of the fraction; before: 6, 6, 2 [spec.xfpt "Message identification"].
EXIM = r"[0-9A-Za-z]{6}-(?:[0-9A-Za-z]{6}-[0-9A-Za-z]{2}|[0-9A-Za-z]{11}-[0-9A-Za-z]{4})"

# The session of Dovecot's LMTP, which its reply names: 16 bytes in base 64, then the transaction and the recipient of
# that session, where there is more than one [lib/guid.c, lmtp lmtp-commands.c and lmtp-recipient.c; tests/corpus].
DOVECOT = r"[0-9A-Za-z+/]{22}(?::[A-Z][0-9]{1,9}){0,4}"

_POSTFIX_LONG = re.compile(POSTFIX_LONG)
_EXIM = re.compile(EXIM)
_BASE_36_TIME = re.compile(r"[F-Z][0-9A-Z]{5}")
_POSTFIX = re.compile(POSTFIX)
_SENDMAIL = re.compile(SENDMAIL)
_SENDMAIL_TIMED = re.compile(r"[0-9A-Za-x]{7,8}[0-9]{5,10}")

# Long IDs came with Postfix 2.9, of 2012: an earlier one was made by a host whose clock was lost, or by nobody.
_FIRST_LONG, _LAST_LONG = 1_262_304_000, 4_102_444_800  # 2010 to 2100
_FIRST_YEAR = 1990  # the base-60 year digit repeats after 60 years: read as 1990 to 2049


_MAX_KNOWN = 65536


class IdForm(dict[str, bool]):
    """Whether a text has the form of one MTA's queue IDs: `form[text]`. The last ones asked for are remembered."""

    def __init__(self, pattern: str) -> None:
        super().__init__()
        self._fits: Callable[[str], object] = re.compile(pattern).fullmatch

    def __missing__(self, text: str) -> bool:
        """Look at a text that is not remembered; of others than IDs (any text may come) nothing is kept."""
        if self._fits(text) is None:
            return False
        if len(self) >= _MAX_KNOWN:
            self.clear()
        self[text] = True
        return True


def is_postfix(text: str) -> bool:
    """Whether the whole text has the form of a Postfix queue ID, short or long."""
    return _POSTFIX.fullmatch(text) is not None


def is_sendmail(text: str) -> bool:
    """Whether the whole text has the form of a Sendmail queue ID."""
    return _SENDMAIL.fullmatch(text) is not None


def postfix_time(queue_id: str) -> int | None:
    """Return the second that a long Postfix ID holds, None for a short one or where that cannot be.

    The long form is recognised by its separator: `3mfHGL1r9gzyQP` has "z" after ten base-52 characters.
    """
    if queue_id[10:11] != "z" or not _POSTFIX_LONG.fullmatch(queue_id):
        return None
    second = 0
    for character in queue_id[:6]:
        second = second * 52 + _BASE_52[character]
    return second if _FIRST_LONG <= second < _LAST_LONG else None


def sendmail_time(queue_id: str) -> int | None:
    """Return the second that a Sendmail ID (8.9 and later) holds: `n6BKbwgB009156` is 2009-07-11 20:37:58."""
    if not _SENDMAIL_TIMED.fullmatch(queue_id):
        return None
    year, month, day, hour, minute, second = (_BASE_60[c] for c in queue_id[:6])
    year = _FIRST_YEAR + (1900 + year - _FIRST_YEAR) % 60
    if month > 11 or not 1 <= day <= calendar.monthrange(year, month + 1)[1] or hour > 23:  # noqa: PLR2004
        return None
    return calendar.timegm((year, month + 1, day, hour, minute, second))


def exim_time(queue_id: str) -> int | None:
    """Return the second that an Exim ID holds: `1sFUlr-000rus-Io` is 2024-06-07 08:16:23.

    Exim counts in base 36, digits and capitals, where file names have no case (macOS, Cygwin: globals.c
    base62_chars). The two cannot be mixed up: base 62 begins with 0 to 2 until 2057, base 36 since 1999 with a letter.
    """
    if not _EXIM.fullmatch(queue_id):
        return None
    time = queue_id[:6]
    if time[0] in "012":
        base = 62
    elif _BASE_36_TIME.fullmatch(time):
        base = 36
    else:
        return None
    second = 0
    for character in time:
        second = second * base + _BASE_62[character]
    return second


def no_time(_queue_id: str) -> None:
    """OpenSMTPD's message IDs are random (queue_backend.c queue_generate_msgid), Dovecot's sessions a client's."""


TIME_OF: dict[str, Callable[[str], int | None]] = {
    "postfix": postfix_time,
    "sendmail": sendmail_time,
    "exim": exim_time,
    "opensmtpd": no_time,
    "dovecot": no_time,
}
"""The reader of the time in a queue ID, by MTA."""
