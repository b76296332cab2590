"""From a query to the selection that a store answers.

All parts of a query must hold. A TERM alone is looked for in every field it can be: an IP or CIDR
as client or relay; `@domain` as sender or recipient; anything else as queue id, message id, sender
and recipient at once, since none of these can be told from another by its look (`<a@b>` is an
address and a message id). `HOST/QUEUE_ID`, and the ids of documents, are a queue id there.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mailspan.queue_id import DOVECOT
from search.query import QUEUE_LIFETIME_DAYS, network_of
from sink.fragments import mail_of
from sink.store import Selection, Term
from sink.terms import (
    address_value,
    message_id_terms,
    network_terms,
    queue_terms,
    recipient_terms,
    subject_terms,
    term,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from search.query import Query
    from sink.store import Document

QUEUE_LIFETIME_MS = QUEUE_LIFETIME_DAYS * 86_400_000

# host/queue_id, as it stands or as the id of a document goes on: birth second, fragment, page.
# A session of Dovecot may hold slashes; a short queue ID with its birth second is none, long as it may be.
_QUEUE_KEY = re.compile(
    rf"([^/\s]+)/((?![^/]+/\d{{10}}(?:[~#]|$)){DOVECOT}|[^/~#\s]+)(?:/\d{{1,12}})?(?:~[0-9a-f]+)?(?:#\d+)?"
)
_SESSION = re.compile(DOVECOT)

Group = tuple[Term, ...]


def select(query: Query) -> Selection:
    """Return which documents `query` means."""
    excluded = [] if query.probes else [term("kind", "probe")]
    if not (query.mailboxes or query.queue_id or (query.term and _is_session(query.term))):
        excluded.append(term("kind", "mailbox"))
    if query.state == "closed":
        excluded.append(term("state", "open"))
    groups = _term_groups(query.term) if query.term else []
    groups += _recipient_groups(query)
    # The fields that are found by one term that holds the whole value.
    for field, value in (
        ("from", query.sender),
        ("host", query.host),
        ("client", query.client),
        ("relay", query.relay),
        ("dsn", query.dsn),
        ("state", "open" if query.state in {"open", "incomplete"} else None),
    ):
        if value:
            groups.append((term(field, value),))
    if query.queue_id:
        groups += _queue_groups(query.queue_id)
    if query.message_id:
        groups.append(message_id_terms(query.message_id))
    if query.client_network is not None:
        groups.append(network_terms(query.client_network))
    if query.subject:
        groups += [(each,) for each in subject_terms(query.subject)]
    return Selection(
        all_of=tuple(groups),
        none_of=tuple(excluded),
        date_from_ms=query.since_ms if query.started_only else None,
        date_until_ms=query.until_ms,
        updated_from_ms=None if query.started_only else query.since_ms,
        updated_until_ms=query.now_ms - QUEUE_LIFETIME_MS if query.state == "incomplete" else None,
        subject=query.subject,
    )


def meant(documents: Sequence[Document], text: str) -> Sequence[Document]:
    """Return what was asked for by the very id of a document, else by the very queue ID, else all that was found.

    Terms are folded, and the id of a document finds all that have its queue ID: here case and the rest of it matter.
    """
    asked = text.strip()
    key = _QUEUE_KEY.fullmatch(asked)
    queue_id = asked if key is None else key[2]
    exact = [each for each in documents if mail_of(each["id"]) == asked]
    return exact or [each for each in documents if each.get("queue_id") == queue_id] or documents


def _is_session(text: str) -> bool:
    """Whether a text is a whole session of Dovecot, with or without its host: nothing else has that."""
    key = _QUEUE_KEY.fullmatch(text)
    return any(_SESSION.fullmatch(each) for each in (text, *(() if key is None else (key[2],))))


def _recipient_groups(query: Query) -> list[Group]:
    """Return what must hold of recipients; with an outcome, that one recipient's last attempt ended so."""
    if query.recipient:
        return [recipient_terms(query.recipient, None if query.outcome is None else (query.outcome,))]
    return [(term("outcome", query.outcome),)] if query.outcome else []


def _queue_groups(text: str) -> list[Group]:
    key = _QUEUE_KEY.fullmatch(text)
    if key is None:
        return [queue_terms(text)]
    return [(*queue_terms(text), term("queue", key[2])), (*queue_terms(text), term("host", key[1]))]


def _term_groups(text: str) -> list[Group]:
    if network := network_of(text):
        relay = (term("relay", str(network.network_address)),) if network.prefixlen == network.max_prefixlen else ()
        return [(*network_terms(network), *relay)]
    address = address_value(text)
    addresses = (term("from", address), *recipient_terms(address, None))
    if address.startswith("@") or address == "<>":
        return [addresses]
    either = (*message_id_terms(text), *addresses)
    return [(*group, *either) for group in _queue_groups(text)]
