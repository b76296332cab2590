"""The page in a real browser: hostile mail does nothing, all works by keyboard and without scripts, and can be read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from tests import browser
from tests.browser import Browser, why_not
from tests.indexing import wait_until
from tests.search_documents import pages
from tests.trace_cases import CASES
from tests.web_page import HOSTILE, all_hostile_at_once, hostile_documents, served, write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.web_page import Served

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=why_not() or "it is here")]

TAB, ENTER, DOWN = "\ue004", "\ue007", "\ue015"
HOSTILE_PAGES = ("/trace?id=all/ALL", "/transaction?id=all/ALL", "/explain?id=all/ALL", "/?host=all&subject=script")
PLAIN_PAGES = (
    "/",
    "/?from=alice@example.com&number=20&host=mx1",
    "/?to=bob@example.net&outcome=fine",
    f"/trace?id={CASES['missing_middle'].seed}",
    f"/trace?id={CASES['expansion'].seed}",
    "/trace?id=%3Ctwice@example.com%3E",
    "/transaction?id=mx8/7B2&page=1",
    "/explain?id=mx8/7B2",
    "/explain?id=none",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("site")
    made = [each for name in ("missing_middle", "expansion", "message_id_twice") for each in CASES[name].documents]
    made += [*hostile_documents(), *all_hostile_at_once(), *pages(3, 4, host="mx8", queue_id="7B2")]
    store = write(folder / "mail.db", made)
    with served(f"sqlite:///{store}", folder) as found:
        yield found


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser.running(tmp_path_factory.mktemp("browser")) as found:
        yield found


INJECTED = """
const theirs = [...document.querySelectorAll('script, iframe, object, embed, img, base, video, audio, math, template')];
const wired = [...document.querySelectorAll('*')].filter(e => [...e.attributes].some(a => /^on|^style$|^srcdoc$/.test(a.name)));
const links = [...document.querySelectorAll('[href]')].filter(e => new URL(e.href, document.baseURI).origin !== location.origin);
return {
  hit: window.hit === undefined ? null : window.hit, elements: theirs.length, wired: wired.length, links: links.length,
  sheets: document.querySelectorAll('link[rel=stylesheet], style').length, refresh: document.querySelectorAll('meta[http-equiv]').length,
  text: document.body.innerText,
};
"""


@pytest.mark.parametrize("has_scripts", [True, False])
@pytest.mark.parametrize("url", HOSTILE_PAGES)
def test_hostile_mail_is_only_text(site: Served, window: Browser, url: str, has_scripts: bool) -> None:  # noqa: FBT001
    window.look(width=1280, scripts=has_scripts)
    window.log()
    window.open(site.url + url)
    assert not window.has_alert()
    window.look(width=1280)  # from here on it is our own script that asks
    found = window.run(INJECTED)
    assert {name: found[name] for name in ("hit", "elements", "wired", "links", "refresh")} == {
        "hit": None, "elements": 0, "wired": 0, "links": 0, "refresh": 0,
    }  # fmt: skip
    assert found["sheets"] == 1
    shown = (HOSTILE[0], HOSTILE[3], HOSTILE[7], "\\u202egpj.exe\\u2066")
    for text in shown[:2] if url.startswith("/?") else shown:  # a list cuts what is long
        assert text in found["text"]
    assert window.log() == []


def test_texts_that_are_asked_come_back_as_text(site: Served, window: Browser) -> None:
    window.look(width=1280)
    window.log()
    asked = "&".join(
        f"{name}={quote(text[:900])}" for name, text in zip(("term", "from", "to", "subject"), HOSTILE, strict=False)
    )
    window.open(f"{site.url}/?{asked}")
    found = window.run(INJECTED)
    assert (found["hit"], found["elements"], found["wired"]) == (None, 0, 0)
    assert window.run("return document.getElementById('f-term').value") == HOSTILE[0]
    assert window.log() == []


def test_the_policy_stops_what_would_be_injected_and_is_seen_to(site: Served, window: Browser) -> None:
    window.look(width=1280)
    window.open(f"{site.url}/")
    window.log()
    window.run(
        "document.body.insertAdjacentHTML('beforeend', '<img src=//evil.example/x onerror=\"window.hit=1\">');"
        "const s = document.createElement('script'); s.textContent = 'window.hit = 2'; document.body.append(s);"
    )
    assert window.run(INJECTED)["hit"] is None
    assert sum("Content Security Policy" in each for each in window.log()) >= 2


@pytest.mark.parametrize("width", [1280, 390])
def test_words_without_end_make_no_page_scroll_sideways(site: Served, window: Browser, width: int) -> None:
    window.look(width=width)
    for url in HOSTILE_PAGES:
        window.open(site.url + url)
        assert window.run(f"return {TOO_WIDE}") is False, url


TOO_WIDE = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
FAULTS = """
const faults = [];
const say = (what, e) => faults.push(what + ': ' + e.outerHTML.slice(0, 120));
const all = (query, root) => [...(root || document).querySelectorAll(query)];
const name = e => (e.getAttribute('aria-label') || e.textContent || '').trim();
if (TOO_WIDE) faults.push('scrolls sideways');
if (document.documentElement.lang !== 'en') faults.push('no lang');
if (!document.title.trim()) faults.push('no title');
for (const each of ['body > header', 'main', 'body > footer', 'h1'])
  if (all(each).length !== 1) faults.push('not one ' + each);
let last = 0;
for (const e of all('h1, h2, h3, h4')) {
  const level = Number(e.tagName[1]);
  if (level > last + 1) say('a level is left out', e);
  last = level;
}
for (const e of all('input, select')) if (!e.labels.length || !e.labels[0].textContent.trim()) say('no label', e);
for (const e of all('a, button, summary')) if (!name(e)) say('no name', e);
for (const e of all('nav, section, form')) if (!e.getAttribute('aria-label') && !e.getAttribute('aria-labelledby')) say('no name', e);
for (const e of all('table')) {
  if (!e.caption) say('no caption', e);
  for (const th of all('th', e)) if (!th.scope) say('no scope', th);
  if (getComputedStyle(e).display !== 'table' && (e.getAttribute('role') !== 'table'
      || all('td:not([role=cell]), th:not([role]), tr:not([role=row])', e).length)) say('a table no more', e);
}
for (const e of all('svg')) if (e.getAttribute('aria-hidden') !== 'true' && !(e.getAttribute('role') === 'img' && e.querySelector('title'))) say('no text alternative', e);
for (const attribute of ['aria-labelledby', 'aria-describedby', 'for'])
  for (const e of all(`[${attribute}]`))
    for (const id of e.getAttribute(attribute).split(' ')) if (!document.getElementById(id)) say('points to nothing', e);
const ids = all('[id]').map(e => e.id);
if (new Set(ids).size !== ids.length) faults.push('an id twice');
for (const e of all('.outcome')) if (!e.textContent.trim() || !e.querySelector('svg')) say('colour alone', e);
const number = text => text.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => {
  const [x, y, z] = [r, g, b].map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
const contrast = (a, b) => { const [x, y] = [light(a), light(b)].sort((m, n) => n - m); return (x + 0.05) / (y + 0.05); };
const ground = e => {
  for (let at = e; at; at = at.parentElement) {
    const found = number(getComputedStyle(at).backgroundColor);
    if (found.length < 4 || found[3] > 0) return found;
  }
  return [255, 255, 255];
};
let looked = 0;
for (const e of all('body *')) {
  const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  const box = e.getBoundingClientRect();
  const style = getComputedStyle(e);
  if (!own || !box.width || style.visibility === 'hidden' || ['TITLE', 'DESC', 'OPTION'].includes(e.tagName.toUpperCase())) continue;
  const inSvg = e instanceof SVGElement;
  const colour = number(inSvg ? style.fill : style.color);
  const grounds = [ground(e)];
  if (inSvg) for (const r of all('rect', e.closest('g') || e)) if (getComputedStyle(r).fill !== 'none') grounds.push(number(getComputedStyle(r).fill));
  looked += 1;
  for (const each of grounds) if (contrast(colour, each) < 4.5) say('contrast ' + contrast(colour, each).toFixed(2), e);
}
for (const e of all('input:not([type=checkbox]), select')) {
  const style = getComputedStyle(e);
  if (e.getClientRects().length && contrast(number(style.borderTopColor), number(getComputedStyle(e.form).backgroundColor)) < 3) say('border', e);
}
if (looked < 5) faults.push('nothing to look at');
return faults;
""".replace("TOO_WIDE", TOO_WIDE)
"""An own check of what most often goes wrong: names, labels, headings, landmarks, tables, contrast (WCAG 2.2, AA)."""


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_pages_can_be_read_by_all(site: Served, window: Browser, width: int, dark: bool) -> None:  # noqa: FBT001
    window.look(width=width, dark=dark)
    for url in PLAIN_PAGES:
        window.open(site.url + url)
        assert window.run(FAULTS) == [], url


@pytest.mark.parametrize(
    ("planted", "said"),
    [
        ("document.querySelector('label').remove()", "no label"),
        ("document.querySelector('h1').outerHTML = '<h3>x</h3>'", "not one h1"),
        ("document.querySelector('th').removeAttribute('scope')", "no scope"),
        ("document.querySelector('.outcome').firstElementChild.remove()", "colour alone"),
        ("document.querySelector('main').insertAdjacentHTML('beforeend', '<svg></svg>')", "no text alternative"),
        ("document.documentElement.removeAttribute('lang')", "no lang"),
        ("document.querySelector('table').style.width = '3000px'", "scrolls sideways"),
        ("document.querySelector('.quiet').style.color = '#999'", "contrast"),
    ],
)
def test_a_planted_fault_is_told(site: Served, window: Browser, planted: str, said: str) -> None:
    window.look(width=1280)
    window.open(site.url + PLAIN_PAGES[1])
    window.run(planted)
    assert any(said in each for each in window.run(FAULTS))


FOCUS = """
const e = document.activeElement, box = e.getBoundingClientRect(), style = getComputedStyle(e);
return {tag: e.tagName, id: e.id, text: (e.textContent || '').trim().slice(0, 60), ring: parseFloat(style.outlineWidth),
        drawn: style.outlineStyle !== 'none', seen: box.width > 1 && box.left >= 0 && box.top >= 0};
"""


def focused(window: Browser) -> dict[str, Any]:
    found: dict[str, Any] = window.run(FOCUS)
    return found


def test_all_can_be_done_by_keyboard_without_scripts(site: Served, window: Browser) -> None:
    window.look(width=1280, scripts=False)
    window.open(f"{site.url}/")
    window.press(TAB)
    first = focused(window)
    assert (first["text"], first["seen"], first["drawn"]) == ("Skip to the content", True, True)
    window.press(ENTER)
    assert focused(window)["id"] == "main"
    window.press(TAB, TAB)  # over the term, to the sender
    at = focused(window)
    assert (at["id"], at["drawn"]) == ("f-from", True)
    assert at["ring"] >= 2
    window.press(*"alice@example.com", ENTER)
    assert wait_until(lambda: window.run("return location.search").startswith("?term=&from=alice%40example.com"))
    assert wait_until(lambda: window.run("return document.querySelectorAll('tbody tr').length") > 0)
    for _ in range(40):
        window.press(TAB)
        at = focused(window)
        assert at["drawn"], at
        if at["text"].startswith("Trace"):
            break
    window.press(ENTER)
    assert wait_until(lambda: window.run("return location.pathname") == "/trace")
    assert wait_until(lambda: window.run("return document.querySelectorAll('.hop').length") > 0)


def test_who_wants_no_motion_gets_none(site: Served, window: Browser) -> None:
    window.look(width=1280)
    window.tell("Emulation.setEmulatedMedia", features=[{"name": "prefers-reduced-motion", "value": "reduce"}])
    window.open(f"{site.url}/")
    assert window.run("return getComputedStyle(document.querySelector('button')).transitionDuration") == "0s"


def test_the_picture_has_all_boxes_and_says_what_it_is(site: Served, window: Browser) -> None:
    window.look(width=1280)
    case = CASES["missing_middle"]
    window.open(f"{site.url}/trace?id={case.seed}")
    boxes, named = window.run(
        "return [document.querySelectorAll('figure .box').length, document.querySelector('figure svg title').textContent]"
    )
    assert boxes >= len(case.nodes) + len(case.missing)
    assert named.startswith("The way of the mail over")
    overlaps = window.run("""
      const boxes = [...document.querySelectorAll('figure .box > rect')].map(e => e.getBoundingClientRect());
      return boxes.some((a, i) => boxes.slice(i + 1).some(b =>
        a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom));
    """)
    assert overlaps is False
    cut = window.run("""
      return [...document.querySelectorAll('figure .box')].flatMap(g => {
        const box = g.querySelector('rect').getBoundingClientRect();
        return [...g.querySelectorAll('text:not(.kind)')].filter(t => t.getBoundingClientRect().right > box.right)
          .map(t => t.textContent);
      });
    """)
    assert cut == []
