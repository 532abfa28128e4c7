"""Puts the app together."""

from importlib.metadata import version

from fastapi import FastAPI

from lens_pipeline.web import errors, generations, health
from lens_pipeline.web.context import Context


def create_app(context: Context) -> FastAPI:
    """The app over this pipeline."""
    app = FastAPI(
        title="Lens Pipeline",
        version=version("lens-pipeline"),
        description="Previews, posters and master videos of AI-generated photos and videos.",
        # Its own pages of documentation load scripts from a CDN.
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
        responses={
            400: {"model": errors.Problem, "description": "The request is not valid."},
            503: {"model": errors.Problem, "description": "A service that is needed is gone."},
        },
    )
    app.state.context = context
    errors.install(app)
    for router in (generations.router, health.router):
        app.include_router(router)
    return app
