"""A Sendmail server that never was: mail as the lines that Sendmail 8.17 logs, two or three for each."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from bench.world import SECOND, Pending, Truth, World, in_base, pick

if TYPE_CHECKING:
    from collections.abc import Sequence

BASE_60 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwx"
ENDS = ((92, "sent"), (5, "deferred"), (3, "bounced"))
REFUSED_SHARE = 0.04
TLS_SHARE = 0.3
PROCESS_IDS = 900_000


class SendmailServer:
    """One host. Sendmail forks for each session, so a process ID stands for one."""

    def __init__(self, name: str, world: World, pending: Pending, truth: Truth) -> None:
        self.name = name
        self._world = world
        self._random = world.random
        self._pending = pending
        self._truth = truth
        self._processes = itertools.count()

    def session(self, at: int) -> None:
        """Add one session that begins at a time, with all that follows from it."""
        process = self._process()
        queue_id = self._queue_id(at, process)
        client, sender = self._world.client(), self._world.remote()
        relay = f"{client.name} [{client.ip}]" if client.name != "unknown" else f"[{client.ip}]"
        self._truth.transactions += 1
        if self._random.random() < TLS_SHARE:
            tls = "version=TLSv1.3, verify=NO, cipher=TLS_AES_256_GCM_SHA384, bits=256/256"
            self._add(at, process, f"STARTTLS=server, relay={relay}, {tls}")
        if self._random.random() < REFUSED_SHARE:
            self._refuse(at + 1000, process, queue_id, sender, relay)
            return
        recipients = self._world.some("remote", 12)
        born = self._world.after(at, 100)
        size = self._random.randrange(600, 90_000)
        head = f"{queue_id}: from=<{sender}>, size={size}, class=0, nrcpts={len(recipients)}"
        message_id = self._world.message_id(at, sender)
        self._add(born, process, f"{head}, msgid=<{message_id}>, proto=ESMTP, daemon=MTA-v4, relay={relay}")
        self._deliver(born, queue_id, sender, recipients)

    def _process(self) -> int:
        return 1000 + next(self._processes) % PROCESS_IDS

    def _queue_id(self, at: int, process: int) -> str:
        time = datetime.fromtimestamp(at // SECOND, UTC)
        digits = ((time.year - 1900) % 60, time.month - 1, time.day, time.hour, time.minute, time.second)
        letters = "".join(BASE_60[digit] for digit in digits)
        return f"{letters}{in_base(self._random.randrange(3600), BASE_60, 2)}{process:06d}"

    def _add(self, at: int, process: int, message: str) -> None:
        self._pending.add(at, self.name, f"sm-mta[{process}]", message)

    def _refuse(self, at: int, process: int, queue_id: str, sender: str, relay: str) -> None:
        recipient = self._world.local()
        reason = f"reject=550 5.7.1 <{recipient}>... Relaying denied"
        self._add(at, process, f"{queue_id}: ruleset=check_rcpt, arg1=<{recipient}>, relay={relay}, {reason}")
        tail = f"size=0, class=0, nrcpts=0, proto=ESMTP, daemon=MTA-v4, relay={relay}"
        self._add(at + 5000, process, f"{queue_id}: from=<{sender}>, {tail}")

    def _deliver(self, born: int, queue_id: str, sender: str, recipients: Sequence[str]) -> None:
        for recipient in recipients:
            at, outcome = self._world.after(born, 500), pick(self._random, ENDS)
            while outcome == "deferred":
                self._attempt(born, at, queue_id, recipient, "4.2.0, stat=Deferred: 450 4.2.0 Greylisted, try later")
                self._truth.deferrals += 1
                at += self._random.randrange(300, 900) * SECOND
                outcome = pick(self._random, ENDS)
            if outcome == "sent":
                answer = f"Ok: queued as {self._random.getrandbits(44):011X}"
                self._attempt(born, at, queue_id, recipient, f"2.0.0, stat=Sent ({answer})")
                self._truth.sent += 1
            else:
                process = self._attempt(born, at, queue_id, recipient, "5.1.1, stat=User unknown")
                self._truth.bounced += 1
                self._bounce(at + 1000, process, queue_id, sender)

    def _bounce(self, at: int, process: int, queue_id: str, sender: str) -> None:
        child = self._queue_id(at, self._process())
        self._truth.transactions += 1
        self._add(at, process, f"{queue_id}: {child}: DSN: User unknown")
        self._attempt(at, at + 100_000, child, sender, "2.0.0, stat=Sent (Ok: queued as 4A00008964)")
        self._truth.sent += 1

    def _attempt(self, born: int, at: int, queue_id: str, recipient: str, end: str) -> int:
        minutes, seconds = divmod(max(0, at - born) // SECOND, 60)
        hours, minutes = divmod(minutes, 60)
        delay = f"delay={hours:02d}:{minutes:02d}:{seconds:02d}, xdelay=00:00:00"
        relay = f"relay=mx1.{recipient.rpartition('@')[2]}. [203.0.113.9]"
        process = self._process()
        self._add(at, process, f"{queue_id}: to=<{recipient}>, {delay}, mailer=esmtp, pri=30214, {relay}, dsn={end}")
        self._truth.attempts += 1
        return process
