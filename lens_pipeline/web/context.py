"""What the request handlers work with, set up once a process."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from lens_pipeline.pipeline import Pipeline
from lens_pipeline.queueing import RunQueue


@dataclass(frozen=True, slots=True)
class Context:
    """The pipeline, and the queue that runs are put into."""

    pipeline: Pipeline
    queue: RunQueue


def context(request: Request) -> Context:
    """The context of the app that serves this request."""
    return request.app.state.context


ContextDep = Annotated[Context, Depends(context)]
