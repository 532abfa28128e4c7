"""Photos that compress and decode as camera pictures do: the same ones on every machine.

Crops of scikit-image's photos, enlarged and with sensor noise: without the noise an enlarged
picture would be an unusually light JPEG.
"""

from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

WORK = Path(__file__).parent / ".work"

_PHOTOS = ("astronaut", "coffee", "chelsea", "rocket", "retina")
_NOISE = 4.0
_QUALITY = 90


def jpegs(count: int, width: int, height: int) -> list[Path]:
    """`count` JPEG files, each of another crop; made by the first run."""
    folder = WORK / "photos"
    folder.mkdir(parents=True, exist_ok=True)
    return [_jpeg(folder, number, width, height) for number in range(count)]


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
