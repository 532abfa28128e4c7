"""The command that reads Compose files."""

import shutil
import subprocess

from lens_pipeline_tests.tools import find


def compose() -> list[str]:
    """The command of Compose: Docker's plugin, else Debian's program."""
    plugin = ["docker", "compose"]
    if shutil.which("docker"):
        done = subprocess.run([*plugin, "version"], capture_output=True, check=False)
        if done.returncode == 0:
            return plugin
    return [find("docker-compose")]
