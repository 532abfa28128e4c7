"""The flags of pictures, with FFmpeg's own reading of them as the truth."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from lens_pipeline.media.concat.avcc import Configuration
from lens_pipeline.media.concat.bitstream import drops_prior, is_self_contained, seekable
from lens_pipeline.media.concat.hvcc import as_hvc1
from lens_pipeline.media.concat.join import join
from lens_pipeline.media.concat.mp4 import read_track, with_configuration
from lens_pipeline.media.concat.slices import H264Sets
from lens_pipeline.media.errors import MediaError
from lens_pipeline_tests.media.concat.shots import (
    H264,
    HEVC,
    TOOLS,
    Make,
    Recipe,
    actions,
    check_master,
    ffmpeg,
    source,
    work_in,
)
from lens_pipeline_tests.media.concat.test_join import Folder

_SILENT = Recipe("silent", tone=0)
_FLAG = re.compile(r"\] (\d+) +no_output_of_prior_pics_flag +0 = 0")


def _drops_prior(path: Path, *, is_first: bool) -> int | None:
    return drops_prior(read_track(path), is_first, lambda: False)


def _dropping(path: Path, original: Path) -> Path:
    """`original` with the flag set in the first slice."""
    trace = ("-c", "copy", "-frames:v", "1", "-bsf:v", "trace_headers", "-f", "null", "-")
    found = _FLAG.search(ffmpeg("-v", "info", "-i", str(original), "-an", *trace))
    assert found is not None
    bit = int(found[1])
    data = bytearray(original.read_bytes())
    track = read_track(original)
    at, end = track.offsets[0], track.offsets[0] + track.sizes[0]
    # Past the units before the first slice of an IDR picture.
    while at < end and data[at + 4] & 0x1F != 5 and data[at + 4] >> 1 not in (19, 20):
        at += 4 + int.from_bytes(data[at : at + 4], "big")
    data[at + 4 + bit // 8] |= 0x80 >> bit % 8
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "coding",
    [
        H264,
        (*H264, "-bf", "0"),
        (*H264, "-x264-params", "cqm=jvt:slices=3:aud=1"),
        (*H264, "-x264-params", "tff=1:bff=0", "-flags", "+ilme+ildct"),
        (*H264, "-profile:v", "baseline"),
        (*H264[:4], "-pix_fmt", "yuv444p10le"),
        HEVC,
    ],
    ids=["plain", "no reordering", "lists", "fields", "baseline", "4:4:4", "hevc"],
)
def test_a_picture_that_drops_those_before_is_known(
    coding: tuple[str, ...], tmp_path: Path
) -> None:
    shot = Recipe("shot", coding=coding, tone=0, seconds=0.2).make(tmp_path)
    assert _drops_prior(shot, is_first=False) is None
    dropping = _dropping(tmp_path / "dropping.mp4", shot)
    assert _drops_prior(dropping, is_first=False) == 0
    assert _drops_prior(dropping, is_first=True) is None


def test_a_header_that_cannot_be_read_is_no_copy(make: Make) -> None:
    track = read_track(make(_SILENT))
    bare = replace(track, entry=with_configuration(track.entry, b""))
    with pytest.raises(MediaError, match="without parameter sets in its header"):
        drops_prior(bare, False, lambda: False)


@pytest.mark.parametrize("sizes", [[70_000], [40_000, 40_000]])
def test_large_parameter_sets_are_no_copy(make: Make, tmp_path: Path, sizes: list[int]) -> None:
    """A key frame of megabytes that takes a gigabyte outside of the sandbox."""
    plain = read_track(make(_SILENT))
    (sps,) = Configuration.parse(plain.configuration).sps
    packet = b"".join(size.to_bytes(4, "big") + sps.ljust(size, b"\0") for size in sizes)
    for content in (packet, packet[:99]):
        file = tmp_path / "packet"
        file.write_bytes(content)
        track = replace(plain, file=file, sizes=(len(content),), offsets=(0,), keys=None)
        with pytest.raises(MediaError, match="its parameter sets are too large"):
            drops_prior(track, False, lambda: False)
        assert not is_self_contained(track, [0], lambda: False)


def test_a_shot_with_large_parameter_sets_is_encoded(make: Make, tmp_path: Path) -> None:
    plain = make(Recipe("two groups", coding=(*H264, "-g", "10", "-bf", "0"), tone=0))
    stream, large = tmp_path / "stream.h264", tmp_path / "large.mp4"
    ffmpeg("-i", str(plain), "-c", "copy", str(stream))
    (sps,) = Configuration.parse(read_track(plain).configuration).sps
    before, between, after = stream.read_bytes().split(sps)
    stream.write_bytes(before + sps + between + sps.ljust(70_000, b"\xff") + after)
    ffmpeg("-framerate", "25", "-fflags", "+genpts", "-i", str(stream), "-c", "copy", str(large))
    master = join([source(large), source(plain)], TOOLS, work_in(tmp_path / "work"))
    assert master.fallback == "shot large cannot be copied: its parameter sets are too large"


def _golomb(number: int) -> str:
    return f"{number + 1:b}".rjust(2 * (number + 1).bit_length() - 1, "0")


@pytest.mark.parametrize(
    ("unit", "numbers"),
    [(b"\x67" + bytes(3), (32,)), (b"\x68", (256,)), (b"\x67" + bytes(3), (0, 0, 2**33))],
    ids=["sps", "pps", "frame numbers"],
)
def test_numbers_over_the_standard_are_damage(unit: bytes, numbers: tuple[int, ...]) -> None:
    text = "".join(map(_golomb, numbers)).ljust(400, "1")
    with pytest.raises(ValueError, match="in a header, over"):
        H264Sets().add(unit + int(text, 2).to_bytes(50, "big"))


def test_a_cycle_of_frames_over_the_standard_is_damage() -> None:
    """A step for each bit of a file."""
    text = "".join(map(_golomb, (0, 0, 1))) + "0" + "11"
    most, more = (
        b"\x67\x42\0\0" + int((text + _golomb(count)).ljust(400, "1"), 2).to_bytes(50, "big")
        for count in (255, 256)
    )
    H264Sets().add(most)
    with pytest.raises(ValueError, match="256 in a header, over 255"):
        H264Sets().add(more)


def test_h264_that_a_lenient_decoder_shows_whole_is_encoded(make: Make, tmp_path: Path) -> None:
    """FFmpeg does not heed the flag; decoders of phones do."""
    plain = make(_SILENT)
    dropping = _dropping(tmp_path / "dropping.mp4", plain)
    pieces, stages = Folder(tmp_path / "pieces"), list[str]()
    work = work_in(tmp_path / "work", report=lambda stage, share: stages.append(stage))
    sources = [source(path) for path in (plain, dropping, plain)]
    masters = [join(sources, TOOLS, work, pieces) for _ in range(2)]
    for master in masters:
        assert (master.method, master.fallback) == ("partial", None)
        assert actions(master) == ["copy", "encode", "copy"]
        assert master.shots[1].reason == "at its key frame 0, players drop frames before"
    check_master(masters[1])
    # Found once: later masters neither try it nor encode it again.
    assert [master.shots[1].cached for master in masters] == [False, True]
    assert stages.count("unpacking shot 1 of 3") == 2 + 1
    # Nothing comes before the first.
    sources = [source(path) for path in (dropping, plain)]
    assert join(sources, TOOLS, work, pieces).method == "copy"


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ("intra-refresh=1:keyint=8:scenecut=0:bframes=0", [0]),
        ("open-gop=1:keyint=6:bframes=3", [0]),
        ("keyint=5:scenecut=0", [0, 5, 10, 15]),
    ],
)
def test_players_seek_to_what_is_whole(options: str, keys: list[int], make: Make) -> None:
    """Chromium shows nothing if it seeks to another frame."""
    coding = (*H264, "-x264-params", options)
    track = read_track(make(Recipe(options[:9], coding=coding, tone=0)))
    assert track.keys is not None
    assert len(track.keys) > 1
    assert sorted(seekable(track) or ()) == keys


def test_only_what_is_an_hvcc_is_changed(make: Make) -> None:
    configuration = read_track(make(Recipe("hevc", coding=HEVC))).configuration
    complete = as_hvc1(configuration)
    assert len(complete) == len(configuration)
    assert [byte & 0x7F for byte in complete] == [byte & 0x7F for byte in configuration]
    # Three arrays: of VPS, SPS and PPS.
    assert as_hvc1(complete) == complete
    for other in (b"", b"\1", b"\0\0\0\1" * 8, configuration[:24]):
        assert as_hvc1(other) == other
