"""What commands share: the pipeline and Dagster's instance, and output as JSON."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

import click
import dagster as dg

from lens_pipeline.core.endpoints import Endpoints
from lens_pipeline.core.startup import load_settings, logger, say
from lens_pipeline.derivatives.pipeline import Pipeline, connect
from lens_pipeline.engine.instance import dagster_instance
from lens_pipeline.settings import Settings
from lens_pipeline.supervisor.services import running

logger.setLevel(logging.INFO)

UNKNOWN_ID = "no generation, master or scaled video has this id"
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@dataclass(frozen=True, slots=True)
class Session:
    pipeline: Pipeline
    instance: dg.DagsterInstance


def print_json(result: Any) -> None:
    """Print one JSON object on standard output."""
    if is_dataclass(result) and not isinstance(result, type):
        result = asdict(result)
    print(json.dumps(result, indent=2, default=str))


@contextmanager
def session(command: str) -> Iterator[Session]:
    """Start what does not run yet, and stop it again."""
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


def prepare_databases(loaded: Settings, endpoints: Endpoints) -> None:
    """Create Dagster's tables, and in the embedded database the application's."""
    from lens_pipeline.engine.dagster_storage.storage import create_tables

    if loaded.database_url is None:
        catalog = connect(loaded, endpoints).catalog
        catalog.migrate()
        catalog.migrate_view()
    create_tables(endpoints.dagster_url)
