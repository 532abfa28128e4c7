"""What rendering takes and returns, without decoders."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Characters: Dagster shows it with each event.
INLINE_MARKDOWN_LIMIT = 2048


@dataclass(frozen=True, slots=True)
class PreviewSpec:
    longest_edge: int  # pixels; smaller photos keep their size
    quality: int  # of lossy WebP, 1 to 100
    effort: int  # of the WebP encoder, 0 (fast) to 6 (small)
    max_pixels: int  # width x height x frames; more is refused before decoding
    sizes: Sequence[int] = ()  # longest edges of more pictures

    @property
    def largest_edge(self) -> int:
        return max((self.longest_edge, *self.sizes))


@dataclass(frozen=True, slots=True)
class PosterSpec(PreviewSpec):
    """`max_pixels` limits one frame."""


@dataclass(frozen=True, slots=True)
class PictureSize:
    """The picture once more."""

    edge: int  # pixels that its longest edge may have
    width: int
    height: int
    webp: bytes


@dataclass(frozen=True, slots=True)
class Picture:
    """Upright, sRGB, without metadata."""

    webp: bytes
    width: int
    height: int
    thumbhash: str  # base64, see https://evanw.github.io/thumbhash/
    inline: bytes  # WebP of at most 32 pixels
    source_width: int  # of the source, upright and with square pixels
    source_height: int
    sizes: tuple[PictureSize, ...] = ()

    @property
    def inline_markdown(self) -> str:
        """At most `INLINE_MARKDOWN_LIMIT` characters."""
        return inline_markdown(self.inline)


@dataclass(frozen=True, slots=True)
class Poster:
    """The frame that shows most of a video's beginning."""

    picture: Picture
    duration_seconds: float
    poster_at_seconds: float  # from the start of the video


@dataclass(frozen=True, slots=True)
class ScaleSpec:
    """A rendition's part of a master, and its size."""

    width: int  # pixels, 2 to 8192, made even: H.264 halves the colours
    height: int  # as `width`; what the master's shape leaves free is black
    start_seconds: float | None = None
    """The first frame begins at or after this; None: the master's first."""
    end_seconds: float | None = None
    """The last frame begins before this; None: the master's last."""


@dataclass(frozen=True, slots=True)
class Video:
    """A file that was made."""

    path: Path
    width: int  # as shown, with square pixels
    height: int
    duration_seconds: float


@dataclass(frozen=True, slots=True)
class Rendition(Video):
    frames: int


def inline_markdown(webp: bytes) -> str:
    return f"![](data:image/webp;base64,{base64.b64encode(webp).decode('ascii')})"
