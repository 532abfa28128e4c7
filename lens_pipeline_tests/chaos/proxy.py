"""A proxy on loopback that breaks what goes through it, as a bad network or a sick server does."""

import random
import select
import socket
import struct
import threading
import time
from contextlib import suppress
from enum import StrEnum
from types import TracebackType
from typing import Self

_CHUNK = 64 * 1024
_HASTE_SECONDS = 0.2
_SLOW_SECONDS = (0.05, 0.6)
# Of the connections during a fault, so many suffer from it: retries are to have a chance.
_SHARE = 0.6
_UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Weather(StrEnum):
    FINE = "fine"
    # Everything takes a while.
    SLOW = "slow"
    # 503, without asking the server.
    FAILING = "failing"
    # Connections are reset, at once or in the middle.
    RESETTING = "resetting"
    # Bodies end too early, in either direction.
    TORN = "torn"
    # Connections are taken and never answered, as by a server whose disk hangs.
    HANGING = "hanging"
    # Connections are reset at once.
    GONE = "gone"


class FaultyProxy:
    """Passes connections on to `target`; what happens to them meanwhile is its `weather`.

    With `is_away`, connections are refused until `come_back`.
    """

    def __init__(
        self, target: tuple[str, int], rng: random.Random, *, is_away: bool = False
    ) -> None:
        self.weather = Weather.FINE
        self._target = target
        self._rng = rng
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._is_away = is_away
        self._closing = False

    @property
    def url(self) -> str:
        return f"http://localhost:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        if not self._is_away:
            self.come_back()
        return self

    def come_back(self) -> None:
        self._listener.listen(256)
        threading.Thread(target=self._accept, name="faulty-proxy", daemon=True).start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing = True
        self._listener.close()

    def _accept(self) -> None:
        while not self._closing:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _suffers(self) -> bool:
        return self.weather is Weather.GONE or (
            self.weather is not Weather.FINE and self._rng.random() < _SHARE
        )

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            if self._suffers():
                if self.weather is Weather.HANGING:
                    self._hang()
                    return
                if self.weather in (Weather.GONE, Weather.RESETTING):
                    _reset(client)
                    return
                if self.weather is Weather.FAILING:
                    _refuse(client)
                    return
            with socket.create_connection(self._target, timeout=10) as server:
                self._relay(client, server, self.weather)

    def _hang(self) -> None:
        while self.weather is Weather.HANGING and not self._closing:
            time.sleep(_HASTE_SECONDS)

    def _relay(self, client: socket.socket, server: socket.socket, began_in: Weather) -> None:
        """Until one side ends, or a change of the weather ends both."""
        suffers = began_in in (Weather.SLOW, Weather.TORN) and self._suffers()
        while True:
            readable, _, _ = select.select([client, server], [], [], _HASTE_SECONDS)
            if self.weather is not began_in:
                if self._suffers():
                    self._hang()
                    _reset(client)
                    return
                began_in = self.weather
            for source in readable:
                data = source.recv(_CHUNK)
                if not data:
                    return
                sink = server if source is client else client
                if suffers and began_in is Weather.SLOW:
                    time.sleep(self._rng.uniform(*_SLOW_SECONDS))
                if suffers and began_in is Weather.TORN and len(data) > 1:
                    sink.sendall(data[: self._rng.randrange(1, len(data))])
                    _reset(client)
                    return
                sink.sendall(data)


def _reset(connection: socket.socket) -> None:
    """Close it by RST, whatever is still under way."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _refuse(client: socket.socket) -> None:
    client.settimeout(_HASTE_SECONDS)
    client.recv(_CHUNK)
    client.sendall(_UNAVAILABLE)
    client.shutdown(socket.SHUT_WR)
    # Closing with unread bytes would reset the connection before the answer is read.
    with suppress(TimeoutError):
        while client.recv(_CHUNK):
            pass
