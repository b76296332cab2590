"""The Kafka key and the partition of a raw line, found without parsing it.

Pure. Key = host/queue_id, or host/program[pid] where the line has no queue ID; partition = by host. The plain forms
(`STAMP host program[pid]: ID: …`) cost one split and some look-ups, as heads seen before are remembered; every other
form goes through the syslog reader of the grammar. What belongs together is decided by the reducer's own reading: a
key that names the process instead of the queue ID does no harm, a wrong host would.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from mailspan import queue_id
from mailspan.grammar import MAX_NAMES, syslog
from mailspan.partition import partition_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Located = tuple[int, bytes]
    """Partition and key."""

# Exim's own log files name no host and no program; its syslog lines have the ID first, with a space behind it
# [spec.xfpt "Log files"].
_ID = re.compile(f"(?:{queue_id.POSTFIX}|{queue_id.SENDMAIL}|{queue_id.EXIM})".encode())
_EXIM_BEHIND = re.compile(f"({queue_id.EXIM}) ".encode())
_EXIM_OWN = re.compile(
    rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d{1,3})? (?:[+-]\d\d:?\d\d )?+(?!%b)(?:\[\d+\] )?(?:(%b) )?"
    % (syslog.HEAD.pattern.encode(), queue_id.EXIM.encode())
)
_OPENSMTPD = re.compile(rb" (?:msgid|evpid)=([0-9a-f]{8})")
_LONGEST_ID = 64
_LONGEST_HEAD = 512  # what the syslog reader is shown of a line
_MAX_IDS = 65536
_MAX_HEADS = 32768  # a log may be that of many hosts


class _Head(NamedTuple):
    """What `host program[pid]` tells: the partition, `host/`, and the key of lines without a queue ID."""

    partition: int
    prefix: bytes
    key: bytes
    program: str


class LineKeys:
    """Finds partition and key of lines; `own_host` is the host of those that name none. Hosts are lower-cased."""

    def __init__(self, own_host: str, partitions: int, aliases: Mapping[str, str] | None = None) -> None:
        self._partitions = partitions
        self._aliases = aliases or {}
        self._heads: dict[bytes, _Head] = {}
        self._hosts: dict[str, tuple[int, bytes]] = {}
        self._ids: dict[bytes, bool] = {}
        self._own = self._host(own_host)

    @property
    def locate(self) -> Callable[[bytes], Located]:
        """Return the function from a line to its partition and key."""
        return self._locate

    def _locate(self, line: bytes) -> Located:
        parts = line.split(b": ", 2)
        begin = parts[0]
        head = self._heads.get(begin[16:])  # behind "Nov 23 07:55:08 "
        if head is None:
            if begin[:1] == b"<":
                begin = begin[begin.find(b">") + 1 :]
                head = self._heads.get(begin[16:])
            if head is None:
                head = self._heads.get(begin.partition(b" ")[2])  # behind "2026-11-23T07:55:08+01:00 "
            if head is None:
                return self._locate_any(line)
        if len(parts) > 2:  # noqa: PLR2004 - head, ID, text
            found = parts[1]
            if found in self._ids or self._is_id(found):
                return head.partition, head.prefix + found
        return head.partition, self._key_inside(head, line[len(parts[0]) + 2 :])

    def _is_id(self, text: bytes) -> bool:
        if len(text) > _LONGEST_ID or _ID.fullmatch(text) is None:
            return False
        if len(self._ids) >= _MAX_IDS:
            self._ids.clear()
        self._ids[text] = True
        return True

    def _key_inside(self, head: _Head, message: bytes) -> bytes:
        """Return the key by an ID that no colon follows, or else by the process."""
        if head.program == "exim":
            match = _EXIM_BEHIND.match(message)
        elif head.program == "smtpd":
            match = _OPENSMTPD.search(message, 0, _LONGEST_HEAD)
        else:
            match = None
        return head.key if match is None else head.prefix + match[1]

    def _locate_any(self, line: bytes) -> Located:
        own = _EXIM_OWN.match(line)
        if own is not None:
            partition, prefix = self._own
            return partition, prefix + (own[1] or b"exim")
        text = line[:_LONGEST_HEAD].lstrip(b"\0").decode("utf-8", "backslashreplace").rstrip("\r\n\0")
        header = syslog.split(text.removeprefix("\ufeff"))
        if isinstance(header, str):
            return self._own
        partition, prefix = self._own if header.host is None else self._host(header.host)
        process = f"{header.program}[{header.pid}]"
        key = prefix + process.encode()
        head = _Head(partition, prefix, key, "exim" if header.program.startswith("exim") else header.program)
        shown = f"{header.host} {process if header.pid else header.program}".encode()
        begin = line.partition(b": ")[0]
        if header.host is not None and begin.endswith(b" " + shown):
            if len(self._heads) >= _MAX_HEADS:
                self._heads.clear()
            self._heads[shown] = head
        message = header.message.encode()
        found = message.partition(b": ")[0]
        if self._is_id(found):
            return partition, prefix + found
        return partition, self._key_inside(head, message)

    def _host(self, name: str) -> tuple[int, bytes]:
        known = self._hosts.get(name)
        if known is None:
            host = name.lower()
            host = self._aliases.get(host, host)
            if len(self._hosts) >= MAX_NAMES:
                self._hosts.clear()
            raw = host.encode()
            known = self._hosts[name] = partition_of(raw, self._partitions), raw + b"/"
        return known
