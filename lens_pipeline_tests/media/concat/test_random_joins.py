"""Joins of shots of random kinds: what FFmpeg and Chromium show of them, frame by frame."""

import base64
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from lens_pipeline.media.concat.join import join
from lens_pipeline.media.concat.plan import Compatibility
from lens_pipeline_tests.media.concat.shots import (
    AV1,
    FRAMES,
    H264,
    HEVC,
    MPEG4,
    OPUS,
    RATE,
    TOOLS,
    VP9,
    Make,
    Recipe,
    check_master,
    frames,
    source,
    work_in,
)
from lens_pipeline_tests.media.samples import Pixels
from lens_pipeline_tests.web.pages import chromium

pytestmark = pytest.mark.slow

_OPEN = "log-level=none:open-gop=1:keyint=6:min-keyint=6:bframes=3"
_MONO = ("-c:a", "aac", "-ar", "44100", "-ac", "1")
_KINDS = [
    Recipe("plain"),
    Recipe("open", coding=(*H264, "-x264-params", "open-gop=1:keyint=6:bframes=3")),
    Recipe("baseline", coding=(*H264, "-profile:v", "baseline", "-g", "7"), sound_coding=_MONO),
    Recipe("offset", coding=(*H264, "-output_ts_offset", "1.4")),
    Recipe("refresh", coding=(*H264, "-bf", "0", "-x264-params", "intra-refresh=1:keyint=6")),
    Recipe("444", coding=(*H264[:4], "-pix_fmt", "yuv444p")),
    Recipe("hevc", coding=(*HEVC[:4], "-x265-params", _OPEN)),
    Recipe("vp9", coding=VP9, container="webm", sound_coding=OPUS),
    Recipe("av1", coding=AV1),
    Recipe("mpeg4", coding=(*MPEG4, "-q:v", "2", "-bf", "2")),
]
_LOOKS = ("null", "negate", "hflip")
_WIDTH, _HEIGHT = 96, 54
_BESIDE_JOIN = 3
# The green of the frame at each of some times.
_SEEK = """
async ([address, times, width, height]) => {
  const video = document.createElement("video");
  const event = (name) => new Promise((done, failed) => {
    video.addEventListener(name, done, {once: true});
    video.addEventListener("error", () => failed(video.error), {once: true});
    setTimeout(() => failed(new Error(`no ${name}`)), 10000);
  });
  const loaded = event("loadeddata");
  video.src = address;
  await loaded;
  const canvas = new OffscreenCanvas(width, height).getContext("2d");
  const found = [];
  for (const time of times) {
    const sought = event("seeked");
    video.currentTime = time;
    await sought;
    canvas.drawImage(video, 0, 0, width, height);
    const data = canvas.getImageData(0, 0, width, height).data;
    found.push(btoa(String.fromCharCode(...data.filter((_, at) => at % 4 === 1))));
  }
  return [video.duration, found];
}
"""


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with sync_playwright() as playwright:
        launch = playwright.chromium.launch
        browser = launch(executable_path=chromium.find(), args=chromium.ARGUMENTS)
        yield browser.new_page()
        browser.close()


@pytest.mark.parametrize(
    ("seed", "compatibility"), [(1, "web"), (2, "web"), (3, "source"), (4, "source")]
)
def test_every_frame_of_every_shot_is_shown(
    seed: int, compatibility: Compatibility, make: Make, page: Page, tmp_path: Path
) -> None:
    rng = random.Random(seed)
    first, other = rng.sample(_KINDS, 2)
    # Two of a kind may be copied.
    kinds = [first, first, other]
    shots = [
        make(replace(kind, name=f"{kind.name}-{look}", filters=look))
        for kind, look in zip(kinds, _LOOKS, strict=True)
    ]
    sources = [source(path) for path in shots]
    master = join(sources, TOOLS, work_in(tmp_path / "work"), compatibility=compatibility)
    shown = check_master(master)
    wanted = [frame for path in shots for frame in frames(path)]
    assert len(shown) == len(wanted) == len(_LOOKS) * FRAMES
    _check_order(dict(enumerate(shown)), wanted)
    if compatibility == "web":
        small = [np.asarray(Image.fromarray(frame).resize((_WIDTH, _HEIGHT))) for frame in shown]
        _check_order(_in_chromium(page, master.path, len(shown)), small)


def _check_order(shown: Mapping[int, Pixels], wanted: Sequence[Pixels]) -> None:
    """Each is most like its own frame of the three about it."""
    for n, picture in shown.items():
        near = range(max(0, n - 1), min(len(wanted), n + 2))
        assert min(near, key=lambda place: _difference(picture, wanted[place])) == n


def _difference(one: Pixels, other: Pixels) -> float:
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


def _in_chromium(page: Page, master: Path, count: int) -> dict[int, Pixels]:
    """Frames beside the joins, the first and the last, by number."""
    beside = range(-_BESIDE_JOIN, _BESIDE_JOIN)
    numbers = [0, *(join + n for join in (FRAMES, 2 * FRAMES) for n in beside), count - 1]
    address = f"data:video/mp4;base64,{base64.b64encode(master.read_bytes()).decode()}"
    times = [(n + 0.5) / float(RATE) for n in numbers]
    duration, found = page.evaluate(_SEEK, [address, times, _WIDTH, _HEIGHT])
    assert duration == pytest.approx(count / float(RATE), abs=0.03)
    pictures = (np.frombuffer(base64.b64decode(values), np.uint8) for values in found)
    return {n: each.reshape(_HEIGHT, _WIDTH) for n, each in zip(numbers, pictures, strict=True)}
