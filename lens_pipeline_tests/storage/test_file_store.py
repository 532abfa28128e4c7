"""What only a directory can do wrong: links, leftovers of killed writers, missing rights."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from lens_pipeline.derivatives.registry import LARGE_OBJECTS
from lens_pipeline.errors import StoreUnavailable
from lens_pipeline.settings import SettingsError
from lens_pipeline.storage.connect import open_store
from lens_pipeline.storage.content_types import content_type_of
from lens_pipeline.storage.file_store import FileStore
from lens_pipeline.storage.object_store import InvalidKey, StoreReadOnly, StoreRefused
from lens_pipeline.storage.s3_store import S3Store

WEBP = "image/webp"

# Writes an object, then overwrites it from a pipe that never delivers the rest.
KILLED_WRITER = """
import sys
from pathlib import Path
from lens_pipeline.storage.file_store import FileStore

store = FileStore(Path(sys.argv[1]))
store.write("a.webp", b"old", content_type="image/webp")
store.write("a.webp", Path("/dev/stdin"), content_type="image/webp")
"""


def content(store: FileStore, key: str) -> bytes:
    return Path(store.uri(key).removeprefix("file://")).read_bytes()


def test_a_writer_killed_in_the_middle_leaves_the_old_object_and_a_swept_leftover(
    tmp_path: Path,
) -> None:
    """kill -9, power cuts and the OOM killer run no clean-up."""
    root = tmp_path / "store"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED_WRITER, str(root)],
        stdin=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as writer:
        assert writer.stdin is not None
        writer.stdin.write(bytes(4_000_000))
        writer.stdin.flush()
        leftover = wait_for_leftover(root)
        os.kill(writer.pid, signal.SIGKILL)
    store = FileStore(root)
    assert content(store, "a.webp") == b"old"
    assert [info.key for info in store.list()] == ["a.webp"]
    assert store.sweep(3600, LARGE_OBJECTS) == 0
    assert leftover.exists()
    os.utime(leftover, (0, time.time() - 7200))
    assert store.sweep(3600, LARGE_OBJECTS) == 1
    assert list((root / ".tmp").iterdir()) == []


def test_a_sweep_deletes_only_what_a_writer_left(tmp_path: Path) -> None:
    """A backup of somebody's in the wrong place, lost to a clean-up."""
    store, elsewhere = FileStore(tmp_path / "store"), tmp_path / "elsewhere"
    own = f"{'0' * 32}.part"
    names = ("backup.part", f"{'0' * 31}g.part", f"{own}.gz", f"x{own}")
    for directory in (tmp_path / "store" / ".tmp", elsewhere):
        directory.mkdir(parents=True)
        for name in (*names, own):
            (directory / name).write_bytes(b"x")
    target = tmp_path / "store" / ".tmp"
    (target / f"{'1' * 32}.part").symlink_to(elsewhere / own)
    (target / f"{'2' * 32}.part").mkdir()
    assert store.sweep(-60, LARGE_OBJECTS) == 1
    assert len(list(target.iterdir())) == len(names) + 2
    # The directory itself is somebody else's.
    target.rename(tmp_path / "moved")
    target.symlink_to(elsewhere)
    assert store.sweep(-60, LARGE_OBJECTS) == 0
    assert len(list(elsewhere.iterdir())) == len(names) + 1


def wait_for_leftover(root: Path) -> Path:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        for path in root.glob(".tmp/*.part"):
            if path.stat().st_size > 1_000_000:
                return path
        time.sleep(0.01)
    raise AssertionError("the writer did not start")


def test_a_failed_write_keeps_the_old_object_and_leaves_nothing_behind(
    file_store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk must not cost the object that was there."""
    file_store.write("a.webp", b"old", content_type=WEBP)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreUnavailable, match="make room"):
        file_store.write("a.webp", b"new", content_type=WEBP)
    assert content(file_store, "a.webp") == b"old"
    assert list((tmp_path / "store" / ".tmp").iterdir()) == []


@pytest.mark.parametrize("link", ["outside", "outside/inner", "file"])
def test_a_symbolic_link_leads_nowhere(file_store: FileStore, tmp_path: Path, link: str) -> None:
    """A link planted in the store would read or overwrite files of the machine."""
    outside = tmp_path / "outside"
    (outside / "inner").mkdir(parents=True)
    (outside / "inner" / "secret").write_text("secret")
    file_store.write("real", b"x", content_type=WEBP)
    root = tmp_path / "store"
    (root / "outside").symlink_to(outside)
    (root / "file").symlink_to(outside / "inner" / "secret")
    key = link if link == "file" else f"{link}/secret"
    with pytest.raises(InvalidKey):
        file_store.write(key, b"overwritten", content_type=WEBP)
    with pytest.raises(InvalidKey):
        file_store.read_into(key, tmp_path / "copy", max_bytes=100, deadline_seconds=5)
    with pytest.raises(InvalidKey):
        file_store.delete(key)
    assert (outside / "inner" / "secret").read_text() == "secret"
    assert [info.key for info in file_store.list()] == ["real"]


def test_a_root_that_is_itself_a_link_works(tmp_path: Path) -> None:
    """Data directories are often links to another disk."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    store = FileStore(tmp_path / "link")
    store.write("u/a.webp", b"x", content_type=WEBP)
    assert store.stat("u/a.webp") is not None


@pytest.mark.parametrize("place", ["below a file", "/proc"])
def test_a_directory_that_cannot_be_written_is_named_with_the_fix(
    tmp_path: Path, place: str
) -> None:
    """The doctor must say what to change, also to root, whom permissions do not stop."""
    (tmp_path / "file").write_text("")
    root = tmp_path / "file" / "store" if place == "below a file" else Path("/proc/lens")
    with pytest.raises((StoreReadOnly, StoreUnavailable), match="cannot write") as raised:
        FileStore(root).check()
    if place == "below a file":
        assert "LENS_STORE_URL" in str(raised.value)
    # Users of a site see why a file failed.
    assert str(root) not in str(raised.value)


def test_a_ping_tells_a_lost_directory_from_a_new_store(
    file_store: FileStore, tmp_path: Path
) -> None:
    """A disk that is not mounted any more, and a store that has no object yet."""
    file_store.ping()
    file_store.write("u1/a.webp", b"a", content_type="image/webp")
    file_store.ping()
    root, elsewhere = tmp_path / "store", tmp_path / "elsewhere"
    root.rename(elsewhere)
    with pytest.raises(StoreUnavailable, match="is its disk mounted") as lost:
        file_store.ping()
    assert str(tmp_path) not in str(lost.value)
    elsewhere.rename(root)
    file_store.ping()


def test_a_file_that_may_not_be_read_is_no_read_only_store(file_store: FileStore) -> None:
    """Somebody who looks for a mount that is read-only, where an upload has another owner."""
    file_store.write("a.webp", b"a", content_type=WEBP)
    Path(urlsplit(file_store.uri("a.webp")).path).chmod(0)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)  # nobody: root may read everything
        with pytest.raises(
            StoreRefused, match="cannot open a.webp: .*: let this user read it"
        ) as it:
            file_store.open("a.webp").close()
    finally:
        os.seteuid(user)
    assert it.type is StoreRefused


def test_an_object_in_the_way_of_a_directory_is_a_named_error(file_store: FileStore) -> None:
    """In S3 `a` and `a/b` can both exist, in a directory they can't."""
    file_store.write("a", b"x", content_type=WEBP)
    with pytest.raises(StoreReadOnly):
        file_store.write("a/b", b"x", content_type=WEBP)
    file_store.write("c/d", b"x", content_type=WEBP)
    with pytest.raises(StoreReadOnly):
        file_store.write("c", b"x", content_type=WEBP)
    file_store.delete("c")
    assert file_store.stat("c/d") is not None


def test_a_listing_is_in_the_order_of_whole_keys_not_of_directories(
    file_store: FileStore,
) -> None:
    """`.` sorts before `/`, so walking directories by name gives another order than S3."""
    keys = ["a.b", "a/x", "a0", "a/b/c", "a/b.c", "a-b/z", ".hidden"]
    for key in keys:
        file_store.write(key, b"x", content_type=WEBP)
    assert [info.key for info in file_store.list()] == sorted(keys)


def test_a_listing_is_read_lazily(file_store: FileStore, tmp_path: Path) -> None:
    """A store of millions of files must not be read as a whole to show the first ones."""
    for name in ("a", "b"):
        file_store.write(f"{name}/x", b"x", content_type=WEBP)
    listing = file_store.list()
    assert next(listing).key == "a/x"
    file_store.delete("b/x")
    assert list(listing) == []


def test_files_that_are_no_objects_are_not_listed(file_store: FileStore, tmp_path: Path) -> None:
    """A key from a listing must work as an argument of every method."""
    file_store.write("a", b"x", content_type=WEBP)
    (tmp_path / "store" / "line\nend").write_text("")
    os.mkfifo(tmp_path / "store" / "pipe")
    assert [info.key for info in file_store.list()] == ["a"]
    assert file_store.stat("pipe") is None


def test_an_absent_root_is_an_empty_store(file_store: FileStore) -> None:
    """A new installation has no directory before its first write."""
    assert list(file_store.list()) == []
    assert file_store.stat("a") is None
    assert file_store.sweep(0, LARGE_OBJECTS) == 0


@pytest.mark.parametrize(
    ("key", "content_type"),
    [
        ("u/previews/a_preview.webp", "image/webp"),
        ("a.MP4", "video/mp4"),
        ("a.html", "application/octet-stream"),
        ("a.svg", "application/octet-stream"),
        ("webp", "application/octet-stream"),
    ],
)
def test_a_type_is_told_from_the_suffix_and_nothing_active_is_among_them(
    key: str, content_type: str
) -> None:
    """A stored page or SVG served under its own type runs its scripts on our origin."""
    assert content_type_of(key) == content_type


def test_a_store_is_opened_by_its_url(tmp_path: Path) -> None:
    """A space or umlaut in LENS_HOME must survive the way through a URL."""
    root = tmp_path / "höme dir"
    store = open_store(root.as_uri())
    store.write("a", b"x", content_type=WEBP)
    assert (root / "a").read_bytes() == b"x"
    assert store.uri("a") == (root / "a").as_uri()
    assert open_store("s3://bucket/some/prefix/").uri("a") == "s3://bucket/some/prefix/a"
    assert isinstance(open_store("s3://bucket"), S3Store)


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("file://host/dir", None),
        ("s3:///prefix", None),
        ("https://bucket", None),
        ("/dir", None),
        ("s3://b", "https://"),
    ],
)
def test_a_url_that_names_no_store_stops_the_start(url: str, endpoint: str | None) -> None:
    """A mistyped URL must not become a directory somewhere."""
    with pytest.raises(SettingsError):
        open_store(url, endpoint)
