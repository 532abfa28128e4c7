"""A master by HTTP on a real `lens up`: ordered, awaited, watched, downloaded, deleted."""

import io
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import av
import httpx
import psutil
import pytest

from lens_pipeline.media.ffmpeg import find_ffmpeg, run
from lens_pipeline.stack.ports import LOOPBACK
from lens_pipeline_tests.pipeline.project import PROJECT, Project
from lens_pipeline_tests.pipeline.site import Site, eventually
from lens_pipeline_tests.pipeline.stack import Stack

pytestmark = pytest.mark.slow

ASSETS = f"/api/projects/{PROJECT}/assets"
MASTERS = f"/api/projects/{PROJECT}/master-videos"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    made = Stack(tmp_path_factory.mktemp("media") / "home")
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def site(stack: Stack) -> Site:
    endpoints = stack.pipeline.endpoints
    return Site(endpoints.database_url, endpoints.dagster_url, stack.home / "store")


@pytest.fixture
def web(stack: Stack) -> Iterator[httpx.Client]:
    url = f"http://{LOOPBACK}:{stack.api_port}"
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client


def _order(web: httpx.Client, name: str, shots: list[str]) -> dict[str, Any]:
    answer = web.post(MASTERS, json={"name": name, "shots": shots})
    assert answer.status_code == 201, answer.text
    return answer.json()


def _get(web: httpx.Client, master: dict[str, Any]) -> dict[str, Any]:
    return web.get(f"{MASTERS}/{master['master_id']}").json()


def test_a_film_from_the_order_to_the_player(stack: Stack, site: Site, web: httpx.Client) -> None:
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
    # As a player does that seeks: piece by piece, all of one version.
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
    # The sensor, which looks once a minute, takes the files away; this is what it does.
    assert stack.lens("remove-missing", "--yes").returncode == 0
    assert not [key for key in site.objects() if f"master_{master['master_id']}_" in key]


def test_deleting_a_master_ends_its_encode(stack: Stack, site: Site, web: httpx.Client) -> None:
    """A film that nobody wants any more, and both cores busy with it for minutes."""
    for name, source in {
        "wide": "testsrc2=size=1920x1080:rate=30:duration=12",
        "tall": "testsrc2=size=720x1280:rate=25:duration=12",
    }.items():
        key = f"u1/uploads/{name}.mp4"
        (site.store / key).parent.mkdir(parents=True, exist_ok=True)
        encode = ("-vf", "noise=alls=20:allf=t", "-c:v", "libx264", "-preset", "ultrafast")
        arguments = ("-f", "lavfi", "-i", source, *encode, "-y", str(site.store / key))
        run([str(find_ffmpeg()), "-v", "error", *arguments], 120)
        assert web.post(ASSETS, json={"asset_url": key, "asset_id": name}).status_code == 201
    master = _order(web, "Unwanted", ["wide", "tall"])
    begun = eventually(
        lambda: (found := _get(web, master))["percent"] is not None and found, 60, "progress"
    )
    assert begun["status"] == "processing"
    assert "%" in begun["progress"]
    encoders = eventually(lambda: _encoders(stack), 60, "the encode")
    assert web.delete(f"{MASTERS}/{master['master_id']}").status_code == 204
    eventually(lambda: not any(encoder.is_running() for encoder in encoders), 10, "its end")
    run_id = begun["run_id"]
    eventually(lambda: stack.run(run_id)["status"] == "CANCELED", 20, "the end of the run")
    assert not [key for key in site.objects() if f"master_{master['master_id']}_" in key]


def _encoders(stack: Stack) -> list[psutil.Process]:
    """Every ffmpeg below the worker for masters."""
    found: list[psutil.Process] = []
    for worker in stack.of("worker-masters"):
        try:
            found += [child for child in worker.children() if "ffmpeg" in child.name()]
        except psutil.NoSuchProcess:
            continue
    return found
