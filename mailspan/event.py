"""What a record means, the same for all MTAs.

Each grammar reads its MTA's lines into these events; the assembler knows events only. A field that the log did not
state is None. Addresses, clients and relays are already in the forms of the document contract.

Structs of msgspec, for speed (docs/adr/0005); by convention never changed after the grammar made them. Those that a
transaction keeps are stored as arrays: new fields go to the end.
"""

from __future__ import annotations

from msgspec import Struct, field


class Client(Struct, gc=False, array_like=True, omit_defaults=True):
    """Who handed us the mail: `text` is `name [ip]`, `[ip]`, `uid=N`, `user@localhost` or `local`."""

    text: str
    name: str | None = None
    ip: str | None = None
    forged: bool | None = None


class Received(Struct, gc=False, array_like=True, omit_defaults=True):
    """A birth line: the mail was accepted from a client. MTAs differ in how much of it that line says."""

    client: Client | None = None
    sender: str | None = None
    size: int | None = None
    recipient_count: int | None = None
    message_id: str | None = None
    protocol: str | None = None
    sasl_username: str | None = None
    original_client: Client | None = None
    original_queue_id: str | None = None  # the ID of this mail at the filter's other side (XFORWARD)
    requeued_from: str | None = None  # the ID before `postsuper -r`
    truncated: bool = False  # the MTA cut a value of this line
    subject: str | None = None
    helo: str | None = None
    tls: str | None = None
    recipients: tuple[str, ...] = ()  # whom it is for, as the client said: those not tried yet are queued
    bounce_of: str | None = None  # the ID of the mail that this one is a notice about
    delay_notice: bool = False  # that notice says that the mail is late, not that it failed
    queued: bool = False  # this line comes after the end of data: the mail is in the queue


class Identified(Struct, gc=False):
    """The Message-ID of the mail; `resent` for resent-message-id, used only where there is no other."""

    message_id: str
    resent: bool = False


class Queued(Struct, gc=False):
    """The queue manager took the mail into its active queue: envelope sender, size, the MTA's recipient count."""

    sender: str
    size: int | None
    recipient_count: int | None


class Enveloped(Struct, gc=False, omit_defaults=True):
    """The queue has one recipient of an accepted mail; no attempt yet. OpenSMTPD logs it with the mail's birth.

    `envelope_count` says how many envelopes its aliases made of it; `size` and `protocol` are those of the mail.
    """

    recipient: str
    sender: str
    envelope_id: str | None = None
    size: int | None = None
    envelope_count: int | None = None
    protocol: str | None = None


class Attempted(Struct, gc=False, array_like=True, omit_defaults=True):
    """One attempt to deliver to one or more recipients, with one answer for all of them.

    `pending` is true for a queued notice that is no attempt. `delays` are before_queue, in_queue, connection,
    transmission in seconds. `outcome` is None where the log's words do not tell it: then dsn decides.
    """

    recipients: tuple[str, ...]
    status: str
    outcome: str
    original_recipient: str | None = None
    relay: str | None = None
    relay_ip: str | None = None
    relay_port: int | None = None
    dsn: str | None = None
    code: int | None = None
    delay_seconds: float | None = None
    delays: tuple[float, float, float, float] | None = None
    mailer: str | None = None
    mailbox: str | None = None
    next_queue_id: str | None = None
    controlling_user: str | None = None
    tls: str | None = None
    pending: bool = False
    ambiguous: bool = False
    sender: str | None = None
    envelope_id: str | None = None  # OpenSMTPD's own name of this recipient
    given_up: bool = False  # no attempt: the queue or an administrator ended it


class Refused(Struct, gc=False, array_like=True, omit_defaults=True):
    """The server said no: to one recipient, to the sender, or (`whole`) to the message.

    `stage` is one of connect, helo, auth, mail, rcpt, data, end_of_data.
    """

    stage: str
    status: str
    whole: bool = False
    code: int | None = None
    dsn: str | None = None
    client: Client | None = None
    sender: str | None = None
    recipient: str | None = None
    helo: str | None = None
    protocol: str | None = None
    sasl_username: str | None = None
    subject: str | None = None
    ambiguous: bool = False  # the line can be read in another way, too: its texts are the client's
    temporary: bool = False  # the MTA's words say so, where no code does


class Inspected(Struct, gc=False, array_like=True, omit_defaults=True):
    """A content check or a Milter looked at the mail and `action` followed: warning, hold, discard and others."""

    action: str
    status: str
    sender: str | None = None
    recipient: str | None = None
    helo: str | None = None
    protocol: str | None = None
    subject: str | None = None
    message_id: str | None = None


class Skipped(Struct, gc=False):
    """A queue run passed a recipient by: the time to try again had not come."""

    recipient: str
    status: str
    original_recipient: str | None = None


class Expired(Struct, gc=False):
    """The MTA gave up: every recipient that is still deferred is expired."""

    status: str


class Cancelled(Struct, gc=False):
    """An administrator, a filter or a limit of time gave the mail up: what is not delivered yet fails with it."""

    status: str


class Closed(Struct, gc=False):
    """A closing line; `by` is a `closed_by` value of the document."""

    by: str


class Held(Struct, gc=False):
    """An administrator or a rule put the mail on hold."""

    status: str


class Released(Struct, gc=False):
    """The mail was released from hold."""


class Notified(Struct, gc=False):
    """The MTA made a new mail about this one; `kind` is the link kind: bounce, delay_notice or receipt.

    `expires` is true where the notice is the only line that says that the deferred recipients are given up.
    """

    child: str
    kind: str
    expires: bool = False
    status: str = ""


class Cloned(Struct, gc=False):
    """Some recipients moved to a new queue ID (an alias with an owner)."""

    child: str
    owner: str | None


class Aborted(Struct, gc=False):
    """The client went away, or took its mail back, before it was accepted."""

    status: str


class Named(Struct, gc=False):
    """A user name that the client stated and the MTA wrote down (an authentication warning, a helo)."""

    helo: str | None = None
    sasl_username: str | None = None
    tls: str | None = None


class Linked(Struct, gc=False):
    """A line without a transaction of its own says where a mail went (a proxy's answer)."""

    next_queue_id: str
    sender: str | None = None
    recipient: str | None = None


class Connected(Struct, gc=False):
    """A session begins, of a client: `peer` as logged, for few need more. Of ours with a relay: `peer` is empty."""

    peer: str
    client: Client | None = None  # where `peer` is not what address.read_client reads


class Disconnected(Struct, gc=False):
    """A session ended, or was lost after some command."""

    lost_after: str | None = None


class Secured(Struct, gc=False):
    """TLS was set up on a connection: with our client (`incoming`) or with our relay."""

    incoming: bool
    tls: str
    peer: str | None = None
    peer_ip: str | None = None
    client: Client | None = None  # of an incoming connection, where the line names it


class Authenticated(Struct, gc=False):
    """A client logged in on this connection."""

    user: str | None
    client: Client | None = None


class Filtered(Struct, gc=False, array_like=True, omit_defaults=True):
    """What a filter beside the mail server, or a user's script, did with the mail: a row of the document's `filters`.

    `verdict` is its own word; `detail` is its text, and partly the sender's: nothing may be read out of it.
    """

    filter: str
    verdict: str
    score: float | None = None
    required_score: float | None = None
    detail: str | None = None
    next_queue_ids: tuple[str, ...] = ()  # under which the mail came back to its server


class Stored(Struct, gc=False):
    """A mailbox server took, or did not take, a mail for one user: an attempt, or what a script did beside it.

    Each such line may be the first of its transaction.
    """

    message_id: str | None
    truncated: bool = False  # the Message-ID was cut
    attempt: Attempted | None = None
    action: Filtered | None = None


class Gap(Struct, gc=False):
    """The logger says that it lost or suppressed lines of this host."""

    status: str


class Remarked(Struct, gc=False):
    """A line about a transaction that changes nothing of its document; `reason` says which kind."""

    reason: str = "remark"
    details: dict[str, str] = field(default_factory=dict)


Event = (
    Received
    | Identified
    | Queued
    | Enveloped
    | Attempted
    | Refused
    | Inspected
    | Skipped
    | Expired
    | Cancelled
    | Closed
    | Held
    | Released
    | Notified
    | Cloned
    | Aborted
    | Named
    | Linked
    | Connected
    | Disconnected
    | Secured
    | Authenticated
    | Filtered
    | Stored
    | Gap
    | Remarked
)
