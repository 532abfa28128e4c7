"""Compares the store with what was made: which objects it has, and whether it is the right one."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from lens_pipeline.catalog.rows import Generation, Kind, MasterVideo
from lens_pipeline.core.ids import KEY_PATTERN
from lens_pipeline.derivatives import registry
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import Derivative
from lens_pipeline.derivatives.status import owner_of
from lens_pipeline.errors import DerivativeError, LensError
from lens_pipeline.event_log.history import DerivativeStatus
from lens_pipeline.event_log.reader import text
from lens_pipeline.storage.content_types import UNKNOWN_TYPE, content_type_of
from lens_pipeline.storage.object_store import ObjectInfo, ObjectStore

# Of each derivative, in the order of ids: not all are of one day.
_SAMPLE = 20
# Files of each kind that are looked at daily.
SAMPLE = 100
R = TypeVar("R", Generation, MasterVideo)
# Of the content types of each kind.
MEDIA_TYPES = {Kind.PHOTO: "image/", Kind.VIDEO: "video/", Kind.MASTER: "video/"}


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
        problems = [
            (path, problem)
            for one in (facts, *facts.get("extra_files", []), *facts.get("sizes", {}).values())
            if (path := text(one.get("path")))
            and (problem := _problem(pipeline.store, path, one, scratch / "object"))
        ]
        # It may have been made anew meanwhile.
        if problems and pipeline.log.latest(derivative.asset, [key]).get(key) == facts:
            found += [Damage(derivative.asset, key, *problem) for problem in problems]
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


@dataclass(frozen=True, slots=True)
class Candidate(Generic[R]):
    """An object that may be the file of a row; `problem`: why it is not taken for it."""

    row: R
    info: ObjectInfo
    problem: str | None


def candidates(
    pipeline: Pipeline,
    store: ObjectStore,
    patterns: Sequence[str],
    kind: Kind,
    rows: Sequence[R],
    threads: ThreadPoolExecutor,
) -> list[Candidate[R]]:
    """Of the rows that `patterns` name an object for; a request to the store for each.

    Of several objects none is taken: all that is shown would be made from a wrong one.
    """

    def named_by(row: R) -> tuple[list[ObjectInfo], set[str]] | None:
        return _named(store, patterns, kind, row)

    listed = zip(rows, threads.map(named_by, rows), strict=True)
    named = [(row, *found) for row, found in listed if found]
    others = {key for *_, ids in named for key in ids}
    # Of `a_b_1.png`, the id may be `a` or `a_b`.
    taken = pipeline.catalog.existing(kind, others) if others else set()

    def problem(objects: Sequence[ObjectInfo], ids: set[str]) -> str | None:
        keys = ", ".join(info.key for info in objects[:3])
        if len(objects) > 1:
            return f"{len(objects)} objects fit, make the pattern narrower: {keys}"
        return f"{keys} may be of {min(ids & taken)} as well" if ids & taken else None

    return [Candidate(row, objects[0], problem(objects, ids)) for row, objects, ids in named]


def _named(
    store: ObjectStore, patterns: Sequence[str], kind: Kind, row: Generation | MasterVideo
) -> tuple[list[ObjectInfo], set[str]] | None:
    """What the first pattern names that names any, and the other ids that it may be of."""
    user_id, project_id = owner_of(row)
    for pattern in patterns:
        before, _, after = pattern.partition("{id}")
        folder = before.replace("{user_id}", user_id or "").replace(
            "{project_id}", project_id or ""
        )
        rest = re.compile("[^/]*".join(map(re.escape, after.split("*"))))
        listed = store.list(folder + row.id + after.partition("*")[0])
        objects = [
            info
            for info in listed
            if rest.fullmatch(info.key, len(folder + row.id))
            and info.bytes > 0
            and content_type_of(info.key).startswith((MEDIA_TYPES[kind], UNKNOWN_TYPE))
        ]
        if objects:
            names = {info.key.removeprefix(folder) for info in objects}
            ids = {n[:end] for n in names for end in range(1, len(n)) if rest.fullmatch(n, end)}
            return objects, {one for one in ids - {row.id} if KEY_PATTERN.fullmatch(one)}
    return None
