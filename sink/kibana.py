"""Kibana over HTTP: its version, its spaces, and the import of saved objects.

By the standard library: the client of Elasticsearch wants the header of that product, which Kibana does not send. One
connection for each request; redirects are not followed, for credentials would go with them; neither an answer that
comes byte by byte nor one without an end holds it for longer than REQUEST_SECONDS or takes more memory than
_MOST_BYTES.
"""

from __future__ import annotations

import re
import socket
import ssl
import threading
from contextlib import suppress
from hashlib import sha256
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from mailspan.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sink.kibana_settings import KibanaConnection

REQUEST_SECONDS = 60.0
OLDEST = (8, 19)
_MOST_BYTES = 8 * 1024 * 1024
_LONGEST_REASON = 300
_MOST_TOLD = 3
_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})\.[0-9A-Za-z.+-]{1,40}")
_REDIRECTS = range(300, 400)
_UNKNOWN = 404
_CREDENTIALS = "see MAILSPAN_KIBANA_API_KEY_FILE or …_USERNAME, …_PASSWORD_FILE"
_NO_HEADERS: Mapping[str, str] = {}


class Answer(NamedTuple):
    """What came back: the HTTP status, and the JSON of the body, None where it was none."""

    status: int
    body: Any

    @property
    def reason(self) -> str:
        """What Kibana says is wrong, in one short line."""
        said = self.body.get("message") or self.body.get("error") if isinstance(self.body, dict) else None
        return _short(said) or f"status {self.status}"


class Kibana:
    """One Kibana, as a client of its HTTP API sees it. Each request raises StoreError for all that goes wrong."""

    def __init__(self, connection: KibanaConnection, seconds: float = REQUEST_SECONDS) -> None:
        self.connection = connection
        self._seconds = seconds
        self._shown = f"Kibana at {connection.shown}"

    def version(self) -> str:
        """Return the version. Raises StoreError where it is too old, or no Kibana."""
        found = self._ask("GET", f"{self.connection.base}/api/status", "its status")
        version = found.get("version") if isinstance(found, dict) else None
        number = version.get("number") if isinstance(version, dict) else None
        if number is None and isinstance(found, dict) and isinstance(found.get("status"), dict):
            raise StoreError(f"{self._shown} does not say its version to who asks; {_CREDENTIALS}")
        match = _VERSION.fullmatch(number) if isinstance(number, str) else None
        if match is None:
            raise StoreError(f"{self._no_kibana}; see {self.connection.setting}")
        if (int(match[1]), int(match[2])) < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            raise StoreError(f"{self._shown} is {match[0]}; {oldest} is the oldest that is supported")
        return match[0]

    def check_space(self) -> None:
        """Raise StoreError where the space does not exist: an import into one would be taken, and seen by nobody."""
        space = self.connection.space
        answer = self._request("GET", f"{self.connection.base}/api/spaces/space/{space}")
        if answer.status == _UNKNOWN:
            raise StoreError(f"{self._shown} has no space {space}; see MAILSPAN_KIBANA_SPACE")
        found = self._good(answer, f"its space {space}")
        if not isinstance(found, dict) or found.get("id") != space:
            raise StoreError(f"{self._no_kibana}; see {self.connection.setting}")

    def import_objects(self, file: bytes, objects: Sequence[Mapping[str, Any]]) -> None:
        """Import the file, which holds `objects`, over what is there. Raises StoreError that names what was refused."""
        boundary = f"mailspan-{sha256(file).hexdigest()}"
        body = (
            f"--{boundary}\r\n"
            'Content-Disposition: form-data; name="file"; filename="mailspan.ndjson"\r\n'
            "Content-Type: application/ndjson\r\n\r\n"
        ).encode() + file + f"\r\n--{boundary}--\r\n".encode()  # fmt: skip
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        path = f"{self.connection.space_path}/api/saved_objects/_import?overwrite=true"
        found = self._ask("POST", path, "the import", body, headers)
        if not isinstance(found, dict) or "success" not in found:
            raise StoreError(f"{self._no_kibana}; see {self.connection.setting}")
        count, errors = found.get("successCount"), found.get("errors")
        if found["success"] is True and count == len(objects) and not errors:
            return
        told = [_refusal(each) for each in errors] if isinstance(errors, list) else []
        more = [f"{len(told) - _MOST_TOLD} more"] if len(told) > _MOST_TOLD else []
        shown = "; ".join(told[:_MOST_TOLD] + more) or "it does not say why"
        raise StoreError(f"{self._shown} took {_short(count) or 0} of {len(objects)} objects: {shown}")

    @property
    def _no_kibana(self) -> str:
        return f"what answers at {self.connection.shown} is no Kibana, or is not ready"

    def _ask(
        self, method: str, path: str, what: str, body: bytes | None = None, headers: Mapping[str, str] = _NO_HEADERS
    ) -> Any:  # noqa: ANN401 - JSON
        return self._good(self._request(method, path, body, headers), what)

    def _good(self, answer: Answer, what: str) -> Any:  # noqa: ANN401 - JSON
        status, reason = answer.status, answer.reason
        if status == 200:  # noqa: PLR2004 - HTTP's OK
            return answer.body
        meanings = {
            401: f"{self._shown} refuses the credentials ({reason}); {_CREDENTIALS}",
            403: f"{self._shown} gives no right to {what} ({reason}); see the privileges of the API key or user",
            404: f"{self._no_kibana} (status 404); see {self.connection.setting}",
            503: f"{self._shown} is not ready ({reason})",
        }
        raise StoreError(meanings.get(status, f"{self._shown} refuses {what} ({status}: {reason})"))

    def _request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = _NO_HEADERS
    ) -> Answer:
        sent = {"kbn-xsrf": "mailspan", "Accept": "application/json", **headers}
        if self.connection.authorization:
            sent["Authorization"] = self.connection.authorization
        try:
            status, location, payload = self._exchange(method, path, body, sent)
        except TimeoutError:
            raise self._no_answer(f"no answer within {self._seconds:.0f} s") from None
        except ssl.SSLError as error:
            if "WRONG_VERSION_NUMBER" in str(error):
                reason = "it speaks no TLS: is it http:// and not https://?"
                raise self._no_answer(reason) from None
            raise StoreError(
                f"no TLS connection to {self._shown} ({_short(error)}); see MAILSPAN_KIBANA_CA_FILE"
            ) from None
        except (OSError, HTTPException) as error:
            raise self._no_answer(_short(error) or type(error).__name__) from None
        if status in _REDIRECTS:
            where = _short(location) or "nowhere"
            raise StoreError(
                f"what answers at {self.connection.shown} sends elsewhere (status {status}, {where});"
                f" see {self.connection.setting}: it is the address of Kibana itself, with its path"
            )
        try:
            return Answer(status, orjson.loads(payload))
        except orjson.JSONDecodeError:
            return Answer(status, None)

    def _no_answer(self, reason: str) -> StoreError:
        return StoreError(f"no Kibana answers at {self.connection.shown} ({reason}); see {self.connection.setting}")

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> tuple[int, str, bytes]:
        """Send one request; return status, Location and body. Raises OSError, HTTPException; TimeoutError when late."""
        host, port = self.connection.host, self.connection.port
        context = self._context() if self.connection.scheme == "https" else None
        connected = socket.create_connection((host, port), self._seconds)
        is_late = threading.Event()
        sock = connected
        if context is not None:
            sock = context.wrap_socket(connected, server_hostname=host, do_handshake_on_connect=False)

        def give_up() -> None:
            is_late.set()
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

        # A timeout of the socket counts from each byte on; this one counts from the beginning.
        timer = threading.Timer(self._seconds, give_up)
        timer.daemon = True
        timer.start()
        try:
            if isinstance(sock, ssl.SSLSocket):
                sock.do_handshake()
            http = HTTPConnection(host, port)
            http.sock = sock
            http.request(method, path, body, dict(headers))
            answer = http.getresponse()
            payload = answer.read(_MOST_BYTES + 1)
        except (OSError, HTTPException) as error:
            if is_late.is_set():
                raise TimeoutError from error
            raise
        finally:
            timer.cancel()
            sock.close()
        if is_late.is_set():
            raise TimeoutError  # what was cut off looks like an end where a length was not given
        if len(payload) > _MOST_BYTES:
            raise HTTPException("an answer without an end")
        return answer.status, answer.getheader("Location") or "", payload

    def _context(self) -> ssl.SSLContext:
        file = self.connection.ca_file
        try:
            return ssl.create_default_context(cafile=file or None)
        except (OSError, ssl.SSLError) as error:
            raise StoreError(f"MAILSPAN_KIBANA_CA_FILE: {file} holds no certificates in PEM ({error})") from None


def _refusal(error: object) -> str:
    """Return which object was refused, and why, of one entry of an import's errors."""
    if not isinstance(error, dict):
        return _short(error)
    why = error.get("error")
    if not isinstance(why, dict):
        why = {}
    meta = error.get("meta")
    title = meta.get("title") if isinstance(meta, dict) else error.get("title")
    missing = why.get("references")
    parts = [_short(why.get("type")), _short(why.get("message"))]
    if isinstance(missing, list):
        parts += [
            f"{_short(each.get('type'))} {_short(each.get('id'))}"
            for each in missing[:_MOST_TOLD]
            if isinstance(each, dict)
        ]
    reason = ", ".join(part for part in parts if part)
    return f"{_short(error.get('type'))} {_short(title or error.get('id'))} ({reason or 'no reason given'})"


def _short(value: object) -> str:
    """Return text of others in one short line."""
    return " ".join(str(value if value is not None else "").split())[:_LONGEST_REASON]
