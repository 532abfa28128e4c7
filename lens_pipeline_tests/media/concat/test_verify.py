"""Every way in which a master can be wrong is found before it is handed on."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from lens_pipeline.media.concat import mux
from lens_pipeline.media.concat.mp4 import Samples, layout
from lens_pipeline.media.concat.mux import Part
from lens_pipeline.media.concat.probe import probe
from lens_pipeline.media.concat.verify import check_structure
from lens_pipeline.media.errors import MediaError
from lens_pipeline_tests.media.concat.shots import TOOLS, Make, Recipe, ffmpeg, work_in

RATE = Fraction(24)


@pytest.fixture
def parts(make: Make, tmp_path: Path) -> list[Part]:
    """Two shots of a second."""
    found: list[Part] = []
    for number in range(2):
        shot = make(
            Recipe(f"s{number}", rate="24", seconds=1, filters=f"hue=h={number * 90}", tone=0)
        )
        copied = tmp_path / f"copied-{number}.mp4"
        ffmpeg("-i", str(shot), "-map", "0:v", "-c", "copy", str(copied))
        facts = probe(shot, TOOLS, work_in(tmp_path / "work"))
        hashes = tuple(map(str, range(facts.frames)))
        found.append(Part.of(copied, replace(facts, frame_hashes=hashes)))
    return found


def master_of(tmp_path: Path, parts: list[Part], sound_seconds: float = 2) -> Path:
    sound = tmp_path / "sound.mp4"
    ffmpeg(
        *("-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000"),
        *("-t", str(sound_seconds), "-c:a", "aac", "-ac", "2", str(sound)),
    )
    output = tmp_path / "master.mp4"
    mux.write(parts, sound, RATE, output, lambda: False)
    return output


def checked(tmp_path: Path, master: Path, parts: list[Part]) -> None:
    check_structure(master, parts, RATE, TOOLS, work_in(tmp_path / "work"))


def test_a_right_master_passes(tmp_path: Path, parts: list[Part]) -> None:
    checked(tmp_path, master_of(tmp_path, parts), parts)


def test_a_changed_packet_is_found(tmp_path: Path, parts: list[Part]) -> None:
    master = master_of(tmp_path, parts)
    data = bytearray(master.read_bytes())
    data[data.index(b"mdat") + 200] ^= 1
    master.write_bytes(data)
    with pytest.raises(MediaError, match="frame 0 was changed"):
        checked(tmp_path, master, parts)


def test_shots_in_the_wrong_order_are_found(tmp_path: Path, parts: list[Part]) -> None:
    with pytest.raises(MediaError, match="was changed"):
        checked(tmp_path, master_of(tmp_path, parts[::-1]), parts)


@pytest.mark.parametrize(
    ("lose", "reason"),
    [
        (lambda parts: parts[:1], "video of the master lasts"),
        (lambda parts: [parts[0], parts[1].cut(0, 23)], "video of the master lasts"),
    ],
)
def test_missing_frames_are_found(
    tmp_path: Path, parts: list[Part], lose: Callable[[list[Part]], list[Part]], reason: str
) -> None:
    with pytest.raises(MediaError, match=reason):
        checked(tmp_path, master_of(tmp_path, lose(parts)), parts)


@pytest.mark.parametrize("seconds", [0.5, 1.9])
def test_sound_that_ends_early_is_found(tmp_path: Path, parts: list[Part], seconds: float) -> None:
    with pytest.raises(MediaError, match="sound of the master lasts"):
        checked(tmp_path, master_of(tmp_path, parts, seconds), parts)


def test_another_rate_is_found(tmp_path: Path, parts: list[Part]) -> None:
    master = master_of(tmp_path, parts)
    other = tmp_path / "other.mp4"
    ffmpeg(
        *("-i", str(master), "-c", "copy", "-bsf:v", "setts=ts=TS+if(gte(N\\,40)\\,512\\,0)"),
        *("-movflags", "+faststart", str(other)),
    )
    with pytest.raises(MediaError, match="wrong time|lasts from"):
        checked(tmp_path, other, parts)


def test_an_index_at_the_end_is_found(tmp_path: Path, parts: list[Part]) -> None:
    late = tmp_path / "late.mp4"
    ffmpeg("-i", str(master_of(tmp_path, parts)), "-c", "copy", str(late))
    with pytest.raises(MediaError, match="index of the master does not come first"):
        checked(tmp_path, late, parts)


def test_a_master_without_sound_is_found(tmp_path: Path, parts: list[Part]) -> None:
    master = tmp_path / "mute.mp4"
    mux.write(parts, None, RATE, master, lambda: False)
    with pytest.raises(MediaError, match="other tracks"):
        checked(tmp_path, master, parts)


def track(samples: int, size: int, timescale: int = 24) -> Samples:
    return Samples(
        entry=b"",
        display=bytes(44),
        is_video=True,
        timescale=timescale,
        sources=[(Path("shot.mp4"), 0, size)] * samples,
        durations=[1] * samples,
        delays=[],
        keys=None,
        media_start=0,
        length=samples,
    )


def test_masters_over_four_gigabytes_are_addressed_with_64_bits() -> None:
    small, _ = layout([track(48, 1 << 20)], 48_000)
    large, order = layout([track(48, 1 << 27)], 48_000)
    assert b"stco" in small and b"co64" not in small
    assert b"co64" in large and large[-16:-8] == b"\0\0\0\1mdat"
    assert int.from_bytes(large[-8:], "big") == 16 + 48 * (1 << 27)
    assert order == [(0, range(24)), (0, range(24, 48))]
    # The second chunk starts a second of samples after the first.
    offsets = large[large.index(b"co64") + 12 :]
    first, second = (int.from_bytes(offsets[at : at + 8], "big") for at in (0, 8))
    assert (first, second) == (len(large), len(large) + 24 * (1 << 27))


def test_a_master_that_32_bits_cannot_count_is_refused() -> None:
    endless = replace(track(1, 1), durations=[1 << 33])
    with pytest.raises(MediaError, match="too long"):
        layout([endless], 48_000)
