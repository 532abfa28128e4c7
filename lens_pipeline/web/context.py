"""What request handlers work with, set up once per process."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from lens_pipeline import providers
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import Derivative
from lens_pipeline.derivatives.retry import retry
from lens_pipeline.engine.run_queue import RunQueue
from lens_pipeline.engine.run_requests import RETRY_PRIORITY
from lens_pipeline.providers.models import Deliveries, Provider

_RETRY_LOCKS = tuple(threading.Lock() for _ in range(64))


@dataclass(frozen=True, slots=True)
class Context:
    pipeline: Pipeline
    queue: RunQueue
    deliveries: Deliveries = field(default_factory=Deliveries)
    connected: dict[str, Provider] = field(default_factory=dict)
    """Providers by name, as `provider` connects them."""

    def provider(self, name: str) -> Provider | None:
        """None: there is none of that name."""
        if name not in self.connected:
            found = providers.connect(self.pipeline.settings, name)
            if found is None:
                return None
            self.connected.setdefault(name, found)
        return self.connected[name]

    def retry(self, row_id: str, derivatives: Iterable[Derivative]) -> bool:
        """Make failed derivatives of a row anew; False: none has failed."""
        # Two requests at once are one retry.
        with _RETRY_LOCKS[hash(row_id) % len(_RETRY_LOCKS)]:
            queue = self.queue
            revived = retry(self.pipeline, queue.instance, [row_id], derivatives)
            if revived:
                queue.submit(revived, "api", priority=RETRY_PRIORITY)
            return bool(revived)


def context(request: Request) -> Context:
    return request.app.state.context


ContextDep = Annotated[Context, Depends(context)]
