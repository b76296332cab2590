"""An OpenSMTPD server that never was: mail as the lines that OpenSMTPD 7 logs, about eight for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.world import SECOND, Pending, Truth, World, pick

if TYPE_CHECKING:
    from collections.abc import Sequence

ENDS = ((92, "sent"), (5, "deferred"), (3, "bounced"))
REFUSED_SHARE = 0.04
TLS_SHARE = 0.3
LOCAL_SHARE = 0.3
TLS = "ciphers=TLSv1.3:TLS_AES_256_GCM_SHA384:256"
UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))


class OpenSmtpdServer:
    """One host. One process does all; sessions, messages and envelopes have random IDs."""

    def __init__(self, name: str, world: World, pending: Pending, truth: Truth) -> None:
        self.name = name
        self._world = world
        self._random = world.random
        self._pending = pending
        self._truth = truth
        self._messages: set[int] = set()

    def session(self, at: int) -> None:
        """Add one session that begins at a time, with all that follows from it."""
        session, client = self._id(), self._world.client()
        name = "<unknown>" if client.name == "unknown" else client.name
        self._add(at, f"{session} smtp connected address={client.ip} host={name}")
        at += 200
        if self._random.random() < TLS_SHARE:
            self._add(at, f"{session} smtp tls {TLS}")
        if self._random.random() < REFUSED_SHARE:
            refused = self._world.local()
            reply = f'command="RCPT TO:<{refused}>" result="550 Invalid recipient: <{refused}>"'
            self._add(at + 1000, f"{session} smtp failed-command {reply}")
            self._add(at + 2000, f"{session} smtp disconnected reason=disconnect")
            self._truth.rejections += 1
            return
        local = self._random.random() < LOCAL_SHARE
        recipients = self._world.some("local" if local else "remote", 12)
        self._accept(self._world.after(at, 100), session, self._world.remote(), recipients, local=local)

    def _accept(self, born: int, session: str, sender: str, recipients: Sequence[str], *, local: bool) -> None:
        message = self._message()
        self._truth.transactions += 1
        size = self._random.randrange(600, 90_000)
        self._add(born, f"{session} smtp message msgid={message} size={size} nrcpt={len(recipients)} proto=ESMTP")
        envelopes = [f"{message}{self._random.getrandbits(32):08x}" for _ in recipients]
        for envelope, recipient in zip(envelopes, recipients, strict=True):
            self._add(born + 10, f"{session} smtp envelope evpid={envelope} from=<{sender}> to=<{recipient}>")
        self._add(born + 500, f"{session} smtp disconnected reason=quit")
        for envelope, recipient in zip(envelopes, recipients, strict=True):
            parties = f"evpid={envelope} from=<{sender}> to=<{recipient}>"
            if local:
                self._deliver(born, parties, recipient)
            else:
                self._relay(born, parties, recipient, sender)

    def _deliver(self, born: int, parties: str, recipient: str) -> None:
        at = self._world.after(born, 50)
        user = recipient.partition("@")[0]
        end = f"user={user} delay={_duration(at - born)} result=Ok stat=Delivered"
        self._add(at, f"{self._id()} mda delivery {parties} rcpt=<{recipient}> {end}")
        self._truth.attempts += 1
        self._truth.sent += 1

    def _relay(self, born: int, parties: str, recipient: str, sender: str) -> None:
        at, outcome = self._world.after(born, 500), pick(self._random, ENDS)
        while outcome == "deferred":
            self._attempt(born, at, parties, recipient, 'result="TempFail" stat="450 4.2.0 Greylisted, try later"')
            self._truth.deferrals += 1
            at += self._random.randrange(300, 900) * SECOND
            outcome = pick(self._random, ENDS)
        if outcome == "sent":
            answer = f"250 2.0.0 Ok: queued as {self._random.getrandbits(44):011X}"
            self._attempt(born, at, parties, recipient, f'result="Ok" stat="{answer}"')
            self._truth.sent += 1
            return
        self._attempt(born, at, parties, recipient, 'result="PermFail" stat="550 5.1.1 User unknown"')
        self._truth.bounced += 1
        session, bounce = self._id(), self._message()
        self._truth.transactions += 1
        at += 1000
        self._add(at, f"{session} smtp connected address=local host={self.name}")
        self._add(at + 10, f"{session} smtp message msgid={bounce} size=1814 nrcpt=1 proto=ESMTP")
        envelope = f"evpid={bounce}{self._random.getrandbits(32):08x} from=<> to=<{sender}>"
        self._add(at + 20, f"{session} smtp envelope {envelope}")
        self._add(at + 30, f"{session} smtp disconnected reason=quit")
        self._attempt(at, at + 100_000, envelope, sender, 'result="Ok" stat="250 2.0.0 Ok: queued as 4A00008964"')
        self._truth.sent += 1

    def _attempt(self, born: int, at: int, parties: str, recipient: str, end: str) -> None:
        session, mx = self._id(), f"mx1.{recipient.rpartition('@')[2]}"
        self._add(at - 40, f"{session} mta connecting address=smtp://203.0.113.9:25 host={mx}")
        self._add(at - 30, f"{session} mta connected")
        self._add(at - 20, f"{session} mta tls {TLS}")
        relay = f'source="192.0.2.1" relay="203.0.113.9 ({mx})" delay={_duration(at - born)}'
        self._add(at, f"{session} mta delivery {parties} rcpt=<-> {relay} {end}")
        self._add(at + 10 * SECOND, f"{session} mta disconnected reason=quit messages=1")
        self._truth.attempts += 1

    def _id(self) -> str:
        return f"{self._random.getrandbits(64) or 1:016x}"

    def _message(self) -> str:
        """Return a message ID that this server has not used: of a few million random ones some would repeat."""
        number = self._random.getrandbits(32)
        while number in self._messages:
            number = self._random.getrandbits(32)
        self._messages.add(number)
        return f"{number:08x}"

    def _add(self, at: int, message: str) -> None:
        self._pending.add(at, self.name, "smtpd[1016]", message)


def _duration(microseconds: int) -> str:
    """Write a delay as OpenSMTPD does: `1h2s`, without the parts that are zero."""
    left, text = microseconds // SECOND, ""
    for unit, letter in UNITS:
        count, left = divmod(left, unit)
        text += f"{count}{letter}" if count else ""
    return text or "0s"
