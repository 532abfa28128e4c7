"""Puts the app together."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.staticfiles import StaticFiles
from starlette.types import ASGIApp

from lens_pipeline.web import errors, generations, health
from lens_pipeline.web.access import links, login
from lens_pipeline.web.access.setup import Limits, access_of
from lens_pipeline.web.context import Context
from lens_pipeline.web.gate import Gate
from lens_pipeline.web.request_log import RequestLog
from lens_pipeline.web.security_headers import SecurityHeaders


class _App(FastAPI):
    """With what holds for answers to our own faults as well, which FastAPI gives outermost."""

    def build_middleware_stack(self) -> ASGIApp:
        return RequestLog(SecurityHeaders(super().build_middleware_stack()))


def create_app(context: Context, limits: Limits | None = None) -> FastAPI:
    """The app over this pipeline. Raises SettingsError: its signing key is damaged."""
    app = _App(
        title="Lens Pipeline",
        version=version("lens-pipeline"),
        description="Previews, posters and master videos of AI-generated photos and videos.",
        # Its own pages of documentation load scripts from a CDN.
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        responses=errors.DESCRIBED,
    )
    app.state.context = context
    app.state.access = access_of(context.pipeline.settings, limits or Limits())
    app.add_middleware(Gate, access=app.state.access)
    app.openapi = lambda: _described(app)
    errors.install(app)
    for router in (generations.router, health.router, links.router, login.router):
        app.include_router(router)
    app.mount("/static", StaticFiles(directory=Path(__file__).parent / "static"))
    return app


def _described(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document; without the answer 422, in place of which the app gives 400."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
        )
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
        for schema in ("HTTPValidationError", "ValidationError"):
            document.get("components", {}).get("schemas", {}).pop(schema, None)
        app.openapi_schema = document
    return app.openapi_schema
