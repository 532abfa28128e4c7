"""The whole stack while its processes die, stop, or race another stack."""

import contextlib
import subprocess
import sys
import urllib.error
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from lens_pipeline.derivatives.registry import MASTER, PHOTO_ORIGINAL, PREVIEW
from lens_pipeline.event_log.history import State
from lens_pipeline_tests.media.samples import decoded
from lens_pipeline_tests.support import sources
from lens_pipeline_tests.support.project import Project
from lens_pipeline_tests.support.servers import HostileServer
from lens_pipeline_tests.support.site import Databases, Site, eventually
from lens_pipeline_tests.support.stack import Stack

pytestmark = [pytest.mark.slow, pytest.mark.stack]

RECOVERY_SECONDS = 240
# Photos whose provider is gone.
_KEPT = 20


@pytest.fixture
def serve(server: HostileServer) -> Callable[[str], str]:
    """Serves photos large enough that a hundred of them take a while."""
    body = sources.large_jpeg()

    def put(name: str) -> str:
        return server.put(f"/{name}.jpg", body)

    return put


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One that tries failures again each minute; each test adds rows of its own."""
    home = tmp_path_factory.mktemp("faults") / "home"
    with Stack(home, LENS_BACKFILL_CRON="* * * * *", LENS_BATCH_SIZE="10") as stack:
        yield stack


@pytest.fixture
def stacks(tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    made: list[Stack] = []

    def make(name: str, **variables: str) -> Stack:
        made.append(Stack(tmp_path / name, **variables))
        return made[-1]

    yield make
    for stack in made:
        if stack.is_running:
            stack.begin_to_stop()
    for stack in made:
        stack.stop()


def _kill(processes: list[psutil.Process]) -> None:
    assert processes
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _ready(stack: Stack) -> int:
    """How many previews are ready; 0 while the database is away."""
    with contextlib.suppress(Exception):
        return stack.tally()["ready"]
    return 0


@pytest.mark.timeout(600)
def test_all_is_made_anew_of_originals_though_the_provider_is_gone_and_the_worker_dies(
    stack: Stack,
) -> None:
    """Pictures that were lost with a change of quality, as their links had expired."""
    site = stack.site
    photos = {f"o{number:03}": sources.large_jpeg() + b"%d" % number for number in range(_KEPT)}
    videos = {f"film{number}": sources.mp4(24 + number) for number in range(2)}
    with HostileServer() as provider:
        for name, body in (photos | videos).items():
            provider.put(f"/{name}", body)
        site.add_many(photos, lambda name: provider.url(f"/{name}"))
        for name in videos:
            site.add(name, provider.url(f"/{name}"), type="video")
        eventually(lambda: len(site.originals()) == len(photos | videos), 240, "all originals")
        eventually(lambda: _in_flight(stack) == 0, 60, "the end of all runs")
    assert sorted(site.originals().values()) == sorted((photos | videos).values())
    assert stack.terminate() == 0

    stack.change(LENS_PREVIEW_QUALITY="60")
    pictures = {name: site.store / f"u1/previews/{name}_preview.webp" for name in photos}
    before = {name: picture.read_bytes() for name, picture in pictures.items()}
    stack.start()
    project = Project(site)
    for name in videos:
        project.asset(name, generation_id=name)
    project.master("m1", list(videos))

    def ticked() -> bool:
        # Soon after a start, Dagster loads the definitions anew, and answers with an error.
        with contextlib.suppress(urllib.error.URLError):
            stack.tick_backfill()
            return True
        return False

    def remade() -> int:
        assert set(stack.states().values()) == {"ready"}
        return sum(pictures[name].read_bytes() != before[name] for name in photos)

    eventually(ticked, 30, "a tick")
    eventually(remade, 60, "the first that is made anew")
    _kill(stack.of("worker"))
    eventually(
        lambda: ticked() and remade() == len(photos), RECOVERY_SECONDS, "all made anew", every=1
    )
    eventually(lambda: stack.status("m1")[MASTER.asset].state is State.READY, 60, "the master")
    eventually(lambda: stack.made() == dict.fromkeys(photos, 2), 10, "their records")
    for picture in pictures.values():
        decoded(picture.read_bytes())
    assert sorted(site.originals().values()) == sorted((photos | videos).values())


@pytest.mark.timeout(900)
def test_a_hundred_photos_survive_the_death_of_every_kind_of_process(
    stack: Stack, serve: Callable[[str], str]
) -> None:
    """A machine that loses work, or waits for a person, whenever a process is killed."""
    site = stack.site
    others = stack.tally()["ready"]
    names = [f"p{number:03}" for number in range(100)]

    def run_process() -> list[psutil.Process]:
        return stack.of("worker")[0].children()

    victims = {
        "a run": run_process,
        "the worker": lambda: stack.of("worker"),
        "the daemon": lambda: stack.of("daemon"),
        "postgres": lambda: stack.of("postgres"),
    }
    # Each dies while the others' loss is still being made up for, but with new work under way.
    for number, (name, processes) in enumerate(victims.items()):
        before = _ready(stack)
        site.add_many(names[25 * number : 25 * (number + 1)], serve)
        eventually(lambda before=before: _ready(stack) > before, 240, f"work before {name} dies")
        _kill(processes()[:1])

    def outcome() -> Counter[str]:
        with contextlib.suppress(Exception):
            return stack.tally()
        return Counter()

    wanted = {"ready": others + 100}
    with contextlib.suppress(pytest.fail.Exception):
        eventually(lambda: outcome() == wanted, RECOVERY_SECONDS, "all ready", every=1)
    assert outcome() == wanted, _unready(stack)
    previews = {key for key in site.objects() if key.startswith("u1/previews/p")}
    assert previews == {f"u1/previews/{name}_preview.webp" for name in names}


@pytest.mark.timeout(600)
def test_a_stop_in_the_middle_of_work_is_clean_and_the_next_start_finishes(
    stack: Stack, serve: Callable[[str], str], server: HostileServer
) -> None:
    """Orphans, torn files and lost work at each deployment."""
    site = stack.site
    before = stack.tally()["ready"]
    # Processes that were killed left theirs, which are swept later.
    left = stack.unfinished()
    names = [f"q{number:02}" for number in range(60)]
    site.add_many(names, serve)
    # Outlasts the grace.
    site.add("hanging", server.url("/slow-body"))
    eventually(lambda: _ready(stack) >= before + 5, 60, "the first previews")
    eventually(lambda: server.requests["/slow-body"], 60, "the slow download")

    assert stack.terminate() == 0
    assert stack.processes() == []
    assert stack.unfinished() <= left
    previews = {key for key in site.objects() if key.startswith("u1/previews/")}
    for key in previews:
        decoded((site.store / key).read_bytes())

    server.put("/slow-body", sources.jpeg())
    stack.start()
    with contextlib.suppress(pytest.fail.Exception):
        eventually(lambda: stack.tally() == {"ready": before + 61}, 240, "all ready", every=1)
    assert stack.tally() == {"ready": before + 61}, _unready(stack)
    assert len(previews) < before + 61


def test_two_stacks_and_a_backfill_make_nothing_twice(
    stacks: Callable[..., Stack],
    serve: Callable[[str], str],
    databases: Databases,
    tmp_path: Path,
) -> None:
    """Double work, and two writers of one object, as soon as there is a second machine."""
    application, dagster = (
        databases.create("template_application"),
        databases.create("template_dagster"),
    )
    shared = {
        "LENS_DATABASE_URL": databases.url(application),
        "LENS_DAGSTER_URL": databases.url(dagster),
        "LENS_STORE_URL": (tmp_path / "store").as_uri(),
        "LENS_BATCH_SIZE": "5",
        "LENS_BACKFILL_CRON": "* * * * *",
    }
    first, second = stacks("first", **shared), stacks("second", **shared)
    first.start()
    second.start()
    site = Site(databases.url(application), databases.url(dagster), tmp_path / "store")
    names = [f"p{number:02}" for number in range(40)]
    site.add_many(names[:20], serve)
    backfill = subprocess.Popen(
        [sys.executable, "-m", "lens_pipeline.cli", "backfill", "--json"],
        cwd=tmp_path,
        env=first.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        site.add_many(names[20:], serve)
        with contextlib.suppress(pytest.fail.Exception):
            eventually(lambda: first.tally() == {"ready": 40}, 120, "all ready", every=1)
        assert first.tally() == {"ready": 40}, _unready(first)
        assert backfill.wait(60) == 0
    finally:
        backfill.kill()
        backfill.wait()
    # Whatever is still queued finds nothing left to do.
    eventually(lambda: _in_flight(first) == 0, 60, "the end of all runs")
    for asset in (PREVIEW.asset, PHOTO_ORIGINAL.asset):
        assert first.made(asset) == dict.fromkeys(names, 1)
    for name in names:
        decoded((site.store / f"u1/previews/{name}_preview.webp").read_bytes())
    assert first.unfinished() == set()


def _in_flight(stack: Stack) -> int:
    return len(
        stack.dagster("SELECT 1 FROM runs WHERE status NOT IN ('SUCCESS', 'FAILURE', 'CANCELED')")
    )


def _unready(stack: Stack) -> str:
    """What to look at after a failure: states that are not ready, and how their runs ended."""
    unready = {key: state for key, state in stack.states().items() if state != "ready"}
    histories = stack.pipeline.log.histories("preview", list(unready)[:5])
    return f"{unready}\n{histories}"
