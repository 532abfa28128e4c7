"""Bytes of photos and videos, good and bad."""

import functools
import io
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from lens_pipeline_tests.media.samples import (
    encoded,
    quadrants,
    scene,
    texture,
    write_audio_only,
    write_video,
)


@functools.cache
def jpeg(width: int = 64, height: int = 48) -> bytes:
    return encoded(quadrants(width, height), "JPEG", quality=90)


@functools.cache
def png() -> bytes:
    return encoded(texture(200, 160), "PNG")


def png_header(width: int, height: int) -> bytes:
    """A well-formed PNG that claims a size and holds almost nothing."""
    body = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + _chunk(b"IDAT", body)
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@functools.cache
def bomb() -> bytes:
    """Half a gigabyte of pixels in a few hundred kilobytes, complete."""
    picture = Image.new("1", (60_000, 30_000))
    return encoded(picture, "PNG", optimize=False)


def too_wide() -> bytes:
    return encoded(Image.new("1", (50_001, 1_000)), "PNG")


def cmyk() -> bytes:
    return encoded(quadrants(64, 48).convert("CMYK"), "JPEG")


def sixteen_bit() -> bytes:
    ramp = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    return encoded(Image.fromarray(ramp), "PNG")


def palette_with_transparency() -> bytes:
    return encoded(quadrants(64, 48).quantize(8), "PNG", transparency=0)


def animated_webp() -> bytes:
    frames = [Image.new("RGB", (64, 48), colour) for colour in ("red", "green", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:], duration=100)
    return buffer.getvalue()


@functools.cache
def mp4(frames: int = 24) -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "video.mp4"
        write_video(path, [scene(160, 120, seed) for seed in range(frames)])
        return path.read_bytes()


def audio_only() -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        return write_audio_only(Path(directory) / "audio.mp4").read_bytes()


def playlist(url: str) -> bytes:
    return (
        "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n"
        f"{url}\n#EXTINF:5,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
    ).encode()


@functools.cache
def large_jpeg() -> bytes:
    """Takes about a tenth of a second to turn into a preview."""
    return encoded(texture(2400, 1800), "JPEG", quality=85)
