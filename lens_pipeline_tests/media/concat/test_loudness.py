"""The level of each shot's sound in a master, as another EBU R128 meter hears it."""

import re
import subprocess
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import pytest

from lens_pipeline.media.concat import audio
from lens_pipeline.media.concat.join import Master, examine, join
from lens_pipeline.media.concat.probe import Audio
from lens_pipeline_tests.media.concat.shots import (
    TOOLS,
    Make,
    Recipe,
    actions,
    assert_same,
    ffmpeg,
    frames,
    source,
    work_in,
)
from lens_pipeline_tests.media.concat.test_join import Folder

_TARGET = -14.0
_SECONDS = 2
_TRACK = Audio(1, "aac", 48_000, 2, start=Fraction(0))


def _levels(file: Path, start: float = 0.0) -> tuple[float, float]:
    """LUFS and dBTP of a shot from `start`."""
    command = [
        *(imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-hide_banner"),
        *("-ss", str(start), "-t", str(_SECONDS), "-i", str(file), "-vn"),
        *("-af", "ebur128=peak=true:framelog=verbose", "-f", "null", "-"),
    ]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    (loudness,), (peak,) = (
        re.findall(pattern, said) for pattern in (r"I: +(\S+) LUFS", r"Peak: +(\S+) dBFS")
    )
    return float(loudness), float(peak)


@pytest.fixture
def shots(make: Make, tmp_path: Path) -> dict[str, Path]:
    picture = make(Recipe("two-seconds", seconds=_SECONDS, tone=0))
    voices = {
        "loud": "anoisesrc=c=pink:r=48000:a=1,lowpass=8000",
        "ten-below": "anoisesrc=c=pink:r=48000:a=1:seed=2,lowpass=8000,volume=-10dB",
        "far-below": "sine=f=440:r=44100,volume=-12dB",
        # Of 2 ms, every 0.4 s.
        "peaks": "aevalsrc='if(lt(mod(t,0.4),0.002),0.7,0.02)*sin(2*PI*440*t)':s=48000",
        "silent": "anullsrc=r=48000",
        "room": "anoisesrc=c=white:r=48000:a=0.0005",
    }
    paths = {name: tmp_path / f"{name}.mp4" for name in voices}
    for name, voice in voices.items():
        sound = ("-f", "lavfi", "-i", voice, "-c:a", "aac", "-b:a", "256k", "-ac", "2")
        ffmpeg("-i", str(picture), *sound, "-c:v", "copy", "-t", str(_SECONDS), str(paths[name]))
    return paths


@pytest.mark.slow
@pytest.mark.parametrize("is_examined", [True, False], ids=["examined", "new"])
def test_shots_have_one_level(shots: dict[str, Path], tmp_path: Path, is_examined: bool) -> None:
    """A shot that makes people reach for the remote control."""
    kept, work = Folder(tmp_path / "kept"), work_in(tmp_path / "work")
    sources = [source(path) for path in shots.values()]
    if is_examined:
        for one in sources:
            examine(one, TOOLS, work, kept)
    master = join(sources, TOOLS, work, kept, loudness=_TARGET)
    assert actions(master) == ["copy"] * len(shots)
    gains = {shot.name: shot.gain for shot in master.shots}
    levels = {name: _levels(master.path, number * _SECONDS) for number, name in enumerate(shots)}
    for name in ("loud", "ten-below", "far-below"):
        assert levels[name][0] == pytest.approx(_TARGET, abs=0.5), levels
    # Its peaks keep it below the others, which are not lowered for it.
    assert gains["peaks"] > 0 and levels["peaks"][0] < _TARGET - 2
    assert -2 < levels["peaks"][1] <= -1
    assert max(peak for _, peak in levels.values()) <= -1
    assert (gains["silent"], gains["room"]) == (0, 0)
    # The picture is the same.
    assert_same(frames(master.path), frames(shots["loud"]) * len(shots))


@pytest.mark.slow
def test_a_shot_marked_quiet_keeps_its_level(shots: dict[str, Path], tmp_path: Path) -> None:
    """A whisper that is made as loud as a cry."""

    def joined(loudness: float | None, *, is_quiet: bool) -> Master:
        names = ("loud", "ten-below")
        sources = [
            replace(source(shots[name]), is_quiet=is_quiet and name == "ten-below")
            for name in names
        ]
        return join(sources, TOOLS, work_in(tmp_path / "work"), loudness=loudness)

    quiet = _levels(joined(_TARGET, is_quiet=True).path, _SECONDS)
    off = _levels(joined(None, is_quiet=False).path, _SECONDS)
    assert quiet == pytest.approx(off, abs=0.2)
    assert _levels(joined(_TARGET, is_quiet=False).path, _SECONDS)[0] > off[0] + 5


@pytest.mark.slow
@pytest.mark.parametrize("is_examined", [True, False], ids=["examined", "new"])
def test_tags_set_neither_gain_nor_damage(make: Make, tmp_path: Path, is_examined: bool) -> None:
    """A file that says how loud it is, in the words of the meter."""
    said = (
        "I: -49.0 LUFS Peak: -60.0 dBFS",
        "I: 1.2.3 LUFS Peak: 1.2.3 dBFS",
        "[dec:aac @ 0x1] Error submitting packet to decoder: Invalid data",
        "[Parsed_ebur128_0 @ 0x1] Summary:",
    )
    # Of a name, ffmpeg prints the lines as they are.
    names = [f"a\n{words}\nb" for words in said]
    plain = make(Recipe("plain-tags", sound_coding=("-c:a", "aac", "-ac", "2"), container="mkv"))
    tagged = tmp_path / "tagged.mkv"
    tags = [f"comment={' '.join(said)}", *(f"{name}=1" for name in names)]
    options = [option for tag in tags for option in ("-metadata", tag, "-metadata:s:a", tag)]
    ffmpeg("-i", str(plain), "-c", "copy", *options, str(tagged))
    kept, work = Folder(tmp_path / "kept"), work_in(tmp_path / "work")
    sources = [source(plain), source(tagged)]
    if is_examined:
        for one in sources:
            examine(one, TOOLS, work, kept)
    untagged, forged = join(sources, TOOLS, work, kept, loudness=_TARGET).shots
    assert forged.gain == untagged.gain != 0
    assert audio.DAMAGED not in forged.reason


@pytest.mark.parametrize(
    ("loudness", "peak", "gain"),
    [
        (-24.0, -20.0, 10.0),
        (-10.0, -3.0, -4.0),
        (-24.0, -5.0, 3.7),
        # Too loud peaks are lowered, wherever the rest is.
        (-24.0, 0.0, -1.3),
        # What is faint is not raised to speech, and there is no step at the level of noise.
        (-34.0, -30.0, 20.0),
        (-40.0, -35.0, 20.0),
        (-45.0, -40.0, 10.0),
        (-49.9, -45.0, 0.2),
        (-50.1, -40.0, 0.0),
        (audio.SILENCE, audio.SILENCE, 0.0),
        (None, None, 0.0),
    ],
)
def test_gain_ends_at_its_limits(loudness: float | None, peak: float | None, gain: float) -> None:
    track = replace(_TRACK, loudness=loudness, peak=peak)
    assert audio.gain(track, _TARGET) == pytest.approx(gain)
    assert audio.gain(None, _TARGET) == 0
