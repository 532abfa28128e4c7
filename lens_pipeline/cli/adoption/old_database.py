"""Reads the SQLite database of an older system. What its rows become is not decided here."""

import json
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

import sqlalchemy as sa

from lens_pipeline.catalog.rows import FINISHED
from lens_pipeline.catalog.shots import read_config
from lens_pipeline.core.ids import key_problem
from lens_pipeline.errors import InvalidRow, LensError

_COLUMNS = {
    "projects": ("project_id",),
    "project_assets": (
        *("asset_id", "project_id", "asset_type", "file_path", "original_filename"),
    ),
    "master_videos": (
        *("master_id", "project_id", "name", "status", "video_path", "file_path"),
        "shots_config",
    ),
    "scaled_videos": ("master_video_id", "format", "sequence", "video_path"),
}
_ASSET_TYPES = ("hook", "mid", "cta", "target_video")
# Of `shots_config` as an object, in the order of its shots.
_PARTS = ("hook_ids", "mid_ids", "cta_ids")
# Another program may write just now.
_LOCK_SECONDS = 5.0

T = TypeVar("T")
Record = Mapping[str, str]


class OldDatabaseUnusable(LensError):
    """It is no SQLite database, is locked, or lacks tables or columns."""


@dataclass(frozen=True, slots=True)
class OldAsset:
    id: str
    project_id: str
    paths: tuple[str, ...]
    name: str


@dataclass(frozen=True, slots=True)
class OldMaster:
    id: str
    project_id: str
    name: str
    is_completed: bool
    paths: tuple[str, ...]
    shots: tuple[str, ...]
    """Ids of assets, in order."""


@dataclass(frozen=True, slots=True)
class OldRendition:
    id: str
    """Its master, format and sequence."""
    master_id: str
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    table: str
    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class OldDatabase:
    """Usable rows by id, in the order of their tables."""

    projects: frozenset[str]
    assets: Mapping[str, OldAsset]
    masters: Mapping[str, OldMaster]
    renditions: Mapping[str, OldRendition]
    refused: list[Refusal]
    """Rows that cannot be used."""

    def files(self) -> Iterator[Sequence[str]]:
        """The paths of each row that has a file."""
        films = (one for one in self.masters.values() if one.is_completed)
        for one in (*self.assets.values(), *films, *self.renditions.values()):
            yield one.paths


def read(file: Path) -> OldDatabase:
    """All tables as they are at one moment. Raises OldDatabaseUnusable."""
    if not file.is_file():
        raise OldDatabaseUnusable(f"there is no file {file}")
    try:
        tables = _tables(file)
    except sqlite3.Error as error:
        advice = ": stop what writes to it, or give a copy" if "locked" in str(error) else ""
        raise OldDatabaseUnusable(f"{file} cannot be read: {error}{advice}") from error
    refused: list[Refusal] = []
    projects = _usable("projects", tables, refused, _project)
    known = projects.keys()
    assets = _usable("project_assets", tables, refused, lambda row: _asset(row, known))
    masters = _usable("master_videos", tables, refused, lambda row: _master(row, known))
    renditions = _usable("scaled_videos", tables, refused, _rendition)
    return OldDatabase(frozenset(known), assets, masters, renditions, refused)


def _tables(file: Path) -> dict[str, list[Record]]:
    address = f"{file.absolute().as_uri()}?mode=ro"
    with closing(
        sqlite3.connect(address, uri=True, timeout=_LOCK_SECONDS, isolation_level=None)
    ) as connection:
        connection.text_factory = lambda text: text.decode(errors="replace")
        connection.execute("BEGIN")
        return {name: _rows(connection, file, name) for name in _COLUMNS}


def _rows(connection: sqlite3.Connection, file: Path, table: str) -> list[Record]:
    """Raises OldDatabaseUnusable."""
    wanted = _COLUMNS[table]
    described = connection.execute("SELECT lower(name) FROM pragma_table_info(?)", (table,))
    has = {name for (name,) in described}
    if not has:
        raise OldDatabaseUnusable(f"{file} has no table {table}")
    missing = [name for name in wanted if name not in has]
    if missing:
        raise OldDatabaseUnusable(f"table {table} in {file} lacks {', '.join(missing)}")
    query = sa.select(*map(sa.column, wanted)).select_from(sa.table(table))
    found = connection.execute(str(query))
    return [dict(zip(wanted, map(_text, row), strict=True)) for row in found]


def _text(value: object) -> str:
    """Ids may be numbers."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    return "" if value is None else str(value).replace("\0", "")


def _usable(
    table: str,
    tables: Mapping[str, list[Record]],
    refused: list[Refusal],
    parse: Callable[[Record], T],
) -> dict[str, T]:
    """What `parse` makes of each row, by id; it raises InvalidRow."""
    columns = _COLUMNS[table][: 3 if table == "scaled_videos" else 1]
    found: dict[str, T] = {}
    for row in tables[table]:
        row_id = "/".join(row[name] for name in columns)
        if row_id in found:
            refused.append(Refusal(table, row_id, "it is there twice: the first row counts"))
            continue
        try:
            found[row_id] = parse(row)
        except InvalidRow as error:
            refused.append(Refusal(table, row_id, str(error)))
    return found


def _project(row: Record) -> None:
    _require_key(row, "project_id")


def _asset(row: Record, projects: Collection[str]) -> OldAsset:
    _require_key(row, "asset_id")
    _require_project(row, projects)
    if row["asset_type"] not in _ASSET_TYPES:
        kinds = ", ".join(_ASSET_TYPES)
        raise InvalidRow(f"asset_type {row['asset_type']!r} is none of {kinds}")
    if not row["file_path"]:
        raise InvalidRow("it has no file_path")
    name = row["original_filename"] or PurePosixPath(row["file_path"]).name
    return OldAsset(row["asset_id"], row["project_id"], (row["file_path"],), name)


def _master(row: Record, projects: Collection[str]) -> OldMaster:
    _require_key(row, "master_id")
    _require_project(row, projects)
    return OldMaster(
        row["master_id"],
        row["project_id"],
        row["name"] or row["master_id"],
        row["status"].lower() in FINISHED,
        tuple(path for path in (row["video_path"], row["file_path"]) if path),
        _shots(row["shots_config"]),
    )


def _rendition(row: Record) -> OldRendition:
    _require_key(row, "master_video_id")
    if not row["video_path"]:
        raise InvalidRow("it has no video_path")
    name = "/".join(row[column] for column in ("master_video_id", "format", "sequence"))
    return OldRendition(name, row["master_video_id"], (row["video_path"],))


def _require_key(row: Record, column: str) -> None:
    if problem := key_problem(column, row[column]):
        raise InvalidRow(problem)


def _require_project(row: Record, projects: Collection[str]) -> None:
    """SQLite leaves rows of deleted projects behind."""
    if row["project_id"] not in projects:
        raise InvalidRow(f"there is no project {row['project_id']!r}")


def _shots(text: str) -> tuple[str, ...]:
    """A list of ids, or lists of them as `_PARTS`."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidRow("shots_config is no JSON, or too deep") from None
    if isinstance(config, dict):
        parts = [config.get(name) or [] for name in _PARTS]
        if not config.keys() & set(_PARTS) or not all(isinstance(part, list) for part in parts):
            raise InvalidRow(f"shots_config is no object with lists {', '.join(_PARTS)}")
        config = [one for part in parts for one in part]
    if config == []:
        return ()
    if isinstance(config, list):
        config = [str(one) if type(one) is int else one for one in config]
    entries, problem = read_config(config)
    if problem:
        raise InvalidRow(problem)
    return tuple(entry.asset_id for entry in entries)
