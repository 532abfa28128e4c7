"""Launches runs of `previews` one after the other, as the environment's `dagster.yaml` says.

    python -m benchmarks.launch DIRECTORY

Reads a partition key a line, launches a run for it, waits for its end and prints its id. DIRECTORY
holds `workspace.yaml`. A process of its own, since Dagster's instance follows the environment.
"""

import sys
import time
from pathlib import Path

import dagster as dg
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget

from lens_pipeline.definitions import defs
from lens_pipeline.derivatives.registry import PREVIEW
from lens_pipeline.engine.run_queue import create_run
from lens_pipeline.engine.run_requests import plan_runs

_LIMIT_SECONDS = 180.0
_POLL_SECONDS = 0.1


def main() -> None:
    workspace = WorkspaceFileTarget([str(Path(sys.argv[1]) / "workspace.yaml")])
    job = defs().get_repository_def().get_job(PREVIEW.job)
    with (
        dg.DagsterInstance.get() as instance,
        WorkspaceProcessContext(instance, workspace) as context,
    ):
        for line in sys.stdin:
            tags = plan_runs(instance, PREVIEW, [line.strip()], 1, "once")[0]
            run_id = create_run(instance, job, tags).run_id
            instance.launch_run(run_id, context.create_request_context())
            _await_end(instance, run_id)
            print(run_id, flush=True)


def _await_end(instance: dg.DagsterInstance, run_id: str) -> None:
    deadline = time.monotonic() + _LIMIT_SECONDS
    while True:
        run = instance.get_run_by_id(run_id)
        if run is not None and run.is_finished:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"run {run_id} does not end")
        time.sleep(_POLL_SECONDS)


if __name__ == "__main__":
    main()
