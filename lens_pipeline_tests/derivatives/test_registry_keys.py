"""What becomes part of a partition key or an object key, and what makes a revision."""

import datetime as dt
from dataclasses import replace

import pytest

from lens_pipeline.catalog.rows import Generation, Kind, MasterVideo, ScaledVideo, Shot
from lens_pipeline.core.ids import key_problem
from lens_pipeline.derivatives.registry import (
    LARGE_OBJECTS,
    MASTER,
    POSTER,
    PREVIEW,
    SCALED,
    revision,
    run_tags,
)
from lens_pipeline.event_log.history import DerivativeStatus
from lens_pipeline.event_log.tags import REVISION_TAG, SOURCE_TAG
from lens_pipeline.settings import Settings

GENERATION = Generation(
    "id-1", "user-1", Kind.PHOTO, "https://h/a.jpg", dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
)


@pytest.mark.parametrize(
    "key", ["a", "0", "A_b.c-d", "x" * 128, "0f2a9c1e-0000-4000-8000-123456789abc", "1.5"]
)
def test_usual_ids_are_fine(key: str) -> None:
    """A site whose ids are refused."""
    assert key_problem("id", key) is None


@pytest.mark.parametrize(
    "key",
    [
        *("", "/", "a/b", "a\\b", ".", "..", "a..b", ".a", "-a", "_a", "x" * 129),
        *("a\n", "\na", "a\0b", "a b", "a\u2028", "ü", "a[b", "a,b", "a:b", "%2e"),
    ],
)
def test_ids_that_could_leave_their_folder_are_refused(key: str) -> None:
    """A row that writes over another user's file, or means a range of partitions."""
    problem = key_problem("id", key)
    assert problem
    assert "\n" not in problem
    assert problem.startswith("id ")


def test_objects_lie_where_the_application_looks_for_them() -> None:
    """Previews that exist and are never shown."""
    assert PREVIEW.object_key(GENERATION, "") == "user-1/previews/id-1_preview.webp"
    assert POSTER.object_key(GENERATION, "") == "user-1/posters/id-1_poster.webp"


def test_what_is_stored_in_parts_is_known_by_its_key() -> None:
    """Halves of films that no clean-up takes for its own."""
    master = MasterVideo("m-1", "p.1", "A film", (), None)
    scaled = ScaledVideo("s_1", "m-1", None, None, 80, 60, None, master)
    revision = "0123456789ab"
    for key in (MASTER.object_key(master, revision), SCALED.object_key(scaled, revision)):
        assert LARGE_OBJECTS.fullmatch(key), key
    assert not LARGE_OBJECTS.fullmatch(PREVIEW.object_key(GENERATION, ""))


def test_other_revisions_are_those_of_the_same_row() -> None:
    """A film that is deleted because its id begins with another's."""
    key = "masters/p/master_1_0123456789ab.mp4"
    revisions = MASTER.revisions_of("1", key)
    assert revisions is not None
    assert revisions.prefix == "masters/p/master_1_"
    assert revisions.name.fullmatch("masters/p/master_1_ffffffffffff.mp4")
    for other in ("1_x_ffffffffffff.mp4", "1_fffffffffffff.mp4", "1_ffffffffffff.webp", "1_.mp4"):
        assert not revisions.name.fullmatch(f"masters/p/master_{other}")
    # A file of an older system, or of another row.
    for row_id, foreign in (("1", "films/1.mp4"), ("2", key), ("1", key.replace("_1_", "_21_"))):
        assert MASTER.revisions_of(row_id, foreign) is None
    assert PREVIEW.revisions_of("1", "u/previews/1_0123456789ab.webp") is None


def test_the_limit_of_a_run_follows_those_of_the_media() -> None:
    """Work that is ended before it can be done, each time anew."""
    settings = Settings()
    long, slow = Settings(max_master_seconds=12 * 3600), Settings(batch_size=1000)
    assert MASTER.run_seconds(settings) > 4 * 3600 * 5
    assert MASTER.run_seconds(long) - MASTER.run_seconds(settings) > 8 * 3600 * 5
    # Fifty parts of a film are not fifty films.
    assert MASTER.run_seconds(settings) < SCALED.run_seconds(settings) < 3 * 86_400
    # Every file of a batch may take as long as one file may.
    assert PREVIEW.run_seconds(slow) > 1000 * slow.render_timeout_seconds
    tags = run_tags(["master_poster", "master_video"], settings)
    assert tags["dagster/max_runtime"] == str(MASTER.run_seconds(settings))


CHANGES = {
    "source": (replace(GENERATION, asset_url="https://h/b.jpg"), Settings()),
    "owner": (replace(GENERATION, user_id="user-2"), Settings()),
    "size": (GENERATION, Settings(preview_edge=512)),
    "quality": (GENERATION, Settings(preview_quality=70)),
}


@pytest.mark.parametrize(("generation", "settings"), CHANGES.values(), ids=CHANGES.keys())
def test_whatever_changes_the_output_changes_the_revision(
    generation: Generation, settings: Settings
) -> None:
    """An old picture that counts as the new one."""
    revision = PREVIEW.revision(generation, settings)
    assert revision != PREVIEW.revision(GENERATION, Settings())
    assert len(revision) == 12
    assert set(revision) <= set("0123456789abcdef")


def test_whatever_does_not_change_the_output_keeps_the_revision() -> None:
    """A library made again because a machine has more cores, or a row was touched."""
    touched = replace(GENERATION, finished_at=dt.datetime(2026, 2, 2, tzinfo=dt.UTC))
    busier = Settings(threads=8, batch_size=50, max_attempts=2, preview_concurrency=7)
    assert PREVIEW.revision(touched, busier) == PREVIEW.revision(GENERATION, Settings())


def test_the_code_version_is_part_of_the_revision() -> None:
    """A mended renderer whose broken pictures stay."""
    newer = replace(PREVIEW, code_version=PREVIEW.code_version + "x")
    assert newer.revision(GENERATION, Settings()) != PREVIEW.revision(GENERATION, Settings())


def _made(row: Generation, settings: Settings, *, tagged: bool) -> tuple[str, str | None]:
    """The revision and the SOURCE_TAG of its preview."""
    status = DerivativeStatus("preview", row.id, revision=PREVIEW.revision(row, settings))
    tags = PREVIEW.materialization_tags(row, status, settings)
    return tags[REVISION_TAG], tags[SOURCE_TAG] if tagged else None


@pytest.mark.parametrize("tagged", [True, False], ids=["this version", "an earlier one"])
def test_what_was_made_of_the_same_source_is_known(tagged: bool) -> None:
    """Pictures that vanish with a new quality, or are another photo's."""
    made = _made(GENERATION, Settings(), tagged=tagged)
    better = Settings(preview_quality=90, preview_edge=1024)
    assert PREVIEW.parameters_of(GENERATION, *made, better) == {"edge-768", "quality-80"}
    newer = replace(PREVIEW, code_version="9")
    assert newer.parameters_of(GENERATION, *made, Settings()) == {"edge-768", "quality-80"}
    low = _made(GENERATION, Settings(preview_quality=35), tagged=tagged)
    assert PREVIEW.parameters_of(GENERATION, *low, better) == {"edge-768", "quality-35"}
    for changed in ({"asset_url": "https://h/b.jpg"}, {"user_id": "user-2"}):
        assert PREVIEW.parameters_of(replace(GENERATION, **changed), *made, better) is None


def test_only_what_the_user_has_set_is_wanted_otherwise() -> None:
    """A library made again because a default has changed."""
    assert PREVIEW.chosen(Settings()) == set()
    assert PREVIEW.chosen(Settings(preview_quality=80)) == {"quality-80"}
    assert replace(PREVIEW, edge=256).chosen(Settings(preview_edge=512)) == set()
    assert MASTER.chosen(Settings(preview_quality=70)) == set()


def test_masters_of_before_the_setting_are_as_from_their_shots() -> None:
    """Every film of a site joined again because a setting is new."""
    master = MasterVideo("m-1", "p.1", "A film", (Shot("a", source="https://h/a.mp4"),), None)
    copied = Settings(master_compatibility="source", master_loudness="off")
    web, loud = Settings(master_compatibility="web"), Settings(master_loudness=-16)
    # As version 0.3 gave it.
    earlier = revision(["https://h/a.mp4", ""], "masters/p.1/master_m-1", {}, "1")
    assert MASTER.revision(master, copied) == earlier != MASTER.revision(master, web)
    for tag in (MASTER.source(master), None):
        made = MASTER.parameters_of(master, earlier, tag, Settings())
        assert made is not None
        assert MASTER.chosen(Settings()) <= made
        assert MASTER.chosen(copied) <= made
        # If it is asked for, it is made.
        assert not MASTER.chosen(web) <= made
        assert not MASTER.chosen(loud) <= made
    status = DerivativeStatus("master_video", "m-1", revision=MASTER.revision(master, web))
    tag = MASTER.materialization_tags(master, status, web)[SOURCE_TAG]
    made = MASTER.parameters_of(master, status.revision, tag, copied)
    assert made == {"compatibility-web", "loudness--14.0"}
    assert MASTER.chosen(web) == {"compatibility-web"}
    assert MASTER.chosen(loud) == {"loudness--16.0"}


def test_a_shot_that_becomes_quiet_makes_another_master() -> None:
    shot = Shot("a", source="https://h/a.mp4")
    master = MasterVideo("m-1", "p.1", "A film", (shot,), None)
    quiet = replace(master, shots=(replace(shot, quiet=True),))
    assert MASTER.source(quiet) != MASTER.source(master)


def test_a_rendition_is_of_the_source_of_its_master() -> None:
    """A rendition of shots that were replaced."""
    shot = Shot("a", source="https://h/a.mp4")
    master = MasterVideo("m-1", "p.1", "A film", (shot,), None)
    row = ScaledVideo("s_1", "m-1", None, None, 80, 60, None, master)
    other = replace(master, shots=(replace(shot, source="https://h/b.mp4"),))
    # As versions without tags joined masters.
    settings = Settings(master_compatibility="source", master_loudness="off")
    for tag in (SCALED.source(row), None):
        made = SCALED.revision(row, settings), tag
        assert SCALED.parameters_of(row, *made, settings) == set()
        for changed in (replace(row, master=other), replace(row, width=90)):
            assert SCALED.parameters_of(changed, *made, settings) is None
    # What it was made from is part of its revision, not what the master is to become.
    assert SCALED.revision(row, settings, "0" * 12) != SCALED.revision(row, settings)
