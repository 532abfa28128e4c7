"""The command `import-sqlite`: brings the rows and files of an older system over."""

import datetime as dt
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click

from lens_pipeline.catalog.projects import Listed
from lens_pipeline.catalog.rows import Kind, MasterVideo, ScaledVideo, Shot
from lens_pipeline.cli.adoption import old_database
from lens_pipeline.cli.adoption.masters import (
    Film,
    FilmChecker,
    adopted_key,
    film_checks,
    never_made,
    record_film,
    store_film,
)
from lens_pipeline.cli.adoption.old_database import (
    OldAsset,
    OldDatabase,
    OldMaster,
    OldRendition,
    Refusal,
)
from lens_pipeline.cli.adoption.old_files import OldFiles
from lens_pipeline.cli.progress import meter
from lens_pipeline.cli.session import Session, dagster_session, json_option, print_json
from lens_pipeline.core.locks import held, partition_lock
from lens_pipeline.core.startup import say
from lens_pipeline.derivatives.registry import MASTER, SCALED, Derivative
from lens_pipeline.derivatives.uploads import copy_into_store, key_name, kind_of_file
from lens_pipeline.errors import DerivativeError, InvalidRow, StoreUnavailable

ASSETS, MASTERS, RENDITIONS = "project_assets", "master_videos", "scaled_videos"
_COUNTS = {
    ASSETS: ("added", "present"),
    MASTERS: ("adopted", "to_make", "present"),
    RENDITIONS: ("adopted", "present"),
}
T = TypeVar("T", OldAsset, OldMaster)
# Old renditions have no id of their own, and a host's column may be uuid.
_RENDITION_IDS = uuid.UUID("5a1d1f0e-7f4c-4f0b-9a53-0d9c6f7a3b21")


@click.command("import-sqlite")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--media",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Where the files lie; each path is looked for below it, then as it is written.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@json_option
def import_sqlite(file: Path, media: Path | None, dry_run: bool, as_json: bool) -> None:
    """Bring the projects, shots, masters and renditions of an old SQLite database over.

    Finished films are decoded, copied into the store and recorded; they are never made again.
    Masters that were not finished are made by the pipeline. What is there already stays as it is,
    so that the command can be repeated. Exit status 1: rows were refused; each is named.
    """
    if media is not None and not media.is_dir():
        raise click.BadParameter(f"there is no directory {media}", param_hint="--media")
    old = old_database.read(file)
    with dagster_session("import-sqlite") as lens:
        done = _Import(lens, OldFiles(media), dry_run=dry_run, refused=old.refused)
        done.run(old)
    if as_json:
        refused = [asdict(one) for one in done.refused]
        print_json({"projects": len(old.projects), **done.counts, "refused": refused})
    else:
        _tell(done, len(old.projects))
    sys.exit(1 if done.refused else 0)


def _tell(done: "_Import", projects: int) -> None:
    for one in done.refused:
        say(f"lens: {one.table} {one.id!r}: {one.reason}")
    print(f"projects: {projects}")
    for table, counts in done.counts.items():
        told = [f"{number} {name.replace('_', ' ')}" for name, number in counts.items()]
        refused = sum(one.table == table for one in done.refused)
        print(f"{table}: {', '.join(told)}, {refused} refused")
    if done.dry_run:
        print("nothing was changed: this was a dry run")


@dataclass(slots=True)
class _Import:
    """A row that is refused touches nothing."""

    lens: Session
    files: OldFiles
    dry_run: bool
    refused: list[Refusal]
    counts: dict[str, dict[str, int]] = field(
        default_factory=lambda: {table: dict.fromkeys(names, 0) for table, names in _COUNTS.items()}
    )
    _assets: dict[str, str] = field(default_factory=dict)
    """The project of each that is there now, by id."""
    _masters: dict[str, MasterVideo] = field(default_factory=dict)
    """Those that are there now, by id."""

    def run(self, old: OldDatabase) -> None:
        """Raises StoreUnavailable, CatalogError; what was done by then stays so."""
        self._add_assets(old.assets)
        with film_checks(self.lens.pipeline) as (checker, threads):
            self._add_masters(old.masters, checker, threads)
            self._add_renditions(old.renditions, checker, threads)

    def _add_assets(self, assets: Mapping[str, OldAsset]) -> None:
        new, present = self._compared(ASSETS, Kind.SHOT, assets)
        self._assets |= {key: one.project_id for key, one in present.items()}
        for key, one in new.items():
            with self._refusals(ASSETS, key):
                self._add_asset(one)
                self._assets[key] = one.project_id
                self.counts[ASSETS]["added"] += 1

    def _add_asset(self, one: OldAsset) -> None:
        """Raises DerivativeError."""
        file = self.files.find(one.paths)
        if kind_of_file(file) is not Kind.VIDEO:
            raise InvalidRow(f"{file} is no video")
        if self.dry_run:
            return
        key = f"projects/{one.project_id}/assets/{one.id}/{key_name(one.name, one.id)}"
        copy_into_store(self.lens.pipeline, file, key)
        self._insert(Kind.SHOT, one.project_id, one.id, {"asset_url": key}, key)

    def _add_masters(
        self, masters: Mapping[str, OldMaster], checker: FilmChecker, threads: ThreadPoolExecutor
    ) -> None:
        new, present = self._compared(MASTERS, Kind.MASTER, masters)
        self._masters |= {key: one.row for key, one in present.items()}
        # An import that was killed leaves a row without a record.
        rows = list(self._masters.values())
        unmade = {row.id for row in never_made(self.lens.pipeline, MASTER, rows)}
        wanted = [*new, *(key for key, row in self._masters.items() if row.id in unmade)]
        finished = {key: masters[key].paths for key in wanted if masters[key].is_completed}
        for key, film in self._checked(MASTERS, finished, checker, threads):
            with self._refusals(MASTERS, key):
                row = self._masters.get(key) or _row(new[key])
                values = {"name": row.name, "shots_config": row.shots_config}
                self._adopt(MASTER, row, row.project_id, values, film)
                self._masters[key] = row
                self.counts[MASTERS]["adopted"] += 1
        for key, one in new.items():
            if one.is_completed:
                continue
            with self._refusals(MASTERS, key):
                self._order(one)
                self._masters[key] = _row(one)
                self.counts[MASTERS]["to_make"] += 1

    def _order(self, one: OldMaster) -> None:
        """Raises InvalidRow."""
        if not one.shots:
            raise InvalidRow("it was not finished, and shots_config names no shot")
        for shot in one.shots:
            if self._assets.get(shot) != one.project_id:
                raise InvalidRow(f"it was not finished, and its shot {shot!r} is not there")
        values = {"name": one.name, "shots_config": list(one.shots)}
        if not self.dry_run:
            self._insert(Kind.MASTER, one.project_id, one.id, values)

    def _add_renditions(
        self,
        renditions: Mapping[str, OldRendition],
        checker: FilmChecker,
        threads: ThreadPoolExecutor,
    ) -> None:
        ids = {key: str(uuid.uuid5(_RENDITION_IDS, key)) for key in renditions}
        present = {
            key: row
            for key, row in self.lens.pipeline.catalog.finished(Kind.SCALED, ids.values()).items()
            if isinstance(row, ScaledVideo)
        }
        unmade = {row.id for row in never_made(self.lens.pipeline, SCALED, list(present.values()))}
        wanted: dict[str, Sequence[str]] = {}
        for key, one in renditions.items():
            with self._refusals(RENDITIONS, key):
                if ids[key] in present.keys() - unmade:
                    self.files.claim(one.paths)
                    self.counts[RENDITIONS]["present"] += 1
                elif one.master_id in self._masters:
                    wanted[key] = one.paths
                else:
                    raise InvalidRow(f"its master {one.master_id!r} is not there")
        for key, film in self._checked(RENDITIONS, wanted, checker, threads):
            with self._refusals(RENDITIONS, key):
                master = self._masters[renditions[key].master_id]
                row = present.get(ids[key]) or ScaledVideo(
                    id=ids[key],
                    master_id=master.id,
                    start_seconds=None,
                    end_seconds=None,
                    width=film.width,
                    height=film.height,
                    finished_at=_now(),
                    master=master,
                )
                values = {"master_id": master.id, "width": film.width, "height": film.height}
                self._adopt(SCALED, row, master.project_id, values, film)
                self.counts[RENDITIONS]["adopted"] += 1

    def _compared(
        self, table: str, kind: Kind, rows: Mapping[str, T]
    ) -> tuple[dict[str, T], dict[str, Listed]]:
        """The rows that are to come, and those that are there, by id."""
        catalog = self.lens.pipeline.catalog
        taken = catalog.finished(kind, rows)
        present: dict[str, Listed] = {}
        for project_id in {rows[key].project_id for key in taken}:
            ids = [key for key in taken if rows[key].project_id == project_id]
            present |= catalog.project_rows(kind, project_id, ids)
        self.counts[table]["present"] += len(present)
        for key in present:
            self.files.claim(rows[key].paths)
        for key in taken.keys() - present.keys():
            self.refused.append(Refusal(table, key, "the row of another project has this id"))
        return {key: one for key, one in rows.items() if key not in taken}, present

    def _checked(
        self,
        table: str,
        wanted: Mapping[str, Sequence[str]],
        checker: FilmChecker,
        threads: ThreadPoolExecutor,
    ) -> Iterator[tuple[str, Film]]:
        """Films that decode, by id of their row; `wanted`: the paths of each."""
        files: dict[str, Path] = {}
        for key, paths in wanted.items():
            with self._refusals(table, key):
                files[key] = self.files.find(paths)

        def check(file: Path) -> Film | DerivativeError:
            try:
                return checker.check(file)
            except DerivativeError as error:
                return error

        with meter(table, len(files)) as progress:
            found = zip(files, threads.map(check, files.values()), strict=True)
            for number, (key, film) in enumerate(found, 1):
                if isinstance(film, Film):
                    yield key, film
                else:
                    self.refused.append(Refusal(table, key, str(film)))
                progress.show(number)

    def _adopt(
        self,
        derivative: Derivative,
        row: MasterVideo | ScaledVideo,
        project_id: str,
        values: Mapping[str, Any],
        film: Film,
    ) -> None:
        """Insert the row, unless it is there, and record its film. Raises DerivativeError."""
        if self.dry_run:
            return
        pipeline = self.lens.pipeline
        store_film(pipeline, derivative, row, film)
        # A run that a sensor asks for meanwhile waits, and then has nothing to do.
        with held(pipeline.endpoints.dagster_url, [partition_lock(derivative.asset, row.id)]):
            self._insert(derivative.kind, project_id, row.id, values, adopted_key(derivative, row))
            record_film(self.lens, derivative, row, film)

    def _insert(
        self,
        kind: Kind,
        project_id: str,
        row_id: str,
        values: Mapping[str, Any],
        key: str | None = None,
    ) -> None:
        """Raises InvalidRow, after deleting the object `key`."""
        pipeline = self.lens.pipeline
        try:
            with pipeline.catalog.inserting(kind, project_id, {row_id: values}):
                pass
        except InvalidRow:
            if key is not None:
                pipeline.store.delete(key)
            raise

    @contextmanager
    def _refusals(self, table: str, row_id: str) -> Iterator[None]:
        """What is wrong with one row keeps no other from coming over."""
        try:
            yield
        except StoreUnavailable:
            raise
        except DerivativeError as error:
            self.refused.append(Refusal(table, row_id, str(error)))


def _row(one: OldMaster) -> MasterVideo:
    """As it will be: only the ids of its shots count."""
    shots = tuple(Shot(key) for key in one.shots)
    return MasterVideo(one.id, one.project_id, one.name, shots, _now())


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
