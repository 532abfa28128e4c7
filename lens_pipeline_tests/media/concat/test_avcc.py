"""Merging the parameter sets of H.264 shots."""

import pytest

from lens_pipeline.media.concat.avcc import Configuration, merge
from lens_pipeline.media.concat.mp4 import read_track
from lens_pipeline.media.errors import MediaError
from lens_pipeline_tests.media.concat.shots import H264, Make, Recipe


def configuration(make: Make, *params: str, size: str = "64x64") -> bytes:
    coding = (*H264, "-x264-params", ":".join(params))
    return read_track(make(Recipe(size=size, coding=coding, tone=0))).configuration


def test_a_configuration_is_read_and_written_unchanged(make: Make) -> None:
    data = configuration(make, "sps-id=3")
    parsed = Configuration.parse(data)
    assert parsed.serialise() == data
    assert (len(parsed.sps), len(parsed.pps)) == (1, 1)


def test_merged_configurations_hold_the_sets_of_all(make: Make) -> None:
    one = configuration(make, "sps-id=0")
    other = configuration(make, "sps-id=17", "level=51", size="128x64")
    merged = Configuration.parse(merge([one, other, one]))
    assert merged.sps == Configuration.parse(one).sps + Configuration.parse(other).sps
    assert merged.pps == Configuration.parse(one).pps + Configuration.parse(other).pps
    # The level of the more demanding one.
    assert merged.fixed[3] == 51


def test_different_sets_with_the_same_identifier_do_not_mix(make: Make) -> None:
    one = configuration(make, "sps-id=17")
    other = configuration(make, "sps-id=17", size="128x64")
    with pytest.raises(MediaError, match="alike"):
        merge([one, other])


@pytest.mark.parametrize("data", [b"", b"\0\0\0\1\x67", b"\1\x64\0\x28\xff\xe1\xff\xff\x67"])
def test_what_is_no_configuration_is_refused(data: bytes) -> None:
    with pytest.raises(MediaError):
        merge([data])
