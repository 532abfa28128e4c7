"""What other systems lack, such as macOS, is done without; `pyright` finds the names by itself."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

# Joins a shot twice where nothing of Linux is left. Libraries are loaded before.
_SCRIPT = """
import ctypes, os, resource, socket, sys
from pathlib import Path
import psutil
import lens_pipeline.definitions, lens_pipeline.supervisor.up
import lens_pipeline_tests.media.concat.shots

for module, names in {
    os: "sendfile waitid posix_fadvise copy_file_range sched_getaffinity pidfd_open RWF_NOWAIT",
    resource: "prlimit",
    socket: "TCP_KEEPIDLE TCP_USER_TIMEOUT",
    psutil: "IOPRIO_CLASS_BE",
    psutil.Process: "io_counters ionice rlimit cpu_affinity memory_maps",
}.items():
    for name in names.split():
        delattr(module, name)
for name in [name for name in sys.modules if name.startswith("lens_pipeline")]:
    del sys.modules[name]
# A library of C without calls of the kernel.
ctypes.CDLL = type("CDLL", (), {"__init__": lambda self, *_, **__: None})
sys.platform, socket.TCP_KEEPALIVE = "darwin", 0x10

from lens_pipeline.core.endpoints import Endpoints
from lens_pipeline.engine.processes import usage
from lens_pipeline.engine.workers.app import celery_config
from lens_pipeline.media.concat.join import join
from lens_pipeline.media.sandbox import worker
from lens_pipeline.monitoring.probes.host import confinement
from lens_pipeline.supervisor import supervisord, up
from lens_pipeline.web.http import http1
from lens_pipeline_tests.media.concat.shots import TOOLS, source, work_in

options = celery_config(Endpoints("", "", "redis://h", ""))["broker_transport_options"]
assert options["socket_keepalive_options"][0x10] == 5
assert usage.measure("api").memory_bytes > 0
supervisord.end_with(0, 15)
print(confinement(Path(sys.argv[2])))
master = join([source(Path(sys.argv[1]))] * 2, TOOLS, work_in(Path(sys.argv[2])))
print(master.method, master.fallback)
"""


def test_a_master_is_joined_and_the_doctor_names_what_is_missing(
    plain: Path, tmp_path: Path
) -> None:
    """An import or a run that fails on a Mac, or a sandbox that is believed to be there."""
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, plain, tmp_path / "work"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    protection = (
        "decoders have limits and no secrets, but lack protection of memory, files, network and"
        " system calls: only Linux can take these away"
    )
    assert done.stdout.splitlines() == [protection, "copy None"], done.stderr
