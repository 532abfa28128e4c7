"""The systemd units, by systemd itself."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lens_pipeline.derivatives.registry import QUEUES
from lens_pipeline.settings import load
from lens_pipeline.supervisor.roles import ROLES
from lens_pipeline_tests.tools import find

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
CANCEL_SECONDS = 20


@pytest.mark.slow
def test_systemd_finds_nothing(tmp_path: Path) -> None:
    """A directive that systemd ignores with a line in a log, such as a protection misspelt."""
    for unit in UNITS.glob("lens*"):
        shutil.copy(unit, tmp_path)
        text = (tmp_path / unit.name).read_text()
        # Which is not installed where this runs.
        for program in ("/opt/lens/venv/bin/lens", "/opt/lens/deploy/backup.sh"):
            text = text.replace(program, "/bin/true")
        (tmp_path / unit.name).write_text(text)
    units = [
        "lens.target",
        "lens-backup.timer",
        "lens-backup.service",
        *(f"lens@{role}.service" for role in ROLES),
        *(f"lens-worker@{queue}.service" for queue in QUEUES),
    ]
    done = subprocess.run(
        [find("systemd-analyze"), "verify", "--man=no", *units],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_units_environment_is_valid_and_fits_their_stop() -> None:
    """Workers that are killed in the grace of their runs."""
    lines = (UNITS / "example.lens.env").read_text().splitlines()
    pairs = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    lens = {name: value for name, value in pairs.items() if name.startswith("LENS_")}
    settings, warnings = load({**lens, "LENS_API_TOKEN": "0123456789abcdef"}, dotenv=None)
    assert warnings == []
    worker = (UNITS / "lens-worker@.service").read_text()
    stop = re.search(r"^TimeoutStopSec=(\d+)$", worker, re.MULTILINE)
    assert stop is not None
    assert int(stop[1]) >= settings.grace_seconds + CANCEL_SECONDS
