"""The built book in a browser: every page wide and narrow, light and dark. ``make browser`` builds it first.

One Chromium, and one load of a page at each width; screenshots are kept in ``_build/screenshots``.
"""

import os
import re
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe

from paradox_utils.files import ROOT

BOOK = ROOT / "_build" / "html"
SHOTS = ROOT / "_build" / "screenshots"
PAGES = sorted(path.relative_to(BOOK).as_posix() for part in ("book", "notebooks") for path in (BOOK / part).glob("*.html"))
WIDTHS, THEMES, HEIGHT = (1440, 390), ("light", "dark"), 900
EXAMINED = {(1440, "light"), (390, "dark")}  # by axe-core: each width and each theme once
HEAVIEST = 1_000_000  # bytes of a page with all it loads
NAMELESS = """() => [...document.querySelectorAll('img, svg, [role=img]')].filter(image => {
    if (image.closest('[aria-hidden=true], [role=img] *, button')) return false;
    const name = (image.getAttribute('alt') || image.getAttribute('aria-label') || '').trim();
    return name.length < 3 || /[0-9a-f]{20}/.test(name);
}).map(image => image.outerHTML.slice(0, 80))"""
WIDER = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module", autouse=True)
def built():
    if not PAGES:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no book is built; run make browser")


class Visit:
    """A page that was loaded at one width, and what went on meanwhile."""

    def __init__(self, browser, address, width=WIDTHS[0]):
        self.errors, self.asked = [], set()
        self.page = browser.new_page(viewport={"width": width, "height": HEIGHT}, color_scheme="light")
        self.page.set_default_timeout(600_000)  # a machine may be busy, and a page of the package is a hundred screens long
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.asked.add(request.url.partition("#")[0].partition("?")[0]))
        self.page.goto(f"{BOOK.as_uri()}/{address}")

    def show(self, theme):
        self.page.emulate_media(color_scheme=theme)
        self.page.evaluate("theme => { document.documentElement.dataset.theme = theme }", theme)

    def serious(self):
        """What axe-core finds, by rule, with the first elements it is about."""
        found = Axe().run(self.page, options={"resultTypes": ["violations"], "preload": False}).response["violations"]
        grave = [one for one in found if one["impact"] in ("serious", "critical")]
        return {one["id"]: [node["target"] for node in one["nodes"]][:3] for one in grave}

    def weight(self):
        files = [Path(unquote(urlsplit(url).path)) for url in self.asked if url.startswith("file:")]
        return sum(file.stat().st_size for file in files if file.is_file())


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES or ["no page"])
def test_a_page_works_in_both_themes(browser, name, width):
    visit = Visit(browser, name, width)
    SHOTS.mkdir(exist_ok=True)
    assert visit.page.evaluate(WIDER) <= 0, f"wider than {width} px"
    assert visit.page.evaluate(NAMELESS) == []
    for theme in THEMES:
        visit.show(theme)
        visit.page.screenshot(path=SHOTS / f"{Path(name).stem}-{width}-{theme}.png", full_page=True, animations="disabled")
        if (width, theme) in EXAMINED:
            assert visit.serious() == {}, f"{width} px, {theme}"
    assert visit.errors == []
    assert [url for url in visit.asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert visit.weight() < HEAVIEST
    visit.page.close()


def test_search_finds_a_term(browser):
    visit = Visit(browser, "search.html?q=regret")
    visit.page.wait_for_selector("#search-results ul.search a", timeout=60_000)
    assert visit.errors == []
    visit.page.close()


def test_a_defined_word_explains_itself_to_the_keyboard(browser):
    linked = next(name for name in PAGES if 'class="term"' in (BOOK / name).read_text(encoding="utf-8"))
    visit = Visit(browser, linked)
    word = visit.page.locator("a.term").first
    tip = visit.page.locator(f"#{word.get_attribute('aria-describedby')}")
    assert not tip.is_visible()
    word.focus()
    visit.page.keyboard.press("Shift+Tab")
    visit.page.keyboard.press("Tab")
    assert tip.is_visible()
    visit.page.close()


# --- links, which need no browser -----------------------------------------------------------------------------------------


class Links(HTMLParser):
    """Where a page leads to, and the places on it that may be led to."""

    def __init__(self, text):
        super().__init__()
        self.targets, self.anchors = [], defaultdict(int)
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        for key, value in attrs:
            if key in ("href", "src") and value and tag != "use":
                self.targets.append(value)
            elif key == "id":
                self.anchors[value] += 1


def test_no_link_or_anchor_is_broken_and_no_anchor_is_there_twice():
    pages = {path: Links(path.read_text(encoding="utf-8")) for path in BOOK.rglob("*.html") if "_static" not in path.parts}
    broken = []
    for path, links in pages.items():
        broken += [f"{path.name}: #{anchor} twice" for anchor, count in links.anchors.items() if count > 1]
        for target in links.targets:
            if re.match(r"[a-z]+:|//", target):
                continue
            parts = urlsplit(target)
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = pages[file].anchors if file in pages else None
            if not file.is_file() or (parts.fragment and anchors is not None and unquote(parts.fragment) not in anchors):
                broken.append(f"{path.name}: {target}")
    assert broken == []
