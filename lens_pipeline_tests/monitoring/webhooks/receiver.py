"""A server that webhooks arrive at, which believes only what the scheme's own library verifies."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook as Scheme

from lens_pipeline_tests.support.http_server import Quiet, ThreadedServer

SECRET = "whsec_dGhpcyBpcyBhIHNlY3JldCBvZiB0aGUgdGVzdHMgYWxvbmU="


@dataclass(frozen=True)
class Received:
    id: str
    body: str
    at: float

    @property
    def event(self) -> Any:
        return json.loads(self.body)

    @property
    def name(self) -> tuple[str, str]:
        """Type and id of its subject."""
        return self.event["type"], self.event["data"]["id"]


class Receiver(ThreadedServer):
    """`answer` gives the status for an event; what it takes is in `received`, in order."""

    secret = SECRET

    def __init__(self, port: int = 0) -> None:
        self.received: list[Received] = []
        self.refused: list[Received] = []
        self.answer: Callable[[Any], int] = lambda event: 204
        self.delay = 0.0
        self._lock = threading.Lock()
        receiver = self

        class Handler(Quiet, BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                Scheme(SECRET).verify(body, dict(self.headers))
                one = Received(self.headers["webhook-id"], body.decode(), time.time())
                time.sleep(receiver.delay)
                status = receiver.answer(one.event)
                with receiver._lock:
                    (receiver.received if status < 300 else receiver.refused).append(one)
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

        super().__init__(ThreadingHTTPServer(("127.0.0.1", port), Handler))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks?token=query-secret"

    def names(self, *types: str) -> list[tuple[str, str]]:
        """Of what was taken, each id once."""
        once = {one.id: one.name for one in reversed(self.received)}
        return [name for name in reversed(once.values()) if not types or name[0] in types]
