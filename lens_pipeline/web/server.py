"""The server of the app: uvicorn, with an end that does not wait for streams without end."""

import asyncio
import socket

import uvicorn
from fastapi import FastAPI

from lens_pipeline.web.events import PATH, Hub

# Clients that read nothing keep their streams from ending in order; seconds.
_ABORT_SECONDS = 1.0


class Server(uvicorn.Server):
    """Serves `app`; a stop ends its event streams at once."""

    def __init__(self, app: FastAPI, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        hub: Hub | None = getattr(self._app.state, "hub", None)
        if hub is not None:
            hub.close()
        asyncio.get_running_loop().call_later(_ABORT_SECONDS, self._abort_streams)
        await super().shutdown(sockets)

    def _abort_streams(self) -> None:
        for connection in list(self.server_state.connections):
            scope, transport = getattr(connection, "scope", None), connection.transport
            if scope and scope["path"] == PATH and transport is not None:
                transport.abort()
