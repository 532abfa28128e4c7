"""What people of the old site checked after every release, by the same requests and SQL lines.

In the SQL lines only the name of the table is another: that of the view.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx2 as httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from lens_pipeline_tests.deploy.prometheus_files import metrics_used
from lens_pipeline_tests.monitoring.webhooks.receiver import Receiver
from lens_pipeline_tests.providers.provider_server import API_KEY, ProviderServer
from lens_pipeline_tests.support import sources
from lens_pipeline_tests.support.project import PROJECT, Project
from lens_pipeline_tests.support.servers import HostileServer
from lens_pipeline_tests.support.site import Site, eventually
from lens_pipeline_tests.support.stack import Stack

pytestmark = [pytest.mark.slow, pytest.mark.stack]

SECRET = "callback-secret-of-tests"
MASTERS = f"/api/projects/{PROJECT}/master-videos"
PHOTO = "SELECT preview_status, preview_path FROM lens_generations WHERE id = '{}'"
VIDEO = "SELECT preview_status, poster_path FROM lens_generations WHERE id = '{}'"
REASON = "SELECT preview_status, error FROM lens_generations WHERE id = '{}'"
ROW = "SELECT status, asset_url FROM generations WHERE id = '{}'"
MASTER = "SELECT status, video_path, progress FROM lens_master_videos WHERE master_id = '{}'"
# On two busy cores; most take one.
SECONDS = 60


@pytest.fixture(scope="module")
def provider() -> Iterator[ProviderServer]:
    with ProviderServer() as started:
        yield started


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as started:
        yield started


@pytest.fixture(scope="module")
def stack(
    tmp_path_factory: pytest.TempPathFactory, provider: ProviderServer, receiver: Receiver
) -> Iterator[Stack]:
    """One for all tests here: each leaves behind what the next ones build on."""
    of_others = {"LENS_KIE_API": provider.url(""), "LENS_KIE_API_KEY": API_KEY}
    of_others |= {"LENS_WEBHOOK_URLS": receiver.url, "LENS_WEBHOOK_SECRET": receiver.secret}
    home = tmp_path_factory.mktemp("checklist") / "home"
    with Stack(home, KIE_CALLBACK_SECRET=SECRET, **of_others) as stack:
        yield stack


@pytest.fixture(scope="module")
def site(stack: Stack) -> Site:
    return stack.site


@pytest.fixture(scope="module")
def files() -> Iterator[HostileServer]:
    with HostileServer() as started:
        yield started


@pytest.fixture(scope="module")
def photo(files: HostileServer) -> str:
    return files.put("/photo.jpg", sources.jpeg())


@pytest.fixture(scope="module")
def video(files: HostileServer) -> str:
    return files.put("/video.mp4", sources.mp4(), "video/mp4")


@pytest.fixture
def web(stack: Stack) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{stack.api_port}", timeout=20) as client:
        yield client


def _until(site: Site, line: str, row_id: str, is_so: Callable[[Any], bool]) -> Any:
    """The row that the SQL line gives, as soon as it is so."""

    def look() -> Any:
        (row,) = site.sql(line.format(row_id))
        return row if is_so(row) else None

    return eventually(look, SECONDS, f"the end of {row_id}")


def _ready(site: Site, line: str, row_id: str) -> Any:
    return _until(site, line, row_id, lambda row: row[0] == "ready")


def test_1_a_new_photo(site: Site, web: httpx.Client, photo: str) -> None:
    site.add("photo", photo)
    assert _ready(site, PHOTO, "photo") == ("ready", "u1/previews/photo_preview.webp")
    assert (site.store / "u1/previews/photo_preview.webp").read_bytes()[8:12] == b"WEBP"
    kept = "SELECT original_path FROM lens_generations WHERE id = '{}'"
    (original,) = _until(site, kept, "photo", lambda row: row[0])
    assert web.get("/api/generations/photo/file").content == (site.store / original).read_bytes()


def test_2_a_new_video_by_a_task_of_veo(
    site: Site, web: httpx.Client, provider: ProviderServer, video: str
) -> None:
    site.add("video", None, type="video", status="generating", task_id="veo_task_1")
    provider.say_of_veo("veo_task_1", 1, video)
    said = {"taskId": "veo_task_1", "info": {"resultUrls": json.dumps([video])}}
    body = {"code": 200, "msg": "Veo3.1 video generated successfully.", "data": said}
    answer = web.post(f"/api/webhooks/veo?secret={SECRET}", json=body)
    assert (answer.status_code, answer.json()["status"]) == (200, "updated")
    assert site.sql(ROW.format("video")) == [("success", video)]
    assert _ready(site, VIDEO, "video") == ("ready", "u1/posters/video_poster.webp")


def test_3_backfill(stack: Stack, site: Site, photo: str) -> None:
    """Of rows that no sensor looks at any more."""
    old = ["old1", "old2", "old3"]
    site.add_many(old, lambda _: photo, age="3 days")
    done = stack.lens("backfill", "--kind", "photo", "--json")
    assert (done.returncode, json.loads(done.stdout)["ready"]) == (0, 3), done.stderr
    for row_id in old:
        _ready(site, PHOTO, row_id)


def test_4_the_webhook_with_the_shared_secret(
    site: Site, web: httpx.Client, provider: ProviderServer, photo: str
) -> None:
    site.add("hooked", None, status="generating", task_id="task_hooked")
    provider.say("task_hooked", "success", photo)
    body = {"code": 200, "msg": "success", "data": {"taskId": "task_hooked"}}
    assert web.post("/api/kie/webhook?secret=another", json=body).status_code == 401
    bearer = {"Authorization": f"Bearer {SECRET}"}
    said = [
        web.post("/api/kie/webhook", json=body, headers=bearer).json()["status"] for _ in range(10)
    ]
    assert Counter(said) == {"updated": 1, "duplicate": 9}
    assert site.sql(ROW.format("hooked")) == [("success", photo)]
    _ready(site, PHOTO, "hooked")


def test_5_an_idempotent_sync(
    site: Site, web: httpx.Client, provider: ProviderServer, video: str
) -> None:
    site.add("synced", None, status="generating", task_id="task_synced", type="video")
    provider.say("task_synced", "success", video)
    run_ids = [one for _ in range(5) for one in _sync(web, "task_synced")["run_ids"]]
    assert len(run_ids) == 1
    _ready(site, VIDEO, "synced")
    assert _sync(web, "task_synced")["run_ids"] == []


def test_6_a_404_ends_as_failed_with_its_reason(
    site: Site, web: httpx.Client, provider: ProviderServer, files: HostileServer
) -> None:
    site.add("gone", files.url("/gone.jpg"))
    _, error = _until(site, REASON, "gone", lambda row: row[0] == "failed")
    assert "404" in error
    listed = web.get("/api/generations", params={"status": "dead"}).json()
    assert [entry["id"] for entry in listed["generations"]] == ["gone"]
    site.add("refused", None, status="generating", task_id="task_refused")
    provider.say("task_refused", "fail", failMsg="not allowed")
    assert _sync(web, "task_refused")["message"] == "not allowed"
    assert site.sql(ROW.format("refused")) == [("failed", None)]


def test_7_repair_by_schedule(
    stack: Stack, site: Site, web: httpx.Client, files: HostileServer
) -> None:
    """What failed for now is made, and what was given up on is left alone."""
    files.put("/flaky.jpg", sources.jpeg())
    files.misbehave("/flaky.jpg", "/resets")
    site.add("failing", files.url("/flaky.jpg"))
    _until(site, REASON, "failing", lambda row: row[0] == "failed")
    files.misbehave("/flaky.jpg", None)
    files.put("/gone.jpg", sources.jpeg())
    site.age_events("61 s")
    stack.tick_backfill()
    _ready(site, PHOTO, "failing")
    assert site.sql(REASON.format("gone"))[0].preview_status == "failed"
    assert web.post("/api/generations/gone/retry").json()["status"] == "processing"
    _ready(site, PHOTO, "gone")


def test_masters(site: Site, web: httpx.Client) -> None:
    project = Project(site)
    project.shot("a")
    site.add("late", None, type="video", status="generating")
    project.asset("late", generation_id="late")
    project.master("film", ["a", "late"])
    assert _until(site, MASTER, "film", lambda row: row[0]) == ("created", None, None)
    for place in ("video", "download"):
        early = web.get(f"{MASTERS}/film/{place}")
        assert early.status_code == 400
        assert early.json() == {"error": "Video not ready", "status": "created"}
    site.sql(
        "UPDATE generations SET status = 'success', asset_url = 'u1/uploads/a.mp4',"
        " updated_at = now() WHERE id = 'late'"
    )
    _, path, progress = _until(site, MASTER, "film", lambda row: row[0] == "completed")
    master = web.get(f"{MASTERS}/film").json()
    assert (master["legacy_status"], master["video_path"]) == ("completed", path)
    assert (path.startswith(f"masters/{PROJECT}/master_film_"), progress) == (True, 100)
    made = web.get(f"{MASTERS}/film/video")
    assert (made.headers["Content-Type"], made.content) == (
        "video/mp4",
        (site.store / path).read_bytes(),
    )
    download = web.get(f"{MASTERS}/film/download")
    assert download.headers["Content-Disposition"].startswith("attachment")
    assert download.content == made.content
    # A photo cannot be a shot.
    project.asset("photo", generation_id="photo")
    project.master("faulty", ["photo"])
    _until(site, MASTER, "faulty", lambda row: row[0] == "failed")
    refused = web.get(f"{MASTERS}/faulty/video").json()
    assert refused == {"error": "Video not ready", "status": "failed"}
    (row,) = site.sql("SELECT error FROM lens_master_videos WHERE master_id = 'faulty'")
    assert "photo" in row.error


def test_the_site_has_heard_of_each(receiver: Receiver) -> None:
    told = {
        ("generation.ready", "photo"),
        ("original.saved", "photo"),
        ("generation.ready", "video"),
        ("master.failed", "faulty"),
    }
    eventually(lambda: told <= {*receiver.names()}, SECONDS, "the webhooks")
    assert receiver.refused == []


def test_each_was_made_once(stack: Stack, web: httpx.Client) -> None:
    """Whatever came at once or again; the sensors have ticked since."""
    assert stack.made("preview")["hooked"] == 1
    assert stack.made("poster")["synced"] == stack.made("poster")["video"] == 1
    tags = stack.dagster("SELECT value FROM run_tags WHERE key = 'lens/origin'")
    origins = Counter(tag.value for tag in tags)
    # The webhooks of two tasks; the sync, and the retry.
    assert (origins["webhook"], origins["api"]) == (2, 2)
    used = metrics_used()
    # Some are of a look at the services, some seconds ago.
    assert web.get("/api/health").status_code == 200
    eventually(lambda: used <= _metrics(web), SECONDS, "all metrics")


def _metrics(web: httpx.Client) -> set[str]:
    families = text_string_to_metric_families(web.get("/metrics").text)
    return {sample.name for family in families for sample in family.samples}


def _sync(web: httpx.Client, task_id: str) -> Any:
    answer = web.post("/api/kie/sync", params={"taskId": task_id})
    assert answer.status_code == 200, answer.text
    return answer.json()
