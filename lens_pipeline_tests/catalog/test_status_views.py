"""Rights to `lens_generations` and `lens_master_videos`: a user's role sees that user's rows."""

import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg2
import pytest

from lens_pipeline.catalog.catalog import Catalog
from lens_pipeline.catalog.status_view import schema
from lens_pipeline.derivatives.registry import MASTER, PHOTO_ORIGINAL, PREVIEW
from lens_pipeline_tests.support.site import Site, as_role

pytestmark = pytest.mark.slow

ANNA, BERT = str(uuid.uuid4()), str(uuid.uuid4())
# As Supabase has it: one role for all users, of which a function tells the one who asks.
HOST = """
    DROP TABLE generations, master_videos;
    CREATE FUNCTION uid() RETURNS text LANGUAGE sql STABLE
      AS $$ SELECT current_setting('request.user', true) $$;
    CREATE TABLE generations (
      id uuid PRIMARY KEY, user_id uuid NOT NULL, type varchar(16), status text, asset_url text,
      created_at timestamp DEFAULT now(), updated_at timestamp DEFAULT now(), prompt text);
    CREATE TABLE master_videos (
      master_id uuid PRIMARY KEY, project_id text, name text, shots_config jsonb DEFAULT '[]',
      created_at timestamptz DEFAULT now(), updated_at timestamptz, owner_id uuid NOT NULL);
    ALTER TABLE generations ENABLE ROW LEVEL SECURITY;
    ALTER TABLE master_videos ENABLE ROW LEVEL SECURITY;
    CREATE POLICY own ON generations USING (CAST(user_id AS text) = uid());
    CREATE POLICY own ON master_videos USING (CAST(owner_id AS text) = uid());
"""
READ = {
    "lens_generations": "id",
    "lens_master_videos": "master_id",
    "lens_derivatives": "id",
    "lens_master_derivatives": "id",
}


class Users:
    """The host's role, as each user has it."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg2.connect(url)
        self._connection.autocommit = True

    def ask(self, user: str, statement: str) -> list[Any]:
        with self._connection.cursor() as cursor:
            cursor.execute("SELECT set_config('request.user', %s, false)", (user,))
            cursor.execute(statement)
            return cursor.fetchall()

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def users(site: Site, role: str) -> Iterator[Users]:
    with closing(Users(as_role(site.database_url, role))) as made:
        yield made


def _row(site: Site, user: str, state: str) -> tuple[str, str]:
    """A photo and a master of the user, whose files are in that state."""
    photo, master = str(uuid.uuid4()), str(uuid.uuid4())
    site.add(photo, "https://example.org/a.jpg", user_id=user)
    site.sql(
        "INSERT INTO master_videos (master_id, project_id, name, owner_id)"
        " VALUES (:master, 'p1', 'A film', :user)",
        master=master,
        user=user,
    )
    for asset, row_id in (
        (PREVIEW.asset, photo),
        (PHOTO_ORIGINAL.asset, photo),
        (MASTER.asset, master),
    ):
        site.pipeline.catalog.write_view(asset, {row_id: _columns(state)}, [])
    return photo, master


def _columns(state: str) -> dict[str, object]:
    columns = {"status": state, "path": "a/path", "error": None, "fingerprint": ""}
    return {**columns, "changed_at": "2026-01-01"}


def test_a_user_sees_no_row_of_another(site: Site, role: str, users: Users) -> None:
    """A view by which each user of the host reads the files of all."""
    site.sql(HOST)
    site.sql(f"GRANT SELECT ON generations TO {role}")
    assert "lens_generations, lens_master_videos" in site.lens("migrate").out
    rows = {ANNA: _row(site, ANNA, "ready"), BERT: _row(site, BERT, "dead")}
    site.pipeline.catalog.mark_view(None)
    for user, (photo, _) in rows.items():
        assert users.ask(user, "SELECT id FROM lens_generations") == [(photo,)]
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        users.ask(ANNA, "SELECT * FROM lens_master_videos")
    masters = "master_videos, lens_master_videos, lens_master_derivatives"
    site.sql(f"GRANT SELECT ON {masters} TO {role}")
    for user, (photo, master) in rows.items():
        found = [
            {row[0] for row in users.ask(user, f"SELECT {key} FROM {name}")} - {"kept"}
            for name, key in READ.items()
        ]
        assert found == [{photo}, {master}, {photo}, {master}]
    users.ask(ANNA, "SELECT set_config('enable_seqscan', 'off', false)")
    for view, key in list(READ.items())[:2]:
        join = f"(VALUES (CAST('{ANNA}' AS uuid)), ('{BERT}')) v(x) JOIN {view} ON {key} = v.x"
        # A page's join looks up its rows; it does not read the whole table.
        plan = [row[0].strip() for row in users.ask(ANNA, f"EXPLAIN SELECT * FROM {join}")]
        assert f'Index Cond: ({key} = "*VALUES*".column1)' in plan
    states = "SELECT preview_status, is_dead, original_path FROM lens_generations"
    assert users.ask(ANNA, states) == [("ready", False, "a/path")]
    assert users.ask(BERT, states) == [("failed", True, "a/path")]
    states = "SELECT status, video_path, progress, is_dead FROM lens_master_videos"
    assert users.ask(ANNA, states) == [("completed", "a/path", 100, False)]
    assert users.ask(BERT, states) == [("failed", "a/path", None, True)]
    assert all(users.ask("", f"SELECT 1 FROM {view}") == [] for view in list(READ)[:2])
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        users.ask(ANNA, "DELETE FROM lens_derivatives RETURNING 1")


def test_progress_is_that_of_the_attempt_under_way(site: Site) -> None:
    site.lens("migrate")
    site.sql("INSERT INTO master_videos VALUES ('m1', 'p1', 'A film', '[]')")
    shown = "SELECT status, progress FROM lens_master_videos"
    assert site.sql(shown) == [(None, None)]
    catalog = site.pipeline.catalog
    for state, word in (("processing", "processing"), ("failed", "failed"), ("processing", None)):
        catalog.write_view(MASTER.asset, {"m1": _columns(state)}, [])
        if word:
            catalog.write_view_progress({"m1": 40})
            assert site.sql(shown) == [(word, 40 if state == "processing" else None)]
    assert site.sql(shown) == [("processing", None)]


def test_before_postgresql_15_nothing_is_granted(
    site: Site, role: str, users: Users, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There a view shows what its owner sees."""
    site.sql(HOST)
    site.sql(f"GRANT SELECT ON generations, master_videos TO {role}")
    with monkeypatch.context() as older:
        older.setattr(schema, "_INVOKER_SINCE", 99)
        site.lens("migrate")
        assert site.lens("migrate", "--check").code == 0
    photo, _ = _row(site, ANNA, "ready")
    for name in READ:
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            users.ask(BERT, f"SELECT 1 FROM {name}")
    # The server has been brought up to date: pages that saw all rows are going to see none.
    site.sql(f"GRANT SELECT ON lens_generations TO {role}")
    policy = f"run CREATE POLICY lens_reads_{role} ON generations FOR SELECT TO {role} USING (true)"
    advice = site.lens("migrate", "--check").out
    assert "is of an older PostgreSQL: run `lens migrate`" in advice
    assert policy in advice
    assert policy in site.lens("migrate").err
    assert policy not in site.lens("migrate").err
    assert users.ask(BERT, "SELECT id FROM lens_generations") == []
    assert users.ask(ANNA, "SELECT id FROM lens_generations") == [(photo,)]


def test_who_kept_the_copy_before_row_level_security_goes_on(site: Site, role: str) -> None:
    """An upgrade by the tables' owner, after which the pipeline's role writes nothing."""
    site.lens("migrate")
    site.sql("ALTER TABLE lens_derivatives DISABLE ROW LEVEL SECURITY")
    site.sql("DROP TABLE lens_master_derivatives CASCADE")
    site.sql("COMMENT ON VIEW lens_generations IS 'Lens Pipeline, version 3'")
    site.sql(f"GRANT SELECT, INSERT, UPDATE, DELETE ON lens_derivatives TO {role}")
    site.sql(f"GRANT SELECT ON generations, master_videos TO {role}")
    site.lens("migrate")
    with closing(Catalog(as_role(site.database_url, role))) as catalog:
        assert catalog.lack_of_view() is None
        assert catalog.write_view(MASTER.asset, {"m1": _columns("ready")}, []) == 1


def test_a_change_of_lens_types_is_one_of_the_view(
    site: Site, environment: pytest.MonkeyPatch
) -> None:
    site.lens("migrate")
    site.add("p1", "https://example.org/a.jpg", type="product")
    site.pipeline.catalog.write_view(PREVIEW.asset, {"p1": _columns("ready")}, [])
    shown = "SELECT preview_path FROM lens_generations"
    assert site.sql(shown) == [(None,)]
    environment.setenv("LENS_TYPES", "photo=photo|product,video=video")
    reason = "lens_generations is of other types than LENS_TYPES=photo=photo|product,video=video"
    assert f"{reason}: run `lens migrate`" in site.lens("migrate", "--check").out
    site.lens("migrate")
    assert site.sql(shown) == [("a/path",)]
    assert site.lens("migrate", "--check").code == 0
