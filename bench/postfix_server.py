"""A Postfix server that never was: sessions and mail as the lines that Postfix 3.7 logs.

Each method adds the lines of one thing that happens, now and later, and counts it in the truth. A mail has 7 to 8
lines on average, as on real servers: connect, client=, message-id=, from=, one to= or more, removed, disconnect.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from bench.world import SECOND, Client, Pending, Processes, Truth, World, in_base, pick

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

BASE_52 = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"
INODES = 60_000
SESSIONS = ((52, "inbound"), (28, "submission"), (4, "pickup"), (11, "refused"), (5, "idle"))
AGENTS = ((50, "virtual"), (30, "lmtp"), (20, "local"))
ENDS = ((92, "sent"), (5, "deferred"), (3, "bounced"))
GREYLISTED = "450 4.2.0 <{to}>: Recipient address rejected: Greylisted, see https://grey.example.com/help.html"
NO_USER = "550 5.1.1 <{to}>: Recipient address rejected: User unknown in virtual mailbox table"
DAEMONS = ("smtpd", "submission/smtpd", "cleanup", "smtp", "virtual", "lmtp", "local", "bounce")


class PostfixServer:
    """One host."""

    def __init__(self, name: str, world: World, pending: Pending, truth: Truth, *, long_queue_ids: bool) -> None:
        self.name = name
        self._world = world
        self._random = world.random
        self._pending = pending
        self._truth = truth
        self._long_queue_ids = long_queue_ids
        self._inodes = itertools.count()
        numbers = itertools.count(1000)
        self._qmgr = f"postfix/qmgr[{next(numbers)}]"
        self._pickup = f"postfix/pickup[{next(numbers)}]"
        self._processes = {daemon: Processes(numbers) for daemon in DAEMONS}
        self._sessions: Mapping[str, Callable[[int], None]] = {
            "inbound": self._inbound,
            "submission": self._submission,
            "pickup": self._local_submission,
            "refused": self._refused,
            "idle": self._idle,
        }

    def session(self, at: int) -> None:
        """Add one session that begins at a time, with all that follows from it."""
        self._sessions[pick(self._random, SESSIONS)](at)

    def _add(self, at: int, tag: str, message: str) -> None:
        self._pending.add(at, self.name, tag, message)

    def _tag(self, daemon: str, at: int, until: int) -> str:
        return f"postfix/{daemon}[{self._processes[daemon].take(at, until)}]"

    def _queue_id(self, at: int) -> str:
        inode = 0x110000 + next(self._inodes) % INODES
        seconds, microseconds = divmod(at, SECOND)
        if self._long_queue_ids:
            time = in_base(seconds, BASE_52, 6) + in_base(microseconds, BASE_52, 4)
            return f"{time}z{in_base(inode, BASE_52[:-1])}"
        return f"{microseconds:05X}{inode:X}"

    def _inbound(self, at: int) -> None:
        client, until = self._world.client(), at + 2 * SECOND
        tag = self._tag("smtpd", at, until)
        self._connect(at, tag, client)
        queue_id = self._queue_id(at + 40_000)
        self._add(at + 40_000, tag, f"{queue_id}: client={client}")
        self._add(until - 50_000, tag, f"disconnect from {client} ehlo=1 mail=1 rcpt=1 data=1 quit=1 commands=5")
        sender = "" if self._random.random() < 0.03 else self._world.remote()  # noqa: PLR2004 - a share
        self._mail(at + 60_000, queue_id, sender, self._world.some("local", 20), self._deliver)

    def _submission(self, at: int) -> None:
        client, until = self._world.client(), at + 3 * SECOND
        tag, sender = self._tag("submission/smtpd", at, until), self._world.local()
        self._connect(at, tag, client)
        cipher = "TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits)"
        self._add(at + 20_000, tag, f"Anonymous TLS connection established from {client}: {cipher}")
        queue_id = self._queue_id(at + 90_000)
        login = f"sasl_method=PLAIN, sasl_username={sender}"
        self._add(at + 90_000, tag, f"{queue_id}: client={client}, {login}")
        commands = "ehlo=2 starttls=1 auth=1 mail=1 rcpt=1 data=1 quit=1 commands=8"
        self._add(until - 50_000, tag, f"disconnect from {client} {commands}")
        self._mail(at + 120_000, queue_id, sender, self._world.some("remote", 40), self._relay)

    def _local_submission(self, at: int) -> None:
        queue_id, sender = self._queue_id(at), f"root@{self.name}.example.com"
        self._add(at, self._pickup, f"{queue_id}: uid=0 from=<root>")
        self._mail(at + 3_000, queue_id, sender, [self._world.local()], self._deliver)

    def _refused(self, at: int) -> None:
        client, sender, recipient = self._world.client(), self._world.remote(), self._world.local()
        tag = self._tag("smtpd", at, at + SECOND)
        self._connect(at, tag, client)
        reply = "554 5.7.1 <{to}>: Relay access denied" if self._random.getrandbits(1) else NO_USER
        envelope = f"from=<{sender}> to=<{recipient}> proto=ESMTP helo=<{client.name}>"
        refusal = f"NOQUEUE: reject: RCPT from {client}: {reply.format(to=recipient)}; {envelope}"
        self._add(at + 100_000, tag, refusal)
        self._add(at + 300_000, tag, f"disconnect from {client} ehlo=1 mail=1 rcpt=0/1 quit=1 commands=3/4")
        self._truth.rejections += 1

    def _idle(self, at: int) -> None:
        client = self._world.client()
        tag = self._tag("smtpd", at, at + SECOND)
        self._connect(at, tag, client)
        self._add(at + 200_000, tag, f"lost connection after EHLO from {client}")
        self._add(at + 200_100, tag, f"disconnect from {client} ehlo=1 commands=1")

    def _connect(self, at: int, tag: str, client: Client) -> None:
        if client.name == "unknown":
            reason = f"hostname host.example.net does not resolve to address {client.ip}"
            self._add(at, tag, f"warning: {reason}: Name or service not known")
        self._add(at, tag, f"connect from {client}")

    def _mail(
        self,
        at: int,
        queue_id: str,
        sender: str,
        recipients: Sequence[str],
        send: Callable[[int, int, str, str], tuple[int, str]],
    ) -> None:
        """Add what cleanup, qmgr and the delivery agents say of a mail, to its end."""
        self._truth.transactions += 1
        born = at
        at = self._world.after(at, 3)
        message_id = self._world.message_id(at, sender or f"mx@{self.name}.example.com")
        self._add(at, self._tag("cleanup", at, at + 50_000), f"{queue_id}: message-id=<{message_id}>")
        size = 800 + int(self._random.paretovariate(0.8) * 2000) % 20_000_000
        active = f"{queue_id}: from=<{sender}>, size={size}, nrcpt={len(recipients)} (queue active)"
        waiting, end, bounces = list(recipients), at, False
        at = self._world.after(at, 20)
        while waiting:
            self._add(at, self._qmgr, active)
            ends = [(to, *send(at, born, queue_id, to)) for to in waiting]
            end = max(at, *(time for _, time, _ in ends))
            bounces = bounces or any(status == "bounced" for *_, status in ends)
            waiting = [to for to, _, status in ends if status == "deferred"]
            at = end + self._random.randrange(300, 900) * SECOND
        if bounces:
            end = self._bounce(end + 100, queue_id, sender)
        self._add(end + 200, self._qmgr, f"{queue_id}: removed")

    def _bounce(self, at: int, queue_id: str, sender: str) -> int:
        if sender:
            child = self._queue_id(at)
            self._mail(at, child, "", [sender], self._return)
            at += 2_000
            self._add(at, self._tag("bounce", at, at), f"{queue_id}: sender non-delivery notification: {child}")
        return at

    def _deliver(self, at: int, born: int, queue_id: str, recipient: str) -> tuple[int, str]:
        agent = pick(self._random, AGENTS)
        end = self._world.after(at, 40)
        relay, status = agent, "delivered to maildir"
        if agent == "lmtp":
            relay = f"{self.name}.example.com[private/dovecot-lmtp]"
            status = f"250 2.0.0 <{recipient}> {self._random.getrandbits(80):020x} Saved"
        tag = self._tag(agent, at, end)
        self._attempt(
            tag, (born, at, end), f"{queue_id}: to=<{recipient}>, relay={relay}", f"2.0.0, status=sent ({status})"
        )
        return end, "sent"

    def _relay(self, at: int, born: int, queue_id: str, recipient: str) -> tuple[int, str]:
        host = f"mx1.{recipient.rpartition('@')[2]}"
        peer = f"{host}[203.0.113.{len(recipient) * 7 % 254 + 1}]"
        end, outcome = self._world.after(at, 400), pick(self._random, ENDS)
        if outcome == "sent":
            text = f"2.0.0, status=sent (250 2.0.0 Ok: queued as {self._random.getrandbits(44):011X})"
        else:
            reply, dsn = (GREYLISTED, "4.2.0") if outcome == "deferred" else (NO_USER, "5.1.1")
            said = reply.format(to=recipient)
            text = f"{dsn}, status={outcome} (host {peer} said: {said} (in reply to RCPT TO command))"
        tag = self._tag("smtp", at, end)
        self._attempt(tag, (born, at, end), f"{queue_id}: to=<{recipient}>, relay={peer}:25", text)
        return end, outcome

    def _return(self, at: int, born: int, queue_id: str, recipient: str) -> tuple[int, str]:
        """Return a bounce to its sender, which always succeeds."""
        end = self._world.after(at, 100)
        relay = f"mx1.{recipient.rpartition('@')[2]}[203.0.113.9]:25"
        text = f"2.0.0, status=sent (250 2.0.0 Ok: queued as {self._random.getrandbits(44):011X})"
        self._attempt(self._tag("smtp", at, end), (born, at, end), f"{queue_id}: to=<{recipient}>, relay={relay}", text)
        return end, "sent"

    def _attempt(self, tag: str, times: tuple[int, int, int], head: str, tail: str) -> None:
        born, at, end = times
        before, sending = (at - born) / SECOND, (end - at) / SECOND
        delays = "/".join(map(_two_digits, (before, 0.01, sending / 3, sending * 2 / 3)))
        self._add(end, tag, f"{head}, delay={_two_digits(before + sending)}, delays={delays}, dsn={tail}")
        self._truth.attempts += 1
        self._truth.sent += "status=sent" in tail
        self._truth.bounced += "status=bounced" in tail
        self._truth.deferrals += "status=deferred" in tail


def _two_digits(seconds: float) -> str:
    """Write a delay as Postfix does: two digits that count, nothing below a hundredth."""
    return str(round(seconds)) if seconds >= 10 else f"{round(seconds, 2):.2g}"  # noqa: PLR2004 - two digits
