"""The WSGI application (PEP 3333): who may ask, what is asked, the look-up, the audit log, the page.

Read-only: GET and HEAD. A look-up is answered only once its line is in the audit log. Whatever goes wrong with a store
is one plain sentence for the reader; the operator is told the rest by `report`. Every answer forbids scripts, frames
and caches. The only file that imports Werkzeug.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl

from werkzeug.wrappers import Request, Response

from mailspan.errors import MailspanError, StoreError, UsageError
from search.explain import explain
from search.explain_text import explain_lines
from search.output import mail_of
from web.audit_log import AuditError
from web.form import FIRST, MORE, NUMBERS, SWITCHES, Asked, read_fields, read_search
from web.lookups import find_mails, find_meant, find_traces
from web.picture import picture_of
from web.trace_views import traced
from web.views import Clock, row_of, transaction_of, url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import tzinfo
    from wsgiref.types import StartResponse, WSGIEnvironment

    from search.trace import Trace
    from sink.store import Document, DocumentReader
    from web.access import Access
    from web.audit_log import AuditLog
    from web.figures import WebFigures
    from web.pages import Pages
    from web.stores import Store

ANSWER_SECONDS = 20.0
"""What a store has not answered by then is given up."""
MOST_LOOKUPS = 8
"""So many at once: MOST_WAITING others wait, for WAIT_SECONDS, and pages that look up nothing never do."""
MOST_WAITING = 24
WAIT_SECONDS = 5.0
LONGEST_QUERY = 8000
"""Bytes of a query string."""
_MOST_FIELDS = 40
_CROWDED = "Too many others are looking things up just now; try again in a moment."

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none';"
        " base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_HTML = "text/html; charset=utf-8"
_TITLES = {
    400: "This cannot be asked",
    401: "Who are you?",
    403: "Not from here",
    404: "Nothing found",
    405: "This page only reads",
    414: "Too long",
    421: "Not by that name",
    500: "Something is wrong here",
    502: "The store cannot be read",
    503: "Not now",
}


class _AnswerError(Exception):
    """The answer is an error: its status and one sentence."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class _Page(NamedTuple):
    """A page to be made: its template and values, and how much was found, for the audit log."""

    template: str
    values: Mapping[str, Any]
    found: int
    status: int = 200
    gaps: tuple[str, ...] | None = None
    """What was asked for and is not there, where that is not all that the reader missed."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the application works with; `zone` None is the machine's.

    `read_zone` takes the text of a zone and what asked for it, and raises UsageError.
    """

    store: Store
    access: Access
    audit: AuditLog
    pages: Pages
    figures: WebFigures
    relay_hosts: Mapping[str, str]
    zone: tzinfo | None
    zone_name: str
    read_zone: Callable[[str, str], tzinfo]
    report: Callable[[str], None]
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    answer_seconds: float = ANSWER_SECONDS
    wait_seconds: float = WAIT_SECONDS


@dataclass(frozen=True, slots=True)
class _Question:
    """One look-up: the fields that were asked, and in which zone."""

    values: Mapping[str, str]
    clock: Clock
    zone_asked: str
    now: datetime

    @property
    def id(self) -> str:
        """What names the mail. Raises _AnswerError."""
        if "id" not in self.values:
            raise _AnswerError(400, "Which mail? A queue ID, message ID or the ID of a transaction is needed.")
        return self.values["id"]


class App:
    """The application; call it with a WSGI environment. Any thread may."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._places = threading.BoundedSemaphore(MOST_LOOKUPS)
        self._queue = threading.BoundedSemaphore(MOST_LOOKUPS + MOST_WAITING)
        self._lookups: dict[str, tuple[str, Callable[[DocumentReader, _Question], _Page]]] = {
            "/": ("search", self._search),
            "/transaction": ("transaction", self._transaction),
            "/trace": ("trace", self._trace),
            "/explain": ("explain", self._explain),
        }

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        started = time.monotonic()
        request = Request(environ)
        page = self._lookups[request.path][0] if request.path in self._lookups else "other"
        try:
            response = self._answer(request)
        except _AnswerError as error:
            response = self._error(error.status, error.text)
        except Exception as error:  # noqa: BLE001 - a fault of ours must not show its inside
            self._around.report(f"{request.path[:100]} failed ({type(error).__name__}: {error})")
            response = self._error(500, "This is a fault of the program; its operator was told.")
        for name, value in HEADERS.items():
            response.headers[name] = value
        self._around.figures.note(page, response.status_code, time.monotonic() - started)
        return response(environ, start_response)

    def _answer(self, request: Request) -> Response:
        around = self._around
        refusal = around.access.refusal(request.headers, request.remote_addr or "")
        if refusal is not None:
            raise _AnswerError(refusal.status, refusal.text)
        if request.method not in {"GET", "HEAD"}:
            response = self._error(405, "Nothing can be changed here: ask with GET.")
            response.headers["Allow"] = "GET, HEAD"
            return response
        if len(request.query_string) > LONGEST_QUERY:
            raise _AnswerError(414, f"The question is longer than {LONGEST_QUERY:,} bytes.")
        if request.path in around.pages.files:
            kind, body = around.pages.files[request.path]
            return Response(body, content_type=kind)
        if request.path not in self._lookups:
            raise _AnswerError(404, "There is no such page.")
        return self._look_up(request)

    def _look_up(self, request: Request) -> Response:
        name, find = self._lookups[request.path]
        entry: dict[str, object] = {
            "time": self._around.now().isoformat(timespec="milliseconds"),
            "user": self._around.access.user(request.headers),
            "peer": request.remote_addr,
            "page": name,
        }
        pairs = _pairs(request)
        asked: Asked | None = None
        try:
            if name == "search":
                asked = read_search(pairs)
                values = asked.values
            else:
                values = read_fields(pairs, ("id", "zone", "page"))
        except UsageError as error:
            raise _AnswerError(400, str(error)) from None
        try:
            question = self._question(values)
        except UsageError as error:
            return self._bad_form(asked, str(error)) if asked is not None else self._error(400, str(error))
        if asked is not None and not asked.is_search:
            return self._html("search", self._form(asked, question))
        entry["asked"] = values
        started = time.monotonic()
        try:
            page = self._found(find, question)
            answer = self._html(page.template, page.values, page.status)
        except UsageError as error:
            self._log({**entry, "status": 400, "found": None}, started)
            return self._bad_form(asked, str(error)) if asked is not None else self._error(400, str(error))
        except Exception as error:
            status = error.status if isinstance(error, _AnswerError) else 500
            self._log({**entry, "status": status, "found": None}, started)
            raise
        self._log({**entry, "status": page.status, "found": page.found}, started)
        return answer

    def _log(self, entry: Mapping[str, object], started: float) -> None:
        try:
            self._around.audit.write({**entry, "seconds": round(time.monotonic() - started, 3)})
        except AuditError as error:
            self._around.report(str(error))
            raise _AnswerError(503, "This look-up cannot be written to the audit log, so it is not answered.") from None

    def _found(self, find: Callable[[DocumentReader, _Question], _Page], question: _Question) -> _Page:
        """Look up, with one of the places that there are and a deadline. Raises _AnswerError and UsageError."""
        with self._place():
            return self._read(find, question, time.monotonic() + self._around.answer_seconds)

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Hold one of the places. Raises _AnswerError where none gets free, or too many wait for one already."""
        if not self._queue.acquire(blocking=False):
            raise _AnswerError(503, _CROWDED)
        try:
            if not self._places.acquire(timeout=self._around.wait_seconds):
                raise _AnswerError(503, _CROWDED)
            try:
                yield
            finally:
                self._places.release()
        finally:
            self._queue.release()

    def _read(self, find: Callable[[DocumentReader, _Question], _Page], question: _Question, deadline: float) -> _Page:
        try:
            with self._around.store.reader(deadline) as reader:
                page = find(reader, question)
                told = {"faults": tuple(reader.faults), "gaps": tuple(reader.gaps) if page.gaps is None else page.gaps}
                return page._replace(values={**page.values, **told})
        except UsageError:
            raise
        except MailspanError as error:
            self._around.report(str(error))
            if time.monotonic() >= deadline:
                seconds = f"{self._around.answer_seconds:.0f} seconds"
                raise _AnswerError(503, f"The store took longer than {seconds}: ask for a shorter time.") from None
            if isinstance(error, StoreError):
                raise _AnswerError(502, "The store of mail cannot be read; the operator's log says why.") from None
            raise _AnswerError(503, "The store of mail does not answer now; try again in a moment.") from None

    def _question(self, values: Mapping[str, str]) -> _Question:
        zone_asked = values.get("zone", "")
        zone = self._around.zone
        if zone_asked:
            zone = self._around.read_zone(zone_asked, "Time zone")
        return _Question(values, Clock(zone), zone_asked, self._around.now())

    # -- the pages

    def _search(self, reader: DocumentReader, question: _Question) -> _Page:
        asked = Asked(question.values)
        results = find_mails(reader, asked, question.now, question.clock.zone)
        rows = [row_of(pages, _now_ms(question)) for pages in results.mails]
        values = {**self._form(asked, question), "results": results, "rows": rows}
        if results.onward is not None:
            values["onward"] = f"/?{asked.with_values(**results.onward)}"
        first = {name: value for name, value in asked.values.items() if name not in ("before", "skip")}
        values["first"] = url("/", **first)
        return _Page("search", values, len(rows))

    def _transaction(self, reader: DocumentReader, question: _Question) -> _Page:
        number = question.values.get("page", "0")
        if not (number.isascii() and number.isdecimal() and len(number) < 8):  # noqa: PLR2004 - far more than there are
            raise _AnswerError(400, "page: expected a number.")
        mails = find_meant(reader, question.id, question.now)
        if len(mails) != 1:
            return self._several(mails, question)
        found = transaction_of(mails[0], int(number), _now_ms(question))
        return _Page("transaction", {**self._base(question), "found": found, "mail": found.row}, 1)

    def _explain(self, reader: DocumentReader, question: _Question) -> _Page:
        mails = find_meant(reader, question.id, question.now)
        if len(mails) != 1:
            return self._several(mails, question)
        explanation = explain(mails[0], now_ms=_now_ms(question))
        lines = list(explain_lines(explanation, question.clock.zone))
        mail = row_of(mails[0], _now_ms(question))
        values = {**self._base(question), "found": explanation, "lines": lines, "mail": mail}
        return _Page("explain", values, 1)

    def _trace(self, reader: DocumentReader, question: _Question) -> _Page:
        traces, gaps = find_traces(reader, question.id, question.now, self._around.relay_hosts)
        if len(traces) != 1:
            return self._several_traces(traces, question)._replace(gaps=gaps)
        found = traced(traces[0], question.clock)
        values = {**self._base(question), "found": found, "picture": picture_of(traces[0], question.clock)}
        mails = [[node.document] for node in traces[0].nodes if node.id == mail_of({"id": question.id})]
        values["mail"] = row_of(mails[0] if mails else [traces[0].nodes[0].document], _now_ms(question))
        return _Page("trace", values, 1, gaps=gaps)

    def _several(self, mails: Sequence[Sequence[Document]], question: _Question) -> _Page:
        rows = [row_of(pages, _now_ms(question)) for pages in mails]
        values = {**self._base(question), "rows": rows, "number": len(rows), "asked_id": question.id}
        return _Page("several", values, len(rows), 200 if rows else 404)

    def _several_traces(self, traces: Sequence[Trace], question: _Question) -> _Page:
        found = [traced(each, question.clock) for each in traces]
        values = {**self._base(question), "traces": found, "number": len(found), "asked_id": question.id}
        return _Page("traces", values, len(found), 200 if found else 404)

    def _form(self, asked: Asked, question: _Question) -> dict[str, Any]:
        return {
            **self._base(question),
            "asked": asked,
            "first_fields": FIRST,
            "more_fields": MORE,
            "switches": SWITCHES,
            "numbers": NUMBERS,
            "rows": None,
            "onward": None,
            "fault": "",
            "faults": (),
            "gaps": (),
        }

    def _bad_form(self, asked: Asked, fault: str) -> Response:
        values = {**asked.values, "zone": ""}
        question = self._question(values)
        return self._html("search", {**self._form(asked, question), "fault": fault}, 400)

    def _base(self, question: _Question) -> dict[str, Any]:
        def link(path: str, **values: str) -> str:
            return url(path, **values, zone=question.zone_asked)

        return {"clock": question.clock, "link": link, "zone_name": question.zone_asked or self._around.zone_name}

    def _html(self, template: str, values: Mapping[str, Any], status: int = 200) -> Response:
        return Response(self._around.pages.html(template, values), status, content_type=_HTML)

    def _error(self, status: int, text: str) -> Response:
        values = {"title": _TITLES.get(status, "Error"), "text": text, "link": url, "zone_name": ""}
        response = self._html("error", values, status)
        if status == 503:  # noqa: PLR2004 - HTTP's own
            response.headers["Retry-After"] = "10"
        return response


def _now_ms(question: _Question) -> int:
    return round(question.now.timestamp() * 1000)


def _pairs(request: Request) -> list[tuple[str, str]]:
    text = request.query_string.decode("latin-1")
    try:
        return parse_qsl(text, keep_blank_values=True, errors="surrogateescape", max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise _AnswerError(400, "The address holds more fields than there are.") from None
