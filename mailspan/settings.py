"""Settings: one frozen dataclass, read once at start from MAILSPAN_* variables and, with --config, a TOML file.

A setting is one field: its default, how its text is read, and its sentence. The environment wins over the file, a
command's own flag wins over both. A wrong value stops the start with the name, the value and what was expected; so does
a name in the file that no setting has. Other MAILSPAN_* variables are left alone: later versions have more of them.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field, fields
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

from mailspan.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

PREFIX = "MAILSPAN_"

_MOST_DAYS = 1_000_000
_INSTANCE = re.compile(r"[^\s\0]{0,200}")
_SHORTEST_INTERVAL, _LONGEST_INTERVAL = 0.05, 60.0
_HOST = re.compile(r"[^\s=,/\0]+")
_OPTION = re.compile(r"([a-z][a-z0-9._]*)[ ]*=[ ]*")
_SECRET = re.compile(r"password|secret|jaas|ssl\.key\.pem")
_TOPIC_PREFIX = re.compile(r"[A-Za-z0-9._-]{1,100}")
_INDEX_PREFIX = re.compile(r"[a-z][a-z0-9_-]{0,99}")
_SPACE = re.compile(r"[a-z0-9_-]{0,100}")
_MOST_DIGITS = 9
_ADDRESS = re.compile(
    r"(?:(?:\[(?P<literal>[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9._-]{1,32})?)\]|(?P<name>\*|[A-Za-z0-9._-]{1,253}))?:)?"
    r"(?P<port>[0-9]{1,5})"
)
_LAST_PORT = 65535
_NAME = re.compile(r"[A-Za-z0-9._:\[\]/-]{1,253}")
_HEADER = re.compile(r"(?:[A-Za-z][A-Za-z0-9-]{0,99})?")


def _text(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError
    return value


def _days(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError  # noqa: TRY004 - every wrong value is told in the same way
    if isinstance(value, str) and not value.isascii():
        raise ValueError
    days = int(value)
    if not 1 <= days < _MOST_DAYS:
        raise ValueError
    return days


def _aliases(value: object) -> dict[str, str]:
    """`mx1=mail.example.com,mx2=mail.example.com`, or the same as a table; hosts in lower case."""
    if isinstance(value, str):
        rows = [row.strip().partition("=") for row in value.split(",") if row.strip()]
        pairs = [(old.strip(), new.strip()) for old, _, new in rows]
    elif isinstance(value, dict):
        pairs = list(value.items())
    else:
        raise ValueError  # noqa: TRY004 - every wrong value is told in the same way
    for pair in pairs:
        if not all(_HOST.fullmatch(str(host)) for host in pair):
            raise ValueError
    return {old.lower(): new.lower() for old, new in pairs}


def _rejections(value: object) -> str:
    if value not in {"index", "count"}:
        raise ValueError
    return str(value)


def _options(value: object) -> dict[str, str]:
    """`sasl.mechanism=PLAIN,debug=broker,topic`: what is no KEY=VALUE belongs to the value before it."""
    options: dict[str, str] = {}
    if isinstance(value, dict):
        options = {str(key): str(each).lower() if isinstance(each, bool) else str(each) for key, each in value.items()}
    elif isinstance(value, str):
        last = None
        for part in value.split(","):
            match = _OPTION.match(part.strip())
            if match is not None:
                last = match[1]
                options[last] = part.strip()[match.end() :]
            elif last is not None:
                options[last] += f",{part}"
            elif part.strip():
                raise ValueError
    else:
        raise ValueError  # noqa: TRY004 - every wrong value is told in the same way
    if any(_SECRET.search(key) or "\0" in options[key] for key in options):
        raise ValueError
    return options


def _whole_number(least: int, most: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= _MOST_DIGITS:
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError
        return value

    return read


def _matching(pattern: re.Pattern[str]) -> Callable[[object], object]:
    def read(value: object) -> str:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise ValueError
        return value

    return read


def _interval(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError  # noqa: TRY004 - every wrong value is told in the same way
    seconds = float(value)
    if not _SHORTEST_INTERVAL <= seconds <= _LONGEST_INTERVAL:
        raise ValueError
    return seconds


def _address(value: object) -> tuple[str, int]:
    """`HOST:PORT`, `[IPv6]:PORT`, or a port alone, with or without a colon: then loopback. `*` is all addresses."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    found = _ADDRESS.fullmatch(text) if isinstance(text, str) else None
    if found is None or int(found["port"]) > _LAST_PORT:
        raise ValueError
    host = found["literal"] or found["name"] or "127.0.0.1"
    return "0.0.0.0" if host == "*" else host, int(found["port"])  # noqa: S104 - asked for


def _names(value: object) -> tuple[str, ...]:
    """`a,b`, or the same as a list."""
    texts = [each.strip() for each in value.split(",")] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(each, str) and _NAME.fullmatch(each) for each in texts):
        raise ValueError
    return tuple(each.lower() for each in texts)


def _networks(value: object) -> tuple[str, ...]:
    names = _names(value)
    for each in names:
        ip_network(each, strict=False)
    return names


def _setting(
    default: Any,  # noqa: ANN401 - each setting has its own type
    read: Callable[[object], object],
    sentence: str,
    expected: str,
    *,
    is_hidden: bool = False,
) -> Any:  # noqa: ANN401 - the same
    """Return the field of a setting: how its value is read, what it means, and what a right value looks like.

    `read` raises ValueError for a wrong value; that of a hidden one is not shown.
    """
    metadata = {"read": read, "help": sentence, "expected": expected, "hidden": is_hidden}
    return field(default_factory=lambda: default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Settings:
    """What can be set."""

    store: str = _setting(
        "",
        _text,
        "Where documents are kept: the default of --store; empty means a file in the user's data folder.",
        "sqlite:///PATH",
    )
    retention_days: int = _setting(
        90,
        _days,
        "How many days of documents `mailspan retention` keeps, today (UTC) among them.",
        "a whole number from 1 on",
    )
    host_aliases: Mapping[str, str] = _setting(
        {},
        _aliases,
        "Other names for hosts, as the log has them: documents carry the new name.",
        "LOGGED=NAME, comma-separated; in the file also a table",
    )
    relay_hosts: Mapping[str, str] = _setting(
        {},
        _aliases,
        "Names or addresses of relays whose logs are under another name: `trace` learns most of them by itself.",
        "RELAY=HOST, comma-separated; in the file also a table",
    )
    rejections: str = _setting(
        "index",
        _rejections,
        "What becomes of mail refused before it had a queue ID: a document each, or only a count (floods).",
        "index or count",
    )
    kafka_bootstrap_servers: str = _setting(
        "",
        _text,
        "The Kafka brokers that are asked first.",
        "HOST:PORT, comma-separated",
    )
    kafka_options: Mapping[str, str] = _setting(
        {},
        _options,
        "Any option of librdkafka: security.protocol, sasl.mechanism, sasl.username, ssl.ca.location, ...",
        "KEY=VALUE, comma-separated, in the file also a table; no password in it: that has a file of"
        " its own, MAILSPAN_KAFKA_PASSWORD_FILE",
        is_hidden=True,
    )
    kafka_password_file: str = _setting(
        "",
        _text,
        "A file that holds the password for Kafka (SASL, or that of the TLS key), on its first line.",
        "a path",
    )
    partitions: int = _setting(
        48,
        _whole_number(1, 10_000),
        "The number of partitions of the topics: chosen once, before the first line is sent.",
        "a number from 1 to 10000",
    )
    topic_prefix: str = _setting(
        "mail",
        _matching(_TOPIC_PREFIX),
        "What the names of the topics begin with: mail.raw, mail.transactions, ...",
        "1 to 100 letters, digits, dots, dashes and underscores",
    )
    state_dir: str = _setting(
        "",
        _text,
        "Where a producer keeps how far it came; one folder for each producer. Empty means"
        " /var/lib/mailspan for root, else the user's state folder.",
        "a path",
    )
    instance: str = _setting(
        "",
        _matching(_INSTANCE),
        "The stable name of a reducer, its own in the fleet; empty means the name of this machine.",
        "a name without blanks",
    )
    commit_interval_seconds: float = _setting(
        1.0,
        _interval,
        "How long a reducer gathers lines before it writes what came of them, in one transaction.",
        "seconds, from 0.05 to 60",
    )
    canary_seconds: int = _setting(
        10,
        _whole_number(0, 3600),
        "How often a producer sends a canary, a marked record that is followed to its index; 0 means never.",
        "whole seconds, from 0 to 3600",
    )
    metrics_address: tuple[str, int] | None = _setting(
        None,
        _address,
        "Where /metrics, /livez and /readyz of a producer, reducer, sink or page are served; empty means nowhere.",
        "HOST:PORT, [IPV6]:PORT, or :PORT, which is this machine's loopback address",
    )
    elasticsearch_url: str = _setting(
        "",
        _text,
        "The Elasticsearch that `setup` sets up; the other commands are told theirs by --store.",
        "https://HOST:PORT, several nodes of a cluster comma-separated; no user or password in it",
        is_hidden=True,
    )
    elasticsearch_api_key: str = _setting(
        "",
        _text,
        "The API key for Elasticsearch, base64 as Elasticsearch gives it; better in a file.",
        "one line of text",
        is_hidden=True,
    )
    elasticsearch_api_key_file: str = _setting(
        "",
        _text,
        "A file that holds that API key, on its first line.",
        "a path",
    )
    elasticsearch_username: str = _setting(
        "",
        _text,
        "The user for Elasticsearch, where there is no API key.",
        "a name",
    )
    elasticsearch_password: str = _setting(
        "",
        _text,
        "The password of that user; better in a file.",
        "one line of text",
        is_hidden=True,
    )
    elasticsearch_password_file: str = _setting(
        "",
        _text,
        "A file that holds that password, on its first line.",
        "a path",
    )
    elasticsearch_ca_file: str = _setting(
        "",
        _text,
        "The certificates that may sign that of Elasticsearch (PEM); empty means those of this machine.",
        "a path",
    )
    elasticsearch_fingerprint: str = _setting(
        "",
        _text,
        "In place of a CA file: the SHA-256 of the certificate of Elasticsearch itself, not of its CA.",
        "64 hex digits, with or without colons",
    )
    index_prefix: str = _setting(
        "mail-transactions",
        _matching(_INDEX_PREFIX),
        "What the names of the daily indices begin with: mail-transactions-2026.11.23.",
        "1 to 100 lower-case letters, digits, dashes and underscores, a letter first",
    )
    index_shards: int = _setting(
        1,
        _whole_number(1, 1000),
        "The number of primary shards of a daily index.",
        "a number from 1 to 1000",
    )
    index_replicas: int = _setting(
        1,
        _whole_number(0, 100),
        "The number of copies of each shard.",
        "a number from 0 to 100",
    )
    kibana_url: str = _setting(
        "",
        _text,
        "The Kibana that `setup` puts its data view, searches and dashboards into; the default of its --kibana.",
        "https://HOST:PORT, with the path that Kibana has; no user or password in it",
        is_hidden=True,
    )
    kibana_space: str = _setting(
        "",
        _matching(_SPACE),
        "The space of Kibana that they go into; empty means the default space, or that of the URL (/s/SPACE).",
        "up to 100 lower-case letters, digits, dashes and underscores",
    )
    kibana_api_key: str = _setting(
        "",
        _text,
        "The API key for Kibana: one of Elasticsearch, base64 as that gives it; better in a file.",
        "one line of text",
        is_hidden=True,
    )
    kibana_api_key_file: str = _setting(
        "",
        _text,
        "A file that holds that API key, on its first line.",
        "a path",
    )
    kibana_username: str = _setting(
        "",
        _text,
        "The user for Kibana, where there is no API key.",
        "a name",
    )
    kibana_password: str = _setting(
        "",
        _text,
        "The password of that user; better in a file.",
        "one line of text",
        is_hidden=True,
    )
    kibana_password_file: str = _setting(
        "",
        _text,
        "A file that holds that password, on its first line.",
        "a path",
    )
    kibana_ca_file: str = _setting(
        "",
        _text,
        "The certificates that may sign that of Kibana (PEM); empty means those of this machine.",
        "a path",
    )
    web_address: tuple[str, int] = _setting(
        ("127.0.0.1", 8425),
        _address,
        "Where `mailspan web` serves its page; elsewhere than on loopback only with MAILSPAN_WEB_USER_HEADER.",
        "HOST:PORT, [IPV6]:PORT, or :PORT, which is this machine's loopback address",
    )
    web_hosts: tuple[str, ...] = _setting(
        ("localhost", "127.0.0.1", "[::1]"),
        _names,
        "The names by which browsers may call the page, without a port: what is asked under others is refused.",
        "names or addresses, comma-separated; in the file also a list",
    )
    web_user_header: str = _setting(
        "",
        _matching(_HEADER),
        "The header in which a reverse proxy names the user it has authenticated; empty: nobody is asked for a name.",
        "a name like X-Forwarded-User",
    )
    web_proxies: tuple[str, ...] = _setting(
        ("127.0.0.0/8", "::1"),
        _networks,
        "The addresses of the proxies that are believed; where a header is named, all others are refused.",
        "addresses or networks, comma-separated; in the file also a list",
    )
    web_audit_log: str = _setting(
        "",
        _text,
        "The file that each look-up is written to; empty means web-audit.jsonl in MAILSPAN_STATE_DIR, or where that is"
        " empty in /var/lib/mailspan for root, else the user's state folder.",
        "a path",
    )
    web_zone: str = _setting(
        "",
        _text,
        "The time zone of the page where its reader asks for no other; empty means the machine's.",
        "a name like Europe/Madrid, UTC, or an offset like +01:00",
    )


def read_settings(environment: Mapping[str, str], config: Path | None = None) -> Settings:
    """Return the settings of the environment and of the file `config`. Raises UsageError."""
    values: dict[str, Any] = {} if config is None else _read_file(config)
    for each in fields(Settings):
        name = PREFIX + each.name.upper()
        if environment.get(name):
            values[each.name] = _read(each.name, name, environment[name])
    return Settings(**values)


def _read_file(config: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(config.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {config}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {config}: expected a TOML file: {error}") from error
    known = {(PREFIX + each.name).lower(): each.name for each in fields(Settings)}
    values: dict[str, Any] = {}
    for name, value in table.items():
        if name not in known:
            raise UsageError(f"--config {config}: no setting is named {name!r}; expected one of {', '.join(known)}")
        values[known[name]] = _read(known[name], f"{name} in {config}", value)
    return values


def _read(name: str, shown: str, value: object) -> Any:  # noqa: ANN401 - each setting has its own type
    metadata = next(each.metadata for each in fields(Settings) if each.name == name)
    try:
        return metadata["read"](value)
    except ValueError:
        what = "the value" if metadata.get("hidden") else repr(value)
        raise UsageError(f"{shown}: {what} is not right; expected {metadata['expected']}") from None
