"""The terms a document is found by: one list for the writer that indexes and for the search that asks.

A term is `field:value`, folded (`fold`): `host:smtp`, `from:@foo.com`, `to-bounced:alice@bar.com`.
Searches are made of whole terms, so what can be found is decided here and nowhere else, and no
store has to understand an address. Values are percent-encoded where a character could mean
something to a store (space, quotes, controls), and long ones end in a digest.

The SQLite store takes old terms out of its index by computing them again from the stored document.
Whoever changes what `terms_of` returns must raise `sink.sqlite_schema.SCHEMA_VERSION`; a test pins
the list.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv4Network, IPv6Address, IPv6Network
from typing import TYPE_CHECKING

from sink.store import Term

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sink.store import Document

HOUR_MS = 3_600_000
SPANS_MS = tuple(hours * HOUR_MS for hours in (1, 4, 16, 64, 256))
"""A document updated later than SPANS_MS[n] after its date has the term `span:n`, and all those before."""

PAGED = Term("page:of-many")
"""Of every document of a mail that has more than one page."""

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
_A_LABEL = re.compile(r"xn--([a-z0-9-]{1,59})(?![a-z0-9-])")  # RFC 5890, 2.3.2.1: at most 63 characters
_ID_OF_16_DIGITS = re.compile(r"[0-9a-f]{16}")
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
    if updated_after_ms > SPANS_MS[0]:
        terms += [f"span:{number}" for number, limit in enumerate(SPANS_MS) if updated_after_ms > limit]
    if subject := document.get("subject"):
        terms.append("has:subject")
        terms += [f"subject:{part}" for part in _trigrams(fold(subject))]
    return _encoded_lines(terms)


def fold(text: str) -> str:
    """Return `text` as it is compared: without case, composed (NFC), and domains in their own letters (IDNA)."""
    folded = text.casefold()
    if "xn--" in folded:
        folded = _A_LABEL.sub(_own_letters, folded)
    return folded if folded.isascii() else unicodedata.normalize("NFC", folded).casefold()


def _own_letters(match: re.Match[str]) -> str:
    """`xn--bcher-kva` to `bücher` (RFC 3492); what is no such label stays."""
    try:
        letters = match[1].encode().decode("punycode").casefold()
    except UnicodeError:
        return match[0]
    return match[0] if letters.isascii() or "xn--" in letters else letters  # folding twice changes nothing


def term(field: str, value: str) -> Term:
    """Return the term by which documents with this value of `field` are found, whatever its case."""
    return Term(f"{field}:{encode(fold(value))}")


def encode(value: str) -> str:
    """Return `value` without characters that a store could read as its own syntax; different values stay different."""
    safe = _UNSAFE.sub(_percent, value)
    if len(safe) <= _LONGEST_VALUE:
        return safe
    return f"{safe[:_LONGEST_VALUE]}%{blake2b(safe.encode(), digest_size=8).hexdigest()}"


def message_id_terms(message_id: str) -> tuple[Term, ...]:
    """Return the terms of a message id, bare or in its brackets, or cut by Sendmail on either side."""
    bare = fold(_bare_id(message_id))
    found = [term("msgid", bare)]
    found += [term("cut-msgid", bare[:length]) for length in _CUT_ID_LENGTHS if length < len(bare)]
    if _CUT_ID_LENGTHS.start <= len(bare) <= _CUT_ID_LENGTHS.stop:
        found.append(Term(found[0].text, is_prefix=True))
    return tuple(found)


def recipient_terms(address: str, outcomes: Iterable[str] | None) -> tuple[Term, ...]:
    """Return the terms of a recipient, or `@domain`, whose last outcome is one of `outcomes` (None: any)."""
    wanted = (*OUTCOMES, NO_OUTCOME) if outcomes is None else outcomes
    value = encode(fold(address))
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


def link_term(queue_id: str) -> Term:
    """Return the term of the documents that name this queue id in a link, whatever its kind and host."""
    return term("link", queue_id)


def subject_terms(text: str) -> tuple[Term, ...]:
    """Return terms that every subject with the folded `text` in it has.

    Other subjects may have them too: the store must still compare the text.
    """
    if len(text) < _TRIGRAM:
        return (Term("has:subject"),)
    return tuple(Term(f"subject:{encode(part)}") for part in _trigrams(text))


def queue_terms(queue_id: str) -> tuple[Term, ...]:
    """Return the terms of a queue id; OpenSMTPD's envelope ids begin with theirs (smtpd.h, evpid_to_msgid)."""
    found = [term("queue", queue_id)]
    if _ID_OF_16_DIGITS.fullmatch(queue_id.lower()):
        found.append(term("queue", queue_id[:8]))
    return tuple(found)


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
        f"on:{host}",
        f"mta:{document['mta']}",
        f"state:{document['state']}",
        f"ended:{document['outcome']}",
        f"queue:{document['queue_id'] or 'NOQUEUE'}",
    ]
    if document["queue_id"] is None:
        terms.append(f"queue:{document['id']}")
    if stage := document.get("stage"):
        terms.append(f"stage:{stage}")
    if document.get("page_count", 1) > 1:
        terms.append(PAGED.text)
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
    terms += {f"link:{link['queue_id']}": None for link in document.get("links") or () if link["queue_id"]}
    dsns = document.get("dsns")
    if not dsns:
        terms.append("dsn:-")
    for dsn in dsns or ():
        kind, _, rest = dsn.partition(".")
        terms += (f"dsn:{kind}", f"dsn:{kind}.{rest.partition('.')[0]}", f"dsn:{dsn}")
    return terms


def _client_terms(document: Document) -> list[str]:
    terms: list[str] = []
    for prefix in ("", "orig_"):
        client = document.get(f"{prefix}client")
        name, address = document.get(f"{prefix}client_name"), document.get(f"{prefix}client_ip")
        if address:
            terms += _address_terms(address)
            if not name and client:
                name = client.partition("[")[0].strip()  # `orig_client` has no field for its name
        elif not name:
            name = client
        if name:
            terms.append(f"client:{name}")
    return terms


def _recipient_terms(document: Document) -> list[str]:
    terms = [f"outcome:{document['outcome']}"]
    terms += [f"had:{outcome}" for outcome in document.get("outcomes") or ("-",)]
    # A recipient may have ended in several ways: spelled in several cases, or an alias for several.
    ends: dict[str, tuple[str, ...]] = {}
    for delivery in document.get("deliveries", ()):
        outcome, _, recipient = delivery.partition(" ")
        ends[recipient] = _joined(ends[recipient], (outcome,)) if recipient in ends else (outcome,)
        terms.append(f"outcome:{outcome}")
    for attempt in document.get("to", ()):
        if original := attempt.get("original_recipient"):
            final = (attempt.get("recipient") or "").casefold()
            folded = original.casefold()
            ends[folded] = _joined(ends.get(folded, ()), ends.get(final, (NO_OUTCOME,)))
        if relay_ip := attempt.get("relay_ip"):
            terms.append(f"relay:{relay_ip}")
    for recipient in document.get("recipients", ()):
        _, at, domain = recipient.rpartition("@")
        outcomes = ends.get(recipient, (NO_OUTCOME,))
        for outcome in outcomes if len(outcomes) == 1 else sorted(outcomes):
            terms.append(f"to-{outcome}:{recipient}")
            if at:
                terms.append(f"to-{outcome}:@{domain}")
    terms += [f"relay:{relay}" for relay in document.get("relays", ())]
    return terms


def _joined(some: tuple[str, ...], others: tuple[str, ...]) -> tuple[str, ...]:
    """Return both without repeats."""
    return (*some, *[each for each in others if each not in some])


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
        read = IPv6Address(address)
    except ValueError:
        return (f"client:{address}",)
    if read.ipv4_mapped is not None:
        return _address_terms(str(read.ipv4_mapped))
    digits = f"{int(read):032x}"
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
    joined = fold(plain)
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
    return "\n".join(f"{field}:{encode(fold(value))}" for field, _, value in pairs)


def _percent(match: re.Match[str]) -> str:
    return f"%{ord(match[0]):02x}"
