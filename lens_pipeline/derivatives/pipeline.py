"""The connections of a process, from its settings. No work is done here."""

from dataclasses import dataclass
from functools import cache

from lens_pipeline import settings
from lens_pipeline.catalog.catalog import Catalog
from lens_pipeline.catalog.generations import Layout
from lens_pipeline.core.endpoints import Endpoints, resolve
from lens_pipeline.event_log.queue import RunQueueLog
from lens_pipeline.event_log.reader import EventLog
from lens_pipeline.settings import Settings
from lens_pipeline.storage.connect import open_store
from lens_pipeline.storage.object_store import ObjectStore


@dataclass(frozen=True, slots=True)
class Pipeline:
    settings: Settings
    endpoints: Endpoints
    catalog: Catalog
    log: EventLog
    runs: RunQueueLog
    store: ObjectStore


@cache
def connect(loaded: Settings, endpoints: Endpoints) -> Pipeline:
    """It connects when first used."""
    return Pipeline(
        settings=loaded,
        endpoints=endpoints,
        catalog=Catalog(endpoints.database_url, Layout.of(loaded)),
        log=EventLog(endpoints.dagster_url),
        runs=RunQueueLog(endpoints.dagster_url),
        store=open_store(loaded.resolved_store_url, loaded.s3_endpoint),
    )


def current() -> Pipeline:
    """From the environment."""
    loaded, _ = settings.load()
    return connect(loaded, resolve(loaded, broker=False))
