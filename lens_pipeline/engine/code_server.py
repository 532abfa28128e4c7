"""`dagster api grpc`: answers what sensors, schedules and jobs there are, and ticks them."""

import dagster._cli.api

from lens_pipeline.engine import interrupts
from lens_pipeline.engine.loggers import log_as_ours


def main() -> None:
    interrupts.hear()
    log_as_ours(dagster._cli.api)
    dagster._cli.api.grpc_command()


if __name__ == "__main__":
    main()
