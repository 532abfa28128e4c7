"""Serves the HTTP app: `python -m lens_pipeline.web`, one of the processes of `lens up`."""

import contextlib

from lens_pipeline.cli.session import dagster_instance, load_settings
from lens_pipeline.pipeline import current
from lens_pipeline.queueing import RunQueue
from lens_pipeline.web.app import create_app
from lens_pipeline.web.context import Context
from lens_pipeline.web.server import Server
from lens_pipeline.web.serving import configuration


def main() -> None:
    loaded = load_settings()
    with dagster_instance(loaded) as instance:
        pipeline = current()
        app = create_app(Context(pipeline, RunQueue(pipeline, instance)))
        # Raised again once everything has ended.
        with contextlib.suppress(KeyboardInterrupt):
            Server(app, configuration(app, loaded)).run()


if __name__ == "__main__":
    main()
