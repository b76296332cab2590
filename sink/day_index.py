"""Which documents the index of one day holds, and in which versions: all of them, however many there are.

They are read by a scroll in the order in which they are stored, and by doc values only: no document is unpacked. What
is written meanwhile is not in it.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mailspan.errors import StoreError
from sink.daily_indices import DailyIndices
from sink.elasticsearch import NoAnswerError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date

    from sink.elasticsearch import Server

_AT_ONCE = 10_000
_KEPT = "2m"  # how long the server waits for the next request
_SECONDS = 60.0
_DOING = "to read the index of a day"


class DayIndex:
    """The index of one day."""

    def __init__(self, server: Server, prefix: str, day: date) -> None:
        """Look whether it is there. Raises StoreError and NoAnswerError; StoreError also where it is closed."""
        self._server = server
        found = next((index for index in DailyIndices(server, prefix).all() if index.day == day), None)
        if found is not None and found.is_closed:
            raise StoreError(f"Elasticsearch at {server.shown}: {found.name} is closed; open it")
        self.name = None if found is None else found.name
        """None where there is none."""

    def versions(self) -> Iterator[tuple[str, int]]:
        """Yield id and version of each document, after a refresh. Raises StoreError and NoAnswerError."""
        if self.name is None:
            return
        self._server.ask("POST", f"/{self.name}/_refresh", "to refresh the index of a day")
        body = {
            "size": _AT_ONCE,
            "sort": ["_doc"],
            "_source": False,
            "stored_fields": "_none_",
            "docvalue_fields": ["id", "version"],
        }
        query = {"scroll": _KEPT, "allow_partial_search_results": "false"}
        path, scroll_id = f"/{self.name}/_search", None
        try:
            while True:
                found = self._server.ask("POST", path, _DOING, needs="hits", query=query, body=body, seconds=_SECONDS)
                if found["_shards"]["failed"] or found["timed_out"]:
                    raise StoreError(f"Elasticsearch at {self._server.shown}: not all shards answer ({_DOING})")
                hits: list[dict[str, Any]] = found["hits"]["hits"]
                scroll_id = found["_scroll_id"]
                for hit in hits:
                    fields = hit.get("fields", {})
                    if "id" in fields and "version" in fields:  # else somebody else put it there
                        yield fields["id"][0], int(fields["version"][0])
                if not hits:
                    return
                path, query, body = "/_search/scroll", {}, {"scroll": _KEPT, "scroll_id": scroll_id}
        finally:
            if scroll_id is not None:
                with suppress(NoAnswerError):  # it forgets the scroll by itself, later
                    self._server.request("DELETE", "/_search/scroll", body={"scroll_id": [scroll_id]})
