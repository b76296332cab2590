"""The rows of a document's `to`: every attempt, refusal, notice and expiry of each recipient, in order.

Pure, and order-free: the rows are a function of the set of the transaction's lines. document.py makes documents of
them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from mailspan.event import Attempted, Refused
from mailspan.event_time import format_time
from mailspan.recipients import early_recipients, group, not_named, own_key
from mailspan.record import Stamp

if TYPE_CHECKING:
    from mailspan.transaction import Transaction

OUTCOMES = (
    "delivered",
    "relayed",
    "expanded",
    "discarded",
    "queued",
    "held",
    "deferred",
    "unknown",
    "aborted",
    "rejected",
    "expired",
    "bounced",
)
"""From best to worst: a transaction's outcome is the worst of its recipients' last ones."""

FIRST_ATTEMPTS, LAST_ATTEMPTS = 2, 8
"""How many attempts of a recipient are shown; all are counted."""

RANK = {outcome: rank for rank, outcome in enumerate(OUTCOMES)}
NOT_FINAL = frozenset({"queued", "held", "deferred", "unknown"})
_STILL_WAITING = frozenset({"queued", "held", "deferred"})
_DISCARD_MARK = "discard action: Marked "
_GIVEN_UP = float("inf")  # sorts an expiry behind the attempts of its second


class Row(Struct, gc=False):
    """One row of `to`.

    `attempt` is None where there was none (a refusal, an expiry); a `notice` is no attempt either. `is_plain`: made of
    an attempt and nothing else, as are then all rows of the recipient that come with it.
    """

    recipient: str
    outcome: str
    status: str
    stamp: Stamp
    attempt: Attempted | None = None
    refusal: Refused | None = None
    original: str | None = None
    notice: bool = False
    is_plain: bool = False
    delay: float | None = None  # by the stamps, where the log states none


def row_order(row: Row) -> tuple[int, int, float, bool, str, str]:
    """Order rows by event time, then delay, then non-final before final, then text."""
    stamp, delay = row.stamp, -1.0
    if row.attempt is not None:
        if row.attempt.delay_seconds is not None:
            delay = row.attempt.delay_seconds
    elif row.refusal is None and row.outcome in ("expired", "bounced"):
        delay = _GIVEN_UP
    return stamp.second, stamp.millisecond, delay, row.outcome not in NOT_FINAL, row.recipient, row.status


def rows_of(transaction: Transaction) -> dict[str, list[Row]]:
    """Return the rows of each recipient in order; the recipients in the order of their first rows.

    A recipient is known by its address, or by its envelope where the MTA names one: several envelopes may have one
    address (an alias of three mailboxes), and an envelope's address may become another before its first attempt.
    """
    if transaction.mta == "postfix" and not (transaction.refusals or transaction.inspections or transaction.expiries):
        return _plain_rows(transaction)
    rows = _rows_of_attempts(transaction)
    if transaction.refusals:
        _add_refusals(transaction, rows)
    if transaction.inspections:
        _add_inspections(transaction, rows)
    if transaction.mta == "exim":
        _add_cancellations(transaction, rows)
    elif transaction.expiries:
        _add_expiries(transaction, rows)
    if transaction.mta == "sendmail":
        _add_originals(rows)
    elif transaction.mta == "exim":
        _add_exim_facts(transaction, rows)
    by_recipient = _by_recipient(rows) if transaction.mta != "exim" else group(sorted(rows, key=row_order))
    for recipient, found in by_recipient.items():
        if len(found) > 1 and any(row.notice for row in found):
            by_recipient[recipient] = [row for row in found if not row.notice] or found[-1:]
    if transaction.mta == "opensmtpd":
        _drop_answered(by_recipient)
    elif transaction.mta == "dovecot":
        _drop_marks(by_recipient)
    return by_recipient


def attempt_rows(transaction: Transaction) -> dict[str, list[Row]]:
    """Return the rows of the attempts alone, of each recipient in order."""
    return _by_recipient(_rows_of_attempts(transaction), transaction.mta)


def recipient_key(recipient: str, attempt: Attempted | None, mta: str = "") -> str:
    """Return what tells the recipients of one transaction apart: the envelope where the MTA names it."""
    if attempt is None:
        return recipient
    if mta == "exim":
        return own_key(recipient, attempt.original_recipient)
    return recipient if attempt.envelope_id is None else attempt.envelope_id


def _rows_of_attempts(transaction: Transaction) -> list[Row]:
    lines = transaction.lines
    return [
        Row(
            recipient,
            attempt.outcome,
            attempt.status,
            lines[key],
            attempt,
            None,
            attempt.original_recipient,
            attempt.pending,
        )
        for key, attempt in transaction.attempts
        for recipient in attempt.recipients
    ]


def _plain_rows(transaction: Transaction) -> dict[str, list[Row]]:
    """The usual case, all rows attempts of one recipient each, with less work."""
    lines = transaction.lines
    rows = [
        Row(
            attempt.recipients[0],
            attempt.outcome,
            attempt.status,
            lines[key],
            attempt,
            None,
            attempt.original_recipient,
            notice=False,
            is_plain=True,
        )
        for key, attempt in transaction.attempts
    ]
    return {rows[0].recipient: rows} if len(rows) == 1 else _by_recipient(rows)


def _by_recipient(rows: list[Row], mta: str = "") -> dict[str, list[Row]]:
    rows.sort(key=row_order)
    by_recipient: dict[str, list[Row]] = {}
    for row in rows:
        name = recipient_key(row.recipient, row.attempt, mta)
        found = by_recipient.get(name)
        if found is None:
            by_recipient[name] = [row]
        else:
            found.append(row)
    return by_recipient


def _drop_answered(by_recipient: dict[str, list[Row]]) -> None:
    """Drop the notices that name no envelope (OpenSMTPD before 6.4) once an envelope of that address has a row."""
    loose = {name for name, rows in by_recipient.items() if name == rows[0].recipient and rows[0].notice}
    if loose:
        for rows in [rows for name, rows in by_recipient.items() if name not in loose]:
            for name in {rows[0].recipient, rows[0].original} & loose:
                by_recipient.pop(str(name), None)


def _drop_marks(by_recipient: dict[str, list[Row]]) -> None:
    """Drop Sieve's mark that a mail is to be discarded, where the script then kept or filed it all the same."""
    for name, rows in by_recipient.items():
        if len(rows) > 1:
            by_recipient[name] = [row for row in rows if not row.status.startswith(_DISCARD_MARK)] or rows[-1:]


def _add_exim_facts(transaction: Transaction, rows: list[Row]) -> None:
    """Add the recipients that were not tried yet, and the delays that Exim leaves to its stamps."""
    lines = transaction.lines
    begin = min((lines[key] for key in transaction.births), key=instant, default=None)
    if begin is None:
        return
    for row in rows:
        if row.attempt is not None and row.attempt.delay_seconds is None and not row.notice:
            row.delay = _seconds_between(begin, row.stamp)
    for recipient in early_recipients(transaction, rows):
        notice = Attempted((recipient,), "queued", "queued", pending=True)
        rows.append(Row(recipient, "queued", "queued", begin, notice, notice=True))


def _seconds_between(begin: Stamp, end: Stamp) -> float:
    """Return how much time passed, in the precision that both stamps have."""
    passed = float(end.second - begin.second)
    if begin.digits and end.digits:
        passed += (end.millisecond - begin.millisecond) / 1000
    return max(0.0, round(passed, 3))


def _add_originals(rows: list[Row]) -> None:
    """Sendmail's ctladdr is the original recipient where it is itself a recipient of this mail."""
    names = {row.recipient for row in rows}
    for row in rows:
        if row.original is None and row.attempt is not None and row.attempt.controlling_user in names:
            row.original = row.attempt.controlling_user


def _add_refusals(transaction: Transaction, rows: list[Row]) -> None:
    """Add the refused recipients; after a refusal of the whole mail, `to=` lines without a mailer only repeat it."""
    whole = whole_refusal(transaction)
    if whole is not None:
        for row in rows:
            repeats = row.attempt is not None and row.attempt.mailer is None
            if repeats and row.outcome in ("unknown", "bounced", "deferred"):
                row.outcome, row.refusal = "rejected", whole
                if whole.code is not None:
                    row.status = whole.status  # the reply in full; stat= has it without its codes
    rejected = {row.recipient for row in rows if row.outcome == "rejected"}
    for key, refusal in transaction.refusals or ():
        name = refusal.recipient
        if name is not None and not (refusal.whole and name in rejected):
            rows.append(Row(name, "rejected", refusal.status, transaction.lines[key], None, refusal))


def _add_inspections(transaction: Transaction, rows: list[Row]) -> None:
    for key, inspection in transaction.inspections or ():
        if inspection.recipient is not None:
            outcome = "discarded" if inspection.action.endswith("discard") else "held"
            status = f"{inspection.action}: {inspection.status}" if inspection.status else inspection.action
            row = Row(inspection.recipient, outcome, status, transaction.lines[key])
            row.notice = True
            rows.append(row)


def _add_expiries(transaction: Transaction, rows: list[Row]) -> None:
    """Add a row for each recipient that is still waiting when the MTA gives the mail up."""
    for key, status in transaction.expiries or ():
        stamp = transaction.lines[key]
        last: dict[str, Row] = {}
        for row in sorted(rows, key=row_order):
            if row.stamp.second <= stamp.second:
                last[row.recipient] = row
        for recipient, row in last.items():
            if row.outcome in _STILL_WAITING:
                expiry = Row(recipient, "expired", status, max(stamp, row.stamp, key=instant))
                expiry.original = row.original
                rows.append(expiry)


def cancelled_outcome(transaction: Transaction) -> str | None:
    """Return what became of the recipients that Exim gave up with the mail, None where it did not.

    It logs one line for all of them. Their sender gets a notice, which a bounce has none of (deliver.c RECIP_FAIL).
    """
    if not transaction.expiries or transaction.mta != "exim":
        return None
    return "discarded" if transaction.sender == "" else "bounced"


def _add_cancellations(transaction: Transaction, rows: list[Row]) -> None:
    """Add a row for each recipient that was waiting, or not named by any line yet, when Exim gave the mail up."""
    outcome = cancelled_outcome(transaction)
    if outcome is None:
        return
    for key, status in transaction.expiries or ():
        stamp = transaction.lines[key]
        for found in group(sorted(rows, key=row_order)).values():
            before = [row for row in found if row.stamp.second <= stamp.second]
            if before and before[-1].outcome in _STILL_WAITING:
                last = before[-1]
                end = Row(last.recipient, outcome, status, max(stamp, last.stamp, key=instant))
                end.original = last.original
                rows.append(end)
        rows += [Row(name, outcome, status, stamp) for name in not_named(transaction, rows)]


def instant(stamp: Stamp) -> tuple[int, int]:
    """Order stamps by time."""
    return stamp.second, stamp.millisecond


def whole_refusal(transaction: Transaction) -> Refused | None:
    """Return the refusal of the whole mail, None if there is none."""
    if transaction.refusals:
        for _, refusal in transaction.refusals:
            if refusal.whole:
                return refusal
    return None


def is_attempt(row: Row) -> bool:
    """Whether the server tried to deliver: no refusal, expiry or notice."""
    return row.attempt is not None and row.refusal is None and not row.notice and not row.attempt.given_up


@lru_cache(maxsize=4096)
def _second_text(second: int) -> str:
    return format_time(second, 0)


def time_text(stamp: Stamp) -> str:
    """Return the stamp as documents write it: RFC 3339, UTC, milliseconds."""
    text = _second_text(stamp.second)
    return f"{text[:-4]}{stamp.millisecond:03d}Z" if stamp.millisecond else text


def delivery(row: Row) -> dict[str, Any]:
    """Return the row as the document's delivery object."""
    attempt, refusal = row.attempt, row.refusal
    if attempt is None or refusal is not None:
        return {
            "recipient": row.recipient,
            "original_recipient": row.original if row.original != row.recipient else None,
            "relay": None,
            "relay_ip": None,
            "relay_port": None,
            "status": row.status,
            "outcome": row.outcome,
            "dsn": refusal.dsn if refusal is not None else None,
            "code": refusal.code if refusal is not None else None,
            "date": time_text(row.stamp),
            "delay_seconds": None,
        }
    found: dict[str, Any] = {
        "recipient": row.recipient,
        "original_recipient": row.original if row.original != row.recipient else None,
        "relay": attempt.relay,
        "relay_ip": attempt.relay_ip,
        "relay_port": attempt.relay_port,
        "status": attempt.status,
        "outcome": row.outcome,
        "dsn": attempt.dsn,
        "code": attempt.code,
        "date": time_text(row.stamp),
        "delay_seconds": attempt.delay_seconds if row.delay is None else row.delay,
    }
    if attempt.delays is not None:
        before, inside, connection, transmission = attempt.delays
        found["delays"] = {
            "before_queue": before,
            "in_queue": inside,
            "connection": connection,
            "transmission": transmission,
        }
    if attempt.mailer is not None:
        found["mailer"] = attempt.mailer
    if attempt.next_queue_id is not None:
        found["next_queue_id"] = attempt.next_queue_id
    if attempt.mailbox is not None:
        found["mailbox"] = attempt.mailbox
    if attempt.tls is not None:
        found["tls"] = attempt.tls
    return found
