"""The whole stack on a real RabbitMQ, while it and its workers die."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx2 as httpx
import psutil
import pytest

from lens_pipeline.engine.workers.broker import BrokerFull, BrokerRefusal, reach
from lens_pipeline_tests.support import sources
from lens_pipeline_tests.support.rabbit import RabbitServer
from lens_pipeline_tests.support.servers import Answer, HostileServer
from lens_pipeline_tests.support.site import Site, eventually
from lens_pipeline_tests.support.stack import Stack

pytestmark = [pytest.mark.slow, pytest.mark.stack]

# RabbitMQ's own is half an hour.
PATIENCE_SECONDS = 4
SLOTS = 2
BATCH = 5


class Sources(HostileServer):
    """Serves photos; those below /held/ only once `opened` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = threading.Event()

    def answer_for(self, target: str, headers: dict[str, str]) -> Answer | None:
        answer = super().answer_for(target, headers)
        if target.startswith("/held/"):
            self.opened.wait(60)
        return answer

    def held(self, name: str) -> str:
        self.opened.clear()
        return self.put(f"/held/{name}.jpg", sources.jpeg())

    def photo(self, name: str) -> str:
        return self.put(f"/{name}.jpg", sources.jpeg())


@pytest.fixture(scope="module")
def server() -> Iterator[Sources]:
    with Sources() as started:
        yield started
        started.opened.set()


@pytest.fixture(scope="module")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    directory = tmp_path_factory.mktemp("rabbit")
    with RabbitServer(directory, consumer_timeout=PATIENCE_SECONDS * 1000) as started:
        yield started
    assert _processes_of(directory) == []


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, rabbit: RabbitServer) -> Iterator[Stack]:
    with Stack(
        tmp_path_factory.mktemp("stack") / "home",
        LENS_BROKER_URL=rabbit.url,
        LENS_BATCH_SIZE=str(BATCH),
        LENS_PREVIEW_CONCURRENCY=str(SLOTS),
    ) as stack:
        yield stack


@pytest.fixture
def site(stack: Stack) -> Site:
    return stack.site


def test_photos_become_ready_and_leave_nothing_in_the_broker(
    stack: Stack, rabbit: RabbitServer, site: Site, server: Sources
) -> None:
    """A broker that is supported and does not work, or whose queues grow with each run."""
    site.add_many((f"a{number:02}" for number in range(20)), server.photo)
    _await_all_ready(stack, 20, 40)
    eventually(lambda: _health(stack) == (200, "ok"), 20, "health", every=1)
    assert _depth(stack) == 0
    queues = rabbit.queues()
    assert set(queues.values()) == {0}
    assert sorted(name.partition(".")[0] for name in queues if "pidbox" not in name) == [
        "masters",
        "previews",
    ]
    assert sum("pidbox" in name for name in queues) == 2, queues


def test_a_run_may_take_longer_than_the_broker_waits(
    stack: Stack, site: Site, server: Sources
) -> None:
    """A long master whose broker ends the worker each half hour, so that it never gets done."""
    worker = stack.of("worker")[0].pid
    site.add("long", server.held("long"))
    eventually(lambda: "PRECONDITION_FAILED" in _worker_log(stack), 30, "the end of patience")
    site.add("beside", server.photo("beside"))
    eventually(lambda: stack.states().get("beside") == "ready", 20, "what comes meanwhile")
    server.opened.set()
    _await_all_ready(stack, 22, 20)
    assert server.requests["/held/long.jpg"] == 1
    assert stack.of("worker")[0].pid == worker


def test_a_broker_that_dies_loses_no_work_and_says_so(
    stack: Stack, rabbit: RabbitServer, site: Site, server: Sources
) -> None:
    """Photos that wait for ever, or are made twice, after the broker's machine has failed."""
    names = [f"b{number:02}" for number in range(BATCH * SLOTS)]
    site.add_many(names, server.held)
    eventually(lambda: _held(server, "b") >= SLOTS, 20, "the runs")
    site.add_many((f"c{number:02}" for number in range(20)), server.photo)
    eventually(lambda: _depth(stack) >= 4, 20, "the run queue")
    # What waits is Dagster's to order by priority: the broker has no more than workers can begin.
    assert sum(rabbit.queues().values()) <= SLOTS

    rabbit.kill()
    eventually(lambda: _health(stack) == (503, "cannot be reached: OperationalError"), 10, "alarm")
    assert _depth(stack) >= 4
    told = stack.lens("doctor")
    assert told.returncode == 1
    assert f"no broker at amqp://lens@127.0.0.1:{rabbit.port}/pipeline" in told.stdout
    assert "start it or correct LENS_BROKER_URL" in told.stdout
    assert "Traceback" not in told.stdout + told.stderr
    server.opened.set()
    eventually(lambda: set(map(stack.states().get, names)) == {"ready"}, 20, "what was under way")

    rabbit.start()
    _await_all_ready(stack, 22 + len(names) + 20, 60)
    eventually(lambda: _health(stack) == (200, "ok"), 20, "health", every=1)
    assert set(stack.made().values()) == {1}


def test_a_run_whose_worker_is_killed_is_made_by_another(
    stack: Stack, site: Site, server: Sources
) -> None:
    """A photo that stays in work for ever, because the broker gives its run to no other worker."""
    site.add("lost", server.held("lost"))
    eventually(lambda: _held(server, "lost"), 20, "the run")
    for process in stack.of("worker"):
        with suppress(psutil.NoSuchProcess):  # children end with their parent
            process.kill()
    eventually(lambda: stack.states()["lost"] == "failed", 60, "the loss to be noticed", every=1)
    server.opened.set()
    stack.tick_backfill()
    eventually(lambda: stack.states()["lost"] == "ready", 40, "the preview", every=0.5)
    assert stack.made()["lost"] == 1


def test_a_login_that_the_broker_refuses_is_named(stack: Stack, rabbit: RabbitServer) -> None:
    """Advice to start a broker that runs, where the password is wrong."""
    with pytest.raises(BrokerRefusal, match="vhost sesame not found"):
        reach(rabbit.url_for(vhost="sesame"), 5)

    right = stack.environment["LENS_BROKER_URL"]
    stack.environment["LENS_BROKER_URL"] = rabbit.url_for(password="sesame")
    try:
        told = stack.lens("doctor")
    finally:
        stack.environment["LENS_BROKER_URL"] = right
    assert told.returncode == 1
    assert "refuses us (ACCESS_REFUSED" in told.stdout and "in LENS_BROKER_URL" in told.stdout
    assert "sesame" not in told.stdout
    assert "Traceback" not in told.stdout + told.stderr


def test_a_broker_that_is_full_is_named(
    stack: Stack, rabbit: RabbitServer, site: Site, server: Sources
) -> None:
    """A broker that takes every login and no message, while all checks are green."""
    with rabbit.full():
        with pytest.raises(BrokerFull):
            reach(rabbit.url, 2)
        status, says = eventually(lambda: _health_unless_ok(stack), 10, "the alarm")
        assert (status, says) == (503, "it takes no messages: it has no memory or disk left")
    site.add("after", server.photo("after"))
    eventually(lambda: stack.states().get("after") == "ready", 20, "the preview")


def _await_all_ready(stack: Stack, number: int, seconds: float) -> None:
    eventually(lambda: stack.tally() == {"ready": number}, seconds, "all ready", every=0.5)


def _health(stack: Stack) -> tuple[int, str]:
    """The status of /api/health, and what it says of the broker."""
    answer = httpx.get(f"http://127.0.0.1:{stack.api_port}/api/health", timeout=20)
    return answer.status_code, answer.json()["broker"]


def _health_unless_ok(stack: Stack) -> tuple[int, str] | None:
    found = _health(stack)
    return None if found[1] == "ok" else found


def _depth(stack: Stack) -> float:
    """How many runs wait, by /metrics."""
    text = httpx.get(f"http://127.0.0.1:{stack.api_port}/metrics", timeout=20).text
    lines = [line for line in text.splitlines() if line.startswith("lens_queue_depth{")]
    return sum(float(line.split()[-1]) for line in lines if "previews" in line)


def _held(server: Sources, name: str) -> int:
    return sum(
        number for path, number in server.requests.items() if path.startswith(f"/held/{name}")
    )


def _worker_log(stack: Stack) -> str:
    return (stack.home / "logs" / "worker-previews.log").read_text(errors="replace")


def _processes_of(directory: Path) -> list[psutil.Process]:
    """Of Erlang, which has helpers and daemons."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("HOME") == str(directory):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found
