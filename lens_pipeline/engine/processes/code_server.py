"""`dagster api grpc`, which ticks sensors and schedules."""

from lens_pipeline.derivatives.pipeline import current
from lens_pipeline.engine.processes import startup


def main() -> None:
    startup.begin("code", "code server")
    import dagster._cli.api

    # Else the first ticks, on several threads, make one each, with their connections.
    current()
    startup.keep_logging(dagster._cli.api)
    dagster._cli.api.grpc_command()


if __name__ == "__main__":
    main()
