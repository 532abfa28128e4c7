"""The whole stack while a master is encoded: cancelled, killed, stopped; and a film by HTTP."""

import contextlib
import io
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

import av
import httpx2 as httpx
import psutil
import pytest

from lens_pipeline.core.ports import LOOPBACK
from lens_pipeline.media.ffmpeg.tools import find_ffmpeg
from lens_pipeline_tests.support.project import PROJECT, Project
from lens_pipeline_tests.support.site import Site, eventually
from lens_pipeline_tests.support.stack import Stack

pytestmark = [pytest.mark.slow, pytest.mark.stack]

ASSETS = f"/api/projects/{PROJECT}/assets"
MASTERS = f"/api/projects/{PROJECT}/master-videos"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("masters") / "home") as stack:
        yield stack
    assert stack.processes() == []


@pytest.fixture(scope="module")
def site(stack: Stack) -> Site:
    return stack.site


@pytest.fixture(scope="module")
def project(site: Site) -> Project:
    """Two shots that differ in size and rate; to make the second like the first takes seconds."""
    made = Project(site)
    for name, source in {
        "wide": "testsrc2=size=1280x720:rate=30:duration=2",
        "tall": "testsrc2=size=720x1280:rate=25:duration=4",
    }.items():
        key = f"u1/uploads/{name}.mp4"
        (site.store / key).parent.mkdir(parents=True, exist_ok=True)
        encode = ("-vf", "noise=alls=20:allf=t", "-c:v", "libx264", "-preset", "ultrafast")
        arguments = ("-f", "lavfi", "-i", source, *encode, "-y", str(site.store / key))
        subprocess.run([find_ffmpeg(), "-v", "error", *arguments], check=True, timeout=120)
        site.add(name, key, type="video")
        made.asset(name, generation_id=name)
    return made


def _encoders(stack: Stack) -> list[psutil.Process]:
    """Every ffmpeg below the worker for masters."""
    found: list[psutil.Process] = []
    for worker in stack.of("worker-masters"):
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [child for child in worker.children() if "ffmpeg" in child.name()]
    return found


def _begun(stack: Stack, site: Site, project: Project, master_id: str) -> list[psutil.Process]:
    """Insert a master, and wait until it is being encoded."""
    # Otherwise its shots are those of an earlier one.
    shutil.rmtree(site.store / "cache", ignore_errors=True)
    project.master(master_id, ["wide", "tall", "wide"])
    eventually(
        lambda: "encoding" in str(stack.status(master_id)["master_video"].progress),
        60,
        "progress",
    )
    return eventually(lambda: _encoders(stack), 30, "the encode")


def _gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


def _ready(stack: Stack, master_id: str) -> Callable[[], bool]:
    return lambda: {status.state for status in stack.status(master_id).values()} == {"ready"}


def _nothing_is_left(stack: Stack, site: Site, master_id: str) -> None:
    assert not [key for key in site.objects() if f"master_{master_id}_" in key]
    _no_file_is_left(stack)


def _no_file_is_left(stack: Stack) -> None:
    # The shots of a new project are checked as soon as there is a slot for it.
    eventually(lambda: not stack.unfinished(), 60, "an end of all temporary files")


def test_a_master_that_is_cancelled_ends_its_encode_at_once(
    stack: Stack, site: Site, project: Project
) -> None:
    """A cancelled run whose encode takes both cores for ten minutes more."""
    encoders = _begun(stack, site, project, "cancelled")
    run_id = stack.status("cancelled")["master_video"].run_id
    assert run_id
    answer = stack.graphql(
        "mutation ($id: String!) { terminateRun(runId: $id) { __typename } }", {"id": run_id}
    )
    assert answer["terminateRun"]["__typename"] == "TerminateRunSuccess"
    eventually(lambda: _gone(encoders), 5, "the end of ffmpeg")
    eventually(lambda: stack.run(run_id)["status"] == "CANCELED", 20, "the end of the run")
    assert stack.status("cancelled")["master_video"].error_class == "Canceled"
    _nothing_is_left(stack, site, "cancelled")
    assert stack.lens("retry", "cancelled").returncode == 0
    eventually(_ready(stack, "cancelled"), 120, "the master")


def test_an_encode_that_is_killed_fails_for_now_and_is_made_by_the_backfill(
    stack: Stack, site: Site, project: Project
) -> None:
    """An encoder that the kernel kills, after which the master is dead or half a file is served."""
    for encoder in _begun(stack, site, project, "shot-down"):
        encoder.kill()
    eventually(
        lambda: stack.status("shot-down")["master_video"].state == "failed", 30, "the failure"
    )
    status = stack.status("shot-down")["master_video"]
    assert status.error_class == "EncoderDied"
    # The machine is at fault, and not the shots.
    assert status.attempts == 0
    _nothing_is_left(stack, site, "shot-down")
    assert stack.lens("backfill", "--kind", "master", timeout=180).returncode == 0
    assert _ready(stack, "shot-down")()


def test_a_run_that_is_killed_takes_its_encode_along_and_is_made_again(
    stack: Stack, site: Site, project: Project
) -> None:
    """Two encodes of the same film side by side, and a directory of temporary files for ever."""
    encoders = _begun(stack, site, project, "orphaned")
    for child in {encoder.parent() for encoder in encoders}:
        assert child is not None
        child.kill()
    eventually(lambda: _gone(encoders), 5, "the end of ffmpeg")
    eventually(lambda: stack.status("orphaned")["master_video"].state == "failed", 60, "its loss")
    assert stack.lens("backfill", "--kind", "master", timeout=180).returncode == 0
    assert _ready(stack, "orphaned")()
    _no_file_is_left(stack)


@pytest.fixture
def web(stack: Stack) -> Iterator[httpx.Client]:
    url = f"http://{LOOPBACK}:{stack.api_port}"
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client


def test_a_master_that_is_deleted_by_http_ends_its_encode(
    stack: Stack, site: Site, project: Project, web: httpx.Client
) -> None:
    """A deleted master that keeps both cores busy for minutes."""
    encoders = _begun(stack, site, project, "unwanted")
    master = web.get(f"{MASTERS}/unwanted").json()
    assert master["status"] == "processing"
    assert 0 <= master["percent"] <= 100
    view = "SELECT status, progress FROM lens_master_videos WHERE master_id = 'unwanted'"
    eventually(lambda: site.sql(view)[0].progress is not None, 10, "the progress in the view")
    assert site.sql(view)[0].status == "processing"
    assert web.delete(f"{MASTERS}/unwanted").status_code == 204
    eventually(lambda: _gone(encoders), 10, "the end of ffmpeg")
    eventually(lambda: stack.run(master["run_id"])["status"] == "CANCELED", 20, "its record")
    assert web.get(f"{MASTERS}/unwanted").status_code == 404
    _nothing_is_left(stack, site, "unwanted")


def test_a_film_by_http_from_the_order_to_the_player(
    stack: Stack, site: Site, web: httpx.Client
) -> None:
    """A master that can be ordered over HTTP and not be watched, played or downloaded."""
    project = Project(site)
    for name in ("a", "b"):
        project.shot(name)
        added = web.post(ASSETS, json={"generation_id": name, "asset_id": f"asset-{name}"})
        assert added.status_code == 201, added.text
    master = _order(web, "Фильм 🎬", ["asset-a", "asset-b", "asset-a"])
    ready = eventually(
        lambda: (found := _get(web, master))["status"] == "ready" and found, 60, "the master"
    )
    eventually(lambda: _get(web, master)["poster_url"], 30, "its poster")

    head = web.head(ready["video_url"])
    size = int(head.headers["Content-Length"])
    # As a player that seeks: piece by piece, and all pieces of one version.
    pieces = []
    for start in range(0, size, 20_000):
        headers = {
            "Range": f"bytes={start}-{start + 19_999}",
            "If-Range": head.headers["ETag"],
        }
        answer = web.get(ready["video_url"], headers=headers)
        assert answer.status_code == 206
        pieces.append(answer.content)
    with av.open(io.BytesIO(b"".join(pieces)), "r") as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]
        assert sum(1 for _ in container.decode(video=0)) == 72
    download = web.get(ready["download_url"])
    assert download.content == b"".join(pieces)
    name = download.headers["Content-Disposition"].partition("UTF-8''")[2]
    assert unquote(name) == f"Фильм 🎬_{master['master_id']}.mp4"

    assert web.delete(f"{MASTERS}/{master['master_id']}").status_code == 204
    assert web.get(ready["video_url"]).status_code == 404
    # The sensor, which looks once a minute, takes the files away; this is what it does, as soon as
    # the run is over, which made them.
    eventually(lambda: stack.lens("remove-missing", "--yes").returncode == 0, 60, "the removal")
    assert not [key for key in site.objects() if f"master_{master['master_id']}_" in key]


def _order(web: httpx.Client, name: str, shots: list[str]) -> dict[str, Any]:
    answer = web.post(MASTERS, json={"name": name, "shots": shots})
    assert answer.status_code == 201, answer.text
    return answer.json()


def _get(web: httpx.Client, master: dict[str, Any]) -> dict[str, Any]:
    return web.get(f"{MASTERS}/{master['master_id']}").json()
