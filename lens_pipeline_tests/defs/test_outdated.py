"""What other settings or another version made is served until it is made anew."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx2 as httpx
import pytest
import sqlalchemy as sa

from lens_pipeline.definitions import job
from lens_pipeline.derivatives import registry
from lens_pipeline.derivatives.registry import MASTER
from lens_pipeline.engine.run_queue import RunQueue
from lens_pipeline.event_log.tags import SOURCE_TAG
from lens_pipeline.web.app import create_app
from lens_pipeline.web.context import Context
from lens_pipeline_tests.support import sources
from lens_pipeline_tests.support.project import Project
from lens_pipeline_tests.support.servers import HostileServer
from lens_pipeline_tests.support.site import Site
from lens_pipeline_tests.support.web import served

pytestmark = pytest.mark.slow

Photo = Callable[[str], str]


def _forget_sources(site: Site) -> None:
    """Leave the event log as version 0.3 would have."""
    engine = sa.create_engine(site.dagster_url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        statement = sa.text(
            "UPDATE event_logs SET event = replace(event, :tag, 'none')"
            " WHERE position(:tag IN event) > 0"
        )
        assert connection.execute(statement, {"tag": SOURCE_TAG}).rowcount


def _outdated(site: Site) -> dict[str, Any]:
    found = site.lens("dead-letters", "--outdated", "--json").json["dead_letters"]
    return {letter["id"]: letter["error_class"] for letter in found}


def _brief(site: Site, row_id: str) -> tuple[str, bool, str | None]:
    entry = site.status(row_id)
    return entry["state"], entry["outdated"], entry["path"]


@pytest.mark.parametrize("is_upgrade", [False, True], ids=["same version", "upgrade"])
def test_another_quality_takes_nothing_away(
    site: Site,
    server: HostileServer,
    photo: Photo,
    environment: pytest.MonkeyPatch,
    is_upgrade: bool,
) -> None:
    """Good pictures that vanish, those whose source has expired for ever."""
    # With originals nothing is ever gone.
    environment.setenv("LENS_KEEP_ORIGINALS", "never")
    assert site.lens("migrate").code == 0
    for name in ("a", "gone", "changed"):
        site.add(name, photo(name))
    assert site.once()["ready"] == 3
    if is_upgrade:
        _forget_sources(site)
    assert site.once()["found"] == 0
    paths = {name: f"u1/previews/{name}_preview.webp" for name in ("a", "gone", "changed")}
    assert _brief(site, "a") == ("ready", False, paths["a"])

    environment.setenv("LENS_PREVIEW_QUALITY", "60")
    server.remove("/gone.jpg")
    # Some hosts keep the time of the row.
    site.sql("UPDATE generations SET asset_url = :url WHERE id = 'changed'", url=photo("other"))
    for name in ("a", "gone"):
        assert _brief(site, name) == ("ready", True, paths[name])
    assert _brief(site, "changed") == ("none", False, None)

    result = site.once()
    assert (result["found"], result["ready"], result["failed"]) == (3, 2, 1)
    assert result["failures"][0]["error_class"] == "SourceMissing"
    for name in ("a", "changed"):
        assert _brief(site, name) == ("ready", False, paths[name])
    assert _brief(site, "gone") == ("ready", True, paths["gone"])
    assert "SourceMissing" in site.lens("status", "gone").out
    assert paths["gone"] in site.objects()
    assert (site.dead_letters(), _outdated(site)) == ({}, {"gone": "SourceMissing"})
    view = site.sql("SELECT preview_status, preview_path, error FROM lens_generations")
    assert {tuple(row) for row in view} == {("ready", path, None) for path in paths.values()}
    app = create_app(Context(site.pipeline, RunQueue(site.pipeline, site.dagster, job)))
    with served(app) as url:
        shown = httpx.get(f"{url}/api/generations/gone").json()
        picture = httpx.get(f"{url}{shown['picture_url']}")
    assert (shown["status"], shown["path"], shown["error"]) == ("ready", paths["gone"], None)
    assert picture.content == (site.store / paths["gone"]).read_bytes()
    # It is not tried for ever.
    assert site.once()["found"] == 0

    photo("gone")
    assert site.lens("retry", "gone", "--json").json["retried"] == ["gone"]
    assert site.once()["ready"] == 1
    assert _brief(site, "gone") == ("ready", False, paths["gone"])
    assert _outdated(site) == {}


def test_what_is_outdated_is_made_of_its_original(
    site: Site, server: HostileServer, photo: Photo, environment: pytest.MonkeyPatch
) -> None:
    """A link that answers with another picture, or with none, for a file that is kept."""
    site.add("a", photo("a"))
    site.once()
    server.put("/a.jpg", sources.jpeg(96, 96))
    environment.setenv("LENS_PREVIEW_QUALITY", "60")
    assert site.once()["ready"] == 1
    assert site.metadata("preview", "a")["width"].value == 64
    assert server.requests["/a.jpg"] == 1


def test_new_defaults_of_a_version_are_no_wish_of_the_user(
    site: Site, photo: Photo, environment: pytest.MonkeyPatch
) -> None:
    """A library made again because of an upgrade."""
    environment.setenv("LENS_PREVIEW_QUALITY", "70")
    for name in ("a", "b"):
        site.add(name, photo(name))
    site.once()
    before = site.metadata("preview", "a")["revision"].value
    environment.setattr(registry, "WEBP_EFFORT", 5)
    assert _brief(site, "a")[:2] == ("ready", False)
    assert site.once()["found"] == 0
    # What a version before this one has made: its parameters follow from its revision.
    _forget_sources(site)
    assert _brief(site, "a")[:2] == ("ready", False)
    result = site.lens("backfill", "a", "--outdated", "--json").json
    assert (result["found"], result["ready"]) == (1, 1)
    assert site.metadata("preview", "a")["revision"].value != before
    assert site.lens("backfill", "--outdated", "--json").json["found"] == 1
    assert site.lens("backfill", "--outdated", "--json").json["found"] == 0


def test_a_lost_file_that_cannot_be_made_is_not_ready(
    site: Site, server: HostileServer, photo: Photo, environment: pytest.MonkeyPatch
) -> None:
    """A picture that is ready, and nowhere."""
    environment.setenv("LENS_KEEP_ORIGINALS", "never")
    for name in ("kept", "lost"):
        site.add(name, photo(name))
        site.once()
        server.remove(f"/{name}.jpg")
    (site.store / "u1/previews/lost_preview.webp").unlink()
    result = site.lens("backfill", "--force", "--json").json
    assert (result["found"], result["ready"], result["failed"]) == (2, 0, 2)
    assert _brief(site, "kept") == ("ready", False, "u1/previews/kept_preview.webp")
    assert _brief(site, "lost") == ("dead", False, None)
    assert set(site.dead_letters()) == {"lost"}


@pytest.fixture
def newer_master() -> Iterator[Callable[[], None]]:
    """Makes this version one that joins masters otherwise."""
    before = MASTER.code_version
    yield lambda: object.__setattr__(MASTER, "code_version", before + "x")
    object.__setattr__(MASTER, "code_version", before)


def test_masters_of_another_version_are_served_and_used(
    site: Site, newer_master: Callable[[], None], environment: pytest.MonkeyPatch
) -> None:
    """Renditions that wait for masters which nobody asked for."""
    project = Project(site)
    project.master("m1", [project.shot("a")])
    site.once()
    old = site.metadata("master_video", "m1")["path"].value
    newer_master()
    project.rendition("s1", "m1")
    assert site.once()["ready"] == 1
    assert project.states("m1") | project.states("s1") == dict.fromkeys(
        ("master_video", "master_poster", "scaled_video"), "ready"
    )
    assert old in site.objects()
    # The poster comes with its master, and both are of the new one.
    result = site.lens("backfill", "--outdated", "--json").json
    assert (result["found"], result["ready"]) == (2, 2)
    assert old not in site.objects()
    for asset, key in (("master_video", "m1"), ("master_poster", "m1"), ("scaled_video", "s1")):
        assert len(site.materializations(asset, key)) == 2
    assert site.lens("backfill", "--outdated", "--json").json["found"] == 0
    # A setting that is set is wanted; the default of a new version would not be.
    environment.setenv("LENS_MASTER_COMPATIBILITY", "web")
    assert site.lens("backfill", "--dry-run", "--json").json["found"] == 0
    environment.setenv("LENS_MASTER_COMPATIBILITY", "source")
    assert site.once()["ready"] == 1
    for asset in ("master_video", "master_poster"):
        assert len(site.materializations(asset, "m1")) == 3
    assert site.lens("backfill", "--dry-run", "--json").json["found"] == 0
