"""Masters over HTTP: ordered, listed, watched, downloaded, tried again, deleted."""

import io
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import av
import dagster as dg
import httpx2 as httpx
import pytest
from fastapi import FastAPI
from sqlalchemy.exc import OperationalError

from lens_pipeline.catalog.catalog import Catalog
from lens_pipeline.catalog.projects import ProjectRows
from lens_pipeline.catalog.rows import Kind
from lens_pipeline.core.locks import LockSession, queue_id
from lens_pipeline.definitions import job
from lens_pipeline.defs.resources import LensResource
from lens_pipeline.defs.sensors import derivative_sensor
from lens_pipeline.derivatives.holds import Held, Hold, holds
from lens_pipeline.derivatives.registry import MASTER, MASTERS, POSTER
from lens_pipeline.derivatives.release import Release
from lens_pipeline.engine.run_queue import RunQueue
from lens_pipeline.event_log.history import DerivativeStatus, ReportedProgress, Stage
from lens_pipeline.event_log.tags import PERCENT_TAG
from lens_pipeline.web.auth.caller import Caller
from lens_pipeline_tests.support.project import PROJECT, Project
from lens_pipeline_tests.support.site import Databases, Site
from lens_pipeline_tests.support.web import served
from lens_pipeline_tests.web.caller_override import become
from lens_pipeline_tests.web.query_count import queries
from lens_pipeline_tests.web.run_queue import execute_queued

pytestmark = pytest.mark.slow

URL = f"/api/projects/{PROJECT}/master-videos"


@pytest.fixture
def project(site: Site) -> Project:
    return Project(site)


@pytest.fixture
def shots(site: Site, project: Project) -> list[str]:
    """Two assets whose videos are finished, but nowhere."""
    for name in ("a", "b"):
        site.add(name, f"u1/uploads/{name}.mp4", type="video")
        project.asset(name, generation_id=name)
    return ["a", "b"]


def _order(web: httpx.Client, *, name: Any = "A film", **body: Any) -> httpx.Response:
    return web.post(URL, json={"name": name, **body})


def _queued(site: Site) -> list[tuple[str, str | None]]:
    """Job and partition of each run that was asked for, newest first."""
    key = "dagster/asset_partition_range_start"
    return [(run.job_name, run.tags.get(key)) for run in site.runs()]


def test_a_sensor_asks_for_no_second_run_of_a_master_that_is_ordered(
    site: Site, web: httpx.Client, shots: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second run of a film, which waits for the first in a worker's place."""
    prepare, requested = RunQueue.prepare, []

    def prepare_in_a_tick(*arguments: Any, **options: Any) -> Any:
        resources = {"lens": LensResource()}
        context = dg.build_sensor_context(instance=site.dagster, resources=resources)
        requested.append(derivative_sensor(MASTER)(context))
        return prepare(*arguments, **options)

    monkeypatch.setattr(RunQueue, "prepare", prepare_in_a_tick)
    assert _order(web, shots=shots, master_id="m1").status_code == 201
    (result,) = requested
    assert isinstance(result, dg.SkipReason)
    assert _queued(site) == [("masters", "m1")]


def test_an_order_that_cannot_be_queued_leaves_nothing(
    site: Site, web: httpx.Client, shots: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that says no, and a master that comes all the same."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise OperationalError("refused", {}, Exception("refused"))

    monkeypatch.setattr(RunQueue, "prepare", refuse)
    assert _order(web, shots=shots, master_id="m1").status_code == 503
    assert web.get(f"{URL}/m1").status_code == 404


@pytest.fixture
def uuids(site: Site) -> None:
    """A host's own tables, before the app reads their types."""
    site.sql("ALTER TABLE generations ALTER id TYPE uuid USING id::uuid")
    site.sql("ALTER TABLE project_assets ALTER asset_id TYPE uuid USING asset_id::uuid")
    site.sql("ALTER TABLE master_videos ALTER master_id TYPE uuid USING master_id::uuid")


@pytest.mark.usefixtures("uuids")
def test_uuids_in_capitals_are_the_same_ids(site: Site, web: httpx.Client) -> None:
    """A host with ids as uuid, whose clients write them in capitals and find nothing."""
    shot, master_id = str(uuid.uuid4()), str(uuid.uuid4())
    site.add(shot, "u1/uploads/a.mp4", type="video")
    asset = {"asset_id": shot.upper(), "generation_id": shot.upper()}
    statuses = [web.post(f"/api/projects/{PROJECT}/assets", json=asset) for _ in range(2)]
    assert [answer.status_code for answer in statuses] == [201, 200]
    assert statuses[0].json()["usable"]
    ordered = [_order(web, shots=[shot.upper()], master_id=master_id.upper()) for _ in range(2)]
    assert [answer.status_code for answer in ordered] == [201, 200]
    assert (ordered[0].json()["master_id"], ordered[0].json()["status"]) == (
        master_id,
        "processing",
    )
    assert _queued(site) == [("masters", master_id)]
    for path in (f"{URL}/{master_id.upper()}", f"/api/generations/{shot.upper()}"):
        assert web.get(path).status_code == 200


def test_a_master_from_its_order_to_the_download(
    site: Site, web: httpx.Client, project: Project
) -> None:
    project.shot("a")
    project.shot("b")
    ordered = _order(web, name=" Отпуск ", shots=["a", "b", "a"], master_id="m1")
    assert ordered.status_code == 201
    master = ordered.json()
    assert (master["master_id"], master["name"], master["shots"]) == (
        "m1",
        "Отпуск",
        ["a", "b", "a"],
    )
    # At once, not when a sensor looks.
    assert master["status"] == "processing"
    (run,) = site.runs()
    assert (run.job_name, run.tags["lens/origin"]) == ("masters", "api")
    for place in ("video", "download"):
        early = web.get(f"{URL}/m1/{place}")
        assert early.status_code == 400
        assert early.json() == {"error": "Video not ready", "status": "processing"}
    assert web.get(f"{URL}/m1/poster").json()["error"] == "not_ready"
    assert execute_queued(site) == 1

    master = web.get(f"{URL}/m1").json()
    assert (master["status"], master["waits"], master["error"]) == ("ready", None, None)
    assert (master["width"], master["height"]) == (160, 120)
    path = site.metadata("master_video", "m1")["path"].value
    assert (master["legacy_status"], master["video_path"]) == ("completed", path)
    assert master["method"] == "copy"
    assert master["ready_at"]
    assert web.get(URL).json() == {"master_videos": [master], "next_cursor": None}
    video = web.get(master["video_url"])
    assert video.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    assert video.headers["Content-Type"] == "video/mp4"
    assert len(video.content) == master["bytes"]
    with av.open(io.BytesIO(video.content), "r") as container:
        frames = sum(1 for _ in container.decode(video=0))
    assert frames == 72
    assert web.get(f"{URL}/m1/video").headers["Cache-Control"] == "private, no-cache"
    part = web.get(master["video_url"], headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, video.content[100:200])
    download = web.get(master["download_url"])
    assert download.content == video.content
    assert download.headers["Content-Disposition"].endswith(
        "filename*=UTF-8''%D0%9E%D1%82%D0%BF%D1%83%D1%81%D0%BA_m1.mp4"
    )
    assert web.head(master["download_url"]).headers["Content-Length"] == str(master["bytes"])
    poster = web.get(master["poster_url"])
    assert poster.headers["Content-Type"] == "image/webp"
    assert poster.content[8:12] == b"WEBP"


def test_a_master_whose_shot_is_still_to_come_is_not_begun(
    site: Site, web: httpx.Client, project: Project, shots: list[str]
) -> None:
    site.add("late", None, type="video", status="generating")
    project.asset("late", generation_id="late")
    master = _order(web, shots=["a", "late"]).json()
    assert master["status"] == "none"
    assert master["waits"] == "shot 'late': its generation 'late' has status 'generating'"
    assert master["waits_for"] == ["late"]
    assert site.runs() == []


def test_an_order_may_be_repeated(site: Site, web: httpx.Client, shots: list[str]) -> None:
    """A client whose connection broke must not pay for two films."""
    first = _order(web, shots=shots, master_id="m1")
    again = _order(web, shots=shots, master_id="m1")
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json()
    assert len(site.runs()) == 1
    for other in ({"name": "Another", "shots": shots}, {"shots": shots[:1]}):
        answer = _order(web, **other, master_id="m1")
        assert (answer.status_code, answer.json()["error"]) == (409, "id_taken")
    elsewhere = web.post(
        "/api/projects/p2/master-videos", json={"name": "A film", "shots": ["a"], "master_id": "m1"}
    )
    assert elsewhere.json()["error"] == "unknown_shot"
    assert _order(web, shots=shots).json()["master_id"] != "m1"


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "no name": ({"shots": ["a"], "name": None}, "invalid_request", "name"),
    "blank": ({"shots": ["a"], "name": " \t "}, "invalid_request", "1 to 200"),
    "long": ({"shots": ["a"], "name": "x" * 201}, "invalid_request", "1 to 200"),
    "newline": ({"shots": ["a"], "name": "a\nb"}, "invalid_request", "one line"),
    "NUL": ({"shots": ["a"], "name": "a\0b"}, "invalid_request", "one line"),
    "escape": ({"shots": ["a"], "name": "a\x1b[31mb"}, "invalid_request", "one line"),
    "unseen": ({"shots": ["a"], "name": "\u200b \u202e"}, "invalid_request", "to see"),
    "no shots": ({"shots": []}, "invalid_request", "shots"),
    "too many": ({"shots": ["a"] * 1001}, "invalid_request", "shots"),
    "no list": ({"shots": "a"}, "invalid_request", "shots"),
    "a number": ({"shots": [1]}, "invalid_request", "shots"),
    "unknown": ({"shots": ["a", "nobody"]}, "unknown_shot", "'nobody'"),
    "NUL in a shot": ({"shots": ["a\0"]}, "unknown_shot", "shot"),
    "foreign": ({"shots": ["a", "foreign"]}, "unknown_shot", "'foreign'"),
    "photo": ({"shots": ["a", "photo"]}, "unusable_shot", "is a photo"),
    "id": ({"shots": ["a"], "master_id": "../x"}, "invalid_request", "master_id"),
    "empty id": ({"shots": ["a"], "master_id": ""}, "invalid_request", "master_id"),
    "typing error": ({"shots": ["a"], "masterid": "x"}, "invalid_request", "masterid"),
}


def test_orders_that_are_refused_say_why_and_leave_nothing(
    site: Site, web: httpx.Client, project: Project, shots: list[str]
) -> None:
    project.asset("foreign", project_id="p2", asset_url="https://example.org/a.mp4")
    site.add("photo", "u1/uploads/p.jpg")
    project.asset("photo", generation_id="photo")
    for case, (body, code, word) in BAD.items():
        answer = _order(web, **body)
        assert (answer.status_code, answer.json()["error"]) == (400, code), case
        assert word in answer.json()["message"], case
    # Halves of characters have no UTF-8.
    halves = (b'{"name": "\\ud800", "shots": ["a"]}', b'{"name": "x", "shots": ["\\ud800"]}')
    for raw in (b"", b"{", b"[]", b"null", *halves):
        answer = web.post(URL, content=raw, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400, raw
        assert answer.json()["error"] in {"invalid_request", "unknown_shot"}, raw
    odd = web.post("/api/projects/..x/master-videos", json={"name": "x", "shots": ["a"]})
    assert (odd.status_code, odd.json()["field"]) == (400, "project_id")
    assert web.get(URL).json()["master_videos"] == []
    assert site.runs() == []


NAMES = {
    'a" onload="x': "a%22%20onload%3D%22x",
    "a\r\nSet-Cookie: b=c": "a__Set-Cookie%3A%20b%3Dc",
    "../../etc/passwd": "_.._etc_passwd",
    "gpj.\u202eexe": "gpj._exe",
    "🎬": "%F0%9F%8E%AC",
}


def test_names_that_other_programs_gave_cannot_harm(
    site: Site, web: httpx.Client, project: Project
) -> None:
    """Rows are not only made here."""
    project.shot("a")
    for number, name in enumerate(NAMES):
        project.master(f"m{number}", ["a"], name)
    site.once()
    for number, (name, quoted) in enumerate(NAMES.items()):
        assert web.get(f"{URL}/m{number}").json()["name"] == name
        answer = web.get(f"{URL}/m{number}/download")
        assert answer.status_code == 200
        disposition = answer.headers["Content-Disposition"]
        assert disposition.endswith(f"filename*=UTF-8''{quoted}_m{number}.mp4")
        assert disposition.isascii() and disposition.isprintable()
        assert "Set-Cookie" not in answer.headers


def test_pages_are_whole_and_cost_a_constant_number_of_queries(
    site: Site, web: httpx.Client, project: Project, shots: list[str]
) -> None:
    for number in range(7):
        project.master(f"m{number}", [shots[number % 2]])
    site.sql("UPDATE master_videos SET created_at = now()")  # all of one moment
    # Can never be used, and must not end a page early.
    project.master("zz..zz", ["a"])
    seen: list[str] = []
    cursor = None
    while True:
        parameters = {"limit": 3} | ({"cursor": cursor} if cursor else {})
        page = web.get(URL, params=parameters).json()
        seen += [master["master_id"] for master in page["master_videos"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == [f"m{number}" for number in reversed(range(7))]
    assert web.get(URL, params={"cursor": "x"}).json()["error"] == "invalid_cursor"
    assert web.get("/api/projects/nobody/master-videos").json()["master_videos"] == []
    page = web.get(URL, params={"ids": "m3,none,m1,m3"}).json()
    assert [master["master_id"] for master in page["master_videos"]] == ["m3", "m1"]
    too_many = ",".join(f"m{number}" for number in range(201))
    assert web.get(URL, params={"ids": too_many}).status_code == 400
    for scaled, master in (("s1", "m1"), ("s2", "m2"), ("s3", "m1")):
        project.rendition(scaled, master)
    counts = {one["master_id"]: one["renditions"] for one in web.get(URL).json()["master_videos"]}
    assert (counts["m0"], counts["m1"], counts["m2"]) == (0, 2, 1)
    renditions = f"/api/projects/{PROJECT}/scaled-videos"
    of_one = web.get(renditions, params={"master_ids": "m1,none"}).json()["scaled_videos"]
    assert {one["scaled_id"] for one in of_one} == {"s1", "s3"}
    few, many = (queries(lambda n=n: web.get(URL, params={"limit": n})) for n in (1, 7))
    assert few == many


def test_how_far_it_is(site: Site, web: httpx.Client, shots: list[str]) -> None:
    _order(web, shots=shots, master_id="m1")
    assert web.get(f"{URL}/m1").json()["percent"] is None
    (run,) = site.runs()
    said = ReportedProgress("42 %: encoding, about 70 s left", 42, Stage.ENCODING, 70)
    site.dagster.add_run_tags(run.run_id, said.tags)
    master = web.get(f"{URL}/m1").json()
    assert (master["percent"], master["progress"]) == (42, said.text)
    assert (master["stage"], master["seconds_left"], master["held_by"]) == ("encoding", 70, None)
    # Of a run that people have tagged by hand.
    site.dagster.add_run_tags(run.run_id, {PERCENT_TAG: "most"})
    master = web.get(f"{URL}/m1").json()
    assert (master["percent"], master["progress"]) == (None, said.text)


def test_why_it_is_not_begun(site: Site, web: httpx.Client, shots: list[str]) -> None:
    """A film that stands still, and a page that does not say for what."""

    def held() -> list[tuple[str | None, int | None]]:
        masters = web.get(URL, params={"ids": "m1,m2,m3"}).json()["master_videos"]
        return [(master["held_by"], master["queue_place"]) for master in masters]

    site.add("late", None, type="video", status="generating")
    Project(site).asset("late", generation_id="late")
    for name, of in (("m1", shots), ("m2", shots), ("m3", ["late"])):
        _order(web, shots=of, master_id=name)
    assert held() == [("worker", 1), ("worker", 2), ("input", None)]
    queue = queue_id(MASTERS, Release.of(site.pipeline.settings).id)
    worker = LockSession(site.dagster_url)
    worker.offer_slots(queue, 1)
    assert held() == [("queue", 1), ("queue", 2), ("input", None)]
    worker.close()
    # More of another queue do not count.
    RunQueue(site.pipeline, site.dagster, job).submit({POSTER: ["a", "b"]}, "api")
    assert [place for _, place in held()] == [1, 2, None]
    settings = site.pipeline.settings.model_copy(update={"enabled": False})
    off = replace(site.pipeline, settings=settings)
    found = holds(off, MASTER, [DerivativeStatus("master_video", "m4")])
    assert found == {"m4": Held(Hold.DISABLED)}


def test_what_failed_says_why_and_is_tried_again(
    site: Site, web: httpx.Client, project: Project, shots: list[str]
) -> None:
    master = _order(web, shots=shots, master_id="m1").json()
    early = web.post(f"{URL}/m1/retry")
    assert (early.status_code, early.json()["error"]) == (409, "not_failed")
    # Something else with the same id, which has failed as well, is not concerned.
    site.add("m1", "ftp://example.org/x.jpg")
    assert execute_queued(site) == 1
    site.once()
    master = web.get(f"{URL}/m1").json()
    assert (master["status"], master["error_class"]) == ("dead", "SourceMissing")
    assert "no such object" in master["error"]
    before = len(site.runs())
    # Somebody impatient; each of these was an encode.
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda _: web.post(f"{URL}/m1/retry"), range(6)))
    assert sorted(answer.status_code for answer in answers) == [200, *[409] * 5]
    assert [one.json()["status"] for one in answers if one.is_success] == ["processing"]
    assert len(site.runs()) == before + 1
    assert web.get("/api/generations/m1").json()["status"] == "dead"
    assert web.post(f"{URL}/nobody/retry").status_code == 404


def test_a_master_that_is_deleted_takes_its_run_along(
    site: Site, web: httpx.Client, project: Project, shots: list[str]
) -> None:
    """A film that nobody wants any more, and both cores busy with it."""
    _order(web, shots=shots, master_id="m1")
    _order(web, shots=shots, master_id="m2")
    project.rendition("s1", "m1")
    assert web.delete(f"{URL}/m1").status_code == 204
    statuses = {run.tags["dagster/asset_partition_range_start"]: run.status for run in site.runs()}
    assert {key: status.value for key, status in statuses.items()} == {
        "m1": "CANCELED",
        "m2": "QUEUED",
    }
    assert web.get(f"{URL}/m1").status_code == 404
    assert web.delete(f"{URL}/m1").status_code == 404
    assert [m["master_id"] for m in web.get(URL).json()["master_videos"]] == ["m2"]
    assert site.sql("SELECT scaled_id FROM scaled_videos") == []
    # A new one of the same id is no dead letter because of the old one's run.
    assert _order(web, shots=shots, master_id="m1").json()["status"] == "processing"


def test_a_rendition_of_a_master_that_is_just_deleted_is_refused(
    site: Site,
    web: httpx.Client,
    project: Project,
    shots: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A row that no page shows and no request can delete."""
    inserting = Catalog.inserting

    def insert_late(catalog: Catalog, kind: Kind, *values: Any) -> AbstractContextManager[bool]:
        if kind is Kind.SCALED:
            assert web.delete(f"{URL}/m1").status_code == 204
        return inserting(catalog, kind, *values)

    monkeypatch.setattr(Catalog, "inserting", insert_late)
    _order(web, shots=shots, master_id="m1")
    scaled = {"master_id": "m1", "width": 80, "height": 60}
    refused = web.post(f"/api/projects/{PROJECT}/scaled-videos", json=scaled)
    assert (refused.status_code, refused.json()["message"]) == (400, "there is no master 'm1'")
    assert site.sql("SELECT scaled_id FROM scaled_videos") == []


def test_a_master_is_deleted_after_a_rendition_that_is_being_added(
    site: Site, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same, one moment later."""
    project.master("m1", [])
    catalog = site.pipeline.catalog
    insert, deletions = ProjectRows.insert, []

    def insert_slowly(rows: ProjectRows, *values: Any) -> bool:
        added = insert(rows, *values)
        deletions.append(others.submit(catalog.delete, Kind.MASTER, "m1"))
        with pytest.raises(TimeoutError):
            deletions[0].result(0.3)
        return added

    monkeypatch.setattr(ProjectRows, "insert", insert_slowly)
    with ThreadPoolExecutor(1) as others:
        values = {"master_id": "m1", "width": 80, "height": 60}
        with catalog.inserting(Kind.SCALED, PROJECT, {"s1": values}) as added:
            assert added
        assert deletions[0].result() == ["s1"]
    assert site.sql("SELECT scaled_id FROM scaled_videos") == []


def test_projects_of_others_are_as_if_they_did_not_exist(
    web: httpx.Client, app: FastAPI, shots: list[str]
) -> None:
    _order(web, shots=shots, master_id="m1")
    places = ["", "/video", "/download", "/poster"]
    become(app, Caller(project_id=PROJECT))
    assert web.get(f"{URL}/m1").status_code == 200
    for stranger in (Caller(project_id="p2"), Caller(user_id="u1")):
        become(app, stranger)
        for place in places:
            assert web.get(f"{URL}/m1{place}").status_code == 404, place
        assert web.delete(f"{URL}/m1").status_code == 404
        assert web.post(f"{URL}/m1/retry").status_code == 404
        assert web.get(URL).status_code == 403
        assert _order(web, shots=shots).status_code == 403
    become(app, Caller())
    # By way of a project of one's own neither.
    for place in places:
        assert web.get(f"/api/projects/p2/master-videos/m1{place}").status_code == 404
    assert web.delete("/api/projects/p2/master-videos/m1").status_code == 404


def test_without_the_right_to_write(
    site: Site,
    databases: Databases,
    fresh_pair: tuple[str, str],
    web: httpx.Client,
    shots: list[str],
) -> None:
    """The role that a site gave us may only read: said in words that mend it."""
    _order(web, shots=shots, master_id="m1")
    name = fresh_pair[0]
    owner = "ALTER TABLE {} OWNER TO postgres; GRANT SELECT ON {} TO lens"
    for table in ("master_videos", "project_assets", "scaled_videos"):
        databases.execute(owner.format(table, table), name)
    for answer in (_order(web, shots=shots), web.delete(f"{URL}/m1")):
        assert (answer.status_code, answer.json()["error"]) == (503, "no_right_to_write")
        grant = "GRANT INSERT, DELETE ON project_assets, master_videos, scaled_videos TO lens"
        assert grant in answer.json()["message"]
    databases.execute(grant, name)
    assert _order(web, shots=shots).status_code == 201
    for table in ("master_videos",):
        databases.execute(
            f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;"
            f" CREATE POLICY reads ON {table} FOR SELECT USING (true)",
            name,
        )
    for answer in (_order(web, shots=shots), web.delete(f"{URL}/m1")):
        assert (answer.status_code, answer.json()["error"]) == (503, "no_right_to_write")
        assert "CREATE POLICY lens_writes ON master_videos TO lens" in answer.json()["message"]
    assert web.get(f"{URL}/m1").status_code == 200


def test_without_a_database_and_with_it_again(
    databases: Databases, fresh_pair: tuple[str, str], web: httpx.Client, shots: list[str]
) -> None:
    """Said clearly, whichever of the two it is, and no restart is needed afterwards."""
    _order(web, shots=shots, master_id="m1")
    for name in fresh_pair:
        databases.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        databases.disconnect(name)
        for answer in (web.get(URL), web.get(f"{URL}/m1/video"), web.get(f"{URL}/m1")):
            assert (answer.status_code, answer.json()["error"]) == (503, "database_unavailable")
            assert answer.headers["Retry-After"]
        databases.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        assert web.get(URL).status_code == 200


_UUIDS = {
    "generations": ("id", "user_id"),
    "project_assets": ("asset_id", "project_id", "generation_id"),
    "master_videos": ("master_id", "project_id"),
    "scaled_videos": ("scaled_id", "master_id"),
}


def test_a_hosts_tables_with_uuids_do_as_well(site: Site, app: FastAPI) -> None:
    """Supabase's habit; comparing such a column to text is an error, not a mismatch."""
    for table, columns in _UUIDS.items():
        for column in columns:
            site.sql(f"ALTER TABLE {table} ALTER {column} TYPE uuid USING {column}::uuid")
        site.sql(f"ALTER TABLE {table} ALTER created_at DROP DEFAULT")
    site.sql("ALTER TABLE master_videos ALTER shots_config TYPE json USING shots_config::json")
    video, user, project = (str(uuid.uuid4()) for _ in range(3))
    site.add(video, "u1/v.mp4", type="video", user_id=user, created_at="2026-01-01T00:00:00Z")
    base = f"/api/projects/{project}"
    # A process learns the types of columns once.
    with served(app) as url, httpx.Client(base_url=url, timeout=20) as web:
        asset = web.post(f"{base}/assets", json={"generation_id": video}).json()
        assert (asset["generation_id"], asset["usable"]) == (video, True)
        shots = [asset["asset_id"]]
        for unknown in ("no-uuid", str(uuid.uuid4())):
            refused = web.post(f"{base}/master-videos", json={"name": "x", "shots": [unknown]})
            assert refused.json()["error"] == "unknown_shot"
            assert web.get(f"{base}/master-videos/{unknown}").status_code == 404
            assert web.post(f"{base}/assets", json={"generation_id": unknown}).status_code == 400
        master = web.post(f"{base}/master-videos", json={"name": "x", "shots": shots}).json()
        assert (master["status"], master["shots"]) == ("processing", shots)
        assert master["created_at"]
        scaled = {"master_id": master["master_id"], "width": 80, "height": 60}
        assert web.post(f"{base}/scaled-videos", json=scaled).status_code == 201
        for kind, name in (("master-videos", "master_videos"), ("scaled-videos", "scaled_videos")):
            assert len(web.get(f"{base}/{kind}").json()[name]) == 1
            assert web.get(f"/api/projects/no-uuid/{kind}").json()[name] == []
        # Of an id that the host's column cannot hold.
        odd = web.post(
            f"{base}/master-videos", json={"name": "x", "shots": shots, "master_id": "m1"}
        )
        assert (odd.status_code, odd.json()["error"]) == (400, "invalid_request")
        assert web.delete(f"{base}/master-videos/{master['master_id']}").status_code == 204
        assert web.get(f"{base}/scaled-videos").json()["scaled_videos"] == []
