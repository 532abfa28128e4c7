"""A real RabbitMQ for tests, on loopback only, which leaves no process behind."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from amqp.exceptions import AMQPError
from kombu.connection import Connection

from lens_pipeline_tests.support.servers import free_ports
from lens_pipeline_tests.tools import find

# A second or two of CPU time, on a machine that has other work.
_START_SECONDS = 60
# Debian's programs on PATH insist on being root or `rabbitmq`, and take its directories.
_PROGRAMS = Path("/usr/lib/rabbitmq/bin")


class RabbitServer:
    """A node with directories, name, ports, Erlang cookie and epmd of its own.

    Also again, by `start` after `kill`, with the messages that were on disk.
    """

    user = "lens"
    password = "rabbit-test-secret"
    vhost = "pipeline"

    def __init__(self, directory: Path, **settings: int) -> None:
        """`settings`: of the application `rabbit`, for example `consumer_timeout`, in ms."""
        self._directory = directory
        self._settings = settings
        self.port = free_ports(3)
        self._epmd: subprocess.Popen[bytes] | None = None
        self._node: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self.url_for()

    def url_for(self, user: str = user, password: str = password, vhost: str = vhost) -> str:
        return f"amqp://{user}:{password}@127.0.0.1:{self.port}/{vhost}"

    def __enter__(self) -> Self:
        self._write_config()
        # Else the node starts one that outlives it.
        self._epmd = self._spawn(
            [find("epmd"), "-port", str(self.port + 2), "-address", "127.0.0.1"]
        )
        try:
            self.start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def start(self) -> None:
        """Returns once it takes a login."""
        find("rabbitmq-server")
        self._node = self._spawn([str(_PROGRAMS / "rabbitmq-server"), "-noinput"])
        end = time.monotonic() + _START_SECONDS
        while not self._answers():
            if self._node.poll() is not None or time.monotonic() > end:
                self.kill()
                raise RuntimeError(f"RabbitMQ did not start:\n{self.log()}")
            time.sleep(0.1)

    def kill(self) -> None:
        """As by a power cut."""
        if self._node is not None:
            _kill(self._node)
            self._node = None

    def queues(self) -> dict[str, int]:
        """Messages in each queue of the vhost, those under way included."""
        told = self._control("list_queues", "--vhost", self.vhost, "name", "messages")
        rows = [line.split("\t") for line in told.splitlines()[1:]]
        return {name: int(messages) for name, messages in rows}

    @contextmanager
    def full(self) -> Iterator[None]:
        """As one that has no memory left: it reads nothing more from who sends."""
        self._control("set_vm_memory_high_watermark", "absolute", "1")
        try:
            yield
        finally:
            self._control("set_vm_memory_high_watermark", "0.4")

    def _control(self, *arguments: str) -> str:
        """What `rabbitmqctl` says."""
        program = str(_PROGRAMS / "rabbitmqctl")
        return subprocess.run(
            [program, "--quiet", "--longnames", "--node", self._name, *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=_START_SECONDS,
            check=True,
        ).stdout

    def log(self) -> str:
        return (self._directory / "output").read_text(errors="replace")

    @property
    def _name(self) -> str:
        return "lens@127.0.0.1"

    @property
    def _environment(self) -> Mapping[str, str]:
        settings = {"channel_tick_interval": 1000, **self._settings}
        arguments = ["-kernel inet_dist_use_interface {127,0,0,1}"]
        arguments += [f"-rabbit {name} {value}" for name, value in settings.items()]
        return {
            "PATH": os.environ["PATH"],
            # Where the cookie is.
            "HOME": str(self._directory),
            "ERL_EPMD_PORT": str(self.port + 2),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_CONFIG_FILE": str(self._directory / "rabbitmq"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._directory / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(self._directory / "data"),
            "RABBITMQ_LOG_BASE": str(self._directory / "log"),
            "RABBITMQ_NODENAME": self._name,
            "RABBITMQ_USE_LONGNAME": "true",
            "RABBITMQ_DIST_PORT": str(self.port + 1),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": " ".join(arguments),
            # Erlang takes the place of the shell, so that its pid is ours.
            "RABBITMQ_ALLOW_INPUT": "true",
        }

    def _write_config(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        (self._directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            f"default_user = {self.user}\n"
            f"default_pass = {self.password}\n"
            f"default_vhost = {self.vhost}\n"
        )

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        with (self._directory / "output").open("ab") as output:
            return subprocess.Popen(
                command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _answers(self) -> bool:
        with suppress(OSError, AMQPError), Connection(self.url, connect_timeout=5) as connection:
            connection.connect()
            return True
        return False

    def _end(self) -> None:
        self.kill()
        if self._epmd is not None:
            _kill(self._epmd)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """With its helpers, which ask the system for names and free disk space."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
