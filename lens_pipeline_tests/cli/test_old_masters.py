"""Films of an older system come over as they are: `import-sqlite`, `adopt --masters`."""

import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from lens_pipeline.definitions import defs
from lens_pipeline.defs.resources import LensResource
from lens_pipeline.defs.sensors import derivative_sensor
from lens_pipeline.derivatives.registry import MASTER, SCALED
from lens_pipeline.derivatives.status import assess, usable
from lens_pipeline.event_log.history import State
from lens_pipeline_tests.media.samples import scene, write_video
from lens_pipeline_tests.support import sources
from lens_pipeline_tests.support.project import PROJECT, Project
from lens_pipeline_tests.support.site import Site

pytestmark = pytest.mark.slow

# As many as an old site had: LENS_TEST_OLD_MASTERS=219.
_COUNT = int(os.environ.get("LENS_TEST_OLD_MASTERS", "12"))
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
    assert done.err == "" or "project_assets" in done.err or "master_videos" in done.err, done.err
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
            asked = schedule(context)
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
    assert _ready(site) == (_COUNT, 1)
    assert len(site.materializations("master_video")) == _COUNT
    object.__setattr__(MASTER, "code_version", version)
    # Other shots are another film.
    site.sql("""UPDATE master_videos SET shots_config = '["a", "a"]' WHERE master_id = 'm1'""")
    assert _ready(site) == (_COUNT - 1, 1)


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
