"""Services that go away while the app serves."""

import contextlib
import socket
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Self

import httpx2 as httpx

from lens_pipeline.core.ports import LOOPBACK


class TcpProxy:
    """A TCP port in front of a server: it passes everything on, or refuses, or hangs."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._passes = threading.Event()
        self._passes.set()
        self._is_refusing = False
        self._is_closed = False

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closed = True
        self._passes.set()
        self._listener.close()
        self._cut()

    def refuse(self) -> None:
        """As a server that is gone: connections end, and no new one lives."""
        self._is_refusing = True
        self._cut()

    def hang(self) -> None:
        """As a machine that has stopped: connections stay, and nothing comes through them."""
        self._passes.clear()

    def serve(self) -> None:
        """As if nothing had been."""
        self._is_refusing = False
        self._passes.set()

    def _cut(self) -> None:
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._open.clear()

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._is_refusing:
                client.close()
                continue
            server = socket.create_connection(self._target)
            self._open |= {client, server}
            for pair in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._passes.wait()
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@dataclass(frozen=True)
class AppBehindProxy:
    """The app over services that can be taken away."""

    database: TcpProxy
    """In front of both databases."""
    served: Callable[..., AbstractContextManager[httpx.Client]]
    """Serves it; takes endpoints that are to be others."""
