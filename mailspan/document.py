"""Documents: what a transaction's facts mean, as the one JSON object that is indexed, searched and printed.

Pure, and order-free: a document is a function of the set of the transaction's lines. FIELDS is the contract's table:
name, type, meaning and default of every field, in order. The rows of `to` are made in deliveries.py, the flat lists
beside them in roll_ups.py, the other transactions that it names in links.py. Over 500 recipients are several pages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mailspan.deliveries import (
    FIRST_ATTEMPTS,
    LAST_ATTEMPTS,
    NOT_FINAL,
    OUTCOMES,
    RANK,
    Row,
    cancelled_outcome,
    instant,
    is_attempt,
    rows_of,
    time_text,
    whole_refusal,
)
from mailspan.event import Client
from mailspan.filtering import is_unborn
from mailspan.filtering import rows as rows_of_filters
from mailspan.grammar import REVISION
from mailspan.links import all_links, links_of_rows
from mailspan.queue_id import TIME_OF
from mailspan.recipients import dropped_of_groups
from mailspan.record import Stamp
from mailspan.roll_ups import NOTHING_DROPPED, PAGED, of_recipients, of_refusal
from mailspan.transaction import Dropped, LineKey, Transaction, digest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mailspan.event import Refused

Document = dict[str, Any]

PAGE_RECIPIENTS = 500
MAX_ID_CHARACTERS = 128
ID_AHEAD_SECONDS = 26 * 3600  # by a wrong zone; an ID that is younger still than its lines holds no time of theirs
COUNTED_MTAS = frozenset({"sendmail", "opensmtpd", "dovecot"})  # they log no closing line
CLOCK_SKEW_SECONDS = 900
SLOW_BIRTH_SKEW_SECONDS = 2700  # Sendmail and Exim log the birth only when the whole message has come


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the document: its name, its type in words, and what it says."""

    name: str
    type: str
    meaning: str
    default: Any = None


FIELDS: tuple[Field, ...] = (
    Field("id", "string", "host/queue_id, the birth second for IDs that hold no time; `~`: a fragment, `#`: a page"),
    Field("queue_id", "string or null", "as logged"),
    Field("host", "string", "the mail server that logged it, lower-cased"),
    Field("mta", "string", "postfix, sendmail, exim, opensmtpd or dovecot (its LMTP server)"),
    Field("kind", "string", "transaction, rejection, probe or mailbox (what a mailbox server did)", "transaction"),
    Field("date", "time", "event time of the birth line; never changes"),
    Field("updated", "time", "event time of the last line that changed it"),
    Field("state", "string", "open or closed", "open"),
    Field(
        "closed_by",
        "string or null",
        "removed, completed, all_recipients_final, rejected, discarded, deleted, requeued",
    ),
    Field("fragment", "boolean", "its birth line was never seen", False),
    Field("from", "string or null", "envelope sender; empty for the null sender"),
    Field("to", "array of deliveries", "every attempt, refusal and expiry, oldest first"),
    Field("msgid", "string or null", "Message-ID without its brackets"),
    Field("client", "string or null", "who handed the mail to this server"),
    Field("client_name", "string or null", "the client's name where known"),
    Field("client_ip", "string or null", "the client's address"),
    Field("client_forged", "boolean or null", "the server could not confirm the client's name"),
    Field("orig_client", "string or null", "behind a filter: the client before it"),
    Field("orig_client_ip", "string or null", "that client's address"),
    Field("size", "integer or null", "bytes"),
    Field("recipient_count", "integer or null", "the server's own count"),
    Field("subject", "string or null", "where a rule logged it"),
    Field("helo", "string or null", "the client's HELO"),
    Field("protocol", "string or null", "SMTP, ESMTP, …"),
    Field("sasl_username", "string or null", "who logged in"),
    Field("tls", "string or null", "TLS version and cipher of the client's connection"),
    Field("controlling_user", "string or null", "Sendmail's ctladdr: often the submitter"),
    Field("outcome", "string", "the worst of the accepted recipients' last outcomes"),
    Field("attempt_count", "integer", "delivery attempts over all pages", 0),
    Field("recipients", "array of strings", "final and original addresses, case-folded"),
    Field("recipient_domains", "array of strings", "their domains"),
    Field("relays", "array of strings", "hosts the mail was handed to, or that refused it"),
    Field("outcomes", "array of strings", "every outcome that occurs in `to`"),
    Field("dsns", "array of strings", "every enhanced status code that occurs in `to`"),
    Field("deliveries", "array of strings", "`outcome recipient` of each recipient's last attempt"),
    Field("links", "array of {kind, queue_id, host}", "other transactions that this one names"),
    Field(
        "filters",
        "array of {filter, verdict, score, required_score, detail, date}",
        "what filters beside the server, or the user's Sieve script, said and did, oldest first",
    ),
    Field("notes", "array of strings", "what a reader must know about the facts' limits"),
    Field("temporary", "boolean", "a refusal was 4xx", False),
    Field("skipped_count", "integer", "queue runs without an attempt", 0),
    Field("repeat_count", "integer", "repeats of a rejection in the same second", 0),
    Field("stage", "string or null", "rejections: where in the dialogue"),
    Field("session", "string or null", "rejections: what one connection did"),
    Field("page", "integer", "0, or the page of a mail with more than 500 recipients", 0),
    Field("page_count", "integer", "how many pages there are", 1),
    Field("version", "integer", "distinct lines × 65536 + grammar revision"),
)


_PROBES = ("deliverable ", "undeliverable ")
_NO_CLIENT = Client("")


def documents(transaction: Transaction) -> list[Document]:
    """Return the transaction's document, or its pages where it has more than 500 recipients; none if it has none."""
    if transaction.filter_count and is_unborn(transaction):
        return []
    by_recipient = rows_of(transaction)
    if len(by_recipient) <= PAGE_RECIPIENTS:
        return [_document(transaction, by_recipient, by_recipient)]
    names, dropped = _first_appearance(transaction, by_recipient), _dropped(transaction, by_recipient)
    page_count = -(-len(names) // PAGE_RECIPIENTS)
    pages: list[Document] = []
    for number in range(page_count):
        shown = {n: by_recipient[n] for n in names[number * PAGE_RECIPIENTS : (number + 1) * PAGE_RECIPIENTS]}
        if not pages:
            page = _document(transaction, by_recipient, shown)
            page["page_count"] = page_count
        else:
            page = {**pages[0], **dict(zip(PAGED, of_recipients(transaction.host, shown, dropped), strict=True))}
            page["id"], page["page"] = f"{page['id']}#{number}", number
        pages.append(page)
    return pages


def _first_appearance(transaction: Transaction, by_recipient: dict[str, list[Row]]) -> list[str]:
    if transaction.mta == "exim":
        return list(by_recipient)  # by the names of groups
    names: dict[str, None] = {}
    for _, attempt in transaction.attempts:
        names.update(dict.fromkeys(attempt.recipients if attempt.envelope_id is None else (attempt.envelope_id,)))
    return [*(name for name in names if name in by_recipient), *(name for name in by_recipient if name not in names)]


def _document(transaction: Transaction, by_recipient: dict[str, list[Row]], shown: dict[str, list[Row]]) -> Document:
    """Return the document with all fields of FIELDS in their order; `shown` are the recipients of its page."""
    lines, received, refusals = transaction.lines, transaction.received, transaction.refusals
    rejection = transaction.rejection
    known = None if rejection else TIME_OF[transaction.mta](transaction.queue_id)
    birth = _birth(transaction)
    if birth is not None:
        date = birth
    else:
        date = min(lines.values(), key=instant)
        if known is not None and known <= date.second + ID_AHEAD_SECONDS:
            date = Stamp(known, 0, 0, guessed=False)
    closed_by = transaction.closed_by or _closed_by_count(transaction, by_recipient)
    client = received.client if received is not None else refusals[0][1].client if refusals else None
    sender = _sender(transaction)
    if client is None or (client.text == "local" and sender == ""):  # so OpenSMTPD hands itself its bounces
        client = _NO_CLIENT
    original = received.original_client if received is not None else None
    original = original or _NO_CLIENT
    controlling_user, is_probe, notes = _of_attempts(transaction)
    to, links, recipients, domains, relays, outcomes, dsns, deliveries = (
        of_recipients(transaction.host, shown, _dropped(transaction, by_recipient))
        if shown or not rejection
        else of_refusal(transaction)
    )
    if shown is not by_recipient:  # the first of several pages: it has the links of the whole mail
        every = by_recipient.values()
        ends = [row for rows in every for row in (*rows[:FIRST_ATTEMPTS], *rows[FIRST_ATTEMPTS:][-LAST_ATTEMPTS:])]
        links = links_of_rows(transaction.host, ends)
    if transaction.links or transaction.notices or transaction.filters:
        links = all_links(transaction, by_recipient, links)
    message_id = transaction.message_id
    return {
        "id": _identity(transaction, birth, known),
        "queue_id": None if rejection else transaction.queue_id,
        "host": transaction.host,
        "mta": transaction.mta,
        "kind": _kind(transaction, is_probe=is_probe),
        "date": time_text(date),
        "updated": time_text(_latest(lines)),
        "state": "open" if closed_by is None else "closed",
        "closed_by": closed_by,
        "fragment": birth is None,
        "from": sender,
        "to": to,
        "msgid": message_id if message_id is not None else transaction.resent_message_id,
        "client": client.text or None,
        "client_name": client.name,
        "client_ip": client.ip,
        "client_forged": client.forged,
        "orig_client": original.text or None,
        "orig_client_ip": original.ip,
        "size": transaction.size,
        "recipient_count": transaction.recipient_count,
        "subject": transaction.subject,
        "helo": transaction.helo,
        "protocol": transaction.protocol,
        "sasl_username": transaction.sasl_username,
        "tls": transaction.tls,
        "controlling_user": controlling_user,
        "outcome": "rejected" if rejection else _outcome(transaction, by_recipient),
        "attempt_count": _attempt_count(transaction, by_recipient),
        "recipients": recipients,
        "recipient_domains": domains,
        "relays": relays,
        "outcomes": outcomes,
        "dsns": dsns,
        "deliveries": deliveries,
        "links": links,
        "filters": rows_of_filters(transaction) if transaction.filters else [],
        "notes": list(dict.fromkeys([*_notes(transaction, birth, known), *notes])),
        "temporary": bool(refusals) and any(_is_temporary(refusal) for _, refusal in refusals or ()),
        "skipped_count": transaction.skipped_count,
        "repeat_count": len(transaction.births) - 1 if rejection else 0,
        "stage": refusals[0][1].stage if rejection and refusals else None,
        "session": transaction.session,
        "page": 0,
        "page_count": 1,
        "version": len(lines) * 65536 + REVISION,
    }


def _kind(transaction: Transaction, *, is_probe: bool) -> str:
    if transaction.rejection:
        return "rejection"
    if transaction.mta == "dovecot":
        return "mailbox"
    return "probe" if is_probe else "transaction"


def _dropped(transaction: Transaction, by_recipient: dict[str, list[Row]]) -> Mapping[str, Dropped]:
    """Return what is known of the attempts that are not kept, by the names of `by_recipient`."""
    dropped = transaction.dropped
    if dropped is None:
        return NOTHING_DROPPED
    return dropped if transaction.mta != "exim" else dropped_of_groups(by_recipient, dropped)


def _attempt_count(transaction: Transaction, by_recipient: dict[str, list[Row]]) -> int:
    kept = sum(
        [len(rows) if rows[0].is_plain else sum([is_attempt(row) for row in rows]) for rows in by_recipient.values()]
    )
    if transaction.dropped is None:
        return kept
    return kept + sum(each.count for each in transaction.dropped.values())


def _sender(transaction: Transaction) -> str | None:
    if transaction.sender is not None:
        return transaction.sender
    if transaction.claimed_sender is None and transaction.child:
        return ""
    return transaction.claimed_sender


def _of_attempts(transaction: Transaction) -> tuple[str | None, bool, list[str]]:
    """Return what the attempts say of the whole transaction: the controlling user, whether a probe, notes."""
    notes: list[str] = []
    user: str | None = None
    is_probe = transaction.sender is not None and transaction.sender.startswith("double-bounce@")
    for _, attempt in transaction.attempts:
        if user is None:
            user = attempt.controlling_user
        if attempt.status.startswith(_PROBES):
            is_probe = True
        if attempt.ambiguous and "ambiguous address" not in notes:
            notes.append("ambiguous address")
        if not attempt.recipients and "recipients not logged" not in notes:
            notes.append("recipients not logged")
    return user, is_probe, notes


def _birth(transaction: Transaction) -> Stamp | None:
    """Return the earliest stamp of the birth lines."""
    birth: Stamp | None = None
    for key in transaction.births:
        stamp = transaction.lines[key]
        if birth is None or (stamp is not birth and instant(stamp) < instant(birth)):
            birth = stamp
    return birth


def _latest(lines: dict[LineKey, Stamp]) -> Stamp:
    """Return the latest stamp of all lines."""
    latest = next(iter(lines.values()))
    for stamp in lines.values():
        if stamp.second >= latest.second and stamp is not latest and instant(stamp) > instant(latest):
            latest = stamp
    return latest


def _identity(transaction: Transaction, birth: Stamp | None, known: int | None) -> str:
    identity = f"{transaction.host}/{transaction.queue_id}"  # of a rejection: `~` and a digest
    if birth is None:
        identity += f"~{_first_line(transaction)}"
    elif known is None and not transaction.rejection:
        identity += f"/{birth.second}"
    if len(identity) > MAX_ID_CHARACTERS - 8:
        identity = f"{identity[: MAX_ID_CHARACTERS - 40]}…{digest((0, identity)).hex()}"
    return identity


def _first_line(transaction: Transaction) -> str:
    """Return the digest of the earliest line."""
    lines = transaction.lines
    digests = {key if isinstance(key, bytes) else digest(key): stamp for key, stamp in lines.items()}
    return min(digests, key=lambda key: (digests[key].second, key)).hex()


def _outcome(transaction: Transaction, by_recipient: dict[str, list[Row]]) -> str:
    """Return the worst of the accepted recipients' last outcomes; if none was accepted: why not."""
    worst = -1
    for rows in by_recipient.values():
        outcome = rows[-1].outcome
        if outcome == "rejected" and not any(is_attempt(row) for row in rows):
            continue
        if transaction.held and outcome in ("deferred", "queued"):
            outcome = "held"
        worst = max(worst, RANK[outcome])
    given_up = cancelled_outcome(transaction)
    if given_up is not None:
        worst = max(worst, RANK[given_up])
    if worst in (-1, RANK["queued"]) and whole_refusal(transaction) is not None:
        return "rejected"
    if worst >= 0:
        return OUTCOMES[worst]
    if transaction.discarded:
        return "discarded"
    if transaction.held:
        return "held"
    if transaction.refusals and not transaction.queued:
        return "rejected"
    if transaction.aborted or (transaction.received is not None and _came_to_nothing(transaction)):
        return "aborted"
    if transaction.closed_by == "completed" and transaction.mta == "exim":
        return "unknown"  # how it was delivered stands in lines that were not seen, or not logged
    if transaction.queued or transaction.mta == "sendmail":
        return "queued" if transaction.births or transaction.queued else "unknown"
    return "aborted" if transaction.births and not transaction.child else "unknown"


def _came_to_nothing(transaction: Transaction) -> bool:
    """A client's line and nothing after it; for Sendmail an envelope of no bytes and no Message-ID."""
    if transaction.mta == "sendmail":
        return transaction.size == 0 and transaction.message_id is None
    return not transaction.queued


def _closed_by_count(transaction: Transaction, by_recipient: dict[str, list[Row]]) -> str | None:
    """For MTAs without a closing line: closed when as many recipients as the MTA counted are final."""
    if transaction.mta not in COUNTED_MTAS:
        return None
    if not transaction.attempts:
        done = transaction.received is not None and _came_to_nothing(transaction)
        if not done:
            return None
        return "rejected" if transaction.refusals else "all_recipients_final"
    accepted = [rows[-1].outcome for rows in by_recipient.values() if any(row.attempt is not None for row in rows)]
    if len(accepted) < transaction.final_recipients_needed() or any(outcome in NOT_FINAL for outcome in accepted):
        return None
    if all(_is_removed(rows[-1]) for rows in by_recipient.values()):
        return "deleted"
    return "all_recipients_final"


def _is_removed(row: Row) -> bool:
    """Whether an administrator took the recipient's envelope out of the queue."""
    return row.attempt is not None and row.attempt.given_up and row.outcome == "discarded"


def _notes(transaction: Transaction, birth: Stamp | None, known: int | None) -> list[str]:
    notes = []
    if birth is None:
        notes.append("head missing")
    if transaction.tail_missing:
        notes.append("tail missing")
    if (
        not transaction.rejection
        and transaction.refusals
        and any(r.whole and r.recipient is not None for _, r in transaction.refusals)
    ):
        notes.append("recipients not logged")
    if transaction.gap:
        notes.append("log gap")
    if transaction.refusals and any(refusal.ambiguous for _, refusal in transaction.refusals):
        notes.append("ambiguous address")
    if birth is not None and known is None and birth.guessed:
        notes.append("year guessed")
    if transaction.truncated:
        notes.append("truncated")
    if known is not None and birth is not None:
        ahead = birth.second - known
        late = CLOCK_SKEW_SECONDS if transaction.mta == "postfix" else SLOW_BIRTH_SKEW_SECONDS
        if ahead < -60 or ahead >= late:  # noqa: PLR2004  an ID is made before its line is logged
            notes.append("clock skew")
    return notes


def _is_temporary(refusal: Refused) -> bool:
    if refusal.code is not None and refusal.code < 500:  # noqa: PLR2004
        return True
    return refusal.temporary or (refusal.dsn or "").startswith("4.")
