"""`lens_generations`, as a page reads it that knew the old columns."""

import datetime as dt
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import httpx2 as httpx
import psycopg2
import pytest
from fastapi import FastAPI

from lens_pipeline.catalog.catalog import Catalog
from lens_pipeline.definitions import job
from lens_pipeline.engine.run_queue import RunQueue
from lens_pipeline.monitoring import view_sync
from lens_pipeline.web.app import create_app
from lens_pipeline.web.context import Context
from lens_pipeline_tests.support.site import Site, as_role, eventually
from lens_pipeline_tests.support.web import served

pytestmark = pytest.mark.slow

Photo = Callable[[str], str]
_FIRST_VERSION = """
    CREATE VIEW lens_generations AS
    SELECT g.id, g.user_id, g.type, g.status,
           coalesce(d.status, 'none') AS preview_status,
           CASE d.asset WHEN 'preview' THEN d.path END AS preview_path,
           CASE d.asset WHEN 'poster' THEN d.path END AS poster_path,
           d.error,
           greatest(coalesce(g.updated_at, g.created_at), d.changed_at) AS updated_at
      FROM generations g
      LEFT JOIN lens_derivatives d
        ON d.id = CAST(g.id AS text)
       AND d.asset = CASE g.type WHEN 'photo' THEN 'preview' WHEN 'video' THEN 'poster' END
"""
_COLUMNS = (
    *("id", "user_id", "type", "status", "preview_status", "preview_path", "poster_path"),
    *("error", "updated_at", "original_path", "is_dead"),
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


def _copied(site: Site, row_id: str) -> list[Any]:
    return site.sql("SELECT 1 FROM lens_derivatives WHERE id = :id", id=row_id)


def _checked(site: Site) -> dict[str, Any]:
    """What the doctor says of the application's database."""
    checks = site.lens("doctor", "--json").json["checks"]
    return next(check for check in checks if check["name"] == "database")


def _other(site: Site) -> FastAPI:
    return create_app(Context(site.pipeline, RunQueue(site.pipeline, site.dagster, job)))


def test_it_shows_what_the_old_columns_did(site: Site, web: httpx.Client, photo: Photo) -> None:
    site.add("p1", photo("p1"))
    site.add("bad", "http://127.0.0.1/none.jpg")
    site.add("v1", None, type="video", status="generating")
    assert tuple(_shown(site, "p1")._fields) == _COLUMNS
    # The writer of this process has begun.
    eventually(lambda: _state(site, "p1") == "none", 10)
    assert _shown(site, "p1").preview_path is None
    before = _shown(site, "p1").updated_at
    site.once()
    done = time.monotonic()
    eventually(lambda: (_state(site, "p1"), _state(site, "bad")) == ("ready", "failed"), 10)
    assert time.monotonic() - done < 2
    ready, dead = _shown(site, "p1"), _shown(site, "bad")
    api = web.get("/api/generations/p1").json()
    assert (ready.preview_path, ready.poster_path, ready.error) == (api["path"], None, None)
    assert ready.updated_at == dt.datetime.fromisoformat(api["ready_at"]) > before
    assert "127.0.0.1" in dead.error and dead.preview_path is None
    assert (ready.is_dead, dead.is_dead) == (False, True)
    original = site.metadata("photo_generation", "p1")["path"].value
    eventually(lambda: _shown(site, "p1").original_path == original, 5)
    video = _shown(site, "v1")
    assert (video.type, video.status, video.preview_status) == ("video", "generating", "none")
    site.lens("retry", "bad")
    eventually(lambda: _shown(site, "bad").error is None, 5)
    site.sql("DELETE FROM generations WHERE id = 'p1'")
    assert _shown(site, "p1") is None
    site.lens("remove-missing", "--yes")
    eventually(lambda: not _copied(site, "p1"), 5)


def test_a_file_is_not_shown_as_ready_once_its_run_is_deleted(
    site: Site, web: httpx.Client, photo: Photo
) -> None:
    """A run deleted in the Dagster UI, and a page that shows its file for another hour."""
    site.add("p1", photo("p1"))
    site.once()
    eventually(lambda: _state(site, "p1") == "ready", 10)
    assert web.get("/api/generations/p1").json()["status"] == "ready"
    (run,) = site.runs()
    site.dagster.delete_run(run.run_id)
    eventually(lambda: _state(site, "p1") == "none", 5)


def test_what_changed_without_the_app_is_found(site: Site, app: FastAPI, photo: Photo) -> None:
    site.add("a", photo("a"))
    site.add("gone", photo("gone"))
    site.once()
    with served(app):
        eventually(lambda: _state(site, "gone") == "ready", 10)
    site.sql("DELETE FROM generations WHERE id = 'gone'")
    site.sql("UPDATE generations SET asset_url = 'http://127.0.0.1/b.jpg' WHERE id = 'a'")
    assert _state(site, "a") == "ready"
    with served(_other(site)):
        eventually(lambda: _state(site, "a") == "none", 10)
        eventually(lambda: not _copied(site, "gone"), 10)


def test_one_process_writes_and_another_takes_over(site: Site, app: FastAPI, photo: Photo) -> None:
    with served(_other(site)):
        with served(app):
            site.add("a", photo("a"))
            site.once()
            eventually(lambda: _state(site, "a") == "ready", 10)
        site.add("b", photo("b"))
        site.once()
        eventually(lambda: _state(site, "b") == "ready", 10)


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
    site.sql("DROP VIEW lens_generations; DROP TABLE lens_derivatives, generations")
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
    checked = _checked(site)
    assert checked["ok"]
    assert "read SQL, does not exist: run `lens migrate`" in checked["message"]
    site.lens("migrate")
    kept = "lens_generations is kept true while the HTTP app runs"
    assert _checked(site)["message"].endswith(kept)


def test_a_row_that_was_unfinished_for_a_while_is_ready_at_once(
    site: Site, app: FastAPI, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No event tells of a row that finishes again with the same file."""
    site.add("a", photo("a"))
    site.once()
    assert _state(site, "a") == "ready"
    site.sql("UPDATE generations SET status = 'generating' WHERE id = 'a'")
    assert (_state(site, "a"), _shown(site, "a").preview_path) == ("none", None)
    comparisons: list[object] = []
    drop = Catalog.drop_orphans
    monkeypatch.setattr(Catalog, "drop_orphans", lambda *given: comparisons.append(drop(*given)))
    with served(app):
        eventually(lambda: comparisons, 10, "the clean-up")
        site.sql("UPDATE generations SET status = 'success' WHERE id = 'a'")
        assert _state(site, "a") == "ready"


def test_a_view_that_is_not_kept_says_null(site: Site, photo: Photo) -> None:
    """`none` of ready files, for which a page would show a spinner for ever."""
    site.add("a", photo("a"))
    assert _state(site, "a") is None
    with served(_other(site)):
        eventually(lambda: _state(site, "a") == "none", 10)
    # As five minutes after the end of the app.
    site.sql("UPDATE lens_derivatives SET changed_at = now() WHERE id = 'kept'")
    assert _state(site, "a") is None


def test_commands_keep_it_where_no_app_runs(site: Site, photo: Photo) -> None:
    """A site whose only process is `lens once` of a timer."""
    for name in ("a", "b", "c"):
        site.add(name, photo(name))
    site.lens("once", "--limit", "1")
    assert [_state(site, name) for name in ("a", "b", "c")] == ["ready", "none", "none"]
    site.lens("backfill", "b")
    site.add("bad", "http://127.0.0.1/none.jpg")
    site.once()
    states = {name: _state(site, name) for name in ("a", "b", "c", "bad")}
    assert states == {"a": "ready", "b": "ready", "c": "ready", "bad": "failed"}
    assert _shown(site, "c").original_path in site.originals()


def test_an_older_view_is_kept_and_brought_up_to_date(
    site: Site,
    photo: Photo,
    role: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A new version that waits for its view, or pages that lose their rights to it."""
    monkeypatch.setattr(view_sync, "_MARK_SECONDS", 0.2)
    view_sync.logger.addHandler(caplog.handler)
    site.sql("DROP VIEW lens_generations; ALTER TABLE lens_derivatives DROP COLUMN fingerprint")
    site.sql(_FIRST_VERSION)
    site.sql(f"GRANT SELECT ON lens_generations TO {role}")
    site.add("a", photo("a"))
    old = "lens_generations is of version 1, and this program knows 4: run `lens migrate`"
    with served(_other(site)):
        site.once()
        eventually(lambda: _state(site, "a") == "ready", 10)
        assert old in caplog.text
        checked = _checked(site)
        assert (checked["ok"], old in checked["message"]) == (True, True)
        assert old in site.lens("migrate", "--check").out
        # As a new column, of which no event tells.
        site.sql("UPDATE lens_derivatives SET status = 'processing' WHERE id = 'a'")
        with _page(as_role(site.database_url, role)) as seen:
            site.lens("migrate")
            eventually(lambda: "ready" in seen, 10)
    view_sync.logger.removeHandler(caplog.handler)
    assert set(seen) <= {"processing", "ready"}
    assert site.lens("migrate", "--check").code == 0
    assert site.lens("migrate", "--sql").out == "-- nothing to do\n"


@contextmanager
def _page(url: str) -> Iterator[list[str]]:
    """A page that asks for the only row all the time; the states it was told, one after another."""
    seen: list[str] = []
    has_ended = threading.Event()

    def ask() -> None:
        with closing(psycopg2.connect(url)) as connection:
            connection.autocommit = True
            while not has_ended.is_set():
                with connection.cursor() as cursor:
                    cursor.execute("SELECT preview_status FROM lens_generations")
                    seen.extend(status for (status,) in cursor.fetchall())

    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(ask)
        try:
            yield seen
        finally:
            has_ended.set()
            asking.result()
