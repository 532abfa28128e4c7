"""Dagster's own commands (`dagster …`, `dg …`) in a checkout, where nothing is set up for them.

They open the instance of the `dagster.yaml` at hand, in processes without DAGSTER_HOME; the
processes of this product have it.
"""

import atexit
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import click
import sqlalchemy as sa

from lens_pipeline import settings
from lens_pipeline.core.endpoints import resolve
from lens_pipeline.errors import LensError

# The storage's URL until the first connection: most of these commands only read definitions.
UNRESOLVED = "postgresql:///unresolved"
_one_at_a_time = threading.Lock()


def storage_url() -> str:
    """Raises click.ClickException: a setting is wrong. In `dev` it does not return."""
    with one_line():
        loaded, _ = settings.load()
        _hand_over_dev()
        if os.environ.get("DAGSTER_HOME"):
            return resolve(loaded, broker=False).dagster_url
        return UNRESOLVED


@contextmanager
def one_line() -> Iterator[None]:
    """Raises click.ClickException, which a command shows without a traceback."""
    try:
        yield
    except LensError as error:
        raise click.ClickException(str(error)) from error


def find_server(dialect: Any, _record: object, _arguments: object, parameters: Any) -> None:
    """SQLAlchemy's `do_connect`, for `UNRESOLVED`. Raises click.ClickException."""
    with one_line():
        with _one_at_a_time:
            url = _running_url()
        _, found = dialect.create_connect_args(sa.make_url(url))
    parameters.update(found)


@cache
def _running_url() -> str:
    """Have the databases made ready, on embedded servers if need be, until this process ends.

    The supervisor of the servers is a fork, and this process has threads: another one starts them.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "lens_pipeline.cli.databases"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # Ctrl-C is for this process, which still records the end of its run.
        start_new_session=True,
    )
    # It ends with its input.
    atexit.register(process.communicate)
    said = process.stdout.readline().strip() if process.stdout else ""
    if said != "ready":
        raise click.ClickException(said or "the databases do not become ready")
    return resolve(settings.load()[0], broker=False).dagster_url


def _hand_over_dev() -> None:
    """Replace `dagster dev`, which has no workers and no guards, by `lens up`."""
    context = click.get_current_context(silent=True)
    if context is None or context.info_name != "dev":
        return
    given = {"LENS_BIND": context.params["host"], "LENS_DAGSTER_PORT": context.params["port"]}
    environment = {**os.environ, **{name: str(value) for name, value in given.items() if value}}
    environment.pop("DAGSTER_IS_DEV_CLI", None)
    command = [sys.executable, "-m", "lens_pipeline.cli", "up"]
    # After Dagster has removed its temporary directory.
    atexit.register(os.execve, sys.executable, command, environment)
    raise SystemExit
