"""What the HTTP servers of tests have in common: a thread, and an end."""

import threading
from http.server import ThreadingHTTPServer
from types import TracebackType
from typing import Self


class Quiet:
    """Keeps a request handler from writing a line a request."""

    def log_message(self, format: str, *args: object) -> None:
        pass


class ThreadedServer:
    """Serves in a thread until its `with` block ends."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self._server = server

    @property
    def port(self) -> int:
        return self._server.server_port

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
