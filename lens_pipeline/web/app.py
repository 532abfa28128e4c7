"""Puts the app together."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from lens_pipeline.version import VERSION
from lens_pipeline.web import (
    assets,
    background,
    errors,
    events,
    generations,
    health,
    masters,
    metrics,
    pages,
    project_list,
    scaled,
    webhook,
)
from lens_pipeline.web.access.setup import Limits
from lens_pipeline.web.context import Context
from lens_pipeline.web.entrance import App, describe, install


def create_app(context: Context, limits: Limits | None = None) -> FastAPI:
    """The app over this pipeline. Raises SettingsError: its signing key is damaged."""
    app = App(
        title="Lens Pipeline",
        version=VERSION,
        description="Previews, posters and master videos of AI-generated photos and videos.",
        # Its own pages of documentation load scripts from a CDN.
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        responses=errors.DESCRIBED,
        lifespan=background.running,
    )
    app.state.context = context
    install(app, context.pipeline.settings, limits)
    app.openapi = lambda: _described(app)
    errors.install(app)
    for module in (
        *(generations, masters, scaled, assets, project_list),
        *(webhook, events, health, metrics, pages),
    ):
        app.include_router(module.router)
    app.mount("/static", pages.static_files)
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
        describe(app, document)
        app.openapi_schema = document
    return app.openapi_schema
