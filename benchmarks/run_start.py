"""How long a launched run waits for its first step: our launcher against Dagster's default one.

Measured from the event STARTING, which Dagster writes before it calls the launcher, to RUN_START,
which the run's own process writes. The same code launches the same job on the same PostgreSQL for
both, in turns; the default launcher has a code server and Dagster tables of its own, since it
starts runs from the code server. Both code servers and the workers are warm.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import sqlalchemy as sa
import yaml

from benchmarks.photos import jpegs
from benchmarks.running_stack import RunningStack, running_stack, without_settings
from lens_pipeline.core.ports import free_port, is_free
from lens_pipeline.engine.dagster_storage.storage import create_tables
from lens_pipeline.engine.instance import find_config_dir
from lens_pipeline.supervisor import roles

_RUNS, _QUICK_RUNS = 7, 2
_SCHEMA = "default_launcher"
_DEFAULT_LAUNCHER = {"module": "dagster._core.launcher", "class": "DefaultRunLauncher"}
_START_SECONDS = 120.0
_EDGE = 1024


class Launcher:
    """A process that launches runs, and the database in which their events are."""

    def __init__(self, process: subprocess.Popen[str], dagster: sa.Engine) -> None:
        self._process = process
        self._dagster = dagster

    def start_seconds(self, key: str) -> float:
        """Launch a run for the partition `key`: seconds from STARTING to RUN_START."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{key}\n")
        self._process.stdin.flush()
        run_id = self._process.stdout.readline().strip()
        if not run_id:
            raise RuntimeError("the launching process ended")
        with self._dagster.connect() as connection:
            events = connection.execute(_EVENTS, {"run_id": run_id}).all()
        at = {event.dagster_event_type: event.timestamp for event in events}
        return (at["PIPELINE_START"] - at["PIPELINE_STARTING"]).total_seconds()


def run(quick: bool = False) -> dict[str, float]:
    """`run_start_vs_default`: 0.1 means that ours takes a tenth of the time."""
    ours: list[float] = []
    default: list[float] = []
    with running_stack() as stack, ExitStack() as launchers:
        stack.warm_up(stack.store_files(jpegs(1, _EDGE, _EDGE)))
        our_launcher = launchers.enter_context(_our_launcher(stack))
        default_launcher = launchers.enter_context(_default_launcher(stack))
        for number in range(-1, _QUICK_RUNS if quick else _RUNS):
            # A partition that is up to date for us; the first of each is the warm-up.
            key = f"warm-0-{number + 1}"
            pair = our_launcher.start_seconds(key), default_launcher.start_seconds(key)
            if number >= 0:
                ours.append(pair[0])
                default.append(pair[1])
    return {
        "run_start_vs_default": statistics.median(ours) / statistics.median(default),
        "run_start_seconds": statistics.median(ours),
        "run_start_default_seconds": statistics.median(default),
    }


@contextmanager
def _our_launcher(stack: RunningStack) -> Iterator[Launcher]:
    environment = without_settings(os.environ) | stack.environment
    with _launcher(environment, stack.home / "dagster", stack.dagster) as launcher:
        yield launcher


@contextmanager
def _default_launcher(stack: RunningStack) -> Iterator[Launcher]:
    url = _create_schema(stack)
    port = free_port()
    home = _write_default_instance(stack.home / "dagster-default")
    environment = without_settings(os.environ) | stack.environment
    environment |= {
        "LENS_DATABASE_URL": stack.pipeline.endpoints.database_url,
        "LENS_DAGSTER_URL": url,
        "LENS_CODE_PORT": str(port),
        "DAGSTER_HOME": str(home),
    }
    code = roles.arguments("code", stack.settings, home, ("--port", str(port)))
    argv = (sys.executable, "-m", *code)
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with (
        (stack.home / "logs" / "code-default.log").open("wb") as log,
        _running(subprocess.Popen(argv, env=environment, cwd=stack.home, stdout=log, stderr=log)),
        _launcher_once_up(port, environment, engine) as launcher,
    ):
        yield launcher
    engine.dispose()


@contextmanager
def _launcher_once_up(
    port: int, environment: Mapping[str, str], engine: sa.Engine
) -> Iterator[Launcher]:
    deadline = time.monotonic() + _START_SECONDS
    while is_free(port):
        if time.monotonic() > deadline:
            raise TimeoutError("the code server of the default launcher does not start")
        time.sleep(0.1)
    with _launcher(environment, find_config_dir(), engine) as launcher:
        yield launcher


@contextmanager
def _launcher(
    environment: Mapping[str, str], config: Path, engine: sa.Engine
) -> Iterator[Launcher]:
    # Dagster tells on every start that something is beta.
    environment = {**environment, "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.launch", str(config)],
        env=environment,
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with _running(process):
        yield Launcher(process, engine)


@contextmanager
def _running(process: subprocess.Popen) -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _create_schema(stack: RunningStack) -> str:
    """The URL of a schema for the other instance, whose runs our daemon must not see."""
    with stack.dagster.connect() as connection:
        connection.execute(sa.text(f"CREATE SCHEMA {_SCHEMA}"))
    url = sa.make_url(stack.pipeline.endpoints.dagster_url)
    url = url.update_query_dict({"options": f"-csearch_path={_SCHEMA}"})
    text = url.render_as_string(hide_password=False)
    create_tables(text)
    return text


def _write_default_instance(home: Path) -> Path:
    """Our dagster.yaml with Dagster's default launcher."""
    config = yaml.safe_load((find_config_dir() / "dagster.yaml").read_text(encoding="utf-8"))
    config["run_launcher"] = _DEFAULT_LAUNCHER
    home.mkdir()
    (home / "dagster.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return home


_EVENTS = sa.text(
    'SELECT dagster_event_type, "timestamp" FROM event_logs WHERE run_id = :run_id'
    " AND dagster_event_type IN ('PIPELINE_STARTING', 'PIPELINE_START')"
)
