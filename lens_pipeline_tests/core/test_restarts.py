"""How often processes were started again."""

import logging
from pathlib import Path

import pytest

from lens_pipeline.core import restarts
from lens_pipeline.core.files import prepare_home
from lens_pipeline.core.restarts import RestartLog, read_restarts


def test_a_full_disk_ends_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A `lens up` that stops everything since it cannot note that one process was restarted."""
    monkeypatch.setattr(restarts, "running_up", lambda _: 1)
    prepare_home(home)
    log = RestartLog(home, ["api"])
    full = home / "run" / "restarts.json"
    full.unlink()
    full.mkdir()
    with caplog.at_level(logging.WARNING):
        log.note("api")
    assert "restarts.json cannot be written" in caplog.text
    full.rmdir()
    log.note("api")
    assert read_restarts(home)["api"].count == 2
