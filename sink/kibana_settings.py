"""How Kibana is reached: its address, its space and who asks, from the settings. Secrets are in no message."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mailspan.errors import UsageError
from sink.elasticsearch_settings import authorization_of, url_of

if TYPE_CHECKING:
    from mailspan.settings import Settings

SERVICE = "KIBANA"
_SPACE_PATH = re.compile(r"(?P<base>.*)/s/(?P<space>[a-z0-9_-]+)")
_PATH = re.compile(r"(?:/[A-Za-z0-9._~%-]+)*")
DEFAULT_SPACE = "default"


@dataclass(frozen=True, slots=True)
class KibanaConnection:
    """How to reach one Kibana; `base` is the path that it has, without the space and without a slash at its end."""

    scheme: str
    host: str
    port: int
    base: str
    space: str
    setting: str
    """What named the address, as messages name it."""
    authorization: str = field(default="", repr=False)
    ca_file: str = ""

    @property
    def shown(self) -> str:
        """The address, as messages name it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.base}"

    @property
    def space_path(self) -> str:
        """What stands before the paths of requests that are for the space."""
        return self.base if self.space == DEFAULT_SPACE else f"{self.base}/s/{self.space}"


def kibana_of(settings: Settings, url: str = "") -> KibanaConnection:
    """Return how to reach the Kibana of the settings, or that of `url`, which --kibana gave. Raises UsageError."""
    name, text = ("--kibana", url) if url else ("MAILSPAN_KIBANA_URL", settings.kibana_url)
    parts = urlsplit(url_of(name, text.strip(), SERVICE))
    if not _PATH.fullmatch(parts.path):
        raise UsageError(f"{name}: expected https://HOST:PORT, with the path that Kibana has")
    found = _SPACE_PATH.fullmatch(parts.path)
    base, space = (found["base"], found["space"]) if found else (parts.path, "")
    if space and settings.kibana_space and space != settings.kibana_space:
        raise UsageError(f"{name} names the space {space}, and MAILSPAN_KIBANA_SPACE {settings.kibana_space}")
    if settings.kibana_ca_file and not Path(settings.kibana_ca_file).is_file():
        raise UsageError(f"MAILSPAN_KIBANA_CA_FILE: {settings.kibana_ca_file} is no file")
    return KibanaConnection(
        parts.scheme,
        str(parts.hostname),
        parts.port or 0,
        base,
        space or settings.kibana_space or DEFAULT_SPACE,
        name,
        authorization_of(settings, SERVICE),
        settings.kibana_ca_file,
    )
