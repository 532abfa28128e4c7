"""The real PostgreSQL and Valkey of the wheels."""

import importlib.machinery
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg2
import pytest
import redis

from lens_pipeline.core.endpoints import StackError
from lens_pipeline.core.files import prepare_home
from lens_pipeline.core.ports import is_free
from lens_pipeline.supervisor import embedded_postgres
from lens_pipeline.supervisor.embedded_postgres import Postgres
from lens_pipeline.supervisor.embedded_valkey import Valkey
from lens_pipeline.supervisor.supervisor import Supervisor
from lens_pipeline_tests.support.site import eventually

# Real servers start and stop in most of these.
pytestmark = pytest.mark.slow


@pytest.fixture
def postgres(made: Path) -> Iterator[tuple[Postgres, Supervisor]]:
    server = Postgres(made)
    with Supervisor(made, [server.program()]) as supervisor:
        supervisor.start()
        server.create_databases()
        yield server, supervisor


@pytest.fixture
def valkey(home: Path) -> Iterator[tuple[Valkey, Supervisor]]:
    prepare_home(home)
    server = Valkey(home)
    with Supervisor(home, [server.program()]) as supervisor:
        supervisor.start()
        yield server, supervisor


def _query(url: str, statement: str) -> list[tuple[object, ...]]:
    connection = psycopg2.connect(url)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def test_both_databases_are_there_for_a_role_without_rights_over_the_server(
    postgres: tuple[Postgres, Supervisor],
) -> None:
    """An SQL injection that reads the machine's files."""
    server, _ = postgres
    for database in ("lens", "dagster"):
        _query(server.url(database), "CREATE TABLE t (a int)")
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            _query(server.url(database), "SELECT pg_read_file('/etc/passwd')")
    server.create_databases()


def test_postgres_wants_its_password(postgres: tuple[Postgres, Supervisor]) -> None:
    """A database that any local user administrates without a password."""
    server, _ = postgres
    for user in ("lens", "postgres"):
        wrong = server.url("lens").replace("//lens:", f"//{user}:x")
        with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
            psycopg2.connect(wrong)


def test_postgres_listens_on_loopback_only(postgres: tuple[Postgres, Supervisor]) -> None:
    """A database open to the network, or a socket file whose path is too long."""
    server, _ = postgres
    port = psycopg2.extensions.parse_dsn(server.url("lens"))["port"]
    tcp = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    addresses = [connection.laddr for connection in tcp if connection.laddr]
    assert {address.ip for address in addresses if address.port == int(port)} == {"127.0.0.1"}
    assert not any(f".s.PGSQL.{port}" in str(c.laddr) for c in psutil.net_connections("unix"))


def test_the_time_zone_is_not_that_of_the_machine(postgres: tuple[Postgres, Supervisor]) -> None:
    """Fresh runs that look hours old on a machine in Moscow or New York."""
    server, _ = postgres
    zone = "SELECT setting, source FROM pg_settings WHERE name IN ('TimeZone', 'log_timezone')"
    assert _query(server.url("dagster"), zone) == [("UTC", "command line")] * 2


def test_a_killed_postgres_recovers_with_its_data(postgres: tuple[Postgres, Supervisor]) -> None:
    """A stale postmaster.pid or segment that keeps the database down."""
    server, supervisor = postgres
    _query(server.url("lens"), "CREATE TABLE kept AS SELECT 1 AS a")
    os.kill(supervisor.pids()["postgres"], signal.SIGKILL)
    eventually(lambda: supervisor.statuses() == {"postgres": "STARTING"}, every=0.02)
    eventually(lambda: supervisor.statuses() == {"postgres": "RUNNING"})
    assert _query(server.url("lens"), "SELECT a FROM kept") == [(1,)]


def test_a_lock_file_with_somebody_elses_number_does_not_block(made: Path) -> None:
    """A container that cannot start again because numbers repeat in it."""
    lock = made / "postgres" / "data" / "postmaster.pid"
    lock.write_text(f"{os.getpid()}\n{made}/postgres/data\n1\n1\n\n127.0.0.1\n1 1\nready\n")
    if os.geteuid() == 0:
        os.chown(lock, 65534, 65534)
    server = Postgres(made)
    with Supervisor(made, [server.program()]) as supervisor:
        supervisor.start()


def test_files_are_for_their_owner_alone(made: Path) -> None:
    """Passwords and data that every user of the machine can read."""
    Postgres(made)
    Valkey(made).program()
    for path in (made / "postgres", made / "postgres/data", made / "valkey"):
        assert path.stat().st_mode & 0o77 == 0, path
    files = [*(made / "postgres").glob("*.json"), *(made / "valkey").iterdir()]
    assert len(files) == 3
    for path in files:
        assert path.stat().st_mode & 0o77 == 0, path
    assert not (made / "postgres" / "password").exists()


@pytest.mark.as_root
def test_a_home_of_another_user_is_used_as_it_is() -> None:
    """A volume of Kubernetes, which belongs to root and is open to a group, and cannot be used."""
    # Below a directory that all may pass.
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        home.chmod(0o777)
        user = os.geteuid()
        try:
            os.seteuid(65534)
            prepare_home(home)
        finally:
            os.seteuid(user)
        assert home.stat().st_mode & 0o777 == 0o777


@pytest.mark.as_root
def test_a_home_below_a_closed_directory_of_root_works(home: Path) -> None:
    """A PostgreSQL whose user cannot pass /root, so that /root has to be opened."""
    closed = home.parent / "closed"
    closed.mkdir(mode=0o700)
    inside = closed / "home"
    prepare_home(inside)
    server = Postgres(inside)
    with Supervisor(inside, [server.program()]) as supervisor:
        supervisor.start()
        assert psutil.Process(supervisor.pids()["postgres"]).uids().real == 65534
    assert closed.stat().st_mode & 0o777 == 0o700


@pytest.mark.as_root
def test_root_runs_what_an_ordinary_user_made(made: Path) -> None:
    """A `sudo lens up` that fails on the ownership of its data."""
    subprocess.run(["chown", "-R", "12345:12345", str(made / "postgres")], check=True)
    server = Postgres(made)
    with Supervisor(made, [server.program()]) as supervisor:
        supervisor.start()


def test_ports_and_passwords_are_remembered(made: Path) -> None:
    """Clients that lose their server at every restart."""
    assert Postgres(made).url("lens") == Postgres(made).url("lens")
    assert Valkey(made).url == Valkey(made).url


def test_a_port_that_is_taken_is_replaced(made: Path) -> None:
    """A home that cannot start because of a stranger's server."""
    before = json.loads((made / "postgres" / "connection.json").read_text())
    with socket.create_server(("127.0.0.1", before["port"])):
        Postgres(made)
    after = json.loads((made / "postgres" / "connection.json").read_text())
    assert after["port"] != before["port"]
    assert is_free(after["port"])
    assert after["passwords"] == before["passwords"]


def test_an_interrupted_first_start_is_begun_anew(home: Path) -> None:
    """Half a cluster that no later start can use."""
    prepare_home(home)
    (home / "postgres" / "data.new" / "base").mkdir(parents=True)
    Postgres(home)
    assert (home / "postgres" / "data" / "PG_VERSION").is_file()
    assert not (home / "postgres" / "data.new").exists()


def test_a_lost_password_is_said(made: Path) -> None:
    """Password errors of a driver at every connection."""
    (made / "postgres" / "connection.json").unlink()
    with pytest.raises(StackError, match=r"connection.json.* is missing"):
        Postgres(made)


def test_an_unknown_version_is_said(made: Path) -> None:
    """A newer wheel that starts on older data and fails in the log."""
    (made / "postgres" / "data" / "PG_VERSION").write_text("9\n")
    with pytest.raises(StackError, match="belongs to PostgreSQL 9"):
        Postgres(made)


def test_missing_wheels_are_one_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback for those who left out the embedded servers on purpose."""

    def not_found(_: str) -> importlib.machinery.ModuleSpec | None:
        return None

    monkeypatch.setattr(importlib.util, "find_spec", not_found)
    advice = "is not set and the embedded servers are not installed: set it, or pip install"
    with pytest.raises(StackError, match=f"^LENS_DATABASE_URL {advice}"):
        Postgres(home)
    with pytest.raises(StackError, match=f"^LENS_BROKER_URL {advice}"):
        Valkey(home)


@pytest.mark.as_root
@pytest.mark.parametrize("lacking", ["setpriv", "capability"])
def test_a_root_that_cannot_change_user_is_told_what_to_do(
    made: Path, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    """`initdb: cannot be run as root` in a container without privileges."""
    if lacking == "setpriv":
        monkeypatch.setattr(shutil, "which", lambda _: None)
    else:
        monkeypatch.setattr(embedded_postgres, "_CAPABILITIES", {"none_such": 63})
    with pytest.raises(StackError, match=r"does not run as root.*set LENS_DATABASE_URL"):
        Postgres(made)


def test_valkey_wants_its_password(valkey: tuple[Valkey, Supervisor]) -> None:
    """A broker in which any local user may queue tasks, and so run code."""
    server, supervisor = valkey
    port = int(server.url.rpartition(":")[2].partition("/")[0])
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=port).ping()
    process = psutil.Process(supervisor.pids()["valkey"])
    assert {c.laddr.ip for c in process.net_connections() if c.status == "LISTEN"} == {"127.0.0.1"}
    password = server.url.partition("//:")[2].partition("@")[0]
    assert password not in " ".join(process.cmdline())


def test_what_is_queued_survives_a_stop_and_a_kill(valkey: tuple[Valkey, Supervisor]) -> None:
    """Runs that Dagster believes queued and no worker ever gets."""
    server, supervisor = valkey
    client = redis.Redis.from_url(server.url)
    for sent in (signal.SIGTERM, signal.SIGKILL):
        client.lpush("previews", sent.name)
        before = supervisor.pids()["valkey"]
        # appendfsync everysec: the write is in the kernel at once, which outlives the process.
        os.kill(before, sent)
        eventually(lambda before=before: supervisor.pids()["valkey"] not in (0, before))
        eventually(lambda: supervisor.statuses() == {"valkey": "RUNNING"})
    assert client.lrange("previews", 0, -1) == [b"SIGKILL", b"SIGTERM"]
    client.close()


def test_endpoints_are_quick_to_import() -> None:
    """Seconds of imports in every process that asks for a URL."""
    source = (
        "import sys, lens_pipeline.core.endpoints\n"
        "sys.exit(bool({'dagster', 'sqlalchemy', 'psycopg2', 'redis'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", source], check=False).returncode == 0
