"""The command `adopt`: records what an older system left in the store."""

import datetime as dt
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lens_pipeline.catalog.rows import Generation, Row
from lens_pipeline.cli.progress import meter
from lens_pipeline.cli.session import Session, dagster_session, json_option, print_json
from lens_pipeline.core.files import scratch_directory
from lens_pipeline.core.startup import say
from lens_pipeline.derivatives import registry
from lens_pipeline.derivatives.originals import original_metadata, stored_originals
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import RECORDED, Derivative, Original
from lens_pipeline.derivatives.status import assess, usable
from lens_pipeline.derivatives.store_audit import (
    MEDIA_TYPES,
    Candidate,
    original_candidates,
    stored_objects,
)
from lens_pipeline.errors import DerivativeError, StoreUnavailable
from lens_pipeline.event_log.history import DerivativeStatus, State
from lens_pipeline.media.formats import file_extension, quote_head, read_head
from lens_pipeline.storage.content_types import CONTENT_TYPES
from lens_pipeline.storage.object_store import ObjectInfo, is_object_key
from lens_pipeline.storage.retries import FILE_RETRIES, retry_transient

if TYPE_CHECKING:
    import dagster as dg

# Originals that are read before they are recorded.
_PAGE = 200


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be recorded.")
@json_option
def adopt(dry_run: bool, as_json: bool) -> None:
    """Record derivatives that already lie in the store, without making them again.

    With LENS_ORIGINAL_KEYS also originals, which are read whole. Exit status 1: an object was
    refused.
    """
    verb = "would be adopted" if dry_run else "adopted"
    originals = OriginalAdoption()
    with dagster_session("adopt") as lens:
        with meter("rows", None) as progress:
            result = _record_stored(
                lens.pipeline,
                lens.instance,
                dry_run=dry_run,
                progress=lambda total: progress.show(total.found, f"{total.adopted} adopted"),
            )
        patterns = lens.pipeline.settings.original_keys
        if patterns:
            with meter("originals", None) as progress:
                _record_originals(
                    lens,
                    originals,
                    dry_run=dry_run,
                    progress=lambda: progress.show(originals.found, f"{originals.adopted} {verb}"),
                )
    if as_json:
        print_json(asdict(result) | ({"originals": asdict(originals)} if patterns else {}))
    else:
        print(f"{result.found} without a record: {result.adopted} {verb}, {result.missing} missing")
    if patterns and not as_json:
        for one in originals.refused:
            say(f"lens: {one['id']}: {one['reason']}")
        print(
            f"{originals.found} without an original in the store: {originals.adopted} {verb},"
            f" {originals.missing} missing, {len(originals.refused)} refused"
        )
    sys.exit(1 if originals.refused else 0)


@dataclass(slots=True)
class Adoption:
    """Numbers of rows without a record, with and without their object."""

    found: int = 0
    adopted: int = 0
    missing: int = 0


@dataclass(slots=True)
class OriginalAdoption(Adoption):
    refused: list[dict[str, str]] = field(default_factory=list)
    """The `id` of a row, and the `reason` why its object is not taken for its original."""


def _record_originals(
    lens: Session, total: OriginalAdoption, *, dry_run: bool, progress: Callable[[], None]
) -> None:
    """Record what LENS_ORIGINAL_KEYS names for rows without an original in the store.

    Raises StoreUnavailable, CatalogError; what was recorded by then stays so.
    """
    pipeline = lens.pipeline
    with (
        scratch_directory(pipeline.settings.scratch) as scratch,
        ThreadPoolExecutor(pipeline.settings.threads) as threads,
    ):

        def read(one: Candidate) -> "dict[str, Any] | str":
            return one.problem or (
                _facts(pipeline, one, scratch / one.row.id) if not dry_run else {}
            )

        for original in registry.ORIGINALS.values():
            for page in pipeline.catalog.all_finished(original.kind, _PAGE):
                wanted = _without_original(pipeline, original, usable(page))
                candidates = original_candidates(
                    pipeline, [row for row, _ in wanted.values()], threads
                )
                earlier = pipeline.log.latest(original.asset, wanted)
                total.found += len(wanted)
                total.missing += len(wanted) - len(candidates)
                found = []
                for one, facts in zip(candidates, threads.map(read, candidates), strict=True):
                    if isinstance(facts, str):
                        total.refused.append({"id": one.row.id, "reason": facts})
                    else:
                        # The further results of its task are kept as before.
                        extra = earlier.get(one.row.id, {}).get("extra_files")
                        more = {"extra_files": extra} if extra else {}
                        found.append((*wanted[one.row.id], facts | more))
                        total.adopted += 1
                    progress()
                progress()
                if found and not dry_run:
                    _record(pipeline, lens.instance, original, found)


def _without_original(
    pipeline: Pipeline, original: Original, rows: Iterable[Row]
) -> dict[str, tuple[Generation, DerivativeStatus]]:
    """By id; what a row itself names in the store needs no adoption."""
    external = [
        row for row in rows if isinstance(row, Generation) and not is_object_key(row.asset_url)
    ]
    stored = stored_originals(pipeline, original.kind, {row.id: row.asset_url for row in external})
    return {
        row.id: (row, status)
        for row, status in zip(external, assess(pipeline, original, external), strict=True)
        if row.id not in stored and status.state is not State.PROCESSING
    }


def _facts(pipeline: Pipeline, one: Candidate, file: Path) -> dict[str, Any] | str:
    """The metadata of its materialization, or why it is no original. Raises StoreUnavailable."""
    row, key = one.row, one.info.key
    try:
        fetched = retry_transient(lambda: pipeline.store.read_into(key, file), FILE_RETRIES)
        head = read_head(file)
    except StoreUnavailable:
        raise
    except DerivativeError as error:
        return str(error)
    finally:
        file.unlink(missing_ok=True)
    extension = file_extension(head)
    content_type = CONTENT_TYPES.get(extension or "", "")
    if not content_type.startswith(MEDIA_TYPES[row.kind]):
        return f"{key} is no {row.kind}: starts with {quote_head(head)}"
    facts = {"content_type": content_type, "adopted": True}
    return original_metadata(pipeline.store, row, key, RECORDED, fetched, facts)


def _record_stored(
    pipeline: Pipeline,
    instance: "dg.DagsterInstance",
    *,
    dry_run: bool,
    progress: Callable[[Adoption], None],
) -> Adoption:
    """Record every finished row whose derivative lies at its key but not in the event log.

    The object counts as made from the row as it is now. An empty object is not adopted.
    """
    total = Adoption()
    # No older system made them.
    settings = pipeline.settings.model_copy(update={"preview_sizes": (), "playable": False})
    pipeline = replace(pipeline, settings=settings)
    for derivative in registry.switched_on(pipeline):
        for page in pipeline.catalog.all_finished(derivative.kind):
            rows = usable(page)
            # What we made for an earlier state of the row has a record.
            unrecorded = [
                (row, status)
                for row, status in zip(rows, assess(pipeline, derivative, rows), strict=True)
                # What only waits for its turn may be there.
                if status.is_unrecorded and (derivative.follows or not status.waits)
            ]
            objects = stored_objects(pipeline, [status for _, status in unrecorded])
            present = [
                (row, status, _made_before(pipeline, status, objects[row.id]))
                for row, status in unrecorded
                if row.id in objects
            ]
            if present and not dry_run:
                _record(pipeline, instance, derivative, present)
            total.found += len(unrecorded)
            total.adopted += len(present)
            total.missing += len(unrecorded) - len(present)
            progress(total)
    return total


def _made_before(
    pipeline: Pipeline, status: DerivativeStatus, info: ObjectInfo
) -> dict[str, str | int]:
    return {
        "path": info.key,
        "dagster/uri": pipeline.store.uri(info.key),
        "bytes": info.bytes,
        "revision": status.revision,
        "adopted": True,
    }


def _record(
    pipeline: Pipeline,
    instance: "dg.DagsterInstance",
    derivative: Derivative,
    found: Sequence[tuple[Row, DerivativeStatus, Mapping[str, Any]]],
) -> None:
    """The last of each is the metadata."""
    import dagster as dg

    from lens_pipeline.engine.events import record_materializations

    # Older keys would only retire: a tick takes seconds with a million of them.
    oldest = pipeline.catalog.now() - dt.timedelta(days=pipeline.settings.retain_partitions_days)
    keys = [row.id for row, _, _ in found if row.finished_at and row.finished_at >= oldest]
    instance.add_dynamic_partitions(derivative.partition_set, keys)
    record_materializations(
        instance,
        [
            dg.AssetMaterialization(
                asset_key=derivative.asset,
                partition=row.id,
                description="Adopted: made before this pipeline, recorded as it lies in the store.",
                metadata=facts,
                tags=derivative.materialization_tags(row, status, pipeline.settings),
            )
            for row, status, facts in found
        ],
    )
