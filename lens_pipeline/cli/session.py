"""What a command works with: settings, running services, Dagster's instance."""

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

import dagster as dg

from lens_pipeline import settings
from lens_pipeline.core import telemetry
from lens_pipeline.core.endpoints import Endpoints
from lens_pipeline.core.logs import configure, speaks_json
from lens_pipeline.derivatives.pipeline import Pipeline, connect
from lens_pipeline.engine import instance
from lens_pipeline.settings import Settings
from lens_pipeline.supervisor.services import running

# Whatever LENS_LOG_LEVEL is: what is said to people is no log.
logger = logging.getLogger("lens")
logger.setLevel(logging.INFO)


@dataclass(frozen=True, slots=True)
class Session:
    """A command's view of the pipeline."""

    pipeline: Pipeline
    instance: dg.DagsterInstance


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


def print_json(result: Any) -> None:
    """One JSON object and nothing else on standard output."""
    if is_dataclass(result) and not isinstance(result, type):
        result = asdict(result)
    print(json.dumps(result, indent=2, default=str))


@contextmanager
def session(command: str) -> Iterator[Session]:
    """Everything a command needs, started if it is not running, and stopped again."""
    from lens_pipeline.engine.dagster_storage.storage import require_current_tables

    loaded = load_settings()
    if loaded.database_url is None and not loaded.resolved_home.exists():
        say(f"lens: nothing is at {loaded.resolved_home} yet: making an empty database there")
    with running(loaded, broker=False, command=command, report=say) as endpoints:
        prepare_databases(loaded, endpoints)
        require_current_tables(endpoints.dagster_url)
        pipeline = connect(loaded, endpoints)
        pipeline.catalog.check()
        with dagster_instance(loaded) as instance:
            yield Session(pipeline, instance)


@contextmanager
def dagster_instance(loaded: Settings) -> Iterator[dg.DagsterInstance]:
    """Dagster's instance by our `dagster.yaml`, with its local files below LENS_HOME."""
    set_up_dagster(loaded)
    with dg.DagsterInstance.get() as instance:
        yield instance


def set_up_dagster(loaded: Settings) -> None:
    """Have this process find our `dagster.yaml`, as those that `lens up` starts do."""
    # Dagster itself says something is beta or deprecated on every start.
    warnings.filterwarnings("ignore", module="dagster")
    os.environ["DAGSTER_HOME"] = str(instance.write_instance(loaded))
    os.environ["DAGSTER_EVENT_BATCH_SIZE"] = "100"


def prepare_databases(loaded: Settings, endpoints: Endpoints) -> None:
    """Create Dagster's tables, and the application's in the embedded database.

    An application's own database is for `lens migrate`, and so are Dagster's tables of another
    version: they are refused, except by `lens up` with an embedded database.
    """
    from lens_pipeline.engine.dagster_storage.storage import create_tables

    if loaded.database_url is None:
        catalog = connect(loaded, endpoints).catalog
        catalog.migrate()
        catalog.create_view()
    create_tables(endpoints.dagster_url)
