"""The page of the help desk, asked in this process: who may ask, what is found, what is shown, what is written down."""

from __future__ import annotations

import fcntl
import json
import re
import resource
import sqlite3
import threading
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from mailspan.errors import StoreError
from mailspan.settings import Settings
from mailspan.terminal import sanitise
from search.select import select
from sink.elasticsearch_settings import connection_of
from sink.sqlite_reader import SqliteReader
from tests.indexing import wait_until
from tests.running import ROOT
from tests.scripted_http import scripted_http
from tests.search_documents import FIRST, all_documents, attempt, document, pages, stamp
from tests.trace_cases import CASES
from tests.web_page import HOSTILE, Elements, hostile_documents, page_over, write
from web.access import Access, is_loopback, read_networks
from web.app import MOST_LOOKUPS
from web.audit_log import AuditError, AuditLog
from web.form import LONGEST_VALUE, read_search
from web.lookups import find_mails
from web.stores import ElasticsearchStore, SqliteStore
from web.trace_views import _guides

if TYPE_CHECKING:
    from tests.scripted_http import Asked, Reply
    from tests.web_page import Page


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with the cases of traces and hostile mail."""
    made = [each for name, case in CASES.items() if name != "fan_out" for each in case.documents]
    made += hostile_documents()
    made += [document(host="mx8", queue_id="7B1", to=[attempt("bob@example.net")], subject="Grüße")]
    made += pages(3, 4, host="mx8", queue_id="7B2")
    return write(tmp_path_factory.mktemp("web") / "cases.db", made)


@pytest.fixture
def page(cases: Path, tmp_path: Path) -> Page:
    return page_over(cases, tmp_path)


def at(path: str, mail: str, **values: str) -> str:
    more = "".join(f"&{name}={quote(value)}" for name, value in values.items())
    return f"{path}?id={quote(mail, safe='')}{more}"


# -- who may ask


@pytest.mark.parametrize("url", ["/", "/?to=bob@example.net", "/style.css", "/icon.svg", "/nothing", "/trace", "/?x=1"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_every_answer_forbids_scripts_frames_and_caches(page: Page, url: str, method: str) -> None:
    answer = page.get(url, method=method)
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none';")
    for each in ("form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'", "style-src 'self'"):
        assert each in policy
    assert "script-src" not in policy
    assert "unsafe" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_nothing_but_reading_is_allowed(page: Page, method: str) -> None:
    answer = page.get("/?to=bob@example.net", method=method)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD")
    assert page.audited() == []


def test_head_is_get_without_a_body(page: Page) -> None:
    answer, head = page.get("/?to=bob@example.net"), page.get("/?to=bob@example.net", method="HEAD")
    assert head.data == b""
    assert head.headers["Content-Length"] == str(len(answer.data))


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200), ("LOCALHOST:1", 200), ("127.0.0.1:8425", 200), ("[::1]:8425", 200), ("localhost.", 200),
        ("evil.example", 421), ("localhost.evil.example", 421), ("localhost:8425@evil.example", 421), ("", 421),
        ("evil.example:8425", 421), ("127.0.0.1.nip.io", 421), ("localhost, evil.example", 421),
    ],
)  # fmt: skip
def test_a_page_called_by_another_name_is_refused(page: Page, host: str, status: int) -> None:
    assert page.get("/?to=bob@example.net", Host=host).status_code == status
    assert len(page.audited()) == (status == 200)


def test_other_sites_may_link_and_not_load(page: Page) -> None:
    foreign = {"Sec_Fetch_Site": "cross-site"}
    assert page.get("/?to=a@b", **foreign, Sec_Fetch_Dest="document").status_code == 200
    assert page.get("/?to=a@b", **foreign, Sec_Fetch_Dest="image").status_code == 403
    assert page.get("/?to=a@b", Sec_Fetch_Site="same-origin", Sec_Fetch_Dest="style").status_code == 200


BEHIND = Access(frozenset({"mail.example.com"}), "X-Forwarded-User", read_networks(["10.0.0.5", "192.0.2.0/24", "::1"]))


@pytest.mark.parametrize(
    ("peer", "user", "status"),
    [
        ("10.0.0.5", "carol", 200), ("192.0.2.77", "carol", 200), ("::1", "carol", 200), ("::ffff:10.0.0.5", "carol", 200),
        ("10.0.0.5", None, 401), ("10.0.0.5", "", 401), ("10.0.0.5", "a\tb", 401), ("10.0.0.5", "x" * 201, 401),
        ("10.0.0.6", "carol", 403), ("127.0.0.1", "carol", 403), ("10.0.0.6", None, 403), ("", "carol", 403),
    ],
)  # fmt: skip
def test_a_name_is_believed_of_the_proxy_alone(page: Page, peer: str, user: str | None, status: int) -> None:
    page = page.with_changes(access=BEHIND)
    named = {} if user is None else {"X_Forwarded_User": user}
    assert page.get("/?to=a@b", peer, Host="mail.example.com", **named).status_code == status
    assert [each["user"] for each in page.audited()] == (["carol"] if status == 200 else [])


def test_names_of_users_are_utf8(page: Page) -> None:
    page = page.with_changes(access=BEHIND)
    as_wsgi_has_it = "Zoë".encode().decode("latin-1")
    page.get("/?to=a@b", "10.0.0.5", Host="mail.example.com", X_Forwarded_User=as_wsgi_has_it)
    assert page.audited()[0]["user"] == "Zoë"


def test_loopback_is_known() -> None:
    assert all(is_loopback(each) for each in ("127.0.0.1", "127.9.9.9", "::1", "localhost"))
    assert not any(is_loopback(each) for each in ("0.0.0.0", "::", "10.0.0.1", "localhost.example.com", "mx1"))  # noqa: S104


# -- what is asked


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("x=1", "there is no such field"),
        ("from=a&from=b", "From: given twice"),
        (f"subject={'x' * (LONGEST_VALUE + 1)}", "Subject contains: longer"),
        ("to=a%00b", "To: expected text"),
        ("to=%ff", "To: expected text"),
        ("number=7", "expected one of 20, 50, 100"),
        ("number=1000000", "expected one of"),
        ("before=-1&to=a", "before: expected"),
        ("skip=1001&to=a", "skip: expected"),
        ("outcome=fine", "expected one of"),
        ("since=tomorrowish", "Since 'tomorrowish': not a time"),
        ("since=2026-11-24&until=2026-11-23", "nothing lies between"),
        ("dsn=9", "Status code '9': expected an enhanced"),
        ("zone=Mars/Olympus&to=a", "Time zone 'Mars/Olympus': no such zone; expected a name"),
        ("zone=../../etc/passwd&to=a", "expected a name"),
        ("&".join(f"f{n}=1" for n in range(50)), "more fields"),
    ],
)
def test_what_cannot_be_asked_is_said(page: Page, query: str, said: str) -> None:
    answer = page.get(f"/?{query}")
    assert answer.status_code == 400
    assert said in Elements(answer.text).text


def test_a_question_that_is_too_long_is_refused(page: Page) -> None:
    assert page.get(f"/?to={'x' * 8001}").status_code == 414


def test_the_form_keeps_what_was_asked(page: Page) -> None:
    answer = page.get("/?to=bob@example.net&outcome=relayed&since=2026-11-01&host=mx8&probes=1&number=20&zone=%2B01:00")
    given = {values.get("name"): values for tag, values in Elements(answer.text).found if tag == "input"}
    assert [given[name]["value"] for name in ("to", "since", "host", "zone")] == [
        "bob@example.net", "2026-11-01", "mx8", "+01:00",
    ]  # fmt: skip
    assert "checked" in given["probes"]
    assert "checked" not in given["started"]
    assert "<option selected>relayed</option>" in answer.text
    assert "<details open>" in answer.text


def test_times_are_in_the_zone_that_was_asked(page: Page) -> None:
    here = page.get("/?host=mx8")
    there = page.get("/?host=mx8&zone=Asia/Tokyo")
    shown = datetime.fromtimestamp(FIRST, UTC)
    assert f"{shown:%Y-%m-%d %H:%M:%S}" in here.text
    assert f"{(shown.hour + 9) % 24:02d}:{shown:%M:%S}" in there.text
    assert "zone=Asia%2FTokyo" in there.text  # links keep it
    assert f"{shown:%Y-%m-%dT%H:%M:%S}.000Z" in there.text  # and the machine-readable time is the same


def test_an_opened_form_is_no_look_up(page: Page) -> None:
    assert page.get("/?zone=UTC&number=20").status_code == 200
    assert page.audited() == []


# -- what is found


def test_pages_of_results_give_every_mail_once(tmp_path: Path) -> None:
    made = [document(queue_id=f"Q{n}", date=stamp(FIRST + n // 45)) for n in range(130)]
    page = page_over(write(tmp_path / "mail.db", made), tmp_path)
    url, seen, rounds = "/?host=mx1.example.com&number=20", [], 0
    while url:
        elements = Elements(page.get(url).text)
        seen += [link for link in elements.links if link.startswith("/transaction?")]
        url = next((str(v["href"]) for tag, v in elements.found if tag == "a" and v.get("rel") == "next"), "")
        rounds += 1
    assert rounds == 7
    assert len(seen) == len(set(seen)) == 130


def test_results_are_those_of_search(tmp_path: Path) -> None:
    path = write(tmp_path / "mail.db", all_documents())
    asked = read_search([("to", "@list.example.org"), ("outcome", "bounced"), ("number", "100")])
    now = datetime.fromtimestamp(FIRST + 86400, UTC)
    with SqliteReader(path) as reader:
        found = [page for mail in find_mails(reader, asked, now, UTC).mails for page in mail]
        wanted = [json.loads(each) for each in reader.newest(select(asked.query(now, UTC)), 100)]
    assert wanted
    assert found == wanted


def test_a_mail_with_pages_shows_each(page: Page) -> None:
    for number in range(3):
        text = Elements(page.get(at("/transaction", "mx8/7B2", page=str(number))).text).text
        assert f"member{number * 4}@list.example.org" in text
        assert f"this is page {number + 1}" in text
    assert page.get(at("/transaction", "mx8/7B2", page="x")).status_code == 400


@pytest.mark.parametrize("path", ["/transaction", "/trace", "/explain"])
def test_what_is_not_there_is_not_found(page: Page, path: str) -> None:
    assert page.get(at(path, "mx8/NONE")).status_code == 404
    assert page.get(path).status_code == 400
    assert [each["found"] for each in page.audited()] == [0, None]


@pytest.mark.parametrize("path", ["/transaction", "/trace", "/explain"])
def test_several_mails_are_a_choice(page: Page, path: str) -> None:
    answer = page.get(at(path, "<twice@example.com>"))
    assert answer.status_code == 200
    assert "mails are meant" in answer.text


TOO_LARGE = {"loop"}
"""Traces that are not drawn as boxes: the list of hops says all."""


@pytest.mark.parametrize("name", [name for name in CASES if name != "fan_out"])
def test_a_trace_shows_all_hops_ends_and_what_is_missing(page: Page, name: str) -> None:
    case = CASES[name]
    answer = page.with_changes(relay_hosts=case.hosts).get(at("/trace", case.seed))
    assert answer.status_code == 200
    elements = Elements(answer.text)
    if "mails are meant" in answer.text:
        return
    for node in case.nodes[:200]:
        assert sanitise(node) in elements.text
    for recipient, outcome in case.ends[:20]:
        assert recipient in elements.text
        assert outcome in elements.text
    for relay, _ in case.missing:
        assert (relay or "missing") in elements.text
    assert ("svg" in elements.tags) == (len(case.nodes) > 0)
    assert ("figure" in elements.tags) == (name not in TOO_LARGE)


@pytest.mark.parametrize(
    ("depths", "guides"),
    [
        ([], []),
        ([0, 1, 2], [(), (), ()]),
        ([0, 1, 1], [(), (0,), ()]),
        ([0, 1, 2, 3, 1, 2], [(), (0,), (1,), (2,), (), ()]),
        ([0, 1, 2, 2, 1, 0, 1], [(), (0,), (0, 1), (1,), (), (), ()]),
    ],
)
def test_lines_pass_by_hops_to_what_is_below(depths: list[int], guides: list[tuple[int, ...]]) -> None:
    assert _guides(depths) == guides


def test_a_picture_begins_at_its_left_edge(page: Page) -> None:
    answer = page.get(at("/trace", CASES["missing_middle"].seed))
    places = [int(values["x"] or 0) for tag, values in Elements(answer.text).found if tag == "rect" and "rx" in values]
    assert min(places) == 8


def test_long_texts_are_cut_in_headings_and_whole_among_the_fields(page: Page) -> None:
    number = HOSTILE.index("x" * 3000)
    text = page.get(at("/transaction", f"evil{number}/H{number}")).text
    assert Elements(text).text.count("x" * 301) >= 3
    assert ("x" * 300 + "…") in text
    assert "x" * 301 not in page.get(f"/?host=evil{number}").text


def test_what_filters_said_is_shown_where_they_said_something(tmp_path: Path) -> None:
    said = [
        {"filter": "rspamd", "verdict": "add header", "score": 7.5},
        {"filter": "opendkim", "verdict": "pass", "detail": "d=example.com"},
    ]
    mails = [document(queue_id="F1", filters=said), document(queue_id="F2", filters=[])]
    page = page_over(write(tmp_path / "mail.db", mails), tmp_path)
    shown, silent = (page.get(at("/transaction", name)).text for name in ("F1", "F2"))
    assert "filter rspamd, verdict add header, score 7.5; filter opendkim, verdict pass, detail d=example.com" in shown
    assert ("Filters" in shown, "Filters" in silent) == (True, False)


def test_a_fan_out_to_thousands_is_bounded(tmp_path: Path) -> None:
    case = CASES["fan_out"]
    page = page_over(write(tmp_path / "mail.db", case.documents[:700]), tmp_path)
    answer = page.get(at("/trace", case.seed))
    assert answer.status_code == 200
    assert "more hops are not shown" in answer.text
    assert len(answer.data) < 1_000_000


def test_every_link_leads_somewhere(page: Page) -> None:
    waiting = ["/", "/?host=mx8", at("/trace", CASES["missing_middle"].seed), at("/explain", "mx8/7B2")]
    seen = set(waiting)
    while waiting:
        answer = page.get(waiting.pop())
        assert answer.status_code == 200
        for link in Elements(answer.text).links:
            assert link.startswith(("/", "#main"))
            if link not in seen and len(seen) < 60 and link.startswith("/"):
                seen.add(link)
                waiting.append(link)
    assert len(seen) > 15


# -- what logs say is text


KNOWN = {
    "html", "head", "meta", "title", "link", "body", "a", "header", "p", "nav", "main", "footer", "h1", "h2", "h3", "h4",
    "span", "div", "b", "strong", "ul", "ol", "li", "dl", "dt", "dd", "table", "caption", "thead", "tbody", "tr", "th",
    "td", "time", "q", "br", "svg", "path", "circle", "rect", "g", "text", "desc", "figure", "figcaption", "section",
    "code", "form", "label", "input", "select", "option", "details", "summary", "button", "datalist",
}  # fmt: skip


@pytest.mark.parametrize("number", range(len(HOSTILE)))
@pytest.mark.parametrize("path", ["/trace", "/transaction", "/explain", "/"])
def test_hostile_texts_end_as_text(page: Page, path: str, number: int) -> None:
    text = HOSTILE[number]
    answer = page.get(f"/?host=evil{number}" if path == "/" else at(path, f"evil{number}/H{number}"))
    assert answer.status_code == 200
    elements = Elements(answer.text)
    assert elements.tags <= KNOWN
    for _, values in elements.found:
        assert not any(name.startswith("on") or name in {"style", "srcdoc", "src"} for name in values)
        assert str(values.get("href", "/")).startswith(("/", "#"))
    shown = sanitise(text)[:300]
    assert shown in elements.text
    assert not [each for each in answer.text if each != "\n" and sanitise(each) != each]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("field", ["term", "from", "subject", "zone", "outcome"])
def test_what_is_asked_comes_back_as_text(page: Page, field: str, text: str) -> None:
    answer = page.get(f"/?{field}={quote(text[:900])}")
    elements = Elements(answer.text)
    assert answer.status_code in {200, 400}
    assert elements.tags <= KNOWN
    assert not any(name.startswith("on") for _, values in elements.found for name in values)


def test_templates_let_nothing_through_and_hold_no_scripts() -> None:
    for path in (ROOT / "web" / "templates").glob("*.html"):
        text = path.read_text(encoding="utf-8")
        for forbidden in ("|safe", "| safe", "autoescape", "<script", "style=", "javascript:", "Markup"):
            assert forbidden not in text, f"{path.name}: {forbidden}"
        assert not re.search(r"\son[a-z]+=", text), path.name


# -- the audit log


def test_each_look_up_is_written_down(page: Page) -> None:
    for url in (
        "/?to=bob@example.net&zone=UTC",
        at("/trace", "mx8/7B1"),
        at("/explain", "7B1"),
        at("/transaction", "NO"),
    ):
        page.get(url)
    assert [(each["page"], each["asked"], each["found"], each["status"]) for each in page.audited()] == [
        ("search", {"to": "bob@example.net", "zone": "UTC"}, page.audited()[0]["found"], 200),
        ("trace", {"id": "mx8/7B1"}, 1, 200),
        ("explain", {"id": "7B1"}, 1, 200),
        ("transaction", {"id": "NO"}, 0, 404),
    ]
    first = page.audited()[0]
    assert first["time"] == datetime.fromtimestamp(FIRST + 86400, UTC).isoformat(timespec="milliseconds")
    assert (first["user"], first["peer"]) == (None, "127.0.0.1")
    assert page.log.stat().st_mode & 0o777 <= 0o640


@pytest.mark.parametrize("text", ["a\nb", '"}\n{"user":"root', "\u202eabc\u2028", "\x1b[2J", "a\x85b"])
def test_nothing_asked_can_forge_a_line(page: Page, text: str) -> None:
    page.get(f"/?subject={quote(text)}")
    raw = page.log.read_bytes()
    assert raw.count(b"\n") == 1
    assert sanitise(raw.decode().rstrip("\n")) == raw.decode().rstrip("\n")
    assert page.audited()[0]["asked"] == {"subject": text.strip()}


def test_without_a_line_there_is_no_answer(page: Page) -> None:
    page = page.with_changes(audit=AuditLog(Path("/dev/full")))
    answer = page.get("/?to=bob@example.net")
    assert answer.status_code == 503
    assert "bob@example.net" not in answer.text
    assert "audit log" in Elements(answer.text).text
    assert len(page.told) == 1
    assert page.told[0].startswith("the audit log /dev/full cannot be written (")
    assert page.told[0].endswith("see MAILSPAN_WEB_AUDIT_LOG")
    assert page.get("/").status_code == 200  # what looks up nothing goes on


def test_a_line_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    log.write({"first": 1})
    whole = (tmp_path / "audit.jsonl").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 10, hard))
    try:
        with pytest.raises(AuditError, match="File too large"):
            log.write({"second": "x" * 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "audit.jsonl").read_bytes() == whole


def test_a_log_that_was_renamed_is_begun_anew(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    log.write({"n": 1})
    (tmp_path / "audit.jsonl").rename(tmp_path / "audit.jsonl.1")
    log.write({"n": 2})
    assert (tmp_path / "audit.jsonl").read_bytes() == b'{"n":2}\n'


def test_a_log_is_not_written_through_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "audit.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AuditError):
        AuditLog(tmp_path / "audit.jsonl").check()
    assert not (tmp_path / "elsewhere").exists()


def test_a_log_that_a_reader_has_locked_is_given_up(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("web.audit_log.LOCK_SECONDS", 0.3)
    page.log.touch()
    with page.log.open("rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        found: list[int] = []
        asking = threading.Thread(target=lambda: found.append(page.get("/?to=a@b").status_code), daemon=True)
        asking.start()
        asking.join(10)
        assert found == [503]
    assert "another one has locked it" in page.told[0]
    assert page.get("/?to=a@b").status_code == 200


def test_lines_of_many_threads_stay_whole(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")

    def write_some() -> None:
        for _ in range(10):
            log.write({"x": "y" * 500})

    threads = [threading.Thread(target=write_some) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    lines = (tmp_path / "audit.jsonl").read_bytes().splitlines()
    assert len(lines) == 80
    assert all(json.loads(line) == {"x": "y" * 500} for line in lines)


# -- the store fails


def test_a_missing_store_is_a_sentence(page: Page, tmp_path: Path) -> None:
    page = page_over(tmp_path / "none.db", tmp_path)
    answer = page.get("/?to=bob@example.net")
    assert answer.status_code == 502
    assert str(tmp_path) not in answer.text
    assert "Traceback" not in answer.text
    assert [each["status"] for each in page.audited()] == [502]
    assert page.told[0].startswith(f"no mail at {tmp_path}")


def test_a_mail_without_a_list_of_attempts_is_shown(tmp_path: Path) -> None:
    bare = {name: value for name, value in document(queue_id="M1").items() if name != "to"}
    page = page_over(write(tmp_path / "mail.db", [bare]), tmp_path)
    assert [page.get(at(path, "M1")).status_code for path in ("/transaction", "/trace", "/explain")] == [200] * 3


@pytest.mark.parametrize("path", ["/", "/transaction", "/trace", "/explain"])
def test_the_last_day_there_is_has_no_other_zone(tmp_path: Path, path: str) -> None:
    last = "9999-12-31T23:59:59.000Z"
    page = page_over(
        write(tmp_path / "mail.db", [{**document(queue_id="Z9"), "date": last, "updated": last}]), tmp_path
    )
    answer = page.get(f"{path}?{'term' if path == '/' else 'id'}=Z9&zone=Asia/Tokyo")
    assert answer.status_code == 200
    assert "9999-12-31" in answer.text


def test_a_page_that_cannot_be_made_is_written_down_as_that(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object) -> None:
        raise KeyError("inside")

    monkeypatch.setattr("web.views.Clock.both", broken)
    assert page.get("/?host=mx8").status_code == 500
    assert [(each["status"], each["found"]) for each in page.audited()] == [(500, None)]


def test_a_store_that_another_program_has_locked_is_given_up(tmp_path: Path) -> None:
    path = write(tmp_path / "mail.db", [document()])
    page = page_over(path, tmp_path).with_changes(answer_seconds=0.5)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        started = time.monotonic()
        assert page.get("/?to=bob@example.net").status_code == 503
        assert time.monotonic() - started < 10
    assert "another program holds it" in page.told[0]
    assert [each["status"] for each in page.audited()] == [503]


def over_elasticsearch(page: Page, url: str, **changes: object) -> Page:
    store = ElasticsearchStore(connection_of(Settings(), url), "mail", MOST_LOOKUPS)
    return page.with_changes(store=store, **changes)


def test_an_elasticsearch_that_is_away_is_a_sentence(page: Page) -> None:
    page = over_elasticsearch(page, "http://127.0.0.1:1")
    answer = page.get("/?to=bob@example.net")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10")
    assert "does not answer now" in answer.text
    assert "127.0.0.1" not in Elements(answer.text).text
    assert "no Elasticsearch answers at http://127.0.0.1:1" in page.told[0]


def test_a_slow_elasticsearch_holds_nobody_else_up(page: Page) -> None:
    is_over = threading.Event()
    asked_for: list[str] = []

    def reply(asked: Asked) -> Reply:
        if asked.path == "/":
            return 200, {"version": {"number": "7.17.29"}}
        asked_for.append(asked.path)
        is_over.wait(20)
        return 200, {}

    with scripted_http(reply) as url:
        statuses: list[int] = []
        slow = over_elasticsearch(page, url, answer_seconds=3.0, wait_seconds=0.1)
        is_over.set()
        slow.with_changes(answer_seconds=60.0).get("/?to=a@b")  # the client is imported, and the version known
        is_over.clear()
        asked_for.clear()
        shared = slow.client()
        started = time.monotonic()
        here = {"headers": {"Host": "localhost"}}
        threads = [
            threading.Thread(target=lambda: statuses.append(shared.get("/?to=a@b", **here).status_code))
            for _ in range(MOST_LOOKUPS)
        ]
        for each in threads:
            each.start()
        assert wait_until(lambda: len(asked_for) == MOST_LOOKUPS, 2.5)
        assert shared.get("/style.css", **here).status_code == 200
        crowded = shared.get("/?to=a@b", **here)
        assert time.monotonic() - started < 2.9
        assert crowded.status_code == 503
        assert "Too many others" in crowded.text
        for each in threads:
            each.join()
        is_over.set()
        assert statuses == [503] * MOST_LOOKUPS
        assert time.monotonic() - started < 6


def test_a_reader_of_sqlite_ends_at_its_deadline(tmp_path: Path) -> None:
    made = [document(queue_id=f"Q{n}", date=stamp(FIRST + n)) for n in range(4000)]
    path = write(tmp_path / "mail.db", made)
    selection = select(read_search([("host", "mx1.example.com")]).query(datetime.now(UTC), UTC))
    with SqliteReader(path) as reader:
        reader.end_at(time.monotonic() + 3600)
        assert len(reader.newest(selection, 5000)) == 4000
        reader.end_at(time.monotonic() - 1)
        with pytest.raises(StoreError, match="took longer"):
            reader.newest(selection, 5000)
    with (
        SqliteStore(path).reader(time.monotonic() - 1) as opened,
        pytest.raises(StoreError, match="took longer"),
    ):
        opened.newest(selection, 5000)


def test_a_fault_of_ours_shows_nothing_of_its_inside(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object) -> None:
        raise KeyError("inside")

    monkeypatch.setattr("web.app.find_mails", broken)
    answer = page.get("/?to=bob@example.net")
    assert answer.status_code == 500
    assert "inside" not in answer.text
    assert page.told == ["/ failed (KeyError: 'inside')"]
    assert [each["status"] for each in page.audited()] == [500]
