"""What `lens up` and `lens worker` look at before they start, and what stops them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lens_pipeline.cli.up import _prepare, _require_store
from lens_pipeline.core.endpoints import resolve
from lens_pipeline.core.ports import free_port
from lens_pipeline.derivatives.store_audit import ForeignStore
from lens_pipeline.settings import load
from lens_pipeline.storage.object_store import WrongCredentials
from lens_pipeline_tests.support.site import Site

pytestmark = pytest.mark.slow


def _start() -> None:
    loaded = load()[0]
    _prepare(loaded, resolve(loaded, broker=False))


def _start_worker() -> None:
    loaded = load()[0]
    _require_store(loaded, resolve(loaded, broker=False))


@pytest.fixture(autouse=True)
def _elsewhere(environment: pytest.MonkeyPatch, site: Site) -> None:
    environment.setenv("LENS_STORE_URL", "s3://photos")
    environment.setenv("LENS_S3_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        environment.setenv(name, "x")


@pytest.mark.parametrize("start", [_start, _start_worker])
def test_a_store_that_is_away_keeps_nothing_else_down(
    capfd: pytest.CaptureFixture[str], start: Callable[[], None]
) -> None:
    """A machine that starts while its store is down, and serves no page until that is back."""
    start()
    told = capfd.readouterr().err
    assert "cannot write s3://photos/lens-check-" in told
    assert "is 127.0.0.1 up and reachable?; starting without it" in told


@pytest.mark.parametrize("start", [_start, _start_worker])
def test_a_store_that_was_set_wrong_stops_the_start(
    environment: pytest.MonkeyPatch, start: Callable[[], None]
) -> None:
    """A pipeline that is said to run and cannot store a single file."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        environment.delenv(name)
    environment.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    environment.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with pytest.raises(WrongCredentials, match="set AWS_ACCESS_KEY_ID"):
        start()


def test_a_worker_with_a_directory_of_its_own_for_a_store_is_refused(
    site: Site,
    tmp_path: Path,
    environment: pytest.MonkeyPatch,
    photo: Callable[[str], str],
) -> None:
    """A host where the share was not mounted: it called each upload that it was given missing."""
    environment.delenv("LENS_S3_ENDPOINT")
    environment.setenv("LENS_STORE_URL", (tmp_path / "own").as_uri())
    _start_worker()  # nothing was made yet, so nothing can be missed
    environment.setenv("LENS_STORE_URL", site.store.as_uri())
    site.add("a", photo("a"))
    site.once()
    _start_worker()
    environment.setenv("LENS_STORE_URL", (tmp_path / "own").as_uri())
    with pytest.raises(ForeignStore, match="none of 1 files that were made .*own: mount it, or"):
        _start_worker()
    # Other files there prove nothing: the disk's own directory, or another worker's check.
    (tmp_path / "own" / "lost+found").mkdir(mode=0o700)
    (tmp_path / "own" / "lens-check-1.txt").touch()
    with pytest.raises(ForeignStore):
        _start_worker()
    assert "FAIL store: none of 1 files that were made" in site.lens("doctor").out
    # Files must not be called lost because the wrong directory is mounted.
    lost = site.lens("backfill", "--lost", "--json")
    assert (lost.code, "none of 1 files" in lost.err) == (2, True)
    assert site.status("a")["state"] == "ready"


def test_a_store_that_is_rightly_empty_takes_workers(
    site: Site, photo: Callable[[str], str], environment: pytest.MonkeyPatch
) -> None:
    """A site whose rows were all deleted, and whose workers never start again."""
    environment.delenv("LENS_S3_ENDPOINT")
    environment.setenv("LENS_STORE_URL", site.store.as_uri())
    site.add("a", photo("a"))
    site.once()
    site.sql("DELETE FROM generations")
    assert site.lens("remove-missing", "--yes").code == 0
    assert site.objects() == set()
    _start_worker()
