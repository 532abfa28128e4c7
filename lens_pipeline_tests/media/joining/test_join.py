"""Masters of real shots: what arrives in them, and how a join fails."""

import itertools
import json
import subprocess
import threading
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from lens_pipeline.media.errors import Cancelled, DiskFull, MediaError
from lens_pipeline.media.ffmpeg import Work
from lens_pipeline.media.joining import join as join_module
from lens_pipeline.media.joining.join import Master, ShotError, join
from lens_pipeline_tests.media.joining.shots import TOOLS, as_source, ffmpeg, make_shot, work_in

HEVC = ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=error")
VP9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-row-mt", "1")
AV1 = ("-c:v", "libsvtav1", "-preset", "12")
MPEG4 = ("-c:v", "mpeg4")


class Folder:
    """Pieces in a directory."""

    def __init__(self, path: Path) -> None:
        path.mkdir(exist_ok=True)
        self.path = path

    def find(self, key: str) -> Path | None:
        file = self.path / key
        return file if file.is_file() else None

    def keep(self, key: str, file: Path) -> None:
        (self.path / key).write_bytes(file.read_bytes())


def join_files(tmp_path: Path, *paths: Path, pieces: Folder | None = None) -> Master:
    sources = [as_source(path) for path in paths]
    master = join(sources, TOOLS, work_in(tmp_path / "work"), pieces)
    check(master, len(paths))
    return master


def check(master: Master, shots: int) -> None:
    """What holds for every master, looked at by ffprobe and a full decode."""
    probed = described(master.path)
    video, audio = probed["streams"]
    assert int(video["nb_read_packets"]) == master.frames
    assert Fraction(video["duration"]) == pytest.approx(master.duration_seconds, abs=0.002)
    assert Fraction(audio["duration"]) == pytest.approx(master.duration_seconds, abs=0.002)
    assert (float(video["start_time"]), float(audio["start_time"])) == (0, 0)
    assert (video["width"], video["height"]) == (master.width, master.height)
    assert (audio["codec_name"], audio["sample_rate"], audio["channels"]) == ("aac", "48000", 2)
    assert len(master.shots) == shots
    assert sum(shot.seconds for shot in master.shots) == pytest.approx(master.duration_seconds)
    assert probed["stderr"] == ""
    frame = 1 / Fraction(video["avg_frame_rate"])
    times = sorted(
        Fraction(packet["pts"]) * Fraction(video["time_base"])
        for packet in probed["packets"]
        if packet["stream_index"] == 0
    )
    assert [after - before for before, after in itertools.pairwise(times)] == [frame] * (
        len(times) - 1
    )


def described(path: Path) -> dict[str, Any]:
    finished = subprocess.run(
        [
            *(str(TOOLS.ffprobe), "-v", "warning", "-show_streams", "-show_packets"),
            *("-count_packets", "-of", "json", str(path)),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(finished.stdout) | {"stderr": finished.stderr}


def frames(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as file:
        return [frame.to_ndarray(format="gray") for frame in file.decode(video=0)]


def sound(path: Path) -> np.ndarray:
    """Samples of the left channel, -1 to 1."""
    with av.open(str(path)) as file:
        resampler = av.AudioResampler("fltp", "stereo", 48_000)
        blocks = [
            block.to_ndarray()[0]
            for frame in file.decode(audio=0)
            for block in resampler.resample(frame)
        ]
    return np.concatenate(blocks)


def loudness(samples: np.ndarray, start: float, end: float) -> float:
    part = samples[round(start * 48_000) : round(end * 48_000)]
    return float(np.sqrt(np.mean(part**2)))


def actions(master: Master) -> list[str]:
    return [shot.action for shot in master.shots]


def test_matching_shots_are_copied_bit_for_bit(tmp_path: Path) -> None:
    shots = [
        make_shot(tmp_path / f"s{number}.mp4", picture=(f"hue=h={number * 90}",))
        for number in range(3)
    ]
    master = join_files(tmp_path, *shots)
    assert (master.method, master.frames, master.fallback) == ("copy", 72, None)
    joined = frames(master.path)
    apart = [frame for shot in shots for frame in frames(shot)]
    assert len(joined) == len(apart)
    assert all(np.array_equal(*pair) for pair in zip(joined, apart, strict=True))


def test_an_odd_shot_is_encoded_beside_the_copied_ones(tmp_path: Path) -> None:
    alike = [
        make_shot(tmp_path / f"s{number}.mp4", picture=(f"hue=h={number * 90}",))
        for number in range(2)
    ]
    odd = make_shot(tmp_path / "odd.mp4", size="180x180", rate="30", pattern="testsrc")
    master = join_files(tmp_path, alike[0], odd, alike[1])
    assert (master.method, actions(master)) == ("partial", ["copy", "encode", "copy"])
    assert master.fallback is None
    assert "width is 180, not 320" in master.shots[1].reason
    joined = frames(master.path)
    assert all(np.array_equal(*pair) for pair in zip(joined[:24], frames(alike[0]), strict=True))
    assert all(np.array_equal(*pair) for pair in zip(joined[48:], frames(alike[1]), strict=True))
    # Black at the sides, not stretched.
    assert joined[30][:, :68].max() < 30 and joined[30][:, 252:].max() < 30
    original = frames(odd)[0].astype(int)
    assert np.abs(joined[24][:, 70:250].astype(int) - original).mean() < 6


@pytest.mark.parametrize(
    ("coding", "name"),
    [
        (HEVC, "a.mp4"),
        (VP9, "a.webm"),
        (VP9, "a.mp4"),
        (AV1, "a.mp4"),
        (("-c:v", "libx264", "-bf", "0"), "a.mkv"),
        (("-c:v", "libx264", "-preset", "veryfast"), "a.mov"),
    ],
)
def test_other_codecs_and_containers_are_copied_too(
    tmp_path: Path, coding: Sequence[str], name: str
) -> None:
    sound_coding = ("-c:a", "libopus") if name.endswith("webm") else ("-c:a", "aac")
    shots = [
        make_shot(tmp_path / f"{number}{name}", coding=coding, sound_coding=sound_coding)
        for number in range(2)
    ]
    master = join_files(tmp_path, *shots)
    assert (master.method, master.frames, master.fallback) == ("copy", 48, None)
    joined = frames(master.path)
    apart = [frame for shot in shots for frame in frames(shot)]
    assert all(np.array_equal(*pair) for pair in zip(joined, apart, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("coding", [HEVC, VP9, AV1, MPEG4])
def test_shots_of_different_codecs_are_all_encoded_or_the_odd_one_is(
    tmp_path: Path, coding: Sequence[str]
) -> None:
    other = [make_shot(tmp_path / f"{number}.mp4", coding=coding) for number in range(2)]
    h264 = make_shot(tmp_path / "h264.mp4")
    assert join_files(tmp_path, *other, h264).method == "encode"
    assert join_files(tmp_path, h264, h264, other[0]).method == "partial"


@pytest.mark.parametrize("rate", ["24000/1001", "25", "30000/1001", "60"])
def test_rates_are_kept_exactly(tmp_path: Path, rate: str) -> None:
    shots = [make_shot(tmp_path / f"{number}.mp4", rate=rate) for number in range(3)]
    master = join_files(tmp_path, *shots)
    assert master.method == "copy"
    assert described(master.path)["streams"][0]["avg_frame_rate"] in (rate, f"{rate}/1")


def test_mixed_rates_follow_the_rate_of_most(tmp_path: Path) -> None:
    shots = [
        make_shot(tmp_path / f"{number}.mp4", rate=rate)
        for number, rate in enumerate(("30", "24000/1001", "30", "25", "60"))
    ]
    master = join_files(tmp_path, *shots)
    assert actions(master) == ["copy", "encode", "copy", "encode", "encode"]
    assert [shot.seconds for shot in master.shots] == pytest.approx([1, 1, 1, 1, 1], abs=1 / 30)


def test_time_bases_may_differ(tmp_path: Path) -> None:
    one = make_shot(tmp_path / "one.mp4")
    coding = ("-c:v", "libx264", "-preset", "veryfast", "-g", "12", "-video_track_timescale")
    two = make_shot(tmp_path / "two.mp4", coding=(*coding, "90000"))
    assert join_files(tmp_path, one, two).method == "copy"


def test_parameter_sets_that_differ_under_equal_headlines_are_not_mixed(tmp_path: Path) -> None:
    coding = ("-c:v", "libx264", "-preset", "veryfast", "-x264-params")
    shots = [
        make_shot(tmp_path / f"{number}.mp4", coding=(*coding, params))
        for number, params in enumerate(("ref=1", "ref=1", "ref=1:cabac=0"))
    ]
    master = join_files(tmp_path, *shots)
    assert actions(master) == ["copy", "copy", "encode"]
    assert "differs" in master.shots[2].reason or "profile" in master.shots[2].reason


def test_a_variable_rate_is_made_constant(tmp_path: Path) -> None:
    vfr = make_shot(tmp_path / "vfr.mp4")
    varied = tmp_path / "varied.mp4"
    ffmpeg(
        *("-i", str(vfr), "-vf", "setpts=PTS+if(gt(N\\,10)\\,0.2/TB\\,0)", "-fps_mode", "vfr"),
        *("-c:v", "libx264", str(varied)),
    )
    master = join_files(tmp_path, varied, vfr, vfr)
    assert actions(master) == ["encode", "copy", "copy"]
    assert master.shots[0].reason == "its frame rate varies"
    assert master.shots[0].seconds == pytest.approx(1.2, abs=0.03)
    assert join_files(tmp_path, varied).method == "encode"


def test_a_shot_cut_by_an_edit_list_shows_what_it_showed(tmp_path: Path) -> None:
    whole = make_shot(tmp_path / "whole.mp4", seconds=2)
    cut = tmp_path / "cut.mp4"
    ffmpeg("-ss", "0.75", "-i", str(whole), "-c", "copy", str(cut))
    master = join_files(tmp_path, whole, cut)
    assert actions(master) == ["copy", "encode"]
    assert master.shots[1].reason == "an edit list hides some of its frames"
    shown = frames(cut)
    joined = frames(master.path)[48:]
    assert len(joined) == len(shown)
    assert np.abs(joined[0].astype(int) - shown[0].astype(int)).mean() < 6


def test_a_turned_shot_is_upright_in_the_master(tmp_path: Path) -> None:
    straight = make_shot(tmp_path / "straight.mp4")
    sideways = make_shot(tmp_path / "sideways.mp4", size="180x320", picture=())
    turned = tmp_path / "turned.mp4"
    ffmpeg("-display_rotation", "90", "-i", str(sideways), "-c", "copy", str(turned))
    master = join_files(tmp_path, straight, straight, turned)
    assert actions(master)[2] == "encode"
    upright = np.rot90(frames(sideways)[0]).astype(int)
    assert np.abs(frames(master.path)[48].astype(int) - upright).mean() < 6


def test_shots_that_are_all_turned_stay_so(tmp_path: Path) -> None:
    sideways = make_shot(tmp_path / "sideways.mp4", size="180x320")
    turned = tmp_path / "turned.mp4"
    ffmpeg("-display_rotation", "90", "-i", str(sideways), "-c", "copy", str(turned))
    master = join([as_source(turned)] * 2, TOOLS, work_in(tmp_path / "work"))
    assert (master.method, master.width, master.height) == ("copy", 320, 180)
    with av.open(str(master.path)) as joined, av.open(str(turned)) as source:
        rotation = next(joined.decode(video=0)).rotation
        assert rotation == next(source.decode(video=0)).rotation == 90


def test_odd_sizes_and_pixels_that_are_not_square(tmp_path: Path) -> None:
    coding = ("-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv444p")
    odd = make_shot(tmp_path / "odd.mp4", size="321x179", coding=coding)
    master = join_files(tmp_path, odd)
    assert master.method in ("copy", "encode")
    anamorphic = make_shot(tmp_path / "wide.mp4", size="160x180", picture=("setsar=2",))
    square = make_shot(tmp_path / "square.mp4", seconds=2)
    master = join_files(tmp_path, square, anamorphic)
    assert actions(master) == ["copy", "encode"]
    # As wide as it is shown: no bars.
    assert frames(master.path)[-1][:, :8].max() > 60


def test_hdr_is_tone_mapped(tmp_path: Path) -> None:
    hdr = make_shot(
        tmp_path / "hdr.mp4",
        coding=(
            *("-c:v", "libx265", "-preset", "ultrafast", "-pix_fmt", "yuv420p10le"),
            *("-x265-params", "log-level=error:colorprim=bt2020:transfer=smpte2084"),
            *("-color_trc", "smpte2084", "-color_primaries", "bt2020", "-colorspace", "bt2020nc"),
        ),
    )
    sdr = make_shot(tmp_path / "sdr.mp4", seconds=2)
    master = join_files(tmp_path, sdr, hdr)
    assert actions(master) == ["copy", "encode"]
    video = described(master.path)["streams"][0]
    assert video["pix_fmt"] == "yuv420p"


def test_sound_is_cut_padded_or_silence_to_match_each_shot(tmp_path: Path) -> None:
    plain = make_shot(tmp_path / "plain.mp4")
    long = make_shot(tmp_path / "long.mp4", sound_seconds=1.5)
    short = make_shot(tmp_path / "short.mp4", sound_seconds=0.5)
    silent = make_shot(tmp_path / "silent.mp4", sound=None)
    mono = make_shot(
        tmp_path / "mono.mp4",
        sound="sine=frequency=440:sample_rate=44100",
        sound_coding=("-c:a", "aac", "-ac", "1", "-ar", "44100"),
    )
    master = join_files(tmp_path, long, short, silent, mono, plain)
    assert master.method == "copy"
    heard = sound(master.path)
    full = loudness(heard, 0.1, 0.9)
    assert full > 0.05
    assert loudness(heard, 1.05, 1.4) == pytest.approx(full, rel=0.1)
    assert loudness(heard, 1.6, 2.95) < 0.01
    assert loudness(heard, 3.1, 3.9) == pytest.approx(full, rel=0.5)
    assert loudness(heard, 4.1, 4.9) == pytest.approx(full, rel=0.1)
    # The tone keeps its pitch, whatever the rate of its samples was.
    spectrum = np.abs(np.fft.rfft(heard[round(3.1 * 48_000) : round(3.9 * 48_000)]))
    assert np.argmax(spectrum) / 0.8 == pytest.approx(440, abs=5)


def test_sound_that_starts_late_stays_late(tmp_path: Path) -> None:
    shot = make_shot(tmp_path / "shot.mp4")
    late = tmp_path / "late.mp4"
    ffmpeg(
        *("-i", str(shot), "-itsoffset", "0.4", "-i", str(shot)),
        *("-map", "0:v", "-map", "1:a", "-c", "copy", "-t", "1", str(late)),
    )
    heard = sound(join_files(tmp_path, shot, late).path)
    assert loudness(heard, 1.05, 1.35) < 0.01
    assert loudness(heard, 1.5, 1.9) > 0.05


@pytest.mark.slow
def test_no_drift_adds_up_over_many_shots(tmp_path: Path) -> None:
    shot = make_shot(tmp_path / "shot.mp4", rate="30000/1001", seconds=0.5, size="64x64")
    master = join_files(tmp_path, *[shot] * 20)
    assert master.method == "copy"
    audio = described(master.path)["streams"][1]
    exact = 20 * 15 * Fraction(1001, 30000)
    assert abs(Fraction(audio["duration_ts"], 48_000) - exact) <= Fraction(1, 24_000)


def test_one_shot_and_the_same_shot_twice(tmp_path: Path) -> None:
    shot = make_shot(tmp_path / "shot.mp4")
    assert join_files(tmp_path, shot).frames == 24
    assert join_files(tmp_path, shot, shot).frames == 48


def damage(path: Path, share: float) -> None:
    """Overwrite part of the packet at this share of the file, as a broken disk does."""
    data = bytearray(path.read_bytes())
    start = round(len(data) * share)
    data[start : start + 400] = bytes(range(200)) * 2
    path.write_bytes(data)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_damaged_shot_is_named_with_the_time(tmp_path: Path, position: int) -> None:
    shots = [
        make_shot(tmp_path / f"s{number}.mp4", seconds=2, pattern="mandelbrot")
        for number in range(3)
    ]
    damage(shots[position], 0.5)
    with pytest.raises(ShotError, match=r"damaged at \d\.\d s") as caught:
        join_files(tmp_path, *shots)
    assert caught.value.shot == f"s{position}"


def test_a_damaged_shot_that_is_encoded_is_named_too(tmp_path: Path) -> None:
    shot = make_shot(tmp_path / "shot.mp4", seconds=3)
    odd = make_shot(tmp_path / "odd.mp4", seconds=2, rate="30", pattern="mandelbrot")
    damage(odd, 0.5)
    with pytest.raises(ShotError, match=r"damaged at \d\.\d s") as caught:
        join_files(tmp_path, shot, odd)
    assert caught.value.shot == "odd"


def test_what_is_no_video_is_named(tmp_path: Path) -> None:
    shot = make_shot(tmp_path / "shot.mp4")
    text = tmp_path / "text.mp4"
    text.write_text("#EXTM3U\nfile:///etc/passwd\n")
    with pytest.raises(ShotError, match="playlist") as caught:
        join_files(tmp_path, shot, text)
    assert caught.value.shot == "text"
    with pytest.raises(MediaError, match="at least one"):
        join([], TOOLS, work_in(tmp_path / "work"))


def test_a_second_master_reuses_what_the_first_made(tmp_path: Path) -> None:
    pieces = Folder(tmp_path / "pieces")
    shot = make_shot(tmp_path / "shot.mp4", seconds=2)
    odd = make_shot(tmp_path / "odd.mp4", rate="30")
    first = join_files(tmp_path, shot, odd, pieces=pieces)
    assert [each.cached for each in first.shots] == [False, False]
    again = make_shot(tmp_path / "again.mp4", rate="25")
    second = join_files(tmp_path, shot, odd, again, pieces=pieces)
    assert [each.cached for each in second.shots] == [True, True, False]
    assert second.fallback is None
    assert all(len(file.name) < 80 for file in pieces.path.iterdir())


@pytest.mark.slow
def test_a_piece_that_changed_in_the_store_is_not_used(tmp_path: Path) -> None:
    pieces = Folder(tmp_path / "pieces")
    shot = make_shot(tmp_path / "shot.mp4", seconds=2)
    odd = make_shot(tmp_path / "odd.mp4", rate="30")
    join_files(tmp_path, shot, odd, pieces=pieces)
    (piece,) = pieces.path.glob("*.mp4")
    damage(piece, 0.3)
    master = join_files(tmp_path, shot, odd, pieces=pieces)
    assert master.fallback is not None and master.method == "encode"


def test_facts_of_another_version_are_read_anew(tmp_path: Path) -> None:
    pieces = Folder(tmp_path / "pieces")
    shot = make_shot(tmp_path / "shot.mp4")
    (pieces.path / f"{as_source(shot).sha256}-1.json").write_text('{"old": 1}')
    assert not join_files(tmp_path, shot, pieces=pieces).shots[0].cached


def test_a_result_that_fails_verification_is_made_again_by_encoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = join_module.verify.check_structure
    calls = itertools.count()

    def fail_once(*arguments: Any) -> None:
        if next(calls) == 0:
            raise MediaError("frame 3 has a wrong time in the master")
        real(*arguments)

    monkeypatch.setattr(join_module.verify, "check_structure", fail_once)
    shot = make_shot(tmp_path / "shot.mp4")
    master = join_files(tmp_path, shot, shot)
    assert master.method == "encode"
    assert master.fallback == "frame 3 has a wrong time in the master"


def test_a_result_that_never_verifies_is_an_error_and_leaves_no_master(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise MediaError("frame 3 has a wrong time in the master")

    monkeypatch.setattr(join_module.verify, "check_structure", fail)
    with pytest.raises(MediaError, match="cannot be verified: frame 3"):
        join_files(tmp_path, make_shot(tmp_path / "shot.mp4"))
    assert not list((tmp_path / "work").glob("master*"))


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["checking", "unpacking", "encoding", "joining", "verifying"])
def test_cancelling_ends_every_stage_soon(tmp_path: Path, stage: str) -> None:
    shot = make_shot(tmp_path / "shot.mp4", seconds=2, size="640x360")
    odd = make_shot(tmp_path / "odd.mp4", seconds=2, rate="60", size="1280x720")
    asked: list[float] = []

    def report(now: str, seconds: float, speed: float | None) -> None:
        if now.startswith(stage) and not asked:
            asked.append(time.monotonic())

    directory = tmp_path / "work"
    directory.mkdir()
    with pytest.raises(Cancelled):
        join(
            [as_source(shot), as_source(shot), as_source(odd)],
            TOOLS,
            Work(directory, lambda: bool(asked), report),
        )
    assert time.monotonic() - asked[0] < 0.5
    assert threading.active_count() == 1 or not any(
        thread.name.startswith("ThreadPool") for thread in threading.enumerate()
    )


def test_a_full_disk_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shot = make_shot(tmp_path / "shot.mp4")

    def full(*arguments: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.sendfile", full)
    with pytest.raises(DiskFull):
        join_files(tmp_path, shot)


@pytest.mark.slow
def test_two_hundred_shots(tmp_path: Path) -> None:
    shot = make_shot(tmp_path / "shot.mp4", seconds=0.5, size="64x64")
    master = join_files(tmp_path, *[shot] * 200)
    assert (master.method, master.frames) == ("copy", 2400)
