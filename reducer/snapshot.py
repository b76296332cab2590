"""Snapshots: the state of open and lingering transactions as bytes, and back. Pure.

A snapshot is one byte of schema version, one of flags (1: changes wait to be written; 2: a gap is noted; 4: there is
one incarnation), the event time when it is due to be looked at again (8 bytes), and a zstandard frame of MessagePack:
the transaction's struct as it is, its earlier incarnations inside it. Due time and flags can be read without
decompressing. The frame names the dictionary that it was made with (reducer/dictionary.py); one that names none is
read, too. Lines are kept as digests with their stamps: enough to know a line again, and to count and date it.

This version reads its own schema and the one before, 2, which had the MessagePack as it is; fields that are added at a
struct's end need no new one. Snapshots of hosts' sessions, which are few, are not compressed. For one thread: the
compressors are not made for more.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec
import zstandard

from mailspan.transaction import LineKey, Transaction, digest
from reducer.dictionary import DICTIONARY
from reducer.sessions import Session, Sessions

SCHEMA_VERSION = 3
_UNCOMPRESSED_VERSION = 2
_LEVEL = 1

_Stored = TypeVar("_Stored")

_VERSION_BYTE = bytes((SCHEMA_VERSION,))
_HEAD_BYTES = 10
_KEYED = ("attempts", "refusals", "inspections", "expiries", "notices", "filters")  # facts with the keys of their lines
_encode = msgspec.msgpack.Encoder().encode
_transaction = msgspec.msgpack.Decoder(Transaction)
_compress = zstandard.ZstdCompressor(level=_LEVEL, dict_data=DICTIONARY, write_checksum=False).compress
_decompress = zstandard.ZstdDecompressor(dict_data=DICTIONARY).decompress
_sessions = msgspec.msgpack.Decoder(dict[str, Session])


class SnapshotError(ValueError):
    """The bytes are no snapshot that this version can read."""


def pack(newest: Transaction, due: int) -> bytes:
    """Return the snapshot of all incarnations of a queue ID, the newest first; `due` is an event time in seconds.

    From then on they know their lines by digests: none is made twice.
    """
    _know_by_digests(newest)
    flags = waits(newest) | newest.gap << 1 | (newest.earlier is None) << 2
    return bytes((SCHEMA_VERSION, flags)) + due.to_bytes(8, "big", signed=True) + _compress(_encode(newest))


def waits(newest: Transaction) -> bool:
    """Whether an incarnation of the ID has changed and is not handed out for writing yet."""
    return newest.changed or (newest.earlier is not None and waits(newest.earlier))


def is_unwritten(snapshot: bytes) -> bool:
    """Whether `waits` held when this was packed."""
    return bool(snapshot[1] & 1)


def has_gap(snapshot: bytes) -> bool:
    """Whether a gap in the log is noted on the newest incarnation already."""
    return bool(snapshot[1] & 2)


def is_alone(snapshot: bytes) -> bool:
    """Whether it is known without unpacking that there is one incarnation: `due_of` is when it is forgotten."""
    return bool(snapshot[1] & 4)


def due_of(snapshot: bytes) -> int:
    """Return when the snapshot is due; it need not be unpacked for that."""
    return int.from_bytes(snapshot[2:_HEAD_BYTES], "big", signed=True)


def check(snapshot: bytes) -> None:
    """Look at the head alone. Raises SnapshotError where `unpack` would for it."""
    _version_of(snapshot)
    if len(snapshot) <= _HEAD_BYTES:
        raise SnapshotError("a snapshot that ends in its head")


def unpack(snapshot: bytes) -> Transaction:
    """Return the newest incarnation, linked to the earlier ones.

    Raises SnapshotError for bytes that are no snapshot, or one of another schema version.
    """
    return _decoded(plain_part(snapshot), _transaction)


def plain_part(snapshot: bytes) -> bytes:
    """Return a snapshot's MessagePack. Raises SnapshotError as `unpack` does."""
    version = _version_of(snapshot)
    if version == _UNCOMPRESSED_VERSION:
        return snapshot[_HEAD_BYTES:]
    try:
        return _decompress(memoryview(snapshot)[_HEAD_BYTES:])
    except (zstandard.ZstdError, MemoryError) as error:  # a broken frame may claim any size
        raise SnapshotError(f"not a snapshot: {error}") from error


def pack_sessions(sessions: Sessions) -> bytes:
    """Return the snapshot of a host's sessions."""
    return _VERSION_BYTE + _encode(sessions)


def unpack_sessions(snapshot: bytes) -> Sessions:
    """Return a host's sessions. Raises SnapshotError as `unpack` does."""
    _version_of(snapshot)
    return Sessions(_decoded(snapshot[1:], _sessions))


def _version_of(snapshot: bytes) -> int:
    version = snapshot[0] if snapshot else 0
    if version not in (SCHEMA_VERSION, _UNCOMPRESSED_VERSION):
        raise SnapshotError(f"a snapshot of schema version {_UNCOMPRESSED_VERSION} or {SCHEMA_VERSION} was expected")
    return version


def _decoded(content: bytes, decoder: msgspec.msgpack.Decoder[_Stored]) -> _Stored:
    try:
        return decoder.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise SnapshotError(f"not a snapshot: {error}") from error


def _know_by_digests(newest: Transaction) -> None:
    """Let all incarnations know their lines by digests, as they are stored."""
    transaction: Transaction | None = newest
    while transaction is not None:
        if not transaction.packed:
            known = {key: _key(key) for key in transaction.lines}
            transaction.lines = dict(zip(known.values(), transaction.lines.values(), strict=True))
            transaction.births = [known.get(key) or _key(key) for key in transaction.births]
            for name in _KEYED:
                facts = getattr(transaction, name)
                if facts:
                    setattr(transaction, name, [(known.get(key) or _key(key), fact) for key, fact in facts])
            transaction.packed = True
        transaction = transaction.earlier


def _key(key: LineKey) -> bytes:
    return key if isinstance(key, bytes) else digest(key)
