"""Masters and renditions through the pipeline, on real videos."""

import os
import re
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from lens_pipeline.definitions import defs
from lens_pipeline.defs.assets.renditions import RenditionMaterializer
from lens_pipeline.defs.resources import LensResource
from lens_pipeline.defs.sensors import derivative_sensor
from lens_pipeline.derivatives.registry import CHECKED_SHOT, MASTER, SCALED
from lens_pipeline.engine.run_execution import execute
from lens_pipeline.engine.run_queue import create_run
from lens_pipeline.engine.run_requests import of_runs
from lens_pipeline.event_log.history import ObservationKind
from lens_pipeline.event_log.tags import OUTCOME_TAG, PERCENT_TAG
from lens_pipeline.storage.file_store import FileStore
from lens_pipeline_tests.support.project import PROJECT, Project
from lens_pipeline_tests.support.site import Site

pytestmark = pytest.mark.slow


@pytest.fixture
def project(site: Site) -> Project:
    return Project(site)


def test_a_master_is_joined_with_its_poster_and_lies_at_its_key(
    site: Site, project: Project
) -> None:
    """The film that a person put together, and nobody finds."""
    shots = [project.shot("a"), project.shot("b")]
    project.master("m1", [*shots, "a"])
    result = site.lens("once", "--json")
    assert result.code == 0, result.err
    assert project.states("m1") == {"master_video": "ready", "master_poster": "ready"}
    made = site.metadata("master_video", "m1")
    revision = made["revision"].value
    path = f"masters/{PROJECT}/master_m1_{revision}.mp4"
    assert made["path"].value == path
    poster = site.metadata("master_poster", "m1")
    assert str(poster["path"].value).startswith(f"masters/{PROJECT}/master_m1_")
    assert {path, str(poster["path"].value)} <= site.objects()
    for stored in (path, str(poster["path"].value)):
        assert b"digitalsourcetype/trainedAlgorithmicMedia" in (site.store / stored).read_bytes()
    for name in ("bytes", "width", "height", "duration_seconds", "method", "shots", "thumbhash"):
        assert name in made
    table = made["shots"]
    assert isinstance(table, dg.TableMetadataValue)
    lineage = [(record.data["shot"], record.data["generation"]) for record in table.records]
    assert lineage == [("a", "a"), ("b", "b"), ("a", "a")]
    # A second pass finds nothing to do.
    assert site.once()["found"] == 0
    # Dagster's monitor would end a run of four hours of film after two.
    runs = [run for run in site.runs() if run.job_name == "masters"]
    limits = [float(run.tags["dagster/max_runtime"]) for run in runs]
    assert min(limits) > 2 * site.pipeline.settings.max_master_seconds
    # The last stage that was shown would stay otherwise.
    (joined,) = [run for run in runs if "lens/progress" in run.tags]
    shown = (joined.tags["lens/progress"], joined.tags[PERCENT_TAG])
    assert shown == ("100 %: done", "100")


def test_a_rendition_waits_for_its_master_and_is_then_made(site: Site, project: Project) -> None:
    """A rendition that fails because it was asked for a moment too early."""
    project.shot("a")
    project.master("m1", ["a"])
    project.rendition("s1", "m1")
    (entry,) = site.lens("status", "s1", "--json").json["status"]
    assert (entry["state"], entry["waits"]) == ("none", "master 'm1' is not ready: none")
    assert site.once()["failed"] == 0
    assert project.states("s1") == {"scaled_video": "ready"}
    made = site.metadata("scaled_video", "s1")
    assert made["path"].value == f"scaled/{PROJECT}/s1_{made['revision'].value}.mp4"
    assert made["path"].value in site.objects()
    stored = (site.store / str(made["path"].value)).read_bytes()
    assert b"digitalsourcetype/trainedAlgorithmicMedia" in stored


def test_a_run_makes_renditions_of_one_master_and_none_that_is_deleted(
    site: Site, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many films in the scratch directory at once, before any other film is made."""
    project.shot("a")
    for master_id in ("m1", "m2"):
        project.master(master_id, ["a"])
    for number, begins in enumerate((0.6, 0.3, 0.0)):
        project.rendition(f"s{number}", "m1", start=begins)
        project.rendition(f"t{number}", "m2", start=begins)
    keys = ["s0", "t0", "gone", "s1", "t1", "s2", "t2"]
    groups = list(of_runs(site.pipeline, SCALED, keys))
    assert groups == [["s2", "s1", "s0"], ["t2", "t1", "t0"], ["gone"]]
    begin = RenditionMaterializer.begin

    def begin_and_delete(self: RenditionMaterializer, *arguments: Any) -> None:
        begin(self, *arguments)
        site.sql("DELETE FROM scaled_videos WHERE scaled_id = 's1'")

    monkeypatch.setattr(RenditionMaterializer, "begin", begin_and_delete)
    site.once()
    runs = [run for run in site.runs() if run.job_name == "scaled"]
    assert [run.tags["lens/files"] for run in runs] == ["3", "3"]
    made = [key for key in site.objects() if key.startswith("scaled/")]
    assert len(made) == 5
    assert not [key for key in made if "/s1_" in key]


def test_a_rendition_of_an_unknown_master_says_so(site: Site, project: Project) -> None:
    """A rendition that waits for ever without a word."""
    project.rendition("s1", "nobody")
    assert site.lens("once").code == 1
    assert "no usable master has the id 'nobody'" in project.reason("s1")


def test_a_poster_that_is_missing_is_made_without_joining_again(
    site: Site, project: Project
) -> None:
    """Minutes of encoding for a picture that failed once."""
    project.master("m1", [project.shot("a")])
    site.once()
    site.dagster.report_runless_asset_event(
        dg.AssetObservation(
            "master_poster", partition="m1", tags={OUTCOME_TAG: ObservationKind.REMOVED.value}
        )
    )
    assert project.states("m1") == {"master_video": "ready", "master_poster": "none"}
    with dg.build_schedule_context(
        instance=site.dagster, resources={"lens": LensResource()}
    ) as context:
        schedule = defs().get_repository_def().get_schedule_def("backfill_masters")
        (request,) = schedule.evaluate_tick(context).run_requests or []
    assert request.asset_selection == [dg.AssetKey("master_poster")]
    assert site.once()["ready"] == 1
    assert project.states("m1")["master_poster"] == "ready"
    assert len(site.materializations("master_video")) == 1


def test_a_changed_master_replaces_its_object(site: Site, project: Project) -> None:
    """Storage that fills with films nobody can reach."""
    project.master("m1", [project.shot("a")])
    site.once()
    before = {key for key in site.objects() if key.startswith("masters/")}
    # Of a deletion that failed.
    (site.store / "masters" / PROJECT / "master_m1_0123456789ab.mp4").write_bytes(b"old")
    project.shot("b")
    site.sql("""UPDATE master_videos SET shots_config = '["a", "b"]', updated_at = now()""")
    assert site.once()["ready"] == 2
    after = {key for key in site.objects() if key.startswith("masters/")}
    assert len(after) == len(before) == 2
    assert not after & before


PROBLEMS: dict[str, tuple[Any, str]] = {
    "no shots": ([], "names no shot"),
    "malformed": ({"a": 1}, "no list of asset ids"),
    "an unknown shot": (["a", "nobody"], "shot 'nobody': no asset has this id"),
    "a shot of another project": (["a", "foreign"], "shot 'foreign' belongs to another project"),
    "a photo": (["a", "photo"], "is a photo, no video"),
    "a photo by URL": (["a", "picture"], "shot 'picture': not a video"),
    "a deleted generation": (["a", "gone"], "shot 'gone': its generation 'deleted' does not exist"),
    "a deleted source": (["a", "vanished"], "shot 'vanished': "),
    "an empty file": (["a", "empty"], "shot 'empty': "),
    "not a video at all": (["a", "text"], "shot 'text': not a video"),
}


@pytest.mark.parametrize(("shots", "reason"), PROBLEMS.values(), ids=PROBLEMS.keys())
def test_a_shot_that_cannot_be_used_is_named(
    site: Site, project: Project, photo: Callable[[str], str], shots: Any, reason: str
) -> None:
    """'Master failed', and a person who has to guess which of twenty shots it was."""
    project.shot("a")
    site.add("picture-row", photo("x"))
    project.asset("photo", generation_id="picture-row")
    project.asset("foreign", project_id="p2", asset_url="u1/uploads/a.mp4")
    project.asset("gone", generation_id="deleted")
    project.asset("vanished", asset_url="u1/uploads/vanished.mp4")
    project.asset("picture", asset_url=photo("x"))
    for name, body in {"empty": b"", "text": b"hello " * 100}.items():
        (site.store / "u1" / "uploads" / f"{name}.mp4").write_bytes(body)
        project.asset(name, asset_url=f"u1/uploads/{name}.mp4")
    project.master("bad", shots)
    project.master("good", ["a"])
    assert site.lens("once").code == 1
    assert reason in project.reason("bad")
    assert project.states("bad") == {"master_video": "dead", "master_poster": "none"}
    assert project.states("good") == {"master_video": "ready", "master_poster": "ready"}
    assert not [key for key in site.objects() if "master_bad" in key or key.startswith(".tmp")]
    # Left alone until something changes.
    assert site.once()["found"] == 0


@pytest.fixture
def encoder_breaks(
    tmp_path: Path, environment: pytest.MonkeyPatch
) -> Callable[[], Callable[[], None]]:
    """Lets ffmpeg and ffprobe lack a library from now on; returns what mends them."""
    path, broken = os.environ["PATH"], tmp_path / "broken"
    broken.mkdir()
    for name in ("ffmpeg", "ffprobe"):
        (broken / name).write_text("#!/bin/sh\necho no library >&2; exit 127\n")
        (broken / name).chmod(0o755)

    def breaks() -> Callable[[], None]:
        environment.setenv("PATH", f"{broken}:{path}")
        return lambda: environment.setenv("PATH", path)

    return breaks


def test_an_encoder_that_does_not_start_is_no_fault_of_the_shots(
    site: Site, project: Project, encoder_breaks: Callable[[], Callable[[], None]]
) -> None:
    """Films given up on, and shots called unusable, while the system's packages are upgraded."""
    project.shot("a")
    project.master("m1", ["a"])
    mend = encoder_breaks()
    for _ in range(site.pipeline.settings.max_attempts + 1):
        assert site.once()["failed"] > 0
    entry = {entry["asset"]: entry for entry in site.lens("status", "m1", "--json").json["status"]}
    video = entry["master_video"]
    assert (video["state"], video["error_class"]) == ("failed", "EncoderUnusable")
    assert "does not start (127): no library" in video["error"]
    mend()
    assert site.once()["failed"] == 0
    assert project.states("m1") == {"master_video": "ready", "master_poster": "ready"}


def test_what_waits_again_has_not_failed(
    site: Site, project: Project, encoder_breaks: Callable[[], Callable[[], None]]
) -> None:
    """A reason of yesterday for a rendition that now waits for its master."""
    project.shot("a")
    project.master("m1", ["a"])
    assert site.once()["failed"] == 0
    project.rendition("s1", "m1")
    encoder_breaks()
    site.once()
    assert project.states("s1") == {"scaled_video": "failed"}
    site.sql("UPDATE master_videos SET shots_config = '[\"nobody\"]', updated_at = now()")
    (entry,) = site.lens("status", "s1", "--json").json["status"]
    assert (entry["state"], entry["error_class"]) == ("none", None)
    assert "master 'm1' is not ready" in entry["waits"]


def test_a_list_nested_too_deep_spoils_its_own_master_only(site: Site, project: Project) -> None:
    """One row that keeps all others from being read."""
    project.master("good", [project.shot("a")])
    project.master("bad", ["a"])
    site.sql("""UPDATE master_videos SET shots_config =
        (repeat('[', 3000) || repeat(']', 3000))::jsonb WHERE master_id = 'bad'""")
    assert site.lens("once").code == 1
    assert "shots_config is no JSON, or too deep" in project.reason("bad")
    assert project.states("good") == {"master_video": "ready", "master_poster": "ready"}


def test_a_shot_that_becomes_known_later_mends_its_master(site: Site, project: Project) -> None:
    """A dead letter for a row that was merely inserted after the one that names it."""
    project.master("m1", ["a"])
    site.once()
    assert project.states("m1")["master_video"] == "dead"
    project.shot("a")
    site.once()
    assert project.states("m1")["master_video"] == "ready"


def test_a_shot_over_the_limits_of_pixels_is_refused_by_name(
    site: Site, project: Project, environment: pytest.MonkeyPatch
) -> None:
    """A shot of 16,000 x 16,000 that takes the memory of the machine."""
    project.shot("a")
    project.shot("large", size=(320, 240))
    project.master("m1", ["a", "large"])
    environment.setenv("LENS_MAX_PIXELS", "50000")
    assert site.lens("backfill", "--kind", "master").code == 1
    assert "shot 'large': 320 x 240 pixels are over the limit of 50000" in project.reason("m1")


def test_shots_that_last_too_long_are_refused_by_name(
    site: Site, project: Project, environment: pytest.MonkeyPatch
) -> None:
    """A file of some bytes that promises days, on the only worker there is."""
    project.shot("a")
    project.shot("long", rate=8)
    project.master("m1", ["a", "long"])
    project.master("m2", ["a", "a", "a"])
    environment.setenv("LENS_MAX_MASTER_SECONDS", "2")
    assert site.lens("backfill", "--kind", "master").code == 1
    assert "shot 'long': its 3 s are over the limit of 2 s" in project.reason("m1")
    assert "the shots last 3 s together, over the limit of 2 s" in project.reason("m2")


def test_shots_are_checked_ahead_of_their_masters(site: Site, project: Project) -> None:
    """A master of three copied shots that takes as long as decoding all of them."""
    project.shot("a")
    project.asset("text", asset_url="u1/uploads/text.mp4")
    (site.store / "u1" / "uploads" / "text.mp4").write_bytes(b"no video " * 100)
    context = dg.build_sensor_context(instance=site.dagster, resources={"lens": LensResource()})
    result = derivative_sensor(CHECKED_SHOT)(context)
    assert isinstance(result, dg.SensorResult)
    (request,) = result.run_requests or []
    assert request.job_name == "shot_checks"
    site.dagster.add_dynamic_partitions("shots", ["a", "text"])
    job = defs().get_repository_def().get_job("shot_checks")
    assert execute(site.dagster, create_run(site.dagster, job, request.tags).run_id) == 0
    assert site.metadata("checked_shot", "a")["usable"].value is True
    bad = site.metadata("checked_shot", "text")
    assert bad["usable"].value is False
    assert "shot 'text': not a video" in str(bad["reason"].value)

    project.master("m1", ["a", "a"])
    site.once()
    table = site.metadata("master_video", "m1")["shots"]
    assert isinstance(table, dg.TableMetadataValue)
    assert {record.data["done"] for record in table.records} == {"copy (cached)"}


class Ticker:
    """Ticks `new_masters`, keeping its cursor."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.cursor: str | None = None
        self.skipped: str | None = None

    def tick(self) -> Sequence[dg.RunRequest]:
        context = dg.build_sensor_context(
            instance=self._site.dagster, cursor=self.cursor, resources={"lens": LensResource()}
        )
        result = derivative_sensor(MASTER)(context)
        if isinstance(result, dg.SkipReason):
            self.cursor, self.skipped = context.cursor, result.skip_message
            return []
        assert isinstance(result, dg.SensorResult)
        self.cursor = result.cursor
        return result.run_requests or []


def test_a_master_waits_for_its_shots_and_says_for_which(site: Site, project: Project) -> None:
    """A film that fails because one shot takes a minute longer than the others."""
    project.shot("a")
    project.shot("b")
    site.sql("UPDATE generations SET status = 'generating' WHERE id = 'b'")
    project.master("m1", ["a", "b"])
    ticker = Ticker(site)
    assert ticker.tick() == []
    waits = "shot 'b': its generation 'b' has status 'generating'"
    assert waits in (ticker.skipped or "")
    assert site.once()["failed"] == 0
    status = site.lens("status", "m1", "--json").json["status"]
    assert [(entry["asset"], entry["state"]) for entry in status] == [
        ("master_video", "none"),
        ("master_poster", "none"),
    ]
    assert status[0]["waits"] == waits
    # Long after it was inserted, and its place in the sensor's order has passed.
    site.sql("UPDATE master_videos SET updated_at = now() - interval '1 hour'")
    ticker.tick()
    site.sql("UPDATE generations SET status = 'success', updated_at = now() WHERE id = 'b'")
    (request,) = ticker.tick()
    assert request.job_name == "masters"
    assert request.tags["dagster/asset_partition_range_start"] == "m1"


def test_names_do_no_harm(site: Site, project: Project) -> None:
    """A name that becomes a path, an option or a line of a log."""
    project.shot("a")
    project.asset("-i ../x'\"\n;rm", generation_id="a")
    project.master("m1", ["a", "-i ../x'\"\n;rm"], name="../../etc/passwd '\"\n$(id) -y \U0001f600")
    result = site.lens("once")
    assert result.code == 0, result.err
    assert project.states("m1")["master_video"] == "ready"
    outside = {path.name for path in Path(site.store).parent.iterdir()}
    assert outside <= {"store", "home"}


def test_a_removed_master_takes_its_files_along(site: Site, project: Project) -> None:
    """Files of a film that its owner has deleted."""
    project.master("m1", [project.shot("a")])
    project.rendition("s1", "m1")
    site.once()
    site.sql("DELETE FROM master_videos; DELETE FROM scaled_videos")
    assert site.lens("remove-missing", "--yes").code == 0
    left = {key for key in site.objects() if key.startswith(("masters/", "scaled/"))}
    assert left == set()


def test_a_master_that_is_deleted_during_its_upload_leaves_nothing(
    site: Site, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A film of a closed project that can be fetched for ever."""
    write = FileStore.write

    def write_and_cancel(store: FileStore, key: str, *body: Any, **headers: Any) -> None:
        write(store, key, *body, **headers)
        if key.endswith(".mp4") and key.startswith("masters/"):
            site.sql("DELETE FROM master_videos")
            os.kill(os.getpid(), signal.SIGINT)

    project.master("m1", [project.shot("a")])
    monkeypatch.setattr(FileStore, "write", write_and_cancel)
    assert site.lens("backfill", "m1").code != 0
    assert [key for key in site.objects() if key.startswith("masters/")]
    assert site.lens("remove-missing", "--yes").code == 0
    assert not [key for key in site.objects() if key.startswith("masters/")]


def test_old_revisions_go_with_their_master_and_nothing_else_does(
    site: Site, project: Project
) -> None:
    """A film that stays because one deletion failed, or the film of another master."""
    ids = ("1", "12", "1_x")
    project.shot("a")
    for master_id in ids:
        project.master(master_id, ["a"])
    site.once()
    folder = site.store / "masters" / PROJECT
    revision = "0123456789ab"
    other = [
        f"master_12_{revision}.mp4", f"master_1_x_{revision}.mp4", f"master_1_x_{revision}.webp",
        f"master_1_{revision}.mov", f"master_1_{revision}.mp4.bak", f"master_1_{revision}0.mp4",
        "master_1_notes.mp4", f"master_1_{revision.upper()}.mp4", "master_1.mp4",
        f"master_1_{revision}_poster.webp",
    ]  # fmt: skip
    for name in (*other, f"master_1_{revision}.mp4", f"master_1_{revision}.webp"):
        (folder / name).write_bytes(b"old")
    (folder / f"master_1_{revision}").mkdir()
    (folder / f"master_1_{revision}" / f"master_1_{revision}.mp4").write_bytes(b"old")
    before = site.objects()
    site.sql("DELETE FROM master_videos WHERE master_id = '1'")
    assert site.lens("remove-missing", "--yes").code == 0
    gone = {key.removeprefix(f"masters/{PROJECT}/") for key in before - site.objects()}
    assert {f"master_1_{revision}.mp4", f"master_1_{revision}.webp"} < gone
    assert len(gone) == 4
    assert all(re.fullmatch(r"master_1_[0-9a-f]{12}\.(mp4|webp)", name) for name in gone)


def test_a_forced_backfill_of_masters_makes_only_those(site: Site, project: Project) -> None:
    """`--kind master` that renders every preview of a site again."""
    project.master("m1", [project.shot("a")])
    site.once()
    again = site.lens("backfill", "--kind", "master", "--force", "--json").json
    assert (again["found"], again["ready"]) == (2, 2)
    assert len(site.materializations("poster")) == 1
    assert len(site.materializations("master_video")) == 2


def test_adopted_masters_are_not_made_again(site: Site, project: Project) -> None:
    """A lost event log that costs hours of encoding."""
    project.master("m1", [project.shot("a")])
    site.once()
    log = sa.create_engine(site.dagster_url, poolclass=sa.NullPool)
    with log.begin() as connection:
        connection.execute(sa.text("TRUNCATE event_logs, asset_event_tags"))
    assert project.states("m1")["master_video"] == "none"
    # With the poster of the shot.
    assert site.lens("adopt", "--json").json["adopted"] == 3
    assert project.states("m1") == {"master_video": "ready", "master_poster": "ready"}
