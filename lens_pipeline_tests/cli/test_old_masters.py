"""Films of an older system come over as they are: `import-sqlite`, `adopt --masters`."""

import json
import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from lens_pipeline.cli.adoption import old_database
from lens_pipeline.definitions import defs, job
from lens_pipeline.defs.resources import LensResource
from lens_pipeline.defs.sensors import derivative_sensor
from lens_pipeline.derivatives.registry import LOCAL, MASTER, QUEUE_TAG, SCALED
from lens_pipeline.derivatives.status import assess, usable
from lens_pipeline.engine.run_execution import execute
from lens_pipeline.engine.run_queue import create_run
from lens_pipeline.engine.run_requests import plan_runs
from lens_pipeline.event_log.history import State
from lens_pipeline_tests.media.samples import scene, write_video
from lens_pipeline_tests.support.project import PROJECT, Project
from lens_pipeline_tests.support.site import Site, lens

pytestmark = pytest.mark.slow

# As many as an old site had: LENS_TEST_OLD_MASTERS=219.
_COUNT = int(os.environ.get("LENS_TEST_OLD_MASTERS", "4"))
_SCHEMA = """
CREATE TABLE projects (project_id TEXT PRIMARY KEY, name TEXT);
CREATE TABLE project_assets (asset_id TEXT, project_id TEXT, asset_type TEXT, file_path TEXT,
                             original_filename TEXT);
CREATE TABLE master_videos (master_id TEXT, project_id TEXT, name TEXT, status TEXT,
                            video_path TEXT, file_path TEXT, shots_config TEXT);
CREATE TABLE scaled_videos (id INTEGER PRIMARY KEY, master_video_id TEXT, format TEXT,
                            sequence INTEGER, video_path TEXT);
INSERT INTO projects VALUES ('p1', 'Trailer');
"""
_ASSET = {"project_id": PROJECT, "asset_type": "hook", "original_filename": None}
_MASTER = {
    "project_id": PROJECT, "name": "A film", "status": "completed", "video_path": None,
    "file_path": None, "shots_config": '["a"]',
}  # fmt: skip


class Old:
    """An old system: its database and the files of its machine."""

    def __init__(self, directory: Path) -> None:
        self.media = directory / "media"
        self.file = directory / "old.db"
        self._film = directory / "film.mp4"
        write_video(self._film, [scene(160, 120, seed=n) for n in range(24)], audio_seconds=1.0)
        with closing(sqlite3.connect(self.file)) as database:
            database.executescript(_SCHEMA)

    def rows(self, table: str, *rows: Mapping[str, Any]) -> None:
        with closing(sqlite3.connect(self.file)) as database, database:
            for row in rows:
                names, marks = ", ".join(row), ", ".join("?" for _ in row)
                database.execute(
                    f"INSERT INTO {table} ({names}) VALUES ({marks})", list(row.values())
                )

    def film(self, name: str, body: bytes | None = None) -> str:
        """A file below the media, by the path that the old machine had for it."""
        path = self.media / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # A free box makes each of them another file.
        free = (len(name) + 8).to_bytes(4, "big") + b"free" + name.encode()
        path.write_bytes(self._film.read_bytes() + free if body is None else body)
        return f"/app/storage/{name}"


@pytest.fixture
def old(tmp_path: Path) -> Old:
    return Old(tmp_path)


def _import(site: Site, old: Old, *options: str) -> Any:
    done = site.lens("import-sqlite", str(old.file), "--media", str(old.media), "--json", *options)
    return done.json


def _refused(done: Any) -> dict[tuple[str, str], str]:
    return {(one["table"], one["id"]): one["reason"] for one in done["refused"]}


def _planned(site: Site) -> Sequence[Sequence[str]]:
    """The assets of the runs that sensors and schedules ask for, of masters and renditions."""
    planned: list[Any] = []
    for derivative in (MASTER, SCALED):
        with dg.build_sensor_context(
            instance=site.dagster, resources={"lens": LensResource()}
        ) as context:
            said = derivative_sensor(derivative)(context)
        planned += said.run_requests or [] if isinstance(said, dg.SensorResult) else []
        schedule = defs().get_repository_def().get_schedule_def(f"backfill_{derivative.job}")
        with dg.build_schedule_context(
            instance=site.dagster, resources={"lens": LensResource()}
        ) as context:
            asked: Any = schedule(context)
        planned += [] if isinstance(asked, dg.SkipReason) else asked
    return [[key.to_user_string() for key in request.asset_selection or []] for request in planned]


def test_old_masters_are_there_and_never_made(
    site: Site, old: Old, environment: pytest.MonkeyPatch
) -> None:
    """Days of encoding for what lies on the disk already."""
    ids = [f"m{number}" for number in range(_COUNT)]
    old.rows("project_assets", _ASSET | {"asset_id": "a", "file_path": old.film("assets/a.mp4")})
    old.rows(
        "master_videos",
        *(
            _MASTER | {"master_id": one, "video_path": old.film(f"masters/master_{one}_17.mp4")}
            for one in ids
        ),
    )
    old.rows(
        "scaled_videos",
        {"master_video_id": "m0", "format": "9:16", "sequence": 1, "video_path": old.film("s.mp4")},
    )
    counts = {
        "projects": 1,
        "project_assets": {"added": 1, "present": 0},
        "master_videos": {"adopted": _COUNT, "to_make": 0, "present": 0},
        "scaled_videos": {"adopted": 1, "present": 0},
        "refused": [],
    }
    assert _import(site, old, "--dry-run") == counts
    assert (site.objects(), site.sql("SELECT FROM master_videos")) == (set(), [])

    started = time.monotonic()
    assert _import(site, old) == counts
    print(f"{_COUNT} masters in {time.monotonic() - started:.1f} s")

    stored = site.objects()
    assert {len(site.materializations(one.asset)) for one in (MASTER, SCALED)} == {_COUNT, 1}
    film = site.metadata("master_video", "m1")
    assert (site.store / str(film["path"].value)).read_bytes() == (
        old.media / "masters/master_m1_17.mp4"
    ).read_bytes()
    facts = ("width", "height", "duration_seconds", "adopted")
    assert [film[name].value for name in facts] == [160, 120, 1.0, True]
    assert _ready(site) == (_COUNT, 1)
    again = _import(site, old)
    assert (again["master_videos"], again["scaled_videos"]) == (
        {"adopted": 0, "to_make": 0, "present": _COUNT},
        {"adopted": 0, "present": 1},
    )
    assert site.objects() == stored

    # Their posters alone are called for: pictures, which the old system did not have.
    assert _planned(site) == [["master_poster"]] * min(_COUNT, 25)
    assert site.once()["ready"] == _COUNT
    # As another version, with other settings, and with other bytes at the shots' address.
    environment.setenv("LENS_MASTER_LOUDNESS", "-20")
    environment.setenv("LENS_MASTER_COMPATIBILITY", "source")
    version = MASTER.code_version
    object.__setattr__(MASTER, "code_version", version + "x")
    site.sql("UPDATE project_assets SET asset_url = 'elsewhere.mp4'")
    assert _planned(site) == []
    assert site.once()["found"] == 0
    assert site.lens("backfill", "--outdated", "--dry-run", "--json").json["found"] == 0
    # A sensor may have seen the row before its record.
    _run(site, "m1")
    assert _ready(site) == (_COUNT, 1)
    assert len(site.materializations("master_video")) == _COUNT
    object.__setattr__(MASTER, "code_version", version)
    engine = sa.create_engine(site.dagster_url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text("TRUNCATE event_logs, asset_event_tags"))
    assert _ready(site) == (0, 0)
    assert site.lens("adopt", "--json").json["adopted"] == 2 * _COUNT + 1
    assert _ready(site) == (_COUNT, 1)
    # Only an order makes one.
    site.sql("UPDATE project_assets SET asset_url = 'projects/p1/assets/a/a.mp4'")
    forced = site.lens("backfill", "m0", "--force", "--json").json
    assert (forced["ready"], forced["failed"]) == (2, 0)
    assert site.metadata("master_video", "m0")["method"].value == "copy"
    assert _ready(site) == (_COUNT, 1)
    # Other shots are another film.
    site.sql("""UPDATE master_videos SET shots_config = '["a", "a"]' WHERE master_id = 'm1'""")
    assert _ready(site) == (_COUNT - 1, 1)


def _run(site: Site, master_id: str) -> None:
    """A run that a sensor has asked for."""
    for tags in plan_runs(site.dagster, MASTER, [master_id], 1, "sensor", force=False):
        local = {**tags, QUEUE_TAG: LOCAL}
        execute(site.dagster, create_run(site.dagster, job("masters"), local, None).run_id)
    assert site.runs()[0].status is dg.DagsterRunStatus.SUCCESS


def _ready(site: Site) -> tuple[int, ...]:
    """How many masters and renditions are."""
    return tuple(
        sum(
            status.state is State.READY
            for page in site.pipeline.catalog.all_finished(derivative.kind)
            for status in assess(site.pipeline, derivative, usable(page))
        )
        for derivative in (MASTER, SCALED)
    )


def test_a_bad_row_is_named_and_keeps_no_other_away(site: Site, old: Old) -> None:
    """One broken film of two hundred, for which all are left behind."""
    good, cut = old.film("a.mp4"), old.film("cut.mp4", (old.media / "a.mp4").read_bytes()[:-9000])
    page = old.film("page.mp4", b"<html>gone</html>")
    old.film("deep/one.mp4")
    old.rows("projects", {"project_id": "../etc"})
    old.rows(
        "project_assets",
        _ASSET | {"asset_id": 7, "file_path": good, "original_filename": "My hook.MP4"},
        _ASSET | {"asset_id": 7, "file_path": good},
        _ASSET | {"asset_id": "b/c", "file_path": good},
        _ASSET | {"asset_id": "song", "file_path": good, "asset_type": "music"},
        _ASSET | {"asset_id": "gone", "file_path": "/app/gone.mp4"},
        _ASSET | {"asset_id": "page", "file_path": page},
        _ASSET | {"asset_id": "orphan", "file_path": good, "project_id": "deleted"},
        _ASSET | {"asset_id": "up", "file_path": "../../old.db"},
        _ASSET | {"asset_id": "one", "file_path": "/x/deep/one.mp4"},
        _ASSET | {"asset_id": "two", "file_path": "/y/one.mp4/../deep/one.mp4"},
        _ASSET | {"asset_id": "none", "file_path": None},
        _ASSET | {"asset_id": "taken", "file_path": good},
    )
    site.sql("INSERT INTO project_assets VALUES ('taken', 'p2', NULL, 'k.mp4')")
    parts = {"cta_ids": ["z"], "hook_ids": ["x", 7], "mid_ids": []}
    old.rows(
        "master_videos",
        _MASTER | {"master_id": "parts", "file_path": good, "shots_config": json.dumps(parts)},
        _MASTER | {"master_id": "second", "video_path": "/gone.mp4", "file_path": good},
        _MASTER | {"master_id": "json", "file_path": good, "shots_config": '["a"'},
        _MASTER | {"master_id": "keys", "file_path": good, "shots_config": '{"hooks": []}'},
        _MASTER | {"master_id": "cut", "file_path": cut},
        _MASTER | {"master_id": "gone", "file_path": "/app/x.mp4"},
        _MASTER | {"master_id": "nowhere"},
        _MASTER | {"master_id": "failed", "status": "failed", "shots_config": "[7]"},
        _MASTER | {"master_id": "lacks", "status": "created", "shots_config": '[7, "gone"]'},
    )
    scaled = {"format": "1:1", "sequence": 1, "video_path": good}
    old.rows(
        "scaled_videos",
        scaled | {"master_video_id": "parts"},
        scaled | {"master_video_id": "parts"},
        scaled | {"master_video_id": "cut"},
        scaled | {"master_video_id": "parts", "sequence": 2, "video_path": "/app/none.mp4"},
    )
    done = site.lens("import-sqlite", str(old.file), "--media", str(old.media), "--json")
    assert done.code == 1
    refused = _refused(done.json)
    for key, reason in {
        ("projects", "../etc"): "may only have",
        ("project_assets", "7"): "there twice",
        ("project_assets", "b/c"): "may only have",
        ("project_assets", "song"): "'music' is none of",
        ("project_assets", "gone"): "no file /app/gone.mp4",
        ("project_assets", "page"): "<html>",
        ("project_assets", "orphan"): "no project 'deleted'",
        ("project_assets", "up"): "no file ../../old.db",
        ("project_assets", "one"): "found for /x/deep/one.mp4 and for /y/one.mp4/../deep/one.mp4",
        ("project_assets", "two"): "found for /y/one.mp4/../deep/one.mp4 and for /x/deep/one.mp4",
        ("project_assets", "none"): "no file_path",
        ("project_assets", "taken"): "another project",
        ("master_videos", "json"): "no JSON",
        ("master_videos", "keys"): "hook_ids",
        ("master_videos", "cut"): "video is",
        ("master_videos", "gone"): "no file /app/x.mp4",
        ("master_videos", "nowhere"): "names no file",
        ("master_videos", "lacks"): "shot 'gone' is not there",
        ("scaled_videos", "parts/1:1/1"): "there twice",
        ("scaled_videos", "cut/1:1/1"): "master 'cut' is not there",
        ("scaled_videos", "parts/1:1/2"): "no file",
    }.items():
        assert reason in refused.pop(key), key
    assert refused == {}
    assert {table: done.json[table] for table in list(done.json)[1:4]} == {
        "project_assets": {"added": 1, "present": 0},
        "master_videos": {"adopted": 2, "to_make": 1, "present": 0},
        "scaled_videos": {"adopted": 1, "present": 0},
    }
    rows = site.sql("SELECT master_id, shots_config FROM master_videos")
    assert dict(map(tuple, rows)) == {"parts": ["x", "7", "z"], "second": ["a"], "failed": ["7"]}
    assets = dict(map(tuple, site.sql("SELECT asset_id, asset_url FROM project_assets")))
    assert assets == {
        "7": "projects/p1/assets/7/My hook.mp4",
        "taken": "k.mp4",
    }
    assert assets.keys() - {"taken"} == {
        key.split("/")[3] for key in site.objects() if "assets" in key
    }
    # Killed between the row and its record.
    engine = sa.create_engine(site.dagster_url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM event_logs WHERE partition = 'parts'"))
    said = site.lens("import-sqlite", str(old.file), "--media", str(old.media))
    assert "lens: master_videos 'cut': " in said.err
    assert "project_assets: 0 added, 1 present, 11 refused" in said.out
    assert "master_videos: 1 adopted, 0 to make, 3 present, 6 refused" in said.out
    # Those that were not finished are made, of the shots that came over.
    assert site.once()["failed"] == 0
    assert [event.partition for event in _made(site) if not _is_adopted(event)] == ["failed"]


def _made(site: Site) -> list[dg.AssetMaterialization]:
    events = [entry.asset_materialization for entry in site.materializations("master_video")]
    return [event for event in events if event is not None]


def _is_adopted(event: dg.AssetMaterialization) -> bool:
    return "adopted" in event.metadata


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("text", "file is not a database"),
        ("none", "there is no file"),
        ("folder", "there is no file"),
        ("locked", "database is locked: stop what writes to it"),
        ("table", "has no table scaled_videos"),
        ("column", "lacks shots_config"),
    ],
)
def test_what_is_no_database_of_the_old_system_is_told(
    old: Old, kind: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stack of calls, or half an import."""
    monkeypatch.setattr(old_database, "_LOCK_SECONDS", 0.1)
    with closing(sqlite3.connect(old.file, isolation_level=None)) as database:
        if kind == "text":
            old.file.write_text("not a database\n" * 100)
        elif kind in ("none", "folder"):
            old.file.unlink()
        if kind == "folder":
            old.file.mkdir()
        if kind in ("table", "column", "locked"):
            database.execute(
                {
                    "table": "DROP TABLE scaled_videos",
                    "column": "ALTER TABLE master_videos DROP COLUMN shots_config",
                    "locked": "BEGIN EXCLUSIVE",
                }[kind]
            )
        done = lens("import-sqlite", str(old.file))
    assert (done.code, done.err.count("\n"), said in done.err) == (2, 1, True), done.err


@pytest.mark.parametrize("place", ["store", "directory"])
def test_masters_that_lie_somewhere_are_adopted(
    site: Site, old: Old, tmp_path: Path, place: str
) -> None:
    """Rows that a host has had all along, of films that need not be made."""
    root = site.store if place == "store" else tmp_path / "films"
    folder = root / "films" / PROJECT
    folder.mkdir(parents=True)
    old.film("one.mp4")
    body = (old.media / "one.mp4").read_bytes()
    for name, content in {
        "one_17": body, "two_1": body, "two_2": body, "cut_1": body[:-9000], "long_b_1": body,
    }.items():  # fmt: skip
        (folder / f"master_{name}.mp4").write_bytes(content)
    for name in ("one", "two", "cut", "long", "long_b", "none"):
        Project(site).master(name, ["lost"])
    pattern = "films/{project_id}/master_{id}_*.mp4"
    pattern = pattern if place == "store" else f"{root}/{pattern}"
    planned = site.lens("adopt", "--masters", pattern, "--dry-run", "--json").json
    assert _made(site) == []
    done = site.lens("adopt", "--masters", pattern, "--json")
    assert (done.code, done.json) == (1, planned)
    refused = {one["id"]: one["reason"] for one in planned.pop("refused")}
    assert planned == {"found": 6, "adopted": 1, "missing": 1}
    assert refused.keys() == {"two", "cut", "long", "long_b"}
    assert "2 objects fit" in refused["two"]
    assert "video is" in refused["cut"]
    assert "may be of long_b as well" in refused["long"]
    assert Project(site).states("one")["master_video"] == "ready"
    assert (folder / "master_one_17.mp4").read_bytes() == body
    again = site.lens("adopt", "--masters", pattern, "--json").json
    assert (again["found"], again["adopted"]) == (5, 0)
    assert len(_made(site)) == 1


@pytest.mark.parametrize(
    "pattern", ["a/*.mp4", "{id}*", "*/{id}_*.mp4", "a//{id}.mp4", "/none/{id}.mp4"]
)
def test_a_pattern_that_names_no_single_master_is_refused(pattern: str) -> None:
    refused = lens("adopt", "--masters", pattern)
    assert (refused.code, "--masters" in refused.err) == (2, True)
