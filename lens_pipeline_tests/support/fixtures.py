"""One PostgreSQL for all tests of the pipeline; each test has databases and settings of its own."""

import functools
import json
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lens_pipeline.catalog.catalog import Catalog
from lens_pipeline.defs.assets import renderers
from lens_pipeline.derivatives import pipeline
from lens_pipeline.engine.dagster_storage import storage
from lens_pipeline.engine.dagster_storage.event_log_storage import partition_lists_of
from lens_pipeline.media.sandbox.pool import RENDERS, Sandbox
from lens_pipeline.settings import PREFIX, Settings
from lens_pipeline.supervisor import orphans
from lens_pipeline.supervisor.services import running
from lens_pipeline_tests.support import sources
from lens_pipeline_tests.support.servers import HostileServer
from lens_pipeline_tests.support.site import Databases, Site

_APPLICATION, _DAGSTER = "template_application", "template_dagster"
# Which migrations are done is kept.
_EMPTY = """
DO $$ BEGIN
  EXECUTE (
    SELECT 'TRUNCATE ' || string_agg(quote_ident(tablename), ', ') || ' RESTART IDENTITY'
      FROM pg_tables WHERE schemaname = 'public'
       AND tablename NOT IN ('alembic_version', 'secondary_indexes'));
END $$
"""


@pytest.fixture(scope="session")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    """A server with two finished databases to copy: making Dagster's tables takes a second."""
    home = tmp_path_factory.mktemp("databases")
    with running(Settings(home=home), broker=False, command="tests") as endpoints:
        connection = json.loads((home / "postgres" / "connection.json").read_text())
        admin = {
            "host": "127.0.0.1",
            "port": connection["port"],
            "user": "postgres",
            "password": connection["passwords"]["postgres"],
        }
        base = endpoints.database_url.rpartition("/")[0]
        made = Databases(admin, lambda name: f"{base}/{name}")
        # Nothing here outlives the tests; a database is dropped after a checkpoint.
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            made.execute(f"ALTER SYSTEM SET {setting} = off")
        made.execute("SELECT pg_reload_conf()")
        made.create_as(_APPLICATION)
        made.create_as(_DAGSTER)
        catalog = Catalog(made.url(_APPLICATION))
        catalog.migrate()
        catalog.close()
        storage.create_tables(made.url(_DAGSTER))
        # Sessions that linger would keep the templates from being copied.
        made.disconnect(_APPLICATION, _DAGSTER)
        yield made


@pytest.fixture(scope="session")
def pair(databases: Databases) -> tuple[str, str]:
    """An application's database and Dagster's, by name."""
    return databases.create(_APPLICATION), databases.create(_DAGSTER)


@pytest.fixture
def fresh_pair(databases: Databases, pair: tuple[str, str]) -> tuple[str, str]:
    """The same two, as if just made: emptying them takes a tenth of the time of copying."""
    application, dagster = pair
    databases.disconnect(*pair)
    databases.execute(
        "DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION lens;"
        " GRANT USAGE ON SCHEMA public TO PUBLIC",
        application,
    )
    catalog = Catalog(databases.url(application))
    catalog.migrate()
    catalog.close()
    databases.execute(_EMPTY, dagster)
    return pair


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A LENS_HOME in which nothing may be left running."""
    directory = tmp_path / "home"
    yield directory
    left = [process.name() for process in orphans.processes_of(directory)]
    orphans.kill(directory)
    assert left == []


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """No setting of the machine the tests run on, neither by variable nor by `.env`."""
    for name in os.environ:
        if name.startswith((PREFIX, "DAGSTER_", "PREVIEWS_WORKER_")):
            monkeypatch.delenv(name)
    # Set by the commands themselves; named here so that they are reset.
    for name in ("DAGSTER_HOME", "DAGSTER_EVENT_BATCH_SIZE"):
        monkeypatch.setenv(name, "")
    monkeypatch.chdir(tmp_path)
    return monkeypatch


@pytest.fixture(scope="session")
def sandboxes(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[Settings], Sandbox]]:
    """Media processes that outlive a test: starting them takes as long as most tests."""
    opened: list[Sandbox] = []

    @functools.cache
    def by_limits(threads: int, seconds: float, mib: int, module: str) -> Sandbox:
        opened.append(Sandbox(threads, seconds, mib, tmp_path_factory.mktemp("sandbox"), module))
        return opened[-1]

    def sandbox(settings: Settings, module: str = RENDERS) -> Sandbox:
        return by_limits(
            settings.threads, settings.render_timeout_seconds, settings.render_memory_mib, module
        )

    sandbox.cache_clear = by_limits.cache_clear  # pyright: ignore[reportFunctionMemberAccess]
    yield sandbox
    for one in opened:
        one.close()


@pytest.fixture
def site(
    databases: Databases,
    fresh_pair: tuple[str, str],
    environment: pytest.MonkeyPatch,
    sandboxes: Callable[[Settings], Sandbox],
    tmp_path: Path,
) -> Iterator[Site]:
    """A site with an empty table and store; sources may come from `localhost` by name."""
    application, dagster = fresh_pair
    made = Site(databases.url(application), databases.url(dagster), tmp_path / "store")
    made.store.mkdir()
    for name, value in {
        "LENS_HOME": str(tmp_path / "home"),
        "LENS_DATABASE_URL": made.database_url,
        "LENS_DAGSTER_URL": made.dagster_url,
        "LENS_STORE_URL": made.store.as_uri(),
        "LENS_FETCH_ALLOW_HOSTS": "localhost",
        "LENS_FETCH_TIMEOUT_SECONDS": "3",
        "LENS_LOG_LEVEL": "warning",
        # Encodes take longer than most tests.
        "LENS_CLIPS": "false",
        "LENS_PLAYABLE": "false",
    }.items():
        environment.setenv(name, value)
    environment.setattr(renderers, "media_sandbox", sandboxes)
    yield made
    made.close()
    pipeline.connect.cache_clear()
    partition_lists_of.cache_clear()


@pytest.fixture
def role(databases: Databases, pair: tuple[str, str]) -> Iterator[str]:
    """A role without rights, see `as_role`."""
    name = f"role_{uuid.uuid4().hex[:8]}"
    databases.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'secret'")
    yield name
    for database in pair:
        databases.execute(f"DROP OWNED BY {name}", database)
    databases.execute(f"DROP ROLE {name}")


@pytest.fixture
def server() -> Iterator[HostileServer]:
    with HostileServer() as started:
        yield started


@pytest.fixture
def photo(server: HostileServer) -> Callable[[str], str]:
    """Serves a small photo at the path of that name; returns its URL."""
    body = sources.jpeg()

    def put(name: str) -> str:
        server.put(f"/{name}.jpg", body)
        return server.url(f"/{name}.jpg", host="localhost")

    return put
