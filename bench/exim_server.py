"""An Exim server that never was: mail as the lines of Exim 4.96's main log, default selector, three to five for each.

The main log names neither host nor program. Each method adds the lines of one thing that happens, now and later, and
counts it in the truth.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from bench.world import SECOND, Pending, Truth, World, in_base, pick

if TYPE_CHECKING:
    from collections.abc import Sequence

BASE_62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ENDS = ((90, "sent"), (7, "deferred"), (3, "bounced"))
REFUSED_SHARE = 0.12
TLS_SHARE = 0.6
LOCAL_SHARE = 0.5
PROCESS_IDS = 900_000
TLS = " X=TLS1.3:ECDHE_X25519__RSA_PSS_RSAE_SHA256__AES_256_GCM:256 CV=no"
GREYLISTED = "450 4.2.0 <{to}>: Recipient address rejected: Greylisted, see https://grey.example.com/help.html"
NO_USER = "550 5.1.1 <{to}>: Recipient address rejected: User unknown in virtual mailbox table"


class EximServer:
    """One host."""

    def __init__(self, world: World, pending: Pending, truth: Truth) -> None:
        self._world = world
        self._random = world.random
        self._pending = pending
        self._truth = truth
        self._processes = itertools.count()

    def session(self, at: int) -> None:
        """Add one session that begins at a time, with all that follows from it."""
        client = self._world.client()
        shown = f"(helo.example.net) [{client.ip}]" if client.name == "unknown" else f"{client.name} [{client.ip}]"
        tls = TLS if self._random.random() < TLS_SHARE else ""
        sender = self._world.remote()
        if self._random.random() < REFUSED_SHARE:
            self._refuse(at, shown, tls, sender)
            return
        is_local = self._random.random() < LOCAL_SHARE
        recipients = self._world.some("local" if is_local else "remote", 20)
        queue_id = self._queue_id(at)
        size = self._random.randrange(600, 90_000)
        message_id = self._world.message_id(at, sender)
        protocol = "esmtps" if tls else "esmtp"
        born = self._world.after(at, 100)
        self._add(born, f"{queue_id} <= {sender} H={shown} P={protocol}{tls} S={size} id={message_id}")
        self._truth.transactions += 1
        if is_local:
            self._deliver(born, queue_id, recipients)
        else:
            self._relay(born, queue_id, sender, recipients)

    def _add(self, at: int, line: str) -> None:
        self._pending.add_line(at, line)

    def _queue_id(self, at: int) -> str:
        seconds, microseconds = divmod(at, SECOND)
        process = 1000 + next(self._processes) % PROCESS_IDS
        return (
            f"{in_base(seconds, BASE_62, 6)}-{in_base(process, BASE_62, 6)}-{in_base(microseconds // 500, BASE_62, 2)}"
        )

    def _refuse(self, at: int, shown: str, tls: str, sender: str) -> None:
        recipient = self._world.local()
        number = next(self._processes)  # no two refusals read alike
        refused = f"rejected RCPT <{number}.{recipient}>: Unrouteable address"
        self._add(at, f"H={shown}{tls} F=<{sender}> {refused}")
        self._truth.rejections += 1

    def _deliver(self, born: int, queue_id: str, recipients: Sequence[str]) -> None:
        at = born
        for recipient in recipients:
            at = self._world.after(at, 20)
            name = recipient.partition("@")[0]
            self._add(at, f"{queue_id} => {name} <{recipient}> R=localuser T=local_delivery")
            self._truth.attempts += 1
            self._truth.sent += 1
        self._add(at + 100, f"{queue_id} Completed")

    def _relay(self, born: int, queue_id: str, sender: str, recipients: Sequence[str]) -> None:
        """Try each recipient until it is sent or bounced; then there is a notice, if any bounced, and the end."""
        waiting, at, bounces = list(recipients), self._world.after(born, 50), False
        while waiting:
            ends = [(to, pick(self._random, ENDS)) for to in waiting]
            for to, end in ends:
                at = self._world.after(at, 300)
                self._attempt(at, queue_id, to, end)
                bounces = bounces or end == "bounced"
            waiting = [to for to, end in ends if end == "deferred"]
            last, at = at, at + self._random.randrange(300, 900) * SECOND
        if bounces:
            last = self._bounce(last + 100, queue_id, sender)
        self._add(last + 200, f"{queue_id} Completed")

    def _attempt(self, at: int, queue_id: str, recipient: str, end: str) -> None:
        host = f"mx1.{recipient.rpartition('@')[2]}"
        peer = f"H={host} [203.0.113.{len(recipient) * 7 % 254 + 1}]"
        way = f"{recipient} R=dnslookup T=remote_smtp"
        after = f"SMTP error from remote mail server after RCPT TO:<{recipient}>:"
        if end == "sent":
            reply = f"250 2.0.0 Ok: queued as {self._random.getrandbits(44):011X}"
            self._add(at, f'{queue_id} => {way} {peer}{TLS} C="{reply}"')
            self._truth.sent += 1
        elif end == "deferred":
            self._add(at, f"{queue_id} == {way} defer (-44) {peer}: {after} {GREYLISTED.format(to=recipient)}")
            self._truth.deferrals += 1
        else:
            self._add(at, f"{queue_id} ** {way} {peer}: {after} {NO_USER.format(to=recipient)}")
            self._truth.bounced += 1
        self._truth.attempts += 1

    def _bounce(self, at: int, parent: str, sender: str) -> int:
        queue_id = self._queue_id(at)
        self._add(at, f"{queue_id} <= <> R={parent} U=Debian-exim P=local S=2103")
        self._truth.transactions += 1
        self._attempt(at + 100_000, queue_id, sender, "sent")
        self._add(at + 100_100, f"{queue_id} Completed")
        return at + 200
