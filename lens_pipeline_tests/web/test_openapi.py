"""What `/api/openapi.json` promises is true, whatever is sent."""

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from lens_pipeline_tests.pipeline.site import Site

# Of each operation; one second all in all for every ten.
_EXAMPLES = 25
_SEED = 20_261


@pytest.mark.slow
def test_the_api_is_as_described(site: Site, web: httpx.Client, tmp_path: Path) -> None:
    site.add("p1", "https://example.org/p1.jpg", task_id="t1")
    arguments = [
        *("run", f"{web.base_url}/api/openapi.json"),
        *("--phases", "examples,coverage,fuzzing"),
        *("--max-examples", str(_EXAMPLES)),
        *("--seed", str(_SEED)),
        *("--generation-database", "none"),
        # Ends only with the connection.
        *("--exclude-path", "/api/events"),
        # Of a site without daemon and workers it is rightly a 503: see test_health.
        *("--exclude-path", "/api/health"),
        # Cursors and ids of rows are strings that only this app gives out.
        *("--exclude-checks", "positive_data_acceptance"),
        *("--request-timeout", "20"),
        "--no-color",
    ]
    run = subprocess.run(
        [Path(sys.executable).with_name("st"), *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
