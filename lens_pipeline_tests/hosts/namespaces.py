"""Hosts on one machine: Linux network namespaces on a bridge, each with an address of its own.

A namespace has a network and nothing else of its own: files are shared. Needs root and `ip`
(Debian's iproute2).
"""

import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import psutil


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
    return done.stdout


@dataclass(frozen=True)
class Host:
    """One namespace; `cut` and `heal` its cable."""

    name: str
    address: str
    # The cable's other end.
    port: str

    @property
    def within(self) -> tuple[str, ...]:
        """What to put before a command line so that it runs there."""
        return ("ip", "netns", "exec", self.name)

    def cut(self) -> None:
        """From now on nothing arrives, and nobody is told so."""
        _ip("link", "set", self.port, "down")

    def heal(self) -> None:
        _ip("link", "set", self.port, "up")

    def processes(self) -> list[psutil.Process]:
        found = []
        for pid in _ip("netns", "pids", self.name).split():
            with suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(int(pid)))
        return found

    def kill(self) -> None:
        """End every process there at once, as a power cut does; `cut` it first."""
        while found := self.processes():
            for process in found:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
            psutil.wait_procs(found, timeout=5)


class Network:
    """A bridge in this namespace, with our own address, and hosts on it."""

    def __init__(self) -> None:
        # Names of devices have at most 15 characters.
        self._tag = f"ln{os.getpid() % 100_000}"
        self._hosts: list[Host] = []
        self._net = f"10.{200 + os.getpid() % 50}.{os.getpid() // 50 % 250}"

    @property
    def address(self) -> str:
        """Ours, by which hosts reach this process."""
        return f"{self._net}.1"

    def add(self, name: str) -> Host:
        number = len(self._hosts) + 2
        host = Host(f"{self._tag}-{name}", f"{self._net}.{number}", f"{self._tag}p{number}")
        self._hosts.append(host)
        _ip("netns", "add", host.name)
        cable = ("peer", "name", "eth0", "netns", host.name)
        _ip("link", "add", host.port, "type", "veth", *cable)
        _ip("link", "set", host.port, "master", self._bridge)
        _ip("link", "set", host.port, "up")
        for arguments in (
            ("link", "set", "lo", "up"),
            ("address", "add", f"{host.address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
        ):
            _ip("-n", host.name, *arguments)
        return host

    @property
    def _bridge(self) -> str:
        return f"{self._tag}b"

    def __enter__(self) -> Self:
        _ip("link", "add", "name", self._bridge, "type", "bridge")
        _ip("address", "add", f"{self.address}/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for host in self._hosts:
            host.kill()
            _ip("netns", "delete", host.name)
        _ip("link", "delete", self._bridge)
