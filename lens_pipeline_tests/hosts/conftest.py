"""A site on three hosts, with services and planning at work."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lens_pipeline.derivatives import pipeline
from lens_pipeline_tests.hosts.machines import Machines
from lens_pipeline_tests.hosts.namespaces import Network


@pytest.fixture
def machines(environment: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Machines]:
    with ExitStack() as stack:
        network = stack.enter_context(Network())
        made = Machines(tmp_path / "machines", network, stack)
        stack.callback(made.close)
        made.begin(environment)
        yield made
    pipeline.connect.cache_clear()
