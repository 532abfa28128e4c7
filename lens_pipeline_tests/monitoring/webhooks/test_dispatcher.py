"""Webhooks from the event log of a real site to receivers that verify them."""

import datetime as dt
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from lens_pipeline.core.ports import free_port
from lens_pipeline.definitions import job
from lens_pipeline.derivatives.registry import PREVIEW
from lens_pipeline.engine.run_queue import RunQueue
from lens_pipeline.monitoring.feed import Feed
from lens_pipeline.monitoring.webhooks import messages, state
from lens_pipeline.monitoring.webhooks.dispatcher import WebhookDispatcher
from lens_pipeline.monitoring.webhooks.follower import Pace
from lens_pipeline.monitoring.webhooks.targets import connect_targets
from lens_pipeline_tests.monitoring.alerts.receivers import Hook
from lens_pipeline_tests.monitoring.webhooks import process
from lens_pipeline_tests.monitoring.webhooks.receiver import SECRET, Receiver
from lens_pipeline_tests.support.project import PROJECT, Project
from lens_pipeline_tests.support.site import Site, eventually, lens

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
READY, SAVED, FAILED = "generation.ready", "original.saved", "generation.failed"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as started:
        yield started


@pytest.fixture
def hooked(site: Site, receiver: Receiver, environment: pytest.MonkeyPatch) -> Site:
    environment.setenv("LENS_WEBHOOK_URLS", receiver.url)
    environment.setenv("LENS_WEBHOOK_SECRET", SECRET)
    environment.setenv("LENS_PUBLIC_URL", "https://lens.example.org")
    return site


@contextmanager
def _dispatched(site: Site, last_pause: float = 1.0) -> Iterator[WebhookDispatcher]:
    """As in the process `api`."""
    registry = CollectorRegistry()
    pace = Pace(0.2, last_pause)
    made = WebhookDispatcher(site.pipeline, site.dagster, registry, pace)
    feed = Feed(site.pipeline, [made.tell], lambda *_: None)
    for thread in (feed, made):
        thread.start()
    try:
        # Each target has its place from then on.
        eventually(lambda: _has_places(site), 15, "the first place")
        yield made
    finally:
        for thread in (feed, made):
            thread.stop(10)


def _has_places(site: Site) -> bool:
    rows = {target.row for target in connect_targets(site.pipeline.settings)}
    return rows == site.dagster.run_storage.get_cursor_values(rows).keys()


def _await(receiver: Receiver, count: int, *types: str, seconds: float = 30) -> None:
    what = f"the arrival of {count}"
    eventually(lambda: len(receiver.names(*types)) >= count, seconds, what)


def test_each_event_arrives_once_signed_and_in_time(
    hooked: Site, receiver: Receiver, photo: Callable[[str], str]
) -> None:
    hooked.add("before", photo("before"))
    hooked.once()
    # Of two processes one delivers.
    with _dispatched(hooked), _dispatched(hooked):
        hooked.add("adopted", photo("adopted"))
        (hooked.store / "u1/previews/adopted_preview.webp").write_bytes(b"of old workers")
        assert lens("adopt").code == 0
        for number in range(6):
            hooked.add(f"p{number}", photo(f"p{number}"))
        hooked.add("bad", "http://127.0.0.1/bad.jpg?token=query-secret")
        hooked.once()
        _await(receiver, 13)
        time.sleep(1.5)
    # What was made before is not told, nor what is adopted.
    assert Counter(name for name, _ in receiver.names()) == {READY: 6, SAVED: 6, FAILED: 1}
    assert len(receiver.received) == 13
    for one in receiver.received:
        latency = one.at - dt.datetime.fromisoformat(one.event["timestamp"]).timestamp()
        assert 0 <= latency < 5
    ready = next(one.event["data"] for one in receiver.received if one.name == (READY, "p0"))
    url = "https://lens.example.org/api/generations/p0"
    assert (ready["url"], ready["file_url"]) == (url, f"{url}/preview")
    assert (ready["path"], ready["status"]) == ("u1/previews/p0_preview.webp", "ready")
    assert (ready["kind"], ready["user_id"], ready["error"]) == ("photo", "u1", None)
    saved = next(one.event["data"] for one in receiver.received if one.name == (SAVED, "p0"))
    assert (saved["file_url"], saved["user_id"]) == (f"{url}/file", "u1")
    failed = next(one.event["data"] for one in receiver.received if one.name == (FAILED, "bad"))
    assert (failed["status"], failed["error_class"]) == ("dead", "UnsafeAddress")
    assert (failed["file_url"], failed["path"], failed["attempt"]) == (None, None, 1)
    assert "query-secret" not in failed["error"]


def test_nothing_is_lost_by_kill_9_and_an_outage(
    hooked: Site, receiver: Receiver, photo: Callable[[str], str]
) -> None:
    with _dispatched(hooked):
        pass
    for number in range(16):
        hooked.add(f"p{number}", photo(f"p{number}"))
    hooked.once()
    receiver.delay = 0.1
    with _process() as killed:
        _await(receiver, 10)
        killed.kill()
    assert len(receiver.names()) < 32
    receiver.delay = 0
    receiver.answer = lambda event: 503
    with _dispatched(hooked) as dispatcher:
        eventually(lambda: len(receiver.refused) > 20, 20, "an outage")
        hooked.add("later", photo("later"))
        hooked.once()
        receiver.answer = lambda event: 204
        _await(receiver, 34)
        assert dispatcher.troubles() == {}
    assert Counter(name for name, _ in receiver.names()) == {READY: 17, SAVED: 17}
    # A message that comes again is the same.
    bodies = {(one.id, one.body) for one in receiver.received + receiver.refused}
    assert len(bodies) == 34


@contextmanager
def _process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-m", process.__name__], cwd=ROOT) as started:
        try:
            yield started
        finally:
            started.kill()


def test_a_refused_message_holds_back_its_subject_alone(
    hooked: Site, receiver: Receiver, photo: Callable[[str], str], environment: pytest.MonkeyPatch
) -> None:
    """Nor does one target hold back another."""
    dead = f"http://127.0.0.1:{free_port()}/"
    environment.setenv("LENS_WEBHOOK_URLS", f"{dead},{receiver.url}")
    receiver.answer = lambda event: 400 if event["data"]["id"] == "a" else 204
    with _dispatched(hooked) as dispatcher:
        hooked.add("a", "http://127.0.0.1/a.jpg")
        hooked.once()
        eventually(lambda: receiver.refused, 10, "the refusal")
        hooked.sql("UPDATE generations SET asset_url = :url", url=photo("a"))
        hooked.add("b", photo("b"))
        hooked.once()
        _await(receiver, 2)
        assert {key for _, key in receiver.names()} == {"b"}
        environment.setattr(state, "_LATE_SECONDS", 0)
        told = dispatcher.troubles()
        assert "answers 400" in told["webhook 2 (127.0.0.1)"]
        assert "cannot be reached: ConnectError" in told["webhook 1 (127.0.0.1)"]
        receiver.answer = lambda event: 204
        _await(receiver, 5)
    assert [name for name, key in receiver.names() if key == "a"] == [FAILED, READY, SAVED]


def test_a_target_that_is_gone_is_asked_no_more_until_a_replay(
    hooked: Site, receiver: Receiver, photo: Callable[[str], str]
) -> None:
    receiver.answer = lambda event: 410
    with _dispatched(hooked) as dispatcher:
        began = dt.datetime.now(dt.UTC)
        hooked.add("a", photo("a"))
        hooked.once()
        eventually(dispatcher.troubles, 10, "the end of the target")
        refused = len(receiver.refused)
        hooked.add("b", photo("b"))
        hooked.once()
        with sa.create_engine(hooked.dagster_url).connect() as hanging:
            hanging.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = '9s'")
            hanging.exec_driver_sql("LOCK TABLE kvs")
            asked = time.monotonic()
            assert "410" in str(dispatcher.troubles())
            assert time.monotonic() - asked < 8
        listed = hooked.lens("webhooks", "list")
        assert listed.code == 1
        assert "wants no messages any more (410)" in listed.out
        time.sleep(1.5)
        assert len(receiver.refused) == refused
        receiver.answer = lambda event: 204
        assert hooked.lens("webhooks", "replay", "--target", "1").code == 0
        _await(receiver, 4)
        first = list(receiver.received)
        # All of it again, with the same ids.
        since = (began - dt.timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%S")
        assert hooked.lens("webhooks", "replay", "--since", since).code == 0
        eventually(lambda: len(receiver.received) == 2 * len(first), 10, "the replay")
        assert {one.id for one in receiver.received} == {one.id for one in first}
        listed = hooked.lens("webhooks", "list", "--json")
        (target,) = listed.json["targets"]
        assert (listed.code, target["waiting"], target["problem"]) == (0, 0, None)
    tried = hooked.lens("webhooks", "test")
    assert (tried.code, receiver.received[-1].event["type"]) == (0, "webhook.test")
    assert "query-secret" not in listed.out + tried.out + tried.err
    assert hooked.lens("webhooks", "replay", "--target", "2").code == 2


def test_a_run_that_ends_before_it_tells_is_told(
    hooked: Site, receiver: Receiver, environment: pytest.MonkeyPatch
) -> None:
    environment.setattr(messages, "_MOST_PARTITIONS", 2)
    ids = ["a", "b", "c", "d", "e"]
    for id_ in ids:
        hooked.add(id_, f"https://example.org/{id_}.jpg")
    with _dispatched(hooked):
        queue = RunQueue(hooked.pipeline, hooked.dagster, job)
        (run_id,) = queue.submit({PREVIEW: ids}, "api")
        run = hooked.dagster.get_run_by_id(run_id)
        assert run is not None
        hooked.dagster.report_run_canceled(run)
        _await(receiver, 5)
    assert sorted(receiver.names()) == [(FAILED, id_) for id_ in ids]
    data = receiver.received[0].event["data"]
    assert (data["status"], data["error_class"], data["run_id"]) == ("dead", "Canceled", run_id)


def test_people_are_told_of_each_film(
    hooked: Site, receiver: Receiver, environment: pytest.MonkeyPatch
) -> None:
    with Hook() as hook:
        environment.setenv("LENS_NOTIFY_URLS", hook.url)
        project = Project(hooked)
        project.master("m1", [project.shot("a"), "a"], name="Spring")
        project.asset("picture", asset_url="u1/none.txt")
        project.master("m2", ["picture"], name="Autumn")
        project.rendition("s1", "m1")
        with _dispatched(hooked):
            hooked.once()
            _await(receiver, 3, "master.ready", "master.failed", "rendition.ready")
            eventually(lambda: len(hook.received) == 2, 10, "the messages")
            time.sleep(1.5)
    assert len(hook.received) == 2
    page = f"https://lens.example.org/masters?project={PROJECT}"
    told = {one["title"]: one["message"] for one in hook.received}
    assert told["Your film is ready: Spring"] == f"0:02\n{page}"
    assert page in told["Your film cannot be made: Autumn"]
    found = {one.event["type"]: one.event["data"] for one in receiver.received}
    url = f"https://lens.example.org/api/projects/{PROJECT}"
    master, rendition = found["master.ready"], found["rendition.ready"]
    assert (master["name"], master["project_id"]) == ("Spring", PROJECT)
    assert (master["url"], master["file_url"]) == (
        f"{url}/master-videos/m1",
        f"{url}/master-videos/m1/video",
    )
    assert (rendition["master_id"], rendition["url"]) == ("m1", f"{url}/scaled-videos/s1")
    assert found["master.failed"]["status"] == "dead"
