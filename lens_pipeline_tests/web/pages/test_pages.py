"""The library and the masters as people use them, in a real browser on a real `lens up`."""

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import av
import httpx2 as httpx
import pytest
import sqlalchemy as sa
from playwright.sync_api import Browser, Locator, Page, Position, Route, expect

from lens_pipeline.catalog.rows import Kind
from lens_pipeline.cli.demo.show import SAMPLES, add_missing
from lens_pipeline.core.ports import LOOPBACK, free_port
from lens_pipeline.derivatives.registry import MASTER_POSTER, POSTER
from lens_pipeline.derivatives.uploads import copy_into_store
from lens_pipeline.web.auth.caller import Caller
from lens_pipeline.web.auth.keys import signing_key
from lens_pipeline.web.auth.tokens import Tokens
from lens_pipeline_tests.support.servers import Answer, HostileServer
from lens_pipeline_tests.support.site import Site, eventually
from lens_pipeline_tests.support.stack import Stack
from lens_pipeline_tests.web.pages.browser import browser_page, launched

pytestmark = [pytest.mark.slow, pytest.mark.stack]

_READY_MS = 30_000
# After which the page asks for shots again.
_LOOKS_AGAIN = "00:11"
# Rows that come in one transaction, and then one by one at 35 a second.
_AT_ONCE = 100
_IN_TURN = 70
_TOKEN = "correct-horse-battery-staple"
_PHONE = {"width": 360, "height": 740}
_COFFEE = next(sample for sample in SAMPLES if sample.file == "coffee.png")
# How far the colours of a placeholder are from the picture's, of 255, on average over its parts.
_BLURRED = 15
_COMPARE_WITH_PLACEHOLDER = """
async ([picture, hash]) => {
  const {decode} = await import("/static/thumbhash.js");
  const bytes = Uint8Array.from(atob(hash), (character) => character.charCodeAt(0));
  const {width, height, rgba} = decode(bytes);
  const blurred = await createImageBitmap(new ImageData(rgba, width, height));
  const image = new Image();
  image.src = picture;
  await image.decode();
  // In a few fields each, on white.
  const fields = (source) => {
    const context = new OffscreenCanvas(4, 4).getContext("2d");
    context.imageSmoothingQuality = "high";
    context.fillStyle = "white";
    context.fillRect(0, 0, 4, 4);
    context.drawImage(source, 0, 0, 4, 4);
    return [...context.getImageData(0, 0, 4, 4).data];
  };
  const real = fields(image);
  const off = fields(blurred).reduce((sum, value, at) => sum + Math.abs(value - real[at]), 0);
  return [off / real.length, image.naturalWidth / image.naturalHeight / (width / height)];
}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("pages") / "home") as stack:
        yield stack


@pytest.fixture(scope="module")
def base(stack: Stack) -> str:
    return f"http://127.0.0.1:{stack.api_port}"


@pytest.fixture(scope="module")
def samples(stack: Stack) -> Stack:
    """The demonstration's photos, videos and master, made."""
    add_missing(stack.pipeline)
    eventually(lambda: stack.states(MASTER_POSTER).get("sample-film") == "ready", 60)
    return stack


@pytest.fixture(scope="module")
def guarded(samples: Stack) -> Iterator[str]:
    """The same site by an app that wants a token."""
    port = free_port()
    own = {"LENS_API_TOKEN": _TOKEN, "LENS_API_PORT": str(port)}
    url = f"http://{LOOPBACK}:{port}"
    with subprocess.Popen(
        [sys.executable, "-m", "lens_pipeline.web"],
        cwd=samples.home.parent,
        env={**samples.environment, **own},
    ) as process:
        try:
            with httpx.Client(base_url=url) as client:
                eventually(lambda: _lives(client), 30, "the start of the app")
            yield url
        finally:
            process.terminate()


def _lives(client: httpx.Client) -> bool:
    try:
        return client.get("/health/live").is_success
    except httpx.TransportError:
        return False


def _bound_to(stack: Stack, user: str) -> str:
    """What `lens token --user` prints."""
    tokens = Tokens(_TOKEN, signing_key(stack.settings.model_copy(update={"api_token": _TOKEN})))
    return tokens.scoped(Caller(user_id=user), None)


def _post(url: str, content: Any) -> None:
    httpx.post(url, json=content, timeout=10).raise_for_status()


def _add_photo(stack: Stack, row_id: str, user: str = "me") -> None:
    copy_into_store(stack.pipeline, _COFFEE.path, f"uploads/{row_id}.png")
    stack.pipeline.catalog.add(row_id, user, Kind.PHOTO, f"uploads/{row_id}.png")


def _ids(page: Page) -> list[str | None]:
    return [card.get_attribute("data-id") for card in page.locator(".card").all()]


def _card(page: Page, row_id: str) -> Locator:
    return page.locator(f".card[data-id='{row_id}']")


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


def _wait(page: Page, condition: str) -> None:
    # Playwright's own way needs `eval`, which the pages' policy forbids.
    eventually(lambda: page.evaluate(condition), 15, condition)


def _focus(page: Page) -> str:
    return page.evaluate("document.activeElement.outerHTML")


# In this order: the first one sees the library fill.


def test_pictures_appear_as_they_become_ready(stack: Stack, base: str, browser: Browser) -> None:
    with browser_page(browser, base) as visit:
        page = visit.open("/library")
        expect(page.get_by_text("Nothing here yet")).to_be_visible()
        visit.require_usable()
        add_missing(stack.pipeline)
        expect(page.locator(".card[data-status=ready] img.loaded")).to_have_count(
            len(SAMPLES), timeout=_READY_MS
        )
        expect(page.get_by_text("Nothing here yet")).to_be_hidden()
        expect(page.locator("#count")).to_have_text(f"That is all: {len(SAMPLES)}")
        listed = _get(f"{base}/api/generations")["generations"]
        assert _ids(page) == [entry["id"] for entry in listed]
        for entry in listed:
            arguments = [entry["picture_url"], entry["thumbhash"]]
            off, ratio = page.evaluate(_COMPARE_WITH_PLACEHOLDER, arguments)
            assert off < _BLURRED, entry["id"]
            assert 0.8 < ratio < 1.25, entry["id"]
        # One more, while somebody looks: it comes first, and as what it is at each moment.
        _add_photo(stack, "one-more")
        expect(page.locator(".card").first).to_have_attribute("data-id", "one-more")
        expect(_card(page, "one-more").locator("img.loaded")).to_be_visible()
        link = _card(page, "one-more").get_by_role("link")
        assert link.get_attribute("href") == (
            f"http://127.0.0.1:{stack.port}/assets/preview?partition=one-more"
        )


def test_what_comes_while_somebody_reads_waits_for_them(
    samples: Stack, base: str, browser: Browser
) -> None:
    with browser_page(browser, base, viewport=_PHONE) as visit:
        page = visit.open("/library")
        expect(page.locator("img.loaded").first).to_be_visible()
        before = _ids(page)
        page.mouse.wheel(0, 900)
        _wait(page, "scrollY > 500")
        _add_photo(samples, "while-reading")
        page.get_by_role("button", name="1 new one").click()
        expect(page.locator(".card").first).to_have_attribute("data-id", "while-reading")
        # Those near the view are drawn.
        drawn = min(len(before), len(_ids(page)) - 1)
        assert _ids(page)[1 : drawn + 1] == before[:drawn]
        _wait(page, "scrollY === 0")


def test_failures_say_why_and_are_tried_again(samples: Stack, base: str, browser: Browser) -> None:
    with browser_page(browser, base) as visit:
        page = visit.open("/library")
        expect(page.locator("img.loaded").first).to_be_visible()
        samples.pipeline.catalog.add("lost", "me", Kind.PHOTO, "uploads/lost.png")
        card = _card(page, "lost")
        expect(card).to_have_attribute("data-status", "dead")
        expect(card.get_by_text("Its file does not exist")).to_be_visible()
        visit.require_usable()
        card.locator(".opener").click()
        dialog = page.get_by_role("dialog")
        expect(dialog.get_by_text("uploads/lost.png")).to_be_visible()
        expect(dialog.get_by_text("1 attempt")).to_be_visible()
        visit.require_usable()
        page.keyboard.press("Escape")
        copy_into_store(samples.pipeline, _COFFEE.path, "uploads/lost.png")
        card.get_by_role("button", name="Retry").focus()
        page.keyboard.press("Enter")
        expect(card.locator("img.loaded")).to_be_visible()
        # Whoever used the keyboard is still where they were.
        assert "opener" in _focus(page)


def test_rows_of_one_millisecond_come_in_the_order_of_the_api(
    samples: Stack, base: str, browser: Browser
) -> None:
    """Times in JavaScript have no microseconds; the ids say the contrary here."""
    for row_id in ("same-a", "same-b"):
        copy_into_store(samples.pipeline, _COFFEE.path, f"uploads/{row_id}.png")
    database = sa.create_engine(str(samples.pipeline.endpoints.database_url))
    with browser_page(browser, base) as visit:
        page = visit.open("/library")
        expect(page.locator("img.loaded").first).to_be_visible()
        with database.begin() as connection:
            connection.execute(
                sa.text(
                    "INSERT INTO generations (id, user_id, type, status, asset_url,"
                    " created_at, updated_at) VALUES"
                    " ('same-a', 'me', 'photo', 'success', 'uploads/same-a.png', now(),"
                    " date_trunc('milliseconds', now()) + interval '500 microseconds'),"
                    " ('same-b', 'me', 'photo', 'success', 'uploads/same-b.png', now(),"
                    " date_trunc('milliseconds', now()))"
                )
            )
        for row_id in ("same-a", "same-b"):
            expect(_card(page, row_id).locator("img.loaded")).to_be_visible()
        assert _ids(page)[:2] == ["same-a", "same-b"]
    database.dispose()


@pytest.mark.parametrize("path", ["/library", "/masters", "/login"])
def test_nothing_moves_while_a_page_arrives(guarded: str, browser: Browser, path: str) -> None:
    """A browser that was busy painted half a form, which moved as its other half was read."""
    headers = {} if path == "/login" else {"Authorization": f"Bearer {_TOKEN}"}
    html = httpx.get(guarded + path, headers=headers).content
    head, mark, body = html.partition(b"<body")
    pieces = (head, *re.split(rb"(?=<(?!/))", mark + body))
    with (
        HostileServer() as slow,
        browser_page(browser, guarded, extra_http_headers=headers) as visit,
    ):
        slow.answer_first(path, Answer(headers={"Content-Type": "text/html"}, pieces=pieces))
        visit.page.route(guarded + path, lambda route: route.continue_(url=slow.url(path)))
        visit.open(path)


def test_what_was_never_generated_is_not_waited_for(
    samples: Stack, base: str, browser: Browser
) -> None:
    """A task that failed at its provider was "Being generated" for ever."""
    database = sa.create_engine(str(samples.pipeline.endpoints.database_url))
    with database.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO generations (id, user_id, type, status, created_at, updated_at) VALUES"
                " ('refused', 'eve', 'photo', 'failed', now(), now()),"
                " ('under-way', 'eve', 'photo', 'generating', now(), now())"
            )
        )
    with browser_page(browser, base) as visit:
        visit.page.clock.install()
        page = visit.open("/library?user_id=eve")
        expect(_card(page, "under-way")).to_contain_text("Being generated")
        expect(_card(page, "refused")).to_contain_text("Could not be generated")
        _card(page, "refused").locator(".opener").click()
        expect(page.get_by_role("dialog")).to_contain_text("Could not be generated")
        visit.require_usable()
        page.keyboard.press("Escape")
        with database.begin() as connection:
            connection.execute(
                sa.text("UPDATE generations SET status = 'failed' WHERE id = 'under-way'")
            )
        page.clock.fast_forward("00:11")
        expect(_card(page, "under-way")).to_contain_text("Could not be generated")
    database.dispose()


def test_filters_are_in_the_address(samples: Stack, base: str, browser: Browser) -> None:
    videos = [sample.id for sample in SAMPLES if sample.kind is Kind.VIDEO]
    with browser_page(browser, base) as visit:
        page = visit.open("/library")
        page.get_by_label("Type").select_option("Videos")
        expect(page).to_have_url(f"{base}/library?type=video")
        expect(page.locator("#count")).to_have_text(f"That is all: {len(videos)}")
        assert set(_ids(page)) == set(videos)
        page.reload()
        expect(page.get_by_label("Type")).to_have_value("video")
        expect(page.locator("#count")).to_have_text(f"That is all: {len(videos)}")
        page.get_by_label("User").fill("nobody & co")
        page.keyboard.press("Enter")
        expect(page.get_by_text("Nothing matches these filters")).to_be_visible()
        page.go_back()
        expect(page.locator(".card[data-status=ready]")).to_have_count(len(videos))
        page.get_by_role("button", name="Clear").click()
        expect(page).to_have_url(f"{base}/library")
        page.get_by_label("Status").select_option("Ready")
        expect(page).to_have_url(f"{base}/library?status=ready")
        _card(page, videos[0]).get_by_role("button", name="Show only those of demo").click()
        expect(page).to_have_url(f"{base}/library?user_id=demo&status=ready")
        expect(page.locator("#count")).to_have_text(f"That is all: {len(SAMPLES)}")


def test_the_viewer_by_keyboard(samples: Stack, base: str, browser: Browser) -> None:
    with browser_page(browser, base) as visit:
        page = visit.open("/library?user_id=demo")
        expect(page.locator("#count")).to_have_text(f"That is all: {len(SAMPLES)}")
        page.keyboard.press("Tab")
        assert "skip" in _focus(page)
        photos = [sample.id for sample in SAMPLES if sample.kind is Kind.PHOTO]
        shown = next(row_id for row_id in _ids(page) if row_id in photos)
        opener = _card(page, shown).locator(".opener")
        opener.focus()
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog")
        expect(dialog.get_by_text(shown)).to_be_visible()
        # The original in the end, not the preview.
        expect(dialog.get_by_role("img", name="Photo")).to_have_attribute(
            "src", re.compile("/file")
        )
        for _ in range(12):
            page.keyboard.press("Tab")
            assert page.evaluate("document.activeElement.closest('dialog') !== null")
        for _ in range(12):
            page.keyboard.press("Shift+Tab")
            assert page.evaluate("document.activeElement.closest('dialog') !== null")
        page.keyboard.press("ArrowRight")
        following = _ids(page)[_ids(page).index(shown) + 1]
        expect(dialog.locator("dd").filter(has_text=str(following))).to_be_visible()
        page.keyboard.press("Escape")
        expect(dialog).to_have_count(0)
        # From the last one that was seen.
        expect(_card(page, str(following)).locator(".opener")).to_be_focused()
        _card(page, "sample-bunny").locator(".opener").click()
        video = dialog.locator("video")
        _wait(page, "document.querySelector('dialog video').currentTime > 0.5")
        assert "/poster" in str(video.get_attribute("poster"))
        visit.require_usable()


def test_pages_follow_each_other(site: Site, web: httpx.Client, browser: Browser) -> None:
    ids = [f"p{number:03}" for number in range(150)]
    site.add_many(ids, lambda row_id: f"https://example.org/{row_id}.jpg", age="2 h")
    with browser_page(browser, str(web.base_url).rstrip("/")) as visit:
        page = visit.open("/library?user_id=u1")
        expect(page.locator(".state").first).to_be_visible()
        expect(page.locator("#count")).to_have_text("60 shown")
        # By keyboard: coming to the button is enough, as scrolling near it is.
        page.get_by_role("button", name="Show more").focus()
        expect(page.locator("#count")).to_have_text("120 shown")
        expect(_card(page, ids[-61]).locator(".opener")).to_be_focused()
        page.mouse.wheel(0, 100_000)
        expect(page.locator("#count")).to_have_text("That is all: 150")
        page.mouse.wheel(0, 100_000)
        # Only those near what is seen are drawn.
        _wait(page, "document.querySelector('.card[data-id=p000]') !== null")
        drawn = _ids(page)
        assert 0 < len(drawn) < 150
        assert drawn == [row_id for row_id in ids[::-1] if row_id in drawn]
        site.sql("DELETE FROM generations WHERE id = 'p149'")
        assert web.get("/api/generations/p149").status_code == 404


def test_a_master_from_its_shots_to_the_file(
    samples: Stack, base: str, browser: Browser, tmp_path: Path
) -> None:
    name = 'Première — "x" <b>'
    with browser_page(browser, base, accept_downloads=True) as visit:
        page = visit.open("/masters?project=demo")
        expect(page.get_by_label("Project", exact=True)).to_have_value("demo")
        expect(page.get_by_role("heading", name="Sample film")).to_be_visible()
        visit.require_usable()
        _choose(page)
        page.get_by_label("Name", exact=True).fill(name)
        visit.require_usable()
        page.keyboard.press("Enter")
        master = page.locator(".master").first
        expect(master.get_by_role("heading")).to_have_text(name)
        expect(page.get_by_text(f"“{name}” is being made")).to_be_visible()
        expect(master).to_have_attribute("data-status", "processing")
        expect(master.get_by_role("progressbar")).to_be_visible()
        expect(master).to_have_attribute("data-status", "ready", timeout=_READY_MS)
        expect(page.get_by_text(f"“{name}” is ready")).to_be_visible()
        expect(master.locator(".poster img.loaded")).to_be_visible()
        expect(master.get_by_text("2 shots · 0:08")).to_be_visible()
        _watch_to_the_end(page, master)
        with page.expect_download() as download:
            master.get_by_role("link", name=f"Download “{name}”").click()
        file = tmp_path / "film.mp4"
        download.value.save_as(file)
        assert download.value.suggested_filename.startswith("Première — ")
        with av.open(file) as film:
            assert film.streams.video and film.streams.audio
        _delete(page, master, name)
        assert [card.get_attribute("data-id") for card in page.locator(".master").all()] == [
            "sample-film"
        ]


def _choose(page: Page) -> None:
    """Three shots, by mouse and keyboard; the last one is taken out again."""

    def order() -> list[str]:
        return page.locator(".shot .asset-name").all_inner_texts()

    page.get_by_role("button", name=re.compile("^Add bunny$")).click()
    page.get_by_role("button", name=re.compile("^Add hubble-pan")).click()
    portrait = page.get_by_role("button", name=re.compile("^Add bunny-portrait"))
    portrait.focus()
    page.keyboard.press("Enter")
    bunny, pan, tall = "bunny", "hubble-pan", "bunny-portrait"
    assert order() == [bunny, pan, tall]
    page.get_by_role("button", name=f"Move {tall} earlier").focus()
    page.keyboard.press("Enter")
    assert order() == [bunny, tall, pan]
    page.keyboard.press("Enter")
    assert order() == [tall, bunny, pan]
    # It is the first now, and the focus did not get lost.
    assert f"Move {tall} later" in _focus(page)
    expect(page.locator("#announcer")).to_have_text(f"{tall} is now shot 1 of 3")
    second = page.locator(".shot").nth(1)
    box = second.bounding_box()
    assert box is not None
    # Beyond its middle.
    beyond = Position(x=box["width"] * 0.8, y=box["height"] / 2)
    page.locator(".shot").nth(0).drag_to(second, target_position=beyond)
    expect(page.locator(".shot .asset-name").first).to_have_text(bunny)
    assert order() == [bunny, tall, pan]
    page.get_by_role("button", name=f"Remove {pan}").click()
    assert order() == [bunny, tall]
    expect(page.get_by_role("button", name=f"Add {tall}, in the film as 2")).to_be_visible()


def _watch_to_the_end(page: Page, master: Locator, seconds: float = 8) -> None:
    master.locator(".buttons").get_by_role("button", name="Watch").click()
    video = page.get_by_role("dialog").locator("video")
    _wait(page, "document.querySelector('dialog video').currentTime > 1")
    video.evaluate("(one) => { one.playbackRate = 4 }")
    _wait(page, "document.querySelector('dialog video').ended")
    played, length, sound, width = video.evaluate(
        "(one) => [one.currentTime, one.duration, one.webkitAudioDecodedByteCount, one.videoWidth]"
    )
    assert played == length == pytest.approx(seconds, abs=0.5)
    assert sound > 0 and width > 0
    page.keyboard.press("Escape")


def _delete(page: Page, master: Locator, name: str) -> None:
    delete = master.get_by_role("button", name=f"Delete “{name}”")
    delete.click()
    dialog = page.get_by_role("dialog", name=f"Delete “{name}”?")
    # Who presses Enter without reading changes nothing.
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Escape")
    expect(delete).to_be_focused()
    delete.click()
    dialog.get_by_role("button", name="Delete").click()
    expect(page.get_by_text(f"“{name}” was deleted")).to_be_visible()
    assert "Sample film" in _focus(page)


def _take_time(route: Route) -> None:
    """As long as a busy server takes, after which nobody remembers their click."""
    if route.request.method == "POST":
        time.sleep(1)
    route.continue_()


def test_a_master_that_fails_says_why(samples: Stack, base: str, browser: Browser) -> None:
    """Also: the form that jumps when its server has answered at last."""
    bunny = next(sample for sample in SAMPLES if sample.file == "bunny.mp4")
    copy_into_store(samples.pipeline, bunny.path, "uploads/none.mp4")
    shot = {"asset_id": "none", "asset_url": "uploads/none.mp4"}
    _post(f"{base}/api/projects/broken/assets", shot)
    with browser_page(browser, base, viewport=_PHONE) as visit:
        visit.page.route("**/master-videos", _take_time)
        page = visit.open("/masters?project=broken")
        expect(page.get_by_text("No masters yet")).to_be_visible()
        page.get_by_role("button", name="Create master").click()
        expect(page.get_by_role("alert")).to_have_text("Choose at least one shot.")
        page.get_by_role("button", name="Add none").click()
        samples.pipeline.store.delete("uploads/none.mp4")
        page.get_by_role("button", name="Create master").click()
        expect(page.get_by_role("alert")).to_have_text("Give it a name.")
        expect(page.get_by_label("Name", exact=True)).to_be_focused()
        page.keyboard.type("Lost")
        page.keyboard.press("Enter")
        master = page.locator(".master")
        expect(master).to_have_attribute("data-status", "dead")
        expect(page.locator(".toast").filter(has_text="“Lost” failed")).to_be_visible()
        expect(master.locator(".detail")).to_contain_text("none")
        page.locator(".toast button").evaluate_all("(all) => all.forEach((one) => one.click())")
        expect(page.locator(".toast")).to_have_count(0)
        visit.require_usable()
        copy_into_store(samples.pipeline, bunny.path, "uploads/none.mp4")
        master.get_by_role("button", name="Retry").click()
        expect(master).to_have_attribute("data-status", "ready", timeout=_READY_MS)


def test_a_master_waits_for_its_shot(samples: Stack, base: str, browser: Browser) -> None:
    late = (
        "INSERT INTO generations (id, user_id, type, status) VALUES ('late', 'me', 'video', 'new')"
    )
    done = (
        "UPDATE generations SET status = 'success', asset_url = 'samples/bunny.mp4',"
        " updated_at = now() WHERE id = 'late'"
    )
    database = sa.create_engine(str(samples.pipeline.endpoints.database_url))
    with database.begin() as connection:
        connection.exec_driver_sql(late)
    with browser_page(browser, base) as visit:
        visit.page.clock.install()
        page = visit.open("/masters?project=patient")
        expect(page.get_by_text("This project has no shots yet")).to_be_visible()
        shot = {"asset_id": "late-shot", "generation_id": "late"}
        _post(f"{base}/api/projects/patient/assets", shot)
        page.clock.fast_forward(_LOOKS_AGAIN)
        tile = page.locator(".asset")
        expect(tile.get_by_text("Not ready yet")).to_be_visible()
        expect(page.get_by_text("This project has no shots yet")).to_be_hidden()
        tile.click()
        page.get_by_label("Name", exact=True).fill("Patience")
        page.keyboard.press("Enter")
        master = page.locator(".master")
        expect(master).to_have_attribute("data-status", "none")
        expect(master.get_by_text("Waits for 1 shot: late-shot")).to_be_visible()
        visit.require_usable()
        with database.begin() as connection:
            connection.exec_driver_sql(done)
        expect(master).to_have_attribute("data-status", "ready", timeout=_READY_MS)
        expect(page.get_by_text("“Patience” is ready")).to_be_visible()
        expect(master.locator(".detail")).to_be_hidden()
        eventually(lambda: samples.states(POSTER).get("late") == "ready", 15)
        page.clock.fast_forward(_LOOKS_AGAIN)
        expect(tile.locator("img")).to_be_visible()
        expect(tile.get_by_text("Not ready yet")).to_have_count(0)
    database.dispose()


def test_pages_behind_the_login(samples: Stack, guarded: str, browser: Browser) -> None:
    with browser_page(browser, guarded) as visit:
        page = visit.open("/masters?project=demo")
        expect(page).to_have_url(re.compile("/login"))
        field = page.get_by_label("Access token")
        expect(field).to_be_focused()
        visit.require_usable()
        page.keyboard.type("guessed")
        page.keyboard.press("Enter")
        wrong = "This token is not valid, or has expired."
        expect(page.get_by_role("alert")).to_have_text(wrong)
        expect(page).to_have_title(f"{wrong} · Log in · Lens")
        expect(field).to_be_focused()
        expect(field).to_have_accessible_description(re.compile(wrong))
        visit.require_usable()
        # The browser itself tells of the answer 401 to the form.
        visit.complaints[:] = [one for one in visit.complaints if "401" not in one]
        page.keyboard.type(_TOKEN)
        page.keyboard.press("Enter")
        expect(page).to_have_url(f"{guarded}/masters?project=demo")
        expect(page).to_have_title("demo · Masters · Lens")
        expect(page.locator(".master[data-id=sample-film] img.loaded")).to_be_visible()
        page.get_by_role("button", name=re.compile("^Add bunny$")).click()
        page.get_by_label("Name", exact=True).fill("Guarded")
        page.keyboard.press("Enter")
        master = page.locator(".master").first
        expect(master.get_by_role("heading")).to_have_text("Guarded")
        expect(master).to_have_attribute("data-status", "ready", timeout=_READY_MS)
        _watch_to_the_end(page, master, seconds=4)
        _delete(page, master, "Guarded")
        page = visit.open("/library?user_id=demo")
        expect(page.locator("img.loaded")).to_have_count(len(SAMPLES))
        page.get_by_role("button", name="Log out").click()
        expect(field).to_be_focused()
        visit.open("/library")
        expect(page).to_have_url(f"{guarded}/login?next=%2Flibrary")


@pytest.mark.parametrize("width", [320, 360])
def test_who_sees_everything_can_leave_by_phone(guarded: str, browser: Browser, width: int) -> None:
    """Beside the long names of both pages there was no room for the way out."""
    with browser_page(
        browser, guarded, viewport={**_PHONE, "width": width}, locale="ru-RU"
    ) as visit:
        page = visit.open("/library")
        page.get_by_label("Токен доступа").fill(_TOKEN)
        page.get_by_role("button", name="Войти").click()
        expect(page.get_by_role("navigation").get_by_role("link")).to_have_count(2)
        visit.require_usable()
        # A request that is still on its way would be refused after the log-out: the page of a
        # project without posters ends with these three.
        with (
            page.expect_response("**/api/projects"),
            page.expect_response("**/nothing/assets*"),
            page.expect_response("**/nothing/master-videos*"),
        ):
            visit.open("/masters?project=nothing")
        page.get_by_role("button", name="Выйти").click()
        expect(page.get_by_label("Токен доступа")).to_be_focused()


def test_a_bound_token_sees_its_own(samples: Stack, guarded: str, browser: Browser) -> None:
    _add_photo(samples, "of-ann", user="ann")
    with browser_page(browser, guarded, viewport=_PHONE, locale="ru-RU") as visit:
        page = visit.open("/masters")
        page.get_by_label("Токен доступа").fill(_bound_to(samples, "ann"))
        page.get_by_role("button", name="Войти").click()
        # The masters are of no user.
        expect(page).to_have_url(f"{guarded}/library")
        expect(page.get_by_role("navigation").get_by_role("link")).to_have_text(["Библиотека"])
        expect(_card(page, "of-ann").locator("img.loaded")).to_be_visible()
        expect(page.get_by_label("Пользователь")).to_be_hidden()
        expect(page.locator(".card").get_by_role("link")).to_have_count(0)
        _add_photo(samples, "of-bob", user="bob")
        _add_photo(samples, "of-ann-too", user="ann")
        expect(_card(page, "of-ann-too").locator("img.loaded")).to_be_visible()
        eventually(lambda: samples.states().get("of-bob") == "ready", 15)
        assert _ids(page) == ["of-ann-too", "of-ann"]
        visit.require_usable()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"color_scheme": "dark", "locale": "en-GB"}, ["Library", "Masters", "updated"]),
        (
            {"color_scheme": "light", "locale": "ru-RU", "viewport": _PHONE},
            ["Библиотека", "Мастер-видео", "обновлено"],
        ),
        (
            {
                "color_scheme": "dark",
                "locale": "ru-RU",
                "viewport": _PHONE,
                "reduced_motion": "reduce",
            },
            ["Это всё:", "4 клипа", "0:16"],
        ),
    ],
)
def test_pages_for_every_reader(
    samples: Stack, base: str, browser: Browser, options: dict[str, Any], words: list[str]
) -> None:
    with browser_page(browser, base, **options) as visit:
        page = visit.open("/library")
        expect(page.locator("img.loaded").first).to_be_visible()
        visit.require_usable()
        seen = page.inner_text("body")
        page.locator(".opener").first.click()
        expect(page.get_by_role("dialog")).to_be_visible()
        visit.require_usable()
        page = visit.open("/masters?project=demo")
        expect(page.locator(".master img.loaded").first).to_be_visible()
        visit.require_usable()
        seen += page.inner_text("body")
        assert [word for word in words if word not in seen] == []


def test_times_tick(samples: Stack, base: str, browser: Browser) -> None:
    with browser_page(browser, base) as visit:
        visit.page.clock.install()
        page = visit.open("/masters?project=demo")
        time_of = page.locator(".master[data-id=sample-film] time")
        expect(time_of).to_contain_text("updated")
        page.clock.fast_forward("59:00")
        expect(time_of).to_have_text(re.compile(r"updated (59|1) (min|hr)\.? ago"))
        page.clock.fast_forward("02:00:00")
        expect(time_of).to_have_text(re.compile(r"updated [23] hr\.? ago"))


def test_a_burst_of_rows_leaves_every_page_true(
    samples: Stack, base: str, browser: Browser, record_property: Callable[[str, object], None]
) -> None:
    """It said "That is all: 93" of 320, asked hundreds of times, and left cards as they were."""
    copy_into_store(samples.pipeline, _COFFEE.path, "uploads/burst.png")
    database = sa.create_engine(str(samples.pipeline.endpoints.database_url))
    with ExitStack() as open_pages:
        visits = [open_pages.enter_context(browser_page(browser, base)) for _ in range(3)]
        asked: list[list[float]] = [[] for _ in visits]
        for visit, times in zip(visits, asked, strict=True):
            visit.page.on("request", lambda request, times=times: _note(request.url, times))
            visit.open("/library?user_id=burst")
            expect(visit.page.get_by_text("Nothing matches these filters")).to_be_visible()
        began = time.monotonic()
        _insert(database, "one", _AT_ONCE, "success")
        _insert(database, "unfinished", 10_000, "generating")
        for number in range(_IN_TURN):
            _insert(database, f"later{number}", 1, "success")
            visits[0].page.wait_for_timeout(1000 / 35)
        ready = f"{base}/api/generations?user_id=burst&status=ready&limit=200"
        eventually(lambda: len(_get(ready)["generations"]) == _AT_ONCE + _IN_TURN, 120)
        seconds = time.monotonic() - began
        for visit, times in zip(visits, asked, strict=True):
            page = visit.page
            expect(page.locator("#count")).to_have_text(re.compile("^[0-9,]+ shown$"))
            expect(page.locator(".card:not([data-status=ready]) .spinner")).to_have_count(
                0, timeout=_READY_MS
            )
            listed = _get(f"{base}/api/generations?user_id=burst&limit=200")["generations"]
            by_id = {entry["id"]: entry["status"] for entry in listed}
            shown = page.locator(".card").evaluate_all(
                "(all) => all.map(({dataset}) => [dataset.id, dataset.status])"
            )
            assert [row_id for row_id, _ in shown] == list(by_id)[: len(shown)]
            assert [state for _, state in shown] == [by_id[row_id] for row_id, _ in shown]
            rate = len(times) / seconds
            record_property("requests a second", rate)
            assert rate <= 2, f"{len(times)} requests in {seconds:.0f} s"
    database.dispose()


def _note(url: str, times: list[float]) -> None:
    if re.search("/api/generations([?]|$)", url) or re.fullmatch(".*/api/generations/[^/]+", url):
        times.append(time.monotonic())


def _insert(database: sa.Engine, name: str, count: int, status: str) -> None:
    with database.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO generations (id, user_id, type, status, asset_url, created_at,"
                " updated_at) SELECT :name || '-' || n, 'burst', 'photo', :status,"
                " 'uploads/burst.png', now(), now() FROM generate_series(1, :count) AS n"
            ),
            {"name": f"burst-{name}", "count": count, "status": status},
        )


def test_a_page_outlives_its_server(samples: Stack, base: str, browser: Browser) -> None:
    with browser_page(browser, base) as visit:
        page = visit.open("/library?user_id=after")
        expect(page.get_by_text("Nothing matches these filters")).to_be_visible()
        samples.of("api")[0].kill()
        expect(page.get_by_text("Connection lost")).to_be_visible()
        _add_photo(samples, "after-restart", user="after")
        expect(_card(page, "after-restart").locator("img.loaded")).to_be_visible(timeout=_READY_MS)
        expect(page.get_by_text("Connection lost")).to_be_hidden()
        # The browser itself complains about the connections that were refused meanwhile.
        lost = re.compile("net::ERR_(CONNECTION|INCOMPLETE|EMPTY)")
        visit.complaints[:] = [one for one in visit.complaints if not lost.search(one)]
