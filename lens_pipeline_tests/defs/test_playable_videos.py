"""Copies of videos that not all browsers play, from the row to a browser."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from playwright.sync_api import Page

from lens_pipeline import definitions
from lens_pipeline.engine.run_queue import RunQueue
from lens_pipeline.web.app import create_app
from lens_pipeline.web.context import Context
from lens_pipeline_tests.media.samples import scene, write_video
from lens_pipeline_tests.support.site import Site
from lens_pipeline_tests.support.web import served
from lens_pipeline_tests.web.pages.browser import launched

pytestmark = pytest.mark.slow

CORPUS = Path(__file__).parents[1] / "media" / "corpus"
_VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi")
_WITHOUT_POSTER = {"container.avi", "encrypted-cenc.mp4", "encrypted.webm", "matrix-ictcp.mp4"}
_ENCODED = {
    *("h264-444.mp4", "hevc-b-frames.mp4", "hevc-idr-drops-prior.mp4", "hevc-tag-hev1.mp4"),
    *("mjpeg-exif.mov", "webm-live-no-duration.webm"),
}
_UNCHANGED = {"size-change-vp9.webm", "vp8-alt-ref.webm", "vp9-alpha-hole.webm"}
# Seconds of sound after the pictures.
_SOUND_ALONE = {"audio-late.mp4": 0.3}
# A frame of the slowest, and what a container rounds.
_FRAME_SECONDS = 0.1 + 0.01
# Plays to the end, then seeks there; returns the length and the time of the last frame shown.
_PLAY = """
(addresses) => Promise.all(addresses.map(async (address) => {
  const video = document.body.appendChild(document.createElement("video"));
  const until = (name) => new Promise((done, failed) => {
    video.addEventListener(name, done, {once: true});
    video.addEventListener("error", () => failed(video.error), {once: true});
    setTimeout(() => failed(new Error(`no ${name} within 60 s`)), 60000);
  });
  let last = -1;
  const note = (_, frame) => {
    last = frame.mediaTime;
    video.requestVideoFrameCallback(note);
  };
  try {
    video.muted = true;
    video.requestVideoFrameCallback(note);
    const loaded = until("canplaythrough");
    video.src = address;
    await loaded;
    const ended = until("ended");
    await video.play();
    await ended;
    const sought = until("seeked");
    video.currentTime = video.duration;
    await sought;
    return [video.duration, last];
  } catch (error) {
    return error.message;
  }
}))
"""


@pytest.fixture
def page() -> Iterator[Page]:
    with launched() as browser:
        yield browser.new_page()


def _made(site: Site, *names: str) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """The status of the copy of each, and the metadata."""
    found = site.lens("status", *names, "--json").json["status"]
    statuses = {one["id"]: one for one in found if one["asset"] == "playable_video"}
    facts = site.pipeline.log.latest("playable_video", names)
    return {name: (statuses[name], facts[name]) for name in names}


def test_every_video_plays_to_its_last_frame(
    site: Site, environment: pytest.MonkeyPatch, page: Page
) -> None:
    """A black box in place of a video that has a poster."""
    environment.setenv("LENS_PLAYABLE", "true")
    site.lens("migrate")
    (site.store / "u1").mkdir()
    corpus = [path for path in CORPUS.iterdir() if path.suffix in _VIDEOS]
    for path in corpus:
        shutil.copy(path, site.store / "u1" / path.name)
        site.add(path.name, f"u1/{path.name}", type="video")
    done = site.once()
    assert {one["id"] for one in done["failures"]} == _WITHOUT_POSTER
    assert done["failed"] == len(_WITHOUT_POSTER)
    names = sorted({path.name for path in corpus} - _WITHOUT_POSTER)
    made = _made(site, *names)
    for method, wanted in (("none", _UNCHANGED), ("encode", _ENCODED)):
        assert {name for name, (_, facts) in made.items() if facts["method"] == method} == wanted
    assert {status["state"] for status, _ in made.values()} == {"ready"}
    copies = {name: facts["path"] for name, (_, facts) in made.items() if "path" in facts}
    assert copies == {name: status["path"] for name, (status, _) in made.items() if status["path"]}
    assert copies.keys() == set(names) - _UNCHANGED
    assert {key for key in site.objects() if key.startswith("u1/playable/")} == {*copies.values()}

    app = create_app(Context(site.pipeline, RunQueue(site.pipeline, site.dagster, definitions.job)))
    with served(app) as url, httpx.Client(base_url=url) as web:
        listed = web.get("/api/generations").json()["generations"]
        addresses = {one["id"]: one["playable_url"] for one in listed if one["playable_url"]}
        assert addresses == {name: f"/api/generations/{name}/file?playable=1" for name in copies}
        page.goto(url)
        played = page.evaluate(
            _PLAY, [f"/api/generations/{name}/file?playable=1" for name in names]
        )
        faults = {
            name: one
            for name, one in zip(names, played, strict=True)
            if isinstance(one, str)
            or not 0 < one[0] - one[1] - _SOUND_ALONE.get(name, 0) < _FRAME_SECONDS
        }
        assert faults == {}
        # The copy is lost.
        lost = "hevc-b-frames.mp4"
        (site.store / copies[lost]).unlink()
        answer = web.get(addresses[lost])
        assert answer.content == (CORPUS / lost).read_bytes()
    result = site.lens("backfill", "--lost", "--dry-run", "--json").json
    assert result["found"] == 1


def test_a_copy_that_is_not_needed_any_more_is_deleted(
    site: Site, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A copy of another video, for ever; a video that is looked at again and again."""
    environment.setenv("LENS_PLAYABLE", "true")
    site.lens("migrate")
    (site.store / "u1").mkdir()
    shutil.copy(CORPUS / "rotated-90.mp4", site.store / "u1" / "old.mp4")
    frames = [scene(64, 48)] * 10
    write_video(site.store / "u1" / "new.mp4", frames, rate=10, audio_seconds=1, first_moov=True)
    site.add("v1", "u1/old.mp4", type="video")
    assert site.once()["ready"] == 2
    (key,) = (key for key in site.objects() if "/playable/" in key)
    site.sql("UPDATE generations SET asset_url = 'u1/new.mp4', updated_at = now()")
    assert site.once()["ready"] == 2
    assert key not in site.objects()
    status, facts = _made(site, "v1")["v1"]
    assert (status["state"], status["path"], facts["method"]) == ("ready", None, "none")
    assert site.once()["found"] == 0
    site.sql("DELETE FROM generations")
    assert site.lens("remove-missing", "--yes").code == 0
