"""Reading ranges of objects as they were when they were opened, on a directory and on real S3."""

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lens_pipeline.errors import SourceMissing, StoreUnavailable
from lens_pipeline.storage.file_store import FileStore
from lens_pipeline.storage.object_store import (
    InvalidKey,
    NoSuchBucket,
    ObjectReader,
    ObjectReplaced,
    ObjectStore,
)
from lens_pipeline.storage.s3_store import S3Store
from lens_pipeline_tests.support.servers import Answer, HostileServer, SeaweedServer

MP4 = "video/mp4"


def _rest(reader: ObjectReader, most_bytes: int = 10_000) -> bytes:
    chunks = []
    while reader.left:
        chunk = reader.read(most_bytes)
        assert 0 < len(chunk) <= most_bytes
        chunks.append(bytes(chunk))
    assert bytes(reader.read(most_bytes)) == b""
    return b"".join(chunks)


@pytest.mark.parametrize(
    ("start", "end"), [(0, 300_000), (0, 1), (299_999, 300_000), (1234, 222_222), (7, 7)]
)
def test_a_range_is_read_exactly(store: ObjectStore, start: int, end: int) -> None:
    """A player that seeks gets the bytes of the place it asked for."""
    body = os.urandom(300_000)
    store.write("m.mp4", body, content_type=MP4)
    with store.open("m.mp4") as reader:
        assert reader.info == store.stat("m.mp4")
        reader.select(start, end)
        assert reader.left == end - start
        assert _rest(reader) == body[start:end]


def test_a_reader_may_go_to_another_place(store: ObjectStore) -> None:
    body = os.urandom(50_000)
    store.write("m.mp4", body, content_type=MP4)
    with store.open("m.mp4") as reader:
        reader.select(0, 50_000)
        reader.read(1000)
        reader.select(40_000, 50_000)
        assert _rest(reader) == body[40_000:]


def test_an_empty_object_has_no_bytes_to_read(store: ObjectStore) -> None:
    store.write("empty.mp4", b"", content_type=MP4)
    with store.open("empty.mp4") as reader:
        reader.select(0, 0)
        assert (reader.info.bytes, _rest(reader)) == (0, b"")


def test_what_is_not_there_is_missing(store: ObjectStore) -> None:
    """Absence is an answer, and must not look like a failure of the store."""
    store.write("u1/a.webp", b"x", content_type="image/webp")
    for key in ("u1/b.webp", "u1", "u1/a.webp/c"):
        with pytest.raises(SourceMissing):
            store.open(key)
    with pytest.raises(InvalidKey):
        store.open("../a.webp")


def test_an_object_that_is_replaced_while_it_is_read_is_never_mixed_with_the_new_one(
    store: ObjectStore,
) -> None:
    """Half of one film and half of another, with an ETag that says it is one."""
    old, new = b"o" * 3_000_000, b"n" * 3_000_000
    store.write("m.mp4", old, content_type=MP4)
    with store.open("m.mp4") as reader:
        reader.select(0, len(old))
        seen = bytes(reader.read(1000))
        store.write("m.mp4", new, content_type=MP4)
        try:
            seen += _rest(reader, 100_000)
        except ObjectReplaced:
            assert len(seen) == 1000
        assert set(seen) == {ord("o")}
        # Another place of the same object: the old bytes or an error, never the new ones.
        try:
            reader.select(2_000_000, 2_001_000)
            assert _rest(reader) == old[:1000]
        except ObjectReplaced:
            assert isinstance(store, S3Store)


def test_an_object_that_is_deleted_while_it_is_read(store: ObjectStore) -> None:
    store.write("m.mp4", b"x" * 1_000_000, content_type=MP4)
    with store.open("m.mp4") as reader:
        reader.select(0, 10)
        assert _rest(reader) == b"x" * 10
        store.delete("m.mp4")
        try:
            reader.select(500_000, 500_010)
            assert _rest(reader) == b"x" * 10
        except ObjectReplaced:
            assert isinstance(store, S3Store)


def test_readers_do_not_disturb_each_other(store: ObjectStore) -> None:
    bodies = {f"{n}.mp4": os.urandom(200_000) for n in range(8)}
    for key, body in bodies.items():
        store.write(key, body, content_type=MP4)
    failed: list[str] = []

    def check(key: str) -> None:
        with store.open(key) as reader:
            reader.select(100, 200_000)
            if _rest(reader, 5000) != bodies[key][100:]:
                failed.append(key)

    threads = [threading.Thread(target=check, args=(key,)) for key in bodies for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert failed == []


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_reader_gives_back_its_file(file_store: FileStore) -> None:
    """A server that runs for months has no descriptors left."""
    file_store.write("m.mp4", b"x" * 1000, content_type=MP4)
    before = _descriptors()
    for _ in range(50):
        reader = file_store.open("m.mp4")
        reader.select(0, 10)
        reader.close()
        reader.close()
    with pytest.raises(SourceMissing):
        file_store.open("none.mp4")
    assert _descriptors() == before


def test_what_is_in_memory_is_read_without_waiting(file_store: FileStore) -> None:
    """The event loop of a server reads that itself: half of the work of asking a thread."""
    body = os.urandom(100_000)
    file_store.write("m.mp4", body, content_type=MP4)
    with file_store.open("m.mp4") as reader:
        reader.select(10, 100_000)
        read = b""
        while reader.left:
            chunk = reader.read_at_once(30_000)
            # None: the file system cannot say; that is no error.
            read += bytes(reader.read(30_000) if chunk is None else chunk)
        assert read == body[10:]


def test_a_file_that_is_cut_short_is_no_end(file_store: FileStore, tmp_path: Path) -> None:
    """Not by us; a full disk or a mistaken hand. The client must see that bytes are missing."""
    file_store.write("m.mp4", b"x" * 1000, content_type=MP4)
    with file_store.open("m.mp4") as reader:
        reader.select(0, 1000)
        reader.read(100)
        os.truncate(tmp_path / "store" / "m.mp4", 100)
        with pytest.raises(ObjectReplaced, match="cut short"):
            reader.read(100)


@pytest.mark.parametrize("kind", ["pipe", "link", "directory"])
def test_what_is_no_plain_file_is_never_opened(
    file_store: FileStore, tmp_path: Path, kind: str
) -> None:
    """A pipe would hang its reader for ever; a link leads wherever it likes."""
    place = tmp_path / "store" / "odd"
    place.parent.mkdir(exist_ok=True)
    make: dict[str, Callable[[], object]] = {
        "pipe": lambda: os.mkfifo(place),
        "link": lambda: place.symlink_to("/etc/passwd"),
        "directory": place.mkdir,
    }
    make[kind]()
    with pytest.raises(InvalidKey if kind == "link" else SourceMissing):
        file_store.open("odd")


@pytest.mark.slow
@pytest.mark.usefixtures("s3_store")
def test_a_connection_that_breaks_is_made_again_at_the_same_place() -> None:
    """A store hangs up on a browser that has buffered enough and reads no further for a while."""
    body = os.urandom(10_000)
    with HostileServer() as server:
        path = "/lens/x/m.mp4"
        known = {"ETag": '"e"', "Last-Modified": "Sun, 01 Mar 2026 12:00:00 GMT"}
        server.put(path, body, MP4, known)
        store = S3Store("lens", "x", server.url(""))
        with store.open("m.mp4") as reader:
            # Says 10,000 bytes, and hangs up after 4,000.
            cut = {**known, "Content-Length": "10000", "Connection": "close"}
            server.answer_first(path, Answer(206, body[:4000], cut))
            server.answer_first(path, Answer(206, body[4000:], known))
            reader.select(0, 10_000)
            assert _rest(reader, 4000) == body
        assert server.received[-1]["Range"] == "bytes=4000-9999"
        assert server.received[-1]["If-Match"] == '"e"'


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    [
        Answer(412),
        Answer(404),
        Answer(416),
        # No conditions, and no ranges.
        Answer(206, b"n" * 100, {"ETag": '"new"'}),
        Answer(200, b"o" * 1000, {"ETag": '"e"'}),
    ],
    ids=["412", "404", "416", "other-etag", "whole"],
)
def test_a_server_that_no_longer_has_the_same_object(s3_store: S3Store, answer: Answer) -> None:
    """Servers differ in how they say so, and some do not."""
    with HostileServer() as server:
        known = {"ETag": '"e"', "Last-Modified": "Sun, 01 Mar 2026 12:00:00 GMT"}
        server.put("/lens/m.mp4", b"o" * 1000, MP4, known)
        with S3Store("lens", "", server.url("")).open("m.mp4") as reader:
            server.answer_first("/lens/m.mp4", answer)
            with pytest.raises(ObjectReplaced):
                reader.select(0, 100)


@pytest.mark.slow
def test_a_server_that_is_down_or_without_the_bucket(
    s3_store: S3Store, seaweed: SeaweedServer
) -> None:
    """An outage is no missing file."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(StoreUnavailable, match="up and reachable"):
        S3Store("lens", "", f"http://127.0.0.1:{port}").open("m.mp4")
    with pytest.raises(NoSuchBucket):
        S3Store("no-such-bucket", "", seaweed.endpoint).open("m.mp4")
