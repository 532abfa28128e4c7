"""What concerns every test."""

import os

import pytest

from lens_pipeline.engine.processes import startup

# Sites with databases and a store, for whichever tests need one.
pytest_plugins = ["lens_pipeline_tests.support.fixtures"]


def pytest_configure(config: pytest.Config) -> None:
    """Hear SIGINT, which tests send, also where a shell runs them in the background."""
    startup.handle_interrupts()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    _longest_first(items)
    _leave_out_root(config, items)


def _longest_first(items: list[pytest.Item]) -> None:
    """So that no process waits for minutes while another ends the last file."""
    items.sort(key=lambda item: item.get_closest_marker("stack") is None)


def _leave_out_root(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is about root has no meaning where nobody is root."""
    if os.geteuid() == 0:
        return
    about_root = [item for item in items if item.get_closest_marker("as_root")]
    config.hook.pytest_deselected(items=about_root)
    items[:] = [item for item in items if item not in about_root]
