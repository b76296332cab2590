"""What Kibana is given: one data view, saved searches, panels and dashboards, as tables. Pure.

sink/kibana_ndjson.py makes Kibana's own form of it. Panels are asked of flat roll-ups only: Kibana cannot count by
nested fields (`to.*`). Queries keep to a small part of KQL, which tests/kql.py reads: FIELD: VALUE with and, or, not.

A roll-up says what occurs in a mail, not which relay belongs to which outcome; where that can mislead, the description
of the panel says so. `deliveries` holds both in one value, the last outcome of each recipient.
"""

from __future__ import annotations

from typing import NamedTuple

TIME_FIELD = "date"
"""When the mail began. It decides the index day, and never changes."""
DATA_VIEW = "data-view"
EXAMPLE = "alice@example.com"
"""The address that stands in the searches for one sender and one recipient until a reader puts in another."""


class Search(NamedTuple):
    """A saved search: what Discover opens."""

    key: str
    title: str
    description: str
    query: str
    columns: tuple[str, ...]
    since: str = "now-7d"


class Terms(NamedTuple):
    """A split by the values of a field, the most frequent first."""

    field: str
    label: str
    size: int = 20
    include: str = ""
    """A regular expression that values must match as a whole."""


class Panel(NamedTuple):
    """A panel: how many mails; `kind` is metric (one number), bars (over time) or table."""

    key: str
    kind: str
    title: str
    description: str
    query: str
    split: Terms | None = None
    sum_of: str = ""
    """A field of numbers whose sum is shown beside the count."""


class Place(NamedTuple):
    """Where something stands on a dashboard, which is 48 wide."""

    key: str
    x: int
    y: int
    width: int
    height: int


class Dashboard(NamedTuple):
    """A dashboard: panels and saved searches, and fields whose values a reader may choose from."""

    key: str
    title: str
    description: str
    places: tuple[Place, ...]
    choices: tuple[tuple[str, str], ...] = ()
    """Field and label."""
    since: str = "now-24h"


_MAIL = "kind: transaction and page: 0"
"""Each mail once: page 0 says what became of the whole mail, also of one with more than 500 recipients."""
_DEFERRED = "kind: transaction and state: open and deliveries: deferred*"
_BOUNCED = "kind: transaction and (deliveries: bounced* or deliveries: expired*)"
_EACH_PAGE = "A mail with more than 500 recipients counts once for each 500."
_ALL_OF_THEM = "It counts for each that occurs in the mail, also where another one was at fault."
_WHO = ("host", "from", "recipients", "outcome", "deliveries", "relays", "dsns", "queue_id")

SEARCHES: tuple[Search, ...] = (
    Search(
        "deferred",
        "Deferred now",
        "Mail that is still in a queue, with a recipient whose last attempt was deferred. Begun in the last 7 days.",
        _DEFERRED,
        ("updated", "host", "from", "deliveries", "attempt_count", "relays", "dsns", "queue_id"),
    ),
    Search(
        "bounces",
        "Bounces",
        "Mail with a recipient that bounced, or was given up after its time in the queue.",
        _BOUNCED,
        _WHO,
    ),
    Search(
        "rejections",
        "Rejections",
        "What was refused: connections, senders, and recipients, also those of a mail that was else accepted.",
        "kind: rejection or (outcomes: rejected and not kind: mailbox)",
        ("host", "client", "from", "recipients", "stage", "dsns", "temporary", "repeat_count"),
        "now-24h",
    ),
    Search(
        "sender",
        "One sender",
        f"All mail of one envelope sender. Put the address in the place of {EXAMPLE}; upper and lower case are alike.",
        f'from: "{EXAMPLE}"',
        _WHO,
    ),
    Search(
        "recipient",
        "One recipient",
        f"All mail to one recipient. Put the address in the place of {EXAMPLE}, in lower case.",
        f'recipients: "{EXAMPLE}" and not kind: mailbox',
        _WHO,
    ),
)

PANELS: tuple[Panel, ...] = (
    Panel("mails", "metric", "Mails", "Mails that began in the chosen time.", _MAIL),
    Panel(
        "waiting",
        "metric",
        "Deferred now",
        f"Mails still in a queue with a recipient whose last attempt was deferred. {_EACH_PAGE}",
        _DEFERRED,
    ),
    Panel(
        "failed",
        "metric",
        "Bounced",
        f"Mails with a recipient that bounced or expired. {_EACH_PAGE}",
        _BOUNCED,
    ),
    Panel(
        "rejected",
        "metric",
        "Rejected",
        "Refusals before there was a mail; repeats in the same second are one.",
        "kind: rejection",
    ),
    Panel(
        "outcomes-over-time",
        "bars",
        "Mails by outcome",
        "By the worst of the last outcomes of the recipients, at the time when the mail began.",
        _MAIL,
        Terms("outcome", "Outcome", 12),
    ),
    Panel(
        "rejections-over-time",
        "bars",
        "Rejections by stage",
        "By where in the SMTP dialogue it was refused.",
        "kind: rejection",
        Terms("stage", "Stage", 8),
    ),
    Panel(
        "hosts",
        "table",
        "Mails by host",
        "By the server that logged it, with the bytes taken in. A mail that crosses two servers counts for both.",
        _MAIL,
        Terms("host", "Host", 100),
        sum_of="size",
    ),
    Panel(
        "recipient-domains",
        "table",
        "Mails by recipient domain",
        f"A mail to two domains counts for both. {_EACH_PAGE}",
        "kind: transaction",
        Terms("recipient_domains", "Domain", 50),
    ),
    Panel(
        "relays",
        "table",
        "Mails by relay",
        f"A mail that went to two relays counts for both. {_EACH_PAGE}",
        "kind: transaction",
        Terms("relays", "Relay", 50),
    ),
    Panel("senders", "table", "Mails by sender", "By the envelope sender.", _MAIL, Terms("from", "Sender", 50)),
    Panel(
        "clients",
        "table",
        "Rejections by client",
        "By the address of who was refused.",
        "kind: rejection",
        Terms("client_ip", "Client", 50),
    ),
    Panel(
        "deferred-over-time",
        "bars",
        "Deferred now, by host",
        f"By when the mail began: old bars are old mail that still waits. {_EACH_PAGE}",
        _DEFERRED,
        Terms("host", "Host", 10),
    ),
    Panel(
        "bounced-over-time",
        "bars",
        "Bounced, by host",
        f"By when the mail began. {_EACH_PAGE}",
        _BOUNCED,
        Terms("host", "Host", 10),
    ),
    Panel(
        "deferred-relays",
        "table",
        "Deferred now, by relay",
        f"Relays of mails that wait. {_ALL_OF_THEM} {_EACH_PAGE}",
        _DEFERRED,
        Terms("relays", "Relay"),
    ),
    Panel(
        "deferred-domains",
        "table",
        "Deferred now, by recipient domain",
        f"Recipient domains of mails that wait. {_ALL_OF_THEM} {_EACH_PAGE}",
        _DEFERRED,
        Terms("recipient_domains", "Domain"),
    ),
    Panel(
        "deferred-recipients",
        "table",
        "Recipients that wait",
        "Recipients whose last attempt was deferred, and for how many mails. No other recipients of the same mails.",
        _DEFERRED,
        Terms("deliveries", "Outcome and recipient", include="deferred .*"),
    ),
    Panel(
        "bounced-relays",
        "table",
        "Bounced, by relay",
        f"Relays of mails that bounced or expired. {_ALL_OF_THEM} {_EACH_PAGE}",
        _BOUNCED,
        Terms("relays", "Relay"),
    ),
    Panel(
        "bounced-domains",
        "table",
        "Bounced, by recipient domain",
        f"Recipient domains of mails that bounced or expired. {_ALL_OF_THEM} {_EACH_PAGE}",
        _BOUNCED,
        Terms("recipient_domains", "Domain"),
    ),
    Panel(
        "bounced-recipients",
        "table",
        "Recipients that bounced",
        "Recipients that bounced or expired, and for how many mails. No other recipients of the same mails.",
        _BOUNCED,
        Terms("deliveries", "Outcome and recipient", include="(bounced|expired) .*"),
    ),
    Panel(
        "bounced-codes",
        "table",
        "Bounced, by status code",
        f"Enhanced status codes (RFC 3463) of mails that bounced or expired. {_ALL_OF_THEM} {_EACH_PAGE}",
        _BOUNCED,
        Terms("dsns", "Code"),
    ),
)

_FIRST_ROWS = (
    Place("mails", 0, 0, 12, 7),
    Place("waiting", 12, 0, 12, 7),
    Place("failed", 24, 0, 12, 7),
    Place("rejected", 36, 0, 12, 7),
    Place("outcomes-over-time", 0, 7, 32, 14),
    Place("rejections-over-time", 32, 7, 16, 14),
)
"""What stands on top of every dashboard of all mail."""

DASHBOARDS: tuple[Dashboard, ...] = (
    Dashboard(
        "flow",
        "Mail flow",
        "How much mail there is, how it ended, where it came from and where it went.",
        (
            *_FIRST_ROWS,
            Place("hosts", 0, 21, 24, 16),
            Place("senders", 24, 21, 24, 16),
            Place("recipient-domains", 0, 37, 24, 16),
            Place("relays", 24, 37, 24, 16),
        ),
    ),
    Dashboard(
        "trouble",
        "Mail trouble",
        "What waits and what bounced, by relay, recipient domain and recipient.",
        (
            Place("waiting", 0, 0, 12, 7),
            Place("failed", 12, 0, 12, 7),
            Place("deferred-over-time", 0, 7, 24, 14),
            Place("bounced-over-time", 24, 7, 24, 14),
            Place("deferred-relays", 0, 21, 16, 16),
            Place("deferred-domains", 16, 21, 16, 16),
            Place("deferred-recipients", 32, 21, 16, 16),
            Place("bounced-relays", 0, 37, 12, 16),
            Place("bounced-domains", 12, 37, 12, 16),
            Place("bounced-recipients", 24, 37, 12, 16),
            Place("bounced-codes", 36, 37, 12, 16),
            Place("deferred", 0, 53, 48, 18),
            Place("bounces", 0, 71, 48, 18),
        ),
        since="now-7d",
    ),
    Dashboard(
        "host",
        "One mail host",
        "The same for one mail server, chosen above the panels; for all of them while none is chosen.",
        (
            *_FIRST_ROWS,
            Place("senders", 0, 21, 16, 16),
            Place("relays", 16, 21, 16, 16),
            Place("clients", 32, 21, 16, 16),
            Place("deferred-recipients", 0, 37, 24, 16),
            Place("bounced-recipients", 24, 37, 24, 16),
            Place("deferred", 0, 53, 48, 18),
        ),
        (("host", "Mail host"),),
    ),
)
