"""How the HTTP app is served."""

import uvicorn
from fastapi import FastAPI

from lens_pipeline.settings import Settings
from lens_pipeline.web.protocol import BoundedProtocol

# Requests under way get so long to end.
_STOP_SECONDS = 5


def configuration(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """For a server of this app at LENS_BIND:LENS_API_PORT."""
    return uvicorn.Config(
        app,
        host=settings.bind,
        port=settings.api_port,
        http=BoundedProtocol,
        # There are none.
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        # By itself uvicorn believes what any client on this machine says of its address.
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=list(settings.trusted_proxies),
        timeout_graceful_shutdown=_STOP_SECONDS,
    )
