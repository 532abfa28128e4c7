"""A database that is there and does not answer: stopped, or locked by somebody."""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx2 as httpx
import psutil
import psycopg2
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from sqlalchemy.exc import OperationalError

from lens_pipeline.core import postgres
from lens_pipeline.web.auth import gate
from lens_pipeline_tests.support.site import Site, eventually
from lens_pipeline_tests.support.web import served

pytestmark = pytest.mark.slow

Request = tuple[str, str, object]

# Of the application's tables, of Dagster's log, and what is written.
REQUESTS: list[Request] = [
    ("GET", "/api/generations", None),
    ("GET", "/api/generations/p1", None),
    ("GET", "/api/generations/p1/file", None),
    ("POST", "/api/generations/p1/retry", None),
    ("GET", "/api/projects/pr1/master-videos", None),
    ("POST", "/api/projects/pr1/assets", {"asset_id": "a1", "asset_url": "u1/a.jpg"}),
]


@pytest.fixture
def impatient(environment: pytest.MonkeyPatch) -> None:
    """With shorter times, for the tests' sake."""
    environment.setattr(postgres, "STATEMENT_SECONDS", 1)
    environment.setattr(gate, "_DATABASE_SECONDS", 1.5)


@pytest.fixture
def web(app: FastAPI, impatient: None, site: Site) -> Iterator[httpx.Client]:
    site.add("p1", "u1/none.jpg")
    # A connection that is kept may be closed by the server just when it is used again.
    limits = httpx.Limits(max_keepalive_connections=0)
    with served(app) as url, httpx.Client(base_url=url, timeout=60, limits=limits) as client:
        yield client


def _answers(
    web: httpx.Client, requests: Sequence[Request] = REQUESTS
) -> list[tuple[int, str | None]]:
    """Status and error of each of the requests, all asked at once."""

    def ask(asked: Request) -> tuple[int, str | None]:
        method, path, body = asked
        answer = web.request(method, path, json=body)
        return answer.status_code, answer.json().get("error") if answer.status_code > 399 else None

    with ThreadPoolExecutor(len(requests)) as threads:
        return list(threads.map(ask, requests))


@contextmanager
def _stopped(site: Site) -> Iterator[None]:
    """The server and all of its sessions, as by a machine that is out of memory."""
    with contextlib.closing(psycopg2.connect(site.database_url)) as connection:
        main = psutil.Process(connection.info.backend_pid).parent()
    assert main is not None
    try:
        # It first, so that no session begins any more; some may end meanwhile.
        main.suspend()
        for session in main.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                session.suspend()
        yield
    finally:
        for process in (*main.children(), main):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


@contextmanager
def _locked(url: str, table: str) -> Iterator[None]:
    connection = psycopg2.connect(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield
    finally:
        connection.close()


def _health(web: httpx.Client) -> tuple[int, str]:
    answer = web.get("/api/health")
    return answer.status_code, answer.json()["database"]


def test_a_server_that_is_stopped_and_goes_on(site: Site, web: httpx.Client) -> None:
    """More requests than there are threads, all of which would wait for ever."""
    before = {status for status, _ in _answers(web)}
    assert before <= {200, 201, 404, 409}
    with _stopped(site):
        assert set(_answers(web, REQUESTS * 10)) == {(503, "database_unavailable")}
        status, database = _health(web)
        assert (status, database != "ok") == (503, True)
        assert web.get("/api/health/live").status_code == 200
        assert web.get("/library").status_code == 200
    eventually(lambda: {s for s, _ in _answers(web)} <= {200, 404, 409}, 30, "recovery")
    eventually(lambda: _health(web)[1] == "ok", 30, "the return of the database")


def test_a_table_that_somebody_has_locked(site: Site, web: httpx.Client) -> None:
    with _locked(site.database_url, "generations"):
        for _ in range(2):
            answers = _answers(web, REQUESTS[:4] * 3)
            assert set(answers) == {(503, "database_unavailable")}
        assert _health(web) == (503, "the application's database cannot be read")
        # What needs none of it goes on.
        assert web.get("/library").status_code == 200
        # Only what goes on beside the requests still waits, each on one connection.
        waiting = site.sql(
            "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND datname = current_database()"
        )
        assert len(waiting) <= 3
    eventually(lambda: web.get("/api/generations").status_code == 200, 30, "recovery")
    eventually(lambda: _health(web)[1] == "ok", 30, "the return of the database")


@pytest.mark.usefixtures("impatient", "app")
def test_only_who_has_a_deadline_gives_up(site: Site) -> None:
    """A worker whose long work is ended by what is meant for requests."""
    found: list[object] = []
    waiting = threading.Thread(target=lambda: found.append(site.dagster.get_runs_count()))
    with _locked(site.dagster_url, "runs"):
        with postgres.deadline(30), pytest.raises(OperationalError, match="statement timeout"):
            site.dagster.get_runs_count()
        # Perhaps on the same connection.
        waiting.start()
        with postgres.deadline(30), pytest.raises(OperationalError, match="statement timeout"):
            site.dagster.get_runs_count()
        assert found == []
    waiting.join(30)
    assert found == [0]
    engine = sa.create_engine(site.dagster_url, poolclass=sa.NullPool)
    with (
        engine.connect() as connection,
        postgres.deadline(0.5),
        pytest.raises(OperationalError, match="does not answer in time"),
    ):
        connection.execute(sa.text("SELECT pg_sleep(60)"))
