"""Whatever rows and sources hold: each bad one has a reason, and nothing is lost."""

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lens_pipeline_tests.media.samples import decoded
from lens_pipeline_tests.support import sources
from lens_pipeline_tests.support.servers import HostileServer
from lens_pipeline_tests.support.site import Site


def at(server: HostileServer, path: str) -> str:
    return server.url(path, host="localhost")


@pytest.mark.slow
def test_every_bad_photo_of_a_batch_has_its_own_reason(
    site: Site,
    server: HostileServer,
    photo: Callable[[str], str],
    environment: pytest.MonkeyPatch,
) -> None:
    """A support case that reads `failed`, and good photos that wait behind bad ones."""
    environment.setenv("LENS_BATCH_SIZE", "40")
    environment.setenv("LENS_THREADS", "4")
    environment.setenv("LENS_FETCH_TIMEOUT_SECONDS", "2")
    environment.setenv("LENS_MAX_SOURCE_BYTES", str(8 * 1024 * 1024))
    local, mapped = (
        f"http://127.0.0.1:{server.port}/x",
        f"http://[::ffff:127.0.0.1]:{server.port}/x",
    )
    metadata_service = "http://169.254.169.254/latest/meta-data/"
    bodies = {
        "zero-bytes": b"",
        "html": b"<!doctype html><html><body>Not found</body></html>",
        "short-jpeg": sources.jpeg(640, 480)[:2000],
        "short-png": sources.png()[:3000],
        "bomb": sources.bomb(),
        "wide": sources.too_wide(),
        "lying-header": sources.png_header(100_000, 100_000),
    }
    urls = {name: at(server, f"/{name}.jpg") for name in bodies}
    for name, body in bodies.items():
        server.put(f"/{name}.jpg", body)
    urls |= {
        "missing": at(server, "/status/404"),
        "refused": "http://localhost:1/nobody-listens.jpg",
        "endless": at(server, "/never-ends"),
        "trickle": at(server, "/slow-body"),
        "to-loopback": at(server, f"/redirect?to={local}"),
        "to-metadata": at(server, f"/redirect?to={metadata_service}"),
        "to-mapped": at(server, f"/redirect?to={mapped}"),
        "no-url": "",
        "no-scheme": "ftp://localhost/x.jpg",
    }
    good = [f"good-{number}" for number in range(5)]
    for name in good:
        site.add(name, photo(name))
    for name, url in urls.items():
        site.add(name, url)
    site.add("null-url", None)

    result = site.once()

    expected = {
        "missing": "SourceMissing",
        "refused": "HostUnreachable",
        "endless": "SourceTooLarge",
        "trickle": "SourceUnavailable",
        "to-loopback": "UnsafeAddress",
        "to-metadata": "UnsafeAddress",
        "to-mapped": "UnsafeAddress",
        "zero-bytes": "SourceUnreadable",
        "html": "SourceUnreadable",
        "short-jpeg": "SourceUnreadable",
        "short-png": "SourceUnreadable",
        "bomb": "SourceOverLimit",
        "wide": "SourceOverLimit",
        "lying-header": "SourceOverLimit",
        "no-url": "SourceMissing",
        "null-url": "SourceMissing",
        "no-scheme": "UnsafeAddress",
    }
    assert {f["id"]: f["error_class"] for f in result["failures"]} == expected
    assert result["ready"] == len(good)
    assert site.objects() == {f"u1/previews/{name}_preview.webp" for name in good}
    assert len(site.runs()) == 1
    assert site.materializations("preview", "missing") == []
    reasons = {f["id"]: f["error"] for f in result["failures"]}
    assert all(reasons.values())
    assert "not a public address" in reasons["to-metadata"]
    assert "pixels" in reasons["wide"]
    assert "empty" in reasons["zero-bytes"] or "0 bytes" in reasons["zero-bytes"]
    assert "2 s" in reasons["trickle"]
    assert str(8 * 1024 * 1024) in reasons["endless"]

    transient = {"refused"} | {n for n, kind in expected.items() if kind == "SourceUnavailable"}
    letters = site.dead_letters()
    assert set(letters) == set(expected) - transient
    assert {key: letter["error"] for key, letter in letters.items()} == {
        key: reasons[key] for key in letters
    }
    for name in transient:
        assert site.status(name)["state"] == "failed"
        assert site.status(name)["error"] == reasons[name]
    scratch = site.pipeline.settings.scratch
    assert not list(scratch.rglob("*"))


@pytest.mark.slow
def test_unusual_but_valid_photos_become_previews(site: Site, server: HostileServer) -> None:
    """Photos from a print shop or a design tool that count as broken, or come out inverted."""
    bodies = {
        "cmyk": sources.cmyk(),
        "sixteen": sources.sixteen_bit(),
        "palette": sources.palette_with_transparency(),
        "animated": sources.animated_webp(),
    }
    for name, body in bodies.items():
        server.put(f"/{name}", body)
        site.add(name, at(server, f"/{name}"))
    assert site.once()["ready"] == 4

    def preview(name: str) -> Image.Image:
        return decoded((site.store / f"u1/previews/{name}_preview.webp").read_bytes())

    def pixels(name: str) -> NDArray[np.uint8]:
        return np.asarray(preview(name).convert("RGB"))

    red, green, blue = (int(value) for value in pixels("cmyk")[12, 16])
    assert red > 130
    assert max(green, blue) < 110
    assert pixels("sixteen")[0, 0].max() < 10
    assert pixels("sixteen")[-1, -1].min() > 245
    assert preview("palette").mode == "RGBA"
    assert b"trainedAlgorithmicMedia" in preview("palette").info["xmp"]
    assert preview("palette").getchannel("A").getextrema() == (0, 255)
    animated = (site.store / "u1/previews/animated_preview.webp").read_bytes()
    assert getattr(Image.open(BytesIO(animated)), "n_frames", 1) == 1
    assert pixels("animated")[10, 10, 0] > 240


@pytest.mark.slow
def test_every_bad_video_of_a_batch_has_its_own_reason(site: Site, server: HostileServer) -> None:
    """A playlist that reads the server's files, or a sound file that waits for its picture."""
    url_of_playlist_entry = at(server, "/entry.ts")
    bodies = {
        "short": sources.mp4()[:1500],
        "audio": sources.audio_only(),
        "playlist": sources.playlist(url_of_playlist_entry),
        "html": b"<html></html>",
        "zero-bytes": b"",
        "one-frame": sources.mp4(1),
        "good": sources.mp4(),
    }
    for name, body in bodies.items():
        server.put(f"/{name}.mp4", body, "video/mp4")
        site.add(name, at(server, f"/{name}.mp4"), type="video")

    result = site.once()

    failures = {failure["id"]: failure for failure in result["failures"]}
    assert set(failures) == {"short", "audio", "playlist", "html", "zero-bytes"}
    assert {failure["error_class"] for failure in failures.values()} == {"SourceUnreadable"}
    assert {failure["kind"] for failure in failures.values()} == {"video"}
    assert "no video" in failures["audio"]["error"] or "no picture" in failures["audio"]["error"]
    assert set(site.dead_letters()) == set(failures)
    assert site.objects() == {"u1/posters/one-frame_poster.webp", "u1/posters/good_poster.webp"}
    assert site.metadata("poster", "one-frame")["poster_at_seconds"].value == 0
    assert server.requests["/entry.ts"] == 0


BAD_IDS = {
    "a/b": "may only have",
    "../../etc/passwd": "may only have",
    "a..b": "contains '..'",
    "line\nbreak": "may only have",
    "ends-with-newline\n": "may only have",
    "x" * 300: "300 characters",
    "": "empty",
    "-option": "start with",
    "ä": "may only have",
    "a b": "may only have",
    "%2e%2e": "may only have",
}


@pytest.mark.slow
def test_rows_that_can_never_be_processed_are_named_and_the_others_done(
    site: Site, photo: Callable[[str], str]
) -> None:
    """A row that silently never gets a preview, or whose id leads out of its folder."""
    url = photo("good")
    site.add("good", url)
    for row_id in BAD_IDS:
        site.add(row_id, url)
    site.add("bad-user", url, user_id="../other")
    site.add("bad-type", url, type="hologram")
    site.add("bad-case", url, status="Success")
    site.add("spaced", url, status="completed ")
    site.add("running", url, status="processing")
    site.add("failed-upstream", url, status="failed")

    result = site.once()

    assert result["ready"] == 1
    assert result["skipped"] == len(BAD_IDS) + 1
    skipped = {failure["id"]: failure["error"] for failure in result["failures"]}
    assert set(skipped) == {*BAD_IDS, "bad-user"}
    for row_id, words in BAD_IDS.items():
        assert words in skipped[row_id], row_id
    assert site.objects() == {"u1/previews/good_preview.webp"}
    letters = site.dead_letters()
    # Rows of other types are none of ours.
    assert set(letters) == {*BAD_IDS, "bad-user", "bad-case", "spaced"}
    assert "'hologram'" in site.status("bad-type")["error"]
    assert "'Success'" in letters["bad-case"]["error"]
    for row_id in ("a..b", "bad-case"):
        assert site.status(row_id)["error"] == letters[row_id]["error"]
    assert "'processing'" in site.status("running")["error"]
    assert site.once()["ready"] == 0


@pytest.mark.slow
def test_one_id_may_be_a_photo_and_a_video(
    site: Site, server: HostileServer, photo: Callable[[str], str]
) -> None:
    """A view over two tables, whose photo hides the video of the same number."""
    site.sql("ALTER TABLE generations DROP CONSTRAINT generations_pkey")
    server.put("/7.mp4", sources.mp4(), "video/mp4")
    site.add("7", photo("7"))
    site.add("7", at(server, "/7.mp4"), type="video")
    assert site.once()["ready"] == 2
    assert site.objects() == {"u1/previews/7_preview.webp", "u1/posters/7_poster.webp"}
    standings = site.lens("status", "7", "--json").json["status"]
    assert {(entry["kind"], entry["state"]) for entry in standings} == {
        ("photo", "ready"),
        ("video", "ready"),
    }


@pytest.mark.slow
def test_rows_without_or_with_impossible_times_are_done_once(
    site: Site, photo: Callable[[str], str]
) -> None:
    """A clock that is wrong, or an old row without one, for which nothing is ever made."""
    url = photo("good")
    site.add("future", url, updated_at="2100-01-01T00:00:00Z")
    site.add("timeless", url, updated_at=None)
    site.add("ancient", url, updated_at="0001-01-01T00:00:00Z")
    assert site.once()["ready"] == 3
    assert site.metadata("preview", "future")["latency_seconds"].value == 0
    assert site.once()["found"] == 0


def test_a_host_row_without_user_or_type_is_named(site: Site, photo: Callable[[str], str]) -> None:
    """Columns that our own table forbids to be NULL, but a site's does not."""
    for column in ("user_id", "type"):
        site.sql(f"ALTER TABLE generations ALTER COLUMN {column} DROP NOT NULL")
    site.add("no-user", photo("x"), user_id=None)
    site.add("no-type", photo("x"), type=None)
    assert site.once()["ready"] == 0
    letters = site.dead_letters()
    # A row without a type is none of ours, as those of other types.
    assert set(letters) == {"no-user"}
    assert "user_id" in letters["no-user"]["error"]
    assert "type" in site.status("no-type")["error"]


@pytest.mark.parametrize("command", [("once",), ("backfill",)])
def test_a_failure_is_seen_in_the_exit_status_and_in_words(
    site: Site, command: tuple[str, ...]
) -> None:
    """A cron job that fails every night without a mail."""
    site.add("bad", "")
    output = site.lens(*command)
    assert output.code == 1
    assert "photo bad: SourceMissing: " in output.out
    assert "1 found, 0 ready, 1 failed, 0 skipped" in output.out
