"""What concerns every test."""

import os

import pytest

# Sites with databases and a store, for whichever tests need one.
pytest_plugins = ["lens_pipeline_tests.pipeline.fixtures"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is about root where nobody is root: it has no meaning there."""
    if os.geteuid() == 0:
        return
    about_root = [item for item in items if item.get_closest_marker("as_root")]
    config.hook.pytest_deselected(items=about_root)
    items[:] = [item for item in items if item not in about_root]
