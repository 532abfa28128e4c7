"""What the files of a row say of how they came to be."""

import pytest

from lens_pipeline.catalog.rows import Generation, Kind, MasterVideo, ScaledVideo, Shot
from lens_pipeline.derivatives.provenance import source_type
from lens_pipeline.settings import Settings

GENERATED = Shot("a", source="a.mp4", generation_id="g")
UPLOADED = Shot("b", source="b.mp4")


def _settings(**values: str) -> Settings:
    return Settings.model_validate(values)


@pytest.mark.parametrize(
    ("shots", "expected"),
    [
        ((GENERATED, GENERATED), "trainedAlgorithmicMedia"),
        ((GENERATED, UPLOADED), "compositeWithTrainedAlgorithmicMedia"),
        ((UPLOADED,), None),
        ((), None),
    ],
)
def test_films_tell_whether_all_of_them_was_generated(
    shots: tuple[Shot, ...], expected: str | None
) -> None:
    """A holiday video that is called artificial, or a film of both that is called real."""
    master = MasterVideo("m", "p", "film", shots, None)
    rendition = ScaledVideo("s", "m", None, None, 160, 90, None, master)
    assert source_type(master, _settings()) == expected
    assert source_type(rendition, _settings()) == expected


def test_generations_say_what_the_setting_says() -> None:
    photo = Generation("id", "user", Kind.PHOTO, "a.jpg", None)
    assert source_type(photo, _settings()) == "trainedAlgorithmicMedia"
    assert source_type(photo, _settings(digital_source_type="off")) is None
