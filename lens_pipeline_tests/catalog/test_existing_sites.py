"""Sites that were there before the pipeline: their tables, roles, stores and previews."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lens_pipeline.storage.object_store import CACHE_IMMUTABLE, CACHE_REVALIDATE
from lens_pipeline_tests.support import sources
from lens_pipeline_tests.support.project import Project
from lens_pipeline_tests.support.servers import HostileServer, SeaweedServer
from lens_pipeline_tests.support.site import Site, as_role


@pytest.mark.slow
def test_five_thousand_existing_previews_are_recorded_without_making_one(
    site: Site, server: HostileServer
) -> None:
    """A move to the pipeline that renders a whole library again."""
    names = [f"p{number:04}" for number in range(5000)]
    url = server.url("/never-fetched.jpg", host="localhost")
    site.add_many([*names, "no-preview", "empty-preview"], lambda _: url, age="30 days")
    site.add_many(["ancient"], lambda _: url, age="100 days")
    folder = site.store / "u1" / "previews"
    folder.mkdir(parents=True)
    for name in [*names, "ancient"]:
        (folder / f"{name}_preview.webp").write_bytes(b"x")
    (folder / "empty-preview_preview.webp").touch()

    before = site.lens("once", "--json")
    assert (before.json["found"], before.code) == (0, 0)
    assert "lens adopt" in before.err
    planned = site.lens("adopt", "--dry-run", "--json").json
    assert planned == {"found": 5003, "adopted": 5001, "missing": 2}
    assert site.lens("status", "p0000", "--json").json["status"][0]["state"] == "none"
    assert site.lens("adopt", "--json").json == planned
    assert site.status("p4321")["state"] == "ready"
    assert site.status("ancient")["state"] == "ready"
    # Sets stay small: its key would only retire.
    assert set(site.dagster.get_dynamic_partitions("photos")) == set(names)
    metadata = site.metadata("preview", "p4321")
    assert metadata["path"].value == "u1/previews/p4321_preview.webp"
    assert metadata["bytes"].value == 1
    assert site.lens("backfill", "--dry-run", "--json").json["found"] == 2
    assert server.requests.total() == 0
    assert site.runs() == []


TABLES = "generations, project_assets, master_videos, scaled_videos"
HOST_TABLE = """
    CREATE TABLE generations (
      id uuid PRIMARY KEY, user_id uuid NOT NULL, type varchar(16), status text,
      asset_url text, task_id text, created_at timestamptz DEFAULT now(),
      updated_at timestamptz DEFAULT now(), prompt text, preview_status text, preview_path text,
      poster_path text, error text, video_path text, meta jsonb)
"""


@pytest.mark.slow
def test_a_hosts_table_with_uuids_and_a_reading_role_is_enough(
    site: Site, role: str, photo: Callable[[str], str], environment: pytest.MonkeyPatch
) -> None:
    """A site that has to change its schema, or hand out rights, to get previews."""
    site.sql("DROP TABLE generations")
    site.sql(HOST_TABLE)
    site.sql(f"GRANT SELECT ON {TABLES} TO {role}")
    first, second = str(uuid.uuid4()), str(uuid.uuid4())
    user = str(uuid.uuid4())
    site.add(first, photo("a"), user_id=user)
    site.add(second, "", user_id=user)
    before = site.sql("SELECT * FROM generations ORDER BY id")
    environment.setenv("LENS_DATABASE_URL", as_role(site.database_url, role))

    result = site.once()

    assert (result["ready"], result["failed"]) == (1, 1)
    assert site.objects() == {f"{user}/previews/{first}_preview.webp"}
    assert site.status(first)["state"] == "ready"
    assert site.status(second)["state"] == "dead"
    assert set(site.dead_letters()) == {second}
    unknown = site.lens("status", "no-uuid", "--json")
    assert "has this id" in unknown.json["status"][0]["error"]
    assert unknown.code == 1
    assert site.lens("retry", second, "--json").json["retried"] == [second]
    assert site.lens("backfill", first, "--force", "--json").json["ready"] == 1
    assert site.status(first.upper())["state"] == "ready"
    assert site.lens("backfill", first.upper(), "--force", "--json").json["ready"] == 1
    site.lens("backfill", second, "--json")
    assert site.lens("retry", second.upper(), "--json").json["not_failed"] == []
    assert site.sql("SELECT * FROM generations ORDER BY id") == before


def _checked(site: Site) -> tuple[bool, str]:
    """What the doctor says of the application's database."""
    checks = site.lens("doctor", "--json").json["checks"]
    return next((one["ok"], one["message"]) for one in checks if one["name"] == "database")


def _preview_status(site: Site, row_id: str) -> str | None:
    query = "SELECT preview_status FROM lens_generations WHERE id = CAST(:id AS uuid)"
    return site.sql(query, id=row_id)[0].preview_status


@pytest.mark.slow
@pytest.mark.parametrize("way", ["--role", "--sql", "doctor"])
def test_a_reading_role_before_row_level_security(
    site: Site, role: str, photo: Callable[[str], str], environment: pytest.MonkeyPatch, way: str
) -> None:
    """A view that says `none` of everything for ever, while the doctor says that all is well."""
    site.sql("DROP TABLE generations")
    site.sql(HOST_TABLE)
    site.sql("ALTER TABLE generations ENABLE ROW LEVEL SECURITY")
    row_id = site.add(str(uuid.uuid4()), photo("a"), user_id=str(uuid.uuid4()))
    site.sql("CREATE TABLE untouched AS SELECT * FROM generations")
    if way == "--role":
        said = site.lens("migrate", "--role", role).out
        assert f"GRANT SELECT ON {TABLES} TO {role}" in said
        environment.setenv("LENS_DAGSTER_URL", as_role(site.dagster_url, role))
    environment.setenv("LENS_DATABASE_URL", as_role(site.database_url, role))
    if way != "--role":
        advice = f"role {role} may not create tables in schema public: let lens run what"
        assert advice in site.lens("migrate").err
    if way == "--sql":
        site.sql(site.lens("migrate", "--sql").out.replace(":", "\\:"))
    if way == "doctor":
        site.sql(f"GRANT SELECT ON {TABLES} TO {role}")
        with environment.context() as owner:
            owner.setenv("LENS_DATABASE_URL", site.database_url)
            site.lens("migrate")
        site.sql("ALTER TABLE lens_derivatives ENABLE ROW LEVEL SECURITY")
        for missing in (": run CREATE POLICY lens_reads", "let lens run GRANT SELECT, INSERT"):
            ok, message = _checked(site)
            assert (ok, missing in message) == (False, True)
            site.sql(message.partition(" run ")[2])
    assert _preview_status(site, row_id) is None
    ok, message = _checked(site)
    assert (ok, message.endswith("kept true while the HTTP app runs")) == (True, True)
    assert site.once()["ready"] == 1
    assert _preview_status(site, row_id) == "ready"
    assert site.sql("SELECT * FROM generations EXCEPT SELECT * FROM untouched") == []
    assert site.lens("migrate", "--sql").out == "-- nothing to do\n"
    # As the view of an older version.
    site.sql("COMMENT ON VIEW lens_generations IS NULL")
    assert f"role {role} may not alter lens_generations: let lens run" in _checked(site)[1]
    site.sql(site.lens("migrate", "--sql").out.replace(":", "\\:"))
    assert site.lens("migrate", "--check").code == 0


def test_a_role_that_may_not_read_is_refused_by_name(
    site: Site, role: str, environment: pytest.MonkeyPatch
) -> None:
    """A pipeline that starts and finds nothing, because it sees nothing."""
    environment.setenv("LENS_DATABASE_URL", as_role(site.database_url, role))
    output = site.lens("once")
    assert output.code == 2
    assert role in output.err
    assert f"GRANT SELECT ON {TABLES} TO {role}" in output.err
    assert "Traceback" not in output.err
    assert "secret" not in output.err


def test_a_role_that_may_read_some_columns_only_is_refused_at_the_start(
    site: Site, role: str, environment: pytest.MonkeyPatch
) -> None:
    """A first tick that fails where a check of the start had passed."""
    site.sql(f"GRANT SELECT (id, type, status) ON generations TO {role}")
    environment.setenv("LENS_DATABASE_URL", as_role(site.database_url, role))
    assert site.lens("once").code == 2
    site.sql(f"GRANT SELECT ON {TABLES} TO {role}")
    assert site.lens("once").code == 0


def test_a_role_that_may_not_create_tables_is_told_who_may(
    site: Site, role: str, environment: pytest.MonkeyPatch
) -> None:
    """A doctor that says "run `lens migrate`", and that "permission denied for schema public"."""
    site.sql("DROP TABLE generations")
    environment.setenv("LENS_DATABASE_URL", as_role(site.database_url, role))
    owner = f"role {role} may not create tables in schema public: let lens run what"
    for command in ("once", "migrate"):
        output = site.lens(command)
        assert (output.code, owner in output.err) == (2, True)
    assert owner in _checked(site)[1]
    environment.setenv("LENS_DATABASE_URL", site.database_url)
    # A database without Dagster's tables.
    environment.setenv("LENS_DAGSTER_URL", as_role(site.database_url, role))
    output = site.lens("migrate")
    assert f"run GRANT CREATE ON SCHEMA public TO {role}" in output.err
    assert (
        f"\nGRANT CREATE ON SCHEMA public TO {role};"
        in site.lens("migrate", "--sql", "--role", role).out
    )


def test_a_missing_table_is_named_with_the_remedy(site: Site) -> None:
    """A stack trace of SQLAlchemy on the first day."""
    site.sql("DROP TABLE generations")
    output = site.lens("once")
    assert output.code == 2
    assert "table generations does not exist" in output.err
    assert "lens migrate" in output.err
    assert site.lens("migrate").code == 0
    assert site.lens("once").code == 0


def test_a_missing_column_is_named(site: Site) -> None:
    """The wrong database, found out row by row."""
    site.sql("ALTER TABLE generations DROP COLUMN updated_at")
    output = site.lens("once")
    assert output.code == 2
    assert "lacks updated_at" in output.err


def test_an_unreachable_database_is_one_line(site: Site, environment: pytest.MonkeyPatch) -> None:
    """Forty lines of traceback with the password in them."""
    environment.setenv("LENS_DATABASE_URL", "postgresql://u:geheim@127.0.0.1:1/d")
    output = site.lens("once")
    assert output.code == 2
    assert len(output.err.strip().splitlines()) == 1
    assert "geheim" not in output.err


def test_a_wrong_setting_ends_the_command_with_status_two(
    site: Site, environment: pytest.MonkeyPatch
) -> None:
    """A cron job that cannot tell a bad file from a bad set-up."""
    environment.setenv("LENS_BATCH_SIZE", "none")
    output = site.lens("once")
    assert output.code == 2
    assert output.err.strip().count("\n") == 0
    assert "LENS_BATCH_SIZE" in output.err


def test_an_added_file_becomes_a_preview(site: Site, tmp_path: Path) -> None:
    """A first try that needs SQL."""
    (tmp_path / "mine.jpg").write_bytes(sources.jpeg())
    added = site.lens("add", "mine.jpg", "--user", "u9").out.strip()
    assert site.once()["ready"] == 1
    assert site.objects() == {
        f"u9/uploads/{added}/mine.jpg",
        f"u9/previews/{added}_preview.webp",
    }


def test_a_file_that_cannot_be_added_is_told_in_one_line(site: Site) -> None:
    """A traceback for a photo in the home directory of somebody else."""
    for name, reason in (("none.jpg", "there is no file"), ("x" * 300 + ".jpg", "cannot read")):
        added = site.lens("add", name, "--user", "u9")
        assert added.code == 1
        assert added.err.strip().count("\n") == 0
        assert reason in added.err


@contextmanager
def _bucket(environment: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[SeaweedServer]:
    """An S3 server whose bucket is the site's store."""
    (tmp_path / "seaweed").mkdir()
    with SeaweedServer(tmp_path / "seaweed") as seaweed:
        for name, value in seaweed.environment.items():
            environment.setenv(name, value)
        environment.setenv("LENS_STORE_URL", f"s3://{seaweed.bucket}/media")
        environment.setenv("LENS_S3_ENDPOINT", seaweed.endpoint)
        yield seaweed


@pytest.mark.slow
def test_what_a_bucket_holds_under_a_revision_is_cached_for_ever(
    site: Site, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A film that each visitor's browser asks for again after five minutes."""
    project = Project(site)
    with _bucket(environment, tmp_path) as seaweed:
        client = seaweed.client()
        key = "u1/uploads/a.mp4"
        client.put_object(Bucket=seaweed.bucket, Key=f"media/{key}", Body=sources.mp4())
        site.add("a", key, type="video")
        project.asset("a", generation_id="a")
        project.master("m1", ["a"])
        assert site.once()["failed"] == 0
        project.rendition("s1", "m1")
        assert site.once()["failed"] == 0
        caching = {}
        for asset, row in (
            ("poster", "a"),
            ("master_video", "m1"),
            ("master_poster", "m1"),
            ("scaled_video", "s1"),
        ):
            name = f"media/{site.metadata(asset, row)['path'].value}"
            stored = client.head_object(Bucket=seaweed.bucket, Key=name)
            caching[asset] = stored["CacheControl"]
    # A video's poster keeps its key when its source changes.
    assert caching.pop("poster") == CACHE_REVALIDATE
    assert set(caching.values()) == {CACHE_IMMUTABLE}


@pytest.mark.slow
def test_an_s3_bucket_serves_sources_and_takes_previews(
    site: Site, environment: pytest.MonkeyPatch, tmp_path: Path, photo: Callable[[str], str]
) -> None:
    """A store that works on the developer's disk only."""
    with _bucket(environment, tmp_path) as seaweed:
        client = seaweed.client()
        client.put_object(Bucket=seaweed.bucket, Key="media/u1/uploads/a.jpg", Body=sources.jpeg())
        site.add("a", "u1/uploads/a.jpg")
        site.add("b", photo("b"))
        site.add("gone", "u1/uploads/gone.jpg")
        result = site.once()
        assert (result["ready"], result["failed"]) == (2, 1)
        assert result["failures"][0]["error_class"] == "SourceMissing"
        stored = client.get_object(Bucket=seaweed.bucket, Key="media/u1/previews/a_preview.webp")
        assert stored["ContentType"] == "image/webp"
        # Its key stays when its source changes.
        assert stored["CacheControl"] == CACHE_REVALIDATE
        assert stored["Body"].read()[8:12] == b"WEBP"
        uri = site.metadata("preview", "b")["dagster/uri"].value
        assert uri == f"s3://{seaweed.bucket}/media/u1/previews/b_preview.webp"
        assert site.once()["found"] == 0
    site.add("later", photo("later"))
    (failure,) = site.once()["failures"]
    assert failure["error_class"] == "StoreUnavailable"
    assert site.status("later")["state"] == "failed"
