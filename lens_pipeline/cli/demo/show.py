"""The demonstration: adds samples and tells of each as it becomes ready."""

import datetime as dt
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TimeElapsedColumn

from lens_pipeline.catalog.rows import Kind
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import (
    MASTER,
    MASTER_POSTER,
    POSTER,
    PREVIEW,
    REPORT_DAYS,
    Derivative,
)
from lens_pipeline.derivatives.status import row_statuses, usable
from lens_pipeline.derivatives.uploads import copy_into_store
from lens_pipeline.event_log.history import DerivativeStatus, State
from lens_pipeline.supervisor.up import Stack

USER = "demo"
PROJECT = "demo"
MASTER_ID = "sample-film"
_FILES = Path(__file__).with_name("samples")
_POLL_SECONDS = 0.25
_GIVE_UP_SECONDS = 180.0  # two busy cores need 6 s


@dataclass(frozen=True, slots=True)
class Sample:
    """One file of `samples/`; `shows` says what it demonstrates."""

    file: str
    kind: Kind
    shows: str

    @property
    def id(self) -> str:
        return f"sample-{PurePosixPath(self.file).stem}"

    @property
    def key(self) -> str:
        return f"samples/{self.file}"

    @property
    def path(self) -> Path:
        return _FILES / self.file


SAMPLES = (
    Sample("astronaut.png", Kind.PHOTO, "PNG"),
    Sample("astronaut-round.png", Kind.PHOTO, "transparent PNG"),
    Sample("coffee.png", Kind.PHOTO, "PNG"),
    Sample("rocket.jpg", Kind.PHOTO, "JPEG"),
    Sample("chelsea-sideways.jpg", Kind.PHOTO, "EXIF-rotated JPEG"),
    Sample("hubble.avif", Kind.PHOTO, "AVIF"),
    Sample("bunny.mp4", Kind.VIDEO, "H.264 with sound"),
    Sample("bunny-portrait.mp4", Kind.VIDEO, "rotated, dark start"),
    Sample("hubble-pan.webm", Kind.VIDEO, "VP9"),
)
# Two alike shots are copied, two are encoded to match.
_SHOTS = ("sample-bunny", "sample-hubble-pan", "sample-bunny-portrait", "sample-bunny")


@dataclass(frozen=True, slots=True)
class Expected:
    derivative: Derivative
    id: str
    shows: str


EXPECTED = (
    *(Expected(PREVIEW, s.id, s.shows) for s in SAMPLES if s.kind is Kind.PHOTO),
    *(Expected(POSTER, s.id, s.shows) for s in SAMPLES if s.kind is Kind.VIDEO),
    Expected(MASTER, MASTER_ID, f"{len(_SHOTS)} shots"),
    Expected(MASTER_POSTER, MASTER_ID, "its poster"),
)


def show(
    pipeline: Pipeline, stack: Stack, say: Callable[[str], None], *, stays: bool = True
) -> list[str]:
    """Add missing samples; returns the ids that failed or are late.

    `stays`: whether the stack goes on running. Raises DerivativeError, CatalogError, StackError.
    """
    say(f"lens: ready: {stack.web_url}")
    if not pipeline.settings.enabled:
        say("lens: LENS_ENABLED is false, so nothing would be made: unset it for the demonstration")
        return [sample.id for sample in SAMPLES]
    added = add_missing(pipeline)
    earlier = "the samples were added by an earlier `lens demo`"
    say(f"lens: {f'added {len(added)} samples' if added else earlier}")
    began = time.monotonic()
    failed = _Watch(pipeline, stack, say, added).until_over()
    ready = sum(expected.id not in failed for expected in EXPECTED)
    say(f"lens: {ready} of {len(EXPECTED)} ready, {time.monotonic() - began:.1f} s")
    if added and not failed:
        _report_today(pipeline, say)
    for line in _places(pipeline, stack, stays=stays):
        say(line)
    return failed


def add_missing(pipeline: Pipeline) -> set[str]:
    """Insert missing rows and store missing files; returns the new ids."""
    added: set[str] = set()
    for sample in SAMPLES:
        if pipeline.store.stat(sample.key) is None:
            copy_into_store(pipeline, sample.path, sample.key)
    for kind in Kind:
        samples = [sample for sample in SAMPLES if sample.kind is kind]
        known = pipeline.catalog.existing(kind, [sample.id for sample in samples])
        for sample in samples:
            if sample.id not in known:
                pipeline.catalog.add(sample.id, USER, kind, sample.key)
                added.add(sample.id)
    if not pipeline.catalog.existing(Kind.MASTER, [MASTER_ID]):
        pipeline.catalog.add_master(MASTER_ID, PROJECT, "Sample film", _SHOTS)
        added.add(MASTER_ID)
    return added


class _Watch:
    def __init__(
        self, pipeline: Pipeline, stack: Stack, say: Callable[[str], None], added: set[str]
    ) -> None:
        self._pipeline = pipeline
        self._stack = stack
        self._say = say
        self._added = added
        self._waiting = list(EXPECTED)
        self._failed: list[str] = []

    def until_over(self) -> list[str]:
        deadline = time.monotonic() + _GIVE_UP_SECONDS
        with _bar(len(EXPECTED)) as show_done:
            while self._waiting and time.monotonic() < deadline:
                self._look()
                show_done(len(EXPECTED) - len(self._waiting))
                if self._waiting:
                    time.sleep(_POLL_SECONDS)
        self._give_up()
        return self._failed

    def _look(self) -> None:
        for derivative in (PREVIEW, POSTER, MASTER, MASTER_POSTER):
            waiting = {e.id: e for e in self._waiting if e.derivative is derivative}
            rows = self._pipeline.catalog.finished(derivative.kind, waiting).values()
            statuses = row_statuses(self._pipeline, derivative, usable(list(rows)))
            for row_id, status in statuses.items():
                expected = waiting[row_id]
                if status.state is State.READY:
                    self._waiting.remove(expected)
                    self._tell_ready(expected, status)
                elif status.state in (State.FAILED, State.DEAD):
                    self._waiting.remove(expected)
                    self._tell_failed(expected, status)
        # A master that failed gets no poster.
        self._waiting = [
            e for e in self._waiting if e.derivative.made_from is None or e.id not in self._failed
        ]

    def _tell_ready(self, expected: Expected, status: DerivativeStatus) -> None:
        made = status.facts
        is_new = expected.id in self._added and "latency_seconds" in made
        when = f"{made['latency_seconds']:5.1f} s" if is_new else "already"
        what = expected.derivative.asset
        if "width" in made:  # unless it was adopted
            what += f" {made['width']}x{made['height']}"
        shows = expected.shows
        if "method" in made:
            shows += f", joined by: {made['method']}"
        self._say(f"  ready {when}  {expected.id:<24} {what:<20} {shows}")

    def _tell_failed(self, expected: Expected, status: DerivativeStatus) -> None:
        self._failed.append(expected.id)
        self._say(f"  FAILED         {expected.id:<24} {status.error_class}: {status.error}")

    def _give_up(self) -> None:
        if not self._waiting:
            return
        late = [expected.id for expected in self._waiting]
        self._failed.extend(late)
        self._say(
            f"lens: not ready after {_GIVE_UP_SECONDS:.0f} s: {', '.join(late)}:"
            " `lens status ID` and `lens doctor` say more; the backfill tries them again"
        )
        for name, status in self._stack.statuses().items():
            if status != "RUNNING":
                self._say(f"lens: {name} is {status}: see {self._stack.supervisor.log(name)}")


def _report_today(pipeline: Pipeline, say: Callable[[str], None]) -> None:
    import dagster as dg

    from lens_pipeline.definitions import job
    from lens_pipeline.engine.instance import dagster_instance
    from lens_pipeline.engine.run_queue import submit_run

    day = dt.datetime.now(dt.UTC).date().isoformat()
    deadline = time.monotonic() + _GIVE_UP_SECONDS
    with dagster_instance(pipeline.settings) as instance:
        instance.add_dynamic_partitions(REPORT_DAYS, [day])
        run_id = submit_run(instance, job("daily_reports"), {"dagster/partition": day})
        run = None
        while time.monotonic() < deadline and not (run and run.is_finished):
            time.sleep(_POLL_SECONDS)
            run = instance.get_run_by_id(run_id)
    is_made = run is not None and run.status is dg.DagsterRunStatus.SUCCESS
    say(f"lens: the report of {day} is {'made' if is_made else 'not made'}")


def _places(pipeline: Pipeline, stack: Stack, *, stays: bool) -> Iterator[str]:
    yield f"  files     {pipeline.settings.resolved_store_url}, below {USER}/ and masters/"
    if not stays:
        return
    yield f"  library   {stack.pages_url}/library"
    yield f"  masters   {stack.pages_url}/masters"
    yield f"  previews  {stack.web_url}/assets/preview"
    yield f"  posters   {stack.web_url}/assets/poster"
    yield f"  master    {stack.web_url}/assets/master_video"
    yield f"  runs      {stack.web_url}/runs"
    yield f"  report    {stack.web_url}/assets/daily_report"
    yield "  add one   lens add FILE|FOLDER|URL…      (in another terminal, in this directory)"
    yield "  stop      Ctrl-C"


@contextmanager
def _bar(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    columns = (SpinnerColumn(), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda done: progress.update(task, completed=done)
