"""The command `adopt`: records what an older system left in the store."""

import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lens_pipeline.catalog.rows import Generation, Row
from lens_pipeline.cli.adoption.masters import masters_place, record_masters
from lens_pipeline.cli.adoption.records import Adoption, FileAdoption, record
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
    candidates,
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
@click.option(
    "--masters",
    metavar="PATTERN",
    help="Instead, masters: object keys, or a path from / or ./ on, with {id}, {project_id} and *.",
)
@json_option
def adopt(dry_run: bool, masters: str | None, as_json: bool) -> None:
    """Record derivatives that already lie in the store, without making them again.

    With LENS_ORIGINAL_KEYS also originals, which are read whole. With --masters, finished films of
    master_videos: each is decoded, copied to the key of its master, and never made again. Exit
    status 1: a file was refused.
    """
    verb = "would be adopted" if dry_run else "adopted"
    if masters is not None:
        _adopt_masters(masters, verb, dry_run=dry_run, as_json=as_json)
        return
    originals = FileAdoption()
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
        _tell(originals, "without an original in the store", verb)
    sys.exit(1 if originals.refused else 0)


def _adopt_masters(pattern: str, verb: str, *, dry_run: bool, as_json: bool) -> None:
    place = masters_place(pattern)
    total = FileAdoption()
    with dagster_session("adopt") as lens, meter("masters", None) as progress:
        record_masters(
            lens,
            place,
            total,
            dry_run=dry_run,
            progress=lambda: progress.show(total.adopted, f"of {total.found} {verb}"),
        )
    if as_json:
        print_json(total)
    else:
        _tell(total, "masters without a record", verb)
    sys.exit(1 if total.refused else 0)


def _tell(total: FileAdoption, what: str, verb: str) -> None:
    for one in total.refused:
        say(f"lens: {one['id']}: {one['reason']}")
    print(
        f"{total.found} {what}: {total.adopted} {verb}, {total.missing} missing,"
        f" {len(total.refused)} refused"
    )


def _record_originals(
    lens: Session, total: FileAdoption, *, dry_run: bool, progress: Callable[[], None]
) -> None:
    """Record what LENS_ORIGINAL_KEYS names for rows without an original in the store.

    Raises StoreUnavailable, CatalogError; what was recorded by then stays so.
    """
    pipeline = lens.pipeline
    with (
        scratch_directory(pipeline.settings.scratch) as scratch,
        ThreadPoolExecutor(pipeline.settings.threads) as threads,
    ):

        def read(one: Candidate[Generation]) -> "dict[str, Any] | str":
            return one.problem or (
                _facts(pipeline, one, scratch / one.row.id) if not dry_run else {}
            )

        for original in registry.ORIGINALS.values():
            for page in pipeline.catalog.all_finished(original.kind, _PAGE):
                wanted = _without_original(pipeline, original, usable(page))
                named = candidates(
                    pipeline,
                    pipeline.store,
                    pipeline.settings.original_keys,
                    original.kind,
                    [row for row, _ in wanted.values()],
                    threads,
                )
                earlier = pipeline.log.latest(original.asset, wanted)
                total.found += len(wanted)
                total.missing += len(wanted) - len(named)
                found = []
                for one, facts in zip(named, threads.map(read, named), strict=True):
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
                    record(pipeline, lens.instance, original, found)


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


def _facts(pipeline: Pipeline, one: Candidate[Generation], file: Path) -> dict[str, Any] | str:
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
            # The event log of films that were adopted before may be lost as well.
            old = [
                (row, status if row.id in objects else _as_adopted(derivative, row, status))
                for row, status in unrecorded
            ]
            objects |= stored_objects(pipeline, [s for row, s in old if row.id not in objects])
            present = [
                (row, status, _made_before(pipeline, status, objects[row.id]))
                for row, status in old
                if row.id in objects
            ]
            if present and not dry_run:
                record(pipeline, instance, derivative, present)
            total.found += len(unrecorded)
            total.adopted += len(present)
            total.missing += len(unrecorded) - len(present)
            progress(total)
    return total


def _as_adopted(derivative: Derivative, row: Row, status: DerivativeStatus) -> DerivativeStatus:
    revision = derivative.adopted_revision(row)
    if revision is None:
        return status
    return replace(status, revision=revision, key=derivative.object_key(row, revision))


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
