"""Decides which shots are copied, which are encoded, and to what."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from lens_pipeline.media.concat.probe import STANDARD_RATES, Shot, Signature

Action = Literal["copy", "encode"]
Method = Literal["copy", "partial", "encode"]

# Browsers play these in MP4, and FFmpeg copies them unchanged.
_COPIED_CODECS = frozenset({"h264", "hevc", "vp9", "av1"})
# Decoders also guess these for unknown.
_SDR_TAGS = frozenset({"unknown", "bt709", "smpte170m", "bt470bg"})
# The first difference is shown.
_EXPLAINED = {
    "codec": "codec",
    "width": "width",
    "height": "height",
    "frame_rate": "frame rate",
    "pixel_format": "pixel format",
    "rotation": "rotation",
    "mirrored": "mirroring",
    "sample_aspect": "pixel shape",
    "colour_transfer": "transfer function",
    "colour_space": "colour matrix",
    "colour_primaries": "colour primaries",
    "colour_range": "colour range",
    "field_order": "field order",
    "profile": "profile",
    "level": "level",
    "has_b_frames": "reordering of frames",
    "extradata_sha256": "codec configuration",
}


@dataclass(frozen=True, slots=True)
class Target:
    """H.264, square pixels, 8 bits, a constant rate."""

    width: int
    height: int
    frame_rate: Fraction
    colour_space: str = "bt709"
    colour_transfer: str = "bt709"
    colour_primaries: str = "bt709"


@dataclass(frozen=True, slots=True)
class Decision:
    action: Action
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    method: Method
    target: Target
    decisions: tuple[Decision, ...]
    reason: str


def make_plan(shots: Sequence[Shot]) -> Plan:
    """Copy shots with the most frequent signature, encode the rest to match.

    Of equal ones, the longest in total wins, then the first. Shots are encoded to H.264 only: if
    another codec wins, all are, unless all match.
    """
    main = _main_shot(shots)
    barrier = _copy_barrier(main)
    if barrier is not None:
        return encode_all(shots, f"most shots cannot be copied: {barrier}")
    decisions = tuple(_decide(shot, main) for shot in shots)
    if all(decision.action == "copy" for decision in decisions):
        return Plan("copy", _target(main), decisions, "all shots match")
    barrier = _splice_barrier(main.signature)
    if barrier is not None:
        return encode_all(shots, f"the shots differ, and {barrier}")
    own = main.signature
    colours = (own.colour_space, own.colour_transfer, own.colour_primaries)
    target = Target(own.width, own.height, own.frame_rate, *colours)
    return Plan("partial", target, decisions, "some shots differ from the others")


def encode_all(shots: Sequence[Shot], reason: str) -> Plan:
    decisions = tuple(Decision("encode", reason) for _ in shots)
    return Plan("encode", _target(_main_shot(shots)), decisions, reason)


def _main_shot(shots: Sequence[Shot]) -> Shot:
    """The first shot with the signature to match."""

    def rank(candidate: Shot) -> tuple[int, Fraction]:
        alike = [shot for shot in shots if _kind(shot) == _kind(candidate)]
        return len(alike), sum((shot.length for shot in alike), Fraction(0))

    return max(dict.fromkeys(shots), key=rank)


def _kind(shot: Shot) -> tuple[Signature, bool]:
    return shot.signature, _copy_barrier(shot) is None


def _copy_barrier(shot: Shot) -> str | None:
    """Why this shot can never be copied."""
    if shot.signature.codec not in _COPIED_CODECS:
        return f"{shot.signature.codec} is not played in an MP4"
    if shot.variable_rate:
        return "its frame rate varies"
    if shot.signature.mirrored:
        return "it is shown mirrored, which not all players do"
    if shot.edited:
        return "some of its frames are not shown"
    if not shot.starts_clean:
        return "it does not start with a key frame"
    return None


def _splice_barrier(signature: Signature) -> str | None:
    """Why encoded shots cannot share a track with these."""
    if signature.codec != "h264":
        return f"shots are not encoded to {signature.codec}"
    if signature.pixel_format != "yuv420p" or signature.colour_range not in ("unknown", "tv"):
        return f"shots are not encoded to {signature.pixel_format}"
    if signature.field_order not in ("unknown", "progressive"):
        return "most are interlaced"
    if signature.rotation or signature.sample_aspect != 1:
        return "most are turned or have pixels that are not square"
    if signature.width % 2 or signature.height % 2:
        return "most have an odd width or height"
    tags = {signature.colour_space, signature.colour_transfer, signature.colour_primaries}
    if not tags <= _SDR_TAGS:
        return "most have other colours than standard video"
    return None


def _decide(shot: Shot, main: Shot) -> Decision:
    barrier = _copy_barrier(shot)
    if barrier is not None:
        return Decision("encode", barrier)
    if shot.signature == main.signature:
        return Decision("copy", "matches")
    values = ((name, getattr(shot.signature, name)) for name in _EXPLAINED)
    name, own = next(each for each in values if each[1] != getattr(main.signature, each[0]))
    if name == "extradata_sha256":
        return Decision("encode", f"its {_EXPLAINED[name]} differs")
    others = getattr(main.signature, name)
    return Decision("encode", f"its {_EXPLAINED[name]} is {own}, not {others}")


def _target(main: Shot) -> Target:
    """Even numbers and a usual rate, close to those of `main`."""
    width, height = (max(2, int(edge) // 2 * 2) for edge in main.display_size)
    rate = main.signature.frame_rate
    if main.variable_rate or rate > STANDARD_RATES[-1]:
        rate = min(STANDARD_RATES, key=lambda standard: abs(standard - rate))
    return Target(width, height, rate)
