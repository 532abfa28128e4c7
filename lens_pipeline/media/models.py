"""What rendering takes and what it gives back. Imports no decoder."""

import base64
from dataclasses import dataclass
from pathlib import Path

# The longest Markdown of an inline picture, characters: Dagster shows it with each event.
INLINE_MARKDOWN_LIMIT = 2048

_INLINE_MARKDOWN = "![](data:image/webp;base64,{})"


@dataclass(frozen=True, slots=True)
class PreviewSpec:
    """How a photo becomes a preview."""

    longest_edge: int
    """Pixels; a smaller photo keeps its size."""
    quality: int
    """Of lossy WebP, 1 to 100."""
    effort: int
    """Of the WebP encoder, 0 (fast) to 6 (small)."""
    max_pixels: int
    """Width x height x frames above which a file is refused before anything is decoded."""


@dataclass(frozen=True, slots=True)
class PosterSpec:
    """How a video becomes a poster; the fields mean what they mean in `PreviewSpec`.

    `max_pixels` limits one frame: the number of frames costs nothing.
    """

    longest_edge: int
    quality: int
    effort: int
    max_pixels: int


@dataclass(frozen=True, slots=True)
class Picture:
    """A rendered picture: upright, sRGB, without metadata."""

    webp: bytes
    width: int
    height: int
    thumbhash: str
    """ThumbHash (https://evanw.github.io/thumbhash/) in base64."""
    inline: bytes
    """The picture as a WebP of at most 32 pixels, small enough to be written into text."""

    @property
    def inline_markdown(self) -> str:
        """The inline picture as Markdown, at most `INLINE_MARKDOWN_LIMIT` characters."""
        return inline_markdown(self.inline)


@dataclass(frozen=True, slots=True)
class Poster:
    """The most telling frame of a video's beginning."""

    picture: Picture
    duration_seconds: float
    poster_at_seconds: float
    """Time of the frame from the start of the video."""


@dataclass(frozen=True, slots=True)
class ScaleSpec:
    """Which part of a master a rendition shows, and at what size."""

    width: int
    """Pixels, 2 to 8192; of an odd number the even one below, since H.264 halves the colours."""
    height: int
    """As `width`. What the master's shape leaves free is black."""
    start_seconds: float | None = None
    """The first frame is the first that begins at or after this time; None: the master's first."""
    end_seconds: float | None = None
    """The last frame is the last that begins before this time; None: the master's last."""


@dataclass(frozen=True, slots=True)
class Rendition:
    """A master, or a part of it, at another size."""

    path: Path
    width: int
    height: int
    duration_seconds: float
    frames: int


def inline_markdown(webp: bytes) -> str:
    """Write `webp` as a Markdown picture that needs no server."""
    return _INLINE_MARKDOWN.format(base64.b64encode(webp).decode("ascii"))
