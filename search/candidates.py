"""Which transactions can be meant by a queue ID: all that have it and, of very many, the nearest in time.

Pure. Hosts share queue IDs, so one ID has a few transactions, and all of them are compared. Where thousands have it, to
compare each with each would take minutes: then those are looked up that share with the other side what an edge can rest
on (search.joins: a message id, a host, a client, the queue ID that they name), and of each such group the nearest in
time are compared. What is given here can be meant; whether it is, only the comparison says.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from search.nodes import Node

MOST_COMPARED = 20
"""So many transactions of one queue ID are all compared; of more, so many on either side of the time in question."""
_CUT_LENGTHS = range(80, 101)
"""Sendmail cuts message ids to one of these lengths (sink.terms)."""

Key = tuple[str, str | None]
_Crowd = dict[Key, list["Node"]]


class Names:
    """By which names a host is known, and which hosts a name is of: short ones, and those that were learned or told.

    A name of many hosts, a pool, does not say which of them is meant, nor does a host with many names say by which: of
    such ones there is only what their letters say.
    """

    def __init__(self, learned: Mapping[str, set[str]], told: Mapping[str, str]) -> None:
        """Take over what is known so far."""
        hosts = {**learned, **{name: {host} for name, host in told.items()}}
        names: dict[str, set[str]] = defaultdict(set)
        for name, found in hosts.items():
            for host in found:
                names[host].add(name)
        self._hosts = {name: sorted(found) for name, found in hosts.items() if len(found) <= MOST_COMPARED}
        self._names = {host: sorted(found) for host, found in names.items() if len(found) <= MOST_COMPARED}
        self._pools = {
            host: [name for name in sorted(found) if name not in self._hosts][:MOST_COMPARED]
            for host, found in names.items()
        }

    def of_host(self, host: str) -> list[str]:
        """Return names of a host."""
        return list(dict.fromkeys((host, short(host), *self._names.get(host, ()))))

    def hosts(self, names: Iterable[str | None]) -> list[str]:
        """Return hosts that are known by one of these names."""
        known = [name for name in names if name is not None]
        found = [each for name in known for each in (name, short(name), *self._hosts.get(name, ()))]
        return list(dict.fromkeys(found))

    def pools(self, host: str) -> list[str]:
        """Return the names that a host shares with many others."""
        return self._pools.get(host, [])


def short(name: str) -> str:
    """Return the first label of a name."""
    return name.partition(".")[0]


class Candidates:
    """The transactions by their queue IDs."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        """`nodes` are in the order of their dates."""
        self._all: dict[str, list[Node]] = defaultdict(list)
        self._crowds: dict[str, _Crowd] = {}
        for node in nodes:
            if node.queue_id is not None:
                self._all[node.queue_id].append(node)

    def are_many(self, queue_id: str) -> bool:
        """Whether not all that have this queue ID are compared."""
        return len(self._all.get(queue_id, ())) > MOST_COMPARED

    def all(self, queue_id: str) -> Sequence[Node]:
        """Return all that have this queue ID, the oldest first."""
        return self._all.get(queue_id, ())

    def near(self, queue_id: str, keys: Iterable[Key], reference_ms: int, from_ms: int, to_ms: int) -> Sequence[Node]:
        """Return those with one of the keys that began from one time to another, the nearest to a third."""
        crowd = self._crowds.get(queue_id)
        if crowd is None:
            crowd = self._crowds[queue_id] = _crowd(self._all[queue_id])
        found: dict[str, Node] = {}
        for key in dict.fromkeys(keys):
            nodes = crowd.get(key, ())
            first = bisect_left(nodes, from_ms, key=_date)
            last = bisect_right(nodes, to_ms, key=_date)
            middle = bisect_left(nodes, reference_ms, first, last, key=_date)
            chosen = nodes[max(first, middle - MOST_COMPARED) : min(last, middle + MOST_COMPARED)]
            found.update((node.id, node) for node in chosen)
        return list(found.values())


def message_id_keys(node: Node) -> list[Key]:
    """Return the keys of those that may have a node's message id."""
    found: list[Key] = [("message id", node.message_id)]
    if node.message_id is not None:
        found += [("cut message id", node.message_id[:length]) for length in _CUT_LENGTHS]
        if node.is_cut:
            found.append(("begins", node.message_id))
    return found


def unknown_keys(node: Node) -> list[Key]:
    """Return the keys of those whose message id says neither yes nor no."""
    return [("any", None)] if node.message_id is None else [("message id", None)]


def _crowd(nodes: Iterable[Node]) -> _Crowd:
    found: _Crowd = defaultdict(list)
    for node in nodes:
        for key in dict.fromkeys(_keys_of(node)):
            found[key].append(node)
    return dict(found)


def _keys_of(node: Node) -> list[Key]:
    names = {each for client in node.clients for each in (client, short(client))}
    keys: list[Key] = [("any", None), ("message id", node.message_id), ("host", node.host), ("host", short(node.host))]
    keys += [("client", name) for name in names]
    keys += [("original", queue_id) for kind, queue_id, _ in node.links if kind == "original"]
    if node.message_id is not None:
        if node.is_cut:
            keys.append(("cut message id", node.message_id))
        keys += [("begins", node.message_id[:length]) for length in _CUT_LENGTHS if length < len(node.message_id)]
    return keys


def _date(node: Node) -> int:
    return node.date_ms
