"""Real places that alerts go to: a mail server and a web hook."""

import email.policy
import json
import time
from email.message import EmailMessage
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from lens_pipeline.core.ports import free_port
from lens_pipeline_tests.support.http_server import Quiet, ThreadedServer


class Hook(ThreadedServer):
    """A web hook, as Apprise's `json://` calls it; `refuse` makes it answer 500, `delay` late."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.refuse = False
        self.delay = 0.0
        self.calls = 0
        hook = self

        class Handler(Quiet, BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.calls += 1
                body = self.rfile.read(int(self.headers["Content-Length"]))
                time.sleep(hook.delay)
                if not hook.refuse:
                    hook.received.append(json.loads(body))
                self.send_response(500 if hook.refuse else 200)
                self.end_headers()

        super().__init__(ThreadingHTTPServer(("127.0.0.1", 0), Handler))

    @property
    def url(self) -> str:
        return f"json://u:hook-password@127.0.0.1:{self.port}/hook-secret"

    @property
    def text(self) -> str:
        """All of it."""
        return "\n".join(f"{one['title']}\n{one['message']}" for one in self.received)


class Mailbox:
    """A mail server that keeps what it is given."""

    def __init__(self) -> None:
        self.received: list[EmailMessage] = []
        self._port = free_port()
        self._server = Controller(self, hostname="127.0.0.1", port=self._port)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        content = envelope.content
        assert isinstance(content, bytes)
        parser = BytesParser(EmailMessage, policy=email.policy.default)
        message = parser.parsebytes(content)
        assert isinstance(message, EmailMessage)
        self.received.append(message)
        return "250 taken"

    @property
    def url(self) -> str:
        return f"mailto://127.0.0.1:{self._port}/to@example.org?from=lens@example.org&format=text"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()
