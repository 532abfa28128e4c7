"""The server of the app: uvicorn, with a stop that does not wait for event streams."""

import asyncio
import contextlib
import resource
import socket

import uvicorn
from fastapi import FastAPI

from lens_pipeline.settings import Settings
from lens_pipeline.web.http.http1 import BoundedProtocol
from lens_pipeline.web.routes.events import PATH, EventBroadcaster

# For requests under way.
_STOP_SECONDS = 5
# A stream whose client reads nothing does not end by itself.
_ABORT_SECONDS = 1.0


def raise_connection_limit() -> None:
    """Raise the limit of open files: a shell's usual 1024 leave room for fewer browsers."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Some systems report no limit, and have one.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Server(uvicorn.Server):
    """Serves `app` at LENS_BIND:LENS_API_PORT; a stop ends its event streams at once."""

    def __init__(self, app: FastAPI, settings: Settings) -> None:
        super().__init__(_configuration(app, settings))
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        broadcaster: EventBroadcaster | None = getattr(self._app.state, "broadcaster", None)
        if broadcaster is not None:
            broadcaster.close()
        asyncio.get_running_loop().call_later(_ABORT_SECONDS, self._abort_streams)
        await super().shutdown(sockets)

    def _abort_streams(self) -> None:
        for connection in list(self.server_state.connections):
            scope, transport = getattr(connection, "scope", None), connection.transport
            if scope and scope["path"] == PATH and transport is not None:
                transport.abort()


def _configuration(app: FastAPI, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.bind,
        port=settings.api_port,
        http=BoundedProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        # uvicorn's default trusts every client on this machine.
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_graceful_shutdown=_STOP_SECONDS,
    )
