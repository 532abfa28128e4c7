"""The assets of the registry, and what materializes each."""

from collections.abc import Callable, Iterator, Sequence

import dagster as dg

from lens_pipeline.defs import checks
from lens_pipeline.defs.assets.batch import materialize_batch
from lens_pipeline.defs.assets.checked_shots import ShotChecker
from lens_pipeline.defs.assets.masters import MasterMaterializer, fetch_master
from lens_pipeline.defs.assets.materializer import Materializer
from lens_pipeline.defs.assets.originals import OriginalMaterializer
from lens_pipeline.defs.assets.pictures import PictureMaterializer
from lens_pipeline.defs.assets.renderers import PosterRenderer, PreviewRenderer
from lens_pipeline.defs.assets.renditions import RenditionMaterializer
from lens_pipeline.defs.assets.videos import (
    VideoMaterializer,
    clip,
    playable_copy,
)
from lens_pipeline.defs.labels import OWNERS, code_of, facts
from lens_pipeline.defs.partitions import partition_set
from lens_pipeline.defs.resources import LensResource
from lens_pipeline.derivatives import registry
from lens_pipeline.derivatives.registry import Derivative
from lens_pipeline.settings import Settings

MATERIALIZERS: dict[str, Callable[[Derivative, Settings], Materializer]] = {
    "preview": lambda d, s: PictureMaterializer(
        d, PreviewRenderer(s, d.picture_edge(s), d.picture_sizes(s))
    ),
    "poster": lambda d, s: PictureMaterializer(
        d, PosterRenderer(s, d.picture_edge(s), d.picture_sizes(s))
    ),
    "clip": lambda d, s: VideoMaterializer(d, s, clip),
    "playable_video": lambda d, s: VideoMaterializer(d, s, playable_copy),
    "master_video": lambda _, s: MasterMaterializer(s),
    "master_poster": lambda d, s: PictureMaterializer(
        d, PosterRenderer(s, d.picture_edge(s)), fetch_master
    ),
    "scaled_video": lambda _, s: RenditionMaterializer(s),
    "checked_shot": lambda _, s: ShotChecker(s),
    "photo_generation": lambda _d, _s: OriginalMaterializer(),
    "video_generation": lambda _d, _s: OriginalMaterializer(),
}


def derivative_assets(settings: Settings) -> list[dg.AssetsDefinition]:
    ops: dict[str, list[Derivative]] = {}
    for entry in registry.entries():
        ops.setdefault(entry.op, []).append(entry)
    return [_assets(op, made, settings) for op, made in ops.items()]


def _assets(op: str, made: Sequence[Derivative], settings: Settings) -> dg.AssetsDefinition:
    # Partitions are recorded one by one: the step has no output.
    @dg.multi_asset(
        name=op,
        specs=[_spec(derivative, settings) for derivative in made],
        partitions_def=partition_set(made[0].partition_set),
        backfill_policy=dg.BackfillPolicy.multi_run(made[0].batch_size(settings)),
        check_specs=[checks.OF_RUNS[d.asset] for d in made if d.asset in checks.OF_RUNS],
        can_subset=True,
    )
    def assets(
        context: dg.AssetExecutionContext, lens: LensResource
    ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        pipeline = lens.pipeline()
        chosen = {key.to_user_string() for key in context.selected_asset_keys}
        wanted = [derivative for derivative in made if derivative.asset in chosen]
        pairs = [(d, MATERIALIZERS[d.asset](d, pipeline.settings)) for d in wanted]
        yield from materialize_batch(context, pipeline, *pairs)

    return assets


def _spec(derivative: Derivative, settings: Settings) -> dg.AssetSpec:
    return dg.AssetSpec(
        derivative.asset,
        deps=_dependencies(derivative),
        code_version=derivative.code_version,
        skippable=True,
        group_name=derivative.group,
        kinds={derivative.extension or derivative.kind.value},
        description=derivative.description,
        owners=OWNERS,
        tags={"lens/queue": derivative.queue},
        metadata={**facts(derivative, settings), **code_of(MATERIALIZERS[derivative.asset])},
    )


def _dependencies(derivative: Derivative) -> list[dg.AssetDep]:
    """Keys of another set must not make a row look stale."""
    if derivative.upstream is None:
        return []
    sets = {entry.asset: entry.partition_set for entry in registry.entries()}
    is_shared = sets[derivative.upstream] == derivative.partition_set
    mapping = None if is_shared else dg.SpecificPartitionsPartitionMapping([])
    return [dg.AssetDep(derivative.upstream, partition_mapping=mapping)]
