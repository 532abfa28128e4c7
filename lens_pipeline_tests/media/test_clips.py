"""Hover clips: short, small, and without a flash of the next scene."""

from pathlib import Path

import av
import numpy as np
import pytest

from lens_pipeline.media.clips import MOST_BYTES, render_clip
from lens_pipeline.media.ffmpeg.run import Work
from lens_pipeline.media.ffmpeg.tools import Tools
from lens_pipeline.media.formats import mp4_boxes
from lens_pipeline.media.models import Video
from lens_pipeline_tests.media.samples import Pixels, scene, write_video

pytestmark = pytest.mark.slow


def _clip(source: Path, at_seconds: float, seconds: float) -> Video:
    work = Work(source.parent, lambda: False, lambda *_: None)
    return render_clip(source, at_seconds, seconds, Tools.find(), work)


def _panned(frames: int) -> list[Pixels]:
    wide = scene(400, 180)
    return [wide[:, number : number + 320] for number in range(frames)]


@pytest.mark.parametrize(
    ("change", "seconds"), [(38, 3.3), (20, 4.0), (60, 4.0)], ids=["fourth second", "early", "late"]
)
def test_a_clip_ends_where_the_scene_changes(change: int, seconds: float, tmp_path: Path) -> None:
    """Half a second of the next scene at the end of a loop."""
    frames = [*_panned(change), *(scene(320, 180, 7) for _ in range(80 - change))]
    source = write_video(tmp_path / "v.mp4", frames, rate=10, audio_seconds=8)
    clip = _clip(source, 0.5, 8)
    assert clip.duration_seconds == pytest.approx(seconds, abs=0.01)
    assert list(mp4_boxes(clip.path)).index(b"moov") < list(mp4_boxes(clip.path)).index(b"mdat")
    with av.open(str(clip.path)) as opened:
        assert [stream.type for stream in opened.streams] == ["video"]
        first = next(opened.decode(video=0)).to_ndarray(format="gray").astype(float)
    grey = frames[5].astype(float) @ (0.299, 0.587, 0.114)
    assert np.abs(first - grey).mean() < 10


def test_a_short_video_is_shown_from_its_poster_on(tmp_path: Path) -> None:
    """A loop that is over before it has begun, or an error for a file that plays."""
    source = write_video(tmp_path / "v.mp4", _panned(20), rate=10)
    assert _clip(source, 0.3, 2).duration_seconds == pytest.approx(1.7, abs=0.01)
    assert _clip(source, 1.6, 2).duration_seconds == pytest.approx(1.5, abs=0.01)


def test_a_rounded_time_leaves_no_frame_out(tmp_path: Path) -> None:
    """A clip without the poster's frame; of a slow video, one without any."""
    frames = [*_panned(24), scene(320, 180, 7)]
    source = write_video(tmp_path / "v.mp4", frames, rate=24)
    # The last frame begins at 1 s, the one before at 0.95833 s.
    assert _clip(source, 0.959, 3).duration_seconds == pytest.approx(2 / 24, abs=0.001)


def test_noise_is_small_too(tmp_path: Path) -> None:
    """Megabytes that a page of cards loads."""
    noise = np.random.default_rng(1).integers(0, 256, (50, 180, 320, 3), dtype=np.uint8)
    source = write_video(
        tmp_path / "v.mp4", noise, rate=50, encoder_options={"preset": "ultrafast"}
    )
    clip = _clip(source, 0, 1)
    assert clip.path.stat().st_size <= MOST_BYTES
    with av.open(str(clip.path)) as opened:
        assert opened.streams.video[0].average_rate == 25
