"""The app: its routes, middleware and OpenAPI document."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.types import ASGIApp

from lens_pipeline import VERSION
from lens_pipeline.core import postgres
from lens_pipeline.web import errors, lifespan, pages
from lens_pipeline.web.auth import login, signed_links
from lens_pipeline.web.auth.access import Access, Limits, access_of
from lens_pipeline.web.auth.gate import Gate, is_open
from lens_pipeline.web.context import Context
from lens_pipeline.web.http.request_log import RequestLog
from lens_pipeline.web.http.security_headers import SecurityHeaders
from lens_pipeline.web.routes import (
    archives,
    events,
    generation_files,
    generations,
    health,
    masters,
    metrics,
    orders,
    project_assets,
    projects,
    renditions,
    retry,
    scale_jobs,
    uploads,
    webhook,
)


def create_app(context: Context, limits: Limits | None = None) -> FastAPI:
    """Raises SettingsError: the signing key is damaged."""
    app = App(
        title="Lens Pipeline",
        version=VERSION,
        description="Previews, posters and master videos of AI-generated photos and videos.",
        # These pages load scripts from a CDN.
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        responses=errors.DESCRIBED,
        lifespan=lifespan.running,
    )
    app.state.context = context
    postgres.enforce_deadlines()
    app.state.access = access_of(context.pipeline.settings, limits or Limits())
    app.add_middleware(Gate, access=app.state.access)
    app.openapi = lambda: _described(app)
    errors.install(app)
    app.add_exception_handler(404, pages.missing_page)
    for module in (
        # Its `/api/generations/archive` is no id of a generation.
        *(signed_links, login, archives, generations, generation_files, uploads, retry),
        *(masters, orders, scale_jobs, renditions, project_assets, projects),
        *(webhook, events, health, metrics, pages),
    ):
        app.include_router(module.router)
    app.include_router(generation_files.picture_routes())
    app.mount("/static", pages.static_files)
    return app


def _described(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document without the answer 422: the app gives 400."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        for operations in document["paths"].values():
            for operation in operations.values():
                operation["responses"].pop("422", None)
        for schema in ("HTTPValidationError", "ValidationError"):
            document.get("components", {}).get("schemas", {}).pop(schema, None)
        _describe_proofs(app, document)
        app.openapi_schema = document
    return app.openapi_schema


class App(FastAPI):
    """Answers to internal errors are logged and have the security headers, too."""

    def build_middleware_stack(self) -> ASGIApp:
        return RequestLog(SecurityHeaders(super().build_middleware_stack()))


def _describe_proofs(app: FastAPI, document: dict[str, Any]) -> None:
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
            if method in ("get", "head") and signed_links.is_media(path):
                proofs.append({"link": []})
            operation["security"] = proofs
