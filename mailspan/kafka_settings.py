"""What every Kafka client of ours is told, and what its errors mean to the person who must act.

No client is imported here: each side of the wire has its own file for that. The password is read from its file, and is
in no message.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from mailspan.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mailspan.settings import Settings

FIXED = {
    "acks": "all",
    "enable.idempotence": "true",
    "message.timeout.ms": "0",
    "max.in.flight.requests.per.connection": "5",
    "enable.gapless.guarantee": "false",
}
"""What no option may change: nothing is lost and order holds only with these."""
_OTHER_NAMES = {
    "request.required.acks": "acks",
    "delivery.timeout.ms": "message.timeout.ms",
    "max.in.flight": "max.in.flight.requests.per.connection",
}
CREDENTIALS = frozenset({"_AUTHENTICATION", "SASL_AUTHENTICATION_FAILED"})
"""The names of the errors that a wrong user or password gives."""
_TLS_FAULTS = (
    (
        re.compile("certificate verify failed"),
        "the broker's certificate is not trusted, has run out, or is another host's; see ssl.ca.location",
    ),
    (
        re.compile(r"SSL alert number (?:4[1-6]|48|116)\b"),  # RFC 8446, section 6.2: what is said of certificates
        "the broker refuses this client's certificate or wants one; see ssl.certificate.location, ssl.key.location",
    ),
    (re.compile("PLAINTEXT broker listener"), "the broker speaks no TLS there; see security.protocol"),
)
"""What a reason holds where TLS failed, whatever the error's name: a refused certificate comes as a lost connection."""
_RIGHTS = frozenset(
    {
        "TOPIC_AUTHORIZATION_FAILED",
        "CLUSTER_AUTHORIZATION_FAILED",
        "GROUP_AUTHORIZATION_FAILED",
        "TRANSACTIONAL_ID_AUTHORIZATION_FAILED",
    }
)


def client_config(settings: Settings) -> dict[str, str]:
    """Return the options of a client. Raises UsageError; the password is in no message."""
    if not settings.kafka_bootstrap_servers:
        raise UsageError("MAILSPAN_KAFKA_BOOTSTRAP_SERVERS is not set; expected HOST:PORT, comma-separated")
    for name in settings.kafka_options:
        if _OTHER_NAMES.get(name, name) in FIXED or name == "transactional.id":
            raise UsageError(f"MAILSPAN_KAFKA_OPTIONS: {name} is fixed: nothing is lost only with what it is set to")
    config = {**settings.kafka_options, "bootstrap.servers": settings.kafka_bootstrap_servers}
    if settings.kafka_password_file:
        config[_password_option(settings.kafka_options)] = _read_password(Path(settings.kafka_password_file))
    return config


def _password_option(options: Mapping[str, str]) -> str:
    mechanism = options.get("sasl.mechanism", options.get("sasl.mechanisms", ""))
    if mechanism.upper() == "OAUTHBEARER":
        return "sasl.oauthbearer.client.secret"
    if "sasl.username" not in options and ("ssl.key.location" in options or "ssl.keystore.location" in options):
        return "ssl.key.password" if "ssl.key.location" in options else "ssl.keystore.password"
    return "sasl.password"


def _read_password(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        fault = getattr(error, "strerror", None) or "is not UTF-8"
        raise UsageError(f"MAILSPAN_KAFKA_PASSWORD_FILE: {path} cannot be read ({fault})") from None
    if not lines or not lines[0]:
        raise UsageError(f"MAILSPAN_KAFKA_PASSWORD_FILE: {path} is empty; expected a password on its first line")
    return lines[0]


def is_telling(name: str, reason: str) -> bool:
    """Whether an error says what is wrong, so that "all brokers are down", which follows from it, must not hide it."""
    return name in CREDENTIALS or _tls_fault(reason) is not None


def _tls_fault(reason: str) -> str | None:
    return next((meaning for pattern, meaning in _TLS_FAULTS if pattern.search(reason)), None)


def explain(name: str, code: int, reason: str, servers: str, doing: str) -> str:
    """Return one line about a client's error (its name and code as librdkafka has them), with what to look at."""
    if name in CREDENTIALS:
        return (
            f"Kafka at {servers} refuses the credentials ({reason});"
            " see MAILSPAN_KAFKA_OPTIONS and MAILSPAN_KAFKA_PASSWORD_FILE"
        )
    meaning = _tls_fault(reason)
    if meaning is not None:
        return f"no TLS connection to Kafka at {servers}: {meaning} in MAILSPAN_KAFKA_OPTIONS ({reason})"
    if name == "_SSL":
        return f"no TLS connection to Kafka at {servers} ({reason}); see MAILSPAN_KAFKA_OPTIONS"
    if name in _RIGHTS:
        return f"no right {doing} ({name}); see the user in MAILSPAN_KAFKA_OPTIONS and its ACLs"
    if code < 0:  # librdkafka's own: no connection, no answer
        return f"no Kafka broker answers at {servers} ({reason}); see MAILSPAN_KAFKA_BOOTSTRAP_SERVERS"
    return f"Kafka refuses {doing} ({reason})"
