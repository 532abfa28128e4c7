"""Dagster's instance: its `dagster.yaml`, and how a process opens it."""

import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lens_pipeline.core.endpoints import StackError
from lens_pipeline.core.files import (
    make_socket_directory,
    private_directory,
    private_home,
    write_private,
)
from lens_pipeline.engine import upstream
from lens_pipeline.engine.liveness import code_socket
from lens_pipeline.settings import Settings

if TYPE_CHECKING:
    import dagster as dg

# Dagster's name of our definitions.
LOCATION = "lens_pipeline"


def write_instance(settings: Settings) -> Path:
    """Returns the directory of `dagster.yaml`. Processes may share it. Raises StackError."""
    directory = private_directory(private_home(settings.resolved_home) / "dagster")
    name = "dagster.yaml"
    write_private(directory / name, (find_config_dir() / name).read_text(encoding="utf-8"))
    return directory


def write_workspace(settings: Settings) -> None:
    """Write the `workspace.yaml` of `lens up`, whose code server has no port. Raises StackError."""
    socket = code_socket(settings.resolved_home)
    make_socket_directory(socket.parent)
    server = {"socket": str(socket), "location_name": LOCATION}
    workspace = {"load_from": [{"grpc_server": server}]}
    # JSON is YAML.
    write_private(
        settings.resolved_home / "dagster" / "workspace.yaml", json.dumps(workspace, indent=2)
    )


def find_config_dir() -> Path:
    """Find `dagster.yaml` in a checkout or an installation. Raises StackError."""
    checkout = Path(__file__).parents[2]
    installed = Path(sys.prefix) / "share" / "lens-pipeline"
    for directory in (checkout, installed):
        if (directory / "dagster.yaml").is_file() and (directory / "workspace.yaml").is_file():
            return directory
    raise StackError(
        f"dagster.yaml and workspace.yaml are neither in {checkout} nor in {installed}:"
        " install lens-pipeline again"
    )


@contextmanager
def dagster_instance(loaded: Settings) -> "Iterator[dg.DagsterInstance]":
    """Raises UnknownDagster."""
    # It takes half a second, and `lens up` only writes the files.
    import dagster as dg

    set_up_dagster(loaded)
    upstream.check("storage", "submission")
    with dg.DagsterInstance.get() as instance:
        yield instance


def set_up_dagster(loaded: Settings) -> None:
    # Dagster warns of betas and deprecations on every start.
    warnings.filterwarnings("ignore", module="dagster")
    os.environ["DAGSTER_HOME"] = str(write_instance(loaded))
    os.environ["DAGSTER_EVENT_BATCH_SIZE"] = "100"
