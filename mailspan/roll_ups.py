"""Roll-ups: the flat lists of a document beside its `to`, which are what is counted and looked up.

Pure. Each name stands once, in the order in which the rows of `to` say it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mailspan.deliveries import FIRST_ATTEMPTS, LAST_ATTEMPTS, Row, delivery, row_order
from mailspan.links import links_of_rows
from mailspan.recipients import is_bare
from mailspan.transaction import Dropped, Transaction

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PAGED = ("to", "links", "recipients", "recipient_domains", "relays", "outcomes", "dsns", "deliveries")
"""The fields that `of_recipients` and `of_refusal` return, in their order: those in which pages of a mail differ."""
NOTHING_DROPPED: Mapping[str, Dropped] = {}


class _Names:
    """The names of a document's roll-ups, each once, in the order in which they are met."""

    def __init__(self) -> None:
        self.recipients: dict[str, None] = {}
        self.relays: dict[str, None] = {}
        self.outcomes: dict[str, None] = {}
        self.dsns: dict[str, None] = {}

    def add(self, row: Row) -> None:
        self.outcomes[row.outcome] = None
        self.recipients[row.recipient.casefold()] = None
        if row.original is not None:
            self.recipients[row.original.casefold()] = None
        attempt = row.attempt
        if row.refusal is not None:
            if row.refusal.dsn is not None:
                self.dsns[row.refusal.dsn] = None
        elif attempt is not None:
            if attempt.relay is not None:
                self.relays[attempt.relay] = None
            if attempt.dsn is not None:
                self.dsns[attempt.dsn] = None

    def add_middle(self, rows: Sequence[Row], dropped: Dropped) -> None:
        """Add what is not shown in the order of the names: it is the same whether rows were dropped or not."""
        middle = _Names()
        for row in rows:
            middle.add(row)
        self.recipients.update(dict.fromkeys(sorted({*middle.recipients, *map(str.casefold, dropped.originals)})))
        self.relays.update(dict.fromkeys(sorted({*middle.relays, *dropped.relays})))
        self.outcomes.update(dict.fromkeys(sorted({*middle.outcomes, *dropped.outcomes})))
        self.dsns.update(dict.fromkeys(sorted({*middle.dsns, *dropped.dsns})))


def of_recipients(
    host: str, by_recipient: dict[str, list[Row]], dropped: Mapping[str, Dropped] = NOTHING_DROPPED
) -> tuple[list[Any], ...]:
    """Return `to` and the roll-ups of the given recipients, in the order of PAGED."""
    if len(by_recipient) == 1 and not dropped:
        ((name, rows),) = by_recipient.items()
        if len(rows) == 1:
            return _of_row(host, name, rows[0])
    names = _Names()
    deliveries: dict[str, None] = {}
    shown: list[Row] = []
    for name, rows in by_recipient.items():
        folded = rows[-1].recipient.casefold()
        names.recipients[folded] = None
        deliveries[f"{rows[-1].outcome} {folded}"] = None
        original = rows[-1].original
        if original is not None and is_bare(name):  # it is looked for by whom the mail was for
            deliveries[f"{rows[-1].outcome} {original.casefold()}"] = None
        if len(rows) > FIRST_ATTEMPTS + LAST_ATTEMPTS or name in dropped:
            first, last = rows[:FIRST_ATTEMPTS], rows[-LAST_ATTEMPTS:]
            for row in first:
                names.add(row)
            names.add_middle(rows[FIRST_ATTEMPTS:-LAST_ATTEMPTS], dropped.get(name, Dropped()))
            for row in last:
                names.add(row)
            shown += first + last
        else:
            for row in rows:
                names.add(row)
            shown += rows
    if len(shown) > 1:
        shown.sort(key=row_order)
    domains = dict.fromkeys([address.rpartition("@")[2] for address in names.recipients if "@" in address])
    return (
        [delivery(row) for row in shown],
        links_of_rows(host, shown),
        list(names.recipients),
        list(domains),
        list(names.relays),
        list(names.outcomes),
        list(names.dsns),
        list(deliveries),
    )


def _of_row(host: str, name: str, row: Row) -> tuple[list[Any], ...]:
    """Return the same of one recipient with one row, where there is nothing to join: most mail is so."""
    attempt, refusal = row.attempt, row.refusal
    recipient = row.recipient.casefold()
    recipients, deliveries = [recipient], [f"{row.outcome} {recipient}"]
    if row.original is not None:
        original = row.original.casefold()
        if original != recipient:
            recipients.append(original)
            if is_bare(name):
                deliveries.append(f"{row.outcome} {original}")
    domains = list(dict.fromkeys([address.rpartition("@")[2] for address in recipients if "@" in address]))
    relay = None if attempt is None or refusal is not None else attempt.relay
    said = attempt if refusal is None else refusal
    dsn = None if said is None else said.dsn
    relays, dsns = [] if relay is None else [relay], [] if dsn is None else [dsn]
    links = links_of_rows(host, (row,))
    return [delivery(row)], links, recipients, domains, relays, [row.outcome], dsns, deliveries


def of_refusal(transaction: Transaction) -> tuple[list[Any], ...]:
    """Return the same of a rejection that names no recipient: what was refused is then the client or its sender."""
    _, refusal = (transaction.refusals or [])[0]
    row = Row("", "rejected", refusal.status, transaction.lines[transaction.births[0]], None, refusal)
    return [delivery(row) | {"recipient": None}], [], [], [], [], ["rejected"], [refusal.dsn] if refusal.dsn else [], []
