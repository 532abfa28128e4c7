"""Doing it again: what is repeated, what is not, and how often."""

from collections.abc import Callable

import pytest

from lens_pipeline_tests.support import sources
from lens_pipeline_tests.support.servers import Answer, HostileServer
from lens_pipeline_tests.support.site import Site

pytestmark = pytest.mark.slow

_NO_SUCH_ID = "no generation, master or scaled video has this id"


def test_a_second_pass_finds_nothing(site: Site, photo: Callable[[str], str]) -> None:
    """A night job that makes the whole library again every night."""
    for name in ("a", "b"):
        site.add(name, photo(name))
    assert site.once()["found"] == 2
    assert site.once()["found"] == 0
    assert site.lens("backfill", "--json").json["found"] == 0
    assert len(site.runs()) == 1


def test_a_changed_source_redoes_just_that_one(
    site: Site, server: HostileServer, photo: Callable[[str], str]
) -> None:
    """A re-generated photo under its old preview, or a library made again for one of it."""
    for name in ("a", "b", "c"):
        site.add(name, photo(name))
    site.once()
    before = site.metadata("preview", "b")
    server.put("/b2.jpg", sources.jpeg(96, 96))
    site.sql(
        "UPDATE generations SET asset_url = :url, updated_at = now() WHERE id = 'b'",
        url=server.url("/b2.jpg", host="localhost"),
    )
    assert site.status("b")["state"] == "none"
    result = site.once()
    assert (result["found"], result["ready"]) == (1, 1)
    after = site.metadata("preview", "b")
    assert after["revision"].value != before["revision"].value
    assert after["width"].value == 96
    assert float(str(after["latency_seconds"].value)) < 60
    assert len(site.materializations("preview", "b")) == 2
    assert len(site.materializations("preview", "a")) == 1


def test_a_forced_backfill_restores_a_lost_object(site: Site, photo: Callable[[str], str]) -> None:
    """A deleted file that nothing can bring back, because the log says that it is there."""
    for name in ("a", "b"):
        site.add(name, photo(name))
    site.once()
    lost = site.store / "u1/previews/a_preview.webp"
    lost.unlink()
    assert site.lens("backfill", "a", "--json").json["found"] == 0
    result = site.lens("backfill", "a", "--force", "--json").json
    assert (result["found"], result["ready"]) == (1, 1)
    assert lost.exists()
    assert len(site.materializations("preview", "b")) == 1


def test_a_backfill_finds_what_a_restored_store_lacks(
    site: Site, photo: Callable[[str], str]
) -> None:
    """A list of ids that nobody has, after a store came back as of the day before."""
    for name in ("a", "b", "c"):
        site.add(name, photo(name))
    site.add("bad", "")
    site.once()
    lost = [site.store / f"u1/previews/{name}_preview.webp" for name in ("a", "b")]
    lost[0].unlink()
    lost[1].write_bytes(b"")
    assert site.lens("backfill", "--lost", "--dry-run", "--json").json["found"] == 2
    assert site.lens("backfill", "b", "c", "--lost", "--dry-run", "--json").json["found"] == 1
    result = site.lens("backfill", "--lost", "--json").json
    assert (result["found"], result["ready"], result["failed"]) == (2, 2, 0)
    assert all(path.stat().st_size for path in lost)
    assert len(site.materializations("preview", "c")) == 1
    assert site.lens("backfill", "--lost", "--json").json["found"] == 0


def test_a_forced_backfill_of_everything_leaves_dead_letters_alone(
    site: Site, photo: Callable[[str], str]
) -> None:
    """A thousand broken links asked for again with every forced backfill."""
    site.add("a", photo("a"))
    site.add("bad", "")
    site.once()
    result = site.lens("backfill", "--force", "--json").json
    assert (result["found"], result["ready"], result["failed"]) == (1, 1, 0)


def test_other_parameters_make_every_preview_again(
    site: Site, photo: Callable[[str], str], environment: pytest.MonkeyPatch
) -> None:
    """A new size that only new photos get."""
    site.add("a", photo("a"))
    site.once()
    environment.setenv("LENS_PREVIEW_EDGE", "32")
    assert site.once()["ready"] == 1
    made = site.metadata("preview", "a")
    assert made["width"].value == 32
    # It would be the age of the photo.
    assert "latency_seconds" not in made


def test_a_dry_run_makes_nothing(site: Site, photo: Callable[[str], str]) -> None:
    """A look at what would be done that does it."""
    site.add("a", photo("a"))
    assert site.lens("backfill", "--dry-run", "--json").json["found"] == 1
    assert site.objects() == set()
    assert site.runs() == []


def test_a_limit_and_a_kind_restrict_a_backfill(
    site: Site, server: HostileServer, photo: Callable[[str], str]
) -> None:
    """A careful first step that takes the whole library."""
    for name in ("a", "b", "c"):
        site.add(name, photo(name))
    server.put("/v.mp4", sources.mp4(), "video/mp4")
    site.add("v", server.url("/v.mp4", host="localhost"), type="video")
    assert site.lens("backfill", "--kind", "photo", "--limit", "2", "--json").json["ready"] == 2
    assert site.lens("backfill", "--kind", "video", "--json").json["ready"] == 1
    assert site.lens("backfill", "--json").json["ready"] == 1


def test_a_server_error_is_tried_again_in_the_same_run(
    site: Site, server: HostileServer, photo: Callable[[str], str]
) -> None:
    """A preview that waits five minutes because of one bad second."""
    site.add("a", photo("a"))
    server.fail_first("/a.jpg", 500)
    assert site.once()["ready"] == 1
    assert server.requests["/a.jpg"] == 2
    assert len(site.runs()) == 1


def test_a_permanent_failure_is_not_tried_again(
    site: Site, server: HostileServer, photo: Callable[[str], str]
) -> None:
    """A broken file that is fetched every five minutes for ever."""
    server.put("/bad.jpg", b"not a picture")
    site.add("bad", server.url("/bad.jpg", host="localhost"))
    site.add("good", photo("good"))
    assert site.once()["failed"] == 1
    assert server.requests["/bad.jpg"] == 1
    assert site.status("bad")["state"] == "dead"
    assert site.once()["found"] == 0
    assert site.lens("backfill", "--json").json["found"] == 0
    assert server.requests["/bad.jpg"] == 1


def test_a_missing_source_is_looked_at_once_more_before_it_counts(
    site: Site, server: HostileServer, photo: Callable[[str], str]
) -> None:
    """A dead letter for a file that was visible half a second later."""
    site.add("late", photo("late"))
    server.answer_first("/late.jpg", Answer(404))
    assert site.once()["ready"] == 1


def test_a_transient_failure_becomes_a_dead_letter_and_a_retry_revives_it(
    site: Site,
    server: HostileServer,
    photo: Callable[[str], str],
    environment: pytest.MonkeyPatch,
) -> None:
    """Endless attempts, or a letter that cannot be taken back once the source is well again."""
    environment.setenv("LENS_MAX_ATTEMPTS", "2")
    # Retry-After: the server itself says that trying again in this run is of no use.
    site.add("a", photo("a"))
    server.answer_first("/a.jpg", Answer(503, headers={"Retry-After": "600"}), times=2)

    first = site.once()
    assert first["failures"][0]["error_class"] == "SourceUnavailable"
    assert (site.status("a")["state"], site.status("a")["attempts"]) == ("failed", 1)
    assert site.dead_letters() == {}
    assert site.once()["failed"] == 1
    assert site.status("a")["state"] == "dead"
    assert site.dead_letters()["a"]["attempts"] == 2
    assert site.once()["found"] == 0
    assert server.requests["/a.jpg"] == 2

    retried = site.lens("retry", "a", "--json")
    assert (retried.code, retried.json["retried"]) == (0, ["a"])
    assert site.status("a")["state"] == "none"
    assert site.dead_letters() == {}
    assert site.once()["ready"] == 1
    assert site.status("a")["attempts"] == 0


def test_every_dead_letter_can_be_retried_at_once(site: Site, server: HostileServer) -> None:
    """A provider's bad day that is mended by hand, file by file."""
    for name in ("a", "b"):
        site.add(name, server.url(f"/{name}.jpg", host="localhost"))
    site.once()
    for name in ("a", "b"):
        server.put(f"/{name}.jpg", sources.jpeg())
    assert site.lens("retry", "--all", "--json").json["retried"] == ["a", "b"]
    assert site.once()["ready"] == 2


def test_a_retry_of_what_has_not_failed_says_so(site: Site, photo: Callable[[str], str]) -> None:
    """A typing error that looks like a success."""
    site.add("a", photo("a"))
    site.once()
    site.add("v", None, type="video", status="generating")
    output = site.lens("retry", "a", "v", "nope", "--json")
    assert output.code == 1
    assert (output.json["not_failed"], output.json["unknown"]) == (["a", "v"], ["nope"])
    said = site.lens("retry", "a", "nope").out.splitlines()[1:]
    assert said == ["a: has not failed: see `lens status a`", f"nope: {_NO_SUCH_ID}"]


def test_an_id_that_does_not_exist_has_no_state(site: Site) -> None:
    """A typing error that looks like a file still to be made."""
    site.add("v", None, type="video", status="generating")
    output = site.lens("status", "v", "nope", "--json")
    waiting, unknown = output.json["status"]
    assert (output.code, waiting["state"]) == (1, "none")
    assert (unknown["state"], unknown["error"]) == (None, _NO_SUCH_ID)
    assert site.lens("status", "v").code == 0
    output = site.lens("status", "nope")
    assert (output.code, output.out) == (1, f"nope: {_NO_SUCH_ID}\n")


def test_a_changed_source_revives_a_dead_letter(
    site: Site, server: HostileServer, photo: Callable[[str], str]
) -> None:
    """A repaired row that stays dead until somebody remembers it."""
    site.add("a", "")
    site.once()
    assert site.status("a")["state"] == "dead"
    site.sql("UPDATE generations SET asset_url = :url WHERE id = 'a'", url=photo("a"))
    assert site.once()["ready"] == 1
    assert site.dead_letters() == {}


def test_a_read_only_store_makes_no_dead_letters(
    site: Site, photo: Callable[[str], str], environment: pytest.MonkeyPatch
) -> None:
    """A wrong mount that condemns every file of an hour."""
    environment.setenv("LENS_MAX_ATTEMPTS", "3")
    blocked = site.store.parent / "blocked"
    blocked.write_text("a file where the store should be")
    environment.setenv("LENS_STORE_URL", blocked.as_uri())
    site.add("a", photo("a"))
    (failure,) = site.once()["failures"]
    assert failure["error_class"] == "StoreReadOnly"
    assert site.status("a")["state"] == "failed"
    environment.setenv("LENS_STORE_URL", site.store.as_uri())
    assert site.once()["ready"] == 1
