"""What rendering takes and returns, without decoders."""

import base64
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

# Characters: Dagster shows it with each event.
INLINE_MARKDOWN_LIMIT = 2048
# Characters of a text, and entries of a list, of foreign credentials.
_LONGEST_TEXT, _MOST_ENTRIES = 200, 5


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
    height: int  # as `width`
    start_seconds: float | None = None
    """The first frame begins at or after this; None: the master's first."""
    end_seconds: float | None = None
    """The last frame begins before this; None: the master's last."""
    fill: str = "black"
    """What is where the master's shape leaves it free: black, blur, or crop (nothing is)."""
    focus: tuple[float, float] | None = None
    """What a crop keeps in its middle, as shares of width and height; None: the centre."""
    enlarge: bool = True
    """Whether a smaller master is enlarged; else the rendition gets smaller, in its shape."""


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
    is_copied: bool = False
    """Whether its picture has the master's packets."""


def inline_markdown(webp: bytes) -> str:
    return f"![](data:image/webp;base64,{base64.b64encode(webp).decode('ascii')})"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the C2PA manifest of a file says of it, and whether that is so. Each text is short."""

    state: str  # valid; trusted, by a list of certificates; invalid; unreadable
    generator: str | None = None  # what wrote the manifest
    title: str | None = None
    source_types: tuple[str, ...] = ()  # IPTC's terms, of what it is made from as well
    signer: str | None = None
    issuer: str | None = None  # of the signer's certificate
    signed_at: str | None = None
    problems: tuple[str, ...] = ()  # codes of C2PA

    @classmethod
    def clipped(
        cls,
        state: str,
        source_types: Iterable[str] = (),
        problems: Iterable[str] = (),
        **texts: str | None,
    ) -> "Credentials":
        """Raises TypeError: unknown names."""
        return cls(
            _clipped(state),
            source_types=tuple(_clipped(one) for one in list(source_types)[:_MOST_ENTRIES]),
            problems=tuple(_clipped(one) for one in list(problems)[:_MOST_ENTRIES]),
            **{name: _clipped(text) for name, text in texts.items() if text},
        )


def _clipped(text: object) -> str:
    return str(text)[:_LONGEST_TEXT]


@dataclass(frozen=True, slots=True)
class Ingredient:
    """What a signed file is made from."""

    title: str
    media_type: str
    sha256: str  # of its bytes, in hex
    source_type: str | None  # IPTC's term; None: not known
    file: Path | None  # if its own manifest is to be kept


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a signed file says of itself.

    With one ingredient and no `source_type` it is derived from that, else composed of all.
    """

    title: str
    media_type: str
    generator_version: str
    actions: tuple[str, ...]  # C2PA's, after the file was opened or created
    ingredients: tuple[Ingredient, ...]
    source_type: str | None = None  # IPTC's term, of what is composed
    mp4_hash: str | None = None  # in hex, as `credentials.sign_mp4` has it


@dataclass(frozen=True, slots=True)
class Signer:
    chain: str  # PEM, the signer's own certificate first
    algorithm: str  # of C2PA, such as es256
    sign: Callable[[bytes], bytes]
