"""Rows that are gone, and partition keys that have grown old."""

import datetime as dt
import hashlib
import json
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from lens_pipeline.catalog.catalog import Catalog
from lens_pipeline.core.locks import held, partition_lock
from lens_pipeline.definitions import defs
from lens_pipeline.defs.resources import LensResource
from lens_pipeline.defs.retention import prune
from lens_pipeline.defs.sensors import removed_generations
from lens_pipeline.derivatives import removal
from lens_pipeline.derivatives.registry import (
    CHECKED_SHOT,
    MASTER,
    MASTER_POSTER,
    PHOTO_ORIGINAL,
    PREVIEW,
)
from lens_pipeline.derivatives.removal import remove_vanished, retire
from lens_pipeline.engine.run_execution import execute
from lens_pipeline.engine.run_queue import create_run, submit_run
from lens_pipeline.engine.run_requests import plan_runs
from lens_pipeline.errors import StoreUnavailable
from lens_pipeline.event_log.tags import EXTRA_TAG
from lens_pipeline.storage.file_store import FileStore
from lens_pipeline_tests.support import sources
from lens_pipeline_tests.support.project import Project
from lens_pipeline_tests.support.site import Site, eventually

URL = "https://example.com/x.jpg"


def library(site: Site, ids: Iterable[str]) -> None:
    """Rows whose previews exist, are recorded, and have a partition."""
    ids = list(ids)
    site.add_many(ids, lambda _: URL)
    folder = site.store / "u1" / "previews"
    folder.mkdir(parents=True, exist_ok=True)
    for row_id in ids:
        (folder / f"{row_id}_preview.webp").write_bytes(b"webp")
    adopted = site.lens("adopt", "--json").json["adopted"]
    assert adopted == len(ids)
    site.dagster.add_dynamic_partitions("photos", ids)


def tick(site: Site, cursor: str | None = None) -> tuple[list[str], str, str]:
    """The partitions that leave their set, what was said, and the cursor."""
    context = dg.build_sensor_context(
        instance=site.dagster, cursor=cursor, resources={"lens": LensResource()}
    )
    before = keys_of(site, "photos")
    result = removed_generations(context)
    assert isinstance(result, dg.SensorResult)
    after = set(keys_of(site, "photos"))
    removed = sorted(key for key in before if key not in after)
    said = result.skip_reason.skip_message if result.skip_reason else None
    return removed, said or "", result.cursor or ""


@pytest.mark.slow
def test_a_deleted_row_takes_its_preview_along(site: Site) -> None:
    """A user's deleted photo whose preview can still be looked at."""
    library(site, ["a", "b", "c"])
    site.sql("DELETE FROM generations WHERE id = 'b'")
    removed, _, _ = tick(site)
    assert removed == ["b"]
    assert site.objects() == {"u1/previews/a_preview.webp", "u1/previews/c_preview.webp"}
    assert tick(site)[0] == []


@pytest.mark.slow
def test_a_row_that_comes_back_is_made_again(site: Site) -> None:
    """A restored backup whose photos count as ready without a file."""
    library(site, ["a"])
    site.sql("DELETE FROM generations")
    tick(site)
    site.add("a", URL)
    assert site.status("a")["state"] == "none"


@pytest.mark.slow
def test_an_unfinished_row_is_not_a_deleted_one(site: Site) -> None:
    """A preview that vanishes while its photo is being made again."""
    library(site, ["a"])
    site.sql("UPDATE generations SET status = 'processing'")
    assert tick(site)[0] == []
    assert len(site.objects()) == 1


@pytest.mark.slow
def test_a_lost_table_deletes_nothing(site: Site) -> None:
    """A restore in progress that costs every preview there is."""
    library(site, [f"p{number:03}" for number in range(100)])
    site.sql("DELETE FROM generations WHERE id >= 'p070'")
    removed, said, cursor = tick(site)
    assert removed == []
    assert "30 of 100 rows are missing" in said
    assert len(site.objects()) == 100
    assert json.loads(cursor)["preview"] == ""


@pytest.mark.slow
@pytest.mark.parametrize("gone", [20, 21])
def test_a_handful_is_deleted_whatever_its_share(site: Site, gone: int) -> None:
    """A small site that can never delete a photo."""
    library(site, [f"p{number:03}" for number in range(30)])
    site.sql("DELETE FROM generations WHERE id < :end", end=f"p{gone:03}")
    removed, _, _ = tick(site)
    assert len(removed) == (20 if gone == 20 else 0)
    assert len(site.objects()) == (10 if gone == 20 else 30)


@pytest.mark.slow
def test_what_is_in_flight_is_left_for_later(site: Site) -> None:
    """A preview that is written right after it was deleted, and then belongs to nobody."""
    library(site, ["a", "b", "kept"])
    (tags,) = plan_runs(site.dagster, PREVIEW, ["a"], 20, "backfill", force=True)
    run_id = submit_run(site.dagster, defs().get_repository_def().get_job("previews"), tags)
    site.sql("DELETE FROM generations WHERE id <> 'kept'")
    assert tick(site)[0] == ["b"]
    assert site.objects() == {"u1/previews/a_preview.webp", "u1/previews/kept_preview.webp"}
    run = site.dagster.get_run_by_id(run_id)
    assert run is not None
    site.dagster.report_run_canceled(run)
    assert tick(site)[0] == ["a"]
    assert site.objects() == {"u1/previews/kept_preview.webp"}


@pytest.mark.slow
def test_a_tick_looks_at_many_pages_and_deletes_a_bounded_number(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deleted photo that stays for a day and a half, behind a million others."""
    monkeypatch.setattr(removal, "_PAGE", 4)
    monkeypatch.setattr(removal, "_MOST_CLEANED", 2)
    library(site, [f"p{number:02}" for number in range(40)])
    site.sql("DELETE FROM generations WHERE id IN ('p01', 'p18', 'p33')")
    done, said, cursor = tick(site)
    assert (done, json.loads(cursor)["preview"]) == (["p01", "p18"], "p19")
    assert "preview: 20 looked at, 2 removed" in said
    assert tick(site, cursor)[0] == ["p33"]


def dagster_sql(site: Site, statement: str, **values: object) -> list[Any]:
    engine = sa.create_engine(site.dagster_url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        result = connection.execute(sa.text(statement), values)
        return list(result.all()) if result.returns_rows else []


def keys_of(site: Site, partition_set: str) -> list[str]:
    """In the order in which they were added. A process may know an older set for a second."""
    query = "SELECT partition FROM dynamic_partitions WHERE partitions_def_name = :name ORDER BY id"
    return [row.partition for row in dagster_sql(site, query, name=partition_set)]


def record_backfill(site: Site, status: str) -> None:
    dagster_sql(
        site,
        "INSERT INTO bulk_actions (key, status, timestamp, body) VALUES ('b', :status, now(), '')"
        " ON CONFLICT (key) DO UPDATE SET status = :status",
        status=status,
    )


@pytest.mark.slow
def test_no_key_leaves_the_set_while_a_backfill_is_unfinished(site: Site) -> None:
    """A backfill of the UI that fails, and cancels all its runs, because of one deleted photo."""
    library(site, ["a", "b", "old"])
    age(site, ["old"], 91)
    site.sql("DELETE FROM generations WHERE id = 'a'")
    for status in ("REQUESTED", "CANCELING", "FAILING"):
        record_backfill(site, status)
        assert tick(site)[0] == []
        assert retire(site.pipeline, "photos") == 0
        site.lens("remove-missing", "--yes")
    assert site.objects() == {"u1/previews/b_preview.webp", "u1/previews/old_preview.webp"}
    assert keys_of(site, "photos") == ["a", "b", "old"]
    record_backfill(site, "COMPLETED_FAILED")
    assert tick(site)[0] == ["a"]
    assert retire(site.pipeline, "photos") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "state"), [("FAILED", "none"), ("FAILING", "none"), ("CANCELED", "dead")]
)
def test_a_run_that_its_failed_backfill_cancelled_is_no_decision(
    site: Site, status: str, state: str
) -> None:
    """Twenty dead letters, cancelled by nobody."""
    record_backfill(site, status)
    site.add("a", URL)
    (tags,) = plan_runs(site.dagster, PREVIEW, ["a"], 20, "backfill")
    job = defs().get_repository_def().get_job("previews")
    run = site.dagster.get_run_by_id(
        submit_run(site.dagster, job, tags | {"dagster/backfill": "b"})
    )
    assert run is not None
    site.dagster.report_run_canceled(run)
    assert site.status("a")["state"] == state
    assert ("a" in site.dead_letters()) == (state == "dead")


@pytest.mark.slow
def test_a_run_of_its_poster_keeps_the_key_of_a_master(site: Site) -> None:
    """A run that fails inside Dagster because its partition was taken away."""
    site.sql(
        "INSERT INTO master_videos (master_id, project_id, name, shots_config)"
        " VALUES ('m1', 'p', 'm', '[]'), ('m2', 'p', 'm', '[]')"
    )
    site.dagster.add_dynamic_partitions("masters", ["m1", "m2"])
    for key in ("m1", "m2"):
        made = dg.AssetMaterialization("master_video", partition=key)
        site.dagster.report_runless_asset_event(made)
    age(site, ["m1", "m2"], 91)
    (tags,) = plan_runs(site.dagster, MASTER_POSTER, ["m1"], 1, "backfill")
    job = defs().get_repository_def().get_job("masters")
    submit_run(site.dagster, job, tags, MASTER_POSTER.run_assets)
    assert retire(site.pipeline, "masters") == 1
    assert keys_of(site, "masters") == ["m1"]
    site.sql("DELETE FROM master_videos WHERE master_id = 'm1'")
    remove_vanished(site.pipeline, site.dagster, MASTER, "", however_many=True)
    assert keys_of(site, "masters") == ["m1"]


def test_a_store_that_is_away_is_waited_for_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred time-outs in one tick, until no sensor ticks any more."""
    asked: list[str] = []

    def refuse(_: FileStore, key: str) -> None:
        asked.append(key)
        raise StoreUnavailable("away")

    library(site, ["a", "b", "c", "d"])
    site.sql("DELETE FROM generations WHERE id IN ('b', 'c', 'd')")
    monkeypatch.setattr(FileStore, "delete", refuse)
    removed, said, _ = tick(site)
    assert (removed, len(asked)) == ([], 1)
    assert "3 could not be deleted from the store: b, c, d" in said


def test_an_empty_table_deletes_nothing_of_a_small_library(site: Site) -> None:
    """The wrong database, which costs a small site everything it has."""
    library(site, ["a", "b"])
    site.sql("DELETE FROM generations")
    removed, said, _ = tick(site)
    assert removed == []
    assert "lens remove-missing" in said
    assert len(site.objects()) == 2


def test_a_lost_table_deletes_nothing_of_a_library_that_has_lost_some_before(site: Site) -> None:
    """A page of which one row was deleted properly, which makes the others fair game."""
    library(site, [f"p{number:02}" for number in range(21)])
    site.sql("DELETE FROM generations WHERE id = 'p00'")
    assert tick(site)[0] == ["p00"]
    site.sql("DELETE FROM generations")
    removed, said, _ = tick(site)
    assert removed == []
    assert "20 of 20 rows are missing" in said
    assert len(site.objects()) == 20


@pytest.mark.slow
def test_a_store_that_keeps_what_is_to_go_is_told(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An account's pictures that stay although the command said that all was well."""

    def refuse(*_: object) -> None:
        raise StoreUnavailable("the store is away")

    library(site, ["a", "b"])
    site.sql("DELETE FROM generations")
    with monkeypatch.context() as broken:
        broken.setattr(FileStore, "delete", refuse)
        done = site.lens("remove-missing", "--yes")
    assert done.code == 1
    assert "2 could not be deleted from the store: a, b" in done.out
    assert site.lens("remove-missing", "--yes").code == 0
    assert site.objects() == set()


@pytest.mark.slow
def test_people_can_remove_however_many(site: Site) -> None:
    """An account that is closed, whose pictures then stay for ever."""
    library(site, ["a", "b"])
    site.sql("DELETE FROM generations")
    done = site.lens("remove-missing", "--yes")
    assert done.code == 0, done.err
    assert site.objects() == set()
    assert tick(site)[0] == []


def age(site: Site, keys: list[str], days: int) -> None:
    """Let these partitions, and everything recorded about them, be of days ago."""
    for table, column in (("event_logs", "timestamp"), ("dynamic_partitions", "create_timestamp")):
        dagster_sql(
            site,
            f'UPDATE {table} SET "{column}" = "{column}" - make_interval(days => :days)'
            " WHERE partition = ANY(:keys)",
            days=days,
            keys=keys,
        )


@pytest.mark.slow
def test_old_keys_leave_the_set_and_nothing_else_does(site: Site) -> None:
    """A partition set that grows for ever, or a library that is made again as it shrinks."""
    library(site, ["old", "young"])
    age(site, ["old"], 91)
    assert retire(site.pipeline, "photos") == 1
    assert keys_of(site, "photos") == ["young"]
    assert len(site.objects()) == 2
    assert site.status("old")["state"] == "ready"
    assert site.once()["found"] == 0


@pytest.mark.slow
def test_a_retired_key_comes_back_for_a_forced_backfill(site: Site) -> None:
    """A photo of last year that can never be made again."""
    library(site, ["old"])
    age(site, ["old"], 91)
    retire(site.pipeline, "photos")
    site.sql("UPDATE generations SET asset_url = ''")
    result = site.once()
    assert (result["found"], result["failed"]) == (1, 1)
    assert keys_of(site, "photos") == ["old"]


@pytest.mark.slow
def test_a_key_retires_after_a_run_of_nothing(site: Site) -> None:
    """Keys that stay for ever because something looked at them once more."""
    library(site, ["cancelled", "looked-at", "soft-deleted", "young"])
    job = defs().get_repository_def().get_job("previews")
    for key in ("cancelled", "looked-at"):
        (tags,) = plan_runs(site.dagster, PREVIEW, [key], 20, "backfill")
        run_id = create_run(site.dagster, job, tags, silent=True).run_id
        run = site.dagster.get_run_by_id(run_id)
        assert run is not None
        if key == "cancelled":
            site.dagster.report_run_canceled(run)
        else:
            execute(site.dagster, run_id)
    site.sql("UPDATE generations SET status = 'deleted' WHERE id = 'soft-deleted'")
    site.dagster.add_dynamic_partitions("photos", ["never-run"])
    age(site, ["cancelled", "looked-at", "never-run", "soft-deleted"], 91)
    assert retire(site.pipeline, "photos") == 4
    assert keys_of(site, "photos") == ["young"]
    assert len(site.objects()) == 4


@pytest.mark.slow
def test_a_failed_check_of_a_shot_retires_and_a_failed_poster_keeps_its_master(site: Site) -> None:
    """A set of shots that grows for ever, or a dead letter that leaves its page."""
    Project(site).asset("clip", asset_url="u1/uploads/none.mp4")
    Project(site).master("m1", ["clip"])
    for derivative, key in ((CHECKED_SHOT, "clip"), (MASTER, "m1")):
        (tags,) = plan_runs(site.dagster, derivative, [key], 1, "backfill")
        job = defs().get_repository_def().get_job(derivative.job)
        run_id = create_run(site.dagster, job, tags, derivative.run_assets).run_id
        execute(site.dagster, run_id)
    age(site, ["clip", "m1"], 91)
    assert retire(site.pipeline, "shots") == 1
    assert retire(site.pipeline, "masters") == 0


@pytest.mark.slow
def test_a_key_with_something_newer_than_its_preview_stays(site: Site) -> None:
    """A dead letter that leaves the page on which it is looked for."""
    library(site, ["old"])
    site.sql("UPDATE generations SET asset_url = ''")
    site.once()
    age(site, ["old"], 91)
    assert retire(site.pipeline, "photos") == 0


def test_a_retired_row_is_still_removed_with_its_file(site: Site) -> None:
    """Files of deleted rows that stay because their keys had been tidied away."""
    library(site, ["old"])
    age(site, ["old"], 91)
    retire(site.pipeline, "photos")
    site.sql("DELETE FROM generations")
    tick(site)
    assert site.objects() == set()


def _originals_are_deleted(site: Site, days: int) -> int:
    """As if it were so many days later."""
    before = dt.datetime.now(dt.UTC) + dt.timedelta(days=days - 30)
    return removal.delete_originals(site.pipeline, site.dagster, before)


@pytest.mark.slow
def test_an_original_outlives_its_row_for_a_month(site: Site, photo: Callable[[str], str]) -> None:
    """A row that was deleted by mistake, and a provider that deleted its file long ago."""
    for name in ("back", "gone", "used", "stays"):
        site.add(name, photo(name))
    site.once()
    Project(site).asset("shot", generation_id="used")
    kept = site.originals()
    site.sql("DELETE FROM generations WHERE id <> 'stays'")
    tick(site)
    assert site.objects() == {"u1/previews/stays_preview.webp"}
    assert _originals_are_deleted(site, 29) == 0
    assert site.originals() == kept
    site.add("back", photo("back"))
    assert _originals_are_deleted(site, 31) == 1
    assert sorted(key.split("_")[0] for key in site.originals()) == [
        f"u1/originals/{name}" for name in ("back", "stays", "used")
    ]
    site.once()
    assert site.status("back")["state"] == "ready"
    _originals_are_deleted(site, 31)
    assert len(site.originals()) == 3


@pytest.mark.slow
def test_an_original_goes_when_its_project_has_let_go_of_it(
    site: Site, photo: Callable[[str], str]
) -> None:
    """One that a project used at the end of its grace, and that then stayed for ever."""
    site.add("used", photo("used"))
    site.once()
    Project(site).asset("shot", generation_id="used")
    site.sql("DELETE FROM generations")
    site.lens("remove-missing", "--yes")
    for days in (31, 200):
        assert _originals_are_deleted(site, days) == 0
        prune(site.pipeline, dt.datetime.now(dt.UTC) + dt.timedelta(days=days))
    site.sql("DELETE FROM project_assets")
    assert _originals_are_deleted(site, 201) == 1
    assert site.originals() == {}
    # It is not looked for again, and the event log forgets it.
    asset = PHOTO_ORIGINAL.asset
    assert site.pipeline.log.kept_removals(asset) == {}

    def is_forgotten() -> bool:
        prune(site.pipeline, dt.datetime.now(dt.UTC) + dt.timedelta(days=300))
        return not site.pipeline.log.histories(asset, ["used"])

    eventually(is_forgotten)


@pytest.mark.slow
def test_a_restored_original_stays_until_its_row_is_there_and_gone_again(
    site: Site, photo: Callable[[str], str], tmp_path: Path
) -> None:
    """A row that was deleted by mistake, and an operator who needs a month to insert it again."""
    for name in ("a", "other", "stays"):
        site.add(name, photo(name))
    site.once()
    (path,) = (key for key in site.originals() if "/a_" in key)
    body = site.originals()[path]
    finished_at = site.sql("SELECT updated_at FROM generations WHERE id = 'a'")[0][0]
    site.sql("DELETE FROM generations WHERE id IN ('a', 'other')")
    tick(site)
    # What was recorded of the original is pruned before its grace is over.
    prune(site.pipeline, dt.datetime.now(dt.UTC) + dt.timedelta(days=200))

    done = site.lens("restore", "a", "--to", str(tmp_path), "--json")
    (told,) = done.json["restored"]
    assert dt.datetime.fromisoformat(told.pop("finished_at")) == finished_at
    content = {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    row = {"id": "a", "type": "photo", "user_id": "u1", "row": "gone"}
    assert told == {**row, **content, "path": path}
    assert (tmp_path / path.rpartition("/")[2]).read_bytes() == body
    said = site.lens("restore", "a").out.splitlines()
    assert said[0].startswith("a: its original is not deleted any more; to insert its row again")
    assert said[1:3] == ["  type: photo", "  user_id: u1"]
    tick(site)
    assert _originals_are_deleted(site, 31) == 1
    assert set(site.originals()) == {path, *(key for key in site.originals() if "/stays_" in key)}

    # The row comes back with the path as its source, and goes again.
    site.add("a", path)
    site.once()
    assert site.status("a")["state"] == "ready"
    site.sql("DELETE FROM generations WHERE id = 'a'")
    tick(site)
    assert _originals_are_deleted(site, 29) == 0
    assert _originals_are_deleted(site, 31) == 1


@pytest.mark.slow
@pytest.mark.parametrize("link", ["same", "other"])
def test_files_are_made_of_a_restored_original_whatever_the_link_of_its_row(
    site: Site, photo: Callable[[str], str], link: str
) -> None:
    """A row that is back with a link that is dead or is another one, and a dead letter for ever."""
    for name in ("a", "stays"):
        site.add(name, photo(name))
    site.once()
    kept = site.originals()
    url = site.sql("SELECT asset_url FROM generations WHERE id = 'a'")[0][0]
    url = url if link == "same" else "http://127.0.0.1/other.jpg"
    site.sql("DELETE FROM generations WHERE id = 'a'")
    tick(site)
    site.add("a", url)
    if link == "other":
        site.once()
        assert site.status("a")["state"] == "dead"
    (told,) = site.lens("restore", "a", "--json").json["restored"]
    assert told["row"] == "recorded"
    assert site.once()["failed"] == 0
    assert site.status("a")["state"] == "ready"
    assert site.originals() == kept
    assert site.lens("restore", "a").code == 1


@pytest.mark.slow
def test_a_failed_attempt_at_a_row_that_was_back_begins_its_grace_anew(
    site: Site, photo: Callable[[str], str]
) -> None:
    for name in ("a", "stays"):
        site.add(name, photo(name))
    site.once()
    site.sql("DELETE FROM generations WHERE id = 'a'")
    tick(site)
    assert site.lens("restore", "a").code == 0
    site.add("a", "http://127.0.0.1/other.jpg")
    site.once()
    site.sql("DELETE FROM generations WHERE id = 'a'")
    tick(site)
    assert _originals_are_deleted(site, 31) == 1


@pytest.mark.slow
def test_originals_are_deleted_under_locks(
    site: Site, photo: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An original that `lens restore` or a run has found, and that is deleted a moment later."""
    for name in ("a", "b", "c", "stays"):
        site.add(name, photo(name))
    site.once()
    site.sql("DELETE FROM generations WHERE id <> 'stays'")
    tick(site)
    said: list[str] = []
    scans: list[int] = []
    delete, used_sources = FileStore.delete, Catalog.used_sources

    def restored_before(url: str, locks: Iterable[int]) -> AbstractContextManager[set[int]]:
        assert site.lens("restore", "b").code == 0
        return held(url, locks)

    def restored_meanwhile(store: FileStore, key: str) -> None:
        said.append(site.lens("restore", "a").err)
        delete(store, key)

    def counted(catalog: Catalog, keys: Iterable[str]) -> set[str]:
        keys = list(keys)
        scans.append(len(keys))
        return used_sources(catalog, keys)

    monkeypatch.setattr(removal, "held", restored_before)
    monkeypatch.setattr(FileStore, "delete", restored_meanwhile)
    monkeypatch.setattr(Catalog, "used_sources", counted)
    # A run of a row that is back makes its picture.
    with held(site.dagster_url, [partition_lock("preview", "c")]):
        assert _originals_are_deleted(site, 31) == 1
    assert "has it in work: try again" in said[0]
    assert scans == [1]
    assert _originals_are_deleted(site, 31) == 1
    assert {key.split("/")[2][0] for key in site.originals()} == {"b", "s"}


@pytest.mark.slow
def test_what_cannot_be_restored_is_said_in_a_line(site: Site, photo: Callable[[str], str]) -> None:
    for name in ("a", "stays"):
        site.add(name, photo(name))
    site.once()
    site.sql("DELETE FROM generations WHERE id = 'a'")
    tick(site)
    (path,) = (key for key in site.originals() if "/a_" in key)
    (site.store / path).unlink()
    done = site.lens("restore", "a", "stays", "none")
    assert done.code == 1
    assert done.out == ""
    assert [line for line in done.err.splitlines() if line.startswith("lens: ")] == [
        f"lens: a: its original {path} is gone from the store",
        "lens: stays: no original of it is to be deleted, so none can be restored",
        "lens: none: no generation has this id, and none had it",
    ]


@pytest.mark.slow
def test_the_application_s_own_files_are_never_deleted(site: Site) -> None:
    """An upload that two rows share, of which one was deleted."""
    (site.store / "u1").mkdir()
    (site.store / "u1/mine.jpg").write_bytes(sources.jpeg())
    site.add("p1", "u1/mine.jpg")
    site.once()
    site.sql("DELETE FROM generations")
    assert site.lens("remove-missing", "--yes", "--now").code == 0
    assert site.objects() == {"u1/mine.jpg"}


@pytest.mark.slow
def test_what_is_restored_where_only_further_results_were_written(
    site: Site, photo: Callable[[str], str]
) -> None:
    """An operator who was told to make a task's second picture the source of its row."""
    (site.store / "u1").mkdir()
    (site.store / "u1/mine.jpg").write_bytes(sources.jpeg())
    site.add("a", "u1/mine.jpg")
    site.add("stays", photo("stays"))
    site.once()
    told = dg.AssetObservation(
        "photo_generation",
        partition="a",
        metadata={"extra_urls": [photo("second")], "revision": "0" * 12},
        tags={EXTRA_TAG: "0" * 12},
    )
    site.dagster.report_runless_asset_event(told)
    site.once()
    (path,) = (key for key in site.originals() if "/a_" in key)
    for row_is_back in (False, True):
        site.sql("DELETE FROM generations WHERE id = 'a'")
        tick(site)
        if row_is_back:
            site.add("a", "u1/mine.jpg")
        said = site.lens("restore", "a").out.splitlines()
        assert said[0].startswith("a: no original of it was written here, but further results")
        assert said[-1] == f"  path: {path}"
        assert "asset_url" not in said[0]
    site.once()
    assert _originals_are_deleted(site, 31) == 0
    assert site.metadata("photo_generation", "a")["path"].value == "u1/mine.jpg"


@pytest.mark.slow
def test_what_a_killed_run_stored_goes_with_its_row(
    site: Site, photo: Callable[[str], str]
) -> None:
    """A user's deleted photo that stayed in the store, as no event told whose it was."""
    for name in ("a", "stays"):
        site.add(name, photo(name))
    site.once()
    dagster_sql(
        site,
        "DELETE FROM event_logs WHERE partition = 'a' AND asset_key LIKE '%photo_generation%'"
        " AND dagster_event_type = 'ASSET_MATERIALIZATION'",
    )
    site.sql("DELETE FROM generations WHERE id = 'a'")
    assert site.lens("remove-missing", "--yes", "--now").code == 0
    assert [key for key in site.objects() if "/a_" in key] == []
    assert not any("/a_" in key for key in site.originals())


@pytest.mark.slow
def test_what_another_row_names_stays(site: Site, photo: Callable[[str], str]) -> None:
    """A site that takes an original of one row as the source of a second one."""
    for name in ("first", "moved"):
        site.add(name, photo(name))
    site.once()
    shared = next(key for key in site.originals() if "/first_" in key)
    site.add("second", shared)
    (site.store / "u1/own.jpg").write_bytes(sources.jpeg())
    site.sql("UPDATE generations SET asset_url = 'u1/own.jpg' WHERE id = 'moved'")
    site.once()
    site.sql("DELETE FROM generations WHERE id <> 'second'")
    assert site.lens("remove-missing", "--yes", "--now").code == 0
    assert set(site.originals()) == {shared}
    assert (site.store / "u1/own.jpg").exists()


@pytest.mark.slow
def test_a_photo_that_became_a_video_is_not_gone(site: Site, photo: Callable[[str], str]) -> None:
    site.add("p1", photo("p1"))
    site.once()
    site.sql("UPDATE generations SET type = 'video'")
    tick(site)
    assert len(site.originals()) == len(site.objects()) == 1
