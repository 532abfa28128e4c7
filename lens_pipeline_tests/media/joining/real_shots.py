"""Small real shots, made by ffmpeg, and what holds for every master of them."""

import hashlib
import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from lens_pipeline.media.ffmpeg import Tools, Work
from lens_pipeline.media.joining.join import Master, Source
from lens_pipeline_tests.media.samples import Pixels, Sound

H264 = ("-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p")


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

    def make(self, directory: Path, tools: Tools) -> Path:
        path = directory / f"{self.name}.{self.container}"
        picture = f"{self.pattern}:size={self.size}:rate={self.rate}:duration={self.seconds}"
        if "=" not in self.pattern:
            picture = picture.replace(":", "=", 1)
        inputs = ["-f", "lavfi", "-i", picture]
        if self.tone:
            tone = f"sine=frequency={self.tone}:duration={self.tone_seconds}:sample_rate=48000"
            inputs += ["-itsoffset", str(self.sound_delay), "-f", "lavfi", "-i", tone]
        sound = self.sound_coding if self.tone else ()
        ffmpeg(tools, *inputs, "-vf", self.filters, *self.coding, *sound, str(path))
        return path


def ffmpeg(tools: Tools, *arguments: str) -> str:
    """Run ffmpeg; what it has to say."""
    command = [str(tools.ffmpeg), "-nostdin", "-v", "warning", "-y", *arguments]
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    return finished.stderr


def source(path: Path) -> Source:
    return Source(path.stem, path, hashlib.sha256(path.read_bytes()).hexdigest())


def work_in(
    directory: Path,
    cancelled: Callable[[], bool] = lambda: False,
    report: Callable[[str, float, float | None], None] = lambda stage, share, speed: None,
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


def described(path: Path, tools: Tools) -> Sequence[dict[str, Any]]:
    """The tracks, as ffprobe sees them."""
    command = [str(tools.ffprobe), "-v", "error", "-show_streams", "-of", "json", str(path)]
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(finished.stdout)["streams"]


def check_master(master: Master, tools: Tools, rate: Fraction) -> list[Pixels]:
    """What holds for every master, as others see it; its frames, in grey."""
    video, audio = described(master.path, tools)
    start, end = (Fraction(video["start_time"]), Fraction(video["duration"]))
    sound_start, sound_end = (Fraction(audio["start_time"]), Fraction(audio["duration"]))
    assert abs(start) <= Fraction(1, 1000)
    assert abs(start - sound_start) <= Fraction(40, 1000)
    assert abs(end - sound_end) <= Fraction(40, 1000)
    assert abs(end - master.frames / rate) <= Fraction(1, 1000)
    assert abs(master.duration_seconds - float(master.frames / rate)) < 1e-6
    assert abs(sum(shot.seconds for shot in master.shots) - master.duration_seconds) < 1e-6
    full = ffmpeg(tools, "-xerror", "-i", str(master.path), "-f", "null", "-")
    assert full == ""
    shown = frames(master.path)
    assert len(shown) == master.frames
    return shown
