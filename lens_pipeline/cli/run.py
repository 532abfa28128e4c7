"""Commands that run processes: up, demo, worker."""

import click

from lens_pipeline import settings
from lens_pipeline.engine.queues import QUEUES
from lens_pipeline.stack.endpoints import resolve


@click.command()
@click.option("--queue", type=click.Choice(QUEUES), required=True)
@click.option("--concurrency", type=click.IntRange(min=1), help="Runs at once.")
def worker(queue: str, concurrency: int | None) -> None:
    """Run one more Celery worker, on this or any other machine."""
    from lens_pipeline.engine.worker import run_worker

    loaded, _ = settings.load()
    run_worker(loaded, resolve(loaded), queue, concurrency or loaded.preview_concurrency)
