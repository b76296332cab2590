"""Records of mail.transactions: which documents they are, and in which order they take effect. Pure.

A record is a document (its JSON), or the withdrawal of an id (no value; the key is the id), or a canary (no value; a
header says so). Any bytes may come in: what is no document says why.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, NotRequired, Required, TypedDict

import msgspec

from mailspan.canary import Canary, find_canary
from mailspan.document import FIELDS, MAX_ID_CHARACTERS, Field
from sink.fragments import mail_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mailspan.dead_letter import Headers
    from sink.store import Document

_UTC = timedelta(0)
_TIMES_AT_HAND = 4096  # documents that come together are of the same seconds
_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
_Time = Annotated[str, msgspec.Meta(min_length=len("2026-11-23T07:55:08Z"), max_length=40)]


class _Attempt(TypedDict):
    """What the sink itself looks at in an entry of `to`: all of it is in the bytes that are indexed."""

    recipient: str | None
    date: str
    status: str | None
    original_recipient: NotRequired[str | None]
    relay_ip: NotRequired[str | None]


class _Filter(TypedDict):
    """What the sink itself looks at in an entry of `filters`."""

    filter: str
    verdict: str | None
    score: float | None
    detail: str | None
    date: str


_TYPES: dict[str, Any] = {
    "string": str,
    "time": _Time,
    "boolean": bool,
    "integer": _Count,
    "array of strings": list[str],
    "array of deliveries": list[_Attempt],
    "array of {kind, queue_id, host}": list[dict[str, str | None]],
    "array of {filter, verdict, score, required_score, detail, date}": list[_Filter],
}
_ALWAYS = frozenset({"id", "host", "mta", "date", "updated", "to", "version"})
"""What every document has; fields that its writer did not know yet are as if empty."""
EMPTY = {
    each.name: [] if each.type.startswith("array") else each.default for each in FIELDS if each.name not in _ALWAYS
}
"""What the others are where they are missing."""


def _type_of(each: Field) -> object:
    name = each.type.removesuffix(" or null")
    of_values: Any = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_CHARACTERS)]
    if each.name != "id":
        of_values = _TYPES[name] if name == each.type else _TYPES[name] | None
    return Required[of_values] if each.name in _ALWAYS else NotRequired[of_values]


_make: Any = TypedDict  # of fields that are known only as the program runs
_decode = msgspec.json.Decoder(_make("Document", {each.name: _type_of(each) for each in FIELDS})).decode


class Record(NamedTuple):
    """One record, as it was read."""

    partition: int
    offset: int
    key: bytes
    value: bytes | None
    headers: Headers = ()


class NoDocumentError(Exception):
    """The value of a record is no document; the message says why, in one line."""


def read_document(value: bytes) -> Document:
    """Return the document of a record, in `to` only what is needed here. Raises NoDocumentError."""
    try:
        document: Document = _decode(value)
        for name in ("date", "updated"):
            if not _is_utc(document[name]):
                raise NoDocumentError(f"`{name}` is not in UTC")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise NoDocumentError(f"no document: {error}") from None
    except (ValueError, OverflowError) as error:
        raise NoDocumentError(f"no document: a time cannot be read: {error}") from None
    return document if len(document) >= len(FIELDS) else {**EMPTY, **document}


@lru_cache(maxsize=_TIMES_AT_HAND)
def _is_utc(text: str) -> bool:
    return datetime.fromisoformat(text).utcoffset() == _UTC


def read_id(key: bytes) -> str:
    """Return the id that a withdrawal's key is. Raises NoDocumentError."""
    try:
        found = key.decode()
    except UnicodeDecodeError:
        raise NoDocumentError("no withdrawal: the key is not UTF-8") from None
    if not 0 < len(found) <= MAX_ID_CHARACTERS:
        raise NoDocumentError("no withdrawal: the key is no id")
    return found


@dataclass(slots=True)
class Step:
    """What may be written in one go: first the documents, then the withdrawals. Each with the place of its record."""

    documents: list[Document] = field(default_factory=list)
    encoded: list[bytes] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    """Of each document: the index of its record."""
    withdrawn: dict[str, list[int]] = field(default_factory=dict)
    """By id: the indices of the withdrawals, and of the documents that they make superfluous."""


class Plan(NamedTuple):
    """What a batch of records does: steps, one after another, and by index what is no document, and canaries."""

    steps: list[Step]
    faults: dict[int, str]
    canaries: dict[int, Canary]


def plan(records: Sequence[Record]) -> Plan:
    """Return what records do, in their order.

    A withdrawal ends what came before it under its id, the pages too; a document that comes after the withdrawal of
    its id begins a new step.
    """
    steps = [Step()]
    faults: dict[int, str] = {}
    canaries: dict[int, Canary] = {}
    for place, record in enumerate(records):
        try:
            if record.value:
                document = read_document(record.value)
                if mail_of(document["id"]) in steps[-1].withdrawn:
                    steps.append(Step())
                steps[-1].documents.append(document)
                steps[-1].encoded.append(record.value)
                steps[-1].places.append(place)
            elif (canary := find_canary(record.headers)) is not None:
                canaries[place] = canary
            else:
                steps[-1].withdrawn.setdefault(read_id(record.key), []).append(place)
        except NoDocumentError as error:
            faults[place] = str(error)
    return Plan([_without_withdrawn(step) for step in steps], faults, canaries)


def _without_withdrawn(step: Step) -> Step:
    """Return the step without the documents that it withdraws: they need not be written first."""
    if not step.withdrawn:
        return step
    kept = Step(withdrawn=step.withdrawn)
    for document, encoded, place in zip(step.documents, step.encoded, step.places, strict=True):
        gone = step.withdrawn.get(mail_of(document["id"]))
        if gone is not None:
            gone.append(place)
        else:
            kept.documents.append(document)
            kept.encoded.append(encoded)
            kept.places.append(place)
    return kept


def settled_offsets(records: Sequence[Record], settled: Sequence[bool]) -> dict[int, int]:
    """Return by partition the offset to go on from: behind the last record before the first that is not settled."""
    offsets: dict[int, int] = {}
    ended: set[int] = set()
    for record, is_settled in zip(records, settled, strict=True):
        if not is_settled:
            ended.add(record.partition)
        elif record.partition not in ended:
            offsets[record.partition] = record.offset + 1
    return offsets
