"""Decides which shots are copied, which are encoded, and to what."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Literal

from lens_pipeline.media.concat.probe import STANDARD_RATES, Shot, Signature

Compatibility = Literal["web", "source"]  # what players of a master must know
Action = Literal["copy", "encode"]
Method = Literal["copy", "partial", "encode"]

# Browsers play these in MP4, and FFmpeg copies them unchanged.
_COPIED_CODECS = frozenset({"h264", "hevc", "vp9", "av1"})
# Browsers and phones play these.
_WEB_PROFILES = frozenset({"Constrained Baseline", "Baseline", "Main", "High"})
_WEB_FORMATS = frozenset({"yuv420p", "yuvj420p"})
# H.264, table A-1: of 16 x 16 pixels, in a frame and in a second.
_WEB_LEVEL, _WEB_BLOCKS, _WEB_BLOCKS_A_SECOND = 51, 36_864, 983_040
_BLOCK = 16
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


def make_plan(shots: Sequence[Shot], compatibility: Compatibility = "source") -> Plan:
    """Copy shots with the most frequent signature, encode the rest to match.

    Of equal ones, the longest in total wins, then the first. Shots are encoded to H.264 only: if
    another codec wins, all are, unless all match.
    """
    main = _main_shot(shots, compatibility)
    barrier = _copy_barrier(main, compatibility)
    if barrier is not None:
        reason = f"most shots cannot be copied: {barrier}"
        return encode_all(shots, reason, compatibility)
    decisions = tuple(_decide(shot, main, compatibility) for shot in shots)
    if all(decision.action == "copy" for decision in decisions):
        return Plan("copy", _target(main, compatibility), decisions, "all shots match")
    barrier = _splice_barrier(main.signature)
    if barrier is not None:
        why = next(decision.reason for decision in decisions if decision.action == "encode")
        reason = f"one shot cannot be copied ({why}), and {barrier}"
        return encode_all(shots, reason, compatibility)
    own = main.signature
    colours = (own.colour_space, own.colour_transfer, own.colour_primaries)
    target = Target(own.width, own.height, own.frame_rate, *colours)
    return Plan("partial", target, decisions, "some shots differ from the others")


def encode_all(shots: Sequence[Shot], reason: str, compatibility: Compatibility) -> Plan:
    decisions = tuple(Decision("encode", reason) for _ in shots)
    target = _target(_main_shot(shots, compatibility), compatibility)
    return Plan("encode", target, decisions, reason)


def _main_shot(shots: Sequence[Shot], compatibility: Compatibility) -> Shot:
    """The first shot with the signature to match."""

    kinds = [(shot.signature, _copy_barrier(shot, compatibility) is None) for shot in shots]

    def rank(number: int) -> tuple[int, Fraction]:
        alike = [shot for shot, kind in zip(shots, kinds, strict=True) if kind == kinds[number]]
        return len(alike), sum((shot.length for shot in alike), Fraction(0))

    return shots[max(range(len(shots)), key=rank)]


def _copy_barrier(shot: Shot, compatibility: Compatibility) -> str | None:
    """Why this shot can never be copied."""
    barrier = web_barrier(shot.signature) if compatibility == "web" else None
    if barrier is not None:
        return f"{barrier}, which not all players know"
    codec = shot.signature.codec
    shown = len(shot.frame_hashes)
    barriers = {
        f"{codec} is not played in an MP4": codec not in _COPIED_CODECS,
        "its frame rate varies": shot.variable_rate,
        "it is shown mirrored, which not all players do": shot.signature.mirrored,
        "its picture changes its size or format": shot.changes,
        "some of its frames are not shown": shot.edited,
        "it does not start with a key frame": not shot.starts_clean,
        "decoders do not show all of its frames": shown and shown != shot.frames,
        f"at its key frame {shot.drops_prior}, players drop frames before": (
            shot.drops_prior is not None
        ),
    }
    return next((reason for reason, holds in barriers.items() if holds), None)


def web_barrier(signature: Signature) -> str | None:
    """What browsers or phones may not play."""
    if signature.codec != "h264":
        return f"it is {signature.codec}"
    if signature.pixel_format not in _WEB_FORMATS:
        return f"its pixel format is {signature.pixel_format}"
    if signature.profile not in _WEB_PROFILES:
        return f"its profile is {signature.profile}"
    size = signature.width, signature.height
    if signature.level > _WEB_LEVEL or not _is_within_level(*size, signature.frame_rate):
        return "its level is over 5.1"
    return None


def _is_within_level(width: int, height: int, rate: Fraction) -> bool:
    blocks = ceil(width / _BLOCK) * ceil(height / _BLOCK)
    return blocks <= _WEB_BLOCKS and blocks * rate <= _WEB_BLOCKS_A_SECOND


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


def _decide(shot: Shot, main: Shot, compatibility: Compatibility) -> Decision:
    barrier = _copy_barrier(shot, compatibility)
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


def _target(main: Shot, compatibility: Compatibility) -> Target:
    """Even numbers and a usual rate, close to those of `main`."""
    rate = main.signature.frame_rate
    if main.variable_rate or rate > STANDARD_RATES[-1]:
        rate = min(STANDARD_RATES, key=lambda standard: abs(standard - rate))
    width, height = main.display_size
    sizes = [
        (max(2, int(width * percent) // 200 * 2), max(2, int(height * percent) // 200 * 2))
        for percent in (range(100, 0, -1) if compatibility == "web" else [100])
    ]
    size = next((size for size in sizes if _is_within_level(*size, rate)), sizes[0])
    return Target(*size, rate)
