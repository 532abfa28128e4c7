"""Masters on a disk that fills up, at every stage."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lens_pipeline.storage import object_store
from lens_pipeline_tests.support.project import Project
from lens_pipeline_tests.support.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.as_root]

_KIB = 1024
_DISK_KIB = 64 * _KIB


@pytest.fixture
def small_disk() -> Iterator[Callable[[Path], None]]:
    """Mounts a disk of 64 MiB at a directory."""
    mounted: list[Path] = []

    def mount(directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        size = f"size={_DISK_KIB}k"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "lens", str(directory)], check=True)
        mounted.append(directory)

    yield mount
    for directory in mounted:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def _leave(directory: Path, kib: int) -> Path:
    """Fill the disk of `directory` up to so much; returns what fills it."""
    filler = directory / "filler"
    filler.write_bytes(b"\0" * ((_DISK_KIB - kib) * _KIB))
    return filler


# Room in the scratch directory, KiB: the two shots have about 1,650 each.
STAGES = {"fetching": 2000, "unpacking": 3500, "encoding": 5300}


@pytest.mark.parametrize("room", STAGES.values(), ids=STAGES.keys())
def test_a_full_scratch_disk_is_no_fault_of_the_master(
    site: Site,
    small_disk: Callable[[Path], None],
    environment: pytest.MonkeyPatch,
    room: int,
) -> None:
    """A film that is given up on, and half of it left behind, because a log had filled the disk."""
    # With it no stage but the first would meet a full disk.
    environment.setattr(object_store, "DISK_RESERVE_BYTES", 0)
    project = Project(site)
    project.shot("wide", size=(640, 360), encoder_options={"crf": "1"})
    project.shot("tall", size=(360, 640), encoder_options={"crf": "1"})
    # What is asked for here does not count.
    site.once()
    project.master("m1", ["wide", "tall"])
    scratch = site.pipeline.settings.scratch
    small_disk(scratch)
    filler = _leave(scratch, room)
    assert site.lens("once").code == 1
    (status, _) = site.lens("status", "m1", "--json").json["status"]
    assert (status["state"], status["error_class"], status["attempts"]) == ("failed", "DiskFull", 0)
    assert [path.name for path in scratch.rglob("*") if path.is_file()] == ["filler"]
    assert not [key for key in site.objects() if key.startswith(("masters/", ".tmp"))]
    filler.unlink()
    assert site.lens("once").code == 0
    assert project.states("m1") == {"master_video": "ready", "master_poster": "ready"}


def test_a_full_store_is_no_fault_of_the_master(
    site: Site, small_disk: Callable[[Path], None]
) -> None:
    """Half a film at its final place."""
    small_disk(site.store)
    project = Project(site)
    project.shot("a", size=(640, 360))
    site.once()
    project.master("m1", ["a", "a", "a"])
    used = sum(path.stat().st_size for path in site.store.rglob("*") if path.is_file())
    filler = _leave(site.store, used // _KIB + 64)
    assert site.lens("once").code == 1
    status = site.lens("status", "m1", "--json").json["status"][0]
    assert (status["state"], status["attempts"]) == ("failed", 0)
    assert not [key for key in site.objects() if key.startswith(("masters/", ".tmp"))]
    filler.unlink()
    assert site.lens("once").code == 0
    assert project.states("m1")["master_video"] == "ready"
