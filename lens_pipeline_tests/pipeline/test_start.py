"""What `lens up` looks at before it starts the pipeline, and what stops it."""

import pytest

from lens_pipeline.cli.run import _prepare
from lens_pipeline.settings import load
from lens_pipeline.stack.endpoints import resolve
from lens_pipeline.stack.ports import free_port
from lens_pipeline.store import WrongCredentials
from lens_pipeline_tests.pipeline.site import Site

pytestmark = pytest.mark.slow


def _start() -> None:
    loaded = load()[0]
    _prepare(loaded, resolve(loaded, broker=False))


@pytest.fixture(autouse=True)
def _elsewhere(environment: pytest.MonkeyPatch, site: Site) -> None:
    environment.setenv("LENS_STORE_URL", "s3://photos")
    environment.setenv("LENS_S3_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        environment.setenv(name, "x")


def test_a_store_that_is_away_keeps_nothing_else_down(capfd: pytest.CaptureFixture[str]) -> None:
    """Pages and health that are gone until a provider is back, after a reboot meanwhile."""
    _start()
    told = capfd.readouterr().err
    assert "cannot write s3://photos/lens-check-" in told
    assert "is 127.0.0.1 up and reachable?; starting without it" in told


def test_a_store_that_was_set_wrong_stops_the_start(environment: pytest.MonkeyPatch) -> None:
    """A pipeline that is said to run and cannot store a single file."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        environment.delenv(name)
    environment.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    environment.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with pytest.raises(WrongCredentials, match="set AWS_ACCESS_KEY_ID"):
        _start()
