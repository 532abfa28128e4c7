"""The library's grid: rows of whole pictures, of which only those near the view are drawn."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx2 as httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from lens_pipeline_tests.support import sources
from lens_pipeline_tests.support.servers import HostileServer
from lens_pipeline_tests.support.site import Site, eventually
from lens_pipeline_tests.web.pages.browser import browser_page, launched

pytestmark = pytest.mark.slow

_NARROW = {"width": 390, "height": 844}
_MANY = 100_000
_HEAP_BYTES = 150e6
# Of the main thread, of the 16.7 ms that a frame takes at 60 a second.
_FRAME_MS = 12
# An API with many generations, answered within the page: seven to a minute, newest first.
_MANY_ENTRIES = """
const SHAPES = [[768, 432], [432, 768], [768, 768], [768, 512], [null, null]];
const PICTURE = "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg'/>";
window.newest = %d;
window.asked = [];
window.entryOf = (number) => {
  const id = `00000000-0000-4000-8000-${String(number).padStart(12, "0")}`;
  const url = `/api/generations/${id}`;
  const [width, height] = SHAPES[number %% SHAPES.length];
  const moment = new Date(Date.UTC(2026, 10, 29, 12) - (%d - number) * 60000 / 7).toISOString();
  return {
    id, user_id: "11111111-2222-4333-8444-555555555555", type: number %% 4 ? "photo" : "video",
    generation_status: "success", status: width ? "ready" : "none",
    path: `11111111-2222-4333-8444-555555555555/previews/${id}_preview.webp`,
    picture_url: width && PICTURE, clip_url: null,
    file_url: PICTURE, width, height, duration: number %% 4 ? null : 61.4, sizes: [],
    thumbhash: `${btoa(String(number).padStart(15, "x"))}`, error: null, error_class: null,
    attempts: 0, retry_at: null, run_id: null, dagster_path: `/assets/preview?partition=${id}`,
    created_at: moment, updated_at: moment, ready_at: moment,
  };
};
const realFetch = window.fetch;
window.fetch = async (url, options) => {
  const asked = new URL(url, location.origin);
  if (asked.pathname.startsWith("/api/generations/")) {
    return Response.json(entryOf(Number(asked.pathname.slice(-12))));
  }
  if (asked.pathname !== "/api/generations") return realFetch(url, options);
  window.asked.push(asked.search);
  // As if somebody went back while the first page comes.
  if (window.asked.length === 1) dispatchEvent(new PopStateEvent("popstate"));
  const ids = asked.searchParams.get("ids")?.split(",");
  const first = Number(asked.searchParams.get("cursor") ?? newest);
  const count = Math.min(first, Number(asked.searchParams.get("limit") ?? 60));
  const numbers = ids ? ids.map((id) => Number(id.slice(-12)))
    : Array.from({length: count}, (_, k) => first - k);
  const next = ids || first - count === 0 ? null : String(first - count);
  return Response.json({generations: numbers.map(entryOf), next_cursor: next});
};
"""
# Scrolls on in each frame, and measures how long the frames take.
_SCROLL = """
([pixels, frames]) => new Promise((done) => {
  const times = [];
  let last = null;
  const step = (now) => {
    if (last !== null) times.push(now - last);
    last = now;
    if (times.length === frames) return done(times.sort((a, b) => a - b));
    scrollBy({top: pixels, behavior: "instant"});
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
})
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


def _library(page: Page, expression: str) -> Any:
    """The value of an expression of the page's `entries` and `grid`."""
    return page.evaluate(
        f"import('/static/library.js').then(async ({{entries, grid}}) => {expression})"
    )


def _focus(page: Page) -> int:
    """The place of the entry that has the focus."""
    return _library(page, "grid.focused")


def _metrics(page: Page) -> dict[str, float]:
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    found = session.send("Performance.getMetrics")["metrics"]
    session.detach()
    return {one["name"]: one["value"] for one in found}


def _heap_bytes(page: Page) -> float:
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    used = session.send("Runtime.getHeapUsage")["usedSize"]
    session.detach()
    return used


def _milliseconds_a_frame(page: Page, pixels: int, frames: int = 180) -> tuple[float, float]:
    """Of work on the main thread, and the median from frame to frame."""
    before = _metrics(page)["TaskDuration"]
    times = page.evaluate(_SCROLL, [pixels, frames])
    return (_metrics(page)["TaskDuration"] - before) * 1000 / frames, times[frames // 2]


def test_a_hundred_thousand_entries(
    web: httpx.Client, browser: Browser, record_property: Callable[[str, object], None]
) -> None:
    with browser_page(browser, str(web.base_url).rstrip("/")) as visit:
        visit.page.add_init_script(_MANY_ENTRIES % (_MANY, _MANY))
        page = visit.open("/library")
        expect(page.locator(".card img.loaded").first).to_be_visible()
        expect(page.locator("#count")).to_have_text("60 shown")
        _library(page, "{ while (!entries.complete) await entries.load(); }")
        expect(page.locator("#count")).to_have_text("That is all: 100,000")
        assert page.locator("#grid > li").count() < 150
        figures = {
            "heap": _heap_bytes(page),
            "slowly": _milliseconds_a_frame(page, 12),
            "fast": _milliseconds_a_frame(page, 400),
            "jumps": _milliseconds_a_frame(page, 20_000),
        }
        record_property("figures", json.dumps(figures))
        assert figures["heap"] < _HEAP_BYTES
        for pace in ("slowly", "fast"):
            assert figures[pace][0] < _FRAME_MS, figures
        assert page.locator("#grid > li").count() < 150
        _require_rows(page)


def _require_rows(page: Page) -> None:
    """Every picture is whole, and every row but the last of a day fills the width."""
    boxes = page.locator(".card:has(img)").evaluate_all(
        "(all) => all.map((one) => { const {width, height} = one.querySelector('.frame')"
        ".getBoundingClientRect(); const image = one.querySelector('img');"
        " return [width / height, image.width / image.height,"
        " image.getAttribute('width') / image.getAttribute('height')]; })"
    )
    assert boxes
    for frame, drawn, real in boxes:
        assert frame == pytest.approx(real, rel=0.02)
        assert drawn == pytest.approx(real, rel=0.02)
    width = page.evaluate("document.getElementById('grid').clientWidth")
    edges = page.locator(".card").evaluate_all(
        "(all) => all.map((one) => new DOMMatrix(one.style.transform))"
        ".map(({e, f}, place) => [f, e + all[place].offsetWidth])"
    )
    ends = list(dict(edges).values())
    assert len(ends) > 2
    early = [right for right in ends if right != width]
    assert len(early) <= page.locator(".day").count() and max(ends) == width, ends


def test_the_grid_by_keyboard(web: httpx.Client, browser: Browser) -> None:
    with browser_page(browser, str(web.base_url).rstrip("/")) as visit:
        visit.page.add_init_script(_MANY_ENTRIES % (2000, 2000))
        page = visit.open("/library")
        expect(page.locator(".card img.loaded").first).to_be_visible()
        _library(page, "{ while (!entries.complete) await entries.load(); }")
        visit.require_usable()
        # One card of all is on the way of Tab.
        page.get_by_label("Up to").focus()
        # A date has several fields.
        for _ in range(6):
            page.keyboard.press("Tab")
            if _focus(page) >= 0:
                break
        assert _focus(page) == 0
        tabs = page.locator("#grid :is(a, button)[tabindex='0']").evaluate_all(
            "(all) => new Set(all.map((one) => one.closest('.card').dataset.id)).size"
        )
        assert tabs == 1
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowLeft")
        assert _focus(page) == 1
        page.keyboard.press("ArrowDown")
        below = _focus(page)
        assert below > 2
        page.keyboard.press("ArrowUp")
        assert _focus(page) == 1
        page.keyboard.press("End")
        assert _focus(page) == 1999
        expect(page.locator(".opener:focus")).to_be_in_viewport()
        page.keyboard.press("PageUp")
        assert 1900 < _focus(page) < 1999
        page.keyboard.press("Home")
        assert _focus(page) == 0
        # However far the page is scrolled, the focus is where it was.
        page.keyboard.press("ArrowRight")
        page.mouse.move(600, 400)
        page.mouse.wheel(0, 30_000)
        eventually(lambda: page.evaluate("scrollY") > 20_000, 10)
        eventually(lambda: page.locator("#grid > li").count() < 150, 5)
        assert _focus(page) == 1
        page.keyboard.press("ArrowRight")
        assert _focus(page) == 2
        expect(page.locator(".opener:focus")).to_be_in_viewport()
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog")).to_be_visible()
        page.keyboard.press("Escape")
        assert _focus(page) == 2


def test_what_is_read_stays_in_its_place(web: httpx.Client, browser: Browser) -> None:
    """Rows above grow and shrink as pictures come, and go."""
    with browser_page(browser, str(web.base_url).rstrip("/")) as visit:
        visit.page.add_init_script(_MANY_ENTRIES % (2000, 2000))
        page = visit.open("/library")
        expect(page.locator(".card img.loaded").first).to_be_visible()
        _library(page, "{ while (!entries.complete) await entries.load(); }")
        page.mouse.move(600, 400)
        page.mouse.wheel(0, 20_000)
        eventually(lambda: page.evaluate("scrollY") == 20_000, 10)
        seen = page.locator(".card").evaluate_all(
            "(all) => { const one = all.find((card) => card.getBoundingClientRect().top > 200);"
            " return [one.dataset.id, one.getBoundingClientRect().top]; }"
        )
        top = "(one) => one.getBoundingClientRect().top"
        same = page.locator(f".card[data-id='{seen[0]}']")
        expect(page.locator("#grid")).to_have_attribute("aria-busy", "false")
        # A picture that cannot be loaded is told of until there is another one.
        one = f"...entries.get('{seen[0]}'), status: 'ready'"
        _library(page, f"entries.change({{{one}, picture_url: 'data:image/webp,none'}})")
        expect(same).to_contain_text("The picture cannot be loaded now")
        _library(page, f"entries.change({{{one}, title: 'Dunes'}})")
        expect(same).to_contain_text("Dunes")
        expect(same).to_contain_text("The picture cannot be loaded now")
        _library(page, "entries.change({...entries.list[4], width: 900, height: 200})")
        assert same.evaluate(top) == pytest.approx(seen[1], abs=1)
        # 300 new ones: what waits is counted, and what is seen stays.
        page.evaluate("newest += 300")
        _library(
            page,
            "{ for (let n = 2001; n <= 2300; n++)"
            " entries.changed(entryOf(n).id, entryOf(n).updated_at); }",
        )
        expect(page.get_by_role("button", name="300 new ones")).to_be_visible()
        expect(page.locator("#count")).to_have_text("2,000 shown")
        assert same.evaluate(top) == pytest.approx(seen[1], abs=1)
        page.evaluate("asked.length = 0")
        _library(page, "entries.missed()")
        expect(page.get_by_role("button", name="300 new ones")).to_be_hidden()
        assert same.evaluate(top) == pytest.approx(seen[1], abs=1)
        assert _library(page, "entries.list[0].id.slice(-4)") == "2300"


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_a_video_moves_while_it_is_pointed_at(
    site: Site,
    web: httpx.Client,
    server: HostileServer,
    environment: pytest.MonkeyPatch,
    browser: Browser,
    motion: str,
) -> None:
    environment.setenv("LENS_CLIPS", "true")
    video = server.put("/v1", sources.mp4(frames=72)).replace("127.0.0.1", "localhost")
    site.add("v1", video, type="video")
    site.once()
    (entry,) = web.get("/api/generations").json()["generations"]
    assert entry["duration"] == pytest.approx(3, abs=0.1)
    with browser_page(
        browser, str(web.base_url).rstrip("/"), reduced_motion=motion, viewport=_NARROW
    ) as visit:
        page = visit.open("/library")
        card = page.locator(".card[data-id=v1]")
        expect(card.locator("img.loaded")).to_be_visible()
        assert page.locator(".badge").inner_text() == "0:03"
        expect(page.get_by_role("button", name="Video of u1, Ready, 0:03")).to_be_visible()
        clip = card.locator("video")
        page.mouse.move(5, 5)
        card.locator(".opener").hover()
        if motion == "reduce":
            page.wait_for_timeout(800)
            expect(clip).to_have_count(0)
            return
        expect(clip).to_have_class(re.compile("loaded"))
        assert clip.evaluate("(one) => [one.muted, one.loop]") == [True, True]
        eventually(lambda: clip.evaluate("(one) => one.currentTime") > 0.2, 10)
        page.mouse.move(5, 5)
        expect(clip).to_have_count(0)
        page.keyboard.press("Tab")
        _library(page, "grid.focus(0)")
        expect(clip).to_have_class(re.compile("loaded"))
        page.keyboard.press("Tab")
        expect(clip).to_have_count(0)


def test_a_day_to_start_from(site: Site, web: httpx.Client, browser: Browser) -> None:
    for number in range(50):
        site.add(f"p{number:02}", f"https://example.org/{number}.jpg")
    site.sql(
        "UPDATE generations SET updated_at = timestamptz '2026-03-31 21:30:00+00'"
        " - (50 - CAST(substr(id, 2) AS int)) * interval '6 hours'"
    )
    with browser_page(
        browser, str(web.base_url).rstrip("/"), timezone_id="Asia/Yekaterinburg"
    ) as visit:
        page = visit.open("/library")
        expect(page.locator("#count")).to_have_text("That is all: 50")
        headings = page.locator(".day h2").all_inner_texts()
        assert headings[:2] == ["Tuesday, March 31", "Monday, March 30"]
        page.get_by_label("Up to").focus()
        page.keyboard.type("03202026")
        expect(page).to_have_url(re.compile("/library[?]before=2026-03-20$"))
        expect(page.locator(".day h2").first).to_have_text("Friday, March 20")
        expect(page.locator("#count")).to_have_text("That is all: 6")
        site.add("new", "https://example.org/new.jpg")
        page.reload()
        expect(page.locator(".day h2").first).to_have_text("Friday, March 20")
        visit.require_usable()
        page.get_by_role("button", name="Clear").click()
        expect(page.locator(".day h2").first).to_have_text("Today")
        expect(page.locator("#count")).to_have_text("That is all: 51")
