"""`lens` with a daemon that soon finds lost runs and backfills of the UI: tests wait for it."""

from unittest.mock import patch

from dagster import DagsterInstance
from dagster._daemon import controller

from lens_pipeline.cli import main
from lens_pipeline.engine import launcher

# The daemon of `lens up` is a fork of it. Seconds, instead of 10, 15 and 30.
for place, name, seconds in (
    (DagsterInstance, "run_monitoring_poll_interval_seconds", 2),
    (launcher, "_LOST_SECONDS", 6.0),
    (controller, "DEFAULT_DAEMON_INTERVAL_SECONDS", 3),
):
    patch.object(place, name, seconds).start()

if __name__ == "__main__":
    main()
