"""The page of the help desk for tests: its application over documents, and mail whose texts attack a reader."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from werkzeug.test import Client

from mailspan.commands.logs import read_zone
from sink.sqlite import open_for_writing
from tests.indexing import wait_until
from tests.running import environment
from tests.search_documents import FIRST, attempt, stamp
from tests.trace_cases import given, hop
from web.access import LOCAL_HOSTS, Access
from web.app import App, Surroundings
from web.audit_log import AuditLog
from web.figures import WebFigures
from web.pages import Pages
from web.stores import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from werkzeug.test import TestResponse

    from sink.store import Document

PAGES = Pages()

HOSTILE = (
    "<script>window.hit=1;alert(1)</script>",
    '"><img src=x onerror="window.hit=2"><p title="',
    "' onmouseover='window.hit=3' autofocus onfocus='window.hit=4",
    "javascript:window.hit=5//",
    "</title></textarea></style></svg></desc><svg onload=window.hit=6>",
    '<a href="javascript:window.hit=7">press</a><base href=//evil.example/>',
    "{{ 7*7 }}{% raw %}${7*7}<%= 7*7 %>",
    "&lt;script&gt;window.hit=8&lt;/script&gt;&#60;img src=x onerror=window.hit=9&#62;",
    "\u202egpj.exe\u2066\u200b\u00ad\ufeff",
    "a\x00b\x07\x1b[31mred\x7f\x85\u2028\u2029",
    "<!--<iframe srcdoc='<script>top.hit=10</script>'>--!><iframe src=javascript:top.hit=11>",
    "x" * 3000,
    "\u0416" * 700 + "\u0301" * 300,
    "<meta http-equiv=refresh content=0;url=//evil.example><link rel=stylesheet href=//evil.example/x>",
)
"""Texts of subjects, addresses, queue IDs, hosts and replies."""


def hostile_documents() -> list[Document]:
    """Return, for each text, a trace of two hops and what is missing, with the text in every field."""
    made = []
    for number, text in enumerate(HOSTILE):
        short = text[:400]
        to = given(f"bob{text}@example.net", f"relay{short}", f"N{number}{short}", 2)
        to = {**to, "original_recipient": text, "status": f"sent ({text})", "dsn": short, "mailer": text}
        bounced = attempt(text, "bounced", status=text, relay=text, relay_ip=text, date=stamp(FIRST + 3))
        first = hop(
            f"evil{number}", f"H{number}", 0, [to, bounced], subject=text, msgid=f"{number}{text}", client=text,
            client_name=text, client_ip=text, helo=text, sasl_username=text, tls=text, notes=[text, "head missing"],
            controlling_user=text, protocol=text, mta=text, closed_by=text, extra_field=text,
            links=[{"kind": text, "queue_id": f"L{short}", "host": short}],
        )  # fmt: skip
        first["from"] = text
        second = hop(
            f"relay{short}", f"N{number}{short}", 2, [given(f"bob{text}@example.net", f"gone{text}", "Z", 4)],
            msgid=f"{number}{text}", client=f"evil{number}", client_name=f"evil{number}",
        )  # fmt: skip
        made += [first, second]
    return made


def all_hostile_at_once() -> list[Document]:
    """Return one mail with every text: in its own fields together, in an attempt of its own each."""
    every = " ".join(HOSTILE)
    to = [
        attempt(f"u{n}{text}@example.net", "bounced", original_recipient=text, status=text, relay=text, mailer=text)
        for n, text in enumerate(HOSTILE)
    ]
    made = hop(
        "all", "ALL", 0, to, subject=every, msgid=every[:900], client=every, client_name=every, helo=every, tls=every,
        notes=list(HOSTILE), mta=every, links=[{"kind": each, "queue_id": each, "host": each} for each in HOSTILE],
    )  # fmt: skip
    made["from"] = every
    return [made]


@contextmanager
def served(store: str, folder: Path, client_seconds: float = 60.0, /, **settings: str) -> Iterator[Served]:
    """Run `mailspan web` over a store, with its audit log in `folder`, and end it; its errors are in a file there.

    `client_seconds`: what a client may take for a question.
    """
    start = (
        "import sys, mailspan.commands.web_server as server; from mailspan.__main__ import main;"
        f" server._CLIENT_SECONDS = {client_seconds}; sys.exit(main())"
    )
    given = {"WEB_ADDRESS": "127.0.0.1:0", "WEB_AUDIT_LOG": str(folder / "audit.jsonl"), "WEB_ZONE": "UTC", **settings}
    errors = folder / "errors"
    with errors.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", start, "web", "--store", store], stderr=out, env=environment(given)
        )
    try:
        assert wait_until(lambda: b"the page is at" in errors.read_bytes() or process.poll() is not None, 60.0)
        found = re.search(r"the page is at (http://\S+)/", errors.read_text(encoding="utf-8"))
        assert found, errors.read_text(encoding="utf-8")
        yield Served(process, found[1], errors)
    finally:
        process.kill()
        process.wait()


def write(path: Path, documents: Iterable[Document]) -> Path:
    """Write documents to a store of SQLite; return its path."""
    with open_for_writing(path) as writer:
        writer.write(list(documents))
    return path


@dataclass
class Page:
    """The application, what it told its operator, and where its audit log is."""

    around: Surroundings
    log: Path
    told: list[str] = field(default_factory=list)

    def get(self, url: str, peer: str = "127.0.0.1", method: str = "GET", **headers: str) -> TestResponse:
        """Ask for a page; headers are named with underscores."""
        named = {name.replace("_", "-"): value for name, value in {"Host": "localhost:8425", **headers}.items()}
        return self.client().open(url, method=method, headers=named, environ_overrides={"REMOTE_ADDR": peer})

    def client(self) -> Client:
        """Return who asks one application; several threads may share it."""
        return Client(App(self.around), use_cookies=False)

    def audited(self) -> list[dict[str, object]]:
        """Return the lines of the audit log."""
        return [orjson.loads(line) for line in self.log.read_bytes().splitlines()] if self.log.exists() else []

    def with_changes(self, **changes: Any) -> Page:  # noqa: ANN401 - each has its own type
        """Return a page with other surroundings."""
        return Page(replace(self.around, **changes), self.log, self.told)


def page_over(store: Path, folder: Path) -> Page:
    """Return the page over a store of SQLite, with its audit log in a folder."""
    told: list[str] = []
    log = folder / "audit.jsonl"
    around = Surroundings(
        store=SqliteStore(store),
        access=Access(frozenset(LOCAL_HOSTS)),
        audit=AuditLog(log),
        pages=PAGES,
        figures=WebFigures(),
        relay_hosts={},
        zone=UTC,
        zone_name="UTC",
        read_zone=read_zone,
        report=told.append,
        now=lambda: datetime.fromtimestamp(FIRST + 86400, UTC),
    )
    return Page(around, log, told)


class Served(NamedTuple):
    """A page that is served: its process, its address, and what it told its operator."""

    process: subprocess.Popen[bytes]
    url: str
    errors: Path


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def tags(self) -> set[str]:
        """The names of all elements."""
        return {tag for tag, _ in self.found}

    @property
    def links(self) -> list[str]:
        """Where its links lead."""
        return [str(values["href"]) for tag, values in self.found if tag == "a"]
