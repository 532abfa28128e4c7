"""What tests of the supervisor share: settings, and a database cluster to be copied."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from lens_pipeline.core.files import prepare_home
from lens_pipeline.settings import Settings, load
from lens_pipeline.supervisor.embedded_postgres import Postgres


def settings_for(home: Path, **values: object) -> Settings:
    """The settings of somebody who set `LENS_HOME` and `values` and has no `.env`."""
    environ = {f"LENS_{name.upper()}": str(value) for name, value in values.items()}
    return load({"LENS_HOME": str(home), **environ}, dotenv=None)[0]


def supervisord_of(home: Path) -> psutil.Process:
    return psutil.Process(int((home / "run" / "supervisord.pid").read_text()))


def eventually(condition: Callable[[], bool], seconds: float = 15) -> None:
    """Wait for `condition`; the test fails if it does not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished, stopped cluster, to be copied: initdb takes half a second each time."""
    home = tmp_path_factory.mktemp("cluster")
    Postgres(home)
    return home / "postgres"


@pytest.fixture
def made(home: Path, cluster: Path) -> Path:
    """A home that was used before."""
    prepare_home(home)
    # `cp -a` keeps the owner, which shutil does not.
    subprocess.run(["cp", "-a", str(cluster), str(home / "postgres")], check=True)
    return home
