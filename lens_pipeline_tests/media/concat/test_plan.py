"""Which shots are copied: decided from their facts alone."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from lens_pipeline.media.concat.plan import Compatibility, encode_all, make_plan
from lens_pipeline.media.concat.probe import Shot, Signature

SIGNATURE = Signature(
    codec="h264",
    profile="High",
    level=40,
    width=1920,
    height=1080,
    pixel_format="yuv420p",
    sample_aspect=Fraction(1),
    field_order="progressive",
    colour_range="tv",
    colour_space="bt709",
    colour_transfer="bt709",
    colour_primaries="bt709",
    has_b_frames=2,
    frame_rate=Fraction(24),
    rotation=0,
    mirrored=False,
    extradata_sha256="a",
)
SHOT = Shot(
    signature=SIGNATURE,
    demuxer="mov",
    stream=0,
    time_base=Fraction(1, 12288),
    start=Fraction(0),
    length=Fraction(5),
    variable_rate=False,
    edited=False,
    starts_clean=True,
    display_order=(0,),
    last_key=0,
    packet_hashes=("a",),
    audio=None,
)


def like(shot: Shot = SHOT, length: int = 5, **signature: Any) -> Shot:
    return replace(shot, length=Fraction(length), signature=replace(shot.signature, **signature))


def actions(*shots: Shot, compatibility: Compatibility = "source") -> str:
    """The method, and c for copy or e for encode of each shot."""
    plan = make_plan(shots, compatibility)
    return f"{plan.method} {''.join(decision.action[0] for decision in plan.decisions)}"


def test_all_alike_are_copied() -> None:
    assert actions(SHOT, like(length=7), SHOT) == "copy ccc"


def test_the_most_frequent_signature_is_the_target() -> None:
    odd = like(width=1280, height=720, length=100)
    assert actions(odd, SHOT, SHOT) == "partial ecc"
    assert make_plan([odd, SHOT, SHOT]).target.width == 1920


def test_a_tie_goes_to_the_longer_then_to_the_first() -> None:
    small = like(width=1280, height=720)
    assert actions(SHOT, small) == "partial ce"
    assert actions(small, SHOT) == "partial ce"
    assert actions(SHOT, replace(small, length=Fraction(6))) == "partial ec"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"width": 1280}, "its width is 1280, not 1920"),
        ({"frame_rate": Fraction(25)}, "its frame rate is 25, not 24"),
        ({"codec": "hevc"}, "its codec is hevc, not h264"),
        ({"level": 31}, "its level is 31, not 40"),
        ({"has_b_frames": 0}, "its reordering of frames is 0, not 2"),
        ({"colour_range": "pc"}, "its colour range is pc, not tv"),
        ({"rotation": 90}, "its rotation is 90, not 0"),
        ({"extradata_sha256": "b"}, "its codec configuration differs"),
    ],
)
def test_every_difference_is_encoded_and_named(change: dict[str, Any], reason: str) -> None:
    plan = make_plan([SHOT, SHOT, like(**change)])
    assert plan.decisions[2].action == "encode"
    assert plan.decisions[2].reason == reason


@pytest.mark.parametrize(
    ("shot", "reason"),
    [
        (replace(SHOT, variable_rate=True), "frame rate varies"),
        (replace(SHOT, edited=True), "not shown"),
        (like(mirrored=True), "mirrored"),
        (replace(SHOT, starts_clean=False), "key frame"),
        (replace(SHOT, frame_hashes=("a", "b")), "do not show all"),
    ],
)
def test_shots_that_cannot_be_copied_are_not_even_beside_their_like(
    shot: Shot, reason: str
) -> None:
    plan = make_plan([SHOT, SHOT, shot])
    assert [decision.action for decision in plan.decisions] == ["copy", "copy", "encode"]
    assert reason in plan.decisions[2].reason
    assert make_plan([shot, shot]).method == "encode"


@pytest.mark.parametrize(
    "change",
    [
        {"codec": "hevc"},
        {"codec": "vp9"},
        {"pixel_format": "yuv420p10le"},
        {"colour_range": "pc"},
        {"field_order": "tt"},
        {"rotation": 90},
        {"sample_aspect": Fraction(4, 3)},
        {"width": 1919},
        {"colour_transfer": "smpte2084"},
    ],
)
def test_only_plain_h264_is_joined_with_encoded_shots(change: dict[str, Any]) -> None:
    main = like(**change)
    assert actions(main, main) == "copy cc"
    assert actions(main, main, SHOT) == "encode eee"


@pytest.mark.parametrize("codec", ["vp8", "mpeg4", "mjpeg", "prores", "theora"])
def test_codecs_that_no_browser_plays_in_an_mp4_are_encoded(codec: str) -> None:
    assert actions(like(codec=codec), like(codec=codec)) == "encode ee"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"codec": "hevc"}, "it is hevc"),
        ({"codec": "av1"}, "it is av1"),
        ({"pixel_format": "yuv444p"}, "its pixel format is yuv444p"),
        ({"pixel_format": "yuv420p10le"}, "its pixel format is yuv420p10le"),
        ({"profile": "High 10"}, "its profile is High 10"),
        ({"level": 52}, "its level is over 5.1"),
        # Whatever it says of itself.
        ({"width": 3840, "height": 2160, "frame_rate": Fraction(60)}, "its level is over 5.1"),
    ],
)
def test_what_not_all_players_know_is_encoded_for_the_web(
    change: dict[str, Any], reason: str
) -> None:
    odd = like(**change)
    assert actions(odd, odd) == "copy cc"
    assert actions(odd, odd, compatibility="web") == "encode ee"
    assert actions(SHOT, SHOT, odd, compatibility="web") == "partial cce"
    decision = make_plan([SHOT, SHOT, odd], "web").decisions[2]
    assert decision.reason == f"{reason}, which not all players know"


@pytest.mark.parametrize(
    "change",
    [{}, {"profile": "Constrained Baseline"}, {"level": 51, "width": 3840, "height": 2160}],
)
def test_what_all_players_know_is_copied_for_the_web(change: dict[str, Any]) -> None:
    assert actions(like(**change), like(**change), compatibility="web") == "copy cc"


@pytest.mark.parametrize(
    ("size", "rate", "fitted"),
    [
        ((3840, 2160), 30, (3840, 2160)),
        ((3840, 2160), 60, (2688, 1512)),
        ((7680, 4320), 24, (4070, 2288)),
    ],
)
def test_what_is_encoded_for_the_web_is_within_the_level(
    size: tuple[int, int], rate: int, fitted: tuple[int, int]
) -> None:
    shot = like(codec="hevc", width=size[0], height=size[1], frame_rate=Fraction(rate))
    target = make_plan([shot], "web").target
    assert (target.width, target.height) == fitted
    assert make_plan([like(shot, codec="vp8")]).target.width == size[0]


def test_a_target_has_even_numbers_square_pixels_and_a_known_rate() -> None:
    shot = like(width=1079, height=721, codec="vp8", frame_rate=Fraction(120))
    target = make_plan([shot]).target
    assert (target.width, target.height, target.frame_rate) == (1078, 720, 60)
    turned = like(codec="vp8", width=720, height=576, sample_aspect=Fraction(16, 15), rotation=-90)
    target = make_plan([turned]).target
    assert (target.width, target.height) == (576, 768)
    varied = replace(like(codec="vp8", frame_rate=Fraction(2397, 100)), variable_rate=True)
    assert make_plan([varied]).target.frame_rate == Fraction(24000, 1001)


def test_the_fallback_encodes_all_to_the_same_target_and_says_why() -> None:
    plan = encode_all([SHOT, SHOT], "verification failed: a reason", "web")
    assert {decision.action for decision in plan.decisions} == {"encode"}
    assert plan.reason == "verification failed: a reason"
    assert (plan.target.width, plan.target.frame_rate) == (1920, 24)
