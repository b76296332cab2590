"""What the topic of documents says of one day, set beside what the index of that day holds. Pure.

Of each document the topic's newest version counts, and a withdrawn id is gone with its pages. What the sink has not
passed yet is no difference, nor is what only the index has: a topic goes back a week, and an index three months.

A document takes about a quarter of a kilobyte of memory: its id, and numbers in arrays.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec

from mailspan.canary import find_canary
from sink.fragments import mail_of
from sink.place import Place
from sink.records import NoDocumentError, read_document, read_id

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import date

    from sink.kafka_topic import TopicRecord

_ABSENT = -1  # no version


class _Head(msgspec.Struct):
    """What tells of which day a document is; whether it is one is asked only of those of the day."""

    id: str
    version: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
    date: str


_decode = msgspec.json.Decoder(_Head).decode


class Figures(NamedTuple):
    """What a comparison gave, in numbers of documents."""

    documents: int
    """Of the day, in the topic."""
    indexed: int
    missing: int = 0
    older: int = 0
    withdrawn: int = 0
    """In the index, though the topic withdrew them."""
    only_indexed: int = 0
    not_indexed_yet: int = 0
    """What the sink's group has not passed."""
    superfluous: int = 0
    """Fragments that are not in the index, since another document says all that they say."""
    dead_letters: int = 0
    """Not as they should be in the index, since they are dead letters of the sink."""
    no_documents: int = 0
    """Records of the topic that are neither documents nor withdrawals, of whatever day."""

    @property
    def differences(self) -> int:
        """How many documents are not as they should be."""
        return self.missing + self.older + self.withdrawn


class Comparison(NamedTuple):
    """The figures, and what is to be mended."""

    figures: Figures
    missing: dict[str, Place]
    older: dict[str, Place]
    withdrawn: list[str]

    def without(self, ids: Collection[str], *, counted_as: str) -> Comparison:
        """Return the comparison without differences that are none, which are another figure then."""
        missing = {id_: place for id_, place in self.missing.items() if id_ not in ids}
        older = {id_: place for id_, place in self.older.items() if id_ not in ids}
        fewer = len(self.missing) - len(missing) + len(self.older) - len(older)
        counts = {**self.figures._asdict(), "missing": len(missing), "older": len(older)}
        return Comparison(Figures(**{**counts, counted_as: counts[counted_as] + fewer}), missing, older, self.withdrawn)


class DayAudit:
    """The documents of one day, as the topic tells them record by record and the index by id and version."""

    def __init__(self, day: date) -> None:
        """Nothing is known yet."""
        self._day = day.isoformat()
        self._rows: dict[str, int] = {}  # of each id of the day: its place in the arrays
        self._versions = array("q")
        self._partitions = array("l")
        self._offsets = array("q")
        self._indexed = array("q")  # the version that the index has
        self._others: dict[str, int] = {}  # ids and versions that the index has and the topic has not
        self._withdrawn: dict[str, Place] = {}  # whichever their day is: an id does not tell it
        self._elsewhere: set[str] = set()  # withdrawn once, then written for another day
        self._no_documents = 0

    def add(self, record: TopicRecord) -> None:
        """Take the next record of the topic; those of one partition come in their order."""
        try:
            if record.value:
                self._add_document(record.value, Place(record.partition, record.offset))
            elif find_canary(record.headers) is None:
                self._withdrawn[read_id(record.key or b"")] = Place(record.partition, record.offset)
        except (NoDocumentError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self._no_documents += 1

    def _add_document(self, value: bytes, place: Place) -> None:
        head = _decode(value)
        if not head.date.startswith(self._day):
            if self._withdrawn and mail_of(head.id) in self._withdrawn:
                self._elsewhere.add(head.id)
            return
        read_document(value)  # raises: the sink would not have taken it
        row = self._rows.get(head.id)
        if row is None:
            self._rows[head.id] = len(self._versions)
            self._versions.append(head.version)
            self._partitions.append(place.partition)
            self._offsets.append(place.offset)
            self._indexed.append(self._others.pop(head.id, _ABSENT))
        elif head.version >= self._versions[row] or self._is_withdrawn(head.id, row):
            self._versions[row] = head.version
            self._partitions[row], self._offsets[row] = place

    def begin_index(self) -> None:
        """Forget what the index has: it is told anew."""
        self._indexed = array("q", [_ABSENT]) * len(self._versions)
        self._others = {}

    def add_indexed(self, identity: str, version: int) -> None:
        """Take one document of the index."""
        row = self._rows.get(identity)
        if row is None:
            self._others[identity] = version
        else:
            self._indexed[row] = version

    def compare(self, committed: Mapping[int, int]) -> Comparison:
        """Return what differs.

        `committed` has the offset that the sink's group reads next, of each partition where it has committed any. It
        must have been asked for before the index was read, and the topic be read on after that: then everything that
        the sink did to the index meanwhile is known here, and nothing is taken for lost that is only late.
        """
        missing: dict[str, Place] = {}
        older: dict[str, Place] = {}
        withdrawn: list[str] = []
        documents = indexed = only_indexed = late = 0
        for id_, row in self._rows.items():
            has, place = self._indexed[row], Place(self._partitions[row], self._offsets[row])
            indexed += has != _ABSENT
            if (end := self._withdrawal_after(id_, row)) is None:
                documents += 1
            if has >= self._versions[row] if end is None else has == _ABSENT:
                continue
            if end is not None and id_ in self._elsewhere:
                only_indexed += 1
            elif not _is_passed(end or place, committed):
                late += 1
            elif end is not None:
                withdrawn.append(id_)
            else:
                (missing if has == _ABSENT else older)[id_] = place
        for id_ in self._others:
            indexed += 1
            end = self._withdrawal_of(id_)
            if end is None or id_ in self._elsewhere:
                only_indexed += 1
            elif _is_passed(end, committed):
                withdrawn.append(id_)
            else:
                late += 1
        figures = Figures(
            documents=documents,
            indexed=indexed,
            missing=len(missing),
            older=len(older),
            withdrawn=len(withdrawn),
            only_indexed=only_indexed,
            not_indexed_yet=late,
            no_documents=self._no_documents,
        )
        return Comparison(figures, missing, older, withdrawn)

    def _is_withdrawn(self, identity: str, row: int) -> bool:
        return self._withdrawal_after(identity, row) is not None

    def _withdrawal_after(self, identity: str, row: int) -> Place | None:
        """Return the withdrawal that ended the document in that row; None where none did."""
        found = self._withdrawal_of(identity) if self._withdrawn else None
        if found is None or found.partition != self._partitions[row] or found.offset < self._offsets[row]:
            return None
        return found

    def _withdrawal_of(self, identity: str) -> Place | None:
        """Return the last withdrawal of a document, or of the mail that it is a page of."""
        known = [self._withdrawn[name] for name in (identity, mail_of(identity)) if name in self._withdrawn]
        return max(known, default=None)


def _is_passed(place: Place, committed: Mapping[int, int]) -> bool:
    return place.offset < committed.get(place.partition, 0)


def line_of(day: date, figures: Figures, since: str) -> str:
    """Return the figures in one line; `since` says how far the topic goes back."""
    return " ".join((f"{day}:", *(f"{name}={count}" for name, count in figures._asdict().items()), f"since={since}"))
