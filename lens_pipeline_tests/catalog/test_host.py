"""A site that has `generations` alone, with columns, types and rules of its own."""

from collections.abc import Callable

import dagster as dg
import pytest

from lens_pipeline.defs.resources import LensResource
from lens_pipeline.defs.sensors import derivative_sensor
from lens_pipeline.derivatives import pipeline
from lens_pipeline.derivatives.registry import CLIP, MASTER, PREVIEW, Derivative
from lens_pipeline.derivatives.removal import remove_vanished
from lens_pipeline.engine.processes.sensor_ticks import TickPolicy
from lens_pipeline.monitoring.backlog import BacklogScanner
from lens_pipeline_tests.catalog.test_existing_sites import as_role
from lens_pipeline_tests.support import host as hosts
from lens_pipeline_tests.support import sources
from lens_pipeline_tests.support.host import MASTERS, Host
from lens_pipeline_tests.support.servers import HostileServer
from lens_pipeline_tests.support.site import Databases, Site

pytestmark = pytest.mark.slow
_OFF = "masters are off: there is no table project_assets, master_videos, scaled_videos"


@pytest.fixture
def host(site: Site, databases: Databases, environment: pytest.MonkeyPatch) -> Host:
    for name, value in hosts.SETTINGS.items():
        environment.setenv(name, value)
    return Host(site, databases)


@pytest.fixture
def video(server: HostileServer) -> str:
    server.put("/v.mp4", sources.mp4())
    return server.url("/v.mp4", host="localhost")


def asked(site: Site, derivative: Derivative, cursor: str | None = None) -> tuple[int, str, str]:
    """How many runs a tick asks for, why none, and the cursor."""
    with dg.build_sensor_context(
        instance=site.dagster, cursor=cursor, resources={"lens": LensResource()}
    ) as context:
        result = derivative_sensor(derivative)(context)
    if isinstance(result, dg.SkipReason):
        return 0, result.skip_message or "", context.cursor or ""
    assert isinstance(result, dg.SensorResult)
    return len(result.run_requests or []), "", result.cursor or ""


def test_the_guide_for_existing_sites_works_there(
    host: Host, photo: Callable[[str], str], video: str, environment: pytest.MonkeyPatch
) -> None:
    """A site that needs tables it has no use for, and hears of each of its audio files as dead."""
    site = host.site
    (site.store / host.user_id / "image").mkdir(parents=True)
    for name in ("p", "x"):
        (site.store / host.user_id / "image" / f"{name}.jpg").write_bytes(sources.jpeg())
    photo_id = host.add("photo", photo("a"))
    product = host.add("product", photo("gone-since"), original_path=f"{host.user_id}/image/p.jpg")
    listed = host.add("video", results=f'[{{"url": "{video}"}}, {{"url": "{photo("b")}"}}]')
    plain = host.add("photo", "", original_path=" ", results=f'["{host.user_id}/image/x.jpg"]')
    without = host.add("photo", results="[]")
    audio = host.add("audio", "https://files.example.org/a.mp3")
    before = site.sql("SELECT * FROM generations ORDER BY id")
    with host.role() as another, host.role() as role:
        assert site.lens("migrate", "--role", another).code == 0
        said = site.lens("migrate", "--role", role).out
        assert f"GRANT SELECT ON generations TO {role}" in said
        policy = f"CREATE POLICY lens_reads_{role} ON generations FOR SELECT TO {role} USING (true)"
        assert policy in said
        assert not any(name in said for name in MASTERS.split(", "))
        environment.setenv("LENS_DATABASE_URL", as_role(site.database_url, role))
        environment.setenv("LENS_DAGSTER_URL", as_role(site.dagster_url, role))
        assert site.lens("migrate", "--check").code == 0
        checks = site.lens("doctor", "--json").json["checks"]
        (database,) = [one for one in checks if one["name"] == "database"]
        assert database["ok"], database
        assert f"{_OFF}; `lens migrate --masters` creates" in database["message"]
        assert "LENS_TYPES does not name are left alone: 1 'audio'" in database["message"]
        result = site.once()
        assert (result["ready"], result["failed"]) == (4, 1)
        assert result["failures"][0] | {"error": ""} == {
            "id": without, "kind": "photo", "error": "", "error_class": "SourceMissing",
        }  # fmt: skip
        assert set(site.dead_letters()) == {without}
        pictures = (photo_id, product, plain)
        made = {one: f"{host.user_id}/previews/{one}_preview.webp" for one in pictures}
        made[listed] = f"{host.user_id}/posters/{listed}_poster.webp"
        assert {key for key in site.objects() if key.endswith(".webp")} == set(made.values())
        shown = "SELECT CAST(id AS text), preview_status FROM lens_generations"
        assert dict(map(tuple, site.sql(shown))) == {
            **dict.fromkeys(made, "ready"), without: "failed", audio: "none",
        }  # fmt: skip
        told = site.status(audio)
        reason = "type is 'audio', which LENS_TYPES does not name"
        assert (told["state"], told["error"]) == ("none", reason)
        overview = site.lens("status", "--json").json
        assert overview["counts"].keys() == {"photo", "video"}
        assert overview["masters_off"].startswith(_OFF)
        assert site.sql("SELECT * FROM generations ORDER BY id") == before
        # A row that becomes of another type is not gone.
        site.sql("UPDATE generations SET type = 'audio' WHERE type = 'product'")
        done = remove_vanished(site.pipeline, site.dagster, PREVIEW, "")
        assert (done.looked_at, done.cleaned, done.refused) == (4, 0, "")
        assert (site.store / made[product]).exists()
        pipeline.connect.cache_clear()


def test_what_is_missing_is_named_at_the_start(host: Host, environment: pytest.MonkeyPatch) -> None:
    site = host.site
    host.add("photo", "a.jpg")
    environment.setenv("LENS_SOURCE_COLUMNS", "orignal_path,asset_url")
    output = site.lens("once")
    assert output.code == 2
    assert "LENS_SOURCE_COLUMNS names orignal_path, which is no column" in output.err
    environment.setenv("LENS_SOURCE_COLUMNS", hosts.SETTINGS["LENS_SOURCE_COLUMNS"])
    with host.role() as role:
        # It would take the rows that it does not see for deleted ones, and delete their files.
        site.sql("CREATE POLICY public_rows ON generations FOR SELECT USING (is_public)")
        host.add("photo", "b.jpg", is_public=True)
        site.sql(f"GRANT SELECT ON generations TO {role}")
        environment.setenv("LENS_DATABASE_URL", as_role(site.database_url, role))
        output = site.lens("once")
        assert output.code == 2
        assert f"row-level security hides rows of generations from role {role}" in output.err
        pipeline.connect.cache_clear()


def test_a_favourites_click_is_no_new_file(
    host: Host, photo: Callable[[str], str], video: str, environment: pytest.MonkeyPatch
) -> None:
    """A run, a dead letter and an alert for each heart that a user gives to an old picture."""
    site = host.site
    ready, old_video = host.add("photo", photo("a")), host.add("video", video)
    dead = host.add("photo", "ftp://example.org/x.jpg")
    assert site.once()["ready"] == 2
    # Of a library that is still to be adopted.
    unrecorded = host.add("photo", photo("b"))
    host.age("20 days")
    environment.setenv("LENS_CLIPS", "true")
    cursors = {one: asked(site, one)[2] for one in (PREVIEW, CLIP)}
    environment.setattr("lens_pipeline.derivatives.backfill.ADOPTION_ROWS", 0)
    environment.setattr("lens_pipeline.monitoring.backlog.ADOPTION_ROWS", 0)
    made = {one: len(site.materializations(one)) for one in ("preview", "poster", "clip")}
    for row_id in (ready, old_video, dead, unrecorded):
        host.like(row_id)
    for derivative, cursor in cursors.items():
        assert asked(site, derivative, cursor)[0] == 0
    assert BacklogScanner(site.pipeline, PREVIEW).oldest() is None
    assert site.once()["found"] == 0
    assert {one: len(site.materializations(one)) for one in made} == made
    # Made anew since, and of the same file: how old the click is says nothing.
    assert site.lens("backfill", ready, "--force", "--json").json["ready"] == 1
    assert "latency_seconds" not in site.metadata("preview", ready)
    another = "UPDATE generations SET asset_url = :url WHERE id = CAST(:id AS uuid)"
    site.sql(another, id=ready, url=photo("c"))
    assert asked(site, PREVIEW, cursors[PREVIEW])[0] == 1


def test_masters_are_off_until_their_tables_are_there(host: Host) -> None:
    """Three sensors that fail each second for tables that the site does not need."""
    site = host.site
    count, reason, _ = asked(site, MASTER)
    assert (count, reason.startswith(_OFF)) == (0, True)
    policy = TickPolicy(site.pipeline.endpoints)
    assert policy._catalog.lack_of(MASTER.kind)
    assert remove_vanished(site.pipeline, site.dagster, MASTER, "").looked_at == 0
    assert site.lens("report", "--json").code == 0
    site.sql("CREATE TABLE master_videos (id bigint PRIMARY KEY, title text)")
    assert site.lens("migrate").out == "created: lens_generations\n"
    assert site.lens("migrate", "--check").code == 0
    site.sql("DROP TABLE master_videos")
    assert "scaled_videos" in site.lens("migrate", "--masters").out
    # As long as the process lives, it keeps to what it found.
    assert asked(site, MASTER)[1].startswith(_OFF)
    pipeline.connect.cache_clear()
    assert asked(site, MASTER)[1] == "No new master_video is called for."
    site.sql("DROP TABLE master_videos CASCADE; CREATE TABLE master_videos (title text)")
    assert site.pipeline.catalog.drop_orphans() == 0
