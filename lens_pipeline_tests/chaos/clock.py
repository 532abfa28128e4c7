"""The clock of the host that `lens up` runs on, which can be set without touching the machine's."""

import struct
import subprocess
from pathlib import Path

_SOURCE = Path(__file__).with_name("clock.c")


class Clock:
    """Programs with `environment` have the machine's time of day plus an offset that may change.

    libfaketime 0.9.10 is no help: under it `time.sleep` of Python 3.11 fails with EINVAL.
    """

    def __init__(self, directory: Path) -> None:
        """Raises CalledProcessError, FileNotFoundError: there is no C compiler that works."""
        self._offset = directory / "clock"
        self._offset.write_bytes(struct.pack("=q", 0))
        # Users of other ids read it, too: the embedded PostgreSQL under root.
        self._offset.chmod(0o644)
        library = directory / "clock.so"
        argv = ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, _SOURCE]
        subprocess.run(argv, check=True)
        self.environment = {"LD_PRELOAD": str(library), "CHAOS_CLOCK": str(self._offset)}

    def set(self, seconds: int) -> None:
        """Step to so far ahead of the machine's clock, or behind it."""
        with self._offset.open("r+b") as file:
            file.write(struct.pack("=q", seconds))
