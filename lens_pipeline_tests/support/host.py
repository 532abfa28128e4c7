"""The database of a site as such sites have it: its own `generations`, and no tables of masters.

Forty columns, uuids, rows that only a function of the site lets through, a check of the old
workers' words, tasks of several rows, and a time that each change moves.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from lens_pipeline_tests.support.site import Databases, Site

MASTERS = "project_assets, master_videos, scaled_videos"
_SCHEMA = f"""
    DROP TABLE generations, {MASTERS};
    DROP SCHEMA IF EXISTS app CASCADE;
    CREATE SCHEMA app;
    CREATE FUNCTION app.owns(owner uuid) RETURNS boolean LANGUAGE sql STABLE AS
      $$ SELECT owner = nullif(current_setting('app.user_id', true), '')::uuid $$;
    CREATE TABLE generations (
      id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
      user_id uuid NOT NULL,
      type text NOT NULL,
      status text NOT NULL DEFAULT 'queued',
      prompt text,
      negative_prompt text,
      model text NOT NULL DEFAULT 'nano-banana',
      provider_model text,
      task_id text,
      asset_url text,
      original_path text,
      results jsonb,
      input_urls jsonb NOT NULL DEFAULT '[]',
      settings jsonb NOT NULL DEFAULT '{{}}',
      preview_status text NOT NULL DEFAULT 'none'
        CHECK (preview_status IN ('none', 'processing', 'ready', 'failed')),
      preview_path text,
      poster_path text,
      preview_error text,
      preview_attempts integer NOT NULL DEFAULT 0,
      preview_updated_at timestamptz,
      error text,
      error_code text,
      aspect_ratio text,
      width integer,
      height integer,
      duration_seconds numeric,
      resolution text,
      seed bigint,
      credits_reserved numeric NOT NULL DEFAULT 0,
      credits_used numeric,
      is_favorite boolean NOT NULL DEFAULT false,
      is_public boolean NOT NULL DEFAULT false,
      is_deleted boolean NOT NULL DEFAULT false,
      folder_id uuid,
      product_id uuid,
      parent_id uuid REFERENCES generations (id),
      tags text[] NOT NULL DEFAULT '{{}}',
      started_at timestamptz,
      created_at timestamptz NOT NULL DEFAULT now(),
      updated_at timestamptz NOT NULL DEFAULT now());
    CREATE INDEX generations_by_task ON generations (task_id);
    CREATE INDEX generations_by_user ON generations (user_id, created_at DESC);
    CREATE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS
      $$ BEGIN NEW.updated_at := now(); RETURN NEW; END $$;
    CREATE TRIGGER touched BEFORE UPDATE ON generations
      FOR EACH ROW EXECUTE FUNCTION app.touch();
    ALTER TABLE generations ENABLE ROW LEVEL SECURITY;
    CREATE POLICY own_rows ON generations USING (app.owns(user_id)) WITH CHECK (app.owns(user_id));
"""
_AGED = """
    ALTER TABLE generations DISABLE TRIGGER touched;
    UPDATE generations SET created_at = now() - interval '{0}', updated_at = now() - interval '{0}';
    ALTER TABLE generations ENABLE TRIGGER touched;
"""
# What the README's guide for existing sites says to set.
SETTINGS = {
    "LENS_SOURCE_COLUMNS": "original_path,asset_url,results",
    "LENS_TYPES": "photo=photo|product,video=video",
}


class Host:
    """The site behind `site`, whose own tables are made here."""

    def __init__(self, site: Site, databases: Databases) -> None:
        self.site = site
        self._databases = databases
        self._name = site.database_url.rpartition("/")[2]
        self.user_id = str(uuid.uuid4())
        self._owned(_SCHEMA)
        columns = "SELECT FROM information_schema.columns WHERE table_name = 'generations'"
        assert len(site.sql(columns)) == 40

    def _owned(self, statements: str) -> None:
        """Some have `:` and `$$`, which SQLAlchemy would read."""
        self._databases.execute(f"SET ROLE lens; {statements}", self._name)

    def add(self, type_: str, asset_url: str | None = None, **columns: object) -> str:
        """A finished row; returns its id."""
        row = {"user_id": self.user_id, "type": type_, **columns}
        return self.site.add(str(uuid.uuid4()), asset_url, **row)

    def age(self, interval: str) -> None:
        """Let all rows have been created and finished so long ago."""
        self._owned(_AGED.format(interval))

    def like(self, row_id: str) -> None:
        """A favourite's click."""
        self.site.sql(
            "UPDATE generations SET is_favorite = NOT is_favorite WHERE id = CAST(:id AS uuid)",
            id=row_id,
        )

    @contextmanager
    def role(self) -> Iterator[str]:
        """The name of a role without any right."""
        name = f"role_{uuid.uuid4().hex[:8]}"
        self._databases.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret'")
        yield name
        for url in (self.site.database_url, self.site.dagster_url):
            database = url.rpartition("/")[2]
            self._databases.disconnect(database)
            self._databases.execute(f"DROP OWNED BY {name}", database)
        self._databases.execute(f"DROP ROLE {name}")
