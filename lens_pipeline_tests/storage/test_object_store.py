"""What every store does alike, on a directory and on a real S3 server."""

import hashlib
import itertools
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lens_pipeline.errors import SourceMissing, SourceTooLarge
from lens_pipeline.storage import object_store
from lens_pipeline.storage.object_store import Fetched, InvalidKey, ObjectStore
from lens_pipeline.storage.retries import FetchCancelled

WEBP = "image/webp"


def read(store: ObjectStore, key: str, path: Path, max_bytes: int = 10_000_000) -> Fetched:
    return store.read_into(key, path, max_bytes=max_bytes, deadline_seconds=10)


@pytest.mark.slow
def test_what_was_written_is_read_with_its_size_and_hash(
    store: ObjectStore, tmp_path: Path
) -> None:
    """The hash of a stored source is part of a preview's revision."""
    body = os.urandom(300_000)
    store.write("u1/previews/a_preview.webp", body, content_type=WEBP)
    fetched = read(store, "u1/previews/a_preview.webp", tmp_path / "copy")
    assert fetched == Fetched(len(body), hashlib.sha256(body).hexdigest())
    assert (tmp_path / "copy").read_bytes() == body


def test_a_file_is_stored_from_its_path(store: ObjectStore, tmp_path: Path) -> None:
    """A master of gigabytes does not fit into memory."""
    source = tmp_path / "master.mp4"
    source.write_bytes(os.urandom(3_000_000))
    store.write("masters/p/m.mp4", source, content_type="video/mp4")
    read(store, "masters/p/m.mp4", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()


def test_an_absent_object_is_none_to_stat_and_missing_to_read(
    store: ObjectStore, tmp_path: Path
) -> None:
    """Absence is an answer, and must not look like a failure of the store."""
    store.write("u1/a.webp", b"x", content_type=WEBP)
    assert store.stat("u1/b.webp") is None
    assert store.stat("u1") is None
    with pytest.raises(SourceMissing):
        read(store, "u1/b.webp", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_stat_tells_size_time_and_an_etag_that_changes_with_the_bytes(store: ObjectStore) -> None:
    """HTTP caching and adoption of old files rest on these three."""
    store.write("a.webp", b"one", content_type=WEBP)
    first = store.stat("a.webp")
    store.write("a.webp", b"two", content_type=WEBP)
    second = store.stat("a.webp")
    assert first is not None
    assert second is not None
    assert (first.key, first.bytes) == ("a.webp", 3)
    assert abs(first.modified - datetime.now(UTC)) < timedelta(minutes=1)
    assert first.etag != second.etag


def test_an_object_over_the_cap_is_refused_and_leaves_no_file(
    store: ObjectStore, tmp_path: Path
) -> None:
    """A huge object must not fill the scratch disk."""
    store.write("large", bytes(1001), content_type="application/octet-stream")
    with pytest.raises(SourceTooLarge):
        read(store, "large", tmp_path / "copy", max_bytes=1000)
    assert not (tmp_path / "copy").exists()


def test_deleting_is_final_and_may_be_repeated(store: ObjectStore) -> None:
    """A clean-up that was interrupted starts over."""
    store.write("u1/a.webp", b"x", content_type=WEBP)
    for _ in range(2):
        store.delete("u1/a.webp")
        assert store.stat("u1/a.webp") is None
    store.delete("u1/never/was.webp")


def test_a_listing_is_complete_sorted_and_limited_to_the_prefix(store: ObjectStore) -> None:
    """Adoption compares listings with rows in order; a gap would redo finished work."""
    keys = [f"u{n % 3}/previews/{n:04d}_preview.webp" for n in range(60)]
    keys += ["u1/posters/a.webp", "u10/previews/a.webp", "v.webp"]
    with ThreadPoolExecutor(8) as threads:
        for _ in threads.map(lambda key: store.write(key, b"x", content_type=WEBP), keys):
            pass
    assert [info.key for info in store.list()] == sorted(keys)
    assert [info.key for info in store.list("u1/pre")] == sorted(
        key for key in keys if key.startswith("u1/pre")
    )
    assert [info.key for info in store.list("u1")] == sorted(
        key for key in keys if key.startswith("u1")
    )
    assert list(store.list("none/")) == []
    first = next(store.list("u1/posters/"))
    assert (first.key, first.bytes) == ("u1/posters/a.webp", 1)
    assert first.modified.tzinfo is not None


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/passwd",
        "..",
        "../up",
        "a/../../up",
        "a/./b",
        "a//b",
        "a/",
        "nul\0",
        "line\nend",
        "back\\slash",
        "right\u202eleft",
        "broken\ud800",
        ".tmp/x",
        "x" * 256,
        "/".join(["x" * 200] * 6),
    ],
)
def test_a_key_that_is_none_is_refused_by_every_method(
    store: ObjectStore, tmp_path: Path, key: str
) -> None:
    """CVE-2023-36460 was a file written outside its directory by a name from outside."""
    with pytest.raises(InvalidKey):
        store.write(key, b"x", content_type=WEBP)
    with pytest.raises(InvalidKey):
        read(store, key, tmp_path / "copy")
    with pytest.raises(InvalidKey):
        store.stat(key)
    with pytest.raises(InvalidKey):
        store.delete(key)
    with pytest.raises(InvalidKey):
        store.uri(key)


@pytest.mark.slow
@pytest.mark.parametrize("key", ["ünïcode/ключ.webp", "with space & %41?#+.webp", "...", "-rf"])
def test_odd_but_legal_keys_round_trip(store: ObjectStore, tmp_path: Path, key: str) -> None:
    """Keys of an older system may hold anything; quoting twice or not at all loses them."""
    store.write(key, b"odd", content_type=WEBP)
    assert read(store, key, tmp_path / "copy").bytes == 3
    assert [info.key for info in store.list()] == [key]


@pytest.mark.slow
def test_a_reader_never_sees_a_torn_object(store: ObjectStore, tmp_path: Path) -> None:
    """A half-written preview would be cached by every browser that saw it."""
    bodies = [bytes([n]) * (200_000 + n) for n in range(4)]
    whole = {hashlib.sha256(body).hexdigest() for body in bodies}
    store.write("a.webp", bodies[0], content_type=WEBP)
    stop = threading.Event()

    def overwrite() -> None:
        for body in itertools.cycle(bodies):
            if stop.is_set():
                return
            store.write("a.webp", body, content_type=WEBP)

    seen: list[str] = []
    end = time.monotonic() + 20
    with ThreadPoolExecutor(1) as threads:
        writes = threads.submit(overwrite)
        # Until the reads have surely crossed writes, however slow the disk syncs today.
        while (len(seen) < 60 or len(set(seen)) < 3) and time.monotonic() < end:
            seen.append(read(store, "a.webp", tmp_path / "copy").sha256)
        stop.set()
        writes.result()
    assert set(seen) <= whole
    assert len(set(seen)) >= 3


def test_the_check_of_a_good_store_passes_and_leaves_nothing(store: ObjectStore) -> None:
    """A doctor that litters the bucket is run once."""
    store.check()
    assert list(store.list()) == []


def test_a_check_deletes_what_killed_checks_left(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another check reads at this moment stays, and so does what people named alike."""
    probe, mine = f"lens-check-{'0f' * 16}.txt", "lens-check-mine.txt"
    for key in (probe, mine):
        store.write(key, b"x", content_type="text/plain")
    time.sleep(1.1)  # a bucket tells times by the second
    store.check()
    assert [info.key for info in store.list()] == [probe, mine]
    monkeypatch.setattr(object_store, "_CHECK_LASTS", timedelta(0))
    store.check()
    assert [info.key for info in store.list()] == [mine]


def test_eight_threads_share_one_store(store: ObjectStore, tmp_path: Path) -> None:
    """A run works on several files at once with one store."""

    def round_trip(number: int) -> bool:
        body = os.urandom(10_000)
        store.write(f"t/{number}", body, content_type="application/octet-stream")
        path = tmp_path / f"copy-{number}"
        read(store, f"t/{number}", path)
        return path.read_bytes() == body

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(round_trip, range(80)))


@pytest.mark.slow
def test_the_deadline_of_a_read_holds(store: ObjectStore, tmp_path: Path) -> None:
    """A read without a deadline holds a worker for as long as the store likes."""
    # Several pieces in either store.
    store.write("slow", bytes(3 * 2**20), content_type="application/octet-stream")
    with pytest.raises(object_store.StoreUnavailable, match="not read within"):
        store.read_into("slow", tmp_path / "copy", max_bytes=2**30, deadline_seconds=1e-6)
    assert not (tmp_path / "copy").exists()
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(FetchCancelled):
        store.read_into("slow", tmp_path / "copy", cancelled=cancelled)
    assert not (tmp_path / "copy").exists()


def test_a_large_object_may_take_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A master of four hours that takes more than ten minutes to read, and has no rendition."""
    now = 1000.0
    monkeypatch.setattr(object_store.time, "monotonic", lambda: now)
    small = object_store.read_check("small", 1000, None, None)
    large = object_store.read_check("large", 40 * 2**30, None, None)
    now += 3600
    large()
    with pytest.raises(object_store.StoreUnavailable, match="small: not read within 60 s"):
        small()
    now += 36 * 3600
    with pytest.raises(object_store.StoreUnavailable):
        large()
