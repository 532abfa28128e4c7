"""A LENS_HOME of a test: its settings and its supervisor."""

from pathlib import Path

import psutil

from lens_pipeline.settings import Settings, load


def settings_for(home: Path, **values: object) -> Settings:
    """The settings where `LENS_HOME` and `values` are set and there is no `.env`."""
    environ = {f"LENS_{name.upper()}": str(value) for name, value in values.items()}
    return load({"LENS_HOME": str(home), **environ}, dotenv=None)[0]


def supervisord_of(home: Path) -> psutil.Process:
    return psutil.Process(int((home / "run" / "supervisord.pid").read_text()))
