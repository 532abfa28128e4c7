"""The stream of what changes, as browsers read it."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import httpx2 as httpx
import pytest
from fastapi import FastAPI

from lens_pipeline.definitions import job
from lens_pipeline.derivatives.registry import MASTER, PREVIEW, assets
from lens_pipeline.engine.run_queue import RunQueue
from lens_pipeline.event_log.changes import Position
from lens_pipeline.event_log.history import ReportedProgress, Stage
from lens_pipeline.event_log.tags import PERCENT_TAG, PROGRESS_TAG
from lens_pipeline.monitoring.feed import Batch
from lens_pipeline.web.app import create_app
from lens_pipeline.web.auth.caller import Caller
from lens_pipeline.web.context import Context
from lens_pipeline.web.routes.events import EventBroadcaster, View
from lens_pipeline_tests.support.project import PROJECT, Project
from lens_pipeline_tests.support.site import Site, eventually
from lens_pipeline_tests.support.web import served
from lens_pipeline_tests.web.routes.event_source import Event, EventSource
from lens_pipeline_tests.web.tcp_proxy import AppBehindProxy

pytestmark = pytest.mark.slow

Photo = Callable[[str], str]


def _queued(site: Site, *ids: str) -> str:
    """Have a run queued for previews that nobody executes; returns its id."""
    (run_id,) = RunQueue(site.pipeline, site.dagster, job).submit({PREVIEW: ids}, "api")
    return run_id


def _new_events(stream: EventSource, name: str, seconds: float = 1.5) -> list[Event]:
    """What comes within so many seconds."""
    before = len(stream.events)
    time.sleep(seconds)
    return [event for event in stream.events[before:] if event.name == name]


def test_a_photo_from_processing_to_ready(site: Site, web: httpx.Client, photo: Photo) -> None:
    with EventSource(web) as stream:
        site.add("p1", photo("p1"))
        site.once()
        ready = stream.await_state("p1", "ready").data
    assert stream.states("p1") in (["processing", "ready"], ["ready"])
    shown = web.get("/api/generations/p1").json()
    assert ready == ready | {"kind": "photo", "asset": "preview", "user_id": "u1"}
    assert ready == ready | {"project_id": None, "path": shown["path"], "error": None}
    assert ready["at"] == shown["ready_at"].replace("Z", "+00:00")


def test_changes_are_told_within_a_second(site: Site, web: httpx.Client) -> None:
    site.add("p1", "https://example.org/p1.jpg")
    with EventSource(web) as stream:
        run_id = _queued(site, "p1")
        asked = time.monotonic()
        queued = stream.await_state("p1", "processing")
        assert (queued.at - asked, queued.data["run_id"]) < (1.0, run_id)
        run = site.dagster.get_run_by_id(run_id)
        assert run is not None
        site.dagster.report_run_canceled(run)
        asked = time.monotonic()
        # A run's end leaves no event on its partitions.
        cancelled = stream.await_state("p1", "dead")
        assert cancelled.at - asked < 1.0
        assert (cancelled.data["error_class"], cancelled.data["error"]) == (
            "Canceled",
            "It was cancelled",
        )


def test_failures_and_what_is_gone(site: Site, web: httpx.Client, photo: Photo) -> None:
    with EventSource(web) as everybody, EventSource(web, user_id="u1") as owner:
        site.add("bad", "http://127.0.0.1/none.jpg")
        site.add("good", photo("good"))
        site.once()
        dead = owner.await_state("bad", "dead").data
        assert (dead["error_class"], dead["attempts"], dead["path"]) == ("UnsafeAddress", 1, None)
        assert "127.0.0.1" in dead["error"]
        owner.await_state("good", "ready")
        site.sql("DELETE FROM generations WHERE id = 'good'")
        site.lens("remove-missing", "--yes")
        # Also told to its owner, though no row says any more whose it was.
        owner.await_state("good", "none")
        everybody.await_state("good", "none")


def test_only_what_was_asked_for(site: Site, web: httpx.Client, photo: Photo) -> None:
    project = Project(site)
    with (
        EventSource(web, user_id="ann") as ann,
        EventSource(web, project_id=PROJECT) as films,
        EventSource(web) as everything,
    ):
        site.add("a", photo("a"), user_id="ann")
        site.add("b", photo("b"), user_id="bob")
        project.master("m", ["none"])
        site.once()
        everything.await_state("a", "ready")
        everything.await_state("b", "ready")
        film = films.await_state("m", "dead").data
        ann.await_state("a", "ready")
    assert (film["kind"], film["asset"], film["project_id"]) == ("master", "master_video", PROJECT)
    assert {event["id"] for event in ann.named("status")} == {"a"}
    assert {event["id"] for event in films.named("status")} == {"m"}


def test_what_was_missed_is_told_later(site: Site, web: httpx.Client, photo: Photo) -> None:
    with EventSource(web) as stream:
        site.add("before", photo("before"))
        site.once()
        stream.await_state("before", "ready")
        eventually(lambda: stream.last_id, 5)
    site.add("meanwhile", photo("meanwhile"))
    site.add("bad", "http://127.0.0.1/none.jpg")
    site.once()
    with EventSource(web, last_id=stream.last_id) as again:
        again.await_state("meanwhile", "ready")
        again.await_state("bad", "dead")
        assert again.named("reset") == []
    assert again.states("before") in ([], ["ready"])


@pytest.mark.parametrize(
    "last_id",
    ["nonsense", "1", "-", "1-2-3-4-5-x", "9" * 400, "-".join(["9" * 19] * 6), "1-1-1-1-1-1-1"],
)
def test_nonsense_ids_reset(web: httpx.Client, last_id: str) -> None:
    with EventSource(web, last_id=last_id) as stream:
        stream.await_event(lambda event: event.name == "reset")
    assert Position.parse(str(stream.last_id), len(assets()))


def test_ids_of_another_log_reset(web: httpx.Client) -> None:
    """The database was made anew, or is an older copy."""
    with EventSource(web, last_id="900000-1-1-1-1-1") as stream:
        stream.await_event(lambda event: event.name == "reset")


def test_who_missed_too_much_starts_anew(
    site: Site, web: httpx.Client, environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("LENS_BATCH_SIZE", "1000")  # of few runs
    with EventSource(web) as stream:
        eventually(lambda: stream.last_id, 5)
    ids = [f"p{n:04}" for n in range(1100)]
    site.add_many(ids, lambda row_id: f"https://example.org/{row_id}.jpg")
    RunQueue(site.pipeline, site.dagster, job).submit({PREVIEW: ids}, "api")
    with EventSource(web, last_id=stream.last_id) as again:
        again.await_event(lambda event: event.name == "reset")


def test_progress_is_told_in_percent(site: Site, web: httpx.Client) -> None:
    project = Project(site)
    project.asset("s1", asset_url="https://example.org/s1.mp4")
    project.master("m1", ["s1"])
    (run_id,) = RunQueue(site.pipeline, site.dagster, job).submit({MASTER: ["m1"]}, "api")
    with EventSource(web, project_id=PROJECT) as stream, EventSource(web, user_id="u1") as other:
        text = "37 %: encoding shot s1, about 50 s left"
        said = ReportedProgress(text, 37, Stage.ENCODING, 50)
        site.dagster.add_run_tags(run_id, said.tags)
        asked = time.monotonic()
        event = stream.await_event(lambda event: event.name == "progress")
        assert event.at - asked < 1.5
        assert event.data == {
            "kind": "master",
            "asset": "master_video",
            "id": "m1",
            "user_id": None,
            "project_id": PROJECT,
            "run_id": run_id,
            "percent": 37,
            "text": text,
            "stage": "encoding",
            "seconds_left": 50,
        }
        site.dagster.add_run_tags(run_id, {PROGRESS_TAG: "storing", PERCENT_TAG: ""})
        stream.await_event(lambda e: e.name == "progress" and e.data["percent"] is None)
        assert other.named("progress") == []
    # Who comes later need not wait for the next word.
    with EventSource(web) as late:
        assert late.await_event(lambda e: e.name == "progress", 1).data["text"] == "storing"


def test_a_queue_of_another_app_shows_too(site: Site, web: httpx.Client, app: FastAPI) -> None:
    """Whichever process of the app a browser is connected to."""
    site.add("p1", "https://example.org/p1.jpg")
    other_app = create_app(Context(site.pipeline, RunQueue(site.pipeline, site.dagster, job)))
    with served(other_app) as url, httpx.Client(base_url=url) as other:
        with EventSource(web) as one, EventSource(other) as two:
            _queued(site, "p1")
            one.await_state("p1", "processing")
            two.await_state("p1", "processing")
            last = eventually(lambda: one.last_id, 5)
        # And comes back to the other.
        with EventSource(other, last_id=last) as moved:
            assert not _new_events(moved, "reset", 0.5)


def test_a_stop_ends_every_stream_at_once(app: FastAPI) -> None:
    with ExitStack() as stack:
        with served(app) as url, httpx.Client(base_url=url) as web:
            streams = [stack.enter_context(EventSource(web)) for _ in range(5)]
            stuck = stack.enter_context(_deaf(url))
            started = time.monotonic()
        assert all(stream.ended.wait(3) for stream in streams)
        assert time.monotonic() - started < 5
        stuck.close()


@contextmanager
def _deaf(url: str) -> Iterator[socket.socket]:
    """A client that asks for the stream and reads nothing."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((host, int(port)))
        client.sendall(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        yield client


def _read_to_end(client: socket.socket, row_id: str) -> None:
    """Read until the row is told to be dead, or a reset; fails after 10 s of silence."""
    client.settimeout(10)
    received = b""
    while b"event: reset" not in received:
        told = [line for line in received.split(b"\n") if f'"id": "{row_id}"'.encode() in line]
        if any(b'"status": "dead"' in line for line in told):
            return
        data = client.recv(1 << 20)
        assert data, "the stream has ended"
        received += data


def test_many_browsers_and_slow_ones(site: Site, web: httpx.Client, photo: Photo) -> None:
    """200 browsers hear of everything at once; 50 more that read nothing keep nobody waiting."""
    streams: list[EventSource] = []
    with ExitStack() as stack:
        deaf = [stack.enter_context(_deaf(str(web.base_url))) for _ in range(50)]
        streams = [stack.enter_context(EventSource(web)) for _ in range(200)]
        ids = [f"p{n:04}" for n in range(400)]
        site.add_many(ids, lambda row_id: f"https://example.org/{row_id}.jpg")
        queue = RunQueue(site.pipeline, site.dagster, job)
        runs = queue.submit({PREVIEW: ids}, "api")
        for stream in streams:
            stream.await_state(ids[-1], "processing", 30)
        for run_id in runs:
            run = site.dagster.get_run_by_id(run_id)
            assert run is not None
            site.dagster.report_run_canceled(run)
        ended = time.monotonic()
        for stream in streams:
            stream.await_state(ids[-1], "dead", 30)
        slowest = max(stream.await_state(ids[-1], "dead").at for stream in streams) - ended
        assert slowest < 10
        for stream in streams:
            assert stream.named("reset") == []
            assert {event["id"] for event in stream.named("status")} == set(ids)
        # Who reads at last still gets to the end of it, or is told of the gap.
        for client in deaf[:3]:
            _read_to_end(client, ids[-1])


def test_a_slow_reader_is_reset_and_goes_on() -> None:
    def position(n: int) -> Position:
        return Position((n,) * len(assets()), n)

    async def read() -> list[bool]:
        broadcaster = EventBroadcaster(asyncio.get_running_loop())
        slow = broadcaster.subscribe(View(Caller(), None, None))
        for n in range(350):
            broadcaster.tell(Batch(position(n), position(n + 1)))
        await asyncio.sleep(0)
        found = []
        while packet := await slow.next(0.05):
            found.append(packet.is_reset)
        assert slow.position == position(350)
        return found

    found = asyncio.run(read())
    assert found[0] and not any(found[1:])
    assert len(found) <= 100


def test_without_the_database(site: Site, unsteady: AppBehindProxy, photo: Photo) -> None:
    """Whoever is connected hears of what happened meanwhile once it is back, and of the gap."""
    with unsteady.served() as web, EventSource(web) as stream:
        site.add("p1", photo("p1"))
        site.once()
        stream.await_state("p1", "ready")
        unsteady.database.refuse()
        answer = web.get("/api/generations")
        assert (answer.status_code, answer.json()["error"]) == (503, "database_unavailable")
        time.sleep(0.5)
        unsteady.database.serve()
        site.add("p2", photo("p2"))
        site.once()
        stream.await_event(lambda event: event.name == "reset")
        stream.await_state("p2", "ready")
        assert web.get("/api/generations").status_code == 200


def test_an_app_that_begins_without_the_database(site: Site, unsteady: AppBehindProxy) -> None:
    site.add("p1", "https://example.org/p1.jpg")
    unsteady.database.refuse()
    with unsteady.served() as web, EventSource(web, last_id="1-1-1-1-1-1") as stream:
        stream.await_event(lambda event: event.name == "reset")
        unsteady.database.serve()
        eventually(lambda: stream.last_id != "1-1-1-1-1-1", 10)
        _queued(site, "p1")
        stream.await_state("p1", "processing")
