"""A home that was used before, with a database cluster that is copied."""

import subprocess
from pathlib import Path

import pytest

from lens_pipeline.core.files import prepare_home
from lens_pipeline.supervisor.embedded_postgres import Postgres


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
