"""The app's server: uvicorn, whose stop does not wait for event streams."""

import asyncio
import socket

import uvicorn
from fastapi import FastAPI

from lens_pipeline.settings import Settings
from lens_pipeline.web.http.http1 import BoundedProtocol
from lens_pipeline.web.routes.events import PATH, EventBroadcaster

_STOP_SECONDS = 5
# A stream with a stalled client does not end by itself.
_ABORT_SECONDS = 1.0


class Server(uvicorn.Server):
    """Serves `app` at LENS_BIND:LENS_API_PORT."""

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
