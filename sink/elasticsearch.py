"""Elasticsearch over HTTP: the only file that imports the client.

It sends one request and returns whatever came back; to the next node where one of several cannot be reached, and else
never again by itself. What to do about an answer is decided elsewhere. 7.17, 8.x and 9.x are asked in the same way:
plain JSON, without the headers by which a client asks for the manners of one version.
"""

from __future__ import annotations

import logging
import math
import ssl
import time
from copy import copy
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import urlencode, urlsplit

import elasticsearch
import orjson

from mailspan.errors import MailspanError, StoreError
from sink.elasticsearch_settings import explain, explain_no_answer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sink.elasticsearch_settings import Connection

REQUEST_SECONDS = 30.0
_CONNECTIONS = 4
_PRODUCT = "Elasticsearch"
_OLDEST = (7, 17)
_LONGEST_REASON = 300
_NOT_NOW = frozenset({429, 502, 503, 504})
"""It is there, and cannot answer: without a master, or with too much to do; or what stands before it cannot."""
_OF_ANOTHER = frozenset({301, 302, 303, 307, 308, 404, 405, 501})
"""What no Elasticsearch answers to GET /."""

# The client tells of each request at INFO; with the library's own handlers it is nobody's business here.
for _name in ("elastic_transport", "elasticsearch"):
    logging.getLogger(_name).addHandler(logging.NullHandler())
    logging.getLogger(_name).propagate = False


class _Json(elasticsearch.JsonSerializer):
    """Reads answers by orjson, in a third of the time; what it refuses (half a surrogate pair) as the client does."""

    def json_loads(self, data: bytes) -> Any:  # noqa: ANN401 - JSON
        try:
            return orjson.loads(data)
        except ValueError:
            try:
                return super().json_loads(data)
            except RecursionError:
                raise ValueError("it is nested too deeply") from None


class NoAnswerError(MailspanError):
    """Nobody answered, not in time, or not now: the request may or may not have been carried out."""


class Answer(NamedTuple):
    """What came back: the HTTP status, and the JSON of the body (text where it was none, None where it was empty)."""

    status: int
    body: Any

    @property
    def is_good(self) -> bool:
        """Whether the request was carried out."""
        return self.status < 300  # noqa: PLR2004 - HTTP's 2xx

    @property
    def kind(self) -> str:
        """The type of the error, as Elasticsearch names it; empty where it gives none."""
        return str(self._error.get("type", ""))

    @property
    def reason(self) -> str:
        """The reason of an error in one short line."""
        text = str(self._error.get("reason") or self._error.get("type") or "")
        if not text and isinstance(self.body, dict):
            text = str(self.body.get("error", ""))
        elif not text and isinstance(self.body, str):
            text = self.body
        return " ".join(text.split())[:_LONGEST_REASON] or f"status {self.status}"

    @property
    def _error(self) -> Mapping[str, Any]:
        error = self.body.get("error") if isinstance(self.body, dict) else None
        return error if isinstance(error, dict) else {}


class Server:
    """An Elasticsearch cluster; use as a context manager, or close it."""

    def __init__(self, connection: Connection, connections: int = _CONNECTIONS) -> None:
        """Make a client; nothing is sent yet. Raises StoreError for certificates that cannot be read.

        As many requests as there are `connections` can be under way at once; more wait for one that is over.
        """
        self._deadline = math.inf
        self.shown = connection.shown
        self._setting = connection.setting
        self._other_nodes = len(connection.urls) - 1
        headers = {"content-type": "application/json", "accept": "application/json"}
        if connection.authorization:
            headers["authorization"] = connection.authorization
        self._headers = headers
        options: dict[str, Any] = {}
        if any(url.startswith("https") for url in connection.urls):
            options = _tls_options(connection)
        self._client = elasticsearch.Elasticsearch(
            [_with_path(url) for url in connection.urls],
            connections_per_node=connections,
            serializers={_Json.mimetype: _Json()},
            dead_node_backoff_factor=0.1,
            max_dead_node_backoff=5.0,
            **options,
        )

    def __enter__(self) -> Self:
        """Return the server itself."""
        return self

    def __exit__(self, *_exception: object) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def until(self, deadline: float) -> Self:
        """Return the same server, which answers nothing past `deadline` (of time.monotonic): that is a NoAnswerError.

        It has the same connections: only the first one is to be closed.
        """
        other = copy(self)
        other._deadline = deadline  # noqa: SLF001 - of our own class
        return other

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: object = None,
        seconds: float = REQUEST_SECONDS,
    ) -> Answer:
        """Send one request and return the answer, good or bad. Blocks for up to `seconds`. Raises NoAnswerError.

        `path` is quoted already; `body` is bytes that are sent as they are, or what is encoded as JSON.
        """
        seconds = min(seconds, self._deadline - time.monotonic())
        if seconds <= 0:
            raise NoAnswerError(f"Elasticsearch at {self.shown} was not asked on: the time for it was over")
        payload = body if body is None or isinstance(body, bytes) else orjson.dumps(body)
        target = f"{path}?{urlencode(query)}" if query else path
        try:
            meta, found = self._client.transport.perform_request(
                method,
                target,
                body=payload,
                headers=self._headers,
                request_timeout=seconds,
                max_retries=self._other_nodes,  # said here: the client's own options would be passed over
                retry_on_status=(),
                retry_on_timeout=False,
            )
        except elasticsearch.SerializationError:
            raise self._no_elasticsearch() from None
        except elasticsearch.TransportError as error:
            is_tls = isinstance(error, elasticsearch.SSLError)
            raise NoAnswerError(
                explain_no_answer(_reason(error, seconds), self.shown, self._setting, is_tls=is_tls)
            ) from None
        answer = Answer(meta.status, found)
        if answer.is_good and not isinstance(found, dict | list):
            raise self._no_elasticsearch()
        return answer

    def ask(self, method: str, path: str, doing: str, *, needs: str = "", **options: Any) -> Any:  # noqa: ANN401 - JSON
        """Send one request and return the JSON of a good answer; see `good`. Raises StoreError and NoAnswerError."""
        return self.good(self.request(method, path, **options), doing, needs=needs)

    def good(self, answer: Answer, doing: str, *, needs: str = "") -> Any:  # noqa: ANN401 - JSON
        """Return the JSON of a good answer, which must have the field `needs` where that is given.

        Raises StoreError, with `doing` ("to …") in its text, for one that is an error, and NoAnswerError where it says
        that it cannot answer now, or where what answered is no Elasticsearch.
        """
        if not answer.is_good:
            kind = NoAnswerError if answer.status in _NOT_NOW else StoreError
            raise kind(explain(answer.status, answer.reason, self.shown, doing))
        if needs and (not isinstance(answer.body, dict) or needs not in answer.body):
            raise self._no_elasticsearch()
        return answer.body

    def _no_elasticsearch(self) -> NoAnswerError:
        reason = "what answers speaks no JSON, or not that of Elasticsearch"
        return NoAnswerError(explain_no_answer(reason, self.shown, self._setting))

    def version(self) -> tuple[int, int]:
        """Return the server's version. Raises StoreError where it is none of those that are supported."""
        answer = self.request("GET", "/")
        if answer.status in _OF_ANOTHER:
            raise StoreError(f"{self.shown} is no Elasticsearch (status {answer.status}); see its host, port and path")
        body = self.good(answer, "to be asked")
        found = body.get("version", {}) if isinstance(body, dict) else {}
        number, distribution = str(found.get("number", "")), str(found.get("distribution", _PRODUCT.lower()))
        parts = number.split(".")
        if distribution != _PRODUCT.lower() or len(parts) < 2 or not all(part.isdecimal() for part in parts[:2]):  # noqa: PLR2004
            raise StoreError(f"{self.shown} is no Elasticsearch ({distribution} {number or 'of no version'})")
        version = int(parts[0]), int(parts[1])
        if version < _OLDEST:
            raise StoreError(f"Elasticsearch at {self.shown} is {number}; 7.17 is the oldest that is supported")
        return version


def _with_path(url: str) -> dict[str, str | int]:
    parts = urlsplit(url)
    return {
        "scheme": parts.scheme,
        "host": str(parts.hostname),
        "port": parts.port or 0,
        **({"path_prefix": parts.path} if parts.path else {}),
    }


def _tls_options(connection: Connection) -> dict[str, Any]:
    if connection.fingerprint:
        return {"ssl_assert_fingerprint": connection.fingerprint, "ssl_context": _pinned(connection.fingerprint)}
    try:
        # The machine's own certificates, which an administrator adds to, and not a list that came with a library.
        return {"ssl_context": ssl.create_default_context(cafile=connection.ca_file or None)}
    except (OSError, ssl.SSLError) as error:
        raise StoreError(
            f"MAILSPAN_ELASTICSEARCH_CA_FILE: {connection.ca_file} holds no certificates in PEM ({error})"
        ) from None


def _pinned(fingerprint: str) -> ssl.SSLContext:
    """Return a context for the server whose own certificate has this SHA-256, and for no other.

    The client alone would take that of a CA that the server sends, too, and never look at what that has signed:
    anybody can send the certificate of a CA beside one that names it.
    """

    class Pinned(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - as in the base class
            super().do_handshake(block)
            found = sha256(self.getpeercert(binary_form=True) or b"").hexdigest()
            if found != fingerprint:
                raise ssl.SSLError(1, f"the SHA-256 of its own certificate is {found}")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.sslsocket_class = Pinned
    return context


def _reason(error: elasticsearch.TransportError, seconds: float) -> str:
    if isinstance(error, elasticsearch.ConnectionTimeout):
        return f"no answer within {seconds:.0f} s"
    text = " ".join(str(error.message).split())
    return text.rpartition(">: ")[2][:_LONGEST_REASON]
