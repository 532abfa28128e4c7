"""Commands that run processes: up, demo, worker."""

from collections.abc import Callable
from contextlib import closing

import click
from sqlalchemy.exc import SQLAlchemyError

from lens_pipeline.catalog.rows import Kind
from lens_pipeline.cli.demo import show as samples
from lens_pipeline.cli.role import become
from lens_pipeline.cli.session import prepare_databases
from lens_pipeline.core import files, postgres
from lens_pipeline.core.endpoints import Endpoints, StackError, resolve
from lens_pipeline.core.startup import load_settings, say
from lens_pipeline.derivatives.pipeline import connect
from lens_pipeline.derivatives.registry import MASTERS, PREVIEWS, QUEUES
from lens_pipeline.derivatives.store_audit import require_own_store
from lens_pipeline.engine import liveness
from lens_pipeline.errors import TransientError
from lens_pipeline.media.credentials import load_signer
from lens_pipeline.media.errors import SignerUnusable
from lens_pipeline.settings import Settings, SettingsError
from lens_pipeline.storage.object_store import StoreRefused
from lens_pipeline.supervisor.up import Stack
from lens_pipeline.supervisor.up import up as run_stack

_STORE_SECONDS = 20  # a start does not wait longer for the store


@click.command()
def up() -> None:
    """Run and supervise every process of this machine; Ctrl-C or SIGTERM stops all of them."""
    _run(load_settings(), _tell)


def _tell(stack: Stack) -> None:
    say(f"lens: library {stack.pages_url}/library")
    say(f"lens: masters {stack.pages_url}/masters")
    say(f"lens: ready: {stack.web_url}")


@click.command()
@click.option("--exit-when-done", is_flag=True, help="Stop everything once every sample is ready.")
def demo(exit_when_done: bool) -> None:
    """Run the pipeline on sample photos, videos and a master."""
    loaded = load_settings()
    failed: list[str] = []

    def show(stack: Stack) -> None:
        pipeline = connect(loaded, stack.endpoints)
        failed.extend(samples.show(pipeline, stack, say, stays=not exit_when_done))
        if exit_when_done:
            stack.request_stop()

    _run(loaded, show)
    if failed:
        raise click.exceptions.Exit(1)


def _run(loaded: Settings, on_ready: Callable[[Stack], None]) -> None:
    run_stack(
        loaded,
        prepare=lambda endpoints: _prepare(loaded, endpoints),
        on_ready=on_ready,
        report=lambda line: say(f"lens: {line}"),
    )


@click.command()
@click.option("--queue", type=click.Choice(QUEUES), required=True)
@click.option("--concurrency", type=click.IntRange(min=1), help="Runs at once.")
def worker(queue: str, concurrency: int | None) -> None:
    """Run one more Celery worker, on this or any other machine."""
    from lens_pipeline.derivatives.release import Release
    from lens_pipeline.engine.workers.membership import await_release
    from lens_pipeline.engine.workers.worker import run_worker

    loaded = load_settings()
    _require_signer(loaded)
    endpoints = resolve(loaded)
    become(liveness.worker_role(queue), loaded, endpoints)
    files.sweep(loaded.scratch)
    await_release(endpoints.dagster_url, Release.of(loaded), lambda line: say(f"lens: {line}"))
    _require_store(loaded, endpoints)
    slots = {PREVIEWS: loaded.preview_concurrency, MASTERS: loaded.master_concurrency}
    run_worker(loaded, endpoints, queue, concurrency or slots[queue])


def _prepare(loaded: Settings, endpoints: Endpoints) -> None:
    from lens_pipeline.engine.dagster_storage.storage import (
        carry_over,
        require_current_tables,
        upgrade_tables,
    )
    from lens_pipeline.monitoring.alerts import delivery
    from lens_pipeline.monitoring.webhooks import targets

    delivery.connect_targets(loaded.alert_urls)  # raises SettingsError
    targets.connect_targets(loaded)  # raises SettingsError
    _require_signer(loaded)
    prepare_databases(loaded, endpoints)
    if loaded.database_url is None and loaded.dagster_url is None:
        upgrade_tables(endpoints.dagster_url)
    else:
        require_current_tables(endpoints.dagster_url)
        carry_over(endpoints.dagster_url)
    pipeline = connect(loaded, endpoints)
    pipeline.catalog.check()
    # It logs that masters are off.
    pipeline.catalog.lack_of(Kind.MASTER)
    _look_at_store(pipeline.store.check)


def _require_signer(loaded: Settings) -> None:
    """Raises SettingsError: files cannot be signed as they are to be."""
    if loaded.c2pa_cert is None or loaded.c2pa_key is None:
        return
    try:
        load_signer(loaded.c2pa_cert, loaded.c2pa_key)
    except SignerUnusable as error:
        raise SettingsError(str(error)) from error


def _require_store(loaded: Settings, endpoints: Endpoints) -> None:
    """Check that a worker here finds the files of the others.

    Raises StackError: Dagster's database fails. Raises ForeignStore, StoreRefused.
    """
    pipeline = connect(loaded, endpoints)

    def look() -> None:
        pipeline.store.check()
        if loaded.database_url is not None:  # an embedded one has no other hosts
            require_own_store(pipeline)

    try:
        # A fork must not share connections.
        with closing(pipeline.catalog), closing(pipeline.log):
            _look_at_store(look)
    except SQLAlchemyError as error:
        message = f"Dagster's database (LENS_DAGSTER_URL) fails: {type(error).__name__}"
        raise StackError(message) from error


def _look_at_store(look: Callable[[], None]) -> None:
    """Look; if the store does not answer, say so and go on. Raises StoreRefused."""
    try:
        with postgres.deadline(_STORE_SECONDS):
            look()
    except StoreRefused:
        raise
    except TransientError as error:
        say(f"lens: {error}; starting without it: files are made as soon as it answers")
