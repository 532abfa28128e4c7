"""Shots for the tests of joining, made by ffmpeg: each is the smallest that shows one property."""

import hashlib
import subprocess
from collections.abc import Sequence
from pathlib import Path

from lens_pipeline.media.ffmpeg import Tools, Work
from lens_pipeline.media.joining.join import Source

TOOLS = Tools.find()


def ffmpeg(*arguments: str) -> None:
    subprocess.run(
        [str(TOOLS.ffmpeg), "-v", "error", "-nostdin", "-y", *arguments],
        check=True,
        capture_output=True,
    )


def make_shot(
    path: Path,
    *,
    seconds: float = 1,
    size: str = "320x180",
    rate: str = "24",
    pattern: str = "testsrc2",
    picture: Sequence[str] = (),
    sound: str | None = "sine=frequency=440:sample_rate=48000",
    sound_seconds: float | None = None,
    coding: Sequence[str] = ("-c:v", "libx264", "-preset", "veryfast", "-g", "12"),
    sound_coding: Sequence[str] = ("-c:a", "aac", "-ac", "2"),
) -> Path:
    """A shot of a test pattern with a tone, of exactly `seconds`; `picture` are filters on it."""
    generated = (f"{pattern}=size={size}:rate={rate}", f"trim=duration={seconds}")
    filters = ",".join((*generated, *picture))
    inputs = ["-f", "lavfi", "-i", filters]
    if sound is not None:
        inputs += ["-f", "lavfi", "-t", str(sound_seconds or seconds), "-i", sound]
        inputs += ["-map", "0", "-map", "1", *sound_coding]
    ffmpeg(*inputs, "-pix_fmt", "yuv420p", *coding, str(path))
    return path


def as_source(path: Path, name: str | None = None) -> Source:
    return Source(name or path.stem, path, hashlib.sha256(path.read_bytes()).hexdigest())


def work_in(directory: Path) -> Work:
    directory.mkdir(exist_ok=True)
    return Work(directory, lambda: False, lambda *_: None)
