"""`dagster-daemon run`, with a shorter sensor loop."""

import dagster._daemon.sensor
from dagster._daemon.cli import run_command

# Dagster looks at its sensors every 5 s; this is most of the time from a row to its preview.
SENSOR_LOOP_SECONDS = 1


def main() -> None:
    dagster._daemon.sensor.MIN_INTERVAL_LOOP_TIME = SENSOR_LOOP_SECONDS
    run_command()


if __name__ == "__main__":
    main()
