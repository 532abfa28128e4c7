"""`lens_generations`, as a page reads it that knew the old columns."""

import datetime as dt
import time
from collections.abc import Callable
from typing import Any

import httpx2 as httpx
import psycopg2
import pytest
import sqlalchemy as sa
from fastapi import FastAPI

from lens_pipeline.definitions import job
from lens_pipeline.engine.run_queue import RunQueue
from lens_pipeline.web.app import create_app
from lens_pipeline.web.context import Context
from lens_pipeline_tests.support.site import Databases, Site, eventually
from lens_pipeline_tests.support.web import served

pytestmark = pytest.mark.slow

Photo = Callable[[str], str]
_COLUMNS = (
    *("id", "user_id", "type", "status", "preview_status", "preview_path", "poster_path"),
    *("error", "updated_at"),
)


@pytest.fixture(autouse=True)
def view(site: Site) -> None:
    """The view, as `lens migrate` makes it."""
    assert "lens_generations" in site.lens("migrate").out


def _shown(site: Site, row_id: str) -> Any:
    rows = site.sql("SELECT * FROM lens_generations WHERE id = :id", id=row_id)
    return rows[0] if rows else None


def _state(site: Site, row_id: str) -> str | None:
    row = _shown(site, row_id)
    return row and row.preview_status


def _other(site: Site) -> FastAPI:
    return create_app(Context(site.pipeline, RunQueue(site.pipeline, site.dagster, job)))


def test_it_shows_what_the_old_columns_did(site: Site, web: httpx.Client, photo: Photo) -> None:
    site.add("p1", photo("p1"))
    site.add("bad", "http://127.0.0.1/none.jpg")
    site.add("v1", None, type="video", status="generating")
    assert tuple(_shown(site, "p1")._fields) == _COLUMNS
    assert (_state(site, "p1"), _shown(site, "p1").preview_path) == ("none", None)
    before = _shown(site, "p1").updated_at
    # The writer of this process has begun.
    eventually(lambda: web.get("/api/health").status_code, 5)
    site.once()
    done = time.monotonic()
    eventually(lambda: (_state(site, "p1"), _state(site, "bad")) == ("ready", "dead"), 10)
    assert time.monotonic() - done < 2
    ready, dead = _shown(site, "p1"), _shown(site, "bad")
    api = web.get("/api/generations/p1").json()
    assert (ready.preview_path, ready.poster_path, ready.error) == (api["path"], None, None)
    assert ready.updated_at == dt.datetime.fromisoformat(api["ready_at"]) > before
    assert "127.0.0.1" in dead.error and dead.preview_path is None
    video = _shown(site, "v1")
    assert (video.type, video.status, video.preview_status) == ("video", "generating", "none")
    site.lens("retry", "bad")
    eventually(lambda: _shown(site, "bad").error is None, 5)
    site.sql("DELETE FROM generations WHERE id = 'p1'")
    assert _shown(site, "p1") is None
    site.lens("remove-missing", "--yes")
    eventually(lambda: not site.sql("SELECT 1 FROM lens_derivatives WHERE id = 'p1'"), 5)


def test_what_changed_without_the_app_is_found(site: Site, app: FastAPI, photo: Photo) -> None:
    site.add("a", photo("a"))
    site.add("gone", photo("gone"))
    site.once()
    with served(app):
        eventually(lambda: _state(site, "gone") == "ready", 10)
    site.sql("DELETE FROM generations WHERE id = 'gone'")
    site.sql("UPDATE generations SET asset_url = 'http://127.0.0.1/b.jpg' WHERE id = 'a'")
    site.once()
    assert _state(site, "a") == "ready"
    with served(_other(site)):
        eventually(lambda: _state(site, "a") == "dead", 10)
        eventually(lambda: len(site.sql("SELECT * FROM lens_derivatives")) == 1, 10)


def test_one_process_writes_and_another_takes_over(site: Site, app: FastAPI, photo: Photo) -> None:
    with served(_other(site)):
        with served(app):
            site.add("a", photo("a"))
            site.once()
            eventually(lambda: _state(site, "a") == "ready", 10)
        site.add("b", photo("b"))
        site.once()
        eventually(lambda: _state(site, "b") == "ready", 10)


def test_a_role_that_may_read_the_view_alone(site: Site, databases: Databases) -> None:
    """Nobody may at first, whatever the host's defaults are; and no more than the view."""
    site.add("a", "https://example.org/a.jpg")
    url = sa.make_url(site.database_url)
    role = f"page_{url.database}"
    databases.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'page'")
    try:
        page = url.set(username=role, password="page").render_as_string(hide_password=False)
        with psycopg2.connect(page) as connection, connection.cursor() as cursor:
            for table in ("lens_generations", "lens_derivatives", "generations"):
                with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                    cursor.execute(f"SELECT 1 FROM {table}")
                connection.rollback()
            site.sql(f"GRANT SELECT ON lens_generations TO {role}")
            cursor.execute("SELECT id, preview_status FROM lens_generations")
            assert cursor.fetchall() == [("a", "none")]
            for statement in (
                "SELECT 1 FROM lens_derivatives",
                "DELETE FROM lens_generations",
                "UPDATE lens_generations SET status = 'x'",
            ):
                with pytest.raises(psycopg2.Error):
                    cursor.execute(statement)
                connection.rollback()
        connection.close()
    finally:
        databases.execute(f"DROP OWNED BY {role}", str(url.database))
        databases.execute(f"DROP ROLE {role}")


def test_defaults_of_the_host_do_not_open_it(site: Site) -> None:
    """As on Supabase, where everybody may read what is new in `public`."""
    site.sql("DROP VIEW lens_generations")
    site.sql("DROP TABLE lens_derivatives")
    site.sql("ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC")
    try:
        site.lens("migrate")
    finally:
        site.sql("ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM PUBLIC")
    for name in ("lens_generations", "lens_derivatives"):
        (row,) = site.sql(f"SELECT relacl FROM pg_class WHERE oid = '{name}'::regclass")
        assert "{=" not in str(row.relacl) and ",=" not in str(row.relacl)


def test_a_host_with_uuids_and_times_without_zone(site: Site, photo: Photo) -> None:
    key = "0b8f0d5e-7b5c-4a8e-9a55-3f2e6a6d8c11"
    site.sql("DROP VIEW lens_generations; DROP TABLE generations")
    site.sql(
        "CREATE TABLE generations (id uuid PRIMARY KEY, user_id uuid, type text, status text,"
        " asset_url text, extra json, preview_status text, error text,"
        " created_at timestamp, updated_at timestamp)"
    )
    site.lens("migrate")
    site.add(key, photo("p"), user_id=key, created_at="2026-01-01", updated_at="2026-01-02 10:00")
    site.sql("SET TIME ZONE 'Asia/Tokyo'")
    assert _shown(site, key).updated_at == dt.datetime(2026, 1, 2, 10, tzinfo=dt.UTC)
    site.once()
    with served(_other(site)):
        eventually(lambda: _state(site, key) == "ready", 10)
    assert _shown(site, key).preview_path.startswith(key)


def test_without_the_right_to_write_the_rest_works(site: Site, app: FastAPI, photo: Photo) -> None:
    site.sql("DROP VIEW lens_generations")
    with served(app) as url, httpx.Client(base_url=url) as web:
        site.add("a", photo("a"))
        site.once()
        assert web.get("/api/generations/a").json()["status"] == "ready"
    checks = {c["name"]: c for c in site.lens("doctor", "--json").json["checks"]}
    assert checks["database"]["ok"]
    assert "lens_generations is not kept: run `lens migrate`" in checks["database"]["message"]
    site.lens("migrate")
    checks = {c["name"]: c for c in site.lens("doctor", "--json").json["checks"]}
    assert checks["database"]["message"].endswith(
        "lens_generations is kept true while the HTTP app runs"
    )
