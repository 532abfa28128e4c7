"""What every process of the product does first."""

import logging
import sys

from lens_pipeline import settings
from lens_pipeline.core import telemetry
from lens_pipeline.core.logs import configure, speaks_json
from lens_pipeline.settings import Settings

# Whatever LENS_LOG_LEVEL is: what is said to people is no log.
logger = logging.getLogger("lens")


def say(line: str) -> None:
    """Tell people something; standard output is for results."""
    if speaks_json():
        logger.info("%s", line)
    else:
        print(line, file=sys.stderr, flush=True)


def load_settings() -> Settings:
    """The settings, with their warnings said and logging set up."""
    loaded, notes = settings.load()
    settings.export_foreign()
    configure(loaded.log_format, loaded.log_level)
    telemetry.begin_reports(loaded)
    for note in notes:
        say(f"lens: {note}")
    return loaded
