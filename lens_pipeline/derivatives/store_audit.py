"""Compares the store with what was made: which objects it has, and whether it is the right one."""

from collections import defaultdict
from collections.abc import Iterable

from lens_pipeline.derivatives import registry
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.errors import LensError
from lens_pipeline.event_log.history import DerivativeStatus
from lens_pipeline.storage.object_store import ObjectInfo

# Of each derivative, in the order of ids: not all are of one day.
_SAMPLE = 20


class ForeignStore(LensError):
    """The store is another one, or its disk is not mounted."""


def require_own_store(pipeline: Pipeline) -> None:
    """One file of a sample is enough. Raises ForeignStore, DerivativeError, SQLAlchemyError."""
    paths: list[str] = []
    for asset in registry.assets():
        keys = pipeline.log.materialized_keys(asset, _SAMPLE)
        histories = pipeline.log.histories(asset, keys)
        live = [key for key in keys if not histories[key].is_removed]
        paths += pipeline.log.paths(asset, live).values()
    if paths and not any(pipeline.store.stat(path) for path in paths):
        raise ForeignStore(
            f"none of {len(paths)} files that were made is in"
            f" {pipeline.settings.resolved_store_url}: mount it, or set LENS_STORE_URL and"
            " LENS_S3_ENDPOINT as where they were made (if all were deleted:"
            " `lens backfill --force` makes them again)"
        )


def stored_objects(
    pipeline: Pipeline, statuses: Iterable[DerivativeStatus]
) -> dict[str, ObjectInfo]:
    """By row id, without empty objects. On S3, listing 1,000 keys costs as much as one `stat`."""
    folders: dict[str, dict[str, str]] = defaultdict(dict)
    for status in statuses:
        if status.key:
            folders[status.key.rpartition("/")[0] + "/"][status.key] = status.id
    return {
        ids[info.key]: info
        for folder, ids in folders.items()
        for info in pipeline.store.list(folder)
        if info.key in ids and info.bytes > 0
    }
