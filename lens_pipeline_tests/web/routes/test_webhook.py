"""The provider's webhook, looking at a task by hand, and trying again."""

import base64
import datetime as dt
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, get_args

import dagster as dg
import httpx2 as httpx
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from standardwebhooks import Webhook as Scheme

from lens_pipeline.definitions import job
from lens_pipeline.engine.run_queue import RunQueue
from lens_pipeline.errors import StoreUnavailable
from lens_pipeline.providers.client import Limits
from lens_pipeline.providers.kie import Kie, signature
from lens_pipeline.providers.models import Deliveries
from lens_pipeline.storage.file_store import FileStore
from lens_pipeline.storage.object_store import ObjectInfo
from lens_pipeline.web.app import create_app
from lens_pipeline.web.auth.caller import Caller, CallerDep
from lens_pipeline.web.context import Context
from lens_pipeline_tests.providers.provider_server import PATH, WEBHOOK_KEY, ProviderServer
from lens_pipeline_tests.support import sources
from lens_pipeline_tests.support.servers import Answer, HostileServer
from lens_pipeline_tests.support.site import Databases, Site, eventually
from lens_pipeline_tests.support.ticker import Ticker
from lens_pipeline_tests.support.web import served
from lens_pipeline_tests.web.routes.signatures import headers

pytestmark = pytest.mark.slow

# What tells the app who asks.
_ASKS = get_args(CallerDep)[1].dependency
RESULT = "https://files.example.org/r/1.jpg"


@pytest.fixture
def provider(environment: pytest.MonkeyPatch) -> Iterator[ProviderServer]:
    with ProviderServer() as started:
        for name, value in started.settings.items():
            environment.setenv(name, value)
        yield started


@pytest.fixture
def app(site: Site, provider: ProviderServer) -> FastAPI:
    return create_app(Context(site.pipeline, RunQueue(site.pipeline, site.dagster, job)))


@contextmanager
def impatient(site: Site, provider: ProviderServer, **limits: Any) -> Iterator[httpx.Client]:
    """Asks an app that gives the provider less time or fewer attempts."""
    queue = RunQueue(site.pipeline, site.dagster, job)
    asked = Kie(site.pipeline.settings, Limits(**limits))
    app = create_app(Context(site.pipeline, queue, connected={"kie": asked}))
    with served(app) as url, httpx.Client(base_url=url, timeout=20) as client:
        yield client


def generating(site: Site, row_id: str, **columns: Any) -> str:
    """A row whose task the provider works on; returns the task's id."""
    task_id = f"task_{row_id}"
    row = {"asset_url": None, "status": "generating", "task_id": task_id, **columns}
    site.add(row_id, **row)
    return task_id


def deliver(web: httpx.Client, task_id: str, **signing: Any) -> httpx.Response:
    body = {"code": 200, "data": {"taskId": task_id, "state": "success"}}
    return web.post("/api/kie/webhook", json=body, headers=headers(task_id, **signing))


def row(site: Site, row_id: str) -> tuple[str, str | None]:
    ((status, asset_url),) = site.sql(
        "SELECT status, asset_url FROM generations WHERE id = :id", id=row_id
    )
    return status, asset_url


def refused(answer: httpx.Response) -> tuple[int, str]:
    problem = answer.json()
    assert problem["message"]
    return answer.status_code, problem["error"]


def test_a_webhook_finishes_the_row_and_queues_its_preview(
    site: Site, web: httpx.Client, provider: ProviderServer
) -> None:
    task = generating(site, "p1")
    provider.say(task, "success", RESULT, "https://files.example.org/r/2.jpg")
    answer = deliver(web, task)
    assert answer.status_code == 200, answer.text
    (run,) = site.runs()
    assert answer.json() == {
        "status": "updated",
        "task_id": task,
        "state": "success",
        "generation_id": "p1",
        "generation_ids": ["p1"],
        "generation_status": "success",
        "asset_url": RESULT,
        "extra_urls": ["https://files.example.org/r/2.jpg"],
        "message": None,
        "run_ids": [run.run_id],
    }
    assert row(site, "p1") == ("success", RESULT)
    assert run.status is dg.DagsterRunStatus.QUEUED
    assert run.tags["lens/origin"] == "webhook"
    assert run.tags["dagster/asset_partition_range_start"] == "p1"
    assert run.tags["dagster/asset_partition_range_end"] == "p1"
    assert web.get("/api/generations/p1").json()["status"] == "processing"


def test_further_results_are_kept_beside_the_original(
    site: Site, web: httpx.Client, provider: ProviderServer, server: HostileServer
) -> None:
    """Three of four pictures that a user paid for, which were gone after two weeks."""
    bodies = [sources.jpeg(), sources.png(), sources.jpeg(50, 40)]
    for number, body in enumerate(bodies, start=1):
        server.put(f"/{number}", body)
    server.fail_first("/3", 503, times=3)
    task = generating(site, "p1")
    links = [server.url(f"/{number}?key=secret", host="localhost") for number in range(1, 5)]
    provider.say(task, "success", *links)
    deliver(web, task)
    second = "/api/generations/p1/file?n=2"
    assert web.get(second).headers["location"] == links[1]
    events = site.dagster.fetch_observations(dg.AssetKey("photo_generation"), limit=10).records
    assert [str(one).count("secret") for one in events] == [0]

    (run,) = site.runs()
    site.dagster.delete_run(run.run_id)
    assert site.once()["ready"] == 1
    assert web.get("/api/generations/p1").json()["status"] == "ready"
    revision = site.metadata("photo_generation", "p1")["revision"].value
    keys = [f"u1/originals/p1_{revision}{end}" for end in (".jpg", "_2.png", "_3.jpg")]
    listed = web.get("/api/generations/p1").json()["extra_files"]
    assert [one["path"] for one in listed] == [keys[1], None, None]
    assert "503" in listed[1]["error"]
    assert "404" in listed[2]["error"]
    assert "secret" not in str(site.metadata("photo_generation", "p1"))

    # What can be had is tried again, once a minute has passed, and then five.
    assert site.once()["found"] == 0
    made = len(site.materializations("photo_generation"))
    server.fail_first("/3", 503, times=3)
    for is_due in (True, False):
        asked = server.requests.total()
        site.age_events("2 minutes")
        site.once()
        assert (server.requests.total() > asked) == is_due
    assert len(site.materializations("photo_generation")) == made
    site.age_events("5 minutes")
    site.once()
    assert site.originals() == dict(zip(keys, bodies, strict=True))
    server.remove("/2")
    found = web.get(second)
    assert (found.content, found.headers["content-type"]) == (bodies[1], "image/png")
    assert found.headers["content-disposition"].startswith('inline; filename="1_2.png"')
    assert web.get("/api/generations/p1/file?n=5").status_code == 404
    (site.store / keys[2]).write_bytes(b"x" * len(bodies[2]))
    assert [one["path"] for one in site.lens("verify", "--json").json["damaged"]] == [keys[2]]
    asked = server.requests.total()
    site.once()
    assert server.requests.total() == asked

    site.sql("DELETE FROM generations")
    site.lens("remove-missing", "--yes", "--now")
    assert site.originals() == {}


def test_further_results_are_kept_without_the_first(
    site: Site, web: httpx.Client, provider: ProviderServer, server: HostileServer
) -> None:
    """Three good pictures that were lost because the first one was."""
    for path in ("/2", "/3"):
        server.put(path, sources.jpeg())
    server.fail_first("/3", 404, times=2)
    links = [server.url(f"/{number}", host="localhost") for number in range(1, 4)]
    task = generating(site, "p1")
    provider.say(task, "success", *links)
    deliver(web, task)
    site.dagster.delete_run(site.runs()[0].run_id)
    assert site.once()["failed"] == 1
    assert site.dead_letters()["p1"]["error_class"] == "SourceMissing"
    (path,) = site.originals()
    listed = web.get("/api/generations/p1").json()["extra_files"]
    assert [one["path"] for one in listed] == [path, None]
    asked = server.requests.total()
    assert site.once()["found"] == 0
    assert server.requests.total() == asked

    # A retry finds what is there by then.
    server.put("/1", sources.png())
    site.lens("retry", "p1")
    site.once()
    assert (len(site.originals()), server.requests["/2"]) == (3, 1)


def test_further_results_kept_without_the_first_go_with_their_row(
    site: Site, web: httpx.Client, provider: ProviderServer, server: HostileServer
) -> None:
    server.put("/2", sources.jpeg())
    links = [server.url(f"/{number}", host="localhost") for number in (1, 2)]
    task = generating(site, "p1")
    provider.say(task, "success", *links)
    deliver(web, task)
    site.dagster.delete_run(site.runs()[0].run_id)
    site.once()
    assert len(site.originals()) == 1
    site.sql("DELETE FROM generations")
    site.lens("remove-missing", "--yes", "--now")
    assert site.originals() == {}


def test_further_results_of_which_a_late_webhook_tells(
    site: Site, web: httpx.Client, provider: ProviderServer, server: HostileServer
) -> None:
    """A site that finished its row itself, whose original was kept at once."""
    links = [server.put(path, sources.jpeg()) for path in ("/1", "/2")]
    links = [link.replace("127.0.0.1", "localhost") for link in links]
    task = generating(site, "p1", status="success", asset_url=links[0])
    site.once()
    provider.say(task, "success", *links)
    assert deliver(web, task).json()["status"] == "unchanged"
    site.once()
    assert len(site.originals()) == 2
    made = len(site.materializations("photo_generation"))
    # The same again, and with nothing to do.
    deliver(web, task, at=int(time.time()) - 1)
    site.once()
    assert len(site.materializations("photo_generation")) == made


def test_further_results_in_the_store_are_listed_whatever_happens(
    site: Site,
    web: httpx.Client,
    provider: ProviderServer,
    server: HostileServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One time-out or a killed run, and a picture in the store that nothing names any more."""
    links = [server.put(path, sources.jpeg()) for path in ("/1", "/2", "/3")]
    links = [link.replace("127.0.0.1", "localhost") for link in links]
    task = generating(site, "p1", status="success", asset_url=links[0])
    provider.say(task, "success", *links[:2])
    deliver(web, task)
    site.dagster.delete_run(site.runs()[0].run_id)
    site.once()
    stat = FileStore.stat

    def stat_in_vain(store: FileStore, key: str) -> ObjectInfo | None:
        if "_2." in key:
            raise StoreUnavailable("away")
        return stat(store, key)

    # A run stored the third one, and was killed.
    (second,) = (key for key in site.originals() if "_2." in key)
    (site.store / second.replace("_2.", "_3.")).write_bytes(sources.jpeg(50, 40))
    provider.say(task, "success", *links)
    deliver(web, task, at=int(time.time()) - 60)
    server.remove("/2")
    server.remove("/3")
    with monkeypatch.context() as broken:
        broken.setattr(FileStore, "stat", stat_in_vain)
        site.once()
    site.once()
    listed = web.get("/api/generations/p1").json()["extra_files"]
    assert [one["path"] for one in listed] == [second, second.replace("_2.", "_3.")]
    assert site.lens("verify", "--all").code == 0


def test_a_video_gets_a_poster(site: Site, web: httpx.Client, provider: ProviderServer) -> None:
    task = generating(site, "v1", type="video")
    provider.say(task, "success", "https://files.example.org/r/1.mp4")
    assert len(deliver(web, task).json()["run_ids"]) == 1
    assert site.runs()[0].job_name == "posters"


def test_where_the_task_is_named(site: Site, web: httpx.Client, provider: ProviderServer) -> None:
    """The body is not signed: only whose task it is counts, the rest is the provider's to say."""
    for row_id, body in {
        "p1": {"data": {"taskId": "task_p1"}},
        "p2": {"data": {"task_id": "task_p2"}},
        "p3": {"taskId": "task_p3", "data": None},
        "p4": {"task_id": "task_p4", "data": {"state": "fail", "failMsg": "forged"}},
    }.items():
        task = generating(site, row_id)
        provider.say(task, "success", RESULT)
        answer = web.post("/api/kie/webhook", json=body, headers=headers(task))
        assert answer.json()["status"] == "updated", answer.text
        assert row(site, row_id) == ("success", RESULT)


def test_a_failed_task_fails_the_row(
    site: Site, web: httpx.Client, provider: ProviderServer
) -> None:
    task = generating(site, "p1")
    provider.say(task, "fail", failMsg=" not\n\x1b\ud800allowed ")
    now = int(time.time())
    answer = deliver(web, task, at=now).json()
    assert (answer["status"], answer["state"], answer["message"]) == (
        "updated",
        "fail",
        "not allowed",
    )
    assert row(site, "p1") == ("failed", None)
    assert site.runs() == []
    # It may yet succeed; a finished row fails no more.
    provider.say(task, "success", RESULT)
    assert deliver(web, task, at=now - 1).json()["status"] == "updated"
    provider.say(task, "fail", failMsg="late")
    assert deliver(web, task, at=now - 2).json()["status"] == "unchanged"
    assert row(site, "p1") == ("success", RESULT)


def test_an_unfinished_task_changes_nothing(
    site: Site, web: httpx.Client, provider: ProviderServer
) -> None:
    task = generating(site, "p1")
    for state in ("waiting", "queuing", "generating"):
        provider.say(task, state)
        answer = deliver(web, task).json()
        assert (answer["status"], answer["state"]) == ("pending", state)
        assert row(site, "p1") == ("generating", None)
    # The same delivery again is no duplicate: it was not handled yet.
    provider.say(task, "success", RESULT)
    assert deliver(web, task).json()["status"] == "updated"


def test_a_finished_row_stays_as_its_site_made_it(
    site: Site, web: httpx.Client, provider: ProviderServer
) -> None:
    """A file that the site has moved to its own store, and a webhook that points back."""
    task = generating(site, "p1", status="completed", asset_url="u1/uploads/p1.jpg")
    provider.say(task, "success", RESULT)
    before = site.sql("SELECT * FROM generations")
    answer = deliver(web, task).json()
    assert (answer["status"], answer["generation_status"]) == ("unchanged", "completed")
    assert site.sql("SELECT * FROM generations") == before
    # What was missed is made all the same.
    assert len(answer["run_ids"]) == 1


def test_a_finished_row_without_a_file_gets_it(
    site: Site, web: httpx.Client, provider: ProviderServer
) -> None:
    task = generating(site, "p1", status="success", asset_url="")
    provider.say(task, "success", RESULT)
    assert deliver(web, task).json()["status"] == "updated"
    assert row(site, "p1") == ("success", RESULT)


def test_the_same_delivery_again_does_nothing(
    site: Site, web: httpx.Client, provider: ProviderServer
) -> None:
    task = generating(site, "p1")
    provider.say(task, "success", RESULT)
    now = int(time.time())
    assert deliver(web, task, at=now).json()["status"] == "updated"
    for _ in range(9):
        answer = deliver(web, task, at=now)
        assert (answer.status_code, answer.json()) == (200, {"status": "duplicate"})
    assert provider.asked == [task]
    # Signed anew it is looked at, and changes nothing either.
    again = deliver(web, task, at=now - 1).json()
    assert (again["status"], again["run_ids"]) == ("unchanged", [])
    assert len(site.runs()) == 1


def test_what_was_handled_is_forgotten_in_time() -> None:
    """A process that remembers every delivery of a year."""
    known = Deliveries(most=3)
    for name in "abcd":
        known.remember(name)
    assert [name for name in "abcd" if known.is_known(name)] == ["b", "c", "d"]
    expired = Deliveries(skew_seconds=0)
    expired.remember("d")
    assert not expired.is_known("d")


def test_ten_webhooks_at_once_and_the_sensor_start_one_run(
    site: Site, web: httpx.Client, provider: ProviderServer
) -> None:
    """A preview made ten times over, or a run for each of the ten that finds nothing to do."""
    tasks = [generating(site, f"p{number}") for number in range(4)]
    for task in tasks:
        provider.say(task, "success", RESULT)
    ticker = Ticker(site)
    done = threading.Event()

    def tick() -> None:
        while not done.is_set():
            ticker.tick()

    sensor = threading.Thread(target=tick)
    sensor.start()
    try:
        with ThreadPoolExecutor(10) as threads:
            for task in tasks:
                now = int(time.time())
                # Half of them the very same, half signed by themselves.
                times = [now - max(0, number - 4) for number in range(10)]
                answers = list(threads.map(lambda at, t=task: deliver(web, t, at=at), times))
                assert {answer.status_code for answer in answers} == {200}
                said = [answer.json() for answer in answers]
                assert sum(answer["status"] == "updated" for answer in said) == 1
                assert sum(len(answer.get("run_ids", [])) for answer in said) == 1
    finally:
        done.set()
        sensor.join()
    ticker.tick()
    assert ticker.requested == []
    assert len(site.runs()) == 4


def test_a_row_is_not_seen_as_finished_before_its_run_is_known(
    site: Site, provider: ProviderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash of the database in between, and a run for a row that is not finished."""
    task = generating(site, "p1")
    provider.say(task, "success", RESULT)
    queue = RunQueue(site.pipeline, site.dagster, job)
    prepare = queue.prepare

    def prepare_and_lose_the_database(*arguments: Any, owner: str) -> list[dg.DagsterRun]:
        runs = prepare(*arguments, owner=owner)
        assert row(site, "p1") == ("generating", None)
        assert [run.status for run in site.runs()] == [dg.DagsterRunStatus.NOT_STARTED]
        site.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return runs

    monkeypatch.setattr(queue, "prepare", prepare_and_lose_the_database)
    app = create_app(Context(site.pipeline, queue))
    with served(app) as url, httpx.Client(base_url=url, timeout=20) as web:
        assert refused(deliver(web, task)) == (503, "database_unavailable")
        assert site.runs() == []
        assert row(site, "p1") == ("generating", None)
        monkeypatch.setattr(queue, "prepare", prepare)
        assert deliver(web, task).json()["status"] == "updated"
    assert len(site.runs()) == 1


def test_without_dagsters_database_the_row_is_finished_all_the_same(
    site: Site, web: httpx.Client, provider: ProviderServer
) -> None:
    """A result that the provider tells of once, and that is lost with a database beside it."""
    task = generating(site, "p1")
    provider.say(task, "success", RESULT)
    dagster = sa.create_engine(site.dagster_url, poolclass=sa.NullPool)
    with dagster.begin() as connection:
        connection.execute(sa.text("ALTER TABLE runs RENAME TO hidden"))
    answer = deliver(web, task).json()
    with dagster.begin() as connection:
        connection.execute(sa.text("ALTER TABLE hidden RENAME TO runs"))
    assert (answer["status"], answer["run_ids"]) == ("updated", [])
    assert Ticker(site).tick() == ["p1"]


def test_without_dagsters_database_no_result_of_several_is_lost(
    site: Site, web: httpx.Client, provider: ProviderServer
) -> None:
    """Addresses that no row holds: the provider must tell of them again."""
    task = generating(site, "p1")
    provider.say(task, "success", RESULT, "https://files.example.org/r/2.jpg")
    dagster = sa.create_engine(site.dagster_url, poolclass=sa.NullPool)
    with dagster.begin() as connection:
        connection.execute(sa.text("ALTER TABLE event_logs RENAME TO hidden"))
    assert refused(deliver(web, task)) == (503, "database_unavailable")
    with dagster.begin() as connection:
        connection.execute(sa.text("ALTER TABLE hidden RENAME TO event_logs"))
    assert row(site, "p1") == ("generating", None)
    assert deliver(web, task).json()["status"] == "updated"
    (extra,) = web.get("/api/generations/p1").json()["extra_files"]
    assert (extra["n"], extra["file_url"]) == (2, "/api/generations/p1/file?n=2")


def test_without_the_table(site: Site, web: httpx.Client, provider: ProviderServer) -> None:
    task = generating(site, "p1")
    provider.say(task, "success", RESULT)
    site.sql("ALTER TABLE generations RENAME TO hidden")
    assert refused(deliver(web, task)) == (503, "database_unavailable")
    site.sql("ALTER TABLE hidden RENAME TO generations")
    assert deliver(web, task).json()["status"] == "updated"


def test_a_disabled_pipeline_writes_and_starts_nothing(
    site: Site, provider: ProviderServer, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("LENS_ENABLED", "false")
    task = generating(site, "p1")
    provider.say(task, "success", RESULT)
    app = create_app(Context(site.pipeline, RunQueue(site.pipeline, site.dagster, job)))
    with served(app) as url, httpx.Client(base_url=url, timeout=20) as web:
        answer = deliver(web, task).json()
    assert (answer["status"], answer["run_ids"]) == ("updated", [])
    assert site.runs() == []


def test_a_row_that_can_never_be_used_is_finished_and_said(
    site: Site, web: httpx.Client, provider: ProviderServer
) -> None:
    provider.say(generating(site, "p1", user_id="../etc"), "success", RESULT)
    answer = deliver(web, "task_p1").json()
    assert (answer["status"], answer["run_ids"]) == ("updated", [])
    assert "user_id" in answer["message"]


# Forged, expired, malformed.


def test_the_signature_is_the_providers() -> None:
    """By `openssl dgst -sha256 -hmac KEY -binary | base64` of `task_12345678.1735689600`."""
    expected = "MF/TXowE4RlYhXfhVAp1GeydnIIpaqtixI+gzcT0PI0="
    assert signature(WEBHOOK_KEY, "task_12345678", "1735689600") == expected


def test_forged_and_expired_deliveries(
    site: Site, web: httpx.Client, provider: ProviderServer
) -> None:
    provider.say(generating(site, "p1"), "success", RESULT)
    now = time.time()
    for change, error in [
        ({"X-Webhook-Signature": "bm90IGl0"}, "bad_signature"),
        ({"X-Webhook-Signature": ""}, "bad_signature"),
        ({"X-Webhook-Signature": "\xe9\xff"}, "bad_signature"),
        ({"X-Webhook-Timestamp": "1"}, "bad_signature"),
        (headers("task_other"), "bad_signature"),
        (headers("task_p1", key="guessed"), "bad_signature"),
        (headers("task_p1", at=""), "bad_signature"),
        (headers("task_p1", at=now - 400), "expired"),
        (headers("task_p1", at=now + 1000), "expired"),
        (headers("task_p1", at=str(int(now * 1000))), "expired"),
        (headers("task_p1", at="-1"), "expired"),
        (headers("task_p1", at="1e9"), "expired"),
        (headers("task_p1", at="9" * 500), "expired"),
    ]:
        sent = {
            name.encode(): value.encode("latin-1")
            for name, value in (headers("task_p1") | change).items()
        }
        answer = web.post("/api/kie/webhook", json={"taskId": "task_p1"}, headers=sent)
        assert refused(answer) == (401, error), change
    unsigned = web.post("/api/kie/webhook", json={"taskId": "task_p1"})
    assert refused(unsigned) == (401, "bad_signature")
    assert provider.asked == []
    assert row(site, "p1") == ("generating", None)


def test_bodies_that_are_no_delivery(
    site: Site, web: httpx.Client, provider: ProviderServer
) -> None:
    provider.say(generating(site, "p1"), "success", RESULT)
    for body, status, error in [
        (b"", 400, "invalid_json"),
        (b"taskId=task_p1", 400, "invalid_json"),
        (b'{"taskId": "task_p1"', 400, "invalid_json"),
        (b'"task_p1"', 400, "invalid_json"),
        (b'["task_p1"]', 400, "invalid_json"),
        (b"null", 400, "invalid_json"),
        (b"\xff\xfe\xfd", 400, "invalid_json"),
        (b'{"a":' * 50_000, 400, "invalid_json"),
        (b'{"taskId": "task_p1", "data": ' + b"[" * 900_000, 400, "invalid_json"),
        (b'{"n": ' + b"9" * 900_000 + b"}", 400, "invalid_json"),
        (b"{}", 400, "invalid_task_id"),
        (b'{"data": "task_p1"}', 400, "invalid_task_id"),
        (b'{"taskId": 7}', 400, "invalid_task_id"),
        (b'{"taskId": ""}', 400, "invalid_task_id"),
        (b'{"taskId": "a b"}', 400, "invalid_task_id"),
        (b'{"taskId": "a\\nINFO forged"}', 400, "invalid_task_id"),
        (b'{"taskId": "\\ud800"}', 400, "invalid_task_id"),
        (b'{"taskId": "a\\u0000"}', 400, "invalid_task_id"),
        ('{"taskId": "задача"}'.encode(), 400, "invalid_task_id"),
        (b'{"taskId": "%s"}' % (b"t" * 201), 400, "invalid_task_id"),
        (b'{"taskId": "task_p1", "x": "%s"}' % (b"x" * 2**20), 413, "too_large"),
    ]:
        answer = web.post("/api/kie/webhook", content=body, headers=headers("task_p1"))
        assert refused(answer) == (status, error), body[:50]
    assert provider.asked == []


def test_a_body_that_never_ends_is_cut_off(site: Site, web: httpx.Client) -> None:
    """A body without a length, as large as memory."""

    def chunks() -> Iterator[bytes]:
        for _ in range(64):
            yield b" " * 2**20

    # It may be told, or find the connection closed while it still sends.
    try:
        answer = web.post("/api/kie/webhook", content=chunks(), headers=headers("task_p1"))
    except httpx.TransportError:
        return
    assert refused(answer) == (413, "too_large")


def test_ids_of_strange_characters(site: Site, web: httpx.Client, provider: ProviderServer) -> None:
    strange = ["x';--", '"', "../../etc/passwd", "%00", "a&taskId=b", "#", "?", "{}", "\\"]
    for number, task_id in enumerate(strange):
        assert refused(deliver(web, task_id)) == (404, "unknown_task")
        # And where there is such a row, it is asked for by exactly this id.
        generating(site, f"p{number}", task_id=task_id)
        provider.say(task_id, "success", RESULT)
        assert deliver(web, task_id).json()["status"] == "updated"
    assert provider.asked == strange


def test_a_table_of_a_host_with_types_of_its_own(
    site: Site, app: FastAPI, provider: ProviderServer
) -> None:
    site.sql("DROP INDEX generations_finished_at_id, generations_user_id_finished_at_id")
    site.sql(
        "ALTER TABLE generations ALTER id TYPE uuid USING id::uuid,"
        " ALTER user_id TYPE uuid USING user_id::uuid,"
        " ALTER task_id TYPE uuid USING task_id::uuid,"
        " ALTER updated_at TYPE timestamp, ALTER status DROP NOT NULL"
    )
    row_id, user_id, task = (str(uuid.uuid4()) for _ in range(3))
    site.sql(
        "INSERT INTO generations (id, user_id, type, task_id) VALUES (:id, :user, 'photo', :task)",
        id=row_id,
        user=user_id,
        task=task,
    )
    provider.say(task, "success", RESULT)
    # A process learns the types of columns once.
    with served(app) as url, httpx.Client(base_url=url, timeout=20) as web:
        answer = deliver(web, task).json()
        assert (answer["generation_id"], len(answer["run_ids"])) == (row_id, 1)
        assert refused(deliver(web, "no-uuid")) == (404, "unknown_task")
    assert Ticker(site).tick() == []


def test_a_task_of_several_rows(site: Site, web: httpx.Client, provider: ProviderServer) -> None:
    """A row of a host's table without the unique key that waits for ever."""
    site.sql("ALTER TABLE generations DROP CONSTRAINT generations_task_id_key")
    task = generating(site, "p1")
    generating(site, "p2", user_id="u2", task_id=task)
    provider.say(task, "success", RESULT)
    answer = deliver(web, task).json()
    assert answer["generation_ids"] == ["p1", "p2"]
    assert (row(site, "p1"), row(site, "p2")) == (("success", RESULT),) * 2
    assert len(answer["run_ids"]) == len(site.runs()) == 2
    assert provider.asked == [task]
    assert web.post(f"/api/kie/sync?taskId={task}").json()["status"] == "unchanged"


# The provider unknowing, answering nonsense, down, slow: what it does in detail is in
# test_provider.py.


@pytest.fixture
def asks_once(site: Site, provider: ProviderServer) -> Iterator[httpx.Client]:
    with impatient(site, provider, attempts=1) as client:
        yield client


def test_what_the_provider_does_wrong_is_told(
    site: Site, asks_once: httpx.Client, provider: ProviderServer
) -> None:
    web = asks_once
    task = generating(site, "p1")
    assert refused(deliver(web, task)) == (404, "unknown_task")
    provider.answer_as(task, b"<html>")
    assert refused(deliver(web, task)) == (502, "provider_invalid")
    provider.say(task, "success", "u1/uploads/of-another.jpg")
    assert refused(deliver(web, task)) == (502, "provider_invalid")
    provider.misbehave(PATH, "/resets")
    answer = deliver(web, task)
    assert refused(answer) == (503, "provider_unavailable")
    assert answer.headers["Retry-After"] == "5"
    provider.misbehave(PATH, None)
    assert row(site, "p1") == ("generating", None)
    # None of these counts as handled: the provider may try again with the same signature.
    provider.say(task, "success", RESULT)
    assert deliver(web, task).json()["status"] == "updated"
    provider.answer_first(PATH, Answer(429, headers={"Retry-After": "120"}))
    for _ in range(2):
        answer = deliver(web, task, at=time.time() - 9)
        assert refused(answer) == (503, "provider_unavailable")
        assert 110 <= int(answer.headers["Retry-After"]) <= 120


def test_a_slow_provider_keeps_nobody_else_waiting(site: Site, provider: ProviderServer) -> None:
    """Every thread of the app waiting for the provider, and a page that does not load."""
    provider.misbehave(PATH, "/slow-body")
    task = generating(site, "p1")
    with impatient(site, provider, total_seconds=3) as web, ThreadPoolExecutor(60) as threads:
        slow = [threads.submit(deliver, web, task, at=time.time() - n) for n in range(60)]
        eventually(lambda: provider.asked, 5, "the question")
        # There are 40 threads.
        assert web.get("/api/generations").status_code == 200
        assert not any(answer.done() for answer in slow)
        answers = [answer.result() for answer in slow]
    assert {refused(answer) for answer in answers} == {(504, "provider_unavailable")}


def test_a_shared_secret(
    site: Site,
    provider: ProviderServer,
    environment: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As the address of an old site's webhook has it; signatures made with it count as well."""
    environment.delenv("LENS_KIE_WEBHOOK_KEY")
    environment.setenv("KIE_CALLBACK_SECRET", "s3cret-of-tests")
    tasks = [generating(site, f"p{number}") for number in range(5)]
    for task in tasks:
        provider.say(task, "success", RESULT)
    first, second, third, fourth, fifth = ({"data": {"task_id": task}} for task in tasks)
    secret, bearer = "?secret=s3cret-of-tests", {"Authorization": "Bearer s3cret-of-tests"}
    signed = headers(tasks[4], key="s3cret-of-tests")
    app = create_app(Context(site.pipeline, RunQueue(site.pipeline, site.dagster, job)))
    with served(app) as url, httpx.Client(base_url=url, timeout=20) as web:
        for address, body, given in (
            (f"/api/kie/webhook{secret}", first, {}),
            (f"/api/webhooks/kie{secret}", second, {}),
            (f"/api/webhooks/veo{secret}", third, {}),
            ("/api/webhooks/veo", fourth, bearer),
            ("/api/webhooks/kie", fifth, signed),
        ):
            for status in ("updated", "duplicate"):
                answer = web.post(address, json=body, headers=given)
                assert (answer.status_code, answer.json()["status"]) == (200, status), answer.text
        for address, given in (
            ("/api/webhooks/kie", {}),
            ("/api/webhooks/kie?secret=", {}),
            ("/api/webhooks/kie?secret=s3cret", {}),
            ("/api/webhooks/kie", {"Authorization": "Bearer other"}),
            ("/api/webhooks/kie", {"Authorization": "Basic s3cret-of-tests"}),
        ):
            answer = web.post(address, json=first, headers=given)
            assert refused(answer) == (401, "bad_signature")
        unknown = web.post(f"/api/webhooks/other{secret}", json=first)
        assert refused(unknown) == (404, "unknown_provider")
    assert "s3cret" not in caplog.text


def test_with_a_key_only_signatures_count(
    site: Site, provider: ProviderServer, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("LENS_KIE_SECRET", "s3cret-of-tests")
    task = generating(site, "p1")
    provider.say(task, "success", RESULT)
    app = create_app(Context(site.pipeline, RunQueue(site.pipeline, site.dagster, job)))
    with served(app) as url, httpx.Client(base_url=url, timeout=20) as web:
        answer = web.post("/api/kie/webhook?secret=s3cret-of-tests", json={"taskId": task})
        assert refused(answer) == (401, "bad_signature")
        assert deliver(web, task).json()["status"] == "updated"


def test_each_provider_finishes_its_own_rows(
    site: Site, provider: ProviderServer, environment: pytest.MonkeyPatch
) -> None:
    """Two providers may have given the same id to two tasks."""
    key = "whsec_" + base64.b64encode(b"a key of tests").decode()
    environment.setenv("LENS_REPLICATE_WEBHOOK_KEY", key)
    site.sql("ALTER TABLE generations ADD COLUMN provider text")
    site.sql("ALTER TABLE generations DROP CONSTRAINT generations_task_id_key")
    for row_id in ("of-kie", "of-replicate"):
        site.add(row_id, asset_url=None, status="generating", task_id="same")
    site.sql("UPDATE generations SET provider = 'replicate' WHERE id = 'of-replicate'")
    site.sql("UPDATE generations SET provider = 'kie' WHERE id = 'of-kie'")
    body = json.dumps({"id": "same", "status": "succeeded", "output": [RESULT]})
    at = dt.datetime.now(dt.UTC)
    proof = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Scheme(key).sign("msg_1", at, body),
    }
    app = create_app(Context(site.pipeline, RunQueue(site.pipeline, site.dagster, job)))
    with served(app) as url, httpx.Client(base_url=url, timeout=20) as web:
        for status in ("updated", "duplicate"):
            answer = web.post("/api/webhooks/replicate", content=body, headers=proof)
            assert (answer.status_code, answer.json()["status"]) == (200, status), answer.text
        assert answer.json() == {"status": "duplicate"}
        assert row(site, "of-replicate") == ("success", RESULT)
        assert row(site, "of-kie") == ("generating", None)
        provider.say("same", "fail", failMsg="flagged")
        assert deliver(web, "same").json()["generation_id"] == "of-kie"


def test_a_link_that_has_ended_is_had_anew(
    site: Site, provider: ProviderServer, server: HostileServer
) -> None:
    """Of rows with a task of the provider alone: other links are none of its business."""
    server.put("/fresh", sources.jpeg())
    fresh, ended = (server.url(path, "localhost") for path in ("/fresh", "/status/403"))
    provider.links[ended] = fresh
    site.add("of-task", ended, task_id="t1")
    site.add("no-task", ended)
    site.add("secret", f"{ended}?signature=x", task_id="t3")
    site.once()
    states = {name: site.status(name)["state"] for name in ("of-task", "no-task", "secret")}
    assert states == {"of-task": "ready", "no-task": "dead", "secret": "dead"}
    assert len(provider.posted) == 1


# What our side lacks.


@pytest.mark.parametrize(
    ("unset", "path", "error"),
    [
        ("LENS_KIE_WEBHOOK_KEY", "webhook", "webhook_not_configured"),
        ("LENS_KIE_API_KEY", "webhook", "provider_not_configured"),
        ("LENS_KIE_API_KEY", "sync", "provider_not_configured"),
    ],
)
def test_what_is_not_set_is_named(
    site: Site,
    provider: ProviderServer,
    environment: pytest.MonkeyPatch,
    unset: str,
    path: str,
    error: str,
) -> None:
    environment.delenv(unset)
    task = generating(site, "p1")
    app = create_app(Context(site.pipeline, RunQueue(site.pipeline, site.dagster, job)))
    with served(app) as url, httpx.Client(base_url=url, timeout=20) as web:
        address, body = f"/api/kie/{path}?taskId={task}", {"taskId": task}
        answer = web.post(address, json=body, headers=headers(task))
    assert refused(answer) == (503, error)
    assert unset in answer.json()["message"]


@pytest.fixture
def reader(
    site: Site, provider: ProviderServer, databases: Databases, environment: pytest.MonkeyPatch
) -> Iterator[Callable[[str], None]]:
    """The app's role may only read; executes statements of an administrator."""
    name = site.database_url.rpartition("/")[2]
    databases.execute("CREATE ROLE reader LOGIN PASSWORD 'reads'")
    databases.execute(
        "GRANT USAGE ON SCHEMA public TO reader;"
        " GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader",
        name,
    )
    place = site.database_url.rpartition("@")[2]
    environment.setenv("LENS_DATABASE_URL", f"postgresql://reader:reads@{place}")
    yield lambda statement: databases.execute(statement, name)
    databases.execute("DROP OWNED BY reader", name)
    databases.disconnect(name)
    databases.execute("DROP ROLE reader")


def test_a_role_that_may_not_write_is_told_what_to_grant(
    site: Site, provider: ProviderServer, reader: Callable[[str], None]
) -> None:
    task = generating(site, "p1")
    provider.say(task, "success", RESULT)
    app = create_app(Context(site.pipeline, RunQueue(site.pipeline, site.dagster, job)))
    with served(app) as url, httpx.Client(base_url=url, timeout=20) as web:
        for _ in range(2):  # the grant, then the policy, as the answer itself says
            answer = deliver(web, task)
            assert refused(answer) == (503, "no_right_to_write")
            fix = answer.json()["message"].partition(": run ")[2]
            assert fix.startswith(("GRANT", "CREATE POLICY lens_writes"))
            reader(fix)
            reader(
                "ALTER TABLE generations ENABLE ROW LEVEL SECURITY;"
                " DROP POLICY IF EXISTS lens_reads ON generations;"
                " CREATE POLICY lens_reads ON generations FOR SELECT TO reader USING (true)"
            )
        assert deliver(web, task).json()["status"] == "updated"
    assert row(site, "p1") == ("success", RESULT)


# By hand.


def test_sync_does_what_the_webhook_would(
    site: Site, web: httpx.Client, provider: ProviderServer
) -> None:
    task = generating(site, "p1")
    provider.say(task, "success", RESULT)
    first = web.post("/api/kie/sync", params={"taskId": task}).json()
    assert (first["status"], len(first["run_ids"])) == ("updated", 1)
    for _ in range(3):
        again = web.post("/api/kie/sync", params={"taskId": task}).json()
        assert (again["status"], again["run_ids"]) == ("unchanged", [])
    (run,) = site.runs()
    assert run.tags["lens/origin"] == "api"


def test_sync_of_what_is_no_task(web: httpx.Client) -> None:
    for query in ("", "?taskId=", "?taskId=a%0Ab", "?taskId=a%0A", "?taskId=a%00", "?taskId=%F0"):
        assert refused(web.post(f"/api/kie/sync{query}")) == (400, "invalid_request"), query


def test_rows_of_others_are_unknown(
    site: Site, app: FastAPI, web: httpx.Client, provider: ProviderServer
) -> None:
    task = generating(site, "p1", user_id="ann")
    site.add("bad", "ftp://example.org/none.jpg", user_id="ann")
    site.once()
    for who in (Caller(user_id="bob"), Caller(project_id="p")):
        app.dependency_overrides[_ASKS] = lambda who=who: who
        foreign = web.post("/api/kie/sync", params={"taskId": task})
        assert refused(foreign) == (404, "unknown_task")
        unknown = web.post("/api/kie/sync", params={"taskId": "task_x"})
        expected = unknown.json()["message"].replace("task_x", task)
        assert foreign.json()["message"] == expected
        assert refused(web.post("/api/generations/bad/retry")) == (404, "not_found")
    assert provider.asked == []
    assert site.status("bad")["state"] == "dead"


def test_a_failed_preview_is_tried_again(
    site: Site, web: httpx.Client, photo: Callable[[str], str]
) -> None:
    site.add("bad", photo("bad").replace("bad.jpg", "missing.jpg"))
    # Of the same id, but not what was asked for.
    site.sql(
        "INSERT INTO master_videos (master_id, project_id, name, shots_config)"
        " VALUES ('bad', 'p', 'm', '[\"none\"]')"
    )
    site.once()
    assert web.get("/api/generations/bad").json()["status"] == "dead"
    photo("missing")
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: web.post("/api/generations/bad/retry"), range(4)))
    accepted = [answer.json() for answer in answers if answer.status_code == 200]
    assert [entry["status"] for entry in accepted] == ["processing"]
    late = [answer for answer in answers if answer.status_code != 200]
    assert {refused(answer) for answer in late} == {(409, "not_failed")}
    queued = [run for run in site.runs() if run.status is dg.DagsterRunStatus.QUEUED]
    assert [(run.job_name, run.tags["lens/origin"]) for run in queued] == [("previews", "api")]


def test_nothing_to_try_again(site: Site, web: httpx.Client, photo: Callable[[str], str]) -> None:
    site.add("good", photo("good"))
    site.add("new", None, status="generating")
    site.once()
    for row_id in ("good", "new"):
        assert refused(web.post(f"/api/generations/{row_id}/retry")) == (409, "not_failed")
    assert refused(web.post("/api/generations/none/retry")) == (404, "not_found")
