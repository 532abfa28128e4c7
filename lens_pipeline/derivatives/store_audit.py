"""Compares the store with what was made: which objects it has, and whether it is the right one."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lens_pipeline.derivatives import registry
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import Derivative
from lens_pipeline.errors import DerivativeError, LensError
from lens_pipeline.event_log.history import DerivativeStatus
from lens_pipeline.event_log.reader import text
from lens_pipeline.storage.object_store import ObjectInfo, ObjectStore

# Of each derivative, in the order of ids: not all are of one day.
_SAMPLE = 20


# Files of each kind that are looked at daily.
SAMPLE = 100


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


@dataclass(frozen=True, slots=True)
class Damage:
    asset: str
    id: str
    path: str
    problem: str


def audited() -> tuple[Derivative, ...]:
    """What has objects in the store."""
    return (*registry.DERIVATIVES, *registry.ORIGINALS.values())


def damaged(
    pipeline: Pipeline, derivative: Derivative, keys: Sequence[str], scratch: Path
) -> list[Damage]:
    """Objects of partitions that are gone, have other bytes than were recorded, or cannot be read.

    Originals are read into `scratch`: their SHA-256 is known.
    """
    histories = pipeline.log.histories(derivative.asset, keys)
    live = [key for key, history in histories.items() if not history.is_removed]
    found = []
    for key, facts in pipeline.log.latest(derivative.asset, live).items():
        path = text(facts.get("path"))
        problem = path and _problem(pipeline.store, path, facts, scratch / "object")
        # It may have been made anew meanwhile.
        if path and problem and pipeline.log.paths(derivative.asset, [key]).get(key) == path:
            found.append(Damage(derivative.asset, key, path, problem))
    return found


def _problem(store: ObjectStore, path: str, facts: Mapping[str, object], file: Path) -> str | None:
    try:
        info = store.stat(path)
        if info is None:
            return "is not in the store"
        if info.bytes != facts.get("bytes", info.bytes):
            return f"has {info.bytes} bytes, of {facts['bytes']} that were stored"
        if "sha256" in facts and store.read_into(path, file).sha256 != facts["sha256"]:
            return "has other bytes than were stored"
    except DerivativeError as error:
        return f"cannot be read: {error}"
    finally:
        file.unlink(missing_ok=True)
    return None


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
