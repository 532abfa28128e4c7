"""What only S3 does: headers, parts, and its own ways to refuse."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lens_pipeline.derivatives.registry import LARGE_OBJECTS
from lens_pipeline.errors import DerivativeError, SourceMissing, SourceRefused, StoreUnavailable
from lens_pipeline.storage.object_store import (
    CACHE_IMMUTABLE,
    CACHE_REVALIDATE,
    NoSuchBucket,
    ObjectStore,
    StoreRefused,
    WrongCredentials,
)
from lens_pipeline.storage.s3_store import S3Store
from lens_pipeline_tests.storage.download.fetchers import short_fetcher
from lens_pipeline_tests.support.servers import Answer, HostileServer, SeaweedServer

# Real servers start and stop in most of these.
pytestmark = pytest.mark.slow

WEBP = "image/webp"

Call = Callable[[ObjectStore, Path], object]
CALLS: dict[str, Call] = {
    "write": lambda store, _: store.write("a", b"x", content_type=WEBP),
    "read": lambda store, path: store.read_into("a", path, max_bytes=9, deadline_seconds=5),
    "stat": lambda store, _: store.stat("a"),
    "list": lambda store, _: list(store.list()),
    "delete": lambda store, _: store.delete("a"),
    "sweep": lambda store, _: store.sweep(0, LARGE_OBJECTS),
    "check": lambda store, _: store.check(),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


def headers(seaweed: SeaweedServer, store: S3Store, key: str) -> tuple[str, str]:
    name = store.uri(key).removeprefix(f"s3://{seaweed.bucket}/")
    answer = seaweed.client().head_object(Bucket=seaweed.bucket, Key=name)
    return answer["ContentType"], answer["CacheControl"]


def test_objects_carry_their_type_and_how_long_they_may_be_cached(
    seaweed: SeaweedServer, s3_store: S3Store, tmp_path: Path
) -> None:
    """A bucket is often served directly: a wrong type downloads, a wrong age shows old pictures."""
    s3_store.write("a.webp", b"x", content_type=WEBP)
    assert headers(seaweed, s3_store, "a.webp") == (WEBP, CACHE_REVALIDATE)
    (tmp_path / "m.mp4").write_bytes(b"x")
    s3_store.write(
        "m.mp4", tmp_path / "m.mp4", content_type="video/mp4", cache_control=CACHE_IMMUTABLE
    )
    assert headers(seaweed, s3_store, "m.mp4") == ("video/mp4", CACHE_IMMUTABLE)


@pytest.mark.usefixtures("s3_store")
def test_a_large_file_goes_up_in_parts_with_its_headers(
    seaweed: SeaweedServer, tmp_path: Path
) -> None:
    """Headers are given when an upload in parts begins, and are easily lost there."""
    limits = {"multipart_bytes": 6 * 2**20, "part_bytes": 5 * 2**20}
    store = S3Store(seaweed.bucket, "parts", seaweed.endpoint, **limits)
    source = tmp_path / "m.mp4"
    source.write_bytes(os.urandom(12 * 2**20))
    store.write("m.mp4", source, content_type="video/mp4")
    info = store.stat("m.mp4")
    assert info is not None
    assert info.bytes == 12 * 2**20
    assert info.etag.endswith("-3")
    store.read_into("m.mp4", tmp_path / "copy", max_bytes=2**30, deadline_seconds=30)
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()
    assert headers(seaweed, store, "m.mp4")[0] == "video/mp4"


def test_uploads_in_parts_of_killed_writers_are_aborted(
    seaweed: SeaweedServer, s3_store: S3Store
) -> None:
    """Parts without an end cost money and are seen by no listing."""
    client = seaweed.client()
    prefix = s3_store.uri("x").removeprefix(f"s3://{seaweed.bucket}/").removesuffix("x")
    own = [
        "masters/p/master_1_0123456789ab.mp4",
        "scaled/p/s-1_0123456789ab.mp4",
        f"cache/shots/{'0' * 64}.mp4",
    ]
    foreign = [
        *(f"elsewhere/{key}" for key in own),
        *(f"{prefix}{key}.zip" for key in own),
        *(f"{prefix}backup/{key}" for key in own),
        *(prefix + key for key in ("film.mp4", "masters/p/film.mp4", "u1/uploads/a.mp4")),
        f"{prefix}masters/p/master_1.mp4",
    ]
    for key in (*foreign, *(prefix + key for key in own)):
        client.create_multipart_upload(Bucket=seaweed.bucket, Key=key)
    assert s3_store.sweep(3600, LARGE_OBJECTS) == 0
    assert s3_store.sweep(-60, LARGE_OBJECTS) == len(own)
    assert s3_store.sweep(-60, LARGE_OBJECTS) == 0
    left = client.list_multipart_uploads(Bucket=seaweed.bucket)["Uploads"]
    assert {upload["Key"] for upload in left} >= set(foreign)


@every_call
def test_a_wrong_secret_is_named_with_the_fix_and_blames_no_file(
    seaweed: SeaweedServer,
    s3_store: S3Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: Call,
) -> None:
    """A mistyped secret must not turn a library into dead letters, nor look like an outage."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    with pytest.raises(StoreRefused, match=r"credentials|AWS_SECRET_ACCESS_KEY") as raised:
        call(s3_store, tmp_path / "copy")
    assert not raised.value.permanent
    assert "not-the-secret" not in str(raised.value)


@every_call
def test_a_missing_bucket_is_named_and_never_looks_like_an_empty_store(
    s3_store: S3Store, seaweed: SeaweedServer, tmp_path: Path, call: Call
) -> None:
    """A typing error in the bucket's name would make everything again, or delete rows' files."""
    with pytest.raises(NoSuchBucket, match="create the bucket"):
        call(S3Store("no-such-bucket", "", seaweed.endpoint), tmp_path / "copy")


@pytest.mark.usefixtures("s3_store")
def test_a_check_finds_that_objects_cannot_be_listed(
    seaweed: SeaweedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Credentials that are enough for weeks, until the first master is deleted."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweed.unlisting_key)
    store = S3Store(seaweed.bucket, "unlisted", seaweed.endpoint)
    with pytest.raises(StoreRefused, match=r"allow them s3:ListBucket"):
        store.check()


def test_a_ping_names_a_missing_bucket(s3_store: S3Store, seaweed: SeaweedServer) -> None:
    s3_store.ping()
    with pytest.raises(NoSuchBucket, match="create the bucket"):
        S3Store("no-such-bucket", "", seaweed.endpoint).ping()


@every_call
def test_a_server_that_is_down_is_a_transient_error(
    s3_store: S3Store, tmp_path: Path, call: Call
) -> None:
    """An outage of the store must not turn files into dead letters."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(StoreUnavailable, match="up and reachable"):
        call(S3Store("lens", "", f"http://127.0.0.1:{port}"), tmp_path / "copy")


def test_no_credentials_at_all_are_named(
    seaweed: SeaweedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commonest first mistake deserves the clearest message."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(WrongCredentials, match="AWS_ACCESS_KEY_ID"):
        S3Store("lens", "", seaweed.endpoint).check()


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (500, StoreUnavailable),
        (503, StoreUnavailable),
        (403, WrongCredentials),
        (400, StoreRefused),
    ],
)
def test_what_the_server_answers_decides_what_it_is_called(
    s3_store: S3Store,
    status: int,
    expected: type[DerivativeError],
) -> None:
    """Statuses without a body are what proxies in front of a store send."""
    with HostileServer() as server:
        server.answer_first("/lens/x/a", Answer(status), times=9)
        with pytest.raises(DerivativeError) as raised:
            S3Store("lens", "x", server.url(""), attempts=1).stat("a")
    assert type(raised.value) is expected


def test_an_endpoint_may_have_a_path_and_the_bucket_follows_it(
    s3_store: S3Store, tmp_path: Path
) -> None:
    """Supabase Storage serves S3 below /storage/v1/s3 and knows no host name for a bucket."""
    with HostileServer() as server:
        # A name, because for an address boto3 never puts the bucket into the host.
        endpoint = server.url("/storage/v1/s3", host="localhost")
        server.put("/storage/v1/s3/lens/x/a", b"picture", headers={"ETag": '"1"'})
        CALLS["read"](S3Store("lens", "x", endpoint), tmp_path / "copy")
        assert server.requests["/storage/v1/s3/lens/x/a"] == 1


def test_a_body_cut_short_is_transient_and_leaves_no_file(
    s3_store: S3Store, tmp_path: Path
) -> None:
    """Half a source decodes to half a picture."""
    with HostileServer() as server:
        server.put("/lens/a", b"half", headers={"Content-Length": "1000", "Connection": "close"})
        store = S3Store("lens", "", server.url(""))
        with pytest.raises(StoreUnavailable):
            store.read_into("a", tmp_path / "copy", max_bytes=2000, deadline_seconds=5)
    assert not (tmp_path / "copy").exists()


def test_a_forked_child_makes_connections_of_its_own(
    seaweed: SeaweedServer, s3_store: S3Store
) -> None:
    """Two processes on one socket read each other's answers; Celery forks its workers."""
    s3_store.write("parent", b"x", content_type=WEBP)
    code = (
        "import os, sys\n"
        "from lens_pipeline.storage.connect import open_store\n"
        "store = open_store(sys.argv[1], sys.argv[2])\n"
        "store.stat('parent')\n"
        "pid = os.fork()\n"
        "for n in range(30):\n"
        "    assert store.stat('parent').key == 'parent'\n"
        "    store.write(f'{pid == 0}/{n}', str(n).encode(), content_type='text/plain')\n"
        "if pid == 0: os._exit(0)\n"
        "assert os.waitpid(pid, 0)[1] == 0\n"
    )
    url = s3_store.uri("x").removesuffix("/x")
    subprocess.run(
        [sys.executable, "-c", code, url, seaweed.endpoint],
        check=True,
        cwd=Path(__file__).parents[2],
        timeout=60,
    )
    assert len(list(s3_store.list("True/"))) == 30
    assert len(list(s3_store.list("False/"))) == 30


def test_importing_the_module_does_not_import_boto3() -> None:
    """boto3 takes 0.6 s, which every `lens` command would pay."""
    code = "import sys, lens_pipeline.storage.connect; sys.exit('boto3' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_a_private_address_of_our_bucket_is_read_from_it(
    seaweed: SeaweedServer, s3_store: S3Store, tmp_path: Path
) -> None:
    """Links of Supabase Storage that expired, or never worked, to files that are ours."""
    prefix = s3_store.uri("k").removeprefix(f"s3://{seaweed.bucket}/").removesuffix("k")
    s3_store.write("u1/a b.jpg", b"ours", content_type="image/jpeg")
    with HostileServer() as server, short_fetcher(s3_store) as fetcher:

        def fetch(kind: str, bucket: str, key: str, status: int) -> bytes:
            path = f"/storage/v1/object/{kind}/{bucket}/{key}"
            server.fail_first(path, status)
            fetcher.fetch(server.url(f"{path}?token=expired"), tmp_path / "fetched")
            return (tmp_path / "fetched").read_bytes()

        for kind, status in (("public", 400), ("sign", 400), ("authenticated", 403)):
            assert fetch(kind, seaweed.bucket, f"{prefix}u1/a%20b.jpg", status) == b"ours"
        for bucket, key in (("another", prefix), (seaweed.bucket, ""), (seaweed.bucket, "x/")):
            with pytest.raises(SourceRefused, match="answered 403"):
                fetch("public", bucket, f"{key}u1/a%20b.jpg", 403)
        with pytest.raises(SourceMissing):
            fetch("public", seaweed.bucket, f"{prefix}u1/none.jpg", 400)
    # Others' servers must not have us read our bucket.
    path = f"/storage/v1/object/public/{seaweed.bucket}/{prefix}u1/a.jpg"
    assert s3_store.key_of(f"http://127.0.0.1{path}") == "u1/a.jpg"
    assert s3_store.key_of(f"http://elsewhere.example{path}") is None
    hosted = S3Store("media", "", "https://x.storage.supabase.co/storage/v1/s3")
    assert (
        hosted.key_of("https://x.supabase.co/storage/v1/object/public/media/a/b.png") == "a/b.png"
    )
    assert hosted.key_of("https://y.supabase.co/storage/v1/object/public/media/a/b.png") is None
    assert hosted.key_of("https://[x/storage/v1/object/public/media/a") is None
