"""Serves the HTTP app: `python -m lens_pipeline.web`, one of the processes of `lens up`."""

import sys

import uvicorn

from lens_pipeline.cli.session import dagster_instance, load_settings
from lens_pipeline.pipeline import current
from lens_pipeline.queueing import RunQueue
from lens_pipeline.web.app import create_app
from lens_pipeline.web.context import Context
from lens_pipeline.web.server import Server

# Requests under way get so long to end.
_STOP_SECONDS = 5


def main() -> None:
    loaded = load_settings()
    with dagster_instance(loaded) as instance:
        pipeline = current()
        app = create_app(Context(pipeline, RunQueue(pipeline, instance)))
        config = uvicorn.Config(
            app,
            host=loaded.bind,
            port=loaded.api_port,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_STOP_SECONDS,
        )
        server = Server(app, config)
        server.run()
        if not server.started:
            sys.exit(1)


if __name__ == "__main__":
    main()
