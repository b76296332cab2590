"""The effects of events on a transaction: one small function per event, one table.

Pure. An effect stores what its line says; it never judges what the facts mean together (mailspan/document.py does).
Effects of lines of different queue IDs commute: two lines of one second may come in either order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mailspan import event as events
from mailspan import filtering
from mailspan.trim import trim

if TYPE_CHECKING:
    from collections.abc import Callable

    from mailspan.transaction import LineKey, Transaction


_EARLY_MTAS = frozenset({"sendmail", "exim"})


def _at_reception(transaction: Transaction, key: LineKey) -> None:
    """Count a line as a birth line where it comes before the birth line proper, or in its place.

    Sendmail logs what happens up to its `from=`; Exim gives an ID to a mail that it then refuses, and no `<=`.
    """
    if transaction.mta in _EARLY_MTAS and not transaction.rejection:
        transaction.births.append(key)


def received(transaction: Transaction, key: LineKey, event: events.Received) -> None:
    """A birth line: Postfix's client= or pickup, Sendmail's from=, Exim's `<=`."""
    transaction.births.append(key)
    transaction.received = event
    if transaction.mta == "opensmtpd":
        transaction.queued = True  # logged when the queue has it
    if event.client is None or not event.client.text.startswith("uid="):
        transaction.sender = event.sender if event.sender is not None else transaction.sender
    else:
        transaction.claimed_sender = event.sender  # pickup's: qmgr's wins
    if event.size is not None:
        transaction.size, transaction.recipient_count = event.size, event.recipient_count
    if event.message_id is not None:
        transaction.message_id = event.message_id
    if event.sasl_username is not None:
        transaction.sasl_username = event.sasl_username
    if event.protocol is not None:
        transaction.protocol = event.protocol
    if event.truncated:
        transaction.truncated = True
    if event.original_queue_id:
        transaction.add_link("original", event.original_queue_id, None)
    if event.requeued_from:
        transaction.add_link("requeued_from", event.requeued_from, transaction.host)
    if event.queued:
        _received_whole(transaction, event)


def _received_whole(transaction: Transaction, event: events.Received) -> None:
    """What a birth line says that is logged after the end of data."""
    transaction.queued = True
    for name in ("subject", "helo", "tls"):
        value = getattr(event, name)
        if value is not None:
            setattr(transaction, name, value)
    if event.bounce_of is not None:
        transaction.child = True
        transaction.add_link("original" if event.delay_notice else "bounce_of", event.bounce_of, transaction.host)


def identified(transaction: Transaction, key: LineKey, event: events.Identified) -> None:
    """The Message-ID; it may be logged before the client, so it is a birth line, too."""
    if event.resent:
        transaction.resent_message_id = event.message_id
        return
    transaction.births.append(key)
    transaction.message_id = event.message_id


def queued(transaction: Transaction, _key: LineKey, event: events.Queued) -> None:
    """The queue manager's word on sender, size and number of recipients; repeated at each retry."""
    transaction.queued = True
    transaction.held = False
    transaction.sender = event.sender
    if event.size is not None:
        transaction.size = event.size
    if event.recipient_count is not None:
        transaction.recipient_count = event.recipient_count


def enveloped(transaction: Transaction, key: LineKey, event: events.Enveloped) -> None:
    """A recipient of an accepted mail: a birth line, too, which waits for its first attempt."""
    transaction.births.append(key)
    transaction.queued = True
    if transaction.received is None:
        transaction.received = events.Received()  # before 6.4 these lines are all there is of a mail's birth
    transaction.sender = event.sender
    if event.size is not None:
        transaction.size, transaction.protocol = event.size, event.protocol
    if event.envelope_count is not None:
        transaction.recipient_count = (transaction.recipient_count or 0) + event.envelope_count
    queued_row = events.Attempted((event.recipient,), "queued", "queued", pending=True, envelope_id=event.envelope_id)
    transaction.attempts.append((key, queued_row))


def attempted(transaction: Transaction, key: LineKey, event: events.Attempted) -> None:
    """An attempt, a queued notice, or the end of an envelope."""
    transaction.attempts.append((key, event))
    if len(transaction.attempts) >= transaction.trim_at:
        trim(transaction)
    if event.sender is not None:
        transaction.claimed_sender = event.sender  # rules may rewrite it for the relay: the envelope's wins


def skipped(transaction: Transaction, key: LineKey, event: events.Skipped) -> None:
    """A queue run passed a recipient by. It is queued as far as nothing else is known of it."""
    transaction.skipped_count += 1
    notice = events.Attempted((event.recipient,), event.status, "queued", event.original_recipient, pending=True)
    transaction.attempts.append((key, notice))
    if len(transaction.attempts) >= transaction.trim_at:
        trim(transaction)


def refused(transaction: Transaction, key: LineKey, event: events.Refused) -> None:
    """A recipient, or the whole mail, was refused in the SMTP dialogue."""
    if transaction.refusals is None:
        transaction.refusals = []
    _at_reception(transaction, key)
    transaction.refusals.append((key, event))
    _seen_in_dialogue(transaction, event)
    if event.whole and transaction.closed_by is None:
        transaction.closed_by = "rejected"


def rejected(rejection: Transaction, key: LineKey, event: events.Refused) -> None:
    """What was refused before it had a queue ID: the refusal is all there is."""
    rejection.rejection = True
    rejection.refusals = [(key, event)]
    rejection.closed_by = "rejected"
    rejection.sasl_username = event.sasl_username
    _seen_in_dialogue(rejection, event)


def _seen_in_dialogue(transaction: Transaction, event: events.Refused | events.Inspected) -> None:
    if event.sender is not None and transaction.claimed_sender is None:
        transaction.claimed_sender = event.sender
    if event.helo:
        transaction.helo = event.helo
    if event.protocol and transaction.protocol is None:
        transaction.protocol = event.protocol
    if event.subject is not None:
        transaction.subject = event.subject
    if isinstance(event, events.Inspected) and event.message_id is not None:
        transaction.message_id = event.message_id


_HOLDS = frozenset({"hold", "milter-hold", "milter-header-hold"})
_DISCARDS = frozenset({"discard", "milter-discard", "milter-header-discard"})


def inspected(transaction: Transaction, key: LineKey, event: events.Inspected) -> None:
    """A content or access rule took an action; hold and discard decide what becomes of the mail."""
    _at_reception(transaction, key)
    _seen_in_dialogue(transaction, event)
    if event.action in _HOLDS:
        transaction.held = True
    elif event.action in _DISCARDS:
        transaction.discarded = True
        if transaction.closed_by is None:
            transaction.closed_by = "discarded"
    else:
        return
    if transaction.inspections is None:
        transaction.inspections = []
    transaction.inspections.append((key, event))


def expired(transaction: Transaction, key: LineKey, event: events.Expired) -> None:
    """Every recipient that is still deferred is given up; `removed` follows."""
    if transaction.expiries is None:
        transaction.expiries = []
    transaction.expiries.append((key, event.status))


def cancelled(transaction: Transaction, key: LineKey, event: events.Cancelled) -> None:
    """Given up, which ends a hold, too; a closing line follows."""
    transaction.held = False
    expired(transaction, key, events.Expired(event.status))


def closed(transaction: Transaction, _key: LineKey, event: events.Closed) -> None:
    """A closing line; the first one says why."""
    if transaction.closed_by is None:
        transaction.closed_by = event.by


def held(transaction: Transaction, _key: LineKey, _event: events.Held) -> None:
    """Put on hold by an administrator."""
    transaction.held = True


def released(transaction: Transaction, _key: LineKey, _event: events.Released) -> None:
    """Released from hold."""
    transaction.held = False


def notified(transaction: Transaction, key: LineKey, event: events.Notified) -> None:
    """The MTA made a bounce or another notice about this mail."""
    transaction.add_link(event.kind, event.child, transaction.host)
    if event.expires:
        expired(transaction, key, events.Expired(event.status))


def cloned(transaction: Transaction, _key: LineKey, event: events.Cloned) -> None:
    """Some recipients moved to another ID."""
    transaction.add_link("clone", event.child, transaction.host)


def aborted(transaction: Transaction, key: LineKey, _event: events.Aborted) -> None:
    """The client went away before the mail was accepted."""
    _at_reception(transaction, key)
    transaction.aborted = True


def named(transaction: Transaction, key: LineKey, event: events.Named) -> None:
    """Facts about the client by another way than the birth line."""
    _at_reception(transaction, key)
    if event.helo:
        transaction.helo = event.helo
    if event.sasl_username:
        transaction.sasl_username = event.sasl_username
    if event.tls:
        transaction.tls = event.tls


def filtered(transaction: Transaction, key: LineKey, event: events.Filtered) -> None:
    """A filter beside the mail server looked at the mail. What became of it, the server's own lines say."""
    transaction.filter_count += 1
    filtering.keep(transaction, key, event)


def stored(transaction: Transaction, key: LineKey, event: events.Stored) -> None:
    """A mailbox server's word about one user; any of its lines may be the first."""
    transaction.births.append(key)
    transaction.queued = True
    if event.message_id is not None:
        transaction.message_id = event.message_id
    if event.truncated:
        transaction.truncated = True
    if event.attempt is not None:
        attempted(transaction, key, event.attempt)
    if event.action is not None:
        filtered(transaction, key, event.action)  # which alone is no delivery


EFFECTS: dict[type, Callable[[Transaction, LineKey, Any], None]] = {
    events.Received: received,
    events.Identified: identified,
    events.Queued: queued,
    events.Enveloped: enveloped,
    events.Attempted: attempted,
    events.Skipped: skipped,
    events.Refused: refused,
    events.Inspected: inspected,
    events.Expired: expired,
    events.Cancelled: cancelled,
    events.Closed: closed,
    events.Held: held,
    events.Released: released,
    events.Notified: notified,
    events.Cloned: cloned,
    events.Aborted: aborted,
    events.Named: named,
    events.Filtered: filtered,
    events.Stored: stored,
}
"""The effect of each event that belongs to a transaction."""


def born_of_notice(child: Transaction, key: LineKey, event: events.Notified, parent_id: str) -> None:
    """The notice's line as the new mail sees it. Sendmail's new mail has no other birth line."""
    child.child = True
    child.add_link("bounce_of" if event.kind == "bounce" else "original", parent_id, child.host)
    if child.mta == "sendmail":
        child.births.append(key)


def born_of_clone(child: Transaction, key: LineKey, event: events.Cloned, parent_id: str) -> None:
    """The clone's line as the new ID sees it: its only birth line."""
    child.births.append(key)
    child.add_link("clone_of", parent_id, child.host)
    child.queued = True
    if event.owner is not None:
        child.claimed_sender = event.owner
