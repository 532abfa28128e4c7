"""Commands that make or delete derivatives: once, backfill, retry, remove-missing."""

import asyncio
import datetime as dt
import os
import sys
from collections.abc import Sequence
from contextlib import closing

import click
from sqlalchemy.exc import SQLAlchemyError

from lens_pipeline.catalog.errors import CatalogError
from lens_pipeline.cli.local_work import Result, Work, estimate, find_originals, find_work
from lens_pipeline.cli.progress import meter
from lens_pipeline.cli.session import UNKNOWN_ID, Session, dagster_session, json_option, print_json
from lens_pipeline.core.durations import spoken
from lens_pipeline.core.ids import canonical_uuid
from lens_pipeline.core.locks import LockSession, daemon_lock
from lens_pipeline.core.startup import say
from lens_pipeline.derivatives import registry
from lens_pipeline.derivatives.originals import unfinished_originals
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import Derivative, Original
from lens_pipeline.derivatives.store_audit import require_own_store
from lens_pipeline.errors import DiskFull, first_line
from lens_pipeline.event_log.history import DerivativeStatus
from lens_pipeline.monitoring.probes.host import DiskMonitor, Space
from lens_pipeline.monitoring.view_sync import update_view
from lens_pipeline.reasons import explain
from lens_pipeline.settings import Settings, SettingsError

# Between two lines of `remove-missing`.
_REPORT_SECONDS = 5.0
# The most that one pass of `lens once` keeps.
_MOST_ORIGINALS = 1000
_KINDS = [kind.value for kind in registry.kinds()]
_LIMIT = click.option("--limit", type=click.IntRange(min=1), help="The most files of each kind.")


@click.command()
@_LIMIT
@json_option
def once(limit: int | None, as_json: bool) -> None:
    """Do what needs doing now, in this process, then exit."""
    with dagster_session("once") as lens:
        _recover(lens)
        result = Result()
        later: list[Work] = []
        for derivatives in _phases(lens.pipeline):
            works = [
                find_work(lens.pipeline, d, bulk=False, limit=limit, force=False)
                for d in derivatives
            ]
            _work_off(lens, works, result, origin="once", force=False)
            later += [work.of_outdated() for work in works]
        later += _unfinished_originals(lens.pipeline, limit or _MOST_ORIGINALS)
        _work_off(lens, later, result, origin="once", force=False)
        _keep_view(lens)
    _finish(result, as_json)


@click.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--kind", type=click.Choice(_KINDS), help="Only this kind.")
@_LIMIT
@click.option(
    "--concurrency", type=click.IntRange(1, 64), help="Files worked on at once.  [LENS_THREADS]"
)
@click.option("--force", is_flag=True, help="Also what is ready.")
@click.option("--lost", is_flag=True, help="Also what is ready but gone from the store.")
@click.option("--outdated", is_flag=True, help="Also what other settings or another version made.")
@click.option("--originals", is_flag=True, help="Instead, keep the files of older rows.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@json_option
def backfill(
    ids: tuple[str, ...],
    kind: str | None,
    limit: int | None,
    concurrency: int | None,
    force: bool,
    lost: bool,
    outdated: bool,
    originals: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make missing, failed and outdated derivatives, of all finished rows or only of the IDs.

    With --originals, store the photos and videos themselves that the pipeline has not kept yet,
    newest first. It ends where the store's disk has too little room, and goes on if run again.
    """
    if concurrency is not None:
        os.environ["LENS_THREADS"] = str(concurrency)
    with dagster_session("backfill") as lens:
        if lost:
            require_own_store(lens.pipeline)
        _recover(lens)
        result = Result()
        known: set[str] = set()
        # What is lost counts as ready.
        again = force or lost
        later: list[Work] = []
        originals_alone = [list(registry.ORIGINALS.values())]
        for derivatives in originals_alone if originals else _phases(lens.pipeline):
            chosen = [d for d in derivatives if kind in (None, d.kind.value)]
            works = (
                _find_originals(lens.pipeline, chosen, limit=limit, force=force, ids=ids)
                if originals
                else [
                    find_work(
                        lens.pipeline,
                        d,
                        bulk=True,
                        limit=limit,
                        ids=ids,
                        force=force,
                        lost=lost,
                        outdated=outdated,
                    )
                    for d in chosen
                ]
            )
            known.update(*(work.known for work in works))
            later += [work.of_outdated() for work in works]
            if dry_run:
                skipped = sum(len(work.invalid) for work in works)
                result.skipped += skipped
                result.found += sum(len(work.ids) for work in works) + skipped
            else:
                _work_off(lens, works, result, origin="backfill", force=again)
        if dry_run:
            result.found += sum(len(work.ids) for work in later)
        else:
            _work_off(lens, later, result, origin="backfill", force=again)
            _keep_view(lens)
        unknown = sorted(set(ids) - known)
    for key in unknown:
        say(f"lens: {key}: no finished generation, master or scaled video has this id")
    _finish(result, as_json, failed=bool(unknown))


def _unfinished_originals(pipeline: Pipeline, limit: int) -> list[Work]:
    return [
        Work(one, [status.id for status in unfinished_originals(pipeline, one, limit)], [])
        for one in registry.ORIGINALS.values()
    ]


def _find_originals(
    pipeline: Pipeline,
    derivatives: Sequence[Derivative],
    *,
    limit: int | None,
    force: bool,
    ids: Sequence[str],
) -> list[Work]:
    """Raises SettingsError: none is to be kept."""
    if pipeline.settings.keep_originals == "never":
        raise SettingsError("LENS_KEEP_ORIGINALS=never: no original is kept; unset it")
    works = [
        find_originals(pipeline, derivative, limit=limit, force=force, ids=ids)
        for derivative in derivatives
        if isinstance(derivative, Original)
    ]
    expected = estimate(pipeline, works)
    size = "size unknown" if expected.bytes is None else f"about {expected.bytes / 1e9:,.2f} GB"
    basis = "if a second is enough for 5 MB" if expected.is_assumed else "as earlier ones took"
    say(
        f"lens: {sum(len(work.ids) for work in works):,} originals to keep, {size}, in about"
        f" {spoken(expected.seconds)} ({basis}, {pipeline.settings.threads} at once); newest first"
    )
    _require_room(pipeline.settings)
    return works


def _phases(pipeline: Pipeline) -> tuple[list[Derivative], list[Derivative]]:
    """What is made from or after other derivatives is looked for once those are there."""
    made = registry.switched_on(pipeline)
    return (
        [d for d in made if not (d.made_from or d.follows)],
        [d for d in made if d.made_from or d.follows],
    )


def _recover(lens: Session) -> None:
    """Without a daemon the files of a killed pass would count as in work for ever."""
    from lens_pipeline.engine.health import fail_abandoned_runs

    if not _daemon_is_alive(lens.pipeline):
        fail_abandoned_runs(lens.instance, lens.pipeline.endpoints.dagster_url)


def _daemon_is_alive(pipeline: Pipeline) -> bool:
    """Whether one lives, on any machine."""
    with closing(LockSession(pipeline.endpoints.dagster_url)) as locks:
        return locks.is_held(daemon_lock())


def _work_off(
    lens: Session, works: list[Work], result: Result, *, origin: str, force: bool
) -> None:
    from lens_pipeline.cli.local_runs import work_off
    from lens_pipeline.definitions import job

    for work in works:
        if work.advice:
            say(f"lens: {work.advice}")
    total = result.ready + result.failed + sum(len(work.ids) for work in works)
    with meter("files", total) as progress:

        def show(counted: Result, made: Sequence[DerivativeStatus]) -> None:
            progress.show(counted.ready + counted.failed, f"{counted.failed} failed")
            if origin == "backfill" and isinstance(works[0].derivative, Original):
                _require_room(lens.pipeline.settings)
            _keep_view(lens, made)

        work_off(
            lens.pipeline,
            lens.instance,
            job,
            works,
            origin=origin,
            force=force,
            result=result,
            progress=show,
        )


def _require_room(settings: Settings) -> None:
    """Raises DiskFull: previews need what is left."""
    for path, space in asyncio.run(DiskMonitor(settings).look()).items():
        if isinstance(space, Space) and space.percent < settings.alert_disk_free_percent:
            raise DiskFull(
                f"{path} has {space.percent:.1f} % free, less than LENS_ALERT_DISK_FREE_PERCENT: no"
                " more originals are kept; make room and run the command again, which goes on"
            )


def _keep_view(lens: Session, made: Sequence[DerivativeStatus] = ()) -> None:
    """Nothing else fails if pages of the site cannot read the view."""
    alone = not _daemon_is_alive(lens.pipeline)
    try:
        update_view(lens.pipeline, made, alone=alone)
    except (CatalogError, SQLAlchemyError) as error:
        say(f"lens: lens_generations is not kept true: {first_line(error)}")


def _finish(result: Result, as_json: bool, *, failed: bool = False) -> None:
    if as_json:
        print_json(result)
    else:
        for item in result.failures:
            print(f"{item.kind} {item.id}: {item.error_class}: {item.error}")
            print(f"  {explain(item.error_class).text}")
        print(
            f"{result.found} found, {result.ready} ready, {result.failed} failed,"
            f" {result.skipped} skipped in {result.seconds:.1f} s"
        )
    sys.exit(1 if result.failed or failed else 0)


@click.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every dead letter.")
@json_option
def retry(ids: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Try again what failed or was given up on."""
    if bool(ids) == everything:
        raise click.UsageError("give the IDs to try again, or --all")
    with dagster_session("retry") as lens:
        done, queued = _retry(lens, None if everything else ids)
        refused = sorted(key for key in set(ids) if not {key, canonical_uuid(key)} & set(done))
        known = lens.pipeline.catalog.known(refused)
    not_failed = [key for key in refused if key in known]
    unknown = [key for key in refused if key not in known]
    if as_json:
        counts = {"retried": done, "queued_runs": len(queued)}
        print_json(counts | {"not_failed": not_failed, "unknown": unknown})
    else:
        when = "queued" if queued else "the next `lens up` or `lens once` takes them up"
        print(f"{len(done)} to be tried again: {when}" if done else "nothing to try again")
        for key in not_failed:
            print(f"{key}: has not failed: see `lens status {key}`")
        for key in unknown:
            print(f"{key}: {UNKNOWN_ID}")
    sys.exit(1 if refused else 0)


def _retry(lens: Session, ids: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """The ids that are tried again, and the runs that were queued for them."""
    from lens_pipeline.derivatives.retry import retry

    revived = retry(lens.pipeline, lens.instance, ids)
    done = sorted(key for keys in revived.values() for key in keys)
    # Without a daemon runs would wait in the queue unseen.
    if not _daemon_is_alive(lens.pipeline):
        return done, []
    from lens_pipeline.definitions import job
    from lens_pipeline.engine.run_queue import RunQueue
    from lens_pipeline.engine.run_requests import RETRY_PRIORITY

    queue = RunQueue(lens.pipeline, lens.instance, job)
    return done, list(queue.submit(revived, "api", priority=RETRY_PRIORITY))


@click.command("remove-missing")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--now", is_flag=True, help="Delete originals without LENS_RETAIN_ORIGINALS_DAYS.")
def remove_missing(yes: bool, now: bool) -> None:
    """Delete the derivatives of all rows that are gone, however many there are."""
    if not yes:
        click.confirm("Delete the derivatives of every row that is gone?", abort=True)
    left = 0
    with dagster_session("remove-missing") as lens:
        from lens_pipeline.derivatives.removal import delete_originals, remove_vanished

        for derivative in registry.entries():
            cursor = ""
            while True:
                done = remove_vanished(
                    lens.pipeline, lens.instance, derivative, cursor,
                    seconds=_REPORT_SECONDS, however_many=True,
                )  # fmt: skip
                print(f"{derivative.asset}: {done}")
                left += done.left
                cursor = done.cursor
                if not cursor:
                    break
        if now:
            count = delete_originals(lens.pipeline, lens.instance, dt.datetime.now(dt.UTC))
            print(f"{count} originals deleted")
    if left:
        say(f"lens: {left} could not be removed or are in work: run it again later")
        sys.exit(1)
