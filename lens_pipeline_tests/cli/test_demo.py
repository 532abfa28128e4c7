"""`lens demo` as people run it, on a home of its own."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from lens_pipeline.cli.demo import show
from lens_pipeline.cli.demo.show import EXPECTED, SAMPLES
from lens_pipeline.core.endpoints import resolve
from lens_pipeline.core.ports import free_port
from lens_pipeline.media import images, posters
from lens_pipeline.media.models import PosterSpec, PreviewSpec
from lens_pipeline.settings import PREFIX, Settings
from lens_pipeline.supervisor import orphans
from lens_pipeline.supervisor.supervisor import Supervisor
from lens_pipeline.supervisor.up import Stack
from lens_pipeline_tests.support.site import Site

_SECONDS = 240


@pytest.fixture
def variables(tmp_path: Path) -> Iterator[Mapping[str, str]]:
    """Of a fresh home; nothing may be left running in it."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith((PREFIX, "DAGSTER_"))
    }
    home = tmp_path / "home"
    ports = {name: str(free_port()) for name in ("LENS_DAGSTER_PORT", "LENS_API_PORT")}
    yield {**inherited, "LENS_HOME": str(home), **ports}
    left = [process.name() for process in orphans.processes_of(home)]
    orphans.kill(home)
    assert left == []


def _demo(variables: Mapping[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lens_pipeline.cli", "demo", *arguments],
        cwd=Path(variables["LENS_HOME"]).parent,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _ready(output: str) -> dict[str, str]:
    """What was said of each sample that became ready, by id."""
    return {match[2]: match[1].strip() for match in re.finditer(r"  ready (.{7})  (\S+) ", output)}


@pytest.mark.slow
@pytest.mark.stack
def test_a_demonstration_makes_every_sample_once_and_stops(
    variables: Mapping[str, str],
) -> None:
    """The first five minutes with the product; and a second time that adds everything again."""
    first = _demo(variables, "--exit-when-done")
    output, _ = first.communicate(timeout=_SECONDS)
    assert first.returncode == 0, output
    assert "warning" not in output.lower()
    made = _ready(output)
    assert made.keys() == {expected.id for expected in EXPECTED}, output
    assert all(re.fullmatch(r"\d+\.\d s", when) for when in made.values()), output
    store = Path(variables["LENS_HOME"]) / "store"
    assert "is made" in output
    assert list(store.glob("reports/daily/*_files.csv"))
    for sample in SAMPLES:
        assert (store / sample.key).is_file()
        (webp,) = store.glob(f"{show.USER}/*/{sample.id}_*.webp")
        assert webp.stat().st_size > 1000

    second = _demo(variables)
    try:
        output = _read_until(second, "Ctrl-C")
        assert "added by an earlier" in output
        assert set(_ready(output).values()) == {"already"}
        assert f"http://127.0.0.1:{variables['LENS_DAGSTER_PORT']}/assets/preview" in output
        assert second.poll() is None
    finally:
        second.send_signal(signal.SIGINT)
        second.communicate(timeout=_SECONDS)
    assert second.returncode == 0


def _read_until(process: subprocess.Popen[str], text: str) -> str:
    """The output up to the line that contains `text`."""
    assert process.stdout
    lines: list[str] = []
    deadline = time.monotonic() + _SECONDS
    for line in process.stdout:
        lines.append(line)
        if text in line:
            break
        assert time.monotonic() < deadline
    return "".join(lines)


def _without_processes(
    settings: Settings, *, on_ready: Callable[[Stack], None], **_: object
) -> None:
    """`lens up` of which nothing but the servers of the tests run."""
    supervisor = Supervisor(settings.resolved_home, [])
    on_ready(Stack(resolve(settings, broker=False), "http://ui", "http://pages", supervisor))


@pytest.mark.slow
def test_a_sample_that_fails_is_told_with_its_reason(
    site: Site, environment: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A demonstration that hangs, or says that all is well, on a machine that makes nothing."""
    environment.setenv("LENS_MAX_PIXELS", "240000")
    environment.setattr("lens_pipeline.cli.up.run_stack", _without_processes)
    show.add_missing(site.pipeline)
    site.once()
    told = site.lens("demo", "--exit-when-done")
    output = told.out + told.err + capfd.readouterr().err
    assert told.code == 1, output
    assert re.search(r"FAILED +sample-hubble +SourceOverLimit: .*pixels", output), output
    assert "sample-coffee" in _ready(output), output


def test_the_samples_are_what_they_are_said_to_be() -> None:
    """A portrait video shown on its side or by a black frame, or a file without a licence."""
    assert sum(sample.path.stat().st_size for sample in SAMPLES) < 4_000_000
    licences = (SAMPLES[0].path.parent / "LICENSES.md").read_text(encoding="utf-8")
    assert all(f"`{sample.file}`" in licences for sample in SAMPLES)
    files = {path.name for path in SAMPLES[0].path.parent.iterdir()} - {"LICENSES.md"}
    assert files == {sample.file for sample in SAMPLES}

    by_id = {sample.id: sample.path for sample in SAMPLES}
    preview = PreviewSpec(longest_edge=256, quality=80, effort=0, max_pixels=10**7)
    cat = images.render_preview(by_id["sample-chelsea-sideways"], preview)
    assert cat.width > cat.height
    poster = PosterSpec(longest_edge=256, quality=80, effort=0, max_pixels=10**7)
    bunny = posters.render_poster(by_id["sample-bunny-portrait"], poster)
    assert bunny.picture.height > bunny.picture.width
    assert bunny.poster_at_seconds >= 1
