"""Files that people add over HTTP."""

import resource
import socket
import uuid
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI

from lens_pipeline.web.auth.caller import Caller
from lens_pipeline_tests.catalog.test_existing_sites import as_role
from lens_pipeline_tests.support import sources
from lens_pipeline_tests.support.site import Databases, Site, eventually
from lens_pipeline_tests.web.auth.gate_app import BEARER, bearer, client_of, token_of

pytestmark = pytest.mark.slow

_PATH = "/api/generations"
_MIB = 1 << 20


def _send(web: httpx.Client, name: str, content: Any, **more: Any) -> httpx.Response:
    query = {"name": name, **more.pop("query", {})}
    return web.post(_PATH, params=query, content=content, **more)


def test_a_file_becomes_a_generation_with_its_name(site: Site, web: httpx.Client) -> None:
    """A library that only a shell can fill."""
    added = _send(web, "Лето.MP4", sources.mp4(), query={"user_id": "u9"})
    assert added.status_code == 201, added.text
    entry = added.json()
    assert (entry["title"], entry["type"], entry["user_id"]) == ("Лето", "video", "u9")
    (row,) = site.sql("SELECT id, asset_url, status FROM generations")
    assert row.asset_url == f"u9/uploads/{row.id}/Лето.mp4"
    assert (site.store / row.asset_url).read_bytes() == sources.mp4()
    assert site.once()["ready"] == 1
    answer = web.get(entry["file_url"])
    assert answer.content == sources.mp4()
    assert "filename*=UTF-8''%D0%9B%D0%B5%D1%82%D0%BE.mp4" in answer.headers["Content-Disposition"]


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("../../etc/passwd", "_.._etc_passwd"),
        ("...", None),
        ("a?b#c.png", "a_b_c.png"),
        ("x" * 900 + ".png", "x" * 251 + ".png"),
        ("gpj.\u202eexe", "gpj._exe"),
        ("\U0001b4d7\u00ad\ufeff.png", "___.png"),
    ],
)
def test_no_name_leads_elsewhere(
    site: Site, web: httpx.Client, name: str, kept: str | None
) -> None:
    assert _send(web, name, sources.png()).status_code == 201
    (row,) = site.sql("SELECT id, asset_url FROM generations")
    assert row.asset_url == f"me/uploads/{row.id}/{kept or row.id}"


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"<html>not found</html>", 415, "unsupported_file"),
        (b"", 415, "unsupported_file"),
        (b"#EXTM3U\nfile:///etc/passwd", 415, "unsupported_file"),
        (b"\xff\xd8\xff" + bytes(3 * _MIB), 413, "too_large"),
        (iter([b"\xff\xd8\xff", *[bytes(_MIB)] * 3]), 413, "too_large"),
    ],
)
def test_what_is_refused_leaves_nothing(
    site: Site,
    environment: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    content: Any,
    status: int,
    code: str,
) -> None:
    environment.setenv("LENS_MAX_SOURCE_BYTES", str(2 * _MIB))
    web: httpx.Client = request.getfixturevalue("web")
    answer = _send(web, "a.jpg", content)
    assert (answer.status_code, answer.json()["error"]) == (status, code)
    assert site.sql("SELECT FROM generations") == []
    assert site.objects() == set()
    assert list(site.pipeline.settings.scratch.glob("*")) == []


def test_a_user_that_the_table_cannot_hold_is_refused_before_the_file(
    site: Site, web: httpx.Client
) -> None:
    """A film that is sent for an hour, and then a database that "does not answer"."""
    site.sql("DROP INDEX generations_user_id_finished_at_id")
    site.sql("ALTER TABLE generations ALTER user_id TYPE uuid USING user_id::uuid")
    # Its content would be refused, too.
    answer = _send(web, "a.mp4", b"<html>").json()
    assert (answer["error"], answer["field"]) == ("invalid_user", "user_id")
    assert "user 'me' is no UUID" in answer["message"]
    user_id = str(uuid.uuid4())
    added = _send(web, "a.png", sources.png(), query={"user_id": user_id.upper()})
    assert added.status_code == 201, added.text
    assert added.json()["user_id"] == user_id


def test_a_file_that_is_cut_short_is_no_file(site: Site, web: httpx.Client) -> None:
    head = f"POST {_PATH}?name=a.jpg HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9999\r\n\r\n"
    with socket.create_connection((web.base_url.host, web.base_url.port or 80)) as link:
        link.sendall(head.encode() + sources.jpeg()[:500])
    eventually(lambda: not list(site.pipeline.settings.scratch.glob("*")), what="its end")
    assert site.sql("SELECT FROM generations") == []
    assert _send(web, "a.jpg", sources.jpeg()).status_code == 201


def test_a_large_file_takes_no_memory(site: Site, web: httpx.Client) -> None:
    """A server that holds each film while it comes."""

    def film() -> Iterator[bytes]:
        yield sources.mp4()
        yield from [bytes(_MIB)] * 256

    _send(web, "warm.mp4", sources.mp4())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert _send(web, "film.mp4", film()).status_code == 201
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 64 * 1024, f"{grown} KiB"


def test_only_who_sees_everything_may_add(guarded_app: FastAPI, site: Site) -> None:
    with client_of(guarded_app) as web:
        assert _send(web, "a.png", sources.png()).status_code == 401
        for bound in (Caller(user_id="u1"), Caller(project_id="p1")):
            headers = bearer(token_of(guarded_app, bound))
            answer = _send(web, "a.png", sources.png(), headers=headers, query={"user_id": "u1"})
            assert (answer.status_code, answer.json()["error"]) == (403, "forbidden")
        foreign = BEARER | {"Origin": "https://evil.example"}
        assert _send(web, "a.png", sources.png(), headers=foreign).status_code == 403
        assert site.sql("SELECT FROM generations") == []
        assert _send(web, "a.png", sources.png(), headers=BEARER).status_code == 201


def test_without_the_right_nothing_is_stored(
    site: Site,
    databases: Databases,
    pair: tuple[str, str],
    environment: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """A disk that fills with files of which no row tells."""
    role = f"role_{uuid.uuid4().hex[:8]}"
    databases.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    try:
        site.sql(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
        environment.setenv("LENS_DATABASE_URL", as_role(site.database_url, role))
        answer = _send(request.getfixturevalue("web"), "a.png", sources.png())
        assert (answer.status_code, answer.json()["error"]) == (503, "no_right_to_write")
        assert f"GRANT INSERT ON generations TO {role}" in answer.json()["message"]
        assert site.objects() == set()
    finally:
        databases.execute(f"DROP OWNED BY {role}", pair[0])
        databases.execute(f"DROP ROLE {role}")
