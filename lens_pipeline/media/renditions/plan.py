"""Which frames are in a piece, how its picture is made, and what is encoded together. Pure."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from lens_pipeline.media.errors import MediaError
from lens_pipeline.media.models import ScaleSpec
from lens_pipeline.media.renditions.film import Film

SMALLEST, LARGEST = 2, 8192
# Pixels of an edge that x264 takes in any case.
_LEAST_SHRUNK = 16
# Enough for microseconds and usual rates, such as 60000/1001.
_TIME_DENOMINATOR = 1_000_000
# Seconds of film that one run of ffmpeg encodes for several pieces: what a killed worker loses.
_MOST_SECONDS = 120
# Of the strips of one pass: x264 keeps some 60 frames of each.
_MOST_STRIPS, _MOST_PIXELS = 4, 4 * 1920 * 1080

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Look:
    """How the picture of a piece is made from that of the film."""

    size: Size
    picture: Size
    """Of the film within it."""
    is_blurred: bool = False
    """Whether the rest is the film once more, blurred; else it is black."""
    part: tuple[Fraction, Fraction, Fraction, Fraction] | None = None
    """Left, top, width and height of what is kept, as shares of the film's picture; None: all."""

    @property
    def pixels(self) -> int:
        return self.size[0] * self.size[1]


@dataclass(frozen=True, slots=True)
class Piece:
    number: int
    look: Look
    cut: range
    """Frames of the film."""


@dataclass(frozen=True, slots=True)
class Strip:
    """Frames in one look, encoded once, of which pieces are cut without encoding them again."""

    look: Look
    span: range
    pieces: tuple[Piece, ...]

    @property
    def bounds(self) -> list[int]:
        """Where key frames must be, counted from its first frame."""
        ends = {end for piece in self.pieces for end in (piece.cut.start, piece.cut.stop)}
        return sorted(end - self.span.start for end in ends if end in self.span)


@dataclass(slots=True)
class Pass:
    """Strips that are made of one decode of their frames."""

    strips: list[Strip] = field(default_factory=list)

    @property
    def span(self) -> range:
        spans = [strip.span for strip in self.strips]
        return range(min(one.start for one in spans), max(one.stop for one in spans))

    @property
    def pieces(self) -> list[Piece]:
        return [piece for strip in self.strips for piece in strip.pieces]

    def takes(self, strip: Strip) -> bool:
        return not self.strips or (
            len(self.strips) < _MOST_STRIPS
            and strip.look.pixels + sum(one.look.pixels for one in self.strips) <= _MOST_PIXELS
            and strip.span.start < self.span.stop
        )


def piece_of(number: int, spec: ScaleSpec, film: Film) -> Piece:
    """Raises MediaError: the part or the size is impossible."""
    size = _even(spec.width, "width"), _even(spec.height, "height")
    return Piece(number, _look(spec, size, film), _cut(spec, film))


def passes(pieces: Iterable[Piece], film: Film) -> list[Pass]:
    found: list[Pass] = []
    strips = [strip for look in _by_look(pieces) for strip in _strips(look, film)]
    for strip in sorted(strips, key=lambda one: (one.span.start, one.span.stop)):
        if not found or not found[-1].takes(strip):
            found.append(Pass())
        found[-1].strips.append(strip)
    return found


def _by_look(pieces: Iterable[Piece]) -> list[list[Piece]]:
    looks: dict[Look, list[Piece]] = {}
    for piece in pieces:
        looks.setdefault(piece.look, []).append(piece)
    return list(looks.values())


def _strips(pieces: Sequence[Piece], film: Film) -> list[Strip]:
    """Pieces that overlap share one, as long as it is no longer than the limit, or than a piece."""
    groups: list[list[Piece]] = []
    for piece in sorted(pieces, key=lambda one: (one.cut.start, -one.cut.stop)):
        if groups and _fits(groups[-1], piece, film):
            groups[-1].append(piece)
        else:
            groups.append([piece])
    return [Strip(group[0].look, _span(group), tuple(group)) for group in groups]


def _fits(group: Sequence[Piece], piece: Piece, film: Film) -> bool:
    span = _span(group)
    longest = max(len(group[0].cut), math.ceil(_MOST_SECONDS * film.rate))
    return piece.cut.start < span.stop and piece.cut.stop - span.start <= longest


def _span(pieces: Sequence[Piece]) -> range:
    return range(pieces[0].cut.start, max(piece.cut.stop for piece in pieces))


def _even(pixels: int, name: str) -> int:
    if not SMALLEST <= pixels <= LARGEST:
        raise MediaError(f"{name} must be {SMALLEST} to {LARGEST} pixels, not {pixels}")
    return pixels - pixels % 2


def _look(spec: ScaleSpec, size: Size, film: Film) -> Look:
    shares = size[0] / film.width, size[1] / film.height
    scale = max(shares) if spec.fill == "crop" else min(shares)
    if scale > 1 and not spec.enlarge:
        smaller = _floored(size[0] / scale), _floored(size[1] / scale)
        if min(smaller) < min(_LEAST_SHRUNK, *size):
            raise MediaError(
                f"the film is too small for this format: {smaller[0]}x{smaller[1]} would be left"
                f" of {size[0]}x{size[1]}; allow enlarging"
            )
        size = smaller
        shares = size[0] / film.width, size[1] / film.height
        scale = max(shares) if spec.fill == "crop" else min(shares)
    if spec.fill == "crop":
        return Look(size, size, part=_part(size, scale, spec.focus, film))
    picture = _rounded(film.width * scale), _rounded(film.height * scale)
    return Look(size, picture, is_blurred=spec.fill == "blur" and picture != size)


def _floored(edge: Fraction) -> int:
    return max(SMALLEST, 2 * math.floor(edge / 2))


def _rounded(edge: Fraction) -> int:
    """The nearest even number."""
    return max(SMALLEST, 2 * round(edge / 2))


def _part(
    size: Size, scale: Fraction, focus: tuple[float, float] | None, film: Film
) -> tuple[Fraction, Fraction, Fraction, Fraction] | None:
    width, height = size[0] / scale / film.width, size[1] / scale / film.height
    if (width, height) == (1, 1):
        return None
    x, y = (Fraction(one).limit_denominator(10_000) for one in focus or (0.5, 0.5))
    left, top = (
        min(max(middle - share / 2, Fraction(0)), 1 - share)
        for middle, share in ((x, width), (y, height))
    )
    return left, top, width, height


def _cut(spec: ScaleSpec, film: Film) -> range:
    start = _time(spec.start_seconds, "start") or Fraction(0)
    end = _time(spec.end_seconds, "end")
    if end is not None and end <= start:
        raise MediaError(f"the end ({float(end):g} s) is not after the start ({float(start):g} s)")
    if start >= film.seconds:
        raise MediaError(
            f"the start ({float(start):g} s) is beyond the end: "
            f"the master is {float(film.seconds):.1f} s long"
        )
    first = math.ceil(start * film.rate)
    after = film.frames if end is None else min(film.frames, math.ceil(end * film.rate))
    if first >= after:
        raise MediaError("no frame begins between the start and the end")
    return range(first, after)


def _time(seconds: float | None, name: str) -> Fraction | None:
    if seconds is None:
        return None
    if not math.isfinite(seconds):
        raise MediaError(f"the {name} must be a number of seconds, not {seconds}")
    if seconds < 0:
        raise MediaError(f"the {name} must not be negative: {seconds:g} s")
    # A tenth for 0.1: binary numbers may lie on the other side of a frame's begin.
    return Fraction(seconds).limit_denominator(_TIME_DENOMINATOR)
