"""The files of generations themselves: kept byte by byte, and used when links have expired."""

import hashlib
from collections.abc import Callable

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.storage.partition_status_cache import AssetPartitionStatus

from lens_pipeline.definitions import defs
from lens_pipeline.defs.resources import LensResource
from lens_pipeline.derivatives.registry import PREVIEW
from lens_pipeline.engine.run_execution import execute
from lens_pipeline.engine.run_queue import create_run
from lens_pipeline.engine.run_requests import plan_runs
from lens_pipeline_tests.support import sources
from lens_pipeline_tests.support.project import Project
from lens_pipeline_tests.support.servers import Answer, HostileServer
from lens_pipeline_tests.support.site import Site

pytestmark = pytest.mark.slow

# Files that cannot be rendered.
_DAMAGED = 10


def _host(server: HostileServer, path: str, body: bytes) -> str:
    server.put(path.partition("?")[0], body)
    return server.url(path, host="localhost")


def test_everything_is_made_anew_from_originals_when_all_links_are_dead(
    site: Site, server: HostileServer, environment: pytest.MonkeyPatch
) -> None:
    """A setting that was changed after the provider had deleted its files lost the previews."""
    files = {f"p{number}": sources.jpeg(200 + number, 90) for number in range(3)}
    films = {f"v{number}": sources.mp4(24 + number) for number in range(2)}
    for name, body in files.items():
        site.add(name, _host(server, f"/{name}", body))
    for name, body in films.items():
        site.add(name, _host(server, f"/{name}?token=secret", body), type="video")
    assert site.once()["ready"] == 5
    assert sorted(site.originals().values()) == sorted([*files.values(), *films.values()])

    for name in [*files, *films]:
        server.remove(f"/{name}")
    environment.setenv("LENS_PREVIEW_EDGE", "64")
    project = Project(site)
    for name in films:
        project.asset(name, generation_id=name)
    project.master("m1", list(films))
    result = site.once()

    assert (result["failed"], site.dead_letters()) == (0, {})
    assert project.states("m1")["master_video"] == "ready"
    for name in files:
        assert site.metadata("preview", name)["width"].value == 64


def test_the_record_of_an_original(site: Site, server: HostileServer) -> None:
    body = sources.mp4()
    site.add("v1", _host(server, "/v1?key=secret", body), type="video")
    site.once()
    metadata = {key: value.value for key, value in site.metadata("video_generation", "v1").items()}
    revision = metadata["revision"]
    assert metadata["path"] == f"u1/originals/v1_{revision}.mp4"
    assert metadata["sha256"] == hashlib.sha256(body).hexdigest()
    assert metadata["bytes"] == len(body)
    assert (metadata["kept"], metadata["content_type"]) == ("saved", "video/mp4")
    assert (metadata["width"], metadata["height"]) == (160, 120)
    assert metadata["duration_seconds"] == pytest.approx(1, abs=0.1)
    assert (metadata["user_id"], metadata["source_host"]) == ("u1", "localhost")
    assert "/lens/pictures/u1/posters/v1_poster.webp" in str(metadata["links"])
    assert "secret" not in str(metadata)


def test_what_cannot_be_rendered_is_kept_but_no_error_page(
    site: Site, server: HostileServer
) -> None:
    """A dead letter whose link is long gone when its format is supported at last."""
    damaged = [
        b"\0\0\0\x18ftypheic" + bytes(500),
        *(sources.jpeg()[: 300 + number] for number in range(_DAMAGED)),
    ]
    for number, body in enumerate(damaged):
        site.add(f"p{number}", _host(server, f"/p{number}", body))
    site.add("page", _host(server, "/page", b"<html><body>expired</body></html>"))
    result = site.once()
    assert (result["ready"], result["failed"]) == (0, len(damaged) + 1)
    assert sorted(site.originals().values()) == sorted(damaged)


def test_a_retry_downloads_again_while_the_link_lives(site: Site, server: HostileServer) -> None:
    """A file that was cut short would be kept for ever."""
    whole = sources.jpeg()
    site.add("p1", _host(server, "/p1", whole[:300]))
    site.once()
    assert site.dead_letters()["p1"]["error_class"] == "SourceUnreadable"
    server.put("/p1", whole)
    site.lens("retry", "p1")
    site.once()
    assert site.status("p1")["state"] == "ready"
    assert list(site.originals().values()) == [whole]
    metadata = site.metadata("photo_generation", "p1")
    assert metadata["sha256"].value == hashlib.sha256(whole).hexdigest()


def test_an_original_is_not_shown_as_failed_with_its_picture(
    site: Site, server: HostileServer
) -> None:
    """A red library in the UI, as one picture of each batch could not be made again."""
    site.add("p1", _host(server, "/p1", sources.jpeg()[:300]))
    site.once()
    site.lens("retry", "p1")
    site.once()
    photos = dg.DynamicPartitionsDefinition(name="photos")
    shown = {
        asset: site.dagster.get_status_by_partition(dg.AssetKey(asset), ["p1"], photos)
        for asset in ("photo_generation", "preview")
    }
    assert shown == {
        "photo_generation": {"p1": AssetPartitionStatus.MATERIALIZED},
        "preview": {"p1": AssetPartitionStatus.FAILED},
    }


@pytest.mark.parametrize(
    "gone",
    [Answer(404), Answer(200, b"<html>expired</html>"), Answer(200, sources.jpeg(9, 9))],
    ids=["404", "a page", "a picture that says so"],
)
def test_a_retry_uses_the_original_when_the_link_is_gone(
    site: Site, server: HostileServer, environment: pytest.MonkeyPatch, gone: Answer
) -> None:
    environment.setenv("LENS_MAX_PIXELS", "100")
    site.add("p1", _host(server, "/p1", sources.jpeg()))
    site.once()
    assert site.dead_letters()["p1"]["error_class"] == "SourceOverLimit"
    environment.setenv("LENS_MAX_PIXELS", "100000")
    server.put("/p1", gone.body) if gone.status == 200 else server.remove("/p1")
    site.lens("retry", "p1")
    site.once()
    assert site.status("p1")["state"] == "ready"
    assert site.metadata("preview", "p1")["width"].value == 64
    assert list(site.originals().values()) == [sources.jpeg()]


def test_an_original_that_was_damaged_is_not_taken_for_the_true_one(
    site: Site, server: HostileServer
) -> None:
    """A disk that lost bits, whose damage a forced run recorded as what was stored."""
    site.add("p1", _host(server, "/p1", sources.jpeg()))
    site.once()
    (key,) = site.originals()
    (site.store / key).write_bytes(sources.jpeg(64, 48)[:-1] + b"x")
    found = site.lens("verify", "--json")
    assert (found.code, [one["id"] for one in found.json["damaged"]]) == (1, ["p1"])
    assert site.lens("backfill", "p1", "--force").code == 0
    assert site.originals() == {key: sources.jpeg()}
    assert site.lens("verify", "--all").code == 0


def test_an_object_of_the_store_is_recorded_and_not_copied(site: Site) -> None:
    key = "u1/uploads/mine.jpg"
    (site.store / key).parent.mkdir(parents=True)
    (site.store / key).write_bytes(sources.jpeg())
    site.add("p1", key)
    site.once()
    metadata = site.metadata("photo_generation", "p1")
    assert (metadata["kept"].value, metadata["path"].value) == ("recorded", key)
    assert site.originals() == {}
    # Another source does not delete what is the application's own.
    site.sql("UPDATE generations SET asset_url = 'u1/uploads/none.jpg', updated_at = now()")
    site.once()
    assert (site.store / key).exists()


def test_nothing_is_kept_if_nothing_is_to_be(
    site: Site, photo: Callable[[str], str], environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("LENS_KEEP_ORIGINALS", "never")
    site.add("p1", photo("p1"))
    assert site.once()["ready"] == 1
    assert site.originals() == {}
    assert site.metadata("photo_generation", "p1")["kept"].value == "not kept"


def _backfill(site: Site) -> list[tuple[list[str], str]]:
    """Assets and first partition of the runs that the schedule asks for; all are done."""
    repository = defs().get_repository_def()
    schedule, job = repository.get_schedule_def("backfill_previews"), repository.get_job("previews")
    with dg.build_schedule_context(
        instance=site.dagster, resources={"lens": LensResource()}
    ) as context:
        requests = schedule.evaluate_tick(context).run_requests or []
    asked = []
    for request in requests:
        assets = list(request.asset_selection or [])
        names = [key.to_user_string() for key in assets]
        execute(site.dagster, create_run(site.dagster, job, request.tags, names or None).run_id)
        asked.append((names, request.tags["dagster/asset_partition_range_start"]))
    return asked


def test_the_backfill_keeps_what_a_run_could_not(site: Site, server: HostileServer) -> None:
    """A store that failed between the preview and its original."""
    (site.store / "u1").mkdir()
    (site.store / "u1/originals").write_text("a file where the originals should be")
    site.add("p1", _host(server, "/p1", sources.jpeg()))
    site.once()
    assert site.status("p1")["state"] == "ready"
    assert site.runs()[0].status is dg.DagsterRunStatus.FAILURE
    (site.store / "u1/originals").unlink()
    assert _backfill(site) == [(["photo_generation"], "p1")]
    assert list(site.originals().values()) == [sources.jpeg()]
    assert _backfill(site) == []


def test_a_pass_of_once_keeps_what_the_last_could_not(site: Site, server: HostileServer) -> None:
    (site.store / "u1").mkdir()
    (site.store / "u1/originals").write_text("a file where the originals should be")
    site.add("p1", _host(server, "/p1", sources.jpeg()))
    assert site.lens("once").code == 1
    (site.store / "u1/originals").unlink()
    assert site.lens("once").code == 0
    assert list(site.originals().values()) == [sources.jpeg()]


def test_the_backfill_leaves_alone_what_was_given_up(site: Site, server: HostileServer) -> None:
    """A dead letter whose original was asked for again and again."""
    site.add("p1", server.url("/none", host="localhost"))
    site.once()
    assert site.status("p1")["state"] == "dead"
    assert _backfill(site) == []


def test_the_backfill_begins_no_library_of_originals(
    site: Site, server: HostileServer, environment: pytest.MonkeyPatch
) -> None:
    """Terabytes that a new version stored unasked."""
    site.add("p1", _host(server, "/p1", sources.jpeg()))
    tags = plan_runs(site.dagster, PREVIEW, ["p1"], 20, "backfill")[0]
    job = defs().get_repository_def().get_job("previews")
    execute(site.dagster, create_run(site.dagster, job, tags, ["preview"]).run_id)
    assert site.status("p1")["state"] == "ready"
    assert _backfill(site) == []
    assert site.originals() == {}


def test_what_a_killed_run_stored_is_found_when_its_link_is_dead(
    site: Site, server: HostileServer
) -> None:
    """An original that is there, but of which the killed run could not say so."""
    site.add("p1", _host(server, "/p1", sources.jpeg()))
    site.once()
    for table in ("event_logs", "asset_event_tags"):
        _dagster_sql(site, f"DELETE FROM {table}")
    server.remove("/p1")
    assert site.once()["ready"] == 1
    assert site.metadata("photo_generation", "p1")["kept"].value == "saved"


def _dagster_sql(site: Site, statement: str) -> None:
    engine = sa.create_engine(site.dagster_url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text(statement))


def test_originals_of_an_older_library_are_kept_when_somebody_says_so(
    site: Site, server: HostileServer, environment: pytest.MonkeyPatch
) -> None:
    """Newest first; what could be had once is not downloaded again."""
    for number in range(3):
        site.add(f"p{number}", _host(server, f"/p{number}", sources.jpeg(50 + number, 40)))
    environment.setenv("LENS_KEEP_ORIGINALS", "never")
    site.once()
    refused = site.lens("backfill", "--originals")
    assert (refused.code, "LENS_KEEP_ORIGINALS" in refused.err) == (2, True)
    environment.setenv("LENS_KEEP_ORIGINALS", "external")
    site.add("old", _host(server, "/old", sources.jpeg(80, 40)))
    job = defs().get_repository_def().get_job("previews")
    tags = plan_runs(site.dagster, PREVIEW, ["old"], 20, "backfill")[0]
    execute(site.dagster, create_run(site.dagster, job, tags, ["preview"]).run_id)

    asked = site.lens("backfill", "--originals", "--dry-run")
    said = "4 originals to keep, about 0.00 GB, in about 0 s (as earlier ones took, 2 at once)"
    assert said in asked.err
    assert site.originals() == {}
    assert site.lens("backfill", "--originals", "--json").json["ready"] == 4
    assert len(site.originals()) == 4
    before = dict(server.requests)
    assert site.lens("backfill", "--originals", "--json").json["found"] == 0
    assert dict(server.requests) == before


def test_originals_that_an_older_system_left_are_adopted(
    site: Site, server: HostileServer, environment: pytest.MonkeyPatch
) -> None:
    """Links that died years ago, of files that lie in the store."""
    environment.setenv(
        "LENS_ORIGINAL_KEYS", "{user_id}/image/{id}_*.png, {user_id}/video/{id}_*.mp4"
    )
    stored = {
        "u1/image/p1_2024_01.png": sources.jpeg(),
        "u1/image/v1_first.png": sources.png(),
        "u1/video/v1_1.mp4": sources.mp4(),
        "u1/image/two_1.png": sources.png(),
        "u1/image/two_2.png": sources.png(),
        "u1/image/page_1.png": b"<html>expired</html>",
        "u1/image/empty_1.png": b"",
        "u1/image/a_b_1.png": sources.png(),
        "u1/image/p1/deep_1.png": sources.png(),
        "u2/image/none_1.png": sources.png(),
    }
    for key, body in stored.items():
        (site.store / key).parent.mkdir(parents=True, exist_ok=True)
        (site.store / key).write_bytes(body)
    for name in ("p1", "two", "page", "empty", "a", "a_b", "none"):
        site.add(name, server.url(f"/{name}?token=secret", host="localhost"))
    site.add("v1", server.url("/v1", host="localhost"), type="video")
    site.add("own", "u1/image/two_1.png")

    extra = [{"n": 2, "revision": "0" * 12, "path": "u1/originals/p1_000000000000_2.jpg"}]
    earlier = dg.AssetMaterialization(
        "photo_generation", partition="p1", metadata={"extra_files": dg.MetadataValue.json(extra)}
    )
    site.dagster.report_runless_asset_event(earlier)

    planned = site.lens("adopt", "--dry-run", "--json").json["originals"]
    assert (planned["found"], planned["adopted"], planned["missing"]) == (8, 3, 2)
    done = site.lens("adopt", "--json")
    found = done.json["originals"]
    refused = {one["id"]: one["reason"] for one in found.pop("refused")}
    assert (done.code, found) == (1, {"found": 8, "adopted": 2, "missing": 2})
    assert sorted(refused) == ["a", "a_b", "page", "two"]
    assert "u1/image/two_1.png, u1/image/two_2.png" in refused["two"]
    assert "is no photo: starts with '<html>'" in refused["page"]
    metadata = {k: v.value for k, v in site.metadata("photo_generation", "p1").items()}
    assert (metadata["path"], metadata["kept"]) == ("u1/image/p1_2024_01.png", "recorded")
    assert metadata["sha256"] == hashlib.sha256(sources.jpeg()).hexdigest()
    assert (metadata["bytes"], metadata["content_type"]) == (len(sources.jpeg()), "image/jpeg")
    assert "secret" not in str(metadata)
    assert metadata["extra_files"] == extra

    again = site.lens("adopt", "--json").json["originals"]
    assert (again["found"], again["adopted"], len(again["refused"])) == (6, 0, 4)
    site.once()
    assert {name: site.status(name)["state"] for name in ("p1", "v1", "two")} == {
        "p1": "ready", "v1": "ready", "two": "dead",
    }  # fmt: skip
    assert "/p1?token=secret" not in server.requests
    assert site.originals() == {}
    site.sql("DELETE FROM generations")
    assert site.lens("remove-missing", "--yes", "--now").code == 0
    assert site.objects() == stored.keys()


def test_no_original_is_kept_on_a_disk_that_is_nearly_full(
    site: Site, server: HostileServer, environment: pytest.MonkeyPatch
) -> None:
    site.add("p1", _host(server, "/p1", sources.jpeg()))
    environment.setenv("LENS_ALERT_DISK_FREE_PERCENT", "99.99")
    output = site.lens("backfill", "--originals")
    assert output.code == 1
    assert "less than LENS_ALERT_DISK_FREE_PERCENT" in output.err
    assert site.originals() == {}


def test_a_daily_check_names_a_file_that_is_gone(site: Site, server: HostileServer) -> None:
    for number in range(2):
        site.add(f"p{number}", _host(server, f"/p{number}", sources.jpeg(50 + number, 40)))
    site.once()
    (site.store / "u1/previews/p1_preview.webp").unlink()
    job = defs().get_repository_def().get_job("object_checks")
    execute(site.dagster, create_run(site.dagster, job, {}).run_id)
    assert site.runs()[0].status is dg.DagsterRunStatus.SUCCESS
    assert _checked(site, "preview").startswith("1 of 2 files are gone or damaged; first: p1:")
    assert _checked(site, "photo_generation").startswith("0 of 2 files")


def _checked(site: Site, asset: str) -> str:
    key = dg.AssetCheckKey(dg.AssetKey(asset), "objects_intact")
    storage = site.dagster.event_log_storage
    (record,) = storage.get_asset_check_execution_history(key, limit=1)
    assert record.event is not None
    evaluation = record.event.get_dagster_event().asset_check_evaluation_data
    return evaluation.description or ""
