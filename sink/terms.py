"""The terms a document is found by: one list for the writer that indexes and for the search that asks.

A term is `field:value`, case-folded: `host:smtp`, `from:@foo.com`, `to-bounced:alice@bar.com`.
Searches are made of whole terms, so what can be found is decided here and nowhere else, and no
store has to understand an address. Values are percent-encoded where a character could mean
something to a store (space, quotes, controls), and long ones end in a digest.

The SQLite store takes old terms out of its index by computing them again from the stored document.
Whoever changes what `terms_of` returns must raise `sink.sqlite_schema.SCHEMA_VERSION`; a test pins
the list.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv4Network, IPv6Address, IPv6Network
from typing import TYPE_CHECKING

from sink.store import Term

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sink.store import Document

LONG_LIVED_MS = 3_600_000
"""A transaction updated later than this after its date has the term `span:long`."""

# Recipients with an outcome the log never told, or that only a roll-up names.
NO_OUTCOME = "none"
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

# Sendmail cuts a message id at 100 characters, some with the bracket; a shorter id is never a cut one.
_CUT_ID_LENGTHS = range(80, 101)
_LONGEST_VALUE = 200
_UNSAFE = re.compile("[\\x00-\\x20%'\"\\x7f\ud800-\udfff]")
# The lengths of the networks that are terms. An IPv4 one is its first bytes as written, `net:10.1`,
# which costs nothing to make; an IPv6 one is the hex digits of its first bits.
_IPV4_LEVELS = (8, 16, 24, 32)
_IPV6_LEVELS = (16, 32, 48, 64, 128)
_LARGEST_EXPANSION_BITS = 8
_TRIGRAM = 3


def terms_of(document: Document, updated_after_ms: int) -> str:
    """Return all terms of `document`, one a line; some may repeat.

    `updated_after_ms` is the time from its date to its last update.
    """
    terms = _identity_terms(document)
    terms += _client_terms(document)
    terms += _recipient_terms(document)
    if updated_after_ms > LONG_LIVED_MS:
        terms.append("span:long")
    if subject := document.get("subject"):
        terms.append("has:subject")
        terms += [f"subject:{part}" for part in _trigrams(subject.casefold())]
    return _encoded_lines(terms)


def term(field: str, value: str) -> Term:
    """Return the term by which documents with this value of `field` are found, whatever its case."""
    return Term(f"{field}:{encode(value.casefold())}")


def encode(value: str) -> str:
    """Return `value` without characters that a store could read as its own syntax; different values stay different."""
    safe = _UNSAFE.sub(_percent, value)
    if len(safe) <= _LONGEST_VALUE:
        return safe
    return f"{safe[:_LONGEST_VALUE]}%{blake2b(safe.encode(), digest_size=8).hexdigest()}"


def message_id_terms(message_id: str) -> tuple[Term, ...]:
    """Return the terms of a message id, bare or in its brackets, or cut by Sendmail on either side."""
    bare = _bare_id(message_id).casefold()
    found = [term("msgid", bare)]
    found += [term("cut-msgid", bare[:length]) for length in _CUT_ID_LENGTHS if length < len(bare)]
    if _CUT_ID_LENGTHS.start <= len(bare) <= _CUT_ID_LENGTHS.stop:
        found.append(Term(found[0].text, is_prefix=True))
    return tuple(found)


def recipient_terms(address: str, outcomes: Iterable[str] | None) -> tuple[Term, ...]:
    """Return the terms of a recipient, or `@domain`, whose last outcome is one of `outcomes` (None: any)."""
    wanted = (*OUTCOMES, NO_OUTCOME) if outcomes is None else outcomes
    value = encode(address.casefold())
    return tuple(Term(f"to-{outcome}:{value}") for outcome in wanted)


def network_terms(network: IPv4Network | IPv6Network) -> tuple[Term, ...]:
    """Return the terms of all client addresses in `network`, at most 256."""
    length = network.prefixlen
    if network.version == 4:  # noqa: PLR2004 - the version of the protocol
        level = next(bits for bits in _IPV4_LEVELS if bits >= length)
        return tuple(Term(f"net:{_dotted(first, level)}") for first in _first_bits(network, level))
    level = next(bits for bits in _IPV6_LEVELS if bits >= length)
    digits, is_prefix = level // 4, False
    if level - length > _LARGEST_EXPANSION_BITS:
        digits, is_prefix = -(-length // 4), True
    if not digits:
        return (Term(f"net6-{level}:", is_prefix=True),)
    return tuple(Term(f"net6-{level}:{first:0{digits}x}", is_prefix) for first in _first_bits(network, 4 * digits))


def subject_terms(text: str) -> tuple[Term, ...]:
    """Return terms that every subject with the case-folded `text` in it has.

    Other subjects may have them too: the store must still compare the text.
    """
    if len(text) < _TRIGRAM:
        return (Term("has:subject"),)
    return tuple(Term(f"subject:{encode(part)}") for part in _trigrams(text))


def address_value(address: str) -> str:
    """Return an address as terms hold it: no outer brackets, and `<>` for the null sender."""
    if address.startswith("<") and address.endswith(">"):
        address = address[1:-1]
    return address or "<>"


def _identity_terms(document: Document) -> list[str]:
    host = document["host"]
    terms = [
        f"kind:{document['kind']}",
        f"host:{host}",
        f"host:{host.partition('.')[0]}",
        f"queue:{document['queue_id'] or 'NOQUEUE'}",
    ]
    if document["state"] == "open":
        terms.append("state:open")
    sender = document.get("from")
    if sender is not None:
        terms.append(f"from:{sender or '<>'}")
        _, at, domain = sender.rpartition("@")
        if at:
            terms.append(f"from:@{domain}")
    message_id = document.get("msgid")
    if message_id is not None:
        bare = _bare_id(message_id)
        terms.append(f"msgid:{bare}")
        if len(bare) >= _CUT_ID_LENGTHS.start and "truncated" in document.get("notes", ()):
            terms.append(f"cut-msgid:{bare}")
    for dsn in document.get("dsns", ()):
        kind, _, rest = dsn.partition(".")
        terms += (f"dsn:{kind}", f"dsn:{kind}.{rest.partition('.')[0]}", f"dsn:{dsn}")
    return terms


def _client_terms(document: Document) -> list[str]:
    terms = []
    for prefix in ("", "orig_"):
        name, address = document.get(f"{prefix}client_name"), document.get(f"{prefix}client_ip")
        if name:
            terms.append(f"client:{name}")
        if address:
            terms += _address_terms(address)
        if (client := document.get(f"{prefix}client")) and not (name or address):
            terms.append(f"client:{client}")
    return terms


def _recipient_terms(document: Document) -> list[str]:
    terms = [f"outcome:{document['outcome']}"]
    last_outcomes: dict[str, str] = {}
    for delivery in document.get("deliveries", ()):
        outcome, _, recipient = delivery.partition(" ")
        last_outcomes[recipient] = outcome
        terms.append(f"outcome:{outcome}")
    for attempt in document.get("to", ()):
        if original := attempt.get("original_recipient"):
            final = (attempt.get("recipient") or "").casefold()
            last_outcomes.setdefault(original.casefold(), last_outcomes.get(final, NO_OUTCOME))
        if relay_ip := attempt.get("relay_ip"):
            terms.append(f"relay:{relay_ip}")
    for recipient in document.get("recipients", ()):
        outcome = last_outcomes.get(recipient, NO_OUTCOME)
        terms.append(f"to-{outcome}:{recipient}")
        _, at, domain = recipient.rpartition("@")
        if at:
            terms.append(f"to-{outcome}:@{domain}")
    terms += [f"relay:{relay}" for relay in document.get("relays", ())]
    return terms


def _address_terms(address: str) -> tuple[str, ...]:
    third, dot, _ = address.rpartition(".")
    if dot and ":" not in address:
        second = third.rpartition(".")[0]
        first = second.rpartition(".")[0]
        return (f"net:{address}", f"net:{third}", f"net:{second}", f"net:{first}")
    return _ipv6_terms(address)


@lru_cache(maxsize=10_000)
def _ipv6_terms(address: str) -> tuple[str, ...]:
    try:
        digits = f"{int(IPv6Address(address)):032x}"
    except ValueError:
        return (f"client:{address}",)
    return tuple(f"net6-{level}:{digits[: level // 4]}" for level in _IPV6_LEVELS)


def _first_bits(network: IPv4Network | IPv6Network, bits: int) -> range:
    """Return the first `bits` bits, as numbers, of all addresses in `network`; `bits` >= its length."""
    first = int(network.network_address) >> (network.max_prefixlen - bits)
    return range(first, first + (1 << (bits - network.prefixlen)))


def _dotted(first: int, bits: int) -> str:
    return ".".join(str(first >> shift & 0xFF) for shift in range(bits - 8, -1, -8))


def _bare_id(message_id: str) -> str:
    return message_id.strip().removeprefix("<").removesuffix(">")


def _trigrams(text: str) -> dict[str, None]:
    return dict.fromkeys(text[at : at + _TRIGRAM] for at in range(len(text) - _TRIGRAM + 1))


def _encoded_lines(terms: list[str]) -> str:
    """Join and encode: at once where nothing needs it, which is nearly always, else term by term."""
    plain = "\n".join(terms)
    joined = plain.casefold()
    lines = joined.replace("\n", "")
    if (
        len(joined) - len(lines) == len(terms) - 1
        and len(joined) == len(plain)
        and lines.isprintable()
        and not (" " in lines or "%" in lines or "'" in lines or '"' in lines)
        and max(map(len, terms)) <= _LONGEST_VALUE
    ):
        return joined
    pairs = (each.partition(":") for each in terms)
    return "\n".join(f"{field}:{encode(value.casefold())}" for field, _, value in pairs)


def _percent(match: re.Match[str]) -> str:
    return f"%{ord(match[0]):02x}"
