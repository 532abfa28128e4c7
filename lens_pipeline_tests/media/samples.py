"""Pictures and videos for the tests, made here: each is the smallest that shows one property."""

import io
import struct
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pyvips
from av.container import OutputContainer
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
# Two channels of samples at 48 kHz, -1 to 1.
Sound = NDArray[np.float32]

# Colours of the quadrants of `quadrants()`: top left, top right, bottom left, bottom right.
RED, GREEN, BLUE, YELLOW = (200, 30, 30), (30, 160, 40), (30, 50, 200), (210, 200, 40)


def quadrants(width: int = 320, height: int = 240) -> Image.Image:
    """A picture whose four corners differ, so that each turn and mirroring shows."""
    picture = Image.new("RGB", (width, height), RED)
    picture.paste(GREEN, (width // 2, 0, width, height))
    picture.paste(BLUE, (0, height // 2, width // 2, height))
    picture.paste(YELLOW, (width // 2, height // 2, width, height))
    return picture


def texture(width: int = 640, height: int = 480, seed: int = 1) -> Image.Image:
    """A picture with detail at all scales, which compresses about as a photo does."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cells in (3, 9, 27, 81):
        coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)) / cells
    return Image.fromarray((total / total.max() * 255).astype(np.uint8))


def save(picture: Image.Image, path: Path, kind: str, **options: object) -> Path:
    """Write `picture` as `kind` (a Pillow format), whatever the name of `path` says."""
    picture.save(path, kind, **options)
    return path


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def in_colour_space(picture: Image.Image, profile: str) -> bytes:
    """`picture` as a JPEG in one of libvips' built-in colour spaces, with its profile."""
    image = pyvips.Image.new_from_array(np.asarray(picture), interpretation="srgb")
    transformed = image.icc_transform(
        profile, input_profile="srgb", intent="relative", black_point_compensation=True
    )
    return transformed.jpegsave_buffer(Q=95, subsample_mode="off")


def decoded(webp: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(webp), formats=["WEBP"])
    picture.load()
    return picture


def corner_colours(picture: Image.Image) -> list[tuple[int, ...]]:
    """The colours in the middle of the four quadrants, in reading order."""
    pixels = np.asarray(picture.convert("RGB"))
    height, width = pixels.shape[:2]
    return [
        tuple(int(value) for value in pixels[y, x])
        for y in (height // 4, height * 3 // 4)
        for x in (width // 4, width * 3 // 4)
    ]


def nearest_names(colours: Iterable[tuple[int, ...]]) -> str:
    """The initials of the quadrant colours nearest to `colours`, for example RGBY."""
    names = {"R": RED, "G": GREEN, "B": BLUE, "Y": YELLOW}
    return "".join(
        min(names, key=lambda name: np.abs(np.subtract(names[name], colour)).sum())
        for colour in colours
    )


def black(width: int = 320, height: int = 240) -> Pixels:
    return np.zeros((height, width, 3), np.uint8)


def scene(width: int = 320, height: int = 240, seed: int = 1) -> Pixels:
    return np.asarray(texture(width, height, seed))


def write_video(
    path: Path,
    frames: Iterable[Pixels | av.VideoFrame],
    *,
    rate: int | Fraction = 24,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    container: str = "mp4",
    times: Iterable[Fraction] | None = None,
    aspect: Fraction | None = None,
    colour: tuple[int, int, int] | None = None,
    audio_seconds: float = 0,
    sound: Sound | None = None,
    keyframe_every: int = 250,
    first_moov: bool = False,
    fragmented: bool = False,
    encoder_options: dict[str, str] | None = None,
) -> Path:
    """Encode `frames` (RGB arrays, or frames in `pixel_format`) to `path`.

    `times` are seconds, one per frame; `colour` is the tags matrix, transfer, primaries;
    `sound` is what is heard, or `audio_seconds` of silence.
    """
    options = {"movflags": "faststart"} if first_moov else {}
    if fragmented:
        options = {"movflags": "empty_moov+frag_keyframe"}
    with av.open(str(path), "w", format=container, options=options) as output:
        stream = output.add_stream(codec, rate=rate, options=encoder_options or {})
        assert isinstance(stream, av.VideoStream)
        context = stream.codec_context
        context.gop_size = keyframe_every
        context.pix_fmt = pixel_format
        context.time_base = Fraction(1, rate * 100)
        moments = iter(times) if times is not None else None
        if sound is None:
            sound = silence(audio_seconds)
        audio = output.add_stream("aac", rate=48_000) if sound.shape[1] else None
        for number, pixels in enumerate(frames):
            frame = (
                av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format=pixel_format)
                if isinstance(pixels, np.ndarray)
                else pixels
            )
            if number == 0:
                context.width, context.height = frame.width, frame.height
                if aspect is not None:
                    context.sample_aspect_ratio = aspect
                if colour is not None:
                    context.colorspace, context.color_trc, context.color_primaries = colour
                    context.color_range = 1
            seconds = next(moments) if moments is not None else Fraction(number, rate)
            frame.time_base = context.time_base
            frame.pts = round(seconds / context.time_base)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        if isinstance(audio, av.AudioStream):
            _write_audio(output, audio, sound)
    return path


def silence(seconds: float) -> Sound:
    return np.zeros((2, round(seconds * 48_000)), np.float32)


def write_audio_only(path: Path, seconds: float = 1.0) -> Path:
    with av.open(str(path), "w", format="mp4") as output:
        audio = output.add_stream("aac", rate=48_000)
        assert isinstance(audio, av.AudioStream)
        _write_audio(output, audio, silence(seconds))
    return path


def _write_audio(output: OutputContainer, audio: av.AudioStream, sound: Sound) -> None:
    for start in range(0, sound.shape[1], 1024):
        part = np.ascontiguousarray(sound[:, start : start + 1024])
        frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="stereo")
        frame.sample_rate = 48_000
        frame.pts = start
        output.mux(audio.encode(frame))
    output.mux(audio.encode(None))


def numbered(number: int, width: int = 320, height: int = 180) -> Pixels:
    """A frame that says its number, up to 255: eight black or white columns, the lowest first."""
    columns = [255 if number >> bit & 1 else 0 for bit in range(8)]
    line = np.repeat(np.array(columns, np.uint8), width // 8)
    pixels = np.full((height, width, 3), 128, np.uint8)
    pixels[:, : line.size] = line[None, :, None]
    return pixels


def number_of(frame: av.VideoFrame, left: int = 0, width: int | None = None) -> int:
    """The number that `numbered` wrote into the part of a frame that begins at `left`."""
    grey = frame.to_ndarray(format="gray")
    column = (width or frame.width) / 8
    middles = [left + round((bit + 0.5) * column) for bit in range(8)]
    return sum(int(grey[frame.height // 2, x] > 127) << bit for bit, x in enumerate(middles))


def rotate_track(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Set the display matrix (a, b, c, d) of an MP4's first track, as cameras do."""
    data = bytearray(path.read_bytes())
    # From the box type: version, times, ids, duration, layer and volume of a version 0 header.
    start = data.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path
