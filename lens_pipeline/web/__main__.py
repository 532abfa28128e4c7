"""Serves the HTTP app: `python -m lens_pipeline.web`, one of the processes of `lens up`."""

import contextlib
import signal
import sys

from lens_pipeline.core.startup import load_settings
from lens_pipeline.definitions import job
from lens_pipeline.derivatives.pipeline import current
from lens_pipeline.engine.instance import dagster_instance
from lens_pipeline.engine.processes import usage
from lens_pipeline.engine.run_queue import RunQueue
from lens_pipeline.web.app import create_app
from lens_pipeline.web.context import Context
from lens_pipeline.web.http.http1 import raise_connection_limit
from lens_pipeline.web.server import Server


def main() -> None:
    loaded = load_settings()
    raise_connection_limit()
    with dagster_instance(loaded) as instance:
        pipeline = current()
        usage.publish("api", pipeline.endpoints.dagster_url)
        app = create_app(Context(pipeline, RunQueue(pipeline, instance, job)))
        server = Server(app, loaded)
        # uvicorn raises SIGTERM again at its end, which then acts like SIGINT.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):
            server.run()
        if not server.started:
            sys.exit(1)


if __name__ == "__main__":
    main()
