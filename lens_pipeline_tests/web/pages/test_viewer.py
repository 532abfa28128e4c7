"""The viewer of the library: its address, keys, zoom, facts, and fingers."""

import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from lens_pipeline.catalog.rows import Generation, Kind
from lens_pipeline.derivatives.originals import ExtraFile, extra_observation
from lens_pipeline.derivatives.registry import ORIGINALS
from lens_pipeline_tests.support import sources
from lens_pipeline_tests.support.servers import HostileServer
from lens_pipeline_tests.support.site import Site, eventually
from lens_pipeline_tests.web.pages.browser import browser_page, launched

pytestmark = pytest.mark.slow

_PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
_SWIPE_MS = 20
# Where the picture is, and by how much it is larger than where it fits in whole.
_PICTURE = """
() => {
  const picture = document.querySelector(".lightbox-media img");
  const {left, top, width, height} = picture.getBoundingClientRect();
  return {left, top, width, height, zoom: width / picture.offsetWidth};
}
"""
_HELD_ARROW = """
(times) => {
  for (let time = 0; time < times; time++) {
    document.body.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight", bubbles: true}));
  }
}
"""
_UNDRAWN = """
[...document.querySelectorAll("dialog svg")]
  .filter((one) => one.checkVisibility() && !one.getBBox().width)
  .map((one) => one.outerHTML)
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture
def base(site: Site, web: httpx.Client, server: HostileServer) -> str:
    """A site with a file of each kind, newest first, and an older photo far behind them."""
    files = {
        "broken": None,
        "clip": sources.mp4(240),
        "icon": _png(16, 16),
        "strip": _png(300, 6000),
        "photo": sources.jpeg(1600, 1200),
        "far": sources.jpeg(64, 48),
    }
    for hours, (row_id, content) in enumerate(files.items()):
        if content is not None:
            server.put(f"/{row_id}", content)
        site.add(
            row_id,
            server.url(f"/{row_id}").replace("127.0.0.1", "localhost"),
            type="video" if row_id == "clip" else "photo",
            updated_at=f"2026-01-01 {20 - hours}:00+00",
        )
    site.once()
    # Further pages, of what is still to come.
    site.sql(
        "INSERT INTO generations (id, user_id, type, status, created_at, updated_at)"
        " SELECT 'row-' || n, 'u1', 'photo', 'new', now(), timestamptz '2026-01-01 15:30+00'"
        " FROM generate_series(100, 199) AS n"
    )
    return str(web.base_url).rstrip("/")


def _png(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").resize((width, height)).save(out, "PNG")
    return out.getvalue()


def _opener(page: Page, row_id: str) -> Any:
    return page.locator(f".card[data-id='{row_id}'] .opener")


def _wait(page: Page, condition: str) -> None:
    # Playwright's own way needs `eval`, which the pages' policy forbids.
    eventually(lambda: page.evaluate(condition), 15, condition)


def _until_whole(page: Page, row_id: str) -> None:
    """The original has come in place of the preview."""
    original = re.compile(f"/{row_id}/file")
    expect(page.locator(".lightbox-media img")).to_have_attribute("src", original)


def _picture(page: Page) -> Any:
    _wait(page, "document.getAnimations().length === 0")
    return page.evaluate(_PICTURE)


def _until(page: Page, is_so: Callable[[Any], bool]) -> None:
    """The picture is so."""
    eventually(lambda: is_so(_picture(page)), 10)


def test_a_picture_has_an_address(base: str, browser: Browser) -> None:
    with browser_page(browser, base, viewport={"width": 900, "height": 420}) as visit:
        page = visit.open("/library?type=photo")
        dialog = page.get_by_role("dialog")
        opener = _opener(page, "photo")
        opener.scroll_into_view_if_needed()
        place = page.evaluate("scrollY")
        opener.click()
        expect(page).to_have_url(f"{base}/library?type=photo&view=photo")
        expect(dialog.locator("dd").get_by_text("JPEG")).to_be_visible()
        page.go_back()
        expect(dialog).to_have_count(0)
        expect(page).to_have_url(f"{base}/library?type=photo")
        expect(opener).to_be_focused()
        assert page.evaluate("scrollY") == place
        page.go_forward()
        expect(dialog).to_be_visible()
        page.keyboard.press("ArrowLeft")
        expect(page).to_have_url(f"{base}/library?type=photo&view=strip")
        page.keyboard.press("Escape")
        expect(page).to_have_url(f"{base}/library?type=photo")
        expect(dialog).to_have_count(0)
        # Opened at once after that, it has its own place in the history.
        opener.click()
        expect(page).to_have_url(f"{base}/library?type=photo&view=photo")
        # The page goes on from the last one that was seen.
        page.keyboard.press("ArrowLeft")
        expect(page).to_have_url(f"{base}/library?type=photo&view=strip")
        page.keyboard.press("Escape")
        expect(_opener(page, "strip")).to_be_focused()

        # Directly, also if it is on none of the pages that are loaded.
        visit.open("/library?user_id=u1&view=far")
        expect(dialog.get_by_text("far", exact=True)).to_be_visible()
        expect(page.locator(".card[data-id='broken']")).to_have_count(1)
        expect(page.locator(".card[data-id='far']")).to_have_count(0)
        visit.require_usable()
        page.get_by_role("button", name="Close").click()
        expect(page).to_have_url(f"{base}/library?user_id=u1")
        # Coming back from another page, after the second page of the list was loaded.
        opener = _opener(page, "far")
        eventually(lambda: page.mouse.wheel(0, 9_000) or opener.count())
        opener.scroll_into_view_if_needed()
        place = page.evaluate("scrollY")
        page.get_by_role("link", name="Masters").click()
        expect(page).to_have_url(f"{base}/masters")
        page.go_back()
        expect(opener).to_be_in_viewport()
        assert page.evaluate("scrollY") == place
        visit.open("/library?view=none")
        expect(page.get_by_text("It is not there any more.")).to_be_visible()
        expect(page).to_have_url(f"{base}/library")
        visit.complaints[:] = [one for one in visit.complaints if "404" not in one]


def test_a_photo_is_looked_at_closely(base: str, browser: Browser) -> None:
    with browser_page(browser, base) as visit:
        page = visit.open("/library?view=photo")
        _until_whole(page, "photo")
        whole = _picture(page)
        x, y = whole["left"] + whole["width"] / 2, whole["top"] + whole["height"] / 2
        page.mouse.move(x, y)
        page.mouse.wheel(0, -400)
        _until(page, lambda now: now["zoom"] > 2)
        before = _picture(page)
        page.mouse.down()
        page.mouse.move(x + 40, y + 30)
        page.mouse.up()
        after = _picture(page)
        assert after["left"] - before["left"] == pytest.approx(40, abs=1)
        assert after["top"] - before["top"] == pytest.approx(30, abs=1)
        for _ in range(20):
            page.keyboard.press("+")
        # Two pixels of the screen for one of the picture.
        _until(page, lambda now: now["width"] == pytest.approx(3200, abs=1))
        # It moves the picture.
        page.keyboard.press("ArrowRight")
        expect(page).to_have_url(re.compile("view=photo"))
        page.keyboard.press("-")
        _until(page, lambda now: now["width"] == pytest.approx(3200 / 1.5, abs=1))
        page.keyboard.press("0")
        _until(page, lambda now: now == whole)
        page.mouse.dblclick(x, y)
        _until(page, lambda now: now["zoom"] == pytest.approx(2, rel=0.01))
        page.mouse.dblclick(x, y)
        _until(page, lambda now: now == whole)

        # A strip is as wide as it is, from its top, and is read by the wheel.
        page.keyboard.press("ArrowLeft")
        _until_whole(page, "strip")
        stage = page.locator(".lightbox-stage").bounding_box()
        assert stage is not None
        _until(page, lambda now: now["width"] == pytest.approx(300, abs=1))
        top = _picture(page)["top"]
        assert top == pytest.approx(stage["y"], abs=1)
        page.mouse.wheel(0, 500)
        _until(page, lambda now: now["top"] == pytest.approx(top - 500, abs=1))
        # An icon is no blur as large as the window.
        page.keyboard.press("ArrowLeft")
        _until_whole(page, "icon")
        assert _picture(page)["width"] == 32


def test_what_is_known_of_it_and_where_it_leads(
    site: Site, server: HostileServer, base: str, browser: Browser, tmp_path: Path
) -> None:
    server.put("/other", sources.png())
    other = server.url("/other").replace("127.0.0.1", "localhost")
    (row,) = site.pipeline.catalog.finished(Kind.PHOTO, ["photo"]).values()
    assert isinstance(row, Generation)
    revision = ORIGINALS[Kind.PHOTO].revision_of(row.asset_url)
    extra = extra_observation(row, [ExtraFile(2, revision, url=other)])
    site.dagster.report_runless_asset_event(extra)
    site.lens("retry", "broken")
    site.once()
    permissions = ["clipboard-read", "clipboard-write"]
    with browser_page(browser, base, permissions=permissions, accept_downloads=True) as visit:
        page = visit.open("/library?view=icon")
        dialog = page.get_by_role("dialog")
        expect(page.locator(".card[data-id='strip'] img.loaded")).to_be_visible()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.evaluate(_HELD_ARROW, 2)
        _until_whole(page, "photo")
        # Nothing of the one that was passed but what the grid has already.
        assert not [url for url in asked if re.search("/generations/strip(/file)?$", url)]
        expect(dialog.get_by_role("link", name="Result 2")).to_have_attribute(
            "href", "/api/generations/photo/file?n=2"
        )
        names, values = (dialog.locator(one).all_inner_texts() for one in ("dt", "dd"))
        facts = dict(zip(names, values, strict=True))
        assert (facts["Format"], facts["Provenance"]) == ("JPEG", "Made by AI")
        assert re.fullmatch(r"1600 . 1200", facts["Dimensions"])
        assert re.fullmatch(r"\d+ kB", facts["File size"])
        assert "2026" in facts["Finished"] and facts["Preview made"]
        with page.expect_download() as download:
            dialog.get_by_role("link", name="Download the original").click()
        assert download.value.suggested_filename == "photo.jpg"
        download.value.save_as(tmp_path / "photo.jpg")
        assert (tmp_path / "photo.jpg").read_bytes() == sources.jpeg(1600, 1200)
        dialog.get_by_role("button", name="Copy the link").click()
        expect(page.get_by_text("The link is copied")).to_be_visible()
        assert page.evaluate("navigator.clipboard.readText()") == f"{base}/library?view=photo"
        page.evaluate(
            "() => { navigator.clipboard.writeText = () => Promise.reject(new Error()); }"
        )
        dialog.get_by_role("button", name="Copy the link").click()
        expect(page.get_by_text("does not let the link be copied")).to_be_visible()
        page.keyboard.press("f")
        _wait(page, "document.fullscreenElement !== null")
        page.keyboard.press("f")
        _wait(page, "document.fullscreenElement === null")
        page.keyboard.press("End")
        expect(page).to_have_url(re.compile(r"view=row-\d+"))
        page.keyboard.press("Home")
        # Also those before it was tried again.
        expect(dialog.get_by_text("2 attempts")).to_be_visible()
        expect(dialog.get_by_role("button", name="Previous")).to_be_hidden()
        visit.require_usable()


def test_space_plays_and_icons_stay(base: str, browser: Browser) -> None:
    playing = "!document.querySelector('dialog video').paused"
    with browser_page(browser, base) as visit:
        page = visit.open("/library")
        _opener(page, "icon").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_role("button", name="Previous").click()
        expect(page).to_have_url(re.compile("view=clip"))
        _wait(page, playing)
        # Neither after a click nor on the button.
        for before in (lambda: None, dialog.get_by_role("button", name="Previous").focus):
            before()
            page.keyboard.press("Space")
            _wait(page, f"!({playing})")
            page.keyboard.press("Space")
            _wait(page, playing)
        dialog.locator(".lightbox-panel").click(position={"x": 5, "y": 5})
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowLeft")
        expect(page).to_have_url(re.compile("view=clip"))
        expect(dialog.locator("dd").get_by_text("0:10", exact=True)).to_be_visible()
        # From now on the server has nothing.
        page.route("**", lambda route: route.fulfill(status=204))
        page.keyboard.press("Home")
        expect(dialog.get_by_role("button", name="Retry")).to_be_visible()
        assert page.evaluate(_UNDRAWN) == []


def test_the_viewer_by_finger(base: str, browser: Browser) -> None:
    with browser_page(browser, base, **_PHONE) as visit:
        page = visit.open("/library?view=photo")
        _until_whole(page, "photo")
        touch = page.context.new_cdp_session(page)

        def fingers(*ways: tuple[tuple[float, float], tuple[float, float]]) -> None:
            """Move each from one point to another at once."""
            for kind, share in (("Start", 0.0), ("Move", 0.5), ("Move", 1.0)):
                points = [
                    {"x": a[0] + (b[0] - a[0]) * share, "y": a[1] + (b[1] - a[1]) * share, "id": n}
                    for n, (a, b) in enumerate(ways)
                ]
                touch.send(
                    "Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points}
                )
                page.wait_for_timeout(_SWIPE_MS)
            touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

        fingers(((180, 400), (140, 400)), ((210, 400), (250, 400)))
        eventually(lambda: _picture(page)["zoom"] > 2, 5)
        before = _picture(page)
        fingers(((200, 400), (160, 400)))
        eventually(lambda: _picture(page)["left"] < before["left"] - 20, 5)
        expect(page).to_have_url(re.compile("view=photo"))
        for _ in range(2):
            page.touchscreen.tap(200, 400)
        eventually(lambda: _picture(page)["zoom"] == 1, 5)
        fingers(((100, 400), (300, 400)))
        expect(page).to_have_url(re.compile("view=strip"))
        fingers(((300, 400), (100, 400)))
        expect(page).to_have_url(re.compile("view=photo"))
        small = page.evaluate(
            "[...document.querySelectorAll('dialog button, dialog a')]"
            ".filter((one) => one.checkVisibility({visibilityProperty: true}))"
            ".filter((one) => Math.min(one.offsetWidth, one.offsetHeight) < 44)"
            ".map((one) => one.outerHTML)"
        )
        assert small == []
        visit.require_usable()
