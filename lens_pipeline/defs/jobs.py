"""The jobs: those of the registry, the report, and those that clean up."""

import datetime as dt

import dagster as dg

from lens_pipeline.defs.assets.shot_cache import trim
from lens_pipeline.defs.checks import check_objects
from lens_pipeline.defs.labels import OWNERS, code_of
from lens_pipeline.defs.resources import LensResource
from lens_pipeline.defs.retention import prune
from lens_pipeline.derivatives import registry
from lens_pipeline.derivatives.registry import MASTERS, QUEUE_TAG, REPORT_ASSET
from lens_pipeline.derivatives.removal import delete_originals, retire
from lens_pipeline.errors import DerivativeError
from lens_pipeline.settings import Settings

_DAY_SECONDS = 86400


def derivative_jobs(settings: Settings) -> list:
    """One job for all entries that name it."""
    names = dict.fromkeys(entry.job for entry in registry.entries())
    assets = {name: [e.asset for e in registry.entries() if e.job == name] for name in names}
    return [
        _asset_job(name, selection, registry.run_tags(selection, settings))
        for name, selection in assets.items()
    ]


def _asset_job(name: str, selection: list[str], tags: dict[str, str]):
    return dg.define_asset_job(
        name,
        selection=dg.AssetSelection.assets(*selection)
        - dg.AssetSelection.checks(*check_objects.check_keys),
        tags={"lens/queue": tags[QUEUE_TAG]},
        run_tags=tags,
        description=f"Materialize {' and '.join(selection)}.",
        owners=OWNERS,
        metadata=code_of(derivative_jobs),
    )


daily_reports = _asset_job("daily_reports", [REPORT_ASSET], {QUEUE_TAG: MASTERS})


object_checks = dg.define_asset_job(
    "object_checks",
    selection=dg.AssetSelection.checks(*check_objects.check_keys),
    tags={"lens/queue": MASTERS},
    run_tags={QUEUE_TAG: MASTERS},
    description="Look whether a sample of the stored files is as it was stored.",
    owners=OWNERS,
    metadata=code_of(derivative_jobs),
)


@dg.op
def retire_old_keys(context: dg.OpExecutionContext, lens: LensResource) -> None:
    """Take finished keys older than LENS_RETAIN_PARTITIONS_DAYS out of the partition sets."""
    for name in dict.fromkeys(entry.partition_set for entry in registry.entries()):
        count = retire(lens.pipeline(), name)
        context.log.info("%s: %d keys retired; files and history stay", name, count)


@dg.op
def trim_shot_cache(context: dg.OpExecutionContext, lens: LensResource) -> None:
    """Delete cached shots over LENS_SHOT_CACHE_DAYS old or beyond LENS_SHOT_CACHE_BYTES."""
    store, settings = lens.pipeline().store, lens.pipeline().settings
    days, most_bytes = settings.shot_cache_days, settings.shot_cache_bytes
    deleted, left = trim(store, dt.datetime.now(dt.UTC), days, most_bytes)
    context.log.info("%d cached shots deleted, %d bytes left", deleted, left)


@dg.op
def delete_old_originals(context: dg.OpExecutionContext, lens: LensResource) -> None:
    """Delete originals whose row was found gone LENS_RETAIN_ORIGINALS_DAYS ago."""
    pipeline = lens.pipeline()
    days = dt.timedelta(days=pipeline.settings.retain_originals_days)
    count = delete_originals(pipeline, context.instance, dt.datetime.now(dt.UTC) - days)
    context.log.info("%d originals of rows that are gone: deleted", count)


@dg.job(owners=OWNERS, metadata=code_of(retire))
def retirement() -> None:
    """Keep partition sets (Dagster advises at most 100,000 keys) and the store small."""
    retire_old_keys()
    trim_shot_cache()
    delete_old_originals()


@dg.op
def prune_history(context: dg.OpExecutionContext, lens: LensResource) -> None:
    """Delete events, runs and ticks over LENS_RETAIN_…_DAYS old that nothing needs."""
    context.log.info("%s", prune(lens.pipeline(), dt.datetime.now(dt.UTC)))


@dg.op
def sweep_store(context: dg.OpExecutionContext, lens: LensResource) -> None:
    """Delete unfinished objects of killed runs, a day after the longest run would have ended."""
    pipeline = lens.pipeline()
    age = registry.most_run_seconds(pipeline.settings) + _DAY_SECONDS
    try:
        count = pipeline.store.sweep(age, registry.LARGE_OBJECTS)
    except DerivativeError as error:
        # Some servers cannot list them, and some credentials must not.
        context.log.warning("unfinished objects stay: %s", error)
    else:
        context.log.info("%d unfinished objects deleted", count)


# Takes minutes: it must not delay previews.
@dg.job(name="retention", tags={QUEUE_TAG: MASTERS}, owners=OWNERS, metadata=code_of(prune))
def retention_job() -> None:
    """Keep Dagster's tables small, and the store free of what killed runs left unfinished."""
    prune_history()
    sweep_store()
