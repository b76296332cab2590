"""A transaction: all that one mail server did under one queue ID, as far as its lines tell.

Pure state: the facts of the lines, each kept with the key of its line, so that a finer stamp of the same line (a second
copy of the log) can still sharpen its time. What the facts mean together is worked out in document.py; how lines change
a transaction stands in reducer/effects.py. It is a struct that encodes itself: reducer/snapshot.py stores it as it is.
"""

from __future__ import annotations

import hashlib

from msgspec import Struct

from mailspan.event import Attempted, Filtered, Inspected, Received, Refused
from mailspan.record import Stamp

MAX_LINKS = 256
"""How many links a transaction keeps, and notices about it: of more, the first by their order, which lines came when is
no matter."""

LineKey = tuple[int, str] | bytes
"""What makes two lines of one queue ID the same: event second and the text behind the ID, or their digest."""


def digest(key: tuple[int, str]) -> bytes:
    """Return the 8 bytes that stand for a line in snapshots and, in hexadecimal, in document ids."""
    return hashlib.blake2b(f"{key[0]} {key[1]}".encode(), digest_size=8).digest()


def _link_order(link: tuple[str, str, str | None]) -> tuple[str, str, str]:
    return link[0], link[1], link[2] or ""


def _notice_order(notice: tuple[LineKey, str]) -> str:
    return notice[1]


class Dropped(Struct, array_like=True, omit_defaults=True):
    """What is still known of one recipient's attempts that are not kept (trim.py); names are sorted."""

    count: int = 0
    relays: list[str] = []
    outcomes: list[str] = []
    dsns: list[str] = []
    originals: list[str] = []


class Transaction(Struct, array_like=True, omit_defaults=True):
    """The facts about one incarnation of one queue ID on one host.

    `lines` has every distinct line in the order of arrival; `births` the keys of its birth lines; `touched` and
    `closed_at` are the host's event clock (seconds) at the last line and at the closing line. A rejection, which has no
    queue ID, is one too: `queue_id` is then `~` and a digest, and its one refusal says all. New fields go to the end:
    transactions are stored as arrays.
    """

    host: str
    queue_id: str
    mta: str
    touched: int
    lines: dict[LineKey, Stamp] = {}
    births: list[LineKey] = []
    attempts: list[tuple[LineKey, Attempted]] = []
    received: Received | None = None
    sender: str | None = None  # qmgr's, or Sendmail's, or Exim's own word
    claimed_sender: str | None = None  # pickup's, a refusal's: until a better one comes
    size: int | None = None
    recipient_count: int | None = None
    message_id: str | None = None
    resent_message_id: str | None = None
    queued: bool = False
    refusals: list[tuple[LineKey, Refused]] | None = None
    inspections: list[tuple[LineKey, Inspected]] | None = None
    expiries: list[tuple[LineKey, str]] | None = None
    links: list[tuple[str, str, str | None]] | None = None
    held: bool = False
    aborted: bool = False
    child: bool = False  # made by the MTA itself: a bounce or another notice
    discarded: bool = False
    truncated: bool = False
    tail_missing: bool = False
    subject: str | None = None
    helo: str | None = None
    protocol: str | None = None
    sasl_username: str | None = None
    tls: str | None = None
    closed_by: str | None = None
    closed_at: int | None = None
    skipped_count: int = 0
    written_id: str | None = None  # the id of the document that was last handed out for writing
    earlier: Transaction | None = None  # the incarnation before, while it lingers
    packed: bool = False  # restored from a snapshot: its lines are known by their digests
    changed: bool = False  # since it was last handed out for writing
    rejection: bool = False  # refused before a queue ID existed
    session: str | None = None  # rejections: what groups all that one connection did
    gap: bool = False  # lines of its host were lost while it was open
    dropped: dict[str, Dropped] | None = None  # by recipient, as deliveries.recipient_key names it
    trim_at: int = 64  # look again whether attempts can be dropped when there are so many
    urgent: bool = False  # what changed is more than a new line: an attempt, a refusal, the end
    notices: list[tuple[LineKey, str]] | None = None  # mails about this one, of a kind that the log does not say
    filters: list[tuple[LineKey, Filtered]] | None = None  # what filters, or the user's script, did
    filter_count: int = 0  # lines of filters

    def key_of(self, line: tuple[int, str]) -> LineKey:
        """Return the key under which this transaction knows a line."""
        return digest(line) if self.packed else line

    def final_recipients_needed(self) -> int:
        """Return how many recipients must be final before the transaction is closed by count.

        The MTA's own count is a lower bound, unless some recipients moved to a clone: then one that stayed must do.
        """
        if self.links is not None and any(kind == "clone" for kind, _, _ in self.links):
            return 1
        return self.recipient_count or 0

    def add_link(self, kind: str, queue_id: str, host: str | None) -> None:
        """Remember a link once."""
        link = (kind, queue_id, host)
        if self.links is None:
            self.links = [link]
        elif link not in self.links:
            self.links.append(link)
            if len(self.links) > MAX_LINKS:
                self.links.remove(max(self.links, key=_link_order))
                self.truncated = True

    def add_notice(self, key: LineKey, queue_id: str) -> None:
        """Remember a mail about this one."""
        if self.notices is None:
            self.notices = []
        self.notices.append((key, queue_id))
        if len(self.notices) > MAX_LINKS:
            self.notices.remove(max(self.notices, key=_notice_order))
            self.truncated = True

    def has_only_client(self) -> bool:
        """Whether nothing but the client's line (and perhaps its Message-ID) is known: the mail may never have come.

        A size says that it came: Sendmail logs it in the birth line, and may deliver days later.
        """
        return not (
            self.queued
            or self.size
            or self.attempts
            or self.refusals
            or self.inspections
            or self.closed_by
            or self.child
        )
