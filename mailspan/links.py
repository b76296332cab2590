"""Links: the other transactions that a transaction names, by what the rows of `to`, notices and filters say.

Pure. What follows a mail over its links is search/trace.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailspan.filtering import links as links_of_filters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mailspan.deliveries import Row
    from mailspan.transaction import LineKey, Transaction

Link = dict[str, str | None]
"""`kind`, `queue_id` and `host` of another transaction; the host is the relay's name where the mail was handed on."""

_FAILED = ("bounced", "expired")


def links_of_rows(host: str, rows: Sequence[Row]) -> list[Link]:
    """Return where the mail went next by the rows that are shown."""
    found: dict[tuple[str, str, str | None], None] = {}
    for row in rows:
        attempt = row.attempt
        if attempt is not None and attempt.next_queue_id is not None:
            if attempt.outcome == "expanded":
                found["forwarded_as", attempt.next_queue_id, host] = None
            else:
                on = host if attempt.relay == "local" else attempt.relay  # by a socket, of this host
                found["next", attempt.next_queue_id, on] = None
    links: list[Link] = [{"kind": kind, "queue_id": queue_id, "host": on} for kind, queue_id, on in found]
    if len(links) > 1:
        links.sort(key=_link_order)
    return links


def all_links(transaction: Transaction, by_recipient: dict[str, list[Row]], links: list[Link]) -> list[Link]:
    """Add what other lines than those of the attempts link the mail with."""
    own: list[Link] = [
        {"kind": kind, "queue_id": queue_id, "host": host} for kind, queue_id, host in transaction.links or ()
    ]
    if transaction.notices:
        own += _kinds_of_notices(transaction, transaction.notices, by_recipient)
    own += [
        {"kind": kind, "queue_id": queue_id, "host": host} for kind, queue_id, host in links_of_filters(transaction)
    ]
    found = {_link_order(link): link for link in (*own, *links)}
    return [found[key] for key in sorted(found)]


def _kinds_of_notices(
    transaction: Transaction, notices: list[tuple[LineKey, str]], by_recipient: dict[str, list[Row]]
) -> list[Link]:
    """Exim logs a bounce and a notice of delay alike: it is one of delay where nothing had failed by its second.

    A mail also fails as a whole: given up, or refused after its sender, a local program, was gone.
    """
    failed = [row.stamp.second for rows in by_recipient.values() for row in rows if row.outcome in _FAILED]
    failed += [transaction.lines[key].second for key, _ in transaction.expiries or ()]
    failed += [transaction.lines[key].second for key, refusal in transaction.refusals or () if refusal.whole]
    first = min(failed, default=None)
    return [
        {
            "kind": "delay_notice" if first is None or first > transaction.lines[key].second else "bounce",
            "queue_id": queue_id,
            "host": transaction.host,
        }
        for key, queue_id in notices
    ]


def _link_order(link: Link) -> tuple[str, str, str]:
    return link["kind"] or "", link["queue_id"] or "", link["host"] or ""
