"""Worker processes that sleep instead of rendering: each stands for a machine of its own.

    python -m benchmarks.sleeping_worker COUNT SECONDS PHOTO

Runs COUNT times `lens worker --queue previews --concurrency 1`, which is the product but for one
method: previews take SECONDS and are all the picture of PHOTO. The workers are forked from this
process once it has imported everything, so that sixteen of them start in seconds. SIGTERM ends all.
"""

import importlib
import os
import signal
import sys
import time
from pathlib import Path

from lens_pipeline import settings
from lens_pipeline.cli import lens
from lens_pipeline.defs.assets import derivatives
from lens_pipeline.defs.assets.renderers import PreviewRenderer
from lens_pipeline.derivatives.registry import PREVIEWS
from lens_pipeline.engine.workers.worker import PRELOAD
from lens_pipeline.media.models import Picture


def main() -> None:
    count, seconds, photo = int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3])
    for module in PRELOAD:
        importlib.import_module(module)
    _sleep_instead(seconds, photo)
    workers = [_fork() for _ in range(count)]
    signal.signal(signal.SIGTERM, lambda *_: _end(workers))
    for worker in workers:
        os.waitpid(worker, 0)


def _sleep_instead(seconds: float, photo: Path) -> None:
    loaded, _ = settings.load()
    renderer = PreviewRenderer(loaded, loaded.preview_edge)
    picture, extra = renderer.render(photo)
    renderer.interrupt()  # ends the process that has rendered it

    class Sleeper(PreviewRenderer):
        def render(self, source: Path) -> tuple[Picture, dict[str, float]]:
            time.sleep(seconds)
            return picture, extra

    derivatives.PreviewRenderer = Sleeper


def _fork() -> int:
    pid = os.fork()
    if pid == 0:
        lens(["worker", "--queue", PREVIEWS, "--concurrency", "1"], prog_name="lens")
    return pid


def _end(workers: list[int]) -> None:
    for worker in workers:
        os.kill(worker, signal.SIGTERM)


if __name__ == "__main__":
    main()
