"""Photos that compress and decode as camera pictures do: the same ones on every machine.

Crops of scikit-image's photos, enlarged and with sensor noise: without the noise an enlarged
picture would be an unusually light JPEG.
"""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

from lens_pipeline.core.ports import free_port

WORK = Path(__file__).parent / ".work"

_PHOTOS = ("astronaut", "coffee", "chelsea", "rocket", "retina")
_NOISE = 4.0
_QUALITY = 90
_START_SECONDS = 10.0


def jpegs(count: int, width: int, height: int) -> list[Path]:
    """`count` JPEG files, each of another crop; made by the first run."""
    folder = WORK / "photos"
    folder.mkdir(parents=True, exist_ok=True)
    return [_jpeg(folder, number, width, height) for number in range(count)]


@contextmanager
def served(files: Sequence[Path]) -> Iterator[list[str]]:
    """Yields the addresses of `files`, which lie in one folder, on a server of its own process."""
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    process = subprocess.Popen(
        [*command, "--protocol", "HTTP/1.1", "--directory", str(files[0].parent)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _await_port(port)
        yield [f"http://127.0.0.1:{port}/{file.name}" for file in files]
    finally:
        process.kill()
        process.wait()


def _await_port(port: int) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def _jpeg(folder: Path, number: int, width: int, height: int) -> Path:
    path = folder / f"crop-{number:03d}-{width}x{height}.jpg"
    if not path.exists():
        unfinished = path.with_suffix(".tmp")
        _picture(number, width, height).save(unfinished, "JPEG", quality=_QUALITY)
        unfinished.replace(path)
    return path


def _picture(number: int, width: int, height: int) -> Image.Image:
    """Half to all of one of the photos, from a place that depends on `number` alone."""
    random = np.random.default_rng(number)
    original = Image.fromarray(getattr(skimage.data, _PHOTOS[number % len(_PHOTOS)])())
    part = random.uniform(0.5, 1.0) * min(original.width / width, original.height / height)
    left = random.uniform(0, original.width - part * width)
    top = random.uniform(0, original.height - part * height)
    box = (left, top, left + part * width, top + part * height)
    enlarged = original.resize((width, height), Image.Resampling.LANCZOS, box)
    pixels = np.asarray(enlarged, dtype=np.float32)
    noise = random.standard_normal((height, width, 1), dtype=np.float32) * _NOISE
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))
