"""`dagster api grpc`: answers what sensors, schedules and jobs there are, and ticks them."""

import dagster._cli.api

from lens_pipeline.engine.processes import startup
from lens_pipeline.engine.processes.startup import log_as_ours


def main() -> None:
    startup.hear()
    log_as_ours(dagster._cli.api)
    dagster._cli.api.grpc_command()


if __name__ == "__main__":
    main()
