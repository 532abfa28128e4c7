"""`dagster-daemon run`, with shorter loops and a run queue that takes turns."""

from lens_pipeline import settings
from lens_pipeline.core.endpoints import resolve
from lens_pipeline.engine.processes import startup

# Dagster's 5 s would be most of the time from a row to its preview. A bit more than the sensors'
# interval of 1 s, or every second look would come too early.
SENSOR_LOOP_SECONDS = 1.1


def main() -> None:
    startup.begin("daemon", "submission", "launcher", "daemon")
    import dagster._daemon.controller
    import dagster._daemon.sensor
    from dagster._daemon.cli import run_command

    from lens_pipeline.catalog.generations import Layout
    from lens_pipeline.engine.processes.run_queue_daemon import create_daemon_of_type
    from lens_pipeline.engine.processes.sensor_ticks import TickPolicy

    startup.keep_logging(dagster._daemon.controller)
    startup.watch_code_server()
    loaded, _ = settings.load()
    policy = TickPolicy(resolve(loaded, broker=False), Layout.of(loaded))
    dagster._daemon.sensor.MIN_INTERVAL_LOOP_TIME = SENSOR_LOOP_SECONDS
    dagster._daemon.sensor.is_under_min_interval = policy.is_not_due
    dagster._daemon.controller.create_daemon_of_type = create_daemon_of_type
    run_command()


if __name__ == "__main__":
    main()
