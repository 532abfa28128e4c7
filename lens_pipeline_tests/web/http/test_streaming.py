"""Pictures and files of generations as clients fetch them."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest
from fastapi import FastAPI

from lens_pipeline.storage import s3_store
from lens_pipeline.storage.s3_store import S3Store
from lens_pipeline.web.auth.caller import Caller
from lens_pipeline.web.http import streaming
from lens_pipeline_tests.support.servers import Answer, HostileServer, SeaweedServer
from lens_pipeline_tests.support.site import Site, eventually
from lens_pipeline_tests.support.web import served_over
from lens_pipeline_tests.web.caller_override import become

pytestmark = pytest.mark.slow

KEY = "u1/uploads/v1.mp4"


@pytest.fixture
def film(site: Site) -> bytes:
    """The file of a finished video `v1` in the store; several chunks long."""
    body = os.urandom(1_000_000)
    _store(site, KEY, body)
    site.add("v1", KEY, type="video")
    return body


def _store(site: Site, key: str, body: bytes) -> Path:
    path = site.store / key
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    unfinished.write_bytes(body)
    return unfinished.replace(path)


def _fetch(web: httpx.Client, method: str = "GET", **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.request(method, "/api/generations/v1/file", headers=named)


def test_a_preview_is_served_and_not_sent_twice(
    site: Site, web: httpx.Client, photo: Callable[[str], str]
) -> None:
    site.add("p1", photo("p1"))
    url = "/api/generations/p1/preview"
    before = web.get(url)
    assert (before.status_code, before.json()["error"]) == (404, "not_ready")
    assert before.json()["status"] == "none"
    site.once()
    entry = web.get("/api/generations/p1").json()
    assert entry["picture_url"] == url
    answer = web.get(url)
    assert answer.status_code == 200
    assert answer.content == (site.store / entry["path"]).read_bytes()
    assert answer.headers["Content-Type"] == "image/webp"
    assert answer.headers["Cache-Control"] == "private, no-cache"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    again = web.get(url, headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["ETag"] == answer.headers["ETag"]
    since = web.get(url, headers={"If-Modified-Since": answer.headers["Last-Modified"]})
    assert since.status_code == 304
    # Gone behind our back, or in its place a way out of the store.
    kept = site.store / entry["path"]
    kept.unlink()
    assert web.get(url).json()["error"] == "not_found"
    kept.symlink_to("/etc/passwd")
    assert web.get(url).json()["error"] == "not_found"


def test_a_preview_that_is_made_anew_is_seen_at_once(
    site: Site, web: httpx.Client, photo: Callable[[str], str]
) -> None:
    """A person who redoes a picture, and looks at the old one for a year."""
    site.add("p1", photo("p1"))
    site.once()
    first = web.get("/api/generations/p1/preview")
    _store(site, "u1/previews/p1_preview.webp", b"another")
    second = web.get(
        "/api/generations/p1/preview", headers={"If-None-Match": first.headers["ETag"]}
    )
    assert (second.status_code, second.content) == (200, b"another")


def test_each_kind_has_its_own_picture(
    site: Site, web: httpx.Client, photo: Callable[[str], str], film: bytes
) -> None:
    site.add("p1", photo("p1"))
    for url in ("p1/poster", "v1/preview", "nobody/preview", "nobody/poster", "nobody/file"):
        answer = web.get(f"/api/generations/{url}")
        assert (answer.status_code, answer.json()["error"]) == (404, "not_found"), url
    assert web.get("/api/generations/v1/poster").json()["error"] == "not_ready"


def test_a_file_whole_and_in_parts(web: httpx.Client, film: bytes) -> None:
    whole = _fetch(web)
    assert (whole.status_code, whole.content) == (200, film)
    assert whole.headers["Content-Type"] == "video/mp4"
    assert whole.headers["Accept-Ranges"] == "bytes"
    part = _fetch(web, Range="bytes=1000-300000")
    assert (part.status_code, part.content) == (206, film[1000:300_001])
    assert part.headers["Content-Range"] == f"bytes 1000-300000/{len(film)}"
    assert _fetch(web, Range="bytes=-10").content == film[-10:]
    assert _fetch(web, Range="bytes=999999-").content == film[-1:]


def test_head_says_what_get_would_and_sends_nothing(web: httpx.Client, film: bytes) -> None:
    head, get = _fetch(web, "HEAD"), _fetch(web)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Length"] == str(len(film))
    for name in ("ETag", "Last-Modified", "Content-Type", "Cache-Control", "Accept-Ranges"):
        assert head.headers[name] == get.headers[name]
    assert _fetch(web, "HEAD", Range="bytes=0-1").status_code == 200
    assert _fetch(web, "HEAD", If_None_Match=get.headers["ETag"]).status_code == 304


def test_methods_that_there_are_not(web: httpx.Client, film: bytes) -> None:
    answer = _fetch(web, "POST")
    assert (answer.status_code, answer.json()["error"]) == (405, "method_not_allowed")
    assert answer.headers["Allow"] == "GET, HEAD"


def test_a_range_behind_the_end(web: httpx.Client, film: bytes) -> None:
    answer = _fetch(web, Range=f"bytes={len(film)}-")
    assert (answer.status_code, answer.json()["error"]) == (416, "range_not_satisfiable")
    assert answer.headers["Content-Range"] == f"bytes */{len(film)}"


def test_what_is_no_single_range_gets_the_whole_file(web: httpx.Client, film: bytes) -> None:
    for text in ("bytes=5-4", "bytes=0-1,4-5", "chunks=1-2", "bytes=a-", "x"):
        answer = _fetch(web, Range=text)
        assert (answer.status_code, answer.content) == (200, film), text
        assert "Content-Range" not in answer.headers


def test_a_range_given_twice_is_several(web: httpx.Client, film: bytes) -> None:
    """Two headers are one list, in which a proxy and we must not see different things."""
    answer = web.get(
        "/api/generations/v1/file", headers=[("Range", "bytes=0-1"), ("Range", "bytes=4-5")]
    )
    assert (answer.status_code, answer.content) == (200, film)


def test_a_download_that_goes_on_gets_the_same_version_or_all_of_the_new_one(
    site: Site, web: httpx.Client, film: bytes
) -> None:
    tag = _fetch(web).headers["ETag"]
    assert _fetch(web, Range="bytes=10-", If_Range=tag).content == film[10:]
    assert _fetch(web, If_Match='"other"').status_code == 412
    _store(site, KEY, b"new")
    answer = _fetch(web, Range="bytes=10-", If_Range=tag)
    assert (answer.status_code, answer.content) == (200, b"new")


def test_a_file_that_is_elsewhere_is_where_the_client_is_sent(
    site: Site, web: httpx.Client
) -> None:
    """We are no proxy to strangers' servers."""
    site.add("far", "https://example.org/a b/ü.mp4?x=1&y=2", type="video")
    answer = web.get("/api/generations/far/file")
    assert answer.status_code == 307
    assert answer.headers["Location"] == "https://example.org/a%20b/%C3%BC.mp4?x=1&y=2"
    assert answer.headers["Referrer-Policy"] == "same-origin"


NO_FILES = [
    "",
    None,
    "javascript:alert(1)",
    "data:text/html,<script>1</script>",
    "ftp://example.org/a.mp4",
    "file:///etc/passwd",
    "//example.org/a.mp4",
    "/etc/passwd",
    "../../etc/passwd",
    "u1/none.mp4",
    "http://",
    "http://[::1/a.mp4",
    "https://example.org/a\r\nSet-Cookie: a=b",
    ".tmp/x",
]


def test_what_a_row_names_that_is_no_file(site: Site, web: httpx.Client) -> None:
    """Rows come from outside; none of them may send a browser or us to where it likes."""
    for number, asset_url in enumerate(NO_FILES):
        site.add(f"odd-{number}", asset_url, type="video")
        answer = web.get(f"/api/generations/odd-{number}/file")
        assert (answer.status_code, answer.json()["error"]) == (404, "not_found"), asset_url
        assert "Set-Cookie" not in answer.headers


def test_a_generation_that_is_not_finished_has_no_file(site: Site, web: httpx.Client) -> None:
    site.add("w", "u1/w.mp4", type="video", status="generating")
    answer = web.get("/api/generations/w/file").json()
    assert (answer["error"], answer["status"]) == ("not_ready", "generating")


def test_nothing_is_served_as_what_a_browser_would_run(site: Site, web: httpx.Client) -> None:
    """GHSA-5crw-6j7v-xc72: a file that somebody uploaded, and a script of our own origin."""
    for number, name in enumerate(["page.html", "picture.svg", "script.js", "film", "x.mp4.html"]):
        _store(site, f"u1/uploads/{name}", b"<script>alert(1)</script>")
        site.add(f"odd-{number}", f"u1/uploads/{name}")
        answer = web.get(f"/api/generations/odd-{number}/file")
        assert answer.headers["Content-Type"] == "application/octet-stream", name
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_ids_of_another_user_are_as_if_they_did_not_exist(
    site: Site, web: httpx.Client, app: FastAPI, film: bytes, photo: Callable[[str], str]
) -> None:
    site.add("p1", photo("p1"))
    site.once()
    urls = [f"/api/generations/{name}" for name in ("p1", "p1/preview", "p1/file", "v1/file")]
    become(app, Caller(user_id="u1"))
    assert {web.get(url, follow_redirects=False).status_code for url in urls} == {200}
    for stranger in (Caller(user_id="u2"), Caller(project_id="p")):
        become(app, stranger)
        for url in urls:
            answers = [web.get(url), web.get(url, headers={"If-None-Match": "*"})]
            assert {answer.status_code for answer in answers} == {404}, url
            unknown = web.get(url.replace("p1", "none").replace("v1", "none")).json()
            assert answers[0].json()["error"] == unknown["error"]


def test_without_the_store_and_with_it_again(site: Site, web: httpx.Client, film: bytes) -> None:
    """A disk that is not mounted: a clear answer, and no restart once it is."""
    away = site.store.rename(site.store.with_name("away"))
    answer = _fetch(web)
    assert (answer.status_code, answer.json()["error"]) == (503, "store_unavailable")
    assert answer.headers["Retry-After"]
    away.rename(site.store)
    assert _fetch(web).content == film


def _raw(web: httpx.Client, most_buffered: int = 4096) -> socket.socket:
    """A client that has asked for the file and has read nothing yet."""
    parts = urlsplit(str(web.base_url))
    assert parts.hostname and parts.port
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, most_buffered)
    client.settimeout(20)
    client.connect((parts.hostname, parts.port))
    client.sendall(
        b"GET /api/generations/v1/file HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    return client


def _all(client: socket.socket) -> bytes:
    chunks = []
    while chunk := client.recv(1 << 20):
        chunks.append(chunk)
    return b"".join(chunks)


@pytest.fixture
def large(site: Site) -> bytes:
    """More than all buffers on the way hold."""
    body = os.urandom(1_000_000) * 24
    _store(site, KEY, body)
    site.add("v1", KEY, type="video")
    return body


def test_a_file_that_is_replaced_while_it_is_sent_is_sent_to_its_end(
    site: Site, web: httpx.Client, large: bytes
) -> None:
    with _raw(web) as client:
        first = client.recv(1000)
        _store(site, KEY, b"new")
        received = first.partition(b"\r\n\r\n")[2] + _all(client)
    assert received == large


def _open_files(site: Site) -> int:
    """Descriptors of this process, which serves, below the store."""
    count = 0
    for link in Path("/proc/self/fd").iterdir():
        try:
            count += str(link.readlink()).startswith(str(site.store))
        except OSError:
            continue  # closed meanwhile
    return count


@pytest.fixture
def quiet(site: Site) -> Iterator[None]:
    """Nothing of the store may be open afterwards."""
    yield
    eventually(lambda: _open_files(site) == 0, 10, "the end of all reading")


@pytest.mark.usefixtures("quiet")
def test_clients_that_go_away_leave_nothing_behind(
    site: Site, web: httpx.Client, large: bytes
) -> None:
    """People close tabs; a server that keeps their files open stops after a day."""
    clients = [_raw(web) for _ in range(20)]
    eventually(lambda: _open_files(site) == 20, 20, "twenty readers")
    for number, client in enumerate(clients):
        if number % 2:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
    eventually(lambda: _open_files(site) == 0, 10, "the end of twenty readers")
    assert threading.active_count() < 60


@pytest.mark.usefixtures("quiet")
def test_a_client_that_takes_nothing_is_let_go(
    site: Site, web: httpx.Client, large: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "STALL_SECONDS", 0.5)
    with _raw(web) as client:
        eventually(lambda: _open_files(site) == 1, 10, "the reader")
        eventually(lambda: _open_files(site) == 0, 10, "the end of patience")
        # The connection is closed before the end: the client knows that bytes are missing.
        assert len(_all(client)) < len(large)


@pytest.mark.usefixtures("quiet")
def test_slow_readers_do_not_hold_up_others(site: Site, web: httpx.Client, large: bytes) -> None:
    clients = [_raw(web) for _ in range(50)]
    try:
        started = time.monotonic()
        assert web.get("/api/health/live").status_code == 200
        assert _fetch(web, Range="bytes=0-9").content == large[:10]
        assert time.monotonic() - started < 5
    finally:
        for client in clients:
            client.close()


@pytest.mark.usefixtures("quiet")
def test_a_file_that_is_cut_short_while_it_is_sent_is_no_whole_one(
    site: Site, web: httpx.Client, large: bytes
) -> None:
    with _raw(web) as client:
        client.recv(1000)
        os.truncate(site.store / KEY, 2_000_000)
        assert len(_all(client)) < len(large)


def test_objects_of_a_bucket(site: Site, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "seaweed").mkdir()
    body = os.urandom(3_000_000)
    site.add("v1", KEY, type="video")
    with SeaweedServer(tmp_path / "seaweed") as server:
        for name, value in server.environment.items():
            environment.setenv(name, value)
        store = S3Store(server.bucket, "x", server.endpoint)
        store.write(KEY, body, content_type="video/mp4")
        with served_over(site, store) as web:
            whole = _fetch(web)
            assert (whole.status_code, whole.content) == (200, body)
            assert _fetch(web, Range="bytes=1000-1999").content == body[1000:2000]
            assert _fetch(web, Range="bytes=-5").content == body[-5:]
            assert _fetch(web, "HEAD").headers["ETag"] == whole.headers["ETag"]
            assert _fetch(web, If_None_Match=whole.headers["ETag"]).status_code == 304
            assert _fetch(web, Range="bytes=9000000-").status_code == 416
            store.write(KEY, b"", content_type="video/mp4")
            empty = _fetch(web)
            assert (empty.status_code, empty.content) == (200, b"")
            store.delete(KEY)
            assert _fetch(web).status_code == 404


def test_without_a_bucket_and_with_it_again(
    site: Site, environment: pytest.MonkeyPatch, server: HostileServer
) -> None:
    """An outage of the store is said before a byte is sent, and is over when it is over."""
    for attempts in ("S3_ATTEMPTS", "AWAITED_ATTEMPTS"):
        environment.setattr(s3_store, attempts, 1)
    for name, value in {"ACCESS_KEY_ID": "k", "SECRET_ACCESS_KEY": "s"}.items():
        environment.setenv(f"AWS_{name}", value)
    site.add("v1", KEY, type="video")
    path = f"/lens/{KEY}"
    known = {"ETag": '"e"', "Last-Modified": "Sun, 01 Mar 2026 12:00:00 GMT"}
    server.put(path, b"film", "video/mp4", known)
    with served_over(site, S3Store("lens", "", server.url(""))) as web:
        # The look at it, then the look and the opening.
        for answers in ([Answer(503)], [Answer(200, b"film", known), Answer(500)]):
            for answer in answers:
                server.answer_first(path, answer)
            failed = _fetch(web)
            assert (failed.status_code, failed.json()["error"]) == (503, "store_unavailable")
        # Replaced between the two: tried again, and whole.
        server.answer_first(path, Answer(200, b"other", {**known, "ETag": '"f"'}))
        answer = _fetch(web)
        assert (answer.status_code, answer.content) == (200, b"film")
        assert answer.headers["ETag"] == '"e"'
