"""Settings and logs at the start of a process, and lines for people."""

import logging
import sys

from lens_pipeline import settings
from lens_pipeline.core import telemetry
from lens_pipeline.core.logs import configure, speaks_json
from lens_pipeline.settings import Settings

# For lines to people, at any LENS_LOG_LEVEL.
logger = logging.getLogger("lens")


def say(line: str) -> None:
    """Print a line for people; standard output is for results."""
    if speaks_json():
        logger.info("%s", line)
    else:
        print(line, file=sys.stderr, flush=True)


def load_settings() -> Settings:
    """Also set up logging. Raises SettingsError."""
    loaded, notes = settings.load()
    settings.export_foreign()
    configure(loaded.log_format, loaded.log_level)
    telemetry.begin_reports(loaded)
    for note in notes:
        say(f"lens: {note}")
    return loaded
