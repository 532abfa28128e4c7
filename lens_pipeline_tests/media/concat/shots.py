"""Small real shots, made by ffmpeg, and what holds for every master of them."""

import hashlib
import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import numpy as np

from lens_pipeline.media.concat.join import Master, Source
from lens_pipeline.media.ffmpeg.run import Work
from lens_pipeline.media.ffmpeg.tools import Tools
from lens_pipeline_tests.media.samples import Pixels, Sound

TOOLS = Tools.find()
H264 = ("-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p")
FULL_RANGE = (*H264[:4], "-pix_fmt", "yuvj420p", "-color_range", "pc")
HEVC = ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none")
VP9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8")
AV1 = ("-c:v", "libsvtav1", "-preset", "12", "-svtav1-params", "lp=1")
MPEG4 = ("-c:v", "mpeg4")
OPUS = ("-c:a", "libopus")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a shot is made; the default is what most shots of a test have."""

    name: str = "plain"
    size: str = "192x108"
    rate: str = "25"
    seconds: float = 0.8
    coding: tuple[str, ...] = H264
    pattern: str = "testsrc2"
    filters: str = "null"
    tone: int = 440
    """Hertz; 0 for no sound track."""
    tone_seconds: float = 0.8
    sound_delay: float = 0.0
    sound_coding: tuple[str, ...] = ("-c:a", "aac", "-ar", "48000", "-ac", "2")
    container: str = "mp4"

    def make(self, directory: Path) -> Path:
        path = directory / f"{self.name}.{self.container}"
        picture = f"{self.pattern}:size={self.size}:rate={self.rate}:duration={self.seconds}"
        if "=" not in self.pattern:
            picture = picture.replace(":", "=", 1)
        inputs = ["-f", "lavfi", "-i", picture]
        if self.tone:
            tone = f"sine=frequency={self.tone}:duration={self.tone_seconds}:sample_rate=48000"
            inputs += ["-itsoffset", str(self.sound_delay), "-f", "lavfi", "-i", tone]
        sound = self.sound_coding if self.tone else ()
        ffmpeg(*inputs, "-vf", self.filters, *self.coding, *sound, str(path))
        return path


PLAIN = Recipe()
RATE, FRAMES = Fraction(25), 20
"""Of `PLAIN`."""

Make = Callable[[Recipe], Path]
Join = Callable[..., tuple[Master, list[Pixels]]]


def ffmpeg(*arguments: str) -> str:
    """Run the wheel's ffmpeg, whichever is on PATH; what it has to say."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-v", "warning", "-y", *arguments]
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    return finished.stderr


def source(path: Path) -> Source:
    return Source(path.stem, path, hashlib.sha256(path.read_bytes()).hexdigest())


def work_in(
    directory: Path,
    cancelled: Callable[[], bool] = lambda: False,
    report: Callable[[str, float], None] = lambda stage, share: None,
    idle_seconds: float = 60.0,
) -> Work:
    directory.mkdir(exist_ok=True)
    return Work(directory, cancelled, report, idle_seconds)


def frames(path: Path) -> list[Pixels]:
    """All frames as they are coded, in grey."""
    with av.open(str(path)) as container:
        decoded = container.decode(video=0)
        return [np.asarray(frame.to_ndarray(format="gray"), np.uint8) for frame in decoded]


def sound(path: Path) -> Sound:
    """Both channels at 48 kHz."""
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("fltp", "stereo", 48_000)
        blocks = [
            block.to_ndarray()
            for frame in container.decode(audio=0)
            for block in resampler.resample(frame)
        ]
    return np.concatenate(blocks, axis=1).astype(np.float32)


def pitch(samples: Sound) -> float:
    """Hertz of the strongest tone in one channel at 48 kHz."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(samples.size)))
    return float(np.argmax(spectrum)) * 48_000 / samples.size


def loudness(samples: Sound) -> float:
    return float(np.sqrt(np.mean(samples**2)))


def described(path: Path) -> dict[str, Any]:
    """The `streams` and `packets` of a file, as ffprobe sees them; it must have no objection."""
    command = [str(TOOLS.ffprobe), "-v", "warning", "-show_streams", "-show_packets"]
    finished = subprocess.run(
        [*command, "-of", "json", str(path)], check=True, capture_output=True, text=True
    )
    assert finished.stderr == ""
    return json.loads(finished.stdout)


def actions(master: Master) -> list[str]:
    return [shot.action for shot in master.shots]


def assert_same(shown: list[Pixels], wanted: list[Pixels]) -> None:
    assert len(shown) == len(wanted)
    assert all(np.array_equal(*pair) for pair in zip(shown, wanted, strict=True))


def check_master(master: Master, rate: Fraction = RATE) -> list[Pixels]:
    """What holds for every master, as others see it; its frames, in grey."""
    probed = described(master.path)
    video, audio = probed["streams"]
    end, sound_end = (Fraction(track["duration"]) for track in (video, audio))
    assert (float(video["start_time"]), float(audio["start_time"])) == (0, 0)
    assert abs(end - sound_end) <= Fraction(2, 1000)
    assert abs(end - master.frames / rate) <= Fraction(1, 1000)
    assert abs(master.duration_seconds - float(master.frames / rate)) < 1e-6
    assert abs(sum(shot.seconds for shot in master.shots) - master.duration_seconds) < 1e-6
    assert (audio["codec_name"], audio["sample_rate"], audio["channels"]) == ("aac", "48000", 2)
    times = sorted(
        Fraction(packet["pts"]) * Fraction(video["time_base"])
        for packet in probed["packets"]
        if packet["stream_index"] == video["index"]
    )
    assert [after - before for before, after in pairwise(times)] == [1 / rate] * (len(times) - 1)
    full = ffmpeg("-xerror", "-i", str(master.path), "-f", "null", "-")
    assert full == ""
    shown = frames(master.path)
    assert len(times) == len(shown) == master.frames
    return shown


def damage(path: Path, original: Path, share: float) -> Path:
    """Write `original` as `path` with 200 bytes overwritten at this share of its media data."""
    data = bytearray(original.read_bytes())
    start = data.index(b"mdat") + 4
    size = int.from_bytes(data[start - 8 : start - 4], "big") - 8
    at = start + round(size * share)
    data[at : at + 200] = b"\xff" * 200
    path.write_bytes(data)
    return path
