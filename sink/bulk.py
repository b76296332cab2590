"""What is sent to Elasticsearch's _bulk, and what each item of its answer means. Pure.

Every item is read: an answer of 200, or one that says there were no errors, proves nothing about an item.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BATCH_BYTES = 3 << 20
"""Of documents: with the action lines of the longest ids, all escaped, a request stays below 5 MB."""
BATCH_ITEMS = 2000
LEAST_ITEMS = 16
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
_MOST_CAUSES = 5  # of one error; Elasticsearch gives two or three


ANSWERED = {
    "filter_path": ",".join(f"items.*.{name}" for name in ("_index", "_id", "status", "error", "failure_store"))
}
"""The query by which an answer has what `outcomes_of` reads, and no more. Answers of errors are not cut by it."""


class Verdict(Enum):
    """What became of an item, or of a whole request."""

    INDEXED = "indexed"
    SUPERSEDED = "superseded"
    """There is a document of this version or a later one."""
    RETRY = "retry"
    EXPIRED = "expired"
    """Of a day that is not kept: not sent."""
    REFUSED = "refused"
    """This document is not taken, by the server or for its date, and will not be if it is sent again."""
    TOO_LARGE = "too large"
    HALT = "halt"
    """Nothing will be taken before somebody has mended something."""


class Item(NamedTuple):
    """One document on its way: the index of its day, its id and version, and the JSON to index.

    Without JSON it is to be deleted, where what is there is of this version or an older one.
    """

    into: str
    id: str
    version: int
    body: bytes | None


class Outcome(NamedTuple):
    """What became of one item; `reason` is that of the server where it was not taken."""

    verdict: Verdict
    reason: str = ""


_BY_KIND = {
    "version_conflict_engine_exception": Verdict.SUPERSEDED,
    # A full disk or a read-only index: 403 in older versions, 429 later. Somebody makes room.
    "cluster_block_exception": Verdict.RETRY,
    "circuit_breaking_exception": Verdict.RETRY,
    "es_rejected_execution_exception": Verdict.RETRY,
    "unavailable_shards_exception": Verdict.RETRY,
    # The index of its day cannot be made: there are cluster.max_shards_per_node already (ShardLimitValidator). That is
    # 400 and no fault of the document; `retention`, or somebody, makes room.
    "validation_exception": Verdict.RETRY,
    "index_closed_exception": Verdict.HALT,
    "index_not_found_exception": Verdict.HALT,
    "security_exception": Verdict.HALT,
}
_BY_STATUS = {
    400: Verdict.REFUSED,
    401: Verdict.HALT,
    403: Verdict.HALT,
    404: Verdict.HALT,
    405: Verdict.HALT,
    409: Verdict.SUPERSEDED,
    413: Verdict.TOO_LARGE,
}


def verdict_of(status: int, kind: str) -> Verdict:
    """Return what a status and the type of an error mean; what is not known is tried again."""
    if 200 <= status < 300:  # noqa: PLR2004 - HTTP's 2xx
        return Verdict.INDEXED
    return _BY_KIND.get(kind) or _BY_STATUS.get(status, Verdict.RETRY)


def body_of(items: Sequence[Item]) -> bytes:
    """Return the body of one request."""
    lines: list[bytes] = []
    for into, identity, version, body in items:
        head = b'_index":"%b","_id":%b,"version":%d,"version_type":"external' % (
            into.encode(),
            orjson.dumps(identity),
            version,
        )
        if body is None:
            lines.append(b'{"delete":{"%b_gte"}}' % head)
        else:
            lines += (b'{"index":{"%b"}}' % head, body)
    lines.append(b"")
    return b"\n".join(lines)


def outcomes_of(items: Sequence[Item], answer: object) -> list[Outcome]:
    """Return what became of each item; an answer that is not about these very items settles none of them."""
    found = answer.get("items") if isinstance(answer, dict) else None
    if not isinstance(found, list) or len(found) != len(items):
        return [Outcome(Verdict.RETRY, "the answer is not about what was sent")] * len(items)
    return [_outcome(item, each) for item, each in zip(items, found, strict=True)]


def _outcome(item: Item, found: object) -> Outcome:
    each: Any = found.get("delete" if item.body is None else "index") if isinstance(found, dict) else None
    if not isinstance(each, dict) or each.get("_id") != item.id or not isinstance(each.get("status"), int):
        return Outcome(Verdict.RETRY, "the answer is not about what was sent")
    if item.body is None and each["status"] == 404:  # noqa: PLR2004 - HTTP's "not found"
        return Outcome(Verdict.SUPERSEDED)  # it is gone already, alone or with its day
    if "failure_store" in each and each["failure_store"] in {"used", "failed"}:
        return Outcome(Verdict.REFUSED, "it went into the failure store of the index")
    if each.get("_index", item.into) != item.into:
        return Outcome(Verdict.HALT, f"it is an alias of {each['_index']}, not a daily index")
    error = each.get("error")
    details: dict[str, Any] = error if isinstance(error, dict) else {}
    verdict = verdict_of(each["status"], str(details.get("type", "")))
    return Outcome(verdict, "" if verdict is Verdict.INDEXED else reason_of(details, each["status"]))


def reason_of(error: dict[str, Any], status: int) -> str:
    """Return the reason of an error with those of its causes, in one short line; the last says what is wrong."""
    parts = []
    cause: Any = error
    for _ in range(_MOST_CAUSES):
        if not isinstance(cause, dict):
            break
        parts.append(cause.get("reason") or cause.get("type"))
        cause = cause.get("caused_by")
    return " ".join(": ".join(str(part) for part in parts if part).split())[:300] or f"status {status}"


def newest_of_each(items: Sequence[Item]) -> list[Item]:
    """Return the item of the highest version of each id, in order of first appearance."""
    newest: dict[str, Item] = {}
    for item in items:
        if item.id not in newest or item.version > newest[item.id].version:
            newest[item.id] = item
    return list(newest.values())


def batches(
    items: Sequence[Item], most_items: int = BATCH_ITEMS, most_bytes: int = BATCH_BYTES
) -> Iterator[list[Item]]:
    """Yield the items in batches of at most so many items and bytes; one item may be larger than that."""
    batch: list[Item] = []
    size = 0
    for item in items:
        length = len(item.body or b"")
        if batch and (len(batch) >= most_items or size + length > most_bytes):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += length
    if batch:
        yield batch


def pause_seconds(attempt: int, chance: float) -> float:
    """Return how long to wait before attempt number `attempt` + 1; `chance` is from 0 to 1 ("full jitter")."""
    return chance * min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0 ** min(attempt, 10))
