"""A home of its own for each test, in which nothing may be left running."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from lens_pipeline.stack import orphans


def marked(home: Path) -> list[psutil.Process]:
    """The processes that carry the mark of `home`."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(orphans.MARK) == str(home):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def supervisord_of(home: Path) -> psutil.Process:
    (found,) = [p for p in marked(home) if any("supervisord.py" in a for a in p.cmdline())]
    return found


def eventually(condition: Callable[[], bool], seconds: float = 15) -> None:
    """Wait for `condition`; the test fails if it does not come true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "home"
    yield directory
    left = [process.name() for process in marked(directory)]
    orphans.kill(directory)
    assert left == []
