"""The daily indices of a server: their template and lifecycle, which there are, and the deletion of those too old.

Indices are found by a pattern and then taken by their exact names: what merely looks alike, and an alias of such a
name, is never touched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from mailspan.errors import StoreError
from sink.elasticsearch_settings import explain
from sink.index_template import Wanted, is_made_of, lifecycle, mapping, overruled, template
from sink.indices import day_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import date

    from sink.elasticsearch import Answer, Server

_NO_RIGHT = frozenset({401, 403})
_REFUSED = 400  # HTTP's own
_NO_TYPE = "No handler for type [wildcard]"


def template_path(prefix: str) -> str:
    """Return where the template is."""
    return f"/_index_template/{prefix}"


def template_in(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the template in the answer of a server that has it."""
    found: dict[str, Any] = answer["index_templates"][0]["index_template"]
    return found


class Index(NamedTuple):
    """One daily index."""

    name: str
    day: date
    is_closed: bool


class DailyIndices:
    """The indices PREFIX-YYYY.MM.DD of a server."""

    def __init__(self, server: Server, prefix: str, mapping: Callable[..., dict[str, Any]] = mapping) -> None:
        """`mapping` is theirs: that of mails, unless told otherwise. Nothing is asked yet."""
        self._server = server
        self._prefix = prefix
        self._mapping = mapping

    @property
    def template_path(self) -> str:
        """Where their template is."""
        return template_path(self._prefix)

    def all(self) -> list[Index]:
        """Return the indices, oldest first. Raises StoreError."""
        path, query = f"/_resolve/index/{self._prefix}-*", {"expand_wildcards": "open,closed,hidden"}
        answer = self._server.ask("GET", path, "to list indices", needs="indices", query=query)
        found = []
        for each in answer["indices"]:
            day = day_of(self._prefix, each["name"])
            if day is not None:
                found.append(Index(each["name"], day, "closed" in each["attributes"]))
        return sorted(found, key=lambda index: index.day)

    def count(self, index: Index) -> int | None:
        """Return the number of documents of an index; None where they cannot be counted now. Raises StoreError.

        That is so of a closed index, of one with shards that are nowhere, and of one that was just deleted.
        """
        if index.is_closed:
            return None
        answer = self._server.request("GET", f"/{index.name}/_count")
        if not answer.is_good and answer.status not in _NO_RIGHT:
            return None
        body = self._server.good(answer, "to count documents", needs="count")
        return None if body["_shards"]["failed"] else int(body["count"])

    def delete(self, index: Index) -> None:
        """Delete one index, by its name. Raises StoreError."""
        query = {"expand_wildcards": "none", "ignore_unavailable": "true"}
        self._server.ask("DELETE", f"/{index.name}", f"to delete {index.name}", query=query)

    def set_up(self, wanted: Wanted, *, is_dry_run: bool) -> Iterator[str]:
        """Install or update lifecycle, template and both of existing indices; yields a line on each.

        `has_lifecycle` and `has_wildcard` of `wanted` are found out here. Raises StoreError; where mappings are
        refused, or another template is taken in place of ours, only after all else.
        """
        has_lifecycle, line = self._lifecycle(wanted.retention_days, is_dry_run=is_dry_run)
        yield line
        wanted = wanted._replace(has_lifecycle=has_lifecycle, has_wildcard=self._has_wildcard())
        if not wanted.has_wildcard:
            yield "wildcard fields: this server has none; long texts are keywords"
        yield self._template(wanted, is_dry_run=is_dry_run)
        mapped = self._mapping(has_wildcard=wanted.has_wildcard)
        refusals = []
        every = self.all()
        if has_lifecycle:
            yield from self._attach_lifecycle(every, is_dry_run=is_dry_run)
        for index in every:
            if index.is_closed:
                yield f"index {index.name}: closed: left as it is"
            elif not is_made_of(self._mapping_of(index), mapped):
                refusal = None if is_dry_run else self._update(index, mapped)
                if refusal is None:
                    yield f"index {index.name}: mapping {'would be updated' if is_dry_run else 'updated'}"
                else:
                    yield f"index {index.name}: mapping refused ({refusal.reason})"
                    refusals.append((index, refusal))
        if refusals:
            index, refusal = refusals[0]
            doing = f"to update the mapping of {index.name}"
            others = f"; {len(refusals)} indices keep theirs" if len(refusals) > 1 else ""
            raise StoreError(explain(refusal.status, refusal.reason, self._server.shown, doing) + others)
        if (fault := self.overruled()) is not None:
            raise StoreError(f"Elasticsearch at {self._server.shown}: {fault}")

    def overruled(self) -> str | None:
        """Return which other template is taken in place of ours; None where none is. Raises StoreError."""
        parts = ("name", *(f"index_template.{name}" for name in ("priority", "index_patterns", "_meta")))
        query = {"filter_path": ",".join(f"index_templates.{part}" for part in parts)}
        answer = self._server.ask("GET", "/_index_template", "to see the index templates", query=query)
        return overruled(self._prefix, answer.get("index_templates", ()) if isinstance(answer, dict) else ())

    def _attach_lifecycle(self, indices: Sequence[Index], *, is_dry_run: bool) -> Iterator[str]:
        """Give the policy to the open indices without one, as those made before there was any; yields a line on each.

        What somebody gave another policy keeps it.
        """
        if not indices:
            return
        path = f"/{self._prefix}-*/_settings/index.lifecycle.name"
        query = {"flat_settings": "true", "expand_wildcards": "open,closed,hidden"}
        found = self._server.ask("GET", path, "to see lifecycles", query=query)
        settings = {"index.lifecycle.name": self._prefix, "index.lifecycle.parse_origination_date": True}
        for index in indices:
            if not index.is_closed and not found.get(index.name, {}).get("settings"):
                if not is_dry_run:
                    doing = f"to give {index.name} its lifecycle"
                    self._server.ask("PUT", f"/{index.name}/_settings", doing, body=settings)
                yield f"index {index.name}: lifecycle {'would be set' if is_dry_run else 'set'}"

    def _update(self, index: Index, mapped: dict[str, Any]) -> Answer | None:
        """Update the mapping of an index; return the answer that refuses it. Raises StoreError: all other failures."""
        body = {"properties": mapped["properties"], "_meta": mapped["_meta"]}
        answer = self._server.request("PUT", f"/{index.name}/_mapping", body=body)
        if answer.is_good:
            return None
        if answer.status != _REFUSED:
            self._server.good(answer, f"to update the mapping of {index.name}")  # raises
        return answer

    def _lifecycle(self, days: int, *, is_dry_run: bool) -> tuple[bool, str]:
        """Install the policy where the server knows of such; return whether it does, and what was done."""
        path, wanted = f"/_ilm/policy/{self._prefix}", lifecycle(days)
        answer = self._server.request("GET", path)
        if not answer.is_good and answer.kind != "resource_not_found_exception":
            if answer.status in _NO_RIGHT or answer.status >= 500:  # noqa: PLR2004 - HTTP's 5xx
                self._server.good(answer, "to see lifecycle policies")  # raises
            return False, (
                "lifecycle: this server has none; run `mailspan retention --store URL` every day, to delete old days"
            )
        found = answer.body.get(self._prefix, {}).get("policy", {}) if answer.is_good else {}
        phase = found.get("phases", {}).get("delete", {})
        name = f"lifecycle {self._prefix}"
        if phase.get("min_age") == f"{days}d" and set(found.get("phases", {})) == {"delete"}:
            return True, f"{name}: as it should be: delete after {days} days"
        if not is_dry_run:
            self._server.ask("PUT", path, "to install the lifecycle policy", body=wanted)
        done = "updated" if found else "created"
        return True, f"{name}: {f'would be {done}' if is_dry_run else done}: delete after {days} days"

    def _has_wildcard(self) -> bool:
        """Whether the server has fields of type wildcard: a template is only simulated."""
        body = {
            "index_patterns": [f"{self._prefix}-simulated"],
            "priority": 501,
            "template": {"mappings": {"properties": {"a": {"type": "wildcard"}}}},
        }
        answer = self._server.request("POST", "/_index_template/_simulate", body=body)
        if _NO_TYPE in str(answer.body):
            return False
        self._server.good(answer, "to try an index template")
        return True

    def _template(self, wanted: Wanted, *, is_dry_run: bool) -> str:
        mapped = self._mapping(has_wildcard=wanted.has_wildcard)
        path, body = self.template_path, template(self._prefix, wanted, mapped)
        found = self.stored_template()
        if found is not None and is_made_of(found, body):
            return f"template {self._prefix}: as it should be"
        if not is_dry_run:
            self._server.ask("PUT", path, "to install the index template", body=body)
        done = "created" if found is None else "updated"
        return f"template {self._prefix}: {f'would be {done}' if is_dry_run else done}"

    def stored_template(self) -> dict[str, Any] | None:
        """Return the template of the server; None where there is none. Raises StoreError."""
        answer = self._server.request("GET", self.template_path)
        if answer.status == 404:  # noqa: PLR2004 - HTTP's own
            return None
        return template_in(self._server.good(answer, "to see the index template", needs="index_templates"))

    def _mapping_of(self, index: Index) -> dict[str, Any]:
        doing = f"to see the mapping of {index.name}"
        answer = self._server.ask("GET", f"/{index.name}/_mapping", doing, needs=index.name)
        found: dict[str, Any] = answer[index.name].get("mappings", {})
        return found
