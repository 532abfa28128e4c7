"""Everything between the network and the handlers, in its order."""

from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp

from lens_pipeline.core import postgres
from lens_pipeline.settings import Settings
from lens_pipeline.web.access import links, login
from lens_pipeline.web.access.setup import Access, Limits, access_of
from lens_pipeline.web.gate import Gate, is_open
from lens_pipeline.web.request_log import RequestLog
from lens_pipeline.web.security_headers import SecurityHeaders


class App(FastAPI):
    """With what holds for answers to our own faults as well, which FastAPI gives outermost."""

    def build_middleware_stack(self) -> ASGIApp:
        return RequestLog(SecurityHeaders(super().build_middleware_stack()))


def install(app: App, settings: Settings, limits: Limits | None = None) -> None:
    """Let nobody in but by these settings. Raises SettingsError: the signing key is damaged."""
    postgres.install()
    app.state.access = access_of(settings, limits or Limits())
    app.add_middleware(Gate, access=app.state.access)
    for router in (links.router, login.router):
        app.include_router(router)


def describe(app: FastAPI, document: dict[str, Any]) -> None:
    """Say in the OpenAPI document what needs which proof."""
    access: Access = app.state.access
    if access.tokens is None:
        return
    document["components"]["securitySchemes"] = {
        "token": {
            "type": "http",
            "scheme": "bearer",
            "description": "LENS_API_TOKEN, or a token by `lens token` for one user or project.",
        },
        "link": {
            "type": "apiKey",
            "in": "query",
            "name": "signature",
            "description": "As `POST /api/links` makes it, with `expires`, for one address.",
        },
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            proofs: list[dict[str, list[str]]] = [] if is_open(path) else [{"token": []}]
            if method in ("get", "head") and links.is_media(path):
                proofs.append({"link": []})
            operation["security"] = proofs
