"""What the request handlers work with, set up once a process."""

from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.engine.run_queue import RunQueue
from lens_pipeline.providers.kie import Provider
from lens_pipeline.web.routes.deliveries import Deliveries


@dataclass(frozen=True, slots=True)
class Context:
    """The pipeline, the queue that runs are put into, and what the process knows beside them."""

    pipeline: Pipeline
    queue: RunQueue
    deliveries: Deliveries = field(default_factory=Deliveries)
    """Webhooks handled so far."""
    provider: Provider | None = None
    """By default the one of the settings; None without LENS_KIE_API_KEY."""

    def __post_init__(self) -> None:
        settings = self.pipeline.settings
        if self.provider is None and settings.kie_api_key:
            provider = Provider(settings.kie_api, settings.kie_api_key)
            object.__setattr__(self, "provider", provider)


def context(request: Request) -> Context:
    """The context of the app that serves this request."""
    return request.app.state.context


ContextDep = Annotated[Context, Depends(context)]
