"""Serves the HTTP app to real clients."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import httpx2 as httpx
from fastapi import FastAPI

from lens_pipeline.core.ports import LOOPBACK, free_port
from lens_pipeline.engine.run_queue import RunQueue
from lens_pipeline.storage.object_store import ObjectStore
from lens_pipeline.web.app import create_app
from lens_pipeline.web.context import Context
from lens_pipeline.web.server import Server
from lens_pipeline_tests.support.site import Site, eventually


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """Serve the app as its process does; yields its URL."""
    port = free_port()
    settings = app.state.context.pipeline.settings.model_copy(update={"api_port": port})
    server = Server(app, settings)
    thread = threading.Thread(target=server.run, name="web")
    thread.start()
    try:
        eventually(lambda: server.started or not thread.is_alive(), 20, "the start of the app")
        yield f"http://{LOOPBACK}:{port}"
    finally:
        server.should_exit = True
        thread.join(20)


@contextmanager
def served_over(site: Site, store: ObjectStore) -> Iterator[httpx.Client]:
    """Yields a client of an app whose objects are in another store."""
    pipeline = replace(site.pipeline, store=store)
    app = create_app(Context(pipeline, RunQueue(pipeline, site.dagster)))
    with served(app) as url, httpx.Client(base_url=url, timeout=20) as client:
        yield client
