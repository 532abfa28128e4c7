"""Trying again what failed, when somebody asks for it."""

import threading
from collections.abc import Iterable

from lens_pipeline.derivatives import dead_letters
from lens_pipeline.derivatives.registry import Derivative
from lens_pipeline.engine.run_requests import RETRY_PRIORITY
from lens_pipeline.web.context import Context

_LOCKS = tuple(threading.Lock() for _ in range(64))


def try_again(context: Context, row_id: str, derivatives: Iterable[Derivative]) -> bool:
    """Forget why these failed, and make them now; False: none has failed."""
    # Two clicks at once are one retry.
    with _LOCKS[hash(row_id) % len(_LOCKS)]:
        queue = context.queue
        revived = dead_letters.retry(context.pipeline, queue.instance, [row_id], derivatives)
        if revived:
            queue.submit(revived, "api", priority=RETRY_PRIORITY)
        return bool(revived)
