"""An S3 server that hangs or is killed while the app serves, and comes back."""

import http.client
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx2 as httpx
import psutil
import pytest

from lens_pipeline.storage import s3_store
from lens_pipeline.storage.content_types import content_type_of
from lens_pipeline.storage.s3_store import POOL_CONNECTIONS, S3Store
from lens_pipeline.web.http import streaming
from lens_pipeline_tests.support.project import PROJECT, Project
from lens_pipeline_tests.support.servers import SeaweedServer
from lens_pipeline_tests.support.site import Site, eventually
from lens_pipeline_tests.support.web import served_over

pytestmark = pytest.mark.slow

FILE = "/api/generations/large/file"
OF_THE_STORE = [
    FILE,
    "/api/generations/p1/preview",
    f"/api/projects/{PROJECT}/master-videos/m1/video",
    f"/api/projects/{PROJECT}/master-videos/m1/download",
]
OF_THE_DATABASE = [
    "/api/generations",
    "/api/generations/p1",
    f"/api/projects/{PROJECT}/master-videos",
    "/library",
    "/masters",
]
# At once; each of them waits for a client that has read nothing yet.
DOWNLOADS = 12


def test_a_store_that_hangs_or_is_killed_and_comes_back(
    site: Site, environment: pytest.MonkeyPatch, photo: Callable[[str], str], tmp_path: Path
) -> None:
    for patience in ("AWAITED_SECONDS", "AWAITED_ATTEMPTS"):
        environment.setattr(s3_store, patience, 1)
    site.add("p1", photo("p1"))
    project = Project(site)
    project.master("m1", [project.shot("a")])
    site.once()
    site.add("large", "u1/uploads/large.mp4", type="video")
    # More than all buffers on the way hold.
    large = os.urandom(1_000_000) * 40
    (site.store / "u1/uploads/large.mp4").write_bytes(large)
    (tmp_path / "seaweed").mkdir()
    with SeaweedServer(tmp_path / "seaweed") as server:
        for name, value in server.environment.items():
            environment.setenv(name, value)
        store = S3Store(server.bucket, "x", server.endpoint)
        for key in site.objects():
            store.write(key, site.store / key, content_type=content_type_of(key))
        with served_over(site, store) as web:
            whole = {path: web.get(path) for path in OF_THE_STORE}
            assert {answer.status_code for answer in whole.values()} == {200}
            assert whole[FILE].content == large

            with server.hanging():
                _assert_gone(web)
            eventually(lambda: _if_served(web, FILE), 30, FILE)

            begun = [_Download(web, number) for number in range(DOWNLOADS)]
            server.kill()
            with ThreadPoolExecutor(DOWNLOADS) as threads:
                received = list(threads.map(_Download.rest, begun))
            for download, body in zip(begun, received, strict=True):
                # It can tell that bytes are missing, and those it has are right.
                assert len(body) < download.promised
                assert large[download.start :].startswith(body)

            _assert_gone(web)
            assert streaming._WAITING_READS.borrowed_tokens == 0

            server.start()
            for path, before in whole.items():
                answer = eventually(lambda path=path: _if_served(web, path), 30, path)
                assert (answer.content, answer.headers["ETag"]) == (
                    before.content,
                    before.headers["ETag"],
                )
            # As a player or a download manager goes on.
            rest = {"Range": f"bytes={len(received[0])}-", "If-Range": whole[FILE].headers["ETag"]}
            answer = web.get(FILE, headers=rest)
            assert (answer.status_code, answer.content) == (206, large[len(received[0]) :])
            eventually(lambda: web.get("/api/health").json()["store"] == "ok", 20, "health")
            assert len(_connections(server)) <= POOL_CONNECTIONS


def _assert_gone(web: httpx.Client) -> None:
    """More pictures are asked for than there are threads, and the rest goes on."""
    with ThreadPoolExecutor(44) as threads:
        for answer in threads.map(web.get, OF_THE_STORE * 11):
            assert (answer.status_code, answer.json()["error"]) == (503, "store_unavailable")
            assert answer.headers["Retry-After"]
    assert {web.get(path).status_code for path in OF_THE_DATABASE} == {200}
    health = web.get("/api/health")
    assert (health.status_code, health.json()["store"] != "ok") == (503, True)


class _Download:
    """A client that has begun to read; every second one asked for a part only."""

    def __init__(self, web: httpx.Client, number: int) -> None:
        self.start = number % 2 * 1_000_000
        host = urlsplit(str(web.base_url)).netloc
        self._connection = http.client.HTTPConnection(host, timeout=120)
        headers = {"Range": f"bytes={self.start}-"} if self.start else {}
        self._connection.request("GET", FILE, headers=headers)
        self._answer = self._connection.getresponse()
        assert self._answer.status == (206 if self.start else 200)
        self.promised = int(self._answer.headers["Content-Length"])
        self._first = self._answer.read(1000)

    def rest(self) -> bytes:
        """All that comes; the connection has to end before what was promised is here."""
        with pytest.raises(http.client.IncompleteRead) as cut:
            self._answer.read()
        self._connection.close()
        return self._first + cut.value.partial


def _if_served(web: httpx.Client, path: str) -> httpx.Response | None:
    answer = web.get(path)
    return answer if answer.status_code == 200 else None


def _connections(server: SeaweedServer) -> list[object]:
    """Of this process, which serves, to the store."""
    port = urlsplit(server.endpoint).port
    found = psutil.Process().net_connections("tcp")
    return [one for one in found if one.raddr and one.raddr.port == port]
