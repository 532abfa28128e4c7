"""Archives as clients save and open them."""

import io
import os
import socket
import subprocess
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2 as httpx
import psutil
import pytest
from fastapi import FastAPI
from zipstream import ng

from lens_pipeline.storage.file_store import FileStore
from lens_pipeline.storage.object_store import ObjectReader, ObjectReplaced
from lens_pipeline.storage.s3_store import S3Store
from lens_pipeline.web.auth.caller import Caller
from lens_pipeline.web.http import archive
from lens_pipeline_tests.support import sources
from lens_pipeline_tests.support.project import PROJECT, Project
from lens_pipeline_tests.support.servers import HostileServer, SeaweedServer
from lens_pipeline_tests.support.site import Site, eventually
from lens_pipeline_tests.support.web import served_over
from lens_pipeline_tests.web.auth.gate_app import BEARER, bearer, client_of, token_of
from lens_pipeline_tests.web.caller_override import become

pytestmark = pytest.mark.slow

URL = "/api/generations/archive"
_MIB = 1024 * 1024


def _store(site: Site, row_id: str, body: bytes, ending: str = ".mp4") -> str:
    """The key of an object that the row names, of a video."""
    key = f"u1/uploads/{row_id}{ending}"
    file = site.store / key
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(body)
    site.add(row_id, key, type="video")
    return key


def _opened(answer: httpx.Response) -> dict[str, bytes]:
    assert answer.status_code == 200, answer.text
    with zipfile.ZipFile(io.BytesIO(answer.content)) as found:
        assert {info.compress_type for info in found.infolist()} <= {zipfile.ZIP_STORED}
        return {name: found.read(name) for name in found.namelist()}


def _missing(found: dict[str, bytes]) -> dict[str, str]:
    """The reason by name."""
    lines = found["MISSING.txt"].decode().splitlines()
    return {name: reason for name, _, reason in (line.partition(": ") for line in lines)}


def test_an_archive_holds_what_there_is_and_names_the_rest(
    site: Site, web: httpx.Client, server: HostileServer, tmp_path: Path
) -> None:
    link = server.put("/kept", sources.mp4()).replace("127.0.0.1", "localhost")
    site.add("kept", link, type="video")
    site.once()
    server.remove("/kept")
    _store(site, "film", b"one")
    _store(site, "FILM", b"two")
    _store(site, "page", b"<script>", ".html")
    (site.store / _store(site, "lost", b"")).unlink()
    site.add("far", "https://example.org/far.jpg?x=1")
    site.add("script", "javascript:alert(1)")
    site.add("odd", "https://example.org/a\nfilm: nothing")
    site.add("under-way", None, status="generating")
    ids = "kept,film,FILM,page,lost,far,script,odd,under-way,film,none"

    answer = web.get(URL, params={"ids": ids})
    assert answer.headers["Content-Type"] == "application/zip"
    assert answer.headers["Content-Disposition"].startswith('attachment; filename="lens-')
    assert "Content-Length" not in answer.headers
    found = _opened(answer)
    assert _missing(found) == {
        "lost.mp4": "not in the store any more",
        "far": "not in the store; its link: https://example.org/far.jpg?x=1",
        "javascript_alert(1)": "its row names no file",
        "a film_ nothing (odd)": "its row names no file",
        "under-way": "it is not finished: generating",
        "none": "no generation has this id",
    }
    del found["MISSING.txt"]
    assert found == {
        "kept.mp4": sources.mp4(),
        "film.mp4": b"one",
        "FILM (2).mp4": b"two",
        "page": b"<script>",
    }
    file = tmp_path / "archive.zip"
    file.write_bytes(answer.content)
    subprocess.run(["unzip", "-tqq", file], check=True)

    # A browser's form, for more than an address has room for.
    assert _opened(web.post(URL, data={"ids": "film"})) == {"film.mp4": b"one"}
    one = web.get(URL, params={"ids": "film"})
    assert one.headers["Content-Disposition"].startswith('attachment; filename="film.zip"')
    assert web.get(URL, params={"ids": "none"}).json()["error"] == "not_found"
    assert web.get(URL, params={"ids": ""}).status_code == 400


def test_ten_thousand_files_are_served_and_more_are_refused(site: Site, web: httpx.Client) -> None:
    site.add_many([f"p{n:05}" for n in range(10_001)], lambda row_id: f"u1/{row_id}.jpg")
    (site.store / "u1").mkdir()
    (site.store / "u1/p00000.jpg").write_bytes(b"photo")
    ids = [f"p{n:05}" for n in range(10_001)]
    refused = web.post(URL, data={"ids": ",".join(ids)})
    assert (refused.status_code, refused.json()["error"]) == (400, "too_many_generations")
    begun = time.monotonic()
    with web.stream("POST", URL, data={"ids": ",".join(ids[:-1])}) as answer:
        body = answer.iter_raw()
        head = next(body)
        assert time.monotonic() - begun < 2
        found = _opened(httpx.Response(200, content=head + b"".join(body)))
    assert found["p00000.jpg"] == b"photo"
    assert len(_missing(found)) == 9_999


def _large(site: Site, row_id: str, size: int) -> None:
    os.truncate(site.store / _store(site, row_id, b""), size)


@pytest.fixture
def quiet(site: Site) -> Iterator[None]:
    """No archive and nothing of the store may be open afterwards."""
    yield
    eventually(lambda: _is_quiet(site), 10, "the end of all archives")


def _is_quiet(site: Site) -> bool:
    links = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            links.append(str(link.readlink()))
        except OSError:
            continue  # closed meanwhile
    is_open = any(link.startswith(str(site.store)) for link in links)
    return not is_open and archive._archives.borrowed_tokens == 0


@pytest.mark.usefixtures("quiet")
def test_memory_does_not_grow_with_the_files(
    site: Site, web: httpx.Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also: entries with the fields that files over 4 GiB need."""
    monkeypatch.setattr(ng, "ZIP64_LIMIT", _MIB)
    for name in ("v0", "v1"):
        _large(site, name, 60 * _MIB)
    before = most = psutil.Process().memory_info().rss
    file = tmp_path / "archive.zip"
    with file.open("wb") as saved, web.stream("GET", URL, params={"ids": "v0,v1"}) as answer:
        for chunk in answer.iter_raw(4 * _MIB):
            most = max(most, psutil.Process().memory_info().rss)
            saved.write(chunk)
    assert most - before < 40 * _MIB
    with zipfile.ZipFile(file) as found:
        assert [info.file_size for info in found.infolist()] == [60 * _MIB] * 2
        assert all(info.extract_version == 45 for info in found.infolist())
    subprocess.run(["unzip", "-tqq", file], check=True)


def _raw(web: httpx.Client, ids: str) -> socket.socket:
    """A client that has asked for an archive and has read nothing yet."""
    parts = urlsplit(str(web.base_url))
    assert parts.hostname and parts.port
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(20)
    client.connect((parts.hostname, parts.port))
    client.sendall(f"GET {URL}?ids={ids} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return client


@pytest.mark.usefixtures("quiet")
def test_clients_that_stall_or_leave_give_their_place_to_others(
    site: Site, web: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    _large(site, "v1", 100 * _MIB)
    clients = [_raw(web, "v1") for _ in range(archive._MOST_AT_ONCE)]
    try:
        most = archive._MOST_AT_ONCE
        eventually(lambda: archive._archives.borrowed_tokens == most, 10, "all archives")
        refused = web.get(URL, params={"ids": "v1"})
        assert (refused.status_code, refused.json()["error"]) == (429, "too_many_archives")
        assert refused.headers["Retry-After"]
        # They hold no thread: everything else goes on.
        assert web.get("/api/generations").status_code == 200
        assert threading.active_count() < 60
    finally:
        for number, client in enumerate(clients):
            if number % 2:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()
    eventually(lambda: _is_quiet(site), 10, "the end of all archives")
    monkeypatch.setattr(archive, "STALL_SECONDS", 0.5)
    with _raw(web, "v1"):
        eventually(lambda: archive._archives.borrowed_tokens == 1, 10, "the archive")
        eventually(lambda: _is_quiet(site), 10, "the end of patience")
    # A client that takes some bytes now and then would keep its place for ever.
    monkeypatch.setattr(archive, "_LEAST_BYTES_A_SECOND", 1 << 40)
    with _raw(web, "v1") as client:
        eventually(lambda: archive._archives.borrowed_tokens == 1, 10, "the archive")

        def is_given_up() -> bool:
            client.recv(256 * 1024)
            return _is_quiet(site)

        eventually(is_given_up, 10, "the end of patience with a slow client")


@pytest.mark.usefixtures("quiet")
def test_one_client_cannot_take_all_places(
    site: Site, app: FastAPI, web: httpx.Client, guarded_app: FastAPI
) -> None:
    """A user's token, or a link in a chat, that keeps everybody else out."""
    _large(site, "v1", 100 * _MIB)
    become(app, Caller(user_id="u1"))
    clients = [_raw(web, "v1") for _ in range(3)]
    try:
        eventually(lambda: archive._archives.borrowed_tokens == 3, 10, "three archives")
        refused = web.get(URL, params={"ids": "v1"})
        assert (refused.status_code, refused.json()["error"]) == (429, "too_many_archives")
        become(app, Caller())
        with web.stream("GET", URL, params={"ids": "v1"}) as answer:
            assert answer.status_code == 200
        _store(site, "v2", b"film")
        with client_of(guarded_app) as other:
            asked = {"paths": [f"{URL}?ids=v2"]}
            (link,) = other.post("/api/links", json=asked, headers=BEARER).json()["links"]
            archive._held["127.0.0.1"] = archive._MOST_OF_ONE
            assert other.get(link["url"]).status_code == 429
            del archive._held["127.0.0.1"]
            assert other.get(link["url"]).status_code == 200
    finally:
        for client in clients:
            client.close()
    eventually(lambda: not archive._held, 10, "the end of all archives")


@pytest.mark.usefixtures("quiet")
def test_an_archive_that_cannot_go_on_is_no_whole_one(
    site: Site, web: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A film that was cut short, in an archive that opens."""
    for name in ("v1", "v2"):
        _large(site, name, 2 * _MIB)
    opened = FileStore.open

    def cut(self: FileStore, key: str) -> ObjectReader:
        reader = opened(self, key)
        if "v2" in key:
            os.truncate(site.store / key, _MIB)
        return reader

    monkeypatch.setattr(FileStore, "open", cut)
    with pytest.raises(httpx.RemoteProtocolError):
        web.get(URL, params={"ids": "v1,v2"})

    def replace(self: FileStore, key: str) -> ObjectReader:
        raise ObjectReplaced("always another one")

    monkeypatch.setattr(FileStore, "open", replace)
    answer = web.get(URL, params={"ids": "v1,v2"})
    assert (answer.status_code, answer.json()["error"]) == (503, "store_unavailable")
    monkeypatch.setattr(FileStore, "open", opened)
    away = site.store.rename(site.store.with_name("away"))
    assert web.get(URL, params={"ids": "v1"}).json()["error"] == "store_unavailable"
    away.rename(site.store)
    site.sql("ALTER TABLE generations RENAME TO hidden")
    answer = web.get(URL, params={"ids": "v1"})
    assert (answer.status_code, answer.json()["error"]) == (503, "database_unavailable")


def test_objects_of_a_bucket(site: Site, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "seaweed").mkdir()
    bodies = {f"v{number}": os.urandom(number * 700_000) for number in range(4)}
    for name in (*bodies, "gone"):
        site.add(name, f"u1/{name}.mp4", type="video")
    with SeaweedServer(tmp_path / "seaweed") as server:
        for name, value in server.environment.items():
            environment.setenv(name, value)
        store = S3Store(server.bucket, "x", server.endpoint)
        for name, body in bodies.items():
            store.write(f"u1/{name}.mp4", body, content_type="video/mp4")
        with served_over(site, store) as web:
            found = _opened(web.get(URL, params={"ids": "v0,v1,gone,v2,v3"}))
            assert _missing(found) == {"gone.mp4": "not in the store any more"}
            del found["MISSING.txt"]
            assert found == {f"{name}.mp4": body for name, body in bodies.items()}
            # The server goes away in the middle, and before the next one.
            store.write("u1/v0.mp4", os.urandom(30_000_000), content_type="video/mp4")
            with web.stream("GET", URL, params={"ids": "v0"}) as answer:
                body = answer.iter_raw()
                next(body)
                server.kill()
                with pytest.raises(httpx.RemoteProtocolError):
                    b"".join(body)
            assert web.get(URL, params={"ids": "v1"}).status_code == 503


def test_all_files_of_a_project(site: Site, app: FastAPI, web: httpx.Client) -> None:
    project = Project(site)
    shots = [project.shot("a"), project.shot("b")]
    project.master("m1", shots, name="../Über: «x»?")
    project.master("m2", shots, name="../Über: «x»?")
    project.rendition("s1", "m1", start=0.25, end=0.75)
    site.once()
    project.asset("upload", asset_url="https://example.org/shot.mp4")
    project.master("m3", ["upload"], name="Later")
    url = f"/api/projects/{PROJECT}/archive"
    answer = web.get(url)
    assert answer.headers["Content-Disposition"].startswith('attachment; filename="p1.zip"')
    found = _opened(answer)
    assert _missing(found) == {
        "films/Later.mp4": "it is not ready: none",
        "originals/upload": "not in the store; its link: https://example.org/shot.mp4",
    }
    film = "films/_Über_ «x»_.mp4"
    films = {film, film.replace(".mp4", " (2).mp4"), "renditions/_Über_ «x»_ 0.25s-0.75s 80x60.mp4"}
    assert found.keys() == films | {"MISSING.txt", "originals/a.mp4", "originals/b.mp4"}
    assert found["originals/a.mp4"] == (site.store / "u1/uploads/a.mp4").read_bytes()
    assert found[film] in {file.read_bytes() for file in site.store.glob("masters/**/*.mp4")}
    # Originals tell what films do not; they are of users.
    become(app, Caller(project_id=PROJECT))
    assert _opened(web.get(url)).keys() == films | {"MISSING.txt"}
    assert web.get("/api/projects/other/archive").json()["error"] == "not_found"
    become(app, Caller())
    assert web.get("/api/projects/other/archive").json()["error"] == "not_found"


def test_an_archive_of_orders_has_names_for_people(
    site: Site, app: FastAPI, web: httpx.Client
) -> None:
    project = Project(site)
    project.master("m1", [project.shot("a")], name="Film")
    for number, (start, width) in enumerate([(0.5, 80), (0.0, 80), (0.25, 90), (None, 1080)]):
        project.rendition(f"s{number}", "m1", start=start, width=width)
    site.sql("UPDATE scaled_videos SET order_id = 'o1'")
    site.sql("UPDATE scaled_videos SET height = 1920, order_id = 'o2' WHERE scaled_id = 's3'")
    site.once()
    site.sql("UPDATE scaled_videos SET width = 91 WHERE scaled_id = 's2'")
    url = f"/api/projects/{PROJECT}/archive"
    answer = web.get(url, params={"order_ids": "o1"})
    assert answer.headers["Content-Disposition"].startswith('attachment; filename="Film.zip"')
    found = _opened(answer)
    assert _missing(found) == {"Film 91x60.mp4": "it is not ready: none"}
    ordered = ["Film 80x60 01.mp4", "Film 80x60 02.mp4"]
    assert list(found) == [*ordered, "MISSING.txt"]
    (first,) = site.store.glob("scaled/**/s1_*.mp4")
    assert found[ordered[0]] == first.read_bytes()
    both = _opened(web.get(url, params={"order_ids": "o1,o2"}))
    assert list(both) == [*ordered, "Film 9x16.mp4", "MISSING.txt"]
    assert web.get(url, params={"order_ids": "none"}).status_code == 404
    assert web.get(url, params={"order_ids": "o," * 21}).status_code == 404
    many = ",".join(map(str, range(21)))
    assert web.get(url, params={"order_ids": many}).json()["error"] == "invalid_request"
    become(app, Caller(project_id="p2"))
    assert web.get(url, params={"order_ids": "o1"}).status_code == 404


def test_an_archive_is_of_what_the_caller_may_see(
    site: Site, guarded_app: FastAPI, photo: Callable[[str], str]
) -> None:
    for name, user in (("of-ann", "ann"), ("of-bob", "bob")):
        _store(site, name, name.encode())
        site.sql("UPDATE generations SET user_id = :user WHERE id = :id", user=user, id=name)
    both = f"{URL}?ids=of-ann,of-bob"
    ann = bearer(token_of(guarded_app, Caller(user_id="ann")))
    with client_of(guarded_app) as client:
        found = _opened(client.get(both, headers=ann))
        assert found.keys() == {"of-ann.mp4", "MISSING.txt"}
        assert _missing(found) == {"of-bob": "no generation has this id"}
        for headers in (ann, bearer(token_of(guarded_app, Caller(project_id="p")))):
            assert client.get(f"{URL}?ids=of-bob", headers=headers).status_code == 404
        assert client.get(both).status_code == 401
        assert client.post(URL, data={"ids": "of-ann"}).status_code == 401

        def link(path: str, headers: dict[str, str]) -> httpx.Response:
            return client.post("/api/links", json={"paths": [path]}, headers=headers)

        assert link(both, ann).status_code == 404
        assert link(f"{URL}?ids=of-ann&ids=of-bob", ann).status_code == 404
        (own,) = link(f"{URL}?ids=of-ann", ann).json()["links"]
        assert _opened(client.get(own["url"])) == {"of-ann.mp4": b"of-ann"}
        assert client.get(own["url"].replace("of-ann", "of-bob")).status_code == 401
        assert client.post(own["url"], data={"ids": "of-bob"}).status_code == 401
        # What every holder of a token of the project may have.
        project = Project(site)
        project.asset("a", generation_id="of-bob")
        (whole,) = link(f"/api/projects/{PROJECT}/archive", BEARER).json()["links"]
        assert client.get(whole["url"]).status_code == 404
        assert "originals/of-bob.mp4" in _opened(client.get(whole["path"], headers=BEARER))
