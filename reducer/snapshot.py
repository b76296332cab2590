"""Snapshots: the state of open and lingering transactions as bytes, and back. Pure.

A snapshot is JSON with a schema version; this version reads its own and the one before (there is none yet). Lines are
kept as digests with their stamps: enough to know a line again, and to count and date it. Fields at their default are
left out.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

import orjson

from mailspan.event import Attempted, Client, Inspected, Received, Refused
from mailspan.record import Stamp
from mailspan.transaction import LineKey, Transaction, digest

SCHEMA_VERSION = 1

_SCALARS = (
    "sender",
    "claimed_sender",
    "size",
    "recipient_count",
    "message_id",
    "resent_message_id",
    "queued",
    "held",
    "aborted",
    "child",
    "discarded",
    "truncated",
    "tail_missing",
    "subject",
    "helo",
    "protocol",
    "sasl_username",
    "tls",
    "closed_by",
    "closed_at",
    "skipped_count",
    "written_id",
)
_CLIENTS = frozenset({"client", "original_client"})
_TUPLES = frozenset({"recipients", "delays"})


class SnapshotError(ValueError):
    """The bytes are no snapshot that this version can read."""


def pack(newest: Transaction) -> bytes:
    """Return the snapshot of all incarnations of a queue ID, the newest first."""
    incarnations = []
    transaction: Transaction | None = newest
    while transaction is not None:
        incarnations.append(_pack_one(transaction))
        transaction = transaction.earlier
    return orjson.dumps({"schema": SCHEMA_VERSION, "incarnations": incarnations})


def unpack(snapshot: bytes) -> Transaction:
    """Return the newest incarnation, linked to the earlier ones.

    Raises SnapshotError for bytes that are no snapshot, or one of another schema version.
    """
    try:
        loaded = orjson.loads(snapshot)
        if loaded["schema"] != SCHEMA_VERSION:
            raise SnapshotError(f"snapshot has schema version {loaded['schema']}, expected {SCHEMA_VERSION}")
        newest: Transaction | None = None
        for packed in reversed(loaded["incarnations"]):
            transaction = _unpack_one(packed)
            transaction.earlier, newest = newest, transaction
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise SnapshotError(f"not a snapshot: {error}") from error
    if newest is None:
        raise SnapshotError("a snapshot without a transaction")
    return newest


def _key(key: LineKey) -> str:
    return key if isinstance(key, str) else digest(key)


def _pack_one(transaction: Transaction) -> dict[str, Any]:
    packed: dict[str, Any] = {
        "host": transaction.host,
        "queue_id": transaction.queue_id,
        "mta": transaction.mta,
        "touched": transaction.touched,
        "lines": [
            [_key(key), stamp.second, stamp.millisecond, stamp.digits, stamp.guessed]
            for key, stamp in transaction.lines.items()
        ],
        "births": [_key(key) for key in transaction.births],
    }
    for name in _SCALARS:
        value = getattr(transaction, name)
        if value is not getattr(Transaction, name):
            packed[name] = value
    if transaction.received is not None:
        packed["received"] = _slim(transaction.received)
    if transaction.attempts:
        packed["attempts"] = [[_key(key), _slim(attempt)] for key, attempt in transaction.attempts]
    if transaction.refusals:
        packed["refusals"] = [[_key(key), _slim(refusal)] for key, refusal in transaction.refusals]
    if transaction.inspections:
        packed["inspections"] = [[_key(key), _slim(inspection)] for key, inspection in transaction.inspections]
    if transaction.expiries:
        packed["expiries"] = [[_key(key), status] for key, status in transaction.expiries]
    if transaction.links:
        packed["links"] = transaction.links
    return packed


def _slim(event: Received | Attempted | Refused | Inspected | Client) -> dict[str, Any]:
    """Return the fields of an event that are not at their default."""
    slim: dict[str, Any] = {}
    for field in fields(event):
        value = getattr(event, field.name)
        if field.default is MISSING or value != field.default:
            slim[field.name] = _slim(value) if isinstance(value, Client) else value
    return slim


def _fat(kind: type, slim: dict[str, Any]) -> Any:  # noqa: ANN401  one of the event classes
    for name in _CLIENTS & slim.keys():
        slim[name] = Client(**slim[name])
    for name in _TUPLES & slim.keys():
        slim[name] = tuple(slim[name])
    return kind(**slim)


def _unpack_one(packed: dict[str, Any]) -> Transaction:
    transaction = Transaction(packed["host"], packed["queue_id"], packed["mta"], packed["touched"])
    transaction.packed = True
    transaction.lines = {key: Stamp(*stamp) for key, *stamp in packed["lines"]}
    transaction.births = packed["births"]
    for name in _SCALARS:
        if name in packed:
            setattr(transaction, name, packed[name])
    if "received" in packed:
        transaction.received = _fat(Received, packed["received"])
    transaction.attempts = [(key, _fat(Attempted, slim)) for key, slim in packed.get("attempts", ())]
    if "refusals" in packed:
        transaction.refusals = [(key, _fat(Refused, slim)) for key, slim in packed["refusals"]]
    if "inspections" in packed:
        transaction.inspections = [(key, _fat(Inspected, slim)) for key, slim in packed["inspections"]]
    if "expiries" in packed:
        transaction.expiries = [(key, status) for key, status in packed["expiries"]]
    if "links" in packed:
        transaction.links = [(kind, queue_id, host) for kind, queue_id, host in packed["links"]]
    return transaction
