"""One run over many files: what is recorded, and what a bad file does to the others."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from lens_pipeline.defs.assets.pictures import PictureMaterializer
from lens_pipeline_tests.media.samples import decoded
from lens_pipeline_tests.support import sources
from lens_pipeline_tests.support.servers import HostileServer
from lens_pipeline_tests.support.site import Site

PREVIEW_METADATA = {
    "path",
    "dagster/uri",
    "bytes",
    "width",
    "height",
    "source_bytes",
    "source_sha256",
    "revision",
    "fetch_seconds",
    "render_seconds",
    "store_seconds",
    "latency_seconds",
    "image",
    "links",
    "thumbhash",
    "digital_source_type",
}


def _result_of_check(site: Site, asset: str, name: str) -> dg.AssetCheckEvaluation:
    key = dg.AssetCheckKey(dg.AssetKey(asset), name)
    (last,) = site.dagster.event_log_storage.get_asset_check_execution_history(key, limit=1)
    assert last.event is not None
    result = last.event.get_dagster_event().event_specific_data
    assert isinstance(result, dg.AssetCheckEvaluation)
    return result


@pytest.mark.slow
def test_three_bad_files_of_twenty_fail_alone_in_one_run(
    site: Site, server: HostileServer, photo: Callable[[str], str]
) -> None:
    """A corrupt upload that takes nineteen other people's previews with it."""
    for number in range(17):
        server.put(f"/{number}.jpg", sources.jpeg(100 + number, 60))
        site.add(f"p{number:02}", server.url(f"/{number}.jpg", host="localhost"))
    server.put("/html.jpg", b"<html><body>not found</body></html>")
    server.put("/short.jpg", sources.jpeg()[:300])
    site.add("x1-missing", server.url("/gone.jpg", host="localhost"))
    site.add("x2-html", server.url("/html.jpg", host="localhost"))
    site.add("x3-short", server.url("/short.jpg", host="localhost"))

    output = site.lens("once", "--json")
    result = output.json

    assert output.code == 1
    assert {key: result[key] for key in ("found", "ready", "failed", "skipped")} == {
        "found": 20,
        "ready": 17,
        "failed": 3,
        "skipped": 0,
    }
    classes = {failure["id"]: failure["error_class"] for failure in result["failures"]}
    assert classes == {
        "x1-missing": "SourceMissing",
        "x2-html": "SourceUnreadable",
        "x3-short": "SourceUnreadable",
    }
    assert len({failure["error"] for failure in result["failures"]}) == 3
    (run,) = site.runs()
    assert run.status == dg.DagsterRunStatus.FAILURE
    assert run.tags["lens/origin"] == "once"
    assert (run.tags["lens/files"], run.tags["lens/failed"]) == ("20", "3")
    check = _result_of_check(site, "preview", "newest_batch")
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert check.metadata["failed_share"].value == 0.15
    made = site.materializations("preview")
    assert Counter(entry.run_id for entry in made) == {run.run_id: 17}
    for number in range(17):
        metadata = site.metadata("preview", f"p{number:02}")
        assert set(metadata) == PREVIEW_METADATA
        assert metadata["width"].value == 100 + number
        assert metadata["source_bytes"].value == len(sources.jpeg(100 + number, 60))
        path = site.store / str(metadata["path"].value)
        assert path.stat().st_size == metadata["bytes"].value
        assert decoded(path.read_bytes()).size == (100 + number, 60)
    assert site.objects() == {f"u1/previews/p{number:02}_preview.webp" for number in range(17)}
    # The one that is cut short, too.
    assert len(site.originals()) == 18

    # As Dagster's UI has it: by milliseconds, and of each failed file its reason.
    shown = _failed(site)
    for entries in (made, shown):
        assert len({int(entry.timestamp * 1000) for entry in entries}) == len(entries)
    events = [entry.get_dagster_event() for entry in shown]
    failures = [event.asset_failed_to_materialize_data for event in events]
    reasons = {failure["id"]: failure["error"] for failure in result["failures"]}
    described = [failure.asset_materialization_failure for failure in failures]
    assert {one.partition: one.description for one in described} == reasons
    assert {str(one.metadata["error_class"].value) for one in described} == set(classes.values())
    for failure in _errors(site, run):
        assert failure.message.startswith("3 of 20 failed, the others are done. First: x")
        assert (failure.stack, failure.cause, failure.context) == ([], None, None)


@pytest.mark.slow
def test_a_run_all_of_whose_files_failed_says_nothing_of_others(site: Site) -> None:
    """`1 of 1 failed; the others are done`."""
    site.add("bad", "")
    site.once()
    (run,) = site.runs()
    assert all(error.message.startswith("1 of 1 failed. bad: ") for error in _errors(site, run))


def _failed(site: Site) -> list[dg.EventLogEntry]:
    """What Dagster's UI shows of the previews that failed."""
    found = site.dagster.fetch_failed_materializations(dg.AssetKey("preview"), limit=100)
    return [record.event_log_entry for record in found.records]


def _errors(site: Site, run: dg.DagsterRun) -> list[Any]:
    """Those of the run's step and of the run itself."""
    types = {dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE}
    events = [entry.get_dagster_event() for entry in site.dagster.all_logs(run.run_id, types)]
    assert {event.event_type for event in events} == types
    found: list[Any] = [event.event_specific_data for event in events]
    return [data.error for data in found]


@pytest.mark.slow
def test_the_run_shows_exactly_the_bad_partitions_as_failed(
    site: Site, photo: Callable[[str], str]
) -> None:
    """Partition health that paints a good file red, or a bad one green."""
    site.add("good", photo("good"))
    site.add("bad", "")
    site.once()
    storage = site.dagster.event_log_storage
    assert storage.get_materialized_partitions(dg.AssetKey("preview")) == {"good"}
    (observation,) = site.dagster.fetch_observations(dg.AssetKey("preview"), limit=10).records
    event = observation.event_log_entry.asset_observation
    assert event is not None
    assert event.partition == "bad"
    assert event.metadata["error_class"].value == "SourceMissing"
    assert event.metadata["permanent"].value is True
    assert event.metadata["attempt"].value == 1
    assert event.metadata["run_id"].value == observation.event_log_entry.run_id
    assert event.metadata["error"].value


@pytest.mark.slow
def test_a_video_has_a_poster_with_its_own_metadata(site: Site, server: HostileServer) -> None:
    """A poster without the moment it shows, or filed among the previews."""
    server.put("/v.mp4", sources.mp4(), "video/mp4")
    site.add("v1", server.url("/v.mp4", host="localhost"), type="video", status="completed")
    assert site.once()["ready"] == 1
    metadata = site.metadata("poster", "v1")
    assert set(metadata) == PREVIEW_METADATA | {"duration_seconds", "poster_at_seconds"}
    assert metadata["duration_seconds"].value == pytest.approx(1, abs=0.1)
    assert site.objects() == {"u1/posters/v1_poster.webp"}


@pytest.mark.slow
def test_the_inline_picture_stays_within_two_kibibytes(site: Site, server: HostileServer) -> None:
    """An event log that grows by a picture for every picture."""
    server.put("/large.png", sources.png())
    site.add("p1", server.url("/large.png", host="localhost"))
    site.once()
    image = str(site.metadata("preview", "p1")["image"].value)
    assert image.startswith("![")
    assert len(image) <= 2048


@pytest.mark.slow
def test_a_pass_uses_as_few_runs_as_the_batch_size_allows(
    site: Site, photo: Callable[[str], str], environment: pytest.MonkeyPatch
) -> None:
    """One process start per file, or one run that holds the whole library."""
    environment.setenv("LENS_BATCH_SIZE", "4")
    for number in range(10):
        site.add(f"p{number}", photo(str(number)))
    assert site.once()["ready"] == 10
    sizes = Counter(entry.run_id for entry in site.materializations("preview"))
    assert sorted(sizes.values()) == [2, 4, 4]


@pytest.mark.slow
def test_a_source_may_be_an_object_of_the_store(site: Site) -> None:
    """Uploads that can only be read through a public URL."""
    uploads = site.store / "u1" / "uploads"
    uploads.mkdir(parents=True)
    (uploads / "p1.jpg").write_bytes(sources.jpeg())
    site.add("p1", "u1/uploads/p1.jpg")
    site.add("p2", "u1/uploads/absent.jpg")
    site.add("p3", "../outside.jpg")
    result = site.once()
    assert (result["ready"], result["failed"]) == (1, 2)
    classes = {failure["id"]: failure["error_class"] for failure in result["failures"]}
    assert classes == {"p2": "SourceMissing", "p3": "InvalidKey"}


def test_a_row_that_vanished_before_its_run_fails_alone(
    site: Site, photo: Callable[[str], str]
) -> None:
    """A deleted row whose absence fails the files next to it."""
    from lens_pipeline.definitions import defs
    from lens_pipeline.derivatives.registry import PREVIEW
    from lens_pipeline.engine.run_execution import execute
    from lens_pipeline.engine.run_queue import create_run
    from lens_pipeline.engine.run_requests import plan_runs

    site.add("p1", photo("p1"))
    (tags,) = plan_runs(site.dagster, PREVIEW, ["p1", "vanished"], 20, "once")
    run = create_run(site.dagster, defs().get_repository_def().get_job("previews"), tags)
    execute(site.dagster, run.run_id)
    assert site.status("p1")["state"] == "ready"
    assert site.objects() == {"u1/previews/p1_preview.webp"}


@pytest.mark.slow
def test_a_range_that_ends_before_it_begins_fails(site: Site, photo: Callable[[str], str]) -> None:
    """A run that succeeds and makes nothing."""
    from lens_pipeline.definitions import defs
    from lens_pipeline.derivatives.registry import PREVIEW
    from lens_pipeline.engine.run_execution import execute
    from lens_pipeline.engine.run_queue import create_run
    from lens_pipeline.engine.run_requests import plan_runs

    for name in ("p1", "p2"):
        site.add(name, photo(name))
    (tags,) = plan_runs(site.dagster, PREVIEW, ["p1", "p2"], 20, "once")
    run = create_run(site.dagster, defs().get_repository_def().get_job("previews"), tags)
    site.dagster.delete_dynamic_partition("photos", "p1")
    site.dagster.add_dynamic_partitions("photos", ["p1"])
    execute(site.dagster, run.run_id)
    ended = site.dagster.get_run_by_id(run.run_id)
    assert ended is not None
    assert ended.status is dg.DagsterRunStatus.FAILURE
    assert site.status("p1")["state"] == "failed"


@pytest.mark.slow
def test_a_session_that_is_lost_in_the_middle_fails_nothing(
    site: Site, photo: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that fails although all of its files were made, because of a restarted server."""

    make = PictureMaterializer.make

    def make_and_lose(*arguments: Any) -> Any:
        made = make(*arguments)
        dagster = sa.create_engine(site.dagster_url, poolclass=sa.NullPool)
        with dagster.connect() as connection:
            connection.execute(
                sa.text(
                    "SELECT pg_terminate_backend(a.pid, 5000) FROM pg_stat_activity a"
                    " JOIN pg_locks l ON l.pid = a.pid AND l.locktype = 'advisory'"
                    " WHERE a.application_name = 'lens-pipeline-locks' AND l.granted"
                )
            ).all()
        return made

    for name in ("p1", "p2"):
        site.add(name, photo(name))
    monkeypatch.setattr(PictureMaterializer, "make", make_and_lose)
    result = site.once()
    assert (result["ready"], result["failed"]) == (2, 0)
    assert [run.status.value for run in site.runs()] == ["SUCCESS"]


def test_a_run_that_is_about_to_begin_is_not_abandoned(site: Site) -> None:
    """A pass that another command ends between two of its steps."""
    from lens_pipeline.definitions import defs
    from lens_pipeline.derivatives.registry import PREVIEW
    from lens_pipeline.engine.health import fail_abandoned_runs
    from lens_pipeline.engine.run_queue import create_run
    from lens_pipeline.engine.run_requests import plan_runs

    site.add("p1", "u1/x.jpg")
    (tags,) = plan_runs(site.dagster, PREVIEW, ["p1"], 20, "once")
    create_run(site.dagster, defs().get_repository_def().get_job("previews"), tags)
    assert fail_abandoned_runs(site.dagster, site.dagster_url) == 0
    dagster = sa.create_engine(site.dagster_url, poolclass=sa.NullPool)
    with dagster.begin() as connection:
        connection.execute(
            sa.text("UPDATE runs SET update_timestamp = update_timestamp - interval '3 minutes'")
        )
    assert fail_abandoned_runs(site.dagster, site.dagster_url) == 1


@pytest.mark.parametrize("ended", ["SUCCESS", "STARTED", "CANCELED"])
def test_a_run_that_is_delivered_again_is_left_alone(
    site: Site, photo: Callable[[str], str], ended: str
) -> None:
    """A run that is executed twice because its worker was slow to say that it has it."""
    from lens_pipeline.definitions import defs
    from lens_pipeline.derivatives.registry import PREVIEW
    from lens_pipeline.engine.run_execution import execute
    from lens_pipeline.engine.run_queue import create_run
    from lens_pipeline.engine.run_requests import plan_runs

    site.add("p1", photo("p1"))
    (tags,) = plan_runs(site.dagster, PREVIEW, ["p1"], 20, "once")
    run = create_run(site.dagster, defs().get_repository_def().get_job("previews"), tags)
    dagster = sa.create_engine(site.dagster_url, poolclass=sa.NullPool)
    with dagster.begin() as connection:
        connection.execute(sa.text("UPDATE runs SET status = :ended"), {"ended": ended})
    before = len(site.dagster.all_logs(run.run_id))
    assert execute(site.dagster, run.run_id) == 0
    assert len(site.dagster.all_logs(run.run_id)) == before
    assert site.objects() == set()
