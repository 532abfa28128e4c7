"""Where the database and the broker are found."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lens_pipeline.core import ports
from lens_pipeline.core.endpoints import NotRunning, Services, StackError, resolve, services_file
from lens_pipeline_tests.support.homes import settings_for

DATABASE = "postgresql://u:p%40@db.example/app?sslmode=require"
BROKER = "redis://:p@broker.example/0"


def _write(home: Path, services: Services) -> None:
    home.mkdir()
    services_file(home).write_text(services.to_json())


def _embedded(pid: int) -> Services:
    return Services(pid, "up", "postgresql://a/lens", "postgresql://a/dagster", BROKER, True)


def test_explicit_urls_need_no_home(home: Path) -> None:
    """A worker on another machine that looks for servers of its own."""
    endpoints = resolve(settings_for(home, database_url=DATABASE, broker_url=BROKER))
    assert endpoints.database_url == DATABASE
    assert endpoints.dagster_url == "postgresql://u:p%40@db.example/dagster?sslmode=require"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql:///app?host=/run/pg", "postgresql:///dagster?host=/run/pg"),
        ("postgresql://h", "postgresql://h/dagster"),
        ("postgresql+psycopg2://h:5/a", "postgresql+psycopg2://h:5/dagster"),
    ],
)
def test_dagster_gets_a_database_beside_the_application(
    home: Path, url: str, expected: str
) -> None:
    """A URL without host or with options that comes out damaged."""
    assert resolve(settings_for(home, database_url=url), broker=False).dagster_url == expected


def test_dagster_never_shares_the_application_database(home: Path) -> None:
    """Two migrations of different programs in one database."""
    settings = settings_for(home, database_url="postgresql://h/dagster", broker_url=BROKER)
    with pytest.raises(StackError, match="LENS_DAGSTER_URL"):
        resolve(settings)


@pytest.mark.parametrize("broker", ["amqp://h//", BROKER])
@pytest.mark.parametrize(
    ("asked", "kept"), [(None, ""), ("rpc://", ""), ("redis://r/1", "redis://r/1")]
)
def test_results_are_kept_only_where_somebody_asks_for_them(
    home: Path, broker: str, asked: str | None, kept: str
) -> None:
    """Queues of replies that nobody reads, one more in RabbitMQ with each thread that sends."""
    results = {"result_url": asked} if asked else {}
    settings = settings_for(home, database_url=DATABASE, broker_url=broker, **results)
    assert resolve(settings).result_url == kept


def test_what_runs_in_the_home_is_used(home: Path) -> None:
    """Workers of `lens up` that do not find its servers."""
    _write(home, _embedded(os.getpid()))
    endpoints = resolve(settings_for(home))
    assert endpoints.dagster_url == "postgresql://a/dagster"
    assert endpoints.broker_url == BROKER


def test_an_embedded_broker_goes_with_an_external_database(home: Path) -> None:
    """Dagster's tables in the embedded server while the application's are elsewhere."""
    _write(home, Services(os.getpid(), "up", None, None, BROKER, True))
    endpoints = resolve(settings_for(home, database_url=DATABASE))
    assert endpoints.broker_url == BROKER
    assert endpoints.dagster_url.startswith("postgresql://u:p%40@db.example/dagster")


def test_a_dead_owner_counts_as_not_running(home: Path) -> None:
    """Connection errors of a driver instead of a line that says what to start."""
    _write(home, _embedded(2**22 + 1))
    with pytest.raises(NotRunning, match="start `lens up`, or set LENS_DATABASE_URL"):
        resolve(settings_for(home))


def test_a_missing_broker_matters_only_to_those_who_need_one(home: Path) -> None:
    """`lens status` that refuses to work without a broker."""
    settings = settings_for(home, database_url=DATABASE)
    assert resolve(settings, broker=False).broker_url == ""
    with pytest.raises(NotRunning, match="LENS_BROKER_URL"):
        resolve(settings)


def test_settings_that_differ_from_the_owners_are_named(home: Path) -> None:
    """A command that waits for a database its `lens up` was told not to run."""
    _write(home, Services(os.getpid(), "up", None, None, BROKER, True))
    with pytest.raises(NotRunning, match=r"`lens up`.*set LENS_DATABASE_URL here too"):
        resolve(settings_for(home))


def test_a_port_is_drawn_by_one_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two stacks that start at once, and a database that finds a broker at its port."""
    # Of ports that no other test draws.
    three = [port for port in range(12_000, 12_400) if ports.is_free(port)][:3]
    monkeypatch.setattr(ports, "_RANGE", three)
    monkeypatch.setattr(ports, "_ATTEMPTS", 3)
    drawn = ports.free_port()
    free = [port for port in three if port != drawn]
    script = f"from lens_pipeline.core import ports; ports._RANGE = {[drawn, *free]}"
    script += "; ports._ATTEMPTS = 3; print(sorted(ports.free_port() for _ in range(2)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == free
