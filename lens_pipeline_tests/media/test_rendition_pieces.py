"""Pieces of one film: what they share is made once, and each is as exact as if it were alone."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from lens_pipeline.cli.demo.show import SAMPLES
from lens_pipeline.media.concat.join import join
from lens_pipeline.media.errors import DiskFull, MediaError, MediaProcessDied
from lens_pipeline.media.ffmpeg.run import Work
from lens_pipeline.media.ffmpeg.tools import Tools
from lens_pipeline.media.models import Rendition, ScaleSpec
from lens_pipeline.media.renditions import graph, render
from lens_pipeline.media.renditions.film import probe_film
from lens_pipeline.media.renditions.plan import Look, Pass, passes, piece_of
from lens_pipeline.media.renditions.render import Renditions
from lens_pipeline_tests.media.concat.shots import source
from lens_pipeline_tests.media.samples import Pixels, number_of, numbered, silence, write_video
from lens_pipeline_tests.media.similarity import ssim

_RATE = 24


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 numbered frames of 320x180 with B-frames, a key frame each 16, and a click each second."""
    sound = silence(4)
    for second in range(4):
        # In the middle of the second.
        sound[:, second * 48_000 + 24_000 :][:, :48] = 0.9
    return write_video(
        tmp_path_factory.mktemp("master") / "master.mp4",
        (numbered(n) for n in range(96)),
        keyframe_every=16,
        sound=sound,
        first_moov=True,
        colour=(1, 1, 1),
    )


def _rendered(renditions: Renditions, count: int) -> list[Rendition]:
    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(renditions.render, range(count)))


def _frames(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def _clicks(path: Path) -> list[float]:
    """Seconds."""
    with av.open(str(path)) as container:
        sound = np.concatenate([f.to_ndarray() for f in container.decode(audio=0)], axis=1)[0]
    loud = np.flatnonzero(np.abs(sound) > 0.4)
    return [float(loud[0]) / 48_000, *(loud[1:][np.diff(loud) > 24_000] / 48_000)]


def test_pieces_that_share_frames_are_cut_to_the_frame(
    master: Path, tools: Tools, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fragments that begin or end a frame beside their place, or whose sound runs away."""
    commands: list[Pass] = []
    strips_command = graph.strips_command

    def noted(film: Any, wanted: Pass, *rest: Any) -> list[str]:
        commands.append(wanted)
        return strips_command(film, wanted, *rest)

    monkeypatch.setattr(graph, "strips_command", noted)
    parts = [(0.3, 2.6), (0.0, 1.4), (1.2, 3.9), (1.2, 1.3), (None, None)]
    formats = [(90, 160, "blur"), (90, 90, "black")]
    specs = [ScaleSpec(w, h, a, b, fill) for a, b in parts for w, h, fill in formats]
    made = _rendered(Renditions(master, specs, tools, work), len(specs))
    # One decode for all ten.
    assert [len(one.strips) for one in commands] == [2]
    for spec, rendition in zip(specs, made, strict=True):
        first = int(np.ceil((spec.start_seconds or 0) * _RATE - 1e-9))
        after = int(np.ceil((spec.end_seconds or 4) * _RATE - 1e-9))
        frames = _frames(rendition.path)
        shown = [number_of(_picture(frame, spec)) for frame in frames]
        assert shown == list(range(first, after))
        assert [frame.time for frame in frames] == [
            pytest.approx(n / _RATE, abs=1e-4) for n in range(after - first)
        ]
        begins, ends = first / _RATE, after / _RATE
        wanted = [at - begins for at in (0.5, 1.5, 2.5, 3.5) if begins <= at < ends - 0.01]
        if wanted:
            assert _clicks(rendition.path) == pytest.approx(wanted, abs=0.005)
    # Nothing but the pieces is left.
    assert len(list(work.directory.iterdir())) == len(specs)


def _picture(frame: av.VideoFrame, spec: ScaleSpec) -> av.VideoFrame:
    """The film's picture within a piece of 90 pixels' width, as large as the film's."""
    pixels = frame.to_ndarray(format="rgb24")
    top = (spec.height - 50) // 4 * 2
    return av.VideoFrame.from_ndarray(
        np.ascontiguousarray(pixels[top : top + 50]).astype(np.uint8), "rgb24"
    ).reformat(160, 90)


def test_a_cut_at_key_frames_is_copied(master: Path, tools: Tools, work: Work) -> None:
    """A loss of quality, and a minute of work, for nothing."""
    specs = [
        ScaleSpec(320, 180, 2.0, 10 / 3, "crop"),
        ScaleSpec(320, 180, None, None, "blur"),
        ScaleSpec(320, 180, 0.5, 10 / 3, "blur"),
        ScaleSpec(1920, 1080, 2.0, 10 / 3, "blur", enlarge=False),
    ]
    made = _rendered(Renditions(master, specs, tools, work), len(specs))
    assert [one.is_copied for one in made] == [True, True, False, True]
    whole = _frames(master)
    for rendition, first in ((made[0], 48), (made[1], 0), (made[3], 48)):
        assert (rendition.width, rendition.height) == (320, 180)
        frames = _frames(rendition.path)
        for number, frame in enumerate(frames):
            wanted = whole[first + number].to_ndarray()
            assert np.array_equal(frame.to_ndarray(), wanted)
        assert len(frames) == (96 if first == 0 else 32)


def test_one_that_fails_fails_alone(
    master: Path, tools: Tools, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole order lost by one of its pieces."""
    strips_command = graph.strips_command

    def failing(film: Any, wanted: Pass, *rest: Any) -> list[str]:
        command = strips_command(film, wanted, *rest)
        is_bad = any(strip.look.size == (50, 50) for strip in wanted.strips)
        return [*command[:-1], "-no-such-option"] if is_bad else command

    monkeypatch.setattr(graph, "strips_command", failing)
    specs = [ScaleSpec(90, 160), ScaleSpec(50, 50), ScaleSpec(90, 90), ScaleSpec(90, 90, 9.0)]
    renditions = Renditions(master, specs, tools, work)
    assert [renditions.render(number).frames for number in (0, 2)] == [96, 96]
    with pytest.raises(MediaError, match="ffmpeg failed"):
        renditions.render(1)
    with pytest.raises(MediaError, match="beyond the end"):
        renditions.render(3)


@pytest.mark.parametrize("failure", [MediaProcessDied, DiskFull])
def test_a_pass_that_the_machine_is_too_small_for_is_made_in_parts(
    failure: type[Exception],
    master: Path,
    tools: Tools,
    work: Work,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same hours of work, lost once for each piece, on a disk that its strips keep full."""
    whole: list[list[Path]] = []

    def run_long(command: Sequence[str], *rest: Any) -> str:
        strips = [Path(one.removeprefix("file:")) for one in command if "strip-" in one]
        if len(strips) > 1 and "null" not in command:
            whole.append(strips)
            for strip in strips:
                strip.write_bytes(b"half")
            raise failure("too much")
        # Nothing is left of what failed.
        assert not any(one.exists() and one.read_bytes() == b"half" for one in whole[0])
        return run_anyway(command, *rest)

    run_anyway = render.run_long
    monkeypatch.setattr(render, "run_long", run_long)
    specs = [ScaleSpec(90, 160, 0.0, 1.0), ScaleSpec(50, 50, 0.0, 1.0)]
    made = _rendered(Renditions(master, specs, tools, work), 2)
    assert [one.frames for one in made] == [24, 24]
    assert len(whole) == 1


def test_progress_counts_copies_and_failures(master: Path, tools: Tools, work: Work) -> None:
    """An order that is done and stays at some percent."""
    reports: list[tuple[str, float]] = []
    work = replace(work, report=lambda stage, share: reports.append((stage, share)))
    parts = [(2.0, 10 / 3), (9.0, None), (0.3, 1.0)]
    renditions = Renditions(master, [ScaleSpec(320, 180, *part) for part in parts], tools, work)
    assert renditions.render(0).is_copied
    with pytest.raises(MediaError, match="beyond the end"):
        renditions.render(1)
    assert reports[-1] == ("scaling: 2 of 3 are done", pytest.approx(2 / 3))
    renditions.render(2)
    assert reports[-1] == ("scaling: 3 of 3 are done", 1)
    assert [share for _, share in reports] == sorted(share for _, share in reports)


def test_what_is_not_what_was_checked_is_refused(
    master: Path, tools: Tools, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A piece of other frames than those asked for."""
    piece_command = graph.piece_command

    def late(video: Path, seconds: Fraction, *rest: Any) -> list[str]:
        return piece_command(video, seconds + 1, *rest)

    monkeypatch.setattr(render.graph, "piece_command", late)
    specs = [ScaleSpec(90, 90, 0.0, 1.0), ScaleSpec(90, 90, 1.0, 4.0)]
    with pytest.raises(MediaError, match="rendition"):
        Renditions(master, specs, tools, work).render(0)


def test_a_piece_is_never_enlarged_unless_asked(master: Path, tools: Tools) -> None:
    film = probe_film(master, tools)

    def look(*size: int, fill: str = "blur") -> Look:
        return piece_of(0, ScaleSpec(*size, fill=fill, enlarge=False), film).look

    assert look(1920, 1080) == Look((320, 180), (320, 180))
    assert look(1080, 1920) == Look((320, 568), (320, 180), is_blurred=True)
    assert look(1080, 1920, fill="crop").size == (100, 180)
    assert look(100, 100, fill="black") == Look((100, 100), (100, 56))
    assert look(16, 16, fill="crop").size == (16, 16)
    with pytest.raises(MediaError, match="the film is too small .* allow enlarging"):
        look(1000, 16, fill="crop")
    enlarged = piece_of(0, ScaleSpec(640, 640, fill="black"), film).look
    assert enlarged == Look((640, 640), (640, 360))


def test_a_crop_keeps_its_focus(master: Path, tools: Tools) -> None:
    film = probe_film(master, tools)

    def part(x: float, y: float) -> list[float]:
        spec = ScaleSpec(90, 90, fill="crop", focus=(x, y))
        return [float(one) for one in piece_of(0, spec, film).look.part or ()]

    assert part(0.5, 0.5) == pytest.approx([0.21875, 0, 0.5625, 1])
    assert part(0, 1) == pytest.approx([0, 0, 0.5625, 1])
    assert part(1, 0) == pytest.approx([0.4375, 0, 0.5625, 1])


def test_parts_that_no_piece_needs_are_skipped(master: Path, tools: Tools) -> None:
    film = probe_film(master, tools)
    parts = [(0.0, 0.5), (3.0, 3.5), (0.25, 1.0), (3.25, 4.0)]
    pieces = [piece_of(n, ScaleSpec(90, 90, *part), film) for n, part in enumerate(parts)]
    planned = passes(pieces, film)
    assert [(one.span.start, one.span.stop) for one in planned] == [(0, 24), (72, 96)]
    assert [strip.bounds for one in planned for strip in one.strips] == [[0, 6, 12], [0, 6, 12]]


@pytest.mark.slow
def test_the_picture_of_a_real_film_stays_as_it_is(tools: Tools, work: Work) -> None:
    """A film that is blurred itself, or noticeably worse than its master."""
    (bunny,) = (sample.path for sample in SAMPLES if sample.file == "bunny.mp4")
    film = join([source(bunny)] * 2, tools, work, None, compatibility="web").path
    frames = _frames(film)
    height, width = frames[0].to_ndarray(format="gray").shape
    size = (width, width * 16 // 9 // 2 * 2)
    specs = [ScaleSpec(*size, 1.0, None, fill) for fill in ("blur", "black")]
    crop = ScaleSpec(height // 2 * 2, height, 1.0, None, "crop", (1.0, 0.5))
    made = _rendered(Renditions(film, [*specs, crop], tools, work), 3)
    top = (size[1] - height) // 4 * 2
    for number, rendition in enumerate(made):
        shown = _frames(rendition.path)
        assert len(shown) == len(frames) - 25
        for at in (0, len(shown) // 2, len(shown) - 1):
            picture = _grey(shown[at])
            wanted = _grey(frames[at + 25])
            if number == 2:
                wanted = wanted[:, width - height // 2 * 2 :]
            else:
                bars = picture[:top]
                assert bars.max() < 20 if number == 1 else 5 < bars.std() < 80
                picture = picture[top : top + height]
            assert ssim(picture, wanted) >= 0.97


def _grey(frame: av.VideoFrame) -> Pixels:
    return frame.to_ndarray(format="gray").astype(np.uint8)
