"""Downloads untrusted URLs into files. Allowed addresses are in `address_guard`."""

import functools
import ipaddress
import re
import socket
import ssl
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urljoin, urlsplit

import certifi
import httpcore2 as httpcore

from lens_pipeline import VERSION
from lens_pipeline.core.durations import retry_after_seconds
from lens_pipeline.errors import (
    HostUnreachable,
    SourceMissing,
    SourceRefused,
    SourceUnavailable,
    SourceUnreadable,
    UnsafeAddress,
)
from lens_pipeline.storage.address_guard import HOST, AddressGuard, Lookup
from lens_pipeline.storage.object_store import Fetched, ObjectStore, is_object_key, save_stream
from lens_pipeline.storage.retries import (
    FILE_RETRIES,
    POLL_SECONDS,
    Deadline,
    RetryPolicy,
    current_deadline,
    retry_transient,
)

MAX_REDIRECTS = 5
# Leaves time for the next address.
CONNECT_SECONDS = 10.0
# A new file may be missing at some of a provider's edges.
RECHECK_SECONDS = 1.0
KEEPALIVE_SECONDS = 15.0
KEEPALIVE_CONNECTIONS = 20

_PORTS = {"http": 80, "https": 443}
_URL_CHARACTERS = "/?%:@!$&'()*+,;=~-._[]"
_REDIRECTS = {301, 302, 303, 307, 308}
_NOT_NOW = {408, 425, 429}


class _GuardedBackend(httpcore.NetworkBackend):
    def __init__(self, guard: AddressGuard) -> None:
        self._guard = guard
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """Raises HostUnreachable if no address takes the connection in time."""
        deadline = current_deadline.get()
        failure: Exception | None = None
        for address in self._guard.addresses(host, port, deadline):
            try:
                stream = self._sockets.connect_tcp(
                    address,
                    port,
                    timeout=min(deadline.remaining(), CONNECT_SECONDS),
                    local_address=local_address,
                    socket_options=socket_options,
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout, SourceUnavailable) as error:
                failure = error
            else:
                return _DeadlineStream(stream)
        raise HostUnreachable(f"{host}: cannot connect: {failure}") from failure


class _DeadlineStream(httpcore.NetworkStream):
    """Applies the deadline of the current fetch."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        deadline = current_deadline.get()
        while True:
            slice_seconds = min(deadline.remaining(), POLL_SECONDS)
            with suppress(httpcore.ReadTimeout):
                return self._stream.read(max_bytes, slice_seconds)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        # A request without a body fits into the buffer.
        self._stream.write(buffer, current_deadline.get().remaining())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        remaining = min(current_deadline.get().remaining(), CONNECT_SECONDS)
        return _DeadlineStream(self._stream.start_tls(ssl_context, server_hostname, remaining))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


@dataclass(frozen=True, slots=True)
class _Link:
    """A checked URL; `host` is ASCII, lower case, without brackets and final dot."""

    scheme: str
    host: str
    port: int
    target: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """Raises UnsafeAddress: no plain http(s) URL."""
        try:
            parts = urlsplit(url)
            port = parts.port or _PORTS.get(parts.scheme, 0)
            host = _ascii_host(parts.hostname or "")
        except ValueError:
            raise UnsafeAddress("asset_url is not a valid URL") from None
        if parts.scheme not in _PORTS:
            raise UnsafeAddress(f"{parts.scheme[:20]}: only http and https URLs are fetched")
        # urlsplit drops tabs and line ends.
        if not url.isprintable():
            raise UnsafeAddress(f"{host}: the URL has characters that are not allowed")
        if "@" in parts.netloc:
            raise UnsafeAddress(f"{host}: the URL has a user name or password")
        target = parts.path or "/"
        if parts.query:
            target += "?" + parts.query
        return cls(parts.scheme, host, port, quote(target, safe=_URL_CHARACTERS))

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def redirected(self, location: str) -> "_Link":
        """Raises UnsafeAddress: also from https to http, where the file can be exchanged."""
        try:
            url = urljoin(f"{self.scheme}://{self.authority}{self.target}", location)
        except ValueError:
            raise UnsafeAddress(f"{self.host}: redirects to what is no valid URL") from None
        link = _Link.parse(url)
        if self.scheme == "https" and link.scheme == "http":
            raise UnsafeAddress(f"{self.host}: redirects from https to http")
        return link


def _ascii_host(host: str) -> str:
    """Raises ValueError: neither a host name nor an address."""
    if ":" in host:
        if "%" in host:
            raise ValueError("names an interface of this machine")
        return str(ipaddress.IPv6Address(host))
    name = host.encode("idna").decode().lower().removesuffix(".")
    if not HOST.fullmatch(name):
        raise ValueError("not a host name")
    return name


class Fetcher:
    """Fetches sources into files, from several threads; made after a fork, closed after use.

    `allow_hosts`: names, addresses and networks that may be private. `timeout_seconds` is for one
    file with redirects, retries and waits. `cancelled` ends every wait. Raises SettingsError.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        timeout_seconds: float,
        max_bytes: int,
        allow_hosts: Iterable[str] = (),
        retry: RetryPolicy = FILE_RETRIES,
        cancelled: threading.Event | None = None,
        ssl_context: ssl.SSLContext | None = None,
        lookup: Lookup = socket.getaddrinfo,
        recheck_seconds: float = RECHECK_SECONDS,
    ) -> None:
        self._store = store
        self._timeout_seconds = timeout_seconds
        self._max_bytes = max_bytes
        self._retry = retry
        self._cancelled = cancelled or threading.Event()
        self._recheck_seconds = recheck_seconds
        # A run must not wait for each of its files if none can be had.
        self._away: set[str] = set()
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl_context or _ssl_context(),
            max_connections=None,
            max_keepalive_connections=KEEPALIVE_CONNECTIONS,
            keepalive_expiry=KEEPALIVE_SECONDS,
            network_backend=_GuardedBackend(AddressGuard(allow_hosts, lookup)),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._pool.close()

    def fetch(self, asset_url: str | None, into: Path) -> Fetched:
        """Fetch an http(s) URL or an object into `into`, which does not exist after a failure.

        An object of the store whose web address refuses us is read as any other object.

        Raises UnsafeAddress, SourceMissing, SourceRefused, SourceTooLarge, SourceUnreadable (an
        empty or compressed body), HostUnreachable, SourceUnavailable, StoreUnavailable, DiskFull,
        FetchCancelled.
        """
        source = (asset_url or "").strip()
        if not source:
            raise SourceMissing("asset_url is empty")
        deadline = Deadline(self._timeout_seconds, self._cancelled)
        with ExitStack() as undo:
            undo.callback(into.unlink, missing_ok=True)
            try:
                fetched = retry_transient(
                    lambda: self._attempt(source, into, deadline),
                    self._retry,
                    within_seconds=self._timeout_seconds,
                    cancelled=self._cancelled,
                )
            except HostUnreachable:
                self._away.add(deadline.waiting_for)
                raise
            if fetched.bytes == 0:
                raise SourceUnreadable("the source is empty: 0 bytes")
            undo.pop_all()
        return fetched

    def _attempt(self, source: str, into: Path, deadline: Deadline) -> Fetched:
        if is_object_key(source):
            if "?" in source or "#" in source:
                # A link without scheme may contain a secret.
                raise UnsafeAddress(
                    f"{re.split('[?#]', source)[0]}: neither an http(s) URL nor an object key"
                )
            return self._read(source, into, deadline)
        link = _Link.parse(source)
        try:
            return self._download(link, into, deadline)
        except SourceMissing:
            deadline.pause(self._recheck_seconds)
            return self._download(link, into, deadline)
        except SourceRefused:
            # It names a private object of our own bucket, or is an expired link to one.
            key = self._store.key_of(source)
            if key is None:
                raise
            return self._read(key, into, deadline)

    def _read(self, key: str, into: Path, deadline: Deadline) -> Fetched:
        return self._store.read_into(
            key,
            into,
            max_bytes=self._max_bytes,
            deadline_seconds=deadline.remaining(),
            cancelled=self._cancelled,
        )

    def _download(self, link: _Link, into: Path, deadline: Deadline) -> Fetched:
        for _ in range(MAX_REDIRECTS + 1):
            outcome = self._visit(link, into, deadline)
            if isinstance(outcome, Fetched):
                return outcome
            link = outcome
        raise SourceRefused(f"{link.host}: more than {MAX_REDIRECTS} redirects")

    def _visit(self, link: _Link, into: Path, deadline: Deadline) -> Fetched | _Link:
        """The file, or the link of a redirect."""
        request = httpcore.URL(
            scheme=link.scheme, host=link.host, port=link.port, target=link.target
        )
        headers = [
            ("Host", link.authority),
            ("User-Agent", f"lens-pipeline/{VERSION}"),
            ("Accept", "*/*"),
            ("Accept-Encoding", "identity"),
        ]
        deadline.waiting_for = link.authority
        if link.authority in self._away:
            raise HostUnreachable(f"{link.host}: cannot connect, as for other files of this run")
        with (
            _entered(deadline),
            _named_errors(link.host),
            self._pool.stream("GET", request, headers=headers) as response,
        ):
            answer = _headers(response)
            if response.status in _REDIRECTS and "location" in answer:
                return link.redirected(answer["location"])
            _require_ok(link.host, response.status, answer)
            return save_stream(
                response.iter_stream(),
                into,
                max_bytes=self._max_bytes,
                expected_bytes=_content_length(answer),
                check=deadline.check,
            )


@functools.cache
def _ssl_context() -> ssl.SSLContext:
    """The authorities of certifi and of this machine; loading takes 0.1 s."""
    context = ssl.create_default_context(cafile=certifi.where())
    context.load_default_certs()
    return context


@contextmanager
def _entered(deadline: Deadline) -> Iterator[None]:
    token = current_deadline.set(deadline)
    try:
        yield
    finally:
        current_deadline.reset(token)


@contextmanager
def _named_errors(host: str) -> Iterator[None]:
    """Translate httpcore's errors; of the URL only the host is shown."""
    try:
        yield
    except httpcore.ConnectError as error:
        raise SourceUnavailable(f"{host}: cannot connect: {error}") from error
    except httpcore.TimeoutException as error:
        raise SourceUnavailable(f"{host}: does not answer in time") from error
    except httpcore.ProtocolError as error:
        raise SourceUnavailable(f"{host}: the answer breaks off or is no HTTP") from error
    except httpcore.NetworkError as error:
        raise SourceUnavailable(f"{host}: the connection broke") from error


def _headers(response: httpcore.Response) -> dict[str, str]:
    return {
        name.decode("ascii").lower(): value.decode("utf-8", "replace")
        for name, value in response.headers
    }


def _content_length(headers: Mapping[str, str]) -> int | None:
    """h11 refuses a length that is no number."""
    length = headers.get("content-length")
    return None if length is None else int(length)


def _require_ok(host: str, status: int, headers: Mapping[str, str]) -> None:
    if status in {404, 410}:
        raise SourceMissing(f"{host}: answered {status}")
    if status in _NOT_NOW or status >= 500:
        retry_after = retry_after_seconds(headers) if status in {429, 503} else None
        raise SourceUnavailable(f"{host}: answered {status}", retry_after_seconds=retry_after)
    if status != 200:
        raise SourceRefused(f"{host}: answered {status}")
    # Never unpacked: a small body could become endless.
    if headers.get("content-encoding", "identity").strip().lower() not in {"", "identity"}:
        raise SourceUnreadable(f"{host}: sends a compressed body although asked not to")
