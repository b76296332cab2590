"""What every Elasticsearch client of ours is told, and what its errors mean to the person who must act.

No client is imported here: sink/elasticsearch.py is the file for that. Secrets come from files or the environment, and
are in no message.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mailspan.errors import UsageError

if TYPE_CHECKING:
    from mailspan.settings import Settings

_SERVICE = "ELASTICSEARCH"
_URL = f"MAILSPAN_{_SERVICE}_URL"
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_HOST = re.compile(r"[A-Za-z0-9_.-]+")
_SCHEMES = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach Elasticsearch: `urls` are nodes of one cluster; `authorization` is a header's value, or empty."""

    urls: tuple[str, ...]
    setting: str
    """What names these addresses, as messages name it."""
    authorization: str = field(default="", repr=False)
    ca_file: str = ""
    fingerprint: str = ""
    """SHA-256 of the server's own certificate, as 64 hex digits."""

    @property
    def shown(self) -> str:
        """The addresses, as messages name them."""
        return ", ".join(self.urls)


def is_elasticsearch(store: str) -> bool:
    """Whether a --store is the URL of an Elasticsearch."""
    return store.lower().startswith(("http://", "https://"))


def connection_of(settings: Settings, store: str = "") -> Connection:
    """Return how to reach the Elasticsearch of the settings, or that of `store`. Raises UsageError without secrets."""
    name, text = ("--store", store) if store else (_URL, settings.elasticsearch_url)
    urls = tuple(url_of(name, each.strip()) for each in text.split(",") if each.strip())
    if not urls:
        raise UsageError(f"{_URL} is not set; expected https://HOST:9200, several nodes comma-separated")
    authorization = authorization_of(settings)
    if settings.elasticsearch_ca_file and not Path(settings.elasticsearch_ca_file).is_file():
        raise UsageError(f"MAILSPAN_ELASTICSEARCH_CA_FILE: {settings.elasticsearch_ca_file} is no file")
    fingerprint = settings.elasticsearch_fingerprint.replace(":", "").lower()
    if fingerprint and not _FINGERPRINT.fullmatch(fingerprint):
        raise UsageError("MAILSPAN_ELASTICSEARCH_FINGERPRINT: expected the SHA-256 of a certificate: 64 hex digits")
    if fingerprint and settings.elasticsearch_ca_file:
        raise UsageError("set MAILSPAN_ELASTICSEARCH_CA_FILE or MAILSPAN_ELASTICSEARCH_FINGERPRINT, not both")
    setting = "--store or MAILSPAN_STORE" if store else _URL
    return Connection(urls, setting, authorization, settings.elasticsearch_ca_file, fingerprint)


def url_of(name: str, text: str, service: str = _SERVICE) -> str:
    """Return one address with its port; what it is told wrongly is not repeated: there may be a password.

    `name` is what told it, `service` the part of the names of settings. Raises UsageError.
    """
    try:
        parts = urlsplit(text)
        port = parts.port
        host = _host(parts.hostname or "")
    except ValueError:
        raise UsageError(f"{name}: expected https://HOST:PORT") from None
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            f"{name} holds a user or password; they go into MAILSPAN_{service}_USERNAME and"
            f" MAILSPAN_{service}_PASSWORD_FILE, or MAILSPAN_{service}_API_KEY_FILE"
        )
    if parts.scheme not in _SCHEMES or parts.query or parts.fragment:
        raise UsageError(f"{name}: expected https://HOST:PORT")
    return f"{parts.scheme}://{host}:{_SCHEMES[parts.scheme] if port is None else port}{parts.path.rstrip('/')}"


def _host(text: str) -> str:
    """Return a host as a URL has it, in ASCII. Raises ValueError for what is none."""
    if ":" in text:
        address = IPv6Address(text)
        if address.scope_id is not None:
            raise ValueError
        return f"[{address}]"
    host = text.encode("idna").decode("ascii")
    if not _HOST.fullmatch(host):
        raise ValueError
    return host


def authorization_of(settings: Settings, service: str = _SERVICE) -> str:
    """Return the value of the header that says who asks; empty where the settings name nobody. Raises UsageError.

    `service` is the part of the names of settings.
    """
    name = f"MAILSPAN_{service}"
    key, password = (_secret(settings, service, kind) for kind in ("API_KEY", "PASSWORD"))
    username: str = getattr(settings, f"{service}_USERNAME".lower())
    if key and (password or username):
        raise UsageError(f"set {name}_API_KEY_FILE, or a user and password, not both")
    if bool(password) != bool(username):
        raise UsageError(f"{name}_USERNAME and {name}_PASSWORD_FILE go together")
    if not username.isprintable() or ":" in username:
        raise UsageError(f"{name}_USERNAME: a name with colons or controls cannot be sent (RFC 7617)")
    if key:
        return f"ApiKey {key}"
    if password:
        pair = f"{username}:{password}".encode()
        return f"Basic {base64.b64encode(pair).decode('ascii')}"
    return ""


def _secret(settings: Settings, service: str, kind: str) -> str:
    """Return a secret that stands in the environment or on the first line of a file."""
    name = f"MAILSPAN_{service}_{kind}"
    value: str = getattr(settings, f"{service}_{kind}".lower())
    file: str = getattr(settings, f"{service}_{kind}_FILE".lower())
    if value and file:
        raise UsageError(f"set {name} or {name}_FILE, not both")
    if file:
        shown = f"{name}_FILE: {file}"
        try:
            lines = Path(file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            fault = getattr(error, "strerror", None) or "is not UTF-8"
            raise UsageError(f"{shown} cannot be read ({fault})") from None
        value = lines[0].strip() if lines else ""
        if not value:
            raise UsageError(f"{shown} is empty; expected it on the first line")
    if not value.isprintable() or (kind == "API_KEY" and not value.isascii()):
        raise UsageError(f"{name}: there are characters in it that cannot be sent")
    return value


_MEANINGS = {
    401: "refuses the credentials ({reason}); see MAILSPAN_ELASTICSEARCH_API_KEY_FILE or …_USERNAME, …_PASSWORD_FILE",
    403: "gives no right {doing} ({reason}); see the privileges of the API key or user",
    404: "has not what is needed {doing} ({reason}); run `mailspan setup`",
}


def explain(status: int, reason: str, shown: str, doing: str) -> str:
    """Return one line about an answer that is an error, with what to look at; `doing` is "to …"."""
    meaning = _MEANINGS.get(status, "cannot be asked {doing} now ({status}: {reason})")
    return f"Elasticsearch at {shown} {meaning.format(reason=reason, doing=doing, status=status)}"


# As Python says them.
_NO_TLS = "WRONG_VERSION_NUMBER"
_HUNG_UP = "RemoteDisconnected"


def explain_no_answer(reason: str, shown: str, setting: str, *, is_tls: bool = False) -> str:
    """Return one line about an Elasticsearch that does not answer, with the setting to look at."""
    if is_tls and _NO_TLS in reason:
        return f"what answers at {shown} speaks no TLS ({reason}); is it http:// and not https://?"
    if is_tls:
        return (
            f"no TLS connection to Elasticsearch at {shown} ({reason});"
            " see MAILSPAN_ELASTICSEARCH_CA_FILE or MAILSPAN_ELASTICSEARCH_FINGERPRINT"
        )
    hint = " (or is it https:// and not http://?)" if _HUNG_UP in reason and "http://" in shown else ""
    return f"no Elasticsearch answers at {shown} ({reason}){hint}; see {setting}"
