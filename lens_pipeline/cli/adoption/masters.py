"""Finished films of an older system: decoded, stored under our keys, recorded; never encoded."""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from lens_pipeline.catalog.rows import Kind, MasterVideo, ScaledVideo
from lens_pipeline.cli.adoption.records import FileAdoption, record
from lens_pipeline.cli.session import Session
from lens_pipeline.core.files import scratch_directory
from lens_pipeline.derivatives.pipeline import Pipeline
from lens_pipeline.derivatives.registry import MASTER, Derivative
from lens_pipeline.derivatives.status import assess
from lens_pipeline.derivatives.store_audit import Candidate, candidates
from lens_pipeline.errors import DerivativeError, SourceUnreadable, StoreUnavailable
from lens_pipeline.event_log.history import DerivativeStatus, State
from lens_pipeline.settings import check_key_pattern
from lens_pipeline.storage.file_store import FileStore
from lens_pipeline.storage.object_store import ObjectStore
from lens_pipeline.storage.retries import FILE_RETRIES, retry_transient

R = TypeVar("R", MasterVideo, ScaledVideo)
_PAGE = 200
_EXAMPLE = "films/{project_id}/master_{id}_*.mp4"


@dataclass(frozen=True, slots=True)
class Film:
    """A file that decodes; `sha256` is in hex."""

    path: Path
    bytes: int
    sha256: str
    width: int  # as shown, with square pixels
    height: int
    duration_seconds: float


class _NoCache:
    """A film is examined once: nothing of it is kept for other masters."""

    def find(self, key: str) -> Path | None:
        return None

    def keep(self, key: str, file: Path) -> None:
        pass


@dataclass(frozen=True, slots=True)
class FilmChecker:
    """Decodes films on several threads, as shots of masters are; `scratch` is for its files."""

    pipeline: Pipeline
    scratch: Path

    def check(self, file: Path) -> Film:
        """Raises DerivativeError: it is no MP4, is damaged or over a limit."""
        from lens_pipeline.defs.assets.masters import shot_limits
        from lens_pipeline.defs.assets.renderers import media_failures
        from lens_pipeline.media.concat.join import Source, examine
        from lens_pipeline.media.errors import MediaError, ShotError
        from lens_pipeline.media.ffmpeg.run import Work
        from lens_pipeline.media.ffmpeg.tools import Tools

        settings = self.pipeline.settings
        try:
            with file.open("rb") as opened:
                sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
                size = os.fstat(opened.fileno()).st_size
        except OSError as error:
            raise SourceUnreadable(f"cannot read {file}: {error.strerror}") from error
        with tempfile.TemporaryDirectory(dir=self.scratch) as name, media_failures():
            work = Work(
                directory=Path(name),
                cancelled=lambda: False,
                report=lambda _, __: None,
                idle_seconds=settings.encode_idle_seconds,
            )
            source = Source(file.name, file, sha256)
            try:
                shot = examine(source, Tools.find(), work, _NoCache(), shot_limits(settings))
            except ShotError as error:
                raise MediaError(error.reason, error.over_limit) from error
        if shot.demuxer != "mov":
            raise SourceUnreadable(f"{file.name} is no MP4")
        width, height = (round(edge) for edge in shot.display_size)
        return Film(file, size, sha256, width, height, round(float(shot.length), 3))


@contextmanager
def film_checks(pipeline: Pipeline) -> Iterator[tuple[FilmChecker, ThreadPoolExecutor]]:
    """The checks that have not begun are left out at the end."""
    with scratch_directory(pipeline.settings.scratch) as scratch:
        threads = ThreadPoolExecutor(pipeline.settings.threads, "film")
        try:
            yield FilmChecker(pipeline, scratch), threads
        finally:
            threads.shutdown(cancel_futures=True)


def adopted_key(derivative: Derivative, row: MasterVideo | ScaledVideo) -> str:
    return derivative.object_key(row, derivative.adopted_revision(row) or "")


def store_film(
    pipeline: Pipeline, derivative: Derivative, row: MasterVideo | ScaledVideo, film: Film
) -> None:
    """Raises DerivativeError."""
    key = adopted_key(derivative, row)
    retry_transient(
        lambda: pipeline.store.write(key, film.path, content_type="video/mp4"), FILE_RETRIES
    )


def record_film(
    lens: Session, derivative: Derivative, row: MasterVideo | ScaledVideo, film: Film
) -> None:
    """After it is stored."""
    key = adopted_key(derivative, row)
    revision = derivative.adopted_revision(row) or ""
    facts: dict[str, Any] = {
        "path": key,
        "dagster/uri": lens.pipeline.store.uri(key),
        "bytes": film.bytes,
        "sha256": film.sha256,
        "width": film.width,
        "height": film.height,
        "duration_seconds": film.duration_seconds,
        "revision": revision,
        "adopted": True,
    }
    status = DerivativeStatus(derivative.asset, row.id, revision=revision)
    record(lens.pipeline, lens.instance, derivative, [(row, status, facts)])


@dataclass(frozen=True, slots=True)
class MastersPlace:
    """Where an older system left its masters."""

    directory: Path | None
    """None: the store."""
    pattern: str
    """Of keys below it."""


def masters_place(pattern: str) -> MastersPlace:
    """Raises BadParameter: it does not say which file is of which master."""
    directory, keys = None, pattern
    if pattern.startswith(("/", "./", "../")):
        path = os.path.abspath(pattern)  # noqa: PTH100 - Path.resolve would follow links
        root = path.partition("{")[0].rpartition("/")[0] or "/"
        directory, keys = Path(root), path[len(root) :].removeprefix("/")
    try:
        check_key_pattern(repr(pattern), keys, "project_id", _EXAMPLE)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--masters") from error
    if directory is not None and not directory.is_dir():
        raise click.BadParameter(f"there is no directory {directory}", param_hint="--masters")
    return MastersPlace(directory, keys)


def record_masters(
    lens: Session,
    place: MastersPlace,
    total: FileAdoption,
    *,
    dry_run: bool,
    progress: Callable[[], None],
) -> None:
    """Adopt films of masters that were never made. What is refused stays as it was.

    Raises StoreUnavailable, CatalogError; what was recorded by then stays so.
    """
    pipeline = lens.pipeline
    store = FileStore(place.directory) if place.directory else pipeline.store
    with film_checks(pipeline) as (checker, threads):

        def take(one: Candidate[MasterVideo]) -> Film | str:
            """The film as it is stored now, or why it is refused."""
            if one.problem:
                return one.problem
            try:
                return _take(checker, store, one, dry_run=dry_run)
            except StoreUnavailable:
                raise
            except DerivativeError as error:
                return f"{one.info.key}: {error}"

        for page in pipeline.catalog.all_finished(Kind.MASTER, _PAGE):
            rows = never_made(
                pipeline, MASTER, [row for row in page if isinstance(row, MasterVideo)]
            )
            named = candidates(pipeline, store, [place.pattern], Kind.MASTER, rows, threads)
            total.found += len(rows)
            total.missing += len(rows) - len(named)
            for one, film in zip(named, threads.map(take, named), strict=True):
                if isinstance(film, str):
                    total.refused.append({"id": one.row.id, "reason": film})
                else:
                    if not dry_run:
                        record_film(lens, MASTER, one.row, film)
                    total.adopted += 1
                progress()


def never_made(pipeline: Pipeline, derivative: Derivative, rows: Sequence[R]) -> list[R]:
    """A film of what a row named before is not one of what it names now."""
    made = pipeline.log.latest(derivative.asset, [row.id for row in rows])
    statuses = assess(pipeline, derivative, rows)
    return [
        row
        for row, status in zip(rows, statuses, strict=True)
        if row.id not in made and status.state is not State.PROCESSING
    ]


def _take(
    checker: FilmChecker, store: ObjectStore, one: Candidate[MasterVideo], *, dry_run: bool
) -> Film:
    """Raises DerivativeError."""
    file = checker.scratch / f"+{one.row.id}"
    try:
        retry_transient(lambda: store.read_into(one.info.key, file), FILE_RETRIES)
        film = checker.check(file)
        if not dry_run:
            store_film(checker.pipeline, MASTER, one.row, film)
        return film
    finally:
        file.unlink(missing_ok=True)
