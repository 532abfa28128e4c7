"""Which addresses a download may connect to."""

import concurrent.futures
import ipaddress
import re
import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any

from lens_pipeline.errors import HostUnreachable, SourceUnavailable, UnsafeAddress
from lens_pipeline.settings import SettingsError
from lens_pipeline.storage.retries import POLL_SECONDS, Deadline

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
Lookup = Callable[..., Iterable[tuple[Any, Any, Any, Any, tuple[Any, ...]]]]
HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
# Not public, although `is_global` says so in some versions of Python.
# https://www.iana.org/assignments/iana-ipv4-special-registry
_SPECIAL_V4 = (
    ipaddress.IPv4Network("192.0.0.0/24"),  # Oracle's metadata service
    ipaddress.IPv4Network("192.88.99.0/24"),  # 6to4 relays
    ipaddress.IPv4Network("168.63.129.16/32"),  # Azure's metadata service
    ipaddress.IPv4Network("224.0.0.0/4"),  # multicast
    ipaddress.IPv4Network("240.0.0.0/4"),  # reserved
)
# https://www.iana.org/assignments/iana-ipv6-special-registry
_UNICAST_V6 = ipaddress.IPv6Network("2000::/3")  # all global unicast
_SPECIAL_V6 = (
    ipaddress.IPv6Network("2001::/23"),  # Teredo, ORCHID, benchmarking
    ipaddress.IPv6Network("2001:db8::/32"),  # documentation
    ipaddress.IPv6Network("3fff::/20"),  # documentation
)
# The answers of a name server; others mean that none answered.
_NO_SUCH_NAME = {socket.EAI_NONAME, socket.EAI_NODATA}
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def is_public(address: IPAddress) -> bool:
    """Whether an address, also IPv4 embedded in IPv6, is public."""
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not _in_any(address, _SPECIAL_V4)
    embedded = _embedded(address)
    if embedded is not None:
        return is_public(embedded)
    return address.is_global and address in _UNICAST_V6 and not _in_any(address, _SPECIAL_V6)


def _in_any(address: IPAddress, networks: Iterable[IPNetwork]) -> bool:
    return any(address in network for network in networks)


def _embedded(address: IPAddress) -> ipaddress.IPv4Address | None:
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


class AddressGuard:
    """Lets only public or exempt addresses pass."""

    def __init__(self, allow_hosts: Iterable[str], lookup: Lookup) -> None:
        self._lookup = lookup
        self._names: set[str] = set()
        self._networks: list[IPNetwork] = []
        for entry in allow_hosts:
            self._allow(entry)

    def addresses(self, host: str, port: int, deadline: Deadline) -> list[str]:
        """Raises UnsafeAddress: one is not public. SourceUnavailable: there is none.

        HostUnreachable: it cannot be looked up now.
        """
        addresses = [str(found[4][0]) for found in self._resolve(host, port, deadline)]
        if not addresses:
            raise SourceUnavailable(f"{host}: the name has no address")
        if host not in self._names and not all(map(self._allowed, addresses)):
            # The address itself would reveal the network.
            raise UnsafeAddress(f"{host}: not a public address (see LENS_FETCH_ALLOW_HOSTS)")
        return addresses

    def _allow(self, entry: str) -> None:
        try:
            self._networks.append(ipaddress.ip_network(entry.strip("[]"), strict=False))
        except ValueError:
            name = entry.lower().removesuffix(".")
            if not HOST.fullmatch(name):
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
        self, host: str, port: int, deadline: Deadline
    ) -> Iterable[tuple[Any, Any, Any, Any, tuple[Any, ...]]]:
        """Look up in a thread, which is left behind if it hangs (at most a minute)."""
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def resolve() -> None:
            try:
                future.set_result(self._lookup(host, port, type=socket.SOCK_STREAM))
            except (OSError, UnicodeError) as error:
                future.set_exception(error)

        threading.Thread(target=resolve, name=f"resolve-{host}", daemon=True).start()
        try:
            while not future.done():
                timeout = min(deadline.remaining(), POLL_SECONDS)
                concurrent.futures.wait([future], timeout=timeout)
            return future.result()
        except SourceUnavailable as late:
            raise HostUnreachable(str(late)) from late
        except (OSError, UnicodeError) as error:
            is_known = isinstance(error, OSError) and error.errno not in _NO_SUCH_NAME
            kind = HostUnreachable if is_known else SourceUnavailable
            raise kind(f"{host}: the name does not resolve") from None
