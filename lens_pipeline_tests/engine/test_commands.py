"""Dagster's own commands at the root of a checkout, where nothing is set up for them."""

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import dagster as dg
import pytest

from lens_pipeline.core.locks import LockSession, run_lock
from lens_pipeline.defs import resources
from lens_pipeline.defs.resources import LensResource
from lens_pipeline.engine.instance import find_config_dir
from lens_pipeline.settings import PREFIX
from lens_pipeline_tests.support.site import Site

# Each command imports Dagster anew.
pytestmark = pytest.mark.slow

_PREFIXES = (PREFIX, "DAGSTER_", "PREVIEWS_WORKER_")


def _run(home: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(_PREFIXES)}
    return run_command({**own, "LENS_HOME": str(home), **variables}, *command)


def run_command(environment: Mapping[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).with_name(command[0])), *command[1:]],
        cwd=find_config_dir(),
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_definitions_are_listed_without_a_database(home: Path) -> None:
    """A `make lint` that starts a PostgreSQL."""
    listed = _run(home, "dg", "list", "defs", "--json")
    assert listed.returncode == 0, listed.stderr
    assert '"preview"' in listed.stdout
    assert not home.exists()


def test_a_job_runs_on_servers_that_end_with_the_command(home: Path) -> None:
    """A first command that needs two others before it; the fixture finds what it leaves."""
    done = _run(home, "dg", "launch", "--job", "retention")
    assert done.returncode == 0, done.stderr
    assert (home / "postgres").is_dir()


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"LENS_BATCH_SIZE": "0"}, "LENS_BATCH_SIZE='0' is not valid"),
        (
            {"LENS_DATABASE_URL": "postgresql://lens@127.0.0.1:1/lens"},
            "Dagster's database (LENS_DAGSTER_URL) cannot be reached",
        ),
    ],
)
def test_a_wrong_setting_is_one_line(home: Path, variables: dict[str, str], line: str) -> None:
    """A traceback of 60 lines for a digit."""
    failed = _run(home, "dg", "launch", "--job", "retention", **variables)
    assert failed.returncode == 1
    assert failed.stderr.startswith(f"Error: {line}"), failed.stderr
    assert len(failed.stderr.splitlines()) == 1


def test_a_run_that_a_command_executes_is_known_to_be_alive(site: Site) -> None:
    """A run that `lens once` failed as abandoned while `dagster job execute` worked on it."""

    @dg.op
    def look(context: dg.OpExecutionContext, lens: LensResource) -> bool:
        with closing(LockSession(site.dagster_url)) as locks:
            return locks.is_held(run_lock(context.run_id))

    @dg.job
    def looking() -> None:
        look()

    result = looking.execute_in_process(instance=site.dagster, resources={"lens": LensResource()})
    assert result.output_for_node("look") is True
    # It is held as long as the process lives.
    resources._held_to_the_end.pop().close()
