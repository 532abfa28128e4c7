"""What commands share: the pipeline and Dagster's instance, and output as JSON."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from typing import TYPE_CHECKING, Any

import click

from lens_pipeline.core.endpoints import Endpoints
from lens_pipeline.core.startup import load_settings, logger, say
from lens_pipeline.derivatives.pipeline import Pipeline, connect
from lens_pipeline.event_log.tables import has_tables
from lens_pipeline.settings import Settings
from lens_pipeline.supervisor.services import running

if TYPE_CHECKING:
    import dagster as dg

logger.setLevel(logging.INFO)

UNKNOWN_ID = "no generation, master or scaled video has this id"
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@dataclass(frozen=True, slots=True)
class Session:
    pipeline: Pipeline
    instance: "dg.DagsterInstance"


def print_json(result: Any) -> None:
    """Print one JSON object on standard output."""
    if is_dataclass(result) and not isinstance(result, type):
        result = asdict(result)
    print(json.dumps(result, indent=2, default=str))


@contextmanager
def dagster_session(command: str) -> Iterator[Session]:
    """As `session`, for commands that make runs or write events.

    Raises StackError: the tables are of another Dagster version, which does not keep others from
    looking.
    """
    from lens_pipeline.engine.dagster_storage.storage import require_current_tables
    from lens_pipeline.engine.instance import dagster_instance

    with session(command) as pipeline:
        require_current_tables(pipeline.endpoints.dagster_url)
        with dagster_instance(pipeline.settings) as instance:
            yield Session(pipeline, instance)


@contextmanager
def session(command: str) -> Iterator[Pipeline]:
    """Start what does not run yet, and stop it again."""
    loaded = load_settings()
    if loaded.database_url is None and not loaded.resolved_home.exists():
        say(f"lens: nothing is at {loaded.resolved_home} yet: making an empty database there")
    with running(loaded, broker=False, command=command, report=say) as endpoints:
        prepare_databases(loaded, endpoints)
        pipeline = connect(loaded, endpoints)
        pipeline.catalog.check()
        yield pipeline


def prepare_databases(loaded: Settings, endpoints: Endpoints) -> None:
    """Create Dagster's tables, and in the embedded database the application's."""
    if loaded.database_url is None:
        catalog = connect(loaded, endpoints).catalog
        catalog.migrate()
        catalog.migrate_view()
    if not has_tables(endpoints.dagster_url):
        # Dagster alone can make them, and takes half a second.
        from lens_pipeline.engine.dagster_storage.storage import create_tables

        create_tables(endpoints.dagster_url)
