"""Which rows of `to` are about one recipient, where the server logs its name in more than one way.

Pure. Exim logs a local delivery as `alice <alice@example.com>`, yet a deferral of the same as `alice@example.com`; two
deliveries `alice <alice@example.com>` and `alice <alice@example.net>` are of two recipients; and a recipient that was
deferred as a whole may later be expanded into others (deliver.c string_log_address). Other servers need none of this:
there a recipient's name is its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailspan.transaction import Dropped

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mailspan.deliveries import Row
    from mailspan.transaction import Transaction

_SEPARATOR = "\0"


def early_recipients(transaction: Transaction, rows: Iterable[Row]) -> list[str]:
    """Return each recipient that the birth line lists and that no other line has named yet.

    Once the mail is completed there are none: those that no line names were rewritten on the way.
    """
    return [] if transaction.closed_by is not None else not_named(transaction, rows)


def not_named(transaction: Transaction, rows: Iterable[Row]) -> list[str]:
    """Return each recipient that the birth line lists and that no row names; a bare name is that of any domain."""
    received = transaction.received
    if received is None or not received.recipients:
        return []
    named = {name.casefold() for row in rows for name in (row.recipient, row.original) if name is not None}
    named |= {name.rpartition("@")[0] for name in named}
    return [recipient for recipient in received.recipients if recipient.casefold() not in named]


def group(rows: list[Row]) -> dict[str, list[Row]]:
    """Return the rows of each recipient, in the order of the rows; the key is a name for the group only."""
    own = [own_key(row.recipient, row.original) for row in rows]
    if len(rows) == 1:
        return {own[0]: rows}
    finals = {key: row for key, row in zip(own, rows, strict=True) if "@" not in row.recipient}
    delivered_for: dict[str, str] = {}  # by the whole address that a delivery under another name was for
    by_local_part: dict[tuple[str, str], str] = {}
    for key, row in finals.items():
        if row.original is not None:
            original = row.original.casefold()
            delivered_for.setdefault(original, key)
            by_local_part.setdefault((row.recipient.casefold(), original), key)
    for key, row in zip(own, rows, strict=True):
        if row.original is not None and "@" in row.recipient:
            delivered_for.setdefault(row.original.casefold(), key)
    groups: dict[str, list[Row]] = {}
    for key, row in zip(own, rows, strict=True):
        place = key
        if "@" in row.recipient:
            address = row.recipient.casefold()
            top = row.original.casefold() if row.original is not None else address
            place = by_local_part.get((address.rpartition("@")[0], top), key)
            if place == key and row.original is None:
                place = delivered_for.get(address, key)
        groups.setdefault(place, []).append(row)
    return groups


def own_key(recipient: str, original: str | None) -> str:
    """Return what tells a recipient from others: its address, and for a bare name whom it was for, too."""
    return recipient if original is None or "@" in recipient else f"{recipient}{_SEPARATOR}{original}"


def is_bare(name: str) -> bool:
    """Whether the name of a group is that of a bare name."""
    return _SEPARATOR in name


def dropped_of_groups(groups: Mapping[str, list[Row]], dropped: Mapping[str, Dropped]) -> dict[str, Dropped]:
    """Return what is known of attempts that are not kept, by group: one may have several names of a recipient."""
    found: dict[str, Dropped] = {}
    for name, rows in groups.items():
        parts = [
            dropped[key] for key in dict.fromkeys(own_key(r.recipient, r.original) for r in rows) if key in dropped
        ]
        if parts:
            found[name] = Dropped(
                sum(part.count for part in parts),
                sorted({relay for part in parts for relay in part.relays}),
                sorted({outcome for part in parts for outcome in part.outcomes}),
                sorted({dsn for part in parts for dsn in part.dsns}),
                sorted({original for part in parts for original in part.originals}),
            )
    return found
