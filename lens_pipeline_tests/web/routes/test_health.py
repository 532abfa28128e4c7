"""Whether the app says how everything is, and soon, whatever hangs."""

import asyncio
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from importlib.metadata import version
from typing import Any, cast

import httpx2 as httpx
import pytest
from celery.contrib.testing.worker import start_worker
from dagster._daemon.types import DaemonHeartbeat

from lens_pipeline.core.endpoints import Endpoints
from lens_pipeline.derivatives.registry import MASTERS, PREVIEWS, QUEUES
from lens_pipeline.derivatives.release import Release
from lens_pipeline.engine.workers.app import celery_queue, worker_app
from lens_pipeline.monitoring.probes import services
from lens_pipeline.monitoring.probes.probe import Probe, Result
from lens_pipeline.settings import Settings, load
from lens_pipeline.supervisor.services import running
from lens_pipeline_tests.support.site import Site, eventually
from lens_pipeline_tests.web.tcp_proxy import AppBehindProxy, TcpProxy

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("brisk")]


@pytest.fixture(scope="session")
def broker_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Valkey."""
    home = tmp_path_factory.mktemp("broker")
    # Not asked for, and so not started.
    elsewhere = Settings(home=home, database_url="postgresql://nobody@127.0.0.1:1/none")
    with running(elsewhere, broker=True, command="tests") as endpoints:
        yield endpoints.broker_url


def _beat(site: Site, age_seconds: float = 0.0) -> None:
    """As the daemon does every 30 seconds."""
    site.dagster.add_daemon_heartbeat(
        DaemonHeartbeat(time.time() - age_seconds, "QUEUED_RUN_COORDINATOR", "test", [])
    )


def _asked(web: httpx.Client, path: str = "/api/health") -> tuple[int, dict[str, Any], float]:
    """Status, answer and the seconds that it took."""
    started = time.monotonic()
    answer = web.get(path)
    assert answer.headers["Cache-Control"] == "no-store"
    return answer.status_code, answer.json(), time.monotonic() - started


def _asked_without(web: httpx.Client, name: str) -> tuple[int, dict[str, Any], float] | None:
    """As `_asked`, once it is known that the service is gone."""
    found = _asked(web)
    return found if found[0] == 503 and found[1][name] != "ok" else None


@contextmanager
def _workers(url: str, *queues: str) -> Iterator[None]:
    """A worker of these queues, by default all, that only answers."""
    release = Release.of(load()[0])
    app = worker_app(Endpoints("", "", url, url), release)
    names = ",".join(celery_queue(queue, release) for queue in queues or QUEUES)
    worker = start_worker(app, pool="solo", perform_ping_check=False, queues=names)
    with cast("AbstractContextManager[object]", worker):
        yield


def test_health_and_everything_that_goes(
    site: Site, unsteady: AppBehindProxy, broker_url: str, photo: Callable[[str], str]
) -> None:
    """Each service in turn is taken away and comes back, while the app serves on."""
    _beat(site)
    server = httpx.URL(broker_url)
    with (
        TcpProxy(server.host, server.port or 0) as broker,
        unsteady.served(broker_url=broker_url.replace(str(server.port), str(broker.port))) as web,
        _workers(broker_url),
    ):
        eventually(lambda: _asked(web)[0] == 200, 20, "health", every=0.5)
        status, answer, _ = _asked(web, "/health")
        assert status == 200
        assert answer == {
            "status": "ok",
            "version": version("lens-pipeline"),
            **dict.fromkeys(("database", "broker", "store", "daemon"), "ok"),
            "workers": 2,
            "queues_without_worker": [],
            "oldest_unprocessed_seconds": None,
            "alerts": "off",
        }

        moved = site.store.with_name("moved")
        outages: list[tuple[str, Callable[[], object], Callable[[], object]]] = [
            ("database", unsteady.database.refuse, unsteady.database.serve),
            ("database", unsteady.database.hang, unsteady.database.serve),
            ("broker", broker.refuse, broker.serve),
            ("broker", broker.hang, broker.serve),
            ("store", lambda: site.store.rename(moved), lambda: moved.rename(site.store)),
            ("daemon", lambda: _beat(site, 500), lambda: _beat(site)),
        ]
        for name, take_away, give_back in outages:
            take_away()
            status, answer, took = eventually(
                partial(_asked_without, web, name), 15, f"no {name}", every=0.3
            )
            assert (answer["status"], took < 5) == ("unavailable", True)
            others = {"database", "broker", "store", "daemon"} - {name}
            assert {other: answer[other] for other in others} == dict.fromkeys(others, "ok")
            live = web.get("/health/live")
            assert (live.status_code, live.elapsed.total_seconds() < 1) == (200, True)
            assert web.get("/metrics").status_code == 200
            give_back()
            eventually(lambda: _asked(web)[0] == 200, 20, f"the return of the {name}", every=0.5)
        # It serves as if nothing had been.
        site.add("p1", photo("p1"))
        site.once()
        assert web.get("/api/generations/p1").json()["status"] == "ready"


def test_without_anything(web: httpx.Client) -> None:
    """No broker, no worker, no daemon ever: said in words, without a secret."""
    status, answer, _ = _asked(web)
    assert (status, answer["status"], answer["workers"]) == (503, "unavailable", None)
    assert answer["broker"] == "none is known: set LENS_BROKER_URL"
    assert answer["daemon"] == "does not run: it never beat"
    assert (answer["database"], answer["store"]) == ("ok", "ok")


@pytest.mark.as_root
@pytest.mark.parametrize(
    ("spoil", "mend", "says"),
    [
        ("dd if=/dev/zero of=rest bs=4k status=none", "rm rest", "No space left on device"),
        ("mount -o remount,ro .", "mount -o remount,rw .", "Read-only file system"),
    ],
)
def test_a_store_that_takes_no_more_files(
    site: Site, web: httpx.Client, photo: Callable[[str], str], spoil: str, mend: str, says: str
) -> None:
    """`ok` of a store that is full or read-only, while every file fails."""

    def run(command: str) -> int:
        """In the store."""
        done = subprocess.run(command.split(), cwd=site.store, check=False, capture_output=True)
        return done.returncode

    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", site.store], check=True)
    try:
        eventually(lambda: _asked(web)[1]["store"] == "ok", 10)
        run(spoil)
        site.add("a", photo("a"))
        assert site.once()["failed"] == 1
        status, answer, _ = eventually(lambda: _asked_without(web, "store"), 10, every=0.3)
        assert (status, answer["store"]) == (503, f"cannot be written: {says}")
        assert web.get("/health/live").status_code == 200
        assert run(mend) == 0
        eventually(lambda: _asked(web)[1]["store"] == "ok", 10, every=0.3)
    finally:
        subprocess.run(["umount", "--lazy", site.store], check=True)


def test_the_queue_that_nobody_works_on_is_named(
    site: Site, unsteady: AppBehindProxy, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masters that wait all night, while health said no more than "unavailable"."""
    _beat(site)
    monkeypatch.setattr(services, "alive_workers", lambda _: {PREVIEWS: 3, MASTERS: 0})
    with unsteady.served(broker_url=broker_url) as web:
        status, answer, _ = _asked(web)
    assert (status, answer["status"], answer["workers"]) == (503, "unavailable", 3)
    assert answer["queues_without_worker"] == [MASTERS]


def test_probes_that_ask_by_head(web: httpx.Client) -> None:
    """An uptime monitor that calls a healthy app down, as its HEAD is answered with 405."""
    for prefix in ("", "/api"):
        for path, status in (("/health/live", 200), ("/health", 503)):
            answer = web.head(prefix + path)
            assert (answer.status_code, answer.content) == (status, b"")


def test_many_probes_ask_each_service_once() -> None:
    asked: list[float] = []

    def slow() -> str:
        asked.append(time.monotonic())
        time.sleep(0.1)
        return "well"

    async def ask(probe: Probe) -> list[Result]:
        return await asyncio.gather(*(probe.answer(2) for _ in range(50)))

    probe = Probe("slow", slow)
    answers = asyncio.run(ask(probe)) + asyncio.run(ask(probe))
    assert {answer.value for answer in answers} == {"well"}
    assert len(asked) == 1


def test_what_hangs_is_asked_once_and_waited_for_shortly() -> None:
    release = threading.Event()
    asked: list[int] = []

    def hang() -> None:
        asked.append(1)
        release.wait(20)

    probe = Probe("hanging", hang)
    for _ in range(3):
        answer = asyncio.run(probe.answer(0.1))
        assert answer.problem == "does not answer within 0.1 s"
    assert len(asked) == 1
    release.set()
    assert eventually(probe.last, 5).problem is None


def _oldest(web: httpx.Client) -> float | None:
    return _asked(web)[1]["oldest_unprocessed_seconds"]


def test_the_oldest_unprocessed(site: Site, web: httpx.Client, photo: Callable[[str], str]) -> None:
    site.add_many(["a", "b"], photo, age="2 h")
    site.add("bad", "http://127.0.0.1/none.jpg")
    site.add("running", None, status="generating")
    site.sql("UPDATE generations SET updated_at = now() - interval '3 h' WHERE id = 'bad'")
    eventually(lambda: 10_700 < (_oldest(web) or 0) < 10_900, 10)
    site.once()  # which leaves a dead letter
    eventually(lambda: _oldest(web) is None, 10)
    # Old ones that are behind the mark come up again.
    site.lens("retry", "bad")
    eventually(lambda: 10_700 < (_oldest(web) or 0) < 10_900, 10)
    site.once()
    eventually(lambda: _oldest(web) is None, 10)
