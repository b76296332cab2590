"""Which partition of mail.raw a host's lines go to: murmur2(host) mod partitions, as Java's clients compute it.

Pure. The partition is given explicitly with each record, so it does not depend on a client's partitioner; a shipper
that uses key = host with a murmur2 partitioner (librdkafka: `murmur2`, Java: the default) comes to the same one.
Source: org.apache.kafka.common.utils.Utils.murmur2 and toPositive.
"""

from __future__ import annotations

_SEED = 0x9747B28C
_MULTIPLIER = 0x5BD1E995
_SHIFT = 24
_WORD = 0xFFFFFFFF
_POSITIVE = 0x7FFFFFFF


def murmur2(key: bytes) -> int:
    """Return the 32-bit MurmurHash2 of `key`, unsigned (Java shows the same bits as a signed int)."""
    length = len(key)
    value = _SEED ^ length
    whole = length & ~3
    for at in range(0, whole, 4):
        word = int.from_bytes(key[at : at + 4], "little") * _MULTIPLIER & _WORD
        word = (word ^ word >> _SHIFT) * _MULTIPLIER & _WORD
        value = value * _MULTIPLIER & _WORD ^ word
    if length > whole:
        value = (value ^ int.from_bytes(key[whole:], "little")) * _MULTIPLIER & _WORD
    value = (value ^ value >> 13) * _MULTIPLIER & _WORD
    return value ^ value >> 15


def partition_of(host: bytes, partitions: int) -> int:
    """Return the partition of a host, whose name is in lower case."""
    return (murmur2(host) & _POSITIVE) % partitions
