"""Sessions: what is known of a connection by its process or session ID, until a queue ID takes it over. Pure.

A client's name, its TLS and its login are logged before there is a queue ID; TLS with a relay before the attempt that
uses it. They wait here, in line order. A session ends at its disconnect, or when its process is seen with another
client; of each host the newest MAX_SESSIONS are kept. Sessions change no transaction but through `enter` and `leave`.

The lines of one process keep their order, so one that is older than the last by up to a minute, or is the same as
another of its second, came twice and changes nothing. A client that comes back to the same process within a second,
with the same words, goes on with the session that it had.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from msgspec import Struct

from mailspan.address import read_client
from mailspan.deliveries import time_text
from mailspan.event import Attempted, Authenticated, Client, Connected, Disconnected, Named, Secured
from mailspan.record import Stamp
from mailspan.transaction import digest

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mailspan.record import Record
    from mailspan.transaction import Transaction

MAX_SESSIONS = 16384
_LONG_TEXT = 512  # longer ones are remembered by their digest
_MAX_TEXTS = 256  # of one second of one process
_TWICE_SECONDS = 60
_SILENT_SECONDS = 3600
_DROPPED_AT_ONCE = 1024


class Session(Struct, array_like=True, omit_defaults=True):
    """One connection: `began` is the stamp of its first line, `peer` the client as its first line has it.

    `tls`, `user` and `helo` are the client's. `relay`, `relay_ip`, `relay_tls` are of the connection that the process
    made last to another server. `texts` are its process's lines of the second `last`. An ended one is kept until the
    process has another. New fields go to the end: sessions are stored.
    """

    began: Stamp
    peer: str = ""
    client: Client | None = None
    tls: str | None = None
    user: str | None = None
    helo: str | None = None
    relay: str | None = None
    relay_ip: str | None = None
    relay_tls: str | None = None
    ended: bool = False
    last: int = 0
    texts: list[str] = []

    def known_client(self) -> Client | None:
        """Return who is connected; None where no line said so."""
        if self.client is None and self.peer:
            self.client = read_client(self.peer)
        return self.client


class Sessions(dict[str, Session]):
    """The sessions of one host, by process or session ID, the newest last."""

    __slots__ = ("_oldest",)

    def __init__(self, known: dict[str, Session] | None = None) -> None:
        super().__init__(known or {})
        self._oldest: list[tuple[str, Session]] = []  # the next to drop, the oldest last

    def drop_oldest(self) -> None:
        """Drop the session that began first: found for many at once, for what was dropped before is in the way."""
        while True:
            if not self._oldest:
                self._oldest = list(islice(self.items(), _DROPPED_AT_ONCE))[::-1]
            key, session = self._oldest.pop()
            if self.get(key) is session:  # else its process has another since
                del self[key]
                return


def key_of(record: Record) -> str:
    """Return the key of the session that a record belongs to."""
    return record.session or record.source.process


def name_of(record: Record, session: Session) -> str:
    """Return what groups all that one connection did: host/program[pid], or the session ID, and when it began.

    To the second: a copy of the log with finer stamps may come before or after, and there may be none.
    """
    began = Stamp(session.began.second, 0, 0, guessed=False)
    return f"{record.source.host}/{key_of(record)} {time_text(began)}"


def find(sessions: Sessions, record: Record) -> Session | None:
    """Return the session that a record belongs to; None where there is none, or it is over."""
    session = sessions.get(key_of(record))
    return None if session is None or session.ended else session


def find_or_begin(sessions: Sessions, record: Record) -> Session:
    """Return the session of a record; its first line was not seen where there is none."""
    session = find(sessions, record)
    return session if session is not None else _begin(sessions, record, "")


def has_key(record: Record) -> bool:
    """Whether the record says which connection it is about. Exim's own logs name no process unless told to."""
    return bool(record.session or record.source.pid or record.source.mta != "exim")


def teller_of(record: Record) -> str:
    """Return what tells equal refusals of one second apart: who logged them. Exim goes by several names at once."""
    return record.source.pid if record.source.mta == "exim" else record.source.process


def of_refusal(sessions: Sessions, record: Record, client: Client | None) -> Session:
    """Return the session of a refusal.

    Exim logs neither the beginning nor the end of connections unless told to: another client, or an hour without a
    refusal, is then another connection.
    """
    if record.source.mta != "exim":
        return find_or_begin(sessions, record)
    session = find(sessions, record)
    if session is not None:
        known = session.client
        is_other = known is not None and client is not None and known.ip != client.ip
        if is_other or abs(record.stamp.second - session.last) > _SILENT_SECONDS:
            session = None
    if session is None:
        session = _begin(sessions, record, "")
    session.client = client or session.client
    session.last = record.stamp.second
    return session


def apply(sessions: Sessions, record: Record) -> str | None:
    """Apply a record without a queue ID. Return why it changes no transaction; None if it is not about a session."""
    event = record.event
    effect = _EFFECTS.get(event.__class__)
    if effect is None:
        return None
    session = sessions.get(key_of(record))
    second, text = record.stamp.second, record.text
    if len(text) > _LONG_TEXT:
        text = digest((second, text)).hex()
    texts: list[str] = []
    if session is not None:
        if second == session.last:
            texts = session.texts
            if text in texts:
                if isinstance(event, Connected) and session.peer == event.peer:
                    session.ended = False
                return "duplicate"
        elif 0 < session.last - second <= _TWICE_SECONDS:
            return "duplicate"
    session = effect(sessions, record, event)
    if session is not None:
        if len(texts) < _MAX_TEXTS:
            texts.append(text)
        session.last, session.texts = second, texts
    return "session"


def _begin(sessions: Sessions, record: Record, peer: str) -> Session:
    key = key_of(record)
    sessions.pop(key, None)  # the newest is the last
    if len(sessions) >= MAX_SESSIONS:
        sessions.drop_oldest()
    session = sessions[key] = Session(record.stamp, peer)
    return session


def _connected(sessions: Sessions, record: Record, event: Connected) -> Session:
    session = _begin(sessions, record, event.peer)
    session.client = event.client
    return session


def _disconnected(sessions: Sessions, record: Record, event: Disconnected) -> Session | None:
    session = sessions.get(key_of(record))
    if session is not None and event.lost_after is None:
        session.ended = True
    return session


def _of_client(sessions: Sessions, record: Record, client: Client | None) -> Session:
    """Return the session of a line that names its client: a new one where the process has another client now."""
    session = find_or_begin(sessions, record)
    if client is not None:
        known = session.known_client()
        if known is not None and known.text != client.text:
            session = _begin(sessions, record, "")
        session.client = client
    return session


def _secured(sessions: Sessions, record: Record, event: Secured) -> Session:
    if event.incoming:
        session = _of_client(sessions, record, event.client)
        session.tls = event.tls
    else:
        session = find_or_begin(sessions, record)
        session.relay, session.relay_ip, session.relay_tls = event.peer, event.peer_ip, event.tls
    return session


def _authenticated(sessions: Sessions, record: Record, event: Authenticated) -> Session:
    session = _of_client(sessions, record, event.client)
    session.user = event.user
    return session


def _named(sessions: Sessions, record: Record, event: Named) -> Session:
    session = find_or_begin(sessions, record)
    session.helo = event.helo or session.helo
    session.user = event.sasl_username or session.user
    session.tls = event.tls or session.tls
    return session


_EFFECTS: dict[type, Callable[[Sessions, Record, Any], Session | None]] = {
    Connected: _connected,
    Disconnected: _disconnected,
    Secured: _secured,
    Authenticated: _authenticated,
    Named: _named,
}
"""What an event without a queue ID does to the sessions of its host; the session that it is about."""


def enter(session: Session, transaction: Transaction) -> None:
    """Give a transaction that its client just began what the session knows and its own lines do not."""
    received = transaction.received
    client = None if received is None else received.client
    if received is not None and client is None:
        received.client = session.known_client()
    if session.tls is None and session.user is None and session.helo is None:
        return
    known = session.known_client()
    if client is not None and known is not None and (client.name, client.ip) != (known.name, known.ip):
        return
    if transaction.tls is None:
        transaction.tls = session.tls
    if transaction.sasl_username is None:
        transaction.sasl_username = session.user
    if transaction.helo is None:
        transaction.helo = session.helo


def leave(session: Session, attempt: Attempted) -> None:
    """Give an attempt the TLS of the connection that its process just made to that relay.

    Where the TLS line names no relay (OpenSMTPD), the session is one connection.
    """
    unnamed = session.relay is None and session.relay_ip is None
    if attempt.tls is None and (unnamed or (attempt.relay == session.relay and attempt.relay_ip == session.relay_ip)):
        attempt.tls = session.relay_tls
