"""The asset checks: of each run that makes files, and of `daily_report`."""

import datetime as dt
import time
from collections.abc import Iterator, Mapping, Sequence

import dagster as dg

from lens_pipeline.core.files import scratch_directory
from lens_pipeline.defs.resources import LensResource
from lens_pipeline.derivatives.registry import MASTER, POSTER, PREVIEW, REPORT_ASSET
from lens_pipeline.derivatives.store_audit import SAMPLE, audited, damaged
from lens_pipeline.errors import Failure
from lens_pipeline.event_log.history import DerivativeStatus
from lens_pipeline.monitoring.reports.statistics import Record

SERVICE_LEVELS = "service_levels"
DEAD_LETTERS = "no_dead_letter_unattended"

# Share of photos and videos ready within 60 s; masters take minutes.
_LEVEL = 0.99
_KINDS = ("photo", "video")
# Files that may be late on a day of few files.
_FORGIVEN = 1
_LONG = dt.timedelta(days=1)
_LISTED = 20

SPECS = [
    dg.AssetCheckSpec(
        SERVICE_LEVELS,
        asset=REPORT_ASSET,
        description="99 % of the day's photos and videos were ready within 60 s.",
    ),
    dg.AssetCheckSpec(
        DEAD_LETTERS, asset=REPORT_ASSET, description="No dead letter waits to be retried."
    ),
]

OF_RUNS = {
    **{
        asset: dg.AssetCheckSpec(
            "newest_batch",
            asset=asset,
            description=f"Every {asset} that the newest run was asked for is ready.",
        )
        for asset in (PREVIEW.asset, POSTER.asset)
    },
    MASTER.asset: dg.AssetCheckSpec(
        "verified",
        asset=MASTER.asset,
        description="The newest master was compared with its shots, packet by packet, and stored.",
    ),
}


OBJECTS_INTACT = "objects_intact"
# For the files of one asset: masters wait meanwhile.
_CHECK_SECONDS = 120.0


@dg.multi_asset_check(
    name="check_objects",
    specs=[
        dg.AssetCheckSpec(
            OBJECTS_INTACT,
            asset=derivative.asset,
            description="A sample of its files is in the store as it was stored.",
        )
        for derivative in audited()
    ],
    can_subset=True,
)
def check_objects(
    context: dg.AssetCheckExecutionContext, lens: LensResource
) -> Iterator[dg.AssetCheckResult]:
    """Look at a sample of the files of each asset; `lens verify --all` looks at all."""
    if context.run.asset_selection:
        # Dagster adds the check to a run that a person starts for an asset, which need not wait.
        return
    pipeline = lens.pipeline()
    wanted = {key.asset_key.to_user_string() for key in context.selected_asset_check_keys}
    with scratch_directory(pipeline.settings.scratch) as scratch:
        for derivative in (one for one in audited() if one.asset in wanted):
            keys, found = [], []
            deadline = time.monotonic() + _CHECK_SECONDS
            for key in pipeline.log.random_keys(derivative.asset, SAMPLE):
                if time.monotonic() < deadline:
                    keys.append(key)
                    found += damaged(pipeline, derivative, [key], scratch)
            first = f"; first: {found[0].id}: {found[0].path} {found[0].problem}" if found else ""
            yield dg.AssetCheckResult(
                asset_key=derivative.asset,
                check_name=OBJECTS_INTACT,
                passed=not found,
                description=f"{len(found)} of {len(keys)} files are gone or damaged{first}",
                metadata={"files": len(keys), "damaged": len(found)},
            )


def of_run(asset: str, ready: int, failures: Mapping[str, Failure]) -> dg.AssetCheckResult:
    """An error if no file is ready; a warning if some failed."""
    failed = len(failures)
    total = ready + failed
    first = next((f"; first: {key}: {why.error}" for key, why in failures.items()), "")
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=OF_RUNS[asset].name,
        passed=not failed,
        severity=dg.AssetCheckSeverity.WARN if ready else dg.AssetCheckSeverity.ERROR,
        description=f"{failed} of {total} failed{first}",
        metadata={"files": total, "failed_share": failed / max(total, 1)},
    )


def service_levels(summary: Sequence[Record]) -> dg.AssetCheckResult:
    """An error if files were late or failed for now; a warning for dead letters."""
    missed, late = [], False
    metadata: dict[str, float | int | str] = {"level": _LEVEL}
    for row in (row for row in summary if row["kind"] in _KINDS):
        kind, judged = row["kind"], row["judged"]
        outside = judged - row["in_time"]
        metadata[f"{kind}_judged"] = judged
        if judged:
            metadata[f"{kind}_in_time_share"] = round(row["in_time_share"], 5)
        if _is_missed(outside, judged):
            missed.append(f"{outside} of {judged} {kind}s were not ready within 60 s")
            late = late or _is_missed(outside - row["dead"], judged)
    return dg.AssetCheckResult(
        check_name=SERVICE_LEVELS,
        passed=not missed,
        severity=dg.AssetCheckSeverity.ERROR if late else dg.AssetCheckSeverity.WARN,
        description="; ".join(missed) or "every kind kept its level",
        metadata=metadata,
    )


def _is_missed(outside: int, judged: int) -> bool:
    return outside > max(_FORGIVEN, round((1 - _LEVEL) * judged, 6))


def dead_letters_attended(
    letters: Sequence[DerivativeStatus], now: dt.datetime
) -> dg.AssetCheckResult:
    """An error once a dead letter is over a day old."""
    long = [letter for letter in letters if letter.at and now - letter.at > _LONG]
    first = letters[0].at if letters else None
    table = [
        dg.TableRecord(
            {
                "kind": letter.kind,
                "id": letter.id,
                "error_class": letter.error_class,
                "since": letter.at.isoformat(timespec="seconds") if letter.at else "",
            }
        )
        for letter in letters[:_LISTED]
    ]
    return dg.AssetCheckResult(
        check_name=DEAD_LETTERS,
        passed=not letters,
        severity=dg.AssetCheckSeverity.ERROR if long else dg.AssetCheckSeverity.WARN,
        description=(
            f"dead letters: {len(letters)}, for over a day: {len(long)}; see `lens dead-letters`"
            if letters
            else "no dead letters"
        ),
        metadata={
            "dead_letters": len(letters),
            "over_a_day": len(long),
            **({"oldest_since": first.isoformat(timespec="seconds")} if first else {}),
            **({"letters": dg.MetadataValue.table(table)} if table else {}),
        },
    )
