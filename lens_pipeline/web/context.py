"""What request handlers work with, set up once per process."""

import threading
from collections.abc import Collection, Iterable
from contextlib import ExitStack
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

    def retry(
        self, row_ids: Collection[str], derivatives: Iterable[Derivative]
    ) -> dict[Derivative, list[str]]:
        """Make failed derivatives of rows anew; empty: none has failed."""
        with ExitStack() as held:
            # Two requests at once are one retry. In order, as they may share several rows.
            for number in sorted({hash(row_id) % len(_RETRY_LOCKS) for row_id in row_ids}):
                held.enter_context(_RETRY_LOCKS[number])
            queue = self.queue
            revived = retry(self.pipeline, queue.instance, row_ids, derivatives)
            if revived:
                queue.submit(revived, "api", priority=RETRY_PRIORITY)
            return revived


def context(request: Request) -> Context:
    return request.app.state.context


ContextDep = Annotated[Context, Depends(context)]
