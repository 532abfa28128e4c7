"""Reading generations over HTTP."""

import base64
import datetime as dt
import json
from collections.abc import Callable

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from PIL import Image

from lens_pipeline.definitions import job
from lens_pipeline.engine.run_queue import RunQueue
from lens_pipeline.web.app import create_app
from lens_pipeline.web.auth.caller import Caller
from lens_pipeline.web.context import Context
from lens_pipeline_tests.support import sources
from lens_pipeline_tests.support.project import Project
from lens_pipeline_tests.support.servers import HostileServer
from lens_pipeline_tests.support.site import Databases, Site
from lens_pipeline_tests.web.auth.gate_app import client_of
from lens_pipeline_tests.web.caller_override import become
from lens_pipeline_tests.web.query_count import queries

URL = "/api/generations"


def _listed(web: httpx.Client, **parameters: object) -> list[str]:
    answer = web.get("/api/generations", params=parameters)  # pyright: ignore[reportArgumentType]
    assert answer.status_code == 200, answer.text
    return [entry["id"] for entry in answer.json()["generations"]]


@pytest.mark.slow
def test_a_photo_from_finished_to_ready(
    site: Site, web: httpx.Client, photo: Callable[[str], str]
) -> None:
    site.add("p1", photo("p1"))
    before = web.get("/api/generations/p1").json()
    assert (before["status"], before["path"], before["error"]) == ("none", None, None)
    assert set(before["file"].values()) == {None}
    site.once()
    after = web.get("/api/generations/p1").json()
    assert after["status"] == "ready"
    assert after["path"] == "u1/previews/p1_preview.webp"
    with Image.open(site.store / after["path"]) as picture:
        assert (after["width"], after["height"]) == picture.size
    assert after["thumbhash"]
    made = dt.datetime.fromisoformat(after["ready_at"])
    assert abs((dt.datetime.now(dt.UTC) - made).total_seconds()) < 60
    assert after["file"] == {
        "content_type": "image/jpeg",
        "bytes": len(sources.jpeg()),
        "width": 64,
        "height": 48,
        "duration_seconds": None,
    }
    assert after["digital_source_type"] == "trainedAlgorithmicMedia"
    (row,) = site.sql("SELECT updated_at FROM generations")
    finished = dt.datetime.fromisoformat(after["finished_at"])
    assert abs((finished - row.updated_at).total_seconds()) < 0.001
    (listed,) = web.get("/api/generations").json()["generations"]
    assert listed == {name: after[name] for name in listed}


@pytest.mark.slow
def test_a_picture_in_several_sizes(
    site: Site, web: httpx.Client, server: HostileServer, environment: pytest.MonkeyPatch
) -> None:
    """Large screens that show a blur, small ones that load ten times what they show."""
    environment.setenv("LENS_PREVIEW_SIZES", "1536,320")
    link = server.put("/p1", sources.jpeg(2000, 1000)).replace("127.0.0.1", "localhost")
    site.add("p1", link)
    site.add("v1", server.put("/v1", sources.mp4()).replace("127.0.0.1", "localhost"), type="video")
    assert site.once()["ready"] == 2

    folder = site.store / "u1/previews"
    made = {}
    for file in folder.iterdir():
        with Image.open(file) as picture:
            made[file.name] = picture.size
    assert made == {
        "p1_preview.webp": (768, 384),
        "p1_preview_320.webp": (320, 160),
        "p1_preview_1536.webp": (1536, 768),
    }
    entry = web.get("/api/generations/p1").json()
    assert [(size["width"], size["height"]) for size in entry["sizes"]] == [(320, 160), (1536, 768)]
    for size in entry["sizes"]:
        assert web.get(size["url"]).content == (site.store / size["path"]).read_bytes()
    for size, name in ((1, "p1_preview_320"), (321, "p1_preview"), (9000, "p1_preview_1536")):
        answer = web.get("/api/generations/p1/preview", params={"size": min(size, 8192)})
        assert answer.content == (folder / f"{name}.webp").read_bytes()
    # No picture is enlarged.
    sizes = web.get("/api/generations/v1").json()["sizes"]
    assert [(size["width"], size["height"]) for size in sizes] == [(160, 120), (160, 120)]

    environment.setenv("LENS_PREVIEW_SIZES", "320")
    assert site.status("p1")["outdated"]
    assert site.once()["ready"] == 2
    assert {file.name for file in folder.iterdir()} == {"p1_preview.webp", "p1_preview_320.webp"}
    (folder / "p1_preview_320.webp").unlink()
    answer = web.get("/api/generations/p1/preview", params={"size": 320})
    assert answer.content == (folder / "p1_preview.webp").read_bytes()
    damage = site.lens("verify", "--all", "--json").json["damaged"]
    assert [one["path"] for one in damage] == ["u1/previews/p1_preview_320.webp"]
    environment.delenv("LENS_PREVIEW_SIZES")
    assert not site.status("p1")["outdated"]
    site.sql("DELETE FROM generations WHERE id = 'p1'")
    assert site.lens("remove-missing", "--yes").code == 0
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_the_file_itself_outlives_its_link(
    site: Site, web: httpx.Client, server: HostileServer
) -> None:
    link = server.put("/v1", sources.mp4()).replace("127.0.0.1", "localhost")
    site.add("v1", link, type="video")
    assert web.get("/api/generations/v1/file").headers["location"] == link
    site.once()
    server.remove("/v1")
    whole = web.get("/api/generations/v1/file")
    assert whole.content == sources.mp4()
    assert whole.headers["content-type"] == "video/mp4"
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert whole.headers["content-disposition"].startswith('inline; filename="v1.mp4"')
    part = web.get("/api/generations/v1/file", headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")


@pytest.mark.slow
def test_what_no_browser_shows_is_offered_for_download(site: Site, web: httpx.Client) -> None:
    """A page of markup that would run on the site's own address."""
    (site.store / "u1").mkdir()
    (site.store / "u1/page.svg").write_text("<svg onload='alert(1)'/>")
    site.add("p1", "u1/page.svg")
    answer = web.get("/api/generations/p1/file")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment;")


@pytest.mark.slow
def test_a_failure_says_why(site: Site, web: httpx.Client) -> None:
    site.add("bad", "http://localhost:9/none.jpg")
    site.add("unsafe", "http://127.0.0.1/none.jpg")
    site.once()
    found = {entry["id"]: entry for entry in web.get("/api/generations").json()["generations"]}
    assert found["bad"]["status"] == "failed"
    assert found["unsafe"]["status"] == "dead"
    assert found["unsafe"]["error_class"] == "UnsafeAddress"
    assert "127.0.0.1" in found["unsafe"]["error"]
    assert _listed(web, status="dead") == ["unsafe"]
    assert _listed(web, status="failed") == ["bad"]
    assert _listed(web, status="ready") == []


@pytest.mark.slow
def test_several_are_tried_again_at_once(
    site: Site, web: httpx.Client, app: FastAPI, photo: Callable[[str], str]
) -> None:
    for name in ("a", "b"):
        site.add(name, f"ftp://example.org/{name}.jpg")
    site.add("video", "ftp://example.org/v.mp4", type="video")
    site.add("of-bob", "ftp://example.org/bob.jpg", user_id="bob")
    site.add("good", photo("good"))
    site.once()
    become(app, Caller(user_id="u1"))
    ids = ["b", "video", "good", "a", "of-bob", "none", "a"]
    answer = web.post("/api/generations/retry", json={"ids": ids}).json()
    assert {name: sorted(found) for name, found in answer.items()} == {
        "retried": ["a", "b", "video"],
        "not_failed": ["good"],
        "not_found": ["none", "of-bob"],
    }
    # In one run, not one each.
    jobs = [run.job_name for run in site.dagster.get_runs(limit=3)]
    assert jobs.count("previews") == 1, jobs
    assert site.status("of-bob")["state"] == "dead"
    assert web.post("/api/generations/retry", json={"ids": ["of-bob"]}).status_code == 404
    for ids in ([], ["a"] * 201):
        assert web.post("/api/generations/retry", json={"ids": ids}).status_code == 400


def _mend(client: httpx.Client, url: str, databases: Databases, name: str) -> None:
    """Do what the answers themselves say: the grant, then the policy."""
    hiding = (
        "ALTER TABLE generations ENABLE ROW LEVEL SECURITY;"
        " CREATE POLICY reads ON generations FOR SELECT USING (true)"
    )
    for limit in (hiding, "SELECT"):
        answer = client.delete(url)
        assert (answer.status_code, answer.json()["error"]) == (503, "no_right_to_write")
        databases.execute(answer.json()["message"].partition("run ")[2], name)
        databases.execute(limit, name)


@pytest.mark.slow
def test_a_row_is_deleted_only_where_that_is_allowed(
    site: Site,
    web: httpx.Client,
    environment: pytest.MonkeyPatch,
    databases: Databases,
    photo: Callable[[str], str],
) -> None:
    """A page must not delete what a host keeps for itself."""
    for name, user in (("p1", "u1"), ("of-bob", "bob"), ("used", "u1")):
        site.add(name, photo(name), user_id=user)
    site.once()
    Project(site).asset("a", generation_id="used")
    refused = web.delete("/api/generations/p1")
    assert (refused.status_code, refused.json()["error"]) == (403, "deletion_off")
    assert "LENS_DELETION" in refused.json()["message"]
    environment.setenv("LENS_DELETION", "true")
    app = create_app(Context(site.pipeline, RunQueue(site.pipeline, site.dagster, job)))
    with client_of(app) as client:
        become(app, Caller(user_id="u1"))
        assert client.delete("/api/generations/of-bob").status_code == 404
        used = client.delete("/api/generations/used")
        assert (used.status_code, used.json()["error"]) == (409, "in_use")
        # A host's own tables may refer to it.
        site.sql("CREATE TABLE likes (id text REFERENCES generations)")
        site.sql("INSERT INTO likes VALUES ('p1')")
        assert client.delete("/api/generations/p1").json()["error"] == "in_use"
        site.sql("DROP TABLE likes")
        name = site.database_url.rpartition("/")[2]
        databases.execute(
            "ALTER TABLE generations OWNER TO postgres; GRANT SELECT ON generations TO lens", name
        )
        _mend(client, "/api/generations/p1", databases, name)
        assert client.delete("/api/generations/p1").status_code == 204
        assert client.delete("/api/generations/p1").status_code == 404
    originals = site.originals()
    assert site.lens("remove-missing", "--yes").code == 0
    assert site.objects() == {"u1/previews/used_preview.webp", "bob/previews/of-bob_preview.webp"}
    # It stays for LENS_RETAIN_ORIGINALS_DAYS, as of every row that is gone.
    assert site.originals() == originals


def test_filters(site: Site, web: httpx.Client, photo: Callable[[str], str]) -> None:
    site.add("a", photo("a"), user_id="ann")
    site.add("b", photo("b"), user_id="bob")
    site.add("v", photo("v"), user_id="ann", type="video")
    site.add("w", None, user_id="ann", status="generating")
    assert sorted(_listed(web)) == ["a", "b", "v", "w"]
    assert sorted(_listed(web, user_id="ann")) == ["a", "v", "w"]
    assert _listed(web, user_id="ann", type="video") == ["v"]
    assert _listed(web, user_id="nobody") == []
    waiting = web.get("/api/generations/w").json()
    assert (waiting["status"], waiting["generation_status"]) == ("none", "generating")
    assert waiting["file_url"] is None


def test_those_of_some_ids(site: Site, web: httpx.Client, app: FastAPI) -> None:
    """What a page asks for when it is told that they have changed."""
    site.add("a", "a.jpg", user_id="ann")
    site.add("b", "b.jpg", user_id="bob")
    site.add("v", "v.mp4", user_id="ann", type="video")
    site.add("w", None, user_id="ann", status="generating")
    site.add_many([f"p{number}" for number in range(250)], lambda row_id: f"{row_id}.jpg")
    assert sorted(_listed(web, ids="a,w,b,none,a")) == ["a", "b", "w"]
    assert _listed(web, ids="a,b,v", user_id="ann", type="video") == ["v"]
    assert _listed(web, ids="a,b", status="ready") == []
    assert _listed(web, ids="a", status="dead") == []
    assert _listed(web, ids="") == []
    assert _listed(web, ids="a\0,b") == ["b"]
    many = ",".join(f"p{number}" for number in range(200))
    page = web.get("/api/generations", params={"ids": many, "limit": 1}).json()
    assert (len(page["generations"]), page["next_cursor"]) == (200, None)
    one, all_ = (queries(lambda ids=ids: web.get(f"{URL}?ids={ids}")) for ids in ("p1", many))
    assert one == all_
    become(app, Caller(user_id="ann"))
    assert sorted(_listed(web, ids="a,b,v")) == ["a", "v"]
    assert web.get("/api/generations?ids=b&user_id=bob").status_code == 403
    become(app, Caller(project_id="p1"))
    assert web.get("/api/generations?ids=a").status_code == 403


def test_those_before_a_moment(site: Site, web: httpx.Client) -> None:
    for number in range(5):
        site.add(f"p{number}", "p.jpg")
    site.sql(
        "UPDATE generations SET updated_at = timestamptz '2026-03-01 12:00:00+00'"
        " + CAST(substr(id, 2) AS int) * interval '1 hour'"
    )
    before = "2026-03-01T17:00:00+03:00"
    assert _listed(web, before=before) == ["p1", "p0"]
    page = web.get("/api/generations", params={"before": before, "limit": 1}).json()
    assert _listed(web, before=before, cursor=page["next_cursor"]) == ["p0"]
    assert _listed(web, before=before, ids="p0,p4") == ["p0"]


def test_pages_are_whole_and_without_repetition(site: Site, web: httpx.Client) -> None:
    ids = [f"p{number:03}" for number in range(25)]
    # All of one moment: the id decides.
    site.add_many(ids, lambda row_id: f"https://example.org/{row_id}.jpg", age="2 h")
    # Can never be used, and must not end a page early.
    site.add("of nobody", None, user_id="a user")
    site.add("of somebody", None)
    seen: list[str] = []
    cursor = None
    while True:
        parameters = {"limit": 10} | ({"cursor": cursor} if cursor else {})
        page = web.get("/api/generations", params=parameters).json()
        seen += [entry["id"] for entry in page["generations"]]
        if not seen[10:]:
            site.add("new", "https://example.org/new.jpg")  # must not shift the pages to come
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == ids[::-1]


@pytest.mark.slow
def test_a_rare_status_is_found_behind_many_others(site: Site, web: httpx.Client) -> None:
    site.add("rare", "ftp://example.org/none.jpg")
    site.once()
    site.sql("UPDATE generations SET updated_at = now() - interval '1 d'")
    site.add_many([f"p{n:04}" for n in range(2500)], lambda row_id: f"{row_id}.jpg")
    assert _listed(web, status="dead") == ["rare"]


@pytest.mark.slow
@pytest.mark.parametrize("time", ["20000-01-01", "4000-01-01 BC", "infinity", "-infinity"])
def test_a_time_beyond_all_others_is_a_matter_of_its_row(
    site: Site, web: httpx.Client, photo: Callable[[str], str], time: str
) -> None:
    """Milliseconds that were taken for seconds stopped the library, and the sensors."""
    for name in ("odd", "good"):
        site.add(name, photo(name))
    site.sql(
        f"UPDATE generations SET created_at = '{time}', updated_at = '{time}' WHERE id = 'odd'"
    )
    first, last = ("good", "odd") if time.startswith("-") or "BC" in time else ("odd", "good")
    assert _listed(web) == [first, last]
    site.once()
    for name in ("odd", "good"):
        assert web.get(f"/api/generations/{name}").json()["status"] == "ready"
    assert _listed(web, status="ready") == [first, last]
    page = web.get("/api/generations", params={"limit": 1}).json()
    assert _listed(web, cursor=page["next_cursor"]) == [last]


def _forged(moment: str, row_id: str) -> str:
    """A cursor that no page gave."""
    return base64.urlsafe_b64encode(json.dumps([moment, row_id]).encode()).decode().rstrip("=")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("limit=0", "invalid_request"),
        ("limit=many", "invalid_request"),
        ("status=lost", "invalid_request"),
        ("type=audio", "invalid_request"),
        ("cursor=x", "invalid_cursor"),
        ("cursor=WyIyMDI2IiwgNV0", "invalid_cursor"),
        ("cursor=" + "A" * 600, "invalid_request"),
        ("before=2026-03-01T12:00:00", "invalid_request"),
        ("before=9999-12-31T23:59:59-23:59", "invalid_cursor"),
        ("ids=a&cursor=x", "invalid_request"),
        ("ids=" + ",".join(map(str, range(201))), "invalid_request"),
        *(
            (f"cursor={_forged(*place)}", "invalid_cursor")
            for place in (
                ("2026-01-01T00:00:00+00:00", "\ud800"),
                ("2026-01-01T00:00:00+00:00", "a\0b"),
                ("2026-01-01T00:00:00", "a"),
                ("0001-01-01T00:00:00+23:59", "a"),
                ("9999-12-31T23:59:59-23:59", "a"),
            )
        ),
    ],
)
def test_bad_questions(web: httpx.Client, query: str, code: str) -> None:
    answer = web.get(f"/api/generations?{query}")
    assert (answer.status_code, answer.json()["error"]) == (400, code)
    assert answer.json()["message"]


def test_an_offset_that_the_database_does_not_read(web: httpx.Client) -> None:
    """It was told that the database was gone."""
    cursor = _forged("2026-01-01T00:00:00+23:59:59", "a")
    answer = web.get("/api/generations", params={"cursor": cursor})
    assert answer.json() == {"generations": [], "next_cursor": None}


@pytest.mark.parametrize("row_id", ["none", "%00", "..%2F..%2Fetc", "a'b", "x" * 5000])
def test_unknown_ids(web: httpx.Client, row_id: str) -> None:
    answer = web.get(f"/api/generations/{row_id}")
    assert (answer.status_code, answer.json()["error"]) == (404, "not_found")


def test_nothing_is_read_from_ids_that_are_no_text(site: Site, web: httpx.Client) -> None:
    assert _listed(web, user_id="a\0b") == []


def test_without_the_database(site: Site, web: httpx.Client) -> None:
    site.sql("ALTER TABLE generations RENAME TO hidden")
    answer = web.get("/api/generations")
    assert (answer.status_code, answer.json()["error"]) == (503, "database_unavailable")
    assert answer.headers["Retry-After"]
    site.sql("ALTER TABLE hidden RENAME TO generations")
    assert _listed(web) == []
