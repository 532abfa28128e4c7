"""Pages by screen reader, by keyboard alone and by finger; `require_usable` asks axe-core."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from playwright.sync_api import Browser, Page, expect

from lens_pipeline.reasons import explain
from lens_pipeline_tests.support import sources
from lens_pipeline_tests.support.project import PROJECT, Project
from lens_pipeline_tests.support.servers import HostileServer
from lens_pipeline_tests.support.site import Site
from lens_pipeline_tests.support.web import served
from lens_pipeline_tests.web.pages.browser import BrowserPage, browser_page, launched

pytestmark = pytest.mark.slow

# CSS pixels, of iPhones of the last years.
_PHONE = {"width": 390, "height": 844}
_FINGERTIP = 44
# Controls that a finger may miss; links within a text may be as high as a line.
_SMALL = """
(least) => [...document.querySelectorAll("button, select, input, a, summary")]
  .filter((one) => one.checkVisibility({visibilityProperty: true}) && !one.matches(".skip"))
  .map((one) => [one.getBoundingClientRect(), one.outerHTML.slice(0, 90)])
  .filter(([box]) => box.width < least - 0.5 || box.height < least - 0.5)
  .map(([box, html]) => `${box.width.toFixed()} x ${box.height.toFixed()} ${html}`)
"""
# How the element with the focus shows that it has it; the parts of a date do by themselves.
_FOCUS = """
() => {
  const one = document.activeElement;
  const style = getComputedStyle(one);
  const marks = [style.outlineStyle, style.boxShadow];
  const isShown = one.type === "date" || marks.some((mark) => mark !== "none");
  return one === document.body ? null : [isShown, one.outerHTML.slice(0, 90)];
}
"""
_FAILURES = {
    "lost": "SourceMissing",
    "refused": "SourceRefused",
    "inside": "UnsafeAddress",
    "html": "SourceUnreadable",
    "wide": "SourceOverLimit",
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture
def base(web: httpx.Client) -> str:
    return str(web.base_url).rstrip("/")


@pytest.fixture
def failures(site: Site, server: HostileServer, photo: Callable[[str], str]) -> Site:
    """A photo that is ready, and five that failed, each for another reason."""
    server.put("/html", b"<html>expired</html>")
    server.put("/wide", sources.too_wide())
    site.add("good", photo("good"))
    site.add("lost", "uploads/lost.jpg")
    site.add("refused", server.url("/status/403", host="localhost"))
    site.add("inside", "http://127.0.0.1/a.jpg")
    site.add("html", server.url("/html", host="localhost"))
    site.add("wide", server.url("/wide", host="localhost"))
    assert site.once()["failed"] == 5
    return site


@pytest.mark.parametrize(
    "options",
    [
        {"color_scheme": "light"},
        {"color_scheme": "dark", "locale": "ru-RU", "viewport": _PHONE, "has_touch": True},
    ],
    ids=["light", "dark, Russian, on a phone"],
)
def test_no_page_has_a_finding(
    failures: Site, base: str, guarded_app: FastAPI, browser: Browser, options: dict[str, Any]
) -> None:
    project = Project(failures)
    project.shot("bunny")
    project.master("film", [{"asset_id": "bunny"}])
    with browser_page(browser, base, **options) as visit:
        page = visit.open("/library")
        for name in ("good", "lost"):
            expect(page.locator(f".card[data-id={name}]")).to_be_visible()
            _require_accessible(visit, options)
            page.locator(f".card[data-id={name}] .opener").click()
            expect(page.get_by_role("dialog")).to_be_visible()
            _require_accessible(visit, options)
            page.keyboard.press("Escape")
            # Which goes back in the history.
            expect(page).to_have_url(f"{base}/library")
        page = visit.open(f"/masters?project={PROJECT}")
        expect(page.locator(".master")).to_be_visible()
        page.locator(".asset").first.click()
        _require_accessible(visit, options)
        for path in ("/library?user_id=none", "/masters?project=none", "/missing"):
            visit.open(path)
            expect(page.locator(".empty:visible").first).to_be_visible()
            _require_accessible(visit, options)
        # The browser itself tells of the answer 404.
        visit.complaints[:] = [one for one in visit.complaints if "404" not in one]
    with served(guarded_app) as url, browser_page(browser, url, **options) as visit:
        visit.open("/login")
        _require_accessible(visit, options)


def _require_accessible(visit: BrowserPage, options: dict[str, Any]) -> None:
    visit.require_usable()
    if "has_touch" in options:
        small = visit.page.evaluate(_SMALL, _FINGERTIP)
        assert not small, "\n".join(small)


def test_five_failures_read_differently(failures: Site, base: str, browser: Browser) -> None:
    """Cards with the same words, whose reasons only a mouse could find."""
    with browser_page(browser, base) as visit:
        page = visit.open("/library")
        told = {}
        for name, error_class in _FAILURES.items():
            card = page.locator(f".card[data-id={name}]")
            reason = explain(error_class)
            expect(card.get_by_text(reason.meaning)).to_be_visible()
            expect(card.get_by_text(reason.advice)).to_be_visible()
            expect(card.get_by_text(failures.status(name)["error"])).to_be_visible()
            told[name] = card.locator(".state").inner_text()
        assert len(set(told.values())) == len(_FAILURES)
        page.locator(".card[data-id=html] .opener").click()
        dialog = page.get_by_role("dialog")
        expect(dialog.get_by_text(explain("SourceUnreadable").advice)).to_be_visible()


def test_filters_take_one_row_of_a_phone(failures: Site, base: str, browser: Browser) -> None:
    with browser_page(browser, base, viewport=_PHONE) as visit:
        page = visit.open("/library")
        expect(page.locator(".card")).to_have_count(6)
        filters = page.get_by_role("search").bounding_box()
        assert filters is not None
        assert filters["height"] <= 44
        expect(page.get_by_label("Type")).to_be_hidden()
        toggle = page.get_by_role("button", name="Filter")
        toggle.click()
        page.get_by_label("Type").select_option("Videos")
        page.get_by_role("button", name="Close").click()
        expect(page.get_by_label("Type")).to_be_hidden()
        expect(page).to_have_url(f"{base}/library?type=video")
        expect(page.get_by_text("Nothing matches these filters")).to_be_visible()


def test_by_keyboard_alone(failures: Site, base: str, browser: Browser) -> None:
    """Every control has its turn and shows the focus; nothing moves for who wants it still."""
    with browser_page(browser, base, reduced_motion="reduce") as visit:
        page = visit.open("/library")
        expect(page.locator("img.loaded")).to_have_count(1)
        assert page.evaluate("document.getAnimations().length") == 0
        seen = list(_tabbed(page))
        assert [html for is_shown, html in seen if not is_shown] == []
        for control in ("skip", 'name="type"', "opener", "retry"):
            assert any(control in html for _, html in seen), control
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "content"


def _tabbed(page: Page) -> Iterator[tuple[bool, str]]:
    """What has the focus after each press of Tab, until the browser itself has it."""
    for _ in range(100):
        page.keyboard.press("Tab")
        found = page.evaluate(_FOCUS)
        if found is None:
            return
        yield tuple(found)
    pytest.fail("Tab never leaves the page")
