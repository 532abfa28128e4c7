"""Downloads from strangers' URLs into files: checked addresses, one deadline, a cap on bytes.

What a URL may lead to is decided on the addresses that its host resolves to, and the connection
goes to exactly the address that was checked, so a name that resolves differently the next time
gains nothing. Redirects go through the same door. No proxies, no cookies, no credentials.
"""

import concurrent.futures
import contextvars
import functools
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote, urljoin, urlsplit

import httpcore
import tenacity

from lens_pipeline.errors import (
    SourceMissing,
    SourceRefused,
    SourceUnavailable,
    SourceUnreadable,
    StoreUnavailable,
    TransientError,
    UnsafeAddress,
)
from lens_pipeline.settings import SettingsError
from lens_pipeline.store import Fetched, ObjectStore, save_stream
from lens_pipeline.version import VERSION

T = TypeVar("T")
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
# Called like `socket.getaddrinfo`.
Lookup = Callable[..., Iterable[tuple[Any, Any, Any, Any, tuple[Any, ...]]]]

MAX_REDIRECTS = 5
# An address that swallows packets must leave time for the host's next one.
CONNECT_SECONDS = 10.0
# How late a cancellation may be noticed while waiting for the network.
POLL_SECONDS = 0.2
# A file that was stored a moment ago may not be visible at each of a provider's edges yet.
RECHECK_SECONDS = 1.0
KEEPALIVE_SECONDS = 15.0
KEEPALIVE_CONNECTIONS = 20

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_PORTS = {"http": 80, "https": 443}
# Left as they are in a path or query; everything else that is no letter or digit is quoted.
_URL_CHARACTERS = "/?%:@!$&'()*+,;=~-._[]"

# Not for the public although `is_global` of some supported Python says so.
# https://www.iana.org/assignments/iana-ipv4-special-registry
_SPECIAL_V4 = (
    ipaddress.IPv4Network("192.0.0.0/24"),  # protocol assignments; Oracle's metadata service
    ipaddress.IPv4Network("192.88.99.0/24"),  # 6to4 relays
    ipaddress.IPv4Network("168.63.129.16/32"),  # Azure's metadata service, on a public address
    ipaddress.IPv4Network("224.0.0.0/4"),  # multicast
    ipaddress.IPv4Network("240.0.0.0/4"),  # reserved, broadcast
)
# https://www.iana.org/assignments/iana-ipv6-special-registry
_UNICAST_V6 = ipaddress.IPv6Network("2000::/3")  # the only space given out for global unicast
_SPECIAL_V6 = (
    ipaddress.IPv6Network("2001::/23"),  # protocol assignments: Teredo, ORCHID, benchmarking
    ipaddress.IPv6Network("2001:db8::/32"),  # documentation
    ipaddress.IPv6Network("3fff::/20"),  # documentation
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

_REDIRECTS = {301, 302, 303, 307, 308}
_NOT_NOW = {408, 425, 429}


class FetchCancelled(TransientError):
    """The run was cancelled while a file was being fetched or waited for."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a transient failure is tried again inside one run.

    Before attempt n + 1 a random time up to `base_seconds * 2 ** (n - 1)` passes,
    `max_seconds` at the most. A server that asks by Retry-After for a longer wait than that is
    not asked again in this run.
    """

    attempts: int = 3
    base_seconds: float = 0.5
    max_seconds: float = 10.0


FILE_RETRIES = RetryPolicy()


def retry_transient(
    call: Callable[[], T],
    policy: RetryPolicy,
    *,
    within_seconds: float,
    cancelled: threading.Event | None = None,
) -> T:
    """Call until it succeeds, fails for good, or the next attempt would not fit any more.

    Raises what the last call raised; FetchCancelled if `cancelled` is set during a wait.
    """
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type((SourceUnavailable, StoreUnavailable)),
        wait=_wait(policy),
        stop=_stop(policy, within_seconds),
        sleep=lambda seconds: _pause(seconds, cancelled or threading.Event()),
        reraise=True,
    )
    return retrying(call)


def _wait(policy: RetryPolicy) -> Callable[[tenacity.RetryCallState], float]:
    backoff = tenacity.wait_random_exponential(policy.base_seconds, policy.max_seconds)

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        wished = error.retry_after_seconds if isinstance(error, SourceUnavailable) else None
        return max(backoff(state), wished or 0.0)

    return wait


def _stop(policy: RetryPolicy, within_seconds: float) -> Callable[[tenacity.RetryCallState], bool]:
    bounds = tenacity.stop_any(
        tenacity.stop_after_attempt(policy.attempts), tenacity.stop_before_delay(within_seconds)
    )
    return lambda state: bounds(state) or state.upcoming_sleep > policy.max_seconds


def _pause(seconds: float, cancelled: threading.Event) -> None:
    if cancelled.wait(seconds):
        raise FetchCancelled("the run was cancelled")


class _Deadline:
    """What is left of the time of one fetch, in seconds; also where a cancellation is noticed."""

    def __init__(self, seconds: float, cancelled: threading.Event) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        self._cancelled = cancelled
        # The host or object that the time goes to, for the message.
        self.waiting_for = "the source"

    def check(self) -> None:
        """Raise FetchCancelled or SourceUnavailable if it is time to stop."""
        if self._cancelled.is_set():
            raise FetchCancelled("the run was cancelled")
        if time.monotonic() >= self._end:
            raise SourceUnavailable(f"{self.waiting_for}: not fetched within {self._seconds:g} s")

    def remaining(self) -> float:
        """More than 0, or it raises as `check` does."""
        self.check()
        # Time has passed since the check, and a time-out of 0 would mean "do not block".
        return max(self._end - time.monotonic(), 0.001)

    def pause(self, seconds: float) -> None:
        _pause(min(seconds, self.remaining()), self._cancelled)


# The deadline of the fetch that this thread is in: connections outlive fetches, so they can't
# hold it themselves, and httpcore knows time-outs for single reads only.
_current_deadline: contextvars.ContextVar[_Deadline] = contextvars.ContextVar("deadline")


def is_public(address: IPAddress) -> bool:
    """Whether an address belongs to the public internet, seen through IPv4-in-IPv6 disguises."""
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not _in_any(address, _SPECIAL_V4)
    embedded = _embedded(address)
    if embedded is not None:
        return is_public(embedded)
    return address.is_global and address in _UNICAST_V6 and not _in_any(address, _SPECIAL_V6)


def _in_any(address: IPAddress, networks: Iterable[IPNetwork]) -> bool:
    return any(address in network for network in networks)


def _embedded(address: IPAddress) -> ipaddress.IPv4Address | None:
    """The IPv4 address that packets to a mapped, 6to4 or NAT64 address end up at."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


class _AddressGuard:
    """Resolves hosts and lets only addresses through that are public or exempt."""

    def __init__(self, allow_hosts: Iterable[str], lookup: Lookup) -> None:
        self._lookup = lookup
        self._names: set[str] = set()
        self._networks: list[IPNetwork] = []
        for entry in allow_hosts:
            self._allow(entry)

    def addresses(self, host: str, port: int, deadline: _Deadline) -> list[str]:
        """Addresses of `host`, all of them checked.

        Raises UnsafeAddress if any is not public, and SourceUnavailable if there is none.
        """
        addresses = [str(found[4][0]) for found in self._resolve(host, port, deadline)]
        if not addresses:
            raise SourceUnavailable(f"{host}: the name has no address")
        if host not in self._names and not all(map(self._allowed, addresses)):
            # The address stays out of the message: it would tell strangers about the network.
            raise UnsafeAddress(f"{host}: not a public address (see LENS_FETCH_ALLOW_HOSTS)")
        return addresses

    def _allow(self, entry: str) -> None:
        try:
            self._networks.append(ipaddress.ip_network(entry.strip("[]"), strict=False))
        except ValueError:
            name = entry.lower().removesuffix(".")
            if not _HOST.fullmatch(name):
                raise SettingsError(
                    f"LENS_FETCH_ALLOW_HOSTS: {entry[:60]!r} is no host name, address or network:"
                    " write cdn.example.com or 10.0.0.0/8, without scheme and port"
                ) from None
            self._names.add(name)

    def _allowed(self, text: str) -> bool:
        address = ipaddress.ip_address(text)
        return (
            is_public(address)
            or _in_any(address, self._networks)
            or _in_any(_embedded(address) or address, self._networks)
        )

    def _resolve(
        self, host: str, port: int, deadline: _Deadline
    ) -> Iterable[tuple[Any, Any, Any, Any, tuple[Any, ...]]]:
        """Look up in a thread of its own: a look-up takes as long as it likes, we do not.

        One that hangs is left behind; the system's resolver gives up on it within a minute.
        """
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def resolve() -> None:
            try:
                future.set_result(self._lookup(host, port, type=socket.SOCK_STREAM))
            except (OSError, UnicodeError) as error:
                future.set_exception(error)

        threading.Thread(target=resolve, name=f"resolve-{host}", daemon=True).start()
        while not future.done():
            timeout = min(deadline.remaining(), POLL_SECONDS)
            concurrent.futures.wait([future], timeout=timeout)
        try:
            return future.result()
        except (OSError, UnicodeError):
            raise SourceUnavailable(f"{host}: the name does not resolve") from None


class _GuardedBackend(httpcore.NetworkBackend):
    """Opens the connections of a pool, to checked addresses only."""

    def __init__(self, guard: _AddressGuard) -> None:
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
        deadline = _current_deadline.get()
        failure: Exception = httpcore.ConnectError("no address")
        for address in self._guard.addresses(host, port, deadline):
            try:
                stream = self._sockets.connect_tcp(
                    address,
                    port,
                    timeout=min(deadline.remaining(), CONNECT_SECONDS),
                    local_address=local_address,
                    socket_options=socket_options,
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return _DeadlineStream(stream)
        deadline.check()
        raise failure


class _DeadlineStream(httpcore.NetworkStream):
    """A connection whose every operation ends with the deadline of the fetch that uses it."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        deadline = _current_deadline.get()
        while True:
            slice_seconds = min(deadline.remaining(), POLL_SECONDS)
            with suppress(httpcore.ReadTimeout):
                return self._stream.read(max_bytes, slice_seconds)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        # A request without a body fits into the socket's buffer, so this does not block.
        self._stream.write(buffer, _current_deadline.get().remaining())

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        remaining = min(_current_deadline.get().remaining(), CONNECT_SECONDS)
        return _DeadlineStream(self._stream.start_tls(ssl_context, server_hostname, remaining))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


@dataclass(frozen=True, slots=True)
class _Link:
    """A checked http(s) URL; `host` is ASCII, lower case, without brackets and final dot."""

    scheme: str
    host: str
    port: int
    target: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """Raises UnsafeAddress for anything that is no plain http(s) URL."""
        try:
            parts = urlsplit(url)
            port = parts.port or _PORTS.get(parts.scheme, 0)
            host = _ascii_host(parts.hostname or "")
        except ValueError:
            raise UnsafeAddress("asset_url is not a valid URL") from None
        if parts.scheme not in _PORTS:
            raise UnsafeAddress(f"{parts.scheme[:20]}: only http and https URLs are fetched")
        # urlsplit drops tabs and line ends, other software may not: two readings of one URL.
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
        """The link that a Location header leads to.

        From https to http is refused: what was asked for over a protected connection must not
        come over one where anybody on the way can exchange it.
        """
        try:
            url = urljoin(f"{self.scheme}://{self.authority}{self.target}", location)
        except ValueError:
            raise UnsafeAddress(f"{self.host}: redirects to what is no valid URL") from None
        link = _Link.parse(url)
        if self.scheme == "https" and link.scheme == "http":
            raise UnsafeAddress(f"{self.host}: redirects from https to http")
        return link


def _ascii_host(host: str) -> str:
    """Raises ValueError for what is neither a host name nor an address."""
    if ":" in host:
        if "%" in host:
            raise ValueError("names an interface of this machine")
        return str(ipaddress.IPv6Address(host))
    name = host.encode("idna").decode().lower().removesuffix(".")
    if not _HOST.fullmatch(name):
        raise ValueError("not a host name")
    return name


class Fetcher:
    """Fetches sources into files, from several threads at once; close it after use.

    Connections are kept for the next file of the same host: they lead to an address that was
    checked when they were opened. Make it after a fork, never before.

    `allow_hosts`: host names, addresses and networks that may be private. `timeout_seconds` is
    for one file with everything that belongs to it: look-ups, redirects, retries and waits.
    `cancelled` ends every wait when it is set. Raises SettingsError for a wrong `allow_hosts`.
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
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl_context or _ssl_context(),
            max_connections=None,
            max_keepalive_connections=KEEPALIVE_CONNECTIONS,
            keepalive_expiry=KEEPALIVE_SECONDS,
            network_backend=_GuardedBackend(_AddressGuard(allow_hosts, lookup)),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._pool.close()

    def fetch(self, asset_url: str | None, into: Path) -> Fetched:
        """Fetch an http(s) URL, or an object of the store, into the file `into`.

        After a failure or an interruption `into` does not exist.

        Raises UnsafeAddress, SourceMissing, SourceRefused, SourceTooLarge, SourceUnreadable (an
        empty or compressed body), SourceUnavailable, StoreUnavailable, DiskFull, FetchCancelled.
        """
        source = (asset_url or "").strip()
        if not source:
            raise SourceMissing("asset_url is empty")
        deadline = _Deadline(self._timeout_seconds, self._cancelled)
        with ExitStack() as undo:
            undo.callback(into.unlink, missing_ok=True)
            fetched = retry_transient(
                lambda: self._attempt(source, into, deadline),
                self._retry,
                within_seconds=self._timeout_seconds,
                cancelled=self._cancelled,
            )
            if fetched.bytes == 0:
                raise SourceUnreadable("the source is empty: 0 bytes")
            undo.pop_all()
        return fetched

    def _attempt(self, source: str, into: Path, deadline: _Deadline) -> Fetched:
        if not _SCHEME.match(source):
            if "?" in source or "#" in source:
                # Perhaps a signed link that lacks its scheme: what follows may be a secret.
                raise UnsafeAddress(
                    f"{re.split('[?#]', source)[0]}: neither an http(s) URL nor an object key"
                )
            return self._store.read_into(
                source,
                into,
                max_bytes=self._max_bytes,
                deadline_seconds=deadline.remaining(),
            )
        link = _Link.parse(source)
        try:
            return self._download(link, into, deadline)
        except SourceMissing:
            deadline.pause(self._recheck_seconds)
            return self._download(link, into, deadline)

    def _download(self, link: _Link, into: Path, deadline: _Deadline) -> Fetched:
        for _ in range(MAX_REDIRECTS + 1):
            outcome = self._visit(link, into, deadline)
            if isinstance(outcome, Fetched):
                return outcome
            link = outcome
        raise SourceRefused(f"{link.host}: more than {MAX_REDIRECTS} redirects")

    def _visit(self, link: _Link, into: Path, deadline: _Deadline) -> Fetched | _Link:
        """One request; returns the file, or the link it redirects to."""
        request = httpcore.URL(
            scheme=link.scheme, host=link.host, port=link.port, target=link.target
        )
        headers = [
            ("Host", link.authority),
            ("User-Agent", f"lens-pipeline/{VERSION}"),
            ("Accept", "*/*"),
            ("Accept-Encoding", "identity"),
        ]
        deadline.waiting_for = link.host
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
    """The authorities of certifi, and those that this machine trusts besides.

    One for the process, since loading them takes 0.1 s.
    """
    context = httpcore.default_ssl_context()
    context.load_default_certs()
    return context


@contextmanager
def _entered(deadline: _Deadline) -> Iterator[None]:
    token = _current_deadline.set(deadline)
    try:
        yield
    finally:
        _current_deadline.reset(token)


@contextmanager
def _named_errors(host: str) -> Iterator[None]:
    """Say what httpcore's errors mean, in words that hold nothing of the URL but its host."""
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
    """Bytes that are announced; h11 has refused a length that is no number."""
    length = headers.get("content-length")
    return None if length is None else int(length)


def _require_ok(host: str, status: int, headers: Mapping[str, str]) -> None:
    """Raise what an answer means that does not bring the plain bytes of the file."""
    if status in {404, 410}:
        raise SourceMissing(f"{host}: answered {status}")
    if status in _NOT_NOW or status >= 500:
        retry_after = retry_after_seconds(headers) if status in {429, 503} else None
        raise SourceUnavailable(f"{host}: answered {status}", retry_after_seconds=retry_after)
    if status != 200:
        raise SourceRefused(f"{host}: answered {status}")
    # Never unpacked: there is no need for it, and a small body could become an endless one.
    if headers.get("content-encoding", "identity").strip().lower() not in {"", "identity"}:
        raise SourceUnreadable(f"{host}: sends a compressed body although asked not to")


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """RFC 9110, 10.2.3: seconds, or a date; None if it is neither."""
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    # A date that ends in -0000 is UTC too, but comes out naive.
    moment = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max((moment - datetime.now(UTC)).total_seconds(), 0.0)
