"""Snapshots: the state of open and lingering transactions as bytes, and back. Pure.

A snapshot is one byte of schema version and MessagePack: the transaction's struct as it is, its earlier incarnations
inside it, fields at their default left out. This version reads its own schema and the one before (there is none yet).
Lines are kept as digests with their stamps: enough to know a line again, and to count and date it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from mailspan.transaction import LineKey, Transaction, digest
from reducer.sessions import Session

if TYPE_CHECKING:
    from collections.abc import Iterable

    from reducer.sessions import Sessions

SCHEMA_VERSION = 2

_Fact = TypeVar("_Fact")
_Stored = TypeVar("_Stored")

_VERSION_BYTE = bytes((SCHEMA_VERSION,))
_encode = msgspec.msgpack.Encoder().encode
_transaction = msgspec.msgpack.Decoder(Transaction)
_sessions = msgspec.msgpack.Decoder(dict[str, Session])


class SnapshotError(ValueError):
    """The bytes are no snapshot that this version can read."""


def pack(newest: Transaction) -> bytes:
    """Return the snapshot of all incarnations of a queue ID, the newest first."""
    return _VERSION_BYTE + _encode(_with_digests(newest))


def unpack(snapshot: bytes) -> Transaction:
    """Return the newest incarnation, linked to the earlier ones.

    Raises SnapshotError for bytes that are no snapshot, or one of another schema version.
    """
    return _unpack(snapshot, _transaction)


def pack_sessions(sessions: Sessions) -> bytes:
    """Return the snapshot of a host's sessions."""
    return _VERSION_BYTE + _encode(sessions)


def unpack_sessions(snapshot: bytes) -> Sessions:
    """Return a host's sessions. Raises SnapshotError as `unpack` does."""
    return _unpack(snapshot, _sessions)


def _unpack(snapshot: bytes, decoder: msgspec.msgpack.Decoder[_Stored]) -> _Stored:
    if snapshot[:1] != _VERSION_BYTE:
        raise SnapshotError(f"a snapshot of schema version {SCHEMA_VERSION} was expected")
    try:
        return decoder.decode(memoryview(snapshot)[1:])
    except msgspec.MsgspecError as error:
        raise SnapshotError(f"not a snapshot: {error}") from error


def _key(key: LineKey) -> bytes:
    return key if isinstance(key, bytes) else digest(key)


def _with_keys(facts: Iterable[tuple[LineKey, _Fact]]) -> list[tuple[LineKey, _Fact]]:
    return [(_key(key), fact) for key, fact in facts]


def _with_digests(transaction: Transaction) -> Transaction:
    """Return the transaction as it is stored: a copy that knows its lines by their digests."""
    earlier = None if transaction.earlier is None else _with_digests(transaction.earlier)
    if transaction.packed:
        return msgspec.structs.replace(transaction, earlier=earlier, changed=False)
    return msgspec.structs.replace(
        transaction,
        lines={_key(key): stamp for key, stamp in transaction.lines.items()},
        births=[_key(key) for key in transaction.births],
        attempts=_with_keys(transaction.attempts),
        refusals=_with_keys(transaction.refusals) if transaction.refusals else None,
        inspections=_with_keys(transaction.inspections) if transaction.inspections else None,
        expiries=_with_keys(transaction.expiries) if transaction.expiries else None,
        earlier=earlier,
        packed=True,
        changed=False,
    )
