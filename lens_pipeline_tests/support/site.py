"""A site as the tests see it: its table, its store, its sources, and the `lens` command."""

import contextlib
import io
import json
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg2
import pytest
import sqlalchemy as sa

from lens_pipeline.cli import main
from lens_pipeline.derivatives import pipeline
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.engine.instance import dagster_instance
from lens_pipeline.settings import load


@dataclass(frozen=True)
class Output:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Site:
    """One application: rows go in, derivatives come out below `store`."""

    database_url: str
    dagster_url: str
    store: Path
    _engine: sa.Engine | None = field(default=None, repr=False)
    _open: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, repr=False)
    _instance: dg.DagsterInstance | None = field(default=None, repr=False)

    def sql(self, statement: str, **values: Any) -> list[Any]:
        """Execute on the application's database; the rows, if any."""
        if self._engine is None:
            self._engine = sa.create_engine(self.database_url, poolclass=sa.NullPool)
        with self._engine.begin() as connection:
            result = connection.execute(sa.text(statement), values)
            return list(result.all()) if result.returns_rows else []

    def age_events(self, interval: str, run_id: str | None = None) -> None:
        """Let all of Dagster's event log, or of one run, have happened that much earlier."""
        engine = sa.create_engine(self.dagster_url, poolclass=sa.NullPool)
        statement = """
            UPDATE event_logs SET timestamp = timestamp - CAST(:age AS interval)
             WHERE run_id = coalesce(:run_id, run_id)
        """
        with engine.begin() as connection:
            connection.execute(sa.text(statement), {"age": interval, "run_id": run_id})

    def add(self, row_id: str, asset_url: str | None, **columns: Any) -> str:
        """Insert a finished row; `columns` override the usual values. Returns its id."""
        row = {
            "id": row_id,
            "user_id": "u1",
            "type": "photo",
            "status": "success",
            "asset_url": asset_url,
            **columns,
        }
        names = ", ".join(row)
        self.sql(
            f"INSERT INTO generations ({names}) VALUES ({', '.join(':' + name for name in row)})",
            **row,
        )
        return row_id

    def add_many(self, ids: Iterable[str], url: Callable[[str], str], age: str = "0 s") -> None:
        """Insert finished photos that finished `age` ago, in one statement."""
        ids = list(ids)
        self.sql(
            "INSERT INTO generations (id, user_id, type, status, asset_url, created_at, updated_at)"
            " SELECT k.id, 'u1', 'photo', 'success', k.url, now() - CAST(:age AS interval),"
            " now() - CAST(:age AS interval) FROM unnest(:ids, :urls) AS k(id, url)",
            ids=ids,
            urls=[url(row_id) for row_id in ids],
            age=age,
        )

    @property
    def pipeline(self) -> Pipeline:
        return pipeline.current()

    def lens(self, *arguments: str) -> Output:
        """Run a `lens` command in this process."""
        return lens(*arguments)

    def once(self) -> Any:
        return self.lens("once", "--json").json

    def status(self, row_id: str) -> Any:
        """The one derivative of the id."""
        (entry,) = self.lens("status", row_id, "--json").json["status"]
        return entry

    def dead_letters(self) -> dict[str, Any]:
        found = self.lens("dead-letters", "--json").json["dead_letters"]
        return {letter["id"]: letter for letter in found}

    @property
    def dagster(self) -> dg.DagsterInstance:
        """Dagster's instance, for what the commands don't show."""
        if self._instance is None:
            self._instance = self._open.enter_context(dagster_instance(load()[0]))
        return self._instance

    def close(self) -> None:
        self._open.close()

    def materializations(self, asset: str, key: str | None = None) -> list[dg.EventLogEntry]:
        """Newest first."""
        records = self.dagster.fetch_materializations(
            dg.AssetRecordsFilter(
                asset_key=dg.AssetKey(asset), asset_partitions=[key] if key else None
            ),
            limit=10_000,
        ).records
        return [record.event_log_entry for record in records]

    def metadata(self, asset: str, key: str) -> Mapping[str, dg.MetadataValue]:
        """Of the latest materialization."""
        event = self.materializations(asset, key)[0].asset_materialization
        assert event is not None
        return event.metadata

    def runs(self) -> list[dg.DagsterRun]:
        """Newest first."""
        return list(self.dagster.get_runs())

    def objects(self) -> set[str]:
        """Keys of everything in the store but originals, unfinished objects included."""
        return {key for key in self._stored() if "/originals/" not in key}

    def originals(self) -> dict[str, bytes]:
        """The originals that the pipeline keeps, by key."""
        keys = {key for key in self._stored() if "/originals/" in key}
        return {key: (self.store / key).read_bytes() for key in keys}

    def _stored(self) -> set[str]:
        files = (path for path in self.store.rglob("*") if path.is_file())
        return {str(path.relative_to(self.store)) for path in files}


def lens(*arguments: str) -> Output:
    """Run a `lens` command in this process, as its entry point does."""
    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    previous = sys.argv
    sys.argv = ["lens", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as stop:
        code = stop.code
    finally:
        sys.argv = previous
    return Output(int(code or 0), out.getvalue(), err.getvalue())


def as_role(url: str, role: str) -> str:
    """The database as seen by `role`."""
    _, _, rest = url.partition("@")
    return f"postgresql://{role}:secret@{rest}"


class Databases:
    """Makes databases on the tests' server by copying prepared ones."""

    def __init__(self, admin: Mapping[str, Any], url: Callable[[str], str]) -> None:
        self._admin = admin
        self.url = url

    def execute(self, statement: str, database: str = "postgres") -> None:
        connection = psycopg2.connect(dbname=database, **self._admin)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
        finally:
            connection.close()

    def create(self, template: str | None = None) -> str:
        """A new database of the role `lens`; returns its name."""
        name = f"t_{uuid.uuid4().hex[:12]}"
        self.create_as(name, template)
        return name

    def create_as(self, name: str, template: str | None = None) -> None:
        copied = f"TEMPLATE {template} STRATEGY wal_log" if template else ""
        self.execute(f"CREATE DATABASE {name} OWNER lens {copied}")

    def disconnect(self, *names: str) -> None:
        """End every session: one that lingers keeps locks, and a template from being copied."""
        listed = ", ".join(f"'{name}'" for name in names)
        self.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            f" WHERE datname IN ({listed})"
        )


def eventually(
    condition: Callable[[], Any], seconds: float = 15, what: str = "it", every: float = 0.1
) -> Any:
    """Wait for a true value of `condition` and return it; fail if it does not come in time."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not happen within {seconds:g} s")
        time.sleep(every)
    return value
